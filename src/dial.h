/*
 * Dialling: from a section's upstream addresses to a connected socket. Part of the conversation: runs on its coroutine.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_DIAL_H
#define TLSPLICE_DIAL_H

#include "conn.h"

/*
 * Connects c->back to the first address of c->upstream that answers, beginning with the one that a resumed session remembers, else in the order of
 * `failover`; logs and fails the connection if none does. In server mode the client gets the tickets that had to wait for this.
 */
void dial(struct conn *c);

/* Whether sessions of the connection are to remember its backend: in server mode, if there may be a choice and `redirect` does not come in between. */
bool dial_remembers(const struct conn *c);

/* A tls.choose_backend: chooses the address that will be tried first, as far as it can be known before dialling. */
const struct addr *dial_choose(struct tls *tls);

#endif
