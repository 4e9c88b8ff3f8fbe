/*
 * Certificates and keys of a section as loaded from its files. For tls*.c only.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_TLS_IDENTITY_H
#define TLSPLICE_TLS_IDENTITY_H

#include "tls.h"

#include <openssl/types.h>

/*
 * Copies the section's certificates and keys into a context of another library context.
 * Returns false with the reason in OpenSSL's error queue.
 */
bool tls_identity_install(const struct tls_identity *identity, SSL_CTX *ctx, OSSL_LIB_CTX *library);

/* The DH parameters beside one of the certificates, and where that is; NULL: there are none. */
const EVP_PKEY *tls_identity_dh(const struct tls_identity *identity);
const char *tls_identity_dh_place(const struct tls_identity *identity);

#endif
