/*
 * Session ticket keys of a section, shared by all workers: random ones that change by themselves, those of ticketKeySecret and
 * ticketMacSecret, or those of ticketKeyFile. A ticket is name 16, IV 16, AES-CBC of the session, HMAC-SHA256 32 (RFC 5077 4).
 * For tls*.c only.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_TLS_TICKETS_H
#define TLSPLICE_TLS_TICKETS_H

#include "config.h"

#include <openssl/types.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	TICKET_NAME = 16,
	TICKET_IV = 16,
	TICKET_TAG = 32,
	TICKET_SECRET_MAX = 32, /* AES-256, and HMAC keys as long as that */
	TICKET_KEYS_MAX = 64,   /* of all files of a section: each is looked at for every ticket */
	TICKET_FILE_MAX = 65536,
};

struct ticket_key {
	unsigned char name[TICKET_NAME];
	unsigned char aes[TICKET_SECRET_MAX], mac[TICKET_SECRET_MAX];
	size_t aes_len, mac_len; /* 16 or 32 */
	uint64_t until_s;        /* good for opening until then; UINT64_MAX: as long as it is here */
};

/* A set of keys, which never changes: a new one takes its place. */
struct ticket_keys {
	atomic_uint refs;
	size_t count;
	size_t seals;     /* the key that new tickets are made with */
	bool any_name;    /* tickets are told by their MAC alone */
	uint64_t renew_s; /* random keys: when another set is due (CLOCK_BOOTTIME); UINT64_MAX: never */
	struct ticket_key key[];
};

struct tls_tickets;

/* What a worker holds of it: the newest set that it has seen, and the ciphers of its library context. Zeroed is "nothing yet". */
struct tickets_view {
	struct ticket_keys *keys;
	unsigned version;
	EVP_CIPHER *aes_128, *aes_256;
	EVP_MAC *hmac;
};

/* Reads what the section says. Returns NULL after logging why. */
struct tls_tickets *tls_tickets_new(const struct section *section);
void tls_tickets_free(struct tls_tickets *tickets);

/* Reads ticketKeyFile again, if there is any. False after logging why: the keys stay. Callable from any thread. */
bool tls_tickets_reload(struct tls_tickets *tickets, const struct section *section);

bool tickets_view_open(struct tickets_view *view, OSSL_LIB_CTX *library);
void tickets_view_close(struct tickets_view *view);

/* The keys in force, which stay until the view's next call. NULL without memory for new ones. */
const struct ticket_keys *tickets_look(struct tls_tickets *tickets, struct tickets_view *view);

/*
 * What SSL_CTX_set_tlsext_ticket_key_evp_cb(3) wants of its callback: `seal`: writes a name and an IV, and sets both contexts up; else sets them up for
 * the ticket's. Returns 1, 2 (good, and time for a new one), 0 (no key for it) or -1.
 */
int tickets_set_up(struct tls_tickets *tickets, struct tickets_view *view, unsigned char *name, unsigned char *iv,
                   EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac, bool seal);

/* Bytes that sealing adds, at most. */
enum { TICKET_OVERHEAD = TICKET_NAME + TICKET_IV + 16 + TICKET_TAG };

/* Makes a ticket of n bytes, in room for n + TICKET_OVERHEAD more. Returns its size, or 0 without memory. */
size_t tickets_seal(struct tls_tickets *tickets, struct tickets_view *view, const unsigned char *plain, size_t n,
                    unsigned char *sealed);

/* What is in a ticket, which may be anybody's: `plain` has room for n bytes. Returns the size, or 0 if none of the keys made it. */
size_t tickets_open(struct tls_tickets *tickets, struct tickets_view *view, const unsigned char *sealed, size_t n,
                    unsigned char *plain);

/*
 * The keys in a file's bytes: 48 or 80 raw ones as nginx has them (name, AES-128 key, MAC key; or name, MAC key, AES-256 key), else lines of base64 as
 * haproxy has them (name, AES key, MAC key in 48 or 80 bytes). Appends up to `room` keys and returns how many, or 0 with *wrong set.
 * `*seals`: the one of them that is to make new tickets, which among lines is the last but one.
 */
size_t ticket_keys_parse(const unsigned char *bytes, size_t n, struct ticket_key *keys, size_t room, size_t *seals,
                         const char **wrong);

#endif
