/*
 * The log's sinks: file, stderr and syslog, and what happens when one of them takes nothing.
 * log.c alone may use it, and but for log_sinks_open() on its writer thread alone.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_LOG_SINK_H
#define TLSPLICE_LOG_SINK_H

#include <stdbool.h>
#include <stddef.h>
#include <time.h>

enum { LOG_IDENT_MAX = 64 }; /* bytes of a syslog ident and of a line's id; the longest id we make has 22 */

struct log_sinks {
	int file; /* -1 = none */
	bool to_stderr, to_syslog;
	int facility;
	char ident[LOG_IDENT_MAX];
};

/* Opens a log file for appending. Returns a descriptor that never blocks, or -errno. */
int log_sinks_open(const char *path, bool overwrite);

/* Goes over to other sinks and closes the old file. */
void log_sinks_change(const struct log_sinks *wanted);

/* Adds a line, "LOGn[id]: text" in `body`, to what log_sinks_flush() writes. */
void log_sinks_emit(int level, time_t when, const char *body, size_t length);

/* Adds a warning about the log itself. */
void log_sinks_report(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Writes out. What a full disk does not take is lost; how much is said once there is room again. */
void log_sinks_flush(void);

/* Forgets what was added: after fork(2) it is the parent's to write. */
void log_sinks_forget(void);

#endif
