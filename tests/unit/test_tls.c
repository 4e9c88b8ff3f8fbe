/*
 * Unit tests of tls.h and record.h: client and server of our own speak through queues, without a socket.
 * Run by `make unit`; the faults need a sanitizer build, which has RING_FAULTS.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tls.h"

#include "tls_testing.h"

#include <openssl/ssl.h>

static const struct addr peer = {.in = {.sin_family = AF_INET}, .len = sizeof(struct sockaddr_in)};

/* Two workers, each with a client section and a server section. */
static struct world {
	struct config *config;
	struct tls_library *library[2];
	struct tls_sessions *client_sessions, *server_sessions;
	struct tls_context *client[2], *server[2];
} world;

static struct bufs bufs;

struct side {
	struct tls tls;
	struct queue in, out;
};

static struct side client, server;

/* Brings both sections up in both workers, with these options more. */
static void open_world(const char *client_options, const char *server_options)
{
	const struct section *section;

	world.config = load_format("[client]\nclient = yes\naccept = 127.0.0.1:1\nconnect = localhost:2\n%s\n"
	                           "[server]\naccept = 127.0.0.1:2\nconnect = 3\ncert = %s\n%s\n",
	                           client_options, scratch("a.pem"), server_options);
	section = world.config->sections;
	world.client_sessions = tls_sessions_new(section);
	world.server_sessions = tls_sessions_new(section->next);
	for (unsigned i = 0; i < 2; i++) {
		world.client[i] = context_of(section, world.client_sessions, world.library[i]);
		world.server[i] = context_of(section->next, world.server_sessions, world.library[i]);
	}
}

static void close_world(void)
{
	for (unsigned i = 0; i < 2; i++) {
		tls_context_free(world.client[i]);
		tls_context_free(world.server[i]);
	}
	tls_sessions_unref(world.client_sessions);
	tls_sessions_unref(world.server_sessions);
	config_free(world.config);
}

static void up(void)
{
	scratch_up();
	make_identity("a.pem", NULL);
	for (unsigned i = 0; i < 2; i++)
		world.library[i] = tls_library_new();
}

static void down(void)
{
	for (unsigned i = 0; i < 2; i++)
		tls_library_free(world.library[i]);
	scratch_down();
	bufs_free(&bufs); /* asserts that every chunk has come back */
}

TestSuite(tls, .init = up, .fini = down);
TestSuite(record, .init = up, .fini = down);

/* Carries what one side has to send to the other: at most n bytes. Returns how many. */
static size_t carry(struct side *from, struct side *to, size_t n)
{
	static unsigned char bytes[1 << 16];
	size_t done;

	n = queue_read(&from->out, &bufs, bytes, n < sizeof(bytes) ? n : sizeof(bytes));
	done = n;
	cr_assert_eq(queue_write(&to->in, &bufs, bytes, n), 0);
	return done;
}

static void connect_start(unsigned client_worker, unsigned server_worker, const char *destination)
{
	client = server = (struct side){0};
	client.tls.log_id = server.tls.log_id = "test";
	client.tls.peer = server.tls.peer = &peer;
	cr_assert_eq(tls_start(&client.tls, world.client[client_worker], &bufs, &client.in, &client.out, destination), 0);
	cr_assert_eq(tls_start(&server.tls, world.server[server_worker], &bufs, &server.in, &server.out, ""), 0);
}

/* Takes both handshakes as far as they go, carrying `step` bytes at a time. */
static void shake_hands(size_t step, enum tls_progress *c, enum tls_progress *s)
{
	size_t moved;

	*c = *s = TLS_WANTS_BYTES;
	do {
		if (*c == TLS_WANTS_BYTES)
			*c = tls_handshake(&client.tls);
		moved = carry(&client, &server, step);
		if (*s == TLS_WANTS_BYTES)
			*s = tls_handshake(&server.tls);
		moved += carry(&server, &client, step);
	} while (moved);
}

static void connect_sides(unsigned client_worker, unsigned server_worker, const char *destination)
{
	enum tls_progress c, s;

	connect_start(client_worker, server_worker, destination);
	shake_hands(SIZE_MAX, &c, &s);
	cr_assert_eq(c, TLS_DONE);
	cr_assert_eq(s, TLS_DONE);
}

static void side_end(struct side *side)
{
	tls_end(&side->tls);
	tls_end(&side->tls);
	queue_clear(&side->in, &bufs);
	queue_clear(&side->out, &bufs);
}

static void disconnect(void)
{
	side_end(&client);
	side_end(&server);
}

static enum record_result records_open(struct side *side, struct queue *plain, size_t limit)
{
	return side->tls.record.engine->open(&side->tls.record, plain, limit);
}

static enum record_result records_close(struct side *side)
{
	return side->tls.record.engine->close(&side->tls.record);
}

static void say(struct side *side, const void *data, size_t n)
{
	struct queue plain = {0};

	cr_assert_eq(queue_write(&plain, &bufs, data, n), 0);
	cr_assert_eq(side->tls.record.engine->seal(&side->tls.record, &plain), RECORD_OK);
	cr_assert_eq(plain.bytes, 0);
	queue_clear(&plain, &bufs);
}

/* Everything `side` has been sent by now is this. */
static void hears(struct side *side, const void *data, size_t n)
{
	struct queue plain = {0};
	char *got = malloc(n + 1);

	cr_assert_eq(records_open(side, &plain, SIZE_MAX), RECORD_OK);
	cr_assert_eq(plain.bytes, n);
	cr_assert_eq(queue_read(&plain, &bufs, got, n), n);
	cr_assert_eq(memcmp(got, data, n), 0);
	queue_clear(&plain, &bufs);
	free(got);
}

/* A message and its answer; brings the tickets of TLS 1.3 to the client. */
static void exchange(void)
{
	say(&client, "ping", 4);
	carry(&client, &server, SIZE_MAX);
	hears(&server, "ping", 4);
	say(&server, "pong", 4);
	carry(&server, &client, SIZE_MAX);
	hears(&client, "pong", 4);
}

/* Both sides end in an orderly way. */
static void bye(void)
{
	struct queue plain = {0};

	cr_assert_eq(records_close(&client), RECORD_OK);
	carry(&client, &server, SIZE_MAX);
	cr_assert_eq(records_open(&server, &plain, SIZE_MAX), RECORD_CLOSED);
	cr_assert_eq(records_close(&server), RECORD_OK);
	carry(&server, &client, SIZE_MAX);
	cr_assert_eq(records_open(&client, &plain, SIZE_MAX), RECORD_CLOSED);
	cr_assert_eq(plain.bytes, 0);
	queue_clear(&plain, &bufs);
	disconnect();
}

static const char *const versions[] = {"sslVersion = TLSv1.2", "sslVersion = TLSv1.3"};
static const char *const version_names[] = {"TLSv1.2", "TLSv1.3"};

/* --- handshakes --- */

Test(tls, both_versions)
{
	for (int v = 0; v < 2; v++) {
		open_world(versions[v], "");
		connect_sides(0, 1, "");
		cr_assert_str_eq(SSL_get_version(server.tls.ssl), version_names[v]);
		cr_assert_not(tls_resumed(&client.tls));
		cr_assert_not(client.tls.handshaking);
		exchange();
		bye();
		close_world();
	}
}

Test(tls, byte_by_byte)
{
	enum tls_progress c, s;

	for (int v = 0; v < 2; v++) {
		open_world("", versions[v]);
		connect_start(0, 0, "");
		shake_hands(1, &c, &s);
		cr_assert(c == TLS_DONE && s == TLS_DONE);
		exchange();
		bye();
		close_world();
	}
}

Test(tls, a_handshake_that_stops_half_way)
{
	open_world("", "");
	for (size_t n = 0; n < 1200; n += 37) {
		connect_start(0, 0, "");
		cr_assert_eq(tls_handshake(&client.tls), TLS_WANTS_BYTES);
		carry(&client, &server, n);
		tls_handshake(&server.tls);
		carry(&server, &client, n);
		tls_handshake(&client.tls);
		disconnect();
	}
	close_world();
}

Test(tls, the_client_names_the_server)
{
	open_world("", "");
	connect_sides(0, 0, "");
	cr_assert_str_eq(SSL_get_servername(server.tls.ssl, TLSEXT_NAMETYPE_host_name), "localhost");
	disconnect();
	close_world();
	open_world("sni = example.test", "");
	connect_sides(0, 0, "");
	cr_assert_str_eq(SSL_get_servername(server.tls.ssl, TLSEXT_NAMETYPE_host_name), "example.test");
	disconnect();
	close_world();
}

static const char *const not_tls[] = {
	"GET / HTTP/1.0\r\n\r\n",
	"SSH-2.0-OpenSSH_9.2p1\r\n",
	"\x16\x03\x01\xff\xff",
	"\x16\x03\x01\x00\x05\x01\xff\xff\xff\xff",
	"\x17\x03\x03\x00\x05hello",
	"\x80\x2e\x01\x03\x01",
	"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
};

Test(tls, what_is_not_tls_is_refused)
{
	open_world("", "");
	for (size_t i = 0; i < sizeof(not_tls) / sizeof(*not_tls); i++) {
		connect_start(0, 0, "");
		cr_assert_eq(queue_write(&server.in, &bufs, not_tls[i], strlen(not_tls[i]) ? strlen(not_tls[i]) : 5), 0);
		cr_assert_eq(queue_write(&server.in, &bufs, "0123456789012345678901234567890123456789", 40), 0);
		cr_assert_neq(tls_handshake(&server.tls), TLS_DONE);
		disconnect();
	}
	close_world();
}

/* Every byte of a ClientHello changed in turn: no crash, and at worst a failure. */
Test(tls, a_damaged_hello)
{
	static unsigned char hello[4096];
	size_t n;

	open_world("", "");
	connect_start(0, 0, "");
	tls_handshake(&client.tls);
	n = queue_read(&client.out, &bufs, hello, sizeof(hello));
	disconnect();
	cr_assert_gt(n, 100);
	for (size_t i = 0; i < n; i++) {
		connect_start(0, 0, "");
		hello[i] ^= 0x55;
		cr_assert_eq(queue_write(&server.in, &bufs, hello, n), 0);
		hello[i] ^= 0x55;
		tls_handshake(&server.tls);
		disconnect();
	}
	close_world();
}

Test(tls, no_version_in_common)
{
	enum tls_progress c, s;

	open_world("sslVersion = TLSv1.2", "sslVersion = TLSv1.3");
	connect_start(0, 0, "");
	shake_hands(SIZE_MAX, &c, &s);
	cr_assert(c == TLS_FAILED && s == TLS_FAILED);
	cr_assert(server.tls.alert_sent && !server.tls.alert_received);
	cr_assert(client.tls.alert_received && !client.tls.alert_sent);
	hear_stderr(log_dump_kept);
	cr_assert(strstr(said, "SSL_accept: "), "%s", said);
	cr_assert(strstr(said, ": client 0.0.0.0:0"), "%s", said);
	disconnect();
	close_world();
}

/* --- sessions --- */

/* Two connections, on workers of their own at both ends. True when the second resumed the session of the first. */
static bool resumes(const char *first, const char *second)
{
	bool resumed;

	connect_sides(0, 0, first);
	cr_assert_not(tls_resumed(&server.tls));
	exchange();
	bye();
	connect_sides(1, 1, second);
	resumed = tls_resumed(&server.tls);
	cr_assert_eq(tls_resumed(&client.tls), resumed);
	exchange();
	bye();
	return resumed;
}

Test(tls, tickets_are_good_at_every_worker)
{
	for (int v = 0; v < 2; v++) {
		open_world(versions[v], "");
		cr_assert(resumes("", ""));
		close_world();
	}
}

Test(tls, the_cache_is_one_for_all_workers)
{
	for (int v = 0; v < 2; v++) {
		open_world(versions[v], "options = NO_TICKET");
		cr_assert(resumes("", ""));
		close_world();
	}
}

Test(tls, a_session_is_offered_to_its_upstream_only)
{
	open_world("", "");
	cr_assert_not(resumes("192.0.2.1:443", "192.0.2.2:443"));
	connect_sides(0, 1, "192.0.2.1:443");
	cr_assert(tls_resumed(&server.tls));
	disconnect();
	close_world();
}

/* What a connection says of its peer is what its own handshake has checked. */
Test(tls, authenticated_peers)
{
	char options[256];

	snprintf(options, sizeof(options), "verifyPeer = yes\nCAfile = %s\n", scratch("a.pem"));
	open_world(options, "");
	connect_sides(0, 0, "");
	cr_expect(client.tls.authenticated);
	cr_expect_not(server.tls.authenticated, "a client without certificate");
	exchange();
	bye();
	connect_sides(1, 0, "");
	cr_expect(tls_resumed(&client.tls));
	cr_expect_not(client.tls.authenticated, "nothing was checked now");
	disconnect();
	close_world();
}

Test(tls, nobody_is_authenticated_unchecked)
{
	open_world("", "");
	connect_sides(0, 0, "");
	cr_expect_not(client.tls.authenticated);
	disconnect();
	close_world();
}

Test(tls, a_certificate_that_is_not_installed)
{
	enum tls_progress c, s;
	char options[256];

	make_identity("b.pem", NULL);
	snprintf(options, sizeof(options), "verifyPeer = yes\nCAfile = %s\n", scratch("b.pem"));
	open_world(options, "");
	connect_start(0, 0, "");
	shake_hands(SIZE_MAX, &c, &s);
	cr_expect_eq(c, TLS_FAILED);
	cr_expect(client.tls.alert_sent);
	cr_expect_not(client.tls.authenticated);
	disconnect();
	close_world();
}

Test(tls, session_resume_no)
{
	open_world("", "sessionResume = no");
	cr_assert_not(resumes("", ""));
	close_world();
	open_world("sessionResume = no", "");
	cr_assert_not(resumes("", ""));
	close_world();
}

Test(tls, a_full_cache_forgets)
{
	open_world("sslVersion = TLSv1.2", "options = NO_TICKET\nsessionCacheSize = 1");
	cr_assert(resumes("", ""));
	for (int i = 0; i < 200; i++) {
		char destination[16];

		snprintf(destination, sizeof(destination), "peer%d", i);
		connect_sides(0, 0, destination);
		bye();
	}
	connect_sides(0, 0, "");
	cr_assert_not(tls_resumed(&server.tls));
	bye();
	close_world();
}

/* An end without close_notify does not spoil a session; a fatal alert does (RFC 5246 7.2.2). */
Test(tls, sessions_after_a_bad_end)
{
	struct queue plain = {0};

	open_world("sslVersion = TLSv1.2", "options = NO_TICKET");
	connect_sides(0, 0, "");
	disconnect();
	connect_sides(0, 0, "");
	cr_assert(tls_resumed(&server.tls), "cut off, and resumed all the same");
	cr_assert_eq(queue_write(&server.in, &bufs, "\x17\x03\x03\x00\x20 32 bytes that nobody encrypted..", 37), 0);
	cr_assert_eq(records_open(&server, &plain, SIZE_MAX), RECORD_FAILED);
	cr_assert(server.tls.alert_sent);
	queue_clear(&plain, &bufs);
	disconnect();
	connect_sides(0, 0, "");
	cr_assert_not(tls_resumed(&server.tls));
	disconnect();
	close_world();
}

/* --- records --- */

static unsigned char *random_bytes(size_t n)
{
	unsigned char *bytes = malloc(n);

	for (size_t i = 0; i < n; i++)
		bytes[i] = (unsigned char)random();
	return bytes;
}

Test(record, byte_by_byte)
{
	struct queue plain = {0};
	char got[8] = "";

	open_world("", "");
	connect_sides(0, 0, "");
	say(&client, "hello", 5);
	while (client.out.bytes > 1) {
		carry(&client, &server, 1);
		cr_assert_eq(records_open(&server, &plain, SIZE_MAX), RECORD_OK);
		cr_assert_eq(plain.bytes, 0);
	}
	carry(&client, &server, 1);
	cr_assert_eq(records_open(&server, &plain, SIZE_MAX), RECORD_OK);
	cr_assert_eq(queue_read(&plain, &bufs, got, sizeof(got)), 5);
	cr_assert_str_eq(got, "hello");
	queue_clear(&plain, &bufs);
	bye();
	close_world();
}

Test(record, bulk_in_both_directions)
{
	enum { BYTES = 300000 };
	unsigned char *data = random_bytes(BYTES);

	for (int v = 0; v < 2; v++) {
		open_world(versions[v], "");
		connect_sides(0, 0, "");
		for (size_t n = 1; n <= BYTES; n = n * 7 + 3) {
			say(&client, data, n);
			say(&server, data + BYTES - n, n);
			while (carry(&client, &server, SIZE_MAX) || carry(&server, &client, SIZE_MAX))
				continue;
			hears(&server, data, n);
			hears(&client, data + BYTES - n, n);
		}
		bye();
		close_world();
	}
	free(data);
}

/* Cut anywhere, records come out whole and in order. */
Test(record, in_pieces_of_every_size)
{
	enum { BYTES = 50000 };
	unsigned char *data = random_bytes(BYTES), *got = malloc(BYTES);
	struct queue plain = {0};

	open_world("", "");
	connect_sides(0, 0, "");
	for (size_t piece = 1; piece < 40000; piece = piece * 3 + 1) {
		say(&client, data, BYTES);
		while (carry(&client, &server, piece))
			cr_assert_eq(records_open(&server, &plain, SIZE_MAX), RECORD_OK);
		cr_assert_eq(plain.bytes, BYTES);
		queue_read(&plain, &bufs, got, BYTES);
		cr_assert_eq(memcmp(got, data, BYTES), 0);
	}
	queue_clear(&plain, &bufs);
	bye();
	close_world();
	free(data);
	free(got);
}

Test(record, stops_at_the_limit)
{
	enum { BYTES = 200000, LIMIT = 20000, RECORD = 16384 };
	unsigned char *data = random_bytes(BYTES), *got = malloc(BYTES);
	struct queue plain = {0};
	size_t n = 0;
	int turns = 0;

	open_world("", "");
	connect_sides(0, 0, "");
	say(&client, data, BYTES);
	while (carry(&client, &server, SIZE_MAX))
		continue;
	while (records_open(&server, &plain, LIMIT) == RECORD_MORE) {
		cr_assert_geq(plain.bytes, LIMIT);
		cr_assert_lt(plain.bytes, LIMIT + RECORD);
		n += queue_read(&plain, &bufs, got + n, BYTES - n);
		turns++;
	}
	n += queue_read(&plain, &bufs, got + n, BYTES - n);
	cr_assert_eq(n, BYTES);
	cr_assert_gt(turns, 4);
	cr_assert_eq(memcmp(got, data, BYTES), 0);
	queue_clear(&plain, &bufs);
	bye();
	close_world();
	free(data);
	free(got);
}

/* After close_notify one way the other goes on. */
Test(record, half_closed)
{
	struct queue plain = {0};

	for (int v = 0; v < 2; v++) {
		open_world(versions[v], "");
		connect_sides(0, 0, "");
		say(&client, "last words", 10);
		cr_assert_eq(records_close(&client), RECORD_OK);
		carry(&client, &server, SIZE_MAX);
		cr_assert_eq(records_open(&server, &plain, SIZE_MAX), RECORD_CLOSED);
		cr_assert_eq(plain.bytes, 10, "what came before the end is there");
		queue_clear(&plain, &bufs);
		say(&server, "and the answer", 14);
		carry(&server, &client, SIZE_MAX);
		hears(&client, "and the answer", 14);
		cr_assert_eq(records_close(&server), RECORD_OK);
		carry(&server, &client, SIZE_MAX);
		cr_assert_eq(records_open(&client, &plain, SIZE_MAX), RECORD_CLOSED);
		queue_clear(&plain, &bufs);
		cr_assert_not(client.tls.alert_sent || client.tls.alert_received);
		disconnect();
		close_world();
	}
}

Test(record, truncated)
{
	struct queue plain = {0};

	open_world("", "");
	for (size_t n = 1; n < 30; n++) {
		connect_sides(0, 0, "");
		say(&client, "0123456789", 10);
		carry(&client, &server, client.out.bytes - n);
		cr_assert_eq(records_open(&server, &plain, SIZE_MAX), RECORD_OK);
		cr_assert_eq(plain.bytes, 0, "no part of a record is believed");
		queue_clear(&plain, &bufs);
		disconnect();
	}
	close_world();
}

/* A flipped bit anywhere in a record ends the connection with an alert that the peer understands; no byte of it is believed. */
Test(record, damaged)
{
	static unsigned char record[256];
	struct queue plain = {0};
	size_t n;

	for (int v = 0; v < 2; v++) {
		open_world(versions[v], "");
		connect_sides(0, 0, "");
		exchange();
		say(&client, "0123456789", 10);
		n = client.out.bytes;
		disconnect();
		for (size_t i = 5; i < n; i++) {
			connect_sides(0, 0, "");
			exchange();
			say(&client, "0123456789", 10);
			cr_assert_eq(queue_read(&client.out, &bufs, record, sizeof(record)), n);
			record[i] ^= 1;
			cr_assert_eq(queue_write(&server.in, &bufs, record, n), 0);
			cr_assert_eq(records_open(&server, &plain, SIZE_MAX), RECORD_FAILED);
			cr_assert_eq(plain.bytes, 0);
			cr_assert(server.tls.alert_sent && server.out.bytes > 0);
			carry(&server, &client, SIZE_MAX);
			cr_assert_eq(records_open(&client, &plain, SIZE_MAX), RECORD_FAILED);
			cr_assert(client.tls.alert_received && !client.tls.alert_sent);
			queue_clear(&plain, &bufs);
			disconnect();
		}
		close_world();
	}
}

Test(record, plain_text_after_the_handshake)
{
	struct queue plain = {0};

	open_world("", "");
	connect_sides(0, 0, "");
	cr_assert_eq(queue_write(&server.in, &bufs, "GET / HTTP/1.1\r\n\r\n", 18), 0);
	cr_assert_eq(records_open(&server, &plain, SIZE_MAX), RECORD_FAILED);
	cr_assert_eq(plain.bytes, 0);
	queue_clear(&plain, &bufs);
	disconnect();
	close_world();
}

/* A KeyUpdate that asks for one is answered, and both directions go on. */
Test(record, key_update)
{
	open_world("sslVersion = TLSv1.3", "");
	connect_sides(0, 0, "");
	exchange();
	cr_assert_eq(SSL_key_update(client.tls.ssl, SSL_KEY_UPDATE_REQUESTED), 1);
	exchange();
	exchange();
	bye();
	close_world();
}

/* The client asks for a handshake in the middle of the connection. Returns what the server says to it. */
static enum record_result renegotiate(struct queue *plain)
{
	connect_sides(0, 0, "");
	exchange();
	cr_assert_eq(SSL_renegotiate(client.tls.ssl), 1);
	SSL_do_handshake(client.tls.ssl);
	carry(&client, &server, SIZE_MAX);
	return records_open(&server, plain, SIZE_MAX);
}

Test(record, renegotiation_no)
{
	struct queue plain = {0};

	open_world("sslVersion = TLSv1.2", "renegotiation = no");
	cr_assert_eq(renegotiate(&plain), RECORD_FAILED);
	cr_assert(server.tls.renegotiating);
	hear_stderr(log_dump_kept);
	cr_assert(strstr(said, "Aborting due to renegotiation request"), "%s", said);
	queue_clear(&plain, &bufs);
	disconnect();
	close_world();
}

Test(record, renegotiation_yes)
{
	struct queue plain = {0};
	enum tls_progress c;

	open_world("sslVersion = TLSv1.2", "renegotiation = yes\noptions = ALLOW_CLIENT_RENEGOTIATION");
	cr_assert_eq(renegotiate(&plain), RECORD_OK);
	cr_assert_not(server.tls.renegotiating);
	for (int i = 0; i < 5; i++) {
		carry(&server, &client, SIZE_MAX);
		c = tls_handshake(&client.tls);
		carry(&client, &server, SIZE_MAX);
		cr_assert_eq(records_open(&server, &plain, SIZE_MAX), RECORD_OK);
	}
	cr_assert_eq(c, TLS_DONE);
	queue_clear(&plain, &bufs);
	exchange();
	bye();
	close_world();
}

/* --- identities --- */

static bool identity_loads(const char *cert, const char *key)
{
	struct config *config = load_format("[s]\naccept = 127.0.0.1:1\nconnect = 2\ncert = %s\nkey = %s\n", cert, key);
	struct tls_identity *identity = tls_identity_load(config->sections);
	bool ok = identity != NULL;

	hear_stderr(log_dump_kept);
	tls_identity_free(identity);
	config_free(config);
	return ok;
}

Test(tls, identities)
{
	make_identity("cert.pem", "key.pem");
	scratch_write("junk.pem", "-----BEGIN CERTIFICATE-----\nthis is none\n-----END CERTIFICATE-----\n");
	cr_assert(identity_loads(scratch("a.pem"), scratch("a.pem")), "%s", said);
	cr_assert(identity_loads(scratch("cert.pem"), scratch("key.pem")), "%s", said);
	cr_assert_not(identity_loads(scratch("cert.pem"), scratch("a.pem")), "another key");
	cr_assert(strstr(said, "Private key does not match the certificate"), "%s", said);
	cr_assert_not(identity_loads(scratch("cert.pem"), scratch("cert.pem")), "no key");
	cr_assert(strstr(said, "Failed to load private key from: "), "%s", said);
	cr_assert_not(identity_loads(scratch("junk.pem"), scratch("key.pem")));
	cr_assert(strstr(said, "Failed to load certificate from: "), "%s", said);
	cr_assert_not(identity_loads(scratch("nowhere.pem"), scratch("key.pem")));
	cr_assert_not(identity_loads(scratch("cert.pem"), scratch("nowhere.pem")));
	cr_assert_not(identity_loads(scratch_dir, scratch("key.pem")));
}

Test(tls, nothing_started_ends_well)
{
	struct tls tls = {0};

	tls_end(&tls);
	tls_context_free(NULL);
	tls_identity_free(NULL);
	tls_library_free(NULL);
	tls_sessions_unref(NULL);
}

/* --- faults --- */

#ifdef RING_FAULTS
/* One whole connection in which anything may fail; true when nothing did. */
static bool connection_survives(void)
{
	struct queue plain = {0};
	enum tls_progress c = TLS_WANTS_BYTES, s = TLS_WANTS_BYTES;
	bool ok;

	connect_start(0, 0, "");
	for (int i = 0; i < 10 && c != TLS_FAILED && s != TLS_FAILED; i++) {
		if (c == TLS_WANTS_BYTES)
			c = tls_handshake(&client.tls);
		queue_move(&server.in, &client.out);
		if (s == TLS_WANTS_BYTES)
			s = tls_handshake(&server.tls);
		queue_move(&client.in, &server.out);
	}
	ok = c == TLS_DONE && s == TLS_DONE;
	ok = ok && queue_write(&plain, &bufs, "hello", 5) == 0;
	ok = ok && client.tls.record.engine->seal(&client.tls.record, &plain) == RECORD_OK;
	queue_move(&server.in, &client.out);
	ok = ok && records_open(&server, &plain, SIZE_MAX) == RECORD_OK && plain.bytes == 5;
	ok = ok && records_close(&server) == RECORD_OK;
	queue_clear(&plain, &bufs);
	disconnect();
	return ok;
}

Test(tls, no_memory_for_chunks)
{
	unsigned long nth = 0;

	for (int v = 0; v < 2; v++) {
		open_world(versions[v], "");
		cr_assert(connection_survives());
		for (nth = 1; nth < 1000; nth++) {
			bool survived;

			chunk_fail_nth(nth, 1);
			survived = connection_survives();
			chunk_fail_nth(0, 0);
			hear_stderr(log_dump_kept);
			if (survived)
				break; /* it asks for no more */
			cr_assert_eq(bufs.lent[CHUNK_SMALL] + bufs.lent[CHUNK_BIG], 0);
		}
		cr_assert(nth > 5 && nth < 1000, "%lu", nth);
		close_world();
	}
}
#endif
