/*
 * The switch between two stacks: coro_switch.S (x86-64, aarch64) or coro_switch_ucontext.c (any other machine, or -DCORO_UCONTEXT).
 * Only coro.c and bench/coro.c may call it.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_CORO_SWITCH_H
#define TLSPLICE_CORO_SWITCH_H

/* What a switch itself takes of a stack. A ucontext_t of aarch64 is 4.5 KB, and a stack holds two: where it began and where it is parked. */
#if defined(CORO_UCONTEXT) || !(defined(__aarch64__) || (defined(__x86_64__) && !defined(__ILP32__)))
enum { CORO_SWITCH_BYTES = 12288 };
#else
enum { CORO_SWITCH_BYTES = 192 };
#endif

/*
 * Prepares the stack [low, top) so that the first switch to the returned value calls entry(), which must never return.
 * `top` is aligned to 16 bytes. The new stack starts with the caller's floating-point control words.
 */
void *coro_switch_init(void *low, void *top, void (*entry)(void));

/* Parks the running stack, leaves what it takes to come back in *save, and continues the stack parked as `load`. */
void coro_switch(void **save, void *load);

#endif
