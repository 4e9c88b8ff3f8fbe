/*
 * Certificates and keys: read once by the main thread through OSSL_STORE (PEM, DER and PKCS#12 are told apart by content), then copied
 * into every worker's contexts. See tls.h and tls_identity.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tls_identity.h"

#include "log.h"

#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/pkcs12.h>
#include <openssl/ssl.h>
#include <openssl/store.h>
#include <openssl/ui.h>
#include <openssl/x509.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TRIES = 3, PASSPHRASE_MAX = 1024 };

/* One certificate with its chain and key; a section may have several (RSA and ECDSA). */
struct pair {
	X509 *cert;
	STACK_OF(X509) * chain;
	EVP_PKEY *key;
};

struct tls_identity {
	struct pair *pairs;
	size_t count;
	EVP_PKEY *dh; /* parameters found beside a certificate, or NULL */
};

/* What one file holds. */
struct contents {
	STACK_OF(X509) * certs;
	EVP_PKEY *key, *dh;
};

/* The right answer to a prompt is kept for the keys that follow, also those of a reload. */
static char remembered[PASSPHRASE_MAX];
static bool may_ask = true;
static struct {
	bool try_remembered, asked;
	char answer[PASSPHRASE_MAX];
} prompt;

void tls_may_ask(bool yes)
{
	may_ask = yes;
}

void tls_forget_passphrase(void)
{
	OPENSSL_cleanse(remembered, sizeof(remembered));
}

/* Asks on the terminal, unless a remembered answer is to be tried first. Without a terminal the answer is empty. */
static int prompt_read(UI *ui, UI_STRING *string)
{
	int terminal, ok;
	char *answer;

	if (UI_get_string_type(string) != UIT_PROMPT && UI_get_string_type(string) != UIT_VERIFY)
		return 1;
	if (prompt.try_remembered && *remembered)
		return UI_set_result(ui, string, remembered) >= 0;
	prompt.asked = true;
	/* OpenSSL's own reader prints the prompt before it turns the echo off, and whoever types ahead is seen; getpass(3) does not. */
	terminal = may_ask ? open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY) : -1;
	answer = terminal >= 0 ? getpass(UI_get0_output_string(string)) : NULL;
	if (terminal >= 0)
		close(terminal);
	ok = UI_set_result(ui, string, answer ? answer : "") >= 0;
	if (answer) {
		snprintf(prompt.answer, sizeof(prompt.answer), "%s", answer);
		OPENSSL_cleanse(answer, strlen(answer));
	}
	return ok;
}

static UI_METHOD *prompt_method(void)
{
	UI_METHOD *m = UI_create_method("terminal");

	if (m)
		UI_method_set_reader(m, prompt_read);
	return m;
}

/* True for what another answer could cure. */
static bool passphrase_was_wrong(void)
{
	bool wrong = false;

	for (unsigned long e; (e = ERR_get_error());) {
		int lib = ERR_GET_LIB(e), reason = ERR_GET_REASON(e);

		wrong |= lib == ERR_LIB_EVP && reason == EVP_R_BAD_DECRYPT;
		wrong |= lib == ERR_LIB_PEM && (reason == PEM_R_BAD_DECRYPT || reason == PEM_R_BAD_PASSWORD_READ);
		wrong |= lib == ERR_LIB_PKCS12 && reason == PKCS12_R_MAC_VERIFY_FAILURE;
		wrong |= lib == ERR_LIB_OSSL_STORE &&
		         (reason == OSSL_STORE_R_BAD_PASSWORD_READ || reason == OSSL_STORE_R_ERROR_VERIFYING_PKCS12_MAC);
		wrong |= lib == ERR_LIB_PROV || lib == ERR_LIB_UI || lib == ERR_LIB_ASN1;
	}
	return wrong;
}

static void contents_free(struct contents *c)
{
	sk_X509_pop_free(c->certs, X509_free);
	EVP_PKEY_free(c->key);
	EVP_PKEY_free(c->dh);
	*c = (struct contents){0};
}

static void contents_add(struct contents *c, OSSL_STORE_INFO *info)
{
	switch (OSSL_STORE_INFO_get_type(info)) {
	case OSSL_STORE_INFO_CERT: {
		X509 *cert = OSSL_STORE_INFO_get1_CERT(info);

		if (!cert || !sk_X509_push(c->certs, cert))
			X509_free(cert);
		break;
	}
	case OSSL_STORE_INFO_PKEY:
		if (!c->key)
			c->key = OSSL_STORE_INFO_get1_PKEY(info);
		break;
	case OSSL_STORE_INFO_PARAMS:
		if (!c->dh && EVP_PKEY_is_a(OSSL_STORE_INFO_get0_PARAMS(info), "DH"))
			c->dh = OSSL_STORE_INFO_get1_PARAMS(info);
		break;
	default: break;
	}
}

/* One attempt. Returns false with the reason in the error queue. `expect`: an OSSL_STORE_INFO_ type to look for, or 0. */
static bool contents_try(struct contents *c, const char *file, const UI_METHOD *ui, int expect)
{
	OSSL_STORE_CTX *store = OSSL_STORE_open(file, ui, NULL, NULL, NULL);
	bool ok = store != NULL;

	c->certs = sk_X509_new_null();
	if (store && expect)
		OSSL_STORE_expect(store, expect);
	while (ok && !OSSL_STORE_eof(store)) {
		OSSL_STORE_INFO *info;

		ERR_clear_error();
		info = OSSL_STORE_load(store);
		if (info)
			contents_add(c, info);
		else if (!OSSL_STORE_eof(store) || OSSL_STORE_error(store))
			ok = ERR_peek_error() == 0; /* end of a file with a foot note is not an error */
		OSSL_STORE_INFO_free(info);
	}
	OSSL_STORE_close(store);
	return ok && c->certs;
}

/* Logs why a file could not be used; returns whether another pass phrase may help. */
static bool explain_failure(int try)
{
	bool system = ERR_SYSTEM_ERROR(ERR_peek_error()); /* such as: no such file */
	char text[256];
	bool wrong;

	ERR_error_string_n(ERR_peek_last_error(), text, sizeof(text));
	log_global(LOG_ERR, "ui_retry: %s", text);
	wrong = passphrase_was_wrong();
	if (system || !wrong)
		log_global(LOG_ERR, "Unrecoverable error: giving up");
	else if (try < TRIES)
		log_global(LOG_WARNING, "Wrong password or PIN: retrying");
	else
		log_global(LOG_ERR, "Wrong password or PIN: giving up");
	return wrong && !system && try < TRIES;
}

static bool contents_load(struct contents *c, const char *file, int expect)
{
	UI_METHOD *ui = prompt_method();
	bool ok = false;

	/* The remembered answer is one more try, made silently before the three. */
	for (int try = *remembered ? 0 : 1; ui && try <= TRIES; try++) {
		memset(&prompt, 0, sizeof(prompt));
		prompt.try_remembered = try == 0;
		ok = contents_try(c, file, ui, expect);
		if (ok)
			break;
		contents_free(c);
		if (try == 0)
			passphrase_was_wrong(); /* clears the queue */
		else if (!explain_failure(try))
			break;
	}
	if (ok && prompt.asked && *prompt.answer)
		memcpy(remembered, prompt.answer, sizeof(remembered));
	OPENSSL_cleanse(&prompt, sizeof(prompt));
	UI_destroy_method(ui);
	return ok;
}

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

/*
 * A file with certificates. The first file, and every later one with a key of its own, begins a new pair;
 * a later one without a key adds to the chain of the pair before it.
 */
static bool add_cert_file(struct tls_identity *identity, const char *file)
{
	struct contents c = {0};
	struct pair *pair;
	bool ok = false;

	if (!contents_load(&c, file, 0) || sk_X509_num(c.certs) == 0) {
		log_global(LOG_ERR, "Failed to load certificate from: %s", file);
		goto out;
	}
	pair = identity->count == 0 || c.key ? pair_add(identity) : &identity->pairs[identity->count - 1];
	if (!pair || !pair_take_certs(pair, &c)) {
		log_global(LOG_ERR, "No memory for the certificates of %s", file);
		goto out;
	}
	if (c.key) {
		pair->key = c.key;
		c.key = NULL;
	}
	if (!identity->dh) {
		identity->dh = c.dh;
		c.dh = NULL;
	}
	log_global(LOG_INFO, "Certificate loaded from: %s", file);
	ok = true;
out:
	contents_free(&c);
	return ok;
}

/* The key of the option `key`: it belongs to the first certificate. */
static bool add_key_file(struct tls_identity *identity, const char *file)
{
	struct contents c = {0};

	if (!contents_load(&c, file, OSSL_STORE_INFO_PKEY) || !c.key) {
		log_global(LOG_ERR, "Failed to load private key from: %s", file);
		contents_free(&c);
		return false;
	}
	EVP_PKEY_free(identity->pairs[0].key);
	identity->pairs[0].key = c.key;
	c.key = NULL;
	contents_free(&c);
	return true;
}

static bool check_pairs(const struct tls_identity *identity, const char *key_file)
{
	for (size_t i = 0; i < identity->count; i++) {
		if (!identity->pairs[i].key) {
			log_global(LOG_ERR, "Failed to load private key from: %s", key_file);
			return false;
		}
		ERR_clear_error();
		if (X509_check_private_key(identity->pairs[i].cert, identity->pairs[i].key) != 1) {
			tls_log_errors(LOG_ERR, NULL, "Private key does not match the certificate", NULL);
			return false;
		}
	}
	log_global(LOG_INFO, "Private key loaded from: %s", key_file);
	log_global(LOG_DEBUG, "Private key check succeeded");
	return true;
}

struct tls_identity *tls_identity_load(const struct section *section)
{
	struct tls_identity *identity = calloc(1, sizeof(*identity));
	const char *key_file = section->key ? section->key : section->cert.count ? section->cert.texts[0] : NULL;
	bool ok = identity != NULL;

	if (identity && section->cert.count == 0)
		return identity; /* a client, or a server without certificate */
	if (ok)
		warn_if_open_to_all(key_file);
	for (size_t i = 0; ok && i < section->cert.count; i++)
		ok = add_cert_file(identity, section->cert.texts[i]);
	if (ok && section->key && strcmp(section->key, section->cert.texts[0]) != 0)
		ok = add_key_file(identity, section->key);
	if (ok)
		ok = check_pairs(identity, key_file);
	if (ok)
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

static EVP_PKEY *params_copy(EVP_PKEY *params, OSSL_LIB_CTX *library)
{
	unsigned char *der = NULL;
	int n = i2d_KeyParams(params, &der);
	const unsigned char *p = der;
	EVP_PKEY *copy = NULL;
	(void)library; /* parameters are plain numbers: OpenSSL exports them to the context that uses them */

	if (n > 0)
		copy = d2i_KeyParams(EVP_PKEY_DH, NULL, &p, n);
	OPENSSL_free(der);
	return copy;
}

static bool pair_install(const struct pair *pair, SSL_CTX *ctx, OSSL_LIB_CTX *library)
{
	X509 *cert = cert_copy(pair->cert, library);
	EVP_PKEY *key = key_copy(pair->key, library);
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
	EVP_PKEY *dh;

	for (size_t i = 0; i < identity->count; i++)
		if (!pair_install(&identity->pairs[i], ctx, library))
			return false;
	dh = identity->dh ? params_copy(identity->dh, library) : NULL;
	if (!dh)
		return SSL_CTX_set_dh_auto(ctx, 1) == 1; /* RFC 7919 groups by the key's strength */
	if (SSL_CTX_set0_tmp_dh_pkey(ctx, dh) == 1)
		return true;
	EVP_PKEY_free(dh);
	return false;
}
