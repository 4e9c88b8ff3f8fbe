/*
 * Unit tests of jobs.h: every job runs once, in order with one thread, and stopping finishes what is queued.
 * Run by `make unit`.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "jobs.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

enum { JOBS = 1000 };

struct probe {
	struct job job;
	unsigned number;
	pthread_t worked_on, done_on;
	atomic_int worked, done;
	bool signals_blocked;
};

static struct probe probes[JOBS];
static atomic_uint finished;
static unsigned order[JOBS];
static sem_t gate;

static struct probe *probe_of(struct job *job)
{
	return container_of(job, struct probe, job);
}

static void on_work(struct job *job)
{
	struct probe *probe = probe_of(job);
	sigset_t mask;

	pthread_sigmask(SIG_SETMASK, NULL, &mask);
	probe->signals_blocked = sigismember(&mask, SIGTERM) && sigismember(&mask, SIGHUP) && sigismember(&mask, SIGUSR1);
	probe->worked_on = pthread_self();
	probe->worked++;
}

static void on_done(struct job *job)
{
	struct probe *probe = probe_of(job);

	probe->done_on = pthread_self();
	probe->done++;
	order[finished++] = probe->number;
}

static void on_wait(struct job *job)
{
	(void)job;
	while (sem_wait(&gate) != 0)
		;
}

static atomic_uint slow_ones;

static void on_work_done(struct job *job)
{
	(void)job;
	slow_ones++;
}

static void submit_all(void)
{
	for (unsigned i = 0; i < JOBS; i++) {
		probes[i].number = i;
		probes[i].job.work = on_work;
		probes[i].job.done = on_done;
		jobs_submit(&probes[i].job);
	}
}

static void check_all(void)
{
	cr_assert_eq(finished, JOBS);
	for (unsigned i = 0; i < JOBS; i++) {
		cr_assert_eq(probes[i].worked, 1);
		cr_assert_eq(probes[i].done, 1);
		cr_assert(probes[i].signals_blocked);
		cr_assert(pthread_equal(probes[i].worked_on, probes[i].done_on));
		cr_assert(!pthread_equal(probes[i].worked_on, pthread_self()));
	}
}

Test(jobs, one_thread_keeps_the_order)
{
	cr_assert_eq(jobs_start(1), 0);
	submit_all();
	jobs_stop();
	check_all();
	for (unsigned i = 0; i < JOBS; i++)
		cr_assert_eq(order[i], i);
}

Test(jobs, many_threads_run_each_job_once)
{
	cr_assert_eq(jobs_start(4), 0);
	submit_all();
	jobs_stop();
	check_all();
}

/* One job that blocks does not hold up the others while there is a second thread. */
Test(jobs, a_blocked_job_blocks_one_thread)
{
	static struct job blocked = {.work = on_wait, .done = on_wait};

	sem_init(&gate, 0, 0);
	cr_assert_eq(jobs_start(2), 0);
	jobs_submit(&blocked);
	submit_all();
	while (finished < JOBS)
		usleep(1000);
	check_all();
	sem_post(&gate);
	sem_post(&gate);
	jobs_stop();
}

/* Those in the background come last, and leave the other threads alone; none is lost at the end. */
Test(jobs, background)
{
	static struct job blocked[3] = {
		{.work = on_wait, .done = on_work_done, .kind = JOB_BACKGROUND},
		{.work = on_wait, .done = on_work_done, .kind = JOB_BACKGROUND},
		{.work = on_wait, .done = on_work_done, .kind = JOB_BACKGROUND},
	};

	sem_init(&gate, 0, 0);
	cr_assert_eq(jobs_start(2), 0);
	for (unsigned i = 0; i < 3; i++)
		jobs_submit(&blocked[i]);
	submit_all();
	while (finished < JOBS)
		usleep(1000);
	check_all();
	while (jobs_pending() > 3)
		usleep(1000);
	cr_assert_eq(jobs_pending(), 3);
	cr_assert_eq(slow_ones, 0);
	for (unsigned i = 0; i < 3; i++)
		sem_post(&gate);
	jobs_stop();
	cr_assert_eq(slow_ones, 3);
	cr_assert_eq(jobs_pending(), 0);
}

/* Name servers that do not answer hold up lookups, and nothing else. */
Test(jobs, lookups_leave_a_thread_to_others)
{
	static struct job blocked[5];

	sem_init(&gate, 0, 0);
	cr_assert_eq(jobs_start(3), 0);
	for (unsigned i = 0; i < 5; i++) {
		blocked[i] = (struct job){.work = on_wait, .done = on_work_done, .kind = JOB_LOOKUP};
		jobs_submit(&blocked[i]);
	}
	submit_all();
	while (finished < JOBS)
		usleep(1000);
	check_all();
	cr_assert_eq(slow_ones, 0);
	for (unsigned i = 0; i < 5; i++)
		sem_post(&gate);
	jobs_stop();
	cr_assert_eq(slow_ones, 5);
	cr_assert_eq(jobs_pending(), 0);
}

Test(jobs, can_start_again)
{
	cr_assert_eq(jobs_start(2), 0);
	jobs_stop();
	cr_assert_eq(jobs_start(1), 0);
	submit_all();
	jobs_stop();
	check_all();
}
