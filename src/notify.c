/*
 * What systemd is told of the process: see notify.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "notify.h"

#include "config.h"
#include "log.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum {
	RELOAD_S = 600, /* systemd's watchdog has so much patience with a reload, for name servers may be slow, and names many */
};

static int notify_fd = -1;
static uint64_t watchdog_ms; /* between two signs of life: half of what systemd waits; 0: none are wanted */
static uint64_t watchdog_due_ms;

/* A path, or with @ in front a name in the abstract name space. */
static int open_socket(const char *name)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	size_t len = strlen(name);
	int fd, error;

	if ((*name != '/' && *name != '@') || len < 2 || len >= sizeof(un.sun_path))
		return -EINVAL;
	memcpy(un.sun_path, name, len);
	if (*name == '@')
		un.sun_path[0] = '\0';
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (const struct sockaddr *)&un, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len)) == 0)
		return fd;
	error = -errno;
	close(fd);
	return error;
}

/* Returns milliseconds; 0: no watchdog, or one of another process. */
static uint64_t watchdog_interval(void)
{
	const char *usec = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");
	unsigned long long us = usec ? strtoull(usec, NULL, 10) : 0;

	if ((pid && strtol(pid, NULL, 10) != getpid()) || us / 2000 > INT_MAX)
		return 0;
	return us && us < 2000 ? 1 : us / 2000;
}

void notify_open(void)
{
	const char *name = getenv("NOTIFY_SOCKET");

	if (name && *name) {
		notify_fd = open_socket(name);
		if (notify_fd < 0)
			log_global(LOG_WARNING, "NOTIFY_SOCKET %s: %s (%d)", name, strerror(-notify_fd), -notify_fd);
	}
	watchdog_ms = notify_fd >= 0 ? watchdog_interval() : 0;
	unsetenv("NOTIFY_SOCKET");
	unsetenv("WATCHDOG_USEC");
	unsetenv("WATCHDOG_PID");
}

static void __attribute__((format(printf, 1, 2))) tell(const char *format, ...)
{
	char text[256];
	va_list args;
	int n;

	if (notify_fd < 0)
		return;
	va_start(args, format);
	n = vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	if (n > 0 && send(notify_fd, text, strnlen(text, sizeof(text)), MSG_NOSIGNAL) < 0)
		log_global(LOG_WARNING, "sd_notify: %s (%d)", strerror(errno), errno);
}

/* The watchdog's patience, in a line of its own; nothing where there is no watchdog. */
static const char *patience(char line[64], uint64_t ms)
{
	line[0] = '\0';
	if (watchdog_ms)
		snprintf(line, 64, "WATCHDOG_USEC=%llu\n", (unsigned long long)ms * 1000);
	return line;
}

void notify_ready(const char *status)
{
	char line[64];

	tell("%sREADY=1\nMAINPID=%d\nSTATUS=%s", patience(line, 2 * watchdog_ms), (int)getpid(), status);
}

/* Type=notify-reload wants to know that this answers a signal which came later than what it had heard before. */
void notify_reloading(void)
{
	struct timespec now;
	char line[64];

	clock_gettime(CLOCK_MONOTONIC, &now);
	tell("%sRELOADING=1\nMONOTONIC_USEC=%llu\nSTATUS=Reading the configuration",
	     patience(line, 2 * watchdog_ms + RELOAD_S * 1000ULL),
	     (unsigned long long)now.tv_sec * 1000000 + (unsigned long long)now.tv_nsec / 1000);
}

void notify_stopping(int seconds)
{
	if (seconds > 0)
		tell("STOPPING=1\nEXTEND_TIMEOUT_USEC=%llu\nSTATUS=Waiting for connections to end", (seconds + 10ULL) * 1000000);
	else
		tell("STOPPING=1\nSTATUS=Ending");
}

int notify_watchdog_wait_ms(uint64_t now_ms)
{
	if (!watchdog_ms)
		return -1;
	return now_ms >= watchdog_due_ms ? 0 : (int)(watchdog_due_ms - now_ms);
}

bool notify_watchdog_due(uint64_t now_ms)
{
	return watchdog_ms && now_ms >= watchdog_due_ms;
}

void notify_alive(uint64_t now_ms)
{
	tell("WATCHDOG=1");
	watchdog_due_ms = now_ms + watchdog_ms;
}
