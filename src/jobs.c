/*
 * Job pool: a queue, another for what can wait, and a few threads that take from them. See jobs.h for who may do what on which thread.
 * Any thread may submit; starting and stopping is the main thread's.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "jobs.h"

#include "thread.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

static struct {
	pthread_mutex_t lock;
	pthread_cond_t wake;
	struct list queue, background;
	bool in_background; /* a thread works on such a job */
	bool stopping;
	pthread_t *threads;
	unsigned count;
	unsigned pending; /* queued or being worked on */
} pool = {
	.lock = PTHREAD_MUTEX_INITIALIZER,
	.wake = PTHREAD_COND_INITIALIZER,
	.queue = {&pool.queue, &pool.queue},
	.background = {&pool.background, &pool.background},
};

/* The next job that may be worked on now, or NULL. */
static struct job *take(void)
{
	struct list *from = !list_empty(&pool.queue) ? &pool.queue : &pool.background;
	struct job *job;

	if (list_empty(from) || (from == &pool.background && pool.in_background))
		return NULL;
	job = list_first(from, struct job, link);
	list_remove(&job->link);
	pool.in_background |= job->background;
	return job;
}

/* The next job; NULL when the queues are empty and we are to stop. */
static struct job *job_next(void)
{
	struct job *job;

	pthread_mutex_lock(&pool.lock);
	while (!(job = take()) && !(pool.stopping && list_empty(&pool.background)))
		pthread_cond_wait(&pool.wake, &pool.lock);
	pthread_mutex_unlock(&pool.lock);
	return job;
}

static void *pool_run(void *unused)
{
	struct job *job;

	(void)unused;
	while ((job = job_next()) != NULL) {
		void (*done)(struct job *) = job->done;
		bool background = job->background;

		job->work(job);
		done(job);
		pthread_mutex_lock(&pool.lock);
		pool.pending--;
		if (background) {
			pool.in_background = false;
			pthread_cond_broadcast(&pool.wake);
		}
		pthread_mutex_unlock(&pool.lock);
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
	list_append(job->background ? &pool.background : &pool.queue, &job->link);
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
