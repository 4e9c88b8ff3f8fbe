/*
 * Workers: one thread for each core, with a ring, listeners, buffers and coroutines of its own.
 * worker_post() and worker_start()/worker_join() may be called by any thread; everything else belongs to the worker.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_WORKER_H
#define TLSPLICE_WORKER_H

#include "buf.h"
#include "list.h"
#include "pipe.h"
#include "ring.h"
#include "service.h"
#include "timer.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

/* A listening socket of one worker. Made by listen.c, then the worker's. */
struct listener {
	struct ring_op op;
	struct timer retry; /* after EMFILE and the like */
	struct list link;   /* the worker's */
	struct worker *worker;
	struct service *service;
	int fd;
	bool stale;   /* the configuration in force has it no more */
	bool closing; /* waits for its cancellation; counted as a connection of its services */
};

/* Something another thread asks a worker to do. `deliver` runs on the worker; the message may be freed in it. */
struct message {
	struct list link;
	void (*deliver)(struct worker *worker, struct message *message);
};

enum { WORKERS_MAX = 1024 };

enum worker_stage {
	WORKER_SERVING,
	WORKER_DRAINING, /* no listeners; ends with the last connection */
	WORKER_STOPPING, /* connections are being dropped */
};

struct worker {
	unsigned number;
	enum worker_stage stage;
	struct ring *ring;
	struct bufs bufs;
	struct pipes pipes;
	struct timers timers;
	struct coro_pool *coros;
	struct coro_pool *deep_coros; /* with room for OpenSSL: conversations that may have to wait inside a handshake */
	struct slab *conns; /* struct conn */
	struct list live;   /* connections */
	struct list listeners;
	struct list staplers;    /* what fetches responses to staple */
	unsigned staplers_asking;
	struct list runners;     /* programs in the place of clients */
	struct service_set *set; /* in force */
	struct tls_library *library;

	pthread_t thread;
	pthread_mutex_t mail_lock;
	struct list mail; /* struct message, under mail_lock */
	struct message stop;
	int mail_fd;      /* eventfd */
	struct ring_op mail_op;
	void (*ended)(struct worker *worker); /* called on its thread when it has no more to do; NULL: nobody asks */
	int error; /* why the worker could not start: -errno, set before ready */
	pthread_barrier_t *ready;
};

/* How many a configuration wants. */
unsigned workers_wanted(const struct config *config);

/* Makes workers without starting them. Returns NULL when there is no memory. */
struct worker *workers_new(unsigned count);

/*
 * Starts the threads (signals blocked) and waits until each has its ring. Returns 0 or -errno of the first that failed; those that
 * started must still be stopped and joined.
 */
int workers_start(struct worker *workers, unsigned count, size_t stack);

/* Waits for the end of a worker that was told to stop. Harmless if it never ran. */
void worker_join(struct worker *worker);

/* Joins those that were told to stop, and frees. */
void workers_free(struct worker *workers, unsigned count);

/* Delivers a message on the worker's thread. */
void worker_post(struct worker *worker, struct message *message);

/* worker_stop() from another thread; once for each. */
void worker_post_stop(struct worker *worker);

/* Posts and waits until it was delivered. For the main thread. */
void worker_ask(struct worker *worker, void (*deliver)(struct worker *worker, void *arg), void *arg);

/*
 * To be called on the worker: puts a set of services in force. In between, worker_listen() names each of its listeners (`service` set): new ones
 * are opened, those that go on stay open throughout, those not named are closed. The old set lives on with its connections.
 */
void worker_adopt_begin(struct worker *worker);
void worker_listen(struct worker *worker, struct listener *listener);
void worker_adopt_end(struct worker *worker, struct service_set *set);

/* To be called on the worker: closes the listeners and ends with the last connection, or drops them all at once. */
void worker_drain(struct worker *worker);
void worker_stop(struct worker *worker);

#endif
