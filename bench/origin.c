/*
 * A minimal HTTP/1.1 origin server for the bench: GET /<n>k and /<n>m answer with that many KiB or MiB of the pattern, POST /sink throws
 * its body away unread by the user side, POST /verify compares it with the pattern and answers 500 if one byte differs. Keep-alive always.
 * Stand-alone program: origin PORT (0 takes a free one); prints "PORT n" when it listens. Not for any use but measuring on loopback.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "bench.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
	HEAD_MAX = 2048, /* of a request's head: our own load generator sends under 100 bytes */
	RECV_SIZE = 1 << 20,
	TURN_BYTES = 8 << 20, /* one connection's share before the others get their turn */
};

struct conn {
	int fd;
	uint32_t events; /* what epoll watches for */
	size_t head_len;
	char head[HEAD_MAX];
	uint64_t sink_left; /* request body still to come */
	uint64_t sink_at;
	bool verify;
	bool differs;
	char reply[128];
	size_t reply_len, reply_sent;
	uint64_t body_len, body_sent;
};

static int epoll_fd;
static unsigned char scratch[RECV_SIZE];

/* "/8m" to bytes; false for anything that is not a size below 2^20 of its unit. */
static bool path_size(const char *path, uint64_t *size)
{
	char *end;
	unsigned long n = strtoul(path + 1, &end, 10);

	if (end == path + 1 || (*end != 'k' && *end != 'm') || end[1] != ' ' || n > 1 << 20)
		return false;
	*size = (uint64_t)n << (*end == 'k' ? 10 : 20);
	return true;
}

static void reply(struct conn *c, const char *status, uint64_t body_len)
{
	c->reply_len = (size_t)snprintf(c->reply, sizeof(c->reply), "HTTP/1.1 %s\r\nContent-Length: %llu\r\n\r\n", status,
	                                (unsigned long long)body_len);
	c->reply_sent = 0;
	c->body_len = body_len;
	c->body_sent = 0;
}

static void request(struct conn *c)
{
	const char *length = strcasestr(c->head, "\r\nContent-Length:");
	uint64_t size = 0;

	if (!strncmp(c->head, "GET ", 4) && path_size(c->head + 4, &size)) {
		reply(c, "200 OK", size);
	} else if (!strncmp(c->head, "POST ", 5) && length) {
		c->sink_left = strtoull(length + 17, NULL, 10);
		c->sink_at = 0;
		c->verify = !strncmp(c->head + 5, "/verify ", 8);
		c->differs = false;
		if (!c->sink_left)
			reply(c, "200 OK", 0);
	} else {
		reply(c, "404 Not Found", 0);
	}
}

/* Bytes of a head, and of what may follow it. 0 at the end of the stream, -errno. */
static ssize_t recv_head(struct conn *c)
{
	ssize_t n = recv(c->fd, c->head + c->head_len, HEAD_MAX - 1 - c->head_len, 0);

	if (n <= 0)
		return n ? -errno : 0;
	c->head_len += (size_t)n;
	return n;
}

static void sink(struct conn *c, const unsigned char *data, size_t len)
{
	if (c->verify && memcmp(data, pattern + c->sink_at % PATTERN_SIZE, len))
		c->differs = true;
	c->sink_at += len;
	c->sink_left -= len;
	if (!c->sink_left)
		reply(c, c->differs ? "500 Bytes differ" : "200 OK", 0);
}

/* MSG_TRUNC lets TCP drop the bytes without copying them: the sink must never be the bottleneck. */
static ssize_t recv_sink(struct conn *c)
{
	size_t want = c->verify ? PATTERN_SIZE : RECV_SIZE;
	ssize_t n = recv(c->fd, scratch, c->sink_left < want ? c->sink_left : want, c->verify ? 0 : MSG_TRUNC);

	if (n <= 0)
		return n ? -errno : 0;
	sink(c, scratch, (size_t)n);
	return n;
}

/* Takes a complete head, or body bytes that came with it, out of c->head. False if there is nothing to take. */
static bool take_head(struct conn *c)
{
	size_t used;

	if (c->sink_left) {
		used = c->head_len < c->sink_left ? c->head_len : (size_t)c->sink_left;
		sink(c, (unsigned char *)c->head, used);
	} else {
		char *end;

		c->head[c->head_len] = '\0';
		end = strstr(c->head, "\r\n\r\n");
		if (!end)
			return false;
		used = (size_t)(end - c->head) + 4;
		request(c);
	}
	c->head_len -= used;
	memmove(c->head, c->head + used, c->head_len);
	return used > 0;
}

/* The reply's head and up to a whole pattern of its body in one call. */
static ssize_t send_reply(struct conn *c)
{
	uint64_t left = c->body_len - c->body_sent;
	struct iovec part[2] = {
		{c->reply + c->reply_sent, c->reply_len - c->reply_sent},
		{pattern + c->body_sent % PATTERN_SIZE, left < PATTERN_SIZE ? (size_t)left : PATTERN_SIZE},
	};
	ssize_t n = writev(c->fd, part, 2);
	size_t head;

	if (n < 0)
		return -errno;
	head = (size_t)n < part[0].iov_len ? (size_t)n : part[0].iov_len;
	c->reply_sent += head;
	c->body_sent += (size_t)n - head;
	if (c->reply_sent == c->reply_len && c->body_sent == c->body_len)
		c->reply_len = c->reply_sent = 0;
	return n;
}

static void watch(struct conn *c, uint32_t events)
{
	struct epoll_event e = {.events = events, .data.ptr = c};

	if (c->events == events)
		return;
	if (epoll_ctl(epoll_fd, c->events ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, c->fd, &e))
		die("origin: epoll_ctl: %s", strerror(errno));
	c->events = events;
}

/* One system call's worth of progress: >0 go on, 0 the connection is over, -errno. */
static ssize_t next_step(struct conn *c)
{
	if (c->reply_len)
		return send_reply(c);
	if (c->head_len && take_head(c))
		return 1;
	if (c->sink_left)
		return recv_sink(c);
	if (c->head_len == HEAD_MAX - 1)
		return 0;
	return recv_head(c);
}

static bool idle(const struct conn *c)
{
	return !c->reply_len && !c->head_len && !c->sink_left;
}

/* Once a reply is out, epoll says when the next request is there: asking the socket first would cost a call for every request. */
static void conn_run(struct conn *c)
{
	size_t moved = 0;
	ssize_t n;

	do {
		n = next_step(c);
		if (n > 0)
			moved += (size_t)n;
	} while (n > 0 && moved < TURN_BYTES && !idle(c));
	if (n > 0 || n == -EAGAIN)
		return watch(c, c->reply_len ? EPOLLOUT : EPOLLIN);
	close(c->fd);
	free(c);
}

static void accept_all(int listener)
{
	for (;;) {
		int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		struct conn *c;

		if (fd < 0)
			return;
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
		c = calloc(1, sizeof(*c));
		if (!c) {
			close(fd);
			return;
		}
		c->fd = fd;
		watch(c, EPOLLIN);
	}
}

static int listen_on(unsigned long port)
{
	struct sockaddr_in a = {
		.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(a);
	struct epoll_event e = {.events = EPOLLIN};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int)) ||
	    bind(fd, (struct sockaddr *)&a, sizeof(a)) || listen(fd, 4096) || getsockname(fd, (struct sockaddr *)&a, &len))
		die("origin: port %lu: %s", port, strerror(errno));
	if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &e))
		die("origin: epoll_ctl: %s", strerror(errno));
	printf("PORT %u\n", ntohs(a.sin_port));
	fflush(stdout);
	return fd;
}

int main(int argc, char **argv)
{
	struct epoll_event ready[256];
	int listener;

	if (argc != 2)
		die("usage: origin PORT");
	signal(SIGPIPE, SIG_IGN);
	raise_descriptor_limit();
	pattern_fill();
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	listener = listen_on(strcmp(argv[1], "0") ? number("PORT", argv[1], 65535) : 0);
	for (;;) {
		int n = epoll_wait(epoll_fd, ready, 256, -1);

		for (int i = 0; i < n; i++) {
			if (ready[i].data.ptr)
				conn_run(ready[i].data.ptr);
			else
				accept_all(listener);
		}
	}
}
