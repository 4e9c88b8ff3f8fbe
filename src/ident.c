/*
 * Identification protocol: see ident.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ident.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

static const char blanks[] = " \t";

size_t ident_query(char text[IDENT_QUERY_MAX], unsigned theirs, unsigned ours)
{
	return (size_t)snprintf(text, IDENT_QUERY_MAX, "%u , %u\r\n", theirs & 0xffff, ours & 0xffff);
}

enum ident_progress ident_add(struct ident_line *line, const void *bytes, size_t n)
{
	const char *text = bytes;
	size_t kept = strlen(line->text);

	for (size_t i = 0; i < n; i++) {
		if (text[i] == '\n' || text[i] == '\0')
			return IDENT_WHOLE;
		if (++line->n > IDENT_LINE_MAX)
			return IDENT_TOO_LONG;
		if (text[i] != '\r') {
			line->text[kept++] = text[i];
			line->text[kept] = '\0';
		}
	}
	return IDENT_MORE;
}

static const char *skip_blanks(const char *at)
{
	return at + strspn(at, blanks);
}

/* A port and the `end` behind it. Returns what follows, or NULL. */
static const char *take_port(const char *at, char end, unsigned *port)
{
	const char *digits = at = skip_blanks(at);

	*port = 0;
	while (isdigit((unsigned char)*at) && at - digits < 5)
		*port = *port * 10 + (unsigned)(*at++ - '0');
	if (at == digits || *port > 65535)
		return NULL;
	at = skip_blanks(at);
	return *at == end ? at + 1 : NULL;
}

/* True if the text up to `end` is the word with nothing but blanks around it. */
static bool is_word(const char *at, const char *end, const char *word)
{
	size_t n = strlen(word);

	at = skip_blanks(at);
	if (at > end || (size_t)(end - at) < n || memcmp(at, word, n) != 0)
		return false;
	return skip_blanks(at + n) == end;
}

enum ident_outcome ident_parse(const char *line, unsigned theirs, unsigned ours, const char **user)
{
	const char *type, *end, *name;
	unsigned one, other;

	*user = NULL;
	type = take_port(line, ',', &one);
	if (type)
		type = take_port(type, ':', &other);
	end = type ? strchr(type, ':') : NULL;
	if (!end)
		return IDENT_MALFORMED;
	if (one != theirs || other != ours)
		return IDENT_OTHER_PORTS;
	if (!is_word(type, end, "USERID"))
		return IDENT_OTHER_TYPE;
	name = strchr(end + 1, ':');
	if (!name)
		return IDENT_MALFORMED;
	*user = skip_blanks(name + 1);
	return IDENT_USER;
}
