/*
 * Stapling in the background: see staple.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "staple.h"

#include "coro.h"
#include "fetch.h"
#include "log.h"
#include "tls_staple.h"

#include <errno.h>
#include <stdlib.h>

static const char log_id[] = "stapling";

enum {
	LOOK_S = 600,   /* the wall clock may be set: what is due is looked at this often */
	AT_ONCE = 64,   /* questions of a worker, however many sections start */
	QUEUE_MS = 200, /* how often those that wait for their turn look whether it has come */
};

/* Keeps the response for one certificate fresh. Holds its set of services as a connection does. */
struct stapler {
	struct list link; /* the worker's */
	struct worker *worker;
	struct service *service;
	struct tls_staples *staples;
	size_t number; /* of the certificate */
	struct timer timer;
	struct ring_wait wait;
	struct lookup *lookup;
	bool asking; /* a coroutine runs */
	bool stale;  /* to end */
};

static void stapler_free(struct stapler *s)
{
	timer_disarm(&s->worker->timers, &s->timer);
	list_remove(&s->link);
	service_set_leave(s->service->set);
	free(s);
}

static void sleep_for(struct stapler *s, uint64_t ms)
{
	if (timer_arm(&s->worker->timers, &s->timer, ring_now_ms(s->worker->ring) + ms) < 0) {
		log_global(LOG_ERR, "OCSP: no memory to staple for service [%s]", s->service->conf->name);
		stapler_free(s);
	}
}

static void sleep_until_due(struct stapler *s)
{
	time_t wait_s = tls_staple_wait_s(s->staples, s->number, time(NULL));

	sleep_for(s, (uint64_t)(wait_s < LOOK_S ? wait_s : LOOK_S) * 1000);
}

/* An answer to be looked at, on the thread's stack. */
struct answer {
	struct stapler *stapler;
	const struct ocsp_reply *reply;
	bool taken;
};

static void take_answer(void *arg)
{
	struct answer *a = arg;
	const struct stapler *s = a->stapler;

	a->taken = tls_staple_take(s->staples, s->number, s->service->tls, a->reply->bytes + a->reply->head,
	                           a->reply->len - a->reply->head, log_id);
}

static bool ask(struct stapler *s, const char *url)
{
	const struct section *conf = s->service->conf;
	struct fetch f = {
		.worker = s->worker,
		.wait = &s->wait,
		.lookup = &s->lookup,
		.stats = s->service->stats,
		.log_id = log_id,
		.debug = conf->debug,
		.timeout_s = conf->timeout_ocsp_s,
		.background = true,
	};
	struct ocsp_reply reply = {0};
	struct answer answer = {.stapler = s, .reply = &reply};
	size_t n;
	const unsigned char *request = tls_staple_request(s->staples, s->number, &n);

	if (conf->debug >= LOG_NOTICE)
		log_write(LOG_NOTICE, log_id, "OCSP: Connecting the AIA responder \"%s\"", url);
	if (fetch(&f, url, request, n, &reply) == 0 && !s->stale)
		coro_call(take_answer, &answer);
	stats_add(&s->service->stats->staples_taken, answer.taken);
	ocsp_reply_free(&reply);
	return answer.taken;
}

static void finish(void *arg)
{
	struct stapler *s = arg;

	s->asking = false;
	s->worker->staplers_asking--;
	if (s->stale)
		stapler_free(s);
	else
		sleep_until_due(s);
}

/* One round: the responders in turn until one has an answer. */
static void refresh(void *arg)
{
	struct stapler *s = arg;
	const char *url;
	bool taken = false;

	for (size_t i = 0; !taken && !s->stale && (url = tls_staple_url(s->staples, s->number, i)); i++)
		taken = ask(s, url);
	if (!taken && !s->stale) {
		time_t wait_s = tls_staple_put_off(s->staples, s->number);

		if (s->service->conf->debug >= LOG_INFO)
			log_write(LOG_INFO, log_id, "OCSP: Service [%s] asks again in %lld second(s)", s->service->conf->name,
			          (long long)wait_s);
	}
	coro_call(finish, s);
}

static void look(struct timer *timer)
{
	struct stapler *s = container_of(timer, struct stapler, timer);

	if (tls_staple_wait_s(s->staples, s->number, time(NULL)) > 0) {
		sleep_until_due(s);
		return;
	}
	if (s->worker->staplers_asking >= AT_ONCE) {
		sleep_for(s, QUEUE_MS);
		return;
	}
	s->asking = true;
	s->worker->staplers_asking++;
	if (coro_start(s->worker->coros, refresh, s) < 0) {
		s->asking = false;
		s->worker->staplers_asking--;
		tls_staple_put_off(s->staples, s->number);
		sleep_until_due(s);
	}
}

static void stapler_start(struct worker *w, struct service *service, struct tls_staples *staples, size_t number)
{
	struct stapler *s = calloc(1, sizeof(*s));

	if (!s) {
		log_global(LOG_ERR, "OCSP: no memory to staple for service [%s]", service->conf->name);
		return;
	}
	s->worker = w;
	s->service = service;
	s->staples = staples;
	s->number = number;
	s->timer.expired = look;
	list_append(&w->staplers, &s->link);
	service_set_enter(service->set);
	sleep_until_due(s);
}

void staplers_start(struct worker *w, struct service_set *set)
{
	const struct generation *g = set->generation;

	for (size_t i = w->number; i < g->config->section_count; i += g->workers) {
		struct tls_staples *staples = g->commons[i].staples;

		for (size_t n = 0; n < tls_staples_count(staples); n++)
			stapler_start(w, &set->services[i], staples, n);
	}
}

void staplers_stop(struct worker *w)
{
	list_each(it, next, &w->staplers) {
		struct stapler *s = container_of(it, struct stapler, link);

		if (s->stale)
			continue;
		s->stale = true;
		if (s->asking)
			fetch_interrupt(w, &s->wait, &s->lookup); /* may free it */
		else
			stapler_free(s);
	}
}
