/*
 * The inside of a TLS context. For tls*.c only.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_TLS_CONTEXT_H
#define TLSPLICE_TLS_CONTEXT_H

#include "tls.h"

#include <openssl/types.h>
#include <stdatomic.h>

struct ssl_session_st;

struct tls_context {
	atomic_uint refs;
	SSL_CTX *ctx;
	const struct section *section;
	struct tls_sessions *sessions;
};

/* Logs a session's id at LOG_INFO, if it has one. */
void tls_log_session_id(const struct tls *tls, const struct ssl_session_st *session);

#endif
