/*
 * Timers of one worker in a 4-ary heap: half as deep as a binary one, and the four children share a cache line.
 * Per worker, not thread safe.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "timer.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

enum {
	ARITY = 4,
	ROOM_MIN = 64, /* timers of the first allocation */
};

static void put(struct timers *timers, size_t at, struct timer *timer)
{
	timers->heap[at] = timer;
	timer->place = at + 1;
}

static void sift_up(struct timers *timers, size_t at, struct timer *timer)
{
	while (at > 0) {
		size_t parent = (at - 1) / ARITY;

		if (timers->heap[parent]->when_ms <= timer->when_ms)
			break;
		put(timers, at, timers->heap[parent]);
		at = parent;
	}
	put(timers, at, timer);
}

/* The earliest child of `at`, or `at` itself when it has none. */
static size_t first_child(const struct timers *timers, size_t at)
{
	size_t child = at * ARITY + 1, first = child;

	if (child >= timers->count)
		return at;
	for (size_t i = child + 1; i < child + ARITY && i < timers->count; i++)
		if (timers->heap[i]->when_ms < timers->heap[first]->when_ms)
			first = i;
	return first;
}

static void sift_down(struct timers *timers, size_t at, struct timer *timer)
{
	for (;;) {
		size_t child = first_child(timers, at);

		if (child == at || timers->heap[child]->when_ms >= timer->when_ms)
			break;
		put(timers, at, timers->heap[child]);
		at = child;
	}
	put(timers, at, timer);
}

/* Puts a timer at `at`, a place that is empty or its own, and then where it belongs. */
static void settle(struct timers *timers, size_t at, struct timer *timer)
{
	if (at > 0 && timers->heap[(at - 1) / ARITY]->when_ms > timer->when_ms)
		sift_up(timers, at, timer);
	else
		sift_down(timers, at, timer);
}

static int grow(struct timers *timers)
{
	size_t room = timers->room ? timers->room * 2 : ROOM_MIN;
	struct timer **heap = reallocarray(timers->heap, room, sizeof(*heap));

	if (!heap)
		return -ENOMEM;
	timers->heap = heap;
	timers->room = room;
	return 0;
}

int timer_arm(struct timers *timers, struct timer *timer, uint64_t when_ms)
{
	if (!timer_armed(timer)) {
		if (timers->count == timers->room && grow(timers) != 0)
			return -ENOMEM;
		timer->place = ++timers->count;
	}
	/* A timer that re-arms itself for "now" must not keep timers_run() from ever ending. */
	if (timers->running && when_ms <= timers->now_ms)
		when_ms = timers->now_ms + 1;
	timer->when_ms = when_ms;
	settle(timers, timer->place - 1, timer);
	return 0;
}

void timer_disarm(struct timers *timers, struct timer *timer)
{
	size_t at = timer->place - 1;
	struct timer *last;

	if (!timer_armed(timer))
		return;
	assert(timers->heap[at] == timer);
	last = timers->heap[--timers->count];
	timer->place = 0;
	if (last != timer)
		settle(timers, at, last);
}

uint64_t timers_next(const struct timers *timers)
{
	return timers->count ? timers->heap[0]->when_ms : UINT64_MAX;
}

void timers_run(struct timers *timers, uint64_t now_ms)
{
	timers->running = true;
	timers->now_ms = now_ms;
	while (timers->count && timers->heap[0]->when_ms <= now_ms) {
		struct timer *timer = timers->heap[0];

		timer_disarm(timers, timer);
		timer->expired(timer);
	}
	timers->running = false;
}

void timers_free(struct timers *timers)
{
	assert(timers->count == 0);
	free(timers->heap);
	*timers = (struct timers){0};
}
