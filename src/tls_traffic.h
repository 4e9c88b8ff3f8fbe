/*
 * Traffic keys: what of a connection's secrets a record engine of our own needs, taken from OpenSSL through its public interface:
 * the key log callback (TLS 1.3) or the master secret (TLS 1.2), and the message callback, which counts records. For tls*.c and record_*.c.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_TLS_TRAFFIC_H
#define TLSPLICE_TLS_TRAFFIC_H

#include "aead.h"

#include <openssl/types.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { TRAFFIC_SECRET_MAX = 48 };

/* Kept by a connection while OpenSSL has it. */
struct tls_traffic {
	unsigned char client[TRAFFIC_SECRET_MAX],
		server[TRAFFIC_SECRET_MAX]; /* TLS 1.3 application traffic secrets, RFC 8446 7.1 */
	size_t secret_len;
	bool client_known, server_known; /* the secrets */
	uint64_t written, read;          /* records under the present keys */
	bool tickets;                    /* client: the server has sent a session ticket */
	bool rekeyed;                    /* a KeyUpdate went by: the secrets are old */
	bool partial;                    /* a handshake record has been read, the message in it is not complete */
};

/* One direction's keys. */
struct tls_keys {
	unsigned char key[AEAD_KEY_MAX];
	unsigned char iv[AEAD_NONCE]; /* TLS 1.2 AES-GCM: 4 bytes of it, the rest comes with each record */
};

/* SSL_CTX_set_keylog_callback(3), SSL_CTX_set_msg_callback(3). */
void tls_traffic_keylog(struct tls_traffic *traffic, const char *line);
void tls_traffic_message(struct tls_traffic *traffic, bool write, int version, int type, const unsigned char *data, size_t n);

/* Key and IV of a TLS 1.3 traffic secret (RFC 8446 7.3). `digest` is the cipher suite's, such as "SHA256". */
bool tls_keys_from_secret(struct tls_keys *keys, enum aead_cipher cipher, const char *digest, const unsigned char *secret,
                          size_t n);

/* The next traffic secret in place of the present one (RFC 8446 7.2). */
bool tls_secret_update(const char *digest, unsigned char *secret, size_t n);

/* Both directions' keys of a TLS 1.2 connection (RFC 5246 6.3). */
bool tls_keys_from_master(struct tls_keys *client, struct tls_keys *server, enum aead_cipher cipher, const char *digest,
                          const SSL *ssl);

#endif
