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
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static struct ring *ring_of(const struct end *e)
{
	return e->conn->worker->ring;
}

/* --- descriptors -------------------------------------------------------------------------------------------------------------------- */

void end_open(struct end *e, int fd)
{
	e->fd = e->to_fd = fd;
	e->flags = e->to_flags = -1;
}

/* epoll(7) takes exactly those files that tell when they are ready. */
static bool is_pollable(int fd)
{
	struct epoll_event event = {.events = EPOLLIN};
	int epoll = epoll_create1(EPOLL_CLOEXEC);
	bool ok = epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0 || errno != EPERM;

	if (epoll >= 0)
		close(epoll);
	return ok;
}

/* Returns the flags as they were, or -errno. */
static int make_nonblocking(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	return flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ? -errno : flags;
}

static void restore(int fd, int flags)
{
	if (flags >= 0)
		(void)fcntl(fd, F_SETFL, flags);
}

int end_open_files(struct end *e, int from, int to)
{
	int flags = make_nonblocking(from), to_flags = flags < 0 ? flags : make_nonblocking(to);

	if (to_flags < 0) {
		restore(from, flags);
		return to_flags;
	}
	e->fd = from;
	e->to_fd = to;
	e->flags = flags;
	e->to_flags = to_flags;
	e->file = true;
	e->pollable = is_pollable(from);
	e->terminal = isatty(from);
	e->to_terminal = isatty(to);
	return 0;
}

void end_close(struct end *e)
{
	/* In this order: both may be one and the same, which then had O_NONBLOCK already when it was looked at for the second time. */
	restore(e->to_fd, e->to_flags);
	restore(e->fd, e->flags);
	if (e->to_fd != e->fd)
		close(e->to_fd);
	close(e->fd);
}

/* --- waiting, sending and reading ----------------------------------------------------------------------------------------------------- */

int end_await(struct end *e, struct ring_wait *wait, struct chunk **chunk)
{
	int res;

	if (!e->file)
		return ring_await_recv(ring_of(e), wait, e->fd, chunk);
	do {
		res = (int)end_read(e, CHUNK_SMALL, chunk);
		if (res != -EAGAIN)
			return res;
		res = ring_await_poll(ring_of(e), wait, e->fd, POLLIN);
	} while (res >= 0);
	return res;
}

void end_await_readable(struct end *e)
{
	if (e->file && !e->pollable)
		ring_complete(ring_of(e), &e->recv, POLLIN);
	else
		ring_poll(ring_of(e), &e->recv, e->fd, POLLIN | POLLRDHUP, true);
}

void end_await_room(struct end *e)
{
	e->sending = END_ROOM;
	ring_poll(ring_of(e), &e->send, e->to_fd, POLLOUT, false);
}

static void write_chunk(struct end *e, const struct chunk *c)
{
	ssize_t n = write(e->to_fd, c->data + c->start, c->end - c->start);

	if (n < 0 && errno == EAGAIN)
		end_await_room(e);
	else
		ring_complete(ring_of(e), &e->send, n < 0 ? -errno : (int)n);
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
	else if (e->file)
		write_chunk(e, c);
	else
		ring_send(ring_of(e), &e->send, e->to_fd, c->data + c->start, c->end - c->start);
}

bool end_is_refusal(const struct end *e, int res)
{
	return e->opens && (res == -EBADMSG || res == -EMSGSIZE || res == -EINVAL);
}

int end_sent(struct end *e, int res)
{
	const struct chunk *c = queue_front(&e->out, &e->conn->worker->bufs);
	unsigned char content = c ? (unsigned char)c->content : 0;

	if (res == -EAGAIN) { /* O_NONBLOCK */
		end_await_room(e);
		return -EAGAIN;
	}
	if (end_is_refusal(e, res)) {
		bool cleared = ktls_clear_error(e->fd);

		/* An alert must still go out; and of a wrong tag each read tells, of the others we are the only ones to know. */
		if (e->conn->stage == CONN_LINGERING || (cleared && res == -EBADMSG)) {
			end_send(e);
			if (!e->send.armed)
				end_await_room(e);
			return -EAGAIN;
		}
	}
	if (res < 0 || e->sending != END_QUEUE)
		return res < 0 ? res : 0;
	queue_consume(&e->out, &e->conn->worker->bufs, (size_t)res);
	return content && !tls_record_sent(e->tls, content) ? -EKEYREJECTED : 0;
}

bool end_has_hung_up(const struct end *e, int res)
{
	bool polled = e->receiving == END_POLLED;

	if (res == -ECANCELED || res == -ENOBUFS)
		return false;
	if (res >= 0 && (polled ? res & (POLLRDHUP | POLLHUP) : res == 0))
		return true;
	if (res >= 0 && !(polled && res & POLLERR))
		return false;
	if (e->opens) /* the error may be about a record: without it the next poll will tell */
		(void)ktls_clear_error(e->fd);
	return !e->opens;
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
	int flags = make_nonblocking(e->fd);

	if (flags < 0)
		return flags;
	e->nonblocking = true;
	return 0;
}

static long read_file(int fd, void *data, size_t n)
{
	ssize_t got = read(fd, data, n);

	return got < 0 ? -errno : got;
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
	if (!n && e->file)
		n = read_file(e->fd, c->data, size == CHUNK_BIG ? CHUNK_BIG_RECEIVE : CHUNK_SMALL_ROOM);
	else if (!n)
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
