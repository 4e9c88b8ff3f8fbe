/*
 * Pre-shared keys: see psk.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "psk.h"

#include "arena.h"
#include "log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* --- one line ----------------------------------------------------------------------------------------------------------------------- */

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* Pairs of digits, with colons before, between and behind them. Returns the number of bytes, or -1 if it is something else. */
static ptrdiff_t take_hex(const char *text, size_t n, unsigned char *key)
{
	ptrdiff_t len = 0;

	for (size_t at = 0; at < n; at++) {
		int high, low;

		if (text[at] == ':')
			continue;
		high = hex_digit(text[at]);
		low = at + 1 < n ? hex_digit(text[at + 1]) : -1;
		if (high < 0 || low < 0)
			return -1;
		key[len++] = (unsigned char)(high << 4 | low);
		at++;
	}
	return len;
}

/* Fills `psk` in. Returns NULL or what is wrong. */
static const char *take_line(struct arena *arena, struct psk *psk, const char *line, size_t n)
{
	const char *colon = memchr(line, ':', n);
	size_t identity_len = colon ? (size_t)(colon - line) : 0, key_len = n - identity_len - 1;
	const char *form = "hexadecimal";
	unsigned char *key;
	ptrdiff_t len;

	if (!colon || memchr(line, '\0', n))
		return "Not in identity:key format";
	if (identity_len > PSK_IDENTITY_BYTES)
		return "Identity longer than 256 characters";
	psk->identity = arena_strndup(arena, line, identity_len);
	key = arena_alloc(arena, key_len);
	if (!psk->identity || !key)
		return "Out of memory";
	len = take_hex(colon + 1, key_len, key);
	if (len < 0 || key_len == 0) {
		form = "ASCII";
		memcpy(key, colon + 1, key_len);
		len = (ptrdiff_t)key_len;
	}
	psk->key = key;
	psk->key_len = (size_t)len;
	log_global(LOG_INFO, "PSKsecrets line %u: %zu-byte %s key configured for identity \"%s\"", psk->line, psk->key_len, form,
	           psk->identity);
	if (len > PSK_KEY_MAX)
		return "Key longer than 512 bytes";
	if (len < PSK_KEY_MIN)
		return "Key shorter than 16 bytes";
	return NULL;
}

/* --- all lines ---------------------------------------------------------------------------------------------------------------------- */

static int compare(const void *a, const void *b)
{
	const struct psk *left = a, *right = b;
	int order = strcmp(left->identity, right->identity);

	return order ? order : left->line < right->line ? -1 : 1;
}

/* Which of two keys would count is nothing to be guessed. */
static bool is_free_of_doubles(const struct psks *psks)
{
	for (size_t i = 1; i < psks->count; i++) {
		const struct psk *before = &psks->sorted[i - 1], *psk = &psks->sorted[i];

		if (strcmp(before->identity, psk->identity) != 0)
			continue;
		log_global(LOG_ERR, "PSKsecrets line %u: Identity \"%s\" has a key in line %u", psk->line, psk->identity,
		           before->line);
		return false;
	}
	return true;
}

static bool sort(struct arena *arena, struct psks *psks)
{
	psks->sorted = arena_alloc(arena, psks->count * sizeof(*psks->sorted));
	if (!psks->sorted)
		return false;
	memcpy(psks->sorted, psks->first, psks->count * sizeof(*psks->sorted));
	qsort(psks->sorted, psks->count, sizeof(*psks->sorted), compare);
	return is_free_of_doubles(psks);
}

/* A line without its carriage returns, in place. Returns its length. */
static size_t drop_returns(char *line, size_t n)
{
	size_t kept = 0;

	for (size_t i = 0; i < n; i++)
		if (line[i] != '\r')
			line[kept++] = line[i];
	return kept;
}

static size_t count_lines(const char *text, size_t n)
{
	size_t lines = 1;

	for (size_t i = 0; i < n; i++)
		lines += text[i] == '\n';
	return lines;
}

/* `text` is changed. */
static struct psks *parse(struct arena *arena, char *text, size_t n)
{
	struct psks *psks = arena_alloc(arena, sizeof(*psks));
	struct psk *all = arena_alloc(arena, count_lines(text, n) * sizeof(*all));
	unsigned number = 0;

	if (!psks || !all) {
		log_global(LOG_ERR, "PSKsecrets: Out of memory");
		return NULL;
	}
	for (char *line = text, *end = text + n, *next; line < end; line = next) {
		char *stop = memchr(line, '\n', (size_t)(end - line));
		size_t len = drop_returns(line, (size_t)((stop ? stop : end) - line));
		const char *wrong;

		next = stop ? stop + 1 : end;
		number++;
		if (!len)
			continue;
		all[psks->count].line = number;
		wrong = take_line(arena, &all[psks->count++], line, len);
		if (wrong) {
			log_global(LOG_ERR, "PSKsecrets line %u: %s", number, wrong);
			return NULL;
		}
	}
	psks->first = all;
	if (!psks->count)
		log_global(LOG_ERR, "PSKsecrets: There is no key in the file");
	if (!psks->count || !sort(arena, psks))
		return NULL;
	log_global(LOG_INFO, "PSK identities: %zu retrieved", psks->count);
	return psks;
}

struct psks *psks_parse(struct arena *arena, const char *text, size_t n)
{
	char *copy = malloc(n + 1);
	struct psks *psks;

	if (!copy)
		return NULL;
	memcpy(copy, text, n);
	psks = parse(arena, copy, n);
	explicit_bzero(copy, n);
	free(copy);
	return psks;
}

/* --- the file ----------------------------------------------------------------------------------------------------------------------- */

struct contents {
	char *bytes;
	size_t n, room;
};

/* Room for more, in a new place: what was in the old one is wiped, which realloc(3) would not do. */
static bool contents_grow(struct contents *c)
{
	size_t room = c->room ? 2 * c->room : 4096;
	char *bytes = room <= PSK_FILE_MAX ? malloc(room) : NULL;

	if (!bytes) {
		errno = room <= PSK_FILE_MAX ? ENOMEM : EFBIG;
		return false;
	}
	if (c->n)
		memcpy(bytes, c->bytes, c->n);
	if (c->bytes)
		explicit_bzero(c->bytes, c->room);
	free(c->bytes);
	c->bytes = bytes;
	c->room = room;
	return true;
}

static bool contents_read(struct contents *c, int fd)
{
	while (c->n < c->room || contents_grow(c)) {
		ssize_t got = read(fd, c->bytes + c->n, c->room - c->n);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got == 0;
		c->n += (size_t)got;
	}
	return false;
}

struct psks *psks_load(struct arena *arena, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct contents c = {0};
	struct psks *psks = NULL;
	struct stat st;

	if (fd < 0 || !contents_read(&c, fd)) {
		log_global(LOG_ERR, "%s: %s (%d)", path, strerror(errno), errno);
	} else {
		if (fstat(fd, &st) == 0 && (st.st_mode & 7))
			log_global(LOG_WARNING, "Insecure file permissions on %s", path);
		psks = parse(arena, c.bytes, c.n);
	}
	if (fd >= 0)
		close(fd);
	if (c.bytes)
		explicit_bzero(c.bytes, c.room);
	free(c.bytes);
	return psks;
}

/* --- use ---------------------------------------------------------------------------------------------------------------------------- */

const struct psk *psks_find(const struct psks *psks, const char *identity)
{
	size_t low = 0, high = psks->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		int order = strcmp(identity, psks->sorted[middle].identity);

		if (order == 0)
			return &psks->sorted[middle];
		if (order < 0)
			high = middle;
		else
			low = middle + 1;
	}
	return NULL;
}
