/*
 * What the process may do: into its jail, out of root's rights. For serve.c, once everything is bound and before there is any other thread.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_PRIVILEGES_H
#define TLSPLICE_PRIVILEGES_H

#include "service.h"

/*
 * Does what `chroot`, `setgid` and `setuid` say, in this order. Of root's capabilities those remain that the configuration cannot do without:
 * CAP_NET_RAW for addresses of others, CAP_NET_BIND_SERVICE where it listens on a privileged port.
 * Returns false after logging what failed; the process must end then, for some of it may be done.
 */
bool privileges_drop(const struct generation *generation);

#endif
