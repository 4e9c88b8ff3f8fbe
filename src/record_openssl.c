/*
 * Record engine `openssl`: SSL_read and SSL_write over a BIO whose two ends are our own queues, so that OpenSSL never touches a socket.
 * Works with every protocol version and cipher. Also carries the handshake (tls.c).
 * SPDX-License-Identifier: Apache-2.0
 */
#include "record_openssl.h"

#include "list.h"
#include "tls.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <string.h>

enum {
	/* Room left for what a record adds to its plaintext: header 5, IV 16, MAC 48, padding 16, content type 1. */
	RECORD_OVERHEAD = 96,
	RECORD_MAX = SSL3_RT_MAX_PLAIN_LENGTH,
	HELLO_MAX = 1 << 16, /* bytes of a ClientHello that are kept: with post-quantum keys and tickets it has a few thousand */
};

static int bio_write(BIO *bio, const char *data, size_t n, size_t *written)
{
	struct record *r = BIO_get_data(bio);

	BIO_clear_retry_flags(bio);
	if (queue_write(r->out, r->bufs, data, n) < 0) {
		ERR_raise(ERR_LIB_BIO, ERR_R_MALLOC_FAILURE);
		return 0;
	}
	*written = n;
	return 1;
}

/* Until the server name is known, what OpenSSL has read may have to be read again by another context. */
static bool keep_hello(struct record *r, const void *data, size_t n)
{
	struct tls *tls = container_of(r, struct tls, record);

	return !tls->keep_hello || (tls->hello.bytes + n <= HELLO_MAX && queue_write(&tls->hello, r->bufs, data, n) == 0);
}

static int bio_read(BIO *bio, char *data, size_t n, size_t *got)
{
	struct record *r = BIO_get_data(bio);

	BIO_clear_retry_flags(bio);
	*got = queue_read(r->in, r->bufs, data, n);
	if (*got > 0 && keep_hello(r, data, *got))
		return 1;
	if (*got > 0) {
		ERR_raise(ERR_LIB_BIO, ERR_R_MALLOC_FAILURE);
		*got = 0;
		return 0;
	}
	BIO_set_retry_read(bio);
	return 0;
}

static long bio_ctrl(BIO *bio, int command, long number, void *pointer)
{
	(void)bio;
	(void)number;
	(void)pointer;
	return command == BIO_CTRL_FLUSH; /* nothing is ever held back */
}

static BIO_METHOD *method;

bool record_bio_init(void)
{
	if (method)
		return true;
	method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "queues");
	return method && BIO_meth_set_write_ex(method, bio_write) && BIO_meth_set_read_ex(method, bio_read) &&
	       BIO_meth_set_ctrl(method, bio_ctrl);
}

BIO *record_bio_new(struct record *record)
{
	BIO *bio = BIO_new(method);

	if (bio) {
		BIO_set_data(bio, record);
		BIO_set_init(bio, 1);
	}
	return bio;
}

static SSL *ssl_of(const struct record *record)
{
	return container_of(record, struct tls, record)->ssl;
}

static bool has_pending(const struct record *record)
{
	return record->in->bytes > 0 || SSL_has_pending(ssl_of(record));
}

static enum record_result no_memory(struct tls *tls, const char *doing)
{
	ERR_raise(ERR_LIB_SSL, ERR_R_MALLOC_FAILURE);
	tls_log_failure(tls, doing);
	return RECORD_FAILED;
}

static enum record_result open_result(struct tls *tls, int code)
{
	switch (SSL_get_error(tls->ssl, code)) {
	case SSL_ERROR_WANT_READ:
	case SSL_ERROR_WANT_WRITE: return RECORD_OK;
	case SSL_ERROR_ZERO_RETURN: return RECORD_CLOSED;
	default: tls_log_failure(tls, "SSL_read"); return RECORD_FAILED;
	}
}

static enum record_result open_all(struct record *r, struct queue *plain, size_t limit)
{
	struct tls *tls = container_of(r, struct tls, record);

	while (has_pending(r)) {
		/* What is decrypted is no longer than what came in; if a record that OpenSSL holds a part of is, it takes one more turn. */
		struct chunk *c;
		size_t n;
		int code;

		if (plain->bytes >= limit)
			return RECORD_MORE;
		c = queue_reserve(plain, r->bufs, r->in->bytes < RECORD_MAX ? r->in->bytes + 1 : RECORD_MAX);
		if (!c)
			return no_memory(tls, "SSL_read");
		ERR_clear_error();
		code = SSL_read_ex(tls->ssl, c->data + c->end, c->room - c->end, &n);
		if (tls->renegotiating)
			return RECORD_FAILED;
		if (!code)
			return open_result(tls, code);
		c->end += (uint32_t)n;
		plain->bytes += n;
	}
	return RECORD_OK;
}

static enum record_result openssl_open(struct record *r, struct queue *plain, size_t limit)
{
	enum record_result result = open_all(r, plain, limit);

	r->busy = SSL_in_init(ssl_of(r)); /* the peer wants another handshake, or has sent a part of a message */
	return result;
}

static enum record_result openssl_seal(struct record *r, struct queue *plain)
{
	struct tls *tls = container_of(r, struct tls, record);
	struct chunk *from;

	while ((from = queue_front(plain, r->bufs))) {
		size_t n = from->end - from->start;
		size_t done;

		if (n > RECORD_MAX)
			n = RECORD_MAX;
		/* One chunk for the whole of it, if it is not there yet: no record is broken over two. */
		if (!queue_reserve(r->out, r->bufs, n + RECORD_OVERHEAD))
			return no_memory(tls, "SSL_write");
		ERR_clear_error();
		if (!SSL_write_ex(tls->ssl, from->data + from->start, n, &done)) {
			tls_log_failure(tls, "SSL_write");
			return RECORD_FAILED;
		}
		queue_consume(plain, r->bufs, done);
	}
	return RECORD_OK;
}

static enum record_result openssl_close(struct record *r)
{
	struct tls *tls = container_of(r, struct tls, record);

	ERR_clear_error();
	if (SSL_shutdown(tls->ssl) < 0 && SSL_get_error(tls->ssl, -1) != SSL_ERROR_WANT_READ) {
		tls_log_failure(tls, "SSL_shutdown");
		return RECORD_FAILED;
	}
	return RECORD_OK;
}

const struct record_engine record_openssl = {
	.name = "openssl",
	.open = openssl_open,
	.seal = openssl_seal,
	.close = openssl_close,
};
