/*
 * Fuzz target: the record engine `inplace` behind the MAC. The input is a list of things that a peer does: genuine records of any type and
 * content, KeyUpdates, raw bytes; and of things that we do. What comes out must be what the peer has sent, and our records must open.
 * libFuzzer (`make fuzz`), or replays the corpus with `make test`.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "meeting.h"
#include "record_keyed.h"
#include "tls.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { SUITES = 6, CONTENT_MAX = 17000, WORK_MAX = 1 << 20 };

static const char *const suites[SUITES] = {
	"TLS_AES_128_GCM_SHA256",        "TLS_AES_256_GCM_SHA384",        "TLS_CHACHA20_POLY1305_SHA256",
	"ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305",
};

static struct meeting meetings[SUITES][2];

/* The run of one input. */
static struct run {
	const uint8_t *data;
	size_t size;
	struct section section;
	struct tls tls;
	struct queue in, out, plain;
	struct forger forger;
	unsigned char *said; /* application data of the peer's genuine records */
	size_t said_len, heard;
	size_t piece, limit, work;
	bool bad;  /* the peer has done something wrong, or may have */
	bool over; /* the engine has said so */
} run;

static struct bufs bufs;
static unsigned char content[CONTENT_MAX], wire[FORGED_MAX];

/* --- the connections ---------------------------------------------------------------------------------------------------------------- */

static void meet_all(void)
{
	for (int i = 0; i < SUITES; i++)
		for (int client = 0; client < 2; client++)
			meet(&meetings[i][client], suites[i], i < 3, client);
}

/* --- what is checked ---------------------------------------------------------------------------------------------------------------- */

/* What comes out is what went in, as far as it has come. */
static void check_heard(void)
{
	unsigned char some[4096];
	size_t n;

	while ((n = queue_read(&run.plain, &bufs, some, sizeof(some)))) {
		if (n > run.said_len - run.heard || memcmp(some, run.said + run.heard, n) != 0)
			abort();
		run.heard += n;
	}
}

/* Every record of ours opens. */
static void check_sent(void)
{
	unsigned char *text;
	size_t n;
	int type;

	while (run.out.bytes > 0) {
		size_t body;

		if (queue_read(&run.out, &bufs, wire, 5) != 5)
			abort();
		body = (size_t)wire[3] << 8 | wire[4];
		if (queue_read(&run.out, &bufs, wire + 5, body) != body ||
		    !forger_open(&run.forger, wire, 5 + body, &type, &text, &n))
			abort();
		if (type == SSL3_RT_HANDSHAKE &&
		    (n != 5 || text[0] != SSL3_MT_KEY_UPDATE || !forger_update(&run.forger, &run.forger.rx)))
			abort();
		if (type == SSL3_RT_ALERT && n != 2)
			abort();
	}
}

static void open_records(void)
{
	enum record_result result = RECORD_MORE;

	while (result == RECORD_MORE && !run.over) {
		result = record_keyed.open(&run.tls.record, &run.plain, run.limit);
		check_heard();
		run.over = result == RECORD_FAILED || result == RECORD_CLOSED;
	}
	if (run.over && !run.bad)
		abort();
	check_sent();
}

/* Bytes come in, in pieces. */
static void arrive(const unsigned char *bytes, size_t n)
{
	for (size_t at = 0, here; at < n && !run.over; at += here) {
		struct chunk *c = chunk_get(&bufs, CHUNK_SMALL);

		here = n - at < run.piece ? n - at : run.piece;
		memcpy(c->data, bytes + at, here);
		c->end = (uint32_t)here;
		queue_append(&run.in, c);
		if (run.in.bytes < 5 + 16 || at + here == n || here > 100)
			open_records();
	}
	if (!run.bad && run.heard != run.said_len)
		abort();
}

/* --- what happens ------------------------------------------------------------------------------------------------------------------- */

static unsigned take8(void)
{
	if (run.size == 0)
		return 0;
	run.size--;
	return *run.data++;
}

static unsigned take16(void)
{
	unsigned high = take8();

	return high << 8 | take8();
}

/* Content from the input, repeated when there is more asked for than is left. */
static size_t take_content(size_t n)
{
	size_t have = run.size < n ? run.size : n;

	if (n > CONTENT_MAX)
		n = CONTENT_MAX;
	if (have > n)
		have = n;
	memcpy(content, run.data, have);
	run.data += have;
	run.size -= have;
	for (size_t i = have; i < n; i++)
		content[i] = have ? content[i - have] : (unsigned char)i;
	return n;
}

static void record(int type, size_t n, size_t padding)
{
	size_t room = CONTENT_MAX - n, len;

	len = forge(&run.forger, wire, type, content, n, padding < room ? padding : room);
	if (len == 0)
		abort();
	if (!run.forger.tls13 && run.forger.outer)
		type = run.forger.outer; /* there it is the type */
	if (type == SSL3_RT_APPLICATION_DATA && run.said_len + n <= WORK_MAX) {
		memcpy(run.said + run.said_len, content, n);
		run.said_len += n;
	}
	arrive(wire, len);
}

static void say_data(void)
{
	size_t n = take_content(take16());

	run.bad |= n > 16384 || n == 0; /* too many empty ones are refused */
	record(SSL3_RT_APPLICATION_DATA, n, 0);
}

static void say_padded(void)
{
	size_t padding = take16(), n = take_content(take8());

	run.bad |= n == 0 || n + padding > 16384;
	record(SSL3_RT_APPLICATION_DATA, n, padding);
}

static void say_anything(void)
{
	int type = (int)take8();
	size_t n = take_content(take8());

	run.bad = true;
	record(type, n, 0);
}

/* As a whole or in pieces, of which the last may have more than its due. */
static void say_key_update(void)
{
	unsigned how = take8();
	unsigned char update[6] = {SSL3_MT_KEY_UPDATE, 0, 0, 1, how & 1, 0};
	size_t first = how >> 1 & 7;

	run.bad = true; /* in TLS 1.2, or too many of them */
	if (first > 0 && first < 5) {
		memcpy(content, update, first);
		record(SSL3_RT_HANDSHAKE, first, 0);
		memcpy(content, update + first, 5 - first);
		record(SSL3_RT_HANDSHAKE, 5 - first, 0);
	} else {
		memcpy(content, update, 6);
		record(SSL3_RT_HANDSHAKE, first == 7 ? 6 : 5, 0);
	}
	if (run.forger.tls13 && !forger_update(&run.forger, &run.forger.tx))
		abort();
}

static void say_raw(void)
{
	size_t n = take_content(take8());

	run.bad = true;
	memcpy(wire, content, n);
	arrive(wire, n);
}

static void say_outer(void)
{
	run.forger.outer = (int)take8();
	run.forger.version = (int)take8();
	run.bad = true;
}

static void we_seal(void)
{
	size_t n = take16();
	struct queue plain = {0};

	for (size_t at = 0, here; at < n; at += here) {
		here = n - at < sizeof(content) ? n - at : sizeof(content);
		if (queue_write(&plain, &bufs, content, here) < 0)
			abort();
	}
	if (record_keyed.seal(&run.tls.record, &plain) != RECORD_OK)
		abort();
	queue_clear(&plain, &bufs);
	check_sent();
}

static void we_close(void)
{
	if (record_keyed.close(&run.tls.record) != RECORD_OK)
		abort();
	check_sent();
}

static void set_pieces(void)
{
	run.piece = 1 + take16() % 4000;
	run.limit = 1 + take16();
}

static void (*const events[])(void) = {say_data,  say_padded, say_anything, say_key_update, say_raw,
                                       say_outer, we_seal,    we_close,     set_pieces};

static void run_begin(const uint8_t *data, size_t size)
{
	unsigned which;
	struct meeting *m;

	run = (struct run){.data = data, .size = size, .piece = 4000, .limit = SIZE_MAX, .said = run.said};
	which = take8();
	m = &meetings[which % SUITES][which / SUITES % 2];
	run.forger = m->forger;
	run.section.client = which / SUITES % 2;
	run.section.renegotiation = which & 128;
	run.section.debug = -1;
	run.tls.section = &run.section;
	run.tls.record = (struct record){.engine = &record_keyed, .bufs = &bufs, .in = &run.in, .out = &run.out};
	run.tls.keyed = keyed_new(m->ours, &m->our_traffic, run.section.client);
	keyed_records_per_key = which & 64 ? 5 : 1 << 22;
	if (!run.tls.keyed)
		abort();
}

static void run_end(void)
{
	keyed_free(run.tls.keyed);
	queue_clear(&run.in, &bufs);
	queue_clear(&run.out, &bufs);
	queue_clear(&run.plain, &bufs);
	if (bufs.lent[CHUNK_SMALL] || bufs.lent[CHUNK_BIG])
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!run.said) {
		run.said = malloc(WORK_MAX);
		meet_all();
	}
	run_begin(data, size);
	while (run.size > 0 && !run.over && run.work < WORK_MAX) {
		unsigned event = take8() % (sizeof(events) / sizeof(*events));

		run.work += 5000;
		events[event]();
	}
	run_end();
	return 0;
}
