/*
 * The man page's option section: every option once, every note with its option, and nothing that mdoc(7) would misread.
 * Run by `make unit`.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "config_testing.h"

#include "config_table.h"

#include <ctype.h>
#include <string.h>

static char *printed_page(void)
{
	static char *text; /* gcc 12 takes a local one for what is returned, and warns */
	static size_t size;
	FILE *out = open_memstream(&text, &size);

	config_print_man(out);
	fclose(out);
	return text;
}

static unsigned count(const char *text, const char *part)
{
	unsigned n = 0;

	for (text = strstr(text, part); text; text = strstr(text + 1, part))
		n++;
	return n;
}

Test(config_man, every_option_has_one_paragraph)
{
	char *page = printed_page();
	char line[64];

	for (const struct option *row = options; row < options + OPTION_COUNT; row++) {
		snprintf(line, sizeof(line), "\n.It Ic %s\n", row->name);
		cr_expect_eq(count(page, line), 1, "%s", row->name);
	}
	free(page);
}

Test(config_man, what_a_paragraph_says)
{
	char *page = printed_page();
	unsigned extensions = 0;

	for (const struct option *row = options; row < options + OPTION_COUNT; row++)
		extensions += (row->flags & EXTENSION) != 0;
	cr_assert(strstr(page, ".It Ic TIMEOUTidle\nSeconds that a connection may be idle.\n"));
	cr_assert(strstr(page, "Default:\n\\fB43200\\fP seconds.\n"));
	cr_assert(strstr(page, ".It Ic protocolDomain\n.Em Not built yet .\nDomain to tell in the protocol.\n.It"));
	cr_assert(strstr(page, "Default:\n\\fBNO_SSLv2\\fP,\n\\fBNO_SSLv3\\fP.\n"));
	cr_assert(strstr(page, "Also read as\n\\fBcurve\\fP.\n"));
	cr_assert(strstr(page, ".It Ic drain\nSeconds that"));
	cr_assert(strstr(page, "\\fByes|\\:quiet|\\:no\\fP stay in the foreground"));
	cr_assert(strstr(page, "\\fBcifs\\fP,\n\\fBconnect\\fP,\n"));
	cr_assert_eq(count(page, "An extension:"), extensions);
	free(page);
}

Test(config_man, every_note_has_its_option)
{
	for (size_t i = 0; i < config_note_count; i++) {
		const struct config_note *note = &config_notes[i];

		cr_expect(option_find(note->name, GLOBAL) || option_find(note->name, SERVICE), "%s", note->name);
		cr_expect(count(note->text, "`") % 2 == 0, "%s: a quote is open", note->name);
		cr_expect_eq(note->text[strlen(note->text) - 1], '.', "%s: no full stop", note->name);
		for (size_t j = 0; j < i; j++)
			cr_expect_str_neq(note->name, config_notes[j].name);
	}
}

/* A line that begins with a dot is a macro, one that begins with a quote is lost; only these macros are meant. */
Test(config_man, no_text_becomes_a_macro)
{
	char *page = printed_page();

	for (char *line = strtok(page, "\n"); line; line = strtok(NULL, "\n")) {
		cr_expect(line[0] != '\'' && !isspace((unsigned char)line[0]), "%s", line);
		cr_expect(line[0] != '.' || !strncmp(line, ".It Ic ", 7) || !strncmp(line, ".Ss ", 4) ||
		                  !strcmp(line, ".Em Not built yet .") || !strcmp(line, ".Bl -tag -width Ds") ||
		                  !strcmp(line, ".El"),
		          "%s", line);
		for (const char *at = strchr(line, '\\'); at; at = strchr(at + 2, '\\'))
			cr_expect(strchr("efB:-", at[1]), "%s", line);
		cr_expect_eq(count(line, "\\fB"), count(line, "\\fP"), "%s", line);
	}
	free(page);
}
