/*
 * Memory for coroutine stacks: a mapping with a guard page below, and the measuring of how deep a stack was used.
 * For coro.c only.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_CORO_STACK_H
#define TLSPLICE_CORO_STACK_H

#include <stdbool.h>
#include <stddef.h>

struct stack {
	char *low;   /* lowest usable byte; the guard page lies below */
	size_t size; /* usable bytes, a multiple of the page size */
};

/* Whether this kernel has MADV_GUARD_INSTALL (Linux 6.13) and means it. */
bool stack_guard_probe(void);

/* `size` rounded up to whole pages. */
size_t stack_round(size_t size);

/* Maps a stack of `size` bytes, a multiple of the page size. Returns 0 or -errno. */
int stack_map(struct stack *stack, size_t size, bool guard_install);

/* Gives it back to the kernel: 0 or -errno, and then it is still whole (a hole in a larger mapping needs one more mapping). */
int stack_unmap(const struct stack *stack);

/* stack_paint() fills [low, top) with a pattern; stack_depth() then tells how many bytes below `top` have been written to. */
void stack_paint(const struct stack *stack, const char *top);
size_t stack_depth(const struct stack *stack, const char *top);

#endif
