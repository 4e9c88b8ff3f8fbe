/* ident: questions, answers as they come in, and what they say. SPDX-License-Identifier: Apache-2.0 */
#include "ident.h"

#include <criterion/criterion.h>
#include <string.h>

static enum ident_outcome parse(const char *line, const char **user)
{
	return ident_parse(line, 6193, 23, user);
}

static void names(const char *line, const char *user)
{
	const char *found = NULL;

	cr_assert_eq(parse(line, &found), IDENT_USER, "%s", line);
	cr_assert_str_eq(found, user);
}

static void fails(const char *line, enum ident_outcome how)
{
	const char *found = line;

	cr_assert_eq(parse(line, &found), how, "%s", line);
	cr_assert_null(found);
}

Test(ident, question)
{
	char text[IDENT_QUERY_MAX];

	cr_assert_eq(ident_query(text, 6193, 23), strlen("6193 , 23\r\n"));
	cr_assert_str_eq(text, "6193 , 23\r\n");
	cr_assert_eq(ident_query(text, 65535, 65535), strlen("65535 , 65535\r\n"));
}

Test(ident, answers_with_a_user)
{
	names("6193 , 23 : USERID : UNIX : stjohns", "stjohns");
	names("6193,23:USERID:UNIX:stjohns", "stjohns");
	names("  6193\t,\t23 :\tUSERID :UNIX , US-ASCII :\t stjohns", "stjohns");
	names("06193, 00023 : USERID : OTHER :joe ", "joe ");
	names("6193, 23 : USERID : UNIX : a:b : c", "a:b : c");
	names("6193, 23 : USERID : : ", "");
	names("6193, 23 : USERID ::", "");
}

Test(ident, answers_without_one)
{
	fails("", IDENT_MALFORMED);
	fails(":::", IDENT_MALFORMED);
	fails("6193 : USERID : UNIX : joe", IDENT_MALFORMED);
	fails("6193 , 23 USERID : UNIX : joe", IDENT_MALFORMED);
	fails("6193 , 23 : USERID : UNIX joe", IDENT_MALFORMED);
	fails("6193 , 23 : USERID", IDENT_MALFORMED);
	fails("x6193 , 23 : USERID : UNIX : joe", IDENT_MALFORMED);
	fails("-6193 , 23 : USERID : UNIX : joe", IDENT_MALFORMED);
	fails("4294973489 , 23 : USERID : UNIX : joe", IDENT_MALFORMED); /* 6193 in 32 bits */
	fails("71729 , 23 : USERID : UNIX : joe", IDENT_MALFORMED);      /* and in 16 */
	fails("6193 , 23 : ERROR : NO-USER", IDENT_OTHER_TYPE);
	fails("6193 , 23 : ERROR : NO-USER : joe", IDENT_OTHER_TYPE);
	fails("6193 , 23 : userid : UNIX : joe", IDENT_OTHER_TYPE);
	fails("6193 , 23 : USERIDS : UNIX : joe", IDENT_OTHER_TYPE);
	fails("6193 , 23 : USER ID : UNIX : joe", IDENT_OTHER_TYPE);
	fails("6193 , 23 : : UNIX : joe", IDENT_OTHER_TYPE);
	fails("6193 , 23 :", IDENT_MALFORMED);
}

Test(ident, answers_about_another_connection)
{
	fails("23 , 6193 : USERID : UNIX : joe", IDENT_OTHER_PORTS);
	fails("6193 , 24 : USERID : UNIX : joe", IDENT_OTHER_PORTS);
	fails("0 , 0 : ERROR : INVALID-PORT", IDENT_OTHER_PORTS);
}

Test(ident, lines_come_in_pieces)
{
	static const char bytes[] = "6193 , 23 : USERID : UNIX : joe\r\nrest";

	for (size_t cut = 0; cut <= strlen(bytes); cut++) {
		struct ident_line line = {.n = 0};
		enum ident_progress progress = ident_add(&line, bytes, cut);

		if (progress == IDENT_MORE)
			progress = ident_add(&line, bytes + cut, strlen(bytes) - cut);
		cr_assert_eq(progress, IDENT_WHOLE);
		cr_assert_str_eq(line.text, "6193 , 23 : USERID : UNIX : joe");
	}
}

Test(ident, lines_end_with_nul_too)
{
	struct ident_line line = {.n = 0};

	cr_assert_eq(ident_add(&line, "a\rb\0c", 5), IDENT_WHOLE);
	cr_assert_str_eq(line.text, "ab");
}

Test(ident, lines_have_a_length)
{
	struct ident_line full = {.n = 0}, cr = {.n = 0};

	for (int i = 0; i < IDENT_LINE_MAX; i++) {
		cr_assert_eq(ident_add(&full, "x", 1), IDENT_MORE);
		cr_assert_eq(ident_add(&cr, "\r", 1), IDENT_MORE);
	}
	cr_assert_eq(strlen(full.text), IDENT_LINE_MAX);
	cr_assert_eq(ident_add(&full, "\n", 1), IDENT_WHOLE);
	cr_assert_eq(ident_add(&full, "x", 1), IDENT_TOO_LONG);
	cr_assert_eq(ident_add(&cr, "\r", 1), IDENT_TOO_LONG); /* what is dropped counts */
}
