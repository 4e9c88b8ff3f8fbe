/*
 * Pre-shared keys in handshakes of TLS 1.2 (RFC 4279, 5489) and TLS 1.3 (RFC 8446 2.2). For tls*.c only.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_TLS_PSK_H
#define TLSPLICE_TLS_PSK_H

#include "tls.h"

#include <openssl/types.h>

/*
 * True if the peers of the section must have a key (PSKrequire): then nothing else may authenticate them. A server needs no certificate for such clients
 * and has none to show; a client refuses a server's.
 */
bool tls_psk_required(const struct section *section);

/*
 * Has a context use the section's keys, if it has any. To be called last, for it narrows the cipher suites down to those that keys can be used with.
 * Returns false after logging why.
 */
bool tls_psk_install(SSL_CTX *ctx, const struct section *section, bool announce);

/* After the handshake: false, logged, if the section's keys are required and none was used. */
bool tls_psk_accepts(const struct tls *tls);

/* Server mode: a key of the file has authenticated the client in this handshake. */
bool tls_psk_used(const struct tls *tls);

#endif
