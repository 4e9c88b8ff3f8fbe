/*
 * Log lines as they wait for the writer, one behind the other in memory. For log.c, under its lock.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_LOG_BATCH_H
#define TLSPLICE_LOG_BATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

enum {
	LOG_BATCH_MAX = 1 << 20,  /* bytes: some 10,000 lines */
	LOG_BATCH_URGENT = 65536, /* and room beyond that which only errors may use: a flood of notices must not hide them */
};

/* A line as it waits in a batch: this, then "LOGn[id]: text" without an end mark, then padding. */
struct log_line {
	time_t when;
	uint16_t length; /* of what follows */
	uint16_t text;   /* where the text begins in it */
	uint8_t level;
};

struct log_batch {
	size_t used;
	unsigned long lines;
	_Alignas(struct log_line) char bytes[LOG_BATCH_MAX + LOG_BATCH_URGENT];
};

/* Adds a line with its body. Returns false if there is no room. */
bool log_batch_add(struct log_batch *batch, const struct log_line *line, const char *body);

/* Calls fn for each line. */
void log_batch_each(const struct log_batch *batch, void (*fn)(const struct log_line *line, const char *body));

/* Throws out the lines that are less urgent than `level`. Returns how many these were. */
unsigned long log_batch_filter(struct log_batch *batch, int level);

void log_batch_clear(struct log_batch *batch);

#endif
