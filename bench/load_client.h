/*
 * The clients of the load generator: what a unit of work is in each mode, and a client's steps through it. Included by bench/load.c only.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_BENCH_LOAD_CLIENT_H
#define TLSPLICE_BENCH_LOAD_CLIENT_H

#include "bench.h"
#include "histogram.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	HEAD_MAX = 2048,
	CHUNK = 1 << 16,      /* read size; writes take a whole record each */
	TURN_BYTES = 1 << 20, /* one connection's share before the others get their turn */
	CONNECTIONS_MAX = 20000,
	OPENING_MAX = 32, /* connections that mode idle sets up at a time: resting memory is asked for, not that of a storm */
	STALL_S = 10,     /* no unit of work for so long: something hangs */
	LATE_MAX = 64,    /* requests that may wait for one busy connection in mode rate */
};

enum state { CONNECTING, HANDSHAKE, SENDING, RECEIVING, RESTING, CLOSING };

struct client {
	int fd;
	enum state state;
	SSL *ssl;
	SSL_SESSION *session; /* what the next connection of this slot resumes */
	bool served;          /* has had a first unit of work */
	bool queued;          /* on the list of clients whose turn was cut short */
	uint32_t events;      /* what epoll watches for */
	uint64_t begun_ns;    /* when this unit of work was due or begun */
	uint64_t left;        /* with --units: how many more before it rests */
	uint64_t sent;
	size_t head_len;
	bool in_body;
	uint64_t body_left, body_at;
	uint64_t late[LATE_MAX]; /* mode rate: when the waiting requests were due */
	unsigned late_first, late_count;
	char head[HEAD_MAX];
};

/* A mode is a few facts about what a unit of work is. */
struct mode {
	const char *name, *help;
	bool upload;    /* POST instead of GET */
	bool reconnect; /* each request on a connection of its own */
	bool resume;
	bool rest;     /* stop after the first request and hold the connection */
	bool paced;    /* requests start by the clock, not by the last reply */
	bool verify;   /* compare every byte */
	uint64_t size; /* of the body, when --size does not say */
};

static const struct mode modes[] = {
	{.name = "requests", .help = "small GETs on kept connections", .size = 1 << 10},
	{.name = "bulk", .help = "large GETs on kept connections", .size = 8 << 20},
	{.name = "upload", .help = "large POSTs on kept connections", .upload = true, .size = 8 << 20},
	{.name = "full", .help = "a new connection, a full handshake and one GET each", .reconnect = true, .size = 1 << 10},
	{.name = "resumed", .help = "the same with resumed sessions", .reconnect = true, .resume = true, .size = 1 << 10},
	{.name = "idle", .help = "connect, one GET, then rest", .rest = true, .size = 1 << 10},
	{.name = "rate",
         .help = "GETs at --rate per second, latency counted from when each was due",
         .paced = true,
         .size = 1 << 10},
	{.name = "check",
         .help = "one large GET on each connection, every byte compared",
         .rest = true,
         .verify = true,
         .size = 8 << 20},
	{.name = "check-up",
         .help = "one large POST on each, every byte compared by the origin",
         .rest = true,
         .verify = true,
         .upload = true,
         .size = 8 << 20},
};

static const struct mode *mode;
static SSL_CTX *tls; /* NULL: plain TCP */
static struct sockaddr_in target = {.sin_family = AF_INET};
static unsigned connections = 1;
static double seconds = 2, warmup_s = 0.3;
static uint64_t rate = 1000, body_size, last_unit_ns;
static uint64_t units_each, warmup_each = 1; /* of each connection; 0: the clock says when it is over */
static struct client *clients;
static struct client *queue[CONNECTIONS_MAX];
static unsigned queued, opened, resting;
static int epoll_fd;
static char get_head[256];
static size_t get_len;
static unsigned char chunk[CHUNK];

static struct {
	uint64_t units, bytes, errors, resumed, handshakes;
	char first_error[200];
	char negotiated[160];
} done;

/* ---- one way to read and write, with and without TLS: bytes, 0 at the end of the stream, -EAGAIN, other -errno ---- */

static ssize_t tls_result(struct client *c, int ret)
{
	switch (SSL_get_error(c->ssl, ret)) {
	case SSL_ERROR_WANT_READ:
	case SSL_ERROR_WANT_WRITE: return -EAGAIN;
	case SSL_ERROR_ZERO_RETURN: return 0;
	case SSL_ERROR_SYSCALL: return errno ? -errno : -ECONNABORTED;
	default: return -EPROTO;
	}
}

static ssize_t io_read(struct client *c, void *to, size_t size)
{
	ssize_t n;

	if (c->ssl) {
		int ret;

		ERR_clear_error();
		errno = 0;
		ret = SSL_read(c->ssl, to, (int)size);
		return ret > 0 ? ret : tls_result(c, ret);
	}
	n = recv(c->fd, to, size, 0);
	return n < 0 ? -errno : n;
}

static ssize_t io_write(struct client *c, const void *from, size_t size)
{
	ssize_t n;

	if (c->ssl) {
		int ret;

		ERR_clear_error();
		errno = 0;
		ret = SSL_write(c->ssl, from, (int)(size < SSL3_RT_MAX_PLAIN_LENGTH ? size : SSL3_RT_MAX_PLAIN_LENGTH));
		return ret > 0 ? ret : tls_result(c, ret);
	}
	n = send(c->fd, from, size, MSG_NOSIGNAL);
	return n < 0 ? -errno : n;
}

/* ---- a client's steps; each returns >0 to go on, -EAGAIN to wait, 0 for an early end of the stream, other -errno ---- */

/* While we want to write nothing is read, so that waiting tickets cannot wake us again and again. */
static void watch(struct client *c, uint32_t events)
{
	struct epoll_event e = {.events = events, .data.ptr = c};

	if (c->events == events)
		return;
	if (epoll_ctl(epoll_fd, c->events ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, c->fd, &e))
		die("load: epoll_ctl: %s", strerror(errno));
	c->events = events;
}

static ssize_t unit_done(struct client *c);

static void request_begin(struct client *c, uint64_t when)
{
	c->begun_ns = when;
	c->state = SENDING;
	c->sent = 0;
	c->head_len = 0;
	c->in_body = false;
}

/* Ports rest a minute after use: a source address for each slot keeps the search for a free one out of what is measured. */
static void own_source(struct client *c)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f010001u + (uint32_t)(c - clients))};

	setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &(int){1}, sizeof(int));
	if (bind(c->fd, (struct sockaddr *)&a, sizeof(a)))
		die("load: bind: %s", strerror(errno));
}

static void client_open(struct client *c)
{
	c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (c->fd < 0)
		die("load: socket: %s", strerror(errno));
	setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
	if (mode->reconnect)
		own_source(c);
	if (connect(c->fd, (struct sockaddr *)&target, sizeof(target)) && errno != EINPROGRESS)
		die("load: connect: %s", strerror(errno));
	c->begun_ns = now_ns();
	c->state = CONNECTING;
	c->events = 0;
	watch(c, EPOLLOUT);
}

static void client_close(struct client *c)
{
	SSL_free(c->ssl);
	c->ssl = NULL;
	close(c->fd);
}

static ssize_t step_connect(struct client *c)
{
	int error = 0;
	socklen_t len = sizeof(error);

	if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &len) || error)
		return error ? -error : -errno;
	if (!tls) {
		request_begin(c, c->begun_ns);
		return 1;
	}
	c->ssl = SSL_new(tls);
	if (!c->ssl || !SSL_set_fd(c->ssl, c->fd))
		die("load: out of memory");
	SSL_set_app_data(c->ssl, c);
	SSL_set_connect_state(c->ssl);
	if (c->session && mode->resume)
		SSL_set_session(c->ssl, c->session);
	c->state = HANDSHAKE;
	return 1;
}

/* The context allows one version, cipher, group and signature only; this keeps the proof for the report. */
static void note_negotiated(SSL *ssl)
{
	int nid = NID_undef;

	done.handshakes++;
	done.resumed += (uint64_t)SSL_session_reused(ssl);
	if (*done.negotiated && !mode->verify)
		return;
	SSL_get_peer_signature_type_nid(ssl, &nid);
	snprintf(done.negotiated, sizeof(done.negotiated), "%s %s %s %s", SSL_get_version(ssl), SSL_get_cipher_name(ssl),
	         OBJ_nid2sn((int)SSL_get_negotiated_group(ssl)), nid == NID_undef ? "-" : OBJ_nid2sn(nid));
}

static ssize_t step_handshake(struct client *c)
{
	int ret;

	ERR_clear_error();
	errno = 0;
	ret = SSL_do_handshake(c->ssl);
	if (ret != 1) {
		ssize_t n = tls_result(c, ret);

		return n ? n : -ECONNRESET;
	}
	note_negotiated(c->ssl);
	request_begin(c, c->begun_ns);
	return 1;
}

static ssize_t step_send(struct client *c)
{
	uint64_t total = get_len + (mode->upload ? body_size : 0), at;
	ssize_t n;

	if (c->sent < get_len) {
		n = io_write(c, get_head + c->sent, get_len - (size_t)c->sent);
	} else {
		at = c->sent - get_len;
		n = io_write(c, pattern + at % PATTERN_SIZE, total - c->sent < CHUNK ? (size_t)(total - c->sent) : CHUNK);
	}
	if (n <= 0)
		return n ? n : -ECONNRESET;
	c->sent += (uint64_t)n;
	if (mode->upload && c->sent > get_len)
		done.bytes += (uint64_t)n;
	if (c->sent < total)
		return n;
	c->state = RECEIVING;
	return -EAGAIN; /* epoll will say when the reply is there; asking the socket now would be a call for nothing */
}

/* Whether this is the reply that was asked for. */
static bool head_ok(struct client *c, const char *end)
{
	const char *length = strcasestr(c->head, "\r\nContent-Length:");

	if (strncmp(c->head, "HTTP/1.1 200 ", 13) || !length || length > end)
		return false;
	c->body_left = strtoull(length + 17, NULL, 10);
	c->body_at = 0;
	c->in_body = true;
	return c->body_left == (mode->upload ? 0 : body_size);
}

/* Returns how many of the bytes belong to the head, -EBADMSG for a reply that was not asked for. */
static ssize_t take_head(struct client *c, const unsigned char *data, size_t len)
{
	size_t old = c->head_len, room = HEAD_MAX - 1 - old;
	const char *end;

	if (len > room)
		len = room;
	memcpy(c->head + old, data, len);
	c->head_len += len;
	c->head[c->head_len] = '\0';
	end = strstr(c->head, "\r\n\r\n");
	if (!end)
		return c->head_len == HEAD_MAX - 1 ? -EBADMSG : (ssize_t)len;
	return head_ok(c, end) ? (end + 4 - c->head) - (ssize_t)old : -EBADMSG;
}

/* The first and last bytes of every piece are compared always; all of them where the check is the purpose or they are few. */
static ssize_t take_body(struct client *c, const unsigned char *data, size_t len)
{
	size_t compare = mode->verify || len <= 1024 ? len : 64;
	const unsigned char *expected = pattern + c->body_at % PATTERN_SIZE;

	if (len > c->body_left || memcmp(data, expected, compare) ||
	    memcmp(data + len - compare, expected + len - compare, compare))
		return -EBADMSG;
	c->body_at += len;
	c->body_left -= len;
	done.bytes += len;
	return 1;
}

static ssize_t step_receive(struct client *c)
{
	ssize_t n = io_read(c, chunk, CHUNK), used = 0;

	if (n <= 0)
		return n ? n : -ECONNRESET;
	if (!c->in_body)
		used = take_head(c, chunk, (size_t)n);
	if (used >= 0 && c->in_body)
		used = take_body(c, chunk + used, (size_t)(n - used));
	if (used < 0)
		return used;
	return c->in_body && !c->body_left ? unit_done(c) : n;
}

/* Nothing but session tickets may come in now. */
static ssize_t step_rest(struct client *c)
{
	ssize_t n = io_read(c, chunk, CHUNK);

	return n == 0 ? -ECONNRESET : n > 0 ? -EBADMSG : n;
}

static ssize_t rest(struct client *c)
{
	c->state = RESTING;
	resting++;
	return -EAGAIN;
}

static bool has_enough(struct client *c)
{
	return units_each && !c->left;
}

/* The unit is counted already; how the other side ends the connection is its own affair. */
static ssize_t step_close(struct client *c)
{
	ssize_t n = recv(c->fd, chunk, CHUNK, 0);

	if (n > 0)
		return n;
	if (n < 0 && errno == EAGAIN)
		return -EAGAIN;
	client_close(c);
	if (has_enough(c))
		return rest(c);
	client_open(c);
	return -EAGAIN;
}

/* Mode rate: starts the request that has waited longest for this connection; latency counts from when it was due. */
static ssize_t start_late(struct client *c)
{
	c->state = RESTING;
	if (!c->late_count)
		return -EAGAIN;
	request_begin(c, c->late[c->late_first]);
	c->late_first = (c->late_first + 1) % LATE_MAX;
	c->late_count--;
	return 1;
}

static ssize_t unit_done(struct client *c)
{
	uint64_t now = now_ns();

	done.units++;
	c->served = true;
	last_unit_ns = now;
	latency_add(now - c->begun_ns);
	if (c->left)
		c->left--;
	if (mode->paced)
		return start_late(c);
	if (mode->rest) {
		if (opened < connections)
			client_open(&clients[opened++]);
		return rest(c);
	}
	if (!mode->reconnect) {
		if (has_enough(c))
			return rest(c);
		request_begin(c, now);
		return 1;
	}
	if (c->ssl)
		SSL_shutdown(c->ssl);
	shutdown(c->fd, SHUT_WR);
	c->state = CLOSING;
	return -EAGAIN;
}

static ssize_t (*const steps[])(struct client *) = {
	[CONNECTING] = step_connect, [HANDSHAKE] = step_handshake, [SENDING] = step_send,
	[RECEIVING] = step_receive,  [RESTING] = step_rest,        [CLOSING] = step_close,
};

static const char *const state_names[] = {"connecting", "shaking hands", "sending", "receiving", "resting", "closing"};

static void client_fail(struct client *c, ssize_t error)
{
	if (!done.errors++)
		snprintf(done.first_error, sizeof(done.first_error), "%s while %s", strerror((int)-error), state_names[c->state]);
	if (done.errors > 100 + done.units / 10)
		die("load: too many errors, the first one: %s", done.first_error);
	SSL_SESSION_free(c->session);
	c->session = NULL;
	c->late_count = 0;
	if (c->state == RESTING && !mode->paced)
		resting--;
	client_close(c);
	client_open(c);
}

/* Steps until there is nothing to do; a client that could go on for ever lets the others go first. */
static void client_run(struct client *c)
{
	size_t moved = 0;
	ssize_t n;

	do {
		n = steps[c->state](c);
		if (n > 0)
			moved += (size_t)n;
	} while (n > 0 && moved < TURN_BYTES);
	if (n < 0 && n != -EAGAIN)
		return client_fail(c, n);
	watch(c, c->state <= CONNECTING || c->state == SENDING ? EPOLLOUT : EPOLLIN);
	if (n > 0 && !c->queued) {
		c->queued = true;
		queue[queued++] = c;
	}
}

static void queue_run(void)
{
	unsigned n = queued;

	for (unsigned i = 0; i < n; i++) {
		queue[i]->queued = false;
		client_run(queue[i]);
	}
	memmove(queue, queue + n, (queued - n) * sizeof(*queue));
	queued -= n;
}

#endif
