/*
 * Starting a thread that no signal ever reaches: signals belong to the main thread and to the workers' rings.
 * Everyone may use it.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_THREAD_H
#define TLSPLICE_THREAD_H

#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>

/*
 * Starts run(arg) on a new thread called `name` (15 bytes at most) with all signals blocked. Returns 0 or -errno. It inherits the name: giving one to another
 * thread goes by way of /proc, which is closed to a process that cannot be debugged.
 */
static inline int thread_start(pthread_t *thread, const char *name, void *(*run)(void *), void *arg)
{
	sigset_t all, before;
	char own[16] = "";
	int error;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	prctl(PR_GET_NAME, own);
	prctl(PR_SET_NAME, name);
	error = pthread_create(thread, NULL, run, arg);
	prctl(PR_SET_NAME, own);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return -error;
}

#endif
