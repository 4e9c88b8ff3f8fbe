/*
 * What splice(2) does from and to a socket with kernel TLS, and what a pipe holds; one line each, to compare kernels with.
 * A program of its own, without arguments. kernel-notes/splice.md says what follows from each line; bench/ktls_uring_facts.c has the operation of io_uring.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ktls_steps.h"

#include <signal.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

static void no_op(int signal_number)
{
	(void)signal_number;
}

/* Splices full pipes into the socket until it takes no more; a signal ends what waits. */
static void splice_into_full(const char *what, bool nonblocking, unsigned flags)
{
	struct sigaction action = {.sa_handler = no_op};
	int p[2], left = 0, waited;
	long all = 0, n, piped, got;

	about(what);
	sigaction(SIGALRM, &action, NULL);
	link_open(&l, KTLS_13);
	check(pipe(p) == 0, "pipe");
	if (nonblocking)
		fcntl(l.near, F_SETFL, O_NONBLOCK);
	do {
		piped = write(p[1], zeros, 65536);
		alarm(2);
		n = splice(p[0], NULL, l.near, NULL, 65536, flags);
		if (n < 0)
			n = -errno;
		else
			all += n;
		waited = alarm(0) == 0;
	} while (n == 65536 && piped == 65536);
	told("the last splice", outcome(n));
	told("waited for a signal", waited ? "yes" : "no");
	check(ioctl(p[0], FIONREAD, &left) == 0, "FIONREAD");
	told("left in the pipe", outcome(left));
	about("  once more, without waiting");
	fcntl(l.near, F_SETFL, O_NONBLOCK);
	alarm(2);
	n = splice(p[0], NULL, l.near, NULL, 65536, SPLICE_F_NONBLOCK);
	told("splice", outcome(n < 0 ? -errno : n));
	alarm(0);
	got = drain_far();
	all += n > 0 ? n : 0;
	told("held back", outcome(got >= all ? 0 : all - got));
	close(p[0]);
	close(p[1]);
	link_close(&l);
}

static void splices_out(void)
{
	int p[2];

	about("splice of 64 KiB from an idle socket");
	link_open(&l, KTLS_13);
	check(pipe(p) == 0, "pipe");
	splice_out(p[1]);
	about("  from records of 1000, 1000, 16384");
	for (int i = 0; i < 2; i++)
		seal(&l, DATA, zeros, 1000);
	seal(&l, DATA, zeros, 16384);
	send_sealed(&l);
	for (int i = 0; i < 4; i++)
		splice_out(p[1]);
	check(read(p[0], room, sizeof(room)) > 0, "read");
	about("  from half a record, and the end of the stream");
	seal(&l, DATA, zeros, 3000);
	send_part(&l, 1000);
	splice_out(p[1]);
	shutdown(l.far, SHUT_WR);
	wait_a_little();
	splice_out(p[1]);
	link_close(&l);
	about("  of 16384 into a pipe of one page");
	link_open(&l, KTLS_13);
	fcntl(p[1], F_SETPIPE_SZ, 4096);
	seal(&l, DATA, zeros, 16384);
	send_sealed(&l);
	splice_out(p[1]);
	splice_out(p[1]);
	take();
	close(p[0]);
	close(p[1]);
	link_close(&l);
}

/* How much a pipe takes of records of one size; a pipe has 16 slots, whatever lies in them. */
static void pipe_holds(const char *what, size_t size)
{
	int p[2], records = 0;
	long n, all = 0;

	about(what);
	link_open(&l, KTLS_13);
	check(pipe(p) == 0, "pipe");
	for (int i = 0; i < 24; i++) {
		seal(&l, DATA, zeros, size);
		send_sealed(&l);
	}
	while ((n = splice(l.near, NULL, p[1], NULL, 65536, SPLICE_F_NONBLOCK)) > 0) {
		all += n;
		records++;
	}
	told("splices", outcome(records));
	told("bytes", outcome(all));
	told("then", outcome(n < 0 ? -errno : n));
	close(p[0]);
	close(p[1]);
	link_close(&l);
}

/* The same from a socket without TLS that has a megabyte. */
static void pipe_holds_plain(void)
{
	int p[2];
	long n, all = 0;

	about("a pipe takes of a plain socket with 1 MiB");
	link_plain(&l, KTLS_13);
	check(pipe(p) == 0, "pipe");
	for (int i = 0; i < 16; i++)
		(void)!send(l.far, zeros, 65536, MSG_DONTWAIT);
	wait_a_little();
	while ((n = splice(l.near, NULL, p[1], NULL, 1 << 20, SPLICE_F_NONBLOCK)) > 0) {
		all += n;
		told("splice", outcome(n));
	}
	told("bytes", outcome(all));
	close(p[0]);
	close(p[1]);
	link_close(&l);
}

/* fs.pipe-user-pages-soft: how many pipes an unprivileged user gets before they become smaller. */
static void small_pipes(void)
{
	struct rlimit most;
	int p[2], pipes = 0, size = 65536, status;
	pid_t pid;

	about("pipes of an unprivileged user");
	pid = fork();
	if (pid != 0) {
		check(pid > 0 && waitpid(pid, &status, 0) == pid, "fork");
		return;
	}
	getrlimit(RLIMIT_NOFILE, &most);
	most.rlim_cur = most.rlim_max;
	setrlimit(RLIMIT_NOFILE, &most);
	if (setuid(65534) == 0)
		while (pipes < 5000 && pipe(p) == 0 && (size = fcntl(p[1], F_GETPIPE_SZ)) == 65536)
			pipes++;
	told("of 64 KiB", outcome(pipes));
	told("the next", outcome(size));
	_exit(0);
}

/* An end of the stream is 0 as well. */
static void empty_record_without_type(void)
{
	int p[2];

	about("1.3: empty data, alert, without room for the type");
	link_open(&l, KTLS_13);
	check(pipe(p) == 0, "pipe");
	seal(&l, DATA, "", 0);
	seal(&l, ALERT, close_notify, 2);
	send_sealed(&l);
	plain_recv();
	plain_recv();
	link_close(&l);
	about("1.3: data of 0, 3 and splice");
	link_open(&l, KTLS_13);
	seal(&l, DATA, "", 0);
	seal(&l, DATA, "abc", 3);
	send_sealed(&l);
	for (int i = 0; i < 3; i++)
		splice_out(p[1]);
	close(p[0]);
	close(p[1]);
	link_close(&l);
}

static void splices_in(const char *what, size_t each, unsigned flags)
{
	int p[2];

	about(what);
	link_open(&l, KTLS_13);
	check(pipe(p) == 0, "pipe");
	for (int i = 0; i < 4; i++) {
		check(write(p[1], zeros, each) == (ssize_t)each, "write");
		check(splice(p[0], NULL, l.near, NULL, each, flags) == (ssize_t)each, "splice");
	}
	wire();
	if (flags & SPLICE_F_MORE) {
		send_n(1, 0);
		wire();
	}
	close(p[0]);
	close(p[1]);
	link_close(&l);
}

int main(void)
{
	if (!facts_begin())
		return 1;
	splices_out();
	pipe_holds("a pipe takes records of 1 byte", 1);
	pipe_holds("  of 1000", 1000);
	pipe_holds("  of 4096", 4096);
	pipe_holds("  of 16384", 16384);
	pipe_holds_plain();
	small_pipes();
	empty_record_without_type();
	splices_in("splice of 4 x 1000 into the socket", 1000, 0);
	splices_in("  with SPLICE_F_MORE", 1000, SPLICE_F_MORE);
	splices_in("splice of 4 x 49152 into the socket", 49152, 0);
	splice_into_full("splice into a full socket, SPLICE_F_NONBLOCK alone", false, SPLICE_F_NONBLOCK);
	splice_into_full("  O_NONBLOCK and SPLICE_F_NONBLOCK", true, SPLICE_F_NONBLOCK);
	splice_into_full("  O_NONBLOCK alone", true, 0);
	return facts_end();
}
