/*
 * Connections: TLS accept or connect within a conversation, and what it may wait for: the peer, an engine, a responder, a verdict on a virtual host.
 * For conn*.c and dial.c; see conn.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "conn.h"

#include "accelerator.h"
#include "access.h"
#include "dial.h"
#include "fetch.h"
#include "sessiond.h"

#include <errno.h>
#include <string.h>

/* Waits for bytes from a socket and appends them to its queue. Returns false at the end of the stream, on errors and past the deadline, logged. */
static bool await_bytes(struct conn *c, struct end *e)
{
	const char *call = c->service->conf->client ? "SSL_connect" : "SSL_accept";
	struct chunk *chunk = NULL;
	char text[ADDR_TEXT_MAX];
	/* The deadline may have come while OpenSSL waited for somebody else. */
	int r = c->failed || c->expired ? -ECANCELED : end_await(e, &c->wait, &chunk);

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

/* From within OpenSSL: asks an OCSP responder. */
static int ask_responder(struct tls *tls, const char *url, const unsigned char *request, size_t n, struct ocsp_reply *reply)
{
	struct conn *c = container_of(tls, struct conn, tls);
	struct fetch f = {
		.worker = c->worker,
		.wait = &c->wait,
		.lookup = &c->lookup,
		.stats = c->service->stats,
		.log_id = c->id,
		.debug = c->service->conf->debug,
		.timeout_s = c->service->conf->timeout_ocsp_s,
	};

	return c->failed || c->expired ? -ECANCELED : fetch(&f, url, request, n, reply);
}

static void use_service(struct conn *c)
{
	const struct addr *sessiond = c->service->sessiond;

	c->tls.stats = c->service->stats;
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
	use_service(c);
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
	use_service(c);
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

void conn_handshake(struct conn *c)
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
