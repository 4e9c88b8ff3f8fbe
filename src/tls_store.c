/*
 * A worker's store of what a section trusts, made from what tls_trust.c has read. See tls_trust.h.
 *
 * Certificates are kept as DER, found by the hash of their subject, and become OpenSSL's objects in a worker when a handshake asks for them: decoding a
 * machine's whole bundle (144 certificates) takes 15 ms, and would be done for each section and worker.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tls_trust.h"

#include "log.h"
#include "tls_context.h"
#include "tls_crl_dir.h"
#include "tls_verify.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <stdlib.h>

static int by_hash(const void *a, const void *b)
{
	unsigned long x = ((const struct anchor *)a)->hash, y = ((const struct anchor *)b)->hash;

	return (x > y) - (x < y);
}

void tls_trust_sort(struct tls_trust *t)
{
	if (t->count)
		qsort(t->anchors, t->count, sizeof(*t->anchors), by_hash);
}

/* A lookup of the store: where it finds certificates, and in which library context they are to live. */
struct finder {
	struct tls_trust *trust;
	OSSL_LIB_CTX *library;
};

static void finder_free(X509_LOOKUP *lookup)
{
	struct finder *f = X509_LOOKUP_get_method_data(lookup);

	if (f)
		tls_trust_unref(f->trust);
	free(f);
}

static X509 *anchor_decode(const struct anchor *a, OSSL_LIB_CTX *library)
{
	const unsigned char *p = a->der;
	X509 *cert = X509_new_ex(library, NULL);

	return cert ? d2i_X509_AUX(&cert, &p, a->len) : NULL; /* d2i frees it on failure */
}

/* All certificates of a subject's hash, or NULL: there are none, or no memory. */
static STACK_OF(X509) * finder_decode(const struct finder *f, unsigned long hash)
{
	const struct anchor key = {.hash = hash}, *first = f->trust->anchors;
	const struct anchor *a = f->trust->count ? bsearch(&key, first, f->trust->count, sizeof(*a), by_hash) : NULL;
	STACK_OF(X509) *certs = a ? sk_X509_new_null() : NULL;
	bool ok = certs != NULL;

	while (ok && a > first && a[-1].hash == hash)
		a--;
	for (; ok && a < first + f->trust->count && a->hash == hash; a++) {
		X509 *cert = anchor_decode(a, f->library);

		ok = cert && sk_X509_push(certs, cert) > 0;
		if (!ok)
			X509_free(cert);
	}
	if (ok)
		return certs;
	sk_X509_pop_free(certs, X509_free);
	return NULL;
}

/* The store's certificate of that name, without a reference: X509_LOOKUP_meth_new(3) has whoever asked take one. Returns 0 if it has none. */
static int answer(X509_STORE *store, const X509_NAME *name, X509_OBJECT *found)
{
	X509_OBJECT *object;

	if (!X509_STORE_lock(store))
		return 0;
	object = X509_OBJECT_retrieve_by_subject(X509_STORE_get0_objects(store), X509_LU_X509, name);
	X509_STORE_unlock(store);
	if (!object || !X509_OBJECT_set1_X509(found, X509_OBJECT_get0_X509(object)))
		return 0;
	X509_free(X509_OBJECT_get0_X509(object));
	return 1;
}

/*
 * Puts all certificates of that subject into the store, which from then on does not ask for this name again: so all of them, or none
 * when memory is short.
 */
static int finder_find(X509_LOOKUP *lookup, X509_LOOKUP_TYPE type, const X509_NAME *name, X509_OBJECT *found)
{
	const struct finder *f = X509_LOOKUP_get_method_data(lookup);
	X509_STORE *store = X509_LOOKUP_get_store(lookup);
	STACK_OF(X509) *certs = NULL;
	bool ok;

	if (type == X509_LU_X509)
		certs = finder_decode(f, X509_NAME_hash_ex(name, f->library, NULL, NULL));
	ok = certs != NULL;
	for (int i = 0; ok && i < sk_X509_num(certs); i++)
		ok = X509_STORE_add_cert(store, sk_X509_value(certs, i)) == 1;
	sk_X509_pop_free(certs, X509_free);
	return ok ? answer(store, name, found) : 0;
}

static X509_LOOKUP_METHOD *finder_method(void)
{
	static X509_LOOKUP_METHOD *method; /* made by the main thread, before there is a worker that uses it */

	if (method)
		return method;
	method = X509_LOOKUP_meth_new("certificates of the configuration");
	if (method &&
	    (!X509_LOOKUP_meth_set_get_by_subject(method, finder_find) || !X509_LOOKUP_meth_set_free(method, finder_free))) {
		X509_LOOKUP_meth_free(method);
		method = NULL;
	}
	return method;
}

static X509_LOOKUP *store_add_finder(X509_STORE *store, struct tls_trust *t, OSSL_LIB_CTX *library)
{
	X509_LOOKUP_METHOD *method = finder_method();
	X509_LOOKUP *lookup = method ? X509_STORE_add_lookup(store, method) : NULL;
	struct finder *f = lookup ? calloc(1, sizeof(*f)) : NULL;

	if (!f)
		return NULL;
	f->trust = tls_trust_ref(t);
	f->library = library;
	X509_LOOKUP_set_method_data(lookup, f); /* an assignment: it cannot fail */
	return lookup;
}

static X509_LOOKUP *store_add_directory(X509_STORE *store, const char *path)
{
	X509_LOOKUP *lookup = X509_STORE_add_lookup(store, X509_LOOKUP_hash_dir());

	return lookup && X509_LOOKUP_add_dir(lookup, path, X509_FILETYPE_PEM) == 1 ? lookup : NULL;
}

/* A copy in another library context, or NULL. */
static X509_CRL *crl_copy(X509_CRL *crl, OSSL_LIB_CTX *library)
{
	unsigned char *der = NULL;
	int n = i2d_X509_CRL(crl, &der);
	const unsigned char *p = der;
	X509_CRL *copy = n > 0 ? X509_CRL_new_ex(library, NULL) : NULL;

	if (copy && !d2i_X509_CRL(&copy, &p, n))
		copy = NULL; /* d2i freed it */
	OPENSSL_free(der);
	return copy;
}

static bool store_add_crls(X509_STORE *store, const struct tls_trust *t, OSSL_LIB_CTX *library)
{
	bool ok = true;

	for (int i = 0; ok && i < sk_X509_CRL_num(t->crls); i++) {
		X509_CRL *copy = crl_copy(sk_X509_CRL_value(t->crls, i), library);

		ok = copy && X509_STORE_add_crl(store, copy) == 1;
		X509_CRL_free(copy);
	}
	return ok;
}

/* OpenSSL looks for revocation in the leaf, or in the whole chain. */
static bool store_set_flags(X509_STORE *store, const struct section *s)
{
	unsigned long flags = 0;

	if (s->crl_file || s->crl_path || s->crl_check_chain)
		flags |= X509_V_FLAG_CRL_CHECK;
	if (s->crl_check_chain)
		flags |= X509_V_FLAG_CRL_CHECK_ALL;
	return X509_STORE_set_flags(store, flags) == 1;
}

static X509_STORE *store_new(struct tls_context *context, OSSL_LIB_CTX *library)
{
	const struct section *s = context->section;
	X509_STORE *store = X509_STORE_new();

	if (!store)
		return NULL;
	context->ca_finder = store_add_finder(store, context->trust, library);
	if (!context->ca_finder || !store_add_crls(store, context->trust, library) || !store_set_flags(store, s))
		goto failed;
	if (s->ca_path) {
		context->ca_directory = store_add_directory(store, s->ca_path);
		if (!context->ca_directory)
			goto failed;
	}
	if (s->crl_path && !crl_dir_add(store, s->crl_path, library))
		goto failed;
	return store;
failed:
	X509_STORE_free(store);
	return NULL;
}

static bool set_client_cas(SSL_CTX *ctx, const struct tls_trust *t)
{
	STACK_OF(X509_NAME) *names = SSL_dup_CA_list(t->names);

	if (!names)
		return false;
	SSL_CTX_set_client_CA_list(ctx, names);
	return true;
}

/*
 * The chains of our own certificates are completed from the store, once: OpenSSL would build and verify them anew in each handshake, which makes
 * it a third slower. The root is left out: who does not have it does not trust it either.
 */
static void complete_chains(SSL_CTX *ctx)
{
	STACK_OF(X509) * chain;

	for (long which = SSL_CERT_SET_FIRST; SSL_CTX_set_current_cert(ctx, which) == 1; which = SSL_CERT_SET_NEXT)
		if (SSL_CTX_get0_chain_certs(ctx, &chain) && sk_X509_num(chain) <= 0)
			SSL_CTX_build_cert_chain(ctx, SSL_BUILD_CHAIN_FLAG_NO_ROOT | SSL_BUILD_CHAIN_FLAG_IGNORE_ERROR);
	SSL_CTX_set_mode(ctx, SSL_MODE_NO_AUTO_CHAIN);
	ERR_clear_error(); /* a chain that cannot be completed stays as it is */
}

bool tls_trust_install(struct tls_context *context, OSSL_LIB_CTX *library)
{
	const struct section *s = context->section;
	X509_STORE *store = store_new(context, library);

	if (!store)
		return false;
	SSL_CTX_set_cert_store(context->ctx, store);
	if (!s->client && !set_client_cas(context->ctx, context->trust))
		return false;
	complete_chains(context->ctx);
	verify_install(context);
	return true;
}

/* A cipher suite without certificates would leave nothing to check. */
bool tls_trust_check(const struct tls_context *context)
{
	const struct section *s = context->section;
	STACK_OF(SSL_CIPHER) *ciphers = SSL_CTX_get_ciphers(context->ctx);
	bool wanted =
		(section_verifies(s) || s->require_cert) && SSL_CTX_get_security_level(context->ctx) == 0; /* others have none */

	for (int i = 0; wanted && i < sk_SSL_CIPHER_num(ciphers); i++) {
		const SSL_CIPHER *cipher = sk_SSL_CIPHER_value(ciphers, i);

		if (SSL_CIPHER_get_auth_nid(cipher) != NID_auth_null)
			continue;
		log_global(LOG_ERR,
		           "Service [%s]: the ciphersuite %s has no certificates to verify: \"ciphers\" must not allow it",
		           s->name, SSL_CIPHER_get_name(cipher));
		return false;
	}
	return true;
}
