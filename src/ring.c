/*
 * The ring: see ring.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ring.h"

#include "coro.h"
#include "ktls.h"
#include "list.h"
#include "ring_lend.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#if __has_include(<valgrind/memcheck.h>)
#include <valgrind/memcheck.h>
#else
#define RUNNING_ON_VALGRIND 0
#endif

enum {
	SQ_ENTRIES = 1024, /* a fuller queue is submitted early */
	CQ_ENTRIES = 8192, /* multishot operations complete without being asked: give them room */
	REAP_AT_ONCE = 256,
};

struct ring {
	struct io_uring uring;
	struct bufs *bufs;
	struct lender lender[CHUNK_SIZES];
	uint64_t now_ms;
	size_t pending;
#ifdef RING_FAULTS
	unsigned long fail_in, fail_again; /* operations until the next failure, and from one to the next */
	int fail_with;
#endif
};

static uint64_t clock_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

uint64_t ring_now_ms(const struct ring *ring)
{
	return ring->now_ms;
}

size_t ring_pending(const struct ring *ring)
{
	return ring->pending;
}

const char *ring_explain(int error)
{
	switch (-error) {
	case EPERM:
		return "io_uring is switched off on this machine: see the sysctl kernel.io_uring_disabled, or the seccomp "
		       "profile of the container";
	case ENOSYS: return "this kernel has no io_uring: Linux 6.1 or later is needed, built with CONFIG_IO_URING";
	case EINVAL: return "this kernel's io_uring is too old: Linux 6.1 or later is needed";
	case ENOMEM: return "no memory for an io_uring; some kernels count it as locked memory, see ulimit -l";
	default: return strerror(-error);
	}
}

/* The operation goes to the kernel as one that does nothing, and completes with `res`. */
static void replace(struct io_uring_sqe *sqe, struct ring_op *op, int res)
{
	io_uring_prep_nop(sqe);
	io_uring_sqe_set_data(sqe, op);
	op->instead = res;
}

#ifdef RING_FAULTS
void ring_fail_nth(struct ring *ring, unsigned long nth, int error, bool every)
{
	ring->fail_in = nth;
	ring->fail_again = every ? nth : 0;
	ring->fail_with = error;
}

static void faults_configure(struct ring *ring)
{
	const char *text = getenv("TLSPLICE_FAIL");
	unsigned long nth, error = ENOMEM;
	char *end;

	if (!text)
		return;
	nth = strtoul(text, &end, 10);
	if (end[0] == ':' && isdigit((unsigned char)end[1]))
		error = strtoul(end + 1, &end, 10);
	ring_fail_nth(ring, nth, -(int)error, strcmp(end, ":every") == 0);
}

int ring_fault(struct ring *ring)
{
	if (ring->fail_in == 0 || --ring->fail_in > 0)
		return 0;
	ring->fail_in = ring->fail_again;
	return ring->fail_with;
}

static void fault(struct ring *ring, struct io_uring_sqe *sqe, struct ring_op *op)
{
	int error = ring_fault(ring);

	if (error)
		replace(sqe, op, error);
}
#else
#define faults_configure(ring) ((void)0)
#define fault(ring, sqe, op) ((void)0)
#endif

/* All that this file ever submits, io_uring_prep_*() by io_uring_prep_*(). */
static const uint8_t operations[] = {
	IORING_OP_NOP,     IORING_OP_ACCEPT,   IORING_OP_RECV,   IORING_OP_RECVMSG,      IORING_OP_SEND,
	IORING_OP_CONNECT, IORING_OP_POLL_ADD, IORING_OP_SPLICE, IORING_OP_ASYNC_CANCEL,
};
enum { OPERATIONS = sizeof(operations), SQE_FLAGS = IOSQE_BUFFER_SELECT | IOSQE_CQE_SKIP_SUCCESS };

static bool restricted;

void ring_restrict(void)
{
	restricted = true;
}

/* A ring that was opened for it takes nothing before it is enabled, and by then no further restrictions. Returns 0 or -errno. */
static int restrict_ring(struct ring *ring)
{
	struct io_uring_restriction list[OPERATIONS + 1] = {
		{.opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED, .sqe_flags = SQE_FLAGS},
	};
	int error;

	for (unsigned i = 0; i < OPERATIONS; i++) {
		list[i + 1].opcode = IORING_RESTRICTION_SQE_OP;
		list[i + 1].sqe_op = operations[i];
	}
	/* liburing 2.3 declares functions for this that it does not have. */
	error = (int)syscall(SYS_io_uring_register, ring->uring.ring_fd, IORING_REGISTER_RESTRICTIONS, list, OPERATIONS + 1);
	if (!error)
		error = (int)syscall(SYS_io_uring_register, ring->uring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
	return error < 0 ? -errno : 0;
}

struct ring *ring_open(struct bufs *bufs, int *error)
{
	struct io_uring_params params = {
		.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CQSIZE | IORING_SETUP_SUBMIT_ALL,
		.cq_entries = CQ_ENTRIES,
	};
	struct ring *ring = calloc(1, sizeof(*ring));

	*error = -ENOMEM;
	if (!ring)
		return NULL;
	if (restricted)
		params.flags |= IORING_SETUP_R_DISABLED;
	*error = io_uring_queue_init_params(SQ_ENTRIES, &ring->uring, &params);
	if (*error) {
		free(ring);
		return NULL;
	}
	ring->bufs = bufs;
	ring->now_ms = clock_ms();
	faults_configure(ring);
	/* Saves the look-up of the descriptor at every submission; a refusal costs only that. */
	(void)io_uring_register_ring_fd(&ring->uring);
	for (int size = 0; size < CHUNK_SIZES && !*error; size++)
		*error = lender_open(&ring->lender[size], &ring->uring, bufs, size);
	if (!*error && restricted)
		*error = restrict_ring(ring);
	if (*error) {
		ring_close(ring);
		return NULL;
	}
	return ring;
}

void ring_close(struct ring *ring)
{
	if (!ring)
		return;
	/* The kernel may write into lent chunks until the last receive is over. */
	if (ring->pending) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(&ring->uring);

		if (sqe) {
			io_uring_prep_cancel(sqe, NULL, IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL);
			io_uring_sqe_set_data64(sqe, 0);
			sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
		}
		for (int turns = 0; ring->pending && turns < 1000; turns++)
			ring_turn(ring, ring->now_ms + 10);
	}
	io_uring_queue_exit(&ring->uring);
	for (int size = 0; size < CHUNK_SIZES; size++)
		lender_close(&ring->lender[size], ring->bufs);
	free(ring);
}

/* An SQE always comes: a full queue goes to the kernel first. */
static struct io_uring_sqe *sqe_get(struct ring *ring)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&ring->uring);

	while (!sqe) {
		/* -EBUSY: the completion queue overflows; the kernel keeps what does not fit and takes SQEs again once it is flushed. */
		if (io_uring_submit(&ring->uring) == -EBUSY)
			io_uring_get_events(&ring->uring);
		sqe = io_uring_get_sqe(&ring->uring);
	}
	return sqe;
}

/* An SQE for an operation, to be prepared and handed to submit(). */
static struct io_uring_sqe *sqe_for(struct ring *ring, struct ring_op *op)
{
	op->lends = 0;
	op->records = false;
	return sqe_get(ring);
}

/* Marks the operation as the kernel's. */
static void submit(struct ring *ring, struct io_uring_sqe *sqe, struct ring_op *op)
{
	assert(!op->armed);
	op->armed = true;
	op->cancelled = false;
	op->instead = 0;
	ring->pending++;
	io_uring_sqe_set_data(sqe, op);
	fault(ring, sqe, op);
}

void ring_accept(struct ring *ring, struct ring_op *op, int fd)
{
	struct io_uring_sqe *sqe = sqe_for(ring, op);

	io_uring_prep_multishot_accept(sqe, fd, NULL, NULL, SOCK_CLOEXEC);
	submit(ring, sqe, op);
}

/* An SQE for a receive into chunks of a size, to be prepared and handed to submit_recv(). */
static struct io_uring_sqe *recv_sqe(struct ring *ring, struct ring_op *op, enum chunk_size size)
{
	struct io_uring_sqe *sqe = sqe_for(ring, op);

	op->lends = (uint8_t)(size + 1);
	return sqe;
}

static void submit_recv(struct ring *ring, struct io_uring_sqe *sqe, struct ring_op *op)
{
	struct lender *lender = &ring->lender[op->lends - 1];

	sqe->flags |= IOSQE_BUFFER_SELECT;
	sqe->buf_group = (uint16_t)lender->size;
	submit(ring, sqe, op);
	/* The kernel would say -ENOBUFS at once, whether bytes have come or not, and whoever asks again would spin. */
	if (!lender_refill(lender, ring->bufs))
		replace(sqe, op, -ENOMEM);
}

void ring_recv(struct ring *ring, struct ring_op *op, int fd, enum chunk_size size, bool many)
{
	struct io_uring_sqe *sqe;

	if (!many) {
		ring_recv_up_to(ring, op, fd, size, ring->lender[size].receive);
		return;
	}
	sqe = recv_sqe(ring, op, size);
	io_uring_prep_recv_multishot(sqe, fd, NULL, 0, 0);
	submit_recv(ring, sqe, op);
}

void ring_recv_up_to(struct ring *ring, struct ring_op *op, int fd, enum chunk_size size, size_t n)
{
	struct io_uring_sqe *sqe = recv_sqe(ring, op, size);

	io_uring_prep_recv(sqe, fd, NULL, n < ring->lender[size].receive ? n : ring->lender[size].receive, 0);
	submit_recv(ring, sqe, op);
}

/* The kernel puts struct io_uring_recvmsg_out, then the control message, then the bytes into the chunk. */
enum { RECORD_CONTROL = CMSG_SPACE(1), RECORD_HEAD = sizeof(struct io_uring_recvmsg_out) + RECORD_CONTROL };

void ring_recv_records(struct ring *ring, struct ring_op *op, int fd)
{
	static struct msghdr template = {.msg_controllen = RECORD_CONTROL}; /* only read, when the SQE is */
	struct io_uring_sqe *sqe = recv_sqe(ring, op, CHUNK_SMALL);

	op->records = true;
	io_uring_prep_recvmsg_multishot(sqe, fd, &template, 0);
	submit_recv(ring, sqe, op);
}

void ring_splice(struct ring *ring, struct ring_op *op, int from, int to, size_t n)
{
	struct io_uring_sqe *sqe = sqe_for(ring, op);

	io_uring_prep_splice(sqe, from, -1, to, -1, (unsigned)n, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
	submit(ring, sqe, op);
}

void ring_send(struct ring *ring, struct ring_op *op, int fd, const void *data, size_t n)
{
	struct io_uring_sqe *sqe = sqe_for(ring, op);

	io_uring_prep_send(sqe, fd, data, n, MSG_NOSIGNAL);
	submit(ring, sqe, op);
}

void ring_connect(struct ring *ring, struct ring_op *op, int fd, const struct addr *addr)
{
	struct io_uring_sqe *sqe = sqe_for(ring, op);

	io_uring_prep_connect(sqe, fd, &addr->sa, addr->len);
	submit(ring, sqe, op);
}

void ring_poll(struct ring *ring, struct ring_op *op, int fd, unsigned events, bool many)
{
	struct io_uring_sqe *sqe = sqe_for(ring, op);

	if (many)
		io_uring_prep_poll_multishot(sqe, fd, events);
	else
		io_uring_prep_poll_add(sqe, fd, events);
	submit(ring, sqe, op);
}

void ring_complete(struct ring *ring, struct ring_op *op, int res)
{
	struct io_uring_sqe *sqe = sqe_for(ring, op);

	submit(ring, sqe, op);
	if (!op->instead) /* no fault */
		replace(sqe, op, res);
}

void ring_cancel(struct ring *ring, struct ring_op *op)
{
	struct io_uring_sqe *sqe;

	if (!op->armed || op->cancelled)
		return;
	op->cancelled = true;
	sqe = sqe_get(ring);
	io_uring_prep_cancel(sqe, op, 0);
	io_uring_sqe_set_data64(sqe, 0);
	sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
}

/* The chunk of a receive of records holds more than the bytes: leaves them, and sets `res` to their number as of a plain receive. */
static void take_record(struct ring *ring, struct ring_result *r)
{
	struct io_uring_recvmsg_out out;
	unsigned char type;

	if (!r->chunk)
		return;
	memcpy(&out, r->chunk->data, sizeof(out));
	type = ktls_control_type(r->chunk->data + sizeof(out), out.controllen);
	r->res = (int)ktls_result((long)r->chunk->end - RECORD_HEAD, &type);
	if (r->res > 0) {
		r->chunk->start = RECORD_HEAD;
		r->chunk->content = type;
	} else {
		chunk_put(ring->bufs, r->chunk);
		r->chunk = NULL;
	}
}

static void complete(struct ring *ring, const struct io_uring_cqe *cqe)
{
	struct ring_op *op = io_uring_cqe_get_data(cqe);
	struct ring_result r = {
		.res = cqe->res,
		.more = cqe->flags & IORING_CQE_F_MORE,
		.nonempty = cqe->flags & IORING_CQE_F_SOCK_NONEMPTY,
	};

	if (!op)
		return; /* a cancellation that found nothing */
	if (op->instead)
		r.res = op->instead;
	if (cqe->flags & IORING_CQE_F_BUFFER)
		r.chunk = lender_take(&ring->lender[op->lends - 1], ring->bufs, cqe->flags >> IORING_CQE_BUFFER_SHIFT, cqe->res);
	r.full = r.chunk && r.chunk->end == ring->lender[op->lends - 1].receive;
	if (op->records)
		take_record(ring, &r);
	if (!r.more) {
		op->armed = false;
		ring->pending--;
	}
	op->done(op, &r);
}

/* valgrind 3.19 does not know that io_uring_enter(2) may wait, and lets no other thread run meanwhile: look now and then instead. */
static void wait_for_valgrind(struct ring *ring, struct __kernel_timespec *wait)
{
	struct timespec nap = {.tv_nsec = 2000000};

	io_uring_submit(&ring->uring);
	if (!io_uring_cq_ready(&ring->uring))
		nanosleep(&nap, NULL);
	*wait = (struct __kernel_timespec){0};
}

int ring_turn(struct ring *ring, uint64_t until_ms)
{
	struct io_uring_cqe *cqes[REAP_AT_ONCE];
	struct __kernel_timespec wait = {0};
	unsigned n;
	int r;

	if (until_ms > ring->now_ms) {
		uint64_t ms = until_ms - ring->now_ms;

		wait.tv_sec = (long long)(ms / 1000);
		wait.tv_nsec = (long long)(ms % 1000) * 1000000;
	}
	if (RUNNING_ON_VALGRIND)
		wait_for_valgrind(ring, &wait);
	r = io_uring_submit_and_wait_timeout(&ring->uring, cqes, 1, until_ms == UINT64_MAX && !RUNNING_ON_VALGRIND ? NULL : &wait,
	                                     NULL);
	ring->now_ms = clock_ms();
	if (r < 0 && r != -ETIME && r != -EINTR && r != -EAGAIN && r != -EBUSY)
		return r;
	while ((n = io_uring_peek_batch_cqe(&ring->uring, cqes, REAP_AT_ONCE)) > 0) {
		for (unsigned i = 0; i < n; i++) {
			struct io_uring_cqe copy = *cqes[i];

			complete(ring, &copy);
		}
		io_uring_cq_advance(&ring->uring, n);
	}
	return 0;
}

static void wake(struct ring_op *op, const struct ring_result *result)
{
	struct ring_wait *wait = container_of(op, struct ring_wait, op);

	wait->result = *result;
	coro_resume(wait->coro);
}

static int await(struct ring_wait *wait)
{
	wait->op.done = wake;
	wait->coro = coro_self();
	coro_suspend();
	return wait->result.res;
}

int ring_await_recv(struct ring *ring, struct ring_wait *wait, int fd, struct chunk **chunk)
{
	int res;

	do {
		ring_recv(ring, &wait->op, fd, CHUNK_SMALL, false);
		res = await(wait);
	} while (res == -ENOBUFS && !wait->op.cancelled);
	*chunk = wait->result.chunk;
	return res;
}

int ring_await_send(struct ring *ring, struct ring_wait *wait, int fd, const void *data, size_t n)
{
	ring_send(ring, &wait->op, fd, data, n);
	return await(wait);
}

int ring_await_connect(struct ring *ring, struct ring_wait *wait, int fd, const struct addr *addr)
{
	ring_connect(ring, &wait->op, fd, addr);
	return await(wait);
}

int ring_await_poll(struct ring *ring, struct ring_wait *wait, int fd, unsigned events)
{
	ring_poll(ring, &wait->op, fd, events, false);
	return await(wait);
}
