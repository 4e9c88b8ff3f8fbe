/*
 * The log's sinks: lines are gathered in one buffer and leave with one write(2) per sink; syslog(3) gets them one by one.
 * log.c alone may use it, on its writer thread. A coroutine would have no room for these buffers, and no time for these calls.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "log_sink.h"

#include "log.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
	OUT_MAX = 1 << 17, /* bytes per write(2) */
	STUCK_MS = 1000,   /* how long a pipe that takes nothing is waited for */
};

static struct log_sinks sinks = {.file = -1};
static char out[OUT_MAX];
static size_t out_used;
static size_t lost_bytes; /* not taken by the file */
static int lost_errno;
static bool torn; /* the file ends in half a line */

/* O_NONBLOCK: a FIFO without a reader must not hang the process; on a file it means nothing. */
int log_sinks_open(const char *path, bool overwrite)
{
	int fd;

	if (!strcmp(path, "/dev/stdout")) /* may be a socket, or belong to the user we no longer are: neither can be opened */
		fd = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
	else if (!strcmp(path, "/dev/stderr"))
		fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
	else
		fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK | O_APPEND | (overwrite ? O_TRUNC : 0),
		          0640);
	return fd >= 0 ? fd : -errno;
}

void log_sinks_change(const struct log_sinks *wanted)
{
	if (sinks.file >= 0 && sinks.file != wanted->file)
		close(sinks.file);
	if (sinks.file != wanted->file)
		torn = false;
	sinks = *wanted;
	if (sinks.to_syslog)
		openlog(sinks.ident, LOG_CONS | LOG_NDELAY, sinks.facility);
}

/* Waits for a descriptor that does not block to take more. Returns 0 or -errno. */
static int writable(int fd)
{
	struct pollfd poll_fd = {.fd = fd, .events = POLLOUT};
	int n = poll(&poll_fd, 1, STUCK_MS);

	return n > 0 ? 0 : n == 0 ? -EAGAIN : -errno;
}

/* Returns the number of bytes written; fewer than `size` mean an error, left in errno. */
static size_t write_all(int fd, const char *bytes, size_t size)
{
	size_t done = 0;

	while (done < size) {
		ssize_t n = write(fd, bytes + done, size - done);

		if (n > 0)
			done += (size_t)n;
		else if (n == 0 || (errno != EINTR && (errno != EAGAIN || writable(fd) < 0)))
			break;
	}
	return done;
}

/* A full disk loses lines, nothing else: the next batch tries again, and says what is missing. */
static void file_write(const char *bytes, size_t size)
{
	size_t done;

	if (torn && write_all(sinks.file, "\n", 1) == 1)
		torn = false;
	errno = 0;
	done = write_all(sinks.file, bytes, size);
	if (done == size)
		return;
	lost_errno = errno;
	lost_bytes += size - done;
	torn = torn || (done > 0 && bytes[done - 1] != '\n');
}

static void out_flush(void)
{
	if (!out_used)
		return;
	if (sinks.file >= 0)
		file_write(out, out_used);
	if (sinks.to_stderr)
		write_all(STDERR_FILENO, out, out_used);
	out_used = 0;
}

/* "YYYY.MM.DD HH:MM:SS ", made once per second. */
static const char *stamp(time_t when)
{
	static char text[32];
	static time_t made = -1;
	struct tm tm;

	if (when == made)
		return text;
	if (!localtime_r(&when, &tm) || !strftime(text, sizeof(text), "%Y.%m.%d %H:%M:%S ", &tm))
		snprintf(text, sizeof(text), "0000.00.00 00:00:00 ");
	made = when;
	return text;
}

static void out_line(time_t when, const char *body, size_t length)
{
	const char *date = stamp(when);
	size_t date_length = strlen(date);

	if (out_used + date_length + length + 1 > sizeof(out))
		out_flush();
	memcpy(out + out_used, date, date_length);
	memcpy(out + out_used + date_length, body, length);
	out_used += date_length + length;
	out[out_used++] = '\n';
}

void log_sinks_emit(int level, time_t when, const char *body, size_t length)
{
	if (sinks.file >= 0 || sinks.to_stderr)
		out_line(when, body, length);
	if (sinks.to_syslog)
		syslog(level, "%.*s", (int)length, body);
}

void log_sinks_report(const char *format, ...)
{
	char text[200], body[256];
	va_list args;
	int length;

	if (!log_wants(LOG_WARNING))
		return;
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	length = snprintf(body, sizeof(body), "LOG%d[main]: %s", LOG_WARNING, text);
	log_sinks_emit(LOG_WARNING, time(NULL), body, (size_t)length);
}

static void report_lost_bytes(void)
{
	size_t lost = lost_bytes;

	lost_bytes = 0;
	log_sinks_report("%zu byte(s) of the log lost: %s (%d)", lost, strerror(lost_errno), lost_errno);
	out_flush();
	if (lost_bytes) /* full again: what counts are the lines, not our complaint */
		lost_bytes = lost;
}

void log_sinks_flush(void)
{
	size_t lost = lost_bytes;

	out_flush();
	if (lost && lost == lost_bytes)
		report_lost_bytes();
}

void log_sinks_forget(void)
{
	out_used = 0;
}
