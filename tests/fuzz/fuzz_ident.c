/*
 * Fuzz target: any bytes as the answer of an ident server, in pieces of any size. The first four bytes are the two ports that were asked about, the
 * fifth is the size of the pieces. libFuzzer (`make fuzz`), or replays the corpus with `make test`.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ident.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static enum ident_progress receive(struct ident_line *line, const uint8_t *data, size_t size, size_t piece)
{
	enum ident_progress progress = IDENT_MORE;

	for (size_t at = 0, n; at < size && progress == IDENT_MORE; at += n) {
		n = size - at < piece ? size - at : piece;
		progress = ident_add(line, data + at, n);
	}
	return progress;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ident_line line = {.n = 0}, whole = {.n = 0};
	unsigned theirs, ours, one, other;
	const char *user;

	if (size < 5)
		return 0;
	theirs = (unsigned)data[0] << 8 | data[1];
	ours = (unsigned)data[2] << 8 | data[3];
	if (receive(&line, data + 5, size - 5, data[4] + 1U) != receive(&whole, data + 5, size - 5, size) ||
	    strcmp(line.text, whole.text) != 0)
		abort();
	if (ident_parse(line.text, theirs, ours, &user) != IDENT_USER) {
		if (user)
			abort();
		return 0;
	}
	/* It is about the ports that were asked about, and the user is the end of it. */
	if (sscanf(line.text, "%u , %u", &one, &other) != 2 || one != theirs || other != ours)
		abort();
	if (user < line.text || user + strlen(user) != line.text + strlen(line.text) || *user == ' ' ||
	    !strstr(line.text, "USERID"))
		abort();
	return 0;
}
