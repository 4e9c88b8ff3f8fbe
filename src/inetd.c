/*
 * Inetd mode: see inetd.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "inetd.h"

#include "child.h"
#include "conn.h"
#include "log.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static int ended_fd = -1; /* eventfd */

static void worker_ended(struct worker *w)
{
	uint64_t one = 1;
	(void)w;

	if (write(ended_fd, &one, sizeof(one)) < 0)
		log_global(LOG_ERR, "eventfd: %s", strerror(errno));
}

int inetd_prepare(struct worker *w)
{
	ended_fd = eventfd(0, EFD_CLOEXEC);
	if (ended_fd < 0)
		return -errno;
	w->ended = worker_ended;
	return 0;
}

/* Returns 1, 0 or -errno; a socket without a peer is an error. */
static int is_socket(int fd)
{
	struct addr peer = {.len = sizeof(peer) - sizeof(peer.len)};

	if (getpeername(fd, &peer.sa, &peer.len) == 0)
		return 1;
	return errno == ENOTSOCK ? 0 : -errno;
}

static bool is_same_file(int a, int b)
{
	struct stat one, other;

	return fstat(a, &one) == 0 && fstat(b, &other) == 0 && one.st_dev == other.st_dev && one.st_ino == other.st_ino;
}

/* Descriptors 0 and 1 become the connection's front. Returns 0, or -errno with `what` the call that failed. */
static int inherit(struct conn *c, const char **what)
{
	int from = is_socket(STDIN_FILENO), to = is_socket(STDOUT_FILENO);

	*what = from < 0 ? "getpeerbyname (local_rfd)" : to < 0 ? "getpeerbyname (local_wfd)" : "O_NONBLOCK";
	if (from < 0 || to < 0)
		return from < 0 ? from : to;
	if (!from || !to)
		return end_open_files(&c->front, STDIN_FILENO, STDOUT_FILENO);
	end_open(&c->front, STDIN_FILENO);
	if (!is_same_file(STDIN_FILENO, STDOUT_FILENO))
		c->front.to_fd = STDOUT_FILENO;
	conn_set_peer(c);
	return 0;
}

static void begin(struct worker *w, void *arg)
{
	struct service *service = &w->set->services[0];
	struct conn *c = conn_new(service, w);
	const char *what;
	int error;
	(void)arg;

	if (c) {
		conn_make_id(service->conf, c->id);
		error = inherit(c, &what);
		if (error) {
			conn_log(c, LOG_ERR, "%s: %s (%d)", what, strerror(-error), -error);
			conn_fail(c, CONN_RESET);
		}
		conn_start(c);
	}
	worker_drain(w);
}

void inetd_start(struct worker *w)
{
	worker_ask(w, begin, NULL);
}

int inetd_wait(struct worker *w, int signal_fd)
{
	struct pollfd fds[] = {{.fd = ended_fd, .events = POLLIN}, {.fd = signal_fd, .events = POLLIN}};
	struct signalfd_siginfo info;
	int signal = 0;

	while (!(fds[0].revents & POLLIN)) {
		poll(fds, 2, -1);
		if (!(fds[1].revents & POLLIN) || read(signal_fd, &info, sizeof(info)) != sizeof(info))
			continue;
		if (info.ssi_signo == SIGCHLD)
			child_reap();
		if (info.ssi_signo == SIGCHLD || signal)
			continue;
		signal = (int)info.ssi_signo;
		worker_post_stop(w);
	}
	worker_join(w);
	child_reap();
	close(ended_fd);
	return signal;
}
