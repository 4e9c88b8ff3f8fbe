/*
 * The steps of the programs that print what a socket of kernel TLS does: each is carried out on the connection `l` and told. Included by
 * bench/ktls_facts.c, ktls_rekey_facts.c and ktls_splice_facts.c only; each of them is a program of its own.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef BENCH_KTLS_STEPS_H
#define BENCH_KTLS_STEPS_H

#include "facts.h"
#include "ktls_link.h"

#include <sys/utsname.h>

static char zeros[1 << 20], room[1 << 20];
static struct link l;

static inline void plain_recv(void)
{
	long n = recv(l.near, room, sizeof(room), MSG_DONTWAIT);

	told("recv", outcome(n < 0 ? -errno : n));
}

/* recvmsg with room for the record type: "5 type 22". */
static inline void take_n(size_t n)
{
	unsigned char type = 0;
	char text[48];
	long got = ktls_read(l.near, room, n, &type);

	snprintf(text, sizeof(text), "%ld type %d", got, type);
	told("recvmsg", got < 0 ? outcome(got) : text);
}

static inline void take(void)
{
	take_n(sizeof(room));
}

static inline void readable(void)
{
	struct pollfd q = {.fd = l.near, .events = POLLIN | POLLRDHUP};
	char text[32];

	check(poll(&q, 1, 0) >= 0, "poll");
	snprintf(text, sizeof(text), "%s%s%s%s", q.revents & POLLIN ? "IN" : "", q.revents & POLLRDHUP ? "+RDHUP" : "",
	         q.revents & POLLERR ? "+ERR" : "", q.revents & POLLHUP ? "+HUP" : "");
	told("poll", q.revents ? text : "nothing");
}

static inline void writable(void)
{
	struct pollfd q = {.fd = l.near, .events = POLLOUT};

	told("poll", poll(&q, 1, 0) == 1 && (q.revents & POLLOUT) ? "OUT" : "nothing");
}

static inline void send_n(size_t n, int flags)
{
	long sent = send(l.near, zeros, n, MSG_NOSIGNAL | MSG_DONTWAIT | flags);

	told("send", outcome(sent < 0 ? -errno : sent));
}

static inline void alert(void)
{
	told("alert", outcome(ktls_write_record(l.near, ALERT, close_notify, 2)));
}

static inline void so_error(void)
{
	int error = 0;
	socklen_t len = sizeof(error);

	getsockopt(l.near, SOL_SOCKET, SO_ERROR, &error, &len);
	told("SO_ERROR", outcome(-error));
}

static inline void give_key(enum ktls_direction direction, int which)
{
	told(direction == KTLS_SEND ? "TLS_TX" : "TLS_RX", outcome(install(&l, direction, which)));
}

static inline void splice_out(int pipe_in)
{
	long n = splice(l.near, NULL, pipe_in, NULL, 65536, SPLICE_F_NONBLOCK);

	told("splice", outcome(n < 0 ? -errno : n));
}

static inline void wait_a_little(void)
{
	usleep(5000);
}

/* The lengths of the records that lie on the wire for the far end, and how many. */
static inline void wire(void)
{
	static unsigned char raw[1 << 20];
	char text[256];
	struct pollfd p = {.fd = l.far, .events = POLLIN};
	size_t n = 0, records = 0, at = 0, used = 0;

	while (poll(&p, 1, 50) == 1) {
		ssize_t got = recv(l.far, raw + n, sizeof(raw) - n, MSG_DONTWAIT);

		if (got <= 0)
			break;
		n += (size_t)got;
	}
	text[0] = 0;
	for (; at + 5 <= n; at += 5 + (size_t)(raw[at + 3] << 8 | raw[at + 4]))
		if (records++ < 8)
			used += (size_t)snprintf(text + used, sizeof(text) - used, "%d ", raw[at + 3] << 8 | raw[at + 4]);
	snprintf(text + used, sizeof(text) - used, "(%zu)", records);
	told("wire", text);
}

static inline long drain_far(void)
{
	struct pollfd p = {.fd = l.far, .events = POLLIN};
	long all = 0, got;

	while (poll(&p, 1, 100) == 1 && (got = recv(l.far, room, sizeof(room), MSG_DONTWAIT)) > 0)
		all += got;
	return all;
}

/* The first lines, and what the kernel has. Returns false if there is no kernel TLS. */
static inline bool facts_begin(void)
{
	struct utsname name;

	uname(&name);
	about("kernel");
	told(name.sysname, name.release);
	ktls_probe();
	if (!ktls_support()->error)
		return true;
	about(ktls_explain(ktls_support()->error));
	about_end();
	return false;
}

/* The last lines: what the kernel has counted. Returns the exit status. */
static inline int facts_end(void)
{
	char line[128], name[64];
	unsigned long value;
	FILE *file = fopen("/proc/net/tls_stat", "r");

	about("/proc/net/tls_stat");
	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "%63s %lu", name, &value) == 2 && value > 0)
			told(name, outcome((long)value));
	if (file)
		fclose(file);
	about_end();
	return 0;
}

#endif
