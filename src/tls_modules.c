/*
 * Modules of OpenSSL: see tls_modules.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tls_modules.h"

#include "log.h"
#include "tls.h"
#include "tls_context.h"
#include "tls_engine.h"

#include <openssl/comp.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/provider.h>
#include <stdlib.h>
#include <string.h>

struct line {
	enum tls_module module;
	char *value;
};

/* The process's. */
static struct {
	struct line *lines; /* that have been acted upon, in their order */
	size_t count;
	bool loaded; /* a first reading has come to the end of its global part */
	bool fips;
	struct tls_providers providers; /* of the main thread's library context, for the life of the process */
} modules;

/* --- providers ---------------------------------------------------------------------------------------------------------------------- */

struct parameter {
	char provider[64];
	char name[128];
	const char *value;
};

/* "PROVIDER:NAME=VALUE" */
static bool parse_parameter(struct parameter *p, const char *text)
{
	size_t provider = strcspn(text, ":"), name;

	if (!text[provider] || provider == 0 || provider >= sizeof(p->provider))
		return false;
	name = strcspn(text + provider + 1, "=");
	p->value = text + provider + 1 + name;
	if (!*p->value || name == 0 || name >= sizeof(p->name))
		return false;
	p->value++;
	snprintf(p->provider, sizeof(p->provider), "%.*s", (int)provider, text);
	snprintf(p->name, sizeof(p->name), "%.*s", (int)name, text + provider + 1);
	return true;
}

#if OPENSSL_VERSION_NUMBER >= 0x30500000L

/* The provider is loaded once more for this, which is no more than one more reference to it. */
static const char *set_parameter(OSSL_LIB_CTX *library, const struct parameter *p)
{
	OSSL_PROVIDER *provider = OSSL_PROVIDER_load(library, p->provider);
	bool ok = provider && OSSL_PROVIDER_add_conf_parameter(provider, p->name, p->value) == 1;

	OSSL_PROVIDER_unload(provider);
	return ok ? NULL : "Failed to set the provider parameter";
}

#else

static const char *set_parameter(OSSL_LIB_CTX *library, const struct parameter *p)
{
	(void)library, (void)p;
	return "This needs OpenSSL 3.5 or newer: older ones take parameters of providers from openssl.cnf only";
}

#endif

static const char *add_parameter(OSSL_LIB_CTX *library, const char *text)
{
	struct parameter p;

	if (!parse_parameter(&p, text))
		return "Malformed parameter";
	if (!OSSL_PROVIDER_available(library, p.provider))
		return "Provider not found";
	return set_parameter(library, &p);
}

static bool load(OSSL_LIB_CTX *library, struct tls_providers *providers, const char *name)
{
	OSSL_PROVIDER **list = realloc(providers->list, (providers->count + 1) * sizeof(*list));
	OSSL_PROVIDER *provider;

	if (!list)
		return false;
	providers->list = list;
	provider = OSSL_PROVIDER_load(library, name);
	if (provider)
		list[providers->count++] = provider;
	return provider != NULL;
}

void tls_providers_unload(struct tls_providers *providers)
{
	for (size_t i = providers->count; i > 0; i--)
		OSSL_PROVIDER_unload(providers->list[i - 1]);
	free(providers->list);
	*providers = (struct tls_providers){0};
}

/* A provider that is asked for by name takes the place of the built-in default, unless that is named too. */
static const char *load_provider(OSSL_LIB_CTX *library, struct tls_providers *providers, const char *name)
{
	ERR_clear_error();
	if (load(library, providers, "default") && load(library, providers, name))
		return NULL;
	tls_log_errors(LOG_ERR, NULL, "OSSL_PROVIDER_load", NULL);
	return "Failed to load provider";
}

/* --- FIPS --------------------------------------------------------------------------------------------------------------------------- */

/* True if the algorithms that everything begins with are there. */
static bool fips_works(OSSL_LIB_CTX *library)
{
	EVP_MD *digest = EVP_MD_fetch(library, "SHA2-256", "fips=yes");
	EVP_CIPHER *cipher = EVP_CIPHER_fetch(library, "AES-256-GCM", "fips=yes");
	bool works = digest && cipher;

	EVP_MD_free(digest);
	EVP_CIPHER_free(cipher);
	return works;
}

/* "base" reads keys and certificates, which is nothing that FIPS 140 is about. */
static const char *enable_fips(OSSL_LIB_CTX *library, struct tls_providers *providers)
{
	ERR_clear_error();
	if (load(library, providers, "fips") && load(library, providers, "base") && fips_works(library) &&
	    EVP_default_properties_enable_fips(library, 1) == 1)
		return NULL;
	tls_log_errors(LOG_ERR, NULL, "OSSL_PROVIDER_load", NULL);
	return "\"fips = yes\": OpenSSL's FIPS provider is not installed, or does not work";
}

/* --- lines -------------------------------------------------------------------------------------------------------------------------- */

static const char *act(const struct line *line)
{
	switch (line->module) {
	case TLS_ENGINE: return tls_engine_open(line->value);
	case TLS_ENGINE_CONTROL: return tls_engine_control(line->value);
	case TLS_ENGINE_DEFAULT: return tls_engine_default(line->value);
	case TLS_PROVIDER: return load_provider(NULL, &modules.providers, line->value);
	case TLS_PROVIDER_PARAMETER: return add_parameter(NULL, line->value);
	}
	return NULL;
}

static const char *add_line(enum tls_module module, const char *value)
{
	struct line *lines = realloc(modules.lines, (modules.count + 1) * sizeof(*lines));

	if (!lines)
		return "Out of memory";
	modules.lines = lines;
	lines[modules.count] = (struct line){.module = module, .value = strdup(value)};
	if (!lines[modules.count].value)
		return "Out of memory";
	return act(&lines[modules.count++]);
}

const char *tls_modules_line(struct tls_modules_reading *reading, enum tls_module module, const char *value)
{
	size_t n = reading->lines++;

	reading->engine |= module == TLS_ENGINE;
	if (!reading->engine && (module == TLS_ENGINE_CONTROL || module == TLS_ENGINE_DEFAULT))
		return "No engine was defined";
	if (!modules.loaded)
		return add_line(module, value);
	reading->differs |= n >= modules.count || modules.lines[n].module != module || strcmp(modules.lines[n].value, value) != 0;
	return NULL;
}

const char *tls_modules_end(const struct tls_modules_reading *reading, bool fips)
{
	const char *wrong = NULL;

	if (!modules.loaded) {
		tls_engine_settle();
		modules.loaded = true;
		modules.fips = fips;
		wrong = fips ? enable_fips(NULL, &modules.providers) : NULL;
		if (!wrong)
			log_global(LOG_NOTICE, "FIPS provider %s", fips ? "enabled" : "disabled");
	} else if (reading->differs || reading->lines != modules.count || fips != modules.fips) {
		log_global(LOG_NOTICE, "Engines, providers and \"fips\" change with the next start");
	}
	return wrong;
}

bool tls_modules_install(OSSL_LIB_CTX *library, struct tls_providers *providers)
{
	const char *wrong = NULL;

	for (size_t i = 0; i < modules.count && !wrong; i++) {
		const struct line *line = &modules.lines[i];

		if (line->module == TLS_PROVIDER)
			wrong = load_provider(library, providers, line->value);
		else if (line->module == TLS_PROVIDER_PARAMETER)
			wrong = add_parameter(library, line->value);
	}
	if (!wrong && modules.fips)
		wrong = enable_fips(library, providers);
	if (wrong)
		log_global(LOG_ERR, "%s", wrong);
	return !wrong;
}

size_t tls_modules_engines(void)
{
	return tls_engine_count();
}

size_t tls_modules_engine(const char *id)
{
	return tls_engine_find(id);
}

bool tls_modules_fips(void)
{
	return modules.fips;
}

bool tls_modules_compression(void)
{
	COMP_METHOD *method = COMP_zlib();

	return method && COMP_get_type(method) != NID_undef;
}
