/*
 * Coroutines: a connection's conversation as straight-line code on a small stack of its own.
 * One thread's coroutines never move to another thread. A coroutine is left only by returning from its function;
 * whoever wants it gone cancels what it waits for (see ring_await() in ring.h).
 * The stack is small: calls that may be deep (OpenSSL, libc resolvers) go through coro_call(), which runs them on the thread's stack.
 * Depends on nothing of the proxy. kernel-notes/coroutines.md has the measurements.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_CORO_H
#define TLSPLICE_CORO_H

#include <stdbool.h>
#include <stddef.h>

struct coro;
struct coro_pool;
typedef void coro_fn(void *arg);

/* Smallest and default usable stack, in bytes. The option `stack` chooses within [CORO_STACK_MIN, 16 MiB]; sanitizer builds add room by themselves. */
enum { CORO_STACK_MIN = 16384, CORO_STACK_DEFAULT = 32768 };

/*
 * A pool of stacks for one thread; keeps up to `keep` unused ones for reuse, the most recently used first.
 * Each stack has a guard page below it: MADV_GUARD_INSTALL (Linux 6.13) where the kernel has it, else mprotect(2).
 * Returns NULL when there is no memory.
 */
struct coro_pool *coro_pool_new(size_t stack_size, size_t keep);

/* No coroutine may be alive: asserted. coro_pool_free(NULL) is fine. */
void coro_pool_free(struct coro_pool *pool);

/* Stacks handed out now, and the deepest use in bytes seen so far among stacks given back (0 unless coro_pool_census(pool, true)). */
size_t coro_pool_used(const struct coro_pool *pool);
void coro_pool_census(struct coro_pool *pool, bool on); /* paints stacks before use: for tests */
size_t coro_pool_deepest(const struct coro_pool *pool);

/*
 * About how many stacks the kernel gives this process: SIZE_MAX with MADV_GUARD_INSTALL, half of vm.max_map_count with mprotect(2),
 * which makes two mappings of each stack. Worth a line in the log at start when it is not SIZE_MAX.
 */
size_t coro_pool_ceiling(const struct coro_pool *pool);

/* Uses mprotect(2) for stacks mapped from now on although the kernel may have better: for tests. */
void coro_pool_guard_mprotect(struct coro_pool *pool);

/*
 * Starts `fn(arg)` on a stack from the pool and runs it until it suspends or returns.
 * Returns 0, or -ENOMEM / -EAGAIN (the kernel gives no more mappings) without having called fn; nothing is logged here, the caller says it once.
 * When fn returns its stack goes back to the pool. Only from the thread's own stack, never from a coroutine: asserted.
 */
int coro_start(struct coro_pool *pool, coro_fn *fn, void *arg);

/* The running coroutine, or NULL on the thread's own stack. */
struct coro *coro_self(void);

/* Suspends the running coroutine until somebody calls coro_resume() on it. */
void coro_suspend(void);

/*
 * Runs a suspended coroutine until it suspends again or returns (after which `coro` is gone).
 * Only from the thread's own stack, never from a coroutine, and only in the thread that started it: asserted.
 */
void coro_resume(struct coro *coro);

/*
 * Calls fn(arg) on the thread's own stack and comes back; on the thread's stack it is a plain call.
 * fn must not suspend (asserted; coro_self() is NULL in it). It may start and resume other coroutines.
 */
void coro_call(coro_fn *fn, void *arg);

#endif
