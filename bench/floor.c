/*
 * The floor of the bench: a plain TCP relay on one io_uring, without TLS, limits, logs or timeouts. What it costs, every proxy built like this pays.
 * Multishot accept and recv, one ring of provided buffers, one sendmsg at a time per direction that takes all that is queued.
 * Stand-alone program: floor PORT ORIGIN_PORT [BUFFER_KIB [BUFFERS]], all on 127.0.0.1. Not for any use but measuring.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "bench.h"

#include <arpa/inet.h>
#include <liburing.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	SQ_ENTRIES = 1024,
	CQ_ENTRIES = 16384,
	GROUP = 0,
	BATCH = 16, /* buffers one sendmsg takes */
	BUFFERS_MAX = 4096,
};

enum op { ACCEPT, CONNECT, RECV, SEND }; /* the low bits of user_data; the rest is the half's address */

/* A filled buffer on its way out. Each buffer is in one queue at most, so the links can be an array by buffer number. */
static struct {
	int next;
	unsigned len;
} filled[BUFFERS_MAX];

/* One direction: what comes in on fd goes out on the other half's fd. */
struct half {
	int fd;
	struct conn *conn;
	struct half *other;
	struct half *next_starved;
	int first, last;  /* queue of filled buffers, -1: empty */
	unsigned sending; /* how many buffers the send in flight holds */
	bool reading, eof, finished, starved;
	struct msghdr msg;
	struct iovec iov[BATCH];
};

struct conn {
	struct half client, origin;
	unsigned inflight;
	bool dead;
};

static struct io_uring ring;
static struct io_uring_buf_ring *buffers;
static unsigned char *memory;
static unsigned buffer_count = 256, buffer_size = 32 << 10, buffers_free;
static struct half *starved;
static struct sockaddr_in origin_address;

static struct io_uring_sqe *submission(struct half *h)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);

	if (!sqe) {
		io_uring_submit(&ring);
		sqe = io_uring_get_sqe(&ring);
	}
	if (!sqe)
		die("floor: the submission queue stays full");
	if (h)
		h->conn->inflight++;
	return sqe;
}

/* After the prep function: those of newer liburing versions clear it. */
static void tag(struct io_uring_sqe *sqe, struct half *h, enum op op)
{
	io_uring_sqe_set_data64(sqe, (uintptr_t)h | op);
}

static void arm_accept(int listener)
{
	struct io_uring_sqe *sqe = submission(NULL);

	io_uring_prep_multishot_accept(sqe, listener, NULL, NULL, SOCK_CLOEXEC);
	tag(sqe, NULL, ACCEPT);
}

static void arm_recv(struct half *h)
{
	struct io_uring_sqe *sqe = submission(h);

	io_uring_prep_recv_multishot(sqe, h->fd, NULL, 0, 0);
	sqe->flags |= IOSQE_BUFFER_SELECT;
	sqe->buf_group = GROUP;
	tag(sqe, h, RECV);
	h->reading = true;
}

/* One send in flight keeps the order; MSG_WAITALL makes the kernel finish it, so a completion is all or an error. */
static void send_queued(struct half *h)
{
	struct io_uring_sqe *sqe;

	h->sending = 0;
	for (int b = h->first; b >= 0 && h->sending < BATCH; b = filled[b].next)
		h->iov[h->sending++] = (struct iovec){memory + (size_t)b * buffer_size, filled[b].len};
	h->msg = (struct msghdr){.msg_iov = h->iov, .msg_iovlen = h->sending};
	sqe = submission(h);
	io_uring_prep_sendmsg(sqe, h->other->fd, &h->msg, MSG_NOSIGNAL | MSG_WAITALL);
	tag(sqe, h, SEND);
}

static void queue_buffer(struct half *h, int b, unsigned len)
{
	filled[b].next = -1;
	filled[b].len = len;
	if (h->first < 0)
		h->first = b;
	else
		filled[h->last].next = b;
	h->last = b;
}

static void buffer_back(int b)
{
	io_uring_buf_ring_add(buffers, memory + (size_t)b * buffer_size, buffer_size, (unsigned short)b,
	                      io_uring_buf_ring_mask(buffer_count), 0);
	io_uring_buf_ring_advance(buffers, 1);
	buffers_free++;
}

static void drop_first(struct half *h)
{
	int b = h->first;

	h->first = filled[b].next;
	buffer_back(b);
}

/* The connection is freed when the kernel holds nothing of it any more; shutting both sockets down makes that soon. */
static void conn_kill(struct conn *c)
{
	if (c->dead)
		return;
	c->dead = true;
	shutdown(c->client.fd, SHUT_RDWR);
	shutdown(c->origin.fd, SHUT_RDWR);
}

/* At the end of the line: whoever waits longest reads first. */
static void starve(struct half *h)
{
	struct half **at = &starved;

	while (*at)
		at = &(*at)->next_starved;
	h->starved = true;
	h->next_starved = NULL;
	*at = h;
}

static void unstarve(struct half *h)
{
	for (struct half **at = &starved; *at; at = &(*at)->next_starved) {
		if (*at == h) {
			*at = h->next_starved;
			return;
		}
	}
}

static void half_free(struct half *h)
{
	if (h->starved)
		unstarve(h);
	while (h->first >= 0)
		drop_first(h);
	close(h->fd);
}

static void conn_reap(struct conn *c)
{
	if (!c->dead && c->client.finished && c->origin.finished)
		c->dead = true;
	if (!c->dead || c->inflight)
		return;
	half_free(&c->client);
	half_free(&c->origin);
	free(c);
}

/* Passes the end of the stream on once everything before it is out. */
static void finish(struct half *h)
{
	if (!h->eof || h->finished || h->first >= 0)
		return;
	h->finished = true;
	shutdown(h->other->fd, SHUT_WR);
}

static void on_recv(struct half *h, int res, unsigned flags)
{
	if (flags & IORING_CQE_F_BUFFER) {
		buffers_free--;
		queue_buffer(h, (int)(flags >> IORING_CQE_BUFFER_SHIFT), res > 0 ? (unsigned)res : 0);
	}
	if (!(flags & IORING_CQE_F_MORE)) {
		h->conn->inflight--;
		h->reading = false;
	}
	if (h->conn->dead)
		return;
	if (res == 0)
		h->eof = true;
	else if (res < 0 && res != -ENOBUFS)
		return conn_kill(h->conn);
	if (!h->reading && !h->eof && !h->starved)
		starve(h);
	if (h->first >= 0 && !h->sending)
		send_queued(h);
	finish(h);
}

static void on_send(struct half *h, int res)
{
	unsigned sent = h->sending;

	h->conn->inflight--;
	h->sending = 0;
	while (sent--)
		drop_first(h);
	if (res < 0)
		return conn_kill(h->conn);
	if (h->conn->dead)
		return;
	if (h->first >= 0)
		send_queued(h);
	finish(h);
}

static void on_connect(struct half *h, int res)
{
	h->conn->inflight--;
	if (res < 0)
		return conn_kill(h->conn);
	arm_recv(&h->conn->client);
	arm_recv(&h->conn->origin);
}

static void half_init(struct half *h, struct conn *c, int fd, struct half *other)
{
	h->fd = fd;
	h->conn = c;
	h->other = other;
	h->first = h->last = -1;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
}

static void on_accept(int listener, int fd, unsigned flags)
{
	struct conn *c = fd >= 0 ? calloc(1, sizeof(*c)) : NULL;
	struct io_uring_sqe *sqe;
	int out;

	if (!(flags & IORING_CQE_F_MORE))
		arm_accept(listener);
	out = c ? socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0) : -1;
	if (out < 0) {
		free(c);
		if (fd >= 0)
			close(fd);
		return;
	}
	half_init(&c->client, c, fd, &c->origin);
	half_init(&c->origin, c, out, &c->client);
	sqe = submission(&c->origin);
	io_uring_prep_connect(sqe, out, (struct sockaddr *)&origin_address, sizeof(origin_address));
	tag(sqe, &c->origin, CONNECT);
}

static void on_completion(int listener, const struct io_uring_cqe *cqe)
{
	struct half *h = (struct half *)(uintptr_t)(cqe->user_data & ~(uint64_t)3);
	struct conn *c = h ? h->conn : NULL;

	switch ((enum op)(cqe->user_data & 3)) {
	case ACCEPT: return on_accept(listener, cqe->res, cqe->flags);
	case CONNECT: on_connect(h, cqe->res); break;
	case RECV: on_recv(h, cqe->res, cqe->flags); break;
	case SEND: on_send(h, cqe->res); break;
	}
	conn_reap(c);
}

/* Whoever ran out of buffers reads again when its own queue is empty, so one slow reader cannot take the whole pool twice. */
static void feed_starved(void)
{
	struct half **at = &starved;

	while (*at && buffers_free > buffer_count / 4) {
		struct half *h = *at;

		if (h->first >= 0) {
			at = &h->next_starved;
			continue;
		}
		*at = h->next_starved;
		h->starved = false;
		if (!h->conn->dead)
			arm_recv(h);
	}
}

static void buffers_init(void)
{
	struct io_uring_buf_reg reg = {.ring_entries = buffer_count, .bgid = GROUP};

	if (buffer_count & (buffer_count - 1))
		die("floor: the number of buffers must be a power of two");
	if (posix_memalign((void **)&buffers, 4096, buffer_count * sizeof(struct io_uring_buf)) ||
	    posix_memalign((void **)&memory, 4096, (size_t)buffer_count * buffer_size))
		die("floor: out of memory");
	reg.ring_addr = (uintptr_t)buffers;
	if (io_uring_register_buf_ring(&ring, &reg, 0))
		die("floor: this kernel has no rings of provided buffers");
	io_uring_buf_ring_init(buffers);
	for (unsigned b = 0; b < buffer_count; b++)
		buffer_back((int)b);
}

static int listen_on(uint16_t port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int)) ||
	    bind(fd, (struct sockaddr *)&a, sizeof(a)) || listen(fd, 4096))
		die("floor: port %u: %s", port, strerror(errno));
	return fd;
}

static void ring_init(void)
{
	struct io_uring_params p = {
		.flags = IORING_SETUP_CQSIZE | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
		.cq_entries = CQ_ENTRIES,
	};
	int error = io_uring_queue_init_params(SQ_ENTRIES, &ring, &p);

	if (error)
		die("floor: io_uring: %s", strerror(-error));
	io_uring_register_ring_fd(&ring);
}

static void serve(int listener)
{
	struct io_uring_cqe *cqe;

	for (;;) {
		unsigned head, n = 0;
		int error = io_uring_submit_and_wait(&ring, 1);

		if (error < 0 && error != -EINTR)
			die("floor: io_uring: %s", strerror(-error));
		io_uring_for_each_cqe(&ring, head, cqe)
		{
			on_completion(listener, cqe);
			n++;
		}
		io_uring_cq_advance(&ring, n);
		feed_starved();
	}
}

int main(int argc, char **argv)
{
	int listener;

	if (argc < 3)
		die("usage: floor PORT ORIGIN_PORT [BUFFER_KIB [BUFFERS]]");
	origin_address = (struct sockaddr_in){.sin_family = AF_INET,
	                                      .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	                                      .sin_port = htons((uint16_t)number("ORIGIN_PORT", argv[2], 65535))};
	if (argc > 3)
		buffer_size = (unsigned)number("BUFFER_KIB", argv[3], 1024) << 10;
	if (argc > 4)
		buffer_count = (unsigned)number("BUFFERS", argv[4], BUFFERS_MAX);
	raise_descriptor_limit();
	ring_init();
	buffers_init();
	listener = listen_on((uint16_t)number("PORT", argv[1], 65535));
	arm_accept(listener);
	serve(listener);
}
