/*
 * Job pool: a queue for each kind of job, and a few threads that take from them. See jobs.h for who may do what on which thread.
 * Any thread may submit; starting and stopping is the main thread's.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "jobs.h"

#include "thread.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

static struct {
	pthread_mutex_t lock;
	pthread_cond_t wake;
	struct list queue[JOB_KINDS];
	unsigned active[JOB_KINDS]; /* being worked on */
	unsigned slow_max;          /* threads that may wait for name servers at a time */
	bool stopping;
	pthread_t *threads;
	unsigned count;
	unsigned pending; /* queued or being worked on */
} pool = {
	.lock = PTHREAD_MUTEX_INITIALIZER,
	.wake = PTHREAD_COND_INITIALIZER,
	.queue = {{&pool.queue[0], &pool.queue[0]}, {&pool.queue[1], &pool.queue[1]}, {&pool.queue[2], &pool.queue[2]}},
};

static bool may_take(enum job_kind kind)
{
	if (list_empty(&pool.queue[kind]))
		return false;
	if (kind == JOB_START)
		return true;
	if (kind == JOB_BACKGROUND && pool.active[kind])
		return false;
	return pool.active[JOB_LOOKUP] + pool.active[JOB_BACKGROUND] < pool.slow_max;
}

/* The next job that may be worked on now, or NULL. */
static struct job *take(void)
{
	for (enum job_kind kind = 0; kind < JOB_KINDS; kind++) {
		struct job *job;

		if (!may_take(kind))
			continue;
		job = list_first(&pool.queue[kind], struct job, link);
		list_remove(&job->link);
		pool.active[kind]++;
		return job;
	}
	return NULL;
}

/* The next job. NULL: we are to stop, and what is queued, if anything, waits for the end of one that is worked on: that thread takes it. */
static struct job *job_next(void)
{
	struct job *job;

	pthread_mutex_lock(&pool.lock);
	while (!(job = take()) && !pool.stopping)
		pthread_cond_wait(&pool.wake, &pool.lock);
	pthread_mutex_unlock(&pool.lock);
	return job;
}

static void job_ended(enum job_kind kind)
{
	pthread_mutex_lock(&pool.lock);
	pool.pending--;
	pool.active[kind]--;
	if (kind != JOB_START) /* others of these may have waited for it */
		pthread_cond_broadcast(&pool.wake);
	pthread_mutex_unlock(&pool.lock);
}

static void *pool_run(void *unused)
{
	struct job *job;

	(void)unused;
	while ((job = job_next()) != NULL) {
		void (*done)(struct job *) = job->done;
		enum job_kind kind = job->kind;

		job->work(job);
		done(job);
		job_ended(kind);
	}
	return NULL;
}

int jobs_start(unsigned threads)
{
	int error = 0;

	assert(!pool.threads && threads);
	pool.threads = calloc(threads, sizeof(*pool.threads));
	if (!pool.threads)
		return -ENOMEM;
	pool.stopping = false;
	pool.slow_max = threads > 1 ? threads - 1 : 1;
	while (pool.count < threads && !error) {
		error = thread_start(&pool.threads[pool.count], "jobs", pool_run, NULL);
		pool.count += !error;
	}
	if (error)
		jobs_stop();
	return error;
}

void jobs_submit(struct job *job)
{
	pthread_mutex_lock(&pool.lock);
	list_append(&pool.queue[job->kind], &job->link);
	pool.pending++;
	pthread_mutex_unlock(&pool.lock);
	pthread_cond_signal(&pool.wake);
}

unsigned jobs_pending(void)
{
	unsigned pending;

	pthread_mutex_lock(&pool.lock);
	pending = pool.pending;
	pthread_mutex_unlock(&pool.lock);
	return pending;
}

void jobs_stop(void)
{
	pthread_mutex_lock(&pool.lock);
	pool.stopping = true;
	pthread_mutex_unlock(&pool.lock);
	pthread_cond_broadcast(&pool.wake);
	while (pool.count > 0)
		pthread_join(pool.threads[--pool.count], NULL);
	free(pool.threads);
	pool.threads = NULL;
}
