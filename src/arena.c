/*
 * Arena: a list of blocks that only grows, freed and wiped as a whole.
 * Everyone may use it (arena.h).
 * SPDX-License-Identifier: Apache-2.0
 */
#include "arena.h"

#include <stdalign.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct block {
	struct block *next;
	size_t used, room;
	alignas(max_align_t) unsigned char bytes[];
};

struct arena {
	struct block *blocks; /* the one being filled first */
};

/* A small configuration fits into one block. */
enum { BLOCK_BYTES = 8192 - sizeof(struct block) };

long arena_fail_after = -1;

static bool told_to_fail(void)
{
	if (arena_fail_after < 0)
		return false;
	if (arena_fail_after == 0)
		return true;
	arena_fail_after--;
	return false;
}

struct arena *arena_new(void)
{
	return told_to_fail() ? NULL : calloc(1, sizeof(struct arena));
}

void arena_free(struct arena *arena)
{
	if (!arena)
		return;
	for (struct block *block = arena->blocks, *next; block; block = next) {
		next = block->next;
		explicit_bzero(block->bytes, block->used);
		free(block);
	}
	free(arena);
}

static struct block *block_add(struct arena *arena, size_t n)
{
	size_t room = n > BLOCK_BYTES ? n : BLOCK_BYTES;
	struct block *block = calloc(1, sizeof(*block) + room);

	if (!block)
		return NULL;
	block->room = room;
	block->next = arena->blocks;
	arena->blocks = block;
	return block;
}

void *arena_alloc(struct arena *arena, size_t n)
{
	const size_t align = alignof(max_align_t);
	struct block *block = arena->blocks;
	void *bytes;

	if (n > SIZE_MAX / 2 || told_to_fail())
		return NULL;
	n = (n + !n + align - 1) & ~(align - 1); /* even nothing has an address of its own */
	if (!block || block->room - block->used < n)
		block = block_add(arena, n);
	if (!block)
		return NULL;
	bytes = block->bytes + block->used;
	block->used += n;
	return bytes;
}

char *arena_strndup(struct arena *arena, const char *text, size_t n)
{
	size_t len = strnlen(text, n);
	char *copy = arena_alloc(arena, len + 1);

	if (copy)
		memcpy(copy, text, len);
	return copy;
}

char *arena_strdup(struct arena *arena, const char *text)
{
	return text ? arena_strndup(arena, text, strlen(text)) : NULL;
}

char *arena_printf(struct arena *arena, const char *format, ...)
{
	va_list args;
	char *text;
	int len;

	va_start(args, format);
	len = vsnprintf(NULL, 0, format, args);
	va_end(args);
	if (len < 0)
		return NULL;
	text = arena_alloc(arena, (size_t)len + 1);
	if (!text)
		return NULL;
	va_start(args, format);
	vsnprintf(text, (size_t)len + 1, format, args);
	va_end(args);
	return text;
}
