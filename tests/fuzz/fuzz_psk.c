/*
 * Fuzz target: any bytes as a file of pre-shared keys. What is taken must be found again, and must read the same when it is written out.
 * libFuzzer (`make fuzz`), or replays the corpus with `make test`.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "psk.h"

#include "arena.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct psks *psks, const struct psk *psk)
{
	if (psks_find(psks, psk->identity)->key != psk->key || strlen(psk->identity) > PSK_IDENTITY_BYTES ||
	    strchr(psk->identity, ':') || psk->key_len < PSK_KEY_MIN || psk->key_len > PSK_KEY_MAX)
		abort();
}

static int same(const struct psks *a, const struct psks *b)
{
	if (!b || a->count != b->count)
		return 0;
	for (size_t i = 0; i < a->count; i++)
		if (strcmp(a->first[i].identity, b->first[i].identity) != 0 || a->first[i].key_len != b->first[i].key_len ||
		    memcmp(a->first[i].key, b->first[i].key, a->first[i].key_len) != 0)
			return 0;
	return 1;
}

static char *write_out(const struct psks *psks, size_t *size)
{
	char *text = NULL;
	FILE *out = open_memstream(&text, size);

	for (size_t i = 0; i < psks->count; i++) {
		fprintf(out, "%s:", psks->first[i].identity);
		for (size_t k = 0; k < psks->first[i].key_len; k++)
			fprintf(out, "%02x", psks->first[i].key[k]);
		fputc('\n', out);
	}
	fclose(out);
	return text;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct arena *arena = arena_new();
	struct psks *psks = psks_parse(arena, (const char *)data, size), *again;
	char *text;

	if (psks) {
		if (!psks->count)
			abort();
		for (size_t i = 0; i < psks->count; i++)
			check(psks, &psks->first[i]);
		text = write_out(psks, &size);
		again = psks_parse(arena, text, size);
		if (!same(psks, again))
			abort();
		free(text);
	}
	arena_free(arena);
	return 0;
}
