/*
 * Handshakes that an engine or provider works on (`async = yes`): the conversation waits until there is an answer, and the worker serves others
 * meanwhile. For conn.c.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_ACCELERATOR_H
#define TLSPLICE_ACCELERATOR_H

#include "conn.h"

/*
 * Suspends the conversation until the engine wants the handshake to go on. Returns 0; -ECANCELED when the deadline or something else has
 * interrupted it; else another -errno, which has been logged.
 */
int accelerator_await(struct conn *c);

/*
 * The connection has failed while the engine is at work: OpenSSL cannot free what it will still write to. Waits for the answer, going on with
 * `step`, which is to return true as long as the engine is at work. What is not answered in time is given up and its memory lost, which is logged.
 */
void accelerator_settle(struct conn *c, bool (*step)(struct conn *c));

#endif
