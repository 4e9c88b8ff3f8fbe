/*
 * AEAD ciphers: the choice of a backend. See aead.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "aead.h"

/* In the order of preference. */
static const struct aead_backend *const backends[] = {
#ifdef HAVE_IPSEC_MB
	&aead_ipsec_mb,
#endif
	&aead_evp,
	&aead_ccm,
};

size_t aead_key_len(enum aead_cipher cipher)
{
	return cipher == AEAD_AES_128_GCM || cipher == AEAD_AES_128_CCM ? 16 : 32;
}

bool aead_is_accelerated(enum aead_cipher cipher)
{
#ifdef HAVE_IPSEC_MB
	return aead_ipsec_mb_has(cipher);
#else
	(void)cipher;
	return false;
#endif
}

struct aead *aead_new(enum aead_cipher cipher, const unsigned char *key, bool seal)
{
	struct aead *aead = NULL;

	for (size_t i = 0; !aead && i < sizeof(backends) / sizeof(*backends); i++) {
		aead = backends[i]->create(cipher, key, seal);
		if (aead)
			aead->backend = backends[i];
	}
	return aead;
}

void aead_free(struct aead *aead)
{
	if (aead)
		aead->backend->destroy(aead);
}

bool aead_begin(struct aead *aead, const unsigned char nonce[AEAD_NONCE], const void *aad, size_t aad_len)
{
	return aead->backend->begin(aead, nonce, aad, aad_len);
}

bool aead_update(struct aead *aead, void *out, const void *in, size_t n)
{
	return aead->backend->update(aead, out, in, n);
}

bool aead_seal(struct aead *aead, unsigned char tag[AEAD_TAG])
{
	return aead->backend->seal(aead, tag);
}

bool aead_open(struct aead *aead, const unsigned char tag[AEAD_TAG])
{
	return aead->backend->open(aead, tag);
}
