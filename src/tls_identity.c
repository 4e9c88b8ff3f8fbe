/*
 * Certificates and keys: loaded once by the main thread, then copied into every worker's contexts. Keys that cannot be copied are shared (an engine's)
 * or loaded there once more (a provider's). See tls.h and tls_identity.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tls_identity.h"

#include "log.h"
#include "tls_place.h"
#include "tls_prompt.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/store.h>
#include <openssl/x509.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* One certificate with its chain and key; a section may have several (RSA and ECDSA). */
struct pair {
	X509 *cert;
	STACK_OF(X509) * chain;
	EVP_PKEY *key;
	const char *place; /* of the key; at first of the certificate */
	bool engine;       /* the key is an engine's */
	bool stays;        /* the key does not leave its provider */
};

struct tls_identity {
	struct pair *pairs;
	size_t count;
	EVP_PKEY *dh; /* parameters found beside a certificate, or NULL */
	const char *dh_place;
	char *pin; /* of a token, for the loads in other library contexts */
};

static void warn_if_open_to_all(const char *file)
{
	struct stat st;

	if (stat(file, &st) == 0 && (st.st_mode & 7))
		log_global(LOG_WARNING, "Insecure file permissions on %s", file);
}

static struct pair *pair_add(struct tls_identity *identity)
{
	struct pair *pairs = realloc(identity->pairs, (identity->count + 1) * sizeof(*pairs));

	if (!pairs)
		return NULL;
	identity->pairs = pairs;
	memset(&pairs[identity->count], 0, sizeof(*pairs));
	return &pairs[identity->count++];
}

/* Takes the certificates of `from` over: the first is the pair's own unless it has one, the others are chain. */
static bool pair_take_certs(struct pair *pair, struct contents *from)
{
	X509 *cert;

	if (!pair->chain)
		pair->chain = sk_X509_new_null();
	while (pair->chain && (cert = sk_X509_shift(from->certs))) {
		if (!pair->cert) {
			pair->cert = cert;
		} else if (!sk_X509_push(pair->chain, cert)) {
			X509_free(cert);
			return false;
		}
	}
	return pair->chain != NULL;
}

/* True if a key can be had as bytes, and so copied. */
static bool has_bytes(EVP_PKEY *key)
{
	unsigned char *der = NULL;
	int n = i2d_PrivateKey(key, &der);

	OPENSSL_clear_free(der, n > 0 ? (size_t)n : 0);
	ERR_clear_error();
	return n > 0;
}

static void pair_take_key(struct pair *pair, struct contents *from, const char *place)
{
	EVP_PKEY_free(pair->key);
	pair->key = from->key;
	from->key = NULL;
	pair->place = place;
	pair->engine = from->engine;
	pair->stays = !pair->engine && !has_bytes(pair->key);
	if (pair->stays)
		log_global(LOG_DEBUG, "Private key stays in its provider: each worker opens it");
}

/* True for what may be an id in the section's engine. */
static bool in_engine(const struct section *section, const char *place)
{
	return section->engine_num > 0 && access(place, F_OK) != 0;
}

static bool load_certs(struct tls_identity *identity, const struct section *section, const char *place, struct contents *c)
{
	/* Of a token, not what would need a PIN. */
	int expect = place_is_token(place) && section->key ? OSSL_STORE_INFO_CERT : 0;

	if (in_engine(section, place)) {
		if (contents_load_cert(c, section, place))
			return true;
		if (!place_has_loader(place))
			return false;
	}
	return contents_load(c, place, expect, NULL, identity->pin) && sk_X509_num(c->certs) > 0;
}

static bool load_key(struct tls_identity *identity, const struct section *section, const char *place, struct contents *c)
{
	bool go_on;

	if (in_engine(section, place)) {
		if (contents_load_key(c, section, place, &go_on))
			return true;
		if (!go_on || !place_has_loader(place))
			return false;
	}
	return contents_load(c, place, OSSL_STORE_INFO_PKEY, NULL, identity->pin) && c->key;
}

/*
 * A place with certificates. The first, and every later one with a key of its own or in a token, begins a new pair;
 * a later file without a key adds to the chain of the pair before it.
 */
static bool add_certs(struct tls_identity *identity, const struct section *section, const char *place)
{
	struct contents c = {0};
	char text[PLACE_TEXT_MAX];
	struct pair *pair;
	bool ok = false, begins;

	if (!load_certs(identity, section, place, &c)) {
		log_global(LOG_ERR, "Failed to load certificate from: %s", place_text(place, text));
		goto out;
	}
	begins = identity->count == 0 || c.key || place_is_token(place) || in_engine(section, place);
	pair = begins ? pair_add(identity) : &identity->pairs[identity->count - 1];
	if (!pair || !pair_take_certs(pair, &c)) {
		log_global(LOG_ERR, "No memory for the certificates of %s", place_text(place, text));
		goto out;
	}
	if (begins)
		pair->place = place;
	if (c.key)
		pair_take_key(pair, &c, place);
	if (!identity->dh) {
		identity->dh = c.dh;
		identity->dh_place = place;
		c.dh = NULL;
	}
	if (!c.engine)
		log_global(LOG_INFO, "Certificate loaded from: %s", place_text(place, text));
	ok = true;
out:
	contents_free(&c);
	return ok;
}

static bool add_key(struct tls_identity *identity, const struct section *section, struct pair *pair, const char *place)
{
	struct contents c = {0};
	char text[PLACE_TEXT_MAX];
	bool ok = load_key(identity, section, place, &c);

	if (ok)
		pair_take_key(pair, &c, place);
	else
		log_global(LOG_ERR, "Failed to load private key from: %s", place_text(place, text));
	contents_free(&c);
	return ok;
}

/* The option `key` belongs to the first certificate. What lies in tokens comes one at a time: the key has its certificate's id there. */
static bool add_keys(struct tls_identity *identity, const struct section *section)
{
	bool ok = true;

	if (section->key && strcmp(section->key, section->cert.texts[0]) != 0)
		ok = add_key(identity, section, &identity->pairs[0], section->key);
	for (size_t i = 0; ok && i < identity->count; i++) {
		struct pair *pair = &identity->pairs[i];

		if (!pair->key && (in_engine(section, pair->place) || place_is_token(pair->place)))
			ok = add_key(identity, section, pair, pair->place);
	}
	return ok;
}

/* OpenSSL has one place for each kind of key: a second certificate would take the first one's, but not its chain. */
static bool kinds_differ(const struct tls_identity *identity)
{
	char text[PLACE_TEXT_MAX];

	for (size_t i = 0; i < identity->count; i++) {
		EVP_PKEY *key = X509_get0_pubkey(identity->pairs[i].cert);

		for (size_t k = 0; k < i; k++) {
			EVP_PKEY *other = X509_get0_pubkey(identity->pairs[k].cert);

			if (!key || !other || EVP_PKEY_get_base_id(key) != EVP_PKEY_get_base_id(other))
				continue;
			log_global(LOG_ERR, "Another certificate of the section has a %s key, too: %s",
			           EVP_PKEY_get0_type_name(key), place_text(identity->pairs[i].place, text));
			return false;
		}
	}
	return true;
}

static bool check_pairs(const struct tls_identity *identity, const char *key_place)
{
	char text[PLACE_TEXT_MAX];

	if (!kinds_differ(identity))
		return false;
	place_text(key_place, text);
	for (size_t i = 0; i < identity->count; i++) {
		if (!identity->pairs[i].key) {
			log_global(LOG_ERR, "Failed to load private key from: %s", text);
			return false;
		}
		ERR_clear_error();
		if (X509_check_private_key(identity->pairs[i].cert, identity->pairs[i].key) != 1) {
			tls_log_errors(LOG_ERR, NULL, "Private key does not match the certificate", NULL);
			return false;
		}
	}
	if (!identity->pairs[0].engine)
		log_global(LOG_INFO, "Private key loaded from: %s", text);
	log_global(LOG_DEBUG, "Private key check succeeded");
	return true;
}

struct tls_identity *tls_identity_load(const struct section *section)
{
	struct tls_identity *identity = calloc(1, sizeof(*identity));
	const char *key_place = section->key ? section->key : section->cert.count ? section->cert.texts[0] : NULL;
	bool ok = identity != NULL;

	if (identity && section->cert.count == 0)
		return identity; /* a client, or a server without certificate */
	if (ok) {
		identity->pin = calloc(1, TLS_PASSPHRASE_MAX);
		ok = identity->pin != NULL;
		warn_if_open_to_all(key_place);
	}
	for (size_t i = 0; ok && i < section->cert.count; i++)
		ok = add_certs(identity, section, section->cert.texts[i]);
	if (ok && add_keys(identity, section) && check_pairs(identity, key_place))
		return identity;
	tls_identity_free(identity);
	return NULL;
}

void tls_identity_free(struct tls_identity *identity)
{
	if (!identity)
		return;
	for (size_t i = 0; i < identity->count; i++) {
		X509_free(identity->pairs[i].cert);
		sk_X509_pop_free(identity->pairs[i].chain, X509_free);
		EVP_PKEY_free(identity->pairs[i].key);
	}
	EVP_PKEY_free(identity->dh);
	if (identity->pin)
		OPENSSL_cleanse(identity->pin, TLS_PASSPHRASE_MAX);
	free(identity->pin);
	free(identity->pairs);
	free(identity);
}

/* Copies between library contexts go through DER. */
static X509 *cert_copy(X509 *cert, OSSL_LIB_CTX *library)
{
	unsigned char *der = NULL;
	int n = i2d_X509(cert, &der);
	const unsigned char *p = der;
	X509 *copy = n > 0 ? X509_new_ex(library, NULL) : NULL;

	if (copy && !d2i_X509(&copy, &p, n))
		copy = NULL; /* d2i freed it */
	OPENSSL_free(der);
	return copy;
}

static EVP_PKEY *key_copy(EVP_PKEY *key, OSSL_LIB_CTX *library)
{
	unsigned char *der = NULL;
	int n = i2d_PrivateKey(key, &der);
	const unsigned char *p = der;
	EVP_PKEY *copy = n > 0 ? d2i_AutoPrivateKey_ex(NULL, &p, n, library, NULL) : NULL;

	OPENSSL_clear_free(der, n > 0 ? (size_t)n : 0);
	return copy;
}

/* The pair's key for use in a library context. */
static EVP_PKEY *pair_key(const struct pair *pair, OSSL_LIB_CTX *library, char *pin)
{
	struct contents c = {0};
	EVP_PKEY *key;

	if (pair->engine)
		return EVP_PKEY_up_ref(pair->key) == 1 ? pair->key : NULL;
	if (!pair->stays)
		return key_copy(pair->key, library);
	if (!contents_load(&c, pair->place, OSSL_STORE_INFO_PKEY, library, pin))
		return NULL;
	key = c.key;
	c.key = NULL;
	contents_free(&c);
	return key;
}

static bool pair_install(const struct pair *pair, SSL_CTX *ctx, OSSL_LIB_CTX *library, char *pin)
{
	X509 *cert = cert_copy(pair->cert, library);
	EVP_PKEY *key = pair_key(pair, library, pin);
	bool ok = cert && key && SSL_CTX_use_certificate(ctx, cert) == 1 && SSL_CTX_use_PrivateKey(ctx, key) == 1;

	for (int i = 0; ok && i < sk_X509_num(pair->chain); i++) {
		X509 *link = cert_copy(sk_X509_value(pair->chain, i), library);

		ok = link && SSL_CTX_add0_chain_cert(ctx, link) == 1;
		if (!ok)
			X509_free(link);
	}
	X509_free(cert);
	EVP_PKEY_free(key);
	return ok;
}

bool tls_identity_install(const struct tls_identity *identity, SSL_CTX *ctx, OSSL_LIB_CTX *library)
{
	for (size_t i = 0; i < identity->count; i++)
		if (!pair_install(&identity->pairs[i], ctx, library, identity->pin))
			return false;
	return true;
}

const EVP_PKEY *tls_identity_dh(const struct tls_identity *identity)
{
	return identity->dh;
}

const char *tls_identity_dh_place(const struct tls_identity *identity)
{
	return identity->dh_place;
}
