/*
 * Unit tests of the record engine `inplace`: an OpenSSL peer over memory, and a peer that makes its records by hand.
 * Run by `make unit`; the faults need a sanitizer build, which has RING_FAULTS.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "keyed_testing.h"

TestSuite(inplace, .init = up, .fini = down, .timeout = 600);

/* --- the hand-over ------------------------------------------------------------------------------------------------------------------ */

static void promoted_at_once(void)
{
	promote();
	for (size_t n = 1; n <= BYTES; n = n * 5 + 1)
		exchange(n);
	bye();
}

Test(inplace, right_after_the_handshake)
{
	with_each(promoted_at_once);
}

static void without_extended_master_secret(SSL_CTX *ctx)
{
	SSL_CTX_set_options(ctx, SSL_OP_NO_EXTENDED_MASTER_SECRET | SSL_OP_NO_TICKET);
}

Test(inplace, without_extended_master_secret)
{
	for (int client = 0; client < 2; client++) {
		meet_tweaked(client, v12, NULL, without_extended_master_secret);
		promoted_at_once();
		part();
	}
}

/* The record numbers are right whatever went by before. */
Test(inplace, after_any_number_of_records)
{
	for (int i = 0; i < SUITES; i += 3)
		for (int there = 0; there < 4; there++)
			for (int back = 0; back < 4; back++) {
				meet((there + back) % 2, &suites[i]);
				for (int k = 0; k < there; k++)
					we_say(data, 100);
				peer_hears(data, there > 0 ? 100 : 0);
				for (int k = 1; k < there; k++)
					peer_hears(data, 100);
				for (int k = 0; k < back; k++) {
					peer_says(data, 100);
					everything_from_peer();
					we_hear(data, 100);
				}
				promote();
				exchange(5000);
				bye();
				part();
			}
}

/* Whatever part of two records has come in by then. `waiting`: what came last has not been looked at. */
static void promoted_after(size_t n, bool waiting)
{
	struct queue plain = {0};
	enum tls_promotion promotion;

	exchange(10); /* tickets are gone by */
	peer_says(data, 30);
	peer_says(data + 30, 40);
	cr_assert_eq(from_peer(n), n);
	if (!waiting)
		cr_assert_eq(records_open(&plain, SIZE_MAX), RECORD_OK);
	promotion = tls_promote(&us.tls, false);
	cr_assert(promotion == TLS_PROMOTED || promotion == TLS_NOT_YET);
	everything_from_peer();
	cr_assert_eq(records_open(&plain, SIZE_MAX), RECORD_OK, "cut at %zu", n);
	cr_assert_eq(plain.bytes, 70, "%zu bytes, cut at %zu", plain.bytes, n);
	queue_read(&plain, &bufs, got, 70);
	cr_assert_eq(memcmp(got, data, 70), 0);
	queue_clear(&plain, &bufs);
	promote();
	exchange(100);
	bye();
}

Test(inplace, in_the_middle_of_a_record)
{
	for (int waiting = 0; waiting < 2; waiting++)
		for (int v = 0; v < 2; v++)
			for (size_t n = 0; n < 110; n += n < 70 ? 1 : 5) {
				meet(n % 2, v ? v12 : v13);
				promoted_after(n, waiting);
				part();
			}
}

/* What OpenSSL has written and nobody has sent yet goes first. */
static void promoted_with_bytes_to_send(void)
{
	struct queue plain = {0};

	for (int turn = 0; turn < 2; turn++) {
		cr_assert_eq(queue_write(&plain, &bufs, data + turn * 50000, 50000), 0);
		cr_assert_eq(us.tls.record.engine->seal(&us.tls.record, &plain), RECORD_OK);
		if (turn == 0)
			promote();
	}
	queue_clear(&plain, &bufs);
	to_peer();
	peer_hears(data, 100000);
	bye();
}

Test(inplace, with_bytes_of_openssl_still_to_send)
{
	with_each(promoted_with_bytes_to_send);
}

/* A half of a post-handshake message is no place to change horses, nor is a limit in the middle of a record. */
Test(inplace, not_while_openssl_holds_data)
{
	struct queue plain = {0};

	meet(false, v13);
	peer_says(data, 10000);
	peer_says(data, 10000);
	everything_from_peer();
	cr_assert_eq(records_open(&plain, 1), RECORD_MORE);
	if (tls_promote(&us.tls, true) == TLS_PROMOTED)
		cr_assert_eq(plain.bytes, 10000);
	cr_assert_eq(records_open(&plain, SIZE_MAX), RECORD_OK);
	cr_assert_eq(plain.bytes, 20000);
	queue_clear(&plain, &bufs);
	promote();
	exchange(10);
	bye();
	part();
}

static enum tls_promotion stays(bool client, const struct suite *suite, const char *options)
{
	enum tls_promotion promotion;

	meet_tweaked(client, suite, options, NULL);
	exchange(10);
	promotion = tls_promote(&us.tls, false);
	cr_assert(promotion == TLS_PROMOTED || us.tls.ssl);
	exchange(10);
	bye();
	part();
	return promotion;
}

Test(inplace, what_stays_with_openssl)
{
	static const struct suite ccm = {"ECDHE-ECDSA-AES128-CCM", TLS1_2_VERSION},
				  ccm8 = {"ECDHE-ECDSA-AES128-CCM8", TLS1_2_VERSION},
				  cbc = {"ECDHE-ECDSA-AES128-SHA256", TLS1_2_VERSION};
	static const struct suite old = {"ECDHE-ECDSA-AES128-SHA", TLS1_1_VERSION},
				  ccm13 = {"TLS_AES_128_CCM_SHA256", TLS1_3_VERSION};

	cr_assert_eq(stays(false, v13, ""), TLS_PROMOTED);
	cr_assert_eq(stays(true, v12, "renegotiation = yes"), TLS_STAYS, "the server may want another handshake");
	cr_assert_eq(stays(true, v13, "renegotiation = yes"), TLS_PROMOTED);
	cr_assert_eq(stays(false, v12, "options = ALLOW_CLIENT_RENEGOTIATION"), TLS_STAYS);
	cr_assert_eq(stays(false, v13, "config = RecordPadding:512"), TLS_STAYS);
	cr_assert_eq(stays(false, &ccm, ""), TLS_PROMOTED);
	cr_assert_eq(stays(false, &ccm8, "ciphers = ALL:@SECLEVEL=0\nsecurityLevel = 0"), TLS_STAYS, "a tag of 8 bytes");
	cr_assert_eq(stays(false, &cbc, ""), TLS_STAYS);
	cr_assert_eq(stays(false, &ccm13, "ciphersuites = TLS_AES_128_CCM_SHA256"), TLS_PROMOTED);
	cr_assert_eq(stays(false, &old, "sslVersion = TLSv1.1\nsecurityLevel = 0\nciphers = ALL:@SECLEVEL=0"), TLS_STAYS);
}

Test(inplace, after_a_key_update_it_stays)
{
	meet(false, v13);
	exchange(10);
	SSL_key_update(peer.ssl, SSL_KEY_UPDATE_NOT_REQUESTED);
	exchange(10);
	cr_assert_eq(tls_promote(&us.tls, false), TLS_STAYS);
	exchange(10);
	bye();
	part();
}

Test(inplace, after_close_notify_it_stays)
{
	meet(false, v13);
	exchange(10);
	cr_assert_eq(records_close(), RECORD_OK);
	cr_assert_eq(tls_promote(&us.tls, false), TLS_STAYS);
	part();
}

/* A client waits for its session tickets, unless the connection has come to rest. */
Test(inplace, a_client_waits_for_tickets)
{
	us.client = true;
	peer_open(v13, NULL);
	us_open("");
	for (int i = 0; i < 2; i++) {
		tls_handshake(&us.tls);
		to_peer();
		SSL_do_handshake(peer.ssl);
		everything_from_peer();
	}
	cr_assert_eq(tls_promote(&us.tls, true), TLS_NOT_YET);
	we_hear("", 0);
	cr_assert_eq(tls_promote(&us.tls, true), TLS_PROMOTED);
	exchange(10);
	bye();
	part();
}

static void without_tickets(SSL_CTX *ctx)
{
	SSL_CTX_set_num_tickets(ctx, 0);
}

/* Tickets that come after the hand-over are dropped, and nothing else is. */
Test(inplace, tickets_after_the_hand_over)
{
	meet_tweaked(true, v13, NULL, without_tickets);
	exchange(10);
	cr_assert_eq(tls_promote(&us.tls, true), TLS_NOT_YET);
	promote();
	for (int i = 0; i < 10; i++) {
		cr_assert_eq(SSL_new_session_ticket(peer.ssl), 1);
		exchange(1000);
	}
	bye();
	part();
}

/* --- records ------------------------------------------------------------------------------------------------------------------------ */

/* A chunk to each piece, as they come from a socket. */
static void in_pieces(size_t piece)
{
	struct queue plain = {0};
	size_t n = piece < 100 ? 2000 : 20000;
	int done;

	peer_says(data, n);
	for (;;) {
		struct chunk *c = chunk_get(&bufs, chunk_size_for(piece));

		done = BIO_read(peer.from, c->data, (int)(piece < c->room ? piece : c->room));
		if (done <= 0) {
			chunk_put(&bufs, c);
			break;
		}
		c->end = (uint32_t)done;
		queue_append(&us.in, c);
		cr_assert_eq(records_open(&plain, SIZE_MAX), RECORD_OK);
	}
	cr_assert_eq(plain.bytes, n);
	queue_read(&plain, &bufs, got, n);
	cr_assert_eq(memcmp(got, data, n), 0, "in pieces of %zu", piece);
	queue_clear(&plain, &bufs);
}

static void in_pieces_of_many_sizes(void)
{
	static const size_t pieces[] = {1,  2,  3,   4,    5,     6,     7,     12,    13,    14,   21,
	                                22, 23, 100, 4064, 16384, 16401, 16405, 16406, 16407, 40000};

	promote();
	for (size_t i = 0; i < sizeof(pieces) / sizeof(*pieces); i++)
		in_pieces(pieces[i]);
	bye();
}

Test(inplace, records_over_any_chunks)
{
	with_each(in_pieces_of_many_sizes);
}

static void one_by_one(void)
{
	promote();
	for (int i = 0; i < 300; i++)
		exchange(1);
	for (int i = 0; i < 300; i++) {
		peer_says(data + i, 1);
		everything_from_peer();
	}
	we_hear(data, 300);
	bye();
}

Test(inplace, one_byte_records)
{
	with_each(one_by_one);
}

static void sizes(void)
{
	promote();
	for (size_t n = RECORD - 20; n <= RECORD + 20; n++)
		exchange(n);
	exchange(2 * RECORD);
	exchange(BYTES);
	bye();
}

Test(inplace, sizes_around_a_record)
{
	with_each(sizes);
}

/* What is sealed lies in chunks of any fill. */
Test(inplace, seals_from_any_chunks)
{
	meet(false, v13);
	promote();
	for (size_t piece = 1; piece < 4000; piece = piece * 3 + 1) {
		struct queue plain = {0};

		for (size_t at = 0; at < 40000; at += piece) {
			struct chunk *c = chunk_get(&bufs, CHUNK_SMALL);

			memcpy(c->data, data + at, piece);
			c->end = (uint32_t)piece;
			queue_append(&plain, c);
		}
		cr_assert_eq(us.tls.record.engine->seal(&us.tls.record, &plain), RECORD_OK);
		queue_clear(&plain, &bufs);
		to_peer();
		peer_hears(data, (40000 + piece - 1) / piece * piece);
	}
	bye();
	part();
}

/* Stopped at the limit with bytes left, and then the stream ends: all of it comes out in the end. */
static void stops_at_the_limit(void)
{
	enum { LIMIT = 20000 };
	struct queue plain = {0};
	size_t n = 0;
	int turns = 0;

	promote();
	peer_says(data, BYTES);
	SSL_shutdown(peer.ssl);
	everything_from_peer();
	while (records_open(&plain, LIMIT) == RECORD_MORE) {
		cr_assert_geq(plain.bytes, LIMIT);
		cr_assert_lt(plain.bytes, LIMIT + RECORD);
		cr_assert_eq(records_open(&plain, LIMIT), RECORD_MORE, "nothing changes as long as there is no room");
		n += queue_read(&plain, &bufs, got + n, BYTES - n);
		turns++;
	}
	n += queue_read(&plain, &bufs, got + n, BYTES - n);
	cr_assert_eq(n, BYTES);
	cr_assert_gt(turns, 4);
	cr_assert_eq(memcmp(got, data, BYTES), 0);
	queue_clear(&plain, &bufs);
}

Test(inplace, stops_at_the_limit)
{
	with_each(stops_at_the_limit);
}

static void with_padding(SSL_CTX *ctx)
{
	SSL_CTX_set_block_padding(ctx, 4096);
}

Test(inplace, padded_records)
{
	for (int client = 0; client < 2; client++)
		for (int i = 0; suites[i].version == TLS1_3_VERSION; i++) {
			meet_tweaked(client, &suites[i], NULL, with_padding);
			promote();
			for (size_t n = 1; n <= BYTES; n = n * 3 + 1)
				exchange(n);
			exchange(RECORD);
			bye();
			part();
		}
}

static void with_small_fragments(SSL_CTX *ctx)
{
	SSL_CTX_set_tlsext_max_fragment_length(ctx, TLSEXT_max_fragment_length_512);
}

/* RFC 6066 section 4: the client asks, both keep to it. OpenSSL refuses what is longer. */
Test(inplace, max_fragment_length)
{
	for (int v = 0; v < 2; v++) {
		meet_tweaked(false, v ? v12 : v13, "", with_small_fragments);
		promote();
		exchange(511);
		exchange(512);
		exchange(513);
		exchange(BYTES);
		bye();
		part();
	}
}

/* After close_notify one way the other goes on. */
static void half_closed(void)
{
	struct queue plain = {0};

	promote();
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
}

Test(inplace, half_closed)
{
	with_each(half_closed);
}

/* --- new keys ----------------------------------------------------------------------------------------------------------------------- */

static void keys_of_the_peer(void)
{
	promote();
	if (!peer.traffic.secret_len)
		return; /* TLS 1.2 */
	for (int i = 0; i < 20; i++) {
		cr_assert_eq(SSL_key_update(peer.ssl, i % 2 ? SSL_KEY_UPDATE_REQUESTED : SSL_KEY_UPDATE_NOT_REQUESTED), 1);
		exchange(i % 3 ? 10 : 50000);
		exchange(1);
	}
	bye();
}

Test(inplace, key_updates_of_the_peer)
{
	with_each(keys_of_the_peer);
}

/* In the middle of bulk data both ways; answers are owed while data of ours is on its way. */
Test(inplace, key_updates_while_data_runs)
{
	enum { PART = BYTES / 20 };

	for (int client = 0; client < 2; client++) {
		struct queue plain = {0};

		meet(client, v13);
		promote();
		for (int i = 0; i < 20; i++) {
			peer_says(data + i * PART, PART);
			SSL_key_update(peer.ssl, SSL_KEY_UPDATE_REQUESTED);
			SSL_do_handshake(peer.ssl);
			we_say(data + i * PART, PART);
		}
		while (from_peer(7000))
			cr_assert_eq(records_open(&plain, SIZE_MAX), RECORD_OK);
		cr_assert_eq(plain.bytes, BYTES);
		queue_read(&plain, &bufs, got, BYTES);
		cr_assert_eq(memcmp(got, data, BYTES), 0);
		queue_clear(&plain, &bufs);
		to_peer();
		peer_hears(data, BYTES);
		exchange(1000);
		bye();
		part();
	}
}

/* --- records made by hand ----------------------------------------------------------------------------------------------------------- */

static unsigned char wire[FORGED_MAX];

static void forged_padded(int type, const void *content, size_t n, size_t padding)
{
	size_t len = forge(&peer.forger, wire, type, content, n, padding);

	cr_assert_gt(len, 0);
	cr_assert_eq(queue_write(&us.in, &bufs, wire, len), 0);
}

static void forged(int type, const void *content, size_t n)
{
	forged_padded(type, content, n, 0);
}

/* Takes the next record that we have sent off `out`. Returns its type; the content is left in `got`. */
static int we_sent(size_t *n)
{
	unsigned char header[5], *content = NULL;
	int type = 0;
	size_t body;

	if (queue_read(&us.out, &bufs, header, 5) < 5)
		return 0;
	body = (size_t)header[3] << 8 | header[4];
	memcpy(wire, header, 5);
	cr_assert_eq(queue_read(&us.out, &bufs, wire + 5, body), body);
	cr_assert_gt(forger_open(&peer.forger, wire, 5 + body, &type, &content, n), 0, "our record does not open");
	memmove(got, content, *n);
	return type;
}

static void we_sent_alert(int level, int description)
{
	size_t n;

	cr_assert_eq(we_sent(&n), SSL3_RT_ALERT);
	cr_assert_eq(n, 2);
	cr_assert_eq(got[0], level);
	cr_assert_eq(got[1], description, "alert %d instead of %d", got[1], description);
}

/* What is in our queue ends the connection with an alert, and no byte of it is believed. */
static void we_refuse(int description)
{
	struct queue plain = {0};

	cr_assert_eq(records_open(&plain, SIZE_MAX), RECORD_FAILED);
	cr_assert_eq(plain.bytes, 0);
	cr_assert(us.tls.alert_sent && !us.tls.alert_received);
	queue_clear(&plain, &bufs);
	we_sent_alert(SSL3_AL_FATAL, description);
	cr_assert_eq(us.out.bytes, 0, "more than an alert");
}

/* One bad record in each role of a version. */
static void refused_record(const struct suite *suite, int type, const void *content, size_t n, int alert)
{
	for (int client = 0; client < 2; client++) {
		meet(client, suite);
		forger_takes_over();
		forged(type, content, n);
		we_refuse(alert);
		part();
	}
}

static void forged_data(void)
{
	forger_takes_over();
	for (size_t n = 0; n <= RECORD; n = n * 3 + 1) {
		forged(SSL3_RT_APPLICATION_DATA, data, n);
		we_hear(data, n);
		cr_assert_eq(us.out.bytes, 0);
	}
}

Test(inplace, forged_data)
{
	with_each(forged_data);
}

/* A flipped bit anywhere ends the connection with an alert; so does a record left out, or one that comes twice. */
Test(inplace, damaged)
{
	for (int i = 0; i < SUITES; i++)
		for (size_t at = 5; at < 60; at += i % 3 ? 7 : 1) {
			size_t len;

			meet(at % 2, &suites[i]);
			forger_takes_over();
			len = forge(&peer.forger, wire, SSL3_RT_APPLICATION_DATA, data, 20, 0);
			if (at < len) {
				wire[at] ^= (unsigned char)(1 << at % 8);
				cr_assert_eq(queue_write(&us.in, &bufs, wire, len), 0);
				we_refuse(SSL_AD_BAD_RECORD_MAC);
			}
			part();
		}
}

static void left_out(void)
{
	forger_takes_over();
	forge(&peer.forger, wire, SSL3_RT_APPLICATION_DATA, data, 20, 0);
	forged(SSL3_RT_APPLICATION_DATA, data, 20);
	we_refuse(SSL_AD_BAD_RECORD_MAC);
}

static void twice(void)
{
	size_t len;

	forger_takes_over();
	len = forge(&peer.forger, wire, SSL3_RT_APPLICATION_DATA, data, 20, 0);
	cr_assert_eq(queue_write(&us.in, &bufs, wire, len), 0);
	we_hear(data, 20);
	cr_assert_eq(queue_write(&us.in, &bufs, wire, len), 0);
	we_refuse(SSL_AD_BAD_RECORD_MAC);
}

Test(inplace, left_out_or_twice)
{
	with_each(left_out);
	with_each(twice);
}

/* The header says what cannot be: refused before the body has come. */
static void refused_header(const struct suite *suite, const char *header, int alert)
{
	meet(false, suite);
	forger_takes_over();
	cr_assert_eq(queue_write(&us.in, &bufs, header, 5), 0);
	we_refuse(alert);
	part();
}

Test(inplace, impossible_headers)
{
	refused_header(v13, "\x17\x03\x03\x41\x01", SSL_AD_RECORD_OVERFLOW);
	refused_header(v13, "\x17\x03\x03\xff\xff", SSL_AD_RECORD_OVERFLOW);
	refused_header(v12, "\x17\x03\x03\x48\x01", SSL_AD_RECORD_OVERFLOW);
	refused_header(v13, "\x16\x03\x03\x01\x00", SSL_AD_UNEXPECTED_MESSAGE);
	refused_header(v13, "\x14\x03\x03\x00\x01", SSL_AD_UNEXPECTED_MESSAGE);
	refused_header(v13, "\x15\x03\x03\x00\x02", SSL_AD_UNEXPECTED_MESSAGE);
	refused_header(v13, "\x18\x03\x03\x00\x20", SSL_AD_UNEXPECTED_MESSAGE);
	refused_header(v13, "GET /", SSL_AD_UNEXPECTED_MESSAGE);
	refused_header(v12, "GET /", SSL_AD_UNEXPECTED_MESSAGE);
	refused_header(v13, "\x17\x03\x03\x00\x00", SSL_AD_BAD_RECORD_MAC);
	refused_header(v13, "\x17\x03\x03\x00\x10", SSL_AD_BAD_RECORD_MAC);
	refused_header(v12, "\x17\x03\x03\x00\x17", SSL_AD_BAD_RECORD_MAC);
	refused_header(&suites[5], "\x17\x03\x03\x00\x0f", SSL_AD_BAD_RECORD_MAC);
}

/* RFC 8446 5.1, 5.4: at most 2^14 bytes of content, and 2^14 + 1 with the padding. */
Test(inplace, too_long)
{
	meet(false, v13);
	forger_takes_over();
	forged_padded(SSL3_RT_APPLICATION_DATA, data, RECORD - 100, 100);
	we_hear(data, RECORD - 100);
	forged_padded(SSL3_RT_APPLICATION_DATA, data, RECORD - 100, 101);
	we_refuse(SSL_AD_RECORD_OVERFLOW);
	part();
	refused_record(v13, SSL3_RT_APPLICATION_DATA, data, RECORD + 1, SSL_AD_RECORD_OVERFLOW);
	refused_record(v13, SSL3_RT_APPLICATION_DATA, data, RECORD + 200, SSL_AD_RECORD_OVERFLOW);
	refused_record(v12, SSL3_RT_APPLICATION_DATA, data, RECORD + 1, SSL_AD_RECORD_OVERFLOW);
	refused_record(&suites[5], SSL3_RT_APPLICATION_DATA, data, RECORD + 1, SSL_AD_RECORD_OVERFLOW);
}

/* RFC 6066 section 4: who has asked for short records must not send long ones. */
Test(inplace, longer_than_agreed)
{
	meet_tweaked(false, v13, "", with_small_fragments);
	forger_takes_over();
	forged(SSL3_RT_APPLICATION_DATA, data, 512);
	we_hear(data, 512);
	forged(SSL3_RT_APPLICATION_DATA, data, 513);
	we_refuse(SSL_AD_RECORD_OVERFLOW);
	part();
}

Test(inplace, unexpected_types)
{
	refused_record(v13, SSL3_RT_CHANGE_CIPHER_SPEC, "\1", 1, SSL_AD_UNEXPECTED_MESSAGE);
	refused_record(v12, SSL3_RT_CHANGE_CIPHER_SPEC, "\1", 1, SSL_AD_UNEXPECTED_MESSAGE);
	refused_record(v13, 24, "\1\0\1x", 4, SSL_AD_UNEXPECTED_MESSAGE); /* heartbeat */
	refused_record(v12, 24, "\1\0\1x", 4, SSL_AD_UNEXPECTED_MESSAGE);
	refused_record(v13, 0, "", 0, SSL_AD_UNEXPECTED_MESSAGE); /* nothing but padding */
	refused_record(v13, 0, "\0\0\0\0", 4, SSL_AD_UNEXPECTED_MESSAGE);
	refused_record(v13, 255, "abc", 3, SSL_AD_UNEXPECTED_MESSAGE);
	refused_record(v13, SSL3_RT_HANDSHAKE, "", 0, SSL_AD_UNEXPECTED_MESSAGE); /* RFC 8446 5.1 */
	refused_record(v13, SSL3_RT_ALERT, "", 0, SSL_AD_DECODE_ERROR);
	refused_record(v12, SSL3_RT_ALERT, "\1", 1, SSL_AD_DECODE_ERROR);
	refused_record(v13, SSL3_RT_ALERT, "\1\0\1\0", 4, SSL_AD_DECODE_ERROR);
	refused_record(v12, SSL3_RT_ALERT, "\3\0", 2, SSL_AD_ILLEGAL_PARAMETER);
	refused_record(v12, SSL3_RT_ALERT, "\0\x28", 2, SSL_AD_ILLEGAL_PARAMETER);
}

Test(inplace, unexpected_messages)
{
	refused_record(v13, SSL3_RT_HANDSHAKE, "\1\0\0\2ab", 6, SSL_AD_UNEXPECTED_MESSAGE);       /* ClientHello */
	refused_record(v13, SSL3_RT_HANDSHAKE, "\0\0\0\0", 4, SSL_AD_UNEXPECTED_MESSAGE);         /* HelloRequest */
	refused_record(v13, SSL3_RT_HANDSHAKE, "\x14\0\0\0", 4, SSL_AD_UNEXPECTED_MESSAGE);       /* Finished */
	refused_record(v13, SSL3_RT_HANDSHAKE, "\x0d\0\0\3\0\0\0", 7, SSL_AD_UNEXPECTED_MESSAGE); /* CertificateRequest */
	refused_record(v13, SSL3_RT_HANDSHAKE, "\xff\xff\xff\xff", 4, SSL_AD_UNEXPECTED_MESSAGE);
	refused_record(v12, SSL3_RT_HANDSHAKE, "\x14\0\0\0", 4, SSL_AD_UNEXPECTED_MESSAGE);
	refused_record(v12, SSL3_RT_HANDSHAKE, "\2\0\0\0", 4, SSL_AD_UNEXPECTED_MESSAGE);
	refused_record(v12, SSL3_RT_HANDSHAKE, "", 0, SSL_AD_UNEXPECTED_MESSAGE);
	/* RFC 8446 4.6.3 */
	refused_record(v13, SSL3_RT_HANDSHAKE, "\x18\0\0\1\2", 5, SSL_AD_ILLEGAL_PARAMETER);
	refused_record(v13, SSL3_RT_HANDSHAKE, "\x18\0\0\1\xff", 5, SSL_AD_ILLEGAL_PARAMETER);
	refused_record(v13, SSL3_RT_HANDSHAKE, "\x18\0\0\0", 4, SSL_AD_DECODE_ERROR);
	refused_record(v13, SSL3_RT_HANDSHAKE, "\x18\0\0\2\0\0", 6, SSL_AD_DECODE_ERROR);
	refused_record(v13, SSL3_RT_HANDSHAKE, "\x18\xff\xff\xff\0", 5, SSL_AD_DECODE_ERROR);
	/* RFC 8446 5.1: the keys change at the end of a record */
	refused_record(v13, SSL3_RT_HANDSHAKE, "\x18\0\0\1\0\x18\0\0\1\0", 10, SSL_AD_UNEXPECTED_MESSAGE);
	refused_record(v13, SSL3_RT_HANDSHAKE, "\x18\0\0\1\0x", 6, SSL_AD_UNEXPECTED_MESSAGE);
}

/* A server that gets a session ticket has a peer that is out of its mind. */
Test(inplace, a_ticket_for_the_server)
{
	meet(false, v13);
	forger_takes_over();
	forged(SSL3_RT_HANDSHAKE, "\4\0\0\4abcd", 8);
	we_refuse(SSL_AD_UNEXPECTED_MESSAGE);
	part();
}

/* The forger says KeyUpdate; we take it, and answer if asked. */
static void key_update(bool asked)
{
	size_t n;

	forged(SSL3_RT_HANDSHAKE, asked ? "\x18\0\0\1\1" : "\x18\0\0\1\0", 5);
	cr_assert(forger_update(&peer.forger, &peer.forger.tx));
	forged(SSL3_RT_APPLICATION_DATA, data, 100);
	we_hear(data, 100);
	if (asked) {
		cr_assert_eq(we_sent(&n), SSL3_RT_HANDSHAKE);
		cr_assert(n == 5 && memcmp(got, "\x18\0\0\1\0", 5) == 0);
		cr_assert(forger_update(&peer.forger, &peer.forger.rx));
	}
	cr_assert_eq(us.out.bytes, 0);
}

/* RFC 8446 5.1: a message may come in several records, and several in one. */
Test(inplace, messages_in_pieces)
{
	static unsigned char ticket[4 + 100000] = {4, 100000 >> 16, 100000 >> 8 & 255, 100000 & 255};
	static unsigned char two[2 * 20] = {4, 0, 0, 16};
	size_t n;

	meet(true, v13);
	forger_takes_over();
	forged(SSL3_RT_HANDSHAKE, "\x18", 1);
	forged(SSL3_RT_HANDSHAKE, "\0\0\1", 3);
	forged(SSL3_RT_HANDSHAKE, "\1", 1);
	cr_assert(forger_update(&peer.forger, &peer.forger.tx));
	we_hear("", 0);
	cr_assert_eq(we_sent(&n), SSL3_RT_HANDSHAKE);
	cr_assert(forger_update(&peer.forger, &peer.forger.rx));
	for (size_t at = 0; at < sizeof(ticket); at += n) {
		n = sizeof(ticket) - at < RECORD ? sizeof(ticket) - at : RECORD;
		forged(SSL3_RT_HANDSHAKE, ticket + at, n);
	}
	we_hear("", 0);
	memcpy(two + 20, two, 20);
	forged(SSL3_RT_HANDSHAKE, two, 40);
	forged(SSL3_RT_HANDSHAKE, two, 22);
	forged(SSL3_RT_HANDSHAKE, two + 22, 18);
	forged(SSL3_RT_APPLICATION_DATA, "after", 5);
	we_hear("after", 5);
	key_update(true);
	forged(SSL3_RT_HANDSHAKE, two, 10);
	forged(SSL3_RT_APPLICATION_DATA, "between", 7);
	we_refuse(SSL_AD_UNEXPECTED_MESSAGE);
	part();
}

/* More than any ticket can be. */
Test(inplace, a_ticket_without_end)
{
	meet(true, v13);
	forger_takes_over();
	forged(SSL3_RT_HANDSHAKE, "\4\xff\xff\xff", 4);
	we_refuse(SSL_AD_DECODE_ERROR);
	part();
}

Test(inplace, forged_key_updates)
{
	for (int client = 0; client < 2; client++)
		for (int i = 0; suites[i].version == TLS1_3_VERSION; i++) {
			meet(client, &suites[i]);
			forger_takes_over();
			for (int k = 0; k < 200; k++)
				key_update(k % 3 > 0);
			part();
		}
}

/* Under the old keys nothing is accepted any more. */
Test(inplace, old_keys_after_a_key_update)
{
	meet(false, v13);
	forger_takes_over();
	forged(SSL3_RT_HANDSHAKE, "\x18\0\0\1\0", 5);
	forged(SSL3_RT_APPLICATION_DATA, data, 100);
	we_refuse(SSL_AD_BAD_RECORD_MAC);
	part();
}

/* After our close_notify nothing more is written: no answer to a KeyUpdate, no warning. */
Test(inplace, silence_after_close_notify)
{
	static const char hello[] = "\1\0\0\2ab";

	for (int v = 0; v < 2; v++) {
		meet_tweaked(false, v ? v12 : v13, "", NULL);
		forger_takes_over();
		cr_assert_eq(records_close(), RECORD_OK);
		we_sent_alert(SSL3_AL_WARNING, SSL_AD_CLOSE_NOTIFY);
		if (v) {
			forged(SSL3_RT_HANDSHAKE, hello, 6);
		} else {
			forged(SSL3_RT_HANDSHAKE, "\x18\0\0\1\1", 5);
			cr_assert(forger_update(&peer.forger, &peer.forger.tx));
		}
		forged(SSL3_RT_APPLICATION_DATA, data, 10);
		we_hear(data, 10);
		cr_assert_eq(us.out.bytes, 0);
		part();
	}
}

/* Our own KeyUpdate, when a key has done its share. */
Test(inplace, keys_of_ours_wear_out)
{
	keyed_records_per_key = 8;
	for (int client = 0; client < 2; client++)
		for (int i = 0; i < SUITES; i++) {
			meet(client, &suites[i]);
			promote();
			for (int k = 0; k < 50; k++)
				exchange(1);
			exchange(BYTES);
			if (suites[i].version == TLS1_3_VERSION)
				cr_assert(SSL_key_update(peer.ssl, SSL_KEY_UPDATE_REQUESTED));
			exchange(BYTES);
			bye();
			part();
		}
	keyed_records_per_key = 0;
}

/* ... also of a key that OpenSSL has used before. */
Test(inplace, keys_wear_out_at_the_limit)
{
	size_t n;

	keyed_records_per_key = 8;
	meet(false, v13);
	for (int i = 0; i < 3; i++)
		exchange(1);
	n = peer.traffic.read;
	forger_takes_over();
	for (; n < 8; n++) {
		struct queue plain = {0};
		size_t len;

		cr_assert_eq(queue_write(&plain, &bufs, "x", 1), 0);
		cr_assert_eq(us.tls.record.engine->seal(&us.tls.record, &plain), RECORD_OK);
		cr_assert_eq(we_sent(&len), SSL3_RT_APPLICATION_DATA);
		queue_clear(&plain, &bufs);
	}
	for (int i = 0; i < 3; i++) {
		struct queue plain = {0};

		cr_assert_eq(queue_write(&plain, &bufs, data, 3 * RECORD), 0);
		cr_assert_eq(us.tls.record.engine->seal(&us.tls.record, &plain), RECORD_OK);
		if (i == 0) {
			cr_assert_eq(we_sent(&n), SSL3_RT_HANDSHAKE);
			cr_assert(forger_update(&peer.forger, &peer.forger.rx));
		}
		for (int k = 0; k < 3 && i < 2; k++) {
			cr_assert_eq(we_sent(&n), SSL3_RT_APPLICATION_DATA);
			cr_assert_eq(n, RECORD);
		}
		queue_clear(&plain, &bufs);
	}
	cr_assert_eq(we_sent(&n), SSL3_RT_APPLICATION_DATA);
	cr_assert_eq(we_sent(&n), SSL3_RT_APPLICATION_DATA);
	cr_assert_eq(we_sent(&n), SSL3_RT_HANDSHAKE);
	part();
	keyed_records_per_key = 0;
}

/* --- alerts ------------------------------------------------------------------------------------------------------------------------- */

/* Returns what opening a stream of "before", alert, "after" comes to; `kept` is how much data of it came out. */
static enum record_result alerted(const struct suite *suite, bool client, int level, int description, size_t *kept)
{
	unsigned char alert[2] = {(unsigned char)level, (unsigned char)description};
	struct queue plain = {0};
	enum record_result result;

	meet(client, suite);
	forger_takes_over();
	forged(SSL3_RT_APPLICATION_DATA, "before", 6);
	forged(SSL3_RT_ALERT, alert, 2);
	forged(SSL3_RT_APPLICATION_DATA, "after", 5);
	result = records_open(&plain, SIZE_MAX);
	*kept = plain.bytes;
	queue_clear(&plain, &bufs);
	cr_assert_eq(us.out.bytes, 0, "no answer to an alert");
	cr_assert_not(us.tls.alert_sent);
	cr_assert_eq(us.tls.alert_received, result == RECORD_FAILED);
	part();
	return result;
}

Test(inplace, alerts)
{
	size_t kept;

	for (int client = 0; client < 2; client++) {
		cr_assert_eq(alerted(v13, client, 1, SSL_AD_CLOSE_NOTIFY, &kept), RECORD_CLOSED);
		cr_assert_eq(kept, 6, "what comes behind the end is no part of the stream");
		cr_assert_eq(alerted(v12, client, 1, SSL_AD_CLOSE_NOTIFY, &kept), RECORD_CLOSED);
		cr_assert_eq(kept, 6);
		cr_assert_eq(alerted(v13, client, 2, SSL_AD_HANDSHAKE_FAILURE, &kept), RECORD_FAILED);
		cr_assert_eq(kept, 6);
		cr_assert(strstr(said, "SSL_read: alert handshake failure: client 0.0.0.0:0"), "%s", said);
		cr_assert_eq(alerted(v12, client, 2, SSL_AD_INTERNAL_ERROR, &kept), RECORD_FAILED);
		/* RFC 8446 6: the level says nothing, and there is one alert only that is no end */
		cr_assert_eq(alerted(v13, client, 2, SSL_AD_CLOSE_NOTIFY, &kept), RECORD_CLOSED);
		cr_assert_eq(alerted(v13, client, 1, SSL_AD_HANDSHAKE_FAILURE, &kept), RECORD_FAILED);
		cr_assert_eq(alerted(v13, client, 0, SSL_AD_HANDSHAKE_FAILURE, &kept), RECORD_FAILED);
		cr_assert_eq(alerted(v13, client, 1, SSL_AD_USER_CANCELLED, &kept), RECORD_OK);
		cr_assert_eq(kept, 11);
		cr_assert_eq(alerted(v13, client, 2, SSL_AD_USER_CANCELLED, &kept), RECORD_OK);
		cr_assert_eq(kept, 11);
		/* RFC 5246 7.2: warnings are no end */
		cr_assert_eq(alerted(v12, client, 1, SSL_AD_USER_CANCELLED, &kept), RECORD_OK);
		cr_assert_eq(kept, 11);
		cr_assert_eq(alerted(v12, client, 1, SSL_AD_NO_RENEGOTIATION, &kept), RECORD_OK);
		cr_assert_eq(alerted(v12, client, 1, 255, &kept), RECORD_OK);
	}
}

/* Why we hang up stands in the log. */
Test(inplace, failures_are_logged)
{
	meet(false, v13);
	forger_takes_over();
	forged(24, "x", 1);
	we_refuse(SSL_AD_UNEXPECTED_MESSAGE);
	part();
	cr_assert(strstr(said, "SSL_read: unexpected record type: client 0.0.0.0:0"), "%s", said);
}

/* --- too much of nothing ------------------------------------------------------------------------------------------------------------- */

enum { FLOOD = 1000 };

/* How many such records in a row we put up with before we hang up. */
static int endured(const struct suite *suite, bool client, int type, const void *content, size_t n, size_t padding)
{
	struct queue plain = {0};
	int i;

	meet(client, suite);
	forger_takes_over();
	for (i = 0; i < FLOOD; i++) {
		forged_padded(type, content, n, padding);
		if (type == SSL3_RT_HANDSHAKE && *(const char *)content == SSL3_MT_KEY_UPDATE)
			cr_assert(forger_update(&peer.forger, &peer.forger.tx));
		if (records_open(&plain, SIZE_MAX) != RECORD_OK)
			break;
	}
	cr_assert_eq(plain.bytes, 0);
	cr_assert(i == FLOOD || us.tls.alert_sent);
	queue_clear(&plain, &bufs);
	part();
	return i;
}

Test(inplace, floods)
{
	for (int client = 0; client < 2; client++) {
		cr_assert_leq(endured(v13, client, SSL3_RT_APPLICATION_DATA, "", 0, 0), 200);
		cr_assert_leq(endured(v13, client, SSL3_RT_APPLICATION_DATA, "", 0, 1000), 200);
		cr_assert_leq(endured(v12, client, SSL3_RT_APPLICATION_DATA, "", 0, 0), 200);
		cr_assert_leq(endured(v13, client, SSL3_RT_HANDSHAKE, "\x18\0\0\1\1", 5, 0), 200);
		cr_assert_leq(endured(v13, client, SSL3_RT_ALERT, "\1\x5a", 2, 0), 200);
		cr_assert_leq(endured(v12, client, SSL3_RT_ALERT, "\1\x64", 2, 0), 200);
	}
	cr_assert_leq(endured(v13, true, SSL3_RT_HANDSHAKE, "\4\0\0\4abcd", 8, 0), 200);
	cr_assert_leq(endured(v12, false, SSL3_RT_HANDSHAKE, "\1\0\0\2ab", 6, 0), 200);
}

/* Some records without data do no harm, however many they are over the time. */
Test(inplace, empty_records_now_and_then)
{
	meet(false, v12);
	forger_takes_over();
	for (int i = 0; i < FLOOD; i++) {
		forged(SSL3_RT_APPLICATION_DATA, "", 0);
		forged(SSL3_RT_APPLICATION_DATA, "", 0);
		forged(SSL3_RT_APPLICATION_DATA, "x", 1);
		we_hear("x", 1);
	}
	part();
}

/* --- another handshake in TLS 1.2 ---------------------------------------------------------------------------------------------------- */

/* renegotiation = yes, but OpenSSL's option is not set: refused by a warning, and the connection goes on (RFC 5246 7.2.2). */
Test(inplace, renegotiation_refused)
{
	meet(false, v12);
	forger_takes_over();
	forged(SSL3_RT_HANDSHAKE, "\1\0\0\2ab", 6);
	forged(SSL3_RT_APPLICATION_DATA, "and on", 6);
	we_hear("and on", 6);
	we_sent_alert(SSL3_AL_WARNING, SSL_AD_NO_RENEGOTIATION);
	cr_assert_not(us.tls.alert_sent || us.tls.renegotiating);
	part();
}

static void renegotiation_aborted(bool client, const char *message)
{
	struct queue plain = {0};

	meet_tweaked(client, v12, "renegotiation = no", NULL);
	forger_takes_over();
	forged(SSL3_RT_HANDSHAKE, message, 4);
	cr_assert_eq(records_open(&plain, SIZE_MAX), RECORD_FAILED);
	cr_assert(us.tls.renegotiating);
	queue_clear(&plain, &bufs);
	part();
	cr_assert(strstr(said, "Aborting due to renegotiation request"), "%s", said);
}

Test(inplace, renegotiation_no)
{
	renegotiation_aborted(false, "\1\0\0\0");
	renegotiation_aborted(true, "\0\0\0\0");
	refused_record(v12, SSL3_RT_HANDSHAKE, "\3\0\0\0", 4, SSL_AD_UNEXPECTED_MESSAGE);
}

/* A real peer that asks for another handshake hears of the refusal. */
Test(inplace, renegotiation_of_a_real_client)
{
	meet(false, v12);
	promote();
	exchange(100);
	cr_assert_eq(SSL_renegotiate(peer.ssl), 1);
	cr_assert_eq(SSL_do_handshake(peer.ssl), -1);
	everything_from_peer();
	we_hear("", 0);
	to_peer();
	cr_assert_eq(SSL_do_handshake(peer.ssl), -1);
	cr_assert_eq(SSL_get_error(peer.ssl, -1), SSL_ERROR_SSL, "OpenSSL takes the warning for an end");
	part();
}

/* --- what fails ---------------------------------------------------------------------------------------------------------------------- */

#ifdef RING_FAULTS
static bool engine_failed; /* rather than the test's own part of the work */

static bool engine(enum record_result result)
{
	engine_failed |= result != RECORD_OK;
	return result == RECORD_OK;
}

static bool we_get(int type, const void *content, size_t n, struct queue *plain)
{
	size_t len = forge(&peer.forger, wire, type, content, n, 0);

	return queue_write(&us.in, &bufs, wire, len) == 0 && engine(records_open(plain, SIZE_MAX));
}

/* One exchange in which any chunk may be refused: true when none was. */
static bool survives(void)
{
	struct queue plain = {0};
	bool ok;

	engine_failed = false;
	ok = queue_write(&plain, &bufs, data, 40000) == 0 && engine(us.tls.record.engine->seal(&us.tls.record, &plain));
	queue_clear(&plain, &bufs);
	for (int i = 0; i < 3; i++)
		ok = ok && we_get(SSL3_RT_APPLICATION_DATA, data, RECORD, &plain);
	ok = ok && we_get(SSL3_RT_HANDSHAKE, "\x18\0\0\1\1", 5, &plain);
	ok = ok && engine(records_close());
	queue_clear(&plain, &bufs);
	return ok;
}

Test(inplace, no_memory_for_chunks)
{
	unsigned long nth, failures = 0;
	bool survived = false;

	for (nth = 1; !survived && nth < 1000; nth++) {
		meet(false, v13);
		forger_takes_over();
		queue_clear(&us.out, &bufs);
		chunk_fail_nth(nth, 1);
		survived = survives();
		chunk_fail_nth(0, 0);
		part();
		cr_assert(!engine_failed || strstr(said, "no memory"), "not a word about it: %s", said);
		failures += engine_failed;
	}
	cr_assert(survived);
	cr_assert_gt(failures, 3);
}
#endif

/* Memory that OpenSSL asks for fails from the nth request on; the connection stays as it was or is handed over, nothing between. */
static long requests_left = -1;

static void *failing_malloc(size_t n, const char *file, int line)
{
	(void)file, (void)line;
	if (requests_left == 0)
		return NULL;
	if (requests_left > 0)
		requests_left--;
	return malloc(n);
}

static void *failing_realloc(void *p, size_t n, const char *file, int line)
{
	(void)file, (void)line;
	if (requests_left == 0)
		return NULL;
	if (requests_left > 0)
		requests_left--;
	return realloc(p, n);
}

static void plain_free(void *p, const char *file, int line)
{
	(void)file, (void)line;
	free(p);
}

/* Before anything else is asked of OpenSSL. */
__attribute__((constructor)) static void watch_memory(void)
{
	CRYPTO_set_mem_functions(failing_malloc, failing_realloc, plain_free);
}

Test(inplace, no_memory_for_the_hand_over)
{
	for (int i = 0; i < SUITES; i += 3) {
		enum tls_promotion promotion = TLS_STAYS;
		long n;

		for (n = 0; promotion != TLS_PROMOTED && n < 10000; n++) {
			meet(i % 2, &suites[i]);
			exchange(10);
			requests_left = n;
			promotion = tls_promote(&us.tls, false);
			requests_left = -1;
			cr_assert(promotion == TLS_PROMOTED || promotion == TLS_STAYS);
			cr_assert_eq(promotion == TLS_STAYS, us.tls.ssl != NULL);
			exchange(1000);
			bye();
			part();
		}
		cr_assert(n > 5 && n < 10000, "%ld", n);
	}
}

/* New keys for which there is no memory: an end, not a crash. */
Test(inplace, no_memory_for_new_keys)
{
	enum record_result result = RECORD_FAILED;
	long n;

	for (n = 0; result != RECORD_OK && n < 10000; n++) {
		struct queue plain = {0};

		meet(false, &suites[n % 3]);
		forger_takes_over();
		forged(SSL3_RT_HANDSHAKE, "\x18\0\0\1\1", 5);
		requests_left = n;
		result = records_open(&plain, SIZE_MAX);
		requests_left = -1;
		cr_assert(result == RECORD_OK || result == RECORD_FAILED);
		queue_clear(&plain, &bufs);
		part();
		cr_assert(result == RECORD_OK || strstr(said, "no keys") || strstr(said, "no memory"), "%s", said);
	}
	cr_assert(n > 5 && n < 10000, "%ld", n);
}
