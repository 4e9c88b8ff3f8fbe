/*
 * Pipes for splice(2): see pipe.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "pipe.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

/* Kept for the next: a pipe costs two descriptors and, once used, pages; a connection that moves freely has its own for a moment only. */
enum { KEEP = 16 };

static void destroy(struct pipe *p)
{
	close(p->in);
	close(p->out);
	free(p);
}

static struct pipe *create(void)
{
	struct pipe *p = malloc(sizeof(*p));
	int fd[2];

	if (!p || pipe2(fd, O_NONBLOCK | O_CLOEXEC) < 0) {
		free(p);
		return NULL;
	}
	p->out = fd[0];
	p->in = fd[1];
	return p;
}

void pipes_enter(struct pipes *pipes)
{
	pipes->users++;
}

void pipes_leave(struct pipes *pipes)
{
	struct pipe *p;

	if (--pipes->users > 0)
		return;
	while ((p = pipes->free)) {
		pipes->free = p->next;
		destroy(p);
	}
	pipes->kept = 0;
}

struct pipe *pipe_get(struct pipes *pipes)
{
	struct pipe *p = pipes->free;

	if (!p)
		return create();
	pipes->free = p->next;
	pipes->kept--;
	return p;
}

void pipe_put(struct pipes *pipes, struct pipe *p, bool empty)
{
	if (!p)
		return;
	if (!empty || pipes->kept >= KEEP) {
		destroy(p);
		return;
	}
	p->next = pipes->free;
	pipes->free = p;
	pipes->kept++;
}
