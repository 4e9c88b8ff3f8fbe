/*
 * Option values that need more than a word or a number: log levels, TLS versions and options, sockets, users, secrets.
 * For the table of options only (config_table.h).
 * SPDX-License-Identifier: Apache-2.0
 */
#include "config_table.h"

#include "coro.h"
#include "log.h"
#include "owner.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

enum { STACK_MAX = 16 << 20, WORKERS_MAX = 1024, KEY_SHORT = 16, KEY_LONG = 32, ALPN_MAX = 255 };

/* --- debug ------------------------------------------------------------------------------------------------------- */

static const char *const level_names[] = {"emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"};

static const struct word facilities[] = {
	{"auth", LOG_AUTH},     {"authpriv", LOG_AUTHPRIV}, {"cron", LOG_CRON},
	{"daemon", LOG_DAEMON}, {"ftp", LOG_FTP},           {"kern", LOG_KERN},
	{"lpr", LOG_LPR},       {"mail", LOG_MAIL},         {"news", LOG_NEWS},
	{"syslog", LOG_SYSLOG}, {"user", LOG_USER},         {"uucp", LOG_UUCP},
	{"local0", LOG_LOCAL0}, {"local1", LOG_LOCAL1},     {"local2", LOG_LOCAL2},
	{"local3", LOG_LOCAL3}, {"local4", LOG_LOCAL4},     {"local5", LOG_LOCAL5},
	{"local6", LOG_LOCAL6}, {"local7", LOG_LOCAL7},     {0},
};

static const char *level_parse(const char *text, int *level)
{
	for (int i = LOG_EMERG; i <= LOG_DEBUG; i++) {
		if (strcasecmp(text, level_names[i]) != 0 && !(text[0] == '0' + i && !text[1]))
			continue;
		*level = i;
		return NULL;
	}
	return "Illegal debug level";
}

static const char *facility_parse(const char *text, size_t len, int *facility)
{
	for (const struct word *word = facilities; word->word; word++) {
		if (strlen(word->word) != len || strncasecmp(word->word, text, len) != 0)
			continue;
		*facility = word->value;
		return NULL;
	}
	return "Illegal syslog facility";
}

/* Before the sections it is the level of the lines that belong to none, and the default of every section. */
static const char *parse_debug_global(struct reading *reading, const struct option *row, void *base, const char *value)
{
	struct global_options *global = base;
	const char *dot = strchr(value, '.');
	const char *wrong = dot ? facility_parse(value, (size_t)(dot - value), &global->pub.facility) : NULL;

	(void)row;
	if (!wrong)
		wrong = level_parse(dot ? dot + 1 : value, &global->pub.debug);
	if (!wrong)
		reading->defaults->pub.debug = global->pub.debug;
	return wrong;
}

static void print_debug_global(FILE *out, const struct option *row, const void *base)
{
	const struct global_options *global = base;
	const struct word *facility = facilities;
	char text[32];

	while (facility->word && facility->value != global->pub.facility)
		facility++;
	snprintf(text, sizeof(text), "%s.%s", facility->word ? facility->word : "daemon", level_names[global->pub.debug]);
	print_option(out, row, text);
}

static const char *parse_debug(struct reading *reading, const struct option *row, void *base, const char *value)
{
	(void)reading, (void)row;
	return level_parse(value, &((struct service_options *)base)->pub.debug);
}

static void print_debug(FILE *out, const struct option *row, const void *base)
{
	print_option(out, row, level_names[((const struct service_options *)base)->pub.debug]);
}

const struct option_kind kind_debug_global = {parse_debug_global, print_debug_global, NULL};
const struct option_kind kind_debug = {parse_debug, print_debug, NULL};

/* --- environment --------------------------------------------------------------------------------------------------- */

/* Acts at once, so that what is loaded later finds it. An equal value is left alone: other threads may be reading it. */
static const char *set_env(const char *name, const char *value)
{
	const char *now = getenv(name);

	if (!*value)
		return !now || !unsetenv(name) ? NULL : config_no_memory;
	return (now && !strcmp(now, value)) || !setenv(name, value, 1) ? NULL : config_no_memory;
}

static const char *parse_set_env(struct reading *reading, const struct option *row, void *base, const char *value)
{
	const char *equals = value + strcspn(value, "=");
	const char *name = arena_strndup(reading->arena, value, (size_t)(equals - value));
	const char *wrong;

	if (!name)
		return config_no_memory;
	if (!*name)
		return "The name of the environment variable is empty";
	wrong = set_env(name, *equals ? equals + 1 : "");
	return wrong ? wrong : kind_texts.parse(reading, row, base, value);
}

static void print_set_env(FILE *out, const struct option *row, const void *base)
{
	kind_texts.print(out, row, base);
}

static const char *parse_compression(struct reading *reading, const struct option *row, void *base, const char *value)
{
	static const char *const names[] = {"deflate", "zlib", "zstd", "brotli"};

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		if (!strcasecmp(names[i], value))
			return kind_text.parse(reading, row, base, value);
	return row->error;
}

const struct option_kind kind_set_env = {parse_set_env, print_set_env, NULL};
const struct option_kind kind_compression = {parse_compression, NULL, NULL};

/* --- users and groups ---------------------------------------------------------------------------------------------- */

static const char *parse_user(struct reading *reading, const struct option *row, void *base, const char *value)
{
	return owner_user(value, NULL) ? kind_text.parse(reading, row, base, value) : row->error;
}

static const char *parse_group(struct reading *reading, const struct option *row, void *base, const char *value)
{
	return owner_group(value, NULL) ? kind_text.parse(reading, row, base, value) : row->error;
}

/* Before the sections it is the process's, and the owner of every Unix socket. */
static const char *parse_user_global(struct reading *reading, const struct option *row, void *base, const char *value)
{
	const char *wrong = parse_user(reading, row, base, value);

	if (!wrong)
		reading->defaults->pub.setuid = reading->global->pub.setuid;
	return wrong;
}

static const char *parse_group_global(struct reading *reading, const struct option *row, void *base, const char *value)
{
	const char *wrong = parse_group(reading, row, base, value);

	if (!wrong)
		reading->defaults->pub.setgid = reading->global->pub.setgid;
	return wrong;
}

static void print_name(FILE *out, const struct option *row, const void *base)
{
	kind_text.print(out, row, base);
}

const struct option_kind kind_user = {parse_user, print_name, NULL};
const struct option_kind kind_group = {parse_group, print_name, NULL};
const struct option_kind kind_user_global = {parse_user_global, print_name, NULL};
const struct option_kind kind_group_global = {parse_group_global, print_name, NULL};

/* --- TLS ----------------------------------------------------------------------------------------------------------- */

static const char *parse_version(struct reading *reading, const struct option *row, void *base, const char *value)
{
	int version = tls_version_parse(value);

	(void)reading;
	if (version < 0)
		return row->error;
	*(int *)((char *)base + row->offset) = version;
	return NULL;
}

static void print_version(FILE *out, const struct option *row, const void *base)
{
	print_option(out, row, tls_version_text(*(const int *)((const char *)base + row->offset)));
}

static const char *parse_version_both(struct reading *reading, const struct option *row, void *base, const char *value)
{
	struct service_options *service = base;
	const char *wrong = parse_version(reading, row, base, value);

	if (!wrong)
		service->pub.max_version = service->pub.min_version;
	return wrong;
}

/* Bits add up over global part and section: a section changes those that it names. */
static const char *parse_tls_options(struct reading *reading, const struct option *row, void *base, const char *value)
{
	struct section *section = &((struct service_options *)base)->pub;

	(void)reading, (void)row;
	return tls_option_parse(value, &section->options_set, &section->options_clear);
}

static void print_tls_options(FILE *out, const struct option *row, const void *base)
{
	const struct section *section = &((const struct service_options *)base)->pub;

	tls_options_print(out, row, section->options_set, "");
	tls_options_print(out, row, section->options_clear, "-");
}

/* The obsolete levels, in the words that replaced them. */
static const char *parse_verify(struct reading *reading, const struct option *row, void *base, const char *value)
{
	struct service_options *service = base;
	long level;

	(void)reading;
	if (!config_number(value, 0, 4, &level))
		return row->error;
	service->pub.request_cert = true;
	service->pub.require_cert = level >= 2;
	service->pub.verify_chain = level >= 1 && level <= 3;
	service->pub.verify_peer = level >= 3;
	return NULL;
}

static const char *parse_ocsp_flag(struct reading *reading, const struct option *row, void *base, const char *value)
{
	unsigned long flag;

	return config_ocsp_flag(value, &flag) ? kind_texts.parse(reading, row, base, value) : row->error;
}

/* "h2,http/1.1"; nothing at all takes back what was inherited. A name has 1 to 255 bytes (RFC 7301 3.1). */
static const char *parse_alpn(struct reading *reading, const struct option *row, void *base, const char *value)
{
	struct section *section = &((struct service_options *)base)->pub;
	char *rest = arena_strdup(reading->arena, value), *name;
	struct texts alpn = {0};

	if (!rest)
		return config_no_memory;
	while (*value && (name = strsep(&rest, ","))) {
		name += strspn(name, " \t");
		for (size_t len = strlen(name); len && isblank((unsigned char)name[len - 1]);)
			name[--len] = '\0';
		if (!*name || strlen(name) > ALPN_MAX)
			return row->error;
		if (texts_add(reading->arena, &alpn, name))
			return config_no_memory;
	}
	section->alpn = alpn;
	return NULL;
}

static void print_alpn(FILE *out, const struct option *row, const void *base)
{
	const struct texts *alpn = &((const struct service_options *)base)->pub.alpn;
	char *text = NULL;
	size_t size;
	FILE *list = alpn->count ? open_memstream(&text, &size) : NULL;

	if (!list)
		return;
	for (size_t i = 0; i < alpn->count; i++)
		fprintf(list, "%s%s", i ? "," : "", alpn->texts[i]);
	if (fclose(list) == 0)
		print_option(out, row, text);
	free(text);
}

static const char *parse_psk_secrets(struct reading *reading, const struct option *row, void *base, const char *value)
{
	struct section *section = &((struct service_options *)base)->pub;

	section->psks = psks_load(reading->arena, value);
	return section->psks ? kind_text.parse(reading, row, base, value) : row->error;
}

/* Bytes of a hexadecimal key with colons allowed between them; -1 if it is something else. */
static int key_length(const char *text)
{
	int bytes = 0;

	while (*text) {
		if (!isxdigit((unsigned char)text[0]) || !isxdigit((unsigned char)text[1]))
			return -1;
		bytes++;
		text += 2;
		if (text[0] == ':' && text[1])
			text++;
	}
	return bytes ? bytes : -1;
}

static const char *parse_ticket(struct reading *reading, const struct option *row, void *base, const char *value)
{
	int bytes = key_length(value);

	if (bytes == KEY_SHORT || bytes == KEY_LONG)
		return kind_text.parse(reading, row, base, value);
	if (bytes < 0)
		log_write(LOG_ERR, NULL, "Required %s is 16 or 32 byte hexadecimal key", row->name);
	else
		log_write(LOG_ERR, NULL, "%s value has %d bytes instead of required 16 or 32 bytes", row->name, bytes);
	return row->error;
}

static void print_texts(FILE *out, const struct option *row, const void *base)
{
	kind_texts.print(out, row, base);
}

const struct option_kind kind_version = {parse_version, print_version, NULL};
const struct option_kind kind_version_both = {parse_version_both, NULL, NULL};
const struct option_kind kind_tls_options = {parse_tls_options, print_tls_options, NULL};
const struct option_kind kind_verify = {parse_verify, NULL, NULL};
const struct option_kind kind_ocsp_flag = {parse_ocsp_flag, print_texts, NULL};
const struct option_kind kind_alpn = {parse_alpn, print_alpn, NULL};
const struct option_kind kind_psk_secrets = {parse_psk_secrets, print_name, NULL};
const struct option_kind kind_ticket = {parse_ticket, print_name, NULL};

/* --- sockets, threads ---------------------------------------------------------------------------------------------- */

/* Puts an option in the place of an earlier one of its kind, in a copy: other sections share what was inherited. */
static const char *sockopts_put(struct arena *arena, struct sockopts *set, const struct sockopt *opt)
{
	struct sockopt *copy = arena_alloc(arena, (set->count + 1) * sizeof(*copy));
	size_t place = 0;

	if (!copy)
		return config_no_memory;
	if (set->count)
		memcpy(copy, set->opts, set->count * sizeof(*copy));
	while (place < set->count && copy[place].kind != opt->kind)
		place++;
	copy[place] = *opt;
	set->opts = copy;
	set->count += place == set->count;
	return NULL;
}

static const char *parse_socket(struct reading *reading, const struct option *row, void *base, const char *value)
{
	struct section *section = &((struct service_options *)base)->pub;
	enum sock_role role;
	struct sockopt opt;

	if (!sockopt_parse(value, &role, &opt))
		return row->error;
	return sockopts_put(reading->arena, &section->socket[role], &opt);
}

static void print_socket(FILE *out, const struct option *row, const void *base)
{
	const struct section *section = &((const struct service_options *)base)->pub;
	char text[SOCKOPT_TEXT_MAX];

	for (int role = 0; role < SOCK_ROLES; role++)
		for (size_t i = 0; i < section->socket[role].count; i++)
			print_option(out, row, sockopt_text(&section->socket[role].opts[i], (enum sock_role)role, text));
}

static const char *parse_stack(struct reading *reading, const struct option *row, void *base, const char *value)
{
	long bytes;

	(void)reading;
	if (!config_number(value, CORO_STACK_MIN, STACK_MAX, &bytes))
		return row->error;
	((struct service_options *)base)->pub.stack = (size_t)bytes;
	return NULL;
}

static void print_stack(FILE *out, const struct option *row, const void *base)
{
	char text[24];

	snprintf(text, sizeof(text), "%zu", ((const struct service_options *)base)->pub.stack);
	print_option(out, row, text);
}

static const char *parse_workers(struct reading *reading, const struct option *row, void *base, const char *value)
{
	long workers = 0;

	(void)reading;
	if (strcasecmp(value, "auto") != 0 && !config_number(value, 1, WORKERS_MAX, &workers))
		return row->error;
	((struct global_options *)base)->pub.workers = (int)workers;
	return NULL;
}

static void print_workers(FILE *out, const struct option *row, const void *base)
{
	int workers = ((const struct global_options *)base)->pub.workers;
	char text[24];

	snprintf(text, sizeof(text), "%d", workers);
	print_option(out, row, workers ? text : "auto");
}

/* yes | no | milliseconds */
static const char *parse_retry(struct reading *reading, const struct option *row, void *base, const char *value)
{
	struct service_options *service = base;

	(void)reading;
	if (!strcasecmp(value, "yes"))
		service->pub.retry_ms = 1000;
	else if (!strcasecmp(value, "no"))
		service->pub.retry_ms = -1;
	else if (!config_number(value, 0, INT_MAX, &service->pub.retry_ms))
		return row->error;
	return NULL;
}

static void print_retry(FILE *out, const struct option *row, const void *base)
{
	long retry_ms = ((const struct service_options *)base)->pub.retry_ms;
	char text[24];

	snprintf(text, sizeof(text), "%ld", retry_ms);
	print_option(out, row, retry_ms < 0 ? "no" : text);
}

/* A section is called what stands between its brackets, unless renamed. */
static const char *parse_service(struct reading *reading, const struct option *row, void *base, const char *value)
{
	return kind_text.parse(reading, row, base, value);
}

static void print_service(FILE *out, const struct option *row, const void *base)
{
	const struct service_options *service = base;

	if (strcmp(service->pub.name, service->header) != 0)
		print_option(out, row, service->pub.name);
}

static const char *parse_include(struct reading *reading, const struct option *row, void *base, const char *value)
{
	(void)row, (void)base;
	return config_read_directory(reading, value);
}

const struct option_kind kind_socket = {parse_socket, print_socket, NULL};
const struct option_kind kind_service = {parse_service, print_service, NULL};
const struct option_kind kind_stack = {parse_stack, print_stack, NULL};
const struct option_kind kind_workers = {parse_workers, print_workers, NULL};
const struct option_kind kind_retry = {parse_retry, print_retry, NULL};
const struct option_kind kind_include = {parse_include, NULL, NULL};
