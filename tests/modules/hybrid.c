/*
 * A provider for tests with a group that older versions of OpenSSL have not got: X25519MLKEM768, by name, number and sizes
 * (draft-ietf-tls-ecdhe-mlkem). There is no cryptography in it: whoever sees the messages knows the secret.
 * SPDX-License-Identifier: Apache-2.0
 */
#include <openssl/core_dispatch.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/params.h>
#include <openssl/rand.h>
#include <openssl/sha.h>
#include <openssl/ssl.h>
#include <stdbool.h>
#include <string.h>

#define NAME "X25519MLKEM768"

enum { ID = 0x11ec, SECURITY = 192, CLIENT_SHARE = 1216, SERVER_SHARE = 1120, SECRET = 64, SEED = 32 };

struct key {
	bool has_public, has_private;
	unsigned char public[CLIENT_SHARE];
};

typedef void (*function)(void);

/* --- keys --------------------------------------------------------------------------------------------------------------------------- */

static void *key_new(void *provider)
{
	(void)provider;
	return OPENSSL_zalloc(sizeof(struct key));
}

static void key_free(void *key)
{
	OPENSSL_free(key);
}

static void *key_dup(const void *key, int selection)
{
	(void)selection;
	return OPENSSL_memdup(key, sizeof(struct key));
}

static int key_has(const void *data, int selection)
{
	const struct key *key = data;

	return key && (!(selection & OSSL_KEYMGMT_SELECT_PUBLIC_KEY) || key->has_public) &&
	       (!(selection & OSSL_KEYMGMT_SELECT_PRIVATE_KEY) || key->has_private);
}

static int key_match(const void *a, const void *b, int selection)
{
	(void)selection;
	return memcmp(((const struct key *)a)->public, ((const struct key *)b)->public, CLIENT_SHARE) == 0;
}

static int set_int(OSSL_PARAM params[], const char *name, int value)
{
	OSSL_PARAM *p = OSSL_PARAM_locate(params, name);

	return !p || OSSL_PARAM_set_int(p, value);
}

static int key_get_params(void *data, OSSL_PARAM params[])
{
	const struct key *key = data;
	OSSL_PARAM *name = OSSL_PARAM_locate(params, OSSL_PKEY_PARAM_GROUP_NAME);
	OSSL_PARAM *encoded = OSSL_PARAM_locate(params, OSSL_PKEY_PARAM_ENCODED_PUBLIC_KEY);

	return set_int(params, OSSL_PKEY_PARAM_BITS, 8 * CLIENT_SHARE) &&
	       set_int(params, OSSL_PKEY_PARAM_SECURITY_BITS, SECURITY) &&
	       set_int(params, OSSL_PKEY_PARAM_MAX_SIZE, SERVER_SHARE) && (!name || OSSL_PARAM_set_utf8_string(name, NAME)) &&
	       (!encoded || OSSL_PARAM_set_octet_string(encoded, key->public, CLIENT_SHARE));
}

static const OSSL_PARAM *key_gettable(void *provider)
{
	static const OSSL_PARAM gettable[] = {OSSL_PARAM_int(OSSL_PKEY_PARAM_BITS, NULL),
	                                      OSSL_PARAM_int(OSSL_PKEY_PARAM_SECURITY_BITS, NULL),
	                                      OSSL_PARAM_int(OSSL_PKEY_PARAM_MAX_SIZE, NULL),
	                                      OSSL_PARAM_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, NULL, 0),
	                                      OSSL_PARAM_octet_string(OSSL_PKEY_PARAM_ENCODED_PUBLIC_KEY, NULL, 0),
	                                      OSSL_PARAM_END};
	(void)provider;

	return gettable;
}

static int key_set_params(void *data, const OSSL_PARAM params[])
{
	const OSSL_PARAM *encoded = OSSL_PARAM_locate_const(params, OSSL_PKEY_PARAM_ENCODED_PUBLIC_KEY);
	struct key *key = data;

	if (!encoded)
		return 1;
	if (encoded->data_type != OSSL_PARAM_OCTET_STRING || encoded->data_size != CLIENT_SHARE)
		return 0;
	memcpy(key->public, encoded->data, CLIENT_SHARE);
	key->has_public = true;
	return 1;
}

static const OSSL_PARAM *key_settable(void *provider)
{
	static const OSSL_PARAM settable[] = {OSSL_PARAM_octet_string(OSSL_PKEY_PARAM_ENCODED_PUBLIC_KEY, NULL, 0),
	                                      OSSL_PARAM_END};
	(void)provider;

	return settable;
}

/* What a generation is to make: parameters alone, or a pair of keys. */
static void *gen_init(void *provider, int selection, const OSSL_PARAM params[])
{
	int *wanted = OPENSSL_zalloc(sizeof(int));
	(void)provider;
	(void)params;

	if (wanted)
		*wanted = selection;
	return wanted;
}

static int gen_set_params(void *gen, const OSSL_PARAM params[])
{
	(void)gen;
	(void)params;
	return 1;
}

static const OSSL_PARAM *gen_settable(void *gen, void *provider)
{
	static const OSSL_PARAM settable[] = {OSSL_PARAM_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, NULL, 0), OSSL_PARAM_END};
	(void)gen;
	(void)provider;

	return settable;
}

static void *gen_run(void *gen, OSSL_CALLBACK *callback, void *arg)
{
	struct key *key = key_new(NULL);
	(void)callback;
	(void)arg;

	if (key && *(int *)gen & OSSL_KEYMGMT_SELECT_KEYPAIR) {
		key->has_public = key->has_private = RAND_bytes(key->public, CLIENT_SHARE) == 1;
		if (!key->has_public) {
			key_free(key);
			return NULL;
		}
	}
	return key;
}

static void gen_cleanup(void *gen)
{
	OPENSSL_free(gen);
}

static const OSSL_DISPATCH key_functions[] = {{OSSL_FUNC_KEYMGMT_NEW, (function)key_new},
                                              {OSSL_FUNC_KEYMGMT_FREE, (function)key_free},
                                              {OSSL_FUNC_KEYMGMT_DUP, (function)key_dup},
                                              {OSSL_FUNC_KEYMGMT_HAS, (function)key_has},
                                              {OSSL_FUNC_KEYMGMT_MATCH, (function)key_match},
                                              {OSSL_FUNC_KEYMGMT_GET_PARAMS, (function)key_get_params},
                                              {OSSL_FUNC_KEYMGMT_GETTABLE_PARAMS, (function)key_gettable},
                                              {OSSL_FUNC_KEYMGMT_SET_PARAMS, (function)key_set_params},
                                              {OSSL_FUNC_KEYMGMT_SETTABLE_PARAMS, (function)key_settable},
                                              {OSSL_FUNC_KEYMGMT_GEN_INIT, (function)gen_init},
                                              {OSSL_FUNC_KEYMGMT_GEN_SET_PARAMS, (function)gen_set_params},
                                              {OSSL_FUNC_KEYMGMT_GEN_SETTABLE_PARAMS, (function)gen_settable},
                                              {OSSL_FUNC_KEYMGMT_GEN, (function)gen_run},
                                              {OSSL_FUNC_KEYMGMT_GEN_CLEANUP, (function)gen_cleanup},
                                              {0, NULL}};

/* --- encapsulation ------------------------------------------------------------------------------------------------------------------ */

struct kem {
	const struct key *key;
};

static void *kem_new(void *provider)
{
	(void)provider;
	return OPENSSL_zalloc(sizeof(struct kem));
}

static int kem_init(void *kem, void *key, const OSSL_PARAM params[])
{
	(void)params;
	((struct kem *)kem)->key = key;
	return key != NULL;
}

/* The secret: a hash of what both have seen. */
static void derive(const struct key *key, const unsigned char *seed, unsigned char secret[SECRET])
{
	unsigned char both[2 * SEED];

	memcpy(both, key->public, SEED);
	memcpy(both + SEED, seed, SEED);
	SHA512(both, sizeof(both), secret);
}

static int encapsulate(void *kem, unsigned char *out, size_t *out_len, unsigned char *secret, size_t *secret_len)
{
	*out_len = SERVER_SHARE;
	*secret_len = SECRET;
	if (!out)
		return 1;
	if (RAND_bytes(out, SERVER_SHARE) != 1)
		return 0;
	derive(((struct kem *)kem)->key, out, secret);
	return 1;
}

static int decapsulate(void *kem, unsigned char *out, size_t *out_len, const unsigned char *in, size_t n)
{
	*out_len = SECRET;
	if (!out)
		return 1;
	if (n != SERVER_SHARE)
		return 0;
	derive(((struct kem *)kem)->key, in, out);
	return 1;
}

static const OSSL_DISPATCH kem_functions[] = {{OSSL_FUNC_KEM_NEWCTX, (function)kem_new},
                                              {OSSL_FUNC_KEM_FREECTX, (function)key_free},
                                              {OSSL_FUNC_KEM_ENCAPSULATE_INIT, (function)kem_init},
                                              {OSSL_FUNC_KEM_ENCAPSULATE, (function)encapsulate},
                                              {OSSL_FUNC_KEM_DECAPSULATE_INIT, (function)kem_init},
                                              {OSSL_FUNC_KEM_DECAPSULATE, (function)decapsulate},
                                              {0, NULL}};

/* --- the provider ------------------------------------------------------------------------------------------------------------------- */

static const OSSL_ALGORITHM key_managers[] = {{NAME, "provider=hybrid", key_functions, NULL}, {NULL, NULL, NULL, NULL}};
static const OSSL_ALGORITHM kems[] = {{NAME, "provider=hybrid", kem_functions, NULL}, {NULL, NULL, NULL, NULL}};

static const OSSL_ALGORITHM *query(void *provider, int operation, int *no_cache)
{
	(void)provider;
	*no_cache = 0;
	return operation == OSSL_OP_KEYMGMT ? key_managers : operation == OSSL_OP_KEM ? kems : NULL;
}

/* provider-base(7), TLS-GROUP */
static int capabilities(void *provider, const char *capability, OSSL_CALLBACK *callback, void *arg)
{
	static unsigned id = ID, security = SECURITY, is_kem = 1;
	static int min = TLS1_3_VERSION, max = 0, none = -1;
	static char name[] = NAME;
	const OSSL_PARAM group[] = {OSSL_PARAM_utf8_string(OSSL_CAPABILITY_TLS_GROUP_NAME, name, sizeof(name)),
	                            OSSL_PARAM_utf8_string(OSSL_CAPABILITY_TLS_GROUP_NAME_INTERNAL, name, sizeof(name)),
	                            OSSL_PARAM_utf8_string(OSSL_CAPABILITY_TLS_GROUP_ALG, name, sizeof(name)),
	                            OSSL_PARAM_uint(OSSL_CAPABILITY_TLS_GROUP_ID, &id),
	                            OSSL_PARAM_uint(OSSL_CAPABILITY_TLS_GROUP_SECURITY_BITS, &security),
	                            OSSL_PARAM_uint(OSSL_CAPABILITY_TLS_GROUP_IS_KEM, &is_kem),
	                            OSSL_PARAM_int(OSSL_CAPABILITY_TLS_GROUP_MIN_TLS, &min),
	                            OSSL_PARAM_int(OSSL_CAPABILITY_TLS_GROUP_MAX_TLS, &max),
	                            OSSL_PARAM_int(OSSL_CAPABILITY_TLS_GROUP_MIN_DTLS, &none),
	                            OSSL_PARAM_int(OSSL_CAPABILITY_TLS_GROUP_MAX_DTLS, &none),
	                            OSSL_PARAM_END};
	(void)provider;

	return strcmp(capability, "TLS-GROUP") == 0 ? callback(group, arg) : 1;
}

static const OSSL_DISPATCH functions[] = {{OSSL_FUNC_PROVIDER_QUERY_OPERATION, (function)query},
                                          {OSSL_FUNC_PROVIDER_GET_CAPABILITIES, (function)capabilities},
                                          {0, NULL}};

OSSL_provider_init_fn OSSL_provider_init;

int OSSL_provider_init(const OSSL_CORE_HANDLE *handle, const OSSL_DISPATCH *in, const OSSL_DISPATCH **out, void **context)
{
	(void)in;
	*out = functions;
	*context = (void *)(uintptr_t)handle;
	return 1;
}
