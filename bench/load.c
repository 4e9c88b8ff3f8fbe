/*
 * Load generator of the bench: one thread, epoll, OpenSSL. Plays one mode against one proxy for a fixed time, or a fixed number of units of
 * work, and prints what was done. Stand-alone program (load -h lists the modes); bench/run and bench/guest start it. Prints START when the
 * warm-up is over and END when the time or the work is, so that whoever started it can read the proxy's CPU time at both moments, then one
 * line of JSON, and leaves when its stdin closes. With --units everything rests at START until a line comes in.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "bench.h"
#include "histogram.h"

#include <arpa/inet.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
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

/* ---- the clock ---- */

static uint64_t pace_next_ns, pace_count;

/* Starts every request that is due. One that finds its connection busy waits there, and its waiting counts. */
static void pace(uint64_t now)
{
	for (; pace_next_ns <= now; pace_next_ns += 1000000000u / rate) {
		struct client *c = &clients[pace_count++ % connections];

		if (c->state == RESTING) {
			request_begin(c, pace_next_ns);
			client_run(c);
		} else if (c->late_count < LATE_MAX) {
			c->late[(c->late_first + c->late_count++) % LATE_MAX] = pace_next_ns;
		} else {
			if (!done.errors++)
				snprintf(done.first_error, sizeof(done.first_error),
				         "more than %d requests behind on a connection", LATE_MAX);
		}
	}
}

/* Nanoseconds until the clock wants something. */
static uint64_t next_event(uint64_t now, uint64_t end)
{
	uint64_t at = mode->paced && pace_next_ns < end ? pace_next_ns : end;

	return at > now ? at - now : 0;
}

static void poll_once(uint64_t wait_ns)
{
	struct epoll_event ready[512];
	struct timespec wait = {(time_t)(wait_ns / 1000000000u), (long)(wait_ns % 1000000000u)};
	int n = epoll_pwait2(epoll_fd, ready, 512, &wait, NULL);

	for (int i = 0; i < n; i++) {
		struct client *c = ready[i].data.ptr;

		if (!c->queued)
			client_run(c);
	}
	queue_run();
}

/* Until the time has come, or for modes that rest until every connection rests. */
static void run_until(uint64_t end)
{
	for (uint64_t now = now_ns(); now < end && resting < connections; now = now_ns()) {
		if (now > last_unit_ns + STALL_S * 1000000000ull)
			die("load: nothing has moved for %d seconds (%llu units, %llu errors, %s)", STALL_S,
			    (unsigned long long)done.units, (unsigned long long)done.errors, done.first_error);
		if (mode->paced)
			pace(now);
		poll_once(queued ? 0 : next_event(now, end < now + 100000000 ? end : now + 100000000));
	}
}

static void say(const char *word)
{
	puts(word);
	fflush(stdout);
}

static bool all_served(void)
{
	for (unsigned i = 0; i < connections; i++)
		if (!clients[i].served)
			return false;
	return true;
}

static void forget(void)
{
	done.units = done.bytes = done.resumed = done.handshakes = 0;
	memset(histogram, 0, sizeof(histogram));
}

/* Over when the time is up and every connection has had its turn, so that nothing of setting up is in the measurement. */
static void warm_up(void)
{
	run_until(now_ns() + (uint64_t)(warmup_s * 1e9));
	while (!all_served())
		run_until(now_ns() + 10000000);
	forget();
}

static void report(double elapsed)
{
	printf("{\"mode\": \"%s\", \"units\": %llu, \"bytes\": %llu, \"seconds\": %.6f, \"errors\": %llu, \"error\": \"%s\", "
	       "\"handshakes\": %llu, \"resumed\": %llu, \"p50_us\": %.1f, \"p99_us\": %.1f, \"negotiated\": \"%s\"}\n",
	       mode->name, (unsigned long long)done.units, (unsigned long long)done.bytes, elapsed,
	       (unsigned long long)done.errors, done.first_error, (unsigned long long)done.handshakes,
	       (unsigned long long)done.resumed, latency_at(0.5), latency_at(0.99), done.negotiated);
	fflush(stdout);
}

/* So many units of work on every connection, until all of them rest. */
static void run_units(uint64_t each, void (*begin)(struct client *))
{
	last_unit_ns = now_ns();
	resting = 0;
	for (unsigned i = 0; i < connections; i++) {
		clients[i].left = each;
		begin(&clients[i]);
	}
	run_until(UINT64_MAX);
}

static void client_again(struct client *c)
{
	request_begin(c, now_ns());
	client_run(c);
}

static void wait_for_line(void)
{
	for (int c = 0; c != '\n' && c != EOF;)
		c = getchar();
}

/* Nothing moves while whoever started us looks at the proxy, before and after. */
static void play_units(void)
{
	uint64_t begun;

	opened = connections;
	run_units(warmup_each, client_open);
	forget();
	say("START");
	wait_for_line();
	begun = now_ns();
	run_units(units_each, mode->reconnect ? client_open : client_again);
	say("END");
	report((double)(now_ns() - begun) / 1e9);
}

static void play(void)
{
	uint64_t begun;

	last_unit_ns = pace_next_ns = now_ns();
	while (opened < connections && (!mode->rest || opened < OPENING_MAX))
		client_open(&clients[opened++]);
	if (!mode->rest)
		warm_up();
	say("START");
	begun = now_ns();
	run_until(mode->rest ? UINT64_MAX : begun + (uint64_t)(seconds * 1e9));
	say("END");
	report((double)(now_ns() - begun) / 1e9);
}

/* ---- setting up ---- */

static int keep_session(SSL *ssl, SSL_SESSION *session)
{
	struct client *c = SSL_get_app_data(ssl);

	SSL_SESSION_free(c->session);
	c->session = session;
	return 1;
}

/* Offers exactly one version, cipher suite, group and signature: a proxy that gets through has used them. */
static SSL_CTX *tls_context(void)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());

	if (!ctx || !SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) ||
	    !SSL_CTX_set_ciphersuites(ctx, "TLS_AES_128_GCM_SHA256") || !SSL_CTX_set1_groups_list(ctx, "X25519") ||
	    !SSL_CTX_set1_sigalgs_list(ctx, "ECDSA+SHA256"))
		die("load: cannot set up TLS: %s", ERR_reason_error_string(ERR_get_error()));
	SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	if (mode->rest)
		SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS);
	SSL_CTX_set_read_ahead(ctx, 1);
	SSL_CTX_set_default_read_buffer_len(ctx, 2 * CHUNK);
	if (mode->resume) {
		SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
		SSL_CTX_sess_set_new_cb(ctx, keep_session);
	}
	return ctx;
}

static void usage(void)
{
	printf("usage: load MODE --port PORT [--address IPV4] [--plain] [--connections N] [--seconds S] [--warmup S] [--rate N] "
	       "[--size BYTES] [--units N-OF-EACH-CONNECTION [--warmup-units N]]\n");
	for (size_t i = 0; i < sizeof(modes) / sizeof(*modes); i++)
		printf("  %-9s %s\n", modes[i].name, modes[i].help);
	exit(0);
}

static void choose_mode(const char *name)
{
	for (size_t i = 0; i < sizeof(modes) / sizeof(*modes); i++)
		if (!strcmp(modes[i].name, name))
			mode = &modes[i];
	if (!mode)
		die("load: there is no mode \"%s\" (load -h lists them)", name);
	body_size = mode->size;
}

static double duration(const char *what, const char *text)
{
	char *end;
	double value = strtod(text, &end);

	if (end == text || *end || !(value >= 0 && value <= 3600))
		die("%s: \"%s\" is not a number of seconds between 0 and 3600", what, text);
	return value;
}

static bool arguments(int argc, char **argv)
{
	static const struct option names[] = {
		{"port", 1, NULL, 'p'},    {"address", 1, NULL, 'a'},      {"plain", 0, NULL, 'x'}, {"connections", 1, NULL, 'c'},
		{"seconds", 1, NULL, 's'}, {"warmup", 1, NULL, 'w'},       {"rate", 1, NULL, 'r'},  {"size", 1, NULL, 'z'},
		{"units", 1, NULL, 'u'},   {"warmup-units", 1, NULL, 'v'}, {"help", 0, NULL, 'h'},  {NULL, 0, NULL, 0},
	};
	bool plain = false;

	for (int o; (o = getopt_long(argc, argv, "h", names, NULL)) != -1;) {
		switch (o) {
		case 'p': target.sin_port = htons((uint16_t)number("--port", optarg, 65535)); break;
		case 'a':
			if (inet_pton(AF_INET, optarg, &target.sin_addr) != 1)
				die("--address: \"%s\" is not an IPv4 address", optarg);
			break;
		case 'x': plain = true; break;
		case 'c': connections = (unsigned)number("--connections", optarg, CONNECTIONS_MAX); break;
		case 's': seconds = duration("--seconds", optarg); break;
		case 'w': warmup_s = duration("--warmup", optarg); break;
		case 'r': rate = number("--rate", optarg, 1000000); break;
		case 'z': body_size = number("--size", optarg, 1ul << 30) & ~1023ul; break;
		case 'u': units_each = number("--units", optarg, 1ul << 40); break;
		case 'v': warmup_each = number("--warmup-units", optarg, 1ul << 40); break;
		default: usage();
		}
	}
	if (optind != argc - 1 || !target.sin_port)
		usage();
	if (units_each && (mode->rest || mode->paced))
		die("load: --units is for modes that would go on for ever, not for \"%s\"", mode->name);
	return plain;
}

/* The mode comes first in our hands, but getopt moves it behind the options. */
static const char *mode_argument(int argc, char **argv)
{
	return argc > 1 && argv[1][0] != '-' ? argv[1] : "requests";
}

static void request_text(void)
{
	const char *host = "Host: bench\r\nUser-Agent: tlsplice-bench\r\nAccept: */*\r\n";

	if (mode->upload)
		get_len = (size_t)snprintf(get_head, sizeof(get_head), "POST /%s HTTP/1.1\r\n%sContent-Length: %llu\r\n\r\n",
		                           mode->verify ? "verify" : "sink", host, (unsigned long long)body_size);
	else
		get_len = (size_t)snprintf(get_head, sizeof(get_head), "GET /%lluk HTTP/1.1\r\n%s\r\n",
		                           (unsigned long long)body_size >> 10, host);
}

int main(int argc, char **argv)
{
	bool plain;

	target.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	choose_mode(mode_argument(argc, argv));
	plain = arguments(argc, argv);
	signal(SIGPIPE, SIG_IGN);
	prctl(PR_SET_TIMERSLACK, 1);
	raise_descriptor_limit();
	pattern_fill();
	request_text();
	if (!plain)
		tls = tls_context();
	clients = calloc(connections, sizeof(*clients));
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (!clients || epoll_fd < 0)
		die("load: out of memory");
	if (units_each)
		play_units();
	else
		play();
	while (getchar() != EOF)
		;
	return 0;
}
