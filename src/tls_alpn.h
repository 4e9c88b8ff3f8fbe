/*
 * The application protocol (ALPN, RFC 7301). For tls*.c and tests only.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_TLS_ALPN_H
#define TLSPLICE_TLS_ALPN_H

#include "tls.h"

#include <openssl/types.h>

/*
 * The first of our protocols that is among those of a peer: n bytes, each protocol with its length in front (RFC 7301 3.1). NULL: none is, or the list is
 * malformed.
 */
const char *alpn_select(const struct texts *ours, const unsigned char *theirs, size_t n);

/* Has a context of the section offer its protocols, or choose among those of clients. Returns false without memory. */
bool tls_alpn_install(SSL_CTX *ctx, const struct section *section);

/* After the handshake: notes in tls->alpn what was agreed on, and logs it. False, logged, if a server has chosen what it was not offered. */
bool tls_alpn_settle(struct tls *tls);

#endif
