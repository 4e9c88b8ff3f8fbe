/*
 * What a socket with kernel TLS does in the cases that the proxy is built around; one line each, to compare kernels with.
 * A program of its own, without arguments. kernel-notes/ktls.md says what follows from each line; ktls_rekey_facts.c and
 * ktls_splice_facts.c have new keys and splice(2), ktls_uring_facts.c is the same for io_uring.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ktls_steps.h"

#include <sys/ioctl.h>
#include <sys/uio.h>

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

int main(void)
{
	if (!facts_begin())
		return 1;
	support();
	set_up();
	one_direction();
	control_records(KTLS_12, "1.2: data, alert, data");
	control_records(KTLS_13, "1.3: data, alert, data");
	joins();
	empty_records();
	partial();
	endings();
	spoilt_records();
	padding();
	framing();
	full_socket();
	return facts_end();
}
