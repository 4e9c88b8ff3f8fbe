/*
 * Services: a configuration brought to life. A generation is one configuration with everything resolved and loaded; each worker has its own
 * set of services in it (its own SSL_CTX), so that workers share nothing they write to. Built by the main thread, off the workers' path.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_SERVICE_H
#define TLSPLICE_SERVICE_H

#include "addr.h"
#include "config.h"
#include "stats.h"
#include "tls.h"

#include <stdatomic.h>
#include <stdbool.h>

/* Where a section's connections go: shared by its services of all workers. */
struct upstream {
	const struct texts *names; /* in the configuration */
	struct addr_list addrs;    /* resolved at load; empty when looked up for each connection */
	struct addr_list local;    /* addresses to connect from; empty: the kernel chooses */
	bool delay;
	atomic_uint next; /* failover = rr: where the next connection starts */
};

/* A section in one worker. */
struct service {
	const struct section *conf;
	struct service_set *set;
	struct upstream *upstream;
	struct upstream *redirect;   /* for peers that were not authenticated; NULL: there is no such thing */
	const struct addr *sessiond; /* NULL: none */
	struct tls_context *tls;
	struct stats *stats;
	bool deep; /* a handshake may have to wait for somebody else than the peer: its conversation has a stack that OpenSSL fits on */
};

/* One worker's services of one generation. Touched by that worker only, once posted. */
struct service_set {
	struct generation *generation;
	size_t conns;             /* connections that use it */
	bool retired;             /* a newer set is in force: freed with its last connection */
	struct service *services; /* in the order of the configuration's sections */
};

/* What a section has for all workers. */
struct common {
	struct addr_list accept;
	struct upstream upstream, redirect;
	struct addr sessiond; /* len 0: none */
	struct tls_trust *trust;
	struct tls_sessions *sessions;
	struct tls_staples *staples;
	bool renewed; /* certReload: its files were loaded for this generation */
};

struct generation {
	struct config *config;
	struct common *commons;   /* in the order of the sections */
	struct service_set *sets; /* one for each worker */
	unsigned workers;
	atomic_uint refs; /* one for each set in use */
};

/*
 * Resolves addresses, loads certificates and makes contexts for `workers` workers, whose library contexts are in `libraries`.
 * Sections unchanged since `previous` (may be NULL) keep tickets and sessions. Takes the configuration over, also on failure.
 * Returns NULL after logging why.
 */
struct generation *generation_new(struct config *config, const struct generation *previous, struct tls_library *const *libraries,
                                  unsigned workers);

/*
 * The generation in force once more, but with the files of the sections whose element of `changed` is true loaded anew. A section whose files cannot be used
 * keeps what it has: logged at LOG_WARNING. Returns NULL when no section has anything new.
 */
struct generation *generation_renew(const struct generation *current, const bool *changed, struct tls_library *const *libraries);

/* Says which sections have new files in a generation of generation_renew(), once it is in force. */
void generation_announce(const struct generation *generation);

/* Gives one set up; the generation goes with its last set. Callable from any thread. */
void service_set_release(struct service_set *set);

/* Frees a generation that no worker has seen. generation_free(NULL) is fine. */
void generation_free(struct generation *generation);

/* A connection of the set begins, ends. The set of a retired generation is released with its last connection. */
void service_set_enter(struct service_set *set);
void service_set_leave(struct service_set *set);

#endif
