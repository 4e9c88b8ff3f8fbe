/*
 * Waiting for engines: see accelerator.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "accelerator.h"

#include "coro.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum {
	NAP_MS = 1,
	SETTLE_S = 10, /* for an engine to answer a connection that nobody wants any more */
};

/* Of several descriptors, which is rare: one that is readable when any of them is. -errno without it. */
static int bundle(const int *fds, size_t n)
{
	int epoll = epoll_create1(EPOLL_CLOEXEC);

	for (size_t i = 0; epoll >= 0 && i < n; i++) {
		struct epoll_event event = {.events = EPOLLIN};

		if (epoll_ctl(epoll, EPOLL_CTL_ADD, fds[i], &event) < 0) {
			int error = -errno;

			close(epoll);
			return error;
		}
	}
	return epoll < 0 ? -errno : epoll;
}

/* An engine that names no descriptor has no room for the job, or no way to tell: it is asked again a little later. */
struct nap {
	struct timer timer;
	struct coro *coro;
};

static void nap_over(struct timer *timer)
{
	coro_resume(container_of(timer, struct nap, timer)->coro);
}

static int nap(struct worker *w)
{
	struct nap nap = {.timer.expired = nap_over, .coro = coro_self()};
	int error = timer_arm(&w->timers, &nap.timer, ring_now_ms(w->ring) + NAP_MS);

	if (!error)
		coro_suspend(); /* too short to be interrupted */
	return error;
}

static int await_any(struct conn *c, const int *fds, size_t n)
{
	struct ring *ring = c->worker->ring;
	int epoll, r;

	if (n == 0)
		return nap(c->worker);
	if (n == 1)
		return ring_await_poll(ring, &c->wait, fds[0], POLLIN);
	epoll = bundle(fds, n);
	if (epoll < 0)
		return epoll;
	r = ring_await_poll(ring, &c->wait, epoll, POLLIN);
	close(epoll);
	return r;
}

int accelerator_await(struct conn *c)
{
	int fds[TLS_ENGINE_FDS_MAX];
	int r = await_any(c, fds, tls_engine_fds(&c->tls, fds));

	if (r < 0 && r != -ECANCELED)
		conn_log(c, LOG_ERR, "Waiting for the engine: %s (%d)", strerror(-r), -r);
	return r < 0 ? r : 0;
}

void accelerator_settle(struct conn *c, bool (*step)(struct conn *c))
{
	bool at_work = true;
	int r = 0;

	conn_deadline(c, SETTLE_S, "engine");
	/* Once more interrupted, it makes no difference any more. */
	while (at_work && !c->expired && (r == 0 || r == -ECANCELED)) {
		r = accelerator_await(c);
		if (r == 0)
			at_work = step(c);
	}
	if (at_work) {
		conn_log(c, LOG_ERR, "The engine has not answered within %d seconds: its job is given up", SETTLE_S);
		tls_abandon(&c->tls);
	}
}
