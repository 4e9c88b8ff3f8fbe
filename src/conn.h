/*
 * Connections: from accept to the last byte. conn_live() in conn.c reads as the life of one; conn_handshake.c and conn_finish.c are steps of it.
 * Everything here belongs to the connection's worker.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_CONN_H
#define TLSPLICE_CONN_H

#include "addr.h"
#include "buf.h"
#include "end.h"
#include "list.h"
#include "log.h"
#include "pipe.h"
#include "ring.h"
#include "service.h"
#include "timer.h"
#include "tls.h"
#include "worker.h"

#include <stdbool.h>
#include <stdint.h>

struct exec;
struct runner;

enum { CONN_ID_MAX = 40 };

enum pump_state {
	PUMP_OPEN,
	PUMP_ENDING, /* the source has ended; what is buffered still goes out */
	PUMP_ENDED,  /* the end has been passed on */
};

/* A direction on its way to the kernel. */
enum pump_offload {
	OFFLOAD_NONE,   /* done, or not to be */
	OFFLOAD_WANTED, /* once the connection has carried ktlsAfter bytes */
	OFFLOAD_DUE,    /* as soon as its records are at a boundary */
};

/* One direction of the relay: the same for both. */
struct pump {
	struct end *from, *to;
	uint64_t bytes; /* application bytes passed on */
	bool more;      /* not everything that came in could be moved on */
	enum pump_state state;
	enum ktls_direction direction; /* as the TLS side sees it */
	enum pump_offload offload;
	struct pipe *pipe; /* while bytes of a splice are in it */
	size_t piped;
};

/* How a connection ends. */
enum conn_end {
	CONN_CLOSED, /* ordinary close: what is buffered is delivered */
	CONN_RESET,  /* RST, unless the section says `reset = no` or a TLS alert must reach the peer */
};

enum conn_stage {
	CONN_TALKING,   /* conn_live() runs on a coroutine */
	CONN_RELAYING,  /* two pumps, no stack */
	CONN_LINGERING, /* a last alert or answer goes out */
	CONN_ENDING,    /* waiting for the ring to let go */
};

struct conn {
	struct list live; /* the worker's */
	struct worker *worker;
	struct service *service;
	enum conn_stage stage;
	enum conn_end how;
	bool deep;         /* the conversation's stack has room for OpenSSL */
	bool failed;       /* the first failure has been logged; every further step does nothing */
	bool expired;      /* by `timer` */
	bool linger;       /* the TLS side may still send when the connection ends: closing at once would make that a RST */
	const char *doing; /* what a deadline would interrupt: for its log line */
	struct timer timer;
	uint64_t active_ms;  /* when bytes last moved */
	uint64_t promote_at; /* bytes passed on that make a hand-over from OpenSSL worth its while */
	enum tls_promotion promotion;
	struct ring_wait wait;  /* what the conversation waits for */
	struct lookup *lookup;  /* or this */
	struct exec *exec;      /* or this: a program that is being started */
	struct runner *runner;  /* whose program takes the place of the client; NULL: none */
	struct end front, back; /* accepted, dialled */
	struct tls tls;
	struct pump to_tls, to_plain;
	struct upstream *upstream; /* where it goes */
	uint64_t accepted_tag; /* transparent.c: the connection that was accepted and the one that was dialled; 0: not watched */
	uint64_t dialled_tag;
	bool translated;                 /* it came by NAT: its destination was another one */
	bool redirected;                 /* upstream is the redirect's */
	bool chosen;                     /* `first` has been chosen */
	size_t first;                    /* the first address of the upstream to try */
	struct addr peer;                /* the client's address */
	char destination[ADDR_TEXT_MAX]; /* client mode: the upstream that answered, for its sessions */
	char id[CONN_ID_MAX];
};

#define conn_wants(c, level) ((c)->service->conf->debug >= (level))
#define conn_log(c, level, ...) ((void)(conn_wants(c, level) && (log_write((level), (c)->id, __VA_ARGS__), 0)))

/* Clients served at once by the whole process; more are refused. */
void conn_set_limit(unsigned max);
unsigned conn_limit(void);

/* Clients served now. Callable from any thread. */
unsigned conn_count(void);

/* USR2: logs a worker's connections, counting on from `number`; returns the last number. */
unsigned conn_list(struct worker *worker, unsigned number);

/* Takes over a socket that a listener of the service accepted. */
void conn_accepted(struct service *service, struct worker *worker, int fd);

/*
 * The same in two steps, for a connection that does not come from a listener: give it an id and a front in between, or a runner. NULL: there is no room
 * for it, logged.
 */
struct conn *conn_new(struct service *service, struct worker *worker);
void conn_start(struct conn *c);

/* Finds out who is on the other side of the front. */
void conn_set_peer(struct conn *c);

/* How many connections have ended otherwise than in order. Callable from any thread. */
unsigned conn_failures(void);

/* A connection id of the section's form, without a connection. */
void conn_make_id(const struct section *conf, char id[CONN_ID_MAX]);

/* The first failure of a conversation: it will end in `how` when conn_live() falls through. Log first. */
void conn_fail(struct conn *c, enum conn_end how);

/* The deadline has come: says so, and fails. */
void conn_log_expired(struct conn *c);

/* Ends a connection in any stage but TALKING: logs the accounting line, flushes what must still go, closes, frees. */
void conn_finish(struct conn *c, enum conn_end how);

/* Process exit: ends it in any stage, without ceremony. */
void conn_drop(struct conn *c);

/* The TLS side and the plain side. */
static inline struct end *conn_tls_end(struct conn *c)
{
	return c->service->conf->client ? &c->back : &c->front;
}

static inline struct end *conn_plain_end(struct conn *c)
{
	return c->service->conf->client ? &c->front : &c->back;
}

/* Calls into OpenSSL from a conversation: on the thread's stack, unless its own has room enough. */
void conn_call(const struct conn *c, void (*fn)(void *arg), void *arg);

/* Server mode, TLS is up: gives the client its tickets, which remember the backend (NULL: none). */
void conn_issue_tickets(struct conn *c, const struct addr *backend);

/* (Re)arms the deadline of the present step; negative: none. `doing` names it in the log. */
void conn_deadline(struct conn *c, int seconds, const char *doing);

/* --- between conn*.c ---------------------------------------------------------------------------------------------------------------- */

/* conn_handshake.c: server mode: TLS accept; client mode: TLS connect. A step of conn_live(). */
void conn_handshake(struct conn *c);

/* One client less is served: returns how many are left. */
unsigned conn_leave(void);

/* conn_finish.c: */
void conn_linger(struct end *tls_end); /* the last alert is on its way: does what comes next, which may free the connection */
void conn_close(struct conn *c);       /* takes back what the ring has of it, and frees it if that was nothing */
void conn_release(struct conn *c);     /* frees it when nothing of it is left in the ring */

#endif
