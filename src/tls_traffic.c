/*
 * Traffic keys: see tls_traffic.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tls_traffic.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/kdf.h>
#include <openssl/ssl.h>
#include <string.h>

static bool take_secret(unsigned char secret[TRAFFIC_SECRET_MAX], size_t *len, const char *hex)
{
	return OPENSSL_hexstr2buf_ex(secret, TRAFFIC_SECRET_MAX, len, hex, '\0') == 1;
}

/* "LABEL client-random secret", both in hex (the NSS key log format). */
void tls_traffic_keylog(struct tls_traffic *t, const char *line)
{
	const char *secret = strrchr(line, ' ');

	if (!secret)
		return;
	if (strncmp(line, "CLIENT_TRAFFIC_SECRET_0 ", 24) == 0)
		t->client_known = take_secret(t->client, &t->secret_len, secret + 1);
	else if (strncmp(line, "SERVER_TRAFFIC_SECRET_0 ", 24) == 0)
		t->server_known = take_secret(t->server, &t->secret_len, secret + 1);
}

/*
 * Counts records since the last change of keys: TLS 1.2 changes after ChangeCipherSpec (so that Finished is record 0), TLS 1.3 after Finished.
 * OpenSSL reports a record's header before the message in it. A ChangeCipherSpec is known by its header, for OpenSSL reports the message only
 * when it writes one; in TLS 1.3 it means nothing and comes before Finished.
 */
void tls_traffic_message(struct tls_traffic *t, bool write, int version, int type, const unsigned char *data, size_t n)
{
	uint64_t *count = write ? &t->written : &t->read;

	if (n == 0)
		return;
	if (!write && (type == SSL3_RT_HEADER || type == SSL3_RT_INNER_CONTENT_TYPE || type == SSL3_RT_HANDSHAKE))
		t->partial = type != SSL3_RT_HANDSHAKE && data[0] == SSL3_RT_HANDSHAKE;
	if (type == SSL3_RT_HEADER) {
		*count = data[0] == SSL3_RT_CHANGE_CIPHER_SPEC ? 0 : *count + 1;
	} else if (type == SSL3_RT_HANDSHAKE && version == TLS1_3_VERSION) {
		if (data[0] == SSL3_MT_FINISHED)
			*count = 0;
		else if (data[0] == SSL3_MT_NEWSESSION_TICKET)
			t->tickets = true;
		else if (data[0] == SSL3_MT_KEY_UPDATE)
			t->rekeyed = true;
	}
}

/* One derivation by a KDF of OpenSSL. */
static bool derive(const char *kdf_name, const OSSL_PARAM *params, unsigned char *out, size_t n)
{
	EVP_KDF *kdf = EVP_KDF_fetch(NULL, kdf_name, NULL);
	EVP_KDF_CTX *ctx = kdf ? EVP_KDF_CTX_new(kdf) : NULL;
	bool ok = ctx && EVP_KDF_derive(ctx, out, n, params) == 1;

	EVP_KDF_CTX_free(ctx);
	EVP_KDF_free(kdf);
	return ok;
}

/* OSSL_PARAMs take pointers to what they only read. */
static void *unconst(const void *pointer)
{
	return (void *)(uintptr_t)pointer;
}

/* HKDF-Expand-Label(secret, label, "", n), RFC 8446 7.1. */
static bool expand_label(const char *digest, const unsigned char *secret, size_t secret_len, const char *label,
                         unsigned char *out, size_t n)
{
	int mode = EVP_KDF_HKDF_MODE_EXPAND_ONLY;
	OSSL_PARAM params[] = {
		OSSL_PARAM_construct_int(OSSL_KDF_PARAM_MODE, &mode),
		OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, unconst(digest), 0),
		OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, unconst(secret), secret_len),
		OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_PREFIX, unconst("tls13 "), 6),
		OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_LABEL, unconst(label), strlen(label)),
		OSSL_PARAM_construct_end(),
	};

	return derive("TLS13-KDF", params, out, n);
}

bool tls_keys_from_secret(struct tls_keys *keys, enum aead_cipher cipher, const char *digest, const unsigned char *secret,
                          size_t n)
{
	return expand_label(digest, secret, n, "key", keys->key, aead_key_len(cipher)) &&
	       expand_label(digest, secret, n, "iv", keys->iv, AEAD_NONCE);
}

bool tls_secret_update(const char *digest, unsigned char *secret, size_t n)
{
	unsigned char next[TRAFFIC_SECRET_MAX];
	bool ok = expand_label(digest, secret, n, "traffic upd", next, n);

	if (ok)
		memcpy(secret, next, n);
	OPENSSL_cleanse(next, sizeof(next));
	return ok;
}

static unsigned char *take(unsigned char *from, void *to, size_t n)
{
	memcpy(to, from, n);
	return from + n;
}

bool tls_keys_from_master(struct tls_keys *client, struct tls_keys *server, enum aead_cipher cipher, const char *digest,
                          const SSL *ssl)
{
	enum { LABEL = 13 }; /* "key expansion" */
	unsigned char master[SSL_MAX_MASTER_KEY_LENGTH], seed[LABEL + 2 * SSL3_RANDOM_SIZE],
		block[2 * (AEAD_KEY_MAX + AEAD_NONCE)];
	size_t key_len = aead_key_len(cipher), iv_len = cipher == AEAD_CHACHA20_POLY1305 ? 12 : 4;
	size_t master_len = SSL_SESSION_get_master_key(SSL_get0_session(ssl), master, sizeof(master));
	OSSL_PARAM params[] = {
		OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, unconst(digest), 0),
		OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SECRET, master, master_len),
		OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SEED, seed, sizeof(seed)),
		OSSL_PARAM_construct_end(),
	};
	unsigned char *p = block;
	bool ok;

	memcpy(seed, "key expansion", LABEL);
	SSL_get_server_random(ssl, seed + LABEL, SSL3_RANDOM_SIZE);
	SSL_get_client_random(ssl, seed + LABEL + SSL3_RANDOM_SIZE, SSL3_RANDOM_SIZE);
	ok = derive("TLS1-PRF", params, block, 2 * (key_len + iv_len));
	if (ok) {
		p = take(p, client->key, key_len);
		p = take(p, server->key, key_len);
		p = take(p, client->iv, iv_len);
		take(p, server->iv, iv_len);
	}
	OPENSSL_cleanse(master, sizeof(master));
	OPENSSL_cleanse(block, sizeof(block));
	return ok;
}
