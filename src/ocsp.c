/*
 * OCSP requests and responses: see ocsp.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ocsp.h"

#include "log.h"
#include "tls.h"

#include <openssl/err.h>
#include <openssl/ocsp.h>
#include <string.h>

#define ocsp_log(s, level, ...) ((void)((s)->debug >= (level) && (log_write((level), (s)->log_id, __VA_ARGS__), 0)))

static void log_errors(const struct ocsp_subject *s, const char *what)
{
	if (s->debug >= LOG_ERR)
		tls_log_errors(LOG_ERR, s->log_id, what, NULL);
	ERR_clear_error();
}

/* --- requests ----------------------------------------------------------------------------------------------------------------------- */

OCSP_REQUEST *ocsp_request_new(const struct ocsp_subject *s, bool nonce)
{
	OCSP_REQUEST *request = OCSP_REQUEST_new();
	OCSP_CERTID *id = request ? OCSP_cert_to_id(NULL, s->cert, s->issuer) : NULL; /* SHA-1: what every responder knows */

	if (id && OCSP_request_add0_id(request, id)) {
		if (!nonce || OCSP_request_add1_nonce(request, NULL, -1))
			return request;
	} else {
		OCSP_CERTID_free(id);
	}
	OCSP_REQUEST_free(request);
	return NULL;
}

unsigned char *ocsp_request_encode(const OCSP_REQUEST *request, size_t *n)
{
	unsigned char *der = NULL;
	int len = i2d_OCSP_REQUEST(request, &der);

	*n = len > 0 ? (size_t)len : 0;
	return len > 0 ? der : NULL;
}

/* --- responses ---------------------------------------------------------------------------------------------------------------------- */

/* What a response says about one certificate. */
struct statement {
	int status, reason;
	ASN1_GENERALIZEDTIME *revoked, *this_update, *next_update; /* the response's; absent: NULL */
};

static bool seconds_of(const ASN1_TIME *t, time_t *seconds)
{
	struct tm tm;

	if (!ASN1_TIME_to_tm(t, &tm))
		return false;
	*seconds = timegm(&tm);
	return true;
}

static void log_time(const struct ocsp_subject *s, int level, const char *what, const ASN1_TIME *t)
{
	char text[32];
	time_t seconds;
	struct tm tm;

	if (!t || s->debug < level || !seconds_of(t, &seconds) || !localtime_r(&seconds, &tm))
		return;
	strftime(text, sizeof(text), "%Y.%m.%d %H:%M:%S", &tm);
	ocsp_log(s, level, "OCSP: %s: %s", what, text);
}

/* The basic response within, or NULL, logged. */
static OCSP_BASICRESP *open_response(const struct ocsp_subject *s, const unsigned char *der, size_t n)
{
	OCSP_RESPONSE *response = n > 0 && n <= INT32_MAX ? d2i_OCSP_RESPONSE(NULL, &der, (long)n) : NULL;
	OCSP_BASICRESP *basic = NULL;
	int status;

	if (!response) {
		ocsp_log(s, LOG_ERR, "OCSP: No OCSP response");
		return NULL;
	}
	status = OCSP_response_status(response);
	if (status != OCSP_RESPONSE_STATUS_SUCCESSFUL) {
		ocsp_log(s, LOG_ERR, "OCSP: OCSP responder error: %d: %s", status, OCSP_response_status_str(status));
	} else {
		basic = OCSP_response_get1_basic(response);
		if (!basic)
			ocsp_log(s, LOG_WARNING, "OCSP: OCSP_response_get1_basic");
	}
	OCSP_RESPONSE_free(response);
	return basic;
}

/* Only what was sent must come back; 1: there, and the same. */
static bool nonce_matches(const struct ocsp_subject *s, OCSP_REQUEST *request, OCSP_BASICRESP *basic)
{
	if (!request || OCSP_REQUEST_get_ext_by_NID(request, NID_id_pkix_OCSP_Nonce, -1) < 0 ||
	    OCSP_check_nonce(request, basic) == 1)
		return true;
	ocsp_log(s, LOG_ERR, "OCSP: Invalid or unsupported nonce");
	return false;
}

/*
 * A chain of our own is trusted for the status of our own certificate, though the section may have no store that it leads to: then a responder
 * that the issuer has delegated to (RFC 6960 4.2.2.2) is found valid all the same.
 */
static bool verify_by_chain(const struct ocsp_subject *s, OCSP_BASICRESP *basic)
{
	X509_STORE *store = X509_STORE_new();
	bool ok = store && X509_STORE_set_flags(store, X509_V_FLAG_PARTIAL_CHAIN) && X509_STORE_add_cert(store, s->issuer);

	for (int i = 0; ok && i < sk_X509_num(s->chain); i++)
		ok = X509_STORE_add_cert(store, sk_X509_value(s->chain, i));
	ok = ok && OCSP_basic_verify(basic, s->chain, store, s->flags) > 0;
	X509_STORE_free(store);
	return ok;
}

static bool verify_signature(const struct ocsp_subject *s, OCSP_BASICRESP *basic)
{
	ERR_clear_error();
	if (OCSP_basic_verify(basic, s->chain, s->store, s->flags) > 0)
		return true;
	if (s->trust_chain) {
		ERR_clear_error();
		if (verify_by_chain(s, basic)) {
			ERR_clear_error();
			return true;
		}
	}
	log_errors(s, "OCSP: OCSP_basic_verify");
	return false;
}

/* Responders may name a certificate by another hash than the request's: a stapled response was asked for by somebody else. */
static bool is_about(const struct ocsp_subject *s, const OCSP_SINGLERESP *single)
{
	OCSP_CERTID *theirs = (OCSP_CERTID *)OCSP_SINGLERESP_get0_id(single), *ours;
	ASN1_OBJECT *algorithm = NULL;
	const EVP_MD *md;
	bool same;

	if (!OCSP_id_get0_info(NULL, &algorithm, NULL, NULL, theirs))
		return false;
	md = EVP_get_digestbyobj(algorithm);
	ours = md ? OCSP_cert_to_id(md, s->cert, s->issuer) : NULL;
	same = ours && OCSP_id_cmp(ours, theirs) == 0;
	OCSP_CERTID_free(ours);
	return same;
}

static bool find_statement(const struct ocsp_subject *s, OCSP_BASICRESP *basic, struct statement *found)
{
	for (int i = 0; i < OCSP_resp_count(basic); i++) {
		OCSP_SINGLERESP *single = OCSP_resp_get0(basic, i);

		if (!is_about(s, single))
			continue;
		found->reason = -1;
		found->status = OCSP_single_get0_status(single, &found->reason, &found->revoked, &found->this_update,
		                                        &found->next_update);
		return true;
	}
	ocsp_log(s, LOG_WARNING, "OCSP: OCSP_resp_find_status");
	return false;
}

/* As OCSP_check_validity(3), at a time of the caller's choice. Returns its reason, or 0. */
static int check_times(const struct ocsp_subject *s, const struct ocsp_times *t, bool has_next)
{
	if (t->this_update > s->now + s->skew_s)
		return OCSP_R_STATUS_NOT_YET_VALID;
	if (!has_next)
		return t->this_update < s->now - OCSP_AGE_MAX_S - s->skew_s ? OCSP_R_STATUS_TOO_OLD : 0;
	if (t->next_update < s->now - s->skew_s)
		return OCSP_R_STATUS_EXPIRED;
	return t->next_update < t->this_update ? OCSP_R_NEXTUPDATE_BEFORE_THISUPDATE : 0;
}

static bool is_current(const struct ocsp_subject *s, const struct statement *st, struct ocsp_times *times)
{
	int reason = 0;

	memset(times, 0, sizeof(*times));
	if (!st->this_update || !seconds_of(st->this_update, &times->this_update))
		reason = OCSP_R_ERROR_IN_THISUPDATE_FIELD;
	else if (st->next_update && !seconds_of(st->next_update, &times->next_update))
		reason = OCSP_R_ERROR_IN_NEXTUPDATE_FIELD;
	else
		reason = check_times(s, times, st->next_update != NULL);
	if (!reason)
		return true;
	ERR_raise(ERR_LIB_OCSP, reason);
	log_errors(s, "OCSP: OCSP_check_validity");
	return false;
}

static void log_revoked(const struct ocsp_subject *s, const struct statement *st)
{
	if (st->reason < 0)
		ocsp_log(s, LOG_ERR, "OCSP: Certificate revoked");
	else
		ocsp_log(s, LOG_ERR, "OCSP: Certificate revoked: %d: %s", st->reason, OCSP_crl_reason_str(st->reason));
	log_time(s, LOG_NOTICE, "Revoked at", st->revoked);
}

static enum revocation judge(const struct ocsp_subject *s, const struct statement *st, struct ocsp_times *times)
{
	int status;

	ocsp_log(s, LOG_INFO, "OCSP: Status: %s", OCSP_cert_status_str(st->status));
	log_time(s, LOG_INFO, "This update", st->this_update);
	log_time(s, LOG_INFO, "Next update", st->next_update);
	status = is_current(s, st, times) ? st->status : V_OCSP_CERTSTATUS_UNKNOWN;
	switch (status) {
	case V_OCSP_CERTSTATUS_GOOD: ocsp_log(s, LOG_NOTICE, "OCSP: Certificate accepted"); return REVOCATION_GOOD;
	case V_OCSP_CERTSTATUS_REVOKED: log_revoked(s, st); return REVOCATION_REVOKED;
	default: ocsp_log(s, LOG_WARNING, "OCSP: Unknown verification status"); return REVOCATION_UNKNOWN;
	}
}

enum revocation ocsp_examine(const struct ocsp_subject *s, OCSP_REQUEST *request, const unsigned char *der, size_t n,
                             struct ocsp_times *times)
{
	struct statement st = {0};
	enum revocation result = REVOCATION_UNKNOWN;
	OCSP_BASICRESP *basic;

	memset(times, 0, sizeof(*times));
	ERR_clear_error();
	basic = open_response(s, der, n);
	if (basic && nonce_matches(s, request, basic) && verify_signature(s, basic) && find_statement(s, basic, &st))
		result = judge(s, &st, times);
	OCSP_BASICRESP_free(basic);
	ERR_clear_error();
	return result;
}
