/*
 * Connections: their end. The accounting line, a last alert and the wait for the peer to take it, RST or not, and free once the ring has let go.
 * For conn.c and whoever ends a connection; see conn.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "conn.h"

#include "relay.h"
#include "runner.h"
#include "slab.h"
#include "transparent.h"

#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>

enum { LINGER_MS = 2000 }; /* for the peer to take our last alert */

static atomic_uint failures;

unsigned conn_failures(void)
{
	return atomic_load(&failures);
}

/* To see the peer hang up; what it still says does not matter. */
static void linger_receive(struct end *e)
{
	struct ring *ring = e->conn->worker->ring;

	e->receiving = e->nonblocking || e->opens ? END_POLLED : END_MANY;
	if (e->receiving == END_POLLED)
		ring_poll(ring, &e->recv, e->fd, POLLRDHUP, false);
	else
		ring_recv(ring, &e->recv, e->fd, CHUNK_SMALL, true);
}

/* The alert is out: say so, and read until the peer has hung up, for unread input would turn our close into a RST that destroys the alert. */
void conn_linger(struct end *e)
{
	struct conn *c = e->conn;

	if (!e->closed && e->out.bytes > 0) {
		end_send(e);
		return;
	}
	if (!end_flushed(e)) {
		if (!e->send.armed)
			end_await_room(e);
		return;
	}
	if (!e->closed && !e->file)
		shutdown(e->to_fd, SHUT_WR);
	e->closed = true;
	if (e->eof || e->file)
		conn_close(c);
	else if (!e->recv.armed)
		linger_receive(e);
}

static bool reset_end(const struct conn *c, const struct end *e)
{
	/* A RST would overtake the alert. */
	bool alert = e->tls && (c->tls.alert_sent || c->tls.alert_received);

	return c->how == CONN_RESET && c->service->conf->reset && !alert;
}

static const char *ending_word(struct conn *c)
{
	bool front = reset_end(c, &c->front), back = reset_end(c, &c->back);

	return front && back ? "reset" : front ? "closed/reset" : back ? "reset/closed" : "closed";
}

static void close_end(struct conn *c, struct end *e, const char *name)
{
	static const struct linger abort_at_once = {.l_onoff = 1, .l_linger = 0};

	if (e->fd >= 0) {
		if (reset_end(c, e))
			setsockopt(e->fd, SOL_SOCKET, SO_LINGER, &abort_at_once, sizeof(abort_at_once));
		end_close(e);
		conn_log(c, LOG_DEBUG, "%s descriptor (FD=%d) closed", name, e->fd);
	}
	queue_clear(&e->in, &c->worker->bufs);
	queue_clear(&e->out, &c->worker->bufs);
}

void conn_release(struct conn *c)
{
	struct service *service = c->service;
	struct runner *runner = c->runner;
	struct worker *w = c->worker;
	char id[CONN_ID_MAX];
	unsigned left;

	if (c->front.recv.armed || c->front.send.armed || c->back.recv.armed || c->back.send.armed || c->wait.op.armed)
		return;
	transparent_forget(c);
	close_end(c, &c->back, "Remote");
	close_end(c, &c->front, "Local");
	relay_end(c);
	tls_end(&c->tls);
	timer_disarm(&w->timers, &c->timer);
	list_remove(&c->live);
	left = conn_leave();
	conn_log(c, LOG_DEBUG, "Service [%s] finished (%u left)", service->conf->name, left);
	stats_add(&service->stats->active, (uint64_t)-1);
	memcpy(id, c->id, sizeof(id));
	slab_put(w->conns, c);
	if (runner)
		runner_ended(runner, id);
	service_set_leave(service->set);
}

void conn_close(struct conn *c)
{
	c->stage = CONN_ENDING;
	ring_cancel(c->worker->ring, &c->front.recv);
	ring_cancel(c->worker->ring, &c->front.send);
	ring_cancel(c->worker->ring, &c->back.recv);
	ring_cancel(c->worker->ring, &c->back.send);
	conn_release(c);
}

void conn_finish(struct conn *c, enum conn_end how)
{
	struct end *e = conn_tls_end(c);

	c->how = how;
	conn_log(c, LOG_NOTICE, "Connection %s: %llu byte(s) sent to TLS, %llu byte(s) sent to socket", ending_word(c),
	         (unsigned long long)c->to_tls.bytes, (unsigned long long)c->to_plain.bytes);
	if (how == CONN_RESET) {
		stats_add(&c->service->stats->failed, 1);
		atomic_fetch_add_explicit(&failures, 1, memory_order_relaxed);
	}
	if (c->worker->stage != WORKER_STOPPING && (c->tls.alert_sent || c->linger) && !e->closed && e->fd >= 0 &&
	    timer_arm(&c->worker->timers, &c->timer, ring_now_ms(c->worker->ring) + LINGER_MS) == 0) {
		c->stage = CONN_LINGERING;
		conn_linger(e);
	} else {
		conn_close(c);
	}
}
