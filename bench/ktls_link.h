/*
 * A connection over loopback of which one end, `near`, speaks kernel TLS with fixed keys, and the other, `far`, makes its records by
 * hand, so that they may be anything at all and still be genuine. Included by bench/ktls_steps.h and bench/ktls_uring_facts.c.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef BENCH_KTLS_LINK_H
#define BENCH_KTLS_LINK_H

#include "aead.h"
#include "facts.h"
#include "ktls.h"

#include <fcntl.h>
#include <linux/tls.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <time.h>

#ifndef SOL_TLS
#define SOL_TLS 282
#endif

enum {
	DATA = 23,
	HANDSHAKE = 22,
	ALERT = 21,
	RECORD_MAX = 5 + 16384 + 256,
	KEY_IN = 1,
	KEY_OUT = 2,
	KEY_IN_NEXT = 3,
	KEY_OUT_NEXT = 4
};

struct link {
	int near, far;
	enum ktls_version version;
	struct tls_keys key_in; /* far seals and near opens with it */
	uint64_t number_in;
	unsigned char record[4 * RECORD_MAX]; /* sealed and not yet sent */
	size_t n;
};

static const unsigned char key_update[] = {24, 0, 0, 1, 0}, close_notify[] = {1, 0};

static inline struct tls_keys key(int which)
{
	struct tls_keys k;

	memset(&k, which, sizeof(k));
	return k;
}

/* `number`: of the next record. */
static inline int install_at(const struct link *l, enum ktls_direction direction, int which, uint64_t number)
{
	struct tls_keys k = key(which);

	return ktls_install(l->near, direction, l->version, AEAD_AES_128_GCM, &k, number);
}

static inline int install(const struct link *l, enum ktls_direction direction, int which)
{
	return install_at(l, direction, which, 0);
}

static inline void link_plain(struct link *l, enum ktls_version version)
{
	int pair[2], one = 1;

	tcp_pair(pair);
	*l = (struct link){.near = pair[0], .far = pair[1], .version = version, .key_in = key(KEY_IN)};
	setsockopt(l->near, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(l->far, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

static inline void link_open(struct link *l, enum ktls_version version)
{
	link_plain(l, version);
	errno = -ktls_attach(l->near);
	check(errno == 0, "TCP_ULP");
	errno = -install(l, KTLS_RECEIVE, KEY_IN);
	check(errno == 0, "TLS_RX");
	errno = -install(l, KTLS_SEND, KEY_OUT);
	check(errno == 0, "TLS_TX");
}

static inline void link_close(struct link *l)
{
	close(l->near);
	close(l->far);
}

/* The nonce of a record and what is authenticated besides; RFC 8446 5.2 and 5.3, RFC 5246 6.2.3.3. */
static inline size_t link_aad(const struct link *l, const unsigned char *header, size_t inner, unsigned char *nonce,
                              unsigned char *aad)
{
	unsigned char number[8];

	for (int i = 0; i < 8; i++)
		number[i] = (unsigned char)(l->number_in >> (56 - 8 * i));
	memcpy(nonce, l->key_in.iv, AEAD_NONCE);
	for (int i = 0; i < 8; i++)
		nonce[4 + i] = l->version == KTLS_13 ? nonce[4 + i] ^ number[i] : header[5 + i];
	if (l->version == KTLS_13) {
		memcpy(aad, header, 5);
		return 5;
	}
	memcpy(aad, number, 8);
	memcpy(aad + 8, header, 3);
	aad[11] = (unsigned char)(inner >> 8);
	aad[12] = (unsigned char)inner;
	return 13;
}

/* Puts another record behind those that are sealed. `padding`: zeros behind the content (TLS 1.3). */
static inline void seal_padded(struct link *l, int type, const void *content, size_t n, size_t padding)
{
	bool tls13 = l->version == KTLS_13;
	unsigned char *to = l->record + l->n, *text = to + (tls13 ? 5 : 13), nonce[AEAD_NONCE], aad[13];
	size_t inner = n + (tls13 ? 1 + padding : 0), body = inner + AEAD_TAG + (tls13 ? 0 : 8), aad_len;
	struct aead *aead = aead_new(AEAD_AES_128_GCM, l->key_in.key, true);

	memcpy(to, (unsigned char[]){tls13 ? DATA : (unsigned char)type, 3, 3, (unsigned char)(body >> 8), (unsigned char)body},
	       5);
	if (!tls13)
		memcpy(to + 5, &l->number_in, 8);
	memcpy(text, content, n);
	if (tls13) {
		text[n] = (unsigned char)type;
		memset(text + n + 1, 0, padding);
	}
	aad_len = link_aad(l, to, inner, nonce, aad);
	check(aead && aead_begin(aead, nonce, aad, aad_len) && (inner == 0 || aead_update(aead, text, text, inner)) &&
	              aead_seal(aead, text + inner),
	      "seal");
	aead_free(aead);
	l->number_in++;
	l->n += 5 + body;
}

static inline void seal(struct link *l, int type, const void *content, size_t n)
{
	seal_padded(l, type, content, n, 0);
}

/* From now on records are sealed with another key. */
static inline void seal_with(struct link *l, int which)
{
	l->key_in = key(which);
	l->number_in = 0;
}

/* Sends the first n sealed bytes, and waits until loopback has delivered them. */
static inline void send_part(struct link *l, size_t n)
{
	check(send(l->far, l->record, n, MSG_NOSIGNAL) == (ssize_t)n, "send");
	memmove(l->record, l->record + n, l->n - n);
	l->n -= n;
	usleep(5000);
}

static inline void send_sealed(struct link *l)
{
	send_part(l, l->n);
}

static inline void send_record(struct link *l, int type, const void *content, size_t n)
{
	seal(l, type, content, n);
	send_sealed(l);
}

#endif
