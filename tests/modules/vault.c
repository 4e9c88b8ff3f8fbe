/*
 * A provider for tests with keys that cannot be taken out of it: "vault:/path/of.pem" is a certificate or a key, and ";pin" behind it means that the PIN
 * "vault-pin" must be given. Signatures are the default provider's.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "mirror.h"

#include <openssl/core_object.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdbool.h>
#include <unistd.h>

#define PROPERTIES "provider=vault"

enum { KINDS = 2, FUNCTIONS_MAX = 64 };

/* Key types and how the default provider keeps them. */
static struct kind {
	const char *names;
	const char *type;
	int id;
	OSSL_DISPATCH functions[FUNCTIONS_MAX];
	OSSL_FUNC_keymgmt_new_fn *new;
	OSSL_FUNC_keymgmt_free_fn *free;
	OSSL_FUNC_keymgmt_import_fn *import;
	OSSL_FUNC_keymgmt_export_fn *export;
} kinds[KINDS] = {{.type = "RSA", .id = EVP_PKEY_RSA}, {.type = "EC", .id = EVP_PKEY_EC}};
static OSSL_ALGORITHM key_managers[KINDS + 1];

/* --- keys --------------------------------------------------------------------------------------------------------------------------- */

static int export_rsa(void *key, int selection, OSSL_CALLBACK *callback, void *arg)
{
	return selection & OSSL_KEYMGMT_SELECT_PRIVATE_KEY ? 0 : kinds[0].export(key, selection, callback, arg);
}

static int export_ec(void *key, int selection, OSSL_CALLBACK *callback, void *arg)
{
	return selection & OSSL_KEYMGMT_SELECT_PRIVATE_KEY ? 0 : kinds[1].export(key, selection, callback, arg);
}

static void learn_function(struct kind *kind, OSSL_DISPATCH *copy)
{
	switch (copy->function_id) {
	case OSSL_FUNC_KEYMGMT_NEW: kind->new = (OSSL_FUNC_keymgmt_new_fn *)copy->function; break;
	case OSSL_FUNC_KEYMGMT_FREE: kind->free = (OSSL_FUNC_keymgmt_free_fn *)copy->function; break;
	case OSSL_FUNC_KEYMGMT_IMPORT: kind->import = (OSSL_FUNC_keymgmt_import_fn *)copy->function; break;
	case OSSL_FUNC_KEYMGMT_EXPORT:
		kind->export = (OSSL_FUNC_keymgmt_export_fn *)copy->function;
		copy->function = (void (*)(void))(kind == kinds ? export_rsa : export_ec);
		break;
	default: break;
	}
}

static void learn_kind(struct kind *kind, const OSSL_ALGORITHM *own)
{
	int n = 0;

	kind->names = own->algorithm_names;
	for (const OSSL_DISPATCH *function = own->implementation; function->function_id && n < FUNCTIONS_MAX - 1; function++) {
		kind->functions[n] = *function;
		learn_function(kind, &kind->functions[n++]);
	}
}

/* "RSA:rsaEncryption:..." */
static bool has_name(const OSSL_ALGORITHM *algorithm, const char *name)
{
	size_t n = strlen(name);

	return strncmp(algorithm->algorithm_names, name, n) == 0 && (algorithm->algorithm_names[n] == ':' || !algorithm->algorithm_names[n]);
}

static const OSSL_ALGORITHM *query_keys(void *context)
{
	int no_cache;
	const OSSL_ALGORITHM *own = OSSL_PROVIDER_query_operation(mirror_find(context)->provider, OSSL_OP_KEYMGMT, &no_cache);

	pthread_mutex_lock(&mirrors_lock);
	for (; own && own->algorithm_names; own++)
		for (int i = 0; i < KINDS; i++)
			if (has_name(own, kinds[i].type) && !kinds[i].names)
				learn_kind(&kinds[i], own);
	for (int i = 0; i < KINDS; i++)
		key_managers[i] = (OSSL_ALGORITHM){kinds[i].names, PROPERTIES, kinds[i].functions, NULL};
	pthread_mutex_unlock(&mirrors_lock);
	return key_managers;
}

/* --- the store ---------------------------------------------------------------------------------------------------------------------- */

struct store {
	struct mirror *mirror;
	char path[1024];
	bool pin, read;
};

static void *store_open(void *context, const char *uri)
{
	struct store *s = calloc(1, sizeof(*s));
	char *rest;

	if (!s || strncmp(uri, "vault:", 6) != 0 || strlen(uri) >= sizeof(s->path)) {
		free(s);
		return NULL;
	}
	s->mirror = mirror_find(context);
	strcpy(s->path, uri + 6);
	rest = strchr(s->path, ';');
	s->pin = rest && strcmp(rest, ";pin") == 0;
	if (rest)
		*rest = '\0';
	if (access(s->path, R_OK) == 0)
		return s;
	free(s);
	return NULL;
}

static int store_close(void *store)
{
	free(store);
	return 1;
}

static int store_eof(void *store)
{
	return ((struct store *)store)->read;
}

static const OSSL_PARAM *store_settable(void *context)
{
	static const OSSL_PARAM none[] = {OSSL_PARAM_END};

	(void)context;
	return none;
}

static int store_set(void *store, const OSSL_PARAM params[])
{
	(void)store, (void)params;
	return 1;
}

static int give_cert(X509 *cert, OSSL_CALLBACK *callback, void *arg)
{
	int type = OSSL_OBJECT_CERT, n, ok;
	unsigned char *der = NULL;
	OSSL_PARAM params[3] = {OSSL_PARAM_END, OSSL_PARAM_END, OSSL_PARAM_END};

	n = i2d_X509(cert, &der);
	params[0] = OSSL_PARAM_construct_int(OSSL_OBJECT_PARAM_TYPE, &type);
	params[1] = OSSL_PARAM_construct_octet_string(OSSL_OBJECT_PARAM_DATA, der, (size_t)n);
	ok = n > 0 && callback(params, arg);
	OPENSSL_free(der);
	return ok;
}

/* The key's own copy in our key manager, handed over by reference. */
static int give_key(void *context, EVP_PKEY *key, OSSL_CALLBACK *callback, void *arg)
{
	int type = OSSL_OBJECT_PKEY, ok = 0;
	struct kind *kind = EVP_PKEY_is_a(key, "RSA") ? &kinds[0] : &kinds[1];
	OSSL_PARAM *contents = NULL, params[4] = {OSSL_PARAM_END, OSSL_PARAM_END, OSSL_PARAM_END, OSSL_PARAM_END};
	void *own;

	query_keys(context);
	own = kind->new(context);
	if (own && EVP_PKEY_todata(key, EVP_PKEY_KEYPAIR, &contents) == 1 && kind->import(own, OSSL_KEYMGMT_SELECT_ALL, contents)) {
		params[0] = OSSL_PARAM_construct_int(OSSL_OBJECT_PARAM_TYPE, &type);
		params[1] = OSSL_PARAM_construct_utf8_string(OSSL_OBJECT_PARAM_DATA_TYPE, (char *)kind->type, 0);
		params[2] = OSSL_PARAM_construct_octet_string(OSSL_OBJECT_PARAM_REFERENCE, &own, sizeof(own));
		ok = callback(params, arg);
	}
	if (own)
		kind->free(own); /* whoever takes it puts NULL there */
	OSSL_PARAM_free(contents);
	return ok;
}

static bool pin_is_right(OSSL_PASSPHRASE_CALLBACK *ask, void *arg)
{
	OSSL_PARAM params[2] = {OSSL_PARAM_END, OSSL_PARAM_END};
	static const char what[] = "the vault";
	char pin[64] = "";
	size_t n = 0;

	params[0] = OSSL_PARAM_construct_utf8_string(OSSL_PASSPHRASE_PARAM_INFO, (char *)what, sizeof(what) - 1);
	return ask(pin, sizeof(pin), &n, params, arg) && n == 9 && memcmp(pin, "vault-pin", 9) == 0;
}

static int store_load(void *store, OSSL_CALLBACK *callback, void *arg, OSSL_PASSPHRASE_CALLBACK *ask, void *ask_arg)
{
	struct store *s = store;
	BIO *bio = BIO_new_file(s->path, "r");
	EVP_PKEY *key = PEM_read_bio_PrivateKey_ex(bio, NULL, NULL, NULL, s->mirror->library, NULL);
	X509 *cert = NULL;
	int ok = 0;

	s->read = true;
	if (key) {
		ok = (!s->pin || pin_is_right(ask, ask_arg)) && give_key(s->mirror->context, key, callback, arg);
	} else if (BIO_seek(bio, 0) == 0) {
		cert = PEM_read_bio_X509(bio, NULL, NULL, NULL);
		ok = cert && give_cert(cert, callback, arg);
	}
	EVP_PKEY_free(key);
	X509_free(cert);
	BIO_free(bio);
	return ok;
}

static const OSSL_DISPATCH store_functions[] = {
	{OSSL_FUNC_STORE_OPEN, (void (*)(void))store_open},
	{OSSL_FUNC_STORE_SETTABLE_CTX_PARAMS, (void (*)(void))store_settable},
	{OSSL_FUNC_STORE_SET_CTX_PARAMS, (void (*)(void))store_set},
	{OSSL_FUNC_STORE_LOAD, (void (*)(void))store_load},
	{OSSL_FUNC_STORE_EOF, (void (*)(void))store_eof},
	{OSSL_FUNC_STORE_CLOSE, (void (*)(void))store_close},
	{0, NULL},
};

static const OSSL_ALGORITHM stores[] = {{"vault", PROPERTIES, store_functions, NULL}, {NULL, NULL, NULL, NULL}};

/* --- the provider ------------------------------------------------------------------------------------------------------------------- */

static const OSSL_ALGORITHM *query(void *context, int operation, int *no_cache)
{
	*no_cache = 0;
	switch (operation) {
	case OSSL_OP_KEYMGMT: return query_keys(context);
	case OSSL_OP_SIGNATURE: return mirror_query(context, operation, no_cache, PROPERTIES);
	case OSSL_OP_STORE: return stores;
	default: return NULL;
	}
}

static const OSSL_DISPATCH functions[] = {
	{OSSL_FUNC_PROVIDER_TEARDOWN, (void (*)(void))mirror_close},
	{OSSL_FUNC_PROVIDER_QUERY_OPERATION, (void (*)(void))query},
	{0, NULL},
};

int OSSL_provider_init(const OSSL_CORE_HANDLE *handle, const OSSL_DISPATCH *in, const OSSL_DISPATCH **out, void **context)
{
	(void)handle, (void)in;
	*out = functions;
	*context = mirror_open();
	return *context != NULL;
}
