/*
 * Users and groups by name or number. A name that was found once keeps its number: a reload may run in a jail without /etc/passwd.
 * For the main thread: config*.c, listen.c, privileges.c; and for the helper of wrap.c.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_OWNER_H
#define TLSPLICE_OWNER_H

#include <stdbool.h>
#include <sys/types.h>

/* Returns whether there is such a user; a number always is one. `uid` may be NULL. */
bool owner_user(const char *text, uid_t *uid);
bool owner_group(const char *text, gid_t *gid);

enum { OWNER_NOBODYS_GROUP = 65534 }; /* the kernel's own word for it, see /proc/sys/kernel/overflowgid */

/* The groups of a user, the primary one first, up to `room` of them. Returns their number; 0: the machine does not know him. */
int owner_groups(const char *user, gid_t *groups, int room);

#endif
