/*
 * A directory of revocation lists, looked into during handshakes. For tls_store.c and tls_verify.c only.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_TLS_CRL_DIR_H
#define TLSPLICE_TLS_CRL_DIR_H

#include <openssl/types.h>
#include <stdbool.h>

/*
 * The lists in `path` count for this store: files named as `openssl rehash` does, HASH.r0, HASH.r1 ..., each read when it is first wanted and again when it has
 * changed. What was read from a file counts until there is something newer in it, even if it is gone; one that cannot be read counts as if there were no list.
 * Certificates there do not count, unlike with X509_LOOKUP_hash_dir(3): a place for lists is not one for CAs. `path` must outlive the store. Returns false without memory. For the main thread.
 */
bool crl_dir_add(X509_STORE *store, const char *path, OSSL_LIB_CTX *library);

/*
 * Whether the directory of a store that has one, as it is now, has nothing against a certificate: no list of its issuer names it, nor are all of them out of date.
 * True if there is no list at all. Signatures are not looked at.
 */
bool crl_dir_clears(const X509_STORE *store, X509 *cert);

#endif
