/*
 * Stapling: see tls_staple.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tls_staple.h"

#include "log.h"
#include "ocsp.h"
#include "stats.h"
#include "tls_context.h"

#include <openssl/err.h>
#include <openssl/sha.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum {
	STAPLE_SKEW_S = 30,
	RETRY_FIRST_S = 5,
	RETRY_MAX_S = 3600,
	REFRESH_MIN_S = 1,
};

/* What is sent about one certificate. */
struct staple {
	unsigned char cert_digest[SHA256_DIGEST_LENGTH], issuer_digest[SHA256_DIGEST_LENGTH];
	X509 *cert, *issuer;
	STACK_OF(X509) * chain;          /* as configured, and the issuer */
	STACK_OF(OPENSSL_STRING) * urls; /* never empty */
	unsigned char *request;
	size_t request_len;

	pthread_mutex_t lock; /* of what follows */
	unsigned char *der;   /* NULL: nothing to send */
	size_t len;
	time_t until;      /* what is to be sent is valid so long */
	time_t due;        /* when to fetch, */
	time_t since;      /* as it was decided then */
	unsigned failures; /* in a row */
};

struct tls_staples {
	atomic_uint refs;
	size_t count;
	struct staple **list;
};

/* --- making and freeing --------------------------------------------------------------------------------------------------------------- */

static void staple_free(struct staple *s)
{
	if (!s)
		return;
	X509_free(s->cert);
	X509_free(s->issuer);
	sk_X509_pop_free(s->chain, X509_free);
	X509_email_free(s->urls);
	OPENSSL_free(s->request);
	free(s->der);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

static bool digest_of(const X509 *cert, unsigned char digest[SHA256_DIGEST_LENGTH])
{
	return X509_digest(cert, EVP_sha256(), digest, NULL) == 1;
}

/* The certificate's issuer: in the configured chain, else in the section's trust store; NULL: nowhere. */
static X509 *find_issuer(SSL_CTX *ctx, X509 *cert, STACK_OF(X509) * chain)
{
	X509_STORE_CTX *finder;
	X509 *issuer = NULL;

	for (int i = 0; i < sk_X509_num(chain); i++) {
		issuer = sk_X509_value(chain, i);
		if (X509_check_issued(issuer, cert) == X509_V_OK)
			return X509_up_ref(issuer) ? issuer : NULL;
	}
	issuer = NULL;
	finder = X509_STORE_CTX_new();
	if (finder && X509_STORE_CTX_init(finder, SSL_CTX_get_cert_store(ctx), cert, NULL) &&
	    X509_STORE_CTX_get1_issuer(&issuer, finder, cert) != 1)
		issuer = NULL;
	X509_STORE_CTX_free(finder);
	ERR_clear_error();
	return issuer;
}

static bool make_request(struct staple *s)
{
	struct ocsp_subject subject = {.cert = s->cert, .issuer = s->issuer};
	OCSP_REQUEST *request = ocsp_request_new(&subject, false);

	s->request = request ? ocsp_request_encode(request, &s->request_len) : NULL;
	OCSP_REQUEST_free(request);
	return s->request != NULL;
}

/* Signs a response itself, most often: it must be found, wherever it came from. */
static bool chain_add(STACK_OF(X509) * chain, X509 *cert)
{
	for (int i = 0; i < sk_X509_num(chain); i++)
		if (X509_cmp(sk_X509_value(chain, i), cert) == 0)
			return true;
	if (!X509_up_ref(cert))
		return false;
	if (sk_X509_push(chain, cert))
		return true;
	X509_free(cert);
	return false;
}

static bool staple_fill(struct staple *s, X509 *cert, X509 *issuer, STACK_OF(X509) * chain)
{
	s->chain = chain ? X509_chain_up_ref(chain) : sk_X509_new_null();
	if (!s->chain || !chain_add(s->chain, issuer))
		return false;
	if (!X509_up_ref(cert))
		return false;
	s->cert = cert;
	if (!X509_up_ref(issuer))
		return false;
	s->issuer = issuer;
	return digest_of(cert, s->cert_digest) && digest_of(issuer, s->issuer_digest) && make_request(s);
}

static bool add_staple(struct tls_staples *staples, X509 *cert, X509 *issuer, STACK_OF(X509) * chain,
                       STACK_OF(OPENSSL_STRING) * urls)
{
	struct staple **more = reallocarray(staples->list, staples->count + 1, sizeof(struct staple *));
	struct staple *s = calloc(1, sizeof(*s));

	if (more)
		staples->list = more;
	if (s) {
		pthread_mutex_init(&s->lock, NULL);
		s->urls = urls;
	} else {
		X509_email_free(urls);
	}
	if (!more || !s || !staple_fill(s, cert, issuer, chain)) {
		staple_free(s);
		return false;
	}
	staples->list[staples->count++] = s;
	return true;
}

/* False: no memory. A certificate that nobody can be asked about is said to be one, and left out. */
static bool add_cert(struct tls_staples *staples, struct tls_context *context, X509 *cert, STACK_OF(X509) * chain)
{
	STACK_OF(OPENSSL_STRING) *urls = X509_get1_ocsp(cert);
	X509 *issuer;
	bool ok;

	if (sk_OPENSSL_STRING_num(urls) <= 0) {
		log_global(LOG_INFO, urls ? "OCSP: Empty AIA responder URL list" : "OCSP: No AIA responder URL");
		X509_email_free(urls);
		return true;
	}
	issuer = find_issuer(context->ctx, cert, chain);
	if (!issuer) {
		log_global(LOG_NOTICE, "OCSP: No stapling: the issuer is neither in the certificate's chain nor trusted");
		X509_email_free(urls);
		return true;
	}
	ok = add_staple(staples, cert, issuer, chain, urls);
	X509_free(issuer);
	return ok;
}

/* Calls fn for each certificate of a context, with its chain, until it returns false: that is returned. */
static bool each_cert(struct tls_staples *staples, struct tls_context *context,
                      bool (*fn)(struct tls_staples *, struct tls_context *, X509 *, STACK_OF(X509) *))
{
	SSL_CTX *ctx = context->ctx;
	X509 *current = SSL_CTX_get0_certificate(ctx);
	bool ok = true;

	if (!current)
		return true;
	for (long next = SSL_CERT_SET_FIRST; ok && SSL_CTX_set_current_cert(ctx, next) == 1; next = SSL_CERT_SET_NEXT) {
		STACK_OF(X509) *chain = NULL;

		SSL_CTX_get0_chain_certs(ctx, &chain);
		ok = fn(staples, context, SSL_CTX_get0_certificate(ctx), chain);
	}
	SSL_CTX_select_current_cert(ctx, current);
	ERR_clear_error();
	return ok;
}

static struct staple *find(const struct tls_staples *staples, const unsigned char *cert_digest)
{
	for (size_t i = 0; staples && i < staples->count; i++)
		if (memcmp(staples->list[i]->cert_digest, cert_digest, SHA256_DIGEST_LENGTH) == 0)
			return staples->list[i];
	return NULL;
}

/* A response that was believed about the same certificate and issuer is still believed. */
static void take_over(struct tls_staples *staples, const struct tls_staples *previous)
{
	for (size_t i = 0; i < staples->count; i++) {
		struct staple *s = staples->list[i], *old = find(previous, s->cert_digest);

		if (!old || memcmp(old->issuer_digest, s->issuer_digest, SHA256_DIGEST_LENGTH) != 0)
			continue;
		pthread_mutex_lock(&old->lock);
		s->der = old->der ? malloc(old->len) : NULL;
		if (s->der) {
			memcpy(s->der, old->der, old->len);
			s->len = old->len;
			s->until = old->until;
			s->due = old->due;
			s->since = old->since;
			log_global(LOG_DEBUG, "OCSP: Use the cached OCSP response");
		}
		pthread_mutex_unlock(&old->lock);
	}
}

struct tls_staples *tls_staples_new(struct tls_context *context, struct tls_staples *previous)
{
	struct tls_staples *staples = calloc(1, sizeof(*staples));
	const struct section *section = context->section;

	if (!staples)
		return NULL;
	atomic_init(&staples->refs, 1);
	if (section->client)
		return staples;
	if (section->psk_secrets) {
		log_global(LOG_NOTICE, "OCSP: Server OCSP stapling is incompatible with PSK");
		return staples;
	}
	log_global(LOG_DEBUG, "OCSP: Server OCSP stapling enabled");
	if (!each_cert(staples, context, add_cert)) {
		tls_staples_unref(staples);
		return NULL;
	}
	take_over(staples, previous);
	return staples;
}

struct tls_staples *tls_staples_ref(struct tls_staples *staples)
{
	atomic_fetch_add_explicit(&staples->refs, 1, memory_order_relaxed);
	return staples;
}

void tls_staples_unref(struct tls_staples *staples)
{
	if (!staples || atomic_fetch_sub_explicit(&staples->refs, 1, memory_order_acq_rel) != 1)
		return;
	for (size_t i = 0; i < staples->count; i++)
		staple_free(staples->list[i]);
	free(staples->list);
	free(staples);
}

/* --- sending ------------------------------------------------------------------------------------------------------------------------------ */

/* A copy of what there is to send, which OpenSSL will free; NULL: nothing. */
static unsigned char *copy_for_sending(struct staple *s, size_t *n)
{
	unsigned char *copy = NULL;

	if (!s)
		return NULL;
	pthread_mutex_lock(&s->lock);
	if (s->der && s->until > time(NULL)) {
		copy = OPENSSL_memdup(s->der, s->len);
		*n = s->len;
	}
	pthread_mutex_unlock(&s->lock);
	return copy;
}

/* A certificate as a context of OpenSSL's has it, by which a handshake knows it: and what to send about it. */
struct stapled {
	struct stapled *next;
	const X509 *cert;
	struct staple *staple;
};

static struct staple *chosen(const struct tls_context *context, SSL *ssl)
{
	const X509 *cert = SSL_get_certificate(ssl);
	const struct stapled *it = context->stapled;

	while (it && it->cert != cert)
		it = it->next;
	return it ? it->staple : NULL;
}

/* A client has asked, and the certificate is chosen. */
static int server_callback(SSL *ssl, void *arg)
{
	const struct tls *tls = SSL_get_app_data(ssl);
	size_t n = 0;
	unsigned char *der = copy_for_sending(chosen(arg, ssl), &n);

	tls_log(tls, LOG_DEBUG, "OCSP stapling: Server callback called");
	if (der && SSL_set_tlsext_status_ocsp_resp(ssl, der, (int)n) == 1) {
		tls_log(tls, LOG_DEBUG, "OCSP stapling: OCSP response sent back");
		stats_add(&tls->stats->staples_sent, 1);
		return SSL_TLSEXT_ERR_OK;
	}
	OPENSSL_free(der);
	tls_log(tls, LOG_INFO, "OCSP: No OCSP stapling response to send");
	return SSL_TLSEXT_ERR_NOACK;
}

static bool install_cert(struct tls_staples *staples, struct tls_context *context, X509 *cert, STACK_OF(X509) * chain)
{
	unsigned char digest[SHA256_DIGEST_LENGTH];
	struct staple *staple = digest_of(cert, digest) ? find(staples, digest) : NULL;
	struct stapled *it;
	(void)chain;

	if (!staple)
		return true;
	it = malloc(sizeof(*it));
	if (!it)
		return false;
	*it = (struct stapled){.next = context->stapled, .cert = cert, .staple = staple};
	context->stapled = it;
	return true;
}

bool tls_staples_install(struct tls_staples *staples, struct tls_context *context)
{
	context->staples = tls_staples_ref(staples);
	if (context->section->client || context->section->psk_secrets)
		return true;
	return each_cert(staples, context, install_cert) && SSL_CTX_set_tlsext_status_cb(context->ctx, server_callback) == 1 &&
	       SSL_CTX_set_tlsext_status_arg(context->ctx, context) == 1;
}

void tls_staples_uninstall(struct tls_context *context)
{
	struct stapled *next;

	for (struct stapled *it = context->stapled; it; it = next) {
		next = it->next;
		free(it);
	}
	context->stapled = NULL;
	tls_staples_unref(context->staples);
	context->staples = NULL;
}

/* --- fetching ----------------------------------------------------------------------------------------------------------------------------- */

size_t tls_staples_count(const struct tls_staples *staples)
{
	return staples->count;
}

const char *tls_staple_url(const struct tls_staples *staples, size_t number, size_t turn)
{
	STACK_OF(OPENSSL_STRING) *urls = staples->list[number]->urls;

	return turn < (size_t)sk_OPENSSL_STRING_num(urls) ? sk_OPENSSL_STRING_value(urls, (int)turn) : NULL;
}

const unsigned char *tls_staple_request(const struct tls_staples *staples, size_t number, size_t *n)
{
	*n = staples->list[number]->request_len;
	return staples->list[number]->request;
}

time_t tls_staple_wait_s(struct tls_staples *staples, size_t number, time_t now)
{
	struct staple *s = staples->list[number];
	time_t wait_s;

	pthread_mutex_lock(&s->lock);
	wait_s = s->due > now && s->since <= now ? s->due - now : 0; /* a clock that was set back knows of no date any more */
	pthread_mutex_unlock(&s->lock);
	return wait_s;
}

time_t tls_staple_refresh_at(time_t now, time_t this_update, time_t next_update)
{
	time_t half = this_update + (next_update - this_update) / 2;

	if (half <= now) /* it was not made for us, and may be all that the responder has for a while */
		half = now + (next_update - now) / 2;
	return half < now + REFRESH_MIN_S ? now + REFRESH_MIN_S : half;
}

time_t tls_staple_backoff_s(unsigned failures)
{
	time_t s = RETRY_FIRST_S;

	while (failures-- > 1 && s < RETRY_MAX_S)
		s *= 2;
	return s < RETRY_MAX_S ? s : RETRY_MAX_S;
}

static void staple_set(struct staple *s, unsigned char *der, size_t n, time_t now, const struct ocsp_times *times)
{
	pthread_mutex_lock(&s->lock);
	free(s->der);
	s->der = der;
	s->len = n;
	s->until = times->next_update;
	s->due = tls_staple_refresh_at(now, times->this_update, times->next_update);
	s->since = now;
	s->failures = 0;
	pthread_mutex_unlock(&s->lock);
}

bool tls_staple_take(struct tls_staples *staples, size_t number, struct tls_context *context, const unsigned char *der, size_t n,
                     const char *log_id)
{
	struct staple *s = staples->list[number];
	struct ocsp_subject subject = {
		.cert = s->cert,
		.issuer = s->issuer,
		.chain = s->chain,
		.trust_chain = true,
		.store = SSL_CTX_get_cert_store(context->ctx),
		.flags = OCSP_TRUSTOTHER,
		.skew_s = STAPLE_SKEW_S,
		.now = time(NULL),
		.log_id = log_id,
		.debug = context->section->debug,
	};
	struct ocsp_times times;
	unsigned char *copy;

	if (ocsp_examine(&subject, NULL, der, n, &times) == REVOCATION_UNKNOWN)
		return false;
	if (times.next_update <= subject.now) {
		if (subject.debug >= LOG_INFO)
			log_write(LOG_INFO, log_id, "OCSP: A response that does not say how long it is valid is not stapled");
		return false;
	}
	copy = malloc(n);
	if (!copy)
		return false;
	memcpy(copy, der, n);
	staple_set(s, copy, n, subject.now, &times);
	if (subject.debug >= LOG_DEBUG)
		log_write(LOG_DEBUG, log_id, "OCSP: Response cached");
	return true;
}

time_t tls_staple_put_off(struct tls_staples *staples, size_t number)
{
	struct staple *s = staples->list[number];
	time_t wait_s;

	pthread_mutex_lock(&s->lock);
	s->failures += s->failures < UINT32_MAX;
	wait_s = tls_staple_backoff_s(s->failures);
	s->since = time(NULL);
	s->due = s->since + wait_s;
	pthread_mutex_unlock(&s->lock);
	return wait_s;
}
