/*
 * Workers: see worker.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "worker.h"

#include "conn.h"
#include "coro.h"
#include "log.h"
#include "runner.h"
#include "slab.h"
#include "staple.h"
#include "thread.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum {
	STACKS_KEPT = 256, /* conversations that may go on at once without mapping stacks anew */
	DEEP_STACK = 128 * 1024,
	DEEP_STACKS_KEPT = 64,
	CONNS_PER_SLAB = 32,
	ACCEPT_RETRY_MS = 1000, /* after EMFILE: "suspended for 1 second" */
};

static void listener_accept(struct listener *l)
{
	ring_accept(l->worker->ring, &l->op, l->fd);
}

static void listener_retry(struct timer *timer)
{
	struct listener *l = container_of(timer, struct listener, retry);

	if (!l->op.armed && !l->stale)
		listener_accept(l);
}

static void listener_free(struct listener *l)
{
	timer_disarm(&l->worker->timers, &l->retry);
	list_remove(&l->link);
	log_global(LOG_DEBUG, "Service [%s] closed (FD=%d)", l->service->conf->name, l->fd);
	close(l->fd);
	if (l->closing)
		service_set_leave(l->service->set);
	free(l);
}

/* The last connections in the queue of a listener that goes: taken now, or the kernel would reset them. */
static void listener_empty(struct listener *l)
{
	/* Not before: the ring would not wait on a non-blocking socket. */
	if (fcntl(l->fd, F_SETFL, O_NONBLOCK) < 0)
		return;
	for (;;) {
		int fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC);

		if (fd < 0)
			return;
		conn_accepted(l->service, l->worker, fd);
	}
}

static void listener_suspended(struct listener *l, int error)
{
	log_global(LOG_WARNING, "Accepting new connections suspended for 1 second: %s (%d)", strerror(-error), -error);
	if (timer_arm(&l->worker->timers, &l->retry, ring_now_ms(l->worker->ring) + ACCEPT_RETRY_MS) < 0)
		listener_accept(l);
}

/* Errors of one client's connection, which accept(2) passes on: the next may be well. */
static bool is_clients_own(int error)
{
	static const int own[] = {ECONNABORTED, EINTR,     EAGAIN,       EPROTO, ENOPROTOOPT, ENETDOWN,
	                          ENETUNREACH,  EHOSTDOWN, EHOSTUNREACH, ENONET, ETIMEDOUT};

	for (size_t i = 0; i < sizeof(own) / sizeof(*own); i++)
		if (error == -own[i])
			return true;
	return false;
}

static void accepted(struct ring_op *op, const struct ring_result *result)
{
	struct listener *l = container_of(op, struct listener, op);

	if (result->res >= 0)
		conn_accepted(l->service, l->worker, result->res);
	if (result->more)
		return;
	if (l->stale) {
		if (l->worker->stage == WORKER_SERVING)
			listener_empty(l);
		listener_free(l);
	} else if (result->res >= 0 || is_clients_own(result->res)) {
		listener_accept(l);
	} else {
		listener_suspended(l, result->res); /* -EMFILE, -ENOMEM and the like: asking again at once would not help */
	}
}

static void listener_open(struct worker *w, struct listener *l)
{
	list_append(&w->listeners, &l->link);
	l->worker = w;
	l->op.done = accepted;
	l->retry.expired = listener_retry;
	listener_accept(l);
}

/* The ring lets go of it later, and it may accept until then: it holds its services as a connection does. */
static void listener_close(struct listener *l)
{
	l->stale = true;
	if (!l->op.armed) {
		listener_free(l);
	} else if (!l->closing) {
		l->closing = true;
		service_set_enter(l->service->set);
		ring_cancel(l->worker->ring, &l->op);
	}
}

static void listeners_close(struct worker *w, bool only_stale)
{
	list_each(it, next, &w->listeners) {
		struct listener *l = container_of(it, struct listener, link);

		if (!only_stale || l->stale)
			listener_close(l);
	}
}

void worker_adopt_begin(struct worker *w)
{
	list_each(it, next, &w->listeners)
		container_of(it, struct listener, link)->stale = true;
}

void worker_listen(struct worker *w, struct listener *l)
{
	l->stale = false;
	if (!l->worker)
		listener_open(w, l);
}

void worker_adopt_end(struct worker *w, struct service_set *set)
{
	struct service_set *old = w->set;

	runners_adopt(w, set); /* compares with the old one */
	w->set = set;
	listeners_close(w, true);
	staplers_stop(w);
	staplers_start(w, set);
	if (old) {
		old->retired = true;
		if (old->conns == 0)
			service_set_release(old);
	}
}

void worker_drain(struct worker *w)
{
	if (w->stage == WORKER_SERVING)
		w->stage = WORKER_DRAINING;
	listeners_close(w, false);
	staplers_stop(w);
	runners_stop(w);
}

void worker_stop(struct worker *w)
{
	w->stage = WORKER_STOPPING;
	listeners_close(w, false);
	staplers_stop(w);
	runners_stop(w);
	list_each(it, next, &w->live)
		conn_drop(container_of(it, struct conn, live));
}

static bool finished(const struct worker *w)
{
	return w->stage != WORKER_SERVING && list_empty(&w->live) && list_empty(&w->listeners) && list_empty(&w->staplers);
}

static void deliver_mail(struct worker *w)
{
	struct list mail;

	list_init(&mail);
	pthread_mutex_lock(&w->mail_lock);
	while (!list_empty(&w->mail)) {
		struct list *it = w->mail.next;

		list_remove(it);
		list_append(&mail, it);
	}
	pthread_mutex_unlock(&w->mail_lock);
	while (!list_empty(&mail)) {
		struct message *m = list_first(&mail, struct message, link);

		list_remove(&m->link);
		m->deliver(w, m);
	}
}

static void mail_came(struct ring_op *op, const struct ring_result *result)
{
	struct worker *w = container_of(op, struct worker, mail_op);
	uint64_t count;

	if (read(w->mail_fd, &count, sizeof(count)) < 0 && errno != EAGAIN)
		log_global(LOG_ERR, "eventfd: %s", strerror(errno));
	deliver_mail(w);
	if (!result->more && !finished(w)) /* else the ring is being closed */
		ring_poll(w->ring, &w->mail_op, w->mail_fd, POLLIN, true);
}

void worker_post(struct worker *w, struct message *m)
{
	uint64_t one = 1;
	bool first;

	pthread_mutex_lock(&w->mail_lock);
	first = list_empty(&w->mail);
	list_append(&w->mail, &m->link);
	pthread_mutex_unlock(&w->mail_lock);
	if (first && write(w->mail_fd, &one, sizeof(one)) < 0)
		log_global(LOG_ERR, "eventfd: %s", strerror(errno));
}

void worker_post_stop(struct worker *w)
{
	worker_post(w, &w->stop);
}

/* A message whose sender waits. */
struct question {
	struct message message;
	void (*deliver)(struct worker *worker, void *arg);
	void *arg;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool answered;
};

static void answer(struct worker *w, struct message *m)
{
	struct question *q = container_of(m, struct question, message);

	q->deliver(w, q->arg);
	pthread_mutex_lock(&q->lock);
	q->answered = true;
	pthread_cond_signal(&q->cond);
	pthread_mutex_unlock(&q->lock);
}

void worker_ask(struct worker *w, void (*deliver)(struct worker *worker, void *arg), void *arg)
{
	struct question q = {.message.deliver = answer, .deliver = deliver, .arg = arg};

	pthread_mutex_init(&q.lock, NULL);
	pthread_cond_init(&q.cond, NULL);
	worker_post(w, &q.message);
	pthread_mutex_lock(&q.lock);
	while (!q.answered)
		pthread_cond_wait(&q.cond, &q.lock);
	pthread_mutex_unlock(&q.lock);
	pthread_cond_destroy(&q.cond);
	pthread_mutex_destroy(&q.lock);
}

static void run(struct worker *w)
{
	ring_poll(w->ring, &w->mail_op, w->mail_fd, POLLIN, true);
	while (!finished(w)) {
		int error = ring_turn(w->ring, timers_next(&w->timers));

		if (error) {
			log_global(LOG_CRIT, "io_uring: %s: worker %u ends", strerror(-error), w->number);
			abort(); /* nothing this worker holds can be saved, and a silent worker is worse than a restart */
		}
		timers_run(&w->timers, ring_now_ms(w->ring));
	}
	if (w->set)
		service_set_release(w->set);
	w->set = NULL;
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;

	log_set_id("main");
	w->ring = ring_open(&w->bufs, &w->error);
	pthread_barrier_wait(w->ready);
	if (w->ring)
		run(w);
	ring_close(w->ring);
	bufs_free(&w->bufs);
	coro_pool_free(w->coros);
	coro_pool_free(w->deep_coros);
	slab_free(w->conns);
	timers_free(&w->timers);
	if (w->ended)
		w->ended(w);
	return NULL;
}

unsigned workers_wanted(const struct config *config)
{
	unsigned n = (unsigned)config->global.workers;
	cpu_set_t cpus;

	if (config->inetd)
		return 1;
	if (n == 0)
		n = sched_getaffinity(0, sizeof(cpus), &cpus) == 0 ? (unsigned)CPU_COUNT(&cpus) : 1;
	return n < WORKERS_MAX ? n : WORKERS_MAX;
}

static void stop(struct worker *w, struct message *message)
{
	(void)message;
	worker_stop(w);
}

struct worker *workers_new(unsigned count)
{
	struct worker *workers = calloc(count, sizeof(*workers));

	for (unsigned i = 0; workers && i < count; i++) {
		struct worker *w = &workers[i];

		w->number = i;
		w->mail_fd = -1;
		w->mail_op.done = mail_came;
		list_init(&w->live);
		list_init(&w->listeners);
		list_init(&w->staplers);
		list_init(&w->runners);
		list_init(&w->mail);
		list_init(&w->stop.link);
		w->stop.deliver = stop;
		pthread_mutex_init(&w->mail_lock, NULL);
	}
	return workers;
}

static int worker_start(struct worker *w, size_t stack, pthread_barrier_t *ready)
{
	w->ready = ready;
	w->mail_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (w->mail_fd < 0)
		return -errno;
	w->coros = coro_pool_new(stack, STACKS_KEPT);
	w->deep_coros = coro_pool_new(DEEP_STACK, DEEP_STACKS_KEPT);
	w->conns = slab_new(sizeof(struct conn), 64, CONNS_PER_SLAB);
	if (!w->coros || !w->deep_coros || !w->conns)
		return -ENOMEM;
	return thread_start(&w->thread, "worker", worker_main, w);
}

int workers_start(struct worker *workers, unsigned count, size_t stack)
{
	pthread_barrier_t ready;
	int error = 0;

	for (unsigned i = 0; i < count && !error; i++) {
		pthread_barrier_init(&ready, NULL, 2);
		error = worker_start(&workers[i], stack, &ready);
		if (!error) {
			pthread_barrier_wait(&ready);
			error = workers[i].error;
		}
		pthread_barrier_destroy(&ready);
	}
	return error;
}

void worker_join(struct worker *w)
{
	if (w->thread)
		pthread_join(w->thread, NULL);
	w->thread = 0;
}

void workers_free(struct worker *workers, unsigned count)
{
	for (unsigned i = 0; workers && i < count; i++) {
		struct worker *w = &workers[i];

		worker_join(w);
		deliver_mail(w); /* answers of jobs that came too late */
		if (w->mail_fd >= 0)
			close(w->mail_fd);
		tls_library_free(w->library);
		pthread_mutex_destroy(&w->mail_lock);
	}
	free(workers);
}
