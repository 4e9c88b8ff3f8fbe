/*
 * Diffie-Hellman of TLS 1.2 and older (RFC 5246 F.1.1.3, RFC 7919). For tls*.c only.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_TLS_DH_H
#define TLSPLICE_TLS_DH_H

#include "tls.h"

#include <openssl/types.h>

/*
 * Gives a server's context a group if one of its cipher suites needs it: the parameters found beside a certificate, else that of RFC 7919 which is as strong
 * as the certificate's key and the security level. To be called last. Returns false after logging why.
 */
bool tls_dh_install(SSL_CTX *ctx, const struct section *section, const struct tls_identity *identity, OSSL_LIB_CTX *library,
                    bool announce);

#endif
