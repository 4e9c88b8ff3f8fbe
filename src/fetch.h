/*
 * Fetching from an OCSP responder: one HTTP request over one TCP connection, on the ring, under one deadline.
 * Runs on a coroutine of the worker, which waits; nothing else of the worker does. Everything belongs to the worker.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_FETCH_H
#define TLSPLICE_FETCH_H

#include "lookup.h"
#include "ocsp_http.h"
#include "ring.h"
#include "stats.h"
#include "timer.h"
#include "worker.h"

/* What the coroutine waits with, and how it logs: set by the caller. Whoever wants it to end calls fetch_interrupt(). */
struct fetch {
	struct worker *worker;
	struct ring_wait *wait;
	struct lookup **lookup;
	struct stats *stats; /* of the section that wants to know */
	const char *log_id;
	int debug;
	int timeout_s;   /* for all of it; 0 or less: expired at once */
	bool background; /* no connection waits for it */

	/* its own */
	struct timer deadline;
	bool expired;
};

/*
 * Asks the responder: n bytes of `request` (DER) are posted to the URL, and the whole reply is in `reply` (zeroed before; freed by the caller in any case).
 * Returns 0; -ECANCELED when it was interrupted; else another -errno. Logs failures.
 */
int fetch(struct fetch *fetch, const char *url, const unsigned char *request, size_t n, struct ocsp_reply *reply);

/* Ends what the coroutine waits for: an operation of the ring or a lookup. The coroutine may run at once. */
void fetch_interrupt(struct worker *worker, struct ring_wait *wait, struct lookup **lookup);

#endif
