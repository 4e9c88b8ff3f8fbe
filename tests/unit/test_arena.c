/*
 * Arena: alignment, zeroed bytes, blocks larger than a block, copies, and memory that runs out.
 * Run by `make unit`.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "arena.h"

#include <criterion/criterion.h>
#include <stdalign.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

Test(arena, allocations_are_zeroed_aligned_and_apart)
{
	struct arena *arena = arena_new();
	unsigned char *before = NULL;

	for (size_t n = 0; n < 3000; n++) {
		unsigned char *bytes = arena_alloc(arena, n);

		cr_assert(bytes);
		cr_assert_eq((uintptr_t)bytes % alignof(max_align_t), 0);
		for (size_t i = 0; i < n; i++)
			cr_assert_eq(bytes[i], 0);
		memset(bytes, 0xff, n);
		cr_assert(!n || bytes != before);
		before = bytes;
	}
	arena_free(arena);
	arena_free(NULL);
}

Test(arena, large_blocks)
{
	struct arena *arena = arena_new();
	char *large = arena_alloc(arena, 1 << 20), *small = arena_alloc(arena, 10);

	memset(large, 1, 1 << 20);
	cr_assert_eq(small[0], 0);
	arena_free(arena);
}

Test(arena, strings)
{
	struct arena *arena = arena_new();

	cr_assert_str_eq(arena_strdup(arena, "abc"), "abc");
	cr_assert_str_eq(arena_strdup(arena, ""), "");
	cr_assert_null(arena_strdup(arena, NULL));
	cr_assert_str_eq(arena_strndup(arena, "abcdef", 3), "abc");
	cr_assert_str_eq(arena_strndup(arena, "ab", 3), "ab", "never beyond the NUL");
	cr_assert_str_eq(arena_printf(arena, "%s:%d", "x", 7), "x:7");
	cr_assert_eq(strlen(arena_printf(arena, "%20000d", 7)), 20000);
	arena_free(arena);
}

Test(arena, no_memory)
{
	struct arena *arena = arena_new();

	cr_assert_null(arena_alloc(arena, SIZE_MAX));
	cr_assert_null(arena_alloc(arena, SIZE_MAX - 8));
	arena_fail_after = 1;
	cr_assert(arena_alloc(arena, 1));
	cr_assert_null(arena_alloc(arena, 1));
	cr_assert_null(arena_strdup(arena, "x"));
	cr_assert_null(arena_printf(arena, "x"));
	cr_assert_null(arena_new());
	arena_fail_after = -1;
	cr_assert(arena_alloc(arena, 1));
	arena_free(arena);
}
