/*
 * A directory of revocation lists, looked into during handshakes. For tls_trust.c only.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_TLS_CRL_DIR_H
#define TLSPLICE_TLS_CRL_DIR_H

#include <openssl/types.h>
#include <openssl/x509_vfy.h>
#include <stdbool.h>

/*
 * The lists in `path` count for this store: files named as `openssl rehash` does, HASH.r0, HASH.r1 ..., each read when it is first wanted and again when it has
 * changed. Certificates there do not count, unlike with X509_LOOKUP_hash_dir(3): a place for lists is not one for CAs. `path` must outlive the store.
 * Returns false without memory.
 */
bool crl_dir_add(X509_STORE *store, const char *path, OSSL_LIB_CTX *library);

/* A copy in another library context, or NULL. */
X509_CRL *crl_copy(X509_CRL *crl, OSSL_LIB_CTX *library);

/* Answers a lookup with the store's object of that type and name: X509_LOOKUP_meth_new(3) says how. Returns 0 if it has none. */
int lookup_answer(X509_STORE *store, X509_LOOKUP_TYPE type, const X509_NAME *name, X509_OBJECT *found);

#endif
