/*
 * The inside of a TLS context. For tls*.c only.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_TLS_CONTEXT_H
#define TLSPLICE_TLS_CONTEXT_H

#include "tls.h"

#include <openssl/types.h>

struct tls_context {
	SSL_CTX *ctx;
	const struct section *section;
	struct tls_sessions *sessions;
};

#endif
