/*
 * Stapling (RFC 6066 section 8): what a server section sends about its own certificates when clients ask. The responses are shared by all workers;
 * staple.c fetches them in the background, and a handshake only ever copies what is there.
 * Made and freed by any thread; everything else may be called by any thread at any time.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_TLS_STAPLE_H
#define TLSPLICE_TLS_STAPLE_H

#include "tls.h"

#include <stdbool.h>
#include <stddef.h>
#include <time.h>

/* The responses of a section, one for each of its certificates. Reference counted. */
struct tls_staples;

/*
 * For the certificates of a section's context (that of any worker). What `previous` (may be NULL) has about the same certificates is taken over, with the
 * time of its refresh. Returns NULL without memory. Logs what will be done.
 */
struct tls_staples *tls_staples_new(struct tls_context *context, struct tls_staples *previous);
struct tls_staples *tls_staples_ref(struct tls_staples *staples);
void tls_staples_unref(struct tls_staples *staples);

/* Has a context of the section staple from them; the context holds a reference. Returns false without memory. */
bool tls_staples_install(struct tls_staples *staples, struct tls_context *context);
void tls_staples_uninstall(struct tls_context *context); /* when the context is freed */

/* Certificates of the section that somebody can be asked about; they are numbered from 0. */
size_t tls_staples_count(const struct tls_staples *staples);

/* Seconds from `now` to when a certificate's response should be fetched; 0: it is due. */
time_t tls_staple_wait_s(struct tls_staples *staples, size_t number, time_t now);

/* The URLs of a certificate's responders in turn, NULL behind the last; what to post to them. Constant, and owned by the staples. */
const char *tls_staple_url(const struct tls_staples *staples, size_t number, size_t turn);
const unsigned char *tls_staple_request(const struct tls_staples *staples, size_t number, size_t *n);

/*
 * A responder's answer: examined with the trust of `context`, and from now on stapled if it is conclusive and will be valid for a while.
 * Returns whether it was taken. (deep)
 */
bool tls_staple_take(struct tls_staples *staples, size_t number, struct tls_context *context, const unsigned char *der, size_t n,
                     const char *log_id);

/* No responder had an answer to take: the next try is put off, the longer the more often. Returns the seconds until then. */
time_t tls_staple_put_off(struct tls_staples *staples, size_t number);

/* When to refresh a response got at `now`: at half of its validity, or of what is left of that. For tests; used by tls_staple_take(). */
time_t tls_staple_refresh_at(time_t now, time_t this_update, time_t next_update);

/* Seconds to wait after the nth failure in a row (from 1). For tests. */
time_t tls_staple_backoff_s(unsigned failures);

#endif
