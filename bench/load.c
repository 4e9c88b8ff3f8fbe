/*
 * Load generator of the bench: one thread, epoll, OpenSSL. Plays one mode against one proxy for a fixed time, or a fixed number of units of
 * work, and prints what was done. Stand-alone program (load -h lists the modes); bench/run and bench/guest start it. Prints START when the
 * warm-up is over and END when the time or the work is, so that whoever started it can read the proxy's CPU time at both moments, then one
 * line of JSON, and leaves when its stdin closes. With --units everything rests at START until a line comes in.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "bench.h"
#include "load_client.h"

#include <arpa/inet.h>
#include <getopt.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <unistd.h>

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
