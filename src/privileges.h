/*
 * What the process may do: into its jail, out of root's rights. For serve.c, once everything is bound and before there is any other thread.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_PRIVILEGES_H
#define TLSPLICE_PRIVILEGES_H

#include "service.h"

#include <stdbool.h>
#include <sys/types.h>

enum { PRIVILEGES_GROUPS_MAX = 256 };

struct identity {
	bool user, group; /* which of them changes */
	uid_t uid;
	gid_t groups[PRIVILEGES_GROUPS_MAX]; /* the first is ours, whether there are others or not */
	int count;
};

/* Whom `setuid` and `setgid` make of the process; a user without `setgid` has his own groups. Returns false, logged, if there is no such user or group. */
bool privileges_identity(const struct globals *globals, struct identity *identity);

/*
 * Does what `chroot`, `setgid` and `setuid` say, in this order. Of root's capabilities those remain that the configuration cannot do without:
 * CAP_NET_RAW for addresses of others, CAP_NET_BIND_SERVICE where it listens on a privileged port.
 * Returns false after logging what failed; the process must end then, for some of it may be done.
 */
bool privileges_drop(const struct generation *generation);

#endif
