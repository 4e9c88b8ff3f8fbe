/*
 * Records in place: sealed and opened in user space (RFC 8446 section 5, RFC 5246 section 6.2), from receive buffer to send buffer without a
 * copy in between. See record_keyed.h, and kernel-notes/records.md for why.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "record_keyed.h"

#include <openssl/crypto.h>
#include <openssl/ssl.h>
#include <string.h>

enum {
	/* With type and padding one byte more (5.4); of the 256 bytes that a cipher may add (5.2) ours take the tag alone. */
	SEALED_MAX_13 = PLAIN_MAX + 1 + AEAD_TAG,
	SEALED_MAX_12 = PLAIN_MAX + 8 + AEAD_TAG,
};

/* New keys in place of the old ones; if there are none to be had, the old ones stay. */
static bool inplace_rekey(struct keyed *k, struct half *h)
{
	struct aead *aead = aead_new(k->cipher, h->keys.key, h->sends);

	if (!aead)
		return false;
	aead_free(h->aead);
	h->aead = aead;
	h->sequence = 0;
	return true;
}

/* --- sealing ------------------------------------------------------------------------------------------------------------------------ */

static void put64(unsigned char *to, uint64_t n)
{
	for (int i = 7; i >= 0; i--, n >>= 8)
		to[i] = (unsigned char)n;
}

/* The nonce of the next record: RFC 8446 5.3 and RFC 7905, or salt and explicit part (RFC 5288 3). */
static void make_nonce(const struct keyed *k, const struct half *h, unsigned char nonce[AEAD_NONCE],
                       const unsigned char *explicit_part)
{
	unsigned char sequence[8];

	memcpy(nonce, h->keys.iv, AEAD_NONCE);
	if (k->explicit_nonce) {
		memcpy(nonce + 4, explicit_part, 8);
		return;
	}
	put64(sequence, h->sequence);
	for (int i = 0; i < 8; i++)
		nonce[4 + i] ^= sequence[i];
}

/* What is authenticated beside the content: the header (TLS 1.3), or sequence, type, version and plain length (TLS 1.2). */
static size_t make_aad(const struct keyed *k, const struct half *h, unsigned char aad[13],
                       const unsigned char header[RECORD_HEADER], size_t plain)
{
	if (k->tls13) {
		memcpy(aad, header, RECORD_HEADER);
		return RECORD_HEADER;
	}
	put64(aad, h->sequence);
	memcpy(aad + 8, header, 3);
	aad[11] = (unsigned char)(plain >> 8);
	aad[12] = (unsigned char)plain;
	return 13;
}

/* Encrypts n bytes off the front of `from` to `to`, however many chunks they lie in. */
static bool seal_content(struct keyed *k, struct bufs *bufs, struct queue *from, size_t n, unsigned char *to)
{
	while (n > 0) {
		struct chunk *c = queue_front(from, bufs);
		size_t here = c->end - c->start;

		if (here > n)
			here = n;
		if (!aead_update(k->tx.aead, to, c->data + c->start, here))
			return false;
		queue_consume(from, bufs, here);
		to += here;
		n -= here;
	}
	return true;
}

/* Seals the first n bytes of `from` as one record of a content type. */
static bool seal_record(struct record *r, struct keyed *k, unsigned char type, struct queue *from, size_t n)
{
	size_t nonce_len = k->explicit_nonce ? 8 : 0;
	size_t body = nonce_len + n + (k->tls13 ? 1 : 0) + AEAD_TAG;
	struct chunk *c = queue_reserve(r->out, r->bufs, RECORD_HEADER + body);
	unsigned char nonce[AEAD_NONCE], aad[13], *to;
	size_t aad_len;

	if (!c)
		return false;
	to = c->data + c->end;
	to[0] = k->tls13 ? SSL3_RT_APPLICATION_DATA : type;
	to[1] = to[2] = 3; /* "TLS 1.2" */
	to[3] = (unsigned char)(body >> 8);
	to[4] = (unsigned char)body;
	aad_len = make_aad(k, &k->tx, aad, to, n);
	to += RECORD_HEADER;
	if (k->explicit_nonce)
		put64(to, k->tx.sequence);
	make_nonce(k, &k->tx, nonce, to);
	to += nonce_len;
	if (!aead_begin(k->tx.aead, nonce, aad, aad_len) || !seal_content(k, r->bufs, from, n, to))
		return false;
	to += n;
	if (k->tls13 && !aead_update(k->tx.aead, to++, &type, 1))
		return false;
	if (!aead_seal(k->tx.aead, to))
		return false;
	c->end += (uint32_t)(RECORD_HEADER + body);
	r->out->bytes += RECORD_HEADER + body;
	k->tx.sequence++;
	return true;
}

static bool inplace_write(struct record *r, struct keyed *k, unsigned char type, const void *data, size_t n)
{
	struct queue q = {0};
	bool ok = queue_write(&q, r->bufs, data, n) == 0 && seal_record(r, k, type, &q, n);

	queue_clear(&q, r->bufs);
	return ok;
}

static enum record_result inplace_seal(struct record *r, struct keyed *k, struct queue *plain)
{
	enum record_result result = RECORD_OK;

	while (result == RECORD_OK && plain->bytes > 0) {
		size_t n = plain->bytes < k->plain_max ? plain->bytes : k->plain_max;

		result = keyed_renew(r, k);
		if (result == RECORD_OK && !seal_record(r, k, SSL3_RT_APPLICATION_DATA, plain, n))
			result = keyed_broken(r, "SSL_write", "no memory for a record");
	}
	return result;
}

/* --- opening ------------------------------------------------------------------------------------------------------------------------ */

/* Copies n bytes at an offset of the queue without taking them out. */
static void peek(const struct queue *q, size_t offset, void *to, size_t n)
{
	unsigned char *out = to;
	size_t here;

	for (; n > 0; out += here, offset += here, n -= here) {
		const unsigned char *from = queue_at(q, offset, n, &here);

		memcpy(out, from, here);
	}
}

/* Decrypts n bytes at an offset of the queue to `to`. */
static bool open_content(struct keyed *k, const struct queue *from, size_t offset, size_t n, unsigned char *to)
{
	size_t here;

	for (; n > 0; to += here, offset += here, n -= here) {
		const unsigned char *piece = queue_at(from, offset, n, &here);

		if (!aead_update(k->rx.aead, to, piece, here))
			return false;
	}
	return true;
}

/* Opens the record at the front of `in`, of `body` bytes after its header, into `to`. False: it is not genuine. */
static bool open_record(struct keyed *k, const struct queue *in, const unsigned char header[RECORD_HEADER], size_t body,
                        unsigned char *to, struct opened *o)
{
	size_t nonce_len = k->explicit_nonce ? 8 : 0;
	size_t n = body - nonce_len - AEAD_TAG;
	unsigned char nonce[AEAD_NONCE], aad[13], tag[AEAD_TAG], explicit_part[8];
	size_t aad_len = make_aad(k, &k->rx, aad, header, n);

	peek(in, RECORD_HEADER, explicit_part, nonce_len);
	make_nonce(k, &k->rx, nonce, explicit_part);
	peek(in, RECORD_HEADER + body - AEAD_TAG, tag, AEAD_TAG);
	if (!aead_begin(k->rx.aead, nonce, aad, aad_len) || !open_content(k, in, RECORD_HEADER + nonce_len, n, to) ||
	    !aead_open(k->rx.aead, tag))
		return false;
	k->rx.sequence++;
	*o = (struct opened){.type = header[0], .data = to, .n = n};
	if (k->tls13) { /* TLSInnerPlaintext: content, type, zeros */
		while (o->n > 0 && to[o->n - 1] == 0)
			o->n--;
		o->type = o->n > 0 ? to[--o->n] : 0;
	}
	return true;
}

/* Looks at the header in front: how long the record is. False if it cannot be one, with the alert to send. */
static bool check_header(const struct keyed *k, const unsigned char header[RECORD_HEADER], size_t *body, unsigned char *alert)
{
	size_t least = k->tls13 ? 1 + AEAD_TAG : (k->explicit_nonce ? 8 : 0) + AEAD_TAG;

	*body = (size_t)header[3] << 8 | header[4];
	if (header[1] != 3 || (k->tls13 && header[0] != SSL3_RT_APPLICATION_DATA))
		*alert = SSL_AD_UNEXPECTED_MESSAGE;
	else if (*body > (k->tls13 ? SEALED_MAX_13 : SEALED_MAX_12))
		*alert = SSL_AD_RECORD_OVERFLOW;
	else if (*body < least)
		*alert = SSL_AD_BAD_RECORD_MAC;
	else
		return true;
	return false;
}

static enum record_result open_next(struct record *r, struct keyed *k, const unsigned char header[RECORD_HEADER], size_t body,
                                    struct queue *plain)
{
	struct chunk *c = queue_reserve(plain, r->bufs, body);
	enum record_result result;
	struct opened o;

	if (!c)
		return keyed_broken(r, "SSL_read", "no memory for a record");
	if (!open_record(k, r->in, header, body, c->data + c->end, &o))
		return keyed_fail(r, k, SSL_AD_BAD_RECORD_MAC, "bad record mac");
	queue_consume(r->in, r->bufs, RECORD_HEADER + body);
	if (o.n > k->plain_max)
		return keyed_fail(r, k, SSL_AD_RECORD_OVERFLOW, "record overflow");
	if (o.type == SSL3_RT_APPLICATION_DATA && k->head_len > 0) /* RFC 8446 5.1 */
		return keyed_fail(r, k, SSL_AD_UNEXPECTED_MESSAGE, "data inside a handshake message");
	if (o.type == SSL3_RT_APPLICATION_DATA && o.n > 0) {
		k->idle_records = 0;
		c->end += (uint32_t)o.n;
		plain->bytes += o.n;
		return RECORD_OK;
	}
	result = keyed_take(r, k, &o);
	OPENSSL_cleanse(o.data, o.n);
	return result;
}

static enum record_result inplace_open(struct record *r, struct keyed *k, struct queue *plain, size_t limit)
{
	enum record_result result = RECORD_OK;

	while (result == RECORD_OK && r->in->bytes >= RECORD_HEADER) {
		unsigned char header[RECORD_HEADER] = {0}, alert;
		size_t body;

		peek(r->in, 0, header, RECORD_HEADER);
		if (!check_header(k, header, &body, &alert))
			return keyed_fail(r, k, alert, "malformed record");
		if (r->in->bytes < RECORD_HEADER + body)
			break;
		if (plain->bytes >= limit)
			return RECORD_MORE;
		result = open_next(r, k, header, body, plain);
	}
	return result;
}

size_t inplace_missing(const struct queue *in)
{
	unsigned char header[RECORD_HEADER];
	size_t at = 0;

	while (at < in->bytes) {
		if (in->bytes - at < RECORD_HEADER)
			return RECORD_HEADER - (in->bytes - at);
		peek(in, at, header, RECORD_HEADER);
		at += RECORD_HEADER + ((size_t)header[3] << 8 | header[4]);
	}
	return at - in->bytes;
}

const struct half_kind half_inplace = {
	.seal = inplace_seal,
	.write = inplace_write,
	.open = inplace_open,
	.rekey = inplace_rekey,
};
