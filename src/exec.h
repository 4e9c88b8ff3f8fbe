/*
 * Programs in the place of an upstream, or of a client. Part of the conversation: runs on its coroutine, and waits while a thread of the
 * job pool starts the program.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_EXEC_H
#define TLSPLICE_EXEC_H

#include "conn.h"

/* The section's program becomes c->back, or c->front. What fails is logged, and fails the connection; a program that cannot be run is one that ends at once. */
void exec_upstream(struct conn *c);
void exec_client(struct conn *c);

/* Makes the wait in them end; the program finds nobody at the other end of its descriptors. */
void exec_abandon(struct exec **slot);

/* Where the library is that tells programs their client's address: to be found out before chroot(2). */
void exec_find_preload(void);

/* After chroot(2): warns of what programs need and is not there. Programs are pointed to that library if it is in the jail too, under the same path. */
void exec_look_in_jail(const struct config *config);

#endif
