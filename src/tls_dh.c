/*
 * Diffie-Hellman groups: see tls_dh.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tls_dh.h"

#include "log.h"
#include "tls_identity.h"
#include "tls_place.h"

#include <openssl/dh.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <strings.h>

/* The groups of RFC 7919, with the bits of security that OpenSSL counts for them. */
static const struct group {
	const char *name;
	int security;
} groups[] = {{"ffdhe2048", 112}, {"ffdhe3072", 128}, {"ffdhe4096", 152}, {"ffdhe6144", 176}, {"ffdhe8192", 192}};

/* The first suite whose keys are agreed on by plain Diffie-Hellman, or NULL. */
static const char *needing_suite(const SSL_CTX *ctx)
{
	STACK_OF(SSL_CIPHER) *suites = SSL_CTX_get_ciphers(ctx);

	for (int i = 0; i < sk_SSL_CIPHER_num(suites); i++) {
		int kx = SSL_CIPHER_get_kx_nid(sk_SSL_CIPHER_value(suites, i));

		if (kx == NID_kx_dhe || kx == NID_kx_dhe_psk)
			return SSL_CIPHER_get_name(sk_SSL_CIPHER_value(suites, i));
	}
	return NULL;
}

/* `config = DHParameters:FILE` has the last word. */
static bool chosen_by_config(const struct section *s)
{
	for (size_t i = 0; i < s->config.count; i++)
		if (strncasecmp(s->config.texts[i], "DHParameters:", 13) == 0)
			return true;
	return false;
}

/* SSL_CTX_set_security_level(3) */
static int level_bits(const SSL_CTX *ctx)
{
	static const int bits[] = {0, 80, 112, 128, 192, 256};
	int level = SSL_CTX_get_security_level(ctx);

	return bits[level < 0 ? 0 : level > 5 ? 5 : level];
}

static const char *group_for(const SSL_CTX *ctx)
{
	EVP_PKEY *key = SSL_CTX_get0_privatekey(ctx);
	int wanted = level_bits(ctx), of_key = key ? EVP_PKEY_get_security_bits(key) : 0;
	size_t i = 0;

	if (wanted < of_key)
		wanted = of_key;
	while (i + 1 < sizeof(groups) / sizeof(*groups) && groups[i].security < wanted)
		i++;
	return groups[i].name;
}

static EVP_PKEY *named_group(const char *name, OSSL_LIB_CTX *library)
{
	EVP_PKEY_CTX *generator = EVP_PKEY_CTX_new_from_name(library, "DH", NULL);
	EVP_PKEY *params = NULL;

	if (generator && EVP_PKEY_paramgen_init(generator) > 0 && EVP_PKEY_CTX_set_group_name(generator, name) > 0 &&
	    EVP_PKEY_paramgen(generator, &params) <= 0)
		params = NULL;
	EVP_PKEY_CTX_free(generator);
	return params;
}

/* Parameters are plain numbers: OpenSSL exports them to the library context that uses them. */
static EVP_PKEY *params_copy(const EVP_PKEY *params)
{
	unsigned char *der = NULL;
	int n = i2d_KeyParams(params, &der);
	const unsigned char *p = der;
	EVP_PKEY *copy = n > 0 ? d2i_KeyParams(EVP_PKEY_DH, NULL, &p, n) : NULL;

	OPENSSL_free(der);
	return copy;
}

static void announce_params(const struct section *s, const struct tls_identity *identity, const EVP_PKEY *found,
                            const char *suite)
{
	char text[PLACE_TEXT_MAX];

	log_global(LOG_INFO, "DH initialization needed for %s", suite);
	log_global(LOG_DEBUG, "DH initialization");
	if (found) {
		log_global(LOG_DEBUG, "Using DH parameters from %s", place_text(tls_identity_dh_place(identity), text));
		log_global(LOG_INFO, "%d-bit DH parameters loaded", EVP_PKEY_get_bits(found));
		return;
	}
	if (s->cert.count)
		log_global(LOG_DEBUG, "Could not load DH parameters from %s", place_text(s->cert.texts[0], text));
	else
		log_global(LOG_DEBUG, "No certificate available to load DH parameters");
	log_global(LOG_INFO, "Using dynamic DH parameters");
}

bool tls_dh_install(SSL_CTX *ctx, const struct section *s, const struct tls_identity *identity, OSSL_LIB_CTX *library,
                    bool announce)
{
	const EVP_PKEY *found = tls_identity_dh(identity);
	const char *suite = s->client ? NULL : needing_suite(ctx);
	EVP_PKEY *params;

	if (announce && !suite)
		log_global(LOG_INFO, "DH initialization skipped: %s", s->client ? "client section" : "no DH ciphersuites");
	if (!suite || chosen_by_config(s))
		return true;
	if (announce)
		announce_params(s, identity, found, suite);
	ERR_clear_error();
	params = found ? params_copy(found) : named_group(group_for(ctx), library);
	if (params && SSL_CTX_set0_tmp_dh_pkey(ctx, params) == 1)
		return true;
	EVP_PKEY_free(params);
	tls_log_errors(LOG_ERR, NULL, "SSL_CTX_set0_tmp_dh_pkey", NULL);
	return false;
}
