/*
 * What systemd is told of the process: sd_notify(3), datagrams to the socket that NOTIFY_SOCKET names. Without one everything here does nothing.
 * For the main thread. The protocol is three lines of text; libsystemd would bring compression libraries into the process for it.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_NOTIFY_H
#define TLSPLICE_NOTIFY_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Connects to the socket, before chroot(2) hides it, and removes NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID from the environment, so that children
 * do not speak for us. To be called once, before there are threads. A socket that is not there is logged, and no error.
 */
void notify_open(void);

/* The process, in the background or not, serves; it begins to read its configuration anew (followed by ready once more); it ends, within so many seconds. */
void notify_ready(const char *status);
void notify_reloading(void);
void notify_stopping(int seconds);

/* Milliseconds to the next sign of life that the watchdog waits for, from `now_ms` on; -1: there is no watchdog. */
int notify_watchdog_wait_ms(uint64_t now_ms);

/* True if the sign is due; whoever has found that all is well calls notify_alive(). */
bool notify_watchdog_due(uint64_t now_ms);
void notify_alive(uint64_t now_ms);

#endif
