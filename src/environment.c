/*
 * The environment of programs: see environment.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "environment.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static bool same_name(const char *a, const char *b)
{
	size_t len = strcspn(a, "=");

	return strncmp(a, b, len) == 0 && b[len] == '=';
}

static bool is_named(char *const *entries, size_t count, const char *entry)
{
	for (size_t i = 0; i < count; i++)
		if (same_name(entry, entries[i]))
			return true;
	return false;
}

/* Names under which programs look for what we know of the client. */
static bool is_ours(const char *entry)
{
	static const char *const prefixes[] = {"REMOTE_", "SSL_CLIENT_"};

	for (size_t i = 0; i < sizeof(prefixes) / sizeof(*prefixes); i++)
		if (strncmp(entry, prefixes[i], strlen(prefixes[i])) == 0)
			return true;
	return false;
}

static size_t length(char *const *entries)
{
	size_t count = 0;

	while (entries[count])
		count++;
	return count;
}

char **environment_copy(struct arena *arena, char *const *from)
{
	char **copy = arena_alloc(arena, (length(from) + 1) * sizeof(char *));
	size_t count = 0;

	if (!copy)
		return NULL;
	for (; *from; from++) {
		if (!strchr(*from, '=') || **from == '=' || is_ours(*from) || is_named(copy, count, *from))
			continue;
		copy[count] = arena_strdup(arena, *from);
		if (!copy[count++])
			return NULL;
	}
	copy[count] = NULL;
	return copy;
}

char **environment_join(char *const *own, char *const *base)
{
	size_t mine = length(own), count = 0;
	char **joined = malloc((mine + length(base) + 1) * sizeof(char *));

	if (!joined)
		return NULL;
	for (; count < mine; count++)
		joined[count] = own[count];
	for (; *base; base++)
		if (!is_named(own, mine, *base))
			joined[count++] = *base;
	joined[count] = NULL;
	return joined;
}
