/*
 * Unit tests of log.h: formats, levels, what is kept before there are targets, reopening, and sinks that are slow, full or gone.
 * Run by `make unit`. Files live in a directory of the test's own; syslog(3) is replaced by a recorder.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "log.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <regex.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef __has_feature /* clang; gcc defines this itself */
#if __has_feature(thread_sanitizer) && !defined(__SANITIZE_THREAD__)
#define __SANITIZE_THREAD__ 1
#endif
#endif

enum { FILE_MAX = 8 << 20 };

#define STAMP "[0-9]{4}[.][0-9]{2}[.][0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2} "

static char dir[64];
static char path[128];

/* ---- a syslog(3) that remembers ---- */

static char recorded[4096];
static char recorded_ident[64];
static int recorded_facility, recorded_option;

void openlog(const char *ident, int option, int facility)
{
	snprintf(recorded_ident, sizeof(recorded_ident), "%s", ident);
	recorded_option = option;
	recorded_facility = facility;
}

void closelog(void)
{
}

__attribute__((format(printf, 2, 0))) static void record(int priority, const char *format, va_list args)
{
	size_t at = strlen(recorded);

	at += (size_t)snprintf(recorded + at, sizeof(recorded) - at, "<%d>", priority);
	at += (size_t)vsnprintf(recorded + at, sizeof(recorded) - at, format, args);
	snprintf(recorded + at, sizeof(recorded) - at, "\n");
}

void syslog(int priority, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	record(priority, format, args);
	va_end(args);
}

void __syslog_chk(int priority, int flag, const char *format, ...) __attribute__((format(printf, 3, 4)));
void __syslog_chk(int priority, int flag, const char *format, ...)
{
	va_list args;

	(void)flag;
	va_start(args, format);
	record(priority, format, args);
	va_end(args);
}

/* ---- helpers ---- */

static void set_up(void)
{
	snprintf(dir, sizeof(dir), "%s", "/tmp/test_log.XXXXXX");
	cr_assert_not_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/log", dir);
}

static void tear_down(void)
{
	char command[128];

	snprintf(command, sizeof(command), "rm -rf '%s'", dir);
	cr_assert_eq(system(command), 0);
}

TestSuite(log, .init = set_up, .fini = tear_down);

static void open_file(const char *file, bool overwrite)
{
	cr_assert_eq(log_open(&(struct log_target){.output = file, .overwrite = overwrite}), 0);
}

/* The content of a file, malloc()ed. */
static char *content(const char *file)
{
	char *text = calloc(1, FILE_MAX);
	FILE *in = fopen(file, "r");

	cr_assert_not_null(text);
	cr_assert_not_null(in);
	cr_assert_lt(fread(text, 1, FILE_MAX - 1, in), FILE_MAX - 1);
	fclose(in);
	return text;
}

static bool matches(const char *text, const char *pattern)
{
	regex_t regex;
	bool found;

	cr_assert_eq(regcomp(&regex, pattern, REG_EXTENDED | REG_NOSUB), 0);
	found = regexec(&regex, text, 0, NULL, 0) == 0;
	regfree(&regex);
	return found;
}

static size_t count(const char *text, const char *what)
{
	size_t n = 0;

	for (const char *at = text; (at = strstr(at, what)) != NULL; at += strlen(what))
		n++;
	return n;
}

static void assert_file(const char *file, const char *pattern)
{
	char *text = content(file);

	cr_assert(matches(text, pattern), "%s holds: %s", file, text);
	free(text);
}

/* A FIFO whose reader does not read: what a disk looks like that hangs. */
static int stuck_reader(void)
{
	int fd;

	cr_assert_eq(mkfifo(path, 0600), 0);
	fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	cr_assert_geq(fd, 0);
	return fd;
}

/* Reads until nothing has come for a while. */
static char *drain(int fd)
{
	char *text = calloc(1, FILE_MAX);
	size_t used = 0;

	for (int idle_ms = 0; idle_ms < 300;) {
		ssize_t n = read(fd, text + used, FILE_MAX - 1 - used);

		if (n > 0) {
			used += (size_t)n;
			idle_ms = 0;
		} else {
			usleep(10000);
			idle_ms += 10;
		}
	}
	return text;
}

/* ---- formats ---- */

Test(log, format_of_a_line)
{
	open_file(path, false);
	log_write(LOG_NOTICE, "ui", "Service [%s] started", "x");
	log_write(LOG_ERR, "17", "bad");
	log_close();
	assert_file(path, "^" STAMP "LOG5\\[ui\\]: Service \\[x\\] started\n" STAMP "LOG3\\[17\\]: bad\n$");
}

Test(log, the_time_is_local_and_the_lines_own)
{
	time_t now;
	char text[64], *file;
	struct tm tm;

	setenv("TZ", "XYZ-5:30", 1);
	tzset();
	open_file(path, false);
	now = time(NULL);
	localtime_r(&now, &tm);
	log_write(LOG_NOTICE, "a", "first");
	sleep(1);
	log_write(LOG_NOTICE, "a", "second");
	log_close();
	file = content(path);
	strftime(text, sizeof(text), "%Y.%m.%d %H:%M:", &tm);
	cr_assert(strncmp(file, text, strlen(text)) == 0 || tm.tm_sec >= 58);
	cr_assert_neq(strncmp(file, strchr(file, '\n') + 1, 19), 0);
	free(file);
}

Test(log, control_characters_are_masked)
{
	open_file(path, false);
	log_write(LOG_NOTICE, "i\nd", "a\nb\tc\x1b[31m\x7f%s", "\r\n2026.01.01 00:00:00 LOG5[main]: forged \xc3\xa9");
	log_close();
	assert_file(path, "^" STAMP "LOG5\\[i[.]d\\]: a[.]b[.]c[.]\\[31m[.][.][.]2026[.]01[.]01 00:00:00 LOG5\\[main\\]: "
	                  "forged \xc3\xa9\n$");
}

Test(log, long_text_is_cut)
{
	char long_text[5000], *file, *text;

	memset(long_text, 'x', sizeof(long_text));
	long_text[sizeof(long_text) - 1] = '\0';
	open_file(path, false);
	log_write(LOG_NOTICE, "ui", "%s", long_text);
	log_write(LOG_NOTICE, long_text, "end");
	log_close();
	file = content(path);
	text = strstr(file, "]: ") + 3;
	cr_assert_eq(strspn(text, "x"), LOG_TEXT_MAX);
	cr_assert_eq(text[LOG_TEXT_MAX], '\n');
	cr_assert(matches(text, "LOG5\\[x{64}\\]: end\n$"));
	free(file);
}

Test(log, names_of_threads_and_errno)
{
	open_file(path, false);
	errno = ENOENT;
	log_write(LOG_NOTICE, NULL, "%m");
	cr_assert_eq(errno, ENOENT);
	log_set_id("main");
	log_global(LOG_NOTICE, "two");
	log_close();
	assert_file(path, "LOG5\\[ui\\]: No such file or directory\n" STAMP "LOG5\\[main\\]: two\n$");
}

Test(log, empty_text_and_odd_levels)
{
	open_file(path, false);
	log_write(LOG_EMERG, "", "%s", "");
	log_write(LOG_DEBUG, "x", "%s", "d");
	log_close();
	assert_file(path, "^" STAMP "LOG0\\[\\]: \n" STAMP "LOG7\\[x\\]: d\n$");
}

/* ---- before the targets are known ---- */

Test(log, kept_lines_come_first_and_obey_the_level)
{
	cr_assert(log_wants(LOG_DEBUG));
	log_write(LOG_DEBUG, "ui", "debug");
	log_write(LOG_INFO, "ui", "info");
	log_write(LOG_NOTICE, "ui", "notice");
	log_set_level(LOG_INFO);
	open_file(path, false);
	cr_assert(log_wants(LOG_INFO));
	cr_assert(!log_wants(LOG_DEBUG));
	log_write(LOG_DEBUG, "1", "a section's debug");
	log_global(LOG_DEBUG, "not wanted");
	log_close();
	assert_file(path,
	            "^" STAMP "LOG6\\[ui\\]: info\n" STAMP "LOG5\\[ui\\]: notice\n" STAMP "LOG7\\[1\\]: a section's debug\n$");
}

static void stderr_to(const char *file)
{
	int fd = open(file, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	cr_assert_geq(fd, 0);
	fflush(stderr);
	dup2(fd, STDERR_FILENO);
	close(fd);
}

Test(log, dump_of_a_failed_configuration)
{
	static const char want[] = "[*] zero\n[*] one\n[*] crit\n[!] \"err\": %s\n[:] warning\n[.] notice\n";
	static const char *const words[] = {"zero", "one", "crit", "\"err\": %s", "warning", "notice", "info", "debug"};
	char *text;

	stderr_to(path);
	for (int level = 0; level < 8; level++)
		log_write(level, "ui", "%s", words[level]);
	log_dump_kept();
	log_dump_kept();
	fflush(stderr);
	text = content(path);
	cr_assert_str_eq(text, want);
	free(text);
}

Test(log, kept_lines_are_bounded)
{
	for (int i = 0; i < 100000; i++)
		log_write(LOG_NOTICE, "ui", "%0100d", i);
	cr_assert_gt(log_dropped(), 80000);
	log_write(LOG_ERR, "ui", "the error");
	open_file(path, false);
	log_close();
	assert_file(path, "LOG3\\[ui\\]: the error\n" STAMP "LOG4\\[main\\]: [0-9]+ log line\\(s\\) dropped: "
	                  "the log could not be written fast enough\n$");
}

/* ---- targets ---- */

Test(log, mode_of_the_file)
{
	struct stat st;

	umask(0);
	open_file(path, false);
	log_close();
	cr_assert_eq(stat(path, &st), 0);
	cr_assert_eq(st.st_mode & 07777, 0640);
}

Test(log, append_and_overwrite)
{
	for (int i = 0; i < 2; i++) {
		open_file(path, false);
		log_write(LOG_NOTICE, "ui", "append %d", i);
		log_close();
	}
	assert_file(path, "append 0\n.*append 1\n");
	open_file(path, true);
	log_write(LOG_NOTICE, "ui", "alone");
	log_close();
	assert_file(path, "^" STAMP "LOG5\\[ui\\]: alone\n$");
}

Test(log, stderr_and_syslog_get_the_same_lines)
{
	char file[160];

	snprintf(file, sizeof(file), "%s/stderr", dir);
	stderr_to(file);
	cr_assert_eq(log_open(&(struct log_target){
			     .output = path, .to_stderr = true, .to_syslog = true, .ident = "stunnel", .facility = LOG_LOCAL3}),
	             0);
	log_write(LOG_WARNING, "5", "100%% %s", "%n");
	log_close();
	assert_file(path, "^" STAMP "LOG4\\[5\\]: 100% %n\n$");
	assert_file(file, "^" STAMP "LOG4\\[5\\]: 100% %n\n$");
	cr_assert_str_eq(recorded, "<4>LOG4[5]: 100% %n\n");
	cr_assert_str_eq(recorded_ident, "stunnel");
	cr_assert_eq(recorded_facility, LOG_LOCAL3);
	cr_assert_eq(recorded_option, LOG_CONS | LOG_NDELAY);
}

Test(log, dev_stdout)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600), saved = dup(STDOUT_FILENO);

	fflush(stdout);
	dup2(fd, STDOUT_FILENO);
	open_file("/dev/stdout", false);
	log_write(LOG_NOTICE, "ui", "to stdout");
	log_close();
	dup2(saved, STDOUT_FILENO);
	close(fd);
	close(saved);
	assert_file(path, "^" STAMP "LOG5\\[ui\\]: to stdout\n$");
}

Test(log, rotation)
{
	char old[160];

	snprintf(old, sizeof(old), "%s/old", dir);
	open_file(path, false);
	log_write(LOG_NOTICE, "ui", "before");
	log_flush(1000);
	cr_assert_eq(rename(path, old), 0);
	log_write(LOG_NOTICE, "ui", "still the old file");
	log_flush(1000);
	cr_assert_eq(log_reopen(), 0);
	log_write(LOG_NOTICE, "ui", "after");
	log_close();
	assert_file(old, "^" STAMP "LOG5\\[ui\\]: before\n" STAMP "LOG5\\[ui\\]: still the old file\n$");
	assert_file(path, "^" STAMP "LOG5\\[ui\\]: Log file reopened\n" STAMP "LOG5\\[ui\\]: after\n$");
}

Test(log, a_target_that_cannot_be_opened)
{
	char bad[160];

	snprintf(bad, sizeof(bad), "%s/none/log", dir);
	cr_assert_eq(log_open(&(struct log_target){.output = bad}), -ENOENT);
	open_file(path, false);
	cr_assert_eq(log_open(&(struct log_target){.output = bad}), -ENOENT);
	log_write(LOG_NOTICE, "ui", "goes on");
	log_close();
	assert_file(path, "^" STAMP "LOG3\\[ui\\]: Cannot open log file: .*/none/log: No such file or directory \\(2\\)\n" STAMP
	                  "LOG3\\[ui\\]: Cannot open.*\n" STAMP "LOG5\\[ui\\]: goes on\n$");
}

Test(log, reopening_fails_and_the_old_file_stays)
{
	char sub[160], moved[160], file[200];

	snprintf(sub, sizeof(sub), "%s/sub", dir);
	snprintf(moved, sizeof(moved), "%s/moved", dir);
	snprintf(file, sizeof(file), "%s/log", sub);
	cr_assert_eq(mkdir(sub, 0700), 0);
	open_file(file, false);
	cr_assert_eq(rename(sub, moved), 0);
	cr_assert_eq(log_reopen(), -ENOENT);
	log_write(LOG_NOTICE, "ui", "goes on");
	log_close();
	snprintf(file, sizeof(file), "%s/log", moved);
	assert_file(file, "Cannot open log file.*\n.*goes on\n$");
}

Test(log, targets_change_on_reload_and_no_descriptor_is_lost)
{
	char other[160];
	int before = dup(0), after;

	close(before);
	snprintf(other, sizeof(other), "%s/other", dir);
	for (int i = 0; i < 50; i++) {
		open_file(i % 2 ? other : path, false);
		log_write(LOG_NOTICE, "ui", "line %d", i);
		if (i % 3 == 0)
			cr_assert_eq(log_reopen(), 0);
		if (i % 5 == 0)
			log_flush(1000);
	}
	log_close();
	after = dup(0);
	close(after);
	cr_assert_eq(before, after);
	assert_file(other, "line 49\n$");
}

Test(log, a_name_that_is_too_long)
{
	char *name = calloc(1, 10000);

	memset(name, '/', 9999);
	cr_assert_eq(log_open(&(struct log_target){.output = name}), -ENAMETOOLONG);
	free(name);
}

/* ---- many threads ---- */

enum { THREADS = 4, LINES = 5000 };

static void *chatter(void *arg)
{
	char id[16];

	snprintf(id, sizeof(id), "%d", (int)(size_t)arg);
	log_set_id(id);
	for (int i = 0; i < LINES; i++) {
		log_global(LOG_NOTICE, "line %d of %s", i, id);
		if (i % 500 == 0)
			log_flush(2000);
	}
	return NULL;
}

Test(log, many_threads_lose_nothing_and_mix_nothing)
{
	pthread_t threads[THREADS];
	int next[THREADS] = {0};
	char *file, *save = NULL;

	open_file(path, false);
	for (size_t i = 0; i < THREADS; i++)
		cr_assert_eq(pthread_create(&threads[i], NULL, chatter, (void *)i), 0);
	for (int i = 0; i < 20; i++) {
		usleep(2000);
		cr_assert_eq(log_reopen(), 0);
	}
	for (size_t i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	log_close();
	cr_assert_eq(log_dropped(), 0);
	file = content(path);
	for (char *line = strtok_r(file, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		int id, number, of;

		if (strstr(line, "Log file reopened"))
			continue;
		cr_assert_eq(sscanf(line + 20, "LOG5[%d]: line %d of %d", &id, &number, &of), 3, "%s", line);
		cr_assert_eq(id, of);
		cr_assert_eq(number, next[id]++);
	}
	for (int i = 0; i < THREADS; i++)
		cr_assert_eq(next[i], LINES);
	free(file);
}

/*
 * Voluntary context switches of the writer thread, -1 if there is none. The last of the threads that are called so: the thread sanitizer's own begins with the
 * writer, before it, and has its name.
 */
static long writer_switches(void)
{
	FILE *in = popen("grep -l '^log$' /proc/$PPID/task/*/comm | sort -V | tail -n 1 | xargs dirname | xargs -I@ grep ^voluntary @/status", "r");
	long n = -1;

	cr_assert_not_null(in);
	if (fscanf(in, "voluntary_ctxt_switches: %ld", &n) != 1)
		n = -1;
	pclose(in);
	return n;
}

Test(log, an_idle_writer_sleeps)
{
	long before, after;

	open_file(path, false);
	log_write(LOG_NOTICE, "ui", "one");
	usleep(100000);
	before = writer_switches();
	usleep(300000);
	after = writer_switches();
	log_close();
	cr_assert_gt(before, 0);
	cr_assert_eq(before, after);
}

Test(log, a_busy_log_wakes_its_writer_rarely)
{
	long before, after;

	open_file(path, false);
	before = writer_switches();
	for (int i = 0; i < 20000; i++) {
		log_write(LOG_NOTICE, "ui", "line %d", i);
		if (i % 100 == 0)
			usleep(1000);
	}
	after = writer_switches();
	log_close();
	cr_assert_lt(after - before, 2000); /* a wake-up per line would be 20,000 */
}

/* ---- sinks that fail ---- */

Test(log, a_stuck_sink_holds_up_nobody)
{
	int reader = stuck_reader();
	char *text, want[128];

	open_file(path, false);
	for (int i = 0; i < 100000 && log_dropped() < 1000; i++) /* the pipe and both batches hold some 18,000 */
		log_write(LOG_NOTICE, "ui", "%0100d", i);
	log_write(LOG_ERR, "ui", "an error after the flood");
	cr_assert_eq(log_dropped(), 1000);
	text = drain(reader);
	log_close();
	snprintf(want, sizeof(want), "LOG4[main]: %lu log line(s) dropped: the log could not be written fast enough\n",
	         log_dropped());
	if (!strstr(text, "byte(s) of the log lost")) { /* unless this machine was so slow that the writer gave the reader up */
		cr_assert_not_null(strstr(text, want));
		cr_assert_not_null(strstr(text, "LOG3[ui]: an error after the flood\n"));
	}
	free(text);
	close(reader);
}

Test(log, a_full_disk)
{
	open_file("/dev/full", false);
	for (int i = 0; i < 10; i++) {
		log_write(LOG_NOTICE, "ui", "lost");
		log_flush(1000);
	}
	open_file(path, false);
	log_write(LOG_NOTICE, "ui", "there is room");
	log_close();
	assert_file(path, "LOG5\\[ui\\]: there is room\n");
	assert_file(path, "LOG4\\[main\\]: [0-9]+ byte\\(s\\) of the log lost: No space left on device \\(28\\)\n");
}

Test(log, a_reader_that_went_away)
{
	int reader = stuck_reader();

	open_file(path, false);
	close(reader);
	for (int i = 0; i < 3; i++) {
		log_write(LOG_NOTICE, "ui", "lost");
		log_flush(1000);
	}
	log_close();
}

Test(log, a_fifo_without_a_reader)
{
	cr_assert_eq(mkfifo(path, 0600), 0);
	cr_assert_eq(log_open(&(struct log_target){.output = path}), -ENXIO);
}

/* A blocking stderr that nobody reads: the process must end all the same. */
Test(log, closing_gives_up_a_sink_that_never_moves)
{
	int ends[2], saved = dup(STDERR_FILENO), null = open("/dev/null", O_WRONLY);
	struct timespec from, to;

	cr_assert_eq(pipe(ends), 0);
	dup2(ends[1], STDERR_FILENO);
	cr_assert_eq(log_open(&(struct log_target){.to_stderr = true}), 0);
	for (int i = 0; i < 2000; i++)
		log_write(LOG_NOTICE, "ui", "%0100d", i);
	clock_gettime(CLOCK_MONOTONIC, &from);
	log_close();
	clock_gettime(CLOCK_MONOTONIC, &to);
	cr_assert_geq(to.tv_sec - from.tv_sec, 4);
	dup2(null, STDERR_FILENO);
	close(ends[0]); /* EPIPE: the writer goes on */
	cr_assert_eq(log_open(&(struct log_target){.output = path}), 0);
	log_write(LOG_NOTICE, "ui", "alive");
	log_close();
	dup2(saved, STDERR_FILENO);
	assert_file(path, "alive\n$");
}

/* ---- fork ---- */

static void in_child(void (*fn)(void))
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		fn();
		_exit(0);
	}
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert_eq(status, 0);
}

static void child_logs(void)
{
	log_after_fork();
	log_write(LOG_NOTICE, "main", "from the child");
	log_close();
}

Test(log, fork_with_warning)
{
	char *file;

	open_file(path, false);
	log_write(LOG_NOTICE, "ui", "from the parent, before");
	log_before_fork();
	log_write(LOG_NOTICE, "ui", "in between"); /* belongs to both from here on */
	in_child(child_logs);
	log_after_fork();
	log_write(LOG_NOTICE, "ui", "from the parent, after");
	log_close();
	file = content(path);
	cr_assert_eq(count(file, "from the parent, before\n"), 1);
	cr_assert_eq(count(file, "in between\n"), 2);
	cr_assert_eq(count(file, "from the child\n"), 1);
	cr_assert_eq(count(file, "from the parent, after\n"), 1);
	free(file);
}

#if !defined(__SANITIZE_THREAD__) /* ThreadSanitizer allows no thread after the fork of a threaded process */
Test(log, fork_without_warning)
{
	char *file;

	open_file(path, false);
	log_write(LOG_NOTICE, "ui", "from the parent, before");
	log_flush(1000);
	in_child(child_logs);
	log_write(LOG_NOTICE, "ui", "from the parent, after");
	log_close();
	file = content(path);
	cr_assert_eq(count(file, "from the parent, before\n"), 1);
	cr_assert_eq(count(file, "from the child\n"), 1);
	cr_assert_eq(count(file, "from the parent, after\n"), 1);
	free(file);
}
#endif

Test(log, nothing_to_close)
{
	log_close();
	log_flush(10);
	log_before_fork();
	log_after_fork();
	cr_assert_eq(log_reopen(), 0);
	log_dump_kept();
}
