/*
 * Log lines: producers copy a finished line into a batch in memory, one thread writes the batches to file, stderr and syslog.
 * Two batches: one is being filled while the writer empties the other, so the lock is held for a copy or a swap of pointers only.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "log.h"

#include "log_batch.h"
#include "log_sink.h"
#include "thread.h"

#include <errno.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
	ID_MAX = LOG_IDENT_MAX, /* bytes of an id; the longest we make has 22 */
	LINGER_MS = 10,         /* how long the writer gathers lines after it wrote some: at most 100 wake-ups a second */
	CLOSE_MS = 5000,        /* how long a disk that takes nothing is waited for, before we end without the last lines */
};

enum writer { WRITER_BUSY, WRITER_LINGERS, WRITER_SLEEPS };

static struct log_batch batches[2];

static struct {
	pthread_mutex_t lock;
	pthread_cond_t wake;  /* the writer waits here */
	pthread_cond_t moved; /* and here who waits for it */
	struct log_batch *filling;
	uint64_t logged, written; /* lines, ever */
	unsigned long unreported; /* lines dropped since the last time we said so */
	enum writer writer;
	bool hurry, stopping, ended; /* orders to the writer, and its answer */
	bool running;                /* ordered to run */
	pid_t owner;                 /* the process that has the thread, 0 = there is none */
	pthread_t thread;

	/* What log_open() was told; log_reopen() does the same again. */
	char output[PATH_MAX];
	bool overwrite;
	struct log_sinks wanted;
	bool pending; /* the writer has not taken `wanted` yet */
} shared = {
	.lock = PTHREAD_MUTEX_INITIALIZER,
	.wake = PTHREAD_COND_INITIALIZER,
	.moved = PTHREAD_COND_INITIALIZER,
	.filling = &batches[0],
	.wanted.file = -1,
};

static atomic_int level_now = LOG_NOTICE;
static atomic_bool keeping = true; /* no target yet: log_open() will pick the lines that the level allows */
static atomic_ulong dropped;
static _Thread_local const char *thread_id = "ui";
static _Thread_local int softest = LOG_EMERG;

void log_set_level(int level)
{
	atomic_store_explicit(&level_now, level, memory_order_relaxed);
}

bool log_wants(int level)
{
	return level <= atomic_load_explicit(&level_now, memory_order_relaxed) ||
	       atomic_load_explicit(&keeping, memory_order_relaxed);
}

void log_soften(int level)
{
	softest = level;
}

void log_set_id(const char *id)
{
	thread_id = id;
}

unsigned long log_dropped(void)
{
	return atomic_load_explicit(&dropped, memory_order_relaxed);
}

/* ---- producers ---- */

/* A sleeping writer is woken once per batch, a lingering one when memory runs short. */
static bool writer_wanted(void)
{
	bool wanted =
		shared.writer == WRITER_SLEEPS || (shared.writer == WRITER_LINGERS && shared.filling->used > LOG_BATCH_MAX / 2);

	if (wanted)
		shared.writer = WRITER_BUSY;
	return wanted;
}

static void submit(const struct log_line *line, const char *body)
{
	bool wake = false;

	pthread_mutex_lock(&shared.lock);
	if (log_batch_add(shared.filling, line, body)) {
		shared.logged++;
		wake = writer_wanted();
	} else {
		shared.unreported++;
		atomic_fetch_add_explicit(&dropped, 1, memory_order_relaxed);
	}
	pthread_mutex_unlock(&shared.lock);
	if (wake)
		pthread_cond_signal(&shared.wake);
}

/* What peers send ends up in lines: no escape sequence may reach a terminal, no line break may forge a line. */
static void mask(char *text, size_t length)
{
	for (size_t i = 0; i < length; i++)
		if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f)
			text[i] = '.';
}

/* Bytes that snprintf() left in a buffer of `size`. */
static size_t printed(int result, size_t size)
{
	if (result < 0)
		return 0;
	return (size_t)result < size ? (size_t)result : size - 1;
}

void log_vwrite(int level, const char *id, const char *format, va_list args)
{
	static _Thread_local char body[ID_MAX + 16 + LOG_TEXT_MAX + 1];
	int saved_errno = errno;
	struct log_line line = {.when = time(NULL), .level = (uint8_t)(level & 7)};
	size_t head, length;

	if (level < softest) {
		level = softest;
		line.level = (uint8_t)level;
		if (!log_wants(level))
			return;
	}
	head = printed(snprintf(body, ID_MAX + 16, "LOG%d[%.*s]: ", level & 7, ID_MAX, id ? id : thread_id), ID_MAX + 16);
	errno = saved_errno; /* for %m */
	length = head + printed(vsnprintf(body + head, LOG_TEXT_MAX + 1, format, args), LOG_TEXT_MAX + 1);
	mask(body, length);
	line.text = (uint16_t)head;
	line.length = (uint16_t)length;
	submit(&line, body);
	errno = saved_errno;
}

void log_write(int level, const char *id, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	log_vwrite(level, id, format, args);
	va_end(args);
}

/* ---- the writer ---- */

static void emit(const struct log_line *line, const char *body)
{
	log_sinks_emit(line->level, line->when, body, line->length);
}

static void batch_emit(struct log_batch *batch, unsigned long drops)
{
	log_batch_each(batch, emit);
	if (drops)
		log_sinks_report("%lu log line(s) dropped: the log could not be written fast enough", drops);
	log_sinks_flush();
	log_batch_clear(batch);
}

static struct timespec deadline_in(int ms)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	at.tv_sec += ms / 1000;
	at.tv_nsec += ms % 1000 * 1000000L;
	if (at.tv_nsec >= 1000000000L) {
		at.tv_sec++;
		at.tv_nsec -= 1000000000L;
	}
	return at;
}

static bool work_waits(void)
{
	return shared.filling->used || shared.unreported || shared.pending;
}

/* Sleeps until there is work. Returns false when told to stop and nothing is left to do. */
static bool await_work(void)
{
	while (!work_waits() && !shared.stopping) {
		shared.writer = WRITER_SLEEPS;
		pthread_cond_wait(&shared.wake, &shared.lock);
	}
	shared.writer = WRITER_BUSY;
	return work_waits();
}

/* A busy proxy logs all the time: gather a while, so that its threads need not wake us for every line. */
static void linger(void)
{
	struct timespec until = deadline_in(LINGER_MS);

	shared.writer = WRITER_LINGERS;
	while (shared.writer == WRITER_LINGERS && !shared.hurry && !shared.stopping)
		if (pthread_cond_clockwait(&shared.wake, &shared.lock, CLOCK_MONOTONIC, &until) != 0)
			break;
	shared.writer = WRITER_BUSY;
	shared.hurry = false;
}

/* One round: take everything that waits, with the lock, and write it, without. */
static void write_round(void)
{
	struct log_batch *batch = shared.filling;
	unsigned long lines = batch->lines, drops = shared.unreported;
	struct log_sinks wanted = shared.wanted;
	bool changed = shared.pending;

	shared.filling = batch == &batches[0] ? &batches[1] : &batches[0];
	shared.unreported = 0;
	shared.pending = false;
	pthread_mutex_unlock(&shared.lock);
	if (changed)
		log_sinks_change(&wanted);
	batch_emit(batch, drops);
	pthread_mutex_lock(&shared.lock);
	shared.written += lines;
	pthread_cond_broadcast(&shared.moved);
}

static void *writer_run(void *unused)
{
	(void)unused;
	pthread_mutex_lock(&shared.lock);
	while (await_work()) {
		write_round();
		linger();
	}
	shared.ended = true;
	pthread_cond_broadcast(&shared.moved);
	pthread_mutex_unlock(&shared.lock);
	return NULL;
}

/* Is there a writer thread in this process? */
static bool writer_runs(void)
{
	return shared.running && shared.owner == getpid();
}

/* Starts the thread; called with the lock. Returns 0 or -errno. */
static int writer_start(void)
{
	bool given_up = shared.owner == getpid(); /* writer_stop() did not wait for it: it may go on instead */
	int error = 0;

	shared.stopping = shared.hurry = false;
	if (given_up && shared.ended)
		pthread_join(shared.thread, NULL);
	if (!given_up || shared.ended) {
		shared.ended = false;
		error = thread_start(&shared.thread, "log", writer_run, NULL);
		shared.owner = error ? 0 : getpid();
	}
	shared.running = !error;
	return error;
}

/* Ends the thread once everything is written. Returns false when a sink takes nothing for CLOSE_MS: then the thread stays. */
static bool writer_stop(void)
{
	struct timespec until = deadline_in(CLOSE_MS);
	bool ended;

	pthread_mutex_lock(&shared.lock);
	shared.stopping = true;
	pthread_cond_signal(&shared.wake);
	while (!shared.ended)
		if (pthread_cond_clockwait(&shared.moved, &shared.lock, CLOCK_MONOTONIC, &until) == ETIMEDOUT)
			break;
	shared.running = false;
	ended = shared.ended;
	if (ended)
		shared.owner = 0;
	pthread_mutex_unlock(&shared.lock);
	if (ended)
		pthread_join(shared.thread, NULL);
	return ended;
}

/* ---- targets ---- */

static int file_open(const char *path, bool overwrite)
{
	int fd = log_sinks_open(path, overwrite);

	if (fd < 0)
		log_write(LOG_ERR, NULL, "Cannot open log file: %s: %s (%d)", path, strerror(-fd), -fd);
	return fd;
}

/* Hands sinks to the writer; a file that it has not even seen is closed here. */
static void sinks_offer(const struct log_sinks *wanted)
{
	if (shared.pending && shared.wanted.file >= 0 && shared.wanted.file != wanted->file)
		close(shared.wanted.file);
	shared.wanted = *wanted;
	shared.pending = true;
	if (shared.writer != WRITER_BUSY) {
		shared.writer = WRITER_BUSY;
		pthread_cond_signal(&shared.wake);
	}
}

static void dump_line(const struct log_line *line, const char *body)
{
	if (line->level <= LOG_NOTICE)
		fprintf(stderr, "[%c] %.*s\n", "***!:.  "[line->level], line -> length - line -> text, body + line -> text);
}

void log_dump_kept(void)
{
	pthread_mutex_lock(&shared.lock);
	if (atomic_load(&keeping)) {
		log_batch_each(shared.filling, dump_line);
		shared.logged -= shared.filling->lines;
		log_batch_clear(shared.filling);
	}
	pthread_mutex_unlock(&shared.lock);
}

/* Everything that log_open() must remember of its target; the strings are the caller's. */
static int target_take(const struct log_target *target, struct log_sinks *wanted)
{
	*wanted = (struct log_sinks){
		.file = -1,
		.to_stderr = target->to_stderr,
		.to_syslog = target->to_syslog,
		.facility = target->facility,
	};
	snprintf(wanted->ident, sizeof(wanted->ident), "%s", target->ident ? target->ident : "tlsplice");
	if (!target->output)
		return 0;
	if (strlen(target->output) >= sizeof(shared.output)) {
		log_write(LOG_ERR, NULL, "Cannot open log file: %s (%d)", strerror(ENAMETOOLONG), ENAMETOOLONG);
		return -ENAMETOOLONG;
	}
	wanted->file = file_open(target->output, target->overwrite);
	return wanted->file < 0 ? wanted->file : 0;
}

int log_open(const struct log_target *target)
{
	struct log_sinks wanted;
	int error = target_take(target, &wanted);

	if (error)
		return error;
	pthread_mutex_lock(&shared.lock);
	if (atomic_load(&keeping)) /* throws out the lines that the level does not allow */
		shared.logged -= log_batch_filter(shared.filling, atomic_load(&level_now));
	snprintf(shared.output, sizeof(shared.output), "%s", target->output ? target->output : "");
	shared.overwrite = target->overwrite;
	sinks_offer(&wanted);
	if (!writer_runs())
		error = writer_start();
	atomic_store(&keeping, error != 0);
	pthread_mutex_unlock(&shared.lock);
	if (error)
		log_write(LOG_ERR, NULL, "Cannot start the log writer: %s (%d)", strerror(-error), -error);
	return error;
}

void log_connect(const struct log_target *target)
{
	static char ident[LOG_IDENT_MAX];

	if (!target->to_syslog)
		return;
	snprintf(ident, sizeof(ident), "%s", target->ident ? target->ident : "tlsplice");
	openlog(ident, LOG_CONS | LOG_NDELAY, target->facility);
}

int log_reopen(void)
{
	struct log_sinks wanted = shared.wanted; /* only this thread, the main one, ever changes it */

	if (shared.output[0]) {
		wanted.file = file_open(shared.output, shared.overwrite);
		if (wanted.file < 0)
			return wanted.file;
		pthread_mutex_lock(&shared.lock);
		sinks_offer(&wanted);
		pthread_mutex_unlock(&shared.lock);
	}
	log_global(LOG_NOTICE, "Log file reopened");
	return 0;
}

void log_before_fork(void)
{
	if (writer_runs())
		writer_stop();
}

/* The other batch and what is formatted are the parent's to write; the lock's holder and its waiters do not exist here. */
static void child_reset(void)
{
	pthread_mutex_init(&shared.lock, NULL);
	pthread_cond_init(&shared.wake, NULL);
	pthread_cond_init(&shared.moved, NULL);
	log_batch_clear(shared.filling == &batches[0] ? &batches[1] : &batches[0]);
	shared.written = shared.logged - shared.filling->lines;
	log_sinks_forget();
	shared.owner = 0;
}

void log_after_fork(void)
{
	if (atomic_load(&keeping) || writer_runs())
		return;
	if (shared.owner && shared.owner != getpid())
		child_reset();
	pthread_mutex_lock(&shared.lock);
	writer_start();
	pthread_mutex_unlock(&shared.lock);
}

void log_flush(int ms)
{
	struct timespec until = deadline_in(ms);
	uint64_t goal;

	pthread_mutex_lock(&shared.lock);
	goal = shared.logged;
	while (writer_runs() && shared.written < goal) {
		shared.hurry = true;
		if (shared.writer != WRITER_BUSY)
			pthread_cond_signal(&shared.wake);
		if (pthread_cond_clockwait(&shared.moved, &shared.lock, CLOCK_MONOTONIC, &until) == ETIMEDOUT)
			break;
	}
	pthread_mutex_unlock(&shared.lock);
}

void log_close(void)
{
	if (!writer_runs() || !writer_stop())
		return;
	shared.wanted = (struct log_sinks){.file = -1};
	log_sinks_change(&shared.wanted);
	closelog();
	shared.output[0] = '\0';
	atomic_store(&keeping, true);
}
