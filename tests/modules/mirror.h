/*
 * For providers of the tests that show the default provider's algorithms as their own: each instance has a library context with the default provider
 * in it, and OpenSSL is given that provider's context as ours, so that its functions work.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TESTS_MODULES_MIRROR_H
#define TESTS_MODULES_MIRROR_H

#include <openssl/core_dispatch.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/provider.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { MIRRORS_MAX = 1100, OPERATIONS_MAX = 32, ALGORITHMS_MAX = 400 };

struct mirror {
	OSSL_LIB_CTX *library;
	OSSL_PROVIDER *provider;
	void *context;
};

static struct mirror mirrors[MIRRORS_MAX];
static pthread_mutex_t mirrors_lock = PTHREAD_MUTEX_INITIALIZER;

static struct mirror *mirror_find(const void *context)
{
	struct mirror *found = NULL;

	pthread_mutex_lock(&mirrors_lock);
	for (int i = 0; i < MIRRORS_MAX && !found; i++)
		if (mirrors[i].context == context)
			found = &mirrors[i];
	pthread_mutex_unlock(&mirrors_lock);
	return found;
}

static void *mirror_open(void)
{
	OSSL_LIB_CTX *library = OSSL_LIB_CTX_new();
	OSSL_PROVIDER *provider = library ? OSSL_PROVIDER_load(library, "default") : NULL;
	struct mirror *m = provider ? mirror_find(NULL) : NULL;

	if (!m) {
		OSSL_LIB_CTX_free(library);
		return NULL;
	}
	*m = (struct mirror){library, provider, OSSL_PROVIDER_get0_provider_ctx(provider)};
	return m->context;
}

static void mirror_close(void *context)
{
	struct mirror *m = mirror_find(context);

	OSSL_PROVIDER_unload(m->provider);
	OSSL_LIB_CTX_free(m->library);
	*m = (struct mirror){0};
}

/* The default provider's algorithms of an operation, under other properties. The tables are the same for each instance. */
static const OSSL_ALGORITHM *mirror_query(void *context, int operation, int *no_cache, const char *properties)
{
	static OSSL_ALGORITHM copies[OPERATIONS_MAX][ALGORITHMS_MAX];
	const OSSL_ALGORITHM *own = OSSL_PROVIDER_query_operation(mirror_find(context)->provider, operation, no_cache);
	OSSL_ALGORITHM *copy = copies[operation];

	if (!own || operation >= OPERATIONS_MAX)
		return NULL;
	pthread_mutex_lock(&mirrors_lock);
	for (int i = 0; i < ALGORITHMS_MAX - 1 && own[i].algorithm_names && !copy[i].algorithm_names; i++) {
		copy[i] = own[i];
		copy[i].property_definition = properties;
	}
	pthread_mutex_unlock(&mirrors_lock);
	*no_cache = 0;
	return copy;
}

#endif
