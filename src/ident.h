/*
 * Identification protocol, RFC 1413: the text of its questions and answers. Nothing here sees a socket; access.c holds the conversation.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_IDENT_H
#define TLSPLICE_IDENT_H

#include <stdbool.h>
#include <stddef.h>

enum {
	IDENT_QUERY_MAX = 32,  /* "65535 , 65535\r\n" and its NUL */
	IDENT_LINE_MAX = 1000, /* an answer is not longer, RFC 1413 section 4 */
};

/* Writes the question about the connection from port `theirs`, on the machine that is asked, to our port `ours`. Returns its length. */
size_t ident_query(char text[IDENT_QUERY_MAX], unsigned theirs, unsigned ours);

/* An answer as it comes in. Zeroed at first. */
struct ident_line {
	char text[IDENT_LINE_MAX + 1];
	size_t n;
};

enum ident_progress {
	IDENT_MORE,
	IDENT_WHOLE, /* `text` is the line, without its end */
	IDENT_TOO_LONG,
};

/* Adds n bytes up to the end of the line: LF or NUL. CR is dropped, but counts; what comes behind the line does not matter. */
enum ident_progress ident_add(struct ident_line *line, const void *bytes, size_t n);

enum ident_outcome {
	IDENT_USER,
	IDENT_MALFORMED,
	IDENT_OTHER_PORTS, /* it answers another question */
	IDENT_OTHER_TYPE,  /* ERROR, for example */
};

/*
 * Takes "THEIRS , OURS : USERID : SYSTEM : USER" apart; blanks may stand or be missing around each field. *user, only with IDENT_USER: what is behind
 * the third colon, without blanks in front, further colons and blanks at the end included.
 */
enum ident_outcome ident_parse(const char *line, unsigned theirs, unsigned ours, const char **user);

#endif
