/*
 * Runs unit tests, each in a process of its own, and prints Criterion's last line. See criterion/criterion.h beside it.
 * `PROGRAM [SUITE/NAME]` runs one test; other arguments are Criterion's and change nothing here. UNIT_SKIP in the environment names
 * tests, separated by blanks, that cannot run where this runs.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "criterion/criterion.h"

#include <stdarg.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FAILED = 1, SKIPPED = 77, TIMEOUT_S = 120 };

static struct cr_test *tests;
static bool failed; /* in the test's own process */

/* Constructors run in the order of the file: keep it. */
void cr_register(struct cr_test *test)
{
	struct cr_test **end = &tests;

	while (*end)
		end = &(*end)->next;
	*end = test;
}

static void __attribute__((format(printf, 4, 0))) say(const char *file, int line, const char *what, const char *format, va_list args)
{
	failed = true;
	fprintf(stderr, "%s:%d: assertion failed: %s:", file, line, what);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
}

void cr_note(const char *file, int line, const char *what, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	say(file, line, what, format, args);
	va_end(args);
}

void cr_abort(const char *file, int line, const char *what, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	say(file, line, what, format, args);
	va_end(args);
	fflush(NULL);
	_exit(FAILED);
}

void cr_skip(const char *file, int line)
{
	fprintf(stderr, "%s:%d: skipped\n", file, line);
	fflush(NULL);
	_exit(SKIPPED);
}

static const struct cr_settings *suite_settings(const char *suite)
{
	static const struct cr_settings none;

	for (const struct cr_test *test = tests; test; test = test->next)
		if (!test->run && !strcmp(test->suite, suite))
			return &test->settings;
	return &none;
}

static void child(const struct cr_test *test, const struct cr_settings *suite)
{
	double limit_s = test->settings.timeout > 0 ? test->settings.timeout : suite->timeout;

	/* Sanitizers and valgrind make everything some ten times slower. */
	alarm(limit_s > 0 ? (unsigned)(limit_s * 10) + 1 : TIMEOUT_S);
	if (suite->init)
		suite->init();
	if (test->settings.init)
		test->settings.init();
	test->run();
	if (test->settings.fini)
		test->settings.fini();
	if (suite->fini)
		suite->fini();
	exit(failed ? FAILED : EXIT_SUCCESS);
}

/* Returns the wait status of the test's process. */
static int run(const struct cr_test *test)
{
	int status = 0;
	pid_t pid;

	fflush(NULL);
	pid = fork();
	if (pid == 0)
		child(test, suite_settings(test->suite));
	if (pid < 0 || waitpid(pid, &status, 0) < 0) {
		perror("fork");
		exit(2);
	}
	return status;
}

static bool as_wanted(const struct cr_test *test, int status)
{
	if (WIFSIGNALED(status))
		return WTERMSIG(status) == test->settings.signal;
	if (WEXITSTATUS(status) == SKIPPED && test->settings.exit_code != SKIPPED)
		return true;
	return test->settings.signal == 0 && WEXITSTATUS(status) == test->settings.exit_code;
}

static bool chosen(const struct cr_test *test, int argc, char **argv)
{
	const char *skip = getenv("UNIT_SKIP");
	char name[256];

	if (!test->run || test->settings.disabled || suite_settings(test->suite)->disabled)
		return false;
	snprintf(name, sizeof(name), "%s/%s", test->suite, test->name);
	if (skip && strstr(skip, name)) {
		fprintf(stderr, "%s: skipped\n", name);
		return false;
	}
	return argc < 2 || argv[1][0] == '-' || !strcmp(name, argv[1]);
}

int main(int argc, char **argv)
{
	int tested = 0, bad = 0, crashed = 0;

	for (const struct cr_test *test = tests; test; test = test->next) {
		int status;

		if (!chosen(test, argc, argv))
			continue;
		status = run(test);
		tested++;
		if (as_wanted(test, status))
			continue;
		fprintf(stderr, "[FAIL] %s::%s: %s %d\n", test->suite, test->name, WIFSIGNALED(status) ? "signal" : "exit status",
			WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
		bad += !WIFSIGNALED(status);
		crashed += WIFSIGNALED(status);
	}
	printf("[====] Synthesis: Tested: %d | Passing: %d | Failing: %d | Crashing: %d\n", tested, tested - bad - crashed, bad, crashed);
	return bad || crashed ? EXIT_FAILURE : EXIT_SUCCESS;
}
