/*
 * libwrap's helper process, and asking it: see wrap.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "wrap.h"

#include "log.h"
#include "owner.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

enum {
	HELPER_SOCKET = 3, /* where the helper finds its end */
	DAEMON_MAX = 256,  /* bytes of a daemon's name, the NUL included; the library looks at 127 */
	CHILDREN_MAX = 256,
	RESTART_MS = 1000,
};

/* One datagram of a SOCK_SEQPACKET socket; the client's socket and the one for the answer come with it. */
struct question {
	int seconds; /* negative: no limit */
	char daemon[DAEMON_MAX];
};

static const char helper_name[] = "tlsplice-libwrap";

extern char **environ;

static struct {
	atomic_int fd; /* our end; once there it keeps its number, whatever helper is behind it */
	pid_t pid;
	uint64_t started_ms;
	char *user, *group; /* whom the helper runs as; "" if that does not change */
	bool speaks;        /* keeps our stderr */
} helper = {.fd = -1};

static uint64_t clock_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* --- starting it -------------------------------------------------------------------------------------------------------------------- */

static int add_files(posix_spawn_file_actions_t *files, int fd)
{
	int error = 0;

	for (int to = 0; to < (helper.speaks ? 2 : 3) && !error; to++)
		error = posix_spawn_file_actions_addopen(files, to, "/dev/null", O_RDWR, 0);
	if (!error)
		error = posix_spawn_file_actions_adddup2(files, fd, HELPER_SOCKET);
	return error ? error : posix_spawn_file_actions_addclosefrom_np(files, HELPER_SOCKET + 1);
}

/* A session of its own: what a terminal sends is not for it. */
static int set_attributes(posix_spawnattr_t *attributes)
{
	sigset_t none, all;

	sigemptyset(&none);
	sigfillset(&all);
	sigdelset(&all, SIGKILL);
	sigdelset(&all, SIGSTOP);
	posix_spawnattr_setsigmask(attributes, &none);
	posix_spawnattr_setsigdefault(attributes, &all);
	return posix_spawnattr_setflags(attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSID);
}

static int spawn(int fd)
{
	char name[sizeof(helper_name)];
	char *argv[] = {name, helper.user, helper.group, NULL};
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attributes;
	int error = posix_spawn_file_actions_init(&files);

	if (error)
		return -error;
	error = posix_spawnattr_init(&attributes);
	if (!error) {
		memcpy(name, helper_name, sizeof(name));
		error = add_files(&files, fd);
		if (!error)
			error = set_attributes(&attributes);
		if (!error)
			error = posix_spawn(&helper.pid, "/proc/self/exe", &files, &attributes, argv, environ);
		posix_spawnattr_destroy(&attributes);
	}
	posix_spawn_file_actions_destroy(&files);
	return -error;
}

/* Puts a new helper behind helper.fd. Workers may be using the descriptor: it changes what it means in one step. */
static int start(void)
{
	int ends[2], fd = atomic_load(&helper.fd), error;

	helper.started_ms = clock_ms();
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
		return -errno;
	/* Above those that the helper has: opening them must not hit it, and dup2() to the same number would leave it close-on-exec. */
	if (ends[1] <= HELPER_SOCKET) {
		int low = ends[1];

		ends[1] = fcntl(low, F_DUPFD_CLOEXEC, HELPER_SOCKET + 1);
		close(low);
	}
	error = ends[1] < 0 ? -errno : spawn(ends[1]);
	if (ends[1] >= 0)
		close(ends[1]);
	if (!error && fd >= 0 && dup3(ends[0], fd, O_CLOEXEC) < 0)
		error = -errno;
	if (error || fd >= 0)
		close(ends[0]);
	else
		atomic_store(&helper.fd, ends[0]);
	return error;
}

static bool helper_gone(void)
{
	struct pollfd fd = {.fd = atomic_load(&helper.fd)};

	return fd.fd < 0 || poll(&fd, 1, 0) > 0;
}

static bool is_wanted(const struct config *config)
{
	for (const struct section *s = config->sections; s; s = s->next)
		if (s->libwrap)
			return true;
	return false;
}

static char *text_or_empty(const char *text)
{
	return strdup(text ? text : "");
}

bool wrap_start(const struct config *config)
{
	int error;

	if (!is_wanted(config) || !helper_gone())
		return true;
	if (!helper.user) {
		helper.user = text_or_empty(config->global.setuid);
		helper.group = text_or_empty(config->global.setgid);
		helper.speaks = config->global.foreground == FOREGROUND_YES;
	}
	error = helper.user && helper.group ? start() : -ENOMEM;
	if (error)
		log_global(LOG_ERR, "libwrap: the helper process cannot be started: %s (%d)", strerror(-error), -error);
	return !error;
}

int wrap_descriptor(void)
{
	return wrap_wait_ms(clock_ms()) >= 0 ? -1 : atomic_load(&helper.fd);
}

int wrap_wait_ms(uint64_t now_ms)
{
	uint64_t until_ms = helper.started_ms + RESTART_MS;

	return atomic_load(&helper.fd) >= 0 && now_ms < until_ms ? (int)(until_ms - now_ms) : -1;
}

void wrap_look(uint64_t now_ms)
{
	int error;

	if (atomic_load(&helper.fd) < 0 || wrap_wait_ms(now_ms) >= 0 || !helper_gone())
		return;
	waitpid(helper.pid, NULL, WNOHANG);
	error = start();
	if (error)
		log_global(LOG_ERR, "libwrap: the helper process has died and cannot be started again: %s (%d)", strerror(-error),
		           -error);
	else
		log_global(LOG_WARNING, "libwrap: the helper process had died; there is another one");
}

void wrap_stop(void)
{
	int fd = atomic_exchange(&helper.fd, -1);

	if (fd >= 0)
		close(fd);
	free(helper.user);
	free(helper.group);
	helper.user = helper.group = NULL;
}

/* --- asking it ---------------------------------------------------------------------------------------------------------------------- */

union control {
	char bytes[CMSG_SPACE(2 * sizeof(int))];
	struct cmsghdr align;
};

/* A message of one datagram with room for two descriptors. */
static struct msghdr message_of(struct iovec *iov, union control *control)
{
	return (struct msghdr){
		.msg_iov = iov, .msg_iovlen = 1, .msg_control = control->bytes, .msg_controllen = sizeof(control->bytes)};
}

static int send_question(const struct question *question, int client, int answer)
{
	size_t n = offsetof(struct question, daemon) + strlen(question->daemon) + 1;
	struct iovec iov = {.iov_base = (void *)question, .iov_len = n};
	union control control = {.bytes = {0}};
	struct msghdr message = message_of(&iov, &control);
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	int fds[] = {client, answer};

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(fds));
	memcpy(CMSG_DATA(header), fds, sizeof(fds));
	return sendmsg(atomic_load(&helper.fd), &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}

pid_t wrap_pid(void)
{
	return helper.pid;
}

int wrap_ask(const char *daemon, int client, int seconds, int *reply)
{
	struct question question = {.seconds = seconds};
	int ends[2], error;

	*reply = -1;
	strncpy(question.daemon, daemon, sizeof(question.daemon) - 1);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
		return -errno;
	error = send_question(&question, client, ends[1]);
	close(ends[1]);
	if (error)
		close(ends[0]);
	else
		*reply = ends[0];
	return error;
}

int wrap_asked(void)
{
	return atomic_load(&helper.fd);
}

/* --- being it ----------------------------------------------------------------------------------------------------------------------- */

bool wrap_is_helper(int argc, char *const argv[])
{
	int type = 0;
	socklen_t n = sizeof(type);

	return argc == 3 && strcmp(argv[0], helper_name) == 0 && getsockopt(HELPER_SOCKET, SOL_SOCKET, SO_TYPE, &type, &n) == 0 &&
	       type == SOCK_SEQPACKET;
}

/* To the user and group of the configuration, with no other group. Who is not root any more has been there. */
static bool drop_privileges(const char *user, const char *group)
{
	uid_t uid = 0;
	gid_t gid = OWNER_NOBODYS_GROUP;

	if (geteuid() != 0 || (!*user && !*group))
		return true;
	if ((*user && !owner_user(user, &uid)) || (*group && !owner_group(group, &gid)))
		return false;
	if (!*group)
		(void)owner_groups(user, &gid, 1);
	if (setgroups(1, &gid) < 0 || setresgid(gid, gid, gid) < 0)
		return false;
	return !*user || setresuid(uid, uid, uid) == 0;
}

/* Receives a question with its two descriptors. Returns 1, 0: this was nothing to answer, or -1 at the end. */
static int receive_question(struct question *question, int fds[2])
{
	struct iovec iov = {.iov_base = question, .iov_len = sizeof(*question) - 1};
	union control control = {.bytes = {0}};
	struct msghdr message = message_of(&iov, &control);
	ssize_t n;

	memset(question, 0, sizeof(*question));
	n = recvmsg(HELPER_SOCKET, &message, MSG_CMSG_CLOEXEC);
	if (n <= 0)
		return n < 0 && errno == EINTR ? 0 : -1;
	/* Without descriptors there is nobody to answer to: we have too many open, perhaps. */
	if (message.msg_flags & MSG_CTRUNC || !CMSG_FIRSTHDR(&message) ||
	    CMSG_FIRSTHDR(&message)->cmsg_len != CMSG_LEN(2 * sizeof(int)))
		return 0;
	memcpy(fds, CMSG_DATA(CMSG_FIRSTHDR(&message)), 2 * sizeof(int));
	return 1;
}

/* In a child: the library may do what it likes with it. */
static void answer(const struct question *question, const int fds[2])
{
	char allowed;
	ssize_t n;

	close(HELPER_SOCKET);
	if (question->seconds >= 0)
		alarm((unsigned)question->seconds + 1); /* who asked has given up by then, and has said so */
	allowed = (char)wrap_allows(fds[0], question->daemon);
	n = send(fds[1], &allowed, 1, MSG_NOSIGNAL);
	_exit(n == 1 ? 0 : 1);
}

/* Returns how many children there are more, or -1 at the end. */
static int take_question(const sigset_t *before)
{
	struct question question;
	int fds[2], taken = receive_question(&question, fds);
	pid_t pid;

	if (taken <= 0)
		return taken;
	pid = fork();
	if (pid == 0) {
		sigprocmask(SIG_SETMASK, before, NULL);
		answer(&question, fds);
	}
	close(fds[0]);
	close(fds[1]); /* without a child this is the answer: no */
	return pid > 0;
}

static int reap(int signals)
{
	struct signalfd_siginfo info;
	int reaped = 0;

	while (read(signals, &info, sizeof(info)) > 0)
		;
	while (waitpid(-1, NULL, WNOHANG) > 0)
		reaped++;
	return reaped;
}

/* Returns at the end of the socket: our parent has gone. */
static int serve_questions(void)
{
	struct pollfd fds[2] = {{.fd = HELPER_SOCKET}, {.events = POLLIN}};
	sigset_t child, before;
	int children = 0;

	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child, &before);
	fds[1].fd = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
	if (fds[1].fd < 0)
		return 1;
	while (children >= 0) {
		int more = 0;

		fds[0].events = children < CHILDREN_MAX ? POLLIN : 0;
		poll(fds, 2, -1);
		children -= reap(fds[1].fd);
		if (fds[0].revents)
			more = fds[0].revents & POLLIN && fds[0].events ? take_question(&before) : -1;
		children = more < 0 ? -1 : children + more;
	}
	return 0;
}

/*
 * Two processes: one that serves, and one that starts it again. Our parent may not be able to do that, in a jail for example. What
 * has been asked meanwhile waits in the socket.
 */
int wrap_main(char *const argv[])
{
	struct pollfd parent = {.fd = HELPER_SOCKET};
	int status = 1;
	pid_t pid;

	prctl(PR_SET_NAME, "tlsplice-wrap"); /* instead of "exe" */
	signal(SIGTERM, SIG_IGN);            /* for all processes of a service at once; we end with our parent */
	if (!drop_privileges(argv[1], argv[2]))
		return 1;
	while (status != 0) {
		pid = fork();
		if (pid == 0)
			_exit(serve_questions());
		if (pid < 0 || waitpid(pid, &status, 0) < 0)
			status = 1;
		if (poll(&parent, 1, 0) > 0) /* it has gone */
			return 0;
		if (status != 0) {
			syslog(LOG_DAEMON | LOG_WARNING, "the process that asks libwrap has died; there will be another one");
			sleep(1);
		}
	}
	return 0;
}
