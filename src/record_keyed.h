/*
 * The record layer of our own: a connection whose keys we hold, once OpenSSL has given it up. Each direction's records are made in place
 * (record_inplace.c) or by the kernel (record_kernel.c); what is said in them beside data is the same for both (record_keyed.c).
 * For record_*.c; tls.c hands connections over.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_RECORD_KEYED_H
#define TLSPLICE_RECORD_KEYED_H

#include "ktls.h"
#include "record.h"
#include "tls_traffic.h"

#include <openssl/types.h>
#include <stdbool.h>

enum {
	RECORD_HEADER = 5,
	PLAIN_MAX = 16384, /* RFC 8446 5.1 */
	MESSAGE_HEAD = 4,  /* a handshake message's type and length */
};

struct keyed;
struct half;

/* How the records of a direction are made. */
struct half_kind {
	/* Sending: makes records of all of `plain`. */
	enum record_result (*seal)(struct record *record, struct keyed *keyed, struct queue *plain);
	/* Sending: a record of a content type other than application data. False: no memory. */
	bool (*write)(struct record *record, struct keyed *keyed, unsigned char type, const void *data, size_t n);
	/* Receiving: as record_engine.open(). */
	enum record_result (*open)(struct record *record, struct keyed *keyed, struct queue *plain, size_t limit);
	/* Takes the keys in half->keys into use, from record 0 on. False: the old ones stay. */
	bool (*rekey)(struct keyed *keyed, struct half *half);
};

/* One direction. */
struct half {
	const struct half_kind *kind;
	bool sends;
	struct tls_keys keys;
	unsigned char secret[TRAFFIC_SECRET_MAX]; /* TLS 1.3: what the next keys come from */
	uint64_t sequence; /* number of the next record; kernel, sending: at most so many go under the newest key */
	struct aead *aead; /* in place */
	bool changing;     /* kernel, sending: our KeyUpdate is in the queue, and the keys change behind it */
	bool changed;      /* kernel, receiving: the keys have been changed, and nothing has come since */
};

struct keyed {
	struct half rx, tx;
	enum aead_cipher cipher;
	bool tls13;
	bool explicit_nonce; /* TLS 1.2 AES: 8 bytes of nonce in each record */
	bool closed;         /* our close_notify is out */
	int fd;              /* of a connection that the kernel has a direction of */
	size_t secret_len;
	char digest[16];
	unsigned idle_records;
	size_t plain_max; /* what a record holds at most, either way: RFC 6066 section 4 */
	/* TLS 1.3: the handshake message that is coming in, which may come in pieces. */
	unsigned char head[MESSAGE_HEAD];
	unsigned head_len; /* bytes of its head that have come; 0: none is coming */
	size_t body_left;
};

/*
 * Takes the keys and record numbers of an established connection; both directions are made in place. Returns NULL if the cipher is not one of
 * ours or something fails; the connection is as it was then. OpenSSL must not touch the connection any more once the engine is used.
 */
struct keyed *keyed_new(const SSL *ssl, const struct tls_traffic *traffic, bool client);

/* Wipes the keys. keyed_free(NULL) is fine. */
void keyed_free(struct keyed *keyed);

/* The suite's cipher, if it is one of aead.h. */
bool keyed_find_cipher(const SSL *ssl, enum aead_cipher *cipher);

/* What a record of this connection holds at most. */
size_t keyed_plain_max(const SSL *ssl);

/* TLS 1.3: a key is not used for more records than its cipher allows: then a KeyUpdate is sent. Tests have it sent earlier; 0: the cipher's limit. */
extern uint64_t keyed_records_per_key;

extern const struct record_engine record_keyed;
extern const struct half_kind half_inplace, half_kernel;

/* --- record_inplace.c --------------------------------------------------------------------------------------------------------------- */

/* How many bytes the record that has begun to come in lacks, or its header; 0: the queue ends with a whole one. */
size_t inplace_missing(const struct queue *in);

/* --- record_kernel.c ---------------------------------------------------------------------------------------------------------------- */

/* Gives a direction that is made in place to the kernel. Returns 0, or -errno: nothing has changed. */
int kernel_take(struct keyed *keyed, struct half *half, int fd);

/* A read from the kernel ended with an error (-errno): RECORD_OK if the connection lives on, or the error is not of TLS: see `own`. */
enum record_result kernel_read_failed(struct record *record, struct keyed *keyed, int error, bool *own);

/* Application data that is sent by one call, which ends its last record, however the kernel divides it. Changes the keys in time. */
enum record_result kernel_count(struct record *record, struct keyed *keyed, size_t n);

/* A record that half_kernel wrote has gone. False: the connection is over. */
bool kernel_written(struct record *record, struct keyed *keyed, unsigned char type);

/* --- record_keyed.c, for the two above ---------------------------------------------------------------------------------------------- */

/* What was in a record. */
struct opened {
	unsigned char type;
	unsigned char *data;
	size_t n;
};

/* Takes a record without application data. */
enum record_result keyed_take(struct record *record, struct keyed *keyed, const struct opened *opened);

/* Before a record of application data is made: changes our keys if they are worn (RFC 8446 5.5). */
enum record_result keyed_renew(struct record *record, struct keyed *keyed);

/* TLS 1.3: half->keys of the secret in force. False: no memory. */
bool keyed_derive(struct keyed *keyed, struct half *half);

/* Tells the peer that it is over and why, if it still listens, and the log; always RECORD_FAILED. */
enum record_result keyed_fail(struct record *record, struct keyed *keyed, unsigned char alert, const char *why);

/* Says why it is over; always RECORD_FAILED. */
enum record_result keyed_broken(struct record *record, const char *call, const char *why);

#endif
