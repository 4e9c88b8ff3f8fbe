/*
 * Listening sockets: bound by the main thread, one for each worker and address (SO_REUSEPORT), and kept over a reload
 * that still wants the address, so that there is no moment in which the port is closed.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_LISTEN_H
#define TLSPLICE_LISTEN_H

#include "list.h"
#include "service.h"
#include "worker.h"

/* All addresses the process listens on. */
struct listening {
	struct list bound; /* struct bound */
	unsigned workers;
};

void listening_init(struct listening *listening, unsigned workers);

/*
 * Binds what the generation needs and is not bound yet. Returns false, with everything as it was, if a section gets no address at all
 * (logged). Otherwise listening_commit() must follow.
 */
bool listening_prepare(struct listening *listening, const struct generation *generation);

/* Hands sockets and services to the workers and closes what the generation has no use for. Waits until every worker has changed over. */
void listening_commit(struct listening *listening, struct generation *generation, struct worker *workers);

/* Process exit, after the workers have closed their sockets: removes Unix sockets from the file system. */
void listening_end(struct listening *listening);

#endif
