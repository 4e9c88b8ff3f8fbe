/*
 * Unit tests of listen.h, with workers: addresses taken, kept, given up, and those that cannot be had.
 * Run by `make unit`; needs io_uring.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "listen.h"

#include "conn.h"
#include "coro.h"
#include "tls_testing.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

enum { WORKERS = 2 };

static struct worker *workers;
static struct listening listening;

static void up(void)
{
	scratch_up();
	make_identity("a.pem", NULL);
	conn_set_limit(100);
	cr_assert_eq(stats_start(WORKERS), 0);
	workers = workers_new(WORKERS);
	for (unsigned w = 0; w < WORKERS; w++)
		workers[w].library = tls_library_new();
	cr_assert_eq(workers_start(workers, WORKERS, CORO_STACK_DEFAULT), 0);
	listening_init(&listening, WORKERS);
}

static void down(void)
{
	for (unsigned w = 0; w < WORKERS; w++) {
		worker_post_stop(&workers[w]);
		worker_join(&workers[w]);
	}
	listening_end(&listening);
	workers_free(workers, WORKERS);
	scratch_down();
}

TestSuite(listen, .init = up, .fini = down);

static struct generation *generation(struct config *config)
{
	struct tls_library *libraries[WORKERS];
	struct generation *g;

	for (unsigned w = 0; w < WORKERS; w++)
		libraries[w] = workers[w].library;
	g = generation_new(config, NULL, libraries, WORKERS);
	cr_assert_not_null(g);
	return g;
}

/* One section for each address. */
static struct generation *listening_on(size_t count, const char *const *addrs)
{
	char text[2048];
	size_t n = (size_t)snprintf(text, sizeof(text), "cert = %s\nconnect = 127.0.0.1:9\n", scratch("a.pem"));

	for (size_t i = 0; i < count; i++)
		n += (size_t)snprintf(text + n, sizeof(text) - n, "[s%zu]\naccept = %s\n", i, addrs[i]);
	return generation(load_good(text));
}

#define LISTENING_ON(...) \
	listening_on(sizeof((const char *const[]){__VA_ARGS__}) / sizeof(const char *), (const char *const[]){__VA_ARGS__})

static bool put_in_force(struct generation *g)
{
	if (!listening_prepare(&listening, g)) {
		generation_free(g);
		return false;
	}
	listening_commit(&listening, g, workers);
	return true;
}

/* "127.0.0.1:PORT" with a port that is free now. */
static const char *free_address(void)
{
	static char text[8][32];
	static unsigned turn;
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(in);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char *to = text[turn++ % 8];

	cr_assert_eq(bind(fd, (struct sockaddr *)&in, len), 0);
	getsockname(fd, (struct sockaddr *)&in, &len);
	close(fd);
	snprintf(to, sizeof(text[0]), "127.0.0.1:%d", ntohs(in.sin_port));
	return to;
}

static int dial_address(const char *address)
{
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	in.sin_port = htons((uint16_t)atoi(strchr(address, ':') + 1));
	if (connect(fd, (struct sockaddr *)&in, sizeof(in)) == 0)
		return fd;
	close(fd);
	return -errno;
}

/* Somebody accepts there and speaks TLS: what is not TLS is answered or hung up on. */
static bool is_served(int fd)
{
	struct pollfd answer = {.fd = fd, .events = POLLIN};
	bool served;

	if (fd < 0)
		return false;
	served = write(fd, "not TLS\r\n\r\n", 11) == 11 && poll(&answer, 1, 10000) == 1;
	close(fd);
	return served;
}

/* A listener goes when the ring lets go of it, a moment after the reload. */
static bool is_closed_soon(const char *address)
{
	for (int i = 0; i < 500; i++) {
		int fd = dial_address(address);

		if (fd == -ECONNREFUSED)
			return true;
		if (fd >= 0)
			close(fd);
		usleep(10000);
	}
	return false;
}

Test(listen, serves_and_moves)
{
	const char *a = free_address(), *b = free_address(), *c = free_address();

	cr_assert(put_in_force(LISTENING_ON(a, b)));
	for (int i = 0; i < 8; i++)
		cr_assert(is_served(dial_address(a)) && is_served(dial_address(b)));
	cr_assert(put_in_force(LISTENING_ON(c, a)));
	cr_assert(is_served(dial_address(a)) && is_served(dial_address(c)));
	cr_assert(is_closed_soon(b));
	cr_assert(put_in_force(LISTENING_ON(b)));
	cr_assert(is_served(dial_address(b)));
	cr_assert(is_closed_soon(a) && is_closed_soon(c));
}

/* Many changes, with connections in between that nobody waits for. */
Test(listen, reloads_under_fire)
{
	const char *a = free_address(), *b = free_address();

	cr_assert(put_in_force(LISTENING_ON(a)));
	for (int i = 0; i < 30; i++) {
		int fd[4];

		for (int k = 0; k < 4; k++)
			fd[k] = dial_address(k % 2 ? a : b);
		cr_assert(put_in_force(i % 2 ? LISTENING_ON(a) : LISTENING_ON(a, b)));
		cr_assert_geq(fd[1], 0, "the port that stays is never closed");
		for (int k = 0; k < 4; k++)
			if (fd[k] >= 0)
				close(fd[k]);
	}
	cr_assert(is_served(dial_address(a)));
}

Test(listen, an_address_in_use_changes_nothing)
{
	const char *a = free_address(), *b = free_address(), *taken = free_address();
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	in.sin_port = htons((uint16_t)atoi(strchr(taken, ':') + 1));
	cr_assert_eq(bind(fd, (struct sockaddr *)&in, sizeof(in)), 0);
	cr_assert_eq(listen(fd, 1), 0);
	cr_assert(put_in_force(LISTENING_ON(a)));
	cr_assert_not(put_in_force(LISTENING_ON(b, taken)));
	cr_assert(is_served(dial_address(a)));
	cr_assert_eq(dial_address(b), -ECONNREFUSED, "what was bound for it is closed");
	close(fd);
	cr_assert(put_in_force(LISTENING_ON(b, taken)));
	cr_assert(is_served(dial_address(taken)));
}

static bool keeps_alive(int fd)
{
	socklen_t len = sizeof(int);
	int value = 0;

	cr_assert_eq(getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &value, &len), 0);
	return value;
}

static struct generation *with_option(const char *option, const char *a, const char *b)
{
	char text[1024];

	snprintf(text, sizeof(text), "cert = %s\nconnect = 127.0.0.1:9\n%s\n[a]\naccept = %s\n[b]\naccept = %s\n", scratch("a.pem"), option, a, b);
	return generation(load_good(text));
}

Test(listen, options_of_a_socket_that_stays_change_with_the_configuration_in_force)
{
	const char *a = free_address(), *b = free_address();
	int fd;

	cr_assert(put_in_force(with_option("", a, b)));
	fd = list_first(&workers[0].listeners, struct listener, link)->fd;
	cr_assert_not(keeps_alive(fd));
	cr_assert_not(put_in_force(with_option("socket = a:SO_KEEPALIVE=1", a, a)));
	cr_assert_not(keeps_alive(fd), "a reload that failed has changed it");
	cr_assert(put_in_force(with_option("socket = a:SO_KEEPALIVE=1", a, b)));
	cr_assert(keeps_alive(fd));
}

Test(listen, the_same_address_twice)
{
	const char *a = free_address();

	cr_assert_not(put_in_force(LISTENING_ON(a, a)));
	cr_assert_eq(dial_address(a), -ECONNREFUSED);
}

static int dial_path(const char *path)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(un.sun_path, sizeof(un.sun_path), "%s", path);
	if (connect(fd, (struct sockaddr *)&un, sizeof(un)) == 0)
		return fd;
	close(fd);
	return -errno;
}

Test(listen, unix_sockets)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	const char *a = free_address(), *path = scratch("socket");
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	/* What a dead process left behind is cleared away. */
	snprintf(un.sun_path, sizeof(un.sun_path), "%s", path);
	cr_assert_eq(bind(fd, (struct sockaddr *)&un, sizeof(un)), 0);
	close(fd);
	cr_assert(put_in_force(LISTENING_ON(path)));
	for (int i = 0; i < 4; i++)
		cr_assert(is_served(dial_path(path)));
	cr_assert(put_in_force(LISTENING_ON(path, a)));
	cr_assert(is_served(dial_path(path)));
	cr_assert(put_in_force(LISTENING_ON(a)));
	cr_assert_lt(access(path, F_OK), 0, "the file goes with the listener");
}

Test(listen, a_unix_socket_in_use_is_left_alone)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	const char *path = scratch("socket");
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(un.sun_path, sizeof(un.sun_path), "%s", path);
	cr_assert_eq(bind(fd, (struct sockaddr *)&un, sizeof(un)), 0);
	cr_assert_eq(listen(fd, 5), 0);
	cr_assert_not(put_in_force(LISTENING_ON(path)));
	cr_assert_eq(access(path, F_OK), 0);
	close(fd);
}
