/*
 * Pipes for splice(2): a pool for each worker, from which a pump borrows one while bytes are in it.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_PIPE_H
#define TLSPLICE_PIPE_H

#include <stdbool.h>
#include <stddef.h>

/* What is put into a pipe at most. It has 16 slots, a page or more each, so it may be full before: kernel-notes/splice.md */
enum { PIPE_BYTES = 128 * 1024 };

struct pipe {
	struct pipe *next;
	int in, out; /* both O_NONBLOCK */
};

struct pipes {
	struct pipe *free;
	unsigned kept;
	unsigned users; /* connections that may want one: without any, no descriptor is kept */
};

/* A connection begins or ceases to use the pool. */
void pipes_enter(struct pipes *pipes);
void pipes_leave(struct pipes *pipes);

/* An empty pipe, or NULL: no memory, or no descriptors. */
struct pipe *pipe_get(struct pipes *pipes);

/* Gives one back; `empty` ones may be used again. pipe_put(pipes, NULL, ...) is fine. */
void pipe_put(struct pipes *pipes, struct pipe *pipe, bool empty);

#endif
