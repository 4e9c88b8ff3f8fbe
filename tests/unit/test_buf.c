/*
 * Unit tests of buf.h: chunks and their reuse, queues against a model, want of memory.
 * Run by `make unit`; the faults need a sanitizer build, which has RING_FAULTS.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "buf.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static struct bufs bufs;

static size_t lent(void)
{
	return bufs.lent[CHUNK_SMALL] + bufs.lent[CHUNK_BIG];
}

/* A chunk with n bytes from `from` in it. */
static struct chunk *filled(enum chunk_size size, const void *from, size_t n)
{
	struct chunk *c = chunk_get(&bufs, size);

	cr_assert_not_null(c);
	memcpy(c->data, from, n);
	c->end = (uint32_t)n;
	return c;
}

/* The chunks' sum is what the queue says, and no chunk but the last is followed by nothing. */
static void check_queue(const struct queue *q)
{
	const struct chunk *last = NULL;
	size_t bytes = 0;

	for (const struct chunk *c = q->head; c; last = c, c = c->next) {
		cr_assert(c->start <= c->end && c->end <= c->room);
		bytes += c->end - c->start;
	}
	cr_assert_eq(bytes, q->bytes);
	cr_assert_eq(last, q->tail);
}

Test(buf, a_chunk_has_the_room_of_its_size)
{
	struct chunk *small = chunk_get(&bufs, CHUNK_SMALL), *big = chunk_get(&bufs, CHUNK_BIG);

	cr_assert_eq(small->room, CHUNK_SMALL_ROOM);
	cr_assert_eq(big->room, CHUNK_BIG_ROOM);
	cr_assert_geq((int)CHUNK_BIG_ROOM, (int)CHUNK_BIG_RECEIVE);
	cr_assert_eq((uintptr_t)big % 4096, 0);
	cr_assert(small->start == 0 && small->end == 0 && !small->next);
	memset(small->data, 1, small->room);
	memset(big->data, 2, big->room);
	cr_assert_eq(lent(), 2);
	chunk_put(&bufs, small);
	chunk_put(&bufs, big);
	chunk_put(&bufs, NULL);
	cr_assert_eq(lent(), 0);
	bufs_free(&bufs);
}

Test(buf, the_chunk_used_last_comes_first)
{
	struct chunk *a = chunk_get(&bufs, CHUNK_SMALL), *b = chunk_get(&bufs, CHUNK_SMALL);

	a->start = 3;
	a->end = 9;
	chunk_put(&bufs, b);
	chunk_put(&bufs, a);
	cr_assert_eq(chunk_get(&bufs, CHUNK_SMALL), a);
	cr_assert(a->start == 0 && a->end == 0 && !a->next);
	chunk_put(&bufs, a);
	bufs_free(&bufs);
	cr_assert_eq(bufs.kept[CHUNK_SMALL], 0);
}

Test(buf, a_burst_does_not_stay)
{
	enum { BURST = 2000 };
	static struct chunk *chunks[BURST];

	for (int i = 0; i < BURST; i++)
		chunks[i] = chunk_get(&bufs, CHUNK_SMALL);
	for (int i = 0; i < BURST; i++)
		chunk_put(&bufs, chunks[i]);
	cr_assert_lt(bufs.kept[CHUNK_SMALL], BURST / 2);
	cr_assert_eq(bufs.lent[CHUNK_SMALL], 0);
	bufs_free(&bufs);
}

Test(buf, a_chunk_that_is_still_out_is_caught, .signal = SIGABRT)
{
	cr_assert_not_null(chunk_get(&bufs, CHUNK_SMALL));
	bufs_free(&bufs);
}

Test(buf, the_size_that_fits)
{
	cr_assert_eq(chunk_size_for(0), CHUNK_SMALL);
	cr_assert_eq(chunk_size_for(CHUNK_SMALL_ROOM), CHUNK_SMALL);
	cr_assert_eq(chunk_size_for(CHUNK_SMALL_ROOM + 1), CHUNK_BIG);
	cr_assert_eq(chunk_size_for(SIZE_MAX), CHUNK_BIG);
}

Test(queue, an_empty_one)
{
	struct queue q = {0}, other = {0};
	char byte;

	cr_assert_eq(queue_read(&q, &bufs, &byte, 1), 0);
	cr_assert_null(queue_front(&q, &bufs));
	queue_consume(&q, &bufs, 0);
	queue_move(&q, &other);
	cr_assert_eq(queue_write(&q, &bufs, NULL, 0), 0);
	queue_clear(&q, &bufs);
	check_queue(&q);
	cr_assert_eq(lent(), 0);
}

Test(queue, bytes_come_out_in_order)
{
	struct queue q = {0};
	char out[16] = "";

	queue_append(&q, filled(CHUNK_SMALL, "abc", 3));
	queue_append(&q, filled(CHUNK_BIG, "def", 3));
	cr_assert_eq(queue_write(&q, &bufs, "ghi", 3), 0);
	check_queue(&q);
	cr_assert_eq(q.head->next, q.tail, "what fits into the last chunk goes there");
	cr_assert_eq(queue_read(&q, &bufs, out, 4), 4);
	check_queue(&q);
	cr_assert_str_eq(out, "abcd");
	cr_assert_eq(bufs.lent[CHUNK_SMALL], 0, "the emptied chunk has gone back");
	queue_consume(&q, &bufs, 3);
	memset(out, 0, sizeof(out));
	cr_assert_eq(queue_read(&q, &bufs, out, sizeof(out)), 2);
	cr_assert_str_eq(out, "hi");
	cr_assert_eq(lent(), 0);
	check_queue(&q);
	bufs_free(&bufs);
}

Test(queue, moving_one_behind_another)
{
	struct queue to = {0}, from = {0};
	char out[8] = "";

	queue_append(&from, filled(CHUNK_SMALL, "1", 1));
	queue_move(&to, &from);
	check_queue(&from);
	cr_assert_null(from.head);
	queue_append(&from, filled(CHUNK_SMALL, "2", 1));
	queue_append(&from, filled(CHUNK_SMALL, "3", 1));
	queue_move(&to, &from);
	queue_move(&to, &from);
	check_queue(&to);
	check_queue(&from);
	cr_assert_eq(queue_read(&to, &bufs, out, sizeof(out)), 3);
	cr_assert_str_eq(out, "123");
	bufs_free(&bufs);
}

Test(queue, reserved_room_is_without_a_break)
{
	struct queue q = {0};
	struct chunk *first = queue_reserve(&q, &bufs, 100), *second;

	cr_assert_geq(first->room - first->end, 100);
	cr_assert_eq(queue_reserve(&q, &bufs, CHUNK_SMALL_ROOM), first);
	first->end += CHUNK_SMALL_ROOM - 50;
	q.bytes += CHUNK_SMALL_ROOM - 50;
	cr_assert_eq(queue_reserve(&q, &bufs, 50), first);
	second = queue_reserve(&q, &bufs, 51);
	cr_assert_neq(second, first);
	cr_assert_eq(queue_reserve(&q, &bufs, CHUNK_BIG_ROOM)->room, CHUNK_BIG_ROOM);
	queue_clear(&q, &bufs);
	cr_assert_eq(lent(), 0);
	bufs_free(&bufs);
}

Test(queue, empty_chunks_are_skipped)
{
	struct queue q = {0};
	char out[4] = "";

	queue_reserve(&q, &bufs, 10); /* reserved, and not used after all */
	queue_append(&q, filled(CHUNK_SMALL, "x", 1));
	queue_append(&q, filled(CHUNK_SMALL, "", 0));
	queue_append(&q, filled(CHUNK_SMALL, "y", 1));
	cr_assert_eq(queue_front(&q, &bufs)->data[0], 'x');
	check_queue(&q);
	cr_assert_eq(queue_read(&q, &bufs, out, sizeof(out)), 2);
	cr_assert_str_eq(out, "xy");
	queue_clear(&q, &bufs);
	cr_assert_eq(lent(), 0);
	bufs_free(&bufs);
}

Test(queue, more_than_a_big_chunk_is_written_to_several)
{
	enum { BYTES = 3 * CHUNK_BIG_ROOM + 17 };
	unsigned char *in = malloc(BYTES), *out = malloc(BYTES);
	struct queue q = {0};

	for (size_t i = 0; i < BYTES; i++)
		in[i] = (unsigned char)(i * 31 >> 3);
	cr_assert_eq(queue_write(&q, &bufs, in, BYTES), 0);
	check_queue(&q);
	cr_assert_eq(queue_read(&q, &bufs, out, BYTES), BYTES);
	cr_assert_eq(memcmp(in, out, BYTES), 0);
	cr_assert_eq(lent(), 0);
	free(in);
	free(out);
	bufs_free(&bufs);
}

/* Bytes that come one by one share a chunk; what does not fit keeps its own. */
Test(queue, join_copies_what_fits)
{
	struct queue q = {0}, one = {0};
	unsigned char out[10000];

	for (size_t i = 0; i < 10000; i++) {
		unsigned char byte = (unsigned char)(i * 7);

		queue_append(&one, filled(i % 100 ? CHUNK_SMALL : CHUNK_BIG, &byte, 1));
		queue_join(&q, &one, &bufs);
		cr_assert(one.bytes == 0 && !one.head);
	}
	check_queue(&q);
	cr_assert_leq(lent(), 1);
	queue_join(&one, &q, &bufs);
	cr_assert_eq(q.bytes, 0);
	cr_assert_eq(queue_write(&q, &bufs, out, 4000), 0);
	queue_join(&q, &one, &bufs);
	cr_assert_eq(lent(), 2);
	cr_assert_eq(q.bytes, 14000);
	queue_consume(&q, &bufs, 4000);
	cr_assert_eq(queue_read(&q, &bufs, out, 10000), 10000);
	for (size_t i = 0; i < 10000; i++)
		cr_assert_eq(out[i], (unsigned char)(i * 7));
	queue_join(&q, &one, &bufs);
	cr_assert(!q.head && !q.tail && lent() == 0);
	bufs_free(&bufs);
}

/* --- records: chunks with `content`, of which a byte must not move to another ----------------------------------------------------------- */

static struct chunk *record(unsigned char content, const char *bytes)
{
	struct chunk *c = filled(CHUNK_SMALL, bytes, strlen(bytes));

	c->content = content;
	return c;
}

Test(queue, a_record_stays_by_itself)
{
	struct queue q = {0};

	cr_assert(queue_write_record(&q, &bufs, 21, "\1\0", 2));
	cr_assert(q.head->content == 21 && q.head->end == 2 && q.bytes == 2);
	cr_assert_eq(queue_write(&q, &bufs, "data", 4), 0);
	cr_assert_eq(q.head->end, 2, "written behind it, not into it");
	cr_assert_eq(q.tail->content, 0);
	cr_assert(queue_write_record(&q, &bufs, 22, "abc", 3));
	cr_assert(queue_write_record(&q, &bufs, 22, "def", 3));
	cr_assert_eq(q.tail->end, 3);
	cr_assert_neq(queue_reserve(&q, &bufs, 10), q.head);
	cr_assert_eq(q.tail->content, 0, "room is not found in a record");
	check_queue(&q);
	cr_assert_eq(q.bytes, 12);
	queue_clear(&q, &bufs);
	cr_assert_eq(lent(), 0);
	bufs_free(&bufs);
}

Test(queue, a_record_is_not_joined)
{
	static const unsigned char contents[] = {0, 21};

	for (int before = 0; before < 2; before++)
		for (int behind = 0; behind < 2; behind++) {
			struct queue q = {0}, more = {0};

			queue_append(&q, record(contents[before], "ab"));
			queue_append(&more, record(contents[behind], "cd"));
			queue_append(&more, record(22, "e"));
			queue_join(&q, &more, &bufs);
			check_queue(&q);
			cr_assert(q.bytes == 5 && more.bytes == 0 && !more.head);
			cr_assert_eq(q.head->content, contents[before]);
			cr_assert_eq(q.head->end, before || behind ? 2 : 4);
			cr_assert_eq(lent(), before || behind ? 3 : 2);
			cr_assert_eq(q.tail->content, 22);
			queue_clear(&q, &bufs);
		}
	bufs_free(&bufs);
}

/* A chunk that was a record is an ordinary one when it comes again. */
Test(queue, a_record_is_forgotten)
{
	struct queue q = {0};
	struct chunk *c;

	cr_assert(queue_write_record(&q, &bufs, 21, "\1\0", 2));
	queue_consume(&q, &bufs, 2);
	c = chunk_get(&bufs, CHUNK_SMALL);
	cr_assert_eq(c->content, 0);
	chunk_put(&bufs, c);
	bufs_free(&bufs);
}

Test(queue, records_of_any_length)
{
	static unsigned char bytes[CHUNK_BIG_ROOM];
	struct queue q = {0};

	for (size_t n = 1; n <= CHUNK_BIG_ROOM; n = n * 2 > CHUNK_BIG_ROOM && n < CHUNK_BIG_ROOM ? CHUNK_BIG_ROOM : n * 2) {
		cr_assert(queue_write_record(&q, &bufs, 22, bytes, n));
		cr_assert_eq(q.tail->end, n);
		cr_assert_eq(q.tail->size, chunk_size_for(n));
	}
	check_queue(&q);
	queue_clear(&q, &bufs);
	bufs_free(&bufs);
}

Test(queue, taking_chunks_out)
{
	struct queue q = {0};
	struct chunk *a = record(0, "abc"), *b = record(21, "de"), *c;

	queue_append(&q, a);
	queue_append(&q, b);
	queue_consume(&q, &bufs, 1);
	c = queue_take(&q);
	cr_assert(c == a && !c->next && c->start == 1 && q.bytes == 2 && q.head == b);
	check_queue(&q);
	cr_assert_eq(queue_take(&q), b);
	cr_assert(!q.head && !q.tail && q.bytes == 0);
	queue_append(&q, c);
	check_queue(&q);
	queue_clear(&q, &bufs);
	chunk_put(&bufs, b);
	cr_assert_eq(lent(), 0);
	bufs_free(&bufs);
}

/* What a queue may be asked, at random, with a flat array beside it. */
struct model {
	struct queue q;
	unsigned char bytes[1 << 20];
	size_t start, end;
};

static void model_write(struct model *m, size_t n)
{
	for (size_t i = 0; i < n; i++)
		m->bytes[m->end + i] = (unsigned char)random();
	if (random() % 3 == 0) {
		struct queue more = {0};

		cr_assert_eq(queue_write(&more, &bufs, m->bytes + m->end, n), 0);
		queue_join(&m->q, &more, &bufs);
	} else if (random() % 2 || n > CHUNK_SMALL_ROOM) {
		cr_assert_eq(queue_write(&m->q, &bufs, m->bytes + m->end, n), 0);
	} else {
		queue_append(&m->q, filled(random() % 2 ? CHUNK_SMALL : CHUNK_BIG, m->bytes + m->end, n));
	}
	m->end += n;
}

static void model_read(struct model *m, size_t n)
{
	static unsigned char out[200000];
	size_t there = m->end - m->start, got;

	if (random() % 2) {
		got = queue_read(&m->q, &bufs, out, n);
		cr_assert_eq(got, n < there ? n : there);
		cr_assert_eq(memcmp(out, m->bytes + m->start, got), 0);
	} else {
		struct chunk *front = queue_front(&m->q, &bufs);

		got = n < there ? n : there;
		cr_assert(!front || front->data[front->start] == m->bytes[m->start]);
		queue_consume(&m->q, &bufs, got);
	}
	m->start += got;
}

Test(queue, random_against_a_model)
{
	struct model *m = calloc(1, sizeof(*m));

	srandom(3);
	for (int step = 0; step < 20000; step++) {
		size_t n = (size_t)random() % (random() % 8 ? 3000 : 100000);

		if (random() % 2 && m->end + n < sizeof(m->bytes))
			model_write(m, n);
		else
			model_read(m, n);
		if (m->start == m->end)
			m->start = m->end = 0;
		check_queue(&m->q);
		cr_assert_eq(m->q.bytes, m->end - m->start);
	}
	queue_clear(&m->q, &bufs);
	cr_assert_eq(lent(), 0);
	free(m);
	bufs_free(&bufs);
}

#ifdef RING_FAULTS
Test(buf, no_memory)
{
	static const unsigned char bytes[2 * CHUNK_BIG_ROOM];
	struct queue q = {0};

	chunk_fail_nth(1, 1);
	cr_assert_null(chunk_get(&bufs, CHUNK_SMALL));
	chunk_fail_nth(1, 1);
	cr_assert_not(queue_write_record(&q, &bufs, 21, "x", 1));
	check_queue(&q);
	chunk_fail_nth(1, 2);
	cr_assert_null(queue_reserve(&q, &bufs, 1));
	cr_assert_eq(queue_write(&q, &bufs, "x", 1), -ENOMEM);
	check_queue(&q);
	chunk_fail_nth(2, 1);
	cr_assert_eq(queue_write(&q, &bufs, bytes, sizeof(bytes)), -ENOMEM);
	check_queue(&q);
	cr_assert_eq(q.bytes, CHUNK_BIG_ROOM, "a part of it");
	cr_assert_eq(queue_write(&q, &bufs, bytes, sizeof(bytes)), 0);
	queue_clear(&q, &bufs);
	cr_assert_eq(lent(), 0);
	bufs_free(&bufs);
}
#endif
