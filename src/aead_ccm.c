/*
 * AES-CCM by OpenSSL's EVP, which wants the whole message at once: what comes in pieces is gathered first. Slow and rarely met. See aead.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "aead.h"

#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

enum { MESSAGE_MAX = 16384 + 257, AAD_MAX = 16 };

struct ccm {
	struct aead aead;
	EVP_CIPHER_CTX *ctx;
	bool seal;
	unsigned char nonce[AEAD_NONCE], aad[AAD_MAX];
	size_t aad_len, n;
	unsigned char *out;     /* where the first piece goes, and the others behind it */
	unsigned char *message; /* MESSAGE_MAX bytes, of which n are there; NULL between messages */
};

static void forget(struct ccm *c)
{
	if (c->message)
		explicit_bzero(c->message, c->n);
	free(c->message);
	c->message = NULL;
}

static void ccm_destroy(struct aead *aead)
{
	struct ccm *c = (struct ccm *)aead;

	forget(c);
	EVP_CIPHER_CTX_free(c->ctx); /* wipes */
	free(c);
}

static struct aead *ccm_create(enum aead_cipher cipher, const unsigned char *key, bool seal)
{
	struct ccm *c = cipher == AEAD_AES_128_CCM ? calloc(1, sizeof(*c)) : NULL;

	if (!c)
		return NULL;
	c->seal = seal;
	c->ctx = EVP_CIPHER_CTX_new();
	if (c->ctx && EVP_CipherInit_ex(c->ctx, EVP_aes_128_ccm(), NULL, NULL, NULL, seal) == 1 &&
	    EVP_CIPHER_CTX_ctrl(c->ctx, EVP_CTRL_AEAD_SET_IVLEN, AEAD_NONCE, NULL) == 1 &&
	    EVP_CIPHER_CTX_ctrl(c->ctx, EVP_CTRL_AEAD_SET_TAG, AEAD_TAG, NULL) == 1 &&
	    EVP_CipherInit_ex(c->ctx, NULL, NULL, key, NULL, -1) == 1)
		return &c->aead;
	ccm_destroy(&c->aead);
	return NULL;
}

static bool ccm_begin(struct aead *aead, const unsigned char *nonce, const void *aad, size_t aad_len)
{
	struct ccm *c = (struct ccm *)aead;

	forget(c);
	c->message = malloc(MESSAGE_MAX);
	if (!c->message || aad_len > AAD_MAX)
		return false;
	memcpy(c->nonce, nonce, AEAD_NONCE);
	memcpy(c->aad, aad, aad_len);
	c->aad_len = aad_len;
	c->n = 0;
	return true;
}

static bool ccm_update(struct aead *aead, void *out, const void *in, size_t n)
{
	struct ccm *c = (struct ccm *)aead;

	if (n > MESSAGE_MAX - c->n)
		return false;
	if (c->n == 0)
		c->out = out;
	memcpy(c->message + c->n, in, n);
	c->n += n;
	return true;
}

/* The whole message: nonce, its length, what is authenticated beside it, itself. When opening, this is where the tag is compared. */
static bool run(struct ccm *c)
{
	int done;
	bool ok = EVP_CipherInit_ex(c->ctx, NULL, NULL, NULL, c->nonce, -1) == 1 &&
	          EVP_CipherUpdate(c->ctx, NULL, &done, NULL, (int)c->n) == 1 &&
	          EVP_CipherUpdate(c->ctx, NULL, &done, c->aad, (int)c->aad_len) == 1 &&
	          EVP_CipherUpdate(c->ctx, c->n ? c->out : c->nonce, &done, c->message, (int)c->n) == 1 && (size_t)done == c->n;

	forget(c);
	return ok;
}

static bool ccm_seal(struct aead *aead, unsigned char *tag)
{
	struct ccm *c = (struct ccm *)aead;

	return run(c) && EVP_CIPHER_CTX_ctrl(c->ctx, EVP_CTRL_AEAD_GET_TAG, AEAD_TAG, tag) == 1;
}

static bool ccm_open(struct aead *aead, const unsigned char *tag)
{
	struct ccm *c = (struct ccm *)aead;

	return EVP_CIPHER_CTX_ctrl(c->ctx, EVP_CTRL_AEAD_SET_TAG, AEAD_TAG, (void *)(uintptr_t)tag) == 1 && run(c);
}

const struct aead_backend aead_ccm = {
	.create = ccm_create,
	.destroy = ccm_destroy,
	.begin = ccm_begin,
	.update = ccm_update,
	.seal = ccm_seal,
	.open = ccm_open,
};
