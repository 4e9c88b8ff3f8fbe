/*
 * Revocation by OCSP: the peer's certificates are asked about during the handshake, in the order stapled response, configured responder,
 * responders of the certificate. All state is the connection's. For tls*.c only.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_TLS_OCSP_H
#define TLSPLICE_TLS_OCSP_H

#include "tls.h"

#include <openssl/types.h>
#include <stdbool.h>

/*
 * For the verify callback of a section with verifyChain, about the certificate at hand, which all other checks have passed. Returns false, with the error
 * set in `ctx`, when it is not to be accepted. The leaf of client mode waits for the stapling callback; of a chain that was rejected nobody is asked
 * about the rest. May suspend the conversation.
 */
bool tls_ocsp_verify(struct tls *tls, X509_STORE_CTX *ctx);

/* Client mode: has contexts ask for a stapled response, and checks it. Returns false without memory. */
bool tls_ocsp_install(SSL_CTX *ctx);

/* Frees what the connection remembers of its certificates. */
void tls_ocsp_end(struct tls *tls);

#endif
