/*
 * The inside of a TLS context. For tls*.c only.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_TLS_CONTEXT_H
#define TLSPLICE_TLS_CONTEXT_H

#include "log.h"
#include "tls.h"

#include <openssl/types.h>
#include <stdatomic.h>

struct ssl_session_st;

struct tls_context {
	atomic_uint refs;
	SSL_CTX *ctx;
	const struct section *section;
	struct tls_sessions *sessions;
	struct tls_trust *trust;
	struct x509_lookup_st *ca_finder, *ca_directory; /* where its store looks certificates up; the latter only with CApath */
	struct tls_staples *staples; /* server mode, once installed */
};

/* A line of the connection, if its section wants lines of that level. */
#define tls_log(tls, level, ...) ((void)((tls)->section->debug >= (level) && (log_write((level), (tls)->log_id, __VA_ARGS__), 0)))

/* Logs a session's id at LOG_INFO, if it has one. */
void tls_log_session_id(const struct tls *tls, const struct ssl_session_st *session);

#endif
