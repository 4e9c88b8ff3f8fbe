/*
 * Unit tests of pipe.h: pipes are kept while somebody may want one, only empty ones, and no descriptor is left.
 * Run by `make unit`.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "pipe.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static struct pipes pipes;

static int descriptors(void)
{
	DIR *dir = opendir("/proc/self/fd");
	int n = 0;

	cr_assert_not_null(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

static bool is_open(int fd)
{
	return fcntl(fd, F_GETFD) >= 0;
}

Test(pipe, carries_bytes_without_waiting)
{
	struct pipe *p = pipe_get(&pipes);
	char got[8] = "";

	cr_assert_not_null(p);
	cr_assert_eq(read(p->out, got, 1), -1);
	cr_assert_eq(errno, EAGAIN);
	cr_assert_eq(write(p->in, "hello", 5), 5);
	cr_assert_eq(read(p->out, got, sizeof(got)), 5);
	cr_assert_str_eq(got, "hello");
	for (int i = 0; i < 2; i++)
		cr_assert(fcntl(i ? p->in : p->out, F_GETFD) & FD_CLOEXEC);
	pipe_put(&pipes, p, false);
}

Test(pipe, an_empty_one_is_used_again)
{
	struct pipe *first, *second;

	pipes_enter(&pipes);
	first = pipe_get(&pipes);
	second = pipe_get(&pipes);
	cr_assert_neq(first, second);
	cr_assert_eq(pipes.kept, 0);
	pipe_put(&pipes, first, true);
	cr_assert_eq(pipes.kept, 1);
	cr_assert_eq(pipe_get(&pipes), first);
	pipe_put(&pipes, first, true);
	pipe_put(&pipes, second, true);
	cr_assert_eq(pipes.kept, 2);
	pipe_put(&pipes, NULL, true);
	pipe_put(&pipes, NULL, false);
	cr_assert_eq(pipes.kept, 2);
	pipes_leave(&pipes);
}

/* What is left in a pipe must never come out in another connection. */
Test(pipe, one_with_bytes_is_not_used_again)
{
	struct pipe *p;
	int in, out;

	pipes_enter(&pipes);
	p = pipe_get(&pipes);
	in = p->in;
	out = p->out;
	cr_assert_eq(write(in, "secret", 6), 6);
	pipe_put(&pipes, p, false);
	cr_assert_eq(pipes.kept, 0);
	cr_assert(!is_open(in) && !is_open(out));
	pipes_leave(&pipes);
}

Test(pipe, not_too_many_are_kept)
{
	enum { MANY = 100 };
	struct pipe *p[MANY];
	int before = descriptors();

	pipes_enter(&pipes);
	for (int i = 0; i < MANY; i++)
		cr_assert_not_null(p[i] = pipe_get(&pipes));
	cr_assert_eq(descriptors(), before + 2 * MANY);
	for (int i = 0; i < MANY; i++)
		pipe_put(&pipes, p[i], true);
	cr_assert(pipes.kept > 0 && pipes.kept < MANY / 2, "%u", pipes.kept);
	cr_assert_eq(descriptors(), before + 2 * (int)pipes.kept);
	pipes_leave(&pipes);
	cr_assert_eq(descriptors(), before);
}

/* The last connection that may want one takes all that are kept with it. */
Test(pipe, nothing_is_kept_for_nobody)
{
	int before = descriptors();

	for (int round = 0; round < 3; round++) {
		struct pipe *a, *b;

		pipes_enter(&pipes);
		pipes_enter(&pipes);
		a = pipe_get(&pipes);
		b = pipe_get(&pipes);
		pipe_put(&pipes, a, true);
		pipe_put(&pipes, b, true);
		pipes_leave(&pipes);
		cr_assert_eq(pipes.kept, 2);
		pipes_leave(&pipes);
		cr_assert(pipes.kept == 0 && !pipes.free && pipes.users == 0);
		cr_assert_eq(descriptors(), before);
	}
}

Test(pipe, no_descriptors)
{
	enum { MANY = 10 };
	struct pipe *p[MANY] = {0};
	struct rlimit limit;
	int n = 0;

	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = (rlim_t)descriptors() + 3;
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
	while (n < MANY && (p[n] = pipe_get(&pipes)))
		n++;
	cr_assert_lt(n, MANY, "more pipes than descriptors");
	cr_assert_null(pipe_get(&pipes), "again and again");
	while (n > 0)
		pipe_put(&pipes, p[--n], false);
	cr_assert_not_null(p[0] = pipe_get(&pipes));
	pipe_put(&pipes, p[0], false);
}
