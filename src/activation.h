/*
 * Sockets that systemd has opened for us: sd_listen_fds(3).
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_ACTIVATION_H
#define TLSPLICE_ACTIVATION_H

#include <stdbool.h>

/*
 * Takes the descriptors that LISTEN_FDS and LISTEN_PID announce, and removes these variables, so that children do not take them for theirs.
 * To be called once, before there are threads. False, logged: something is announced that is no listening stream socket.
 */
bool activation_take(void);

/* How many there are, and the nth from 0: close-on-exec, blocking, open for as long as the process. */
unsigned activation_count(void);
int activation_socket(unsigned n);

#endif
