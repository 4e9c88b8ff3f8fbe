/*
 * The checks of a peer's certificate. For tls*.c only; tls_trust.h says what is trusted.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_TLS_VERIFY_H
#define TLSPLICE_TLS_VERIFY_H

#include "log.h"
#include "tls.h"

#include <openssl/types.h>

struct tls_context;

/* A name for the log: "C=PL, O=Wire, CN=client". `text` has LOG_TEXT_MAX bytes, and is returned. */
const char *name_text(const X509_NAME *name, char text[LOG_TEXT_MAX]);

/* What a context asks its peers for, and the callbacks that judge the answer. */
void verify_install(struct tls_context *context);

/*
 * Before a session is resumed, about the certificate that began it: false, logged, if what can be known without its chain speaks against it, its last day or a list of
 * CRLpath. Then there is a full handshake, with all checks.
 */
bool verify_again(const struct tls *tls, X509 *cert);

/* Before a handshake: says in the log what is asked for. */
void verify_announce(const struct tls *tls);

#endif
