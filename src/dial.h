/*
 * Dialling: from a section's upstream addresses to a connected socket. Part of the conversation: runs on its coroutine.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_DIAL_H
#define TLSPLICE_DIAL_H

#include "conn.h"

/* Connects c->back to the first address that answers, in the order of `failover`; logs and fails the connection if none does. */
void dial(struct conn *c);

#endif
