/*
 * The configuration from first line to last section: lines become options, sections inherit, each is checked when it ends.
 * config_load() and config_free() are called by main and on reload (config.h).
 * SPDX-License-Identifier: Apache-2.0
 */
#include "config_table.h"

#include "environment.h"
#include "log.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

const char config_told[] = "told";
const char config_no_memory[] = "Out of memory";

struct origins *origins_of(void *base)
{
	return base; /* first member of both kinds of option sets */
}

/* --- messages ------------------------------------------------------------------------------------------------------ */

/* Quotes the line, but not the value of a password, and not so much that the message would be cut off. */
static void complain(const char *file, unsigned line, const char *text, bool secret, const char *message)
{
	size_t len = secret ? strcspn(text, "=") : strlen(text);
	bool cut = secret || len > CONFIG_QUOTE_MAX;

	if (len > CONFIG_QUOTE_MAX)
		len = CONFIG_QUOTE_MAX;
	log_write(LOG_ERR, NULL, "%s:%u: \"%.*s%s\": %s", file, line, (int)len, text,
	          secret ? "= ..."
	          : cut  ? "..."
	                 : "",
	          message);
}

void config_complain(const struct reading *reading, const char *message)
{
	if (message != config_told)
		complain(reading->file, reading->line, reading->text, reading->secret, message);
}

void config_complain_of(const struct origin *origin, const struct option *row, const char *message)
{
	complain(origin->file, origin->line, origin->text, row->flags & SECRET, message);
}

const char *config_not_built(struct reading *reading, const struct option *row)
{
	const char *text = arena_printf(reading->arena, "option \"%s\" is not built yet", row->name);

	return text ? text : config_no_memory;
}

/* --- options ------------------------------------------------------------------------------------------------------- */

/* Remembers where an option was set, for what only its section as a whole shows to be wrong. */
static const char *note_origin(struct reading *reading, const struct option *row, void *base)
{
	struct origins *origins = origins_of(base);
	struct origin *origin = arena_alloc(reading->arena, sizeof(*origin));

	if (!origin)
		return config_no_memory;
	origin->file = reading->file;
	origin->line = reading->line;
	origin->order = ++reading->order;
	/* Only refusals of unbuilt options look back at the line. */
	origin->text = row->asks ? arena_strdup(reading->arena, reading->text) : "";
	if (!origin->text)
		return config_no_memory;
	origins->of[row - options] = origin;
	origins->own[row - options] = true;
	return NULL;
}

static const char *option_set(struct reading *reading, const struct option *row, void *base, const char *value)
{
	const char *wrong = row->kind->parse(reading, row, base, value);

	if (!wrong)
		wrong = note_origin(reading, row, base);
	if (!wrong && row->scope == GLOBAL && row->asks && row->asks(reading->global, NULL))
		wrong = config_not_built(reading, row);
	return wrong;
}

/* Letters to change, add or leave out to make one name of the other; anything above 2 is "no". */
static unsigned distance(const char *a, const char *b, unsigned budget)
{
	unsigned best, other;

	while (*a && tolower((unsigned char)*a) == tolower((unsigned char)*b))
		a++, b++;
	if (!*a && !*b)
		return 0;
	if (!budget)
		return 1;
	best = *a && *b ? distance(a + 1, b + 1, budget - 1) : budget;
	other = *a ? distance(a + 1, b, budget - 1) : budget;
	best = other < best ? other : best;
	other = *b ? distance(a, b + 1, budget - 1) : budget;
	return 1 + (other < best ? other : best);
}

static const struct option *nearest(const char *name, bool in_section)
{
	for (unsigned limit = 1; limit <= 2; limit++)
		for (const struct option *row = options; row < options + OPTION_COUNT; row++)
			if ((row->scope == SERVICE || !in_section) && strlen(row->name) > 2 * limit &&
			    distance(name, row->name, limit) <= limit)
				return row;
	return NULL;
}

static bool is_windows_only(const char *name)
{
	static const char *const names[] = {"taskbar", "iconActive", "iconError", "iconIdle"};

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		if (!strcasecmp(names[i], name))
			return true;
	return false;
}

static const char *unknown_option(struct reading *reading, const char *name)
{
	static const char unknown[] = "Specified option name is not valid here";
	const struct option *near = nearest(name, reading->section);
	const char *text = unknown;

	if (is_windows_only(name))
		text = arena_printf(reading->arena, "%s (it exists on Windows only)", unknown);
	else if (reading->section && option_find(name, GLOBAL))
		text = arena_printf(reading->arena, "%s (it belongs before the first [section])", unknown);
	else if (near)
		text = arena_printf(reading->arena, "%s (did you mean \"%s\"?)", unknown, near->name);
	return text ? text : config_no_memory;
}

/* Before the first section a name is tried as a global option first, then as a default of all sections. */
static const char *assign(struct reading *reading, const char *name, const char *value)
{
	const struct option *row = reading->section ? NULL : option_find(name, GLOBAL);
	void *base = reading->global;

	if (!row) {
		row = option_find(name, SERVICE);
		base = reading->section ? reading->section : reading->defaults;
	}
	if (!row)
		return unknown_option(reading, name);
	reading->secret = row->flags & SECRET;
	return option_set(reading, row, base, value);
}

/* --- sections ------------------------------------------------------------------------------------------------------ */

/* stunnel's word for kernel TLS counts unless the section has ours. */
static enum ktls_wish ktls_wish(const struct service_options *service)
{
	const struct option *row = option_find("ktls", SERVICE);
	const struct section *section = &service->pub;

	if (service->origins.of[row - options])
		return section->ktls;
	return tls_options_ktls(section->options_set, section->options_clear, section->ktls);
}

/* Server mode: each `sni` is one more name of the primary service's. */
static bool add_host(struct reading *reading, struct section *section, const char *sni)
{
	struct section *primary = sni_primary(reading, sni);
	struct virtual_host *host = arena_alloc(reading->arena, sizeof(*host));

	if (!host)
		return false;
	host->pattern = strchr(sni, ':') + 1;
	host->section = section;
	if (!primary->hosts_end)
		primary->hosts_end = &primary->hosts;
	*primary->hosts_end = host;
	primary->hosts_end = &host->next;
	if (!primary->accept.count)
		log_write(LOG_WARNING, NULL, "Service [%s]: nobody gets here by way of [%s], which accepts no connections",
		          section->name, primary->name);
	return true;
}

static bool add_hosts(struct reading *reading, struct service_options *service)
{
	for (size_t i = 0; !service->pub.client && i < service->sni.count; i++)
		if (!add_host(reading, &service->pub, service->sni.texts[i]))
			return false;
	return true;
}

/* What the options mean together, for those who read struct section only. */
static void settle(struct service_options *service)
{
	struct section *section = &service->pub;

	if (section->delay) /* addresses that change have no turn to remember */
		section->failover = FAILOVER_PRIO;
	section->ktls = ktls_wish(service);
	if (section->client && service->sni.count)
		section->sni = service->sni.texts[service->sni.count - 1];
}

/* The words of `execArgs`; without any, the program is told its own path. */
static bool make_argv(struct reading *reading, struct section *section)
{
	const char *text = section->exec_args ? section->exec_args : "";
	char **argv = arena_alloc(reading->arena, (strlen(text) / 2 + 3) * sizeof(char *));
	char *rest = arena_strdup(reading->arena, text), *word;
	size_t count = 0;

	if (!argv || !rest)
		return false;
	while ((word = strsep(&rest, " \t\v\f")))
		if (*word)
			argv[count++] = word;
	if (count == 0)
		argv[count++] = (char *)(uintptr_t)section->exec;
	argv[count] = NULL;
	section->exec_argv = argv;
	return true;
}

/* The section in the form of -T: equal texts mean an unchanged section. */
static bool make_canonical(struct reading *reading, struct service_options *service)
{
	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	if (!out)
		return false;
	print_options(out, SERVICE, service);
	if (!fclose(out))
		service->pub.canonical = arena_strdup(reading->arena, text);
	if (text)
		explicit_bzero(text, size);
	free(text);
	return service->pub.canonical;
}

/* A service that has passed its checks becomes the configuration's. */
static bool service_add(struct reading *reading, struct service_options *service)
{
	settle(service);
	if (!make_canonical(reading, service) || !add_hosts(reading, service) ||
	    (service->pub.exec && !make_argv(reading, &service->pub))) {
		log_write(LOG_ERR, NULL, "Service [%s]: %s", service->pub.name, config_no_memory);
		return false;
	}
	service->pub.index = (unsigned)reading->config->section_count++;
	*reading->tail = &service->pub;
	reading->tail = &service->pub.next;
	return true;
}

static bool section_close(struct reading *reading)
{
	return check_service(reading, reading->section) && service_add(reading, reading->section);
}

/* No section at all: the one service is what was said before the first. */
static bool inetd_close(struct reading *reading)
{
	struct service_options *service = reading->defaults;

	service->header = service->pub.name = reading->global->pub.service;
	service->pub.config_line = "";
	reading->config->inetd = true;
	return check_inetd(reading) && service_add(reading, service);
}

static bool part_close(struct reading *reading)
{
	return reading->section ? section_close(reading) : check_globals(reading);
}

static const char *section_open(struct reading *reading, const char *header)
{
	struct service_options *service;

	if (!part_close(reading))
		return config_told;
	log_global(LOG_INFO, "Initializing service [%s]", header);
	service = arena_alloc(reading->arena, sizeof(*service));
	if (!service)
		return config_no_memory;
	*service = *reading->defaults;
	memset(service->origins.own, 0, sizeof(service->origins.own));
	service->header = service->pub.name = arena_strdup(reading->arena, header);
	service->pub.config_line = arena_printf(reading->arena, "%s:%u", reading->file, reading->line);
	if (!service->header || !service->pub.config_line)
		return config_no_memory;
	reading->section = service;
	return NULL;
}

/* --- lines --------------------------------------------------------------------------------------------------------- */

static char *trim(char *text)
{
	char *end = text + strlen(text);

	while (end > text && isspace((unsigned char)end[-1]))
		end--;
	*end = '\0';
	while (isspace((unsigned char)*text))
		text++;
	return text;
}

const char *config_line(struct reading *reading, char *line)
{
	char *text = trim(line);
	size_t len = strlen(text);
	char *equals;

	reading->secret = false;
	if (!len || *text == ';' || *text == '#')
		return NULL;
	if (*text == '[' && text[len - 1] == ']') {
		text[len - 1] = '\0';
		return section_open(reading, text + 1);
	}
	equals = strchr(text, '=');
	if (!equals)
		return "No '=' found";
	*equals = '\0';
	return assign(reading, trim(text), trim(equals + 1));
}

/* --- a generation -------------------------------------------------------------------------------------------------- */

/* Gives every option its default by parsing the text that -help and -version show. */
static bool set_defaults(struct reading *reading)
{
	for (const struct option *row = options; row < options + OPTION_COUNT; row++) {
		void *base = row->scope == GLOBAL ? (void *)reading->global : (void *)reading->defaults;
		const char *at = row->flags & SHOWN_ONLY ? NULL : row->fallback;

		while (at && *at) {
			char value[128];

			snprintf(value, sizeof(value), "%.*s", (int)strcspn(at, "\n"), at);
			if (row->kind->parse(reading, row, base, value))
				return false;
			at += strcspn(at, "\n");
			at += *at == '\n';
		}
	}
	reading->defaults->pub.security_level = -1;
	return true;
}

static bool reading_start(struct reading *reading)
{
	struct generation *generation;

	reading->arena = arena_new();
	if (!reading->arena)
		return false;
	generation = arena_alloc(reading->arena, sizeof(*generation));
	reading->defaults = arena_alloc(reading->arena, sizeof(*reading->defaults));
	if (!generation || !reading->defaults)
		return false;
	reading->global = &generation->global;
	reading->config = &generation->config;
	reading->config->arena = reading->arena;
	reading->config->refs = 1;
	reading->tail = &reading->config->sections;
	return set_defaults(reading);
}

static bool reading_end(struct reading *reading)
{
	if (!part_close(reading))
		return false;
	return reading->section ? true : inetd_close(reading);
}

struct config *config_load(const struct config_source *source)
{
	struct reading reading = {0};

	if (!reading_start(&reading)) {
		log_write(LOG_ERR, NULL, "%s", config_no_memory);
	} else if (config_read_source(&reading, source) && reading_end(&reading)) {
		reading.config->global = reading.global->pub;
		reading.config->environment = environment_copy(reading.arena, environ);
		if (reading.config->environment)
			return reading.config;
		log_write(LOG_ERR, NULL, "%s", config_no_memory);
	}
	log_write(LOG_ERR, NULL, "Configuration failed");
	arena_free(reading.arena);
	return NULL;
}

struct config *config_ref(struct config *config)
{
	atomic_fetch_add(&config->refs, 1);
	return config;
}

void config_free(struct config *config)
{
	if (config && atomic_fetch_sub(&config->refs, 1) == 1)
		arena_free(config->arena);
}
