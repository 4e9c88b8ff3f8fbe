/*
 * The part of Criterion that our unit tests use, for builds in which Criterion itself cannot run: the thread sanitizer and valgrind do not
 * bear its process model. For tests/unit/ only; runner.c is the other half. Link with that in place of -lcriterion.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef COMPAT_CRITERION_H
#define COMPAT_CRITERION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct cr_settings {
	int line;
	void (*init)(void);
	void (*fini)(void);
	int signal;    /* the test passes when it ends with this signal */
	int exit_code; /* ... or with this exit status */
	double timeout; /* seconds */
	bool disabled;
	const char *description;
};

struct cr_test {
	const char *suite, *name;
	void (*run)(void); /* NULL: the settings of a suite */
	struct cr_settings settings;
	struct cr_test *next;
};

void cr_register(struct cr_test *test);
void cr_abort(const char *file, int line, const char *what, const char *format, ...)
	__attribute__((noreturn, format(printf, 4, 5)));
void cr_note(const char *file, int line, const char *what, const char *format, ...) __attribute__((format(printf, 4, 5)));
void cr_skip(const char *file, int line) __attribute__((noreturn));

#define CR_NAME(suite, name, part) suite##_##name##_##part

#define Test(suite_, name_, ...)                                                                                                  \
	static void CR_NAME(suite_, name_, run)(void);                                                                            \
	static struct cr_test CR_NAME(suite_, name_, test) = {                                                                    \
		.suite = #suite_, .name = #name_, .run = CR_NAME(suite_, name_, run), .settings = {.line = __LINE__, __VA_ARGS__}}; \
	__attribute__((constructor)) static void CR_NAME(suite_, name_, add)(void)                                                \
	{                                                                                                                         \
		cr_register(&CR_NAME(suite_, name_, test));                                                                       \
	}                                                                                                                         \
	static void CR_NAME(suite_, name_, run)(void)

#define TestSuite(suite_, ...)                                                                                                    \
	static struct cr_test CR_NAME(suite_, all, suite) = {.suite = #suite_, .settings = {.line = __LINE__, __VA_ARGS__}};      \
	__attribute__((constructor)) static void CR_NAME(suite_, all, suite_add)(void)                                            \
	{                                                                                                                         \
		cr_register(&CR_NAME(suite_, all, suite));                                                                        \
	}                                                                                                                         \
	struct cr_test

/* The space keeps the format from being empty when no message is given. */
#define CR_CHECK(fatal, holds, what, ...)                                                 \
	((holds)   ? (void)0                                                              \
	 : (fatal) ? cr_abort(__FILE__, __LINE__, what, " " __VA_ARGS__)                  \
		   : cr_note(__FILE__, __LINE__, what, " " __VA_ARGS__))
#define CR_COMPARE(fatal, a, op, b, ...) CR_CHECK(fatal, (a)op(b), #a " " #op " " #b, __VA_ARGS__)
#define CR_STRINGS(fatal, a, op, b, ...) CR_CHECK(fatal, strcmp((a), (b)) op 0, #a " " #op " " #b, __VA_ARGS__)
#define CR_BYTES(fatal, a, op, b, size, ...) CR_CHECK(fatal, memcmp((a), (b), (size)) op 0, #a " " #op " " #b, __VA_ARGS__)

#define cr_assert(holds, ...) CR_CHECK(true, !!(holds), #holds, __VA_ARGS__)
#define cr_assert_not(holds, ...) CR_CHECK(true, !(holds), "not " #holds, __VA_ARGS__)
#define cr_assert_fail(...) CR_CHECK(true, false, "fail", __VA_ARGS__)
#define cr_assert_eq(a, b, ...) CR_COMPARE(true, a, ==, b, __VA_ARGS__)
#define cr_assert_neq(a, b, ...) CR_COMPARE(true, a, !=, b, __VA_ARGS__)
#define cr_assert_lt(a, b, ...) CR_COMPARE(true, a, <, b, __VA_ARGS__)
#define cr_assert_leq(a, b, ...) CR_COMPARE(true, a, <=, b, __VA_ARGS__)
#define cr_assert_gt(a, b, ...) CR_COMPARE(true, a, >, b, __VA_ARGS__)
#define cr_assert_geq(a, b, ...) CR_COMPARE(true, a, >=, b, __VA_ARGS__)
#define cr_assert_null(a, ...) CR_COMPARE(true, a, ==, NULL, __VA_ARGS__)
#define cr_assert_not_null(a, ...) CR_COMPARE(true, a, !=, NULL, __VA_ARGS__)
#define cr_assert_str_eq(a, b, ...) CR_STRINGS(true, a, ==, b, __VA_ARGS__)
#define cr_assert_str_neq(a, b, ...) CR_STRINGS(true, a, !=, b, __VA_ARGS__)
#define cr_assert_arr_eq(a, b, size, ...) CR_BYTES(true, a, ==, b, size, __VA_ARGS__)
#define cr_assert_arr_neq(a, b, size, ...) CR_BYTES(true, a, !=, b, size, __VA_ARGS__)

#define cr_expect(holds, ...) CR_CHECK(false, !!(holds), #holds, __VA_ARGS__)
#define cr_expect_not(holds, ...) CR_CHECK(false, !(holds), "not " #holds, __VA_ARGS__)
#define cr_expect_fail(...) CR_CHECK(false, false, "fail", __VA_ARGS__)
#define cr_expect_eq(a, b, ...) CR_COMPARE(false, a, ==, b, __VA_ARGS__)
#define cr_expect_neq(a, b, ...) CR_COMPARE(false, a, !=, b, __VA_ARGS__)
#define cr_expect_lt(a, b, ...) CR_COMPARE(false, a, <, b, __VA_ARGS__)
#define cr_expect_leq(a, b, ...) CR_COMPARE(false, a, <=, b, __VA_ARGS__)
#define cr_expect_gt(a, b, ...) CR_COMPARE(false, a, >, b, __VA_ARGS__)
#define cr_expect_geq(a, b, ...) CR_COMPARE(false, a, >=, b, __VA_ARGS__)
#define cr_expect_null(a, ...) CR_COMPARE(false, a, ==, NULL, __VA_ARGS__)
#define cr_expect_not_null(a, ...) CR_COMPARE(false, a, !=, NULL, __VA_ARGS__)
#define cr_expect_str_eq(a, b, ...) CR_STRINGS(false, a, ==, b, __VA_ARGS__)
#define cr_expect_str_neq(a, b, ...) CR_STRINGS(false, a, !=, b, __VA_ARGS__)
#define cr_expect_arr_eq(a, b, size, ...) CR_BYTES(false, a, ==, b, size, __VA_ARGS__)

#define cr_skip_test(...) cr_skip(__FILE__, __LINE__)
#define cr_log_info(...) ((void)(printf(__VA_ARGS__), puts("")))

#endif
