/*
 * Sessions of a section, shared by all workers: ticket keys, the server's session cache (sharded, least recently used goes first),
 * the client's latest sessions by destination. Sessions are kept as DER, so they belong to no worker. For tls*.c only.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_TLS_SESSIONS_H
#define TLSPLICE_TLS_SESSIONS_H

#include "tls.h"
#include "tls_tickets.h"

#include <openssl/types.h>

/* Installs the callbacks, time-out and session id context of the section in a context. Returns false after logging why. */
bool tls_sessions_install(const struct section *section, SSL_CTX *ctx);

/* Client mode: offers a session of the destination, if there is one; logs which. */
void tls_sessions_offer(struct tls *tls);

/*
 * After a fatal alert. Client mode: no session of the destination is offered again (RFC 5246 7.2.2), for those that are like the one that went bad
 * come from the same server, and each would be a connection that fails.
 */
void tls_sessions_forget(const struct tls *tls);

#endif
