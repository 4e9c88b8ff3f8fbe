/*
 * What io_uring does with sockets of kernel TLS; one line each, to compare kernels with. A program of its own, without arguments.
 * kernel-notes/ktls.md, multishot.md and splice.md say what follows from each line; bench/ktls_facts.c is the same for system calls.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "facts.h"
#include "ktls_link.h"

#include <dirent.h>
#include <liburing.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <sys/utsname.h>

enum { GROUP = 1, BUFS = 16, BUF_SIZE = 20480, SENDMSG_ZC = 48 };

static struct io_uring ring;
static struct io_uring_buf_ring *provided;
static char memory[BUFS][BUF_SIZE], room[4 << 20];
static struct link l;
static struct msghdr header = {.msg_controllen = CMSG_SPACE(1)};

/* --- the ring --- */

static void lend(int id)
{
	io_uring_buf_ring_add(provided, memory[id], BUF_SIZE, (unsigned short)id, io_uring_buf_ring_mask(BUFS), 0);
	io_uring_buf_ring_advance(provided, 1);
}

static void ring_open_new(void)
{
	struct io_uring_params params = {.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN};
	struct io_uring_buf_reg reg = {.ring_entries = BUFS, .bgid = GROUP};

	errno = -io_uring_queue_init_params(64, &ring, &params);
	check(errno == 0, "io_uring");
	provided = mmap(NULL, BUFS * sizeof(struct io_uring_buf), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	check(provided != MAP_FAILED, "mmap");
	reg.ring_addr = (uintptr_t)provided;
	errno = -io_uring_register_buf_ring(&ring, &reg, 0);
	check(errno == 0, "io_uring_register_buf_ring");
	io_uring_buf_ring_init(provided);
	for (int i = 0; i < BUFS; i++)
		lend(i);
}

/* "120 type 23, goes on": what a receive by recvmsg has put into its buffer. */
static void tell_message(const char *step, int res, int id)
{
	struct io_uring_recvmsg_out *out = io_uring_recvmsg_validate(memory[id], res, &header);
	struct cmsghdr *control = out ? io_uring_recvmsg_cmsg_firsthdr(out, &header) : NULL;
	char text[64];

	if (out)
		snprintf(text, sizeof(text), "%d = %u type %d", res, io_uring_recvmsg_payload_length(out, res, &header),
		         control ? *CMSG_DATA(control) : 0);
	told(step, out ? text : "something short");
}

/* The next completion within so many milliseconds, told. Returns the result, or NOTHING. */
static int next_ms(const char *step, long ms, bool message)
{
	struct __kernel_timespec limit = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
	struct io_uring_cqe *cqe, copy;
	char text[64];

	if (io_uring_submit_and_wait_timeout(&ring, &cqe, 1, &limit, NULL) < 0 || io_uring_peek_cqe(&ring, &cqe) != 0) {
		told(step, "nothing");
		return NOTHING;
	}
	copy = *cqe;
	io_uring_cqe_seen(&ring, cqe);
	if (message && copy.res >= 0 && (copy.flags & IORING_CQE_F_BUFFER)) {
		tell_message(step, copy.res, (int)(copy.flags >> IORING_CQE_BUFFER_SHIFT));
	} else {
		snprintf(text, sizeof(text), "%s%s", outcome(copy.res), copy.flags & IORING_CQE_F_NOTIF ? " (notification)" : "");
		told(step, text);
	}
	if (copy.flags & IORING_CQE_F_BUFFER)
		lend((int)(copy.flags >> IORING_CQE_BUFFER_SHIFT));
	if (copy.flags & IORING_CQE_F_MORE)
		printf(" (goes on)");
	return copy.res;
}

static int next(const char *step)
{
	return next_ms(step, 100, false);
}

static void next_message(const char *step)
{
	(void)next_ms(step, 100, true);
}

static void cancel_all(void)
{
	struct io_uring_cqe *cqe;
	struct __kernel_timespec limit = {.tv_nsec = 50000000};

	io_uring_prep_cancel(io_uring_get_sqe(&ring), NULL, IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL);
	while (io_uring_submit_and_wait_timeout(&ring, &cqe, 1, &limit, NULL) >= 0 && io_uring_peek_cqe(&ring, &cqe) == 0) {
		if (cqe->flags & IORING_CQE_F_BUFFER)
			lend((int)(cqe->flags >> IORING_CQE_BUFFER_SHIFT));
		io_uring_cqe_seen(&ring, cqe);
	}
}

static int io_workers(void)
{
	DIR *tasks = opendir("/proc/self/task");
	struct dirent *task;
	int n = 0;

	while (tasks && (task = readdir(tasks)) != NULL) {
		char path[300], name[32] = "";
		FILE *file;

		snprintf(path, sizeof(path), "/proc/self/task/%s/comm", task->d_name);
		file = fopen(path, "r");
		if (file && fgets(name, sizeof(name), file) && strncmp(name, "iou-wrk", 7) == 0)
			n++;
		if (file)
			fclose(file);
	}
	if (tasks)
		closedir(tasks);
	return n;
}

static long cpu_ms(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000 + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1000;
}

/* --- receiving --- */

static void recv_once(void)
{
	io_uring_prep_recv(io_uring_get_sqe(&ring), l.near, room, sizeof(room), 0);
}

static void recv_many(void)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);

	io_uring_prep_recv_multishot(sqe, l.near, NULL, 0, 0);
	sqe->flags |= IOSQE_BUFFER_SELECT;
	sqe->buf_group = GROUP;
}

static void recvmsg_many(unsigned flags, unsigned ioprio)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);

	io_uring_prep_recvmsg_multishot(sqe, l.near, &header, flags);
	sqe->flags |= IOSQE_BUFFER_SELECT;
	sqe->buf_group = GROUP;
	sqe->ioprio |= (unsigned short)ioprio;
}

/* Not of the many kind: the kernel writes into the header, so that it needs one of its own. */
static void recvmsg_once(unsigned flags)
{
	static struct iovec iov = {.iov_base = room, .iov_len = sizeof(room)};
	static char control[CMSG_SPACE(1)];
	static struct msghdr own;

	own = (struct msghdr){.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
	io_uring_prep_recvmsg(io_uring_get_sqe(&ring), l.near, &own, flags);
}

static void receives(void)
{
	about("RECV: data, alert");
	link_open(&l, KTLS_13);
	seal(&l, DATA, "hello", 5);
	seal(&l, ALERT, close_notify, 2);
	send_sealed(&l);
	for (int i = 0; i < 3; i++) {
		recv_once();
		next("recv");
	}
	link_close(&l);
	about("RECV pending while the keys are installed");
	link_plain(&l, KTLS_13);
	recv_once();
	io_uring_submit(&ring);
	check(ktls_attach(l.near) == 0 && install(&l, KTLS_RECEIVE, KEY_IN) == 0, "keys");
	send_record(&l, DATA, "hello", 5);
	next("recv (5: decrypted)");
	link_close(&l);
	about("multishot RECV: data, alert");
	link_open(&l, KTLS_13);
	recv_many();
	send_record(&l, DATA, "hello", 5);
	next("recv");
	send_record(&l, ALERT, close_notify, 2);
	next("recv");
	link_close(&l);
	about("RECV: empty data, alert");
	link_open(&l, KTLS_13);
	seal(&l, DATA, "", 0);
	seal(&l, ALERT, close_notify, 2);
	send_sealed(&l);
	recv_once();
	next("recv");
	link_close(&l);
}

static void records(void)
{
	about("multishot RECVMSG: data, handshake, 16384, alert, end");
	link_open(&l, KTLS_13);
	recvmsg_many(0, 0);
	send_record(&l, DATA, "hello", 5);
	next_message("recvmsg");
	send_record(&l, HANDSHAKE, "\4\0\0\1x", 5);
	next_message("recvmsg");
	send_record(&l, DATA, room, 16384);
	next_message("recvmsg");
	send_record(&l, ALERT, close_notify, 2);
	next_message("recvmsg");
	shutdown(l.far, SHUT_WR);
	next_message("recvmsg");
	link_close(&l);
	about("multishot RECVMSG: 5 data + alert + data at once");
	link_open(&l, KTLS_13);
	recvmsg_many(0, 0);
	for (int i = 0; i < 5; i++)
		seal(&l, DATA, room, 100);
	seal(&l, ALERT, close_notify, 2);
	seal(&l, DATA, room, 100);
	send_sealed(&l);
	for (int i = 0; i < 4; i++)
		next_message("recvmsg");
	cancel_all();
	link_close(&l);
}

static void empty_and_bad_records(void)
{
	about("multishot RECVMSG: empty data, alert");
	link_open(&l, KTLS_13);
	recvmsg_many(0, 0);
	seal(&l, DATA, "", 0);
	seal(&l, ALERT, close_notify, 2);
	send_sealed(&l);
	for (int i = 0; i < 3; i++)
		next_message("recvmsg");
	cancel_all();
	link_close(&l);
	about("multishot RECVMSG: an empty data record alone, then data");
	link_open(&l, KTLS_13);
	recvmsg_many(0, 0);
	send_record(&l, DATA, "", 0);
	next_message("recvmsg");
	send_record(&l, DATA, "abc", 3);
	next_message("recvmsg");
	cancel_all();
	link_close(&l);
	about("multishot RECVMSG: a wrong tag");
	link_open(&l, KTLS_13);
	recvmsg_many(0, 0);
	seal(&l, DATA, "hello", 5);
	l.record[10] ^= 1;
	send_sealed(&l);
	next_message("recvmsg");
	cancel_all();
	link_close(&l);
}

static void key_updates(void)
{
	about("multishot RECVMSG: KeyUpdate, record under the new key");
	link_open(&l, KTLS_13);
	recvmsg_many(0, 0);
	send_record(&l, HANDSHAKE, key_update, sizeof(key_update));
	next_message("recvmsg");
	next_message("recvmsg");
	seal_with(&l, KEY_IN_NEXT);
	send_record(&l, DATA, "new", 3);
	next_message("recvmsg");
	told("TLS_RX", outcome(install(&l, KTLS_RECEIVE, KEY_IN_NEXT)));
	next_message("recvmsg");
	recvmsg_many(0, 0);
	next_message("asked again");
	cancel_all();
	link_close(&l);
	about("  both at once");
	link_open(&l, KTLS_13);
	seal(&l, HANDSHAKE, key_update, sizeof(key_update));
	seal_with(&l, KEY_IN_NEXT);
	seal(&l, DATA, "new", 3);
	send_sealed(&l);
	recvmsg_many(0, 0);
	next_message("recvmsg");
	next_message("recvmsg");
	told("TLS_RX", outcome(install(&l, KTLS_RECEIVE, KEY_IN_NEXT)));
	recvmsg_many(0, 0);
	next_message("asked again");
	cancel_all();
	link_close(&l);
}

/* A partial record is there, and an operation is asked for: what comes, and what it costs to wait for half a second. */
static void partial(const char *what, void (*ask)(void), bool message)
{
	int workers;
	long cpu;

	about(what);
	link_open(&l, KTLS_13);
	seal(&l, DATA, room, 5000);
	send_part(&l, 1000);
	workers = io_workers();
	cpu = cpu_ms();
	ask();
	next_ms("half a record", 500, message);
	send_part(&l, 1000);
	next_ms("more of it", 500, message);
	told("CPU ms in this second", outcome(cpu_ms() - cpu));
	told("new io workers", outcome(io_workers() - workers));
	send_sealed(&l);
	next_ms("the rest", 500, message);
	cancel_all();
	link_close(&l);
}

static void ask_recvmsg_many(void)
{
	recvmsg_many(0, 0);
}

static void ask_recvmsg_many_poll_first(void)
{
	recvmsg_many(0, IORING_RECVSEND_POLL_FIRST);
}

static void ask_recvmsg_many_dontwait(void)
{
	recvmsg_many(MSG_DONTWAIT, 0);
}

static void ask_recvmsg(void)
{
	recvmsg_once(0);
}

static void ask_recvmsg_dontwait(void)
{
	recvmsg_once(MSG_DONTWAIT);
}

static void ask_recv_nonblocking(void)
{
	fcntl(l.near, F_SETFL, O_NONBLOCK);
	recv_once();
}

static void ask_recvmsg_many_nonblocking(void)
{
	fcntl(l.near, F_SETFL, O_NONBLOCK);
	recvmsg_many(0, 0);
}

static void ask_poll_many(void)
{
	io_uring_prep_poll_multishot(io_uring_get_sqe(&ring), l.near, POLLIN);
}

static void partials(void)
{
	partial("half a record: RECV", recv_once, false);
	partial("half a record: RECV, O_NONBLOCK", ask_recv_nonblocking, false);
	partial("half a record: multishot RECV", recv_many, false);
	partial("half a record: RECVMSG", ask_recvmsg, false);
	partial("half a record: RECVMSG, MSG_DONTWAIT", ask_recvmsg_dontwait, false);
	partial("half a record: multishot RECVMSG", ask_recvmsg_many, true);
	partial("half a record: multishot RECVMSG, POLL_FIRST", ask_recvmsg_many_poll_first, true);
	partial("half a record: multishot RECVMSG, MSG_DONTWAIT", ask_recvmsg_many_dontwait, true);
	partial("half a record: multishot RECVMSG, O_NONBLOCK", ask_recvmsg_many_nonblocking, true);
	partial("half a record: multishot POLL", ask_poll_many, false);
}

/* The operation is armed while the socket is idle, and then the record comes in parts. */
static void partial_when_armed(void)
{
	long cpu;
	int workers = io_workers();

	about("multishot RECVMSG armed, then a record in parts");
	link_open(&l, KTLS_13);
	recvmsg_many(0, 0);
	next_message("idle");
	seal(&l, DATA, room, 5000);
	cpu = cpu_ms();
	send_part(&l, 1000);
	next_ms("half a record", 500, true);
	send_part(&l, 1000);
	next_ms("more of it", 500, true);
	told("CPU ms in this second", outcome(cpu_ms() - cpu));
	told("new io workers", outcome(io_workers() - workers));
	send_sealed(&l);
	next_message("the rest");
	seal(&l, DATA, room, 5000);
	send_part(&l, 1000);
	next_message("half a record");
	shutdown(l.far, SHUT_WR);
	next_message("and the end");
	cancel_all();
	link_close(&l);
}

/* --- sending --- */

static void sending(void)
{
	struct iovec iov = {.iov_base = room, .iov_len = 1000};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	struct io_uring_sqe *sqe;

	about("SEND of 50000, with MSG_MORE, with MSG_WAITALL");
	link_open(&l, KTLS_13);
	io_uring_prep_send(io_uring_get_sqe(&ring), l.near, room, 50000, MSG_NOSIGNAL);
	next("send");
	io_uring_prep_send(io_uring_get_sqe(&ring), l.near, room, 10, MSG_MORE);
	next("send");
	io_uring_prep_send(io_uring_get_sqe(&ring), l.near, room, 10, MSG_WAITALL);
	next("send");
	about("SEND_ZC, SENDMSG_ZC");
	io_uring_prep_send_zc(io_uring_get_sqe(&ring), l.near, room, 1000, 0, 0);
	next("send_zc");
	next("send_zc");
	sqe = io_uring_get_sqe(&ring);
	io_uring_prep_sendmsg(sqe, l.near, &msg, 0);
	sqe->opcode = SENDMSG_ZC;
	next("sendmsg_zc");
	next("sendmsg_zc");
	about("SENDMSG, WRITE");
	io_uring_prep_sendmsg(io_uring_get_sqe(&ring), l.near, &msg, 0);
	next("sendmsg");
	io_uring_prep_write(io_uring_get_sqe(&ring), l.near, room, 1000, 0);
	next("write");
	link_close(&l);
	about("SEND of 4 MiB, nobody reads");
	link_open(&l, KTLS_13);
	io_uring_prep_send(io_uring_get_sqe(&ring), l.near, room, sizeof(room), MSG_NOSIGNAL);
	next_ms("send", 300, false);
	io_uring_prep_send(io_uring_get_sqe(&ring), l.near, room, 1000, MSG_NOSIGNAL);
	next_ms("send of 1000", 300, false);
	told("alert by sendmsg(2) meanwhile", outcome(ktls_write_record(l.near, ALERT, close_notify, 2)));
	for (int i = 0; i < 400 && recv(l.far, room, sizeof(room), MSG_DONTWAIT) > 0; i++)
		usleep(1000);
	next_ms("when the peer reads", 300, false);
	cancel_all();
	link_close(&l);
}

/* --- splice --- */

static void splice_op(int in, int out, unsigned n, unsigned flags)
{
	io_uring_prep_splice(io_uring_get_sqe(&ring), in, -1, out, -1, n, flags);
}

static void splices(void)
{
	int p[2], workers = io_workers();

	about("SPLICE: socket to pipe, pipe to socket");
	link_open(&l, KTLS_13);
	check(pipe(p) == 0, "pipe");
	seal(&l, DATA, room, 16384);
	seal(&l, DATA, room, 1000);
	send_sealed(&l);
	splice_op(l.near, p[1], 65536, 0);
	next("splice");
	told("new io workers", outcome(io_workers() - workers));
	splice_op(p[0], l.near, 16384, 0);
	next("splice");
	splice_op(l.near, p[1], 65536, SPLICE_F_NONBLOCK);
	next("NONBLOCK");
	splice_op(l.near, p[1], 65536, SPLICE_F_NONBLOCK);
	next("NONBLOCK, idle");
	about("4 x SPLICE of an idle socket, then an alert");
	workers = io_workers();
	for (int i = 0; i < 4; i++)
		splice_op(l.near, p[1], 65536, 0);
	next("splice");
	told("new io workers", outcome(io_workers() - workers));
	send_record(&l, ALERT, close_notify, 2);
	for (int i = 0; i < 4; i++)
		next("splice");
	cancel_all();
	link_close(&l);
	about("cancel of a SPLICE of an idle socket");
	link_open(&l, KTLS_13);
	splice_op(l.near, p[1], 65536, 0);
	next("splice");
	io_uring_prep_cancel(io_uring_get_sqe(&ring), NULL, IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL);
	next("one");
	next("other");
	cancel_all();
	link_close(&l);
	close(p[0]);
	close(p[1]);
}

/* --- setsockopt through the ring: SOCKET_URING_OP_SETSOCKOPT --- */

static void setsockopt_op(int level, int name, const void *value, size_t n)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);

	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = l.near;
	sqe->off = 3;
	sqe->addr = (uint64_t)(uint32_t)level | (uint64_t)(uint32_t)name << 32;
	sqe->file_index = (uint32_t)n;
	sqe->addr3 = (uintptr_t)value;
}

static void set_up_by_the_ring(void)
{
	struct tls12_crypto_info_aes_gcm_128 info = {.info = {TLS_1_3_VERSION, TLS_CIPHER_AES_GCM_128}};

	about("setsockopt by URING_CMD");
	link_plain(&l, KTLS_13);
	setsockopt_op(IPPROTO_TCP, TCP_ULP, "tls", 4);
	next("TCP_ULP");
	setsockopt_op(SOL_TLS, TLS_TX, &info, sizeof(info));
	next("TLS_TX");
	link_close(&l);
}

int main(void)
{
	struct utsname name;

	uname(&name);
	about("kernel");
	told(name.sysname, name.release);
	ktls_probe();
	if (ktls_support()->error) {
		about(ktls_explain(ktls_support()->error));
		about_end();
		return 1;
	}
	ring_open_new();
	receives();
	records();
	empty_and_bad_records();
	key_updates();
	partials();
	partial_when_armed();
	sending();
	splices();
	set_up_by_the_ring();
	about_end();
	io_uring_queue_exit(&ring);
	return 0;
}
