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

#endif
