/*
 * Certificates and keys of a section as loaded from its files. For tls*.c only.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_TLS_IDENTITY_H
#define TLSPLICE_TLS_IDENTITY_H

#include "tls.h"

#include <openssl/types.h>

/*
 * Copies the section's certificates, keys and DH parameters into a context of another library context.
 * Returns false with the reason in OpenSSL's error queue.
 */
bool tls_identity_install(const struct tls_identity *identity, SSL_CTX *ctx, OSSL_LIB_CTX *library);

#endif
