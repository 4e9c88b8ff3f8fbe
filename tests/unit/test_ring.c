/*
 * Unit tests of ring.h: every operation over socket pairs, cancelling, more of everything than the queues hold, coroutines, want of memory.
 * Run by `make unit`; needs io_uring. The faults need a sanitizer build, which has RING_FAULTS.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ring.h"

#include "coro.h"
#include "list.h"
#include "under_valgrind.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

static struct bufs bufs;
static struct ring *ring;

/* An operation that notes what became of it. */
struct probe {
	struct ring_op op;
	int calls, res;
	bool more, full;
	unsigned content;
	struct queue got;
};

static void note(struct ring_op *op, const struct ring_result *result)
{
	struct probe *p = container_of(op, struct probe, op);

	p->calls++;
	p->res = result->res;
	p->more = result->more;
	p->full = result->full;
	p->content = result->chunk ? result->chunk->content : 0;
	cr_assert_eq(result->more, op->armed);
	cr_assert(!result->chunk || result->res > 0);
	if (result->chunk) {
		cr_assert_eq((int)(result->chunk->end - result->chunk->start), result->res);
		queue_append(&p->got, result->chunk);
	}
}

#define PROBE() ((struct probe){.op.done = note})

static void up(void)
{
	int error;

	ring = ring_open(&bufs, &error);
	cr_assert(ring, "%s", ring_explain(error));
}

static void down(void)
{
	ring_close(ring);
	bufs_free(&bufs); /* asserts that every chunk has come back */
}

TestSuite(ring, .init = up, .fini = down);

static void turn(void)
{
	cr_assert_eq(ring_turn(ring, ring_now_ms(ring) + 2000), 0);
}

/* Turns until the operation has completed so often. */
static void wait_for(struct probe *p, int calls)
{
	for (int i = 0; i < 100 && p->calls < calls; i++)
		turn();
	cr_assert_eq(p->calls, calls);
}

static void socket_pair(int fd[2])
{
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd), 0);
}

static void put(int fd, const void *data, size_t n)
{
	cr_assert_eq(write(fd, data, n), (ssize_t)n);
}

/* Takes what a probe has received; compares. */
static void expect(struct probe *p, const void *data, size_t n)
{
	char *got = malloc(n + 1);

	cr_assert_eq(p->got.bytes, n);
	cr_assert_eq(queue_read(&p->got, &bufs, got, n), n);
	cr_assert_eq(memcmp(got, data, n), 0);
	free(got);
}

static int listener(struct addr *addr)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	memset(addr, 0, sizeof(*addr));
	addr->in.sin_family = AF_INET;
	addr->in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	addr->len = sizeof(addr->in);
	cr_assert_eq(bind(fd, &addr->sa, addr->len), 0);
	cr_assert_eq(listen(fd, 100), 0);
	cr_assert_eq(getsockname(fd, &addr->sa, &addr->len), 0);
	return fd;
}

Test(ring, nothing_to_do)
{
	uint64_t before = ring_now_ms(ring);

	cr_assert_eq(ring_pending(ring), 0);
	cr_assert_eq(ring_turn(ring, 0), 0);
	for (int turns = 0; ring_now_ms(ring) < before + 30; turns++) { /* one, but a signal may end it early */
		cr_assert_eq(ring_turn(ring, before + 30), 0);
		cr_assert_lt(turns, valgrind() ? 30 : 10);
	}
	ring_close(NULL);
}

Test(ring, errors_are_explained)
{
	cr_assert(strstr(ring_explain(-EPERM), "io_uring_disabled"));
	cr_assert(strstr(ring_explain(-ENOSYS), "6.1"));
	cr_assert(strstr(ring_explain(-EINVAL), "6.1"));
	cr_assert_str_eq(ring_explain(-EIO), strerror(EIO));
}

Test(ring, one_receive)
{
	struct probe p = PROBE();
	int fd[2];

	socket_pair(fd);
	ring_recv(ring, &p.op, fd[0], CHUNK_SMALL, false);
	cr_assert(p.op.armed);
	cr_assert_eq(ring_pending(ring), 1);
	cr_assert_eq(ring_turn(ring, 0), 0);
	cr_assert_eq(p.calls, 0, "waits for bytes");
	put(fd[1], "hello", 5);
	wait_for(&p, 1);
	expect(&p, "hello", 5);
	cr_assert_not(p.more);
	cr_assert_eq(ring_pending(ring), 0);

	close(fd[1]);
	ring_recv(ring, &p.op, fd[0], CHUNK_SMALL, false);
	wait_for(&p, 2);
	cr_assert_eq(p.res, 0, "end of stream");
	close(fd[0]);
	ring_recv(ring, &p.op, 1000000, CHUNK_BIG, false);
	wait_for(&p, 3);
	cr_assert_eq(p.res, -EBADF);
}

Test(ring, a_receive_fills_a_chunk_of_its_size)
{
	static char data[2 * CHUNK_BIG_RECEIVE];
	struct probe p = PROBE();
	int fd[2];

	memset(data, 'x', sizeof(data));
	socket_pair(fd);
	put(fd[1], data, sizeof(data));
	ring_recv(ring, &p.op, fd[0], CHUNK_SMALL, false);
	wait_for(&p, 1);
	expect(&p, data, CHUNK_SMALL_ROOM);
	ring_recv(ring, &p.op, fd[0], CHUNK_BIG, false);
	wait_for(&p, 2);
	expect(&p, data, CHUNK_BIG_RECEIVE);
	ring_recv(ring, &p.op, fd[0], CHUNK_BIG, false);
	wait_for(&p, 3);
	expect(&p, data, sizeof(data) - CHUNK_SMALL_ROOM - CHUNK_BIG_RECEIVE);
	close(fd[0]);
	close(fd[1]);
}

/* One receive of so many bytes and no more, whatever waits. */
Test(ring, receives_up_to)
{
	static char data[CHUNK_BIG_RECEIVE + 20000];
	struct probe p = PROBE();
	size_t left = sizeof(data);
	int fd[2];

	memset(data, 'x', sizeof(data));
	socket_pair(fd);
	put(fd[1], data, sizeof(data));
	for (size_t n = 1; n < 5000; n = n * 3 + 1) {
		size_t wanted = n < CHUNK_SMALL_ROOM ? n : CHUNK_SMALL_ROOM;

		ring_recv_up_to(ring, &p.op, fd[0], CHUNK_SMALL, n);
		wait_for(&p, p.calls + 1);
		cr_assert_not(p.more);
		cr_assert_eq(p.full, wanted == CHUNK_SMALL_ROOM);
		expect(&p, data, wanted);
		left -= wanted;
	}
	ring_recv_up_to(ring, &p.op, fd[0], CHUNK_BIG, SIZE_MAX);
	wait_for(&p, p.calls + 1);
	cr_assert(p.full);
	expect(&p, data, CHUNK_BIG_RECEIVE);
	left -= CHUNK_BIG_RECEIVE;
	ring_recv_up_to(ring, &p.op, fd[0], CHUNK_BIG, left + 1);
	wait_for(&p, p.calls + 1);
	cr_assert_not(p.full);
	expect(&p, data, left);
	close(fd[0]);
	close(fd[1]);
}

/* A socket that is not one of kernel TLS gives bytes in the manner of records, too. */
Test(ring, receives_records)
{
	static char data[3 * CHUNK_SMALL_BYTES];
	struct probe p = PROBE();
	int fd[2];

	memset(data, 'x', sizeof(data));
	socket_pair(fd);
	ring_recv_records(ring, &p.op, fd[0]);
	for (int i = 1; i <= 3; i++) {
		put(fd[1], "abc", 3);
		wait_for(&p, i);
		cr_assert(p.more && p.op.armed && !p.full);
		cr_assert_eq(p.content, 0);
		expect(&p, "abc", 3);
	}
	put(fd[1], data, sizeof(data));
	for (int i = 0; i < 10 && p.got.bytes < sizeof(data); i++)
		turn();
	expect(&p, data, sizeof(data));
	close(fd[1]);
	wait_for(&p, p.calls + 1);
	cr_assert(p.res == 0 && !p.more);
	close(fd[0]);
}

Test(ring, splices)
{
	struct probe p = PROBE();
	char got[16] = "";
	int fd[2], pipe_fd[2];

	socket_pair(fd);
	cr_assert_eq(pipe2(pipe_fd, O_NONBLOCK | O_CLOEXEC), 0);
	put(fd[1], "hello", 5);
	ring_splice(ring, &p.op, fd[0], pipe_fd[1], 65536);
	wait_for(&p, 1);
	cr_assert(p.res == 5 && !p.more && !p.op.armed);
	ring_splice(ring, &p.op, pipe_fd[0], fd[0], 3);
	wait_for(&p, 2);
	cr_assert_eq(p.res, 3);
	ring_splice(ring, &p.op, pipe_fd[0], fd[0], 65536);
	wait_for(&p, 3);
	cr_assert_eq(p.res, 2);
	cr_assert_eq(read(fd[1], got, sizeof(got)), 5);
	cr_assert_str_eq(got, "hello");
	ring_splice(ring, &p.op, pipe_fd[0], fd[0], 65536);
	wait_for(&p, 4);
	cr_assert_eq(p.res, -EAGAIN, "an empty pipe is not waited for");
	close(fd[1]);
	ring_splice(ring, &p.op, fd[0], pipe_fd[1], 65536);
	wait_for(&p, 5);
	cr_assert_eq(p.res, 0, "end of stream");
	close(fd[0]);
	close(pipe_fd[0]);
	close(pipe_fd[1]);
}

/* A system call's result comes like any other: in the next turn, once, and the operation is free again. */
Test(ring, completes_what_was_done_at_once)
{
	struct probe p = PROBE();

	for (int res = -2; res <= 2; res++) {
		if (res == 0)
			continue;
		p.calls = 0;
		ring_complete(ring, &p.op, res);
		cr_assert(p.op.armed && p.calls == 0 && ring_pending(ring) == 1);
		wait_for(&p, 1);
		cr_assert(p.res == res && !p.more && !p.op.armed && ring_pending(ring) == 0);
	}
	/* and what comes next is not taken for it */
	ring_poll(ring, &p.op, eventfd(1, EFD_CLOEXEC), POLLIN, false);
	wait_for(&p, 2);
	cr_assert_eq(p.res, POLLIN);
	/* a cancellation comes too late, or not; the result is not lost in between */
	ring_complete(ring, &p.op, 7);
	ring_cancel(ring, &p.op);
	wait_for(&p, 3);
	cr_assert_eq(p.res, 7);
}

Test(ring, receives_until_cancelled)
{
	struct probe p = PROBE();
	int fd[2];

	socket_pair(fd);
	ring_recv(ring, &p.op, fd[0], CHUNK_SMALL, true);
	for (int i = 1; i <= 3; i++) {
		put(fd[1], "abc", 3);
		wait_for(&p, i);
		cr_assert(p.more && p.op.armed);
	}
	expect(&p, "abcabcabc", 9);
	ring_cancel(ring, &p.op);
	ring_cancel(ring, &p.op);
	cr_assert(p.op.cancelled);
	wait_for(&p, 4);
	cr_assert_eq(p.res, -ECANCELED);
	cr_assert_not(p.op.armed);
	ring_cancel(ring, &p.op); /* harmless */
	put(fd[1], "late", 4);
	ring_recv(ring, &p.op, fd[0], CHUNK_SMALL, true); /* may be used again */
	cr_assert_not(p.op.cancelled);
	wait_for(&p, 5);
	expect(&p, "late", 4);
	close(fd[1]);
	wait_for(&p, 6);
	cr_assert(p.res == 0 && !p.more);
	close(fd[0]);
}

/* The result was faster than the cancellation: nothing is lost. */
Test(ring, cancelled_too_late)
{
	struct probe p = PROBE();
	int fd[2];

	socket_pair(fd);
	put(fd[1], "x", 1);
	ring_recv(ring, &p.op, fd[0], CHUNK_SMALL, false);
	ring_cancel(ring, &p.op);
	wait_for(&p, 1);
	expect(&p, "x", 1);
	cr_assert_eq(ring_turn(ring, 0), 0);
	cr_assert_eq(p.calls, 1);
	close(fd[0]);
	close(fd[1]);
}

Test(ring, sends)
{
	struct probe p = PROBE();
	char got[8] = "";
	int fd[2];

	socket_pair(fd);
	ring_send(ring, &p.op, fd[0], "hello", 5);
	wait_for(&p, 1);
	cr_assert_eq(p.res, 5);
	cr_assert_eq(read(fd[1], got, sizeof(got)), 5);
	cr_assert_str_eq(got, "hello");
	close(fd[1]);
	ring_send(ring, &p.op, fd[0], "hello", 5);
	wait_for(&p, 2);
	cr_assert_eq(p.res, -EPIPE); /* and no SIGPIPE */
	close(fd[0]);
}

Test(ring, a_send_to_a_full_socket_can_be_cancelled)
{
	static char data[1 << 22];
	struct probe p = PROBE();
	int fd[2];

	socket_pair(fd);
	while (send(fd[0], data, sizeof(data), MSG_DONTWAIT) > 0)
		continue;
	ring_send(ring, &p.op, fd[0], data, sizeof(data));
	cr_assert_eq(ring_turn(ring, ring_now_ms(ring) + 20), 0);
	cr_assert_eq(p.calls, 0);
	ring_cancel(ring, &p.op);
	wait_for(&p, 1);
	cr_assert_eq(p.res, -ECANCELED);
	close(fd[0]);
	close(fd[1]);
}

Test(ring, connects_and_accepts)
{
	struct probe accepting = PROBE(), connecting = PROBE();
	struct addr addr;
	int fd = listener(&addr), client[3], server;

	ring_accept(ring, &accepting.op, fd);
	for (int i = 0; i < 3; i++) {
		client[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		ring_connect(ring, &connecting.op, client[i], &addr);
		wait_for(&connecting, i + 1);
		cr_assert_eq(connecting.res, 0);
		wait_for(&accepting, i + 1);
		server = accepting.res;
		cr_assert(server >= 0 && accepting.more);
		put(client[i], "?", 1);
		cr_assert_eq(read(server, &(char){0}, 1), 1);
		close(server);
		close(client[i]);
	}
	ring_cancel(ring, &accepting.op);
	wait_for(&accepting, 4);
	cr_assert_eq(accepting.res, -ECANCELED);
	close(fd);
	client[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ring_connect(ring, &connecting.op, client[0], &addr);
	wait_for(&connecting, 4);
	cr_assert_eq(connecting.res, -ECONNREFUSED);
	close(client[0]);
}

Test(ring, a_reset_is_an_error)
{
	static const struct linger abort_at_once = {.l_onoff = 1};
	struct probe p = PROBE();
	struct addr addr;
	int fd = listener(&addr), client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), server;

	cr_assert_eq(connect(client, &addr.sa, addr.len), 0);
	server = accept(fd, NULL, NULL);
	ring_recv(ring, &p.op, server, CHUNK_SMALL, true);
	setsockopt(client, SOL_SOCKET, SO_LINGER, &abort_at_once, sizeof(abort_at_once));
	close(client);
	wait_for(&p, 1);
	cr_assert(p.res == -ECONNRESET && !p.more);
	close(server);
	close(fd);
}

Test(ring, polls)
{
	struct probe p = PROBE();
	uint64_t one = 1;
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	ring_poll(ring, &p.op, fd, POLLIN, true);
	for (int i = 1; i <= 3; i++) {
		put(fd, &one, sizeof(one));
		wait_for(&p, i);
		cr_assert(p.more && (p.res & POLLIN));
	}
	ring_cancel(ring, &p.op);
	wait_for(&p, 4);
	ring_poll(ring, &p.op, fd, POLLIN, false);
	wait_for(&p, 5);
	cr_assert(!p.more && (p.res & POLLIN));
	close(fd);
}

/* More operations than the submission queue holds, all at once. */
Test(ring, a_full_queue_is_handed_over_early)
{
	enum { MANY = 5000 };
	struct probe *p = calloc(MANY, sizeof(*p));
	uint64_t one = 1;
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	for (int i = 0; i < MANY; i++) {
		p[i] = PROBE();
		ring_poll(ring, &p[i].op, fd, POLLIN, false);
	}
	cr_assert_eq(ring_pending(ring), MANY);
	put(fd, &one, sizeof(one));
	while (ring_pending(ring))
		turn();
	for (int i = 0; i < MANY; i++)
		cr_assert_eq(p[i].calls, 1);
	close(fd);
	free(p);
}

/* More completions at once than the completion queue holds: none is lost. */
Test(ring, a_full_completion_queue)
{
	enum { MANY = 20000 };
	struct probe *p = calloc(MANY, sizeof(*p));
	uint64_t one = 1;
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	for (int i = 0; i < MANY; i++) {
		p[i] = PROBE();
		ring_poll(ring, &p[i].op, fd, POLLIN, false);
	}
	cr_assert_eq(ring_turn(ring, 0), 0);
	put(fd, &one, sizeof(one));
	for (int i = 0; i < 1000 && ring_pending(ring); i++)
		turn();
	cr_assert_eq(ring_pending(ring), 0);
	for (int i = 0; i < MANY; i++)
		cr_assert_eq(p[i].calls, 1);
	close(fd);
	free(p);
}

/* A receiver that asks again when others took the chunks, as relay.c does. */
struct receiver {
	struct probe probe;
	int fd[2];
};

static void receive_again(struct ring_op *op, const struct ring_result *result)
{
	struct receiver *r = container_of(op, struct receiver, probe.op);

	note(op, result);
	if (result->res == -ENOBUFS)
		ring_recv(ring, op, r->fd[0], CHUNK_SMALL, true);
}

/* More sockets with bytes than chunks are lent. */
Test(ring, chunks_run_out_for_a_moment)
{
	enum { SOCKETS = 700 };
	struct receiver *r = calloc(SOCKETS, sizeof(*r));
	size_t got = 0;

	for (int i = 0; i < SOCKETS; i++) {
		r[i].probe.op.done = receive_again;
		socket_pair(r[i].fd);
		ring_recv(ring, &r[i].probe.op, r[i].fd[0], CHUNK_SMALL, true);
	}
	cr_assert_eq(ring_turn(ring, 0), 0);
	for (int i = 0; i < SOCKETS; i++)
		put(r[i].fd[1], "12345", 5);
	for (int turns = 0; turns < 100 && got < 5 * SOCKETS; turns++) {
		turn();
		got = 0;
		for (int i = 0; i < SOCKETS; i++)
			got += r[i].probe.got.bytes;
	}
	for (int i = 0; i < SOCKETS; i++) {
		expect(&r[i].probe, "12345", 5);
		cr_assert(r[i].probe.op.armed);
		ring_cancel(ring, &r[i].probe.op);
	}
	while (ring_pending(ring))
		turn();
	for (int i = 0; i < SOCKETS; i++) {
		close(r[i].fd[0]);
		close(r[i].fd[1]);
	}
	free(r);
}

/* What is under way when the ring is closed ends first, and its chunks come back. */
Test(ring, closing_with_operations_under_way)
{
	static struct probe p[4];
	int fd[2];

	socket_pair(fd);
	for (int i = 0; i < 4; i++)
		p[i] = PROBE();
	ring_recv(ring, &p[0].op, fd[0], CHUNK_SMALL, true);
	ring_recv(ring, &p[1].op, fd[1], CHUNK_BIG, false);
	ring_poll(ring, &p[2].op, fd[0], POLLIN, true);
	cr_assert_eq(ring_turn(ring, 0), 0);
	ring_poll(ring, &p[3].op, fd[1], POLLIN, false); /* not even submitted */
	ring_close(ring);
	ring = NULL;
	for (int i = 0; i < 4; i++)
		cr_assert(p[i].calls == 1 && p[i].res == -ECANCELED && !p[i].op.armed);
	close(fd[0]);
	close(fd[1]);
}

/* --- coroutines --- */

struct talk {
	int fd;
	struct ring_wait wait;
	struct addr addr;
	int connected, sent, received, ended;
	char got[64];
	bool over;
};

static void converse(void *arg)
{
	struct talk *t = arg;
	struct chunk *chunk;

	t->connected = ring_await_connect(ring, &t->wait, t->fd, &t->addr);
	t->sent = ring_await_send(ring, &t->wait, t->fd, "hello", 5);
	t->received = ring_await_recv(ring, &t->wait, t->fd, &chunk);
	if (chunk)
		memcpy(t->got, chunk->data, chunk->end);
	chunk_put(&bufs, chunk);
	t->ended = ring_await_recv(ring, &t->wait, t->fd, &chunk);
	cr_assert_null(chunk);
	t->over = true;
}

static void turn_until(const bool *over)
{
	for (int i = 0; i < 100 && !*over; i++)
		turn();
	cr_assert(*over);
}

Test(ring, a_coroutine_connects_sends_and_receives)
{
	struct coro_pool *coros = coro_pool_new(CORO_STACK_DEFAULT, 4);
	struct talk t = {.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
	int fd = listener(&t.addr), server;
	char got[8] = "";

	cr_assert_eq(coro_start(coros, converse, &t), 0);
	while (!t.sent)
		turn();
	server = accept(fd, NULL, NULL);
	cr_assert_eq(read(server, got, sizeof(got)), 5);
	put(server, "welcome", 7);
	close(server);
	turn_until(&t.over);
	cr_assert(t.connected == 0 && t.sent == 5 && t.received == 7 && t.ended == 0);
	cr_assert_str_eq(t.got, "welcome");
	close(fd);
	close(t.fd);
	coro_pool_free(coros);
}

Test(ring, a_coroutine_is_interrupted)
{
	struct coro_pool *coros = coro_pool_new(CORO_STACK_DEFAULT, 4);
	struct talk t = {.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
	int fd = listener(&t.addr);

	cr_assert_eq(coro_start(coros, converse, &t), 0);
	while (!t.sent)
		turn();
	ring_cancel(ring, &t.wait.op);
	while (!t.received)
		turn();
	cr_assert_eq(t.received, -ECANCELED);
	ring_cancel(ring, &t.wait.op);
	turn_until(&t.over);
	cr_assert_eq(t.ended, -ECANCELED);
	close(fd);
	close(t.fd);
	coro_pool_free(coros);
}

/* --- faults --- */

#ifdef RING_FAULTS
Test(ring, operations_fail_to_order)
{
	struct probe p = PROBE();
	int fd[2];

	socket_pair(fd);
	ring_fail_nth(ring, 2, -EIO, false);
	ring_send(ring, &p.op, fd[0], "1", 1);
	wait_for(&p, 1);
	cr_assert_eq(p.res, 1);
	ring_recv(ring, &p.op, fd[1], CHUNK_SMALL, true);
	wait_for(&p, 2);
	cr_assert(p.res == -EIO && !p.more);
	ring_recv(ring, &p.op, fd[1], CHUNK_SMALL, false);
	wait_for(&p, 3);
	expect(&p, "1", 1);

	ring_fail_nth(ring, 2, -ENOMEM, true);
	for (int i = 4; i < 10; i++) {
		ring_send(ring, &p.op, fd[0], "1", 1);
		wait_for(&p, i);
		cr_assert_eq(p.res, i % 2 ? -ENOMEM : 1);
	}
	ring_fail_nth(ring, 0, 0, false);
	close(fd[0]);
	close(fd[1]);
}

Test(ring, system_calls_fail_to_order)
{
	struct probe p = PROBE();

	cr_assert_eq(ring_fault(ring), 0);
	ring_fail_nth(ring, 2, -EIO, false);
	cr_assert_eq(ring_fault(ring), 0);
	cr_assert_eq(ring_fault(ring), -EIO);
	cr_assert_eq(ring_fault(ring), 0);
	ring_fail_nth(ring, 2, -ENOMEM, true);
	for (int i = 0; i < 6; i++)
		cr_assert_eq(ring_fault(ring), i % 2 ? -ENOMEM : 0);
	/* they count together with the ring's own */
	ring_fail_nth(ring, 2, -EIO, false);
	cr_assert_eq(ring_fault(ring), 0);
	ring_complete(ring, &p.op, 5);
	wait_for(&p, 1);
	cr_assert_eq(p.res, -EIO);
	ring_complete(ring, &p.op, 5);
	wait_for(&p, 2);
	cr_assert_eq(p.res, 5);
}

/* Without a single chunk to lend, a receive fails at once, and works again when there is memory. */
Test(ring, no_memory_for_chunks)
{
	struct probe p = PROBE();
	int fd[2], received = 0;

	socket_pair(fd);
	chunk_fail_nth(1, 1UL << 40);
	ring_recv(ring, &p.op, fd[0], CHUNK_SMALL, true);
	for (int i = 1; p.op.armed; i++) { /* each byte takes one of the chunks that are lent */
		put(fd[1], "x", 1);
		wait_for(&p, i);
		received += p.res > 0;
		cr_assert_lt(i, 10000);
	}
	cr_assert_eq(p.res, -ENOBUFS);
	cr_assert_gt(received, 10);
	for (int i = 0; i < 3; i++) {
		int calls = p.calls;

		ring_recv(ring, &p.op, fd[0], CHUNK_SMALL, i % 2);
		wait_for(&p, calls + 1);
		cr_assert(p.res == -ENOMEM && !p.more);
	}
	queue_clear(&p.got, &bufs);
	chunk_fail_nth(0, 0);
	ring_recv(ring, &p.op, fd[0], CHUNK_SMALL, false);
	wait_for(&p, p.calls + 1);
	expect(&p, "x", 1); /* the byte that was left in the socket */
	close(fd[0]);
	close(fd[1]);
}

Test(ring, opened_without_memory_for_chunks)
{
	struct bufs mine = {0};
	struct ring *second;
	int error;

	chunk_fail_nth(1, 1000);
	second = ring_open(&mine, &error);
	chunk_fail_nth(0, 0);
	cr_assert_not_null(second);
	ring_close(second);
	bufs_free(&mine);
}
#endif
