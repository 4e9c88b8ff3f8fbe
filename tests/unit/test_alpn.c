/*
 * Unit tests of tls_alpn.h and of the option `alpn`. Run by `make unit`.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tls_alpn.h"

#include "record_testing.h"
#include "tls_testing.h"

static const char *chosen(const char *ours, const void *theirs, size_t n)
{
	static char protocol[300];
	char text[1000];
	struct config *config;
	const char *found;

	snprintf(text, sizeof(text), SERVER "alpn = %s\n", ours);
	config = load_good(text);
	found = alpn_select(&config->sections->alpn, theirs, n);
	snprintf(protocol, sizeof(protocol), "%s", found ? found : "none");
	config_free(config);
	return protocol;
}

#define CHOSEN(ours, theirs) chosen(ours, theirs, sizeof(theirs) - 1)

Test(alpn, our_order_counts)
{
	cr_expect_str_eq(CHOSEN("h2,http/1.1", "\x08http/1.1\x02h2"), "h2");
	cr_expect_str_eq(CHOSEN("http/1.1,h2", "\x08http/1.1\x02h2"), "http/1.1");
	cr_expect_str_eq(CHOSEN("h2,http/1.1", "\x08http/1.1"), "http/1.1");
	cr_expect_str_eq(CHOSEN("h2", "\x08http/1.1"), "none");
	cr_expect_str_eq(CHOSEN("h2", "\x03h2c\x01h\x02H2"), "none");
	cr_expect_str_eq(CHOSEN("h2", "\x02h2"), "h2");
}

Test(alpn, malformed_lists)
{
	cr_expect_str_eq(CHOSEN("h2", ""), "none");
	cr_expect_str_eq(CHOSEN("h2", "\x02h"), "none");
	cr_expect_str_eq(CHOSEN("h2", "\xff"), "none");
	cr_expect_str_eq(CHOSEN("h2", "\0\0\x02h2"), "h2");
	cr_expect_str_eq(CHOSEN("h2", "\x02h2\xff"), "h2");
	cr_expect_str_eq(CHOSEN("h2", "\xffh2"), "none");
}

Test(alpn, option)
{
	struct config *config = load_good("alpn = a , b\talpha\t,c\n" SERVER
	                                  "[t]\naccept = 2\nconnect = 3\ncert = c\nalpn =\nalpnMismatch = ignore\n");
	const struct section *s = config->sections;
	char *text;

	cr_assert_eq(s->alpn.count, 3);
	cr_expect_str_eq(s->alpn.texts[0], "a");
	cr_expect_str_eq(s->alpn.texts[1], "b\talpha");
	cr_expect_str_eq(s->alpn.texts[2], "c");
	cr_expect_not(s->alpn_ignore_mismatch);
	cr_expect_eq(s->next->alpn.count, 0);
	cr_expect(s->next->alpn_ignore_mismatch);
	text = text_of(config_print_effective, config);
	cr_expect(strstr(text, "alpn                   = a,b\talpha,c\n"));
	free(text);
	config_free(config);
}

Test(alpn, what_is_refused)
{
	char line[600];

	refused(SERVER "alpn = a,,b\n", "Illegal list of application protocols");
	refused(SERVER "alpn = ,\n", "Illegal list of application protocols");
	refused(SERVER "alpn = a,\n", "Illegal list of application protocols");
	refused(SERVER "alpn = a, ,b\n", "Illegal list of application protocols");
	refused(SERVER "alpnMismatch = maybe\n", "The argument needs to be either 'refuse' or 'ignore'");
	snprintf(line, sizeof(line), SERVER "alpn = %0255d\n", 1);
	config_free(load_good(line));
	snprintf(line, sizeof(line), SERVER "alpn = %0256d\n", 1);
	refused(line, "Illegal list of application protocols");
}

/* --- a server that chooses what it was not offered --- */

static const struct addr peer = {.in = {.sin_family = AF_INET}, .len = sizeof(struct sockaddr_in)};
static struct bufs bufs;
static const char *answer;

static int select_anything(SSL *ssl, const unsigned char **out, unsigned char *out_len, const unsigned char *in, unsigned n,
                           void *arg)
{
	(void)ssl, (void)in, (void)n, (void)arg;
	*out = (const unsigned char *)answer;
	*out_len = (unsigned char)strlen(answer);
	return SSL_TLSEXT_ERR_OK;
}

/* Our client and that server. What becomes of the client. */
static enum tls_progress meet(struct tls *tls, struct tls_context *context, SSL *server)
{
	enum tls_progress progress = TLS_WANTS_BYTES;
	struct queue in = {0}, out = {0};
	char bytes[4096];
	int n;

	cr_assert_eq(tls_start(tls, context, &bufs, &in, &out, ""), 0);
	for (int turn = 0; turn < 5 && progress == TLS_WANTS_BYTES; turn++) {
		progress = tls_handshake(tls);
		while ((n = (int)queue_read(&out, &bufs, bytes, sizeof(bytes))) > 0)
			BIO_write(SSL_get_rbio(server), bytes, n);
		SSL_do_handshake(server);
		while ((n = BIO_read(SSL_get_wbio(server), bytes, sizeof(bytes))) > 0)
			cr_assert_eq(queue_write(&in, &bufs, bytes, (size_t)n), 0);
	}
	queue_clear(&in, &bufs);
	queue_clear(&out, &bufs);
	return progress;
}

Test(alpn, choice_of_a_server)
{
	struct config *config = load_good(CLIENT "alpn = one,two\n");
	struct tls_library *library = tls_library_new();
	struct tls_context *context = context_of(config->sections, NULL, library);
	SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());

	cr_assert(testing_identity(ctx));
	SSL_CTX_set_alpn_select_cb(ctx, select_anything, NULL);
	for (int i = 0; i < 6; i++) {
		struct tls client = {.log_id = "test", .peer = &peer};
		SSL *server = SSL_new(ctx);
		enum tls_progress progress;

		answer = i % 3 == 0 ? "two" : i % 3 == 1 ? "three" : "tw";
		cr_assert(SSL_set_max_proto_version(server, i < 3 ? TLS1_2_VERSION : TLS1_3_VERSION));
		SSL_set_bio(server, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
		SSL_set_accept_state(server);
		progress = meet(&client, context, server);
		cr_expect_eq(progress, i % 3 == 0 ? TLS_DONE : TLS_FAILED);
		cr_expect_eq(client.alpn, i % 3 == 0 ? config->sections->alpn.texts[1] : NULL);
		tls_end(&client);
		SSL_free(server);
	}
	SSL_CTX_free(ctx);
	tls_context_free(context);
	tls_library_free(library);
	config_free(config);
	bufs_free(&bufs);
}
