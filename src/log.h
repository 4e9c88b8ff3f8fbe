/*
 * Log lines: formatted by whoever has something to say, written by a thread of their own, so that
 * a slow disk or a stuck syslogd never holds up a worker (full buffer: lines are dropped and counted, and the count is logged).
 * Everyone may use it. Formats and level marks are those of stunnel, for tools read them.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_LOG_H
#define TLSPLICE_LOG_H

#include <stdarg.h>
#include <stdbool.h>
#include <syslog.h> /* LOG_EMERG 0 .. LOG_DEBUG 7, LOG_DAEMON ... */

enum { LOG_TEXT_MAX = 1024 }; /* bytes of text in a line; longer text is cut (CVE-2026-70368 class) */

/* Where lines go once the configuration is known. */
struct log_target {
	const char *output; /* file, or NULL */
	bool overwrite;     /* log = overwrite: truncate when (re)opened */
	bool to_stderr;     /* foreground = yes */
	bool to_syslog;
	const char *ident; /* syslog ident */
	int facility;      /* LOG_DAEMON ... */
};

/*
 * The level in force for lines that belong to no connection (global `debug`). Default LOG_NOTICE.
 * Until log_open() succeeds every level is wanted: the configuration may still ask for it.
 */
void log_set_level(int level);
bool log_wants(int level);

/*
 * Writes one line at `level` (0..7) under the name `id` ("ui", "main", a connection's id; NULL: this thread's, see log_set_id()).
 * No level check: the caller has compared with the section's level. Bytes below 0x20 and 0x7f become '.'. Keeps errno.
 * Until log_open() succeeds the lines are kept in memory.
 */
void log_write(int level, const char *id, const char *format, ...) __attribute__((format(printf, 3, 4)));
void log_vwrite(int level, const char *id, const char *format, va_list args) __attribute__((format(printf, 3, 0)));

/* Lines of no connection: checked against the global level, under this thread's id. */
#define log_global(level, ...) ((void)(log_wants(level) && (log_write(level, NULL, __VA_ARGS__), 0)))

/*
 * From now on lines of the calling thread are not more urgent than `level`; LOG_EMERG: as they are. For what is an error at start
 * and a warning while the proxy serves.
 */
void log_soften(int level);

/* Sets the id of the calling thread's own lines ("ui" at start). `id` must stay valid. */
void log_set_id(const char *id);

/* The configuration failed: everything kept so far at LOG_NOTICE or more urgent goes to stderr as "[!] text" and is forgotten. */
void log_dump_kept(void);

/*
 * Opens the targets, emits what was kept (subject to the global level) and starts the writer thread.
 * May be called again on reload: keeps the old targets when the new ones cannot be opened.
 * Returns 0 or -errno of opening `output` (an error line has been logged).
 */
int log_open(const struct log_target *target);

/* Connects to syslog for good: for before chroot(2), after which its socket may be out of reach. */
void log_connect(const struct log_target *target);

/* Closes and reopens the file, if there is one, and says so (USR1). Returns 0 or -errno; on failure the old file stays in use. */
int log_reopen(void);

/* Writes what is left and ends the writer thread: fork(2) finds no lock held, no line half written. Lines wait meanwhile. */
void log_before_fork(void);

/* Restarts the writer thread in the child after fork(2), and in the parent if it lives on. */
void log_after_fork(void);

/* Waits until everything logged so far is written (not longer than `ms` milliseconds). */
void log_flush(int ms);

/* Writes what is left, stops the thread, closes the targets. */
void log_close(void);

/* Lines dropped since the start because the buffer was full; may be called at any time by anyone. */
unsigned long log_dropped(void);

#endif
