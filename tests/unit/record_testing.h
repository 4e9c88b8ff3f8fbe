/*
 * For the tests of record engines: a peer that makes its records by hand, with the keys of a real connection, so that they may be
 * anything at all and still be genuine. Included by tests/unit/keyed_testing.h, ktls_fake.h, test_ktls.c and tests/fuzz/meeting.h only.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_RECORD_TESTING_H
#define TLSPLICE_RECORD_TESTING_H

#include "aead.h"
#include "tls_traffic.h"

#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <string.h>

enum { FORGED_MAX = 5 + 65535 };

struct forger_half {
	struct tls_keys keys;
	unsigned char secret[TRAFFIC_SECRET_MAX];
	uint64_t sequence;
};

struct forger {
	bool tls13, explicit_nonce;
	enum aead_cipher cipher;
	char digest[16];
	size_t secret_len;
	struct forger_half tx, rx;
	int outer;   /* record type on the wire; 0: the right one */
	int version; /* low byte of the version on the wire; 0: the right one */
};

static inline bool forger_half_keys(struct forger *f, struct forger_half *h)
{
	h->sequence = 0;
	return tls_keys_from_secret(&h->keys, f->cipher, f->digest, h->secret, f->secret_len);
}

/* The next keys of a direction: what follows a KeyUpdate. */
static inline bool forger_update(struct forger *f, struct forger_half *h)
{
	return tls_secret_update(f->digest, h->secret, f->secret_len) && forger_half_keys(f, h);
}

/* Takes over from an established SSL object whose callbacks fed `traffic`. `client`: it was the client. */
static inline bool forger_init(struct forger *f, const SSL *ssl, const struct tls_traffic *traffic, bool client)
{
	const SSL_CIPHER *suite = SSL_get_current_cipher(ssl);
	int nid = SSL_CIPHER_get_cipher_nid(suite);
	bool ok;

	*f = (struct forger){.tls13 = SSL_version(ssl) == TLS1_3_VERSION};
	f->cipher = nid == NID_aes_128_gcm   ? AEAD_AES_128_GCM
	            : nid == NID_aes_256_gcm ? AEAD_AES_256_GCM
	            : nid == NID_aes_128_ccm ? AEAD_AES_128_CCM
	                                     : AEAD_CHACHA20_POLY1305;
	f->explicit_nonce = !f->tls13 && f->cipher != AEAD_CHACHA20_POLY1305;
	snprintf(f->digest, sizeof(f->digest), "%s", EVP_MD_get0_name(SSL_CIPHER_get_handshake_digest(suite)));
	f->secret_len = traffic->secret_len;
	memcpy(f->tx.secret, client ? traffic->client : traffic->server, sizeof(f->tx.secret));
	memcpy(f->rx.secret, client ? traffic->server : traffic->client, sizeof(f->rx.secret));
	if (f->tls13)
		ok = forger_half_keys(f, &f->tx) && forger_half_keys(f, &f->rx);
	else
		ok = tls_keys_from_master(client ? &f->tx.keys : &f->rx.keys, client ? &f->rx.keys : &f->tx.keys, f->cipher,
		                          f->digest, ssl);
	f->tx.sequence = traffic->written;
	f->rx.sequence = traffic->read;
	return ok;
}

static inline void forger_number(unsigned char *to, uint64_t n)
{
	for (int i = 7; i >= 0; i--, n >>= 8)
		to[i] = (unsigned char)n;
}

static inline void forger_nonce(const struct forger *f, const struct forger_half *h, const unsigned char *explicit_part,
                                unsigned char *nonce)
{
	unsigned char number[8];

	memcpy(nonce, h->keys.iv, AEAD_NONCE);
	forger_number(number, h->sequence);
	for (int i = 0; i < 8; i++)
		nonce[4 + i] = f->explicit_nonce ? explicit_part[i] : nonce[4 + i] ^ number[i];
}

static inline size_t forger_aad(const struct forger *f, const struct forger_half *h, const unsigned char *header, size_t n,
                                unsigned char *aad)
{
	if (f->tls13) {
		memcpy(aad, header, 5);
		return 5;
	}
	forger_number(aad, h->sequence);
	memcpy(aad + 8, header, 3);
	aad[11] = (unsigned char)(n >> 8);
	aad[12] = (unsigned char)n;
	return 13;
}

/* Encrypts or decrypts in place, by OpenSSL alone (and CCM, which has one backend). */
static inline bool forger_crypt(const struct forger *f, const struct forger_half *h, bool seal, const unsigned char *nonce,
                                const unsigned char *aad, size_t aad_len, unsigned char *text, size_t n, unsigned char *tag)
{
	const struct aead_backend *by = f->cipher == AEAD_AES_128_CCM ? &aead_ccm : &aead_evp;
	struct aead *aead = by->create(f->cipher, h->keys.key, seal);
	bool ok = aead && by->begin(aead, nonce, aad, aad_len) && (n == 0 || by->update(aead, text, text, n)) &&
	          (seal ? by->seal(aead, tag) : by->open(aead, tag));

	if (aead)
		by->destroy(aead);
	return ok;
}

/* Makes a record of at most FORGED_MAX bytes; returns its length. `padding`: zeros behind the content, in TLS 1.3. */
static inline size_t forge(struct forger *f, unsigned char *to, int type, const void *content, size_t n, size_t padding)
{
	unsigned char nonce[AEAD_NONCE], aad[13], *text = to + 5 + (f->explicit_nonce ? 8 : 0);
	size_t inner = f->tls13 ? n + 1 + padding : n;
	size_t body = (f->explicit_nonce ? 8 : 0) + inner + AEAD_TAG, aad_len;

	to[0] = (unsigned char)(f->outer ? f->outer : f->tls13 ? SSL3_RT_APPLICATION_DATA : type);
	to[1] = 3;
	to[2] = (unsigned char)(f->version ? f->version : 3);
	to[3] = (unsigned char)(body >> 8);
	to[4] = (unsigned char)body;
	if (f->explicit_nonce)
		forger_number(to + 5, ~f->tx.sequence); /* any number will do as long as it does not come back */
	if (n > 0)
		memmove(text, content, n);
	if (f->tls13) {
		text[n] = (unsigned char)type;
		memset(text + n + 1, 0, padding);
	}
	aad_len = forger_aad(f, &f->tx, to, inner, aad);
	forger_nonce(f, &f->tx, to + 5, nonce);
	if (!forger_crypt(f, &f->tx, true, nonce, aad, aad_len, text, inner, text + inner))
		return 0;
	f->tx.sequence++;
	return 5 + body;
}

/* Opens the record in front, in place: returns its length, 0 if it is not whole or not genuine. */
static inline size_t forger_open(struct forger *f, unsigned char *from, size_t n, int *type, unsigned char **content,
                                 size_t *content_len)
{
	size_t body = n < 5 ? 0 : (size_t)from[3] << 8 | from[4], skip = f->explicit_nonce ? 8 : 0, inner, aad_len;
	unsigned char nonce[AEAD_NONCE], aad[13], *text = from + 5 + skip;

	if (n < 5 || n < 5 + body || body < skip + AEAD_TAG)
		return 0;
	inner = body - skip - AEAD_TAG;
	aad_len = forger_aad(f, &f->rx, from, inner, aad);
	forger_nonce(f, &f->rx, from + 5, nonce);
	if (!forger_crypt(f, &f->rx, false, nonce, aad, aad_len, text, inner, text + inner))
		return 0;
	f->rx.sequence++;
	*type = from[0];
	if (f->tls13) {
		while (inner > 0 && text[inner - 1] == 0)
			inner--;
		*type = inner > 0 ? text[--inner] : 0;
	}
	*content = text;
	*content_len = inner;
	return 5 + body;
}

/* Gives a context a fresh key with a certificate of its own. */
static inline bool testing_identity(SSL_CTX *ctx)
{
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509 *cert = X509_new();
	X509_NAME *name = X509_get_subject_name(cert);
	bool ok;

	X509_set_version(cert, 2);
	ASN1_INTEGER_set(X509_get_serialNumber(cert), 1);
	X509_gmtime_adj(X509_getm_notBefore(cert), -60);
	X509_gmtime_adj(X509_getm_notAfter(cert), 3600);
	X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)"localhost", -1, -1, 0);
	X509_set_issuer_name(cert, name);
	X509_set_pubkey(cert, key);
	ok = X509_sign(cert, key, EVP_sha256()) > 0 && SSL_CTX_use_certificate(ctx, cert) == 1 &&
	     SSL_CTX_use_PrivateKey(ctx, key) == 1;
	X509_free(cert);
	EVP_PKEY_free(key);
	return ok;
}

#endif
