/*
 * Timers of one worker: a heap ordered by expiry, so that the ring needs one timeout however many connections wait.
 * Per worker, not thread safe. Arming, moving and cancelling are O(log n).
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_TIMER_H
#define TLSPLICE_TIMER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct timer;
typedef void timer_fn(struct timer *timer);

struct timer {
	timer_fn *expired; /* called by timers_run() with the timer disarmed; may arm it again or free its owner */
	uint64_t when_ms;  /* CLOCK_MONOTONIC */
	size_t place;      /* index in the heap + 1; 0 = not armed. A zeroed timer is a disarmed one. */
};

/* Zeroed = empty. */
struct timers {
	struct timer **heap;
	size_t count, room;
	bool running; /* inside timers_run(), whose now is: */
	uint64_t now_ms;
};

/*
 * Arms `timer` to expire at `when_ms`, moving it if it is armed already. Returns 0 or -ENOMEM.
 * Room for `count` armed timers is never given back, so moving an armed timer cannot fail.
 */
int timer_arm(struct timers *timers, struct timer *timer, uint64_t when_ms);

/* Disarms; harmless on a disarmed timer. */
void timer_disarm(struct timers *timers, struct timer *timer);

static inline bool timer_armed(const struct timer *timer)
{
	return timer->place != 0;
}

/* When the next timer expires, UINT64_MAX if none is armed. */
uint64_t timers_next(const struct timers *timers);

/*
 * Calls `expired` of every timer due at `now_ms`, earliest first.
 * Timers that these calls arm are not run in the same call: they are due at now_ms + 1 at the earliest.
 */
void timers_run(struct timers *timers, uint64_t now_ms);

/* Frees the heap; no timer may be armed. */
void timers_free(struct timers *timers);

#endif
