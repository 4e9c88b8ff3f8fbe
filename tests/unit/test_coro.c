/*
 * Coroutines: what survives a switch, what a guard page catches, what the pool keeps, what happens when the kernel gives no more memory.
 * Run by `make unit`.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "coro.h"
#include "coro_hooks.h"
#include "coro_stack.h"
#include "under_valgrind.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fenv.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

/* ThreadSanitizer knows 8128 threads, and each coroutine is one to it. */
#ifdef CORO_TSAN
enum { CROWD = 2000, MANY_THREADS = 1 };
#else
enum { CROWD = 10000, MANY_THREADS = 0 };
#endif

#if defined(CORO_ASAN) || defined(CORO_TSAN) || defined(CORO_BIG_FRAMES)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

static struct coro_pool *pool_new(size_t keep)
{
	struct coro_pool *pool = coro_pool_new(CORO_STACK_DEFAULT, keep);

	cr_assert_not_null(pool);
	return pool;
}

/* Runs fn in a child process and returns what waitpid() said of it. */
static int in_child(void (*fn)(void))
{
	int status;
	pid_t pid = fork();

	cr_assert(pid >= 0);
	if (pid == 0) {
		fn();
		_exit(0);
	}
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	return status;
}

static bool died_of(int status, int sig)
{
	return WIFSIGNALED(status) && WTERMSIG(status) == sig;
}

/* No core files and no sanitizer's report: the signal itself is what is looked at. */
static void expect_death(void)
{
	struct rlimit none = {0, 0};

	setrlimit(RLIMIT_CORE, &none);
	signal(SIGSEGV, SIG_DFL);
	signal(SIGBUS, SIG_DFL);
	signal(SIGABRT, SIG_DFL);
	(void)!freopen("/dev/null", "w", stderr);
}

/* --- life --- */

struct steps {
	struct coro *self;
	int n;
};

static void three_steps(void *arg)
{
	struct steps *s = arg;

	s->self = coro_self();
	s->n = 1;
	coro_suspend();
	s->n = 2;
	coro_suspend();
	s->n = 3;
}

Test(coro, runs_until_it_suspends_and_goes_on_when_resumed)
{
	struct coro_pool *pool = pool_new(4);
	struct steps s = {0};

	cr_assert_eq(coro_start(pool, three_steps, &s), 0);
	cr_assert_eq(s.n, 1);
	cr_assert_not_null(s.self);
	cr_assert_null(coro_self());
	cr_assert_eq(coro_pool_used(pool), 1);
	coro_resume(s.self);
	cr_assert_eq(s.n, 2);
	coro_resume(s.self);
	cr_assert_eq(s.n, 3);
	cr_assert_eq(coro_pool_used(pool), 0);
	coro_pool_free(pool);
}

static void count(void *arg)
{
	++*(int *)arg;
}

Test(coro, may_return_without_ever_suspending)
{
	struct coro_pool *pool = pool_new(1);
	int n = 0;

	for (int i = 0; i < 1000; i++)
		cr_assert_eq(coro_start(pool, count, &n), 0);
	cr_assert_eq(n, 1000);
	cr_assert_eq(coro_pool_used(pool), 0);
	coro_pool_free(pool);
}

Test(coro, free_of_no_pool_is_fine)
{
	coro_pool_free(NULL);
}

static void leap(void *arg)
{
	struct steps *s = arg;

	s->self = coro_self();
	for (;;) {
		s->n++;
		coro_suspend();
		if (s->n >= 3)
			return;
	}
}

Test(coro, ten_thousand_are_alive_at_once)
{
	struct coro_pool *pool = pool_new(16);
	struct steps *s = calloc(CROWD, sizeof(*s));
	int n = valgrind() ? 500 : CROWD;

	cr_assert_not_null(s);
	for (int i = 0; i < n; i++)
		cr_assert_eq(coro_start(pool, leap, &s[i]), 0);
	cr_assert_eq(coro_pool_used(pool), (size_t)n);
	for (int i = 0; i < n; i += 2)
		coro_resume(s[i].self);
	for (int i = n - 1; i >= 0; i--)
		cr_assert_eq(s[i].n, i % 2 == 0 ? 2 : 1);
	for (int round = 0; round < 3; round++)
		for (int i = 0; i < n; i++)
			if (s[i].n < 4 && s[i].self != NULL) {
				bool last = s[i].n >= 3;

				coro_resume(s[i].self);
				if (last)
					s[i].self = NULL;
			}
	for (int i = 0; i < n; i++)
		if (s[i].self != NULL)
			coro_resume(s[i].self);
	cr_assert_eq(coro_pool_used(pool), 0);
	coro_pool_free(pool);
	free(s);
}

static void *own_thread(void *arg)
{
	struct coro_pool *pool = coro_pool_new(CORO_STACK_DEFAULT, 4);
	struct steps s[50] = {0};

	(void)arg;
	if (pool == NULL)
		return NULL;
	for (int round = 0; round < 20; round++) {
		for (int i = 0; i < 50; i++)
			if (coro_start(pool, three_steps, &s[i]) != 0)
				return NULL;
		for (int step = 0; step < 2; step++)
			for (int i = 0; i < 50; i++)
				coro_resume(s[i].self);
	}
	coro_pool_free(pool);
	return pool;
}

Test(coro, threads_have_their_own)
{
	pthread_t thread[4];
	void *good;

	for (int i = 0; i < 4; i++)
		cr_assert_eq(pthread_create(&thread[i], NULL, own_thread, NULL), 0);
	for (int i = 0; i < 4; i++) {
		pthread_join(thread[i], &good);
		cr_assert_not_null(good);
	}
}

/* --- what survives a switch --- */

/* As many live values as there are registers to keep them in, across a call that may change them all. */
static uint64_t mix(uint64_t seed, void (*between)(void))
{
	volatile uint64_t from = seed;
	uint64_t a = from * 3, b = from * 5, c = from * 7, d = from * 11, e = from * 13, f = from * 17, g = from * 19,
		 h = from * 23;
	uint64_t i = from * 29, j = from * 31, k = from * 37, l = from * 41;
	double s = (double)from * 1.5, t = (double)from * 2.5, u = (double)from * 3.5, v = (double)from * 4.5;
	double w = (double)from * 5.5, x = (double)from * 6.5, y = (double)from * 7.5, z = (double)from * 8.5;

	for (int n = 0; n < 100; n++) {
		between();
		a += b ^ c, b += c ^ d, c += d ^ e, d += e ^ f, e += f ^ g, f += g ^ h, g += h ^ a, h += a ^ b;
		i += j ^ a, j += k ^ b, k += l ^ c, l += i ^ d;
		s += t * 0.5, t += u * 0.25, u += v * 0.5, v += s * 0.125, w += x * 0.5, x += y * 0.25, y += z * 0.5,
			z += w * 0.125;
		s = fmod(s, 1e6), t = fmod(t, 1e6), u = fmod(u, 1e6), v = fmod(v, 1e6);
		w = fmod(w, 1e6), x = fmod(x, 1e6), y = fmod(y, 1e6), z = fmod(z, 1e6);
	}
	a ^= i ^ j ^ k ^ l;
	return a ^ b ^ c ^ d ^ e ^ f ^ g ^ h ^ (uint64_t)(s + t + u + v + w + x + y + z);
}

static void nothing(void)
{
}

struct mixer {
	struct coro *self;
	uint64_t seed, result;
};

static void mix_suspending(void *arg)
{
	struct mixer *m = arg;

	m->self = coro_self();
	m->result = mix(m->seed, coro_suspend);
	m->self = NULL;
}

static struct mixer mixer[7];

static void resume_mixers(void)
{
	for (int i = 0; i < 7; i++)
		if (mixer[i].self != NULL)
			coro_resume(mixer[i].self);
}

Test(coro, registers_survive)
{
	struct coro_pool *pool = pool_new(7);
	uint64_t mine;

	for (int i = 0; i < 7; i++) {
		mixer[i].seed = (uint64_t)i * 0x9e3779b97f4a7c15u + 1;
		cr_assert_eq(coro_start(pool, mix_suspending, &mixer[i]), 0);
	}
	mine = mix(42, resume_mixers); /* the thread's registers are at stake as well */
	cr_assert_eq(mine, mix(42, nothing));
	cr_assert_eq(coro_pool_used(pool), 0);
	for (int i = 0; i < 7; i++)
		cr_assert_eq(mixer[i].result, mix(mixer[i].seed, nothing));
	coro_pool_free(pool);
}

static void round_up(void *arg)
{
	int *seen = arg;
	struct coro **self = (struct coro **)(seen + 4);

	memcpy(self, &(struct coro *){coro_self()}, sizeof(*self));
	seen[0] = fegetround(); /* as the thread had it when this was started */
	fesetround(FE_UPWARD);
	coro_suspend();
	seen[1] = fegetround();
}

Test(coro, rounding_mode_is_each_stacks_own)
{
	struct coro_pool *pool = pool_new(1);
	struct {
		int seen[4];
		struct coro *self;
	} s = {0};

	fesetround(FE_DOWNWARD);
	cr_assert_eq(coro_start(pool, round_up, &s), 0);
	cr_assert_eq(fegetround(), FE_DOWNWARD);
	fesetround(FE_TOWARDZERO);
	coro_resume(s.self);
	cr_assert_eq(fegetround(), FE_TOWARDZERO);
	cr_assert_eq(s.seen[0], FE_DOWNWARD);
	cr_assert_eq(s.seen[1], FE_UPWARD);
	fesetround(FE_TONEAREST);
	coro_pool_free(pool);
}

static void see_alignment(void *arg)
{
	char text[64];
	_Alignas(64) char line[64];

	/* Floating point through varargs uses aligned stores relative to the stack pointer. */
	snprintf(text, sizeof(text), "%.3f %.2Lf", 3.14159, 2.71828L);
	*(int *)arg =
		strcmp(text, "3.142 2.72") == 0 && (uintptr_t)line % 64 == 0 && (uintptr_t)__builtin_frame_address(0) % 16 == 0;
}

Test(coro, stack_is_aligned)
{
	struct coro_pool *pool = pool_new(1);
	int good = 0;

	cr_assert_eq(coro_start(pool, see_alignment, &good), 0);
	cr_assert(good);
	coro_pool_free(pool);
}

/* --- coro_call --- */

struct call {
	struct coro *self, *self_inside;
	char *inside, *outside;
	int n;
};

static char *here(void)
{
	return (char *)__builtin_frame_address(0);
}

/* More than any coroutine has. */
static int deep(int n)
{
	volatile char frame[1024];

	frame[0] = (char)n;
	return n == 0 ? 0 : 1 + deep(n - 1) + frame[0] - (char)n;
}

static void inside(void *arg)
{
	struct call *c = arg;

	c->self_inside = coro_self();
	c->inside = here();
	c->n = deep(500);
}

static void calls(void *arg)
{
	struct call *c = arg;

	c->self = coro_self();
	c->outside = here();
	coro_call(inside, c);
	if (coro_self() != c->self)
		c->n = -1;
	coro_suspend();
	coro_call(inside, c);
}

/* A coroutine's struct lies at the top of its stack. */
static bool on_stack_of(const struct coro *co, const char *p)
{
	const char *top = (const char *)co;

	return p < top && top - p < CORO_STACK_DEFAULT * CORO_STACK_FACTOR;
}

Test(coro, calls_run_on_the_threads_stack)
{
	struct coro_pool *pool = pool_new(1);
	struct call c = {0};

	cr_assert_eq(coro_start(pool, calls, &c), 0);
	cr_assert_eq(c.n, 500);
	cr_assert_null(c.self_inside);
	cr_assert(on_stack_of(c.self, c.outside));
	cr_assert_not(on_stack_of(c.self, c.inside));
	c.n = 0;
	coro_resume(c.self);
	cr_assert_eq(c.n, 500);
	cr_assert_eq(coro_pool_used(pool), 0);
	coro_pool_free(pool);
}

Test(coro, a_call_on_the_threads_stack_is_a_plain_call)
{
	int n = 0;

	coro_call(count, &n);
	cr_assert_eq(n, 1);
}

struct nest {
	struct coro_pool *pool;
	struct steps inner[2];
	int error, n;
};

static void start_another(void *arg)
{
	struct nest *n = arg;
	struct steps *inner = &n->inner[n->n++];

	n->error |= coro_start(n->pool, three_steps, inner);
	if (n->error == 0)
		coro_resume(inner->self);
}

static void nests(void *arg)
{
	coro_call(start_another, arg);
	coro_call(start_another, arg);
}

Test(coro, a_call_may_start_and_resume_others)
{
	struct coro_pool *pool = pool_new(4);
	struct nest n = {.pool = pool};

	cr_assert_eq(coro_start(pool, nests, &n), 0);
	cr_assert_eq(n.error, 0);
	cr_assert_eq(coro_pool_used(pool), 2);
	for (int i = 0; i < 2; i++) {
		cr_assert_eq(n.inner[i].n, 2);
		coro_resume(n.inner[i].self);
		cr_assert_eq(n.inner[i].n, 3);
	}
	cr_assert_eq(coro_pool_used(pool), 0);
	coro_pool_free(pool);
}

/* --- misuse is asserted --- */

static void suspend_on_thread(void)
{
	expect_death();
	coro_suspend();
}

static void suspend_it(void *arg)
{
	(void)arg;
	coro_suspend();
}

static void call_suspending(void *arg)
{
	(void)arg;
	coro_call(suspend_it, NULL);
}

static void suspend_in_call(void)
{
	expect_death();
	coro_start(coro_pool_new(CORO_STACK_DEFAULT, 1), call_suspending, NULL);
}

static void resume_myself(void *arg)
{
	(void)arg;
	coro_resume(coro_self());
}

static void resume_in_coroutine(void)
{
	expect_death();
	coro_start(coro_pool_new(CORO_STACK_DEFAULT, 1), resume_myself, NULL);
}

static void *resume_elsewhere(void *arg)
{
	coro_resume(arg);
	return NULL;
}

static void resume_in_other_thread(void)
{
	struct steps s;
	pthread_t thread;

	expect_death();
	coro_start(coro_pool_new(CORO_STACK_DEFAULT, 1), three_steps, &s);
	pthread_create(&thread, NULL, resume_elsewhere, s.self);
	pthread_join(thread, NULL);
}

static void free_while_used(void)
{
	struct coro_pool *pool = coro_pool_new(CORO_STACK_DEFAULT, 1);
	struct steps s;

	expect_death();
	coro_start(pool, three_steps, &s);
	coro_pool_free(pool);
}

Test(coro, misuse_is_asserted)
{
	cr_assert(died_of(in_child(suspend_on_thread), SIGABRT));
	cr_assert(died_of(in_child(suspend_in_call), SIGABRT));
	cr_assert(died_of(in_child(resume_in_coroutine), SIGABRT));
	cr_assert(died_of(in_child(resume_in_other_thread), SIGABRT));
	cr_assert(died_of(in_child(free_while_used), SIGABRT));
}

/* --- guard pages --- */

static volatile int forever = 1;

static int recurse(int n)
{
	volatile char frame[512];

	frame[n % 512] = (char)n;
	return forever ? 1 + recurse(n + 1) + frame[n % 512] : 0;
}

static void overflow(void *arg)
{
	(void)arg;
	_exit(recurse(0) & 1);
}

static void overflow_with(bool use_mprotect)
{
	struct coro_pool *pool = coro_pool_new(CORO_STACK_DEFAULT, 4);
	struct steps s;

	expect_death();
	if (use_mprotect)
		coro_pool_guard_mprotect(pool);
	coro_start(pool, three_steps, &s); /* a neighbour above or below that could be hit instead */
	coro_start(pool, overflow, NULL);
}

static void overflow_default(void)
{
	overflow_with(false);
}

static void overflow_mprotect(void)
{
	overflow_with(true);
}

Test(coro, overflow_hits_the_guard_page)
{
	cr_assert(died_of(in_child(overflow_default), SIGSEGV));
	cr_assert(died_of(in_child(overflow_mprotect), SIGSEGV));
}

static struct stack probed;

static void touch_guard(void)
{
	expect_death();
	*(volatile char *)(probed.low - 1) = 1;
}

static void touch_lowest(void)
{
	*(volatile char *)probed.low = 1;
}

Test(coro, the_page_below_a_stack_and_nothing_of_it_is_guarded)
{
	for (int install = 0; install <= stack_guard_probe(); install++) {
		cr_assert_eq(stack_map(&probed, stack_round(20000), install != 0), 0);
		cr_assert(probed.size >= 20000);
		cr_assert(died_of(in_child(touch_guard), SIGSEGV));
		cr_assert_eq(in_child(touch_lowest), 0);
		cr_assert_eq(stack_unmap(&probed), 0);
	}
}

static void lock_memory(void)
{
	struct coro_pool *pool = coro_pool_new(CORO_STACK_MIN, 1);

	expect_death();
	if (mlockall(MCL_FUTURE) != 0)
		_exit(0);
	_exit(coro_start(pool, count, &(int){0}) == 0 ? 0 : 1);
}

Test(coro, locked_memory_is_guarded_too)
{
	cr_assert_eq(in_child(lock_memory), 0);
}

/* --- the pool --- */

static void where(void *arg)
{
	*(char **)arg = here();
}

Test(coro, the_stack_given_back_last_is_used_first)
{
	struct coro_pool *pool = pool_new(8);
	struct steps s[3], t[3];
	char *first, *again;

	cr_assert_eq(coro_start(pool, where, &first), 0);
	cr_assert_eq(coro_start(pool, where, &again), 0);
	cr_assert_eq(first, again);
	for (int i = 0; i < 3; i++)
		cr_assert_eq(coro_start(pool, three_steps, &s[i]), 0);
	for (int i = 0; i < 3; i++)
		for (int step = 0; step < 2; step++)
			coro_resume(s[i].self);
	for (int i = 2; i >= 0; i--) {
		cr_assert_eq(coro_start(pool, three_steps, &t[i]), 0);
		cr_assert_eq(t[i].self, s[i].self);
	}
	for (int i = 0; i < 3; i++)
		for (int step = 0; step < 2; step++)
			coro_resume(t[i].self);
	coro_pool_free(pool);
}

static size_t mapped_kib(void)
{
	size_t pages = 0;
	FILE *f = fopen("/proc/self/statm", "r");

	cr_assert_not_null(f);
	cr_assert_eq(fscanf(f, "%zu", &pages), 1);
	fclose(f);
	return pages * (size_t)sysconf(_SC_PAGESIZE) / 1024;
}

Test(coro, no_more_are_kept_than_asked_for)
{
	struct coro_pool *pool = pool_new(10);
	struct steps s[200];
	size_t before = mapped_kib();
	size_t each = CORO_STACK_DEFAULT * CORO_STACK_FACTOR / 1024;

	for (int i = 0; i < 200; i++)
		cr_assert_eq(coro_start(pool, three_steps, &s[i]), 0);
	cr_assert(SANITIZED || mapped_kib() >= before + 200 * each);
	for (int i = 0; i < 200; i++)
		for (int step = 0; step < 2; step++)
			coro_resume(s[i].self);
	cr_assert(SANITIZED || valgrind() || mapped_kib() < before + 20 * each);
	coro_pool_free(pool);
	cr_assert(SANITIZED || valgrind() || mapped_kib() < before + each);
}

static void use_8k(void *arg)
{
	volatile char frame[8192];

	for (size_t i = 0; i < sizeof(frame); i++)
		frame[i] = 1;
	*(char *)arg = frame[100];
}

Test(coro, census_finds_the_deepest_use)
{
	struct coro_pool *pool = pool_new(2);
	size_t shallow, deepest;
	char c = 0;
	int n = 0;

	cr_assert_eq(coro_start(pool, use_8k, &c), 0);
	cr_assert_eq(coro_pool_deepest(pool), 0);
	coro_pool_census(pool, true);
	cr_assert_eq(coro_start(pool, count, &n), 0);
	shallow = coro_pool_deepest(pool);
	cr_assert(shallow > 0 && shallow < 16384, "%zu", shallow);
	cr_assert_eq(coro_start(pool, use_8k, &c), 0);
	deepest = coro_pool_deepest(pool);
	cr_assert(deepest >= 8192 && deepest < (SANITIZED ? 40000 : 28000), "%zu", deepest);
	cr_assert_eq(coro_start(pool, count, &n), 0);
	cr_assert_eq(coro_pool_deepest(pool), deepest);
	coro_pool_free(pool);
}

Test(coro, silly_stack_sizes_are_brought_into_range)
{
	static const size_t sizes[] = {0, 1, 20001, (size_t)1 << 40, SIZE_MAX};

	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
		struct coro_pool *pool = coro_pool_new(sizes[i], 0);
		char c = 0;

		cr_assert_not_null(pool);
		cr_assert_eq(coro_start(pool, use_8k, &c), 0);
		cr_assert_eq(c, 1);
		coro_pool_free(pool);
	}
}

/* --- no memory --- */

static void address_space_ends(void)
{
	struct coro_pool *pool = coro_pool_new(CORO_STACK_DEFAULT, 2);
	struct rlimit limit = {1 << 20, 1 << 20};
	struct steps s;
	int n = 0;

	if (coro_start(pool, three_steps, &s) != 0 || setrlimit(RLIMIT_AS, &limit) != 0)
		_exit(1);
	if (coro_start(pool, count, &n) != -ENOMEM || n != 0 || coro_pool_used(pool) != 1)
		_exit(2);
	coro_resume(s.self);
	coro_resume(s.self);
	if (coro_start(pool, count, &n) != 0 || n != 1) /* on the stack that came back */
		_exit(3);
	coro_pool_free(pool);
	_exit(0);
}

Test(coro, no_more_address_space_is_a_clean_error)
{
	if (MANY_THREADS)
		cr_skip_test("ThreadSanitizer itself needs memory for each coroutine");
	cr_assert_eq(in_child(address_space_ends), 0);
}

/* Two mappings a stack: 65530 of them by default end near 32,750 stacks. Whoever has raised the limit would wait long. */
static void mappings_end(void)
{
	struct coro_pool *pool = coro_pool_new(CORO_STACK_MIN, 0);
	size_t ceiling, n = 0;
	struct steps s;
	int err = 0;

	coro_pool_guard_mprotect(pool);
	ceiling = coro_pool_ceiling(pool);
	if (ceiling > 40000)
		_exit(0);
	while (n < 50000 && (err = coro_start(pool, three_steps, &s)) == 0)
		n++;
	if ((err != -ENOMEM && err != -EAGAIN) || n > ceiling || n < ceiling - 1000 || coro_pool_used(pool) != n)
		_exit(1);
	coro_resume(s.self); /* the last one that was started goes, and another can come */
	coro_resume(s.self);
	_exit(coro_start(pool, three_steps, &s) == 0 ? 0 : 2);
}

Test(coro, no_more_mappings_is_a_clean_error)
{
	if (SANITIZED || valgrind())
		cr_skip_test("the checkers need the mappings themselves");
	cr_assert_eq(in_child(mappings_end), 0);
}

Test(coro, guards_that_cost_no_mapping_have_no_ceiling)
{
	struct coro_pool *pool = pool_new(0);

	cr_assert_eq(coro_pool_ceiling(pool) == SIZE_MAX, stack_guard_probe());
	coro_pool_guard_mprotect(pool);
	cr_assert(coro_pool_ceiling(pool) > 1000 && coro_pool_ceiling(pool) < SIZE_MAX);
	coro_pool_free(pool);
}
