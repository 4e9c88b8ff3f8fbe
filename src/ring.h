/*
 * The ring: one io_uring per worker; liburing is seen in ring*.c alone. Operations name a struct ring_op; its `done` is called
 * with the result when the kernel is through, on the worker's own stack. ring_await_*() are the same operations for coroutines.
 * SQEs are handed to the kernel once per turn of the worker's loop.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_RING_H
#define TLSPLICE_RING_H

#include "addr.h"
#include "buf.h"

#include <stdbool.h>
#include <stdint.h>

struct ring;
struct ring_op;
struct coro;

struct ring_result {
	int res;             /* as the system call's, errors as -errno */
	bool more;           /* multishot: the operation goes on */
	bool nonempty;       /* receive: the socket still has bytes */
	bool full;           /* receive: the bytes fill the chunk: there may be more where they came from */
	struct chunk *chunk; /* receive: the bytes, now the callee's; NULL at end of stream and on errors */
};

/* Called for every completion of the operation; without `more` it is the last, and the operation may be used again or freed. */
typedef void ring_done(struct ring_op *op, const struct ring_result *result);

struct ring_op {
	ring_done *done;
	bool armed; /* the kernel may still complete it: the memory must stay */
	bool cancelled;
	uint8_t lends; /* enum chunk_size of the receive, plus one; 0: no buffer */
	bool records;  /* a receive of records */
	int instead;   /* not carried out: completes with this result; 0 otherwise */
};

/*
 * Opens a ring for the calling thread (SINGLE_ISSUER | DEFER_TASKRUN: since Linux 6.1). Chunks for receives come from `bufs`.
 * Returns NULL with *error set to -errno; ring_explain() makes a sentence of it.
 */
struct ring *ring_open(struct bufs *bufs, int *error);
const char *ring_explain(int error);

/*
 * Rings opened from now on take only the operations of this file, and nothing can be registered with them any more. An operation that is new here has to be put
 * into the table in ring.c, or it fails with -EACCES. To be called before there are workers.
 */
void ring_restrict(void);

/* Cancels what is left, waits for it, and closes. ring_close(NULL) is fine. */
void ring_close(struct ring *ring);

/*
 * One turn: submits what was prepared, waits until something completes or `until_ms` (CLOCK_MONOTONIC; UINT64_MAX: no limit) has come,
 * and calls `done` of everything completed. Returns 0 or -errno (-EINTR is 0).
 */
int ring_turn(struct ring *ring, uint64_t until_ms);

/* Milliseconds of CLOCK_MONOTONIC, read once per turn. */
uint64_t ring_now_ms(const struct ring *ring);

/* Operations that wait for their completion. */
size_t ring_pending(const struct ring *ring);

/* Accepts until cancelled or an error ends it; every result is a new descriptor (close-on-exec) or -errno. */
void ring_accept(struct ring *ring, struct ring_op *op, int fd);

/*
 * Receives into a chunk that is picked only when bytes have come. `many`: goes on until end of stream, an error or ring_cancel();
 * else one receive of up to CHUNK_BIG_RECEIVE bytes. -ENOBUFS: others were faster to take the chunks; ask again.
 * -ENOMEM: there is no memory for a single chunk, and asking again at once would not help.
 */
void ring_recv(struct ring *ring, struct ring_op *op, int fd, enum chunk_size size, bool many);

/* One receive of up to n bytes, no more than a chunk of that size holds. */
void ring_recv_up_to(struct ring *ring, struct ring_op *op, int fd, enum chunk_size size, size_t n);

/*
 * As ring_recv() with `many`, into small chunks, from a socket of kernel TLS: a chunk holds bytes of application data, or of one other record,
 * and then it has `content`. -EPROTO: an empty record that may not be empty.
 */
void ring_recv_records(struct ring *ring, struct ring_op *op, int fd);

/* Moves up to n bytes from one descriptor to another, one of them a pipe, on a thread of the kernel (splice(2), without waiting for the pipe). */
void ring_splice(struct ring *ring, struct ring_op *op, int from, int to, size_t n);

/* Sends n bytes, perhaps fewer (see res). The bytes must stay until `done`. No SIGPIPE. */
void ring_send(struct ring *ring, struct ring_op *op, int fd, const void *data, size_t n);

/* Connects. `addr` must stay until `done`. */
void ring_connect(struct ring *ring, struct ring_op *op, int fd, const struct addr *addr);

/* Completes when one of the poll(2) events holds; `many`: each time anew. */
void ring_poll(struct ring *ring, struct ring_op *op, int fd, unsigned events, bool many);

/* For a system call that was made at once: completes with its result `res`, which is not 0, in the next turn. */
void ring_complete(struct ring *ring, struct ring_op *op, int res);

/* Asks the kernel to end an armed operation: `done` comes with -ECANCELED, or with its result if that was faster. Harmless otherwise. */
void ring_cancel(struct ring *ring, struct ring_op *op);

/* What a coroutine waits on. Zeroed before first use; lives in the connection so that a deadline can cancel `op`. */
struct ring_wait {
	struct ring_op op;
	struct coro *coro;
	struct ring_result result;
};

/* For coroutines: suspend until the operation is complete and return its result. */
int ring_await_recv(struct ring *ring, struct ring_wait *wait, int fd, struct chunk **chunk);
int ring_await_send(struct ring *ring, struct ring_wait *wait, int fd, const void *data, size_t n);
int ring_await_connect(struct ring *ring, struct ring_wait *wait, int fd, const struct addr *addr);
int ring_await_poll(struct ring *ring, struct ring_wait *wait, int fd, unsigned events);

#ifdef RING_FAULTS
/*
 * Test builds: the nth operation from now on completes with `error` (-errno) instead of being carried out, and with `every` each nth (0: none).
 * ring_open() takes them from the environment: TLSPLICE_FAIL=NTH[:ERRNO][:every], with the number of the errno, ENOMEM by default.
 */
void ring_fail_nth(struct ring *ring, unsigned long nth, int error, bool every);

/* The same for an operation that is a system call of the caller's: 0, or the -errno to take for its result. */
int ring_fault(struct ring *ring);
#else
#define ring_fault(ring) ((void)(ring), 0)
#endif

#endif
