/*
 * Sockets that systemd has opened for us: see activation.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "activation.h"

#include "config.h"
#include "log.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { FIRST = 3 }; /* SD_LISTEN_FDS_START */

static unsigned taken;

/* A number that an environment variable holds; -1 if it is not there, or something else. */
static long number_in(const char *name)
{
	const char *text = getenv(name);
	char *end;
	long n;

	if (!text || *text < '0' || *text > '9')
		return -1;
	errno = 0;
	n = strtol(text, &end, 10);
	return errno || *end ? -1 : n;
}

static long announced(void)
{
	static const char *const names[] = {"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"};
	long pid = number_in(names[0]), count = number_in(names[1]);

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		unsetenv(names[i]);
	return pid == getpid() && count > 0 ? count : 0;
}

static int option_of(int fd, int option)
{
	socklen_t len = sizeof(int);
	int value;

	return getsockopt(fd, SOL_SOCKET, option, &value, &len) < 0 ? -errno : value;
}

/* The ring does not wait on a socket with O_NONBLOCK. */
static bool take(int fd)
{
	int flags = fcntl(fd, F_GETFL), type = option_of(fd, SO_TYPE), listens = option_of(fd, SO_ACCEPTCONN);

	if (type < 0)
		log_global(LOG_ERR, "Descriptor %d received from systemd: %s (%d)", fd, strerror(-type), -type);
	else if (type != SOCK_STREAM || listens != 1)
		log_global(LOG_ERR, "Descriptor %d received from systemd is no listening stream socket", fd);
	else if (flags < 0 || fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
		log_global(LOG_ERR, "Descriptor %d received from systemd: %s (%d)", fd, strerror(errno), errno);
	else
		return true;
	return false;
}

bool activation_take(void)
{
	long count = announced();

	if (count == 0)
		return true;
	if (count > INT_MAX - FIRST) {
		log_global(LOG_ERR, "LISTEN_FDS announces %ld descriptors", count);
		return false;
	}
	log_global(LOG_INFO, "Systemd socket activation: %ld descriptors received", count);
	for (; taken < (unsigned)count; taken++)
		if (!take(FIRST + (int)taken))
			return false;
	return true;
}

unsigned activation_count(void)
{
	return taken;
}

int activation_socket(unsigned n)
{
	return FIRST + (int)n;
}
