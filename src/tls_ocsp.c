/*
 * Revocation by OCSP: see tls_ocsp.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tls_ocsp.h"

#include "ocsp.h"
#include "ocsp_http.h"
#include "stats.h"
#include "tls_context.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/sha.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>

/* A question about one certificate. */
struct inquiry {
	struct tls *tls;
	struct ocsp_subject subject;
	bool asked;     /* a responder */
	bool cancelled; /* the connection is ending: no further question */
};

/* --- what this connection has learnt: a renegotiation has no stack to wait on ---------------------------------------------------------- */

struct tls_ocsp {
	struct tls_ocsp *next;
	unsigned char digest[SHA256_DIGEST_LENGTH]; /* of a certificate that a responder called good */
};

static bool digest_of(const X509 *cert, unsigned char digest[SHA256_DIGEST_LENGTH])
{
	unsigned n = 0;

	return X509_digest(cert, EVP_sha256(), digest, &n) == 1 && n == SHA256_DIGEST_LENGTH;
}

static bool is_remembered(const struct tls *tls, const X509 *cert)
{
	unsigned char digest[SHA256_DIGEST_LENGTH];

	if (!digest_of(cert, digest))
		return false;
	for (const struct tls_ocsp *it = tls->ocsp; it; it = it->next)
		if (memcmp(it->digest, digest, sizeof(digest)) == 0)
			return true;
	return false;
}

static void remember(struct tls *tls, const X509 *cert)
{
	struct tls_ocsp *it = malloc(sizeof(*it));

	if (!it || !digest_of(cert, it->digest)) {
		free(it); /* then a renegotiation will fail, and no more */
		return;
	}
	it->next = tls->ocsp;
	tls->ocsp = it;
}

void tls_ocsp_end(struct tls *tls)
{
	struct tls_ocsp *next;

	for (struct tls_ocsp *it = tls->ocsp; it; it = next) {
		next = it->next;
		free(it);
	}
	tls->ocsp = NULL;
}

/* --- asking ----------------------------------------------------------------------------------------------------------------------------- */

/* Asks one responder. Other connections have used OpenSSL meanwhile: its error queue is this thread's, and theirs. */
static enum revocation ask(struct inquiry *q, const char *url)
{
	struct tls *tls = q->tls;
	OCSP_REQUEST *request = ocsp_request_new(&q->subject, tls->section->ocsp_nonce);
	enum revocation status = REVOCATION_UNKNOWN;
	struct ocsp_reply reply = {0};
	struct ocsp_times times;
	size_t n = 0;
	unsigned char *der = request ? ocsp_request_encode(request, &n) : NULL;
	int error = -ENOMEM;

	q->asked = true;
	if (der)
		error = tls->ask ? tls->ask(tls, url, der, n, &reply) : -EWOULDBLOCK;
	ERR_clear_error();
	q->cancelled = error == -ECANCELED;
	if (!error) {
		q->subject.now = time(NULL);
		status = ocsp_examine(&q->subject, request, reply.bytes + reply.head, reply.len - reply.head, &times);
	}
	ocsp_reply_free(&reply);
	OPENSSL_free(der);
	OCSP_REQUEST_free(request);
	return status;
}

/* The responders that the certificate itself names. */
static enum revocation ask_named(struct inquiry *q)
{
	STACK_OF(OPENSSL_STRING) *urls = X509_get1_ocsp(q->subject.cert);
	enum revocation status = REVOCATION_UNKNOWN;

	if (!urls)
		tls_log(q->tls, LOG_INFO, "OCSP: No AIA responder URL");
	else if (sk_OPENSSL_STRING_num(urls) == 0)
		tls_log(q->tls, LOG_INFO, "OCSP: Empty AIA responder URL list");
	for (int i = 0; i < sk_OPENSSL_STRING_num(urls) && status == REVOCATION_UNKNOWN && !q->cancelled; i++) {
		const char *url = sk_OPENSSL_STRING_value(urls, i);

		tls_log(q->tls, LOG_NOTICE, "OCSP: Connecting the AIA responder \"%s\"", url);
		status = ask(q, url);
	}
	X509_email_free(urls);
	return status;
}

static enum revocation ask_responders(struct inquiry *q, int depth)
{
	const struct section *section = q->tls->section;
	enum revocation status = REVOCATION_UNKNOWN;

	if (section->ocsp && depth == 0) {
		tls_log(q->tls, LOG_NOTICE, "OCSP: Connecting the configured responder \"%s\"", section->ocsp);
		status = ask(q, section->ocsp);
	}
	if (status == REVOCATION_UNKNOWN && section->ocsp_aia && !q->cancelled)
		status = ask_named(q);
	return status;
}

/* --- judging ------------------------------------------------------------------------------------------------------------------------------ */

static bool accept_status(struct inquiry *q, enum revocation status)
{
	struct tls *tls = q->tls;
	bool required = tls->section->ocsp_require;

	if (status == REVOCATION_REVOKED) {
		stats_add(&tls->stats->ocsp_revoked, 1);
		tls_log(tls, LOG_ERR, "OCSP: Rejected (revoked)");
		return false;
	}
	if (status == REVOCATION_GOOD) {
		stats_add(&tls->stats->ocsp_good, 1);
		remember(tls, q->subject.cert);
		tls_log(tls, LOG_NOTICE, "OCSP: Accepted (good)");
		return true;
	}
	if (!q->asked)
		return true;
	if (!tls->ask && is_remembered(tls, q->subject.cert)) {
		tls_log(tls, LOG_NOTICE, "OCSP: Accepted (good when this connection began)");
		return true;
	}
	if (q->cancelled)
		return false;
	stats_add(&tls->stats->ocsp_unknown, 1);
	tls_log(tls, required ? LOG_ERR : LOG_NOTICE, "OCSP: %s (OCSPrequire = %s)", required ? "Rejected" : "Accepted",
	        required ? "yes" : "no");
	return !required;
}

static unsigned long flags_of(const struct section *section)
{
	unsigned long flags = 0, bit = 0;

	for (size_t i = 0; i < section->ocsp_flags.count; i++)
		if (config_ocsp_flag(section->ocsp_flags.texts[i], &bit))
			flags |= bit;
	return flags;
}

/* The certificate at a depth of a chain that was built from the peer's certificates to a trusted one. False: there is nobody to ask about it. */
static bool inquiry_begin(struct inquiry *q, struct tls *tls, STACK_OF(X509) * chain, int depth, X509_STORE *store)
{
	X509 *cert = sk_X509_value(chain, depth), *issuer = sk_X509_value(chain, depth + 1);

	if (!cert)
		return false;
	if (!issuer) {
		if (X509_check_issued(cert, cert) != X509_V_OK)
			tls_log(tls, LOG_INFO, "OCSP: The root CA certificate was not found");
		tls_log(tls, LOG_DEBUG, "OCSP: Ignoring the root certificate");
		return false;
	}
	*q = (struct inquiry){
		.tls = tls,
		.subject =
			{
				.cert = cert,
				.issuer = issuer,
				.chain = chain,
				.store = store,
				.flags = flags_of(tls->section),
				.skew_s = OCSP_SKEW_S,
				.log_id = tls->log_id,
				.debug = tls->section->debug,
			},
	};
	return true;
}

bool tls_ocsp_verify(struct tls *tls, X509_STORE_CTX *ctx)
{
	int depth = X509_STORE_CTX_get_error_depth(ctx);
	enum revocation status;
	struct inquiry q;

	/* What is let pass for `redirect` alone is anybody's, and so are the URLs in it. */
	if (tls->rejected)
		return true;
	if (depth == 0 && tls->section->client) {
		tls_log(tls, LOG_DEBUG, "OCSP: Waiting for OCSP stapling response");
		return true;
	}
	if (!inquiry_begin(&q, tls, X509_STORE_CTX_get0_chain(ctx), depth, X509_STORE_CTX_get0_store(ctx)))
		return true;
	status = ask_responders(&q, depth);
	if (accept_status(&q, status))
		return true;
	X509_STORE_CTX_set_error(ctx, status == REVOCATION_REVOKED ? X509_V_ERR_CERT_REVOKED : X509_V_ERR_OCSP_VERIFY_FAILED);
	return false;
}

/* --- stapled responses -------------------------------------------------------------------------------------------------------------------- */

static enum revocation examine_stapled(struct inquiry *q, SSL *ssl)
{
	const unsigned char *der = NULL;
	long n = SSL_get_tlsext_status_ocsp_resp(ssl, &der);
	struct ocsp_times times;

	if (!der || n <= 0) {
		tls_log(q->tls, LOG_INFO, "OCSP: No OCSP stapling response received");
		return REVOCATION_UNKNOWN;
	}
	tls_log(q->tls, LOG_INFO, "OCSP: OCSP stapling response received");
	q->subject.now = time(NULL);
	return ocsp_examine(&q->subject, NULL, der, (size_t)n, &times);
}

/* Where the server's chain was looked for. */
static X509_STORE *store_of(SSL *ssl)
{
	X509_STORE *store = NULL;

	SSL_get0_verify_cert_store(ssl, &store); /* config = VerifyCAFile:... */
	return store ? store : SSL_CTX_get_cert_store(SSL_get_SSL_CTX(ssl));
}

/* Called once the server has said everything, whether it stapled or not. 1: go on, 0: alert bad_certificate_status_response. */
static int client_callback(SSL *ssl, void *arg)
{
	struct tls *tls = SSL_get_app_data(ssl);
	enum revocation status;
	struct inquiry q;
	(void)arg;

	tls_log(tls, LOG_DEBUG, "OCSP stapling: Client callback called");
	if (!tls->section->verify_chain) {
		tls_log(tls, LOG_INFO, "OCSP: Certificate chain verification disabled");
		return 1;
	}
	if (SSL_session_reused(ssl)) {
		tls_log(tls, LOG_DEBUG, "OCSP: Skipped OCSP stapling (previous session reused)");
		return 1;
	}
	if (!SSL_get0_verified_chain(ssl))
		return !SSL_get0_peer_certificate(ssl); /* a key that both had before, and nothing to ask about */
	if (!inquiry_begin(&q, tls, SSL_get0_verified_chain(ssl), 0, store_of(ssl)))
		return 1;
	status = examine_stapled(&q, ssl);
	if (status == REVOCATION_UNKNOWN)
		status = ask_responders(&q, 0);
	if (accept_status(&q, status))
		return 1;
	tls->authenticated = false;
	tls->rejected = true;
	return 0;
}

bool tls_ocsp_install(SSL_CTX *ctx)
{
	return SSL_CTX_set_tlsext_status_type(ctx, TLSEXT_STATUSTYPE_ocsp) == 1 &&
	       SSL_CTX_set_tlsext_status_cb(ctx, client_callback) == 1;
}
