/*
 * For the tests of the record layer of our own: our side of a connection with the queues of its socket, and an OpenSSL peer over memory.
 * Included by tests/unit/test_inplace.c and test_kernel_records.c only.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_KEYED_TESTING_H
#define TLSPLICE_KEYED_TESTING_H

#include "addr.h"
#include "record_keyed.h"
#include "record_testing.h"
#include "tls.h"
#include "tls_testing.h"

#include <openssl/err.h>
#include <openssl/ssl.h>

enum { RECORD = 16384, BYTES = 200000 };

/* The suites the engine has, and whether the proxy is the client. */
static const struct suite {
	const char *name;
	int version;
} suites[] = {
	{"TLS_AES_128_GCM_SHA256", TLS1_3_VERSION},        {"TLS_AES_256_GCM_SHA384", TLS1_3_VERSION},
	{"TLS_CHACHA20_POLY1305_SHA256", TLS1_3_VERSION},  {"ECDHE-ECDSA-AES128-GCM-SHA256", TLS1_2_VERSION},
	{"ECDHE-ECDSA-AES256-GCM-SHA384", TLS1_2_VERSION}, {"ECDHE-ECDSA-CHACHA20-POLY1305", TLS1_2_VERSION},
};
enum { SUITES = sizeof(suites) / sizeof(*suites) };
static const struct suite *const v13 = &suites[0], *const v12 = &suites[3];

static const struct addr address = {.in = {.sin_family = AF_INET}, .len = sizeof(struct sockaddr_in)}; /* "0.0.0.0:0" */
static struct bufs bufs;
static unsigned char data[BYTES], got[BYTES];

/* The proxy's side of the connection. */
static struct us {
	struct tls_library *library;
	struct config *config;
	struct tls_context *context;
	struct tls tls;
	struct queue in, out;
	bool client;
	/* What stands between the queues and the wire. NULL: nothing, the queues hold what goes over it. */
	void (*sends)(void);
	size_t (*receives)(size_t n);
} us;

/* The other: first an SSL object, then, in the tests that need it, the forger. */
static struct peer {
	SSL_CTX *ctx;
	SSL *ssl;
	BIO *from, *to; /* what it has sent, what it will read */
	struct tls_traffic traffic;
	struct forger forger;
} peer;

static inline void up(void)
{
	scratch_up();
	make_identity("a.pem", NULL);
	us.library = tls_library_new();
	for (size_t i = 0; i < BYTES; i++)
		data[i] = (unsigned char)random();
}

static inline void down(void)
{
	tls_library_free(us.library);
	bufs_free(&bufs);
	scratch_down();
}

/* --- connections -------------------------------------------------------------------------------------------------------------------- */

static inline void peer_keylog(const SSL *ssl, const char *line)
{
	(void)ssl;
	tls_traffic_keylog(&peer.traffic, line);
}

static inline void peer_message(int write, int version, int type, const void *bytes, size_t n, SSL *ssl, void *arg)
{
	(void)ssl, (void)arg;
	tls_traffic_message(&peer.traffic, write, version, type, bytes, n);
}

static inline void peer_open(const struct suite *suite, void (*tweak)(SSL_CTX *ctx))
{
	peer = (struct peer){.ctx = SSL_CTX_new(TLS_method())};
	SSL_CTX_set_keylog_callback(peer.ctx, peer_keylog);
	SSL_CTX_set_msg_callback(peer.ctx, peer_message);
	SSL_CTX_set_security_level(peer.ctx, 0);
	cr_assert(testing_identity(peer.ctx));
	SSL_CTX_set_min_proto_version(peer.ctx, suite->version);
	SSL_CTX_set_max_proto_version(peer.ctx, suite->version);
	if (suite->version == TLS1_3_VERSION)
		cr_assert(SSL_CTX_set_ciphersuites(peer.ctx, suite->name));
	else
		cr_assert(SSL_CTX_set_cipher_list(peer.ctx, suite->name));
	if (tweak)
		tweak(peer.ctx);
	peer.ssl = SSL_new(peer.ctx);
	peer.to = BIO_new(BIO_s_mem());
	peer.from = BIO_new(BIO_s_mem());
	BIO_set_mem_eof_return(peer.to, -1);
	SSL_set_bio(peer.ssl, peer.to, peer.from);
	if (us.client)
		SSL_set_accept_state(peer.ssl);
	else
		SSL_set_connect_state(peer.ssl);
}

static inline void us_open(const char *options)
{
	if (us.client)
		us.config = load_format("debug = debug\n[c]\nclient = yes\naccept = 127.0.0.1:1\nconnect = localhost:2\n%s\n",
		                        options);
	else
		us.config = load_format("debug = debug\n[s]\naccept = 127.0.0.1:1\nconnect = 2\ncert = %s\n%s\n",
		                        scratch("a.pem"), options);
	us.context = context_of(us.config->sections, NULL, us.library);
	us.tls = (struct tls){.log_id = "test", .peer = &address};
	cr_assert_eq(tls_start(&us.tls, us.context, &bufs, &us.in, &us.out, ""), 0);
}

/* Carries what we have to send to the peer. */
static inline void to_peer(void)
{
	static unsigned char bytes[1 << 16];
	size_t n;

	if (us.sends) {
		us.sends();
		return;
	}
	while ((n = queue_read(&us.out, &bufs, bytes, sizeof(bytes))))
		cr_assert_eq(BIO_write(peer.to, bytes, (int)n), (int)n);
}

/* Carries at most n bytes that the peer has sent to us; returns how many. */
static inline size_t from_peer(size_t n)
{
	static unsigned char bytes[1 << 16];
	int done;

	if (us.receives)
		return us.receives(n);
	done = BIO_read(peer.from, bytes, (int)(n < sizeof(bytes) ? n : sizeof(bytes)));
	if (done <= 0)
		return 0;
	cr_assert_eq(queue_write(&us.in, &bufs, bytes, (size_t)done), 0);
	return (size_t)done;
}

static inline void everything_from_peer(void)
{
	while (from_peer(SIZE_MAX))
		continue;
}

static inline void shake_hands(void)
{
	enum tls_progress ours = TLS_WANTS_BYTES;
	int theirs = 0;

	for (int i = 0; i < 10 && (ours == TLS_WANTS_BYTES || theirs != 1); i++) {
		if (ours == TLS_WANTS_BYTES)
			ours = tls_handshake(&us.tls);
		to_peer();
		theirs = SSL_do_handshake(peer.ssl);
		everything_from_peer();
	}
	cr_assert_eq(ours, TLS_DONE);
	cr_assert_eq(theirs, 1);
}

static inline void meet_tweaked(bool client, const struct suite *suite, const char *options, void (*tweak)(SSL_CTX *ctx))
{
	us.client = client;
	us.sends = NULL;
	us.receives = NULL;
	peer_open(suite, tweak);
	us_open(options ? options : client ? "renegotiation = no" : "");
	shake_hands();
}

static inline void meet(bool client, const struct suite *suite)
{
	meet_tweaked(client, suite, NULL, NULL);
}

static inline void part(void)
{
	tls_end(&us.tls);
	queue_clear(&us.in, &bufs);
	queue_clear(&us.out, &bufs);
	cr_assert_eq(bufs.lent[CHUNK_SMALL] + bufs.lent[CHUNK_BIG], 0, "a chunk is lost");
	tls_context_free(us.context);
	config_free(us.config);
	SSL_free(peer.ssl);
	SSL_CTX_free(peer.ctx);
	hear_stderr(log_dump_kept);
}

/* Every suite in both roles. */
static inline void with_each(void (*check)(void))
{
	for (int i = 0; i < SUITES; i++)
		for (int client = 0; client < 2; client++) {
			meet(client, &suites[i]);
			check();
			part();
		}
}

static inline enum record_result records_open(struct queue *plain, size_t limit)
{
	return us.tls.record.engine->open(&us.tls.record, plain, limit);
}

static inline enum record_result records_close(void)
{
	return us.tls.record.engine->close(&us.tls.record);
}

static inline void promote(void)
{
	cr_assert_eq(tls_promote(&us.tls, false), TLS_PROMOTED);
	cr_assert_eq(us.tls.record.engine, &record_keyed);
	cr_assert_null(us.tls.ssl);
	cr_assert_not_null(us.tls.keyed);
	cr_assert_eq(us.tls.traffic.secret_len, 0, "the secrets are still there");
	cr_assert_eq(tls_promote(&us.tls, true), TLS_PROMOTED);
}

static inline void we_say(const void *bytes, size_t n)
{
	struct queue plain = {0};

	cr_assert_eq(queue_write(&plain, &bufs, bytes, n), 0);
	cr_assert_eq(us.tls.record.engine->seal(&us.tls.record, &plain), RECORD_OK);
	cr_assert_eq(plain.bytes, 0);
	queue_clear(&plain, &bufs);
	to_peer();
}

static inline void peer_says(const void *bytes, size_t n)
{
	cr_assert_eq(SSL_write(peer.ssl, bytes, (int)n), (int)n);
}

/* What is in our queue is n bytes of data, no more and no less. */
static inline void we_hear(const void *bytes, size_t n)
{
	struct queue plain = {0};

	cr_assert_eq(records_open(&plain, SIZE_MAX), RECORD_OK);
	while (us.receives && from_peer(SIZE_MAX)) /* it may have waited for new keys */
		cr_assert_eq(records_open(&plain, SIZE_MAX), RECORD_OK);
	cr_assert_eq(plain.bytes, n);
	cr_assert_eq(queue_read(&plain, &bufs, got, n), n);
	cr_assert_eq(memcmp(got, bytes, n), 0);
	queue_clear(&plain, &bufs);
}

static inline void peer_hears(const void *bytes, size_t n)
{
	size_t have = 0, more = 0;

	while (have < n && SSL_read_ex(peer.ssl, got + have, n - have, &more))
		have += more;
	cr_assert_eq(have, n, "%zu of %zu bytes", have, n);
	cr_assert_eq(memcmp(got, bytes, n), 0);
}

/* n bytes each way. */
static inline void exchange(size_t n)
{
	we_say(data, n);
	peer_hears(data, n);
	peer_says(data + BYTES - n, n);
	everything_from_peer();
	we_hear(data + BYTES - n, n);
}

/* Both directions end as they should. */
static inline void bye(void)
{
	struct queue plain = {0};

	cr_assert_eq(records_close(), RECORD_OK);
	cr_assert_eq(records_close(), RECORD_OK, "once is enough");
	to_peer();
	cr_assert_eq(SSL_read(peer.ssl, got, 1), 0);
	cr_assert_eq(SSL_get_error(peer.ssl, 0), SSL_ERROR_ZERO_RETURN);
	cr_assert_eq(BIO_ctrl_pending(peer.to), 0, "more than one alert");
	cr_assert_eq(SSL_shutdown(peer.ssl), 1);
	everything_from_peer();
	cr_assert_eq(records_open(&plain, SIZE_MAX), RECORD_CLOSED);
	cr_assert_eq(plain.bytes, 0);
	cr_assert_not(us.tls.alert_sent || us.tls.alert_received);
	queue_clear(&plain, &bufs);
}

/* From here on the forger is the peer. Until now the peer has heard of tickets at most. */
static inline void forger_takes_over(void)
{
	to_peer();
	cr_assert_eq(SSL_read(peer.ssl, got, 1), -1);
	promote();
	cr_assert(forger_init(&peer.forger, peer.ssl, &peer.traffic, !us.client));
}

#endif
