/*
 * OCSP (RFC 6960): requests, and what a response says about a certificate. Over memory: responses come from anybody, and nothing in one is
 * believed before its signature was checked. For tls_ocsp.c and tls_staple.c.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_OCSP_H
#define TLSPLICE_OCSP_H

#include <openssl/ocsp.h>
#include <openssl/x509.h>
#include <stdbool.h>
#include <stddef.h>
#include <time.h>

enum revocation {
	REVOCATION_UNKNOWN, /* the responder does not know, or there is no response that counts */
	REVOCATION_GOOD,
	REVOCATION_REVOKED,
};

enum {
	OCSP_SKEW_S = 60,               /* how far clocks may differ */
	OCSP_AGE_MAX_S = 7 * 24 * 3600, /* of a response that does not say until when it is valid */
};

/* A certificate and who may speak about it. Nothing in it is owned. */
struct ocsp_subject {
	X509 *cert, *issuer;
	STACK_OF(X509) * chain; /* among which a response's signer may be found; may be NULL */
	X509_STORE *store;      /* to which the signer's certificate must lead */
	bool trust_chain;       /* the chain is our own: it is trusted as the store is */
	unsigned long flags;    /* of OCSP_basic_verify(3) */
	int skew_s;
	time_t now;
	const char *log_id;
	int debug; /* level of log lines */
};

/*
 * Makes a request about the certificate, with 16 random bytes of nonce if wanted. It is needed again to check the nonce of the response.
 * Returns NULL without memory. ocsp_request_encode() gives its DER, to be freed with OPENSSL_free(), or NULL.
 */
OCSP_REQUEST *ocsp_request_new(const struct ocsp_subject *subject, bool nonce);
unsigned char *ocsp_request_encode(const OCSP_REQUEST *request, size_t *n);

/* When a response was made, and until when it is valid (0: it does not say): valid only with a conclusive result. */
struct ocsp_times {
	time_t this_update, next_update;
};

/*
 * What a response says, checked in full: signature, signer, time, and the nonce if `request` (may be NULL) has one. Logs each step.
 * Leaves the error queue of OpenSSL empty.
 */
enum revocation ocsp_examine(const struct ocsp_subject *subject, OCSP_REQUEST *request, const unsigned char *der, size_t n,
                             struct ocsp_times *times);

#endif
