/*
 * Ends: see end.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "end.h"

#include "conn.h"
#include "ktls.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

static struct ring *ring_of(const struct end *e)
{
	return e->conn->worker->ring;
}

void end_await_room(struct end *e)
{
	e->sending = END_ROOM;
	ring_poll(ring_of(e), &e->send, e->fd, POLLOUT, false);
}

/* A record beside the data goes by a system call: a few bytes, and rare. */
static void send_record(struct end *e, const struct chunk *c)
{
	int error = ktls_write_record(e->fd, (unsigned char)c->content, c->data + c->start, c->end - c->start);

	if (error == -EAGAIN)
		end_await_room(e);
	else
		ring_complete(ring_of(e), &e->send, error ? error : (int)(c->end - c->start));
}

void end_send(struct end *e)
{
	struct chunk *c;

	if (e->send.armed || e->closed || e->fd < 0)
		return;
	c = queue_front(&e->out, &e->conn->worker->bufs);
	if (!c)
		return;
	e->sending = END_QUEUE;
	if (c->content)
		send_record(e, c);
	else
		ring_send(ring_of(e), &e->send, e->fd, c->data + c->start, c->end - c->start);
}

int end_sent(struct end *e, int res)
{
	const struct chunk *c = queue_front(&e->out, &e->conn->worker->bufs);
	unsigned char content = c ? (unsigned char)c->content : 0;

	if (res == -EAGAIN) { /* O_NONBLOCK */
		end_await_room(e);
		return -EAGAIN;
	}
	/* A record that came in and was no good: reading will tell, and an alert must still go out. */
	if (e->opens && (res == -EBADMSG || res == -EMSGSIZE || res == -EINVAL) && ktls_clear_error(e->fd)) {
		end_send(e);
		return -EAGAIN;
	}
	if (res < 0 || e->sending != END_QUEUE)
		return res < 0 ? res : 0;
	queue_consume(&e->out, &e->conn->worker->bufs, (size_t)res);
	return content && !tls_record_sent(e->tls, content) ? -EKEYREJECTED : 0;
}

bool end_flushed(const struct end *e)
{
	struct pollfd room = {.fd = e->fd, .events = POLLOUT};

	if (!e->seals || e->closed)
		return true;
	/* Makes the kernel pass on what it holds; if there is still room then, it holds nothing. */
	return send(e->fd, "", 0, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? errno != EAGAIN : poll(&room, 1, 0) != 0;
}

int end_set_nonblocking(struct end *e)
{
	int flags = fcntl(e->fd, F_GETFL);

	if (flags < 0 || fcntl(e->fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return -errno;
	e->nonblocking = true;
	return 0;
}

long end_read(struct end *e, enum chunk_size size, struct chunk **chunk)
{
	struct bufs *bufs = &e->conn->worker->bufs;
	struct chunk *c = chunk_get(bufs, size);
	unsigned char type = 0;
	long n;

	*chunk = NULL;
	if (!c)
		return -ENOMEM;
	n = ring_fault(ring_of(e));
	if (!n)
		n = ktls_read(e->fd, c->data, size == CHUNK_BIG ? CHUNK_BIG_RECEIVE : CHUNK_SMALL_ROOM, &type);
	if (n <= 0) {
		chunk_put(bufs, c);
		return n;
	}
	c->end = (uint32_t)n;
	c->content = type;
	*chunk = c;
	return n;
}
