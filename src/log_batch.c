/*
 * Log lines that wait: see log_batch.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "log_batch.h"

#include <string.h>
#include <syslog.h>

/* Bytes a line takes in a batch. */
static size_t line_room(size_t length)
{
	size_t unit = _Alignof(struct log_line);

	return (sizeof(struct log_line) + length + unit - 1) / unit * unit;
}

bool log_batch_add(struct log_batch *batch, const struct log_line *line, const char *body)
{
	size_t limit = line->level <= LOG_ERR ? sizeof(batch->bytes) : LOG_BATCH_MAX;
	size_t room = line_room(line->length);

	if (room > limit || batch->used > limit - room)
		return false;
	memcpy(batch->bytes + batch->used, line, sizeof(*line));
	memcpy(batch->bytes + batch->used + sizeof(*line), body, line->length);
	batch->used += room;
	batch->lines++;
	return true;
}

void log_batch_each(const struct log_batch *batch, void (*fn)(const struct log_line *, const char *body))
{
	for (size_t at = 0; at < batch->used;) {
		struct log_line line;

		memcpy(&line, batch->bytes + at, sizeof(line));
		fn(&line, batch->bytes + at + sizeof(line));
		at += line_room(line.length);
	}
}

void log_batch_clear(struct log_batch *batch)
{
	batch->used = 0;
	batch->lines = 0;
}

unsigned long log_batch_filter(struct log_batch *batch, int level)
{
	unsigned long before = batch->lines;
	size_t used = 0;

	for (size_t at = 0; at < batch->used;) {
		struct log_line line;
		size_t room;

		memcpy(&line, batch->bytes + at, sizeof(line));
		room = line_room(line.length);
		if (line.level <= level) {
			memmove(batch->bytes + used, batch->bytes + at, room);
			used += room;
		} else {
			batch->lines--;
		}
		at += room;
	}
	batch->used = used;
	return before - batch->lines;
}
