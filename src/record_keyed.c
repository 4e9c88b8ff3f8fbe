/*
 * The record layer of our own: what TLS 1.3 (RFC 8446) and TLS 1.2 with an AEAD cipher (RFC 5246, RFC 5288, RFC 6655, RFC 7905) say beside
 * application data once the handshake is over: alerts, KeyUpdate, tickets, and refusing renegotiation. See record_keyed.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "record_keyed.h"

#include "list.h"
#include "log.h"
#include "tls.h"

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdlib.h>
#include <string.h>

enum {
	TICKET_MAX = 4 + 4 + 1 + 255 + 2 + 65535 + 2 + 65534, /* the longest NewSessionTicket: 4.6.1 */
	/* Records in a row that carry no application data: KeyUpdates, warnings, empty ones. A peer with more to say than this is up to something. */
	IDLE_RECORDS_MAX = 128,
};

uint64_t keyed_records_per_key;

/*
 * Less than what is safe, since sends that the kernel cuts short make a few records more than we count: 2^24.5 with AES-GCM, any number with
 * ChaCha20-Poly1305 (RFC 8446 5.5), 2^23 with AES-CCM (RFC 9147 4.5.3).
 */
static const uint64_t records_per_key[AEAD_CIPHERS] = {
	[AEAD_AES_128_GCM] = 1 << 24,
	[AEAD_AES_256_GCM] = 1 << 24,
	[AEAD_CHACHA20_POLY1305] = UINT64_MAX,
	[AEAD_AES_128_CCM] = 1 << 22,
};

static struct tls *tls_of(struct record *r)
{
	return container_of(r, struct tls, record);
}

/* --- keys --------------------------------------------------------------------------------------------------------------------------- */

static void half_free(struct half *h)
{
	aead_free(h->aead);
	OPENSSL_cleanse(h, sizeof(*h));
}

void keyed_free(struct keyed *k)
{
	if (!k)
		return;
	half_free(&k->rx);
	half_free(&k->tx);
	free(k);
}

bool keyed_derive(struct keyed *k, struct half *h)
{
	return tls_keys_from_secret(&h->keys, k->cipher, k->digest, h->secret, k->secret_len);
}

static bool start_13(struct keyed *k, const struct tls_traffic *traffic, bool client)
{
	k->tls13 = true;
	k->secret_len = traffic->secret_len;
	memcpy(k->rx.secret, client ? traffic->server : traffic->client, k->secret_len);
	memcpy(k->tx.secret, client ? traffic->client : traffic->server, k->secret_len);
	return keyed_derive(k, &k->rx) && keyed_derive(k, &k->tx);
}

static bool start_12(struct keyed *k, const SSL *ssl, bool client)
{
	k->explicit_nonce = k->cipher != AEAD_CHACHA20_POLY1305;
	return tls_keys_from_master(client ? &k->tx.keys : &k->rx.keys, client ? &k->rx.keys : &k->tx.keys, k->cipher, k->digest, ssl);
}

bool keyed_find_cipher(const SSL *ssl, enum aead_cipher *cipher)
{
	const SSL_CIPHER *suite = SSL_get_current_cipher(ssl);

	switch (SSL_CIPHER_get_cipher_nid(suite)) {
	case NID_aes_128_gcm: *cipher = AEAD_AES_128_GCM; return true;
	case NID_aes_256_gcm: *cipher = AEAD_AES_256_GCM; return true;
	case NID_chacha20_poly1305: *cipher = AEAD_CHACHA20_POLY1305; return true;
	case NID_aes_128_ccm: /* not with the tag of 8 bytes: CCM8, CCM_8 */
		*cipher = AEAD_AES_128_CCM;
		return !strchr(strstr(SSL_CIPHER_get_name(suite), "CCM"), '8');
	default: return false;
	}
}

size_t keyed_plain_max(const SSL *ssl)
{
	unsigned fragment = SSL_SESSION_get_max_fragment_length(SSL_get0_session(ssl));

	return fragment ? 256u << fragment : PLAIN_MAX;
}

struct keyed *keyed_new(const SSL *ssl, const struct tls_traffic *traffic, bool client)
{
	const SSL_CIPHER *suite = SSL_get_current_cipher(ssl);
	struct keyed *k = calloc(1, sizeof(*k));
	bool ok = k && keyed_find_cipher(ssl, &k->cipher);

	if (ok) {
		snprintf(k->digest, sizeof(k->digest), "%s", EVP_MD_get0_name(SSL_CIPHER_get_handshake_digest(suite)));
		k->plain_max = keyed_plain_max(ssl);
		k->tx.sends = true;
		k->rx.kind = k->tx.kind = &half_inplace;
		ok = (SSL_version(ssl) == TLS1_3_VERSION ? start_13(k, traffic, client) : start_12(k, ssl, client)) &&
		     half_inplace.rekey(k, &k->rx) && half_inplace.rekey(k, &k->tx);
	}
	if (ok) {
		k->rx.sequence = traffic->read;
		k->tx.sequence = traffic->written;
		return k;
	}
	keyed_free(k);
	return NULL;
}

/* The next secret of a direction and its keys. */
static bool half_update(struct keyed *k, struct half *h)
{
	return tls_secret_update(k->digest, h->secret, k->secret_len) && keyed_derive(k, h) && h->kind->rekey(k, h);
}

/* --- sending ------------------------------------------------------------------------------------------------------------------------ */

enum record_result keyed_broken(struct record *r, const char *call, const char *why)
{
	struct tls *tls = tls_of(r);
	char text[ADDR_TEXT_MAX];

	if (tls->section->debug >= LOG_ERR)
		log_write(LOG_ERR, tls->log_id, "%s: %s: client %s", call, why, addr_text(tls->peer, text));
	ERR_clear_error(); /* OpenSSL's ciphers and derivations may have left something there */
	return RECORD_FAILED;
}

static bool send_alert(struct record *r, struct keyed *k, unsigned char level, unsigned char alert)
{
	unsigned char bytes[2] = {level, alert};
	struct tls *tls = tls_of(r);

	if (tls->section->debug >= LOG_DEBUG)
		log_write(LOG_DEBUG, tls->log_id, "TLS alert (write): %s: %s", SSL_alert_type_string_long(level << 8),
		          SSL_alert_desc_string_long(alert));
	return k->tx.kind->write(r, k, SSL3_RT_ALERT, bytes, sizeof(bytes));
}

enum record_result keyed_fail(struct record *r, struct keyed *k, unsigned char alert, const char *why)
{
	if (!k->closed && send_alert(r, k, SSL3_AL_FATAL, alert))
		tls_of(r)->alert_sent = true;
	return keyed_broken(r, "SSL_read", why);
}

/* TLS 1.3: our own KeyUpdate, then the next keys (RFC 8446 4.6.3). */
static bool update_tx(struct record *r, struct keyed *k)
{
	static const unsigned char message[] = {SSL3_MT_KEY_UPDATE, 0, 0, 1, SSL_KEY_UPDATE_NOT_REQUESTED};

	return k->tx.kind->write(r, k, SSL3_RT_HANDSHAKE, message, sizeof(message)) && half_update(k, &k->tx);
}

static bool is_worn(const struct keyed *k)
{
	return k->tx.sequence >= (keyed_records_per_key ? keyed_records_per_key : records_per_key[k->cipher]);
}

enum record_result keyed_renew(struct record *r, struct keyed *k)
{
	if (!k->tls13 || !is_worn(k) || k->tx.changing)
		return RECORD_OK;
	if (k->tx.kind == &half_kernel && !ktls_support()->rekey)
		return keyed_broken(r, "SSL_write", "the key is worn, and this kernel cannot change it");
	return update_tx(r, k) ? RECORD_OK : keyed_broken(r, "SSL_write", "no memory for new keys");
}

static enum record_result keyed_seal(struct record *r, struct queue *plain)
{
	struct keyed *k = tls_of(r)->keyed;

	return k->tx.kind->seal(r, k, plain);
}

static enum record_result keyed_close(struct record *r)
{
	struct keyed *k = tls_of(r)->keyed;

	if (k->closed)
		return RECORD_OK;
	k->closed = true;
	return send_alert(r, k, SSL3_AL_WARNING, SSL_AD_CLOSE_NOTIFY) ? RECORD_OK
	                                                              : keyed_broken(r, "SSL_shutdown", "no memory for a record");
}

/* --- receiving: what is not application data ---------------------------------------------------------------------------------------- */

/*
 * True if the connection lives on after an alert. In TLS 1.3 the level says nothing, and only user_canceled, which comes before close_notify,
 * is no end (RFC 8446 6); in TLS 1.2 warnings are not (RFC 5246 7.2).
 */
static bool is_harmless(const struct keyed *k, unsigned char level, unsigned char alert)
{
	return k->tls13 ? alert == SSL_AD_USER_CANCELLED : level == SSL3_AL_WARNING;
}

static enum record_result take_alert(struct record *r, struct keyed *k, const struct opened *o)
{
	struct tls *tls = tls_of(r);
	char text[64];

	if (o->n != 2)
		return keyed_fail(r, k, SSL_AD_DECODE_ERROR, "malformed alert");
	if (!k->tls13 && o->data[0] != SSL3_AL_WARNING && o->data[0] != SSL3_AL_FATAL)
		return keyed_fail(r, k, SSL_AD_ILLEGAL_PARAMETER, "alert of no known level");
	if (tls->section->debug >= LOG_DEBUG)
		log_write(LOG_DEBUG, tls->log_id, "TLS alert (read): %s: %s", SSL_alert_type_string_long(o->data[0] << 8),
		          SSL_alert_desc_string_long(o->data[1]));
	if (o->data[1] == SSL_AD_CLOSE_NOTIFY)
		return RECORD_CLOSED;
	if (is_harmless(k, o->data[0], o->data[1]))
		return RECORD_OK;
	tls->alert_received = true;
	snprintf(text, sizeof(text), "alert %s", SSL_alert_desc_string_long(o->data[1]));
	return keyed_broken(r, "SSL_read", text);
}

/* True if the kernel has a direction that must change its keys now and cannot. */
static bool is_stuck(const struct keyed *k, unsigned char request)
{
	bool rx = k->rx.kind == &half_kernel, tx = k->tx.kind == &half_kernel && request == SSL_KEY_UPDATE_REQUESTED && !k->closed;

	return (rx || tx) && !ktls_support()->rekey;
}

/* It must end its record, for the keys change behind it (RFC 8446 5.1). */
static enum record_result take_key_update(struct record *r, struct keyed *k, unsigned char request, bool last)
{
	if (request > SSL_KEY_UPDATE_REQUESTED)
		return keyed_fail(r, k, SSL_AD_ILLEGAL_PARAMETER, "malformed KeyUpdate");
	if (!last)
		return keyed_fail(r, k, SSL_AD_UNEXPECTED_MESSAGE, "data behind a KeyUpdate");
	if (is_stuck(k, request))
		return keyed_fail(r, k, SSL_AD_INTERNAL_ERROR,
		                  "KeyUpdate: this kernel cannot change the keys of a connection it has (with ktls = auto it has none of TLS 1.3)");
	if (!half_update(k, &k->rx))
		return keyed_fail(r, k, SSL_AD_INTERNAL_ERROR, "no memory for new keys");
	/* One answer will do for several requests (RFC 8446 4.6.3). */
	if (request == SSL_KEY_UPDATE_REQUESTED && !k->closed && !k->tx.changing && !update_tx(r, k))
		return keyed_broken(r, "SSL_read", "no memory for new keys");
	return RECORD_OK;
}

/* TLS 1.2: the peer wants another handshake. We cannot, and by default need not: a warning says so (RFC 5246 7.2.2). */
static enum record_result refuse_renegotiation(struct record *r, struct keyed *k)
{
	struct tls *tls = tls_of(r);

	if (!tls->section->renegotiation) {
		if (tls->section->debug >= LOG_WARNING)
			log_write(LOG_WARNING, tls->log_id, "Aborting due to renegotiation request");
		tls->renegotiating = true;
		return RECORD_FAILED;
	}
	if (k->closed || send_alert(r, k, SSL3_AL_WARNING, SSL_AD_NO_RENEGOTIATION))
		return RECORD_OK;
	return keyed_broken(r, "SSL_read", "no memory for a record");
}

/* The head of a TLS 1.3 message is there: after the handshake there are KeyUpdates, and tickets for clients. */
static enum record_result take_head(struct record *r, struct keyed *k)
{
	bool ticket = k->head[0] == SSL3_MT_NEWSESSION_TICKET && tls_of(r)->section->client;

	k->body_left = (size_t)k->head[1] << 16 | (size_t)k->head[2] << 8 | k->head[3];
	if (!ticket && k->head[0] != SSL3_MT_KEY_UPDATE)
		return keyed_fail(r, k, SSL_AD_UNEXPECTED_MESSAGE, "unexpected handshake message");
	if (k->body_left == 0 || k->body_left > (ticket ? TICKET_MAX : 1))
		return keyed_fail(r, k, SSL_AD_DECODE_ERROR, "malformed handshake message");
	return RECORD_OK;
}

/* Takes what a TLS 1.3 record has of a message from a place on: a part of its head, or of its body. */
static enum record_result take_part(struct record *r, struct keyed *k, const struct opened *o, size_t *at)
{
	size_t n = o->n - *at;

	if (k->head_len < MESSAGE_HEAD) {
		k->head[k->head_len++] = o->data[(*at)++];
		return k->head_len == MESSAGE_HEAD ? take_head(r, k) : RECORD_OK;
	}
	if (n > k->body_left)
		n = k->body_left;
	*at += n;
	k->body_left -= n;
	if (k->body_left > 0)
		return RECORD_OK;
	k->head_len = 0;
	if (k->head[0] == SSL3_MT_KEY_UPDATE)
		return take_key_update(r, k, o->data[*at - 1], *at == o->n);
	return RECORD_OK; /* a ticket later than those we waited for */
}

static enum record_result take_handshake(struct record *r, struct keyed *k, const struct opened *o)
{
	unsigned char wants_another = tls_of(r)->section->client ? SSL3_MT_HELLO_REQUEST : SSL3_MT_CLIENT_HELLO;
	enum record_result result = RECORD_OK;

	if (!k->tls13 && o->n > 0 && o->data[0] == wants_another)
		return refuse_renegotiation(r, k);
	if (!k->tls13 || o->n == 0)
		return keyed_fail(r, k, SSL_AD_UNEXPECTED_MESSAGE, "unexpected handshake message");
	for (size_t at = 0; result == RECORD_OK && at < o->n;)
		result = take_part(r, k, o, &at);
	return result;
}

enum record_result keyed_take(struct record *r, struct keyed *k, const struct opened *o)
{
	if (++k->idle_records > IDLE_RECORDS_MAX)
		return keyed_fail(r, k, SSL_AD_UNEXPECTED_MESSAGE, "too many records without data");
	switch (o->type) {
	case SSL3_RT_APPLICATION_DATA: return RECORD_OK; /* an empty one */
	case SSL3_RT_ALERT: return take_alert(r, k, o);
	case SSL3_RT_HANDSHAKE: return take_handshake(r, k, o);
	default: return keyed_fail(r, k, SSL_AD_UNEXPECTED_MESSAGE, "unexpected record type");
	}
}

static enum record_result keyed_open(struct record *r, struct queue *plain, size_t limit)
{
	struct keyed *k = tls_of(r)->keyed;

	return k->rx.kind->open(r, k, plain, limit);
}

const struct record_engine record_keyed = {
	.name = "keyed",
	.open = keyed_open,
	.seal = keyed_seal,
	.close = keyed_close,
};
