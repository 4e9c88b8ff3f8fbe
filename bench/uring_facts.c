/*
 * What this kernel's io_uring does in the cases that the proxy is built around; one line each, to compare kernels with.
 * A program of its own, without arguments. kernel-notes/io_uring.md and its neighbours say what follows.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "facts.h"

#include <liburing.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>

enum { GROUP = 1, BUFS = 4, BUF_SIZE = 1024 };

static struct io_uring ring;
static struct io_uring_buf_ring *provided;
static char memory[BUFS][BUF_SIZE];
static unsigned flags_of_last;

static int ring_new(struct io_uring *r, unsigned flags)
{
	struct io_uring_params params = {.flags = flags};

	return io_uring_queue_init_params(64, r, &params);
}

/* The result of the next completion, or NOTHING after 50 ms. */
static int next(void)
{
	struct __kernel_timespec limit = {.tv_nsec = 50000000};
	struct io_uring_cqe *cqe;
	int res;

	if (io_uring_submit_and_wait_timeout(&ring, &cqe, 1, &limit, NULL) < 0 || io_uring_peek_cqe(&ring, &cqe) != 0)
		return NOTHING;
	res = cqe->res;
	flags_of_last = cqe->flags;
	io_uring_cqe_seen(&ring, cqe);
	return res;
}

static const char *more(void)
{
	return flags_of_last & IORING_CQE_F_MORE ? "goes on" : "ended";
}

static void lend(int n)
{
	for (int i = 0; i < n; i++)
		io_uring_buf_ring_add(provided, memory[i], BUF_SIZE, (unsigned short)i, io_uring_buf_ring_mask(BUFS), i);
	io_uring_buf_ring_advance(provided, n);
}

/* A new ring with n buffers lent to it. */
static void fresh(int n)
{
	struct io_uring_buf_reg reg = {.ring_entries = BUFS, .bgid = GROUP};

	io_uring_queue_exit(&ring);
	errno = -ring_new(&ring, IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN);
	check(errno == 0, "io_uring");
	reg.ring_addr = (uintptr_t)provided;
	errno = -io_uring_register_buf_ring(&ring, &reg, 0);
	check(errno == 0, "io_uring_register_buf_ring");
	io_uring_buf_ring_init(provided);
	lend(n);
}

static void receive(int fd, int multishot, unsigned ioprio)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);

	if (multishot)
		io_uring_prep_recv_multishot(sqe, fd, NULL, 0, 0);
	else
		io_uring_prep_recv(sqe, fd, NULL, BUF_SIZE, 0);
	sqe->flags |= IOSQE_BUFFER_SELECT;
	sqe->buf_group = GROUP;
	sqe->ioprio |= (unsigned short)ioprio;
}

/* --- facts --- */

static void set_up(void)
{
	static const struct {
		const char *name;
		unsigned flags;
	} kinds[] = {
		{"plain", 0},
		{"SINGLE_ISSUER", IORING_SETUP_SINGLE_ISSUER},
		{"SINGLE_ISSUER | DEFER_TASKRUN", IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN},
		{"DEFER_TASKRUN alone", IORING_SETUP_DEFER_TASKRUN},
	};

	for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++) {
		struct io_uring r;
		int res = ring_new(&r, kinds[i].flags);
		char what[80];

		snprintf(what, sizeof(what), "ring, %s", kinds[i].name);
		fact(what, "%s", outcome(res));
		if (res == 0)
			io_uring_queue_exit(&r);
	}
}

static void *submit_elsewhere(void *arg)
{
	int *res = arg;

	io_uring_prep_nop(io_uring_get_sqe(&ring));
	*res = io_uring_submit(&ring);
	return NULL;
}

static void other_thread(void)
{
	pthread_t thread;
	int res;

	fresh(0);
	pthread_create(&thread, NULL, submit_elsewhere, &res);
	pthread_join(thread, NULL);
	fact("submitting from another thread", "%s", outcome(res));
	fresh(0);
	fact("registering the ring's own descriptor (how many)", "%s", outcome(io_uring_register_ring_fd(&ring)));
}

static void completions_wait_for_an_enter(void)
{
	struct io_uring_cqe *cqe;
	int pair[2];

	fresh(1);
	tcp_pair(pair);
	receive(pair[0], 0, 0);
	io_uring_submit(&ring);
	check(write(pair[1], "x", 1) == 1, "write");
	usleep(10000);
	fact("completions visible without entering the kernel for them", "%s",
	     io_uring_peek_cqe(&ring, &cqe) == 0 ? "yes" : "no");
	close(pair[0]);
	close(pair[1]);
}

static void no_buffers(void)
{
	int pair[2], res;

	fresh(0);
	tcp_pair(pair);
	receive(pair[0], 0, IORING_RECVSEND_POLL_FIRST);
	fact("one recv, POLL_FIRST, no buffers, idle socket", "%s", outcome(next()));
	check(write(pair[1], "x", 1) == 1, "write");
	fact("... when a byte comes", "%s", outcome(next()));
	receive(pair[0], 0, 0);
	lend(1);
	fact("one recv, a buffer given in the same submission", "%s", outcome(next()));
	fresh(0);
	receive(pair[0], 1, 0);
	res = next();
	fact("multishot recv, no buffers, idle socket", "%s, %s", outcome(res), more());
	fresh(0);
	receive(pair[0], 1, IORING_RECVSEND_POLL_FIRST);
	fact("multishot recv, POLL_FIRST, no buffers, idle socket", "%s", outcome(next()));
	close(pair[1]);
	fact("... end of stream", "%s", outcome(next()));
	close(pair[0]);
}

static void buffers_run_out(void)
{
	int pair[2], res;

	fresh(1);
	tcp_pair(pair);
	check(write(pair[1], "x", 1) == 1, "write");
	receive(pair[0], 1, 0);
	res = next();
	fact("multishot recv takes the last buffer", "%s, %s", outcome(res), more());
	res = next();
	fact("... then, with nothing to receive", "%s", outcome(res));
	check(write(pair[1], "y", 1) == 1, "write");
	res = next();
	fact("... when another byte comes", "%s, %s", outcome(res), more());
	lend(1);
	fact("... a buffer given later, without asking again", "%s", outcome(next()));
	receive(pair[0], 1, 0);
	res = next();
	fact("... asked for again", "%s, %s", outcome(res), more());
	close(pair[0]);
	close(pair[1]);
}

static void end_of_stream(void)
{
	int pair[2], res;

	fresh(1);
	tcp_pair(pair);
	close(pair[1]);
	receive(pair[0], 1, 0);
	res = next();
	fact("multishot recv, end of stream", "%s, %s, %s", outcome(res), more(),
	     flags_of_last & IORING_CQE_F_BUFFER ? "with a buffer" : "without a buffer");
	fresh(0);
	receive(pair[0], 0, IORING_RECVSEND_POLL_FIRST);
	fact("one recv, end of stream, no buffers", "%s", outcome(next()));
	close(pair[0]);
}

static void nonempty(void)
{
	char big[BUF_SIZE + 1] = {0};
	int pair[2];

	fresh(2);
	tcp_pair(pair);
	check(write(pair[1], big, sizeof(big)) == (ssize_t)sizeof(big), "write");
	for (int left = 1; left >= 0; left--) {
		receive(pair[0], 0, 0);
		(void)next();
		fact(left ? "F_SOCK_NONEMPTY while a byte is left" : "F_SOCK_NONEMPTY on the last byte", "%s",
		     flags_of_last & IORING_CQE_F_SOCK_NONEMPTY ? "set" : "not set");
	}
	close(pair[0]);
	close(pair[1]);
}

static int connect_to(const struct sockaddr_in *addr)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	check(connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) == 0, "connect");
	return fd;
}

/* Leaves room for one more descriptor; the limit that was is returned. */
static struct rlimit one_descriptor_left(void)
{
	struct rlimit old, tight;
	int lowest = dup(0);

	close(lowest);
	getrlimit(RLIMIT_NOFILE, &old);
	tight = old;
	tight.rlim_cur = (rlim_t)lowest + 1;
	setrlimit(RLIMIT_NOFILE, &tight);
	return old;
}

static void accept_many(int fd)
{
	io_uring_prep_multishot_accept(io_uring_get_sqe(&ring), fd, NULL, NULL, SOCK_CLOEXEC);
}

static void descriptors_run_out(void)
{
	struct sockaddr_in addr;
	struct rlimit old;
	int fd, client[3], res, last;

	fresh(0);
	fd = listener(&addr);
	for (int i = 0; i < 3; i++)
		client[i] = connect_to(&addr);
	old = one_descriptor_left();
	accept_many(fd);
	res = next();
	fact("multishot accept, one descriptor left", "%s", res >= 0 ? "accepted" : outcome(res));
	res = next();
	fact("... and none", "%s, %s", outcome(res), more());
	accept_many(fd);
	res = next();
	fact("... asked for again at once", "%s, %s", outcome(res), more());
	setrlimit(RLIMIT_NOFILE, &old);
	fact("... descriptors are free again, not asked", "%s", outcome(next()));
	accept_many(fd);
	res = next();
	last = next();
	fact("... asked for again: of 3 connections", "%d accepted", 1 + (res >= 0) + (last >= 0 && last != NOTHING));
	for (int i = 0; i < 3; i++)
		close(client[i]);
	close(fd);
	fact("close of a listener with an accept armed", "%s", outcome(next()));
	io_uring_prep_cancel(io_uring_get_sqe(&ring), NULL, IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL);
	res = next();
	last = next();
	fact("cancel of everything: the two completions", "%s, %s", outcome(res), outcome(last));
}

/* How long a child's port stays taken after the child is gone: microseconds, the longest of `runs`. */
static long port_taken_us(int tidy, int runs)
{
	struct sockaddr_in addr;
	long longest = 0;

	close(listener(&addr)); /* a free port; no connection was made, so nothing of it lingers */
	for (int run = 0; run < runs; run++) {
		struct timespec t0, t;
		pid_t pid = fork();
		int fd, one = 1;

		if (pid == 0) {
			fd = socket(AF_INET, SOCK_STREAM, 0);
			setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
			if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) != 0 || listen(fd, 10) != 0 ||
			    ring_new(&ring, IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN) != 0)
				_exit(1);
			io_uring_prep_multishot_accept(io_uring_get_sqe(&ring), fd, NULL, NULL, 0);
			io_uring_submit(&ring);
			if (tidy) {
				io_uring_prep_cancel(io_uring_get_sqe(&ring), NULL,
				                     IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL);
				(void)next();
				(void)next();
				close(fd);
			}
			_exit(0);
		}
		waitpid(pid, NULL, 0);
		clock_gettime(CLOCK_MONOTONIC, &t0);
		do {
			fd = socket(AF_INET, SOCK_STREAM, 0);
			setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
			one = bind(fd, (struct sockaddr *)&addr, sizeof(addr));
			close(fd);
			clock_gettime(CLOCK_MONOTONIC, &t);
			if (one != 0)
				usleep(20);
		} while (one != 0 && t.tv_sec - t0.tv_sec < 5);
		if ((t.tv_sec - t0.tv_sec) * 1000000 + (t.tv_nsec - t0.tv_nsec) / 1000 > longest)
			longest = (t.tv_sec - t0.tv_sec) * 1000000 + (t.tv_nsec - t0.tv_nsec) / 1000;
	}
	return longest;
}

/* --- ways not taken --- */

enum { REPORT_USAGE = 8, SENDS = 100 }; /* Linux 6.2: IORING_SEND_ZC_REPORT_USAGE; liburing 2.3 does not know it */

/* Of SENDS zero-copy sends over loopback, how many were copies after all; or why it does not say. */
static void zero_copy(unsigned size)
{
	static char bytes[1 << 20];
	int pair[2], res = 0, copied = 0;
	char what[80];

	fresh(0);
	tcp_pair(pair);
	for (int i = 0; i < SENDS && res >= 0; i++) {
		io_uring_prep_send_zc(io_uring_get_sqe(&ring), pair[0], bytes, size, 0, REPORT_USAGE);
		res = next();
		for (ssize_t got, left = res; left > 0; left -= got)
			got = read(pair[1], bytes, sizeof(bytes));
		copied += res >= 0 && flags_of_last & IORING_CQE_F_MORE && next() < 0;
	}
	snprintf(what, sizeof(what), "SEND_ZC of %u over loopback, of %d copied all the same", size, SENDS);
	fact(what, "%s", res < 0 ? outcome(res) : outcome(copied));
	close(pair[0]);
	close(pair[1]);
}

static double us_since(const struct timespec *t0)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)(t.tv_sec - t0->tv_sec) * 1e6 + (double)(t.tv_nsec - t0->tv_nsec) / 1e3;
}

static void splices(void)
{
	enum { TIMES = 2000 };
	char byte[1024] = {0};
	int from[2], to[2], pair[2], cancelled;
	struct timespec t0;
	double us[2];

	fresh(0);
	check(pipe(from) == 0 && pipe(to) == 0, "pipe");
	for (int by_ring = 0; by_ring < 2; by_ring++) {
		clock_gettime(CLOCK_MONOTONIC, &t0);
		for (int i = 0; i < TIMES; i++) {
			check(write(from[1], byte, sizeof(byte)) == sizeof(byte), "write");
			if (by_ring) {
				io_uring_prep_splice(io_uring_get_sqe(&ring), from[0], -1, to[1], -1, sizeof(byte), 0);
				check(next() == sizeof(byte), "SPLICE");
			} else {
				check(splice(from[0], NULL, to[1], NULL, sizeof(byte), 0) == sizeof(byte), "splice");
			}
			check(read(to[0], byte, sizeof(byte)) == sizeof(byte), "read");
		}
		us[by_ring] = us_since(&t0) / TIMES;
	}
	fact("1 KiB from pipe to pipe: splice(2), SPLICE by the ring", "%.1f us, %.1f us", us[0], us[1]);
	tcp_pair(pair);
	io_uring_prep_splice(io_uring_get_sqe(&ring), pair[0], -1, to[1], -1, 1024, 0);
	fact("SPLICE of an idle socket", "%s", outcome(next()));
	io_uring_prep_cancel(io_uring_get_sqe(&ring), NULL, IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL);
	cancelled = next();
	fact("... cancelled: the two completions", "%s, %s", outcome(cancelled), outcome(next()));
	for (int i = 0; i < 2; i++) {
		close(from[i]);
		close(to[i]);
		close(pair[i]);
	}
}

int main(void)
{
	struct utsname name;

	uname(&name);
	fact("kernel", "%s", name.release);
	set_up();
	provided = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	check(provided != MAP_FAILED, "mmap");
	errno = -ring_new(&ring, 0);
	check(errno == 0, "io_uring");
	other_thread();
	completions_wait_for_an_enter();
	no_buffers();
	buffers_run_out();
	end_of_stream();
	nonempty();
	descriptors_run_out();
	zero_copy(1024);
	zero_copy(16384);
	zero_copy(65536);
	splices();
	io_uring_queue_exit(&ring);
	fact("port taken after exit with an accept armed, longest of 200", "%ld us", port_taken_us(0, 200));
	fact("port taken after cancel, close and exit, longest of 200", "%ld us", port_taken_us(1, 200));
	return 0;
}
