/*
 * Landlock: a thread, and those it starts, lose all access to files but what was listed. For sandbox.c.
 * landlock(7), linux/landlock.h; kernel-notes/sandbox.md.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_LANDLOCK_H
#define TLSPLICE_LANDLOCK_H

/* What may be done with a file, or with everything below a directory. */
enum landlock_right {
	LANDLOCK_READ = 1,
	LANDLOCK_WRITE = 2,  /* files are made and truncated too */
	LANDLOCK_SOCKET = 4, /* Unix sockets are bound and removed */
	LANDLOCK_REMOVE = 8,
	LANDLOCK_DEVICE = 16, /* ioctl(2) */
	LANDLOCK_RUN = 32,
};

/* The version of what this kernel has, or -errno: -ENOSYS or -EOPNOTSUPP if there is none. */
int landlock_version(void);

/* What is taken away of TCP: ports to bind or connect to that are not listed. */
enum landlock_ports { LANDLOCK_BIND = 1, LANDLOCK_CONNECT = 2 };
enum { LANDLOCK_VERSION_PORTS = 4 }; /* Linux 6.7 */

/* A list of what stays allowed: `ports` are those of enum landlock_ports that are restricted. Returns a descriptor or -errno. */
int landlock_open(int version, unsigned ports);

/* Puts a file or directory on the list. Returns 0 or -errno. */
int landlock_allow(int ruleset, int version, const char *path, unsigned rights);

/* Puts a port on the list. Returns 0 or -errno. */
int landlock_allow_port(int ruleset, unsigned port, enum landlock_ports use);

/* Takes the rest away from the calling thread, which must have PR_SET_NO_NEW_PRIVS. Returns 0 or -errno. Closes the list. */
int landlock_enforce(int ruleset);

#endif
