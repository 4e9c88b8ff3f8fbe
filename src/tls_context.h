/*
 * The inside of a TLS context. For tls*.c only.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_TLS_CONTEXT_H
#define TLSPLICE_TLS_CONTEXT_H

#include "log.h"
#include "tls.h"
#include "tls_session_data.h"
#include "tls_tickets.h"

#include <openssl/types.h>
#include <stdatomic.h>

struct ssl_session_st;

/* Providers that a library context has been given. */
struct tls_providers {
	OSSL_PROVIDER **list;
	size_t count;
};

/*
 * tls_modules.c: loads the providers that the configuration asks for into a library context, and notes them in `providers` (zeroed before). Returns false after
 * logging why. tls_providers_unload() comes before the library context is freed.
 */
bool tls_modules_install(OSSL_LIB_CTX *library, struct tls_providers *providers);
void tls_providers_unload(struct tls_providers *providers);

struct tls_context {
	atomic_uint refs;
	SSL_CTX *ctx;
	const struct section *section;
	struct tls_sessions *sessions;
	struct tls_trust *trust;
	struct x509_lookup_st *ca_finder, *ca_directory; /* where its store looks certificates up; the latter only with CApath */
	struct tls_staples *staples;                     /* what servers staple, once installed, */
	struct stapled *stapled;                         /* and about which certificate */
	struct tls_policy policy;
	struct tickets_view tickets;
};

/* The library context of a worker. */
OSSL_LIB_CTX *tls_library_context(struct tls_library *library);

/* A line of the connection, if its section wants lines of that level. */
#define tls_log(tls, level, ...) ((void)((tls)->section->debug >= (level) && (log_write((level), (tls)->log_id, __VA_ARGS__), 0)))

/* Writes a session's id in hexadecimal, "" if it has none, and returns `hex`, which has room for 65 bytes. */
const char *tls_session_id_text(const struct ssl_session_st *session, char *hex);

/* Logs a session's id at LOG_INFO, if it has one. */
void tls_log_session_id(const struct tls *tls, const struct ssl_session_st *session);

/*
 * Whether OpenSSL is to tell the secrets that it derives. It writes each of them down in hexadecimal, 30 thousand instructions, so it is asked
 * for those of the traffic alone, which come after a Finished; the context is its worker's, and a handshake that waits meanwhile asks again.
 */
void tls_context_listen(struct tls_context *context, bool listen);

#endif
