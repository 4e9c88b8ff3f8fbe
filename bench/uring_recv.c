/*
 * What receiving costs a relay on io_uring: multishot or one receive at a time, buffer sizes, sends through the ring or by system call.
 * A program of its own: `uring_recv ping|bulk [connections [rounds [seconds]]]`. kernel-notes/multishot.md and provided_buffers.md have figures.
 * SPDX-License-Identifier: Apache-2.0
 *
 *   load process, CPU 1                        relay, CPU 0
 *   writes to in[i]  ── TCP on loopback ──>  recv in[i], send out[i]
 *   reads out[i]     <─ TCP on loopback ───
 *
 * ping: one message of 1 KiB at a time on each connection. bulk: as much as goes. Only the relay's CPU time counts, user and system.
 * Each round runs every variant once; the table gives medians, and medians of the ratios to the first variant of the same round.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
	MAX_LINKS = 1000,
	MAX_BUFS = 1024,
	MAX_VARIANTS = 32,
	MAX_ROUNDS = 51,
	MESSAGE = 1024,
	QUEUE_MAX = 2,
	GROUP = 1,
	NO_BUF = -1
};
enum kind { RECV, SEND };
enum poll_first { NEVER, ALWAYS, WHEN_EMPTY };

struct variant {
	const char *name;
	bool multishot;
	bool own;       /* a buffer per connection instead of provided ones */
	bool late;      /* asks for more only when the send is complete */
	bool direct;    /* send(2) at once, the ring only when that would block */
	bool nagle;     /* without TCP_NODELAY */
	bool more_flag; /* MSG_MORE while the socket has more */
	enum poll_first poll_first;
	unsigned buf_size, bufs;
};

static const struct variant ping_variants[] = {
	{.name = "multishot, 4 KiB x 256", .multishot = true, .buf_size = 4096, .bufs = 256},
	{.name = "multishot, 16 KiB x 64", .multishot = true, .buf_size = 16384, .bufs = 64},
	{.name = "multishot, 4 KiB x 256, send(2)", .multishot = true, .direct = true, .buf_size = 4096, .bufs = 256},
	{.name = "one at a time, POLL_FIRST, with the send", .poll_first = ALWAYS, .buf_size = 4096, .bufs = 256},
	{.name = "one at a time, POLL_FIRST, after the send", .poll_first = ALWAYS, .late = true, .buf_size = 4096, .bufs = 256},
	{.name = "one at a time, POLL_FIRST unless nonempty", .poll_first = WHEN_EMPTY, .buf_size = 4096, .bufs = 256},
	{.name = "one at a time, no POLL_FIRST", .poll_first = NEVER, .buf_size = 4096, .bufs = 256},
	{.name = "one at a time, POLL_FIRST, own buffer", .poll_first = ALWAYS, .own = true, .buf_size = 4096},
	{.name = "one at a time, POLL_FIRST, send(2)", .poll_first = ALWAYS, .direct = true, .buf_size = 4096, .bufs = 256},
};

#define ONE(kib, n) \
	.poll_first = WHEN_EMPTY, .buf_size = kib * 1024, .bufs = n, .name = "one, POLL_FIRST unless nonempty, " #kib " KiB x " #n
#define MANY(kib, n) .name = "multishot, " #kib " KiB x " #n, .multishot = true, .buf_size = kib * 1024, .bufs = n

static const struct variant bulk_variants[] = {
	{ONE(64, 16)},
	{ONE(4, 256)},
	{ONE(16, 64)},
	{ONE(32, 32)},
	{ONE(48, 16)},
	{ONE(60, 16)},
	{ONE(80, 16)},
	{ONE(96, 16)},
	{ONE(128, 16)},
	{ONE(192, 16)},
	{ONE(256, 16)},
	{ONE(64, 16) ", Nagle", .nagle = true},
	{ONE(64, 16) ", MSG_MORE", .more_flag = true},
	{ONE(48, 2)},
	{ONE(48, 4)},
	{.name = "one, POLL_FIRST always, 48 KiB x 16", .poll_first = ALWAYS, .buf_size = 49152, .bufs = 16},
	{.name = "one, POLL_FIRST never, 48 KiB x 16", .poll_first = NEVER, .buf_size = 49152, .bufs = 16},
	{.name = "one, POLL_FIRST always, after the send, 48 KiB x 16",
         .poll_first = ALWAYS,
         .late = true,
         .buf_size = 49152,
         .bufs = 16},
	{.name = "one, unless nonempty, send(2), 48 KiB x 16",
         .poll_first = WHEN_EMPTY,
         .direct = true,
         .buf_size = 49152,
         .bufs = 16},
	{MANY(16, 64)},
	{MANY(48, 16)},
	{MANY(64, 16)},
};

struct link {
	int in, out;
	bool receiving, sending, ended;
	bool nonempty;
	int head, tail; /* received and not sent yet, as a list in relay.next */
	unsigned queued;
	char *own;
};

struct relay {
	const struct variant *v;
	struct io_uring ring;
	struct io_uring_buf_ring *provided;
	char *memory;
	size_t memory_size;
	int next[MAX_BUFS];
	unsigned fill[MAX_BUFS];
	unsigned ring_size, lent;
	struct link link[MAX_LINKS];
	unsigned links, open;
	bool starved; /* a link could not receive for want of buffers */
	unsigned long recvs, enters, bytes, nobufs;
};

static unsigned links = 100;
static bool bulk;
static double seconds = 1;
static volatile int *stop;

__attribute__((format(printf, 1, 2), noreturn)) static void die(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fprintf(stderr, ": %s\n", strerror(errno));
	exit(1);
}

static void check(bool good, const char *what)
{
	if (!good)
		die("%s", what);
}

static void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	check(sched_setaffinity(0, sizeof(set), &set) == 0, "sched_setaffinity");
}

/* --- the relay --- */

static void lend(struct relay *r, int buf)
{
	io_uring_buf_ring_add(r->provided, r->memory + (size_t)buf * r->v->buf_size, r->v->buf_size, (unsigned short)buf,
	                      io_uring_buf_ring_mask(r->ring_size), 0);
	io_uring_buf_ring_advance(r->provided, 1);
	r->lent++;
}

static struct io_uring_sqe *operation(struct relay *r, unsigned i, enum kind kind)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&r->ring);

	check(sqe != NULL, "submission queue full");
	sqe->user_data = (uint64_t)i << 1 | kind;
	return sqe;
}

static void receive(struct relay *r, unsigned i)
{
	struct link *l = &r->link[i];
	struct io_uring_sqe *sqe = operation(r, i, RECV);
	uint64_t data = sqe->user_data;

	if (r->v->multishot)
		io_uring_prep_recv_multishot(sqe, l->in, NULL, 0, 0);
	else
		io_uring_prep_recv(sqe, l->in, l->own, r->v->buf_size, 0);
	sqe->user_data = data;
	if (!r->v->own) {
		sqe->flags |= IOSQE_BUFFER_SELECT;
		sqe->buf_group = GROUP;
	}
	if (r->v->poll_first == ALWAYS || (r->v->poll_first == WHEN_EMPTY && !l->nonempty))
		sqe->ioprio |= IORING_RECVSEND_POLL_FIRST;
	l->receiving = true;
}

static char *bytes_of(struct relay *r, struct link *l, int buf)
{
	return r->v->own ? l->own : r->memory + (size_t)buf * r->v->buf_size;
}

static void send_head(struct relay *r, unsigned i)
{
	struct link *l = &r->link[i];
	struct io_uring_sqe *sqe = operation(r, i, SEND);
	uint64_t data = sqe->user_data;

	io_uring_prep_send(sqe, l->out, bytes_of(r, l, l->head), r->fill[l->head],
	                   MSG_NOSIGNAL | MSG_WAITALL | (r->v->more_flag && l->nonempty ? MSG_MORE : 0));
	sqe->user_data = data;
	l->sending = true;
}

static void pop(struct relay *r, struct link *l)
{
	int buf = l->head;

	l->head = r->next[buf];
	if (l->head == NO_BUF)
		l->tail = NO_BUF;
	l->queued--;
	if (!r->v->own)
		lend(r, buf);
}

static void push(struct relay *r, struct link *l, int buf, unsigned n)
{
	r->fill[buf] = n;
	r->next[buf] = NO_BUF;
	if (l->tail == NO_BUF)
		l->head = buf;
	else
		r->next[l->tail] = buf;
	l->tail = buf;
	l->queued++;
}

static bool wants_more(const struct relay *r, const struct link *l)
{
	if (l->receiving || l->ended)
		return false;
	if (r->v->own)
		return l->queued == 0;
	return r->v->multishot || l->queued < (r->v->late ? 1 : QUEUE_MAX);
}

static void finish(struct relay *r, struct link *l)
{
	if (l->in < 0 || !l->ended || l->queued > 0)
		return;
	close(l->in);
	close(l->out);
	l->in = -1;
	r->open--;
}

static bool send_now(struct relay *r, struct link *l)
{
	ssize_t n = send(l->out, bytes_of(r, l, l->head), r->fill[l->head], MSG_NOSIGNAL | MSG_DONTWAIT);

	if (n < 0 || (size_t)n != r->fill[l->head]) {
		check(n >= 0 || errno == EAGAIN, "send");
		if (n > 0)
			memmove(bytes_of(r, l, l->head), bytes_of(r, l, l->head) + n, r->fill[l->head] -= (unsigned)n);
		return false;
	}
	pop(r, l);
	return true;
}

/* Whatever the link can do now. */
static void go_on(struct relay *r, unsigned i)
{
	struct link *l = &r->link[i];

	while (r->v->direct && !l->sending && l->queued > 0 && send_now(r, l))
		;
	if (!l->sending && l->queued > 0)
		send_head(r, i);
	if (wants_more(r, l)) {
		if (r->v->own || r->lent > 0)
			receive(r, i);
		else
			r->starved = true;
	}
	finish(r, l);
}

static void received(struct relay *r, unsigned i, const struct io_uring_cqe *cqe)
{
	struct link *l = &r->link[i];

	l->receiving = cqe->flags & IORING_CQE_F_MORE;
	l->nonempty = cqe->flags & IORING_CQE_F_SOCK_NONEMPTY;
	if (cqe->res == -ENOBUFS) {
		r->nobufs++;
	} else if (cqe->res <= 0) {
		l->ended = true;
	} else {
		int buf = r->v->own ? (int)i : (int)(cqe->flags >> IORING_CQE_BUFFER_SHIFT);

		push(r, l, buf, (unsigned)cqe->res);
		r->lent -= !r->v->own;
		r->recvs++;
		r->bytes += (unsigned long)cqe->res;
	}
	go_on(r, i);
}

static void sent(struct relay *r, unsigned i, const struct io_uring_cqe *cqe)
{
	struct link *l = &r->link[i];

	errno = -cqe->res;
	check(cqe->res >= 0 && (unsigned)cqe->res == r->fill[l->head], "send through the ring");
	l->sending = false;
	pop(r, l);
	go_on(r, i);
}

static void feed_starved(struct relay *r)
{
	if (!r->starved || r->lent == 0)
		return;
	r->starved = false;
	for (unsigned i = 0; i < r->links; i++)
		if (r->link[i].in >= 0)
			go_on(r, i);
}

static void turn(struct relay *r)
{
	struct io_uring_cqe *cqe;
	unsigned head, n = 0;
	int err = io_uring_submit_and_wait(&r->ring, 1);

	errno = -err;
	check(err >= 0 || err == -EINTR, "io_uring_submit_and_wait");
	r->enters++;
	io_uring_for_each_cqe(&r->ring, head, cqe)
	{
		(cqe->user_data & 1 ? sent : received)(r, (unsigned)(cqe->user_data >> 1), cqe);
		n++;
	}
	io_uring_cq_advance(&r->ring, n);
	feed_starved(r);
}

static void relay_open(struct relay *r)
{
	struct io_uring_params params = {.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CQSIZE,
	                                 .cq_entries = 16384};
	struct io_uring_buf_reg reg = {.bgid = GROUP};

	errno = -io_uring_queue_init_params(4096, &r->ring, &params);
	check(errno == 0, "io_uring");
	io_uring_register_ring_fd(&r->ring);
	r->memory_size = (size_t)r->v->buf_size * (r->v->own ? r->links : r->v->bufs);
	r->memory = mmap(NULL, r->memory_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	check(r->memory != MAP_FAILED, "mmap");
	for (unsigned i = 0; i < r->links && r->v->own; i++)
		r->link[i].own = r->memory + (size_t)i * r->v->buf_size;
	if (r->v->own)
		return;
	r->ring_size = r->v->bufs;
	r->provided = mmap(NULL, r->ring_size * sizeof(struct io_uring_buf), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
	                   -1, 0);
	check(r->provided != MAP_FAILED, "mmap");
	reg.ring_addr = (uintptr_t)r->provided;
	reg.ring_entries = r->ring_size;
	errno = -io_uring_register_buf_ring(&r->ring, &reg, 0);
	check(errno == 0, "io_uring_register_buf_ring");
	io_uring_buf_ring_init(r->provided);
	for (unsigned i = 0; i < r->ring_size; i++)
		lend(r, (int)i);
}

static void relay_close(struct relay *r)
{
	io_uring_queue_exit(&r->ring);
	munmap(r->memory, r->memory_size);
	if (r->provided != NULL)
		munmap(r->provided, r->ring_size * sizeof(struct io_uring_buf));
}

/* --- the load --- */

static char scratch[256 * 1024];

static void load_ping(const int *in, const int *out)
{
	struct epoll_event events[256];
	int epoll = epoll_create1(0);

	for (unsigned i = 0; i < links; i++) {
		struct epoll_event event = {.events = EPOLLIN, .data.u32 = i};

		check(epoll_ctl(epoll, EPOLL_CTL_ADD, out[i], &event) == 0, "epoll_ctl");
		check(write(in[i], scratch, MESSAGE) == MESSAGE, "write");
	}
	while (!*stop) {
		int n = epoll_wait(epoll, events, 256, 100);

		for (int k = 0; k < n; k++) {
			check(recv(out[events[k].data.u32], scratch, sizeof(scratch), 0) == MESSAGE, "whole message");
			check(write(in[events[k].data.u32], scratch, MESSAGE) == MESSAGE, "write");
		}
	}
}

static void load_bulk(const int *in, const int *out)
{
	struct epoll_event events[256];
	int epoll = epoll_create1(0);

	for (unsigned i = 0; i < links; i++) {
		struct epoll_event in_event = {.events = EPOLLOUT, .data.u32 = i << 1};
		struct epoll_event out_event = {.events = EPOLLIN, .data.u32 = i << 1 | 1};

		check(epoll_ctl(epoll, EPOLL_CTL_ADD, in[i], &in_event) == 0, "epoll_ctl");
		check(epoll_ctl(epoll, EPOLL_CTL_ADD, out[i], &out_event) == 0, "epoll_ctl");
	}
	while (!*stop) {
		int n = epoll_wait(epoll, events, 256, 100);

		for (int k = 0; k < n; k++) {
			unsigned i = events[k].data.u32 >> 1;

			if (events[k].data.u32 & 1)
				(void)!recv(out[i], NULL, 1 << 20, MSG_TRUNC | MSG_DONTWAIT); /* TCP throws the bytes away */
			else
				(void)!send(in[i], scratch, sizeof(scratch), MSG_DONTWAIT);
		}
	}
}

/* Ends writing, then reads until the relay has sent the rest. */
static void load_end(const int *in, const int *out)
{
	for (unsigned i = 0; i < links; i++)
		shutdown(in[i], SHUT_WR);
	for (unsigned i = 0; i < links; i++) {
		fcntl(out[i], F_SETFL, 0);
		while (recv(out[i], NULL, 1 << 20, MSG_TRUNC) > 0)
			;
	}
}

static void tcp_pair(int listener, const struct sockaddr_in *addr, bool nodelay, int pair[2])
{
	int value = nodelay;

	pair[0] = socket(AF_INET, SOCK_STREAM, 0);
	check(connect(pair[0], (const struct sockaddr *)addr, sizeof(*addr)) == 0, "connect");
	pair[1] = accept(listener, NULL, NULL);
	check(pair[1] >= 0, "accept");
	for (int i = 0; i < 2; i++)
		setsockopt(pair[i], IPPROTO_TCP, TCP_NODELAY, &value, sizeof(value));
}

static double cpu_seconds(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static void *stopper(void *arg)
{
	struct timespec t = {.tv_sec = (time_t)seconds, .tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9)};

	(void)arg;
	nanosleep(&t, NULL);
	*stop = 1;
	return NULL;
}

static pid_t start_load(struct relay *r, const int *in, const int *out)
{
	pid_t pid = fork();
	pid_t timer;

	check(pid >= 0, "fork");
	if (pid > 0)
		return pid;
	for (unsigned i = 0; i < links; i++) {
		close(r->link[i].in);
		close(r->link[i].out);
	}
	pin(1);
	timer = fork();
	if (timer == 0) {
		stopper(NULL);
		_exit(0);
	}
	(bulk ? load_bulk : load_ping)(in, out);
	load_end(in, out);
	waitpid(timer, NULL, 0);
	_exit(0);
}

struct outcome {
	double cost; /* ns per message, or ns per KiB */
	double recv_size, recvs_per_enter;
	unsigned long nobufs;
	double busy; /* share of the time that the relay ran */
};

static struct outcome run(const struct variant *v)
{
	static struct relay r;
	int in[MAX_LINKS], out[MAX_LINKS], pair[2];
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(addr);
	int listener = socket(AF_INET, SOCK_STREAM, 0);
	double cpu;
	pid_t load;

	memset(&r, 0, sizeof(r));
	r.v = v;
	r.links = r.open = links;
	check(bind(listener, (struct sockaddr *)&addr, len) == 0 && listen(listener, 16) == 0, "listen");
	getsockname(listener, (struct sockaddr *)&addr, &len);
	for (unsigned i = 0; i < links; i++) {
		tcp_pair(listener, &addr, !v->nagle, pair);
		in[i] = pair[0];
		r.link[i].in = pair[1];
		tcp_pair(listener, &addr, !v->nagle, pair);
		out[i] = pair[0];
		r.link[i].out = pair[1];
		r.link[i].head = r.link[i].tail = NO_BUF;
	}
	close(listener);
	*stop = 0;
	load = start_load(&r, in, out);
	for (unsigned i = 0; i < links; i++) {
		close(in[i]);
		close(out[i]);
	}
	relay_open(&r);
	for (unsigned i = 0; i < links; i++)
		receive(&r, i);
	cpu = cpu_seconds();
	while (r.open > 0)
		turn(&r);
	cpu = cpu_seconds() - cpu;
	relay_close(&r);
	waitpid(load, NULL, 0);
	return (struct outcome){
		.cost = cpu * 1e9 / (bulk ? (double)r.bytes / 1024 : (double)r.bytes / MESSAGE),
		.recv_size = (double)r.bytes / (double)r.recvs,
		.recvs_per_enter = (double)r.recvs / (double)r.enters,
		.nobufs = r.nobufs,
		.busy = cpu / seconds,
	};
}

/* --- the table --- */

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static double median(double *values, int n)
{
	qsort(values, (size_t)n, sizeof(*values), compare);
	return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

static void report(const struct variant *v, struct outcome *o, const struct outcome *base, int rounds)
{
	double cost[MAX_ROUNDS], ratio[MAX_ROUNDS];

	for (int i = 0; i < rounds; i++) {
		cost[i] = o[i].cost;
		ratio[i] = o[i].cost / base[i].cost;
	}
	printf("%-52s %8.1f %6.3f  %8.0f %7.2f %8lu %5.2f\n", v->name, median(cost, rounds), median(ratio, rounds),
	       o[0].recv_size, o[0].recvs_per_enter, o[0].nobufs, o[0].busy);
}

int main(int argc, char **argv)
{
	static struct outcome outcome[MAX_VARIANTS][MAX_ROUNDS];
	const struct variant *v;
	int n, rounds = 9;

	bulk = argc > 1 && strcmp(argv[1], "bulk") == 0;
	if (!bulk && (argc < 2 || strcmp(argv[1], "ping") != 0)) {
		fprintf(stderr, "usage: %s ping|bulk [connections [rounds [seconds]]]\n", argv[0]);
		return 1;
	}
	links = argc > 2 ? (unsigned)atoi(argv[2]) : bulk ? 8 : 100;
	rounds = argc > 3 ? atoi(argv[3]) : rounds;
	seconds = argc > 4 ? strtod(argv[4], NULL) : seconds;
	if (links < 1 || links > MAX_LINKS || rounds < 1 || rounds > MAX_ROUNDS || seconds <= 0) {
		fprintf(stderr, "connections 1-%d, rounds 1-%d\n", MAX_LINKS, MAX_ROUNDS);
		return 1;
	}
	v = bulk ? bulk_variants : ping_variants;
	n = bulk ? (int)(sizeof(bulk_variants) / sizeof(*v)) : (int)(sizeof(ping_variants) / sizeof(*v));
	stop = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	check(stop != MAP_FAILED, "mmap");
	signal(SIGPIPE, SIG_IGN);
	pin(0);
	for (int round = 0; round < rounds; round++)
		for (int i = 0; i < n; i++)
			outcome[i][round] = run(&v[i]);
	printf("%s, %u connections, %d rounds of %.1f s\n", argv[1], links, rounds, seconds);
	printf("%-52s %8s %6s  %8s %7s %8s %5s\n", "", bulk ? "ns/KiB" : "ns/msg", "ratio", "recv B", "per turn", "ENOBUFS",
	       "busy");
	for (int i = 0; i < n; i++)
		report(&v[i], outcome[i], outcome[0], rounds);
	return 0;
}
