/*
 * Unit tests of records by the kernel: record_kernel.c and what it shares with record_inplace.c, with a kernel of our own that makes records with
 * the keys it was given, and an OpenSSL peer that understands them. What real kernels do: test_ktls.c.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "keyed_testing.h"
#include "ktls_fake.h"

enum { SEND = 1, RECEIVE = 2, BOTH = SEND | RECEIVE, FD = 4711, PIECE = 4000 };

static const struct suite kernel_suites[] = {
	{"TLS_AES_128_GCM_SHA256", TLS1_3_VERSION},        {"TLS_AES_256_GCM_SHA384", TLS1_3_VERSION},
	{"TLS_CHACHA20_POLY1305_SHA256", TLS1_3_VERSION},  {"TLS_AES_128_CCM_SHA256", TLS1_3_VERSION},
	{"ECDHE-ECDSA-AES128-GCM-SHA256", TLS1_2_VERSION}, {"ECDHE-ECDSA-AES256-GCM-SHA384", TLS1_2_VERSION},
	{"ECDHE-ECDSA-CHACHA20-POLY1305", TLS1_2_VERSION}, {"ECDHE-ECDSA-AES128-CCM", TLS1_2_VERSION},
};
enum { KERNEL_SUITES = sizeof(kernel_suites) / sizeof(*kernel_suites) };

TestSuite(kernel_records, .init = up, .fini = down, .timeout = 600);

/* --- the kernel and the wire -------------------------------------------------------------------------------------------------------- */

static size_t piece = PIECE; /* what one read from the kernel brings at most */

/* The kernel makes one record, and the wire has it. */
static void fake_record(int type, const void *bytes, size_t n)
{
	static unsigned char record[FORGED_MAX];
	size_t len = forge(&fake.records, record, type, bytes, n, 0);

	cr_assert_gt(len, 0);
	cr_assert_eq(BIO_write(peer.to, record, (int)len), (int)len);
}

/* Sends the first chunk of `out` as end.c would. */
static void fake_sends_one(void)
{
	const struct chunk *c = queue_front(&us.out, &bufs);
	size_t n = c->end - c->start;
	unsigned char content = (unsigned char)c->content;

	if (!us.tls.keyed->tx.changing)
		cr_assert_leq(fake.records.tx.sequence, us.tls.keyed->tx.sequence, "our count is behind the kernel's");
	if (content)
		fake_record(content, c->data + c->start, n);
	for (size_t at = 0, here; !content && at < n; at += here) {
		here = n - at < RECORD ? n - at : RECORD;
		fake_record(SSL3_RT_APPLICATION_DATA, c->data + c->start + at, here);
	}
	queue_consume(&us.out, &bufs, n);
	if (content)
		cr_assert(tls_record_sent(&us.tls, content));
}

static void fake_sends(void)
{
	while (queue_front(&us.out, &bufs))
		fake_sends_one();
}

static void fake_delivers(int type, const unsigned char *content, size_t n)
{
	for (size_t at = 0, here; at < n; at += here) {
		here = n - at < piece ? n - at : piece;
		cr_assert(queue_write_record(&us.in, &bufs, (unsigned char)(type == SSL3_RT_APPLICATION_DATA ? 0 : type),
		                             content + at, here));
	}
}

/* The kernel opens the next record that is on the wire, unless it waits for a key. Returns its length. */
static size_t fake_receives(size_t n)
{
	static unsigned char record[FORGED_MAX];
	const unsigned char *waiting;
	long have = BIO_get_mem_data(peer.from, &waiting);
	unsigned char *content = NULL;
	size_t len, content_len = 0;
	int type = 0;

	(void)n;
	if (have <= 0 || fake.paused)
		return 0;
	len = 5 + ((size_t)waiting[3] << 8 | waiting[4]);
	cr_assert_eq(BIO_read(peer.from, record, (int)len), (int)len);
	cr_assert_eq(forger_open(&fake.records, record, len, &type, &content, &content_len), len,
	             "the kernel has not the right key");
	fake.paused = type == SSL3_RT_HANDSHAKE && content_len > 0 && content[0] == SSL3_MT_KEY_UPDATE && fake.records.tls13;
	fake_delivers(type, content, content_len);
	return len;
}

/* What is on its way goes the old way, then the kernel has the direction. */
static int offload(enum ktls_direction direction)
{
	int error;

	if (direction == KTLS_SEND) {
		to_peer();
	} else {
		everything_from_peer();
		we_hear("", 0);
		cr_assert_eq(us.in.bytes, 0);
		cr_assert_eq(tls_missing(&us.tls), 0);
	}
	error = tls_offload(&us.tls, direction, FD);
	if (!error && direction == KTLS_SEND)
		us.sends = fake_sends;
	else if (!error)
		us.receives = fake_receives;
	return error;
}

static void kernel_takes(int which)
{
	if (which & SEND)
		cr_assert_eq(offload(KTLS_SEND), 0);
	if (which & RECEIVE)
		cr_assert_eq(offload(KTLS_RECEIVE), 0);
}

static const char *options_of(bool client, const struct suite *suite)
{
	if (suite->version == TLS1_3_VERSION && strstr(suite->name, "CCM"))
		return "ciphersuites = TLS_AES_128_CCM_SHA256";
	return client ? "renegotiation = no" : "";
}

/* A connection that OpenSSL has given up, with some records behind it. */
static void meet_promoted(bool client, const struct suite *suite)
{
	fake_reset();
	meet_tweaked(client, suite, options_of(client, suite), NULL);
	exchange(10);
	promote();
}

static void meet_kernel(bool client, const struct suite *suite, int which)
{
	meet_promoted(client, suite);
	kernel_takes(which);
}

static bool is_zero(const void *bytes, size_t n)
{
	const unsigned char *p = bytes;

	while (n > 0 && *p == 0)
		p++, n--;
	return n == 0;
}

/* --- the hand-over ------------------------------------------------------------------------------------------------------------------ */

/* Every suite, role and choice of directions: the peer hears what we say. */
Test(kernel_records, whatever_the_kernel_has)
{
	for (int i = 0; i < KERNEL_SUITES; i++)
		for (int client = 0; client < 2; client++)
			for (int which = SEND; which <= BOTH; which++) {
				meet_kernel(client, &kernel_suites[i], which);
				for (size_t n = 1; n <= BYTES; n = n * 7 + 1)
					exchange(n);
				exchange(RECORD);
				exchange(RECORD + 1);
				cr_assert_eq(fake.installs[KTLS_SEND], which & SEND ? 1 : 0);
				cr_assert_eq(fake.installs[KTLS_RECEIVE], which & RECEIVE ? 1 : 0);
				bye();
				part();
			}
}

/* One direction long after the other, and in the other order. */
Test(kernel_records, one_direction_after_the_other)
{
	for (int i = 0; i < KERNEL_SUITES; i++)
		for (int order = 0; order < 2; order++) {
			meet_promoted(i % 2, &kernel_suites[i]);
			exchange(1000);
			kernel_takes(order ? SEND : RECEIVE);
			exchange(50000);
			kernel_takes(order ? RECEIVE : SEND);
			exchange(50000);
			bye();
			part();
		}
}

/* The kernel goes on with the number of the next record. */
Test(kernel_records, numbers_go_on)
{
	for (int i = 0; i < KERNEL_SUITES; i += 4)
		for (unsigned openssl = 0; openssl < 3; openssl++)
			for (unsigned ours = 0; ours < 3; ours++) {
				uint64_t sent, received;

				fake_reset();
				meet(false, &kernel_suites[i]);
				for (unsigned k = 0; k < openssl; k++)
					exchange(1);
				sent = us.tls.traffic.written;
				received = us.tls.traffic.read;
				promote();
				for (unsigned k = 0; k < ours; k++) {
					exchange(1);
					we_say(data, 3 * RECORD);
					peer_hears(data, 3 * RECORD);
				}
				kernel_takes(BOTH);
				cr_assert_eq(fake.sequence[KTLS_SEND], sent + 4 * ours);
				cr_assert_eq(fake.sequence[KTLS_RECEIVE], received + ours);
				exchange(100);
				bye();
				part();
			}
}

/* What the kernel is told beside the keys; and what we keep of them. */
Test(kernel_records, keys_are_wiped)
{
	meet_kernel(false, &kernel_suites[1], BOTH);
	cr_assert_eq(fake.fd, FD);
	cr_assert_eq(fake.records.cipher, AEAD_AES_256_GCM);
	cr_assert(fake.records.tls13);
	for (int updates = 0; updates < 2; updates++) {
		cr_assert(is_zero(&us.tls.keyed->tx.keys, sizeof(us.tls.keyed->tx.keys)));
		cr_assert(is_zero(&us.tls.keyed->rx.keys, sizeof(us.tls.keyed->rx.keys)));
		cr_assert_not(is_zero(us.tls.keyed->tx.secret, 32));
		cr_assert(!us.tls.keyed->tx.aead && !us.tls.keyed->rx.aead);
		SSL_key_update(peer.ssl, SSL_KEY_UPDATE_REQUESTED);
		exchange(10);
		exchange(10);
	}
	cr_assert_eq(fake.installs[KTLS_SEND], 3);
	cr_assert_eq(fake.installs[KTLS_RECEIVE], 3);
	part();
}

/* Whichever call is refused: the direction goes on in place, and may be tried again. */
Test(kernel_records, refused_at_any_step)
{
	for (int i = 0; i < KERNEL_SUITES; i++)
		for (unsigned nth = 1; nth <= 4; nth++) {
			enum ktls_direction first = nth % 2 ? KTLS_SEND : KTLS_RECEIVE;
			int errors = 0;

			meet_promoted(i % 2, &kernel_suites[i]);
			fake.fail_in = nth;
			fake.fail_with = -ENOMEM;
			errors += offload(first) != 0;
			exchange(20000);
			errors += offload(first == KTLS_SEND ? KTLS_RECEIVE : KTLS_SEND) != 0;
			cr_assert_eq(errors, 1);
			exchange(20000);
			for (int d = 0; d < KTLS_DIRECTIONS; d++)
				if (!fake.installs[d])
					cr_assert_eq(offload(d), 0);
			exchange(20000);
			bye();
			part();
		}
}

Test(kernel_records, refused_for_good)
{
	meet_promoted(false, v13);
	fake.support.cipher[KTLS_SEND][KTLS_13][AEAD_AES_128_GCM] = false;
	cr_assert_eq(offload(KTLS_SEND), -EINVAL);
	cr_assert_eq(offload(KTLS_RECEIVE), 0);
	cr_assert_eq(us.tls.keyed->tx.kind, &half_inplace);
	cr_assert_eq(us.tls.keyed->rx.kind, &half_kernel);
	exchange(50000);
	bye();
	part();
}

/* --- the record boundary ------------------------------------------------------------------------------------------------------------ */

/* What is missing at every place of a stream of records, cut into chunks of any size. */
Test(kernel_records, missing_to_a_boundary)
{
	static const size_t sizes[] = {1, 2, 5, 6, 7, 100, 4000};
	static unsigned char stream[4096];
	size_t len = 0, bounds[20], count = 0;

	meet_promoted(false, v13);
	forger_takes_over();
	for (size_t n = 0; n < 600; n = n * 3 + 1) {
		bounds[count++] = len;
		len += forge(&peer.forger, stream + len, SSL3_RT_APPLICATION_DATA, data, n, 0);
	}
	bounds[count] = len;
	for (size_t s = 0; s < sizeof(sizes) / sizeof(*sizes); s++)
		for (size_t n = 0; n <= len; n++) {
			size_t k = 0, wanted;

			for (size_t at = 0, here; at < n; at += here) {
				here = n - at < sizes[s] ? n - at : sizes[s];
				cr_assert(queue_write_record(&us.in, &bufs, 0, stream + at, here));
			}
			while (bounds[k] < n)
				k++; /* the next boundary */
			wanted = bounds[k] - n;
			if (wanted > 0 && n - bounds[k - 1] < RECORD_HEADER)
				wanted = RECORD_HEADER - (n - bounds[k - 1]);
			cr_assert_eq(tls_missing(&us.tls), wanted, "%zu instead of %zu at %zu", tls_missing(&us.tls), wanted, n);
			queue_clear(&us.in, &bufs);
		}
	part();
}

/* Reading just what is missing ends at a boundary, and then the kernel can have the direction. */
Test(kernel_records, reading_up_to_a_boundary)
{
	for (size_t cut = 0; cut < 300; cut++) {
		struct queue plain = {0};
		size_t missing;

		meet_promoted(cut % 2, cut % 3 ? v13 : v12);
		for (size_t n = 0; n < 5; n++)
			peer_says(data + n * 50, 50);
		from_peer(cut);
		cr_assert_eq(records_open(&plain, SIZE_MAX), RECORD_OK);
		while ((missing = tls_missing(&us.tls))) {
			cr_assert_eq(from_peer(missing), missing);
			cr_assert_eq(records_open(&plain, SIZE_MAX), RECORD_OK);
		}
		cr_assert_eq(us.in.bytes, 0);
		cr_assert_eq(tls_offload(&us.tls, KTLS_RECEIVE, FD), 0);
		us.receives = fake_receives;
		while (from_peer(SIZE_MAX))
			cr_assert_eq(records_open(&plain, SIZE_MAX), RECORD_OK);
		cr_assert_eq(plain.bytes, 250, "%zu bytes, cut at %zu", plain.bytes, cut);
		queue_read(&plain, &bufs, got, 250);
		cr_assert_arr_eq(got, data, 250);
		queue_clear(&plain, &bufs);
		exchange(100);
		bye();
		part();
	}
}

/* --- data --------------------------------------------------------------------------------------------------------------------------- */

/* Data passes through as it is, chunk by chunk: nothing is copied. */
Test(kernel_records, data_is_not_copied)
{
	struct queue plain = {0};
	struct chunk *c = chunk_get(&bufs, CHUNK_BIG);

	meet_kernel(false, v13, BOTH);
	c->end = 40000;
	queue_append(&us.in, c);
	cr_assert_eq(records_open(&plain, SIZE_MAX), RECORD_OK);
	cr_assert(plain.head == c && plain.bytes == 40000 && us.in.bytes == 0 && !us.in.head);
	cr_assert_eq(us.tls.record.engine->seal(&us.tls.record, &plain), RECORD_OK);
	cr_assert(us.out.head == c && plain.bytes == 0 && !plain.head);
	part();
}

/* A chunk goes over when there is room for a byte; then everything waits, records beside the data too. */
Test(kernel_records, stops_at_the_limit)
{
	enum { LIMIT = 5000 };
	struct queue plain = {0};

	meet_kernel(false, v13, BOTH);
	for (int i = 0; i < 4; i++)
		fake_delivers(SSL3_RT_APPLICATION_DATA, data + i * PIECE, PIECE);
	fake_delivers(SSL3_RT_ALERT, (const unsigned char *)"\1\0", 2);
	for (size_t at = 0; at < 4UL * PIECE; at += 2UL * PIECE) {
		enum record_result result = records_open(&plain, LIMIT);

		cr_assert_eq(result, at ? RECORD_CLOSED : RECORD_MORE);
		cr_assert_eq(plain.bytes, 2 * PIECE);
		if (!at)
			cr_assert_eq(records_open(&plain, LIMIT), RECORD_MORE, "nothing changes as long as there is no room");
		cr_assert_eq(plain.bytes, 2 * PIECE);
		queue_read(&plain, &bufs, got + at, 2UL * PIECE);
	}
	cr_assert_arr_eq(got, data, 4UL * PIECE);
	cr_assert_eq(records_open(&plain, LIMIT), RECORD_OK);
	queue_clear(&plain, &bufs);
	part();
}

/* What a read brings may be a part of a record, and it may be a byte. */
Test(kernel_records, read_in_pieces)
{
	static const size_t pieces[] = {1, 3, 1000, RECORD};

	for (size_t i = 0; i < sizeof(pieces) / sizeof(*pieces); i++) {
		piece = pieces[i];
		meet_kernel(true, v13, BOTH);
		exchange(3000);
		SSL_key_update(peer.ssl, SSL_KEY_UPDATE_REQUESTED);
		exchange(3000);
		cr_assert_eq(fake.installs[KTLS_RECEIVE], 2);
		piece = PIECE;
		bye();
		part();
	}
}

/* --- what is said beside data ------------------------------------------------------------------------------------------------------- */

/* The next chunk that waits to be sent. Returns its content type; its bytes are left in `got`. */
static int we_queued(size_t *n)
{
	const struct chunk *c = queue_front(&us.out, &bufs);
	int content = c ? c->content : -1;

	*n = c ? c->end - c->start : 0;
	queue_read(&us.out, &bufs, got, *n);
	return content;
}

static void we_queued_alert(int level, int description)
{
	size_t n;

	cr_assert_eq(we_queued(&n), SSL3_RT_ALERT);
	cr_assert_eq(n, 2);
	cr_assert_eq(got[0], level);
	cr_assert_eq(got[1], description, "alert %d instead of %d", got[1], description);
}

static void arrives(int type, const void *content, size_t n)
{
	cr_assert(queue_write_record(&us.in, &bufs, (unsigned char)(type == SSL3_RT_APPLICATION_DATA ? 0 : type), content, n));
}

/* What has come ends the connection with an alert; the data before it, n bytes, comes out. */
static void we_refuse_after(size_t n, int description)
{
	struct queue plain = {0};

	cr_assert_eq(records_open(&plain, SIZE_MAX), RECORD_FAILED);
	cr_assert_eq(plain.bytes, n);
	cr_assert(us.tls.alert_sent && !us.tls.alert_received);
	queue_clear(&plain, &bufs);
	we_queued_alert(SSL3_AL_FATAL, description);
	cr_assert_eq(us.out.bytes, 0, "more than an alert");
}

static void refused_record(const struct suite *suite, bool client, int type, const void *content, size_t n, int alert)
{
	meet_kernel(client, suite, BOTH);
	arrives(SSL3_RT_APPLICATION_DATA, "before", 6);
	arrives(type, content, n);
	arrives(SSL3_RT_APPLICATION_DATA, "after", 5);
	we_refuse_after(6, alert);
	part();
}

Test(kernel_records, unexpected_records)
{
	static const struct suite *const old = &kernel_suites[4];

	for (int client = 0; client < 2; client++) {
		refused_record(v13, client, SSL3_RT_CHANGE_CIPHER_SPEC, "\1", 1, SSL_AD_UNEXPECTED_MESSAGE);
		refused_record(old, client, SSL3_RT_CHANGE_CIPHER_SPEC, "\1", 1, SSL_AD_UNEXPECTED_MESSAGE);
		refused_record(v13, client, 24, "\1\0\1x", 4, SSL_AD_UNEXPECTED_MESSAGE);
		refused_record(v13, client, 255, "abc", 3, SSL_AD_UNEXPECTED_MESSAGE);
		refused_record(v13, client, 1, "abc", 3, SSL_AD_UNEXPECTED_MESSAGE);
		refused_record(v13, client, SSL3_RT_ALERT, "\1", 1, SSL_AD_DECODE_ERROR);
		refused_record(v13, client, SSL3_RT_ALERT, "\1\0\1\0", 4, SSL_AD_DECODE_ERROR);
		refused_record(old, client, SSL3_RT_ALERT, "\3\0", 2, SSL_AD_ILLEGAL_PARAMETER);
		refused_record(old, client, SSL3_RT_HANDSHAKE, "\x14\0\0\0", 4, SSL_AD_UNEXPECTED_MESSAGE);
		refused_record(v13, client, SSL3_RT_HANDSHAKE, "\1\0\0\2ab", 6, SSL_AD_UNEXPECTED_MESSAGE);
		refused_record(v13, client, SSL3_RT_HANDSHAKE, "\x18\0\0\1\2", 5, SSL_AD_ILLEGAL_PARAMETER);
		refused_record(v13, client, SSL3_RT_HANDSHAKE, "\x18\0\0\0", 4, SSL_AD_DECODE_ERROR);
		refused_record(v13, client, SSL3_RT_HANDSHAKE, "\x18\xff\xff\xff\0", 5, SSL_AD_DECODE_ERROR);
		refused_record(v13, client, SSL3_RT_HANDSHAKE, "\x18\0\0\1\0x", 6, SSL_AD_UNEXPECTED_MESSAGE);
	}
	refused_record(v13, false, SSL3_RT_HANDSHAKE, "\4\0\0\4abcd", 8, SSL_AD_UNEXPECTED_MESSAGE);
	refused_record(v13, true, SSL3_RT_HANDSHAKE, "\4\xff\xff\xff", 4, SSL_AD_DECODE_ERROR);
}

static enum record_result alerted(const struct suite *suite, bool client, const char *alert, size_t *kept)
{
	struct queue plain = {0};
	enum record_result result;

	meet_kernel(client, suite, BOTH);
	arrives(SSL3_RT_APPLICATION_DATA, "before", 6);
	arrives(SSL3_RT_ALERT, alert, 2);
	arrives(SSL3_RT_APPLICATION_DATA, "after", 5);
	result = records_open(&plain, SIZE_MAX);
	*kept = plain.bytes;
	queue_clear(&plain, &bufs);
	cr_assert_eq(us.out.bytes, 0, "no answer to an alert");
	cr_assert_not(us.tls.alert_sent);
	cr_assert_eq(us.tls.alert_received, result == RECORD_FAILED);
	part();
	return result;
}

Test(kernel_records, alerts)
{
	size_t kept;

	for (int client = 0; client < 2; client++) {
		cr_assert_eq(alerted(v13, client, "\1\0", &kept), RECORD_CLOSED);
		cr_assert_eq(kept, 6, "what comes behind the end is no part of the stream");
		cr_assert_eq(alerted(v12, client, "\1\0", &kept), RECORD_CLOSED);
		cr_assert_eq(alerted(v13, client, "\2\x28", &kept), RECORD_FAILED);
		cr_assert_eq(kept, 6);
		cr_assert(strstr(said, "SSL_read: alert handshake failure: client 0.0.0.0:0"), "%s", said);
		cr_assert_eq(alerted(v12, client, "\2\x50", &kept), RECORD_FAILED);
		cr_assert_eq(alerted(v13, client, "\1\x5a", &kept), RECORD_OK); /* user_canceled */
		cr_assert_eq(kept, 11);
		cr_assert_eq(alerted(v12, client, "\1\x64", &kept), RECORD_OK);
	}
}

/* After close_notify one way the other goes on. */
Test(kernel_records, half_closed)
{
	struct queue plain = {0};

	for (int i = 0; i < KERNEL_SUITES; i++) {
		meet_kernel(i % 2, &kernel_suites[i], BOTH);
		peer_says("last words", 10);
		SSL_shutdown(peer.ssl);
		everything_from_peer();
		cr_assert_eq(records_open(&plain, SIZE_MAX), RECORD_CLOSED);
		cr_assert_eq(plain.bytes, 10);
		queue_clear(&plain, &bufs);
		we_say(data, 50000);
		cr_assert_eq(records_close(), RECORD_OK);
		to_peer();
		peer_hears(data, 50000);
		cr_assert_eq(SSL_read(peer.ssl, got, 1), 0);
		cr_assert_eq(SSL_get_error(peer.ssl, 0), SSL_ERROR_ZERO_RETURN);
		part();
	}
}

/* The alert that says why we hang up reaches a real peer, whoever makes its record. */
Test(kernel_records, the_peer_hears_of_our_alert)
{
	for (int which = SEND; which <= BOTH; which++)
		for (int v = 0; v < 2; v++) {
			struct queue plain = {0};

			meet_kernel(false, v ? v12 : v13, which);
			if (which & RECEIVE) {
				arrives(24, "x", 1);
				cr_assert_eq(records_open(&plain, SIZE_MAX), RECORD_FAILED);
			} else {
				cr_assert_eq(queue_write(&us.in, &bufs, "GET / HTTP/1.0", 14), 0);
				cr_assert_eq(records_open(&plain, SIZE_MAX), RECORD_FAILED);
			}
			queue_clear(&plain, &bufs);
			to_peer();
			cr_assert_leq(SSL_read(peer.ssl, got, 1), 0);
			cr_assert_eq(ERR_GET_REASON(ERR_peek_last_error()), SSL_AD_REASON_OFFSET + SSL_AD_UNEXPECTED_MESSAGE);
			ERR_clear_error();
			part();
		}
}

/* TLS 1.2: a client that wants another handshake. */
Test(kernel_records, renegotiation)
{
	struct queue plain = {0};

	meet_kernel(false, v12, BOTH);
	arrives(SSL3_RT_HANDSHAKE, "\1\0\0\2ab", 6);
	arrives(SSL3_RT_APPLICATION_DATA, "and on", 6);
	cr_assert_eq(records_open(&plain, SIZE_MAX), RECORD_OK);
	cr_assert_eq(plain.bytes, 6);
	queue_clear(&plain, &bufs);
	we_queued_alert(SSL3_AL_WARNING, SSL_AD_NO_RENEGOTIATION);
	part();
	fake_reset();
	meet_tweaked(false, v12, "renegotiation = no", NULL);
	promote();
	kernel_takes(BOTH);
	arrives(SSL3_RT_HANDSHAKE, "\1\0\0\2ab", 6);
	cr_assert_eq(records_open(&plain, SIZE_MAX), RECORD_FAILED);
	cr_assert(us.tls.renegotiating);
	part();
}

/* A message may come in several chunks, be they parts of a record or records. */
Test(kernel_records, messages_in_pieces)
{
	static unsigned char ticket[4 + 60000] = {4, 60000 >> 16, 60000 >> 8 & 255, 60000 & 255};
	struct queue plain = {0};

	meet_kernel(true, v13, BOTH);
	forger_takes_over();
	for (size_t at = 0; at < sizeof(ticket); at += PIECE)
		arrives(SSL3_RT_HANDSHAKE, ticket + at, sizeof(ticket) - at < PIECE ? sizeof(ticket) - at : PIECE);
	arrives(SSL3_RT_HANDSHAKE, "\4\0\0\4abcd\4\0\0\2x", 13);
	arrives(SSL3_RT_HANDSHAKE, "y", 1);
	arrives(SSL3_RT_APPLICATION_DATA, "after", 5);
	cr_assert_eq(records_open(&plain, SIZE_MAX), RECORD_OK);
	cr_assert_eq(plain.bytes, 5);
	queue_clear(&plain, &bufs);
	/* a KeyUpdate cut at any place */
	for (size_t cut = 1; cut < 5; cut++) {
		arrives(SSL3_RT_HANDSHAKE, "\x18\0\0\1\0", cut);
		arrives(SSL3_RT_HANDSHAKE, (const char *)"\x18\0\0\1\0" + cut, 5 - cut);
		cr_assert_eq(records_open(&plain, SIZE_MAX), RECORD_OK);
		cr_assert(forger_update(&peer.forger, &peer.forger.tx));
		cr_assert_arr_eq(&fake.records.rx.keys, &peer.forger.tx.keys, sizeof(fake.records.rx.keys));
		cr_assert_eq(fake.installs[KTLS_RECEIVE], 1 + cut);
	}
	cr_assert_eq(us.out.bytes, 0);
	part();
	for (size_t cut = 1; cut < 8; cut++) {
		meet_kernel(true, v13, BOTH);
		arrives(SSL3_RT_HANDSHAKE, "\4\0\0\4abcd", cut);
		arrives(SSL3_RT_APPLICATION_DATA, "between", 7);
		we_refuse_after(0, SSL_AD_UNEXPECTED_MESSAGE);
		part();
	}
}

/* How many such records in a row we put up with. */
static int endured(const struct suite *suite, bool client, int type, const void *content, size_t n)
{
	struct queue plain = {0};
	int i;

	meet_kernel(client, suite, BOTH);
	for (i = 0; i < 1000; i++) {
		arrives(type, content, n);
		if (records_open(&plain, SIZE_MAX) != RECORD_OK)
			break;
		while (us.out.bytes > 0)
			fake_sends_one();
	}
	cr_assert(i == 1000 || us.tls.alert_sent);
	queue_clear(&plain, &bufs);
	part();
	return i;
}

Test(kernel_records, floods)
{
	for (int client = 0; client < 2; client++) {
		cr_assert_leq(endured(v13, client, SSL3_RT_HANDSHAKE, "\x18\0\0\1\0", 5), 200);
		cr_assert_leq(endured(v13, client, SSL3_RT_HANDSHAKE, "\x18\0\0\1\1", 5), 200);
		cr_assert_leq(endured(v13, client, SSL3_RT_ALERT, "\1\x5a", 2), 200);
		cr_assert_leq(endured(v12, client, SSL3_RT_ALERT, "\1\x64", 2), 200);
		cr_assert_gt(endured(v13, client, SSL3_RT_HANDSHAKE, "\x18\0\0\1\1", 5), 100);
	}
	cr_assert_leq(endured(v13, true, SSL3_RT_HANDSHAKE, "\4\0\0\4abcd", 8), 200);
	cr_assert_leq(endured(v12, false, SSL3_RT_HANDSHAKE, "\1\0\0\2ab", 6), 200);
}

/* Records without data do no harm when data comes between them, however many they are over the time. */
Test(kernel_records, no_flood_with_data_between)
{
	struct queue plain = {0};

	meet_kernel(false, v13, BOTH);
	for (int i = 0; i < 1000; i++) {
		arrives(SSL3_RT_ALERT, "\1\x5a", 2);
		arrives(SSL3_RT_HANDSHAKE, "\x18\0\0\1\0", 5);
		arrives(SSL3_RT_APPLICATION_DATA, "x", 1);
		cr_assert_eq(records_open(&plain, SIZE_MAX), RECORD_OK);
	}
	cr_assert_eq(plain.bytes, 1000);
	queue_clear(&plain, &bufs);
	part();
}

/* --- new keys ----------------------------------------------------------------------------------------------------------------------- */

static bool is_13(const struct suite *suite)
{
	return suite->version == TLS1_3_VERSION;
}

/* With every choice of directions: what the kernel does not have is done in place. */
Test(kernel_records, key_updates_of_the_peer)
{
	for (int i = 0; is_13(&kernel_suites[i]); i++)
		for (int which = SEND; which <= BOTH; which++) {
			meet_kernel(i % 2, &kernel_suites[i], which);
			for (int k = 0; k < 10; k++) {
				cr_assert_eq(
					SSL_key_update(peer.ssl, k % 2 ? SSL_KEY_UPDATE_REQUESTED : SSL_KEY_UPDATE_NOT_REQUESTED),
					1);
				exchange(k % 3 ? 10 : 50000);
				exchange(1);
			}
			cr_assert_eq(fake.installs[KTLS_RECEIVE], which & RECEIVE ? 11 : 0);
			cr_assert_eq(fake.installs[KTLS_SEND], which & SEND ? 6 : 0);
			cr_assert_eq(fake.sequence[KTLS_RECEIVE] + fake.sequence[KTLS_SEND], 0, "new keys begin with record 0");
			bye();
			part();
		}
}

/* The kernel has the new key of ours only when the KeyUpdate has gone under the old one; what lies behind it goes under the new one. */
Test(kernel_records, our_key_changes_behind_the_key_update)
{
	struct queue plain = {0};

	meet_kernel(false, v13, BOTH);
	we_say(data, 10);
	cr_assert_eq(queue_write(&plain, &bufs, data + 10, 20000), 0);
	cr_assert_eq(us.tls.record.engine->seal(&us.tls.record, &plain), RECORD_OK);
	SSL_key_update(peer.ssl, SSL_KEY_UPDATE_REQUESTED);
	SSL_do_handshake(peer.ssl);
	everything_from_peer();
	we_hear("", 0);
	cr_assert_eq(fake.installs[KTLS_RECEIVE], 2, "at once");
	for (int i = 0; i < 3; i++) {
		cr_assert_eq(queue_write(&plain, &bufs, data + 20010 + i * 1000, 1000), 0);
		cr_assert_eq(us.tls.record.engine->seal(&us.tls.record, &plain), RECORD_OK);
	}
	cr_assert_eq(fake.installs[KTLS_SEND], 1);
	cr_assert(us.tls.keyed->tx.changing);
	fake_sends_one();
	cr_assert_eq(fake.installs[KTLS_SEND], 1);
	cr_assert_eq(us.out.head->content, SSL3_RT_HANDSHAKE);
	fake_sends_one();
	cr_assert_eq(fake.installs[KTLS_SEND], 2);
	cr_assert_not(us.tls.keyed->tx.changing);
	to_peer();
	peer_hears(data, 23010);
	exchange(1000);
	bye();
	queue_clear(&plain, &bufs);
	part();
}

/* Several requests while an answer is on its way have one answer (RFC 8446 4.6.3); one that comes later has its own. */
Test(kernel_records, one_answer_to_several_requests)
{
	size_t n;

	meet_kernel(true, v13, BOTH);
	forger_takes_over();
	for (int i = 0; i < 5; i++) {
		arrives(SSL3_RT_HANDSHAKE, "\x18\0\0\1\1", 5);
		cr_assert(forger_update(&peer.forger, &peer.forger.tx));
		arrives(SSL3_RT_APPLICATION_DATA, "x", 1);
	}
	we_hear("xxxxx", 5);
	cr_assert_eq(fake.installs[KTLS_RECEIVE], 6);
	cr_assert_arr_eq(&fake.records.rx.keys, &peer.forger.tx.keys, sizeof(fake.records.rx.keys));
	cr_assert_eq(we_queued(&n), SSL3_RT_HANDSHAKE);
	cr_assert(n == 5 && memcmp(got, "\x18\0\0\1\0", 5) == 0);
	cr_assert_eq(us.out.bytes, 0);
	cr_assert(tls_record_sent(&us.tls, SSL3_RT_ALERT), "another record changes nothing");
	cr_assert_eq(fake.installs[KTLS_SEND], 1);
	cr_assert(tls_record_sent(&us.tls, SSL3_RT_HANDSHAKE));
	cr_assert_eq(fake.installs[KTLS_SEND], 2);
	cr_assert(forger_update(&peer.forger, &peer.forger.rx));
	cr_assert_arr_eq(&fake.records.tx.keys, &peer.forger.rx.keys, sizeof(fake.records.tx.keys));
	arrives(SSL3_RT_HANDSHAKE, "\x18\0\0\1\1", 5);
	we_hear("", 0);
	cr_assert_eq(we_queued(&n), SSL3_RT_HANDSHAKE);
	part();
}

Test(kernel_records, silence_after_close_notify)
{
	meet_kernel(false, v13, BOTH);
	cr_assert_eq(records_close(), RECORD_OK);
	we_queued_alert(SSL3_AL_WARNING, SSL_AD_CLOSE_NOTIFY);
	arrives(SSL3_RT_HANDSHAKE, "\x18\0\0\1\1", 5);
	arrives(SSL3_RT_APPLICATION_DATA, data, 10);
	we_hear(data, 10);
	cr_assert_eq(us.out.bytes, 0);
	cr_assert_eq(fake.installs[KTLS_RECEIVE], 2);
	part();
}

/* A kernel that cannot change keys: an end with an alert, if it is one of ITS keys that must change. */
Test(kernel_records, a_kernel_that_cannot_change_keys)
{
	for (int which = SEND; which <= BOTH; which++)
		for (int asked = 0; asked < 2; asked++) {
			bool stuck = which & RECEIVE || asked;
			struct queue plain = {0};

			meet_promoted(which % 2, v13);
			fake.support.rekey = false;
			kernel_takes(which);
			SSL_key_update(peer.ssl, asked ? SSL_KEY_UPDATE_REQUESTED : SSL_KEY_UPDATE_NOT_REQUESTED);
			if (!stuck) {
				exchange(100);
				bye();
				part();
				continue;
			}
			SSL_do_handshake(peer.ssl);
			everything_from_peer();
			cr_assert_eq(records_open(&plain, SIZE_MAX), RECORD_FAILED);
			cr_assert(us.tls.alert_sent && plain.bytes == 0);
			queue_clear(&plain, &bufs);
			to_peer();
			cr_assert_leq(SSL_read(peer.ssl, got, 1), 0);
			cr_assert_eq(ERR_GET_REASON(ERR_peek_last_error()), SSL_AD_REASON_OFFSET + SSL_AD_INTERNAL_ERROR);
			ERR_clear_error();
			part();
			cr_assert(strstr(said, "this kernel cannot change the keys"), "%s", said);
		}
}

/* A request needs no answer once our close_notify is out, and then nothing of ours must change. */
Test(kernel_records, a_request_that_needs_no_answer)
{
	meet_promoted(false, v13);
	fake.support.rekey = false;
	kernel_takes(SEND);
	cr_assert_eq(records_close(), RECORD_OK);
	to_peer();
	SSL_key_update(peer.ssl, SSL_KEY_UPDATE_REQUESTED);
	peer_says(data, 1000);
	everything_from_peer();
	we_hear(data, 1000);
	part();
}

/* The kernel refuses new keys although it should not. */
Test(kernel_records, new_keys_are_refused)
{
	struct queue plain = {0};
	size_t n;

	meet_kernel(false, v13, BOTH);
	arrives(SSL3_RT_HANDSHAKE, "\x18\0\0\1\0", 5);
	fake.fail_in = 1;
	fake.fail_with = -ENOMEM;
	we_refuse_after(0, SSL_AD_INTERNAL_ERROR);
	part();
	meet_kernel(false, v13, BOTH);
	arrives(SSL3_RT_HANDSHAKE, "\x18\0\0\1\1", 5);
	cr_assert_eq(records_open(&plain, SIZE_MAX), RECORD_OK);
	cr_assert_eq(we_queued(&n), SSL3_RT_HANDSHAKE);
	fake.fail_in = 1;
	fake.fail_with = -ENOMEM;
	cr_assert_not(tls_record_sent(&us.tls, SSL3_RT_HANDSHAKE));
	part();
	cr_assert(strstr(said, "SSL_write: the kernel refused new keys: client 0.0.0.0:0"), "%s", said);
}

/* Our own KeyUpdate, when a key has done its share. */
Test(kernel_records, keys_of_ours_wear_out)
{
	keyed_records_per_key = 8;
	for (int client = 0; client < 2; client++)
		for (int i = 0; i < KERNEL_SUITES; i++)
			for (int which = SEND; which <= BOTH; which++) {
				meet_kernel(client, &kernel_suites[i], which);
				for (int k = 0; k < 40; k++)
					exchange(1);
				exchange(BYTES);
				exchange(BYTES);
				if (which & SEND && is_13(&kernel_suites[i]))
					cr_assert_gt(fake.installs[KTLS_SEND], 5);
				else
					cr_assert_leq(fake.installs[KTLS_SEND], 1);
				bye();
				part();
			}
	keyed_records_per_key = 0;
}

/* Data that went past the queue counts too, and at most so many records go under one key. */
Test(kernel_records, spliced_data_counts)
{
	size_t n;

	keyed_records_per_key = 100;
	meet_kernel(false, v13, BOTH);
	us.tls.keyed->tx.sequence = 0;
	for (int i = 0; i < 19; i++) {
		cr_assert_eq(tls_spliced(&us.tls, 65536), RECORD_OK); /* 4 records, and perhaps a part of one */
		cr_assert_eq(us.out.bytes, 0);
	}
	cr_assert_eq(us.tls.keyed->tx.sequence, 95);
	cr_assert_eq(tls_spliced(&us.tls, 65536), RECORD_OK);
	cr_assert(us.tls.keyed->tx.changing);
	cr_assert_eq(us.tls.keyed->tx.sequence, 0);
	us.tls.keyed->tx.sequence = 100;
	cr_assert_eq(tls_spliced(&us.tls, 10), RECORD_OK, "one KeyUpdate at a time");
	cr_assert_eq(we_queued(&n), SSL3_RT_HANDSHAKE);
	cr_assert_eq(us.out.bytes, 0);
	cr_assert(tls_record_sent(&us.tls, SSL3_RT_HANDSHAKE));
	cr_assert_eq(us.tls.keyed->tx.sequence, 101, "what was queued meanwhile goes under the new key");
	cr_assert_eq(fake.sequence[KTLS_SEND], 0);
	part();
	/* and in TLS 1.2 there is nothing to be done */
	meet_kernel(false, v12, BOTH);
	for (int i = 0; i < 100; i++)
		cr_assert_eq(tls_spliced(&us.tls, 65536), RECORD_OK);
	cr_assert_eq(us.out.bytes, 0);
	part();
	keyed_records_per_key = 0;
}

/* RFC 8446 5.5, RFC 9147 4.5.3 */
Test(kernel_records, how_long_a_key_lasts)
{
	static const uint64_t safe[] = {23726566, 23726566, UINT64_MAX - 1000, 1 << 23}; /* of kernel_suites[]; 2^24.5 with AES-GCM */

	for (int i = 0; i < 4; i++) {
		meet_kernel(false, &kernel_suites[i], BOTH);
		us.tls.keyed->tx.sequence = safe[i] / 4;
		cr_assert_eq(tls_spliced(&us.tls, 65536), RECORD_OK);
		cr_assert(!us.tls.keyed->tx.changing, "%s", kernel_suites[i].name);
		us.tls.keyed->tx.sequence = safe[i] - safe[i] / 4;
		cr_assert_eq(tls_spliced(&us.tls, 65536), RECORD_OK);
		cr_assert_eq(us.tls.keyed->tx.changing, safe[i] < UINT64_MAX / 2, "%s", kernel_suites[i].name);
		part();
	}
}

Test(kernel_records, worn_keys_that_cannot_change)
{
	struct queue plain = {0};

	keyed_records_per_key = 20;
	meet_promoted(false, v13);
	fake.support.rekey = false;
	kernel_takes(BOTH);
	for (uint64_t k = us.tls.keyed->tx.sequence; k < 20; k++)
		exchange(1);
	cr_assert_eq(queue_write(&plain, &bufs, data, 10), 0);
	cr_assert_eq(us.tls.record.engine->seal(&us.tls.record, &plain), RECORD_FAILED);
	queue_clear(&plain, &bufs);
	part();
	cr_assert(strstr(said, "SSL_write: the key is worn, and this kernel cannot change it: client"), "%s", said);
	/* a key in place is no matter of the kernel's */
	meet_promoted(false, v13);
	fake.support.rekey = false;
	kernel_takes(RECEIVE);
	for (int k = 0; k < 50; k++)
		exchange(1);
	bye();
	part();
	keyed_records_per_key = 0;
}

/* --- reads that fail ---------------------------------------------------------------------------------------------------------------- */

static void read_fails(int error, int alert, const char *why)
{
	bool own = false;

	for (int which = RECEIVE; which <= BOTH; which++) {
		meet_kernel(which % 2, v13, which);
		fake.error = true;
		cr_assert_eq(tls_read_failed(&us.tls, error, &own), RECORD_FAILED);
		cr_assert(own && us.tls.alert_sent && !us.tls.alert_received);
		cr_assert_eq(fake.cleared, 1, "an error on the socket keeps the alert back");
		to_peer();
		cr_assert_leq(SSL_read(peer.ssl, got, 1), 0);
		cr_assert_eq(ERR_GET_REASON(ERR_peek_last_error()), SSL_AD_REASON_OFFSET + alert);
		ERR_clear_error();
		part();
		cr_assert(strstr(said, why), "%s", said);
	}
}

Test(kernel_records, refused_by_the_kernel)
{
	read_fails(-EBADMSG, SSL_AD_BAD_RECORD_MAC, "SSL_read: bad record mac: client 0.0.0.0:0");
	read_fails(-EMSGSIZE, SSL_AD_RECORD_OVERFLOW, "SSL_read: record overflow: client");
	read_fails(-EINVAL, SSL_AD_UNEXPECTED_MESSAGE, "SSL_read: malformed record: client");
	read_fails(-EPROTO, SSL_AD_UNEXPECTED_MESSAGE, "SSL_read: empty record: client");
}

/* After our close_notify there is nothing to be said any more. */
Test(kernel_records, refused_after_close_notify)
{
	bool own = false;

	meet_kernel(false, v13, BOTH);
	cr_assert_eq(records_close(), RECORD_OK);
	to_peer();
	cr_assert_eq(tls_read_failed(&us.tls, -EBADMSG, &own), RECORD_FAILED);
	cr_assert(own && !us.tls.alert_sent);
	cr_assert_eq(us.out.bytes, 0);
	part();
}

/* Errors of the socket are not ours; nor is anything where we open the records ourselves. */
Test(kernel_records, errors_of_the_socket)
{
	static const int others[] = {-ECONNRESET, -ETIMEDOUT, -EPIPE, -ENOMEM, -EIO, -ENOBUFS, -ECANCELED, -EHOSTUNREACH};
	static const int ours[] = {-EBADMSG, -EMSGSIZE, -EINVAL, -EPROTO, -EKEYEXPIRED};
	bool own;

	meet_kernel(false, v13, BOTH);
	for (size_t i = 0; i < sizeof(others) / sizeof(*others); i++) {
		own = true;
		cr_assert_eq(tls_read_failed(&us.tls, others[i], &own), RECORD_OK);
		cr_assert_not(own);
	}
	part();
	meet_kernel(false, v13, SEND);
	for (size_t i = 0; i < sizeof(ours) / sizeof(*ours); i++) {
		own = true;
		cr_assert_eq(tls_read_failed(&us.tls, ours[i], &own), RECORD_OK);
		cr_assert_not(own);
	}
	cr_assert_eq(us.out.bytes, 0);
	exchange(10);
	part();
}

static enum record_result expired(void)
{
	bool own = false;
	enum record_result result = tls_read_failed(&us.tls, -EKEYEXPIRED, &own);

	cr_assert(own);
	return result;
}

/* The kernel stops at a KeyUpdate: that is fine while it waits in the queue, and once after it. */
Test(kernel_records, stopped_at_a_key_update)
{
	meet_kernel(false, v13, BOTH);
	for (int i = 0; i < 3; i++) {
		arrives(SSL3_RT_HANDSHAKE, "\x18\0\0\1\0", 5);
		cr_assert_eq(expired(), RECORD_OK, "before we have seen it");
		cr_assert_eq(expired(), RECORD_OK);
		we_hear("", 0);
		cr_assert_eq(expired(), RECORD_OK, "a read from before the new key");
		arrives(SSL3_RT_APPLICATION_DATA, "x", 1);
		we_hear("x", 1);
	}
	arrives(SSL3_RT_HANDSHAKE, "\x18\0\0\1\0", 5);
	we_hear("", 0);
	cr_assert_eq(expired(), RECORD_OK);
	cr_assert_eq(expired(), RECORD_FAILED, "again without a change: the kernel waits for what will not come");
	we_queued_alert(SSL3_AL_FATAL, SSL_AD_INTERNAL_ERROR);
	part();
	cr_assert(strstr(said, "the kernel waits for keys"), "%s", said);
}

/* It saw a KeyUpdate where we see the first byte of one: with the keys in force, and the number they are at, it goes on to the rest. */
Test(kernel_records, stopped_at_a_part_of_a_key_update)
{
	struct tls_keys before;
	uint64_t number;

	meet_kernel(false, v13, BOTH);
	before = fake.records.rx.keys;
	number = fake.records.rx.sequence = 17;
	arrives(SSL3_RT_HANDSHAKE, "\x18", 1);
	cr_assert_eq(expired(), RECORD_OK);
	we_hear("", 0);
	cr_assert_eq(expired(), RECORD_OK);
	cr_assert_eq(fake.installs[KTLS_RECEIVE], 2);
	cr_assert_eq(fake.sequence[KTLS_RECEIVE], number);
	cr_assert_eq(memcmp(&before, &fake.records.rx.keys, sizeof(before)), 0);
	arrives(SSL3_RT_HANDSHAKE, "\0\0\1\0", 4);
	we_hear("", 0);
	cr_assert_eq(fake.installs[KTLS_RECEIVE], 3);
	cr_assert_eq(fake.sequence[KTLS_RECEIVE], 0);
	cr_assert_neq(memcmp(&before, &fake.records.rx.keys, sizeof(before)), 0);
	arrives(SSL3_RT_APPLICATION_DATA, "x", 1);
	we_hear("x", 1);
	part();
}

/* A reader that does not read ahead finds the new key there: the kernel never stops, and a part of the next KeyUpdate is no change. */
Test(kernel_records, stopped_at_a_part_of_another_key_update)
{
	meet_kernel(false, v13, BOTH);
	arrives(SSL3_RT_HANDSHAKE, "\x18\0\0\1\0", 5);
	we_hear("", 0);
	arrives(SSL3_RT_APPLICATION_DATA, "x", 1);
	we_hear("x", 1);
	arrives(SSL3_RT_HANDSHAKE, "\x18", 1);
	we_hear("", 0);
	cr_assert_eq(expired(), RECORD_OK);
	cr_assert_eq(fake.installs[KTLS_RECEIVE], 3, "the kernel still waits");
	part();
}

/* The record behind a KeyUpdate was tried before we had changed the key: once, that is no refusal. */
Test(kernel_records, tried_with_the_old_key)
{
	bool own;

	meet_kernel(false, v13, BOTH);
	arrives(SSL3_RT_HANDSHAKE, "\x18\0\0\1\0", 5);
	we_hear("", 0);
	fake.error = true;
	cr_assert_eq(tls_read_failed(&us.tls, -EBADMSG, &own), RECORD_OK);
	cr_assert(own && !fake.error, "the error is still on the socket");
	arrives(SSL3_RT_APPLICATION_DATA, "x", 1);
	we_hear("x", 1);
	cr_assert_eq(tls_read_failed(&us.tls, -EBADMSG, &own), RECORD_FAILED, "this one is");
	we_queued_alert(SSL3_AL_FATAL, SSL_AD_BAD_RECORD_MAC);
	part();
}

/* --- where a direction's records are made ------------------------------------------------------------------------------------------- */

static enum ktls_outcome outcome(const struct suite *suite, const char *options, void (*tweak)(SSL_CTX *ctx),
                                 enum ktls_direction direction)
{
	enum ktls_outcome result;

	meet_tweaked(false, suite, options, tweak);
	result = tls_ktls_outcome(&us.tls, direction);
	part();
	return result;
}

static void with_short_records(SSL_CTX *ctx)
{
	SSL_CTX_set_tlsext_max_fragment_length(ctx, TLSEXT_max_fragment_length_4096);
}

/* What `ktls = auto` comes to for AES-GCM. */
#define AUTOMATIC (aead_is_accelerated(AEAD_AES_128_GCM) ? KTLS_INPLACE : KTLS_KERNEL)

Test(kernel_records, outcomes)
{
	static const struct suite cbc = {"ECDHE-ECDSA-AES128-SHA256", TLS1_2_VERSION},
				  old = {"ECDHE-ECDSA-AES128-SHA", TLS1_1_VERSION},
				  chacha = {"TLS_CHACHA20_POLY1305_SHA256", TLS1_3_VERSION};

	fake_reset();
	for (int d = 0; d < KTLS_DIRECTIONS; d++) {
		cr_assert_eq(outcome(v13, "", NULL, d), AUTOMATIC);
		cr_assert_eq(outcome(v12, "ktls = auto", NULL, d), AUTOMATIC);
		cr_assert_eq(outcome(v13, "inplace = no", NULL, d), KTLS_KERNEL);
		cr_assert_eq(outcome(&chacha, "", NULL, d), KTLS_KERNEL);
		cr_assert_eq(outcome(v13, "ktls = yes", NULL, d), KTLS_KERNEL);
		cr_assert_eq(outcome(v13, "ktls = no", NULL, d), KTLS_OFF);
		cr_assert_eq(outcome(v13, "ktls = tx", NULL, d), d == KTLS_SEND ? KTLS_KERNEL : KTLS_OFF);
		cr_assert_eq(outcome(v13, "ktls = rx", NULL, d), d == KTLS_RECEIVE ? KTLS_KERNEL : KTLS_OFF);
		cr_assert_eq(outcome(&cbc, "ktls = yes", NULL, d), KTLS_CIPHER);
		cr_assert_eq(
			outcome(&old, "ktls = yes\nsslVersion = TLSv1.1\nsecurityLevel = 0\nciphers = ALL:@SECLEVEL=0", NULL, d),
			KTLS_VERSION);
		cr_assert_eq(outcome(v13, "config = RecordPadding:512", NULL, d), KTLS_OPTIONS);
		cr_assert_eq(outcome(v12, "options = ALLOW_CLIENT_RENEGOTIATION", NULL, d), KTLS_OPTIONS);
		cr_assert_eq(outcome(v13, "", with_short_records, d), KTLS_FRAGMENT);
	}
}

Test(kernel_records, outcomes_by_kernel)
{
	fake_reset();
	fake.support.error = -ENOENT;
	cr_assert_eq(outcome(v13, "", NULL, KTLS_SEND), KTLS_UNSUPPORTED);
	cr_assert_eq(outcome(v13, "ktls = no", NULL, KTLS_SEND), KTLS_OFF);
	fake_reset();
	fake.support.rekey = false;
	cr_assert_eq(outcome(v13, "", NULL, KTLS_SEND), KTLS_REKEY);
	cr_assert_eq(outcome(v12, "", NULL, KTLS_SEND), AUTOMATIC);
	cr_assert_eq(outcome(v13, "ktls = yes", NULL, KTLS_SEND), KTLS_KERNEL, "whoever says so has it");
	cr_assert_eq(outcome(v13, "ktls = tx", NULL, KTLS_SEND), KTLS_KERNEL);
	for (int d = 0; d < KTLS_DIRECTIONS; d++)
		for (int version = 0; version < KTLS_VERSIONS; version++) {
			fake_reset();
			fake.support.cipher[d][version][AEAD_AES_128_GCM] = false;
			for (int asked = 0; asked < KTLS_DIRECTIONS; asked++)
				for (int v = 0; v < KTLS_VERSIONS; v++)
					cr_assert_eq(outcome(v == KTLS_13 ? v13 : v12, "ktls = yes", NULL, asked),
					             asked == d && v == version ? KTLS_CIPHER : KTLS_KERNEL);
		}
}

/* The first time a reason is met it is news; afterwards, and where nothing is to be said, it is for debugging. */
Test(kernel_records, reasons_are_news_once)
{
	fake_reset();
	meet_tweaked(false, v13, "", NULL);
	promote();
	kernel_takes(BOTH);
	tls_log_ktls(&us.tls, KTLS_SEND, KTLS_KERNEL, 0);
	tls_log_ktls(&us.tls, KTLS_SEND, KTLS_REFUSED, -EBUSY);
	tls_log_ktls(&us.tls, KTLS_RECEIVE, KTLS_REFUSED, -EINVAL);
	tls_log_ktls(&us.tls, KTLS_RECEIVE, KTLS_SHORT, 0);
	tls_log_ktls(&us.tls, KTLS_RECEIVE, KTLS_CIPHER, 0);
	part();
	cr_assert_str_eq(said, "[.] Kernel TLS: tx: stays in user space: the kernel refused (Device or resource busy)\n"
	                       "[.] Kernel TLS: rx: stays in user space: the kernel does not have the cipher\n");
}

/* --- want of memory ----------------------------------------------------------------------------------------------------------------- */

#ifdef RING_FAULTS
/* Any chunk may be refused: an end, said in the log, or none, and nothing is lost. */
Test(kernel_records, no_memory_for_chunks)
{
	bool survived = false;
	int failures = 0;

	for (unsigned long nth = 1; !survived && nth < 100; nth++) {
		struct queue plain = {0};

		meet_kernel(false, v13, BOTH);
		keyed_records_per_key = 8;
		arrives(SSL3_RT_HANDSHAKE, "\x18\0\0\1\1", 5);
		arrives(SSL3_RT_APPLICATION_DATA, "x", 1);
		chunk_fail_nth(nth, 1);
		survived = records_open(&plain, SIZE_MAX) == RECORD_OK && records_close() == RECORD_OK;
		chunk_fail_nth(0, 0);
		queue_clear(&plain, &bufs);
		part();
		cr_assert(survived || strstr(said, "no memory"), "%s", said);
		failures += !survived;
	}
	cr_assert(survived);
	cr_assert_eq(failures, 2);
}
#endif
