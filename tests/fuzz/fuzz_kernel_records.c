/*
 * Fuzz target: records by the kernel, with a kernel of our own. The input is a list of what comes from it (data, records of any type and content,
 * errors), of what it refuses, of what we do and when it is sent. What comes out is what came in, our records open, and both sides' keys agree.
 * libFuzzer (`make fuzz`), or replays the corpus with `make test`.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../unit/ktls_fake.h"
#include "meeting.h"
#include "record_keyed.h"
#include "tls.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { SUITES = 8, FD = 4711, CONTENT_MAX = 17000, WORK_MAX = 1 << 20 };

static const char *const suites[SUITES] = {
	"TLS_AES_128_GCM_SHA256",        "TLS_AES_256_GCM_SHA384",        "TLS_CHACHA20_POLY1305_SHA256",
	"TLS_AES_128_CCM_SHA256",        "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384",
	"ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-ECDSA-AES128-CCM",
};

static struct meeting meetings[SUITES][2];

/* The run of one input. */
static struct run {
	const uint8_t *data;
	size_t size;
	struct section section;
	struct tls tls;
	struct keyed *keyed;
	struct queue in, out, plain;
	struct forger peer;  /* its tx: what we receive, its rx: what we send */
	unsigned char *said; /* application data of the peer */
	size_t said_len, heard, sealed, arrived;
	size_t piece, limit, work;
	bool bad;  /* something has happened that may end the connection */
	bool over; /* it has ended */
} run;

static struct bufs bufs;
static unsigned char content[CONTENT_MAX], wire[FORGED_MAX];

#define must(holds) ((holds) ? (void)0 : abort())

/* --- what is checked ---------------------------------------------------------------------------------------------------------------- */

/* What comes out is what went in, as far as it has come. */
static void check_heard(void)
{
	unsigned char some[4096];
	size_t n;

	while ((n = queue_read(&run.plain, &bufs, some, sizeof(some)))) {
		must(n <= run.said_len - run.heard && memcmp(some, run.said + run.heard, n) == 0);
		run.heard += n;
	}
}

/* Our keys for receiving are those that the peer has come to by as many updates. */
static void check_received_keys(void)
{
	for (int updates = 0; memcmp(run.keyed->rx.secret, run.peer.tx.secret, run.keyed->secret_len) != 0; updates++)
		must(updates < 200 && run.keyed->tls13 && forger_update(&run.peer, &run.peer.tx));
	if (run.keyed->rx.kind == &half_kernel && !run.over)
		must(memcmp(&fake.records.rx.keys, &run.peer.tx.keys, sizeof(struct tls_keys)) == 0);
}

/* Of our KeyUpdates at most one waits to be sent, and nothing but records of ours has content. */
static void check_queued(void)
{
	size_t updates = 0;

	must(run.keyed->tx.kind == &half_kernel || !run.keyed->tx.changing);
	for (const struct chunk *c = run.out.head; c; c = c->next) {
		must(!c->content || run.keyed->tx.kind == &half_kernel);
		must(c->content != SSL3_RT_ALERT || c->end - c->start == 2);
		updates += c->content == SSL3_RT_HANDSHAKE;
	}
	must(updates == (run.keyed->tx.changing ? 1 : 0) || run.over);
}

/* The peer opens a record of ours. */
static void peer_takes(unsigned char *record, size_t len)
{
	unsigned char *text = NULL;
	size_t n = 0;
	int type = 0;

	must(forger_open(&run.peer, record, len, &type, &text, &n) == len);
	switch (type) {
	case SSL3_RT_APPLICATION_DATA: run.arrived += n; break;
	case SSL3_RT_ALERT: must(n == 2); break;
	case SSL3_RT_HANDSHAKE:
		must(n == 5 && memcmp(text, "\x18\0\0\1\0", 5) == 0);
		must(forger_update(&run.peer, &run.peer.rx));
		break;
	default: abort();
	}
}

/* --- sending ------------------------------------------------------------------------------------------------------------------------ */

static void kernel_seals(int type, const unsigned char *bytes, size_t n)
{
	size_t len = forge(&fake.records, wire, type, bytes, n, 0);

	must(len > 0);
	peer_takes(wire, len);
}

static void send_by_kernel(void)
{
	const struct chunk *c = queue_front(&run.out, &bufs);
	unsigned char type = (unsigned char)c->content;
	size_t n = c->end - c->start, installs = fake.installs[KTLS_SEND];

	if (type)
		kernel_seals(type, c->data + c->start, n);
	for (size_t at = 0, here; !type && at < n; at += here) {
		here = n - at < PLAIN_MAX ? n - at : PLAIN_MAX;
		kernel_seals(SSL3_RT_APPLICATION_DATA, c->data + c->start + at, here);
	}
	must(run.keyed->tx.changing || fake.records.tx.sequence <= run.keyed->tx.sequence);
	queue_consume(&run.out, &bufs, n);
	if (!type)
		return;
	if (!kernel_written(&run.tls.record, run.keyed, type)) {
		must(run.bad);
		run.over = true;
	} else if (type == SSL3_RT_HANDSHAKE) {
		must(fake.installs[KTLS_SEND] == installs + 1 && fake.sequence[KTLS_SEND] == 0);
		must(memcmp(&fake.records.tx.keys, &run.peer.rx.keys, sizeof(struct tls_keys)) == 0);
	}
}

static void send_in_place(void)
{
	size_t body;

	must(queue_read(&run.out, &bufs, wire, 5) == 5);
	body = (size_t)wire[3] << 8 | wire[4];
	must(queue_read(&run.out, &bufs, wire + 5, body) == body);
	peer_takes(wire, 5 + body);
}

static void send_some(size_t n)
{
	for (; n > 0 && !run.over && queue_front(&run.out, &bufs); n--) {
		if (run.keyed->tx.kind == &half_kernel)
			send_by_kernel();
		else
			send_in_place();
	}
}

/* --- receiving ---------------------------------------------------------------------------------------------------------------------- */

static void open_records(size_t limit)
{
	enum record_result result = record_keyed.open(&run.tls.record, &run.plain, limit);

	must(run.plain.bytes < limit || result == RECORD_MORE || run.plain.bytes - limit < CHUNK_BIG_ROOM);
	run.over |= result == RECORD_FAILED || result == RECORD_CLOSED;
	must(!run.over || run.bad);
	check_heard();
	check_received_keys();
	check_queued();
}

/* From the kernel in pieces, or over the wire in a record. */
static void arrive(int type, size_t n)
{
	if (type == SSL3_RT_APPLICATION_DATA && run.said_len + n <= WORK_MAX) {
		memcpy(run.said + run.said_len, content, n);
		run.said_len += n;
	}
	if (run.keyed->rx.kind == &half_inplace) {
		size_t len = forge(&run.peer, wire, type, content, n, 0);

		must(len > 0 && queue_write(&run.in, &bufs, wire, len) == 0);
		open_records(SIZE_MAX); /* the next may come under other keys */
		return;
	}
	for (size_t at = 0, here; at < n; at += here) {
		here = n - at < run.piece ? n - at : run.piece;
		must(queue_write_record(&run.in, &bufs, (unsigned char)(type == SSL3_RT_APPLICATION_DATA ? 0 : type),
		                        content + at, here));
	}
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

	memcpy(content, run.data, have);
	run.data += have;
	run.size -= have;
	for (size_t i = have; i < n; i++)
		content[i] = have ? content[i - have] : (unsigned char)i;
	return n;
}

static void say_data(void)
{
	arrive(SSL3_RT_APPLICATION_DATA, take_content(1 + take16() % 16384));
}

static void say_anything(void)
{
	int type = (int)take8();
	size_t n = take_content(take8());

	run.bad = true;
	if (n > 0 && type != 0)
		arrive(type, n);
}

static void say_key_update(void)
{
	static const unsigned char update[5] = {SSL3_MT_KEY_UPDATE, 0, 0, 1, 0};
	unsigned how = take8();
	size_t first = how >> 1 & 7;

	run.bad = true; /* in TLS 1.2, without a kernel that can, or too many of them */
	first = first > 0 && first < 5 ? first : 5;
	memcpy(content, update, 5);
	content[4] = how & 1;
	arrive(SSL3_RT_HANDSHAKE, first);
	memcpy(content, update + first, 5 - first);
	if (first < 5) {
		content[4 - first] = how & 1;
		arrive(SSL3_RT_HANDSHAKE, 5 - first);
	}
}

/* Whatever a read may say. */
static void read_fails(void)
{
	static const int errors[] = {EKEYEXPIRED, EBADMSG, EMSGSIZE, EINVAL, EPROTO, ECONNRESET, EAGAIN, 0, 4095};
	int error = errors[take8() % (sizeof(errors) / sizeof(*errors))];
	enum record_result result;
	bool own = false;

	run.bad = true;
	result = kernel_read_failed(&run.tls.record, run.keyed, -error, &own);
	must(result == RECORD_OK || (result == RECORD_FAILED && own));
	must(!own || run.keyed->rx.kind == &half_kernel);
	run.over |= result == RECORD_FAILED;
	check_queued();
}

static void we_open(void)
{
	open_records(run.limit);
}

static void we_seal(void)
{
	size_t n = take16();
	struct queue plain = {0};

	must(queue_write(&plain, &bufs, run.said, n) == 0);
	if (record_keyed.seal(&run.tls.record, &plain) == RECORD_OK) {
		must(plain.bytes == 0);
		run.sealed += n;
	} else {
		must(run.keyed->tls13 && run.keyed->tx.kind == &half_kernel && !fake.support.rekey);
		run.over = true;
	}
	queue_clear(&plain, &bufs);
	check_queued();
}

/* Bulk goes past the queue, which is empty then. */
static void we_splice(void)
{
	size_t n = 1 + take16();

	send_some(SIZE_MAX);
	if (run.over || run.keyed->tx.kind != &half_kernel)
		return;
	for (size_t at = 0, here; at < n; at += here) {
		here = n - at < PLAIN_MAX ? n - at : PLAIN_MAX;
		kernel_seals(SSL3_RT_APPLICATION_DATA, run.said, here);
	}
	run.sealed += n;
	if (kernel_count(&run.tls.record, run.keyed, n) != RECORD_OK) {
		must(run.keyed->tls13 && !fake.support.rekey);
		run.over = true;
	}
	must(run.over || run.keyed->tx.changing || fake.records.tx.sequence <= run.keyed->tx.sequence);
	check_queued();
}

static void we_close(void)
{
	must(record_keyed.close(&run.tls.record) == RECORD_OK);
	check_queued();
}

static void we_send(void)
{
	send_some(1 + take8() % 8);
}

static void kernel_fails(void)
{
	run.bad = true;
	fake.fail_in = 1 + take8() % 8;
	fake.fail_with = -EBUSY;
}

/* At a record boundary: nothing waits to be sent, or to be opened. */
static void offload(enum ktls_direction direction)
{
	struct half *half = direction == KTLS_SEND ? &run.keyed->tx : &run.keyed->rx;
	uint64_t number = half->sequence;

	if (direction == KTLS_SEND)
		send_some(SIZE_MAX);
	if (run.over || half->kind == &half_kernel || (direction == KTLS_RECEIVE && run.in.bytes > 0))
		return;
	must(direction == KTLS_SEND || inplace_missing(&run.in) == 0);
	if (kernel_take(run.keyed, half, FD) != 0) {
		must(half->kind == &half_inplace);
		return;
	}
	must(half->kind == &half_kernel && fake.sequence[direction] == number);
	check_received_keys();
}

static void we_offload(void)
{
	offload(take8() % 2 ? KTLS_SEND : KTLS_RECEIVE);
}

static void set_pieces(void)
{
	run.piece = 1 + take16() % 4000;
	run.limit = 1 + take16();
}

static void (*const events[])(void) = {say_data,  say_anything, say_key_update, read_fails,   we_open,    we_seal,
                                       we_splice, we_close,     we_send,        kernel_fails, we_offload, set_pieces};

static void run_begin(const uint8_t *data, size_t size)
{
	unsigned which, how;
	struct meeting *m;

	run = (struct run){.data = data, .size = size, .piece = 4000, .limit = SIZE_MAX, .said = run.said};
	which = take8();
	how = take8();
	m = &meetings[which % SUITES][which / SUITES % 2];
	run.peer = m->forger;
	run.section.client = which / SUITES % 2;
	run.section.renegotiation = how & 16;
	run.section.debug = -1;
	run.tls.section = &run.section;
	run.tls.record = (struct record){.engine = &record_keyed, .bufs = &bufs, .in = &run.in, .out = &run.out};
	run.tls.keyed = run.keyed = keyed_new(m->ours, &m->our_traffic, run.section.client);
	must(run.keyed != NULL);
	keyed_records_per_key = how & 8 ? 5 : 0;
	fake_reset();
	fake.support.rekey = !(how & 4);
	if (how & 1)
		offload(KTLS_SEND);
	if (how & 2)
		offload(KTLS_RECEIVE);
}

static void run_end(void)
{
	if (!run.over)
		open_records(SIZE_MAX);
	must(run.over || run.said_len == run.heard);
	send_some(SIZE_MAX);
	must(run.over || run.arrived == run.sealed);
	keyed_free(run.keyed);
	queue_clear(&run.in, &bufs);
	queue_clear(&run.out, &bufs);
	queue_clear(&run.plain, &bufs);
	must(bufs.lent[CHUNK_SMALL] == 0 && bufs.lent[CHUNK_BIG] == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!run.said) {
		run.said = calloc(1, WORK_MAX);
		for (int i = 0; i < SUITES; i++)
			for (int client = 0; client < 2; client++)
				meet(&meetings[i][client], suites[i], i < 4, client);
	}
	run_begin(data, size);
	while (run.size > 0 && !run.over && run.work < WORK_MAX) {
		unsigned event = take8() % (sizeof(events) / sizeof(*events));

		run.work += 17000;
		events[event]();
	}
	run_end();
	return 0;
}
