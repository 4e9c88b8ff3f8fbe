/*
 * Name lookups for coroutines: done by the job pool while the conversation waits, and given up without waiting for the resolver.
 * For whoever dials: dial.c, fetch.c. Everything belongs to the worker.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_LOOKUP_H
#define TLSPLICE_LOOKUP_H

#include "addr.h"
#include "ring.h"
#include "worker.h"

struct lookup;

struct lookup_names {
	const char *const *names;
	size_t count;
	bool background; /* no connection waits for it, and none is to wait because of it */
};

/* The last name that could not be resolved. */
struct lookup_failure {
	int error;   /* EAI_ code; 0: there is none */
	size_t name; /* its number */
};

/*
 * Suspends the running coroutine until the names (as addr_resolve() reads them, ADDR_ACTIVE) are looked up, and puts what was found into `list`, which is empty.
 * While it waits, *slot is the lookup; `wait` is the coroutine's.
 * Returns 0, -ENOMEM, or -ECANCELED after lookup_abandon(). The names are copied.
 */
int lookup_await(struct lookup **slot, struct worker *worker, struct ring_wait *wait, const struct lookup_names *names,
                 struct addr_list *list, struct lookup_failure *failure);

/* Ends the wait of the coroutine, which runs at once; a lookup that goes on will find nobody waiting. */
void lookup_abandon(struct lookup **slot);

#endif
