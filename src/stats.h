/*
 * Counters: written by one worker each without locks, read by the status page at any time.
 * A service's counters outlive a reload: the same name gets the same counters back.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_STATS_H
#define TLSPLICE_STATS_H

#include "ktls.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* name of the field, Prometheus name behind "tlsplice_", "counter" or "gauge", help text */
#define STATS_COUNTERS(X)                                                                                            \
	X(accepted, "connections_accepted_total", "counter", "Connections accepted")                                 \
	X(active, "connections_active", "gauge", "Connections open now")                                             \
	X(redirected, "connections_redirected_total", "counter", "Connections to the redirect target, for want of a certificate that passes") \
	X(switched, "connections_switched_total", "counter", "Connections that came from another service by their server name") \
	X(rejected, "connections_rejected_total", "counter", "Connections refused because of the client limit")      \
	X(failed, "connections_failed_total", "counter", "Connections that ended with an error")                     \
	X(handshakes_full, "handshakes_full_total", "counter", "TLS handshakes completed with a new session")        \
	X(handshakes_resumed, "handshakes_resumed_total", "counter", "TLS handshakes completed by resumption")       \
	X(handshakes_failed, "handshakes_failed_total", "counter", "TLS handshakes that failed")                     \
	X(promoted, "connections_promoted_total", "counter", "Connections handed over from OpenSSL") \
	X(ocsp_asked, "ocsp_requests_total", "counter", "Questions to OCSP responders") \
	X(ocsp_unanswered, "ocsp_requests_failed_total", "counter", "Those of them that no response came to") \
	X(ocsp_good, "ocsp_good_total", "counter", "Certificates of peers that are good by OCSP") \
	X(ocsp_revoked, "ocsp_revoked_total", "counter", "Certificates of peers that are revoked by OCSP") \
	X(ocsp_unknown, "ocsp_unknown_total", "counter", "Certificates of peers that responders were asked about in vain") \
	X(staples_taken, "staples_refreshed_total", "counter", "OCSP responses got to be stapled") \
	X(staples_sent, "staples_sent_total", "counter", "Handshakes with a stapled OCSP response") \
	X(connect_failed, "connect_failed_total", "counter", "Upstream addresses that could not be connected")       \
	X(bytes_to_tls, "bytes_to_tls_total", "counter", "Application bytes sent to the TLS side")                   \
	X(bytes_to_plain, "bytes_to_plain_total", "counter", "Application bytes sent to the plain side")                \
	X(kernel_to_tls, "kernel_bytes_to_tls_total", "counter", "Those of them that the kernel encrypted")             \
	X(kernel_to_plain, "kernel_bytes_to_plain_total", "counter", "Those of them that the kernel decrypted")

struct stats {
#define X(name, metric, kind, help) _Atomic uint64_t name;
	STATS_COUNTERS(X)
#undef X
	_Atomic uint64_t ktls[KTLS_DIRECTIONS][KTLS_OUTCOME_COUNT]; /* directions of connections, by who makes their records */
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

/* Tells which services the running configuration has; the status page shows others only while they still have connections. */
void stats_set_current(const char *const *services, unsigned count);

/* Successful (re)loads of the configuration, failed ones, and when the last good one was: for the status page. */
void stats_note_reload(int ok);

/* certReload has loaded a section's changed files, or could not use them. */
void stats_note_renewal(bool ok);

/*
 * Prometheus text exposition format 0.0.4, all services there ever were (a counter must not vanish between two scrapes).
 * Label values are escaped and always UTF-8: a byte that is not comes out as \xHH.
 */
void stats_print_prometheus(FILE *out);

/* The status page: HTML that refreshes itself, no script, no outside resource; names escaped. */
void stats_print_html(FILE *out);

#endif
