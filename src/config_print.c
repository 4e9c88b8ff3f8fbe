/*
 * The table of options as text: -help, the defaults of -version, the effective configuration of -T.
 * Called by main (config.h) and by config.c for a section's canonical text.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "config_table.h"

#include <stddef.h>
#include <string.h>

enum { NAME_WIDTH = 22 };

/* Drops the padding where it would make a line of almost the largest length too long to be read back. */
void print_option(FILE *out, const struct option *row, const char *value)
{
	if (strlen(value) + NAME_WIDTH + 3 < CONFIG_LINE_MAX - 1)
		fprintf(out, "%-*s = %s\n", NAME_WIDTH, row->name, value);
	else
		fprintf(out, "%s=%s\n", row->name, value);
}

void print_options(FILE *out, enum option_scope scope, const void *base)
{
	for (const struct option *row = options; row < options + OPTION_COUNT; row++)
		if (row->scope == scope && row->kind->print)
			row->kind->print(out, row, base);
}

void config_print_effective(const struct config *config, FILE *out)
{
	const struct generation *generation = (const void *)((const char *)config - offsetof(struct generation, config));

	print_options(out, GLOBAL, &generation->global);
	for (const struct section *section = config->sections; section; section = section->next) {
		const struct service_options *service =
			(const void *)((const char *)section - offsetof(struct service_options, pub));

		if (config->inetd)
			fputs(section->canonical, out);
		else
			fprintf(out, "\n[%s]\n%s", service->header, section->canonical);
	}
}

/* --- -help --------------------------------------------------------------------------------------------------------- */

static void print_protocols(FILE *out)
{
	unsigned listed = 0;

	fprintf(out, "%*scurrently known: ", NAME_WIDTH + 3, "");
	for (size_t i = 0; i < protocol_count; i++) {
		if (!protocols[i].listed)
			continue;
		if (listed && listed % 5 == 0)
			fprintf(out, ",\n%*s", NAME_WIDTH + 7, "");
		else if (listed)
			fputs(", ", out);
		fputs(protocols[i].name, out);
		listed++;
	}
	fputc('\n', out);
}

static void print_help_row(FILE *out, const struct option *row)
{
	fprintf(out, "%-*s = %s\n", NAME_WIDTH, row->name, row->help);
	if (row->scope == SERVICE && !strcmp(row->name, "protocol"))
		print_protocols(out);
}

static void print_help_part(FILE *out, const char *heading, enum option_scope scope)
{
	fprintf(out, "%s\n", heading);
	for (const struct option *row = options; row < options + OPTION_COUNT; row++)
		if (row->scope == scope && !(row->flags & (HIDDEN | EXTENSION)))
			print_help_row(out, row);
}

void config_print_help(FILE *out)
{
	print_help_part(out, "Global options:", GLOBAL);
	print_help_part(out, " \nService-level options:", SERVICE);
	fputs(" \nExtensions of tlsplice, before the first section:\n", out);
	for (const struct option *row = options; row < options + OPTION_COUNT; row++)
		if (row->flags & EXTENSION)
			print_help_row(out, row);
}

/* --- -version ------------------------------------------------------------------------------------------------------ */

static void print_default(FILE *out, const struct option *row)
{
	const char *unit = row->flags & SECONDS ? " seconds" : row->flags & BYTES ? " bytes" : "";

	for (const char *at = row->fallback; *at; at += strcspn(at, "\n"), at += *at == '\n')
		fprintf(out, "%-*s = %.*s%s\n", NAME_WIDTH, row->name, (int)strcspn(at, "\n"), at, unit);
}

static void print_defaults_part(FILE *out, const char *heading, enum option_scope scope)
{
	fprintf(out, "%s\n", heading);
	for (const struct option *row = options; row < options + OPTION_COUNT; row++)
		if (row->scope == scope && row->fallback && !(row->flags & HIDDEN))
			print_default(out, row);
}

void config_print_defaults(FILE *out)
{
	print_defaults_part(out, "Global options:", GLOBAL);
	print_defaults_part(out, " \nService-level options:", SERVICE);
}

/* --- NEWS.md ------------------------------------------------------------------------------------------------------- */

static bool printed_before(const struct option *row)
{
	const struct option *twin = row->scope == SERVICE ? option_find(row->name, GLOBAL) : NULL;

	return twin && twin->asks;
}

void config_print_unbuilt(FILE *out)
{
	for (const struct option *row = options; row < options + OPTION_COUNT; row++)
		if (row->asks && !printed_before(row))
			fprintf(out, "%s\n", row->name);
}
