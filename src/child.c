/*
 * Child processes: see child.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "child.h"

#include "daemon.h"
#include "log.h"
#include "wrap.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { NOT_FOUND = 127 }; /* exit code of ld.so and of shells */

/* The two ends of what the child talks through. */
struct ends {
	int ours, childs;
};

static int open_sockets(struct child *s, struct ends *ends)
{
	int fds[2];

	s->what = "socketpair";
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
		return -errno;
	ends->ours = fds[0];
	ends->childs = fds[1];
	return 0;
}

/* The child's end comes from ours, not by its name: that may mean nothing within a chroot, or something else. */
static int open_terminal(struct child *s, struct ends *ends)
{
	s->what = "openpty";
	ends->childs = -1;
	ends->ours = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
	if (ends->ours >= 0 && unlockpt(ends->ours) == 0)
		ends->childs = ioctl(ends->ours, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (ends->childs >= 0)
		return -ptsname_r(ends->ours, s->tty, sizeof(s->tty));
	return -errno;
}

/*
 * Between vfork(2) and execve(2): the memory is the parent's, so nothing may be touched that anybody else uses, and only system calls are made.
 * Signals are blocked until nobody's handler is left.
 */
static void __attribute__((noreturn, noinline)) be_child(const struct child *s, int fd, volatile int *error)
{
	static const int ours[] = {SIGCHLD, SIGHUP, SIGUSR1, SIGUSR2, SIGPIPE, SIGTERM, SIGQUIT, SIGINT};
	static const struct sigaction standard = {.sa_handler = SIG_DFL};
	sigset_t none;

	for (size_t i = 0; i < sizeof(ours) / sizeof(*ours); i++)
		sigaction(ours[i], &standard, NULL);
	process_restore_limits();
	if (dup2(fd, 0) == 0 && dup2(fd, 1) == 1 && (s->keep_stderr || dup2(fd, 2) == 2) && close_range(3, ~0U, 0) == 0) {
		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		execve(s->program, s->argv, s->envp);
	}
	*error = -errno;
	_exit(1);
}

/* fork(2) would copy the page tables of the whole process, and give the child locks that nobody will ever release. */
static pid_t start_child(const struct child *s, int fd, volatile int *error)
{
	/* What posix_spawn(3) does inside, and limits besides, which it cannot set. */
	pid_t pid = vfork(); /* NOLINT(clang-analyzer-security.insecureAPI.vfork) */

	if (pid == 0)
		be_child(s, fd, error); /* NOLINT(clang-analyzer-unix.Vfork): system calls only */
	return pid;
}

static int start(struct child *s, int fd)
{
	volatile int exec_error = 0;
	sigset_t all, before;
	int error = 0;

	s->what = "fork";
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	s->pid = start_child(s, fd, &exec_error);
	if (s->pid < 0)
		error = -errno;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	s->exec_error = exec_error;
	s->lacks_loader = exec_error == -ENOENT && access(s->program, F_OK) == 0;
	return error;
}

int child_start(struct child *s)
{
	struct ends ends = {.ours = -1, .childs = -1};
	int error = s->pty ? open_terminal(s, &ends) : open_sockets(s, &ends);

	if (!error)
		error = start(s, ends.childs);
	if (ends.childs >= 0)
		close(ends.childs);
	if (error && ends.ours >= 0)
		close(ends.ours);
	s->fd = error ? -1 : ends.ours;
	return error;
}

/* The process has no other children than those that child_start() made, and the helper of libwrap, which is looked after elsewhere. */
void child_reap(void)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		if (pid == wrap_pid())
			continue;
		if (WIFSIGNALED(status))
			log_global(LOG_INFO, "Child process %d terminated on SIG%s", (int)pid,
			           sigabbrev_np(WTERMSIG(status)) ? sigabbrev_np(WTERMSIG(status)) : "RT");
		else
			log_global(LOG_INFO, "Child process %d finished with code %d", (int)pid, WEXITSTATUS(status));
		if (WIFEXITED(status) && WEXITSTATUS(status) == NOT_FOUND)
			log_global(LOG_NOTICE,
			           "Child process %d has not found a library (ld.so says so) or a command (a shell does)",
			           (int)pid);
	}
}
