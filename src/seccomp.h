/*
 * Seccomp: a filter of system calls for all threads of the process. For sandbox.c. seccomp(2); kernel-notes/sandbox.md.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_SECCOMP_H
#define TLSPLICE_SECCOMP_H

#include <stdbool.h>

/*
 * From now on system calls that a proxy never makes fail with EPERM in every thread. `strangers`: there is code of others in the process (engines, tokens),
 * which may run programs, keep keys in the kernel and open sockets of any family. `runs`: programs may be run in any case, others say which. Returns 0 or -errno.
 */
int seccomp_restrict(bool strangers, bool runs);

#endif
