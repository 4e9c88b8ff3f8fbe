/*
 * Kinds of option values: how each is read into its field and written back.
 * For the table of options only (config_table.h). The kinds that a single option has are in config_special.c.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "config_table.h"

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const void *field_of(const struct option *row, const void *base)
{
	return (const char *)base + row->offset;
}

static void *field_in(const struct option *row, void *base)
{
	return (char *)base + row->offset;
}

/* strtol(3) without its silent overflow; blanks and a sign in front are fine, anything behind is not. */
bool config_number(const char *text, long min, long max, long *number)
{
	char *end;

	errno = 0;
	*number = strtol(text, &end, 10);
	return end != text && *end == '\0' && !errno && *number >= min && *number <= max;
}

/* Grows by doubling: lists are read from files of any size. */
const char *texts_add(struct arena *arena, struct texts *texts, const char *text)
{
	size_t count = texts->count;

	if (!(count & (count - 1))) {
		char **more = arena_alloc(arena, (count ? 2 * count : 1) * sizeof(*more));

		if (!more)
			return config_no_memory;
		if (count)
			memcpy(more, texts->texts, count * sizeof(*more));
		texts->texts = more;
	}
	texts->texts[count] = arena_strdup(arena, text);
	if (!texts->texts[count])
		return config_no_memory;
	texts->count++;
	return NULL;
}

/* --- texts ------------------------------------------------------------------------------------------------------- */

static const char *parse_text(struct reading *reading, const struct option *row, void *base, const char *value)
{
	const char **field = field_in(row, base);

	*field = arena_strdup(reading->arena, value);
	return *field ? NULL : config_no_memory;
}

static const char *parse_text_or_none(struct reading *reading, const struct option *row, void *base, const char *value)
{
	if (*value)
		return parse_text(reading, row, base, value);
	*(const char **)field_in(row, base) = NULL;
	return NULL;
}

static void print_text(FILE *out, const struct option *row, const void *base)
{
	const char *value = *(const char *const *)field_of(row, base);

	if (value)
		print_option(out, row, value);
	else if (row->flags & SHOWN_ONLY && !row->asks)
		fprintf(out, "; %s = %s\n", row->name, row->fallback);
}

const struct option_kind kind_text = {parse_text, print_text, NULL};
const struct option_kind kind_text_or_none = {parse_text_or_none, print_text, NULL};

static const char *parse_texts(struct reading *reading, const struct option *row, void *base, const char *value)
{
	struct texts *field = field_in(row, base);

	if (!origins_of(base)->own[row - options])
		*field = (struct texts){0};
	return texts_add(reading->arena, field, value);
}

static void print_texts(FILE *out, const struct option *row, const void *base)
{
	const struct texts *field = field_of(row, base);

	for (size_t i = 0; i < field->count; i++)
		print_option(out, row, field->texts[i]);
}

const struct option_kind kind_texts = {parse_texts, print_texts, NULL};

/* --- words ------------------------------------------------------------------------------------------------------- */

static const struct word *word_find(const struct word *words, const char *text)
{
	for (; words->word; words++)
		if (!strcasecmp(words->word, text))
			return words;
	return NULL;
}

static void print_value(FILE *out, const struct option *row, int value)
{
	for (const struct word *word = row->kind->words; word->word; word++) {
		if (word->value != value)
			continue;
		print_option(out, row, word->word);
		return;
	}
}

/* One of two or more words, kept in a bool. */
static const char *parse_flag(struct reading *reading, const struct option *row, void *base, const char *value)
{
	const struct word *word = word_find(row->kind->words, value);

	(void)reading;
	if (!word)
		return row->error ? row->error : "The argument needs to be either 'yes' or 'no'";
	*(bool *)field_in(row, base) = word->value;
	return NULL;
}

static void print_flag(FILE *out, const struct option *row, const void *base)
{
	print_value(out, row, *(const bool *)field_of(row, base));
}

/* The same in an int or an enum. */
static const char *parse_word(struct reading *reading, const struct option *row, void *base, const char *value)
{
	const struct word *word = word_find(row->kind->words, value);

	(void)reading;
	if (!word)
		return row->error;
	*(int *)field_in(row, base) = word->value;
	return NULL;
}

static void print_word(FILE *out, const struct option *row, const void *base)
{
	print_value(out, row, *(const int *)field_of(row, base));
}

static const struct word flag_words[] = {{"yes", true}, {"no", false}, {0}};
static const struct word log_file_words[] = {{"append", false}, {"overwrite", true}, {0}};
static const struct word transport_words[] = {{"tcp", false}, {"udp", true}, {0}};
static const struct word foreground_words[] = {{"yes", FOREGROUND_YES}, {"quiet", FOREGROUND_QUIET}, {"no", FOREGROUND_NO}, {0}};
static const struct word failover_words[] = {{"rr", FAILOVER_RR}, {"prio", FAILOVER_PRIO}, {0}};
static const struct word log_id_words[] = {{"sequential", LOG_ID_SEQUENTIAL},
                                           {"unique", LOG_ID_UNIQUE},
                                           {"thread", LOG_ID_THREAD},
                                           {"process", LOG_ID_PROCESS},
                                           {0}};
static const struct word transparent_words[] = {{"none", TRANSPARENT_NONE},
                                                {"source", TRANSPARENT_SOURCE},
                                                {"destination", TRANSPARENT_DESTINATION},
                                                {"both", TRANSPARENT_BOTH},
                                                {"no", TRANSPARENT_NONE},
                                                {"yes", TRANSPARENT_SOURCE},
                                                {0}};

static const struct word ktls_words[] = {{"auto", KTLS_AUTO}, {"yes", KTLS_YES}, {"no", KTLS_NO},
                                         {"tx", KTLS_TX},     {"rx", KTLS_RX},   {0}};
static const struct word relay_words[] = {
	{"auto", RELAY_AUTO}, {"copy", RELAY_COPY}, {"splice", RELAY_SPLICE}, {"uring-splice", RELAY_URING_SPLICE}, {0}};

static const struct word alpn_mismatch_words[] = {{"refuse", false}, {"ignore", true}, {0}};
static const struct word sandbox_words[] = {{"yes", SANDBOX_YES}, {"no", SANDBOX_NO}, {"strict", SANDBOX_STRICT}, {0}};
static const struct word psk_require_words[] = {
	{"auto", PSK_REQUIRE_AUTO}, {"yes", PSK_REQUIRE_YES}, {"no", PSK_REQUIRE_NO}, {0}};
static const struct word send_proxy_words[] = {{"no", SEND_PROXY_NO}, {"v2", SEND_PROXY_V2}, {0}};

const struct option_kind kind_flag = {parse_flag, print_flag, flag_words};
const struct option_kind kind_log_file = {parse_flag, print_flag, log_file_words};
const struct option_kind kind_transport = {parse_flag, print_flag, transport_words};
const struct option_kind kind_foreground = {parse_word, print_word, foreground_words};
const struct option_kind kind_failover = {parse_word, print_word, failover_words};
const struct option_kind kind_log_id = {parse_word, print_word, log_id_words};
const struct option_kind kind_ktls = {parse_word, print_word, ktls_words};
const struct option_kind kind_relay = {parse_word, print_word, relay_words};
const struct option_kind kind_alpn_mismatch = {parse_flag, print_flag, alpn_mismatch_words};
const struct option_kind kind_sandbox = {parse_word, print_word, sandbox_words};
const struct option_kind kind_psk_require = {parse_word, print_word, psk_require_words};
const struct option_kind kind_send_proxy = {parse_word, print_word, send_proxy_words};
const struct option_kind kind_transparent = {parse_word, print_word, transparent_words};

/* verifyChain and verifyPeer make sure that there is a certificate to verify. */
static const char *parse_verify_flag(struct reading *reading, const struct option *row, void *base, const char *value)
{
	struct service_options *service = base;
	const char *wrong = parse_flag(reading, row, base, value);

	if (!wrong && *(bool *)field_in(row, base))
		service->pub.request_cert = service->pub.require_cert = true;
	return wrong;
}

const struct option_kind kind_verify_flag = {parse_verify_flag, print_flag, flag_words};

/* --- numbers ----------------------------------------------------------------------------------------------------- */

static const char *parse_int_within(const struct option *row, void *base, const char *value, long min, long max)
{
	long number;

	if (!config_number(value, min, max, &number))
		return row->error;
	*(int *)field_in(row, base) = (int)number;
	return NULL;
}

static void print_long_value(FILE *out, const struct option *row, long value)
{
	char text[24];

	snprintf(text, sizeof(text), "%ld", value);
	print_option(out, row, text);
}

static void print_int(FILE *out, const struct option *row, const void *base)
{
	print_long_value(out, row, *(const int *)field_of(row, base));
}

static const char *parse_int(struct reading *reading, const struct option *row, void *base, const char *value)
{
	(void)reading;
	return parse_int_within(row, base, value, INT_MIN, INT_MAX);
}

static const char *parse_drain(struct reading *reading, const struct option *row, void *base, const char *value)
{
	(void)reading;
	return parse_int_within(row, base, value, 0, INT_MAX);
}

static const char *parse_security_level(struct reading *reading, const struct option *row, void *base, const char *value)
{
	(void)reading;
	return parse_int_within(row, base, value, 0, 5);
}

static void print_security_level(FILE *out, const struct option *row, const void *base)
{
	if (*(const int *)field_of(row, base) >= 0)
		print_int(out, row, base);
}

static const char *parse_long(struct reading *reading, const struct option *row, void *base, const char *value)
{
	(void)reading;
	return config_number(value, LONG_MIN, LONG_MAX, field_in(row, base)) ? NULL : row->error;
}

static const char *parse_byte_count(struct reading *reading, const struct option *row, void *base, const char *value)
{
	(void)reading;
	return config_number(value, 0, LONG_MAX, field_in(row, base)) ? NULL : row->error;
}

static void print_long(FILE *out, const struct option *row, const void *base)
{
	print_long_value(out, row, *(const long *)field_of(row, base));
}

const struct option_kind kind_int = {parse_int, print_int, NULL};
const struct option_kind kind_drain = {parse_drain, print_int, NULL};
const struct option_kind kind_long = {parse_long, print_long, NULL};
const struct option_kind kind_rnd_bytes = {parse_byte_count, print_long, NULL};
const struct option_kind kind_byte_count = {parse_byte_count, print_long, NULL};
const struct option_kind kind_security_level = {parse_security_level, print_security_level, NULL};

/* --- addresses --------------------------------------------------------------------------------------------------- */

static const char *check_address(struct reading *reading, const char *value, enum addr_use use, const char *complaint)
{
	const char *why = addr_check(value, use);
	const char *wrong = why ? arena_printf(reading->arena, "%s (%s)", complaint, why) : NULL;

	return why && !wrong ? config_no_memory : wrong;
}

static const char *parse_accept(struct reading *reading, const struct option *row, void *base, const char *value)
{
	const char *wrong = check_address(reading, value, ADDR_PASSIVE, "Cannot resolve accept target");

	return wrong ? wrong : parse_texts(reading, row, base, value);
}

static const char *parse_connect(struct reading *reading, const struct option *row, void *base, const char *value)
{
	const char *wrong = check_address(reading, value, ADDR_ACTIVE, "Cannot resolve connect target");

	return wrong ? wrong : parse_texts(reading, row, base, value);
}

static const char *parse_redirect(struct reading *reading, const struct option *row, void *base, const char *value)
{
	const char *wrong = check_address(reading, value, ADDR_ACTIVE, "Cannot resolve redirect target");

	return wrong ? wrong : parse_texts(reading, row, base, value);
}

static const char *parse_local(struct reading *reading, const struct option *row, void *base, const char *value)
{
	const char *wrong = check_address(reading, value, ADDR_HOST, "Failed to resolve local address");

	return wrong ? wrong : parse_text(reading, row, base, value);
}

static const char *parse_sessiond(struct reading *reading, const struct option *row, void *base, const char *value)
{
	const char *wrong = check_address(reading, value, ADDR_ACTIVE, "Failed to resolve sessiond server address");

	if (!wrong && (*value == '/' || *value == '@'))
		wrong = "Failed to resolve sessiond server address (a port is needed here, not a Unix socket)";
	return wrong ? wrong : parse_text(reading, row, base, value);
}

static const char *parse_admin(struct reading *reading, const struct option *row, void *base, const char *value)
{
	const char *wrong = check_address(reading, value, ADDR_ACTIVE, "Illegal address of the status page");

	if (wrong || *value == '/' || *value == '@')
		return wrong ? wrong : "Illegal address of the status page (a port is needed here, not a Unix socket)";
	return parse_text(reading, row, base, value);
}

static const char *parse_ip(struct reading *reading, const struct option *row, void *base, const char *value)
{
	unsigned char ip[sizeof(struct in6_addr)];

	if (inet_pton(AF_INET, value, ip) != 1 && inet_pton(AF_INET6, value, ip) != 1)
		return row->error; /* it would never match */
	return parse_texts(reading, row, base, value);
}

const struct option_kind kind_accept = {parse_accept, print_texts, NULL};
const struct option_kind kind_connect = {parse_connect, print_texts, NULL};
const struct option_kind kind_redirect = {parse_redirect, print_texts, NULL};
const struct option_kind kind_local = {parse_local, print_text, NULL};
const struct option_kind kind_sessiond = {parse_sessiond, print_text, NULL};
const struct option_kind kind_ip = {parse_ip, print_texts, NULL};
const struct option_kind kind_admin = {parse_admin, print_text, NULL};
