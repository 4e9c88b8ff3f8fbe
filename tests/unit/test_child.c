/*
 * Unit tests of child.h: what the program finds, what becomes of failures.
 * Run by `make unit`.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "child.h"

#include "under_valgrind.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define LIST(...) ((char *const *)(const char *const[]){__VA_ARGS__, NULL})

#define ENVIRONMENT LIST("PATH=/usr/bin:/bin", "ONE=1")

/* Some make a fork of vfork: the reason why a program cannot be run stays in the child then. */
#ifdef __SANITIZE_THREAD__
enum { FORKS = 1 };
#else
enum { FORKS = 0 };
#endif

/* /bin/sh with a script, started. */
static struct child shell(const char *script, bool pty)
{
	struct child child = {.program = "/bin/sh", .argv = LIST("sh", "-c", script), .envp = ENVIRONMENT, .pty = pty, .fd = -1};

	cr_assert_eq(child_start(&child), 0, "%s", child.what);
	cr_assert_eq(child.exec_error, 0);
	child.argv = NULL;
	return child;
}

/* All that it says, up to its end. */
static const char *said(const struct child *child)
{
	static char text[4096];
	size_t n = 0;

	while (n < sizeof(text) - 1) {
		ssize_t got = read(child->fd, text + n, sizeof(text) - 1 - n);

		if (got < 0 && errno == EAGAIN) {
			usleep(1000);
			continue;
		}
		if (got <= 0) /* a terminal ends with EIO */
			break;
		n += (size_t)got;
	}
	text[n] = '\0';
	return text;
}

static int status_of(const struct child *child)
{
	int status = -1;

	cr_assert_eq(waitpid(child->pid, &status, 0), child->pid);
	close(child->fd);
	return status;
}

Test(child, bytes_both_ways_and_its_environment)
{
	struct child child = shell("read line; echo \"$line $ONE $0 $#\"; exit 3", false);

	cr_assert_eq(fcntl(child.fd, F_GETFD), FD_CLOEXEC);
	cr_assert_eq(write(child.fd, "hello\n", 6), 6);
	cr_assert_str_eq(said(&child), "hello 1 sh 0\n");
	cr_assert_eq(WEXITSTATUS(status_of(&child)), 3);
}

Test(child, on_a_terminal)
{
	struct child child = shell("tty", true);
	char wanted[64];

	cr_assert(fcntl(child.fd, F_GETFL) & O_NONBLOCK);
	snprintf(wanted, sizeof(wanted), "%s\r\n", child.tty);
	cr_assert_eq(strncmp(child.tty, "/dev/pts/", 9), 0);
	cr_assert_str_eq(said(&child), wanted);
	status_of(&child);
}

/* The signals that whoever started the tests has had ignored: bits as in /proc/PID/status. Those that a proxy handles are not among a program's. */
static unsigned long long ignored(void)
{
	static const int handled[] = {SIGCHLD, SIGHUP, SIGUSR1, SIGUSR2, SIGPIPE, SIGTERM, SIGQUIT, SIGINT};
	FILE *in = popen("grep ^SigIgn /proc/$PPID/status", "r");
	unsigned long long bits;

	cr_assert_eq(fscanf(in, "SigIgn: %llx", &bits), 1);
	pclose(in);
	for (size_t i = 0; i < sizeof(handled) / sizeof(*handled); i++)
		bits &= ~(1ULL << (handled[i] - 1));
	return bits;
}

Test(child, it_finds_its_descriptors_signals_and_limits_and_nothing_else)
{
	struct rlimit files = {64, 64};
	char wanted[128];
	struct child child;
	sigset_t set, before;
	int stray = dup(STDIN_FILENO); /* not close-on-exec */

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	setrlimit(RLIMIT_NOFILE, &files); /* not by process_limits(): nothing is restored */
	child = shell("ls /proc/self/fd | wc -w; grep -E '^Sig(Blk|Ign)' /proc/self/status; ulimit -n", false);
	/* ls(1) has its pipe in the place of descriptor 1, and the directory. */
	snprintf(wanted, sizeof(wanted), "4\nSigBlk:\t0000000000000000\nSigIgn:\t%016llx\n64\n", ignored());
	cr_assert_str_eq(said(&child), wanted);
	status_of(&child);
	sigprocmask(SIG_BLOCK, NULL, &before);
	cr_assert(sigismember(&before, SIGTERM), "ours stay as they were");
	cr_assert_not(sigismember(&before, SIGINT));
	close(stray);
}

Test(child, a_program_that_cannot_be_run)
{
	for (int i = 0; i < 6; i++) {
		struct child child = {.program = (const char *[]){"/nonexistent", "/", "/etc/passwd"}[i % 3],
		                      .argv = LIST("x"),
		                      .envp = ENVIRONMENT,
		                      .pty = i >= 3,
		                      .fd = -1};
		int status;

		cr_assert_eq(child_start(&child), 0);
		status = (int)read(child.fd, &(char){0}, 1);
		cr_assert(status == 0 || (status < 0 && child.pty), "its end is ours");
		cr_assert_eq(WEXITSTATUS(status_of(&child)), 1);
		if (!FORKS && !valgrind())
			cr_assert_eq(child.exec_error, i % 3 ? -EACCES : -ENOENT);
	}
}

Test(child, without_descriptors)
{
	struct rlimit before, none;

	getrlimit(RLIMIT_NOFILE, &before);
	none = before;
	none.rlim_cur = 3;
	setrlimit(RLIMIT_NOFILE, &none);
	for (int pty = 0; pty < 2; pty++) {
		struct child child = {.program = "/bin/true", .argv = LIST("x"), .envp = ENVIRONMENT, .pty = pty, .fd = -1};

		cr_assert_eq(child_start(&child), -EMFILE);
		cr_assert_eq(child.fd, -1);
		cr_assert_str_eq(child.what, pty ? "openpty" : "socketpair");
	}
	setrlimit(RLIMIT_NOFILE, &before);
}
