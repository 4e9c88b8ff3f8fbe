/*
 * Connections: their life and their beginning, and what their sockets and timers tell at each stage of it. Read conn_live() first; see conn.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "conn.h"

#include "access.h"
#include "coro.h"
#include "dial.h"
#include "exec.h"
#include "fetch.h"
#include "introduce.h"
#include "relay.h"
#include "runner.h"
#include "slab.h"

#include <errno.h>
#include <openssl/rand.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

static atomic_uint clients;
static unsigned clients_max = 1;
static atomic_ullong next_serial;

void conn_set_limit(unsigned max)
{
	clients_max = max;
}

unsigned conn_limit(void)
{
	return clients_max;
}

unsigned conn_count(void)
{
	return atomic_load(&clients);
}

unsigned conn_list(struct worker *w, unsigned number)
{
	list_each(it, next, &w->live) {
		struct conn *c = container_of(it, struct conn, live);

		log_write(LOG_EMERG, NULL,
		          "Active connection %u: Service [%s], %llu byte(s) sent to TLS, %llu byte(s) sent to socket", ++number,
		          c->service->conf->name, (unsigned long long)c->to_tls.bytes, (unsigned long long)c->to_plain.bytes);
	}
	return number;
}

/* --- the life of a connection ------------------------------------------------------------------------------------------------------- */

void conn_fail(struct conn *c, enum conn_end how)
{
	if (c->failed)
		return;
	c->failed = true;
	c->how = how;
}

void conn_log_expired(struct conn *c)
{
	conn_log(c, LOG_INFO, "%s: s_poll_wait: TIMEOUTbusy exceeded: sending reset", c->doing);
	conn_fail(c, CONN_RESET);
}

/* OpenSSL needs more stack than most coroutines have; a deep one has it, and there a callback of OpenSSL's may suspend. */
void conn_call(const struct conn *c, coro_fn *fn, void *arg)
{
	if (c->deep)
		fn(arg);
	else
		coro_call(fn, arg);
}

static void find_route(void *arg)
{
	struct conn *c = arg;

	c->redirected = c->service->redirect && !tls_authenticated(&c->tls);
}

/* Server mode, TLS is up: peers that were not authenticated go where `redirect` says. */
static void route(struct conn *c)
{
	if (c->failed)
		return;
	conn_call(c, find_route, c);
	c->upstream = c->redirected ? c->service->redirect : c->service->upstream;
	if (c->redirected) {
		conn_log(c, LOG_NOTICE, "Redirecting connection");
		stats_add(&c->service->stats->redirected, 1);
	}
	if (!dial_remembers(c))
		conn_issue_tickets(c, NULL);
}

/* Options and address of the accepted socket. */
static void greet(struct conn *c)
{
	const struct section *conf = c->service->conf;

	if (c->failed)
		return;
	if (!c->runner)
		conn_log(c, LOG_DEBUG, "Service [%s] started", conf->name);
	if (c->front.file)
		return;
	sockopts_apply(&conf->socket[SOCK_LOCAL], SOCK_LOCAL, c->front.fd, c->id, conf->debug);
	if (c->front.to_fd != c->front.fd)
		sockopts_apply(&conf->socket[SOCK_LOCAL], SOCK_LOCAL, c->front.to_fd, c->id, conf->debug);
}

/* Nobody who is refused leaves this line. What is no socket comes from nowhere, and a program was started by ourselves. */
static void welcome(struct conn *c)
{
	char text[ADDR_TEXT_MAX];

	if (!c->front.file && !c->runner)
		access_check(c);
	if (c->failed)
		return;
	if (c->front.file)
		conn_log(c, LOG_NOTICE, "Service [%s] accepted connection", c->service->conf->name);
	else
		conn_log(c, LOG_NOTICE, "Service [%s] accepted connection from %s", c->service->conf->name,
		         addr_text(&c->peer, text));
}

/* Where the connection goes: an address, or a program. */
static void reach(struct conn *c)
{
	if (c->service->conf->exec && !c->runner && !c->redirected)
		exec_upstream(c);
	else
		dial(c);
}

static void start_relay(void *arg)
{
	relay_start(arg);
}

static void end_conversation(void *arg)
{
	struct conn *c = arg;

	conn_finish(c, c->how);
}

/* A connection from its first byte to its last: until the relay starts it has a stack, from then on two pumps. */
static void conn_live(void *arg)
{
	struct conn *c = arg;

	if (c->runner)
		exec_client(c);
	greet(c);
	welcome(c);
	if (c->service->conf->client) {
		reach(c);
		conn_handshake(c);
	} else {
		conn_handshake(c);
		route(c);
		reach(c);
		introduce(c);
	}
	conn_deadline(c, TIMEOUT_FOREVER, NULL);
	coro_call(c->failed ? end_conversation : start_relay, c);
	/* The connection may be gone by now. */
}

/* --- its beginning ------------------------------------------------------------------------------------------------------------------ */

/* 22 characters of 0-9 a-z A-Z: 131 random bits. */
static void unique_id(char id[CONN_ID_MAX])
{
	static const char digits[] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
	unsigned char random[64];
	int n = 0;

	while (n < 22) {
		if (RAND_bytes(random, sizeof(random)) != 1) {
			strcpy(id, "error");
			return;
		}
		for (size_t i = 0; i < sizeof(random) && n < 22; i++)
			if (random[i] < 4 * 62) /* the rest would favour some digits */
				id[n++] = digits[random[i] % 62];
	}
	id[22] = '\0';
}

/* snprintf(3) takes five times as long, and every connection has a number. */
static void decimal(char id[CONN_ID_MAX], unsigned long long n)
{
	char *end = &id[CONN_ID_MAX - 1], *at = end;

	do
		*--at = (char)('0' + n % 10);
	while (n /= 10);
	memmove(id, at, (size_t)(end - at));
	id[end - at] = '\0';
}

void conn_make_id(const struct section *conf, char id[CONN_ID_MAX])
{
	unsigned long long serial = atomic_fetch_add_explicit(&next_serial, 1, memory_order_relaxed);

	switch (conf->log_id) {
	case LOG_ID_UNIQUE: unique_id(id); break;
	case LOG_ID_THREAD: snprintf(id, CONN_ID_MAX, "%d", gettid()); break;
	case LOG_ID_PROCESS: snprintf(id, CONN_ID_MAX, "%d", getpid()); break;
	case LOG_ID_SEQUENTIAL: decimal(id, serial); break;
	}
}

void conn_set_peer(struct conn *c)
{
	c->peer.len = sizeof(c->peer) - sizeof(c->peer.len);
	if (getpeername(c->front.fd, &c->peer.sa, &c->peer.len) < 0)
		c->peer.len = 0;
}

static void received(struct ring_op *op, const struct ring_result *result);
static void sent(struct ring_op *op, const struct ring_result *result);
static void timer_expired(struct timer *timer);

static void end_init(struct end *e, struct conn *c, int fd)
{
	e->conn = c;
	end_open(e, fd);
	e->recv.done = received;
	e->send.done = sent;
}

unsigned conn_leave(void)
{
	return atomic_fetch_sub_explicit(&clients, 1, memory_order_relaxed) - 1;
}

/* True while there is room for one more client; counts it. */
static bool clients_enter(void)
{
	if (atomic_fetch_add_explicit(&clients, 1, memory_order_relaxed) < clients_max)
		return true;
	conn_leave();
	return false;
}

static void refuse(struct service *service, bool full)
{
	stats_add(&service->stats->rejected, 1);
	if (service->conf->debug >= LOG_WARNING && full)
		log_write(LOG_WARNING, NULL, "Connection rejected: too many clients (>=%u)", clients_max);
	if (service->conf->debug >= LOG_ERR && !full)
		log_write(LOG_ERR, NULL, "Connection rejected: no memory");
}

struct conn *conn_new(struct service *service, struct worker *w)
{
	struct conn *c;

	if (!clients_enter()) {
		refuse(service, true);
		return NULL;
	}
	c = slab_get(w->conns);
	if (!c) {
		conn_leave();
		refuse(service, false);
		return NULL;
	}
	memset(c, 0, sizeof(*c));
	c->worker = w;
	c->service = service;
	c->upstream = service->upstream;
	c->how = CONN_RESET;
	c->timer.expired = timer_expired;
	end_init(&c->front, c, -1);
	end_init(&c->back, c, -1);
	list_append(&w->live, &c->live);
	service_set_enter(service->set);
	stats_add(&service->stats->accepted, 1);
	stats_add(&service->stats->active, 1);
	return c;
}

void conn_start(struct conn *c)
{
	struct worker *w = c->worker;
	int error;

	c->deep = c->service->deep;
	error = coro_start(c->deep ? w->deep_coros : w->coros, conn_live, c);
	if (error) {
		conn_log(c, LOG_ERR, "No stack for the connection: %s (%d)", strerror(-error), -error);
		conn_finish(c, CONN_RESET);
	}
}

void conn_accepted(struct service *service, struct worker *w, int fd)
{
	struct conn *c = conn_new(service, w);
	char text[ADDR_TEXT_MAX];

	if (!c) {
		close(fd);
		return;
	}
	end_open(&c->front, fd);
	conn_make_id(service->conf, c->id);
	conn_set_peer(c);
	if (service->conf->debug >= LOG_DEBUG)
		log_write(LOG_DEBUG, NULL, "Service [%s] accepted (FD=%d) from %s", service->conf->name, fd,
		          addr_text(&c->peer, text));
	conn_start(c);
}

/* --- sockets and timers ------------------------------------------------------------------------------------------------------------- */

static void interrupt(struct conn *c)
{
	if (c->exec)
		exec_abandon(&c->exec);
	else
		fetch_interrupt(c->worker, &c->wait, &c->lookup);
}

void conn_deadline(struct conn *c, int seconds, const char *doing)
{
	c->doing = doing;
	c->expired = false;
	if (seconds < 0) {
		timer_disarm(&c->worker->timers, &c->timer);
	} else if (timer_arm(&c->worker->timers, &c->timer, ring_now_ms(c->worker->ring) + (uint64_t)seconds * 1000) < 0) {
		conn_log(c, LOG_ERR, "%s: no memory for a time-out", doing);
		conn_fail(c, CONN_RESET); /* without a deadline it could stay for ever */
	}
}

static void timer_expired(struct timer *timer)
{
	struct conn *c = container_of(timer, struct conn, timer);

	switch (c->stage) {
	case CONN_TALKING:
		c->expired = true;
		interrupt(c);
		break;
	case CONN_RELAYING: relay_expired(c); break;
	case CONN_LINGERING: conn_close(c); break;
	case CONN_ENDING: break;
	}
}

/* What a socket that the peer has broken means, the pending receive will tell. With trouble of our own the peer would be waited for in vain. */
static bool is_peers_doing(int error)
{
	return error == -EPIPE || error == -ECONNRESET;
}

static void send_failed(struct conn *c, int error)
{
	if (is_peers_doing(error))
		return;
	conn_fail(c, CONN_RESET);
	interrupt(c); /* the connection may be gone */
}

static void sent(struct ring_op *op, const struct ring_result *result)
{
	struct end *e = container_of(op, struct end, send);
	struct conn *c = e->conn;
	int error;

	if (c->stage == CONN_ENDING) {
		conn_release(c);
		return;
	}
	if (c->stage == CONN_RELAYING && (e->sending == END_FILL || e->sending == END_DRAIN)) {
		relay_spliced(e, result->res);
		return;
	}
	error = end_sent(e, result->res);
	if (error == -EAGAIN)
		return;
	if (c->stage == CONN_RELAYING && end_is_refusal(e, error)) {
		relay_refused(e, error);
		return;
	}
	if (error < 0) {
		e->closed = true;
		if (error != -ECANCELED && error != -EKEYREJECTED && !(error == -EIO && e->to_terminal))
			conn_log(c, LOG_ERR, "%s: %s (%d)", e->tls ? "SSL_write" : "writesocket", strerror(-error), -error);
	}
	if (error == -EIO && e->to_terminal && c->stage == CONN_RELAYING)
		relay_hung_up(e);
	switch (c->stage) {
	case CONN_TALKING:
		if (error == 0)
			end_send(e);
		else
			send_failed(c, error);
		break;
	case CONN_RELAYING:
		if (error < 0 && !is_peers_doing(error) && !e->hung_up)
			conn_finish(c, CONN_RESET);
		else
			relay_sent(e);
		break;
	case CONN_LINGERING:
		if (e->tls)
			conn_linger(e);
		break;
	case CONN_ENDING: break;
	}
}

static void received(struct ring_op *op, const struct ring_result *result)
{
	struct end *e = container_of(op, struct end, recv);
	struct conn *c = e->conn;

	if (c->stage == CONN_RELAYING) {
		relay_received(e, result);
		return;
	}
	chunk_put(&c->worker->bufs, result->chunk); /* too late to matter */
	e->eof |= end_has_hung_up(e, result->res);
	if (c->stage == CONN_ENDING)
		conn_release(c);
	else if (e->tls)
		conn_linger(e); /* the plain side has no part in it, and an end of stream there must not cut the alert short */
}

void conn_drop(struct conn *c)
{
	switch (c->stage) {
	case CONN_TALKING:
		conn_fail(c, CONN_CLOSED);
		interrupt(c);
		break;
	case CONN_RELAYING: conn_finish(c, CONN_CLOSED); break;
	case CONN_LINGERING: conn_close(c); break;
	case CONN_ENDING: break;
	}
}
