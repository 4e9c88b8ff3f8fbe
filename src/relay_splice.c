/*
 * Relay: bulk that goes from socket to socket through a pipe and never to user space, where the kernel makes the records of the TLS side.
 * Either by splice(2), which does not wait, driven by polls of the ring; or by operations of the ring. See relay.h and kernel-notes/splice.md.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "relay.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

enum {
	SPLICES_MAX = 8, /* pipes full that a pump may move before others have their turn */
};

static struct pipes *pipes_of(const struct pump *p)
{
	return &p->from->conn->worker->pipes;
}

/*
 * Both sides' bytes must be as the peers mean them: plain, or the kernel's records. The other direction must not be on its way to the kernel: it could
 * not find a boundary on sockets that are polled.
 */
static bool is_possible(const struct pump *p)
{
	const struct conn *c = p->from->conn;

	if (c->front.file || c->back.file || c->front.fd != c->front.to_fd)
		return false;
	return (p->from->tls ? p->from->opens : p->to->seals) && c->to_tls.offload == OFFLOAD_NONE && c->to_plain.offload == OFFLOAD_NONE;
}

bool splice_wanted(const struct pump *p)
{
	switch (p->from->conn->service->conf->relay) {
	case RELAY_AUTO: /* measured: kernel-notes/splice.md */
	case RELAY_SPLICE:
	case RELAY_URING_SPLICE: return is_possible(p);
	case RELAY_COPY:
	default: return false;
	}
}

void splice_enter(struct conn *c)
{
	int error = end_set_nonblocking(&c->front);

	if (!error)
		error = end_set_nonblocking(&c->back);
	if (error)
		conn_log(c, LOG_ERR, "transfer: O_NONBLOCK: %s (%d)", strerror(-error), -error);
	if (c->front.nonblocking)
		pipes_enter(&c->worker->pipes);
}

static void pipe_return(struct pump *p)
{
	pipe_put(pipes_of(p), p->pipe, p->piped == 0);
	p->pipe = NULL;
}

void splice_end(struct conn *c)
{
	if (!c->front.nonblocking)
		return;
	/* A splice that was under way when the connection ended has left something behind, for all we know. */
	pipe_put(&c->worker->pipes, c->to_tls.pipe, false);
	pipe_put(&c->worker->pipes, c->to_plain.pipe, false);
	pipes_leave(&c->worker->pipes);
}

/* What a splice cannot bring is next, or the end: it comes into `in`, if what came before it has left the pipe. */
static enum pump_result read_record(struct pump *p)
{
	struct chunk *chunk;
	long n;

	if (p->piped > 0)
		return PUMP_AGAIN;
	n = end_read(p->from, CHUNK_SMALL, &chunk);
	if (n == -EAGAIN) {
		p->from->readable = false;
		return PUMP_NOTHING;
	}
	return relay_take(p, n, chunk) ? PUMP_AGAIN : PUMP_FAILED;
}

/* What a splice from the source into the pipe came to. AGAIN: there may be more to do. */
static enum pump_result filled(struct pump *p, long n)
{
	struct end *from = p->from;

	if (n > 0) {
		p->piped += (size_t)n;
		from->bulk = n >= CHUNK_SMALL_ROOM / 2;
		return PUMP_AGAIN;
	}
	if (n == -EAGAIN && p->piped > 0)
		return PUMP_AGAIN; /* perhaps it is the pipe that is full */
	if (n == -EAGAIN || n == -ECANCELED) {
		from->readable = n == -ECANCELED;
		return PUMP_NOTHING;
	}
	if ((n == -EINVAL || n == 0) && from->opens) /* 0: an empty record looks like the end here */
		return read_record(p);
	return relay_take(p, n, NULL) ? PUMP_AGAIN : PUMP_FAILED;
}

/* What a splice from the pipe to the target came to. */
static enum pump_result drained(struct pump *p, long n)
{
	struct end *to = p->to;

	if (n == -EAGAIN) {
		end_await_room(to);
		return PUMP_NOTHING;
	}
	if (n <= 0) { /* told to the connection as a send that failed */
		to->sending = END_QUEUE;
		ring_complete(to->conn->worker->ring, &to->send, n < 0 ? (int)n : -EIO);
		return PUMP_NOTHING;
	}
	p->piped -= (size_t)n;
	relay_count(p, (size_t)n);
	if (to->seals && tls_spliced(to->tls, (size_t)n) == RECORD_FAILED)
		return PUMP_FAILED;
	if (p->piped == 0)
		pipe_return(p);
	return PUMP_AGAIN;
}

static long splice_now(const struct pump *p, int from, int to, size_t n)
{
	int error = ring_fault(p->from->conn->worker->ring);
	long moved = error ? error : splice(from, NULL, to, NULL, n, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);

	return moved < 0 && !error ? -errno : moved;
}

/* Fills the pipe: from kernel TLS each splice brings one record. */
static enum pump_result fill_now(struct pump *p)
{
	enum pump_result result;
	size_t before;

	do {
		before = p->piped;
		result = filled(p, splice_now(p, p->from->fd, p->pipe->in, PIPE_BYTES - p->piped));
	} while (result == PUMP_AGAIN && p->piped > before && p->piped < PIPE_BYTES && p->from->opens);
	return result;
}

/* The ring carries out one splice at a time, in the name of the target's `send`. */
static enum pump_result start(struct pump *p, enum end_sending what)
{
	struct ring *ring = p->to->conn->worker->ring;

	p->to->sending = what;
	if (what == END_FILL)
		ring_splice(ring, &p->to->send, p->from->fd, p->pipe->in, PIPE_BYTES);
	else
		ring_splice(ring, &p->to->send, p->pipe->out, p->to->fd, p->piped);
	return PUMP_NOTHING;
}

/* One step: into the pipe if it is empty, else out of it. */
static enum pump_result step(struct pump *p)
{
	bool by_ring = p->from->conn->service->conf->relay == RELAY_URING_SPLICE;

	/* Kernel TLS gives one record at a time, and a thread of the kernel for each would cost more than the rest: into the pipe they come at once. */
	if (p->piped > 0)
		return by_ring ? start(p, END_DRAIN) : drained(p, splice_now(p, p->pipe->out, p->to->fd, p->piped));
	if (!p->from->readable || p->from->eof)
		return PUMP_NOTHING;
	if (!p->pipe)
		p->pipe = pipe_get(pipes_of(p));
	if (!p->pipe)
		return relay_take(p, -ENOMEM, NULL) ? PUMP_NOTHING : PUMP_FAILED;
	return by_ring && !p->from->opens ? start(p, END_FILL) : fill_now(p);
}

enum pump_result splice_run(struct pump *p)
{
	enum pump_result result = PUMP_AGAIN;

	/* What waits in the target's queue goes first: it was there before, or is a KeyUpdate. What is no bulk any more is for read_now(). */
	for (int i = 0; result == PUMP_AGAIN && p->from->in.bytes == 0 && (p->from->bulk || p->piped > 0); i++) {
		if (p->to->send.armed || p->to->out.bytes > 0)
			return PUMP_NOTHING;
		if (i == 2 * SPLICES_MAX) {
			end_await_room(p->to); /* at once, but behind the others */
			return PUMP_NOTHING;
		}
		result = step(p);
	}
	if (p->piped == 0 && !p->to->send.armed)
		pipe_return(p);
	return result == PUMP_NOTHING && p->from->eof ? PUMP_AGAIN : result;
}

void relay_spliced(struct end *e, int res)
{
	struct pump *p = relay_pump_to(e);
	struct conn *c = e->conn;
	enum pump_result result = e->sending == END_FILL ? filled(p, res) : drained(p, res);

	if (p->piped == 0)
		pipe_return(p);
	if (result == PUMP_FAILED)
		conn_finish(c, CONN_RESET);
	else
		relay_sent(e);
}
