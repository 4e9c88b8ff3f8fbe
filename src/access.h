/*
 * Who may come in, asked before a connection is anything but a socket: libwrap (hosts.allow, hosts.deny) and ident (RFC 1413). For conn.c.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_ACCESS_H
#define TLSPLICE_ACCESS_H

#include <stdbool.h>

struct config;
struct conn;
struct section;

/* The checks that the connection's section asks for. Who does not pass them has failed; suspends the conversation. */
void access_check(struct conn *c);

/* The check by libwrap again, for the section that a virtual host's client has chosen. Returns false: refused, or the connection has failed. */
bool access_check_host(struct conn *c, const struct section *section);

/* For the main thread, before workers see the configuration: looks up where identd listens, if a section asks for it. */
void access_prepare(const struct config *config);

#endif
