/*
 * Records by the kernel: the socket takes and gives application data as if it were plain, and other records beside it with their content type.
 * A direction comes here from record_inplace.c, at a record boundary. See record_keyed.h, and kernel-notes/ktls.md for the traps.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "record_keyed.h"

#include "list.h"
#include "tls.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/ssl.h>
#include <string.h>

static int install(struct keyed *k, struct half *h, uint64_t sequence)
{
	int error = ktls_install(k->fd, h->sends ? KTLS_SEND : KTLS_RECEIVE, k->tls13 ? KTLS_13 : KTLS_12, k->cipher, &h->keys,
	                         sequence);

	if (!error)
		OPENSSL_cleanse(&h->keys, sizeof(h->keys)); /* those that follow come from the secret */
	return error;
}

int kernel_take(struct keyed *k, struct half *h, int fd)
{
	int error = ktls_attach(fd);

	k->fd = fd;
	if (!error)
		error = install(k, h, h->sequence);
	if (error)
		return error;
	/* From here on the kernel counts this direction's records: our keys are of no use any more. */
	h->kind = &half_kernel;
	aead_free(h->aead);
	h->aead = NULL;
	return 0;
}

/* Receiving: at once, for the kernel waits for them. Sending: behind our KeyUpdate, which is still in the queue. */
static bool kernel_rekey(struct keyed *k, struct half *h)
{
	h->sequence = 0;
	if (h->sends) {
		h->changing = true;
		return true;
	}
	h->changed = install(k, h, 0) == 0;
	return h->changed;
}

bool kernel_written(struct record *r, struct keyed *k, unsigned char type)
{
	struct half *h = &k->tx;

	if (type != SSL3_RT_HANDSHAKE || !h->changing)
		return true;
	h->changing = false;
	if (install(k, h, 0) == 0)
		return true;
	keyed_broken(r, "SSL_write", "the kernel refused new keys");
	return false;
}

static bool kernel_write(struct record *r, struct keyed *k, unsigned char type, const void *data, size_t n)
{
	k->tx.sequence++;
	return queue_write_record(r->out, r->bufs, type, data, n);
}

static void count(struct keyed *k, size_t n)
{
	k->tx.sequence += n / PLAIN_MAX + 1;
}

enum record_result kernel_count(struct record *r, struct keyed *k, size_t n)
{
	count(k, n);
	return keyed_renew(r, k);
}

static enum record_result kernel_seal(struct record *r, struct keyed *k, struct queue *plain)
{
	const struct chunk *c;

	/* Each chunk is sent by a call of its own. A KeyUpdate goes between two of them: what is behind it counts for the new key. */
	while ((c = queue_front(plain, r->bufs))) {
		if (keyed_renew(r, k) != RECORD_OK)
			return RECORD_FAILED;
		count(k, c->end - c->start);
		queue_append(r->out, queue_take(plain));
	}
	return RECORD_OK;
}

static enum record_result kernel_open(struct record *r, struct keyed *k, struct queue *plain, size_t limit)
{
	enum record_result result = RECORD_OK;
	struct chunk *c;

	while (result == RECORD_OK && (c = queue_front(r->in, r->bufs))) {
		struct opened o = {.type = (unsigned char)c->content, .data = c->data + c->start, .n = c->end - c->start};

		k->rx.changed = false; /* a read that began before the change brings nothing more */
		if (c->content) {
			result = keyed_take(r, k, &o);
			OPENSSL_cleanse(o.data, o.n);
			queue_consume(r->in, r->bufs, o.n);
		} else if (k->head_len > 0) { /* RFC 8446 5.1 */
			result = keyed_fail(r, k, SSL_AD_UNEXPECTED_MESSAGE, "data inside a handshake message");
		} else if (plain->bytes >= limit) {
			result = RECORD_MORE;
		} else {
			k->idle_records = 0;
			queue_append(plain, queue_take(r->in));
		}
	}
	return result;
}

/* Gives the kernel the keys in force once more, which lets it go on. */
static bool install_again(struct keyed *k, struct half *h)
{
	uint64_t sequence;

	return ktls_sequence(k->fd, KTLS_RECEIVE, k->cipher, &sequence) == 0 && keyed_derive(k, h) &&
	       install(k, h, sequence) == 0;
}

/*
 * The kernel stops when a record begins like a KeyUpdate, until it is given keys, and only then. We change keys when the whole message is there, which
 * may be before that, or later: with the rest of it in the next record, or with a message before it in the same one.
 */
static enum record_result stopped(struct record *r, struct keyed *k)
{
	struct half *h = &k->rx;

	if (h->changed)
		h->changed = false;
	else if (r->in->bytes == 0 && !(k->head_len > 0 && install_again(k, h)))
		return keyed_fail(r, k, SSL_AD_INTERNAL_ERROR, "the kernel waits for keys");
	return RECORD_OK;
}

/* What the kernel says of a record that it does not take. */
static const struct {
	int error;
	unsigned char alert;
	const char *why;
} refusals[] = {
	{EBADMSG, SSL_AD_BAD_RECORD_MAC, "bad record mac"},
	{EMSGSIZE, SSL_AD_RECORD_OVERFLOW, "record overflow"},
	{EINVAL, SSL_AD_UNEXPECTED_MESSAGE, "malformed record"},
	{EPROTO, SSL_AD_UNEXPECTED_MESSAGE, "empty record"}, /* ours: ktls_result() */
};

enum record_result kernel_read_failed(struct record *r, struct keyed *k, int error, bool *own)
{
	*own = k->rx.kind == &half_kernel;
	if (!*own)
		return RECORD_OK;
	/* The next record was tried before we had changed the keys. */
	if (error == -EBADMSG && k->rx.changed)
		ktls_clear_error(k->fd);
	if (error == -EKEYEXPIRED || (error == -EBADMSG && k->rx.changed))
		return stopped(r, k);
	for (size_t i = 0; i < sizeof(refusals) / sizeof(*refusals); i++) {
		if (error != -refusals[i].error)
			continue;
		ktls_clear_error(k->fd);
		return keyed_fail(r, k, refusals[i].alert, refusals[i].why);
	}
	*own = false;
	return RECORD_OK;
}

const struct half_kind half_kernel = {
	.seal = kernel_seal,
	.write = kernel_write,
	.open = kernel_open,
	.rekey = kernel_rekey,
};
