/*
 * Places of certificates and keys: see tls_place.h. OSSL_STORE tells PEM, DER and PKCS#12 apart by content.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tls_place.h"

#include "log.h"
#include "tls.h"
#include "tls_engine.h"
#include "tls_prompt.h"

#include <ctype.h>
#include <openssl/err.h>
#include <openssl/store.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

enum { TRIES = 3 }; /* for a pass phrase; a token locks itself after a few wrong PINs, so there is one try for those */

bool place_is_token(const char *place)
{
	const char *end = place;

	if (strncasecmp(place, "file:", 5) == 0 || access(place, F_OK) == 0)
		return false;
	while (isalnum((unsigned char)*end) || *end == '+' || *end == '-' || *end == '.')
		end++;
	return *end == ':' && end > place + 1; /* C:\ is none */
}

bool place_has_loader(const char *place)
{
	size_t length = strcspn(place, ":");
	OSSL_STORE_LOADER *loader;
	char scheme[32];

	if (!place_is_token(place))
		return true;
	snprintf(scheme, sizeof(scheme), "%.*s", (int)length, place);
	loader = OSSL_STORE_LOADER_fetch(NULL, scheme, NULL);
	ERR_clear_error();
	OSSL_STORE_LOADER_free(loader);
	return loader != NULL;
}

/* RFC 7512 2.4: pin-value stands behind the question mark, and people put it elsewhere. */
const char *place_text(const char *place, char text[PLACE_TEXT_MAX])
{
	static const char name[] = "pin-value=";
	size_t used = 0;

	while (*place && used < PLACE_TEXT_MAX - 1) {
		bool pin = strncasecmp(place, name, strlen(name)) == 0;

		if (!pin) {
			text[used++] = *place++;
			continue;
		}
		used += (size_t)snprintf(text + used, PLACE_TEXT_MAX - used, "%.*s...", (int)strlen(name), place);
		place += strlen(name);
		place += strcspn(place, ";&?");
	}
	text[used < PLACE_TEXT_MAX ? used : PLACE_TEXT_MAX - 1] = '\0';
	return text;
}

void contents_free(struct contents *c)
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

/* One attempt. Returns false with the reason in the error queue. */
static bool contents_try(struct contents *c, const char *place, int expect, OSSL_LIB_CTX *library)
{
	OSSL_STORE_CTX *store = OSSL_STORE_open_ex(place, library, NULL, tls_prompt_method(), NULL, NULL, NULL, NULL);
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

/* Logs why a place could not be used; returns whether another answer may help. */
static bool explain_failure(bool last)
{
	bool system = ERR_SYSTEM_ERROR(ERR_peek_error()); /* such as: no such file */
	char text[256];
	bool wrong;

	ERR_error_string_n(ERR_peek_last_error(), text, sizeof(text));
	log_global(LOG_ERR, "ui_retry: %s", text);
	wrong = tls_prompt_was_wrong();
	if (system || !wrong)
		log_global(LOG_ERR, "Unrecoverable error: giving up");
	else if (!last)
		log_global(LOG_WARNING, "Wrong password or PIN: retrying");
	else
		log_global(LOG_ERR, "Wrong password or PIN: giving up");
	return wrong && !system && !last;
}

/* What was right before is tried first, and nobody hears of it. */
static bool load_with_remembered(struct contents *c, const char *file, int expect, OSSL_LIB_CTX *library)
{
	const char *answer;
	bool ok = false;

	for (size_t i = 0; !ok && (answer = tls_prompt_remembered(i)); i++) {
		tls_prompt_begin(false, NULL, answer);
		ok = contents_try(c, file, expect, library);
		if (!ok)
			contents_free(c);
	}
	ERR_clear_error();
	return ok;
}

static bool load_file(struct contents *c, const char *file, int expect, OSSL_LIB_CTX *library)
{
	bool ok = load_with_remembered(c, file, expect, library), again = true;

	for (int try = 1; !ok && again && try <= TRIES; try++) {
		tls_prompt_begin(false, file, NULL);
		ok = contents_try(c, file, expect, library);
		if (ok)
			break;
		contents_free(c);
		again = explain_failure(try == TRIES);
	}
	if (ok && tls_prompt_asked() && *tls_prompt_answer())
		tls_prompt_remember();
	tls_prompt_end();
	return ok;
}

static bool load_token(struct contents *c, const char *uri, int expect, OSSL_LIB_CTX *library, char *pin)
{
	bool ok;

	tls_prompt_begin(true, NULL, pin);
	ok = contents_try(c, uri, expect, library);
	if (ok && pin && tls_prompt_asked())
		memcpy(pin, tls_prompt_answer(), TLS_PASSPHRASE_MAX);
	if (!ok)
		explain_failure(true);
	else if (tls_prompt_asked() && !c->key && sk_X509_num(c->certs) == 0)
		log_global(LOG_ERR, "Wrong PIN: giving up"); /* a provider need not say so */
	if (!ok)
		contents_free(c);
	tls_prompt_end();
	return ok;
}

bool contents_load(struct contents *c, const char *place, int expect, OSSL_LIB_CTX *library, char *pin)
{
	return place_is_token(place) ? load_token(c, place, expect, library, pin) : load_file(c, place, expect, library);
}

/* --- engines ------------------------------------------------------------------------------------------------------------------------ */

bool contents_load_cert(struct contents *c, const struct section *section, const char *id)
{
	char text[PLACE_TEXT_MAX];
	X509 *cert;

	log_global(LOG_INFO, "Loading certificate from engine ID: %s", place_text(id, text));
	ERR_clear_error();
	cert = tls_engine_cert((unsigned)section->engine_num, id);
	c->certs = cert ? sk_X509_new_null() : NULL;
	if (!c->certs || !sk_X509_push(c->certs, cert)) {
		X509_free(cert);
		tls_log_errors(LOG_INFO, NULL, "ENGINE_ctrl_cmd", NULL);
		return false;
	}
	log_global(LOG_INFO, "Certificate loaded from engine ID: %s", text);
	c->engine = true;
	return true;
}

bool contents_load_key(struct contents *c, const struct section *section, const char *id, bool *go_on)
{
	char text[PLACE_TEXT_MAX];

	log_global(LOG_INFO, "Initializing private key on engine ID: %s", place_text(id, text));
	ERR_clear_error();
	tls_prompt_begin(true, NULL, NULL);
	c->key = tls_engine_key((unsigned)section->engine_num, id, tls_prompt_method());
	*go_on = !tls_prompt_asked();
	tls_prompt_end();
	c->engine = c->key != NULL;
	if (c->key) {
		log_global(LOG_INFO, "Private key initialized on engine ID: %s", text);
		return true;
	}
	tls_log_errors(LOG_ERR, NULL, "ENGINE_load_private_key", NULL);
	if (!*go_on)
		log_global(LOG_ERR, "Wrong PIN: giving up");
	return false;
}
