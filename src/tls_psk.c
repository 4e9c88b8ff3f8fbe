/*
 * Pre-shared keys: see tls_psk.h. OpenSSL asks its callbacks for the keys of both versions; in TLS 1.3 it binds them to SHA-256.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tls_psk.h"

#include "psk.h"
#include "tls_context.h"

#include <ctype.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509_vfy.h>
#include <stdlib.h>
#include <string.h>

bool tls_psk_required(const struct section *s)
{
	if (!s->psks)
		return false;
	if (s->psk_require != PSK_REQUIRE_AUTO)
		return s->psk_require == PSK_REQUIRE_YES;
	return !section_verifies(s) || (!s->client && !s->require_cert); /* a server shows a certificate unasked */
}

/* --- the callbacks ------------------------------------------------------------------------------------------------------------------ */

static const struct psk *key_of_client(const struct section *s)
{
	return s->psk_identity ? psks_find(s->psks, s->psk_identity) : s->psks->first;
}

static unsigned give_key(const struct psk *psk, unsigned char *key, unsigned key_max)
{
	if (psk->key_len > key_max)
		return 0;
	memcpy(key, psk->key, psk->key_len);
	return (unsigned)psk->key_len;
}

/* SSL_CTX_set_psk_client_callback(3): when the ClientHello is made, and for TLS 1.2 when the suite is known. */
static unsigned client_key(SSL *ssl, const char *hint, char *identity, unsigned identity_max, unsigned char *key,
                           unsigned key_max)
{
	struct tls *tls = SSL_get_app_data(ssl);
	const struct psk *psk = key_of_client(tls->section);
	size_t len = strlen(psk->identity);
	(void)hint;

	if (len >= identity_max)
		return 0;
	memcpy(identity, psk->identity, len + 1);
	tls_log(tls, LOG_INFO, "PSK client configured for identity \"%s\"", psk->identity);
	return give_key(psk, key, key_max);
}

/* Session tickets of TLS 1.3 are offered in the same place. */
static bool is_printable(const char *text)
{
	while (*text && isprint((unsigned char)*text))
		text++;
	return !*text;
}

/* SSL_CTX_set_psk_server_callback(3) */
static unsigned server_key(SSL *ssl, const char *identity, unsigned char *key, unsigned key_max)
{
	struct tls *tls = SSL_get_app_data(ssl);
	const struct psk *psk = psks_find(tls->section->psks, identity);

	if (!psk) {
		if (is_printable(identity))
			tls_log(tls, LOG_INFO, "PSK identity not found: %s", identity);
		else
			tls_log(tls, LOG_INFO, "PSK identity not found (session resumption?)");
		return 0;
	}
	tls_log(tls, LOG_NOTICE, "Key configured for PSK identity \"%s\"", psk->identity);
	tls->psk = psk;
	return give_key(psk, key, key_max);
}

/* --- what was used ------------------------------------------------------------------------------------------------------------------ */

/* Suites whose key exchange has the key in it. Those of TLS 1.3 do not tell. */
static bool is_psk_suite(const SSL_CIPHER *suite)
{
	switch (suite ? SSL_CIPHER_get_kx_nid(suite) : NID_undef) {
	case NID_kx_psk:
	case NID_kx_ecdhe_psk:
	case NID_kx_dhe_psk:
	case NID_kx_rsa_psk: return true;
	default: return false;
	}
}

bool tls_psk_used(const struct tls *tls)
{
	bool resumed = SSL_session_reused(tls->ssl);

	if (SSL_version(tls->ssl) >= TLS1_3_VERSION)
		return tls->psk && resumed; /* for OpenSSL a key is a session */
	return is_psk_suite(SSL_get_current_cipher(tls->ssl)) && !resumed;
}

/*
 * A session of the section can only have come from a handshake with a key: the certificates that could do without are not there on a server, and are
 * refused by a client. So what is resumed is as good as a key.
 */
bool tls_psk_accepts(const struct tls *tls)
{
	bool used = SSL_version(tls->ssl) >= TLS1_3_VERSION ? SSL_session_reused(tls->ssl)
	                                                    : is_psk_suite(SSL_get_current_cipher(tls->ssl));

	if (used || !tls_psk_required(tls->section))
		return true;
	tls_log(tls, LOG_ERR, "PSK: the peer has used no pre-shared key");
	return false;
}

/* SSL_CTX_set_cert_verify_callback(3): a certificate in place of a key. RSA-PSK has both. */
static int refuse_certificate(X509_STORE_CTX *store, void *arg)
{
	SSL *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
	const struct tls *tls = SSL_get_app_data(ssl);
	(void)arg;

	if (is_psk_suite(SSL_get_pending_cipher(ssl)))
		return 1;
	tls_log(tls, LOG_ERR, "PSK: the server has shown a certificate instead of using the pre-shared key");
	X509_STORE_CTX_set_error(store, X509_V_ERR_APPLICATION_VERIFICATION);
	return 0;
}

/* --- cipher suites ------------------------------------------------------------------------------------------------------------------ */

static bool is_tls13(const SSL_CIPHER *suite)
{
	return SSL_CIPHER_get_kx_nid(suite) == NID_kx_any;
}

/* The others cannot be used with the key (RFC 8446 4.2.11), and one that is chosen before the key has been looked at ends the handshake. */
static bool is_sha256_suite(const SSL_CIPHER *suite)
{
	return is_tls13(suite) && EVP_MD_is_a(SSL_CIPHER_get_handshake_digest(suite), "SHA256");
}

/* The names of the context's suites that `keep` wants, with colons between them; "" for none, NULL without memory. To be freed. */
static char *suite_names(const SSL_CTX *ctx, bool (*keep)(const SSL_CIPHER *))
{
	STACK_OF(SSL_CIPHER) *suites = SSL_CTX_get_ciphers(ctx);
	char *names = NULL;
	size_t size;
	FILE *out = open_memstream(&names, &size);

	if (!out)
		return NULL;
	for (int i = 0; i < sk_SSL_CIPHER_num(suites); i++)
		if (keep(sk_SSL_CIPHER_value(suites, i)))
			fprintf(out, "%s%s", ftell(out) ? ":" : "", SSL_CIPHER_get_name(sk_SSL_CIPHER_value(suites, i)));
	if (fclose(out) == 0)
		return names;
	free(names);
	return NULL;
}

static bool leave_tls13_out(SSL_CTX *ctx)
{
	long max = SSL_CTX_get_max_proto_version(ctx);

	return (max && max <= TLS1_2_VERSION) || SSL_CTX_set_max_proto_version(ctx, TLS1_2_VERSION);
}

/* TLS 1.3: suites with SHA-256 only. Without one it is TLS 1.2. */
static bool narrow_tls13(SSL_CTX *ctx)
{
	char *names = suite_names(ctx, is_sha256_suite);
	bool ok = names && (*names ? SSL_CTX_set_ciphersuites(ctx, names) == 1 : leave_tls13_out(ctx));

	free(names);
	return ok;
}

/* TLS 1.2: suites with a key only. Without one it is TLS 1.3. */
static bool narrow_tls12(SSL_CTX *ctx)
{
	char *names = suite_names(ctx, is_psk_suite);
	bool ok =
		names && (*names ? SSL_CTX_set_cipher_list(ctx, names) : SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION)) == 1;

	free(names);
	return ok;
}

static bool has_version_left(SSL_CTX *ctx)
{
	long max = SSL_CTX_get_max_proto_version(ctx);

	return max == 0 || SSL_CTX_get_min_proto_version(ctx) <= max;
}

static bool narrow(SSL_CTX *ctx, const struct section *s)
{
	bool ok = narrow_tls13(ctx);

	if (ok && tls_psk_required(s))
		ok = narrow_tls12(ctx);
	/* TLS 1.3 has no place for an empty identity. */
	if (ok && s->client && !*key_of_client(s)->identity)
		ok = leave_tls13_out(ctx);
	if (!ok)
		tls_log_errors(LOG_ERR, NULL, "PSK", NULL);
	else if (!has_version_left(ctx))
		log_global(LOG_ERR, "PSK: no cipher suite is left that a pre-shared key can be used with");
	return ok && has_version_left(ctx);
}

bool tls_psk_install(SSL_CTX *ctx, const struct section *s, bool announce)
{
	if (!s->psks)
		return true;
	if (announce && !s->client && s->psk_identity)
		log_global(LOG_NOTICE, "PSK identity is ignored in the server mode");
	if (announce && !s->client && s->cert.count && tls_psk_required(s))
		log_global(LOG_NOTICE, "Service [%s]: clients need a pre-shared key, the certificate is not used (PSKrequire)",
		           s->name);
	if (!s->client) {
		if (tls_psk_required(s) && SSL_CTX_get0_certificate(ctx)) {
			log_global(LOG_ERR, "PSK: a certificate in \"config\" would let clients in without a pre-shared key");
			return false;
		}
		SSL_CTX_set_psk_server_callback(ctx, server_key);
		return narrow(ctx, s);
	}
	SSL_CTX_set_psk_client_callback(ctx, client_key);
	/* OpenSSL makes a session of the key, which has no context. Our own sessions are kept by section anyway. */
	if (!SSL_CTX_set_session_id_context(ctx, NULL, 0))
		return false;
	if (tls_psk_required(s)) {
		SSL_CTX_set_cert_verify_callback(ctx, refuse_certificate, NULL);
		SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, SSL_CTX_get_verify_callback(ctx));
	}
	return narrow(ctx, s);
}
