/*
 * The switch between two stacks with <ucontext.h>: for machines that coro_switch.S does not know, or when built with -DCORO_UCONTEXT.
 * coro_switch.h has the contract; only coro.c and bench/coro.c may call it. Each switch costs a system call (the signal mask).
 * SPDX-License-Identifier: Apache-2.0
 */
#if defined(CORO_UCONTEXT) || !(defined(__aarch64__) || (defined(__x86_64__) && !defined(__ILP32__)))

#include "coro_switch.h"

#include <stdint.h>
#include <stdlib.h>
#include <ucontext.h>

/* The context lives at the top of its own stack, below the 16-byte alignment that vector registers in it want. */
void *coro_switch_init(void *low, void *top, void (*entry)(void))
{
	ucontext_t *context = (ucontext_t *)(((uintptr_t)top - sizeof(*context)) & ~(uintptr_t)63);

	if (getcontext(context) != 0) /* it has no way to fail but a bad pointer */
		abort();
	context->uc_stack.ss_sp = low;
	context->uc_stack.ss_size = (size_t)((char *)context - (char *)low);
	context->uc_link = NULL;
	makecontext(context, entry, 0);
	return context;
}

/* A parked stack keeps its context in the frame that parked it. */
void coro_switch(void **save, void *load)
{
	ucontext_t here;

	*save = &here;
	if (swapcontext(&here, load) != 0)
		abort();
}

#endif
