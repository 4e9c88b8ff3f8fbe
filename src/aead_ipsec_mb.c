/*
 * AES-GCM by intel-ipsec-mb, which picks the widest instructions the processor has (VAES with AVX-512, AVX2, AES-NI). See aead.h.
 * Compiled only where the library is there: tests/features/ipsec-mb.c.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "aead.h"

#include <intel-ipsec-mb.h>
#include <openssl/crypto.h>
#include <pthread.h>
#include <stdlib.h>

struct gcm {
	struct aead aead;
	bool wide; /* 256-bit key */
	bool sealing;
	struct gcm_context_data run; /* the message under way */
	_Alignas(64) struct gcm_key_data key; /* the header aligns it only where LINUX is defined */
};

static IMB_MGR *manager; /* its functions only: no state of it is used, so all threads may */

static void start(void)
{
	IMB_MGR *m = alloc_mb_mgr(0);
	IMB_ARCH arch;

	if (!m)
		return;
	init_mb_mgr_auto(m, &arch);
	if (imb_get_errno(m) == 0)
		manager = m;
	else
		free_mb_mgr(m);
}

bool aead_ipsec_mb_has(enum aead_cipher cipher)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, start);
	return manager && (cipher == AEAD_AES_128_GCM || cipher == AEAD_AES_256_GCM);
}

static struct aead *gcm_create(enum aead_cipher cipher, const unsigned char *key, bool seal)
{
	struct gcm *g;

	if (!aead_ipsec_mb_has(cipher))
		return NULL;
	g = aligned_alloc(_Alignof(struct gcm), sizeof(*g));
	if (!g)
		return NULL;
	g->wide = cipher == AEAD_AES_256_GCM;
	g->sealing = seal;
	if (g->wide)
		IMB_AES256_GCM_PRE(manager, key, &g->key);
	else
		IMB_AES128_GCM_PRE(manager, key, &g->key);
	return &g->aead;
}

static void gcm_destroy(struct aead *aead)
{
	OPENSSL_cleanse(aead, sizeof(struct gcm));
	free(aead);
}

static bool gcm_begin(struct aead *aead, const unsigned char *nonce, const void *aad, size_t aad_len)
{
	struct gcm *g = (struct gcm *)aead;

	if (g->wide)
		IMB_AES256_GCM_INIT(manager, &g->key, &g->run, nonce, aad, aad_len);
	else
		IMB_AES128_GCM_INIT(manager, &g->key, &g->run, nonce, aad, aad_len);
	return true;
}

static bool gcm_update(struct aead *aead, void *out, const void *in, size_t n)
{
	struct gcm *g = (struct gcm *)aead;

	if (g->sealing && g->wide)
		IMB_AES256_GCM_ENC_UPDATE(manager, &g->key, &g->run, out, in, n);
	else if (g->sealing)
		IMB_AES128_GCM_ENC_UPDATE(manager, &g->key, &g->run, out, in, n);
	else if (g->wide)
		IMB_AES256_GCM_DEC_UPDATE(manager, &g->key, &g->run, out, in, n);
	else
		IMB_AES128_GCM_DEC_UPDATE(manager, &g->key, &g->run, out, in, n);
	return true;
}

static bool gcm_seal(struct aead *aead, unsigned char *tag)
{
	struct gcm *g = (struct gcm *)aead;

	if (g->wide)
		IMB_AES256_GCM_ENC_FINALIZE(manager, &g->key, &g->run, tag, AEAD_TAG);
	else
		IMB_AES128_GCM_ENC_FINALIZE(manager, &g->key, &g->run, tag, AEAD_TAG);
	return true;
}

static bool gcm_open(struct aead *aead, const unsigned char *tag)
{
	struct gcm *g = (struct gcm *)aead;
	unsigned char right[AEAD_TAG];

	if (g->wide)
		IMB_AES256_GCM_DEC_FINALIZE(manager, &g->key, &g->run, right, AEAD_TAG);
	else
		IMB_AES128_GCM_DEC_FINALIZE(manager, &g->key, &g->run, right, AEAD_TAG);
	return CRYPTO_memcmp(right, tag, AEAD_TAG) == 0;
}

const struct aead_backend aead_ipsec_mb = {
	.create = gcm_create,
	.destroy = gcm_destroy,
	.begin = gcm_begin,
	.update = gcm_update,
	.seal = gcm_seal,
	.open = gcm_open,
};
