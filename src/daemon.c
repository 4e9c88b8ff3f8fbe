/*
 * The process: see daemon.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "daemon.h"

#include "log.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

enum { DESCRIPTORS_MAX = 1 << 20 };

/* LeakSanitizer traces its own process. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { DUMPABLE = 1 };
#else
enum { DUMPABLE = 0 };
#endif

static struct rlimit files_before, core_before, memory_before;
static bool limits_changed;

void process_restore_limits(void)
{
	if (!limits_changed)
		return;
	setrlimit(RLIMIT_NOFILE, &files_before);
	setrlimit(RLIMIT_CORE, &core_before);
	setrlimit(RLIMIT_MEMLOCK, &memory_before);
}

void process_standard_descriptors(void)
{
	int fd;

	do
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd >= 0)
		close(fd);
}

/* Rings are locked memory on some kernels; root has no limit there, and who we become shall not have one either. */
static void raise_locked_memory(void)
{
	struct rlimit all = {RLIM_INFINITY, RLIM_INFINITY}, now;

	if (setrlimit(RLIMIT_MEMLOCK, &all) == 0 || getrlimit(RLIMIT_MEMLOCK, &now) < 0)
		return;
	now.rlim_cur = now.rlim_max;
	setrlimit(RLIMIT_MEMLOCK, &now);
}

void process_protect(void)
{
	prctl(PR_SET_DUMPABLE, DUMPABLE, 0, 0, 0);
}

unsigned process_limits(void)
{
	struct rlimit core = {.rlim_cur = 0};
	struct rlimit files;

	limits_changed = getrlimit(RLIMIT_NOFILE, &files_before) == 0 && getrlimit(RLIMIT_CORE, &core_before) == 0 &&
	                 getrlimit(RLIMIT_MEMLOCK, &memory_before) == 0;
	core.rlim_max = limits_changed ? core_before.rlim_max : 0; /* so that children can have theirs back */
	setrlimit(RLIMIT_CORE, &core);
	process_protect();
	raise_locked_memory();
	if (getrlimit(RLIMIT_NOFILE, &files) < 0)
		return 500;
	if (files.rlim_cur < files.rlim_max) {
		files.rlim_cur = files.rlim_max < DESCRIPTORS_MAX ? files.rlim_max : DESCRIPTORS_MAX;
		setrlimit(RLIMIT_NOFILE, &files);
		getrlimit(RLIMIT_NOFILE, &files);
	}
	if (files.rlim_cur > DESCRIPTORS_MAX)
		files.rlim_cur = DESCRIPTORS_MAX;
	return (unsigned)(files.rlim_cur * 125 / 256); /* two for each, and some for everything else */
}

/* Freed pages go back after a second, not ten: handshakes need much memory for a short time. Read by jemalloc at its start. */
extern const char *malloc_conf;
const char *malloc_conf = "dirty_decay_ms:1000,muzzy_decay_ms:0";

/* jemalloc's, if it is linked. */
int mallctl(const char *name, void *old, size_t *old_len, void *new, size_t new_len) __attribute__((weak));

void process_memory(void)
{
	bool on = true;

	if (mallctl)
		(void)mallctl("background_thread", NULL, NULL, &on,
		              sizeof(on)); /* without it the pages stay until somebody allocates */
}

static int null = -1;
static int parent = -1; /* a pipe to who started us */

int daemonise_prepare(void)
{
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	return null < 0 ? -errno : 0;
}

/* The parent's end: with the child's word that it serves, or with the child. */
static _Noreturn void await_child(int child)
{
	static const char sorry[] =
		"[!] It has ended in the background before it could serve: the log says why (here with foreground = yes)\n";
	char serves = 0;
	ssize_t n;

	do
		n = read(child, &serves, 1);
	while (n < 0 && errno == EINTR);
	if (n != 1 && write(STDERR_FILENO, sorry, sizeof(sorry) - 1) < 0)
		_exit(1);
	_exit(n == 1 ? 0 : 1);
}

int daemonise(void)
{
	/* The end of a parent that leads its session (a terminal's only program) would hang up on the child. */
	void (*hangup)(int) = signal(SIGHUP, SIG_IGN);
	int ends[2];
	pid_t pid;

	if (pipe2(ends, O_CLOEXEC) < 0)
		return -errno;
	pid = fork();
	if (pid > 0) {
		close(ends[1]);
		await_child(ends[0]);
	}
	close(ends[0]);
	parent = ends[1];
	if (pid < 0)
		return -errno;
	setsid();
	signal(SIGHUP, hangup);
	for (int fd = 0; fd < 3; fd++)
		dup2(null, fd);
	close(null);
	null = -1;
	return chdir("/") < 0 ? -errno : 0;
}

void daemonise_done(void)
{
	if (parent < 0)
		return;
	(void)!write(parent, "", 1);
	close(parent);
	parent = -1;
}

int pid_file_create(const char *path)
{
	char text[32];
	ssize_t n;
	int fd, error = 0;

	if (!path) {
		log_global(LOG_DEBUG, "No pid file being created");
		return 0;
	}
	unlink(path);
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	n = snprintf(text, sizeof(text), "%ld\n", (long)getpid());
	if (fd < 0 || write(fd, text, (size_t)n) != n)
		error = -errno;
	if (fd >= 0)
		close(fd);
	if (fd >= 0 && error)
		unlink(path);
	if (error)
		log_global(LOG_ERR, "Cannot create pid file %s: %s (%d)", path, strerror(-error), -error);
	else
		log_global(LOG_DEBUG, "Created pid file %s", path);
	return error;
}

void pid_file_remove(const char *path)
{
	if (!path)
		log_global(LOG_DEBUG, "No pid file to remove");
	else if (unlink(path) < 0)
		log_global(LOG_ERR, "Cannot remove pid file %s: %s (%d)", path, strerror(errno), errno);
	else
		log_global(LOG_DEBUG, "Removed pid file %s", path);
}
