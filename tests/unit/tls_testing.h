/*
 * For the tests of TLS: keys and certificates made on the spot, and sections loaded from text.
 * Included by tests/unit/test_tls.c, test_trust.c, keyed_testing.h, test_service.c, test_listen.c and their like only.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_TLS_TESTING_H
#define TLSPLICE_TLS_TESTING_H

#include "config_testing.h"
#include "tls.h"

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <sys/stat.h>

static char scratch_dir[] = "/tmp/tlsplice-unit-XXXXXX";

static inline const char *scratch(const char *name)
{
	static char path[4][128];
	static unsigned turn;
	char *p = path[turn++ % 4];

	snprintf(p, sizeof(path[0]), "%s/%s", scratch_dir, name);
	return p;
}

static inline void scratch_up(void)
{
	cr_assert_not_null(mkdtemp(scratch_dir));
}

static inline void scratch_down(void)
{
	static const char *const names[] = {"a.pem", "b.pem", "cert.pem", "key.pem", "other.pem", "junk.pem", "socket"};

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		unlink(scratch(names[i]));
	rmdir(scratch_dir);
}

static inline void scratch_write(const char *name, const char *text)
{
	FILE *file = fopen(scratch(name), "w");

	cr_assert_not_null(file);
	fputs(text, file);
	fclose(file);
}

static inline X509 *self_signed(EVP_PKEY *key)
{
	X509 *cert = X509_new();
	X509_NAME *name = X509_get_subject_name(cert);

	X509_set_version(cert, 2);
	ASN1_INTEGER_set(X509_get_serialNumber(cert), 1);
	X509_gmtime_adj(X509_getm_notBefore(cert), -60);
	X509_gmtime_adj(X509_getm_notAfter(cert), 3600);
	X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)"localhost", -1, -1, 0);
	X509_set_issuer_name(cert, name);
	X509_set_pubkey(cert, key);
	cr_assert_gt(X509_sign(cert, key, EVP_sha256()), 0);
	return cert;
}

/* Writes a fresh key and its certificate to one file, or to two. */
static inline void make_identity(const char *cert_name, const char *key_name)
{
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509 *cert = self_signed(key);
	FILE *file = fopen(scratch(cert_name), "w");

	cr_assert_not_null(file);
	PEM_write_X509(file, cert);
	if (key_name)
		file = freopen(scratch(key_name), "w", file);
	fchmod(fileno(file), 0600);
	PEM_write_PrivateKey(file, key, NULL, NULL, 0, NULL, NULL);
	fclose(file);
	X509_free(cert);
	EVP_PKEY_free(key);
}

/* Loads a text in which each %s is the path of a scratch file. */
static inline struct config *load_format(const char *format, ...) __attribute__((format(printf, 1, 2)));
static inline struct config *load_format(const char *format, ...)
{
	struct config *config;
	char *text = NULL;
	va_list args;

	va_start(args, format);
	cr_assert_geq(vasprintf(&text, format, args), 0);
	va_end(args);
	config = load_good(text);
	free(text);
	return config;
}

/* A context of a section, with sessions of its own unless some are given. */
static inline struct tls_context *context_of(const struct section *section, struct tls_sessions *sessions,
                                             struct tls_library *library)
{
	struct tls_identity *identity = tls_identity_load(section);
	struct tls_trust *trust = tls_trust_load(section);
	struct tls_sessions *own = sessions ? tls_sessions_ref(sessions) : tls_sessions_new(section);
	struct tls_context *context = NULL;

	if (identity && trust && own)
		context = tls_context_new(section, identity, trust, own, library, false);
	cr_assert_not_null(context);
	tls_identity_free(identity);
	tls_trust_unref(trust);
	tls_sessions_unref(own);
	return context;
}

#endif
