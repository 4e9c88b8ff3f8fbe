/*
 * The socket options that `socket = a|l|r:OPTION=VALUE` can set: one table for parser, -sockets and setsockopt(2).
 * Everyone may use it.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_SOCKOPT_H
#define TLSPLICE_SOCKOPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

enum sock_role { SOCK_ACCEPT, SOCK_LOCAL, SOCK_REMOTE, SOCK_ROLES };

struct sockopt_kind; /* a row of the table */

/* One option with the value to set. */
struct sockopt {
	const struct sockopt_kind *kind;
	union {
		int number;      /* flags and numbers */
		int linger[2];   /* on/off, seconds */
		long timeval[2]; /* seconds, microseconds */
		char name[16];   /* SO_BINDTODEVICE */
	} value;
};

/* The options of one role, in configuration order; a later one of the same kind replaces the earlier. */
struct sockopts {
	struct sockopt *opts;
	size_t count;
};

/* What every section starts with, one "a|l|r:OPTION=VALUE" per line. */
#define SOCKOPT_DEFAULTS "a:SO_REUSEADDR=yes\nl:TCP_NODELAY=yes\nr:TCP_NODELAY=yes"
#define SOCKOPT_DEFAULTS_UDP "a:SO_REUSEADDR=yes\nl:SO_REUSEADDR=yes"

enum { SOCKOPT_TEXT_MAX = 64 };

/* Reads "a|l|r:OPTION=VALUE[:VALUE]". False: illegal, with `role` and `opt` undefined. */
bool sockopt_parse(const char *spec, enum sock_role *role, struct sockopt *opt);

/* Writes "a:SO_LINGER=1:60", which sockopt_parse() reads back, and returns `text`. */
const char *sockopt_text(const struct sockopt *opt, enum sock_role role, char text[SOCKOPT_TEXT_MAX]);

const char *sockopt_name(const struct sockopt *opt);

/*
 * Sets every option of the set on fd. An option that the socket refuses is logged as a warning under `log_id`
 * (the caller passes its debug level) and does not stop the others. Returns the number refused.
 * Kinds that cannot apply to the socket's family (TCP_* on a Unix socket) are skipped silently.
 */
int sockopts_apply(const struct sockopts *set, enum sock_role role, int fd, const char *log_id, int debug_level);

/* Prints the table of -sockets: defaults per role and the OS default, read from a fresh socket. */
void sockopts_print(FILE *out);

#endif
