/*
 * What io_uring can do: see ring_probe.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ring_probe.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

/* liburing 2.3 does not know these. */
enum {
	FEATURE_RECVSEND_BUNDLE = 1 << 14, /* Linux 6.10 */
	BUFFERS_INCREMENTAL = 2,           /* Linux 6.12: IOU_PBUF_RING_INC */
	SOCKET_SETSOCKOPT = 3,             /* Linux 6.7: SOCKET_URING_OP_SETSOCKOPT */
};

enum { BUFFERS = 4, BUFFER_ROOM = 256, GROUP = 1, GROUP_INCREMENTAL = 2 };

struct probe {
	struct io_uring uring;
	struct io_uring_buf_ring *lent, *incremental;
	int pair[2], pipe[2];
	uint64_t trial;
	char byte, room[BUFFERS][BUFFER_ROOM];
};

/* --- asking ------------------------------------------------------------------------------------------------------------------------- */

/* The operation is that of this trial. */
static void ask(struct probe *p, struct io_uring_sqe *sqe)
{
	io_uring_sqe_set_data64(sqe, ++p->trial);
}

/* This trial's next completion, within a second. What earlier ones have left is passed over. */
static bool next(struct probe *p, struct io_uring_cqe *cqe)
{
	struct __kernel_timespec limit = {.tv_sec = 1};
	struct io_uring_cqe *at;

	do {
		if (io_uring_submit_and_wait_timeout(&p->uring, &at, 1, &limit, NULL) < 0 ||
		    io_uring_peek_cqe(&p->uring, &at) != 0)
			return false;
		*cqe = *at;
		io_uring_cqe_seen(&p->uring, at);
	} while (cqe->user_data != p->trial);
	return true;
}

static bool comes_to(struct probe *p, int res)
{
	struct io_uring_cqe cqe;

	return next(p, &cqe) && cqe.res == res;
}

/* Ends what goes on, so that it does not take the next trial's bytes. */
static void quiet(struct probe *p)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&p->uring);

	io_uring_prep_cancel(sqe, NULL, IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL);
	io_uring_sqe_set_data64(sqe, 0);
	io_uring_submit(&p->uring);
}

/* --- what is tried ------------------------------------------------------------------------------------------------------------------ */

/* `flags` lies where liburing 2.3 has padding. */
static bool lend(struct probe *p, struct io_uring_buf_ring **lent, int group, uint16_t flags)
{
	struct io_uring_buf_reg reg = {.ring_entries = BUFFERS, .bgid = (uint16_t)group};
	struct io_uring_buf_ring *br =
		mmap(NULL, BUFFERS * sizeof(struct io_uring_buf), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (br == MAP_FAILED)
		return false;
	*lent = br;
	reg.ring_addr = (uintptr_t)br;
	memcpy((char *)&reg + offsetof(struct io_uring_buf_reg, bgid) + sizeof(reg.bgid), &flags, sizeof(flags));
	if (io_uring_register_buf_ring(&p->uring, &reg, 0) != 0)
		return false;
	io_uring_buf_ring_init(br);
	for (int id = 0; id < BUFFERS; id++)
		io_uring_buf_ring_add(br, p->room[id], BUFFER_ROOM, (unsigned short)id, io_uring_buf_ring_mask(BUFFERS), id);
	io_uring_buf_ring_advance(br, BUFFERS);
	return true;
}

/* Two connected sockets, the second of them accepted through the ring. Returns whether the accept went on. */
static bool pair_by_accept(struct probe *p)
{
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(addr);
	struct io_uring_sqe *sqe;
	struct io_uring_cqe cqe;
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool many = false;

	p->pair[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (listener < 0 || p->pair[0] < 0 || bind(listener, (struct sockaddr *)&addr, len) < 0 || listen(listener, 1) < 0 ||
	    getsockname(listener, (struct sockaddr *)&addr, &len) < 0 || connect(p->pair[0], (struct sockaddr *)&addr, len) < 0)
		goto out;
	sqe = io_uring_get_sqe(&p->uring);
	io_uring_prep_multishot_accept(sqe, listener, NULL, NULL, SOCK_CLOEXEC);
	ask(p, sqe);
	if (next(p, &cqe) && cqe.res >= 0) {
		p->pair[1] = cqe.res;
		many = cqe.flags & IORING_CQE_F_MORE;
	} else {
		p->pair[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	}
	quiet(p);
out:
	if (listener >= 0)
		close(listener);
	return many;
}

/* Whether a receive of the many kind takes a byte, to `res`, and goes on. */
static bool receives(struct probe *p, int res)
{
	struct io_uring_cqe cqe;
	bool goes_on = write(p->pair[0], "x", 1) == 1 && next(p, &cqe) && cqe.res == res && (cqe.flags & IORING_CQE_F_MORE);

	quiet(p);
	return goes_on;
}

static bool recv_many(struct probe *p)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&p->uring);

	io_uring_prep_recv_multishot(sqe, p->pair[1], NULL, 0, 0);
	sqe->flags |= IOSQE_BUFFER_SELECT;
	sqe->buf_group = GROUP;
	ask(p, sqe);
	return receives(p, 1);
}

static bool recvmsg_many(struct probe *p)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&p->uring);
	struct msghdr msg = {.msg_controllen = CMSG_SPACE(1)};

	io_uring_prep_recvmsg_multishot(sqe, p->pair[1], &msg, 0);
	sqe->flags |= IOSQE_BUFFER_SELECT;
	sqe->buf_group = GROUP;
	ask(p, sqe);
	return receives(p, (int)(sizeof(struct io_uring_recvmsg_out) + CMSG_SPACE(1) + 1));
}

static bool send_zc(struct probe *p)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&p->uring);

	io_uring_prep_send_zc(sqe, p->pair[0], &p->byte, 1, 0, 0);
	ask(p, sqe);
	return comes_to(p, 1);
}

static bool splices(struct probe *p)
{
	struct io_uring_sqe *sqe;

	if (pipe2(p->pipe, O_CLOEXEC) < 0 || write(p->pipe[1], "x", 1) != 1)
		return false;
	sqe = io_uring_get_sqe(&p->uring);
	io_uring_prep_splice(sqe, p->pipe[0], -1, p->pair[0], -1, 1, 0);
	ask(p, sqe);
	return comes_to(p, 1);
}

static bool sets_options(struct probe *p)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&p->uring);
	int yes = 1;

	io_uring_prep_nop(sqe); /* clears it */
	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = p->pair[0];
	sqe->off = SOCKET_SETSOCKOPT;
	sqe->addr = (uint64_t)SOL_SOCKET | (uint64_t)SO_KEEPALIVE << 32;
	sqe->file_index = sizeof(yes);
	sqe->addr3 = (uintptr_t)&yes;
	ask(p, sqe);
	return comes_to(p, 0);
}

static void try_everything(struct probe *p, bool *has)
{
	has[RING_DEFER_TASKRUN] = true;
	has[RING_REGISTERED] = io_uring_register_ring_fd(&p->uring) == 1;
	has[RING_BUNDLES] = p->uring.features & FEATURE_RECVSEND_BUNDLE;
	has[RING_BUFFERS] = lend(p, &p->lent, GROUP, 0);
	has[RING_INCREMENTAL] = lend(p, &p->incremental, GROUP_INCREMENTAL, BUFFERS_INCREMENTAL);
	has[RING_ACCEPT_MANY] = pair_by_accept(p);
	has[RING_RECV_MANY] = recv_many(p);
	has[RING_RECVMSG_MANY] = recvmsg_many(p);
	has[RING_SEND_ZC] = send_zc(p);
	has[RING_SPLICE] = splices(p);
	has[RING_SETSOCKOPT] = sets_options(p);
}

static void probe_close(struct probe *p)
{
	io_uring_queue_exit(&p->uring);
	for (int i = 0; i < 2; i++) {
		if (p->pair[i] >= 0)
			close(p->pair[i]);
		if (p->pipe[i] >= 0)
			close(p->pipe[i]);
	}
	if (p->lent)
		munmap(p->lent, BUFFERS * sizeof(struct io_uring_buf));
	if (p->incremental)
		munmap(p->incremental, BUFFERS * sizeof(struct io_uring_buf));
}

void ring_probe(struct ring_support *support)
{
	struct io_uring_params params = {.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
	                                          IORING_SETUP_SUBMIT_ALL};
	struct probe p = {.pair = {-1, -1}, .pipe = {-1, -1}};

	*support = (struct ring_support){0};
	support->error = io_uring_queue_init_params(16, &p.uring, &params);
	if (support->error)
		return;
	try_everything(&p, support->has);
	probe_close(&p);
}
