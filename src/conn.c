/*
 * Connections: see conn.h. Read conn_live() first.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "conn.h"

#include "accelerator.h"
#include "access.h"
#include "coro.h"
#include "dial.h"
#include "exec.h"
#include "fetch.h"
#include "relay.h"
#include "runner.h"
#include "sessiond.h"
#include "slab.h"
#include "transparent.h"

#include <errno.h>
#include <openssl/rand.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

enum { LINGER_MS = 2000 }; /* for the peer to take our last alert */

static atomic_uint clients;
static unsigned clients_max = 1;
static atomic_ullong next_serial;
static atomic_uint failures;

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

unsigned conn_failures(void)
{
	return atomic_load(&failures);
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

/* Waits for bytes from a socket and appends them to its queue. Returns false at the end of the stream, on errors and past the deadline, logged. */
static bool await_bytes(struct conn *c, struct end *e)
{
	const char *call = c->service->conf->client ? "SSL_connect" : "SSL_accept";
	struct chunk *chunk = NULL;
	char text[ADDR_TEXT_MAX];
	int r = c->failed ? -ECANCELED : end_await(e, &c->wait, &chunk);

	if (chunk)
		queue_append(&e->in, chunk);
	if (c->expired)
		conn_log_expired(c);
	if (c->failed)
		return false;
	if (r > 0)
		return true;
	if (r == 0 || r == -ECONNRESET)
		conn_log(c, LOG_ERR, "%s: Peer suddenly disconnected: client %s", call, addr_text(&c->peer, text));
	else
		conn_log(c, LOG_ERR, "%s: %s (%d): client %s", call, strerror(-r), -r, addr_text(&c->peer, text));
	conn_fail(c, CONN_RESET);
	return false;
}

/* OpenSSL needs more stack than most coroutines have; a deep one has it, and there a callback of OpenSSL's may suspend. */
void conn_call(const struct conn *c, coro_fn *fn, void *arg)
{
	if (c->deep)
		fn(arg);
	else
		coro_call(fn, arg);
}

/* From within OpenSSL: asks an OCSP responder. */
static int ask_responder(struct tls *tls, const char *url, const unsigned char *request, size_t n, struct ocsp_reply *reply)
{
	struct conn *c = container_of(tls, struct conn, tls);
	struct fetch f = {
		.worker = c->worker,
		.wait = &c->wait,
		.lookup = &c->lookup,
		.log_id = c->id,
		.debug = c->service->conf->debug,
		.timeout_s = c->service->conf->timeout_ocsp_s,
	};

	return c->failed || c->expired ? -ECANCELED : fetch(&f, url, request, n, reply);
}

static void use_cache(struct conn *c)
{
	const struct addr *sessiond = c->service->sessiond;

	c->tls.cache = !sessiond ? NULL : sessiond_is_local(sessiond) ? &sessiond_here : &sessiond_away;
}

struct handshake {
	struct conn *c;
	enum tls_progress progress;
};

static void handshake_start(void *arg)
{
	struct handshake *h = arg;
	struct conn *c = h->c;
	struct end *e = conn_tls_end(c);

	c->tls.log_id = c->id;
	c->tls.peer = &c->peer;
	c->tls.tickets_wait = true;
	c->tls.choose_backend = dial_choose;
	use_cache(c);
	e->tls = &c->tls;
	if (tls_start(&c->tls, c->service->tls, &c->worker->bufs, &e->in, &e->out, c->destination) < 0) {
		tls_log_failure(&c->tls, "SSL_new");
		h->progress = TLS_FAILED;
	}
}

/* From here on the connection is the chosen section's in every respect. */
static enum tls_progress switch_service(struct conn *c)
{
	struct service *from = c->service, *to = &from->set->services[c->tls.chosen->index];

	stats_add(&from->stats->active, (uint64_t)-1);
	stats_add(&to->stats->active, 1);
	stats_add(&to->stats->switched, 1);
	c->service = to;
	c->upstream = to->upstream;
	use_cache(c);
	if (tls_switch(&c->tls, to->tls) < 0) {
		tls_log_failure(&c->tls, "SSL_new");
		return TLS_FAILED;
	}
	if (to->conf->socket[SOCK_LOCAL].opts != from->conf->socket[SOCK_LOCAL].opts)
		sockopts_apply(&to->conf->socket[SOCK_LOCAL], SOCK_LOCAL, c->front.fd, c->id, to->conf->debug);
	if (to->conf->timeout_busy_s != from->conf->timeout_busy_s)
		conn_deadline(c, to->conf->timeout_busy_s, "ssl_start");
	return tls_handshake(&c->tls);
}

static void handshake_step(void *arg)
{
	struct handshake *h = arg;

	h->progress = h->progress == TLS_CHOSE ? switch_service(h->c) : tls_handshake(&h->c->tls);
}

/* The connection has failed, but OpenSSL cannot let go of it yet. Returns whether the engine is still at work. */
static bool settle_step(struct conn *c)
{
	struct handshake h = {.c = c};

	conn_call(c, handshake_step, &h);
	return h.progress == TLS_WANTS_ENGINE;
}

static bool await_engine(struct conn *c)
{
	bool answered = !c->failed && accelerator_await(c) == 0;

	if (c->expired)
		conn_log_expired(c);
	if (answered && !c->failed)
		return true;
	conn_fail(c, CONN_RESET);
	accelerator_settle(c, settle_step);
	return false;
}

/* The client has chosen a virtual host: is it to come in there? Else the first section tells it so, by an alert. */
static bool await_admission(struct conn *c, struct handshake *h)
{
	if (!c->tls.chosen->libwrap)
		return true;
	if (!access_check_host(c, c->tls.chosen)) {
		c->tls.refused = true;
		h->progress = TLS_WANTS_BYTES;
	}
	conn_deadline(c, c->service->conf->timeout_busy_s, "ssl_start");
	return !c->failed;
}

/* Waits for what the handshake wants. Returns false when it is over, one way or the other. */
static bool await_more(struct conn *c, struct end *e, struct handshake *h)
{
	bool more;

	switch (h->progress) {
	case TLS_WANTS_BYTES: more = await_bytes(c, e); break;
	case TLS_WANTS_ENGINE: more = await_engine(c); break;
	case TLS_CHOSE: more = await_admission(c, h); break;
	default: return false;
	}
	if (!more)
		h->progress = TLS_FAILED;
	return more;
}

/* Server mode: TLS accept; client mode: TLS connect. */
static void tls_up(struct conn *c)
{
	struct handshake h = {.c = c, .progress = TLS_WANTS_BYTES};
	struct end *e = conn_tls_end(c);
	struct stats *stats;

	if (c->failed)
		return;
	conn_deadline(c, c->service->conf->timeout_busy_s, "ssl_start");
	c->tls.ask = c->deep ? ask_responder : NULL;
	conn_call(c, handshake_start, &h);
	for (bool more = h.progress != TLS_FAILED; more; more = await_more(c, e, &h)) {
		conn_call(c, handshake_step, &h);
		end_send(e);
	}
	stats = c->service->stats; /* a virtual host's, perhaps */
	c->tls.ask = NULL;
	if (c->expired && !c->failed) /* while something else than the peer was waited for */
		conn_log_expired(c);
	if (h.progress == TLS_DONE && !c->failed) {
		stats_add(tls_resumed(&c->tls) ? &stats->handshakes_resumed : &stats->handshakes_full, 1);
	} else {
		stats_add(&stats->handshakes_failed, 1);
		conn_fail(c, CONN_RESET);
	}
}

struct issue {
	struct conn *c;
	const struct addr *backend;
	bool ok;
};

static void issue(void *arg)
{
	struct issue *i = arg;

	i->ok = tls_issue_tickets(&i->c->tls, i->backend);
}

void conn_issue_tickets(struct conn *c, const struct addr *backend)
{
	struct issue i = {.c = c, .backend = backend};

	conn_call(c, issue, &i);
	if (!i.ok)
		conn_fail(c, CONN_RESET);
	end_send(conn_tls_end(c));
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
		tls_up(c);
	} else {
		tls_up(c);
		route(c);
		reach(c);
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

/* True while there is room for one more client; counts it. */
static bool clients_enter(void)
{
	if (atomic_fetch_add_explicit(&clients, 1, memory_order_relaxed) < clients_max)
		return true;
	atomic_fetch_sub_explicit(&clients, 1, memory_order_relaxed);
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
		atomic_fetch_sub_explicit(&clients, 1, memory_order_relaxed);
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

static void conn_close(struct conn *c);
static void conn_release(struct conn *c);

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
static void linger_step(struct end *e)
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
	if (error < 0) {
		e->closed = true;
		if (error != -ECANCELED && error != -EKEYREJECTED && !(error == -EIO && e->file))
			conn_log(c, LOG_ERR, "%s: %s (%d)", e->tls ? "SSL_write" : "writesocket", strerror(-error), -error);
	}
	if (error == -EIO && e->file && c->stage == CONN_RELAYING)
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
			linger_step(e);
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
	if (e->receiving == END_POLLED ? result->res < 0 || result->res & (POLLRDHUP | POLLERR | POLLHUP)
	                               : result->res <= 0 && result->res != -ENOBUFS)
		e->eof = true;
	if (c->stage == CONN_ENDING)
		conn_release(c);
	else if (e->tls)
		linger_step(e); /* the plain side has no part in it, and an end of stream there must not cut the alert short */
}

/* --- its end ------------------------------------------------------------------------------------------------------------------------ */

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

/* Frees the connection when nothing of it is left in the ring. */
static void conn_release(struct conn *c)
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
	left = atomic_fetch_sub_explicit(&clients, 1, memory_order_relaxed) - 1;
	conn_log(c, LOG_DEBUG, "Service [%s] finished (%u left)", service->conf->name, left);
	stats_add(&service->stats->active, (uint64_t)-1);
	memcpy(id, c->id, sizeof(id));
	slab_put(w->conns, c);
	if (runner)
		runner_ended(runner, id);
	service_set_leave(service->set);
}

static void conn_close(struct conn *c)
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
		linger_step(e);
	} else {
		conn_close(c);
	}
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
