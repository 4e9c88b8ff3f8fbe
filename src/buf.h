/*
 * Buffers: chunks of two sizes, borrowed only while bytes are in them, and queues of chunks.
 * One pool per worker, not thread safe; the free chunk used last is handed out first, for it is still in the cache.
 * Depends on nothing of the proxy; ring.c lends chunks to the kernel as provided buffers.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_BUF_H
#define TLSPLICE_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * SMALL holds a message, such as a request of 1 KiB, in one page. BIG holds three full TLS records (48 KiB and their overhead), so that
 * a bulk transfer costs one receive, three seals and one send for each 48 KiB. Four would just miss the largest segment of the loopback
 * interface, and cost nearly half as much again (kernel-notes/provided_buffers.md).
 */
enum chunk_size { CHUNK_SMALL, CHUNK_BIG, CHUNK_SIZES };
enum {
	CHUNK_SMALL_BYTES = 4096,
	CHUNK_BIG_BYTES = 56 * 1024,   /* a size class of jemalloc */
	CHUNK_BIG_RECEIVE = 48 * 1024, /* what one receive may fill of a big one */
};

struct chunk {
	struct chunk *next;
	uint32_t start, end; /* the bytes in use */
	uint32_t room;       /* size of data */
	uint16_t size;       /* enum chunk_size */
	uint16_t content;    /* 0: bytes of a stream. Else a record of this content type, of or for kernel TLS, that nothing is added to. */
	unsigned char data[];
};

/* Bytes of data a chunk of each size has. */
enum {
	CHUNK_SMALL_ROOM = CHUNK_SMALL_BYTES - (int)sizeof(struct chunk),
	CHUNK_BIG_ROOM = CHUNK_BIG_BYTES - (int)sizeof(struct chunk),
};

struct bufs {
	struct chunk *free[CHUNK_SIZES];
	size_t kept[CHUNK_SIZES]; /* chunks on the free list */
	size_t lent[CHUNK_SIZES]; /* chunks handed out */
};

/* A FIFO of chunks with bytes in them. A zeroed one is empty. */
struct queue {
	struct chunk *head, *tail;
	size_t bytes;
};

/* Returns an empty chunk, or NULL when there is no memory. */
struct chunk *chunk_get(struct bufs *bufs, enum chunk_size size);

#ifdef RING_FAULTS
/*
 * Test builds: `count` requests for chunks, beginning with the nth from now on, are told that there is no memory (0: none). One count for all threads.
 * At start they come from the environment: TLSPLICE_FAIL_CHUNK=NTH[:COUNT], one by default.
 */
void chunk_fail_nth(unsigned long nth, unsigned long count);
#endif

/* Gives a chunk back; chunk_put(bufs, NULL) is fine. */
void chunk_put(struct bufs *bufs, struct chunk *chunk);

/* The size that holds n bytes in one chunk, as far as one can. */
enum chunk_size chunk_size_for(size_t n);

/* Frees what is on the free lists; every chunk must have come back: asserted. */
void bufs_free(struct bufs *bufs);

/* Appends a chunk that has bytes in it. The queue owns it from now on. */
void queue_append(struct queue *queue, struct chunk *chunk);

/* Moves everything from `from` to the end of `to`. */
void queue_move(struct queue *to, struct queue *from);

/*
 * The same, but what is in the first chunk of `from` is copied behind the last one of `to` if it fits there: so any two chunks in a row
 * hold more than one has room for, and a peer that sends byte by byte does not fill memory with chunks of one byte.
 */
void queue_join(struct queue *to, struct queue *from, struct bufs *bufs);

/* Takes n <= queue->bytes bytes off the front; emptied chunks go back to the pool. */
void queue_consume(struct queue *queue, struct bufs *bufs, size_t n);

/* Copies up to n bytes off the front into `data`, consuming them; returns how many. */
size_t queue_read(struct queue *queue, struct bufs *bufs, void *data, size_t n);

/* Makes sure that `n` bytes can be written to the last chunk without a break, adding a chunk if need be. n <= CHUNK_BIG_ROOM. Returns that chunk or NULL (no memory). */
struct chunk *queue_reserve(struct queue *queue, struct bufs *bufs, size_t n);

/* Appends a chunk that is a record of a content type, with a copy of n <= CHUNK_BIG_ROOM bytes. False: no memory. */
bool queue_write_record(struct queue *queue, struct bufs *bufs, unsigned char content, const void *data, size_t n);

/* Appends a copy of n bytes. Returns 0, or -ENOMEM with perhaps a part of them appended: whoever writes records gives the connection up then. */
int queue_write(struct queue *queue, struct bufs *bufs, const void *data, size_t n);

/* Takes the first chunk out; the queue must have one. */
struct chunk *queue_take(struct queue *queue);

/* The first chunk with bytes in it (empty ones before it are dropped), or NULL. */
struct chunk *queue_front(struct queue *queue, struct bufs *bufs);

/*
 * The bytes at an offset of the queue, without taking them out: a pointer to them, and in *here how many of the n lie together (at least one).
 * offset + n <= queue->bytes, n > 0.
 */
const unsigned char *queue_at(const struct queue *queue, size_t offset, size_t n, size_t *here);

/* Drops everything. */
void queue_clear(struct queue *queue, struct bufs *bufs);

#endif
