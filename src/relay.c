/*
 * The relay: see relay.h.
 *
 *      front socket --recv--> front.in --[open]--[seal]--> back.out --send--> back socket
 *      and the same the other way. [open] where the source speaks TLS, [seal] where the target does.
 *
 * Receives come in two manners. A connection that exchanges messages has one multishot receive into small chunks: nothing is armed anew
 * for each message, nothing is held while it idles. Once a small chunk comes full, there is more where it came from: the pump goes over to
 * big receives, one at a time, so that it takes no more than the other side can swallow. kernel-notes/relay.md has the measurements.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "relay.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

enum {
	/* Bytes waiting for a slow receiver before the sender is made to wait. One more receive may come on top. */
	BUFFERED_MAX = CHUNK_BIG_RECEIVE,
	/*
	 * A connection that has carried this much, or has carried nothing for a while, is handed over from OpenSSL: that costs about 10 us
	 * net, which a short exchange does not earn back (kernel-notes/records.md).
	 */
	PROMOTE_BYTES = 16384,
	PROMOTE_IDLE_MS = 1000,
	/* Records we owe the peer itself (answers to KeyUpdates) before we stop reading: more than a pump ever leaves there. */
	OWED_MAX = 4 * CHUNK_BIG_RECEIVE,
};

static struct pump *pump_from(struct end *e)
{
	struct conn *c = e->conn;

	return c->to_tls.from == e ? &c->to_tls : &c->to_plain;
}

static struct pump *pump_to(struct end *e)
{
	struct conn *c = e->conn;

	return c->to_tls.to == e ? &c->to_tls : &c->to_plain;
}

/* While both directions are open, or bytes wait: TIMEOUTidle. Then: TIMEOUTclose. */
static bool is_closing(const struct conn *c)
{
	bool open = c->to_tls.state == PUMP_OPEN && c->to_plain.state == PUMP_OPEN;

	return !open && c->front.out.bytes == 0 && c->back.out.bytes == 0;
}

/* When the time-out in force runs out, counted from the last moment that bytes moved; UINT64_MAX: never. */
static uint64_t timeout_at(const struct conn *c)
{
	const struct section *conf = c->service->conf;
	int seconds = is_closing(c) ? conf->timeout_close_s : conf->timeout_idle_s;

	return seconds < 0 ? UINT64_MAX : c->active_ms + (uint64_t)seconds * 1000;
}

/* Arms the timer for whatever comes first. Without memory for it the connection ends: false. */
static bool watch(struct conn *c)
{
	uint64_t at = timeout_at(c);

	if (c->promotion == TLS_NOT_YET && at > c->active_ms + PROMOTE_IDLE_MS)
		at = c->active_ms + PROMOTE_IDLE_MS;
	if (at == UINT64_MAX) {
		timer_disarm(&c->worker->timers, &c->timer);
	} else if (timer_arm(&c->worker->timers, &c->timer, at) < 0) {
		conn_log(c, LOG_ERR, "transfer: no memory for a time-out");
		conn_finish(c, CONN_RESET);
		return false;
	}
	return true;
}

/* Hands the connection over to a lighter record engine, if it can be. */
static void promote(struct conn *c, bool idle)
{
	if (c->promotion != TLS_NOT_YET)
		return;
	c->promotion = tls_promote(&c->tls, idle);
	if (c->promotion == TLS_PROMOTED)
		stats_add(&c->service->stats->promoted, 1);
	else if (idle)
		c->promotion = TLS_STAYS; /* nothing was under way, and still it cannot be */
	else
		c->promote_at *= 2;
}

void relay_expired(struct conn *c)
{
	uint64_t now = ring_now_ms(c->worker->ring);
	bool closing = is_closing(c);

	if (now >= c->active_ms + PROMOTE_IDLE_MS)
		promote(c, true);
	/* Bytes move without touching the timer: look when they last did. */
	if (now < timeout_at(c)) {
		watch(c);
		return;
	}
	if (closing) {
		conn_log(c, LOG_ERR, "transfer: s_poll_wait: TIMEOUTclose exceeded: closing");
		conn_finish(c, CONN_CLOSED);
	} else {
		conn_log(c, LOG_INFO, "transfer: s_poll_wait: TIMEOUTidle exceeded: sending reset");
		conn_finish(c, CONN_RESET);
	}
}

/* Arms a receive if there is room for what it may bring; ends a multishot one if there is not. */
static void receive(struct pump *p)
{
	struct end *from = p->from;
	struct ring *ring = from->conn->worker->ring;
	bool room = p->to->out.bytes < BUFFERED_MAX && from->out.bytes < OWED_MAX;

	if (from->eof || p->state != PUMP_OPEN)
		return;
	if (from->recv.armed) {
		if (from->many && (!room || from->bulk))
			ring_cancel(ring, &from->recv);
		return;
	}
	if (!room)
		return;
	from->many = !from->bulk;
	ring_recv(ring, &from->recv, from->fd, from->bulk ? CHUNK_BIG : CHUNK_SMALL, from->many);
}

/* Opens what came in. Returns false when the connection is over. */
static bool open_records(struct pump *p, struct queue *plain)
{
	struct tls *tls = p->from->tls;

	switch (tls->record.engine->open(&tls->record, plain, BUFFERED_MAX)) {
	case RECORD_MORE: p->more = true; return true;
	case RECORD_OK: return true;
	case RECORD_CLOSED:
		if (!p->from->eof)
			conn_log(p->from->conn, LOG_INFO, "TLS closed (SSL_read)");
		p->from->eof = true;
		p->state = PUMP_ENDING;
		return true;
	case RECORD_FAILED:
	default: return false;
	}
}

/* Moves what has come in to the other side's queue. Returns false when the connection is over. */
static bool move(struct pump *p)
{
	struct queue plain = {0};
	bool ok = true;

	p->more = p->to->out.bytes >= BUFFERED_MAX;
	if (p->more)
		return true;
	if (p->from->tls)
		ok = open_records(p, &plain);
	else
		queue_move(&plain, &p->from->in);
	if (plain.bytes == 0) {
		queue_clear(&plain, &p->from->conn->worker->bufs);
		return ok;
	}
	p->bytes += plain.bytes;
	stats_add(p->to->tls ? &p->from->conn->service->stats->bytes_to_tls : &p->from->conn->service->stats->bytes_to_plain,
	          plain.bytes);
	if (p->to->tls)
		ok = p->to->tls->record.engine->seal(&p->to->tls->record, &plain) == RECORD_OK && ok;
	else
		queue_join(&p->to->out, &plain, &p->from->conn->worker->bufs);
	queue_clear(&plain, &p->from->conn->worker->bufs);
	return ok;
}

/* The source has ended and everything it sent is on its way: pass the end on. Returns false when that fails. */
static bool pass_end(struct pump *p)
{
	struct conn *c = p->from->conn;

	if (p->to->tls) {
		conn_log(c, LOG_DEBUG, "Sending close_notify alert");
		p->state = PUMP_ENDED;
		return p->to->tls->record.engine->close(&p->to->tls->record) == RECORD_OK;
	}
	if (p->to->out.bytes > 0)
		return true; /* once it has gone */
	p->state = PUMP_ENDED;
	p->to->closed = true;
	shutdown(p->to->fd, SHUT_WR);
	conn_log(c, LOG_DEBUG, "Sent socket write shutdown");
	return true;
}

/*
 * The TLS side hung up without close_notify. With nothing left to tell it that is an orderly end (many peers do so), and there is
 * nobody to send anything to: the other direction ends with it. Returns false when bytes are lost.
 */
static bool truncated(struct pump *p)
{
	struct conn *c = p->from->conn;
	struct pump *other = pump_to(p->from);

	/* What the kernel still had to send is lost with a RST: in the middle of a stream there was something. */
	if (p->from->out.bytes > 0 || (p->from->torn && other->from->bulk)) {
		conn_log(c, LOG_INFO, "TLS socket closed (SSL_read) with %zu unsent byte(s)", p->from->out.bytes);
		return false;
	}
	conn_log(c, LOG_INFO, "TLS socket closed (SSL_read)");
	other->state = PUMP_ENDED;
	return true;
}

/* The end of the source's stream, once all that came before it has been moved on. */
static bool source_ended(struct pump *p)
{
	if (p->state != PUMP_OPEN || p->more)
		return true;
	p->state = PUMP_ENDING;
	if (p->from->tls)
		return truncated(p);
	conn_log(p->from->conn, LOG_INFO, "Read socket closed (readsocket)");
	return true;
}

/* Does everything that can be done in one direction. The connection may be gone afterwards: true if it lives on. */
static bool pump_run(struct pump *p)
{
	struct conn *c = p->from->conn;
	bool ok = p->state != PUMP_OPEN || move(p);

	if (ok && p->from->eof)
		ok = source_ended(p);
	if (ok && p->state == PUMP_ENDING)
		ok = pass_end(p);
	if (!ok) {
		conn_finish(c, CONN_RESET);
		return false;
	}
	if (c->to_tls.bytes + c->to_plain.bytes >= c->promote_at)
		promote(c, false);
	end_send(p->to);
	if (p->from->tls)
		end_send(p->from); /* what the record layer has to answer */
	receive(p);
	return true;
}

/* Both directions are over and everything is out: close. Otherwise look after the timer. */
static void settle(struct conn *c)
{
	bool ended = c->to_tls.state == PUMP_ENDED && c->to_plain.state == PUMP_ENDED;

	if (ended && (c->front.out.bytes == 0 || c->front.closed) && (c->back.out.bytes == 0 || c->back.closed))
		conn_finish(c, CONN_CLOSED);
	else if (!ended && is_closing(c))
		watch(c);
}

void relay_received(struct end *e, const struct ring_result *result)
{
	struct conn *c = e->conn;
	struct pump *p = pump_from(e);
	struct queue got = {0};

	c->active_ms = ring_now_ms(c->worker->ring);
	if (result->chunk && p->state != PUMP_OPEN) {
		chunk_put(&c->worker->bufs, result->chunk); /* behind a close_notify: no part of the stream */
	} else if (result->chunk) {
		if (e->bulk && !result->more)
			e->bulk = e->many || result->res >= CHUNK_SMALL_ROOM / 2;
		else if (result->res == CHUNK_SMALL_ROOM)
			e->bulk = true;
		queue_append(&got, result->chunk);
		queue_join(&e->in, &got, &c->worker->bufs);
	} else if (result->res == 0) {
		e->eof = true;
	} else if (result->res == -ENOMEM) {
		/* Our own trouble, not the peer's end: what is cut off here must not look complete. */
		conn_log(c, LOG_ERR, "%s fd: %s (%d)", e->tls ? "TLS" : "socket", strerror(ENOMEM), ENOMEM);
		conn_finish(c, CONN_RESET);
		return;
	} else if (result->res != -ENOBUFS && result->res != -ECANCELED) {
		/* Reading the error takes it off the socket: what was to be a RST becomes an end of stream as with stunnel. */
		conn_log(c, LOG_ERR, "%s fd: %s (%d)", e->tls ? "TLS" : "socket", strerror(-result->res), -result->res);
		e->eof = e->torn = true;
	}
	if (pump_run(p))
		settle(c);
}

void relay_sent(struct end *e)
{
	struct conn *c = e->conn;

	c->active_ms = ring_now_ms(c->worker->ring);
	if (e->closed && pump_to(e)->state != PUMP_ENDED) {
		conn_finish(c, CONN_RESET);
		return;
	}
	/* Room again: go on with what waits, and with reading; the other direction may have waited for what we owed. */
	if (pump_run(pump_to(e)) && (!e->tls || pump_run(pump_from(e))))
		settle(c);
}

void relay_start(struct conn *c)
{
	c->stage = CONN_RELAYING;
	c->active_ms = ring_now_ms(c->worker->ring);
	c->promotion = TLS_NOT_YET;
	c->promote_at = PROMOTE_BYTES;
	c->to_tls = (struct pump){.from = conn_plain_end(c), .to = conn_tls_end(c)};
	c->to_plain = (struct pump){.from = conn_tls_end(c), .to = conn_plain_end(c)};
	if (watch(c) && pump_run(&c->to_plain) && pump_run(&c->to_tls))
		settle(c);
}
