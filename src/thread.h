/*
 * Starting a thread that no signal ever reaches: signals belong to the main thread and to the workers' rings.
 * Everyone may use it.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_THREAD_H
#define TLSPLICE_THREAD_H

#include <pthread.h>
#include <signal.h>

/* Starts run(arg) on a new thread called `name` (15 bytes at most) with all signals blocked. Returns 0 or -errno. */
static inline int thread_start(pthread_t *thread, const char *name, void *(*run)(void *), void *arg)
{
	sigset_t all, before;
	int error;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = pthread_create(thread, NULL, run, arg);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (!error)
		pthread_setname_np(*thread, name);
	return -error;
}

#endif
