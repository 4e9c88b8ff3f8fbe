/*
 * For the fuzz targets of the record layer: established connections, from which each input starts anew.
 * Included by tests/fuzz/fuzz_record.c and fuzz_kernel_records.c only.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_MEETING_H
#define TLSPLICE_MEETING_H

#include "../unit/record_testing.h"

#include <stdlib.h>

/* Our side, and what the peer would go on with. */
struct meeting {
	SSL *ours;
	struct tls_traffic our_traffic, peer_traffic;
	struct forger forger;
};

static inline void keylog(const SSL *ssl, const char *line)
{
	tls_traffic_keylog(SSL_get_app_data(ssl), line);
}

static inline void message(int write, int version, int type, const void *bytes, size_t n, SSL *ssl, void *arg)
{
	(void)arg;
	tls_traffic_message(SSL_get_app_data(ssl), write, version, type, bytes, n);
}

static inline SSL *side_new(const char *suite, bool tls13, bool client, struct tls_traffic *traffic)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_method());
	int version = tls13 ? TLS1_3_VERSION : TLS1_2_VERSION;
	SSL *ssl;

	SSL_CTX_set_keylog_callback(ctx, keylog);
	SSL_CTX_set_msg_callback(ctx, message);
	if (!testing_identity(ctx) || !SSL_CTX_set_min_proto_version(ctx, version) ||
	    !SSL_CTX_set_max_proto_version(ctx, version) ||
	    !(tls13 ? SSL_CTX_set_ciphersuites(ctx, suite) : SSL_CTX_set_cipher_list(ctx, suite)))
		abort();
	ssl = SSL_new(ctx);
	SSL_CTX_free(ctx);
	SSL_set_app_data(ssl, traffic);
	if (client)
		SSL_set_connect_state(ssl);
	else
		SSL_set_accept_state(ssl);
	return ssl;
}

/* The handshake. `client`: we are the client. */
static inline void meet(struct meeting *m, const char *suite, bool tls13, bool client)
{
	SSL *peer = side_new(suite, tls13, !client, &m->peer_traffic);
	BIO *a, *b;
	char byte;

	m->ours = side_new(suite, tls13, client, &m->our_traffic);
	BIO_new_bio_pair(&a, 1 << 16, &b, 1 << 16);
	SSL_set_bio(m->ours, a, a);
	SSL_set_bio(peer, b, b);
	for (int i = 0; i < 5; i++) {
		SSL_do_handshake(client ? m->ours : peer);
		SSL_do_handshake(client ? peer : m->ours);
	}
	SSL_read(client ? m->ours : peer, &byte, 1); /* tickets */
	if (!SSL_is_init_finished(m->ours) || !forger_init(&m->forger, peer, &m->peer_traffic, !client))
		abort();
	SSL_free(peer);
}

#endif
