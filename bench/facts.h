/*
 * For the programs that print what a kernel does: a fact is one line, what was tried and what came of it.
 * Included by the programs of bench/ whose name ends in _facts.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef BENCH_FACTS_H
#define BENCH_FACTS_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { NOTHING = 1 << 28 }; /* no result came */

static inline void check(int good, const char *what)
{
	if (good)
		return;
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(1);
}

/* "12", "-EAGAIN" or "nothing"; good for the next seven calls. */
static inline const char *outcome(long res)
{
	static char text[8][64];
	static int n;
	char *p = text[n++ % 8];

	if (res == NOTHING)
		return "nothing";
	if (res < 0 && strerrorname_np((int)-res))
		snprintf(p, sizeof(text[0]), "-%s", strerrorname_np((int)-res));
	else
		snprintf(p, sizeof(text[0]), "%ld", res);
	return p;
}

/* A system call's result as -errno. */
#define result_of(call) ((call) < 0 ? -errno : 0)

__attribute__((format(printf, 2, 3))) static inline void fact(const char *what, const char *format, ...)
{
	va_list args;

	printf("%-74s ", what);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	putchar('\n');
	fflush(stdout);
}

/* A fact that is told step by step: about(what), told(step, result) for each, in the order in which they are carried out. */
static inline void about(const char *what)
{
	static bool begun;

	printf("%s%-58s", begun ? "\n" : "", what);
	begun = true;
	fflush(stdout);
}

/* After the last. */
static inline void about_end(void)
{
	putchar('\n');
}

static inline void told(const char *step, const char *result)
{
	printf(" %s %s;", step, result);
	fflush(stdout);
}

static inline int listener(struct sockaddr_in *addr)
{
	socklen_t len = sizeof(*addr);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;

	*addr = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	check(fd >= 0 && bind(fd, (struct sockaddr *)addr, len) == 0 && listen(fd, 128) == 0, "listen");
	getsockname(fd, (struct sockaddr *)addr, &len);
	return fd;
}

static inline void tcp_pair(int pair[2])
{
	struct sockaddr_in addr;
	int fd = listener(&addr);

	pair[0] = socket(AF_INET, SOCK_STREAM, 0);
	check(connect(pair[0], (struct sockaddr *)&addr, sizeof(addr)) == 0, "connect");
	pair[1] = accept(fd, NULL, NULL);
	check(pair[1] >= 0, "accept");
	close(fd);
}

#endif
