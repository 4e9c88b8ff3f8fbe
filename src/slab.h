/*
 * Slab: objects of one size, handed out and taken back in O(1), the most recently freed first (still in the cache).
 * Per worker, not thread safe. Under AddressSanitizer and valgrind a freed object is poisoned.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_SLAB_H
#define TLSPLICE_SLAB_H

#include <stddef.h>

struct slab;

/* A slab of objects of `size` bytes, aligned to `align` (a power of two), grown by `batch` objects at a time. NULL: no memory. */
struct slab *slab_new(size_t size, size_t align, size_t batch);

/* All objects must have come back: asserted. slab_free(NULL) is fine. */
void slab_free(struct slab *slab);

/* Returns an object with undefined content, or NULL when there is no memory. */
void *slab_get(struct slab *slab);

/* Takes an object back; slab_put(slab, NULL) is fine. Whole batches that are free are returned to the system, but for one. */
void slab_put(struct slab *slab, void *object);

/* Objects handed out now. */
size_t slab_used(const struct slab *slab);

#endif
