/*
 * Slab: objects of one size in chunks of `batch`, free ones in one list, the most recently freed first.
 * Per worker, not thread safe. What we must know of an object stands behind it, so that a freed one can be poisoned whole.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "slab.h"

#include "list.h"

#include <assert.h>
#include <stdint.h>
#include <stdlib.h>

#ifdef __has_feature /* clang; gcc defines __SANITIZE_ADDRESS__ itself */
#if __has_feature(address_sanitizer) && !defined(__SANITIZE_ADDRESS__)
#define __SANITIZE_ADDRESS__ 1
#endif
#endif

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define POISON(p, n) ASAN_POISON_MEMORY_REGION(p, n)
#define UNPOISON(p, n) ASAN_UNPOISON_MEMORY_REGION(p, n)
#elif __has_include(<valgrind/memcheck.h>)
#include <valgrind/memcheck.h>
#define POISON(p, n) ((void)VALGRIND_MAKE_MEM_NOACCESS(p, n))
#define UNPOISON(p, n) ((void)VALGRIND_MAKE_MEM_UNDEFINED(p, n))
#else
#define POISON(p, n) ((void)(p), (void)(n))
#define UNPOISON(p, n) ((void)(p), (void)(n))
#endif

struct chunk {
	struct list link; /* in slab.chunks */
	size_t used;
};

/* Stands behind each object. */
struct tail {
	struct list free; /* in slab.free, or alone while the object is handed out */
	struct chunk *chunk;
};

struct slab {
	struct list free; /* tails of the free objects, the next to hand out first */
	struct list chunks;
	size_t size, align, batch;
	size_t first;  /* from a chunk to its first object */
	size_t tail;   /* from an object to its tail */
	size_t stride; /* from an object to the next */
	size_t used;
	size_t idle; /* chunks without an object in use: 0 or 1 */
};

static size_t round_up(size_t n, size_t unit)
{
	return (n + unit - 1) / unit * unit;
}

struct slab *slab_new(size_t size, size_t align, size_t batch)
{
	struct slab *slab;
	size_t total;

	assert(align && !(align & (align - 1)) && batch);
	if (align < _Alignof(struct chunk))
		align = _Alignof(struct chunk);
	if (size > SIZE_MAX / 4 || align > SIZE_MAX / 4)
		return NULL;
	slab = malloc(sizeof(*slab));
	if (!slab)
		return NULL;
	*slab = (struct slab){.size = size, .align = align, .batch = batch};
	list_init(&slab->free);
	list_init(&slab->chunks);
	slab->first = round_up(sizeof(struct chunk), align);
	slab->tail = round_up(size, _Alignof(struct tail));
	slab->stride = round_up(slab->tail + sizeof(struct tail), align);
	if (__builtin_mul_overflow(slab->stride, batch, &total) || __builtin_add_overflow(total, slab->first, &total)) {
		free(slab);
		return NULL;
	}
	return slab;
}

static char *object_at(const struct slab *slab, struct chunk *chunk, size_t i)
{
	return (char *)chunk + slab->first + i * slab->stride;
}

static struct tail *tail_of(const struct slab *slab, void *object)
{
	return (struct tail *)((char *)object + slab->tail);
}

static void list_push(struct list *head, struct list *item)
{
	list_append(head->next, item);
}

/* Asks for one more chunk. Returns false when there is no memory. */
static bool grow(struct slab *slab)
{
	size_t size = slab->first + slab->stride * slab->batch;
	struct chunk *chunk;

	if (posix_memalign((void **)&chunk, slab->align, size) != 0)
		return false;
	chunk->used = 0;
	list_push(&slab->chunks, &chunk->link);
	for (size_t i = 0; i < slab->batch; i++) {
		char *object = object_at(slab, chunk, i);

		tail_of(slab, object)->chunk = chunk;
		list_append(&slab->free, &tail_of(slab, object)->free);
		POISON(object, slab->size);
	}
	slab->idle++;
	return true;
}

/* Returns a chunk of free objects to the system. */
static void chunk_release(struct slab *slab, struct chunk *chunk)
{
	for (size_t i = 0; i < slab->batch; i++) {
		char *object = object_at(slab, chunk, i);

		list_remove(&tail_of(slab, object)->free);
		UNPOISON(object, slab->size);
	}
	list_remove(&chunk->link);
	slab->idle--;
	free(chunk);
}

void slab_free(struct slab *slab)
{
	if (!slab)
		return;
	assert(slab->used == 0);
	while (!list_empty(&slab->chunks))
		chunk_release(slab, list_first(&slab->chunks, struct chunk, link));
	free(slab);
}

void *slab_get(struct slab *slab)
{
	struct tail *tail;
	char *object;

	if (list_empty(&slab->free) && !grow(slab))
		return NULL;
	tail = list_first(&slab->free, struct tail, free);
	list_remove(&tail->free);
	object = (char *)tail - slab->tail;
	UNPOISON(object, slab->size);
	if (tail->chunk->used++ == 0)
		slab->idle--;
	slab->used++;
	return object;
}

void slab_put(struct slab *slab, void *object)
{
	struct tail *tail;

	if (!object)
		return;
	tail = tail_of(slab, object);
	assert(list_empty(&tail->free)); /* freed twice? */
	POISON(object, slab->size);
	list_push(&slab->free, &tail->free);
	slab->used--;
	if (--tail->chunk->used == 0 &&
	    ++slab->idle > 1) /* one stays, or a service at a chunk's edge would map and unmap all day */
		chunk_release(slab, tail->chunk);
}

size_t slab_used(const struct slab *slab)
{
	return slab->used;
}
