/*
 * Unit tests of tls_hello.h and tls_switch(): server names, patterns, and a connection that goes on in another section's context.
 * Run by `make unit`.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tls_hello.h"

#include "tls_testing.h"

#include <openssl/ssl.h>

TestSuite(hello, .init = scratch_up, .fini = scratch_down);

/* --- the extension --- */

#define NAME(bytes) hello_server_name((const unsigned char *)(bytes), sizeof(bytes) - 1, name)

Test(hello, names)
{
	char name[SERVER_NAME_MAX + 1];

	cr_assert(NAME("\0\x04\0\0\x01"
	               "a"));
	cr_expect_str_eq(name, "a");
	cr_assert(NAME("\0\x0e\0\0\x0b"
	               "example.com"));
	cr_expect_str_eq(name, "example.com");
}

Test(hello, names_of_the_greatest_length)
{
	unsigned char extension[5 + 256] = {1, 2, 0, 0, 255};
	char name[SERVER_NAME_MAX + 1];

	memset(extension + 5, 'x', 256);
	cr_assert(hello_server_name(extension, 5 + 255, name));
	cr_expect_eq(strlen(name), 255);
	extension[1] = 3;
	extension[3] = 1;
	extension[4] = 0;
	cr_expect_not(hello_server_name(extension, 5 + 256, name));
}

Test(hello, malformed_names)
{
	char name[SERVER_NAME_MAX + 1];

	cr_expect_not(NAME(""));
	cr_expect_not(NAME("\0"));
	cr_expect_not(NAME("\0\0"));
	cr_expect_not(NAME("\0\x03\0\0\0"), "an empty name");
	cr_expect_not(NAME("\0\x04\x01\0\x01"
	                   "a"),
	              "a type of name that there is not");
	cr_expect_not(NAME("\0\x05\0\0\x01"
	                   "a"),
	              "a list that is longer than the extension");
	cr_expect_not(NAME("\0\x03\0\0\x01"
	                   "a"),
	              "a list that is shorter");
	cr_expect_not(NAME("\0\x04\0\0\x02"
	                   "a"),
	              "a name that is longer than the list");
	cr_expect_not(NAME("\0\x05\0\0\x01"
	                   "ab"),
	              "a byte behind the name");
	cr_expect_not(NAME("\0\x08\0\0\x01"
	                   "a\0\0\x01"
	                   "b"),
	              "two names");
	cr_expect_not(NAME("\0\x06\0\0\x03"
	                   "a\0b"),
	              "a NUL");
}

/* --- patterns --- */

Test(hello, patterns)
{
	cr_expect(hello_matches("example.com", "example.com"));
	cr_expect(hello_matches("Example.COM", "eXample.com"));
	cr_expect_not(hello_matches("example.com", "www.example.com"));
	cr_expect_not(hello_matches("example.com", "example.co"));
	cr_expect(hello_matches("*.example.com", "www.EXAMPLE.com"));
	cr_expect(hello_matches("*.example.com", "a.b.example.com"));
	cr_expect(hello_matches("*.example.com", ".example.com"));
	cr_expect_not(hello_matches("*.example.com", "example.com"));
	cr_expect_not(hello_matches("*.example.com", "com"));
	cr_expect(hello_matches("*example.com", "example.com"));
	cr_expect(hello_matches("*", "anything"));
	cr_expect_not(hello_matches("www.*", "www.example.com"), "only a leading star");
	cr_expect(hello_matches("www.*", "www.*"));
	cr_expect(hello_matches("**.x", "*.x"));
	cr_expect_not(hello_matches("**.x", "a.x"));
	cr_expect_not(hello_matches("", "a"));
}

#define THREE                                                      \
	"[p]\naccept = 127.0.0.1:1\nconnect = 2\ncert = a\n"       \
	"[one]\nsni = p:*.x\nconnect = 2\ncert = a\n"              \
	"[two]\nsni = p:a.x\nsni = p:b.Y\nconnect = 2\ncert = a\n" \
	"[three]\nservice = renamed\nsni = p:*y\nconnect = 2\ncert = a\n"

static const char *found(const struct section *section, const char *name)
{
	const struct virtual_host *host = hello_find(section, name);

	return host ? host->section->name : "none";
}

Test(hello, first_match_in_the_order_of_the_file)
{
	struct config *config = load_good(THREE);
	const struct section *p = config->sections;

	cr_expect_str_eq(found(p, "a.x"), "one");
	cr_expect_str_eq(found(p, "b.y"), "two");
	cr_expect_str_eq(found(p, "c.Y"), "renamed");
	cr_expect_str_eq(found(p, "x"), "none");
	cr_expect_null(p->next->hosts);
	config_free(config);
}

Test(hello, what_cannot_be_a_virtual_host)
{
	refused(SERVER "[t]\nsni = x\nconnect = 2\ncert = a\n", "Service [t]: Invalid SNI parameter format");
	refused(SERVER "[t]\nsni = x:y\nconnect = 2\ncert = a\n", "Service [t]: SNI section name not found");
	refused(SERVER "[t]\nsni = t:y\nconnect = 2\ncert = a\n", "Service [t]: SNI section name not found");
	refused(CLIENT "[t]\nsni = s:y\nconnect = 2\ncert = a\n", "Service [t]: SNI primary service is a TLS client");
	refused(SERVER "[t]\nsni = s:y\naccept = 3\nconnect = 2\ncert = a\n",
	        "Service [t]: Each service must define two endpoints");
	refused(SERVER "[t]\nsni = s:y\ncert = a\n", "Service [t]: Each service must define two endpoints");
}

Test(hello, host_of_a_virtual_host_is_warned_about)
{
	struct config *config =
		load_good(SERVER "[t]\nsni = s:a\nconnect = 2\ncert = a\n[u]\nsni = t:b\nconnect = 2\ncert = a\n");

	cr_expect(strstr(said, "Service [u]: nobody gets here by way of [t], which accepts no connections"));
	config_free(config);
}

/* --- the switch --- */

static const struct addr peer = {.in = {.sin_family = AF_INET}, .len = sizeof(struct sockaddr_in)};
static struct bufs bufs;

/* Feeds the server what the client has to say, n bytes at a time; what the server does with the last of them. */
static enum tls_progress feed(struct tls *server, SSL *client, size_t n, struct tls_context *other)
{
	enum tls_progress progress = TLS_WANTS_BYTES;
	char bytes[4096];
	int len;

	while ((len = BIO_read(SSL_get_wbio(client), bytes, n < sizeof(bytes) ? (int)n : (int)sizeof(bytes))) > 0) {
		cr_assert_eq(queue_write(server->record.in, &bufs, bytes, (size_t)len), 0);
		progress = tls_handshake(server);
		if (progress == TLS_CHOSE) {
			cr_assert_eq(server->chosen->index, 1);
			cr_assert_eq(tls_switch(server, other), 0);
			progress = tls_handshake(server);
		}
		if (progress != TLS_WANTS_BYTES)
			break;
	}
	return progress;
}

static enum tls_progress answer(struct tls *server, SSL *client)
{
	char bytes[4096];
	size_t n;

	while ((n = queue_read(server->record.out, &bufs, bytes, sizeof(bytes))) > 0)
		BIO_write(SSL_get_rbio(client), bytes, (int)n);
	return SSL_do_handshake(client) == 1 ? TLS_DONE : TLS_WANTS_BYTES;
}

static SSL *client_new(SSL_CTX *ctx, const char *name)
{
	SSL *client = SSL_new(ctx);

	SSL_set_bio(client, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
	SSL_set_connect_state(client);
	cr_assert(!name || SSL_set_tlsext_host_name(client, name));
	SSL_do_handshake(client);
	return client;
}

#define TWO "[p]\naccept = 127.0.0.1:1\nconnect = 2\ncert = %s\n[v]\nsni = p:v\nconnect = 2\ncert = %s\nsslVersion = TLSv1.2\n"

Test(hello, switch_at_any_cut)
{
	static const struct {
		const char *name;
		int version;
	} cases[] = {{"v", TLS1_2_VERSION}, {"w", TLS1_3_VERSION}, {NULL, TLS1_3_VERSION}};
	struct tls_library *library = tls_library_new();
	SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
	struct tls_context *contexts[2];
	struct config *config;

	make_identity("a.pem", NULL);
	config = load_format(TWO, scratch("a.pem"), scratch("a.pem"));
	contexts[0] = context_of(config->sections, NULL, library);
	contexts[1] = context_of(config->sections->next, NULL, library);
	for (size_t i = 0; i < 3 * sizeof(cases) / sizeof(*cases); i++) {
		size_t cut = i / 3 == 0 ? 1 : i / 3 == 1 ? 100 : SIZE_MAX;
		struct tls server = {.log_id = "test", .peer = &peer};
		struct queue in = {0}, out = {0};
		SSL *client = client_new(ctx, cases[i % 3].name);
		enum tls_progress ours = TLS_WANTS_BYTES;

		cr_assert_eq(tls_start(&server, contexts[0], &bufs, &in, &out, ""), 0);
		for (int turn = 0; turn < 5 && ours == TLS_WANTS_BYTES; turn++) {
			ours = feed(&server, client, cut, contexts[1]);
			answer(&server, client);
		}
		cr_assert_eq(ours, TLS_DONE);
		cr_expect_eq(SSL_version(client), cases[i % 3].version);
		cr_expect_eq(server.section, i % 3 == 0 ? config->sections->next : config->sections);
		cr_expect_eq(server.hello.bytes, 0);
		cr_expect(SSL_is_init_finished(client));
		tls_end(&server);
		queue_clear(&in, &bufs);
		queue_clear(&out, &bufs);
		SSL_free(client);
	}
	for (int i = 0; i < 2; i++)
		tls_context_free(contexts[i]);
	SSL_CTX_free(ctx);
	config_free(config);
	tls_library_free(library);
	bufs_free(&bufs);
}

/* Records of one byte each, without end: they are not kept for ever. */
Test(hello, no_endless_hello)
{
	struct tls_library *library = tls_library_new();
	struct tls server = {.log_id = "test", .peer = &peer};
	enum tls_progress progress = TLS_WANTS_BYTES;
	struct queue in = {0}, out = {0};
	struct tls_context *context;
	struct config *config;

	make_identity("a.pem", NULL);
	config = load_format(TWO, scratch("a.pem"), scratch("a.pem"));
	context = context_of(config->sections, NULL, library);
	cr_assert_eq(tls_start(&server, context, &bufs, &in, &out, ""), 0);
	for (size_t i = 0; i < 100000 && progress == TLS_WANTS_BYTES; i++) {
		const unsigned char bytes[] = {22, 3, 1, 0, 1, i == 0 ? 1 : i == 2 ? 0xff : 0};

		cr_assert_eq(queue_write(&in, &bufs, bytes, sizeof(bytes)), 0);
		progress = tls_handshake(&server);
		cr_assert_leq(server.hello.bytes, 1 << 16);
	}
	cr_expect_eq(progress, TLS_FAILED);
	tls_end(&server);
	queue_clear(&in, &bufs);
	queue_clear(&out, &bufs);
	tls_context_free(context);
	config_free(config);
	tls_library_free(library);
	bufs_free(&bufs);
}

/* --- faults --- */

#ifdef RING_FAULTS
/* A handshake up to the server's answer, in which anything may fail; false if something did. */
static bool greeting_survives(struct tls_context *const contexts[2], SSL_CTX *ctx)
{
	struct tls server = {.log_id = "test", .peer = &peer};
	struct queue in = {0}, out = {0};
	SSL *client = client_new(ctx, "v");
	char bytes[4096];
	int n = BIO_read(SSL_get_wbio(client), bytes, sizeof(bytes));
	bool ok = tls_start(&server, contexts[0], &bufs, &in, &out, "") == 0 && queue_write(&in, &bufs, bytes, (size_t)n) == 0;
	enum tls_progress progress = ok ? tls_handshake(&server) : TLS_FAILED;

	if (progress == TLS_CHOSE)
		progress = tls_switch(&server, contexts[1]) == 0 ? tls_handshake(&server) : TLS_FAILED;
	tls_end(&server);
	queue_clear(&in, &bufs);
	queue_clear(&out, &bufs);
	SSL_free(client);
	return progress == TLS_WANTS_BYTES;
}

Test(hello, no_memory_for_chunks)
{
	struct tls_library *library = tls_library_new();
	SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
	struct tls_context *contexts[2];
	struct config *config;
	unsigned long nth;

	make_identity("a.pem", NULL);
	config = load_format(TWO, scratch("a.pem"), scratch("a.pem"));
	contexts[0] = context_of(config->sections, NULL, library);
	contexts[1] = context_of(config->sections->next, NULL, library);
	cr_assert(greeting_survives(contexts, ctx));
	for (nth = 1; nth < 100; nth++) {
		bool survived;

		chunk_fail_nth(nth, 1);
		survived = greeting_survives(contexts, ctx);
		chunk_fail_nth(0, 0);
		hear_stderr(log_dump_kept);
		cr_assert_eq(bufs.lent[CHUNK_SMALL] + bufs.lent[CHUNK_BIG], 0);
		if (survived)
			break;
	}
	cr_assert(nth > 2 && nth < 100, "%lu", nth);
	for (int i = 0; i < 2; i++)
		tls_context_free(contexts[i]);
	SSL_CTX_free(ctx);
	config_free(config);
	tls_library_free(library);
	bufs_free(&bufs);
}
#endif
