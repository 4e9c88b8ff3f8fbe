/*
 * AEAD ciphers for the record layer: one key, many messages, input in pieces. intel-ipsec-mb does AES-GCM where it is built in
 * (three times as fast as OpenSSL 3.0 for a full record, five times for a short one), OpenSSL's EVP everything else.
 * Depends on nothing of the proxy. Not thread safe per key.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_AEAD_H
#define TLSPLICE_AEAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum aead_cipher { AEAD_AES_128_GCM, AEAD_AES_256_GCM, AEAD_CHACHA20_POLY1305, AEAD_AES_128_CCM, AEAD_CIPHERS };
enum { AEAD_TAG = 16, AEAD_NONCE = 12, AEAD_KEY_MAX = 32 };

struct aead;

/* Bytes of key that a cipher takes. */
size_t aead_key_len(enum aead_cipher cipher);

/* True if another library than OpenSSL does the cipher on this machine: then it is faster than anything else there is. */
bool aead_is_accelerated(enum aead_cipher cipher);

/* Expands a key for sealing or for opening. Returns NULL when there is no memory or the cipher is not to be had. */
struct aead *aead_new(enum aead_cipher cipher, const unsigned char *key, bool seal);

/* Wipes and frees. aead_free(NULL) is fine. */
void aead_free(struct aead *aead);

/*
 * One message: aead_begin(), any number of aead_update() (out == in is fine), then aead_seal() which writes the tag,
 * or aead_open() which returns whether the tag is right: what was written to `out` is worth nothing if it is not.
 * False from begin or update: the library failed.
 */
bool aead_begin(struct aead *aead, const unsigned char nonce[AEAD_NONCE], const void *aad, size_t aad_len);
bool aead_update(struct aead *aead, void *out, const void *in, size_t n);
bool aead_seal(struct aead *aead, unsigned char tag[AEAD_TAG]);
bool aead_open(struct aead *aead, const unsigned char tag[AEAD_TAG]);

/* What aead.c chooses from. A backend's struct begins with struct aead. */
struct aead_backend {
	struct aead *(*create)(enum aead_cipher cipher, const unsigned char *key, bool seal); /* NULL: not here */
	void (*destroy)(struct aead *aead);
	bool (*begin)(struct aead *aead, const unsigned char *nonce, const void *aad, size_t aad_len);
	bool (*update)(struct aead *aead, void *out, const void *in, size_t n);
	bool (*seal)(struct aead *aead, unsigned char *tag);
	bool (*open)(struct aead *aead, const unsigned char *tag);
};

struct aead {
	const struct aead_backend *backend;
};

extern const struct aead_backend aead_evp; /* all but AES-CCM */
extern const struct aead_backend aead_ccm;
extern const struct aead_backend aead_ipsec_mb; /* only where the library is there */
bool aead_ipsec_mb_has(enum aead_cipher cipher); /* likewise */

#endif
