/*
 * Chunks lent to the kernel: see ring_lend.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ring_lend.h"

#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <sys/mman.h>

#if __has_include(<valgrind/memcheck.h>)
#include <valgrind/memcheck.h>
#else
#define VALGRIND_MAKE_MEM_DEFINED(address, size) ((void)(address), (void)(size))
#endif

/* Slots are filled anew as they are used, so this is what one batch of completions can consume. */
static const unsigned slots_of[CHUNK_SIZES] = {256, 16};

static const unsigned receive_of[CHUNK_SIZES] = {CHUNK_SMALL_ROOM, CHUNK_BIG_RECEIVE};

/* Puts a fresh chunk into an empty slot. */
static void lend(struct lender *l, struct bufs *bufs, unsigned id)
{
	struct chunk *c = chunk_get(bufs, l->size);

	l->slot[id] = c;
	if (!c) {
		l->missing++;
		return;
	}
	io_uring_buf_ring_add(l->ring, c->data, l->receive, (unsigned short)id, io_uring_buf_ring_mask(l->slots), 0);
	io_uring_buf_ring_advance(l->ring, 1);
}

bool lender_refill(struct lender *l, struct bufs *bufs)
{
	unsigned before = l->missing;

	if (!before)
		return true;
	l->missing = 0;
	for (unsigned id = 0; id < l->slots && before > 0; id++) {
		if (!l->slot[id]) {
			lend(l, bufs, id);
			before--;
		}
	}
	return l->missing < l->slots;
}

int lender_open(struct lender *l, struct io_uring *uring, struct bufs *bufs, enum chunk_size size)
{
	struct io_uring_buf_reg reg = {.ring_entries = slots_of[size], .bgid = (uint16_t)size};
	int error;

	l->size = size;
	l->slots = slots_of[size];
	l->receive = receive_of[size];
	l->slot = calloc(l->slots, sizeof(struct chunk *));
	l->ring = mmap(NULL, l->slots * sizeof(struct io_uring_buf), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (l->ring == MAP_FAILED)
		l->ring = NULL;
	if (!l->slot || !l->ring)
		return -ENOMEM;
	reg.ring_addr = (uintptr_t)l->ring;
	error = io_uring_register_buf_ring(uring, &reg, 0);
	if (error)
		return error;
	io_uring_buf_ring_init(l->ring);
	for (unsigned id = 0; id < l->slots; id++)
		lend(l, bufs, id);
	return 0;
}

void lender_close(struct lender *l, struct bufs *bufs)
{
	for (unsigned id = 0; l->slot && id < l->slots; id++)
		chunk_put(bufs, l->slot[id]);
	free(l->slot);
	if (l->ring)
		munmap(l->ring, l->slots * sizeof(struct io_uring_buf));
}

struct chunk *lender_take(struct lender *l, struct bufs *bufs, unsigned id, int res)
{
	struct chunk *c = l->slot[id];

	lend(l, bufs, id);
	if (res <= 0) {
		chunk_put(bufs, c);
		return NULL;
	}
	VALGRIND_MAKE_MEM_DEFINED(c->data, res); /* by the kernel, behind valgrind's back */
	c->end = (uint32_t)res;
	return c;
}
