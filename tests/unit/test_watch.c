/*
 * Watched files: what counts as a change, and when it is told. Time is the test's own.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "watch.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

enum { OWNERS = 3, SECOND = 1000 };

static struct {
	char directory[64];
	struct watch *watch;
	uint64_t now;
	bool changed[OWNERS];
} world;

static const char *path(const char *name)
{
	static char full[4][PATH_MAX];
	static unsigned turn;
	char *at = full[turn++ % 4];

	snprintf(at, PATH_MAX, "%s/%s", world.directory, name);
	return at;
}

static void put(const char *name, const char *text)
{
	FILE *file = fopen(path(name), "w");

	cr_assert(file);
	fputs(text, file);
	fclose(file);
}

/* Lets time pass in small steps; returns whether anything was told, and to whom in `changed`. */
static bool pass(unsigned ms)
{
	bool told = false;

	memset(world.changed, 0, sizeof(world.changed));
	for (uint64_t end = world.now + ms; world.now < end; world.now += 50)
		told |= watch_turn(world.watch, world.now, world.changed);
	return told;
}

static void start(void)
{
	strcpy(world.directory, "/tmp/test_watch.XXXXXX");
	cr_assert(mkdtemp(world.directory));
	world.now = 1000000;
	world.watch = watch_new();
	cr_assert(world.watch);
	put("a", "one");
	put("b", "one");
	cr_assert_eq(watch_add(world.watch, path("a"), 0), 0);
	cr_assert_eq(watch_add(world.watch, path("b"), 1), 0);
}

static int remove_entry(const char *name, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st, (void)type, (void)ftw;
	return remove(name);
}

static void end(void)
{
	watch_free(world.watch);
	nftw(world.directory, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

TestSuite(watch, .init = start, .fini = end);

Test(watch, what_does_not_change_is_never_told)
{
	cr_assert_not(pass(60 * SECOND));
	put("other", "in the same directory");
	cr_assert_not(pass(60 * SECOND));
}

Test(watch, a_change_is_told_once_and_to_its_owner)
{
	put("b", "two");
	cr_assert(pass(5 * SECOND));
	cr_assert(world.changed[1] && !world.changed[0]);
	cr_assert_not(pass(60 * SECOND));
}

Test(watch, changes_close_together_are_told_together)
{
	put("a", "two");
	cr_assert_not(pass(500));
	put("b", "two");
	cr_assert_not(pass(500));
	cr_assert(pass(5 * SECOND));
	cr_assert(world.changed[0] && world.changed[1]);
}

Test(watch, what_never_rests_is_told_all_the_same)
{
	bool told = false;

	for (int i = 0; i < 40 && !told; i++) {
		char text[16];

		snprintf(text, sizeof(text), "%d", i);
		put("a", text);
		told = pass(500);
	}
	cr_assert(told && world.changed[0]);
}

Test(watch, what_is_as_before_is_not_told)
{
	cr_assert_eq(rename(path("a"), path("away")), 0);
	cr_assert_eq(link(path("b"), path("a")), 0);
	pass(200);
	cr_assert_eq(rename(path("away"), path("a")), 0); /* changes ctime: told, perhaps; the link changed b's too */
	pass(5 * SECOND);
	cr_assert_not(pass(60 * SECOND));
}

Test(watch, a_file_may_come_and_go)
{
	cr_assert_eq(watch_add(world.watch, path("later/file"), 2), 0);
	cr_assert_not(pass(20 * SECOND));
	cr_assert_eq(mkdir(path("later"), 0700), 0);
	put("later/file", "x");
	cr_assert(pass(15 * SECOND));
	cr_assert(world.changed[2]);
	cr_assert_eq(unlink(path("later/file")), 0);
	cr_assert(pass(5 * SECOND));
	cr_assert(world.changed[2]);
}

Test(watch, links_are_followed_each_time_anew)
{
	cr_assert_eq(mkdir(path("one"), 0700), 0);
	cr_assert_eq(mkdir(path("two"), 0700), 0);
	put("one/file", "same");
	put("two/file", "same");
	cr_assert_eq(symlink("one", path("current")), 0);
	cr_assert_eq(symlink("current/file", path("link")), 0);
	cr_assert_eq(watch_add(world.watch, path("link"), 2), 0);
	cr_assert_not(pass(2 * SECOND));
	cr_assert_eq(symlink("two", path("next")), 0);
	cr_assert_eq(rename(path("next"), path("current")), 0);
	cr_assert(pass(5 * SECOND));
	cr_assert(world.changed[2]);
	put("two/file", "written where the link leads now");
	cr_assert(pass(5 * SECOND));
	cr_assert(world.changed[2]);
	put("one/file", "where it led before");
	cr_assert_not(pass(60 * SECOND));
}

Test(watch, a_loop_of_links_ends)
{
	cr_assert_eq(symlink("loop", path("loop")), 0);
	cr_assert_eq(symlink("y", path("x")), 0);
	cr_assert_eq(symlink("x", path("y")), 0);
	cr_assert_eq(watch_add(world.watch, path("loop"), 2), 0);
	cr_assert_eq(watch_add(world.watch, path("x/z"), 2), 0);
	cr_assert_not(pass(60 * SECOND));
}

Test(watch, a_path_that_is_too_long_is_only_not_there)
{
	char *name = malloc(3 * PATH_MAX);

	cr_assert(name);
	memset(name, 'x', 3 * PATH_MAX);
	name[0] = '/';
	name[3 * PATH_MAX - 1] = '\0';
	cr_assert_eq(watch_add(world.watch, name, 2), 0);
	cr_assert_not(pass(60 * SECOND));
	free(name);
}

Test(watch, a_directory_changes_with_what_is_in_it)
{
	cr_assert_eq(mkdir(path("crls"), 0700), 0);
	put("crls/one", "x");
	cr_assert_eq(watch_add(world.watch, path("crls"), 2), 0);
	cr_assert_not(pass(60 * SECOND));
	put("crls/one", "written in place");
	cr_assert(pass(5 * SECOND));
	cr_assert(world.changed[2]);
	put("crls/two", "x");
	cr_assert(pass(5 * SECOND));
	cr_assert_eq(unlink(path("crls/one")), 0);
	cr_assert(pass(5 * SECOND));
	cr_assert_not(pass(60 * SECOND));
}

/* As on a network file system, or with no more inotify instances. */
Test(watch, without_inotify_looking_is_enough)
{
	struct rlimit before, none = {0};

	watch_free(world.watch);
	cr_assert_eq(getrlimit(RLIMIT_NOFILE, &before), 0);
	none.rlim_max = before.rlim_max;
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
	world.watch = watch_new();
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &before), 0);
	cr_assert(world.watch);
	cr_assert_eq(watch_descriptor(world.watch), -1);
	cr_assert_eq(watch_add(world.watch, path("a"), 0), 0);
	cr_assert_not(pass(20 * SECOND));
	put("a", "two");
	cr_assert(pass(20 * SECOND));
	cr_assert(world.changed[0]);
}

Test(watch, the_wait_ends_when_there_is_something_to_do)
{
	cr_assert_eq(watch_wait_ms(NULL, 5), -1);
	cr_assert_eq(watch_descriptor(NULL), -1);
	cr_assert_not(watch_turn(NULL, 5, NULL));
	pass(100);
	cr_assert_gt(watch_wait_ms(world.watch, world.now), SECOND);
	cr_assert_geq(watch_descriptor(world.watch), 0);
	put("a", "two");
	pass(100);
	/* The look comes soon; until then further events wake nobody. */
	cr_assert_lt(watch_wait_ms(world.watch, world.now), SECOND);
	cr_assert_eq(watch_descriptor(world.watch), -1);
}
