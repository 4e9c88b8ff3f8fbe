/*
 * A provider of the name "fips" for tests: the default provider's algorithms, said to be approved. It shows what is made of a FIPS provider, no more.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "mirror.h"

static int capabilities(void *context, const char *capability, OSSL_CALLBACK *callback, void *arg)
{
	return OSSL_PROVIDER_get_capabilities(mirror_find(context)->provider, capability, callback, arg);
}

static const OSSL_ALGORITHM *query(void *context, int operation, int *no_cache)
{
	/* What reads and writes keys is the base provider's. */
	if (operation == OSSL_OP_ENCODER || operation == OSSL_OP_DECODER || operation == OSSL_OP_STORE)
		return NULL;
	return mirror_query(context, operation, no_cache, "provider=fips,fips=yes");
}

static const OSSL_DISPATCH functions[] = {
	{OSSL_FUNC_PROVIDER_TEARDOWN, (void (*)(void))mirror_close},
	{OSSL_FUNC_PROVIDER_QUERY_OPERATION, (void (*)(void))query},
	{OSSL_FUNC_PROVIDER_GET_CAPABILITIES, (void (*)(void))capabilities},
	{0, NULL},
};

int OSSL_provider_init(const OSSL_CORE_HANDLE *handle, const OSSL_DISPATCH *in, const OSSL_DISPATCH **out, void **context)
{
	(void)handle, (void)in;
	*out = functions;
	*context = mirror_open();
	return *context != NULL;
}
