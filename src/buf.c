/*
 * Buffers: see buf.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "buf.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#if __has_include(<valgrind/memcheck.h>)
#include <valgrind/memcheck.h>
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(addr, size) ((void)(addr), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(addr, size) ((void)(addr), (void)(size))
#endif
#ifndef VALGRIND_MAKE_MEM_UNDEFINED
#define VALGRIND_MAKE_MEM_UNDEFINED(addr, size) ((void)(addr), (void)(size))
#endif

static const size_t chunk_bytes[CHUNK_SIZES] = {CHUNK_SMALL_BYTES, CHUNK_BIG_BYTES};

/* Free chunks beyond this many go back to the allocator, so that a burst does not stay resident. */
static const size_t keep[CHUNK_SIZES] = {512, 32};

#ifdef RING_FAULTS
static struct {
	atomic_ulong asked, first, end; /* requests; those in [first, end) fail */
} faults;

void chunk_fail_nth(unsigned long nth, unsigned long count)
{
	unsigned long first = nth ? atomic_load(&faults.asked) + nth : 0;

	atomic_store(&faults.end, 0);
	atomic_store(&faults.first, first);
	atomic_store(&faults.end, nth ? first + count : 0);
}

__attribute__((constructor)) static void faults_configure(void)
{
	const char *text = getenv("TLSPLICE_FAIL_CHUNK");
	char *end;
	unsigned long nth = text ? strtoul(text, &end, 10) : 0;

	chunk_fail_nth(nth, nth && *end == ':' ? strtoul(end + 1, NULL, 10) : 1);
}

static bool fault(void)
{
	unsigned long n = atomic_fetch_add(&faults.asked, 1) + 1;

	return n >= atomic_load(&faults.first) && n < atomic_load(&faults.end);
}
#else
#define fault() false
#endif

struct chunk *chunk_get(struct bufs *bufs, enum chunk_size size)
{
	struct chunk *c = bufs->free[size];

	if (fault())
		return NULL;
	if (c) {
		bufs->free[size] = c->next;
		bufs->kept[size]--;
		ASAN_UNPOISON_MEMORY_REGION(c->data, c->room);
		VALGRIND_MAKE_MEM_UNDEFINED(c->data, c->room);
	} else {
		/* Whole pages, page-aligned when big: the kernel's copies run along cache lines. */
		c = aligned_alloc(size == CHUNK_BIG ? 4096 : 64, chunk_bytes[size]);
		if (!c)
			return NULL;
		c->size = (uint16_t)size;
		c->room = (uint32_t)(chunk_bytes[size] - sizeof(*c));
	}
	c->next = NULL;
	c->start = c->end = 0;
	c->content = 0;
	bufs->lent[size]++;
	return c;
}

void chunk_put(struct bufs *bufs, struct chunk *c)
{
	if (!c)
		return;
	bufs->lent[c->size]--;
	if (bufs->kept[c->size] >= keep[c->size]) {
		free(c);
		return;
	}
	ASAN_POISON_MEMORY_REGION(c->data, c->room);
	c->next = bufs->free[c->size];
	bufs->free[c->size] = c;
	bufs->kept[c->size]++;
}

enum chunk_size chunk_size_for(size_t n)
{
	return n <= CHUNK_SMALL_ROOM ? CHUNK_SMALL : CHUNK_BIG;
}

void bufs_free(struct bufs *bufs)
{
	for (int size = 0; size < CHUNK_SIZES; size++) {
		assert(bufs->lent[size] == 0);
		for (struct chunk *c = bufs->free[size], *next; c; c = next) {
			next = c->next;
			ASAN_UNPOISON_MEMORY_REGION(c->data, c->room);
			free(c);
		}
		bufs->free[size] = NULL;
		bufs->kept[size] = 0;
	}
}

static void link_chunk(struct queue *q, struct chunk *c)
{
	c->next = NULL;
	if (q->tail)
		q->tail->next = c;
	else
		q->head = c;
	q->tail = c;
}

void queue_append(struct queue *q, struct chunk *c)
{
	link_chunk(q, c);
	q->bytes += c->end - c->start;
}

void queue_move(struct queue *to, struct queue *from)
{
	if (!from->head)
		return;
	if (to->tail)
		to->tail->next = from->head;
	else
		to->head = from->head;
	to->tail = from->tail;
	to->bytes += from->bytes;
	*from = (struct queue){0};
}

void queue_join(struct queue *to, struct queue *from, struct bufs *bufs)
{
	const struct chunk *c = queue_front(from, bufs);
	struct chunk *last = to->tail;
	size_t n = c ? c->end - c->start : 0;

	if (c && last && !c->content && !last->content && last->room - last->end >= n) {
		memcpy(last->data + last->end, c->data + c->start, n);
		last->end += (uint32_t)n;
		to->bytes += n;
		queue_consume(from, bufs, n);
	}
	queue_move(to, from);
}

void queue_consume(struct queue *q, struct bufs *bufs, size_t n)
{
	assert(n <= q->bytes);
	q->bytes -= n;
	while (q->head) {
		struct chunk *c = q->head;
		size_t here = c->end - c->start;

		if (n < here) {
			c->start += (uint32_t)n;
			return;
		}
		n -= here;
		q->head = c->next;
		if (!q->head)
			q->tail = NULL;
		chunk_put(bufs, c);
		if (n == 0)
			return;
	}
}

size_t queue_read(struct queue *q, struct bufs *bufs, void *data, size_t n)
{
	unsigned char *to = data;
	size_t done = 0;

	while (done < n && q->head) {
		struct chunk *c = q->head;
		size_t here = c->end - c->start;

		if (here > n - done)
			here = n - done;
		memcpy(to + done, c->data + c->start, here);
		queue_consume(q, bufs, here);
		done += here;
	}
	return done;
}

struct chunk *queue_reserve(struct queue *q, struct bufs *bufs, size_t n)
{
	struct chunk *c = q->tail;

	assert(n <= CHUNK_BIG_ROOM);
	if (c && !c->content && c->room - c->end >= n)
		return c;
	c = chunk_get(bufs, chunk_size_for(n));
	if (c)
		link_chunk(q, c);
	return c;
}

int queue_write(struct queue *q, struct bufs *bufs, const void *data, size_t n)
{
	const unsigned char *from = data;

	while (n > 0) {
		struct chunk *c = q->tail;
		size_t here;

		if (!c || c->content || c->end == c->room)
			c = queue_reserve(q, bufs, n < CHUNK_BIG_ROOM ? n : CHUNK_BIG_ROOM);
		if (!c)
			return -ENOMEM;
		here = c->room - c->end;
		if (here > n)
			here = n;
		memcpy(c->data + c->end, from, here);
		c->end += (uint32_t)here;
		q->bytes += here;
		from += here;
		n -= here;
	}
	return 0;
}

bool queue_write_record(struct queue *q, struct bufs *bufs, unsigned char content, const void *data, size_t n)
{
	struct chunk *c = chunk_get(bufs, chunk_size_for(n));

	if (!c)
		return false;
	memcpy(c->data, data, n);
	c->end = (uint32_t)n;
	c->content = content;
	queue_append(q, c);
	return true;
}

struct chunk *queue_take(struct queue *q)
{
	struct chunk *c = q->head;

	q->head = c->next;
	if (!q->head)
		q->tail = NULL;
	q->bytes -= c->end - c->start;
	c->next = NULL;
	return c;
}

struct chunk *queue_front(struct queue *q, struct bufs *bufs)
{
	while (q->head && q->head->start == q->head->end)
		queue_consume(q, bufs, 0);
	return q->head;
}

const unsigned char *queue_at(const struct queue *q, size_t offset, size_t n, size_t *here)
{
	const struct chunk *c = q->head;

	assert(n > 0 && offset + n <= q->bytes);
	while (offset >= c->end - c->start) {
		offset -= c->end - c->start;
		c = c->next;
	}
	*here = c->end - c->start - offset;
	if (*here > n)
		*here = n;
	return c->data + c->start + offset;
}

void queue_clear(struct queue *q, struct bufs *bufs)
{
	for (struct chunk *c = q->head, *next; c; c = next) {
		next = c->next;
		chunk_put(bufs, c);
	}
	*q = (struct queue){0};
}
