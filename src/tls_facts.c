/*
 * What a handshake came to: see tls_facts.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tls_facts.h"

#include "tls.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <stdio.h>
#include <string.h>

/* The last one is the most specific: names begin with the country. */
static const ASN1_STRING *find_common_name(const X509 *cert)
{
	const X509_NAME *subject = X509_get_subject_name(cert);
	int at = -1, last = -1;

	while ((at = X509_NAME_get_index_by_NID(subject, NID_commonName, at)) >= 0)
		last = at;
	return last < 0 ? NULL : X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, last));
}

static void put_common_name(const X509 *cert, char name[COMMON_NAME_MAX + 1])
{
	const ASN1_STRING *string = find_common_name(cert);
	unsigned char *utf8 = NULL;
	int n = string ? ASN1_STRING_to_UTF8(&utf8, string) : 0;

	if (n > 0 && n <= COMMON_NAME_MAX && !memchr(utf8, '\0', (size_t)n)) {
		memcpy(name, utf8, (size_t)n);
		name[n] = '\0';
	}
	OPENSSL_free(utf8);
	ERR_clear_error();
}

/* Keys of some types come in several sizes. */
static void put_key(const EVP_PKEY *key, char text[FACT_MAX + 1])
{
	static const char *const sized[] = {"RSA", "RSA-PSS", "DSA", "EC"};
	const char *name = key ? EVP_PKEY_get0_type_name(key) : NULL;

	if (!name)
		return;
	for (size_t i = 0; i < sizeof(sized) / sizeof(*sized); i++) {
		if (EVP_PKEY_is_a(key, sized[i])) {
			snprintf(text, FACT_MAX + 1, "%s%d", sized[i], EVP_PKEY_get_bits(key));
			return;
		}
	}
	snprintf(text, FACT_MAX + 1, "%s", name);
}

/* Has the server proved who it is by a certificate in this very handshake? */
static bool shows_certificate(const SSL *ssl)
{
	int by = SSL_CIPHER_get_auth_nid(SSL_get_current_cipher(ssl));

	return !SSL_session_reused(ssl) && by != NID_auth_null && by != NID_auth_psk;
}

static void put_own_certificate(const X509 *cert, struct tls_facts *facts)
{
	int algorithm = X509_get_signature_nid(cert);

	if (algorithm != NID_undef)
		snprintf(facts->signature, sizeof(facts->signature), "%s", OBJ_nid2sn(algorithm));
	put_key(X509_get0_pubkey(cert), facts->key);
}

void tls_facts(const struct tls *tls, struct tls_facts *facts)
{
	const X509 *theirs = SSL_get0_peer_certificate(tls->ssl), *ours = SSL_get_certificate(tls->ssl);

	*facts = (struct tls_facts){
		.version = SSL_get_version(tls->ssl),
		.cipher = SSL_get_cipher_name(tls->ssl),
		.alpn = tls->alpn,
		.server_name = tls->server_name,
		.has_certificate = theirs != NULL,
		.resumed = tls_resumed(tls),
		.verified = theirs && tls_authenticated(tls),
	};
	if (theirs)
		put_common_name(theirs, facts->common_name);
	if (ours && shows_certificate(tls->ssl))
		put_own_certificate(ours, facts);
}
