/*
 * Unit tests of admin.h over 127.0.0.1: pages, methods, malformed and many requests, addresses.
 * Run by `make unit`; each test picks a free port.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "admin.h"

#include "log.h"
#include "stats.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <dirent.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { RESPONSE_MAX = 1 << 18 };

static struct admin *admin;
static unsigned port;
static char response[RESPONSE_MAX];

/* Binds port 0 of 127.0.0.1; the caller closes. */
static int bound_socket(void)
{
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t length = sizeof(in);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	cr_assert_eq(bind(fd, (struct sockaddr *)&in, sizeof(in)), 0);
	cr_assert_eq(getsockname(fd, (struct sockaddr *)&in, &length), 0);
	port = ntohs(in.sin_port);
	return fd;
}

static void set_up(void)
{
	char address[32];

	cr_assert_eq(stats_start(1), 0);
	stats_of("a <service>", "server", 0);
	close(bound_socket());
	snprintf(address, sizeof(address), "%u", port);
	admin = admin_start(address);
	cr_assert_not_null(admin);
}

static void tear_down(void)
{
	admin_stop(admin);
}

TestSuite(admin, .init = set_up, .fini = tear_down);

static int dial(const char *host)
{
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	struct timeval patience = {.tv_sec = 15};
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	inet_pton(AF_INET, host, &in.sin_addr);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	if (connect(fd, (struct sockaddr *)&in, sizeof(in)) == 0)
		return fd;
	close(fd);
	return -1;
}

/* Sends bytes, reads to the end of the stream into `response`. */
static const char *talk(const char *request, size_t size)
{
	int fd = dial("127.0.0.1");
	size_t used = 0;
	ssize_t n;

	cr_assert_geq(fd, 0);
	(void)!send(fd, request, size, MSG_NOSIGNAL);
	shutdown(fd, SHUT_WR);
	while ((n = recv(fd, response + used, sizeof(response) - 1 - used, 0)) > 0)
		used += (size_t)n;
	response[used] = '\0';
	close(fd);
	return response;
}

static const char *request(const char *method, const char *path)
{
	char text[256];
	int size = snprintf(text, sizeof(text), "%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", method, path);

	return talk(text, (size_t)size);
}

static void assert_status(const char *got, int status)
{
	char want[32];

	snprintf(want, sizeof(want), "HTTP/1.1 %d ", status);
	cr_assert_eq(strncmp(got, want, strlen(want)), 0, "want %s, got %s", want, got);
}

static void assert_has(const char *got, const char *want)
{
	cr_assert_not_null(strstr(got, want), "no %s in %s", want, got);
}

Test(admin, status_page)
{
	const char *name = "a <service>";

	stats_set_current(&name, 1);
	assert_status(request("GET", "/"), 200);
	assert_has(response, "Content-Type: text/html; charset=utf-8\r\n");
	assert_has(response, "Cache-Control: no-store\r\n");
	assert_has(response, "X-Content-Type-Options: nosniff\r\n");
	assert_has(response, "Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'");
	assert_has(response, "<td>a &lt;service&gt;<small>server</small>");
	assert_has(response, "</html>\n");
	assert_status(request("GET", "/?refresh=1"), 200);
}

Test(admin, metrics)
{
	assert_status(request("GET", "/metrics"), 200);
	assert_has(response, "Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n");
	assert_has(response, "\ntlsplice_connections_accepted_total{service=\"a <service>\",role=\"server\"} 0\n");
}

Test(admin, health)
{
	assert_status(request("GET", "/health"), 200);
	assert_has(response, "\r\n\r\nok\n");
	admin_set_healthy(admin, false);
	assert_status(request("GET", "/health"), 503);
	assert_has(response, "\r\n\r\ndraining\n");
	admin_set_healthy(admin, true);
	assert_status(request("GET", "/health"), 200);
}

Test(admin, other_paths_and_methods)
{
	static const char *const paths[] = {"/x", "/metrics/", "/../etc/passwd", "/%2e%2e/", "//", "/health%00x"};
	static const char *const methods[] = {"POST", "PUT", "DELETE", "OPTIONS", "TRACE", "get", "X"};

	for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]) - 1; i++)
		assert_status(request("GET", paths[i]), 404);
	for (size_t i = 0; i < sizeof(methods) / sizeof(methods[0]); i++) {
		assert_status(request(methods[i], "/"), 405);
		assert_has(response, "Allow: GET, HEAD\r\n");
	}
}

Test(admin, head_has_no_body)
{
	assert_status(request("HEAD", "/health"), 200);
	assert_has(response, "Content-Length: 3\r\n");
	cr_assert_str_eq(strstr(response, "\r\n\r\n"), "\r\n\r\n");
}

Test(admin, bodies_are_not_for_us)
{
	static const char with_body[] = "GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello";
	static const char post[] = "POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\nhello";

	assert_status(talk(with_body, sizeof(with_body) - 1), 200);
	assert_status(talk(post, sizeof(post) - 1), 405);
}

Test(admin, one_connection_many_requests)
{
	static const char two[] =
		"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /none HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

	assert_status(talk(two, sizeof(two) - 1), 200);
	assert_has(response, "\r\n\r\nok\nHTTP/1.1 404 ");
}

Test(admin, garbage_hurts_nobody)
{
	static char noise[100000];
	static const char *const lines[] = {
		"\r\n",
		"GET\r\n\r\n",
		"GET / HTTP/9.9\r\n\r\n",
		"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
		"GET / HTTP/1.1\r\n:\r\n\r\n",
		"GET /%zz%n%s%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
		"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n",
		"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
		"",
	};

	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++)
		talk(lines[i], strlen(lines[i]));
	memset(noise, 'A', sizeof(noise));
	talk(noise, sizeof(noise));
	memcpy(noise, "GET / HTTP/1.1\r\nX: ", 19);
	talk(noise, sizeof(noise));
	srandom(3);
	for (int round = 0; round < 50; round++) {
		for (size_t i = 0; i < 500; i++)
			noise[i] = (char)random();
		talk(noise, 500);
	}
	assert_status(request("GET", "/health"), 200);
}

/* Of more connections than we serve the surplus is turned away, and the place of one that leaves is free again. */
Test(admin, connections_are_limited)
{
	enum { MANY = 80 };
	int fds[MANY], turned_away = 0;
	char byte;

	for (size_t i = 0; i < MANY; i++)
		fds[i] = dial("127.0.0.1");
	for (int waited_ms = 0; waited_ms < 5000 && turned_away < MANY - 64; waited_ms += 10) {
		usleep(10000);
		turned_away = 0;
		for (size_t i = 0; i < MANY; i++)
			turned_away += fds[i] < 0 || recv(fds[i], &byte, 1, MSG_DONTWAIT | MSG_PEEK) == 0;
	}
	cr_assert_leq(turned_away, MANY - 64 + 1);
	for (size_t i = 0; i < MANY; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	for (int waited_ms = 0; waited_ms < 5000; waited_ms += 50) {
		usleep(50000);
		if (!strncmp(request("GET", "/health"), "HTTP/1.1 200", 12))
			return;
	}
	cr_assert_fail("no place became free");
}

Test(admin, a_bare_port_is_loopback_only)
{
	int fd = dial("127.0.0.1");

	cr_assert_geq(fd, 0);
	close(fd);
	cr_assert_lt(dial("127.0.0.2"), 0);
}

/* Signals blocked by threads that are not the main one: there is one, but for a sanitizer's own. */
static unsigned long long blocked_by_others(void)
{
	unsigned long long blocked = 0, mask;
	DIR *dir = opendir("/proc/self/task");

	for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
		char path[300], line[256];
		FILE *status;

		if (entry->d_name[0] == '.' || atoi(entry->d_name) == getpid())
			continue;
		snprintf(path, sizeof(path), "/proc/self/task/%s/status", entry->d_name);
		status = fopen(path, "r");
		while (status && fgets(line, sizeof(line), status))
			if (sscanf(line, "SigBlk: %llx", &mask) == 1)
				blocked |= mask;
		if (status)
			fclose(status);
	}
	closedir(dir);
	return blocked;
}

Test(admin, its_thread_takes_no_signals)
{
	unsigned long long blocked = blocked_by_others();
	sigset_t mine;

	cr_assert(blocked & 1ULL << (SIGTERM - 1));
	cr_assert(blocked & 1ULL << (SIGHUP - 1));
	cr_assert(blocked & 1ULL << (SIGUSR1 - 1));
	pthread_sigmask(SIG_SETMASK, NULL, &mine);
	cr_assert(!sigismember(&mine, SIGTERM));
}

Test(admin, addresses)
{
	static const char *const wrong[] = {"", ":", "x y", "127.0.0.1:99999", "/run/admin.sock", "@admin", "192.0.2.1:1"};
	char busy[32];

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		cr_assert_null(admin_start(wrong[i]), "%s", wrong[i]);
	snprintf(busy, sizeof(busy), "127.0.0.1:%u", port);
	cr_assert_null(admin_start(busy));
	admin_stop(NULL);
}

Test(admin, starts_again_on_the_same_port)
{
	char address[32];

	for (int i = 0; i < 5; i++) {
		assert_status(request("GET", "/health"), 200);
		admin_stop(admin);
		snprintf(address, sizeof(address), "localhost:%u", port);
		admin = admin_start(address);
		cr_assert_not_null(admin);
	}
}
