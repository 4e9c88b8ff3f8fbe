/*
 * A client for load tests, one thread on epoll: many TLS (or, with -P, plain) connections through a proxy with an echo server
 * behind it. `load [-P] [-r] [-2] [-k] PORT MODE...`:
 *   bulk BYTES          one connection, BYTES each way at once, every byte checked
 *   hold COUNT          opens COUNT connections, echoes on each, says "held COUNT", waits for a line on stdin, echoes on each again
 *   rate PER_S SECONDS  opens connections at a steady rate: connect, echo, close_notify
 *   loop COUNT SECONDS  keeps COUNT connections busy: connect, echo, close, connect again
 *   drip COUNT          one connection, COUNT times a byte there and back: COUNT records each way
 * -r resumes sessions, -2 speaks TLS 1.2, -s SUITE no other suite, -k makes bulk write pieces of random size and change keys (TLS
 * 1.3) every hundred pieces. The last line is "ok N failed M resumed R"; exit status 0 when none failed.
 * SPDX-License-Identifier: Apache-2.0
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* A machine too slow for the rate is not given more than IN_FLIGHT_MAX connections to work on at once. */
enum { EVENTS = 256, CHUNK = 65536, PING = 100, COMPLAINTS = 5, PATIENCE_MS = 60000, IN_FLIGHT_MAX = 1000 };

enum state { IDLE, CONNECTING, SHAKING, PINGING, HELD, DONE };

struct peer {
	enum state state;
	int fd;
	SSL *ssl; /* NULL with -P */
	unsigned events;
	size_t sent, received;
	uint64_t since_ms;
};

static struct {
	int port;
	bool plain, resume, rekey;
	SSL_CTX *ctx;
	SSL_SESSION *session;
	int poller;
	unsigned long ok, failed, resumed;
	char ping[PING];
	bool (*done)(struct peer *peer); /* after the echo: true = close the connection */
} load;

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void die(const char *what)
{
	perror(what);
	exit(2);
}

static void complain(const struct peer *peer, const char *what, int error)
{
	if (load.failed < COMPLAINTS) {
		fprintf(stderr, "load: state %d after %lu ms: %s: %s\n", (int)peer->state,
		        (unsigned long)(now_ms() - peer->since_ms), what, error ? strerror(error) : "");
		ERR_print_errors_fp(stderr);
	}
	ERR_clear_error();
}

static void watch(struct peer *peer, unsigned events)
{
	struct epoll_event event = {.events = events, .data.ptr = peer};

	if (peer->events != events && epoll_ctl(load.poller, peer->events ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, peer->fd, &event))
		die("epoll_ctl");
	peer->events = events;
}

static int session_new(SSL *ssl, SSL_SESSION *session)
{
	(void)ssl;
	SSL_SESSION_free(load.session);
	load.session = session;
	return 1;
}

static void context_make(bool tls12, const char *suite)
{
	bool tls13 = suite && !strncmp(suite, "TLS_", 4);

	load.ctx = SSL_CTX_new(TLS_client_method());
	if (!load.ctx)
		die("SSL_CTX_new");
	SSL_CTX_set_mode(load.ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	if (tls12 || (suite && !tls13))
		SSL_CTX_set_max_proto_version(load.ctx, TLS1_2_VERSION);
	if (tls13)
		SSL_CTX_set_min_proto_version(load.ctx, TLS1_3_VERSION);
	if (suite && (tls13 ? SSL_CTX_set_ciphersuites(load.ctx, suite) : SSL_CTX_set_cipher_list(load.ctx, suite)) != 1)
		die(suite);
	if (load.resume) {
		SSL_CTX_set_session_cache_mode(load.ctx, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
		SSL_CTX_sess_set_new_cb(load.ctx, session_new);
	}
}

static void peer_close(struct peer *peer, bool ok)
{
	if (ok)
		load.ok++;
	else
		load.failed++;
	if (peer->ssl) {
		if (ok)
			SSL_shutdown(peer->ssl);
		SSL_free(peer->ssl);
	}
	if (peer->fd >= 0)
		close(peer->fd);
	*peer = (struct peer){.fd = -1};
}

static int peer_open(struct peer *peer)
{
	struct sockaddr_in to = {
		.sin_family = AF_INET, .sin_port = htons((uint16_t)load.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

	*peer = (struct peer){.state = CONNECTING, .since_ms = now_ms()};
	peer->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (peer->fd < 0)
		die("socket");
	setsockopt(peer->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
	if (connect(peer->fd, (struct sockaddr *)&to, sizeof(to)) && errno != EINPROGRESS) {
		complain(peer, "connect", errno);
		peer_close(peer, false);
		return -1;
	}
	watch(peer, EPOLLOUT);
	return 0;
}

/* 1: went on, 0: wait, -1: failed. */
static int verdict(struct peer *peer, int rc, const char *what)
{
	int error = errno;

	switch (peer->ssl ? SSL_get_error(peer->ssl, rc) : error == EAGAIN ? SSL_ERROR_WANT_READ : SSL_ERROR_SYSCALL) {
	case SSL_ERROR_WANT_READ: watch(peer, EPOLLIN); return 0;
	case SSL_ERROR_WANT_WRITE: watch(peer, EPOLLOUT); return 0;
	default: complain(peer, what, rc == 0 ? 0 : error); return -1;
	}
}

static int shake(struct peer *peer)
{
	int rc;

	if (load.plain)
		return 1;
	if (!peer->ssl) {
		peer->ssl = SSL_new(load.ctx);
		if (!peer->ssl || !SSL_set_fd(peer->ssl, peer->fd))
			die("SSL_new");
		if (load.resume && load.session)
			SSL_set_session(peer->ssl, load.session);
	}
	rc = SSL_connect(peer->ssl);
	if (rc == 1) {
		load.resumed += (unsigned long)SSL_session_reused(peer->ssl);
		return 1;
	}
	return verdict(peer, rc, "handshake");
}

static int put(struct peer *peer, const void *data, size_t size)
{
	return peer->ssl ? SSL_write(peer->ssl, data, (int)size) : (int)send(peer->fd, data, size, MSG_NOSIGNAL);
}

static int get(struct peer *peer, void *data, size_t size)
{
	return peer->ssl ? SSL_read(peer->ssl, data, (int)size) : (int)recv(peer->fd, data, size, 0);
}

static int ping(struct peer *peer)
{
	char answer[PING];

	while (peer->sent < PING) {
		int n = put(peer, load.ping + peer->sent, PING - peer->sent);

		if (n <= 0)
			return verdict(peer, n, "write");
		peer->sent += (size_t)n;
	}
	while (peer->received < PING) {
		int n = get(peer, answer, PING - peer->received);

		if (n <= 0)
			return verdict(peer, n, "read");
		if (memcmp(answer, load.ping + peer->received, (size_t)n)) {
			complain(peer, "wrong bytes", 0);
			return -1;
		}
		peer->received += (size_t)n;
	}
	return 1;
}

/* Takes the connection as far as it goes now; returns -1 when it failed. */
static int peer_step(struct peer *peer)
{
	int error = 0, rc;
	socklen_t size = sizeof(error);

	switch (peer->state) {
	case CONNECTING:
		getsockopt(peer->fd, SOL_SOCKET, SO_ERROR, &error, &size);
		if (error) {
			complain(peer, "connect", error);
			return -1;
		}
		peer->state = SHAKING;
		/* fall through */
	case SHAKING:
		rc = shake(peer);
		if (rc <= 0)
			return rc;
		peer->state = PINGING;
		/* fall through */
	case PINGING:
		rc = ping(peer);
		if (rc <= 0)
			return rc;
		peer->state = DONE;
		return 0;
	default: return 0;
	}
}

static void peer_advance(struct peer *peer)
{
	if (peer->state == HELD) {
		/* Nothing is expected now: anything that can be read is the end, a ticket or an error. */
		char byte;

		if (get(peer, &byte, 1) >= 0 || verdict(peer, -1, "held") < 0)
			peer_close(peer, false);
		return;
	}
	if (peer_step(peer) < 0)
		peer_close(peer, false);
	else if (peer->state == DONE && load.done(peer))
		peer_close(peer, true);
}

static bool always(struct peer *peer)
{
	(void)peer;
	return true;
}

static bool into_hold(struct peer *peer)
{
	peer->state = HELD;
	peer->sent = peer->received = 0;
	watch(peer, EPOLLIN);
	return false;
}

/* Waits at most `ms` and serves what happened. */
static void turn(int ms)
{
	struct epoll_event events[EVENTS];
	int count = epoll_wait(load.poller, events, EVENTS, ms);

	for (int i = 0; i < count; i++) {
		struct peer *peer = events[i].data.ptr;

		if (peer->state != IDLE)
			peer_advance(peer);
	}
}

static size_t in_state(const struct peer *peers, size_t count, enum state state)
{
	size_t n = 0;

	for (size_t i = 0; i < count; i++)
		n += peers[i].state == state;
	return n;
}

/* Ends what has not moved for a minute. */
static void bury(struct peer *peers, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (peers[i].state != IDLE && peers[i].state != HELD && now_ms() - peers[i].since_ms > PATIENCE_MS) {
			complain(&peers[i], "no progress", 0);
			peer_close(&peers[i], false);
		}
}

static struct peer *peers_new(size_t count)
{
	struct peer *peers = calloc(count, sizeof(*peers));

	if (!peers)
		die("calloc");
	return peers;
}

static void mode_hold(size_t count)
{
	struct peer *peers = peers_new(count);
	size_t opened = 0, busy = 0;
	char line[16];

	load.done = into_hold;
	while (opened < count || busy) {
		/* A listener's backlog is finite: not more than 256 on their way at once. */
		while (opened < count && busy < 256) {
			peer_open(&peers[opened++]);
			busy++;
		}
		turn(1000);
		bury(peers, opened);
		busy = opened - in_state(peers, opened, HELD) - in_state(peers, opened, IDLE);
	}
	printf("held %zu\n", in_state(peers, count, HELD));
	fflush(stdout);
	if (!fgets(line, sizeof(line), stdin))
		exit(2);
	load.done = always;
	for (size_t i = 0; i < count; i++)
		if (peers[i].state == HELD) {
			peers[i].state = PINGING;
			peers[i].since_ms = now_ms();
			peer_advance(&peers[i]);
		}
	while (in_state(peers, count, IDLE) < count) {
		turn(1000);
		bury(peers, count);
	}
	free(peers);
}

static void mode_rate(size_t per_s, size_t seconds)
{
	size_t total = per_s * seconds, opened = 0;
	struct peer *peers = peers_new(total);
	uint64_t start = now_ms();

	load.done = always;
	while (load.ok + load.failed < total) {
		size_t due = (now_ms() - start) * per_s / 1000;

		while (opened < total && opened < due && opened - load.ok - load.failed < IN_FLIGHT_MAX)
			peer_open(&peers[opened++]);
		turn(opened < total ? 1 : 1000);
		if (opened == total)
			bury(peers, total);
	}
	free(peers);
}

static void mode_loop(size_t count, size_t seconds)
{
	struct peer *peers = peers_new(count);
	uint64_t end = now_ms() + seconds * 1000;

	load.done = always;
	for (;;) {
		bool open = now_ms() < end;

		for (size_t i = 0; i < count && open; i++)
			if (peers[i].state == IDLE)
				peer_open(&peers[i]);
		if (!open && in_state(peers, count, IDLE) == count)
			break;
		turn(100);
		bury(peers, count);
	}
	free(peers);
}

/* The byte at each place of the bulk stream: different in every 8 bytes. */
static void fill(unsigned char *data, uint64_t from, size_t size)
{
	for (size_t i = 0; i < size; i++) {
		uint64_t word = ((from + i) / 8 + 1) * 0x9e3779b97f4a7c15u;

		data[i] = (unsigned char)(word >> 8 * ((from + i) % 8));
	}
}

/* Asks both sides for new keys now and then; returns how much to write now. */
static size_t rekey(struct peer *peer, size_t most)
{
	static size_t piece, left;

	/* A write that OpenSSL has not finished must be repeated with no less than it was begun with. */
	if (left && peer->sent == piece)
		return left < most ? left : most;
	piece = peer->sent;
	if (random() % 100 == 0 && !SSL_key_update(peer->ssl, SSL_KEY_UPDATE_REQUESTED))
		ERR_clear_error(); /* one is under way */
	left = 1 + (size_t)random() % most;
	return left;
}

/* Both halves of the bulk transfer go on as far as they can; returns -1 when the connection failed. */
static int bulk_step(struct peer *peer, uint64_t total)
{
	static unsigned char out[CHUNK], in[CHUNK], expected[CHUNK];
	unsigned want = EPOLLIN;
	int n = 1;

	while (peer->sent < total) {
		size_t size = total - peer->sent < CHUNK ? total - peer->sent : CHUNK;

		if (load.rekey)
			size = rekey(peer, size);
		fill(out, peer->sent, size);
		n = put(peer, out, size);
		if (n <= 0)
			break;
		peer->sent += (size_t)n;
		if (peer->sent - peer->received > 4 * CHUNK)
			break;
	}
	if (n <= 0 && verdict(peer, n, "write") < 0)
		return -1;
	if (peer->sent < total)
		want |= EPOLLOUT;
	while (peer->received < total) {
		n = get(peer, in, CHUNK);
		if (n <= 0)
			break;
		fill(expected, peer->received, (size_t)n);
		if (memcmp(in, expected, (size_t)n)) {
			fprintf(stderr, "load: wrong bytes after %zu\n", peer->received);
			return -1;
		}
		peer->received += (size_t)n;
	}
	if (n <= 0 && verdict(peer, n, "read") < 0)
		return -1;
	watch(peer, want);
	return 0;
}

static void mode_bulk(uint64_t total)
{
	struct peer peer;
	int rc = 0;

	if (peer_open(&peer))
		return;
	while (rc == 0 && (peer.state != DONE || peer.received < total)) {
		struct epoll_event event;

		if (epoll_wait(load.poller, &event, 1, PATIENCE_MS) == 0) {
			fprintf(stderr, "load: stuck: %zu sent, %zu received\n", peer.sent, peer.received);
			break;
		}
		if (peer.state != DONE) {
			rc = peer_step(&peer);
			if (rc == 0 && peer.state == DONE) {
				peer.sent = peer.received = 0;
				watch(&peer, EPOLLIN | EPOLLOUT);
			}
		} else {
			rc = bulk_step(&peer, total);
		}
	}
	peer_close(&peer, rc == 0 && peer.received == total);
}

/* A byte there and back, again and again, so that every byte is a record of its own. Returns -1 when the connection failed. */
static int drip_step(struct peer *peer, size_t count)
{
	unsigned char byte = (unsigned char)peer->received, answer;
	int n;

	while (peer->received < count) {
		if (peer->sent == peer->received) {
			n = put(peer, &byte, 1);
			if (n <= 0)
				return verdict(peer, n, "write");
			peer->sent++;
		}
		n = get(peer, &answer, 1);
		if (n <= 0)
			return verdict(peer, n, "read");
		if (answer != byte) {
			fprintf(stderr, "load: wrong byte after %zu\n", peer->received);
			return -1;
		}
		byte = (unsigned char)++peer->received;
	}
	return 0;
}

static void mode_drip(size_t count)
{
	struct peer peer;
	int rc = 0;

	if (peer_open(&peer))
		return;
	while (rc == 0 && (peer.state != DONE || peer.received < count)) {
		struct epoll_event event;

		if (epoll_wait(load.poller, &event, 1, PATIENCE_MS) == 0) {
			fprintf(stderr, "load: stuck: %zu sent, %zu received\n", peer.sent, peer.received);
			break;
		}
		if (peer.state != DONE) {
			rc = peer_step(&peer);
			if (rc == 0 && peer.state == DONE)
				peer.sent = peer.received = 0;
		}
		if (rc == 0 && peer.state == DONE)
			rc = drip_step(&peer, count);
	}
	peer_close(&peer, rc == 0 && peer.received == count);
}

static int usage(void)
{
	fprintf(stderr,
	        "usage: load [-P] [-r] [-2] [-s SUITE] [-k] PORT bulk BYTES | hold COUNT | rate PER_S SECONDS | loop COUNT SECONDS | "
	        "drip COUNT\n");
	return 2;
}

int main(int argc, char **argv)
{
	struct rlimit limit;
	const char *suite = NULL;
	bool tls12 = false;
	int c;

	while ((c = getopt(argc, argv, "Pr2ks:")) != -1) {
		switch (c) {
		case 'P': load.plain = true; break;
		case 'r': load.resume = true; break;
		case '2': tls12 = true; break;
		case 'k': load.rekey = true; break;
		case 's': suite = optarg; break;
		default: return usage();
		}
	}
	argc -= optind;
	argv += optind;
	if (argc < 3)
		return usage();
	load.port = atoi(argv[0]);
	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	signal(SIGPIPE, SIG_IGN);
	memset(load.ping, 'p', sizeof(load.ping));
	load.poller = epoll_create1(EPOLL_CLOEXEC);
	context_make(tls12, suite);
	if (!strcmp(argv[1], "bulk"))
		mode_bulk(strtoull(argv[2], NULL, 10));
	else if (!strcmp(argv[1], "drip"))
		mode_drip(strtoul(argv[2], NULL, 10));
	else if (!strcmp(argv[1], "hold"))
		mode_hold(strtoul(argv[2], NULL, 10));
	else if (!strcmp(argv[1], "rate") && argc > 3)
		mode_rate(strtoul(argv[2], NULL, 10), strtoul(argv[3], NULL, 10));
	else if (!strcmp(argv[1], "loop") && argc > 3)
		mode_loop(strtoul(argv[2], NULL, 10), strtoul(argv[3], NULL, 10));
	else
		return usage();
	printf("ok %lu failed %lu resumed %lu\n", load.ok, load.failed, load.resumed);
	SSL_SESSION_free(load.session);
	SSL_CTX_free(load.ctx);
	return load.failed || !load.ok ? 1 : 0;
}
