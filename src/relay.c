/*
 * The relay: see relay.h.
 *
 *      front socket --recv--> front.in --[open]--[seal]--> back.out --send--> back socket
 *      and the same the other way. [open] where the source speaks TLS, [seal] where the target does.
 *
 * Receives come in several manners. A connection that exchanges messages has one multishot receive into small chunks: nothing is armed anew
 * for each message, nothing is held while it idles. Once a small chunk comes full, there is more where it came from: the pump goes over to
 * big receives, one at a time, so that it takes no more than the other side can swallow. From a socket of kernel TLS, and between sockets that
 * splice, bulk is read by system calls once a poll says that there is something. kernel-notes/relay.md and splice.md have the measurements.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "relay.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

enum {
	/* Records we owe the peer itself (answers to KeyUpdates) before we stop reading: more than a pump ever leaves there. */
	OWED_MAX = 4 * CHUNK_BIG_RECEIVE,
};

struct pump *relay_pump_from(struct end *e)
{
	struct conn *c = e->conn;

	return c->to_tls.from == e ? &c->to_tls : &c->to_plain;
}

struct pump *relay_pump_to(struct end *e)
{
	struct conn *c = e->conn;

	return c->to_tls.to == e ? &c->to_tls : &c->to_plain;
}

/* --- time-outs ---------------------------------------------------------------------------------------------------------------------- */

/* While both directions are open, or bytes wait: TIMEOUTidle. Then: TIMEOUTclose. */
static bool is_closing(const struct conn *c)
{
	bool open = c->to_tls.state == PUMP_OPEN && c->to_plain.state == PUMP_OPEN;
	bool wait = c->front.out.bytes > 0 || c->back.out.bytes > 0 || c->to_tls.piped > 0 || c->to_plain.piped > 0;

	return !open && !wait;
}

/* When the time-out in force runs out, counted from the last moment that bytes moved; UINT64_MAX: never. */
static uint64_t timeout_at(const struct conn *c)
{
	const struct section *conf = c->service->conf;
	int seconds = is_closing(c) ? conf->timeout_close_s : conf->timeout_idle_s;

	return seconds < 0 ? UINT64_MAX : c->active_ms + (uint64_t)seconds * 1000;
}

bool relay_watch(struct conn *c)
{
	uint64_t at = timeout_at(c);

	if (c->promotion == TLS_NOT_YET && c->service->conf->inplace && at > c->active_ms + OFFLOAD_IDLE_MS)
		at = c->active_ms + OFFLOAD_IDLE_MS;
	if (at == UINT64_MAX) {
		timer_disarm(&c->worker->timers, &c->timer);
	} else if (timer_arm(&c->worker->timers, &c->timer, at) < 0) {
		conn_log(c, LOG_ERR, "transfer: no memory for a time-out");
		conn_finish(c, CONN_RESET);
		return false;
	}
	return true;
}

void relay_expired(struct conn *c)
{
	uint64_t now = ring_now_ms(c->worker->ring);
	bool closing = is_closing(c);

	if (now >= c->active_ms + OFFLOAD_IDLE_MS)
		offload_idle(c);
	/* Bytes move without touching the timer: look when they last did. */
	if (now < timeout_at(c)) {
		relay_watch(c);
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

/* --- receiving ---------------------------------------------------------------------------------------------------------------------- */

static bool has_room(const struct pump *p)
{
	size_t waiting = p->to->out.bytes + (p->more ? p->from->in.bytes : 0);

	return waiting < BUFFERED_MAX && p->from->out.bytes < OWED_MAX;
}

static enum end_receiving manner(const struct pump *p)
{
	const struct end *from = p->from;

	if (from->file || from->nonblocking || (from->opens && from->bulk))
		return END_POLLED;
	if (from->opens)
		return END_RECORDS;
	if (p->offload == OFFLOAD_DUE && from->tls)
		return END_REST;
	return from->bulk ? END_ONE : END_MANY;
}

/* True if what is armed is to be ended: it brings what there is no room for, or is of the wrong manner and would not end by itself soon. */
static bool is_wrong(const struct pump *p, enum end_receiving wanted)
{
	enum end_receiving armed = p->from->receiving;

	if (armed == END_MANY || armed == END_RECORDS)
		return armed != wanted || !has_room(p);
	return armed == END_ONE ? wanted == END_REST : armed != wanted;
}

void relay_receive(struct pump *p)
{
	struct end *from = p->from;
	struct ring *ring = from->conn->worker->ring;
	enum end_receiving wanted;

	if (from->eof || p->state != PUMP_OPEN)
		return;
	offload_try(p);
	if (from->bulk && !from->nonblocking && splice_wanted(p))
		splice_enter(from->conn);
	wanted = manner(p);
	if (from->recv.armed) {
		if (is_wrong(p, wanted))
			ring_cancel(ring, &from->recv);
		return;
	}
	if ((wanted != END_POLLED || (from->file && !from->pollable)) && !has_room(p))
		return; /* what is always readable would tell so all the time */
	if (wanted == END_REST && tls_missing(from->tls) == 0)
		return; /* whole records wait to be moved on */
	from->receiving = wanted;
	from->readable = false; /* the poll will tell */
	switch (wanted) {
	case END_POLLED: end_await_readable(from); break;
	case END_RECORDS: ring_recv_records(ring, &from->recv, from->fd); break;
	case END_MANY: ring_recv(ring, &from->recv, from->fd, CHUNK_SMALL, true); break;
	case END_ONE: ring_recv(ring, &from->recv, from->fd, CHUNK_BIG, false); break;
	case END_REST: ring_recv_up_to(ring, &from->recv, from->fd, CHUNK_BIG, tls_missing(from->tls)); break;
	}
}

/* A read from the socket failed. What kernel TLS says of records is not the socket's end. False: the connection is to be reset. */
static bool take_error(struct pump *p, int error)
{
	struct end *e = p->from;
	struct conn *c = e->conn;
	bool of_records = false;

	if (e->opens && tls_read_failed(e->tls, error, &of_records) == RECORD_FAILED)
		return false;
	if (of_records)
		return true;
	conn_log(c, LOG_ERR, "%s fd: %s (%d)", e->tls ? "TLS" : "socket", strerror(-error), -error);
	/* Our own trouble, not the peer's end: what is cut off here must not look complete. */
	if (error == -ENOMEM || e->file)
		return false;
	/* Reading the error takes it off the socket: what was to be a RST becomes an end of stream as with stunnel. */
	e->eof = e->torn = true;
	return true;
}

void relay_hung_up(struct end *e)
{
	if (!e->hung_up)
		conn_log(e->conn, LOG_INFO, "Write socket closed (HUP)");
	relay_pump_to(e)->state = PUMP_ENDED;
	e->hung_up = e->closed = true;
	e->conn->linger = true; /* the TLS side may still be sending */
}

bool relay_take(struct pump *p, long res, struct chunk *chunk)
{
	struct end *e = p->from;
	struct bufs *bufs = &e->conn->worker->bufs;
	struct queue got = {0};

	if (chunk && p->state != PUMP_OPEN) {
		chunk_put(bufs, chunk); /* behind a close_notify: no part of the stream */
	} else if (chunk) {
		queue_append(&got, chunk);
		queue_join(&e->in, &got, bufs);
	} else if (res == 0) {
		e->eof = true;
	} else if (res == -EIO && e->terminal) {
		relay_hung_up(e);
		e->eof = true;
	} else if (res != -ENOBUFS && res != -ECANCELED && res != -EAGAIN) {
		return take_error(p, (int)res);
	}
	return true;
}

/* Polled: reads at once what there is. */
static enum pump_result read_now(struct pump *p)
{
	struct end *e = p->from;
	struct chunk *chunk;
	long n = end_read(e, e->bulk ? CHUNK_BIG : CHUNK_SMALL, &chunk);

	if (n == -EAGAIN)
		e->readable = false;
	else if (n > 0)
		e->bulk = e->bulk ? n >= CHUNK_SMALL_ROOM / 2 : n == CHUNK_SMALL_ROOM;
	if (!relay_take(p, n, chunk))
		return PUMP_FAILED;
	return n == -EAGAIN ? PUMP_NOTHING
	                    : PUMP_AGAIN; /* also after an error that the connection has outlived: no poll would tell again */
}

static enum pump_result pull(struct pump *p)
{
	struct end *e = p->from;

	if (p->state != PUMP_OPEN || p->more)
		return PUMP_NOTHING;
	/* While another receive is under way, what it has brought comes first, though we may not have seen it yet. */
	if (e->receiving != END_POLLED)
		return PUMP_NOTHING;
	if (p->piped > 0 || (e->nonblocking && e->readable && e->bulk && !e->eof && splice_wanted(p)))
		return splice_run(p);
	if (e->eof || !e->readable || manner(p) != END_POLLED || !has_room(p))
		return PUMP_NOTHING;
	return read_now(p);
}

/* --- moving ------------------------------------------------------------------------------------------------------------------------- */

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

void relay_count(struct pump *p, size_t n)
{
	struct stats *stats = p->from->conn->service->stats;

	p->bytes += n;
	if (p->to->tls) {
		stats_add(&stats->bytes_to_tls, n);
		if (p->to->seals)
			stats_add(&stats->kernel_to_tls, n);
	} else {
		stats_add(&stats->bytes_to_plain, n);
		if (p->from->opens)
			stats_add(&stats->kernel_to_plain, n);
	}
}

/* The TLS side can take no application data, for it has a handshake under way. */
static bool is_busy(const struct end *e)
{
	return e->tls && e->tls->record.busy;
}

/* Moves what has come in to the other side's queue. Returns false when the connection is over. */
static bool move(struct pump *p)
{
	struct bufs *bufs = &p->from->conn->worker->bufs;
	struct queue plain = {0};
	bool ok = true;

	p->more = p->to->out.bytes >= BUFFERED_MAX || offload_holds(p) || is_busy(p->to);
	if (p->more)
		return true;
	if (p->from->tls)
		ok = open_records(p, &plain);
	else
		queue_move(&plain, &p->from->in);
	if (plain.bytes > 0) {
		relay_count(p, plain.bytes);
		if (p->to->tls)
			ok = p->to->tls->record.engine->seal(&p->to->tls->record, &plain) == RECORD_OK && ok;
		else
			queue_join(&p->to->out, &plain, bufs);
	}
	queue_clear(&plain, bufs);
	return ok;
}

/* --- ends of streams ---------------------------------------------------------------------------------------------------------------- */

static bool pump_step(struct pump *p);

/* Nothing but a socket can be closed in one direction: the other one ends too. Returns false when passing that on fails. */
static bool close_file(struct end *e)
{
	conn_log(e->conn, LOG_DEBUG, "Closing the file descriptor");
	e->eof = true;
	ring_cancel(e->conn->worker->ring, &e->recv);
	return pump_step(relay_pump_from(e));
}

/* The source has ended and everything it sent is on its way: pass the end on. Returns false when that fails. */
static bool pass_end(struct pump *p)
{
	struct conn *c = p->from->conn;

	if (p->piped > 0)
		return true; /* once it has gone */
	if (p->to->tls) {
		conn_log(c, LOG_DEBUG, "Sending close_notify alert");
		p->state = PUMP_ENDED;
		return p->to->tls->record.engine->close(&p->to->tls->record) == RECORD_OK;
	}
	if (p->to->out.bytes > 0)
		return true;
	p->state = PUMP_ENDED;
	p->to->closed = true;
	if (p->to->file)
		return close_file(p->to);
	shutdown(p->to->to_fd, SHUT_WR);
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
	struct pump *other = relay_pump_to(p->from);
	size_t unsent = p->from->out.bytes + other->piped;

	/* What the kernel still had to send is lost with a RST: in the middle of a stream there was something. */
	if (unsent > 0 || (p->from->torn && other->from->bulk)) {
		conn_log(c, LOG_INFO, "TLS socket closed (SSL_read) with %zu unsent byte(s)", unsent);
		return false;
	}
	conn_log(c, LOG_INFO, "TLS socket closed (SSL_read)");
	other->state = PUMP_ENDED;
	return true;
}

/* The end of the source's stream, once all that came before it has been moved on. */
static bool source_ended(struct pump *p)
{
	if (p->state != PUMP_OPEN || p->more || p->piped > 0)
		return true;
	p->state = PUMP_ENDING;
	if (p->from->tls)
		return truncated(p);
	conn_log(p->from->conn, LOG_INFO, "Read socket closed (%s)", p->from->hung_up ? "HUP" : "readsocket");
	return true;
}

/* --- pumps -------------------------------------------------------------------------------------------------------------------------- */

/* Moves what is there in one direction, and passes its end on. */
static bool pump_step(struct pump *p)
{
	bool ok;

	offload_try(p);
	ok = p->state != PUMP_OPEN || move(p);
	if (ok && p->from->eof)
		ok = source_ended(p);
	if (ok && p->state == PUMP_ENDING)
		ok = pass_end(p);
	return ok;
}

/* Does everything that can be done in one direction. The connection may be gone afterwards: true if it lives on. */
static bool pump_run(struct pump *p)
{
	struct conn *c = p->from->conn;
	enum pump_result result;

	do {
		result = pump_step(p) ? pull(p) : PUMP_FAILED;
		if (result == PUMP_FAILED) {
			conn_finish(c, CONN_RESET);
			return false;
		}
		offload_moved(c);
		end_send(p->to);
		if (p->from->tls)
			end_send(p->from); /* what the record layer has to answer */
	} while (result == PUMP_AGAIN);
	relay_receive(p);
	return true;
}

/* Nothing more is to go out. */
static bool has_sent(struct end *e)
{
	if (e->closed)
		return true;
	if (e->out.bytes > 0)
		return false;
	if (end_flushed(e))
		return true;
	if (!e->send.armed)
		end_await_room(e);
	return false;
}

/* Both directions are over and everything is out: close. Otherwise look after the timer. */
static void settle(struct conn *c)
{
	bool ended = c->to_tls.state == PUMP_ENDED && c->to_plain.state == PUMP_ENDED;

	if (ended && has_sent(&c->front) && has_sent(&c->back))
		conn_finish(c, CONN_CLOSED);
	else if (!ended && is_closing(c))
		relay_watch(c);
}

void relay_received(struct end *e, const struct ring_result *result)
{
	struct conn *c = e->conn;
	struct pump *p = relay_pump_from(e);
	bool ok = true, busy = is_busy(e);

	c->active_ms = ring_now_ms(c->worker->ring);
	if (e->receiving == END_POLLED) {
		e->readable |= result->res > 0;
		if (result->res < 0 && result->res != -ECANCELED)
			ok = take_error(p, result->res);
	} else {
		if (result->chunk && e->receiving == END_ONE)
			e->bulk = result->res >= CHUNK_SMALL_ROOM / 2;
		else if (result->full)
			e->bulk = true;
		ok = relay_take(p, result->res, result->chunk);
	}
	if (!ok)
		conn_finish(c, CONN_RESET);
	else if (pump_run(p) &&
	         (!busy || pump_run(relay_pump_to(e)))) /* the other direction may have waited for the end of a handshake */
		settle(c);
}

void relay_sent(struct end *e)
{
	struct conn *c = e->conn;

	c->active_ms = ring_now_ms(c->worker->ring);
	if (e->closed && relay_pump_to(e)->state != PUMP_ENDED) {
		conn_finish(c, CONN_RESET);
		return;
	}
	/* Room again: go on with what waits, and with reading; the other direction may have waited for what we owed. */
	if (pump_run(relay_pump_to(e)) && (!e->tls || pump_run(relay_pump_from(e))))
		settle(c);
}

void relay_refused(struct end *e, int error)
{
	if (take_error(relay_pump_from(e), error))
		end_await_room(e);
	else
		conn_finish(e->conn, CONN_RESET);
}

void relay_start(struct conn *c)
{
	c->stage = CONN_RELAYING;
	c->active_ms = ring_now_ms(c->worker->ring);
	c->to_tls = (struct pump){.from = conn_plain_end(c), .to = conn_tls_end(c), .direction = KTLS_SEND};
	c->to_plain = (struct pump){.from = conn_tls_end(c), .to = conn_plain_end(c), .direction = KTLS_RECEIVE};
	offload_start(c);
	if (relay_watch(c) && pump_run(&c->to_plain) && pump_run(&c->to_tls))
		settle(c);
}

void relay_end(struct conn *c)
{
	offload_end(c);
	splice_end(c);
}
