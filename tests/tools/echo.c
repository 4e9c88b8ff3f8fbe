/*
 * An echo server for load tests: `echo PORT [BACKLOG]` listens on 127.0.0.1 and sends back what comes in, for any number of
 * connections, holding at most one buffer for each (what the peer does not read is not read from it).
 * SPDX-License-Identifier: Apache-2.0
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS = 256, ROOM = 65536 };

struct peer {
	int fd;
	size_t from, to;
	char *data; /* what is not sent back yet; NULL when that is nothing */
};

static int poller;
static char spare[ROOM]; /* most of the time what was read can be sent at once */

static void die(const char *what)
{
	perror(what);
	exit(EXIT_FAILURE);
}

static void watch(struct peer *peer, int op, unsigned events)
{
	struct epoll_event event = {.events = events, .data.ptr = peer};

	if (epoll_ctl(poller, op, peer->fd, &event))
		die("epoll_ctl");
}

static void drop(struct peer *peer)
{
	close(peer->fd);
	free(peer->data);
	free(peer);
}

/* Sends data[from, to); returns how far it got, or -1 when the connection is gone. */
static ssize_t push(struct peer *peer, const char *data, size_t from, size_t to)
{
	while (from < to) {
		ssize_t n = send(peer->fd, data + from, to - from, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno == EAGAIN)
			break;
		if (n < 0)
			return -1;
		from += (size_t)n;
	}
	return (ssize_t)from;
}

/* Keeps what the socket would not take until it is writable again. */
static int keep(struct peer *peer, size_t from, size_t to)
{
	peer->data = malloc(to - from);
	if (!peer->data)
		return -1;
	for (size_t i = from; i < to; i++)
		peer->data[i - from] = spare[i];
	peer->from = 0;
	peer->to = to - from;
	watch(peer, EPOLL_CTL_MOD, EPOLLOUT);
	return 0;
}

static int readable(struct peer *peer)
{
	ssize_t n = recv(peer->fd, spare, sizeof(spare), MSG_DONTWAIT);
	ssize_t sent;

	if (n < 0)
		return errno == EAGAIN ? 0 : -1;
	if (n == 0)
		return -1;
	sent = push(peer, spare, 0, (size_t)n);
	if (sent < 0)
		return -1;
	return sent < n ? keep(peer, (size_t)sent, (size_t)n) : 0;
}

static int writable(struct peer *peer)
{
	ssize_t sent = push(peer, peer->data, peer->from, peer->to);

	if (sent < 0)
		return -1;
	peer->from = (size_t)sent;
	if (peer->from == peer->to) {
		free(peer->data);
		peer->data = NULL;
		watch(peer, EPOLL_CTL_MOD, EPOLLIN);
	}
	return 0;
}

static void accept_all(int listener)
{
	for (;;) {
		int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		struct peer *peer;

		if (fd < 0)
			return;
		peer = calloc(1, sizeof(*peer));
		if (!peer)
			die("calloc");
		peer->fd = fd;
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
		watch(peer, EPOLL_CTL_ADD, EPOLLIN);
	}
}

static int listen_on(int port, int backlog)
{
	struct sockaddr_in at = {
		.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
	if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof(at)) || listen(fd, backlog))
		die("listen");
	return fd;
}

int main(int argc, char **argv)
{
	struct rlimit limit;
	struct peer listener = {0};

	if (argc < 2) {
		fprintf(stderr, "usage: echo PORT [BACKLOG]\n");
		return EXIT_FAILURE;
	}
	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	signal(SIGPIPE, SIG_IGN);
	poller = epoll_create1(EPOLL_CLOEXEC);
	listener.fd = listen_on(atoi(argv[1]), argc > 2 ? atoi(argv[2]) : 4096);
	watch(&listener, EPOLL_CTL_ADD, EPOLLIN);
	for (;;) {
		struct epoll_event events[EVENTS];
		int count = epoll_wait(poller, events, EVENTS, -1);

		for (int i = 0; i < count; i++) {
			struct peer *peer = events[i].data.ptr;

			if (peer == &listener)
				accept_all(listener.fd);
			else if (peer->data ? writable(peer) : readable(peer))
				drop(peer);
		}
	}
}
