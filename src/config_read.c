/*
 * Where configuration lines come from: the file of the command line, a descriptor, directories of snippets.
 * For config*.c only.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "config_table.h"

#include "log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* A file being cut into lines. */
struct lines {
	int fd;
	off_t offset; /* where to read next, or -1: from wherever the descriptor stands (a pipe) */
	unsigned number;
	size_t at, filled;
	char chunk[4096];
	char line[CONFIG_LINE_MAX];
	char quoted[CONFIG_LINE_MAX]; /* the line as it was, for messages */
};

/* Returns 1 when there are bytes, 0 at the end, -errno. */
static int refill(struct lines *lines)
{
	ssize_t got;

	if (lines->at < lines->filled)
		return 1;
	do
		got = lines->offset < 0 ? read(lines->fd, lines->chunk, sizeof(lines->chunk))
		                        : pread(lines->fd, lines->chunk, sizeof(lines->chunk), lines->offset);
	while (got < 0 && errno == EINTR);
	if (got <= 0)
		return got < 0 ? -errno : 0;
	if (lines->offset >= 0)
		lines->offset += got;
	lines->at = 0;
	lines->filled = (size_t)got;
	return 1;
}

/* Takes the next line, without its end and any CR. Returns 1, 0 at the end of the file, or -errno (-EILSEQ: a NUL in it). */
static int next_line(struct lines *lines)
{
	size_t len = 0;
	bool nul = false;
	int rc = refill(lines);

	if (rc <= 0)
		return rc;
	lines->number++;
	while (len < CONFIG_LINE_MAX - 1 && (rc = refill(lines)) > 0) {
		char c = lines->chunk[lines->at++];

		if (c == '\n')
			break;
		nul |= c == '\0';
		if (c != '\r')
			lines->line[len++] = c;
	}
	lines->line[len] = '\0';
	memcpy(lines->quoted, lines->line, len + 1);
	return rc < 0 ? rc : nul ? -EILSEQ : 1;
}

/* Bytes of the byte order mark that a file's first line begins with. */
static size_t bom_length(const char *line)
{
	static const char bom[] = "\xef\xbb\xbf";
	bool found = !strncmp(line, bom, strlen(bom));

	log_global(LOG_NOTICE, "UTF-8 byte order mark %sdetected", found ? "" : "not ");
	return found ? strlen(bom) : 0;
}

static bool read_lines(struct reading *reading, struct lines *lines)
{
	const char *wrong;
	int rc;

	while ((rc = next_line(lines)) > 0) {
		size_t start = lines->number == 1 ? bom_length(lines->line) : 0;

		reading->line = lines->number;
		reading->text = lines->quoted + start;
		wrong = config_line(reading, lines->line + start);
		if (wrong) {
			config_complain(reading, wrong);
			return false;
		}
	}
	if (rc == -EILSEQ)
		log_write(LOG_ERR, NULL, "%s:%u: There is a NUL byte in this line", reading->file, lines->number);
	else if (rc)
		log_write(LOG_ERR, NULL, "%s: %s (%d)", reading->file, strerror(-rc), -rc);
	return !rc;
}

/* A file is read without moving the descriptor's place, so that a reload finds the same lines again. */
static off_t start_of(int fd)
{
	struct stat status;

	return !fstat(fd, &status) && S_ISREG(status.st_mode) ? lseek(fd, 0, SEEK_CUR) : -1;
}

/* Reads a file to its end; what is being read outside stays as it was. The buffers are too large for a stack that recurses. */
static bool read_fd(struct reading *reading, const char *file, int fd)
{
	struct reading outer = *reading;
	struct lines *lines = calloc(1, sizeof(*lines));
	bool good = false;

	reading->file = arena_strdup(reading->arena, file);
	if (lines && reading->file) {
		lines->fd = fd;
		lines->offset = start_of(fd);
		good = read_lines(reading, lines);
		explicit_bzero(lines, sizeof(*lines));
	} else {
		log_write(LOG_ERR, NULL, "%s", config_no_memory);
	}
	free(lines);
	reading->file = outer.file;
	reading->line = outer.line;
	reading->text = outer.text;
	reading->secret = outer.secret;
	return good;
}

/* --- files --------------------------------------------------------------------------------------------------------- */

/*
 * A relative path keeps the meaning it had when the first configuration was read: a daemon changes to "/" afterwards,
 * and a reload must find the same files. Returns false if the path becomes too long.
 */
static bool absolute(const char *path, char full[PATH_MAX])
{
	static char start[PATH_MAX];
	int len;

	if (!*start && !getcwd(start, sizeof(start)))
		return false;
	len = snprintf(full, PATH_MAX, "%s%s%s", *path == '/' ? "" : start, *path == '/' ? "" : "/", path);
	errno = ENAMETOOLONG;
	return len < PATH_MAX;
}

static bool read_path(struct reading *reading, const char *path)
{
	char full[PATH_MAX], real[PATH_MAX];
	bool good;
	int fd;

	if (!absolute(path, full) || !realpath(full, real)) {
		log_write(LOG_ERR, NULL, "Invalid configuration file name \"%s\"", path);
		log_write(LOG_ERR, NULL, "realpath: %s (%d)", strerror(errno), errno);
		log_write(LOG_ERR, NULL, "Cannot open configuration file");
		return false;
	}
	log_global(LOG_NOTICE, "Reading configuration from file %s", real);
	fd = open(real, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		log_write(LOG_ERR, NULL, "%s: %s (%d)", real, strerror(errno), errno);
		log_write(LOG_ERR, NULL, "Cannot open configuration file");
		return false;
	}
	good = read_fd(reading, real, fd);
	close(fd);
	return good;
}

bool config_read_source(struct reading *reading, const struct config_source *source)
{
	char name[32];

	if (source->path)
		return read_path(reading, source->path);
	snprintf(name, sizeof(name), "descriptor %d", source->fd);
	log_global(LOG_NOTICE, "Reading configuration from %s", name);
	if (fcntl(source->fd, F_GETFD) < 0) {
		log_write(LOG_ERR, NULL, "Cannot open configuration file");
		return false;
	}
	return read_fd(reading, name, source->fd);
}

/* --- include ------------------------------------------------------------------------------------------------------- */

/* Byte order, whatever the locale. */
static int by_name(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

/* What is no regular file is not even opened: opening a device or a FIFO may do something, or never return. */
static bool read_entry(struct reading *reading, const char *directory, const char *name)
{
	char path[PATH_MAX];
	struct stat status;
	bool good = false;
	int fd;

	errno = ENAMETOOLONG;
	if (snprintf(path, sizeof(path), "%s/%s", directory, name) < (int)sizeof(path) && !stat(path, &status)) {
		if (!S_ISREG(status.st_mode))
			return true;
		fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
		if (fd >= 0) {
			good = read_fd(reading, path, fd);
			close(fd);
			return good;
		}
	}
	log_write(LOG_ERR, NULL, "Cannot open configuration file %s/%s: %s (%d)", directory, name, strerror(errno), errno);
	return false;
}

static bool read_entries(struct reading *reading, const char *directory)
{
	struct dirent **entries = NULL;
	int count = scandir(directory, &entries, NULL, by_name);
	bool good = count >= 0;

	if (!good)
		log_write(LOG_ERR, NULL, "scandir: %s (%d)", strerror(errno), errno);
	for (int i = 0; i < count; i++) {
		good = good && read_entry(reading, directory, entries[i]->d_name);
		free(entries[i]);
	}
	free(entries);
	return good;
}

const char *config_read_directory(struct reading *reading, const char *path)
{
	char full[PATH_MAX];
	bool good;

	if (reading->depth >= CONFIG_DEPTH_MAX)
		return "Failed to include directory (directories include one another too deeply)";
	if (!*path)
		errno = ENOENT;
	if (!*path || !absolute(path, full)) {
		log_write(LOG_ERR, NULL, "scandir: %s (%d)", strerror(errno), errno);
		return "Failed to include directory";
	}
	if (texts_add(reading->arena, &reading->config->included, full))
		return config_no_memory;
	reading->depth++;
	good = read_entries(reading, full);
	reading->depth--;
	return good ? NULL : "Failed to include directory";
}
