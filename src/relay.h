/*
 * The relay: two pumps driven by completions, from the end of the handshake to the last byte.
 * It knows record engines, not OpenSSL.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_RELAY_H
#define TLSPLICE_RELAY_H

#include "conn.h"

/* Starts relaying between the two sockets of a connection whose handshake is over. Callable from its coroutine, which must end then. */
void relay_start(struct conn *c);

/* What conn.c hands to the relay: bytes or the end of them came in, bytes went out, a splice is over, the timer expired. */
void relay_received(struct end *end, const struct ring_result *result);
void relay_sent(struct end *end);
void relay_spliced(struct end *end, int res);
void relay_expired(struct conn *c);

/* A send was told (-errno) what no read will be told: a record that came in was no good. */
void relay_refused(struct end *end, int error);

/* A terminal whose other side is gone takes nothing any more; what it has said may still be read. */
void relay_hung_up(struct end *end);

/* The connection is over: what the relay still holds of it goes. */
void relay_end(struct conn *c);

/* --- between relay*.c --------------------------------------------------------------------------------------------------------------- */

enum {
	/* Bytes waiting for a slow receiver before the sender is made to wait. One more receive may come on top. */
	BUFFERED_MAX = CHUNK_BIG_RECEIVE,
};

/* What a step of a pump came to. */
enum pump_result {
	PUMP_NOTHING, /* nothing more can be done now */
	PUMP_AGAIN,   /* something was done, and there may be more */
	PUMP_FAILED,  /* the connection is to be reset; logged */
};

struct pump *relay_pump_from(struct end *end);
struct pump *relay_pump_to(struct end *end);

/* Application bytes have been passed on: counts them. */
void relay_count(struct pump *pump, size_t n);

/*
 * A read's result goes into the pump's source: bytes in a chunk (now the source's), the end, or an error (-errno). False: the connection is to be reset.
 */
bool relay_take(struct pump *pump, long res, struct chunk *chunk);

/* Arms a receive if there is room for what it may bring; ends one that brings what there is no room for, or in the wrong manner. */
void relay_receive(struct pump *pump);

/* Arms the timer for whatever comes first. Without memory for it the connection ends: false. */
bool relay_watch(struct conn *c);

/* relay_offload.c: from OpenSSL to the record layer of our own, and on to the kernel. */
void offload_start(struct conn *c);       /* what is wanted */
void offload_idle(struct conn *c);        /* the connection has been silent for OFFLOAD_IDLE_MS */
void offload_moved(struct conn *c);       /* bytes have moved */
void offload_try(struct pump *pump);      /* a direction that is due may be at a boundary */
void offload_end(struct conn *c);         /* what did not come to it */
bool offload_holds(const struct pump *p); /* the pump must send all it has before it goes on */

enum { OFFLOAD_IDLE_MS = 1000 };

/* relay_splice.c */
bool splice_wanted(const struct pump *pump); /* bulk of this pump goes through a pipe */
void splice_enter(struct conn *c);           /* from now on both sockets are polled */
enum pump_result splice_run(struct pump *pump);
void splice_end(struct conn *c);

#endif
