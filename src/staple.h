/*
 * Stapling in the background: each worker keeps the responses of some sections fresh, by fetching them on its ring. Neither start nor reload nor a
 * handshake waits for a responder.
 * For worker.c; everything belongs to the worker.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_STAPLE_H
#define TLSPLICE_STAPLE_H

#include "service.h"
#include "worker.h"

/* Begins with the sections of a set that is in force from now on; every worker of the generation does, and takes its share. */
void staplers_start(struct worker *worker, struct service_set *set);

/* Ends it; those that wait for a responder are gone when `worker->staplers` is empty. */
void staplers_stop(struct worker *worker);

#endif
