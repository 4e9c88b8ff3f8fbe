/*
 * Job pool: blocking work (name lookups, file reads) done by a few threads of the process, so that no worker ever waits.
 * A job's owner gets it back through `done`, called on a pool thread: it must only pass the job on (worker_post()).
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_JOBS_H
#define TLSPLICE_JOBS_H

#include "list.h"

#include <stdbool.h>

struct job {
	struct list link;           /* the pool's */
	void (*work)(struct job *); /* on a pool thread, may block */
	void (*done)(struct job *); /* on the same thread right after */
	bool background;            /* nobody waits for it: one of these at a time, and after all others that are queued */
};

/* Starts `threads` pool threads with all signals blocked. Returns 0 or -errno. */
int jobs_start(unsigned threads);

/* Queues a job, which must stay valid until `done` was called. First in, first out, but for what is in the background. */
void jobs_submit(struct job *job);

/* Jobs queued or being worked on. */
unsigned jobs_pending(void);

/* Finishes what is queued and ends the threads. */
void jobs_stop(void);

#endif
