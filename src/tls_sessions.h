/*
 * Sessions of a section, shared by all workers: ticket keys, the server's session cache (sharded, least recently used goes first),
 * the client's latest session by destination. Sessions are kept as DER, so they belong to no worker. For tls*.c only.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_TLS_SESSIONS_H
#define TLSPLICE_TLS_SESSIONS_H

#include "tls.h"

#include <openssl/types.h>

/* Installs ticket keys, cache callbacks, time-out and session id context in a context of the section. Returns false after logging why. */
bool tls_sessions_install(struct tls_sessions *sessions, const struct section *section, SSL_CTX *ctx);

/* Client mode: offers the destination's latest session; logs which. */
void tls_sessions_offer(struct tls_sessions *sessions, const char *destination, SSL *ssl, const struct section *section,
                        const char *log_id);

/* The sessions a context belongs to. */
struct tls_sessions *tls_sessions_of(SSL_CTX *ctx);

#endif
