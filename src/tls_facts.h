/*
 * What a handshake came to, in words and numbers, for whoever tells others of it. The names are OpenSSL's.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_TLS_FACTS_H
#define TLSPLICE_TLS_FACTS_H

#include <stdbool.h>

struct tls;

enum {
	FACT_MAX = 63,         /* bytes of the name of an algorithm */
	COMMON_NAME_MAX = 256, /* 64 characters (X.520, ub-common-name) in UTF-8 */
};

/* The strings without an array are constants or the connection's, as long as OpenSSL has it. */
struct tls_facts {
	const char *version;     /* "TLSv1.3" */
	const char *cipher;      /* "TLS_AES_128_GCM_SHA256" */
	const char *alpn;        /* the protocol agreed on; NULL: none */
	const char *server_name; /* what the client asked for; NULL: nothing, or the section does not keep it */
	bool has_certificate; /* the client has shown one: in this handshake or, with `resumed`, in the one that began the session */
	bool resumed;
	bool verified; /* and it passed every check of the section, which made some */
	/* "" where there is none, or none that can be passed on: longer, not text, or with a NUL, at which others would take it for shorter. */
	char common_name[COMMON_NAME_MAX + 1]; /* of the client's certificate, UTF-8; of several the most specific one */
	/* Of the certificate that the server has shown; "" if it has shown none: a session was resumed, or a pre-shared key used. */
	char signature[FACT_MAX + 1]; /* how it is signed: "RSA-SHA256" */
	char key[FACT_MAX + 1];       /* its key: "RSA2048", "EC256", "ED25519" */
};

/* Collects the facts of a server's connection after the handshake, while OpenSSL still has it. (deep) */
void tls_facts(const struct tls *tls, struct tls_facts *facts);

#endif
