/*
 * Runners: see runner.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "runner.h"

#include "conn.h"

#include <stdlib.h>

struct runner {
	struct list link; /* the worker's */
	struct worker *worker;
	struct service *service;
	struct timer timer; /* until the next start */
	bool running;       /* a connection has it */
	bool retired;       /* ends with that */
	unsigned repetition;
	char id[CONN_ID_MAX]; /* of all its connections, before their numbers */
};

static void runner_free(struct runner *r)
{
	timer_disarm(&r->worker->timers, &r->timer);
	list_remove(&r->link);
	free(r);
}

static void retire(struct runner *r)
{
	r->retired = true;
	if (!r->running)
		runner_free(r);
}

/* After `retry` milliseconds once more, unless the section wants it once only. */
static void go_on(struct runner *r, const char *id)
{
	const struct section *conf;

	if (r->retired || r->service->conf->retry_ms < 0) { /* a retired one's service may be gone */
		runner_free(r);
		return;
	}
	conf = r->service->conf;
	if (conf->debug >= LOG_INFO)
		log_write(LOG_INFO, id, "Retrying an exec+connect section");
	if (timer_arm(&r->worker->timers, &r->timer, ring_now_ms(r->worker->ring) + (uint64_t)conf->retry_ms) == 0)
		return;
	log_write(LOG_ERR, id, "Service [%s]: no memory to start again", conf->name);
	runner_free(r);
}

void runner_ended(struct runner *r, const char *id)
{
	r->running = false;
	go_on(r, id);
}

static void start(struct runner *r)
{
	struct conn *c = conn_new(r->service, r->worker);
	char id[CONN_ID_MAX];

	snprintf(id, sizeof(id), "%.26s_%u", r->id, r->repetition++); /* 22 characters at most, or 20 digits */
	if (!c) {
		go_on(r, id);
		return;
	}
	snprintf(c->id, sizeof(c->id), "%s", id);
	c->runner = r;
	r->running = true;
	conn_start(c); /* both may be gone afterwards */
}

static void due(struct timer *timer)
{
	start(container_of(timer, struct runner, timer));
}

static void runner_new(struct worker *w, struct service *service)
{
	const struct section *conf = service->conf;
	struct runner *r = calloc(1, sizeof(*r));

	log_global(LOG_DEBUG, "Starting exec+connect service [%s]", conf->name);
	if (!r) {
		log_global(LOG_ERR, "Service [%s]: no memory to start", conf->name);
		return;
	}
	list_append(&w->runners, &r->link);
	r->worker = w;
	r->service = service;
	r->timer.expired = due;
	conn_make_id(conf, r->id);
	if (conf->debug >= LOG_DEBUG)
		log_write(LOG_DEBUG, r->id, "Service [%s] started", conf->name);
	start(r);
}

static bool is_runner(const struct section *s)
{
	return s->exec && s->connect.count && !s->accept.count;
}

static void begin(struct worker *w, struct service_set *set)
{
	const struct generation *g = set->generation;

	for (const struct section *s = g->config->sections; s; s = s->next)
		if (is_runner(s) && s->index % g->workers == w->number)
			runner_new(w, &set->services[s->index]);
}

void runners_adopt(struct worker *w, struct service_set *set)
{
	bool renewed = w->set && w->set->generation->config == set->generation->config;

	list_each(it, next, &w->runners) {
		struct runner *r = container_of(it, struct runner, link);

		if (renewed && !r->retired)
			r->service = &set->services[r->service->conf->index];
		else
			retire(r);
	}
	if (!renewed)
		begin(w, set);
}

void runners_stop(struct worker *w)
{
	list_each(it, next, &w->runners)
		retire(container_of(it, struct runner, link));
}
