/*
 * Name lookups for coroutines: see lookup.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lookup.h"

#include "coro.h"
#include "jobs.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* A name lookup under way: the pool's until it was delivered, and nobody's once it was abandoned. */
struct lookup {
	struct job job;
	struct message message;
	struct worker *worker;
	struct ring_wait *wait; /* NULL: abandoned */
	atomic_bool abandoned;  /* the same, for the pool's thread */
	struct addr_list addrs;
	struct lookup_failure failure;
	size_t count;
	char *names[]; /* copies: the configuration may be gone before the lookup */
};

static void lookup_free(struct lookup *l)
{
	for (size_t i = 0; i < l->count; i++)
		free(l->names[i]);
	addr_list_free(&l->addrs);
	free(l);
}

/* On a pool thread. */
static void lookup_work(struct job *job)
{
	struct lookup *l = container_of(job, struct lookup, job);

	for (size_t i = 0; i < l->count && !atomic_load(&l->abandoned); i++) {
		int error = addr_resolve(l->names[i], ADDR_ACTIVE, &l->addrs);

		if (error)
			l->failure = (struct lookup_failure){.error = error, .name = i};
	}
}

static void lookup_done(struct job *job)
{
	struct lookup *l = container_of(job, struct lookup, job);

	worker_post(l->worker, &l->message);
}

/* Back on the worker. */
static void lookup_deliver(struct worker *w, struct message *message)
{
	struct lookup *l = container_of(message, struct lookup, message);
	(void)w;

	if (!l->wait) {
		lookup_free(l);
		return;
	}
	l->wait->result.res = 0;
	coro_resume(l->wait->coro);
}

static struct lookup *lookup_new(struct worker *worker, struct ring_wait *wait, const struct lookup_names *names)
{
	struct lookup *l = calloc(1, sizeof(*l) + names->count * sizeof(char *));

	if (!l)
		return NULL;
	l->job.work = lookup_work;
	l->job.done = lookup_done;
	l->message.deliver = lookup_deliver;
	l->worker = worker;
	l->wait = wait;
	l->job.kind = names->background ? JOB_BACKGROUND : JOB_LOOKUP;
	for (; l->count < names->count; l->count++) {
		l->names[l->count] = strdup(names->names[l->count]);
		if (!l->names[l->count]) {
			lookup_free(l);
			return NULL;
		}
	}
	return l;
}

void lookup_abandon(struct lookup **slot)
{
	struct ring_wait *wait = (*slot)->wait;

	(*slot)->wait = NULL;
	atomic_store(&(*slot)->abandoned, true);
	*slot = NULL;
	wait->result.res = -ECANCELED;
	coro_resume(wait->coro);
}

int lookup_await(struct lookup **slot, struct worker *worker, struct ring_wait *wait, const struct lookup_names *names,
                 struct addr_list *list, struct lookup_failure *failure)
{
	struct lookup *l = lookup_new(worker, wait, names);

	*failure = (struct lookup_failure){0};
	if (!l)
		return -ENOMEM;
	*slot = l;
	wait->coro = coro_self();
	jobs_submit(&l->job);
	coro_suspend();
	if (wait->result.res < 0)
		return wait->result.res; /* abandoned: the lookup is no longer ours */
	*slot = NULL;
	*failure = l->failure;
	*list = l->addrs;
	l->addrs = (struct addr_list){0};
	lookup_free(l);
	return 0;
}
