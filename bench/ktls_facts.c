/*
 * What a socket with kernel TLS does in the cases that the proxy is built around; one line each, to compare kernels with.
 * A program of its own, without arguments. kernel-notes/ktls.md, rekey.md and splice.md say what follows from each line;
 * bench/ktls_uring_facts.c is the same for io_uring.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "facts.h"
#include "ktls_link.h"

#include <signal.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <sys/wait.h>

static char zeros[1 << 20], room[1 << 20];
static struct link l;

/* --- steps: each is carried out and told --- */

static void plain_recv(void)
{
	long n = recv(l.near, room, sizeof(room), MSG_DONTWAIT);

	told("recv", outcome(n < 0 ? -errno : n));
}

/* recvmsg with room for the record type: "5 type 22". */
static void take_n(size_t n)
{
	unsigned char type = 0;
	char text[48];
	long got = ktls_read(l.near, room, n, &type);

	snprintf(text, sizeof(text), "%ld type %d", got, type);
	told("recvmsg", got < 0 ? outcome(got) : text);
}

static void take(void)
{
	take_n(sizeof(room));
}

static void readable(void)
{
	struct pollfd q = {.fd = l.near, .events = POLLIN | POLLRDHUP};
	char text[32];

	check(poll(&q, 1, 0) >= 0, "poll");
	snprintf(text, sizeof(text), "%s%s%s%s", q.revents & POLLIN ? "IN" : "", q.revents & POLLRDHUP ? "+RDHUP" : "",
	         q.revents & POLLERR ? "+ERR" : "", q.revents & POLLHUP ? "+HUP" : "");
	told("poll", q.revents ? text : "nothing");
}

static void writable(void)
{
	struct pollfd q = {.fd = l.near, .events = POLLOUT};

	told("poll", poll(&q, 1, 0) == 1 && (q.revents & POLLOUT) ? "OUT" : "nothing");
}

static void send_n(size_t n, int flags)
{
	long sent = send(l.near, zeros, n, MSG_NOSIGNAL | MSG_DONTWAIT | flags);

	told("send", outcome(sent < 0 ? -errno : sent));
}

static void alert(void)
{
	told("alert", outcome(ktls_write_record(l.near, ALERT, close_notify, 2)));
}

static void so_error(void)
{
	int error = 0;
	socklen_t len = sizeof(error);

	getsockopt(l.near, SOL_SOCKET, SO_ERROR, &error, &len);
	told("SO_ERROR", outcome(-error));
}

static void give_key(enum ktls_direction direction, int which)
{
	told(direction == KTLS_SEND ? "TLS_TX" : "TLS_RX", outcome(install(&l, direction, which)));
}

static void splice_out(int pipe_in)
{
	long n = splice(l.near, NULL, pipe_in, NULL, 65536, SPLICE_F_NONBLOCK);

	told("splice", outcome(n < 0 ? -errno : n));
}

static void wait_a_little(void)
{
	usleep(5000);
}

/* The lengths of the records that lie on the wire for the far end, and how many. */
static void wire(void)
{
	static unsigned char raw[1 << 20];
	char text[256];
	struct pollfd p = {.fd = l.far, .events = POLLIN};
	size_t n = 0, records = 0, at = 0, used = 0;

	while (poll(&p, 1, 50) == 1) {
		ssize_t got = recv(l.far, raw + n, sizeof(raw) - n, MSG_DONTWAIT);

		if (got <= 0)
			break;
		n += (size_t)got;
	}
	text[0] = 0;
	for (; at + 5 <= n; at += 5 + (size_t)(raw[at + 3] << 8 | raw[at + 4]))
		if (records++ < 8)
			used += (size_t)snprintf(text + used, sizeof(text) - used, "%d ", raw[at + 3] << 8 | raw[at + 4]);
	snprintf(text + used, sizeof(text) - used, "(%zu)", records);
	told("wire", text);
}

static long drain_far(void)
{
	struct pollfd p = {.fd = l.far, .events = POLLIN};
	long all = 0, got;

	while (poll(&p, 1, 100) == 1 && (got = recv(l.far, room, sizeof(room), MSG_DONTWAIT)) > 0)
		all += got;
	return all;
}

/* --- set-up --- */

static void support(void)
{
	const struct ktls_support *s = ktls_support();
	char text[80];

	for (int cipher = 0; cipher < AEAD_CIPHERS; cipher++) {
		about(ktls_cipher_name((enum aead_cipher)cipher));
		snprintf(text, sizeof(text), "1.2 %d 1.3 %d; receive 1.2 %d 1.3 %d", s->cipher[0][0][cipher],
		         s->cipher[0][1][cipher], s->cipher[1][0][cipher], s->cipher[1][1][cipher]);
		told("send", text);
	}
	about("what ktls_probe() finds");
	told("new keys", outcome(s->rekey));
	told("no_pad", outcome(s->no_pad));
	told("tells of partial records", outcome(s->tells_partial));
}

static void number_of(int name, const char *step)
{
	struct tls12_crypto_info_aes_gcm_128 info = {0};
	socklen_t len = sizeof(info);
	int error = result_of(getsockopt(l.near, SOL_TLS, name, &info, &len));

	told(step, outcome(error ? error : info.rec_seq[7]));
}

static void set_up(void)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	about("socket that is not connected");
	told("TCP_ULP", outcome(ktls_attach(fd)));
	close(fd);
	link_plain(&l, KTLS_13);
	about("connected");
	give_key(KTLS_SEND, KEY_OUT);
	told("TCP_ULP", outcome(ktls_attach(l.near)));
	told("again", outcome(result_of(setsockopt(l.near, IPPROTO_TCP, TCP_ULP, "tls", sizeof("tls")))));
	about("  before the keys");
	send_n(5, 0);
	told("peer gets", outcome(recv(l.far, room, 100, 0)));
	about("a record comes, then");
	send_record(&l, DATA, "early", 5);
	give_key(KTLS_RECEIVE, KEY_IN);
	readable();
	take();
	about("number of the next record");
	give_key(KTLS_SEND, KEY_OUT);
	send_n(1, 0);
	send_n(1, 0);
	send_n(1, 0);
	number_of(TLS_TX, "getsockopt(TLS_TX)");
	number_of(TLS_RX, "getsockopt(TLS_RX)");
	about("close");
	(void)drain_far();
	close(l.near);
	told("peer reads", outcome(recv(l.far, room, 100, MSG_DONTWAIT)));
	close(l.far);
}

/* Keys for one direction only; and keys for sending behind plain bytes that the peer has not read yet. */
static void one_direction(void)
{
	long plain = 0, n, all;

	about("TLS_RX alone: sending is plain");
	link_plain(&l, KTLS_13);
	told("TCP_ULP", outcome(ktls_attach(l.near)));
	give_key(KTLS_RECEIVE, KEY_IN);
	send_n(5, 0);
	told("peer gets", outcome(recv(l.far, room, 100, 0)));
	link_close(&l);
	about("TLS_TX alone: receiving is plain");
	link_plain(&l, KTLS_13);
	told("TCP_ULP", outcome(ktls_attach(l.near)));
	give_key(KTLS_SEND, KEY_OUT);
	check(send(l.far, "plain", 5, 0) == 5, "send");
	wait_a_little();
	take();
	link_close(&l);
	about("TLS_TX behind plain bytes that wait to be sent");
	link_plain(&l, KTLS_13);
	while ((n = send(l.near, zeros, 100000, MSG_DONTWAIT)) > 0)
		plain += n;
	told("TCP_ULP", outcome(ktls_attach(l.near)));
	give_key(KTLS_SEND, KEY_OUT);
	for (all = 0; all < plain; all += n) {
		n = recv(l.far, room, plain - all > (long)sizeof(room) ? sizeof(room) : (size_t)(plain - all), MSG_DONTWAIT);
		check(n > 0 || errno == EAGAIN, "recv");
		n = n > 0 ? n : 0;
	}
	send_n(5, 0);
	told("plain bytes altered", memcmp(room, zeros, sizeof(room)) == 0 ? "no" : "yes");
	wire();
	link_close(&l);
}

static void keys_twice(enum ktls_version version, const char *name)
{
	struct tls_keys k = key(KEY_IN);

	link_open(&l, version);
	about(name);
	give_key(KTLS_SEND, KEY_OUT_NEXT);
	give_key(KTLS_RECEIVE, KEY_IN_NEXT);
	told("TLS_RX, other cipher", outcome(ktls_install(l.near, KTLS_RECEIVE, version, AEAD_CHACHA20_POLY1305, &k, 0)));
	link_close(&l);
}

/* --- receiving --- */

static void control_records(enum ktls_version version, const char *what)
{
	int p[2];

	about(what);
	link_open(&l, version);
	seal(&l, DATA, "hello", 5);
	seal(&l, ALERT, close_notify, 2);
	seal(&l, DATA, "after", 5);
	send_sealed(&l);
	plain_recv();
	plain_recv();
	plain_recv();
	check(pipe(p) == 0, "pipe");
	splice_out(p[1]);
	readable();
	so_error();
	about("  then");
	take_n(1);
	take();
	splice_out(p[1]);
	readable();
	close(p[0]);
	close(p[1]);
	link_close(&l);
}

static void joins(void)
{
	about("3 x 1000 data, 2 handshake, 1 data");
	link_open(&l, KTLS_13);
	for (int i = 0; i < 3; i++)
		seal(&l, DATA, zeros, 1000);
	for (int i = 0; i < 2; i++)
		seal(&l, HANDSHAKE, "\4\0\0\1x", 5);
	seal(&l, DATA, "d", 1);
	send_sealed(&l);
	for (int i = 0; i < 4; i++)
		take();
	about("3 x 1000 data, handshake, with little room");
	for (int i = 0; i < 3; i++)
		seal(&l, DATA, zeros, 1000);
	seal(&l, HANDSHAKE, "\4\0\0\1x", 5);
	send_sealed(&l);
	take_n(500);
	take_n(2000);
	take();
	take();
	link_close(&l);
}

/* Records of the lengths given, ended by -1; then what recvmsg says until there is nothing more. */
static void empties(enum ktls_version version, const char *what, int type, const int *lengths, bool with_alert)
{
	about(what);
	link_open(&l, version);
	for (int i = 0; lengths[i] >= 0; i++)
		seal(&l, type, zeros, (size_t)lengths[i]);
	if (with_alert)
		seal(&l, ALERT, close_notify, 2);
	send_sealed(&l);
	readable();
	for (int i = 0; i < 4; i++)
		take();
	link_close(&l);
}

static void empty_records(void)
{
	empties(KTLS_12, "1.2: an empty data record", DATA, (int[]){0, -1}, false);
	empties(KTLS_13, "1.3: an empty data record", DATA, (int[]){0, -1}, false);
	empties(KTLS_12, "1.2: empty data, alert", DATA, (int[]){0, -1}, true);
	empties(KTLS_13, "1.3: empty data, alert", DATA, (int[]){0, -1}, true);
	empties(KTLS_13, "1.3: data of 0, 3, 0, 3", DATA, (int[]){0, 3, 0, 3, -1}, false);
	empties(KTLS_13, "1.3: data of 3, 0, alert", DATA, (int[]){3, 0, -1}, true);
	empties(KTLS_13, "1.3: an empty handshake record, alert", HANDSHAKE, (int[]){0, -1}, true);
}

static void partial(void)
{
	int left = -1;

	link_open(&l, KTLS_13);
	seal(&l, DATA, zeros, 5000);
	about("3 bytes of a record");
	send_part(&l, 3);
	readable();
	take();
	about("  the header");
	send_part(&l, 2);
	readable();
	take();
	about("  half of it");
	send_part(&l, 3000);
	readable();
	take();
	readable();
	about("  the whole");
	send_sealed(&l);
	readable();
	take_n(100);
	readable();
	check(ioctl(l.near, FIONREAD, &left) == 0, "FIONREAD");
	told("FIONREAD", outcome(left));
	take();
	about("a record and a half");
	seal(&l, DATA, "abc", 3);
	seal(&l, DATA, zeros, 5000);
	send_part(&l, 500);
	take();
	readable();
	take();
	about("  the half and the end of the stream");
	shutdown(l.far, SHUT_WR);
	wait_a_little();
	readable();
	take();
	take();
	link_close(&l);
}

static void endings(void)
{
	struct linger now = {.l_onoff = 1};

	about("data, close_notify, end of the stream");
	link_open(&l, KTLS_13);
	seal(&l, DATA, "abc", 3);
	seal(&l, ALERT, close_notify, 2);
	send_sealed(&l);
	shutdown(l.far, SHUT_WR);
	wait_a_little();
	readable();
	for (int i = 0; i < 4; i++)
		take();
	link_close(&l);
	about("data, then a reset");
	link_open(&l, KTLS_13);
	send_record(&l, DATA, "abc", 3);
	setsockopt(l.far, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	close(l.far);
	wait_a_little();
	readable();
	take();
	take();
	send_n(1, 0);
	close(l.near);
}

static void spoilt(const char *what, size_t at, unsigned char change)
{
	about(what);
	link_open(&l, KTLS_13);
	seal(&l, DATA, zeros, 100);
	l.record[at] ^= change;
	send_sealed(&l);
	readable();
	send_n(1, 0);
	take();
	readable();
	about("  then");
	send_n(1, 0);
	alert();
	so_error();
	send_n(1, 0);
	take();
	readable();
	about("  then");
	so_error();
	send_n(1, 0);
	alert();
	wire();
	link_close(&l);
}

static void spoilt_records(void)
{
	spoilt("a wrong tag", 40, 1);
	spoilt("version 3.1 on the wire", 2, 3 ^ 1);
	spoilt("32 KiB too long", 3, 0x80);
	spoilt("type 255 on the wire", 0, 255 ^ 23);
	spoilt("ChangeCipherSpec on the wire", 0, 20 ^ 23);
	about("bytes that are not TLS");
	link_open(&l, KTLS_13);
	check(send(l.far, "GET / HTTP/1.0\r\n\r\n", 18, 0) == 18, "send");
	wait_a_little();
	readable();
	take();
	send_n(1, 0);
	take();
	readable();
	send_n(1, 0);
	link_close(&l);
	about("a good record, then a wrong tag");
	link_open(&l, KTLS_13);
	seal(&l, DATA, "good", 4);
	seal(&l, DATA, "bad", 3);
	l.record[l.n - 1] ^= 1;
	send_sealed(&l);
	take();
	send_n(1, 0);
	take();
	send_n(1, 0);
	link_close(&l);
}

static void padding(void)
{
	about("padded data, padded handshake");
	link_open(&l, KTLS_13);
	seal_padded(&l, DATA, "abc", 3, 100);
	seal_padded(&l, HANDSHAKE, "\4\0\0\1x", 5, 7);
	send_sealed(&l);
	take();
	take();
	about("padding and no type");
	seal_padded(&l, 0, "", 0, 20);
	send_sealed(&l);
	take();
	take();
	send_n(1, 0);
	link_close(&l);
}

/* --- new keys --- */

static void key_update_received(void)
{
	int p[2];

	about("data and a KeyUpdate");
	link_open(&l, KTLS_13);
	check(pipe(p) == 0, "pipe");
	seal(&l, DATA, "before", 6);
	seal(&l, HANDSHAKE, key_update, sizeof(key_update));
	send_sealed(&l);
	take();
	plain_recv();
	splice_out(p[1]);
	take();
	readable();
	if (ktls_support()->rekey)
		take();
	about("  a record under the new key");
	seal_with(&l, KEY_IN_NEXT);
	send_record(&l, DATA, "under the new key", 17);
	readable();
	if (ktls_support()->rekey) {
		take();
		plain_recv();
		splice_out(p[1]);
		readable();
		so_error();
		send_n(1, 0);
	}
	about("  then");
	give_key(KTLS_RECEIVE, KEY_IN_NEXT);
	readable();
	take();
	send_n(1, 0);
	close(p[0]);
	close(p[1]);
	link_close(&l);
}

/* A record under the next key comes. */
static void under_the_next_key(void)
{
	seal_with(&l, KEY_IN_NEXT);
	send_record(&l, DATA, "new", 3);
}

static void key_update_in_pieces(void)
{
	about("a KeyUpdate in two records of 1 and 4 bytes");
	link_open(&l, KTLS_13);
	seal(&l, HANDSHAKE, key_update, 1);
	seal(&l, HANDSHAKE, key_update + 1, 4);
	send_sealed(&l);
	take();
	readable();
	take();
	give_key(KTLS_RECEIVE, KEY_IN_NEXT);
	under_the_next_key();
	take();
	link_close(&l);
	about("  the old key given again with its number");
	link_open(&l, KTLS_13);
	seal(&l, HANDSHAKE, key_update, 1);
	seal(&l, HANDSHAKE, key_update + 1, 4);
	send_sealed(&l);
	take();
	told("TLS_RX", outcome(install_at(&l, KTLS_RECEIVE, KEY_IN, 1)));
	take();
	give_key(KTLS_RECEIVE, KEY_IN_NEXT);
	under_the_next_key();
	take();
	send_n(1, 0);
	link_close(&l);
	about("  of 4 bytes and 1");
	link_open(&l, KTLS_13);
	seal(&l, HANDSHAKE, key_update, 4);
	seal(&l, HANDSHAKE, key_update + 4, 1);
	send_sealed(&l);
	take();
	readable();
	take();
	link_close(&l);
	about("  whose record comes in two pieces");
	link_open(&l, KTLS_13);
	seal(&l, HANDSHAKE, key_update, sizeof(key_update));
	send_part(&l, 10);
	readable();
	take();
	send_sealed(&l);
	readable();
	take();
	give_key(KTLS_RECEIVE, KEY_IN_NEXT);
	under_the_next_key();
	take();
	link_close(&l);
	about("  taken a byte at a time");
	link_open(&l, KTLS_13);
	send_record(&l, HANDSHAKE, key_update, sizeof(key_update));
	take_n(1);
	take();
	give_key(KTLS_RECEIVE, KEY_IN_NEXT);
	under_the_next_key();
	take();
	link_close(&l);
}

static void key_update_in_company(void)
{
	static const unsigned char both[] = {4, 0, 0, 1, 'x', 24, 0, 0, 1, 0}, turned[] = {24, 0, 0, 1, 0, 4, 0, 0, 1, 'x'};

	about("a session ticket and a KeyUpdate in one record");
	link_open(&l, KTLS_13);
	send_record(&l, HANDSHAKE, both, sizeof(both));
	take();
	take();
	under_the_next_key();
	readable();
	give_key(KTLS_RECEIVE, KEY_IN_NEXT);
	take();
	send_n(1, 0);
	link_close(&l);
	about("  the record under the new key is looked at before TLS_RX");
	link_open(&l, KTLS_13);
	seal(&l, HANDSHAKE, both, sizeof(both));
	seal_with(&l, KEY_IN_NEXT);
	seal(&l, DATA, "new", 3);
	send_sealed(&l);
	take();
	readable();
	give_key(KTLS_RECEIVE, KEY_IN_NEXT);
	take();
	take();
	send_n(1, 0);
	link_close(&l);
	about("  after it was tried with the old key");
	link_open(&l, KTLS_13);
	send_record(&l, HANDSHAKE, both, sizeof(both));
	take();
	under_the_next_key();
	take();
	give_key(KTLS_RECEIVE, KEY_IN_NEXT);
	take();
	send_n(1, 0);
	so_error();
	send_n(1, 0);
	link_close(&l);
	about("a KeyUpdate and a session ticket in one record");
	link_open(&l, KTLS_13);
	send_record(&l, HANDSHAKE, turned, sizeof(turned));
	take();
	take();
	link_close(&l);
	about("a KeyUpdate and a record behind it, at once");
	link_open(&l, KTLS_13);
	seal(&l, HANDSHAKE, key_update, sizeof(key_update));
	seal_with(&l, KEY_IN_NEXT);
	seal(&l, DATA, "behind", 6);
	send_sealed(&l);
	take();
	readable();
	give_key(KTLS_RECEIVE, KEY_IN_NEXT);
	readable();
	take();
	send_n(1, 0);
	link_close(&l);
	about("  and 500 bytes of it");
	link_open(&l, KTLS_13);
	seal(&l, HANDSHAKE, key_update, sizeof(key_update));
	seal_with(&l, KEY_IN_NEXT);
	seal(&l, DATA, zeros, 1000);
	send_part(&l, 527);
	take();
	readable();
	give_key(KTLS_RECEIVE, KEY_IN_NEXT);
	readable();
	send_sealed(&l);
	readable();
	take();
	link_close(&l);
	about("a wrong key after a KeyUpdate, then the right one");
	link_open(&l, KTLS_13);
	send_record(&l, HANDSHAKE, key_update, sizeof(key_update));
	take();
	give_key(KTLS_RECEIVE, KEY_OUT_NEXT);
	under_the_next_key();
	take();
	give_key(KTLS_RECEIVE, KEY_IN_NEXT);
	take();
	link_close(&l);
}

/* Opens by hand what near has sent, up to three records: which key fits? */
static void sealed_with(void)
{
	static const char *const names[] = {"no key", "", "the old key", "", "the new key"};
	unsigned char raw[4096], text[4096], nonce[AEAD_NONCE];
	struct pollfd p = {.fd = l.far, .events = POLLIN};

	while (poll(&p, 1, 50) == 1 && recv(l.far, raw, 5, MSG_WAITALL) == 5 &&
	       recv(l.far, raw + 5, raw[4], MSG_WAITALL) == raw[4]) {
		int found = 0;

		for (int i = 0; i < 8 && !found; i++) {
			int which = i < 4 ? KEY_OUT : KEY_OUT_NEXT;
			struct tls_keys k = key(which);
			struct aead *aead = aead_new(AEAD_AES_128_GCM, k.key, false);

			memcpy(nonce, k.iv, sizeof(nonce));
			nonce[11] ^= (unsigned char)(i & 3);
			if (aead && aead_begin(aead, nonce, raw, 5) && aead_update(aead, text, raw + 5, raw[4] - AEAD_TAG) &&
			    aead_open(aead, raw + 5 + raw[4] - AEAD_TAG))
				found = which;
			aead_free(aead);
		}
		told(outcome(raw[4] - AEAD_TAG - 1), names[found]);
	}
}

static void key_update_sent(void)
{
	about("sending: held data, KeyUpdate, new key, data");
	link_open(&l, KTLS_13);
	send_n(4, MSG_MORE);
	told("KeyUpdate", outcome(ktls_write_record(l.near, HANDSHAKE, key_update, sizeof(key_update))));
	give_key(KTLS_SEND, KEY_OUT_NEXT);
	send_n(6, 0);
	sealed_with();
	link_close(&l);
	about("sending: held data, new key, data");
	link_open(&l, KTLS_13);
	send_n(4, MSG_MORE);
	give_key(KTLS_SEND, KEY_OUT_NEXT);
	send_n(6, 0);
	sealed_with();
	link_close(&l);
}

/* --- sending --- */

static void framing(void)
{
	struct iovec three[3] = {{zeros, 10}, {zeros, 10}, {zeros, 10}};
	int size = 4 << 20;

	link_open(&l, KTLS_13);
	setsockopt(l.near, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	about("100000 bytes");
	send_n(100000, 0);
	wire();
	about("writev of 3 x 10");
	check(writev(l.near, three, 3) == 30, "writev");
	wire();
	about("10 bytes with MSG_MORE");
	send_n(10, MSG_MORE);
	wire();
	about("  then nothing, then an alert");
	send_n(0, 0);
	wire();
	alert();
	wire();
	about("10 bytes with MSG_MORE, 10 without");
	send_n(10, MSG_MORE);
	send_n(10, 0);
	wire();
	about("20000 bytes with MSG_MORE, then shutdown");
	send_n(20000, MSG_MORE);
	wire();
	shutdown(l.near, SHUT_WR);
	wire();
	link_close(&l);
	about("10 bytes with MSG_MORE, then close");
	link_open(&l, KTLS_13);
	send_n(10, MSG_MORE);
	close(l.near);
	wire();
	close(l.far);
	link_open(&l, KTLS_13);
	about("MSG_ZEROCOPY, MSG_WAITALL, MSG_EOR, MSG_OOB");
	send_n(10, MSG_ZEROCOPY);
	send_n(10, MSG_WAITALL);
	send_n(10, MSG_EOR);
	send_n(10, MSG_OOB);
	wire();
	about("empty data and an empty alert by sendmsg");
	told("data", outcome(ktls_write_record(l.near, DATA, "", 0)));
	told("alert", outcome(ktls_write_record(l.near, ALERT, "", 0)));
	wire();
	link_close(&l);
}

static void full_socket(void)
{
	long all = 0, n, got;

	about("sends until the socket is full");
	link_open(&l, KTLS_13);
	while ((n = send(l.near, zeros, 100000, MSG_DONTWAIT)) > 0)
		all += n;
	told("last send", outcome(-errno));
	writable();
	alert();
	alert();
	got = drain_far();
	told("held back until the next send", outcome(got >= all ? 0 : all - got));
	writable();
	alert();
	told("peer gets", outcome(drain_far()));
	link_close(&l);
}

/* --- splice --- */

static void no_op(int signal_number)
{
	(void)signal_number;
}

/* Splices full pipes into the socket until it takes no more; a signal ends what waits. */
static void splice_into_full(const char *what, bool nonblocking, unsigned flags)
{
	struct sigaction action = {.sa_handler = no_op};
	int p[2], left = 0, waited;
	long all = 0, n, piped, got;

	about(what);
	sigaction(SIGALRM, &action, NULL);
	link_open(&l, KTLS_13);
	check(pipe(p) == 0, "pipe");
	if (nonblocking)
		fcntl(l.near, F_SETFL, O_NONBLOCK);
	do {
		piped = write(p[1], zeros, 65536);
		alarm(2);
		n = splice(p[0], NULL, l.near, NULL, 65536, flags);
		if (n < 0)
			n = -errno;
		else
			all += n;
		waited = alarm(0) == 0;
	} while (n == 65536 && piped == 65536);
	told("the last splice", outcome(n));
	told("waited for a signal", waited ? "yes" : "no");
	check(ioctl(p[0], FIONREAD, &left) == 0, "FIONREAD");
	told("left in the pipe", outcome(left));
	about("  once more, without waiting");
	fcntl(l.near, F_SETFL, O_NONBLOCK);
	alarm(2);
	n = splice(p[0], NULL, l.near, NULL, 65536, SPLICE_F_NONBLOCK);
	told("splice", outcome(n < 0 ? -errno : n));
	alarm(0);
	got = drain_far();
	all += n > 0 ? n : 0;
	told("held back", outcome(got >= all ? 0 : all - got));
	close(p[0]);
	close(p[1]);
	link_close(&l);
}

static void splices_out(void)
{
	int p[2];

	about("splice of 64 KiB from an idle socket");
	link_open(&l, KTLS_13);
	check(pipe(p) == 0, "pipe");
	splice_out(p[1]);
	about("  from records of 1000, 1000, 16384");
	for (int i = 0; i < 2; i++)
		seal(&l, DATA, zeros, 1000);
	seal(&l, DATA, zeros, 16384);
	send_sealed(&l);
	for (int i = 0; i < 4; i++)
		splice_out(p[1]);
	check(read(p[0], room, sizeof(room)) > 0, "read");
	about("  from half a record, and the end of the stream");
	seal(&l, DATA, zeros, 3000);
	send_part(&l, 1000);
	splice_out(p[1]);
	shutdown(l.far, SHUT_WR);
	wait_a_little();
	splice_out(p[1]);
	link_close(&l);
	about("  of 16384 into a pipe of one page");
	link_open(&l, KTLS_13);
	fcntl(p[1], F_SETPIPE_SZ, 4096);
	seal(&l, DATA, zeros, 16384);
	send_sealed(&l);
	splice_out(p[1]);
	splice_out(p[1]);
	take();
	close(p[0]);
	close(p[1]);
	link_close(&l);
}

/* How much a pipe takes of records of one size; a pipe has 16 slots, whatever lies in them. */
static void pipe_holds(const char *what, size_t size)
{
	int p[2], records = 0;
	long n, all = 0;

	about(what);
	link_open(&l, KTLS_13);
	check(pipe(p) == 0, "pipe");
	for (int i = 0; i < 24; i++) {
		seal(&l, DATA, zeros, size);
		send_sealed(&l);
	}
	while ((n = splice(l.near, NULL, p[1], NULL, 65536, SPLICE_F_NONBLOCK)) > 0) {
		all += n;
		records++;
	}
	told("splices", outcome(records));
	told("bytes", outcome(all));
	told("then", outcome(n < 0 ? -errno : n));
	close(p[0]);
	close(p[1]);
	link_close(&l);
}

/* The same from a socket without TLS that has a megabyte. */
static void pipe_holds_plain(void)
{
	int p[2];
	long n, all = 0;

	about("a pipe takes of a plain socket with 1 MiB");
	link_plain(&l, KTLS_13);
	check(pipe(p) == 0, "pipe");
	for (int i = 0; i < 16; i++)
		(void)!send(l.far, zeros, 65536, MSG_DONTWAIT);
	wait_a_little();
	while ((n = splice(l.near, NULL, p[1], NULL, 1 << 20, SPLICE_F_NONBLOCK)) > 0) {
		all += n;
		told("splice", outcome(n));
	}
	told("bytes", outcome(all));
	close(p[0]);
	close(p[1]);
	link_close(&l);
}

/* fs.pipe-user-pages-soft: how many pipes an unprivileged user gets before they become smaller. */
static void small_pipes(void)
{
	struct rlimit most;
	int p[2], pipes = 0, size = 65536, status;
	pid_t pid;

	about("pipes of an unprivileged user");
	pid = fork();
	if (pid != 0) {
		check(pid > 0 && waitpid(pid, &status, 0) == pid, "fork");
		return;
	}
	getrlimit(RLIMIT_NOFILE, &most);
	most.rlim_cur = most.rlim_max;
	setrlimit(RLIMIT_NOFILE, &most);
	if (setuid(65534) == 0)
		while (pipes < 5000 && pipe(p) == 0 && (size = fcntl(p[1], F_GETPIPE_SZ)) == 65536)
			pipes++;
	told("of 64 KiB", outcome(pipes));
	told("the next", outcome(size));
	_exit(0);
}

/* An end of the stream is 0 as well. */
static void empty_record_without_type(void)
{
	int p[2];

	about("1.3: empty data, alert, without room for the type");
	link_open(&l, KTLS_13);
	check(pipe(p) == 0, "pipe");
	seal(&l, DATA, "", 0);
	seal(&l, ALERT, close_notify, 2);
	send_sealed(&l);
	plain_recv();
	plain_recv();
	link_close(&l);
	about("1.3: data of 0, 3 and splice");
	link_open(&l, KTLS_13);
	seal(&l, DATA, "", 0);
	seal(&l, DATA, "abc", 3);
	send_sealed(&l);
	for (int i = 0; i < 3; i++)
		splice_out(p[1]);
	close(p[0]);
	close(p[1]);
	link_close(&l);
}

static void splices_in(const char *what, size_t each, unsigned flags)
{
	int p[2];

	about(what);
	link_open(&l, KTLS_13);
	check(pipe(p) == 0, "pipe");
	for (int i = 0; i < 4; i++) {
		check(write(p[1], zeros, each) == (ssize_t)each, "write");
		check(splice(p[0], NULL, l.near, NULL, each, flags) == (ssize_t)each, "splice");
	}
	wire();
	if (flags & SPLICE_F_MORE) {
		send_n(1, 0);
		wire();
	}
	close(p[0]);
	close(p[1]);
	link_close(&l);
}

static void counters(void)
{
	char line[128], name[64];
	unsigned long value;
	FILE *file = fopen("/proc/net/tls_stat", "r");

	about("/proc/net/tls_stat");
	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "%63s %lu", name, &value) == 2 && value > 0)
			told(name, outcome((long)value));
	if (file)
		fclose(file);
}

int main(void)
{
	struct utsname name;

	uname(&name);
	about("kernel");
	told(name.sysname, name.release);
	ktls_probe();
	if (ktls_support()->error) {
		about(ktls_explain(ktls_support()->error));
		about_end();
		return 1;
	}
	support();
	set_up();
	one_direction();
	keys_twice(KTLS_12, "keys of TLS 1.2 again");
	keys_twice(KTLS_13, "keys of TLS 1.3 again");
	control_records(KTLS_12, "1.2: data, alert, data");
	control_records(KTLS_13, "1.3: data, alert, data");
	joins();
	empty_records();
	partial();
	endings();
	spoilt_records();
	padding();
	key_update_received();
	key_update_in_pieces();
	key_update_in_company();
	key_update_sent();
	framing();
	full_socket();
	splices_out();
	pipe_holds("a pipe takes records of 1 byte", 1);
	pipe_holds("  of 1000", 1000);
	pipe_holds("  of 4096", 4096);
	pipe_holds("  of 16384", 16384);
	pipe_holds_plain();
	small_pipes();
	empty_record_without_type();
	splices_in("splice of 4 x 1000 into the socket", 1000, 0);
	splices_in("  with SPLICE_F_MORE", 1000, SPLICE_F_MORE);
	splices_in("splice of 4 x 49152 into the socket", 49152, 0);
	splice_into_full("splice into a full socket, SPLICE_F_NONBLOCK alone", false, SPLICE_F_NONBLOCK);
	splice_into_full("  O_NONBLOCK and SPLICE_F_NONBLOCK", true, SPLICE_F_NONBLOCK);
	splice_into_full("  O_NONBLOCK alone", true, 0);
	counters();
	about_end();
	return 0;
}
