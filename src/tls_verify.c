/*
 * The checks of a peer's certificate, in the order in which they are logged: chain, subject, local copy, OCSP. See tls_verify.h.
 * Everything that is decided here is the connection's (struct tls): nothing may leak from one handshake to another.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tls_verify.h"

#include "tls_context.h"
#include "tls_crl_dir.h"
#include "tls_ocsp.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>

/* One call of OpenSSL's: a certificate of the chain and what OpenSSL says about it. */
struct verdict {
	struct tls *tls;
	const struct section *section;
	X509_STORE_CTX *store;
	X509 *cert;
	int depth; /* 0: the peer's own */
};

/* Names are hostile: control characters come out escaped, UTF-8 as it is. NULL: no memory. */
static BIO *print_name(const X509_NAME *name)
{
	BIO *bio = BIO_new(BIO_s_mem());

	if (bio && X509_NAME_print_ex(bio, name, 0, XN_FLAG_ONELINE & ~ASN1_STRFLGS_ESC_MSB & ~XN_FLAG_SPC_EQ) >= 0)
		return bio;
	BIO_free(bio);
	return NULL;
}

const char *name_text(const X509_NAME *name, char text[LOG_TEXT_MAX])
{
	BIO *bio = print_name(name);
	int n = bio ? BIO_read(bio, text, LOG_TEXT_MAX - 1) : 0;

	text[n > 0 ? n : 0] = '\0';
	BIO_free(bio);
	return text;
}

/* The same, however long. NULL: no memory. */
static char *name_dup(const X509_NAME *name)
{
	BIO *bio = print_name(name);
	char *text, *copy = NULL;
	long n = bio ? BIO_get_mem_data(bio, &text) : -1;

	if (n >= 0)
		copy = strndup(n ? text : "", (size_t)n);
	BIO_free(bio);
	return copy;
}

bool tls_peer_names(struct tls *tls, char **subject, char **issuer)
{
	X509 *cert = SSL_get0_peer_certificate(tls->ssl);

	*subject = cert ? name_dup(X509_get_subject_name(cert)) : NULL;
	*issuer = cert ? name_dup(X509_get_issuer_name(cert)) : NULL;
	if (!cert || (*subject && *issuer))
		return true;
	free(*subject);
	free(*issuer);
	*subject = *issuer = NULL;
	ERR_clear_error();
	return false;
}

static void log_cert(const struct verdict *v, int level, const char *what)
{
	char text[LOG_TEXT_MAX];

	if (v->section->debug >= level)
		log_write(level, v->tls->log_id, "%s at depth=%d: %s", what, v->depth,
		          name_text(X509_get_subject_name(v->cert), text));
}

/* --- the chain ---------------------------------------------------------------------------------------------------------------------- */

/* The issuer is not there: no matter, if the certificate itself is what is trusted. */
static bool lacks_issuer(int error)
{
	return error == X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY || error == X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE ||
	       error == X509_V_ERR_CERT_UNTRUSTED;
}

static bool check_chain(const struct verdict *v, bool ok)
{
	int error = X509_STORE_CTX_get_error(v->store);
	bool fatal = v->section->verify_chain || (v->depth == 0 && !lacks_issuer(error));
	bool self_signed = error == X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT || error == X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN;

	if (ok) {
		tls_log(v->tls, LOG_DEBUG, "CERT: Pre-verification succeeded");
		return true;
	}
	if (fatal)
		tls_log(v->tls, LOG_WARNING, "CERT: Pre-verification error: %s%s",
		        self_signed ? "certificate not found in local repository: " : "", X509_verify_cert_error_string(error));
	else
		tls_log(v->tls, LOG_INFO, "CERT: Pre-verification error ignored: %s", X509_verify_cert_error_string(error));
	return !fatal;
}

/* --- the subject: any match of any of the three lists will do ----------------------------------------------------------------------- */

static bool match_host(const struct verdict *v, const char *host)
{
	char *pattern = NULL;

	if (X509_check_host(v->cert, host, 0, 0, &pattern) != 1)
		return false;
	tls_log(v->tls, LOG_INFO, "CERT: Host name \"%s\" matched with \"%s\"", host, pattern ? pattern : "");
	OPENSSL_free(pattern);
	return true;
}

static bool match_email(const struct verdict *v, const char *email)
{
	if (X509_check_email(v->cert, email, 0, 0) != 1)
		return false;
	tls_log(v->tls, LOG_INFO, "CERT: Email address \"%s\" matched", email);
	return true;
}

static bool match_ip(const struct verdict *v, const char *ip)
{
	if (X509_check_ip_asc(v->cert, ip, 0) != 1)
		return false;
	tls_log(v->tls, LOG_INFO, "CERT: IP address \"%s\" matched", ip);
	return true;
}

static bool match_any(const struct verdict *v, const struct texts *texts, bool (*match)(const struct verdict *, const char *))
{
	for (size_t i = 0; i < texts->count; i++)
		if (match(v, texts->texts[i]))
			return true;
	return false;
}

static bool check_subject(const struct verdict *v)
{
	const struct section *s = v->section;

	if (s->check_host.count + s->check_email.count + s->check_ip.count == 0) {
		tls_log(v->tls, LOG_INFO, "CERT: No subject checks configured");
		return true;
	}
	if (match_any(v, &s->check_host, match_host) || match_any(v, &s->check_email, match_email) ||
	    match_any(v, &s->check_ip, match_ip))
		return true;
	tls_log(v->tls, LOG_WARNING, "CERT: Subject checks failed");
	/* Each of these becomes alert 42 bad_certificate. */
	X509_STORE_CTX_set_error(v->store, s->check_host.count    ? X509_V_ERR_HOSTNAME_MISMATCH
	                                   : s->check_email.count ? X509_V_ERR_EMAIL_MISMATCH
	                                                          : X509_V_ERR_IP_ADDRESS_MISMATCH);
	return false;
}

/* --- the local copy ----------------------------------------------------------------------------------------------------------------- */

/*
 * The same key makes it the same certificate: one that was renewed passes. The bits alone would not do: on another curve, chosen for
 * the purpose, the same point belongs to a private key that anyone can know (CVE-2020-0601).
 */
static bool same_key(const X509 *a, const X509 *b)
{
	const ASN1_BIT_STRING *x = X509_get0_pubkey_bitstr(a), *y = X509_get0_pubkey_bitstr(b);
	EVP_PKEY *one = X509_get0_pubkey(a), *other = X509_get0_pubkey(b);

	return x && y && ASN1_STRING_cmp(x, y) == 0 && one && other && EVP_PKEY_eq(one, other) == 1;
}

/* Among the certificates of that subject that the store knows. */
static bool find_copy(const struct verdict *v)
{
	STACK_OF(X509) *certs = X509_STORE_CTX_get1_certs(v->store, X509_get_subject_name(v->cert));
	bool found = false;

	for (int i = 0; !found && i < sk_X509_num(certs); i++)
		found = same_key(v->cert, sk_X509_value(certs, i));
	sk_X509_pop_free(certs, X509_free);
	return found;
}

/* OpenSSL asks one place after the other until one has a certificate of that subject: here all places count. */
static void load_more_copies(const struct verdict *v)
{
	X509_LOOKUP *const lookups[] = {v->tls->context->ca_finder, v->tls->context->ca_directory};

	for (size_t i = 0; i < sizeof(lookups) / sizeof(*lookups); i++) {
		X509_OBJECT *object = X509_OBJECT_new();

		/* A lookup puts what it found into the store, and answers with it without a reference. */
		if (object && X509_LOOKUP_by_subject(lookups[i], X509_LU_X509, X509_get_subject_name(v->cert), object))
			X509_OBJECT_up_ref_count(object);
		X509_OBJECT_free(object);
	}
	ERR_clear_error();
}

static bool check_copy(const struct verdict *v)
{
	bool found = find_copy(v);

	if (!found && v->tls->context->ca_directory) {
		load_more_copies(v);
		found = find_copy(v);
	}
	if (found) {
		tls_log(v->tls, LOG_INFO, "CERT: Locally installed certificate matched");
		return true;
	}
	tls_log(v->tls, LOG_WARNING, "CERT: Certificate not found in local repository");
	X509_STORE_CTX_set_error(v->store, X509_V_ERR_CERT_REJECTED);
	return false;
}

/* --- all of it ---------------------------------------------------------------------------------------------------------------------- */

/* With `redirect` the first handshake goes on, towards somewhere else than `connect`; a later one (TLS 1.2 renegotiates) cannot. */
static int reject(const struct verdict *v, const char *what)
{
	log_cert(v, LOG_WARNING, what);
	v->tls->rejected = true;
	return v->section->redirect.count > 0 && v->tls->handshaking;
}

/* What was rejected, and is let in for `redirect`, comes by once more without its error. */
static int let_pass(const struct verdict *v)
{
	if (v->tls->rejected)
		return 1;
	log_cert(v, v->depth == 0 ? LOG_NOTICE : LOG_INFO, "Certificate accepted");
	v->tls->accepted |= v->depth == 0;
	return 1;
}

static struct tls *tls_of(X509_STORE_CTX *store)
{
	return SSL_get_app_data((SSL *)X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx()));
}

/* OpenSSL calls it for each certificate from the top of the chain down to the peer's own, and for each error. */
static int verify_one(int ok, X509_STORE_CTX *store)
{
	struct tls *tls = tls_of(store);
	struct verdict v = {tls, tls->section, store, X509_STORE_CTX_get_current_cert(store),
	                    X509_STORE_CTX_get_error_depth(store)};

	if (!v.cert)
		return 0; /* an error about no certificate: none that anybody could forgive */
	log_cert(&v, LOG_DEBUG, "Verification started");
	if (!check_chain(&v, ok))
		return reject(&v, "Rejected by CERT");
	if (v.depth == 0 && !check_subject(&v))
		return reject(&v, "Rejected by CERT");
	if (v.depth == 0 && v.section->verify_peer && !check_copy(&v))
		return reject(&v, "Rejected by CERT");
	if (v.section->verify_chain && !tls_ocsp_verify(tls, store))
		return reject(&v, "Rejected by OCSP");
	return let_pass(&v);
}

/* The whole of a handshake's verification. */
static int verify_all(X509_STORE_CTX *store, void *arg)
{
	struct tls *tls = tls_of(store);
	bool ok;

	(void)arg;
	tls->authenticated = tls->accepted = tls->rejected = false;
	if (!section_verifies(tls->section)) {
		tls_log(tls, LOG_INFO, "CERT: Certificate verification disabled");
		return 1;
	}
	ok = X509_verify_cert(store) == 1;
	tls->authenticated = ok && tls->accepted && !tls->rejected;
	return ok;
}

bool verify_again(const struct tls *tls, X509 *cert)
{
	const char *what = NULL;

	if (X509_cmp_current_time(X509_get0_notAfter(cert)) <= 0)
		what = "has expired";
	else if (tls->section->crl_path && !crl_dir_clears(SSL_CTX_get_cert_store(tls->context->ctx), cert))
		what = "may have been revoked";
	if (what)
		tls_log(tls, LOG_INFO, "The certificate of the session %s since: it is not resumed", what);
	return !what;
}

/* With `redirect` those without a certificate are led elsewhere too. */
static bool refuses_anonymous(const struct section *s)
{
	return s->require_cert && s->redirect.count == 0;
}

void verify_install(struct tls_context *context)
{
	const struct section *s = context->section;
	int mode = SSL_VERIFY_NONE;

	if (section_verifies(s) || (!s->client && (s->request_cert || s->require_cert)))
		mode |= SSL_VERIFY_PEER;
	if (mode && refuses_anonymous(s))
		mode |= SSL_VERIFY_FAIL_IF_NO_PEER_CERT;
	SSL_CTX_set_verify(context->ctx, mode, verify_one);
	SSL_CTX_set_cert_verify_callback(context->ctx, verify_all, NULL);
}

void verify_announce(const struct tls *tls)
{
	tls_log(tls, LOG_INFO, "Peer certificate %s", refuses_anonymous(tls->section) ? "required" : "not required");
}
