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

/* What conn.c hands to the relay: bytes or the end of them came in, bytes went out, the timer expired. */
void relay_received(struct end *end, const struct ring_result *result);
void relay_sent(struct end *end);
void relay_expired(struct conn *c);

#endif
