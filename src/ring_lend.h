/*
 * Chunks lent to the kernel: a ring of provided buffers for each size of chunk, out of which the kernel takes one when bytes have come.
 * For ring.c.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_RING_LEND_H
#define TLSPLICE_RING_LEND_H

#include "buf.h"

#include <stdbool.h>

struct io_uring;
struct io_uring_buf_ring;

/* Chunks of one size: slot i is buffer id i. A zeroed one is closed. */
struct lender {
	struct io_uring_buf_ring *ring;
	struct chunk **slot;
	enum chunk_size size; /* and the group of the buffers */
	unsigned slots;
	unsigned missing; /* slots that are empty because there was no memory */
	unsigned receive; /* bytes a receive may fill */
};

/* Registers buffers of a size with the ring and fills its slots. Returns 0 or -errno; lender_close() in any case. */
int lender_open(struct lender *lender, struct io_uring *uring, struct bufs *bufs, enum chunk_size size);

/* Takes every chunk back. The ring must be closed: until then the kernel may write into them. */
void lender_close(struct lender *lender, struct bufs *bufs);

/* After an allocation failed, tries again to fill the slots it left empty. False: there is not a single chunk. */
bool lender_refill(struct lender *lender, struct bufs *bufs);

/* Takes the chunk that the kernel has filled with `res` bytes (none if not positive: then NULL) out of its slot, and lends another in its place. */
struct chunk *lender_take(struct lender *lender, struct bufs *bufs, unsigned id, int res);

#endif
