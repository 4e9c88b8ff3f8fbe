/*
 * Places where certificates and keys are: files, URIs of OSSL_STORE, and ids in an engine. For tls*.c only, in the main thread.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_TLS_PLACE_H
#define TLSPLICE_TLS_PLACE_H

#include "config.h"

#include <openssl/types.h>
#include <openssl/x509.h>
#include <stdbool.h>

enum { PLACE_TEXT_MAX = 512 };

/* What one place holds. Whoever takes a part of it puts NULL there. */
struct contents {
	STACK_OF(X509) * certs;
	EVP_PKEY *key, *dh;
	bool engine; /* it comes from an engine: a key then belongs to the process, and all threads use the same */
};

/* True for the URI of something that is no file, as "pkcs11:object=key". */
bool place_is_token(const char *place);

/* True if a file, or a URI of a scheme that a provider knows. */
bool place_has_loader(const char *place);

/* The place as it may be logged: without the PIN that a URI may have. Returns `text`. */
const char *place_text(const char *place, char text[PLACE_TEXT_MAX]);

/*
 * Reads a file or URI in a library context (NULL: the main thread's), asking for a pass phrase or a token's PIN where it takes one. `expect`: an OSSL_STORE_INFO_ type,
 * or 0 for everything. `pin`, for a token: the answer that was right before, and where a new one is put (TLS_PASSPHRASE_MAX bytes); may be NULL.
 * Returns false after logging why.
 */
bool contents_load(struct contents *contents, const char *place, int expect, OSSL_LIB_CTX *library, char *pin);

/*
 * The same from the section's engine, by the id that a certificate or key has there. `go_on`: set to false when nothing but the engine
 * should be tried any more, since somebody was asked for a PIN. Returns false after logging why.
 */
bool contents_load_cert(struct contents *contents, const struct section *section, const char *id);
bool contents_load_key(struct contents *contents, const struct section *section, const char *id, bool *go_on);

void contents_free(struct contents *contents);

#endif
