/*
 * What a section trusts, read from its files: CAfile, CApath, CAstore, CRLfile, CRLpath. See tls.h and tls_trust.h; tls_store.c makes the workers' stores
 * of it, tls_verify.c has the checks.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tls_trust.h"

#include "log.h"
#include "tls_engine.h"
#include "tls_place.h"
#include "tls_verify.h"

#include <dirent.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/store.h>
#include <openssl/x509.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* --- what is in the files ----------------------------------------------------------------------------------------------------------- */

static bool digest_bytes(struct tls_trust *t, const void *bytes, size_t n)
{
	uint64_t len = n; /* in front of it, so that no two lists of texts look the same */

	return EVP_DigestUpdate(t->digesting, &len, sizeof(len)) && EVP_DigestUpdate(t->digesting, bytes, n);
}

static bool digest_text(struct tls_trust *t, const char *text)
{
	return digest_bytes(t, text ? text : "", text ? strlen(text) + 1 : 0);
}

static bool digest_texts(struct tls_trust *t, const struct texts *texts)
{
	bool ok = digest_bytes(t, &texts->count, sizeof(texts->count));

	for (size_t i = 0; ok && i < texts->count; i++)
		ok = digest_text(t, texts->texts[i]);
	return ok;
}

/* Shows each file of a directory, whatever it is called, to `see`, which may end it by false. That is returned then. No directory has no files. */
static bool each_file(const char *directory, bool (*see)(void *arg, const char *path), void *arg)
{
	DIR *dir = directory ? opendir(directory) : NULL;
	char path[PATH_MAX];
	bool ok = true;
	struct stat st;

	for (struct dirent *entry; ok && dir && (entry = readdir(dir));)
		if (entry->d_name[0] != '.' && snprintf(path, sizeof(path), "%s/%s", directory, entry->d_name) < PATH_MAX &&
		    stat(path, &st) == 0 && S_ISREG(st.st_mode))
			ok = see(arg, path);
	if (dir)
		closedir(dir);
	ERR_clear_error(); /* of files that hold something else */
	return ok;
}

/* Adds the SHA-256 of a file to a sum of four parts. False without memory. */
static bool sum_file(void *arg, const char *path)
{
	unsigned char bytes[4096], digest[TRUST_DIGEST];
	EVP_MD_CTX *hash = EVP_MD_CTX_new();
	BIO *bio = BIO_new_file(path, "r");
	bool ok = hash && EVP_DigestInit_ex(hash, EVP_sha256(), NULL);
	uint64_t *sum = arg, part;
	int n;

	while (ok && bio && (n = BIO_read(bio, bytes, sizeof(bytes))) > 0)
		ok = EVP_DigestUpdate(hash, bytes, (size_t)n);
	ok = ok && EVP_DigestFinal_ex(hash, digest, NULL);
	for (size_t i = 0; ok && i < 4; i++) {
		memcpy(&part, digest + 8 * i, 8);
		sum[i] += part;
	}
	BIO_free(bio);
	EVP_MD_CTX_free(hash);
	return ok;
}

/* A directory is looked into later; what it holds now stands for it, in whatever order and by whatever names. */
static bool digest_directory(struct tls_trust *t, const char *directory)
{
	uint64_t sum[4] = {0};

	return each_file(directory, sum_file, sum) && digest_bytes(t, sum, sizeof(sum));
}

static bool digest_keys(struct tls_trust *t, const struct psks *psks)
{
	bool ok = digest_bytes(t, psks ? &psks->count : NULL, psks ? sizeof(psks->count) : 0);

	for (size_t i = 0; ok && psks && i < psks->count; i++)
		ok = digest_text(t, psks->sorted[i].identity) && digest_bytes(t, psks->sorted[i].key, psks->sorted[i].key_len);
	return ok;
}

/* With `redirect` who fails has a session too: where there is none it would open the door. So does a list in CAfile that nobody looks at. */
static bool digest_options(struct tls_trust *t, const struct section *s)
{
	const char flags[] = {s->client,           s->request_cert,      s->require_cert,       s->verify_chain,
	                      s->verify_peer,      s->crl_check_chain,   s->ocsp_aia,           s->ocsp_nonce,
	                      s->ocsp_require,     (char)s->psk_require, s->redirect.count > 0, (char)s->security_level,
	                      s->crl_file != NULL, s->crl_path != NULL};

	return digest_bytes(t, flags, sizeof(flags)) && digest_directory(t, s->ca_path) && digest_directory(t, s->crl_path) &&
	       digest_texts(t, &s->check_host) && digest_texts(t, &s->check_email) && digest_texts(t, &s->check_ip) &&
	       digest_text(t, s->ocsp) && digest_texts(t, &s->ocsp_flags) && digest_texts(t, &s->config) &&
	       digest_keys(t, s->psks);
}

static bool name_add(struct tls_trust *t, const X509 *cert)
{
	X509_NAME *name = X509_get_subject_name(cert);

	for (int i = 0; i < sk_X509_NAME_num(t->names); i++)
		if (X509_NAME_cmp(sk_X509_NAME_value(t->names, i), name) == 0)
			return true;
	name = X509_NAME_dup(name);
	if (name && sk_X509_NAME_push(t->names, name))
		return true;
	X509_NAME_free(name);
	return false;
}

static bool anchor_known(const struct tls_trust *t, const struct anchor *a)
{
	for (size_t i = 0; i < t->count; i++)
		if (t->anchors[i].hash == a->hash && t->anchors[i].len == a->len &&
		    memcmp(t->anchors[i].der, a->der, (size_t)a->len) == 0)
			return true;
	return false;
}

bool tls_trust_add(struct tls_trust *t, X509 *cert)
{
	struct anchor a = {.hash = X509_NAME_hash_ex(X509_get_subject_name(cert), NULL, NULL, NULL)};
	struct anchor *grown;

	a.len = i2d_X509_AUX(cert, &a.der);
	if (a.len <= 0)
		return false;
	if (anchor_known(t, &a)) {
		OPENSSL_free(a.der);
		return true;
	}
	grown = realloc(t->anchors, (t->count + 1) * sizeof(*grown));
	if (grown)
		t->anchors = grown;
	if (!grown || !name_add(t, cert) || !digest_bytes(t, a.der, (size_t)a.len)) {
		OPENSSL_free(a.der);
		return false;
	}
	t->anchors[t->count++] = a;
	return true;
}

static bool crl_add(struct tls_trust *t, X509_CRL *crl)
{
	unsigned char *der = NULL;
	int n = i2d_X509_CRL(crl, &der);
	bool ok = n > 0 && digest_bytes(t, der, (size_t)n) && X509_CRL_up_ref(crl);

	OPENSSL_free(der);
	if (ok && !sk_X509_CRL_push(t->crls, crl)) {
		X509_CRL_free(crl);
		ok = false;
	}
	return ok;
}

/* Everything that a PEM file holds; NULL with the reason in the error queue. Keys among it are left alone. */
static STACK_OF(X509_INFO) * read_pem(const char *file)
{
	BIO *bio = BIO_new_file(file, "r");
	STACK_OF(X509_INFO) *infos = bio ? PEM_X509_INFO_read_bio_ex(bio, NULL, NULL, NULL, NULL, NULL) : NULL;

	BIO_free(bio);
	return infos;
}

enum wanted { CERTS = 1, CRLS = 2 };

/* Adds what is wanted of a PEM file. Returns how many, or -1 with the reason in the error queue. */
static int add_pem(struct tls_trust *t, const char *file, enum wanted wanted)
{
	STACK_OF(X509_INFO) *infos = read_pem(file);
	int found = infos ? 0 : -1;

	for (int i = 0; found >= 0 && i < sk_X509_INFO_num(infos); i++) {
		const X509_INFO *info = sk_X509_INFO_value(infos, i);
		bool cert = info->x509 && wanted & CERTS, crl = info->crl && wanted & CRLS;

		if ((cert && !tls_trust_add(t, info->x509)) || (crl && !crl_add(t, info->crl)))
			found = -1;
		else
			found += cert + crl;
	}
	sk_X509_INFO_pop_free(infos, X509_INFO_free);
	return found;
}

/* A missing CAfile matters only to who verifies. */
static bool load_ca_file(struct tls_trust *t, const struct section *s)
{
	int found;

	if (!s->ca_file)
		return true;
	ERR_clear_error();
	found = add_pem(t, s->ca_file, CERTS | CRLS);
	if (found > 0)
		return true;
	if (found == 0)
		log_global(section_verifies(s) ? LOG_ERR : LOG_WARNING, "No certificate in %s", s->ca_file);
	tls_log_errors(section_verifies(s) ? LOG_ERR : LOG_WARNING, NULL, "SSL_CTX_load_verify_locations", NULL);
	return !section_verifies(s);
}

static bool add_names(void *trust, const char *path)
{
	STACK_OF(X509_INFO) *infos = read_pem(path);
	bool ok = true;

	for (int i = 0; ok && i < sk_X509_INFO_num(infos); i++)
		if (sk_X509_INFO_value(infos, i)->x509)
			ok = name_add(trust, sk_X509_INFO_value(infos, i)->x509);
	sk_X509_INFO_pop_free(infos, X509_INFO_free);
	return ok;
}

/* The names of all certificates in the directory. The certificates themselves are looked up when they are needed. */
static bool load_ca_path(struct tls_trust *t, const struct section *s)
{
	return each_file(s->ca_path, add_names, t);
}

static bool load_ca_uri(struct tls_trust *t, const char *uri, bool below);

/* What one step through a store found: a certificate, or, in a directory, the name of another store. */
static bool add_store_info(struct tls_trust *t, OSSL_STORE_INFO *info, bool below)
{
	int type = OSSL_STORE_INFO_get_type(info);

	if (type == OSSL_STORE_INFO_CERT)
		return tls_trust_add(t, OSSL_STORE_INFO_get0_CERT(info));
	if (type == OSSL_STORE_INFO_NAME && !below)
		return load_ca_uri(t, OSSL_STORE_INFO_get0_NAME(info), true);
	return true;
}

static bool load_ca_uri(struct tls_trust *t, const char *uri, bool below)
{
	OSSL_STORE_CTX *store = OSSL_STORE_open(uri, NULL, NULL, NULL, NULL);
	bool ok = store != NULL;

	if (store && !OSSL_STORE_expect(store, OSSL_STORE_INFO_CERT))
		ERR_clear_error(); /* a directory: its entries are names */
	while (ok && !OSSL_STORE_eof(store)) {
		OSSL_STORE_INFO *info;

		ERR_clear_error();
		info = OSSL_STORE_load(store);
		if (info)
			ok = add_store_info(t, info, below);
		else if (below)
			break; /* the end, or a file of the directory that holds something else */
		else if (!OSSL_STORE_eof(store) || OSSL_STORE_error(store))
			ok = ERR_peek_error() == 0; /* the end of a file may look like an error without a reason */
		OSSL_STORE_INFO_free(info);
	}
	OSSL_STORE_close(store);
	return ok;
}

/* It is read as a whole, now: what cannot be read must not look like a store that trusts nobody. */
static bool load_ca_store(struct tls_trust *t, const struct section *s)
{
	char text[PLACE_TEXT_MAX];
	size_t before = t->count;

	if (!s->ca_store)
		return true;
	ERR_clear_error();
	if (load_ca_uri(t, s->ca_store, false) && t->count > before)
		return true;
	if (ERR_peek_error())
		tls_log_errors(LOG_ERR, NULL, "OSSL_STORE_open", NULL);
	log_global(LOG_ERR, "Failed to load CA certificates from: %s", place_text(s->ca_store, text));
	return false;
}

/* By the ids that they have in the section's engine. */
static bool load_ca_engine(struct tls_trust *t, const struct section *s)
{
	char text[PLACE_TEXT_MAX];
	bool ok = true;

	for (size_t i = 0; ok && i < s->ca_engine.count; i++) {
		X509 *cert;

		ERR_clear_error();
		cert = tls_engine_cert((unsigned)s->engine_num, s->ca_engine.texts[i]);
		ok = cert && tls_trust_add(t, cert);
		X509_free(cert);
		if (ok)
			continue;
		tls_log_errors(LOG_ERR, NULL, "ENGINE_ctrl_cmd", NULL);
		log_global(LOG_ERR, "Failed to load CA certificate from engine ID: %s", place_text(s->ca_engine.texts[i], text));
	}
	return ok;
}

static bool load_crl_file(struct tls_trust *t, const struct section *s)
{
	if (!s->crl_file)
		return true;
	ERR_clear_error();
	if (add_pem(t, s->crl_file, CRLS) > 0) {
		log_global(LOG_DEBUG, "Loaded %s revocation lookup file", s->crl_file);
		return true;
	}
	log_global(LOG_ERR, "Failed to load %s revocation lookup file", s->crl_file);
	tls_log_errors(LOG_ERR, NULL, "X509_load_crl_file", NULL);
	return false;
}

static bool announce_names(const struct tls_trust *t, const struct section *s)
{
	bool none = sk_X509_NAME_num(t->names) == 0;
	char text[LOG_TEXT_MAX];

	if (none)
		log_global(section_verifies(s) ? LOG_ERR : LOG_INFO, "No trusted certificates found");
	for (int i = 0; log_wants(LOG_INFO) && i < sk_X509_NAME_num(t->names); i++)
		log_global(LOG_INFO, "Configured trusted %s CA: %s", s->client ? "server" : "client",
		           name_text(sk_X509_NAME_value(t->names, i), text));
	return !none || !section_verifies(s);
}

static bool trust_fill(struct tls_trust *t, const struct section *s)
{
	unsigned n;

	if (!digest_options(t, s) || !load_ca_file(t, s) || !load_ca_path(t, s) || !load_ca_store(t, s) || !load_ca_engine(t, s))
		return false;
	if (!announce_names(t, s) || !load_crl_file(t, s) || !EVP_DigestFinal_ex(t->digesting, t->digest, &n))
		return false;
	if (s->crl_path)
		log_global(LOG_DEBUG, "Added %s revocation lookup directory", s->crl_path);
	tls_trust_sort(t);
	return true;
}

/* What a section does not do about its peers, said once. */
static void warn_of_gaps(const struct section *s)
{
	if (!s->client || s->psk_secrets)
		return;
	if (!section_verifies(s)) {
		log_global(LOG_WARNING, "Service [%s] needs authentication to prevent MITM attacks", s->name);
	} else if (!s->verify_peer && s->check_host.count + s->check_email.count + s->check_ip.count == 0) {
		log_global(LOG_WARNING, "Service [%s] uses \"verifyChain\" without subject checks", s->name);
		log_global(LOG_WARNING, "Use \"checkHost\" or \"checkIP\" to restrict trusted certificates");
	}
}

struct tls_trust *tls_trust_load(const struct section *section)
{
	struct tls_trust *t = calloc(1, sizeof(*t));

	if (!t) {
		log_global(LOG_ERR, "No memory for CA certificates");
		return NULL;
	}
	t->refs = 1;
	t->crls = sk_X509_CRL_new_null();
	t->names = sk_X509_NAME_new_null();
	t->digesting = EVP_MD_CTX_new();
	if (!t->crls || !t->names || !t->digesting || !EVP_DigestInit_ex(t->digesting, EVP_sha256(), NULL) ||
	    !trust_fill(t, section)) {
		tls_trust_unref(t);
		return NULL;
	}
	warn_of_gaps(section);
	return t;
}

struct tls_trust *tls_trust_ref(struct tls_trust *t)
{
	atomic_fetch_add(&t->refs, 1);
	return t;
}

void tls_trust_unref(struct tls_trust *t)
{
	if (!t || atomic_fetch_sub(&t->refs, 1) > 1)
		return;
	for (size_t i = 0; i < t->count; i++)
		OPENSSL_free(t->anchors[i].der);
	free(t->anchors);
	sk_X509_CRL_pop_free(t->crls, X509_CRL_free);
	sk_X509_NAME_pop_free(t->names, X509_NAME_free);
	EVP_MD_CTX_free(t->digesting);
	free(t);
}

const unsigned char *tls_trust_digest(const struct tls_trust *t)
{
	return t->digest;
}

bool tls_trust_equal(const struct tls_trust *one, const struct tls_trust *other)
{
	return memcmp(one->digest, other->digest, TRUST_DIGEST) == 0;
}
