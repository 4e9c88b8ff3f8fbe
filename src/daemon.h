/*
 * The process: into the background, its pid file, its limits. For serve.c.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_DAEMON_H
#define TLSPLICE_DAEMON_H

#include "config.h"

/*
 * Raises the limits of descriptors and locked memory as far as we may, and keeps keys out of core dumps and debuggers.
 * Returns how many clients the descriptors suffice for.
 */
unsigned process_limits(void);

/* A child process gets its limits back as the proxy found them. Only system calls: callable after vfork(2). */
void process_restore_limits(void);

/* Descriptors 0, 1 and 2 are there: what is opened later must not become one of them. */
void process_standard_descriptors(void);

/*
 * Lets the allocator give memory back when the workers rest, not only when they allocate. After daemonise(): a fork would lose its thread.
 * Does nothing without jemalloc.
 */
void process_memory(void);

/* Keeps keys out of core dumps and debuggers: again after setuid(2), which takes that back. */
void process_protect(void);

/* Opens what daemonise() needs, which a jail may not have. Returns 0 or -errno. */
int daemonise_prepare(void);

/*
 * Leaves the terminal: the child goes on in /. The parent exits with status 0 at daemonise_done(), or with 1 and a sentence when the child has
 * ended before. Returns 0 or -errno.
 */
int daemonise(void);

/* The process serves. Does nothing in the foreground. */
void daemonise_done(void);

/* Writes the pid file, if `path` is not NULL. Returns 0 or -errno after logging why. */
int pid_file_create(const char *path);
void pid_file_remove(const char *path);

#endif
