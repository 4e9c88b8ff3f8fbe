/*
 * Record engine `inplace`: the record layer of TLS 1.3 (RFC 8446 section 5) and of TLS 1.2 with an AEAD cipher (RFC 5246 section 6.2,
 * RFC 5288, RFC 7905), from receive buffer to send buffer without a copy in between. Once it has taken over, the SSL object is freed:
 * an idle connection costs two expanded keys. What OpenSSL still did after a handshake is done here: alerts, KeyUpdate, refusing renegotiation.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "record_inplace.h"

#include "aead.h"
#include "list.h"
#include "log.h"
#include "tls.h"
#include "tls_traffic.h"

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdlib.h>
#include <string.h>

enum {
	HEADER = 5,
	PLAIN_MAX = 16384, /* RFC 8446 5.1 */
	/* With type and padding one byte more (5.4); of the 256 bytes that a cipher may add (5.2) ours take the tag alone. */
	SEALED_MAX_13 = PLAIN_MAX + 1 + AEAD_TAG,
	SEALED_MAX_12 = PLAIN_MAX + 8 + AEAD_TAG,
	MESSAGE_HEAD = 4,                                     /* a handshake message's type and length */
	TICKET_MAX = 4 + 4 + 1 + 255 + 2 + 65535 + 2 + 65534, /* the longest NewSessionTicket: 4.6.1 */
	/* Records in a row that carry no application data: KeyUpdates, warnings, empty ones. A peer with more to say than this is up to something. */
	IDLE_RECORDS_MAX = 128,
};

/* AES-GCM keys are good for 2^24.5 full records (RFC 8446 5.5); the other limits are further off. */
uint64_t inplace_records_per_key = 1 << 24;

/* One direction. */
struct half {
	struct aead *aead;
	unsigned char iv[AEAD_NONCE];
	unsigned char secret[TRAFFIC_SECRET_MAX]; /* TLS 1.3: what the next keys come from */
	uint64_t sequence;
};

struct inplace {
	struct half rx, tx;
	enum aead_cipher cipher;
	bool tls13;
	bool explicit_nonce; /* TLS 1.2 AES-GCM: 8 bytes of nonce in each record */
	bool closed;         /* our close_notify is out */
	size_t secret_len;
	char digest[16];
	unsigned idle_records;
	size_t plain_max; /* what a record holds at most, either way: RFC 6066 section 4 */
	/* TLS 1.3: the handshake message that is coming in, which may come in pieces. */
	unsigned char head[MESSAGE_HEAD];
	unsigned head_len; /* bytes of its head that have come; 0: none is coming */
	size_t body_left;
};

static void half_free(struct half *h)
{
	aead_free(h->aead);
	OPENSSL_cleanse(h, sizeof(*h));
}

void inplace_free(struct inplace *p)
{
	if (!p)
		return;
	half_free(&p->rx);
	half_free(&p->tx);
	free(p);
}

/* New keys in place of the old ones; if there are none to be had, the old ones stay. */
static bool half_init(struct half *h, enum aead_cipher cipher, const struct tls_keys *keys, bool seal)
{
	struct aead *aead = aead_new(cipher, keys->key, seal);

	if (!aead)
		return false;
	aead_free(h->aead);
	h->aead = aead;
	memcpy(h->iv, keys->iv, AEAD_NONCE);
	h->sequence = 0;
	return true;
}

/* TLS 1.3: keys of the secret in force. */
static bool half_keys(const struct inplace *p, struct half *h, bool seal)
{
	struct tls_keys keys;
	bool ok = tls_keys_from_secret(&keys, p->cipher, p->digest, h->secret, p->secret_len) &&
	          half_init(h, p->cipher, &keys, seal);

	OPENSSL_cleanse(&keys, sizeof(keys));
	return ok;
}

static bool start_13(struct inplace *p, const struct tls_traffic *traffic, bool client)
{
	p->tls13 = true;
	p->secret_len = traffic->secret_len;
	memcpy(p->rx.secret, client ? traffic->server : traffic->client, p->secret_len);
	memcpy(p->tx.secret, client ? traffic->client : traffic->server, p->secret_len);
	return half_keys(p, &p->rx, false) && half_keys(p, &p->tx, true);
}

static bool start_12(struct inplace *p, const SSL *ssl, bool client)
{
	struct tls_keys of_client, of_server;
	bool ok;

	p->explicit_nonce = p->cipher != AEAD_CHACHA20_POLY1305;
	ok = tls_keys_from_master(&of_client, &of_server, p->cipher, p->digest, ssl) &&
	     half_init(&p->rx, p->cipher, client ? &of_server : &of_client, false) &&
	     half_init(&p->tx, p->cipher, client ? &of_client : &of_server, true);
	OPENSSL_cleanse(&of_client, sizeof(of_client));
	OPENSSL_cleanse(&of_server, sizeof(of_server));
	return ok;
}

/* Suites with an AEAD cipher that aead.h has. */
static bool find_cipher(const SSL_CIPHER *suite, enum aead_cipher *cipher)
{
	switch (SSL_CIPHER_get_cipher_nid(suite)) {
	case NID_aes_128_gcm: *cipher = AEAD_AES_128_GCM; return true;
	case NID_aes_256_gcm: *cipher = AEAD_AES_256_GCM; return true;
	case NID_chacha20_poly1305: *cipher = AEAD_CHACHA20_POLY1305; return true;
	default: return false;
	}
}

struct inplace *inplace_new(const SSL *ssl, const struct tls_traffic *traffic, bool client)
{
	const SSL_CIPHER *suite = SSL_get_current_cipher(ssl);
	unsigned fragment = SSL_SESSION_get_max_fragment_length(SSL_get0_session(ssl));
	struct inplace *p = calloc(1, sizeof(*p));
	bool ok = p && find_cipher(suite, &p->cipher);

	if (ok) {
		snprintf(p->digest, sizeof(p->digest), "%s", EVP_MD_get0_name(SSL_CIPHER_get_handshake_digest(suite)));
		p->plain_max = fragment ? 256u << fragment : PLAIN_MAX;
		ok = SSL_version(ssl) == TLS1_3_VERSION ? start_13(p, traffic, client) : start_12(p, ssl, client);
	}
	if (ok) {
		p->rx.sequence = traffic->read;
		p->tx.sequence = traffic->written;
		return p;
	}
	inplace_free(p);
	return NULL;
}

/* --- sealing ------------------------------------------------------------------------------------------------------------------------ */

static void put64(unsigned char *to, uint64_t n)
{
	for (int i = 7; i >= 0; i--, n >>= 8)
		to[i] = (unsigned char)n;
}

/* The nonce of the next record: RFC 8446 5.3 and RFC 7905, or salt and explicit part (RFC 5288 3). */
static void make_nonce(const struct inplace *p, const struct half *h, unsigned char nonce[AEAD_NONCE],
                       const unsigned char *explicit_part)
{
	unsigned char sequence[8];

	memcpy(nonce, h->iv, AEAD_NONCE);
	if (p->explicit_nonce) {
		memcpy(nonce + 4, explicit_part, 8);
		return;
	}
	put64(sequence, h->sequence);
	for (int i = 0; i < 8; i++)
		nonce[4 + i] ^= sequence[i];
}

/* What is authenticated beside the content: the header (TLS 1.3), or sequence, type, version and plain length (TLS 1.2). */
static size_t make_aad(const struct inplace *p, const struct half *h, unsigned char aad[13], const unsigned char header[HEADER],
                       size_t plain)
{
	if (p->tls13) {
		memcpy(aad, header, HEADER);
		return HEADER;
	}
	put64(aad, h->sequence);
	memcpy(aad + 8, header, 3);
	aad[11] = (unsigned char)(plain >> 8);
	aad[12] = (unsigned char)plain;
	return 13;
}

/* Encrypts n bytes off the front of `from` to `to`, however many chunks they lie in. */
static bool seal_content(struct inplace *p, struct bufs *bufs, struct queue *from, size_t n, unsigned char *to)
{
	while (n > 0) {
		struct chunk *c = queue_front(from, bufs);
		size_t here = c->end - c->start;

		if (here > n)
			here = n;
		if (!aead_update(p->tx.aead, to, c->data + c->start, here))
			return false;
		queue_consume(from, bufs, here);
		to += here;
		n -= here;
	}
	return true;
}

/* Seals the first n bytes of `from` as one record of a content type. */
static bool seal_record(struct record *r, struct inplace *p, unsigned char type, struct queue *from, size_t n)
{
	size_t nonce_len = p->explicit_nonce ? 8 : 0;
	size_t body = nonce_len + n + (p->tls13 ? 1 : 0) + AEAD_TAG;
	struct chunk *c = queue_reserve(r->out, r->bufs, HEADER + body);
	unsigned char nonce[AEAD_NONCE], aad[13], *to;
	size_t aad_len;

	if (!c)
		return false;
	to = c->data + c->end;
	to[0] = p->tls13 ? SSL3_RT_APPLICATION_DATA : type;
	to[1] = to[2] = 3; /* "TLS 1.2" */
	to[3] = (unsigned char)(body >> 8);
	to[4] = (unsigned char)body;
	aad_len = make_aad(p, &p->tx, aad, to, n);
	to += HEADER;
	if (p->explicit_nonce)
		put64(to, p->tx.sequence);
	make_nonce(p, &p->tx, nonce, to);
	to += nonce_len;
	if (!aead_begin(p->tx.aead, nonce, aad, aad_len) || !seal_content(p, r->bufs, from, n, to))
		return false;
	to += n;
	if (p->tls13 && !aead_update(p->tx.aead, to++, &type, 1))
		return false;
	if (!aead_seal(p->tx.aead, to))
		return false;
	c->end += (uint32_t)(HEADER + body);
	r->out->bytes += HEADER + body;
	p->tx.sequence++;
	return true;
}

static bool seal_bytes(struct record *r, struct inplace *p, unsigned char type, const void *data, size_t n)
{
	struct queue q = {0};
	bool ok = queue_write(&q, r->bufs, data, n) == 0 && seal_record(r, p, type, &q, n);

	queue_clear(&q, r->bufs);
	return ok;
}

static struct tls *tls_of(struct record *r)
{
	return container_of(r, struct tls, record);
}

/* Says why it is over; always RECORD_FAILED. */
static enum record_result broken(struct record *r, const char *call, const char *why)
{
	struct tls *tls = tls_of(r);
	char text[ADDR_TEXT_MAX];

	if (tls->section->debug >= LOG_ERR)
		log_write(LOG_ERR, tls->log_id, "%s: %s: client %s", call, why, addr_text(tls->peer, text));
	ERR_clear_error(); /* OpenSSL's ciphers and derivations may have left something there */
	return RECORD_FAILED;
}

static bool send_alert(struct record *r, struct inplace *p, unsigned char level, unsigned char alert)
{
	unsigned char bytes[2] = {level, alert};
	struct tls *tls = tls_of(r);

	if (tls->section->debug >= LOG_DEBUG)
		log_write(LOG_DEBUG, tls->log_id, "TLS alert (write): %s: %s", SSL_alert_type_string_long(level << 8),
		          SSL_alert_desc_string_long(alert));
	return seal_bytes(r, p, SSL3_RT_ALERT, bytes, sizeof(bytes));
}

/* Tells the peer that it is over and why, if it still listens; always RECORD_FAILED. */
static enum record_result fail(struct record *r, struct inplace *p, unsigned char alert, const char *why)
{
	if (!p->closed && send_alert(r, p, SSL3_AL_FATAL, alert))
		tls_of(r)->alert_sent = true;
	return broken(r, "SSL_read", why);
}

/* Our own KeyUpdate, then the new keys (RFC 8446 4.6.3). */
static bool update_tx(struct record *r, struct inplace *p)
{
	static const unsigned char message[] = {SSL3_MT_KEY_UPDATE, 0, 0, 1, SSL_KEY_UPDATE_NOT_REQUESTED};

	return seal_bytes(r, p, SSL3_RT_HANDSHAKE, message, sizeof(message)) &&
	       tls_secret_update(p->digest, p->tx.secret, p->secret_len) && half_keys(p, &p->tx, true);
}

static enum record_result inplace_seal(struct record *r, struct queue *plain)
{
	struct inplace *p = tls_of(r)->inplace;

	while (plain->bytes > 0) {
		size_t n = plain->bytes < p->plain_max ? plain->bytes : p->plain_max;

		if (p->tls13 && p->tx.sequence >= inplace_records_per_key && !update_tx(r, p))
			return broken(r, "SSL_write", "no memory for new keys");
		if (!seal_record(r, p, SSL3_RT_APPLICATION_DATA, plain, n))
			return broken(r, "SSL_write", "no memory for a record");
	}
	return RECORD_OK;
}

static enum record_result inplace_close(struct record *r)
{
	struct inplace *p = tls_of(r)->inplace;

	if (p->closed)
		return RECORD_OK;
	p->closed = true;
	return send_alert(r, p, SSL3_AL_WARNING, SSL_AD_CLOSE_NOTIFY) ? RECORD_OK
	                                                              : broken(r, "SSL_shutdown", "no memory for a record");
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
static bool open_content(struct inplace *p, const struct queue *from, size_t offset, size_t n, unsigned char *to)
{
	size_t here;

	for (; n > 0; to += here, offset += here, n -= here) {
		const unsigned char *piece = queue_at(from, offset, n, &here);

		if (!aead_update(p->rx.aead, to, piece, here))
			return false;
	}
	return true;
}

/* A record's plaintext and what it is. */
struct opened {
	unsigned char type;
	unsigned char *data;
	size_t n;
};

/* Opens the record at the front of `in`, of `body` bytes after its header, into `to`. False: it is not genuine. */
static bool open_record(struct inplace *p, const struct queue *in, const unsigned char header[HEADER], size_t body,
                        unsigned char *to, struct opened *o)
{
	size_t nonce_len = p->explicit_nonce ? 8 : 0;
	size_t n = body - nonce_len - AEAD_TAG;
	unsigned char nonce[AEAD_NONCE], aad[13], tag[AEAD_TAG], explicit_part[8];
	size_t aad_len = make_aad(p, &p->rx, aad, header, n);

	peek(in, HEADER, explicit_part, nonce_len);
	make_nonce(p, &p->rx, nonce, explicit_part);
	peek(in, HEADER + body - AEAD_TAG, tag, AEAD_TAG);
	if (!aead_begin(p->rx.aead, nonce, aad, aad_len) || !open_content(p, in, HEADER + nonce_len, n, to) ||
	    !aead_open(p->rx.aead, tag))
		return false;
	p->rx.sequence++;
	*o = (struct opened){.type = header[0], .data = to, .n = n};
	if (p->tls13) { /* TLSInnerPlaintext: content, type, zeros */
		while (o->n > 0 && to[o->n - 1] == 0)
			o->n--;
		o->type = o->n > 0 ? to[--o->n] : 0;
	}
	return true;
}

/*
 * True if the connection lives on after an alert. In TLS 1.3 the level says nothing, and only user_canceled, which comes before close_notify,
 * is no end (RFC 8446 6); in TLS 1.2 warnings are not (RFC 5246 7.2).
 */
static bool is_harmless(const struct inplace *p, unsigned char level, unsigned char alert)
{
	return p->tls13 ? alert == SSL_AD_USER_CANCELLED : level == SSL3_AL_WARNING;
}

static enum record_result take_alert(struct record *r, struct inplace *p, const struct opened *o)
{
	struct tls *tls = tls_of(r);
	char text[64];

	if (o->n != 2)
		return fail(r, p, SSL_AD_DECODE_ERROR, "malformed alert");
	if (!p->tls13 && o->data[0] != SSL3_AL_WARNING && o->data[0] != SSL3_AL_FATAL)
		return fail(r, p, SSL_AD_ILLEGAL_PARAMETER, "alert of no known level");
	if (tls->section->debug >= LOG_DEBUG)
		log_write(LOG_DEBUG, tls->log_id, "TLS alert (read): %s: %s", SSL_alert_type_string_long(o->data[0] << 8),
		          SSL_alert_desc_string_long(o->data[1]));
	if (o->data[1] == SSL_AD_CLOSE_NOTIFY)
		return RECORD_CLOSED;
	if (is_harmless(p, o->data[0], o->data[1]))
		return RECORD_OK;
	tls->alert_received = true;
	snprintf(text, sizeof(text), "alert %s", SSL_alert_desc_string_long(o->data[1]));
	return broken(r, "SSL_read", text);
}

/* It must end its record, for the keys change behind it (RFC 8446 5.1). */
static enum record_result take_key_update(struct record *r, struct inplace *p, unsigned char request, bool last)
{
	if (request > SSL_KEY_UPDATE_REQUESTED)
		return fail(r, p, SSL_AD_ILLEGAL_PARAMETER, "malformed KeyUpdate");
	if (!last)
		return fail(r, p, SSL_AD_UNEXPECTED_MESSAGE, "data behind a KeyUpdate");
	if (!tls_secret_update(p->digest, p->rx.secret, p->secret_len) || !half_keys(p, &p->rx, false))
		return fail(r, p, SSL_AD_INTERNAL_ERROR, "no memory for new keys");
	if (request == SSL_KEY_UPDATE_REQUESTED && !p->closed && !update_tx(r, p))
		return broken(r, "SSL_read", "no memory for new keys");
	return RECORD_OK;
}

/* TLS 1.2: the peer wants another handshake. We cannot, and by default need not: a warning says so (RFC 5246 7.2.2). */
static enum record_result refuse_renegotiation(struct record *r, struct inplace *p)
{
	struct tls *tls = tls_of(r);

	if (!tls->section->renegotiation) {
		if (tls->section->debug >= LOG_WARNING)
			log_write(LOG_WARNING, tls->log_id, "Aborting due to renegotiation request");
		tls->renegotiating = true;
		return RECORD_FAILED;
	}
	if (p->closed || send_alert(r, p, SSL3_AL_WARNING, SSL_AD_NO_RENEGOTIATION))
		return RECORD_OK;
	return broken(r, "SSL_read", "no memory for a record");
}

/* The head of a TLS 1.3 message is there: after the handshake there are KeyUpdates, and tickets for clients. */
static enum record_result take_head(struct record *r, struct inplace *p)
{
	bool ticket = p->head[0] == SSL3_MT_NEWSESSION_TICKET && tls_of(r)->section->client;

	p->body_left = (size_t)p->head[1] << 16 | (size_t)p->head[2] << 8 | p->head[3];
	if (!ticket && p->head[0] != SSL3_MT_KEY_UPDATE)
		return fail(r, p, SSL_AD_UNEXPECTED_MESSAGE, "unexpected handshake message");
	if (p->body_left == 0 || p->body_left > (ticket ? TICKET_MAX : 1))
		return fail(r, p, SSL_AD_DECODE_ERROR, "malformed handshake message");
	return RECORD_OK;
}

/* Takes what a TLS 1.3 record has of a message from a place on: a part of its head, or of its body. */
static enum record_result take_part(struct record *r, struct inplace *p, const struct opened *o, size_t *at)
{
	size_t n = o->n - *at;

	if (p->head_len < MESSAGE_HEAD) {
		p->head[p->head_len++] = o->data[(*at)++];
		return p->head_len == MESSAGE_HEAD ? take_head(r, p) : RECORD_OK;
	}
	if (n > p->body_left)
		n = p->body_left;
	*at += n;
	p->body_left -= n;
	if (p->body_left > 0)
		return RECORD_OK;
	p->head_len = 0;
	if (p->head[0] == SSL3_MT_KEY_UPDATE)
		return take_key_update(r, p, o->data[*at - 1], *at == o->n);
	return RECORD_OK; /* a ticket later than those we waited for */
}

static enum record_result take_handshake(struct record *r, struct inplace *p, const struct opened *o)
{
	unsigned char wants_another = tls_of(r)->section->client ? SSL3_MT_HELLO_REQUEST : SSL3_MT_CLIENT_HELLO;
	enum record_result result = RECORD_OK;

	if (!p->tls13 && o->n > 0 && o->data[0] == wants_another)
		return refuse_renegotiation(r, p);
	if (!p->tls13 || o->n == 0)
		return fail(r, p, SSL_AD_UNEXPECTED_MESSAGE, "unexpected handshake message");
	for (size_t at = 0; result == RECORD_OK && at < o->n;)
		result = take_part(r, p, o, &at);
	return result;
}

/* Everything that is not application data. */
static enum record_result take_other(struct record *r, struct inplace *p, const struct opened *o)
{
	if (++p->idle_records > IDLE_RECORDS_MAX)
		return fail(r, p, SSL_AD_UNEXPECTED_MESSAGE, "too many records without data");
	switch (o->type) {
	case SSL3_RT_APPLICATION_DATA: return RECORD_OK; /* an empty one */
	case SSL3_RT_ALERT: return take_alert(r, p, o);
	case SSL3_RT_HANDSHAKE: return take_handshake(r, p, o);
	default: return fail(r, p, SSL_AD_UNEXPECTED_MESSAGE, "unexpected record type");
	}
}

/* Looks at the header in front: how long the record is. False if it cannot be one, with the alert to send. */
static bool check_header(const struct inplace *p, const unsigned char header[HEADER], size_t *body, unsigned char *alert)
{
	size_t least = p->tls13 ? 1 + AEAD_TAG : (p->explicit_nonce ? 8 : 0) + AEAD_TAG;

	*body = (size_t)header[3] << 8 | header[4];
	if (header[1] != 3 || (p->tls13 && header[0] != SSL3_RT_APPLICATION_DATA))
		*alert = SSL_AD_UNEXPECTED_MESSAGE;
	else if (*body > (p->tls13 ? SEALED_MAX_13 : SEALED_MAX_12))
		*alert = SSL_AD_RECORD_OVERFLOW;
	else if (*body < least)
		*alert = SSL_AD_BAD_RECORD_MAC;
	else
		return true;
	return false;
}

static enum record_result open_next(struct record *r, struct inplace *p, const unsigned char header[HEADER], size_t body,
                                    struct queue *plain)
{
	struct chunk *c = queue_reserve(plain, r->bufs, body);
	enum record_result result;
	struct opened o;

	if (!c)
		return broken(r, "SSL_read", "no memory for a record");
	if (!open_record(p, r->in, header, body, c->data + c->end, &o))
		return fail(r, p, SSL_AD_BAD_RECORD_MAC, "bad record mac");
	queue_consume(r->in, r->bufs, HEADER + body);
	if (o.n > p->plain_max)
		return fail(r, p, SSL_AD_RECORD_OVERFLOW, "record overflow");
	if (o.type == SSL3_RT_APPLICATION_DATA && p->head_len > 0) /* RFC 8446 5.1 */
		return fail(r, p, SSL_AD_UNEXPECTED_MESSAGE, "data inside a handshake message");
	if (o.type == SSL3_RT_APPLICATION_DATA && o.n > 0) {
		p->idle_records = 0;
		c->end += (uint32_t)o.n;
		plain->bytes += o.n;
		return RECORD_OK;
	}
	result = take_other(r, p, &o);
	OPENSSL_cleanse(o.data, o.n);
	return result;
}

static enum record_result inplace_open(struct record *r, struct queue *plain, size_t limit)
{
	struct inplace *p = tls_of(r)->inplace;
	enum record_result result = RECORD_OK;

	while (result == RECORD_OK && r->in->bytes >= HEADER) {
		unsigned char header[HEADER] = { 0 }, alert;
		size_t body;

		peek(r->in, 0, header, HEADER);
		if (!check_header(p, header, &body, &alert))
			return fail(r, p, alert, "malformed record");
		if (r->in->bytes < HEADER + body)
			break;
		if (plain->bytes >= limit)
			return RECORD_MORE;
		result = open_next(r, p, header, body, plain);
	}
	return result;
}

const struct record_engine record_inplace = {
	.name = "inplace",
	.open = inplace_open,
	.seal = inplace_seal,
	.close = inplace_close,
};
