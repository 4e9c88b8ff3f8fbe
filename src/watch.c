/*
 * Watching files: see watch.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "watch.h"

#include "log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
	SETTLE_MS = 1000,      /* nothing may have changed for so long: a certificate and its key are two files */
	SETTLE_MAX_MS = 10000, /* but what never comes to rest is reported then */
	GATHER_MS = 200,       /* events within this time are one: the directory may be one in which much is going on */
	LOOK_MS = 10000,       /* without any event */
	LINKS_MAX = 40,        /* as the kernel's own limit on a path's symbolic links */
	ENTRIES_MAX = 10000,   /* of a directory that are looked at */
};

enum {
	EVENTS = IN_CLOSE_WRITE | IN_CREATE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE | IN_ATTRIB | IN_DELETE_SELF |
	         IN_MOVE_SELF | IN_ONLYDIR,
};

struct watched {
	char *path;
	unsigned owner;
	uint64_t known, seen; /* marks: as last reported, as last looked at */
};

/* A directory, by inotify's number for it. */
struct place {
	int wd;
	bool needed;
};

struct watch {
	int inotify; /* or -1 */
	bool full;   /* inotify gave no more watches, and that has been said */
	struct watched *files;
	size_t file_count;
	struct place *places;
	size_t place_count;
	uint64_t look_ms;    /* when to look next; 0: at once */
	uint64_t moved_ms;   /* when something was last seen to change */
	uint64_t started_ms; /* when the change began that has not settled yet; 0: there is none */
	bool gathering;      /* an event has been seen, and the look is near */
};

/* --- what a file is like ------------------------------------------------------------------------------------------------------------ */

/* FNV-1a: marks are compared with others of the same file only. */
static uint64_t mix(uint64_t mark, uint64_t value)
{
	for (int i = 0; i < 8; i++, value >>= 8)
		mark = (mark ^ (value & 0xff)) * 0x100000001b3;
	return mark;
}

static uint64_t mix_status(uint64_t mark, const struct stat *st)
{
	mark = mix(mix(mark, st->st_dev), st->st_ino);
	mark = mix(mix(mark, (uint64_t)st->st_size), st->st_mode);
	mark = mix(mix(mark, (uint64_t)st->st_mtim.tv_sec), (uint64_t)st->st_mtim.tv_nsec);
	return mix(mix(mark, (uint64_t)st->st_ctim.tv_sec), (uint64_t)st->st_ctim.tv_nsec);
}

/* The entries come in no order: their marks are added. */
static uint64_t mark_of_entries(const char *path)
{
	DIR *dir = opendir(path);
	const struct dirent *entry;
	uint64_t sum = 0;

	for (int n = 0; dir && n < ENTRIES_MAX && (entry = readdir(dir)); n++) {
		struct stat st;

		if (entry->d_name[0] != '.' && fstatat(dirfd(dir), entry->d_name, &st, 0) == 0)
			sum += mix_status(0, &st);
	}
	if (dir)
		closedir(dir);
	return sum;
}

/* Changes when the file does; 0: there is none. */
static uint64_t mark_of(const char *path)
{
	struct stat st;
	uint64_t mark;

	if (stat(path, &st) < 0)
		return 0;
	mark = mix_status(0xcbf29ce484222325, &st);
	return S_ISDIR(st.st_mode) ? mix(mark, mark_of_entries(path)) : mark;
}

/* --- directories -------------------------------------------------------------------------------------------------------------------- */

static void place_note(struct watch *w, int wd)
{
	struct place *places;

	for (size_t i = 0; i < w->place_count; i++) {
		if (w->places[i].wd == wd) {
			w->places[i].needed = true;
			return;
		}
	}
	places = realloc(w->places, (w->place_count + 1) * sizeof(*places));
	if (!places)
		return; /* its events come nevertheless */
	w->places = places;
	w->places[w->place_count++] = (struct place){.wd = wd, .needed = true};
}

static void watch_directory(struct watch *w, const char *directory)
{
	int wd = inotify_add_watch(w->inotify, *directory ? directory : "/", EVENTS);

	if (wd >= 0) {
		place_note(w, wd);
	} else if (errno == ENOSPC && !w->full) {
		w->full = true;
		log_global(LOG_NOTICE,
		           "No more inotify watches (fs.inotify.max_user_watches): files are looked at every %d seconds",
		           LOOK_MS / 1000);
	}
}

/* Cuts a path's last name off; what is left of "/name" is empty. */
static void cut_name(char *path)
{
	char *slash = strrchr(path, '/');

	*(slash ? slash : path) = '\0';
}

/*
 * If the first `length` bytes of the path name a symbolic link, watches the directory that the link is in and puts the link's target in its place.
 */
static bool follow_link(struct watch *w, char path[PATH_MAX], size_t length)
{
	char name[PATH_MAX], target[PATH_MAX], longer[2 * PATH_MAX + 1];
	ssize_t n;
	int size;

	memcpy(name, path, length);
	name[length] = '\0';
	n = readlink(name, target, sizeof(target) - 1);
	if (n <= 0)
		return false;
	target[n] = '\0';
	cut_name(name);
	watch_directory(w, name);
	if (*target == '/')
		*name = '\0';
	size = snprintf(longer, sizeof(longer), "%s%s%s%s", name, *target == '/' ? "" : "/", target, path + length);
	if (size < 0 || size >= PATH_MAX)
		return false;
	memcpy(path, longer, (size_t)size + 1);
	return true;
}

/* Follows the first symbolic link of a path. */
static bool follow_first_link(struct watch *w, char path[PATH_MAX])
{
	for (size_t i = 1; path[i - 1]; i++)
		if ((path[i] == '/' || !path[i]) && path[i - 1] != '/' && follow_link(w, path, i))
			return true;
	return false;
}

/* Watches every directory in which a name on the way to the file may be exchanged for another: those with links, and the last. */
static void watch_way(struct watch *w, const char *file)
{
	char path[PATH_MAX];
	struct stat st;

	if (snprintf(path, sizeof(path), "%s", file) >= (int)sizeof(path))
		return;
	for (int links = 0; links < LINKS_MAX && follow_first_link(w, path);)
		links++;
	if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
		watch_directory(w, path);
	cut_name(path);
	watch_directory(w, path);
}

/* Links may lead elsewhere by now, and directories may have come. */
static void watch_ways(struct watch *w)
{
	size_t kept = 0;

	if (w->inotify < 0)
		return;
	for (size_t i = 0; i < w->place_count; i++)
		w->places[i].needed = false;
	for (size_t i = 0; i < w->file_count; i++)
		watch_way(w, w->files[i].path);
	for (size_t i = 0; i < w->place_count; i++) {
		if (w->places[i].needed)
			w->places[kept++] = w->places[i];
		else
			inotify_rm_watch(w->inotify, w->places[i].wd);
	}
	w->place_count = kept;
}

static bool drain_events(const struct watch *w)
{
	char events[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
	bool any = false;

	while (w->inotify >= 0 && read(w->inotify, events, sizeof(events)) > 0)
		any = true;
	return any;
}

/* --- looking ------------------------------------------------------------------------------------------------------------------------ */

/* Returns whether something has changed since the look before. */
static bool look(struct watch *w)
{
	bool moved = false;

	watch_ways(w); /* first: what changes after this is an event */
	for (size_t i = 0; i < w->file_count; i++) {
		uint64_t mark = mark_of(w->files[i].path);

		moved |= mark != w->files[i].seen;
		w->files[i].seen = mark;
	}
	return moved;
}

static bool report(struct watch *w, bool *changed)
{
	bool any = false;

	for (size_t i = 0; i < w->file_count; i++) {
		struct watched *file = &w->files[i];

		if (file->seen == file->known)
			continue;
		file->known = file->seen;
		changed[file->owner] = any = true;
	}
	return any; /* false: all is as it was before */
}

bool watch_turn(struct watch *w, uint64_t now_ms, bool *changed)
{
	if (!w)
		return false;
	if (!w->gathering && drain_events(w)) {
		w->gathering = true;
		if (w->look_ms > now_ms + GATHER_MS)
			w->look_ms = now_ms + GATHER_MS;
	}
	if (now_ms < w->look_ms)
		return false;
	w->gathering = false;
	drain_events(w);
	if (look(w)) {
		w->moved_ms = now_ms;
		if (!w->started_ms)
			w->started_ms = now_ms;
	}
	w->look_ms = now_ms + LOOK_MS;
	if (!w->started_ms)
		return false;
	if (now_ms < w->moved_ms + SETTLE_MS && now_ms < w->started_ms + SETTLE_MAX_MS) {
		w->look_ms = w->moved_ms + SETTLE_MS;
		return false;
	}
	w->started_ms = 0;
	return report(w, changed);
}

int watch_descriptor(const struct watch *w)
{
	return w && !w->gathering ? w->inotify : -1;
}

int watch_wait_ms(const struct watch *w, uint64_t now_ms)
{
	if (!w)
		return -1;
	return w->look_ms > now_ms ? (int)(w->look_ms - now_ms) : 0;
}

/* --- its beginning and end ---------------------------------------------------------------------------------------------------------- */

struct watch *watch_new(void)
{
	struct watch *w = calloc(1, sizeof(*w));

	if (!w)
		return NULL;
	w->inotify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (w->inotify < 0)
		log_global(LOG_NOTICE, "inotify: %s: files are looked at every %d seconds", strerror(errno), LOOK_MS / 1000);
	return w;
}

/* A daemon changes to "/". */
static char *absolute(const char *path)
{
	char here[PATH_MAX], *full = NULL;

	if (*path == '/' || !getcwd(here, sizeof(here)))
		return strdup(path);
	return asprintf(&full, "%s/%s", here, path) < 0 ? NULL : full;
}

int watch_add(struct watch *w, const char *path, unsigned owner)
{
	struct watched *files = realloc(w->files, (w->file_count + 1) * sizeof(*files));
	struct watched *file;

	if (!files)
		return -ENOMEM;
	w->files = files;
	file = &files[w->file_count];
	*file = (struct watched){.path = absolute(path), .owner = owner};
	if (!file->path)
		return -ENOMEM;
	if (w->inotify >= 0)
		watch_way(w, file->path);
	file->known = file->seen = mark_of(file->path);
	w->file_count++;
	return 0;
}

void watch_free(struct watch *w)
{
	if (!w)
		return;
	if (w->inotify >= 0)
		close(w->inotify);
	for (size_t i = 0; i < w->file_count; i++)
		free(w->files[i].path);
	free(w->files);
	free(w->places);
	free(w);
}
