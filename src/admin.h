/*
 * The admin endpoint (global option `admin = [host:]port`): "/" status page, "/metrics" Prometheus text, "/health".
 * libmicrohttpd on a thread of its own; loopback unless an address is given. It reads stats.h and nothing else.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_ADMIN_H
#define TLSPLICE_ADMIN_H

#include <stdbool.h>

struct admin;

/*
 * Starts the endpoint. `address` is [host:]port. Returns NULL after logging why.
 * Requests other than GET and HEAD get 405, unknown paths 404; at most 64 connections, idle ones closed after 10 s;
 * Cache-Control: no-store; X-Content-Type-Options: nosniff; a Content-Security-Policy that allows inline style only.
 */
struct admin *admin_start(const char *address);

/* "/health" answers 200 "ok" while true and 503 "draining" afterwards. */
void admin_set_healthy(struct admin *admin, bool healthy);

/* admin_stop(NULL) is fine. */
void admin_stop(struct admin *admin);

#endif
