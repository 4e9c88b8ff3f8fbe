/*
 * What AddressSanitizer, ThreadSanitizer and valgrind must be told about stacks they did not make. Empty in plain builds.
 * For coro.c and coro_stack.c only.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_CORO_HOOKS_H
#define TLSPLICE_CORO_HOOKS_H

#include <stddef.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define CORO_ASAN 1
#elif __has_feature(thread_sanitizer)
#define CORO_TSAN 1
#elif __has_feature(undefined_behavior_sanitizer) || __has_feature(memory_sanitizer)
#define CORO_BIG_FRAMES 1
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define CORO_ASAN 1
#elif defined(__SANITIZE_THREAD__)
#define CORO_TSAN 1
#endif

/* Sanitizers put red zones and shadow copies into each frame. */
#if defined(CORO_ASAN) || defined(CORO_TSAN) || defined(CORO_BIG_FRAMES)
enum { CORO_STACK_FACTOR = 8 };
#else
enum { CORO_STACK_FACTOR = 1 };
#endif

/*
 * fiber_born: `fiber` is the stack [low, low + size), nothing runs on it yet.
 * fiber_leave: the very next thing is the switch from one to the other; `last` when `from` will never be continued.
 * fiber_arrive: the first thing after a switch from `from` to `to`. fiber_gone: `fiber` has left for good.
 */
#if defined(CORO_ASAN)

#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>

struct fiber {
	const void *low;
	size_t size;
	void *fake; /* its frames that ASan keeps elsewhere to see use after return */
};

static inline void fiber_born(struct fiber *fiber, void *low, size_t size)
{
	*fiber = (struct fiber){.low = low, .size = size};
}

static inline void fiber_leave(struct fiber *from, const struct fiber *to, int last)
{
	__sanitizer_start_switch_fiber(last ? NULL : &from->fake, to->low, to->size);
}

static inline void fiber_arrive(struct fiber *to, struct fiber *from)
{
	__sanitizer_finish_switch_fiber(to->fake, &from->low, &from->size);
}

static inline void fiber_gone(struct fiber *fiber)
{
	(void)fiber;
}

/* A stack in the pool belongs to nobody: whoever still points into it is reported. */
static inline void hook_hide(void *low, size_t size)
{
	ASAN_POISON_MEMORY_REGION(low, size);
}

static inline void hook_show(void *low, size_t size)
{
	ASAN_UNPOISON_MEMORY_REGION(low, size);
}

#elif defined(CORO_TSAN)

#include <sanitizer/tsan_interface.h>

struct fiber {
	void *tsan;
};

static inline void fiber_born(struct fiber *fiber, void *low, size_t size)
{
	(void)low;
	(void)size;
	fiber->tsan = __tsan_create_fiber(0);
}

/* The thread's own fiber is asked for each time: nobody calls fiber_born() for a thread. */
static inline void fiber_leave(struct fiber *from, const struct fiber *to, int last)
{
	(void)last;
	from->tsan = __tsan_get_current_fiber();
	__tsan_switch_to_fiber(to->tsan, 0);
}

static inline void fiber_arrive(struct fiber *to, struct fiber *from)
{
	(void)to;
	(void)from;
}

static inline void fiber_gone(struct fiber *fiber)
{
	__tsan_destroy_fiber(fiber->tsan);
	fiber->tsan = NULL;
}

static inline void hook_hide(void *low, size_t size)
{
	(void)low;
	(void)size;
}

static inline void hook_show(void *low, size_t size)
{
	(void)low;
	(void)size;
}

#else

struct fiber {
};

static inline void fiber_born(struct fiber *fiber, void *low, size_t size)
{
	(void)fiber;
	(void)low;
	(void)size;
}

static inline void fiber_leave(struct fiber *from, const struct fiber *to, int last)
{
	(void)from;
	(void)to;
	(void)last;
}

static inline void fiber_arrive(struct fiber *to, struct fiber *from)
{
	(void)to;
	(void)from;
}

static inline void fiber_gone(struct fiber *fiber)
{
	(void)fiber;
}

static inline void hook_hide(void *low, size_t size)
{
	(void)low;
	(void)size;
}

static inline void hook_show(void *low, size_t size)
{
	(void)low;
	(void)size;
}

#endif

/* valgrind guesses a change of stack from a jump of the stack pointer of over 2 MB, which neighbouring small stacks do not make. */
#if __has_include(<valgrind/valgrind.h>)

#include <valgrind/valgrind.h>

static inline unsigned hook_register(void *low, size_t size)
{
	return VALGRIND_STACK_REGISTER(low, (char *)low + size - 1);
}

static inline void hook_deregister(unsigned id)
{
	VALGRIND_STACK_DEREGISTER(id);
	(void)id; /* the macro is empty on machines valgrind does not know */
}

#else

static inline unsigned hook_register(void *low, size_t size)
{
	(void)low;
	(void)size;
	return 0;
}

static inline void hook_deregister(unsigned id)
{
	(void)id;
}

#endif
#endif
