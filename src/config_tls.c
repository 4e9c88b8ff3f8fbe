/*
 * Names of TLS options and protocol versions, and the numbers OpenSSL has for them.
 * For config*.c only. Nothing of OpenSSL is called, its headers alone are used.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "config_table.h"

#include <openssl/ocsp.h>
#include <openssl/ssl.h>
#include <string.h>
#include <strings.h>

struct tls_option {
	const char *name;
	uint64_t bits;
};

#define TLS_OPTION(name) {#name, (uint64_t)SSL_OP_##name},
static const struct tls_option tls_options[] = {
#include "tls_options.def"
};
#undef TLS_OPTION

enum { TLS_OPTIONS = sizeof(tls_options) / sizeof(*tls_options) };

static const struct tls_option *find(const char *name)
{
	for (size_t i = 0; i < TLS_OPTIONS; i++)
		if (!strcasecmp(tls_options[i].name, name))
			return &tls_options[i];
	return NULL;
}

/* The last word about a bit wins. */
const char *tls_option_parse(const char *text, uint64_t *set, uint64_t *clear)
{
	bool minus = *text == '-';
	const struct tls_option *option = find(text + minus);

	if (!option)
		return "Illegal TLS option";
	if (minus) {
		*set &= ~option->bits;
		*clear |= option->bits;
	} else {
		*clear &= ~option->bits;
		*set |= option->bits;
	}
	return NULL;
}

void tls_options_print(FILE *out, const struct option *row, uint64_t bits, const char *prefix)
{
	char text[80];

	for (size_t i = 0; i < TLS_OPTIONS; i++) {
		uint64_t bit = tls_options[i].bits;

		if (!bit || (bit & (bit - 1)) || !(bits & bit))
			continue;
		bits &= ~bit;
		snprintf(text, sizeof(text), "%s%s", prefix, tls_options[i].name);
		print_option(out, row, text);
	}
}

/* stunnel's word for kernel TLS is an option of OpenSSL. */
enum ktls_wish tls_options_ktls(uint64_t set, uint64_t clear, enum ktls_wish unless_said)
{
#ifdef SSL_OP_ENABLE_KTLS
	if (set & SSL_OP_ENABLE_KTLS)
		return KTLS_YES;
	if (clear & SSL_OP_ENABLE_KTLS)
		return KTLS_NO;
#else
	(void)set;
	(void)clear;
#endif
	return unless_said;
}

void config_print_tls_options(FILE *out)
{
	fputs("Supported TLS options:\n", out);
	for (size_t i = 0; i < TLS_OPTIONS; i++)
		fprintf(out, "options = %s\n", tls_options[i].name);
}

static const struct word versions[] = {
	{"all", 0},
	{"SSLv3", SSL3_VERSION},
	{"TLSv1", TLS1_VERSION},
	{"TLSv1.1", TLS1_1_VERSION},
	{"TLSv1.2", TLS1_2_VERSION},
	{"TLSv1.3", TLS1_3_VERSION},
	{0},
};

int tls_version_parse(const char *text)
{
	for (const struct word *version = versions; version->word; version++)
		if (!strcasecmp(version->word, text))
			return version->value;
	return -1;
}

const char *tls_version_text(int version)
{
	const struct word *at = versions;

	while (at->word && at->value != version)
		at++;
	return at->word ? at->word : "all";
}

bool config_ocsp_flag(const char *word, unsigned long *flag)
{
	static const struct {
		const char *name;
		unsigned long flag;
	} flags[] = {
		{"NOCERTS", OCSP_NOCERTS},       {"NOINTERN", OCSP_NOINTERN},       {"NOSIGS", OCSP_NOSIGS},
		{"NOCHAIN", OCSP_NOCHAIN},       {"NOVERIFY", OCSP_NOVERIFY},       {"NOEXPLICIT", OCSP_NOEXPLICIT},
		{"NOCASIGN", OCSP_NOCASIGN},     {"NODELEGATED", OCSP_NODELEGATED}, {"NOCHECKS", OCSP_NOCHECKS},
		{"TRUSTOTHER", OCSP_TRUSTOTHER}, {"RESPID_KEY", OCSP_RESPID_KEY},   {"NOTIME", OCSP_NOTIME},
	};

	for (size_t i = 0; i < sizeof(flags) / sizeof(*flags); i++) {
		if (strcasecmp(flags[i].name, word) != 0)
			continue;
		*flag = flags[i].flag;
		return true;
	}
	return false;
}
