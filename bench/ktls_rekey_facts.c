/*
 * What a socket with kernel TLS does when keys change; one line each, to compare kernels with.
 * A program of its own, without arguments. kernel-notes/rekey.md says what follows from each line.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ktls_steps.h"

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

static void key_update_in_records(void)
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
}

static void key_update_in_pieces(void)
{
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

static void key_update_behind_a_ticket(void)
{
	static const unsigned char both[] = {4, 0, 0, 1, 'x', 24, 0, 0, 1, 0};

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
}

static void key_update_with_something_behind_it(void)
{
	static const unsigned char turned[] = {24, 0, 0, 1, 0, 4, 0, 0, 1, 'x'};

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

int main(void)
{
	if (!facts_begin())
		return 1;
	about("what ktls_probe() finds");
	told("new keys", outcome(ktls_support()->rekey));
	keys_twice(KTLS_12, "keys of TLS 1.2 again");
	keys_twice(KTLS_13, "keys of TLS 1.3 again");
	key_update_received();
	key_update_in_records();
	key_update_in_pieces();
	key_update_behind_a_ticket();
	key_update_with_something_behind_it();
	key_update_sent();
	return facts_end();
}
