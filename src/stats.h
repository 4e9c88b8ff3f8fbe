/*
 * Counters: written by one worker each without locks, read by the status page at any time.
 * A service's counters outlive a reload: the same name gets the same counters back.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_STATS_H
#define TLSPLICE_STATS_H

#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>

/* name of the field, "counter" or "gauge", Prometheus help text */
#define STATS_COUNTERS(X)                                                                         \
	X(accepted, "counter", "Connections accepted")                                            \
	X(active, "gauge", "Connections open now")                                                \
	X(rejected, "counter", "Connections refused because of the client limit")                 \
	X(failed, "counter", "Connections that ended with an error")                              \
	X(handshakes_full, "counter", "TLS handshakes completed with a new session")              \
	X(handshakes_resumed, "counter", "TLS handshakes completed by resumption")                \
	X(handshakes_failed, "counter", "TLS handshakes that failed")                             \
	X(connect_failed, "counter", "Upstream addresses that could not be connected")            \
	X(bytes_to_tls, "counter", "Application bytes sent to the TLS side")                      \
	X(bytes_to_plain, "counter", "Application bytes sent to the plain side")

struct stats {
#define X(name, kind, help) _Atomic uint64_t name;
	STATS_COUNTERS(X)
#undef X
} __attribute__((aligned(64)));

/* Adds to a counter of this worker's own: one writer, so a plain load and store will do. */
static inline void stats_add(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n, memory_order_relaxed);
}

/* Sizes the registry; called once before any other function here. Returns 0 or -ENOMEM. */
int stats_start(unsigned workers);

/*
 * The counters that worker number `worker` keeps for a service, zero at first. Never freed.
 * `role` is "server" or "client", shown as a label. Returns NULL when there is no memory. Callable from any thread.
 */
struct stats *stats_of(const char *service, const char *role, unsigned worker);

/* Tells which services the running configuration has; others are shown only while they still have connections. */
void stats_set_current(const char *const *services, unsigned count);

/* Successful (re)loads of the configuration, failed ones, and when the last good one was: for the status page. */
void stats_note_reload(int ok);

/* Prometheus text exposition format 0.0.4, all services; label values escaped. */
void stats_print_prometheus(FILE *out);

/* The status page: HTML that refreshes itself, no script, no outside resource; names escaped. */
void stats_print_html(FILE *out);

#endif
