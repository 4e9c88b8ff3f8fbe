/*
 * Options of engines and providers: before the sections they act at once, in the order of the file; sections name an engine.
 * For the table of options only (config_table.h).
 * SPDX-License-Identifier: Apache-2.0
 */
#include "config_table.h"

#include <string.h>

/* See tls_modules.h for what a reload does. */
static const char *parse_module(struct reading *reading, const struct option *row, void *base, enum tls_module module,
                                const char *value)
{
	struct global_options *global = base;
	const char *line = arena_printf(reading->arena, "%s=%s", row->name, value);
	const char *wrong = line ? texts_add(reading->arena, &global->pub.modules, line) : config_no_memory;

	return wrong ? wrong : tls_modules_line(&reading->modules, module, value);
}

static const char *parse_engine(struct reading *reading, const struct option *row, void *base, const char *value)
{
	return parse_module(reading, row, base, TLS_ENGINE, value);
}

static const char *parse_engine_ctrl(struct reading *reading, const struct option *row, void *base, const char *value)
{
	return parse_module(reading, row, base, TLS_ENGINE_CONTROL, value);
}

static const char *parse_engine_default(struct reading *reading, const struct option *row, void *base, const char *value)
{
	return parse_module(reading, row, base, TLS_ENGINE_DEFAULT, value);
}

static const char *parse_provider(struct reading *reading, const struct option *row, void *base, const char *value)
{
	return parse_module(reading, row, base, TLS_PROVIDER, value);
}

static const char *parse_provider_parameter(struct reading *reading, const struct option *row, void *base, const char *value)
{
	return parse_module(reading, row, base, TLS_PROVIDER_PARAMETER, value);
}

/* Their order among each other counts: the first row writes the lines of all. */
static void print_modules(FILE *out, const struct option *row, const void *base)
{
	const struct texts *lines = &((const struct global_options *)base)->pub.modules;

	(void)row;
	for (size_t i = 0; i < lines->count; i++) {
		const char *equals = strchr(lines->texts[i], '=');
		char name[32];

		snprintf(name, sizeof(name), "%.*s", (int)(equals - lines->texts[i]), lines->texts[i]);
		print_option(out, option_find(name, GLOBAL), equals + 1);
	}
}

const struct option_kind kind_engine = {parse_engine, print_modules, NULL};
const struct option_kind kind_engine_ctrl = {parse_engine_ctrl, NULL, NULL};
const struct option_kind kind_engine_default = {parse_engine_default, NULL, NULL};
const struct option_kind kind_provider = {parse_provider, NULL, NULL};
const struct option_kind kind_provider_parameter = {parse_provider_parameter, NULL, NULL};

/* --- of a section ------------------------------------------------------------------------------------------------------------------- */

static const char *parse_engine_id(struct reading *reading, const struct option *row, void *base, const char *value)
{
	struct section *section = &((struct service_options *)base)->pub;
	size_t number = tls_modules_engine(value);

	if (number == 0)
		return "Engine ID not found";
	section->engine_num = (int)number;
	return kind_text.parse(reading, row, base, value);
}

static void print_engine_id(FILE *out, const struct option *row, const void *base)
{
	kind_text.print(out, row, base);
}

static const char *parse_engine_num(struct reading *reading, const struct option *row, void *base, const char *value)
{
	struct section *section = &((struct service_options *)base)->pub;
	long number;

	(void)reading;
	if (!config_number(value, 1, (long)tls_modules_engines(), &number))
		return row->error;
	section->engine_num = (int)number;
	section->engine_id = NULL;
	return NULL;
}

static void print_engine_num(FILE *out, const struct option *row, const void *base)
{
	const struct section *section = &((const struct service_options *)base)->pub;
	char text[24];

	snprintf(text, sizeof(text), "%d", section->engine_num);
	if (section->engine_num && !section->engine_id)
		print_option(out, row, text);
}

const struct option_kind kind_engine_id = {parse_engine_id, print_engine_id, NULL};
const struct option_kind kind_engine_num = {parse_engine_num, print_engine_num, NULL};
