/*
 * AEAD ciphers by OpenSSL's EVP: every cipher, every machine. See aead.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "aead.h"

#include <limits.h>
#include <openssl/evp.h>
#include <stdlib.h>

struct evp {
	struct aead aead;
	EVP_CIPHER_CTX *ctx;
};

static const EVP_CIPHER *cipher_of(enum aead_cipher cipher)
{
	switch (cipher) {
	case AEAD_AES_128_GCM:
		return EVP_aes_128_gcm();
	case AEAD_AES_256_GCM:
		return EVP_aes_256_gcm();
	case AEAD_CHACHA20_POLY1305:
		return EVP_chacha20_poly1305();
	default: return NULL;
	}
}

static void evp_destroy(struct aead *aead)
{
	struct evp *e = (struct evp *)aead;

	EVP_CIPHER_CTX_free(e->ctx); /* wipes */
	free(e);
}

static struct aead *evp_create(enum aead_cipher cipher, const unsigned char *key, bool seal)
{
	struct evp *e = cipher_of(cipher) ? calloc(1, sizeof(*e)) : NULL;

	if (!e)
		return NULL;
	e->ctx = EVP_CIPHER_CTX_new();
	if (e->ctx && EVP_CipherInit_ex(e->ctx, cipher_of(cipher), NULL, key, NULL, seal) == 1)
		return &e->aead;
	evp_destroy(&e->aead);
	return NULL;
}

static bool evp_begin(struct aead *aead, const unsigned char *nonce, const void *aad, size_t aad_len)
{
	EVP_CIPHER_CTX *ctx = ((struct evp *)aead)->ctx;
	int n;

	return EVP_CipherInit_ex(ctx, NULL, NULL, NULL, nonce, -1) == 1 && EVP_CipherUpdate(ctx, NULL, &n, aad, (int)aad_len) == 1;
}

static bool evp_update(struct aead *aead, void *out, const void *in, size_t n)
{
	int done;

	return n <= INT_MAX && EVP_CipherUpdate(((struct evp *)aead)->ctx, out, &done, in, (int)n) == 1 && (size_t)done == n;
}

static bool evp_seal(struct aead *aead, unsigned char *tag)
{
	EVP_CIPHER_CTX *ctx = ((struct evp *)aead)->ctx;
	int n;

	return EVP_CipherFinal_ex(ctx, tag, &n) == 1 && EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, AEAD_TAG, tag) == 1;
}

static bool evp_open(struct aead *aead, const unsigned char *tag)
{
	EVP_CIPHER_CTX *ctx = ((struct evp *)aead)->ctx;
	unsigned char none[AEAD_TAG];
	int n;

	return EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, AEAD_TAG, (void *)(uintptr_t)tag) == 1 && EVP_CipherFinal_ex(ctx, none, &n) == 1;
}

const struct aead_backend aead_evp = {
	.create = evp_create,
	.destroy = evp_destroy,
	.begin = evp_begin,
	.update = evp_update,
	.seal = evp_seal,
	.open = evp_open,
};
