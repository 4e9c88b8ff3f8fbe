/*
 * Arena: memory that lives and dies together, such as one generation of the configuration.
 * Everyone may use it. Not thread safe.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_ARENA_H
#define TLSPLICE_ARENA_H

#include <stddef.h>

struct arena;

/* Returns an empty arena, or NULL when there is no memory. */
struct arena *arena_new(void);

/* Frees everything that came from the arena; the bytes are wiped first, for some are passwords. arena_free(NULL) is fine. */
void arena_free(struct arena *arena);

/* Returns n zeroed bytes aligned for any type, or NULL when there is no memory. */
void *arena_alloc(struct arena *arena, size_t n);

/* Returns a copy of a string; NULL gives NULL. */
char *arena_strdup(struct arena *arena, const char *text);

/* Returns a copy of the first n bytes of text, with a NUL behind them. */
char *arena_strndup(struct arena *arena, const char *text, size_t n);

/* printf into the arena. */
char *arena_printf(struct arena *arena, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* For tests: when not negative, so many more allocations succeed and every later one fails. */
extern long arena_fail_after;

#endif
