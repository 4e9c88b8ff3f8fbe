/*
 * Inetd mode: a configuration without sections is about one connection, the one on descriptors 0 and 1, and the process ends with it.
 * For serve.c.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_INETD_H
#define TLSPLICE_INETD_H

#include "worker.h"

/* Before the worker starts: makes its end something that inetd_wait() can wait for. Returns 0 or -errno. */
int inetd_prepare(struct worker *worker);

/* Gives the worker, which has its services, the connection. It ends with it. */
void inetd_start(struct worker *worker);

/* Waits for the worker's end, and joins it. A signal that comes from `signal_fd` (SIGCHLD apart) cuts it short. Returns that signal, or 0. */
int inetd_wait(struct worker *worker, int signal_fd);

#endif
