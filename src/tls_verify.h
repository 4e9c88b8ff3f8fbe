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

/* Before a handshake: says in the log what is asked for. */
void verify_announce(const struct tls *tls);

#endif
