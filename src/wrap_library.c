/*
 * The library libwrap itself: the only file that sees it, built where it is installed. See wrap.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "wrap.h"

#include <string.h>
#include <tcpd.h>

bool wrap_available(void)
{
	return true;
}

bool wrap_allows(int client, const char *daemon)
{
	struct request_info request;

	resident = 1; /* a rule must not put another program in our place (hosts_options(5), `twist`) */
	request_init(&request, RQ_FILE, client, RQ_DAEMON, daemon, 0);
	fromhost(&request);
	/* Nothing is known of a client that has gone: rules about addresses would not match it, and ALL would let it in. */
	return request.client->sin && hosts_access(&request);
}
