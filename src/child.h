/*
 * A child process with its standard descriptors on a socket pair or a terminal. Blocks until the program runs: for threads of the job pool.
 * Depends on nothing of the proxy but its limits (daemon.h). kernel-notes/exec.md has the why and the figures.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_CHILD_H
#define TLSPLICE_CHILD_H

#include <stdbool.h>
#include <sys/types.h>

enum { CHILD_TTY_MAX = 32 };

struct child {
	/* what is wanted */
	const char *program; /* a path: PATH is not searched */
	char *const *argv, *const *envp;
	bool pty;
	bool keep_stderr; /* descriptor 2 stays ours */

	/* what came of it */
	pid_t pid;
	int fd;            /* our end, close-on-exec; a terminal's is O_NONBLOCK too. -1: there is none */
	int exec_error;    /* -errno: the program could not be run, and the child has ended with status 1 */
	bool lacks_loader; /* for the program is there, and its interpreter or loader is not */
	const char *what;  /* the call that failed */
	char tty[CHILD_TTY_MAX];
};

/*
 * Starts the program: descriptors 0, 1 and 2 and no others, an empty signal mask, default actions for the signals that the proxy takes or ignores, limits as
 * the proxy found them; ids, directory, umask, process group and session are the proxy's. Returns 0 or -errno.
 */
int child_start(struct child *child);

/* Takes in all children that have ended, and logs how. For the main thread, at SIGCHLD. */
void child_reap(void);

#endif
