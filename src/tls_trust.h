/*
 * Who is trusted: a section's CA certificates and revocation lists, and the checks of a peer's certificate in a handshake.
 * What the files hold is read once by the main thread; each worker's store is made from that. For tls*.c only; tls.h has the rest.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_TLS_TRUST_H
#define TLSPLICE_TLS_TRUST_H

#include "tls.h"

#include <openssl/types.h>
#include <openssl/x509.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

enum { TRUST_DIGEST = 32 };

struct tls_context;

/* A certificate of the store. */
struct anchor {
	unsigned long hash; /* of the subject */
	unsigned char *der; /* with what `openssl x509 -addtrust` puts behind it */
	int len;
};

struct tls_trust {
	atomic_uint refs;
	struct anchor *anchors; /* by hash; no two are the same */
	size_t count;
	STACK_OF(X509_CRL) * crls;
	STACK_OF(X509_NAME) * names; /* of the CAs, for the log and for clients */
	EVP_MD_CTX *digesting;       /* while loading */
	unsigned char digest[TRUST_DIGEST];
};

/*
 * Adds a certificate that came from somewhere else than a file, while the trust is being loaded: it counts like those of CAfile. Keeps no reference.
 * Returns false without memory.
 */
bool tls_trust_add(struct tls_trust *trust, X509 *cert);

/* Once all are added: brings the certificates into the order in which they are looked for. */
void tls_trust_sort(struct tls_trust *trust);

/*
 * Gives a context of one worker its certificate store, the client CA names that a server sends, and what it asks peers for.
 * The context's section and trust must be set. Returns false with the reason in OpenSSL's error queue.
 */
bool tls_trust_install(struct tls_context *context, OSSL_LIB_CTX *library);

/* The last look at a context: false after logging which of the section's options would let peers past the checks. */
bool tls_trust_check(const struct tls_context *context);

/*
 * SHA-256 of everything that decides about a peer and is known when the section is loaded: options, CA certificates, pre-shared keys, revocation lists (those of CApath
 * and CRLpath as they are then). A session made under another digest proves nothing.
 */
const unsigned char *tls_trust_digest(const struct tls_trust *trust);

#endif
