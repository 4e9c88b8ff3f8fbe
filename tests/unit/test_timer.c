/*
 * Unit tests of timer.h: order, moving, cancelling, callbacks that arm and free, against a plain array as the model.
 * Run by `make unit`.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "timer.h"

#include "list.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

enum { TIMERS = 500 };

struct probe {
	struct timer timer;
	struct timers *timers;
	struct probe *other;
	unsigned fired;
};

static uint64_t last_fired;

static struct probe *probe_of(struct timer *timer)
{
	return container_of(timer, struct probe, timer);
}

static void on_count(struct timer *timer)
{
	cr_assert(!timer_armed(timer));
	cr_assert_geq(timer->when_ms, last_fired);
	last_fired = timer->when_ms;
	probe_of(timer)->fired++;
}

static void on_rearm_now(struct timer *timer)
{
	probe_of(timer)->fired++;
	cr_assert_eq(timer_arm(probe_of(timer)->timers, timer, 0), 0);
}

static void on_free(struct timer *timer)
{
	free(probe_of(timer));
}

static void on_disarm_other(struct timer *timer)
{
	struct probe *probe = probe_of(timer);

	probe->fired++;
	timer_disarm(probe->timers, &probe->other->timer);
}

Test(timer, empty)
{
	struct timers timers = {0};
	struct timer timer = {0};

	cr_assert_eq(timers_next(&timers), UINT64_MAX);
	timers_run(&timers, 1000);
	timer_disarm(&timers, &timer);
	cr_assert(!timer_armed(&timer));
	timers_free(&timers);
}

Test(timer, fires_when_due_not_before)
{
	struct timers timers = {0};
	struct probe probe = {.timer.expired = on_count};

	last_fired = 0;
	cr_assert_eq(timer_arm(&timers, &probe.timer, 100), 0);
	cr_assert(timer_armed(&probe.timer));
	cr_assert_eq(timers_next(&timers), 100);
	timers_run(&timers, 99);
	cr_assert_eq(probe.fired, 0);
	timers_run(&timers, 100);
	cr_assert_eq(probe.fired, 1);
	cr_assert_eq(timers_next(&timers), UINT64_MAX);
	timers_free(&timers);
}

Test(timer, arming_again_moves)
{
	struct timers timers = {0};
	struct probe probe = {.timer.expired = on_count};

	last_fired = 0;
	timer_arm(&timers, &probe.timer, 100);
	timer_arm(&timers, &probe.timer, 300);
	timers_run(&timers, 299);
	cr_assert_eq(probe.fired, 0);
	timer_arm(&timers, &probe.timer, 50);
	timers_run(&timers, 50);
	cr_assert_eq(probe.fired, 1);
	timers_free(&timers);
}

/* A callback that arms for "now" over and over must not keep timers_run() from returning. */
Test(timer, rearmed_for_now_runs_in_the_next_call)
{
	struct timers timers = {0};
	struct probe probe = {.timer.expired = on_rearm_now, .timers = &timers};

	timer_arm(&timers, &probe.timer, 10);
	timers_run(&timers, 10);
	cr_assert_eq(probe.fired, 1);
	cr_assert_eq(timers_next(&timers), 11);
	timers_run(&timers, 11);
	cr_assert_eq(probe.fired, 2);
	timer_disarm(&timers, &probe.timer);
	timers_free(&timers);
}

Test(timer, callbacks_may_free_and_disarm)
{
	struct timers timers = {0};
	struct probe *gone = calloc(1, sizeof(*gone));
	struct probe a = {.timer.expired = on_disarm_other, .timers = &timers}, b = a;

	a.other = &b;
	b.other = &a;
	gone->timer.expired = on_free;
	timer_arm(&timers, &gone->timer, 1);
	timer_arm(&timers, &a.timer, 2);
	timer_arm(&timers, &b.timer, 2);
	timers_run(&timers, 5);
	cr_assert_eq(a.fired + b.fired, 1);
	cr_assert_eq(timers_next(&timers), UINT64_MAX);
	timers_free(&timers);
}

static uint64_t model_next(const struct probe *probes)
{
	uint64_t next = UINT64_MAX;

	for (size_t i = 0; i < TIMERS; i++)
		if (timer_armed(&probes[i].timer) && probes[i].timer.when_ms < next)
			next = probes[i].timer.when_ms;
	return next;
}

static size_t model_armed(const struct probe *probes)
{
	size_t armed = 0;

	for (size_t i = 0; i < TIMERS; i++)
		armed += timer_armed(&probes[i].timer);
	return armed;
}

Test(timer, random_against_a_model)
{
	struct timers timers = {0};
	struct probe *probes = calloc(TIMERS, sizeof(*probes));
	uint64_t now = 0;

	srandom(1);
	for (int step = 0; step < 100000; step++) {
		struct probe *probe = &probes[random() % TIMERS];

		probe->timer.expired = on_count;
		if (random() % 4)
			cr_assert_eq(timer_arm(&timers, &probe->timer, now + (uint64_t)random() % 1000), 0);
		else
			timer_disarm(&timers, &probe->timer);
		if (step % 64 == 0) {
			now += (uint64_t)random() % 50;
			last_fired = 0;
			timers_run(&timers, now);
			cr_assert_gt(timers_next(&timers), now);
			cr_assert_eq(timers.count, model_armed(probes));
		}
		if (step % 16 == 0)
			cr_assert_eq(timers_next(&timers), model_next(probes));
	}
	for (size_t i = 0; i < TIMERS; i++)
		timer_disarm(&timers, &probes[i].timer);
	timers_free(&timers);
	free(probes);
}
