/*
 * Job pool: blocking work (name lookups, starting programs) done by a few threads of the process, so that no worker ever waits.
 * A job's owner gets it back through `done`, called on a pool thread: it must only pass the job on (worker_post()).
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_JOBS_H
#define TLSPLICE_JOBS_H

#include "list.h"

enum job_kind {
	JOB_START,      /* waits for nobody outside of this machine: begun first, and there is always a thread for it */
	JOB_LOOKUP,     /* may wait long for a name server */
	JOB_BACKGROUND, /* the same, and nobody waits for it: one of these at a time, and after all others that are queued */
	JOB_KINDS,
};

struct job {
	struct list link;           /* the pool's */
	void (*work)(struct job *); /* on a pool thread, may block */
	void (*done)(struct job *); /* on the same thread right after */
	enum job_kind kind;
};

/* Starts `threads` pool threads with all signals blocked; if there are several, one of them waits for no name server. Returns 0 or -errno. */
int jobs_start(unsigned threads);

/* Queues a job, which must stay valid until `done` was called. First in, first out, among those of its kind. */
void jobs_submit(struct job *job);

/* Jobs queued or being worked on. */
unsigned jobs_pending(void);

/* Finishes what is queued and ends the threads. */
void jobs_stop(void);

#endif
