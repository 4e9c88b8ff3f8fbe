/*
 * Unit tests of environment.h: each name once, nothing that passes for what the proxy says of a client.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "environment.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#define LIST(...) ((char *const *)(const char *const[]){__VA_ARGS__ __VA_OPT__(, ) NULL})

static void expect(char *const *got, char *const *wanted)
{
	size_t i;

	cr_assert_not_null(got);
	for (i = 0; wanted[i] && got[i]; i++)
		cr_expect_str_eq(got[i], wanted[i]);
	cr_expect_null(got[i]);
	cr_expect_null(wanted[i], "%s is missing", wanted[i]);
}

static void expect_copy(char *const *from, char *const *wanted)
{
	struct arena *arena = arena_new();

	expect(environment_copy(arena, from), wanted);
	arena_free(arena);
}

Test(environment, copy)
{
	expect_copy(LIST(), LIST());
	expect_copy(LIST("A=1", "B="), LIST("A=1", "B="));
	expect_copy(LIST("A=1", "AB=2", "A=3", "B=4", "AB="), LIST("A=1", "AB=2", "B=4"));
	expect_copy(LIST("A", "=x", "", "B=1"), LIST("B=1"));
	expect_copy(LIST("REMOTE_HOST=x", "REMOTE_PORT=", "REMOTE_=1", "REMOTE=1", "SSL_CLIENT_DN=a", "SSL_CLIENT_I_DN=b",
	                 "SSL_CLIENT=1", "SSL_CERT_FILE=f"),
	            LIST("REMOTE=1", "SSL_CLIENT=1", "SSL_CERT_FILE=f"));
}

Test(environment, copy_without_memory)
{
	struct arena *arena = arena_new();

	for (long after = 0; after < 3; after++) {
		arena_fail_after = after;
		cr_expect_null(environment_copy(arena, LIST("A=1", "B=2")));
	}
	arena_fail_after = -1;
	arena_free(arena);
}

static void expect_join(char *const *own, char *const *base, char *const *wanted)
{
	char **joined = environment_join(own, base);

	expect(joined, wanted);
	free(joined);
}

Test(environment, join)
{
	expect_join(LIST(), LIST(), LIST());
	expect_join(LIST("A=1"), LIST("B=2"), LIST("A=1", "B=2"));
	expect_join(LIST("LD_PRELOAD=ours", "A=1"), LIST("B=2", "LD_PRELOAD=theirs", "LD_PRELOADS=x", "A="),
	            LIST("LD_PRELOAD=ours", "A=1", "B=2", "LD_PRELOADS=x"));
}
