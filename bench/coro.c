/*
 * What coroutines cost: nanoseconds per suspend+resume with each switch, per coro_call, per start+return, and with many of them alive.
 * A program of its own: `coro [seconds per row]`. kernel-notes/coroutines.md has figures and says what was concluded.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../src/coro.h"
#include "../src/coro_switch.h"

#include <alloca.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

/* The fallback beside the switch that the build selected: the same file once more, under other names. */
#if !defined(CORO_UCONTEXT) && (defined(__aarch64__) || (defined(__x86_64__) && !defined(__ILP32__)))
#define BOTH 1
#define CORO_UCONTEXT
#define coro_switch_init ucontext_switch_init
#define coro_switch ucontext_switch
void *coro_switch_init(void *low, void *top, void (*entry)(void));
void coro_switch(void **save, void *load);
#include "../src/coro_switch_ucontext.c"
#undef coro_switch_init
#undef coro_switch
#else
#define BOTH 0
#define ucontext_switch_init coro_switch_init
#define ucontext_switch coro_switch
#endif

enum { BATCH = 10000, RUNS = 5 };

static double seconds = 0.2;
static void *main_sp, *other_sp;
static void (*bare_switch)(void **, void *);
static char bare_stack[65536] __attribute__((aligned(64)));

static double cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

/* Best of RUNS: other tenants of the machine only ever add time. `unit` is how many operations one call of fn makes. */
static double measure(void (*fn)(void *), void *arg, double unit)
{
	double best = 1e18;

	fn(arg);
	for (int run = 0; run < RUNS; run++) {
		double t0 = cpu_ns(), t = t0;
		long calls = 0;

		for (; t - t0 < seconds * 1e9 / RUNS; t = cpu_ns(), calls++)
			fn(arg);
		if ((t - t0) / ((double)calls * unit) < best)
			best = (t - t0) / ((double)calls * unit);
	}
	return best;
}

static void bare_other(void)
{
	for (;;)
		bare_switch(&other_sp, main_sp);
}

static void bare_batch(void *arg)
{
	(void)arg;
	for (int i = 0; i < BATCH; i++)
		bare_switch(&main_sp, other_sp);
}

static double bare(void *(*init)(void *, void *, void (*)(void)), void (*fn)(void **, void *))
{
	bare_switch = fn;
	other_sp = init(bare_stack, bare_stack + sizeof(bare_stack), bare_other);
	return measure(bare_batch, NULL, BATCH);
}

/* --- through coro.h --- */

static bool stop;

static void nothing(void *arg)
{
	(void)arg;
}

static void sleeper(void *arg)
{
	struct coro **self = arg;

	*self = coro_self();
	while (!stop)
		coro_suspend();
}

static void resume_batch(void *arg)
{
	for (int i = 0; i < BATCH; i++)
		coro_resume(arg);
}

static void call_batch(void *arg)
{
	(void)arg;
	for (int i = 0; i < BATCH; i++)
		coro_call(nothing, NULL);
}

static void start_batch(void *arg)
{
	for (int i = 0; i < BATCH; i++)
		if (coro_start(arg, nothing, NULL) != 0)
			abort();
}

static void row(const char *what, double ns)
{
	printf("%-58s %9.1f ns\n", what, ns);
	fflush(stdout);
}

/* Runs on a coroutine, as coro_call() is a plain call elsewhere. */
static void measure_calls(void *arg)
{
	*(double *)arg = measure(call_batch, NULL, BATCH);
}

static void api_rows(void)
{
	struct coro_pool *pool = coro_pool_new(CORO_STACK_DEFAULT, 16);
	struct coro_pool *bare_pool = coro_pool_new(CORO_STACK_DEFAULT, 0);
	struct coro *co;
	double ns;

	if (pool == NULL || bare_pool == NULL || coro_start(pool, sleeper, &co) != 0)
		abort();
	row("coro_resume + coro_suspend", measure(resume_batch, co, BATCH));
	stop = true;
	coro_resume(co);
	stop = false;
	if (coro_start(pool, measure_calls, &ns) != 0)
		abort();
	row("coro_call", ns);
	row("coro_start and return, stack from the pool", measure(start_batch, pool, BATCH));
	row("coro_start and return, mapped and unmapped, 1 page touched", measure(start_batch, bare_pool, BATCH));
	coro_pool_guard_mprotect(bare_pool);
	row("the same with the guard by mprotect", measure(start_batch, bare_pool, BATCH));
	coro_pool_free(bare_pool);
	coro_pool_free(pool);
}

/* --- many alive, each with as much on its stack as a conversation parked in an await --- */

struct crowd {
	size_t n;
	struct coro **co;
};

static void deep_sleeper(void *arg)
{
	volatile char *frame = alloca(1200);

	frame[0] = 0;
	*(struct coro **)arg = coro_self();
	while (!stop) {
		for (int i = 0; i < 1200; i += 64)
			frame[i]++;
		coro_suspend();
	}
}

static void crowd_round(void *arg)
{
	struct crowd *crowd = arg;

	for (size_t i = 0; i < crowd->n; i++)
		coro_resume(crowd->co[i]);
}

static long resident_kib(void)
{
	long pages = 0;
	FILE *f = fopen("/proc/self/statm", "r");

	if (f == NULL || fscanf(f, "%*d %ld", &pages) != 1)
		abort();
	fclose(f);
	return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

static void crowd_row(size_t n)
{
	struct crowd crowd = {.n = n, .co = calloc(n, sizeof(struct coro *))};
	struct coro_pool *pool = coro_pool_new(CORO_STACK_DEFAULT, n);
	long before = resident_kib();
	char what[100];

	if (pool == NULL || crowd.co == NULL)
		abort();
	for (size_t i = 0; i < n; i++)
		if (coro_start(pool, deep_sleeper, &crowd.co[i]) != 0)
			abort();
	snprintf(what, sizeof(what), "%zu alive, in turn, 1.2 KB touched (%.1f KiB resident each)", n,
	         (double)(resident_kib() - before) / (double)n);
	row(what, measure(crowd_round, &crowd, (double)n));
	stop = true;
	crowd_round(&crowd);
	stop = false;
	coro_pool_free(pool);
	free(crowd.co);
}

int main(int argc, char **argv)
{
	static const size_t sizes[] = {10, 100, 300, 1000, 3000, 10000};

	if (argc > 1)
		seconds = strtod(argv[1], NULL);
	if (BOTH)
		row("bare switch there and back, coro_switch.S", bare(coro_switch_init, coro_switch));
	row("bare switch there and back, ucontext", bare(ucontext_switch_init, ucontext_switch));
	api_rows();
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		crowd_row(sizes[i]);
	return 0;
}
