/*
 * Coroutines: a connection's conversation as straight-line code on a small stack of its own.
 * coro.h has the contract. Depends on nothing of the proxy; one thread's coroutines and pools are used by that thread only.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "coro.h"

#include "coro_hooks.h"
#include "coro_stack.h"
#include "coro_switch.h"

#include <assert.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { STACK_MAX = 16 << 20 };

enum coro_state { FREE, RUNNING, SUSPENDED, CALLING, RETURNED };

/* Lies at the top of its own stack: starting a coroutine takes no other memory, and parking it touches one page less. */
struct coro {
	void *sp; /* where it is parked */
	coro_fn *fn;
	void *arg;
	coro_fn *call; /* CALLING: what to run on the thread's stack */
	void *call_arg;
	enum coro_state state;
	unsigned valgrind_id;
	struct coro_thread *home;
	struct coro_pool *pool;
	struct coro *next; /* in the pool's list of unused stacks */
	struct stack stack;
	struct fiber fiber;
};

struct coro_pool {
	struct coro *unused;
	size_t kept, keep;
	size_t used;
	size_t stack_size;
	size_t deepest;
	bool guard_install;
	bool census;
};

static _Thread_local struct coro_thread {
	struct coro *running; /* NULL while the thread's own stack runs */
	void *sp;
	struct fiber fiber;
} thread;

static size_t clamp(size_t n, size_t low, size_t high)
{
	return n < low ? low : n > high ? high : n;
}

struct coro_pool *coro_pool_new(size_t stack_size, size_t keep)
{
	struct coro_pool *pool = calloc(1, sizeof(*pool));

	if (pool == NULL)
		return NULL;
	stack_size = clamp(stack_size, CORO_STACK_MIN, STACK_MAX) * CORO_STACK_FACTOR;
	pool->stack_size = stack_round(stack_size + CORO_SWITCH_BYTES + sizeof(struct coro));
	pool->keep = keep;
	pool->guard_install = stack_guard_probe();
	return pool;
}

/* Where the stack of `co` begins to grow down from. */
static char *coro_top(struct coro *co)
{
	return (char *)co;
}

static size_t coro_room(struct coro *co)
{
	return (size_t)(coro_top(co) - co->stack.low);
}

static int coro_map(struct coro_pool *pool, struct coro **out)
{
	struct stack stack;
	struct coro *co;
	int err = stack_map(&stack, pool->stack_size, pool->guard_install);

	if (err != 0)
		return err;
	co = (struct coro *)(((uintptr_t)stack.low + stack.size - sizeof(*co)) & ~(uintptr_t)63);
	*co = (struct coro){.pool = pool, .stack = stack, .valgrind_id = hook_register(stack.low, stack.size)};
	*out = co;
	return 0;
}

static void coro_keep(struct coro_pool *pool, struct coro *co)
{
	hook_hide(co->stack.low, coro_room(co));
	co->next = pool->unused;
	pool->unused = co;
	pool->kept++;
}

static struct coro *coro_unkeep(struct coro_pool *pool)
{
	struct coro *co = pool->unused;

	pool->unused = co->next;
	pool->kept--;
	hook_show(co->stack.low, coro_room(co));
	return co;
}

/* Returns -errno and changes nothing where the kernel does not take the memory back. */
static int coro_unmap(struct coro *co)
{
	struct stack stack = co->stack; /* `co` lies in it */
	unsigned id = co->valgrind_id;
	int err;

	hook_show(stack.low, coro_room(co)); /* the next mapping here must not inherit what the last frames left */
	err = stack_unmap(&stack);
	if (err == 0)
		hook_deregister(id);
	return err;
}

void coro_pool_free(struct coro_pool *pool)
{
	if (pool == NULL)
		return;
	assert(pool->used == 0);
	while (pool->unused != NULL)
		(void)coro_unmap(coro_unkeep(pool));
	free(pool);
}

size_t coro_pool_used(const struct coro_pool *pool)
{
	return pool->used;
}

void coro_pool_census(struct coro_pool *pool, bool on)
{
	pool->census = on;
}

size_t coro_pool_deepest(const struct coro_pool *pool)
{
	return pool->deepest;
}

void coro_pool_guard_mprotect(struct coro_pool *pool)
{
	pool->guard_install = false;
}

/* Each guard by mprotect(2) makes two mappings of one. */
size_t coro_pool_ceiling(const struct coro_pool *pool)
{
	unsigned long maps = 65530; /* the kernel's default */
	FILE *f;

	if (pool->guard_install)
		return SIZE_MAX;
	f = fopen("/proc/sys/vm/max_map_count", "re");
	if (f != NULL) {
		if (fscanf(f, "%lu", &maps) != 1)
			maps = 65530;
		fclose(f);
	}
	return maps / 2;
}

static int coro_take(struct coro_pool *pool, struct coro **out)
{
	int err = 0;

	if (pool->unused != NULL)
		*out = coro_unkeep(pool);
	else
		err = coro_map(pool, out);
	if (err != 0)
		return err;
	pool->used++;
	if (pool->census)
		stack_paint(&(*out)->stack, coro_top(*out));
	return 0;
}

static void coro_give(struct coro *co)
{
	struct coro_pool *pool = co->pool;
	size_t depth = pool->census ? stack_depth(&co->stack, coro_top(co)) : 0;

	if (depth > pool->deepest)
		pool->deepest = depth;
	pool->used--;
	co->state = FREE;
	if (pool->kept >= pool->keep && coro_unmap(co) == 0)
		return;
	coro_keep(pool, co);
}

struct coro *coro_self(void)
{
	return thread.running;
}

/* From the thread's stack to a coroutine's, until it comes back. */
static void enter(struct coro *co)
{
	thread.running = co;
	co->state = RUNNING;
	fiber_leave(&thread.fiber, &co->fiber, false);
	coro_switch(&thread.sp, co->sp);
	fiber_arrive(&thread.fiber, &co->fiber);
	thread.running = NULL;
}

/* From a coroutine's stack to the thread's, until it is resumed. */
static void leave(struct coro *co, enum coro_state state)
{
	co->state = state;
	fiber_leave(&co->fiber, &thread.fiber, state == RETURNED);
	coro_switch(&co->sp, thread.sp);
	fiber_arrive(&co->fiber, &thread.fiber);
}

/* The first function on each stack. */
static void coro_main(void)
{
	struct coro *co = thread.running;

	fiber_arrive(&co->fiber, &thread.fiber);
	co->fn(co->arg);
	leave(co, RETURNED);
	abort(); /* a coroutine that has returned was resumed */
}

/* On the thread's stack: runs `co`, and the calls it asks for, until it suspends or returns. */
static void coro_run(struct coro *co)
{
	enter(co);
	while (co->state == CALLING) {
		co->call(co->call_arg);
		enter(co);
	}
	if (co->state == RETURNED) {
		fiber_gone(&co->fiber);
		coro_give(co);
	}
}

int coro_start(struct coro_pool *pool, coro_fn *fn, void *arg)
{
	struct coro *co;
	int err;

	assert(thread.running == NULL);
	err = coro_take(pool, &co);
	if (err != 0)
		return err;
	co->fn = fn;
	co->arg = arg;
	co->home = &thread;
	co->sp = coro_switch_init(co->stack.low, coro_top(co), coro_main);
	fiber_born(&co->fiber, co->stack.low, co->stack.size);
	coro_run(co);
	return 0;
}

void coro_suspend(void)
{
	assert(thread.running != NULL); /* neither on the thread's stack nor within coro_call() */
	leave(thread.running, SUSPENDED);
}

void coro_resume(struct coro *co)
{
	assert(thread.running == NULL);
	assert(co->home == &thread);
	assert(co->state == SUSPENDED);
	coro_run(co);
}

void coro_call(coro_fn *fn, void *arg)
{
	struct coro *co = thread.running;

	if (co == NULL) {
		fn(arg);
		return;
	}
	co->call = fn;
	co->call_arg = arg;
	leave(co, CALLING);
}
