/*
 * Unit tests of ocsp.h, ocsp_http.h and the times of tls_staple.h: URLs, requests, replies in pieces and cut anywhere, and what responses say at any time.
 * Run by `make unit`.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ocsp.h"
#include "ocsp_http.h"
#include "tls_context.h"
#include "tls_staple.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>

/* --- URLs --------------------------------------------------------------------------------------------------------------------------- */

Test(ocsp, urls_taken_apart)
{
	static const struct {
		const char *text, *host, *port, *path;
	} good[] = {
		{"http://ocsp.example.net", "ocsp.example.net", "80", "/"},
		{"HTTP://ocsp.example.net/", "ocsp.example.net", "80", "/"},
		{"http://ocsp.example.net:8080/a/b", "ocsp.example.net", "8080", "/a/b"},
		{"http://[::1]:81/x?y=z", "::1", "81", "/x?y=z"},
		{"http://[fe80::1]/", "fe80::1", "80", "/"},
		{"http://127.0.0.1?q", "127.0.0.1", "80", "/?q"},
		{"http://host/a#fragment", "host", "80", "/a"},
		{"http://a_b-c.d:1/", "a_b-c.d", "1", "/"},
	};
	struct ocsp_url url;

	for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
		cr_expect_eq(ocsp_url_parse(good[i].text, &url), 0, "%s", good[i].text);
		cr_expect_str_eq(url.host, good[i].host);
		cr_expect_str_eq(url.port, good[i].port);
		cr_expect_str_eq(url.path, good[i].path);
	}
}

Test(ocsp, urls_refused)
{
	static const char *const bad[] = {
		"",
		"foo",
		"http:",
		"http:/",
		"http://",
		"http:///path",
		"http://:80/",
		"http://host:/",
		"http://host:0/",
		"http://host:65536/",
		"http://host:8o/",
		"http://host:+80/",
		"http://user@host/",
		"http://@name/",
		"http://ho st/",
		"http://host/a b",
		"http://host/a\r\nX: y",
		"http://host/\x7f",
		"http://host/\xc3\xa4",
		"http://[::1/",
		"http://[::1]81/",
		"http://[host]/",
		"http://::1/",
		"ftp://host/",
		"ldap://host/",
	};
	char longer[OCSP_URL_MAX + 64] = "http://host/";
	struct ocsp_url url;

	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		cr_expect_eq(ocsp_url_parse(bad[i], &url), -EINVAL, "%s", bad[i]);
	cr_expect_eq(ocsp_url_parse("https://host/", &url), -EPROTONOSUPPORT);
	memset(longer + 12, 'a', OCSP_URL_MAX);
	cr_expect_eq(ocsp_url_parse(longer, &url), -EINVAL);
	longer[OCSP_URL_MAX - 2] = '\0';
	cr_expect_eq(ocsp_url_parse(longer, &url), 0);
	memset(longer, 'h', sizeof(longer) - 1);
	memcpy(longer, "http://", 7);
	longer[7 + OCSP_HOST_MAX] = '\0';
	cr_expect_eq(ocsp_url_parse(longer, &url), -EINVAL);
}

static void expect_head(const char *text, const char *first)
{
	char head[OCSP_HEAD_MAX];
	struct ocsp_url url;

	cr_assert_eq(ocsp_url_parse(text, &url), 0);
	cr_expect_eq(ocsp_request_head(&url, 69, head), strlen(head));
	cr_expect(strncmp(head, first, strlen(first)) == 0, "%s", head);
	cr_expect(strstr(head, "\r\nContent-Length: 69\r\n\r\n"));
}

/* The port belongs to Host (RFC 9110 7.2) unless it is HTTP's own. */
Test(ocsp, head_of_the_request)
{
	expect_head("http://a.test/p", "POST /p HTTP/1.0\r\nHost: a.test\r\nUser-Agent: ");
	expect_head("http://a.test:80/p", "POST /p HTTP/1.0\r\nHost: a.test\r\n");
	expect_head("http://a.test:8080", "POST / HTTP/1.0\r\nHost: a.test:8080\r\n");
	expect_head("http://[::1]:8080/", "POST / HTTP/1.0\r\nHost: [::1]:8080\r\n");
}

/* --- replies ------------------------------------------------------------------------------------------------------------------------ */

#define OK_LINE "HTTP/1.0 200 OK\r\n"
#define DER "\x30\x03\x0a\x01\x06"

struct told {
	enum ocsp_progress progress;
	size_t body;
	const char *wrong;
};

/* Feeds a reply in pieces of a size, then the end of the stream. */
static struct told tell(const char *data, size_t n, size_t piece)
{
	struct ocsp_reply r = {0};
	struct told t = {.progress = OCSP_REPLY_MORE};

	for (size_t at = 0; at < n && t.progress == OCSP_REPLY_MORE; at += piece)
		t.progress = ocsp_reply_add(&r, data + at, n - at < piece ? n - at : piece);
	if (t.progress == OCSP_REPLY_MORE)
		t.progress = ocsp_reply_add(&r, NULL, 0);
	if (t.progress == OCSP_REPLY_WHOLE)
		t.body = r.len - r.head;
	else
		t.wrong = r.wrong;
	ocsp_reply_free(&r);
	return t;
}

Test(ocsp, replies_that_are_whole)
{
	static const char *const whole[] = {
		OK_LINE "Content-Length: 5\r\n\r\n" DER,
		OK_LINE "content-LENGTH:5 \r\nServer: x\r\n\r\n" DER,
		"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\n" DER "and more",
		OK_LINE "\r\n" DER,
		"HTTP/1.0 200 OK\nContent-Length:\t5\n\n" DER,
		OK_LINE "Content-Length: 5\r\nContent-Length: 5\r\n\r\n" DER,
	};

	for (size_t i = 0; i < sizeof(whole) / sizeof(*whole); i++) {
		for (size_t piece = 1; piece < 100; piece += 7) {
			struct told t = tell(whole[i], strlen(whole[i]), piece);

			cr_expect_eq(t.progress, OCSP_REPLY_WHOLE, "%zu by %zu: %s", i, piece, t.wrong);
			cr_expect_eq(t.body, 5);
		}
		/* Cut anywhere, it is not whole. */
		for (size_t n = 0; n < (size_t)(strstr(whole[i], DER) - whole[i]) + 5; n++)
			cr_expect_eq(tell(whole[i], n, n + 1).progress, OCSP_REPLY_BAD);
	}
}

Test(ocsp, replies_that_are_not)
{
	static const struct {
		const char *data, *wrong;
	} bad[] = {
		{"", "no response"},
		{"HTTP/1.0 404 Not Found\r\nContent-Length: 5\r\n\r\n" DER, "the HTTP status is not 200"},
		{"HTTP/1.0 2000 OK\r\n\r\n" DER, "the HTTP status is not 200"},
		{"HTTP/2 200\r\n\r\n" DER, "not an HTTP response"},
		{"ICY 200 OK\r\n\r\n", "not an HTTP response"},
		{OK_LINE "Content-Length: -5\r\n\r\n" DER, "malformed Content-Length"},
		{OK_LINE "Content-Length: 5, 5\r\n\r\n" DER, "malformed Content-Length"},
		{OK_LINE "Content-Length: 0\r\n\r\n" DER, "the response is empty"},
		{OK_LINE "Content-Length:\r\n\r\n" DER, "the response is empty"},
		{OK_LINE "Content-Length: 5\r\nContent-Length: 6\r\n\r\n" DER, "two different lengths"},
		{OK_LINE "Content-Length: 102401\r\n\r\n" DER, "the response is too long"},
		{OK_LINE "Content-Length: 99999999999999999999999\r\n\r\n" DER, "the response is too long"},
		{OK_LINE "Transfer-Encoding: chunked\r\n\r\n5\r\n" DER, "a transfer encoding"},
		{OK_LINE "\r\n<html>", "not a response in DER"},
		{OK_LINE "\r\n\x30\x80", "not a response in DER"},
		{OK_LINE "\r\n\x30\x84\x01\x01\x01\x01", "not a response in DER"},
		{OK_LINE "\r\n\x30\x83\x02\x01\x01", "the response is too long"},
		{OK_LINE "\r\n\x30\x82\x01\x01", "the response is cut short"},
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		for (size_t piece = 1; piece < 200; piece += 66) {
			struct told t = tell(bad[i].data, strlen(bad[i].data), piece);

			cr_expect_eq(t.progress, OCSP_REPLY_BAD, "%s", bad[i].data);
			cr_expect_str_eq(t.wrong, bad[i].wrong, "%s: %s", bad[i].data, t.wrong);
		}
}

/* Neither header nor body grows without end. */
Test(ocsp, replies_are_bounded)
{
	char piece[1000];
	struct ocsp_reply r = {0};
	enum ocsp_progress progress = OCSP_REPLY_MORE;
	size_t sent = 0;

	memset(piece, 'x', sizeof(piece));
	cr_assert_eq(ocsp_reply_add(&r, OK_LINE, strlen(OK_LINE)), OCSP_REPLY_MORE);
	while (progress == OCSP_REPLY_MORE) {
		progress = ocsp_reply_add(&r, piece, sizeof(piece));
		sent += sizeof(piece);
		cr_assert_leq(sent, OCSP_REPLY_HEAD_MAX + sizeof(piece));
	}
	cr_expect_str_eq(r.wrong, "the HTTP header is too long");
	ocsp_reply_free(&r);
	cr_assert_eq(ocsp_reply_add(&r, OK_LINE "\r\n\x30\x83\x01\x8f\xfb", 24), OCSP_REPLY_MORE); /* 102,400 bytes in all */
	progress = OCSP_REPLY_MORE;
	for (sent = 5; progress == OCSP_REPLY_MORE; sent += sizeof(piece))
		progress = ocsp_reply_add(&r, piece, sizeof(piece));
	cr_expect_eq(progress, OCSP_REPLY_WHOLE);
	cr_expect_eq(r.len - r.head, OCSP_REPLY_BODY_MAX);
	ocsp_reply_free(&r);
}

/* --- what responses say ------------------------------------------------------------------------------------------------------------- */

static struct world {
	EVP_PKEY *key;
	X509 *ca, *leaf;
	X509_STORE *store;
	STACK_OF(X509) * chain;
} world;

static X509 *certificate(const char *name, X509 *issuer, EVP_PKEY *signer, long serial)
{
	X509 *cert = X509_new();
	X509_NAME *subject = X509_get_subject_name(cert);
	X509V3_CTX ctx;
	X509_EXTENSION *ca;

	X509_set_version(cert, 2);
	ASN1_INTEGER_set(X509_get_serialNumber(cert), serial);
	X509_gmtime_adj(X509_getm_notBefore(cert), -3600);
	X509_gmtime_adj(X509_getm_notAfter(cert), 3600);
	X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, (const unsigned char *)name, -1, -1, 0);
	X509_set_issuer_name(cert, issuer ? X509_get_subject_name(issuer) : subject);
	X509_set_pubkey(cert, world.key);
	X509V3_set_ctx(&ctx, issuer ? issuer : cert, cert, NULL, NULL, 0);
	ca = X509V3_EXT_conf_nid(NULL, &ctx, NID_basic_constraints, issuer ? "CA:FALSE" : "critical,CA:TRUE");
	X509_add_ext(cert, ca, -1);
	X509_EXTENSION_free(ca);
	cr_assert_gt(X509_sign(cert, signer, EVP_sha256()), 0);
	return cert;
}

static void up(void)
{
	world.key = EVP_EC_gen("P-256");
	world.ca = certificate("a CA", NULL, world.key, 1);
	world.leaf = certificate("a leaf", world.ca, world.key, 2);
	world.store = X509_STORE_new();
	X509_STORE_add_cert(world.store, world.ca);
	world.chain = sk_X509_new_null();
	sk_X509_push(world.chain, world.leaf);
	sk_X509_push(world.chain, world.ca);
}

static void down(void)
{
	sk_X509_free(world.chain);
	X509_STORE_free(world.store);
	X509_free(world.leaf);
	X509_free(world.ca);
	EVP_PKEY_free(world.key);
}

TestSuite(ocsp_says, .init = up, .fini = down);

static struct ocsp_subject subject_now(time_t now)
{
	return (struct ocsp_subject){.cert = world.leaf,
	                             .issuer = world.ca,
	                             .chain = world.chain,
	                             .store = world.store,
	                             .skew_s = OCSP_SKEW_S,
	                             .now = now,
	                             .debug = -1};
}

/* A response about the leaf; next = 0: it does not say. To be freed with OPENSSL_free(). */
static unsigned char *respond(int status, time_t this_update, time_t next, const EVP_MD *hash, OCSP_REQUEST *nonce_of, int *n)
{
	OCSP_BASICRESP *basic = OCSP_BASICRESP_new();
	OCSP_CERTID *id = OCSP_cert_to_id(hash, world.leaf, world.ca);
	ASN1_TIME *from = ASN1_TIME_set(NULL, this_update), *to = next ? ASN1_TIME_set(NULL, next) : NULL;
	ASN1_TIME *revoked = ASN1_TIME_set(NULL, this_update);
	OCSP_RESPONSE *response;
	unsigned char *der = NULL;

	cr_assert(OCSP_basic_add1_status(basic, id, status, OCSP_REVOKED_STATUS_KEYCOMPROMISE, revoked, from, to));
	if (nonce_of)
		OCSP_copy_nonce(basic, nonce_of);
	cr_assert_gt(OCSP_basic_sign(basic, world.ca, world.key, EVP_sha256(), NULL, OCSP_NOCERTS), 0);
	response = OCSP_response_create(OCSP_RESPONSE_STATUS_SUCCESSFUL, basic);
	*n = i2d_OCSP_RESPONSE(response, &der);
	cr_assert_gt(*n, 0);
	OCSP_RESPONSE_free(response);
	OCSP_BASICRESP_free(basic);
	OCSP_CERTID_free(id);
	ASN1_TIME_free(from);
	ASN1_TIME_free(to);
	ASN1_TIME_free(revoked);
	return der;
}

static enum revocation examine_at(time_t now, int status, time_t this_update, time_t next)
{
	struct ocsp_subject s = subject_now(now);
	struct ocsp_times times;
	int n;
	unsigned char *der = respond(status, this_update, next, EVP_sha1(), NULL, &n);
	enum revocation result = ocsp_examine(&s, NULL, der, (size_t)n, &times);

	cr_expect_eq(times.this_update, this_update);
	cr_expect_eq(times.next_update, next);
	OPENSSL_free(der);
	return result;
}

Test(ocsp_says, statuses)
{
	time_t now = time(NULL);

	cr_expect_eq(examine_at(now, V_OCSP_CERTSTATUS_GOOD, now, now + 10), REVOCATION_GOOD);
	cr_expect_eq(examine_at(now, V_OCSP_CERTSTATUS_REVOKED, now, now + 10), REVOCATION_REVOKED);
	cr_expect_eq(examine_at(now, V_OCSP_CERTSTATUS_UNKNOWN, now, now + 10), REVOCATION_UNKNOWN);
}

/* At the edges, a second on this side and one beyond. */
Test(ocsp_says, times)
{
	const int good = V_OCSP_CERTSTATUS_GOOD;
	const time_t now = time(NULL), hour = 3600;

	cr_expect_eq(examine_at(now, good, now + OCSP_SKEW_S, now + hour), REVOCATION_GOOD);
	cr_expect_eq(examine_at(now, good, now + OCSP_SKEW_S + 1, now + hour), REVOCATION_UNKNOWN);
	cr_expect_eq(examine_at(now, good, now - hour, now - OCSP_SKEW_S), REVOCATION_GOOD);
	cr_expect_eq(examine_at(now, good, now - hour, now - OCSP_SKEW_S - 1), REVOCATION_UNKNOWN);
	cr_expect_eq(examine_at(now, good, now + 10, now + 9), REVOCATION_UNKNOWN);
	cr_expect_eq(examine_at(now, good, now - OCSP_AGE_MAX_S - OCSP_SKEW_S, 0), REVOCATION_GOOD);
	cr_expect_eq(examine_at(now, good, now - OCSP_AGE_MAX_S - OCSP_SKEW_S - 1, 0), REVOCATION_UNKNOWN);
	cr_expect_eq(examine_at(now, V_OCSP_CERTSTATUS_REVOKED, now - 2 * hour, now - hour), REVOCATION_UNKNOWN);
}

Test(ocsp_says, hashes_of_the_certificate)
{
	const EVP_MD *const hashes[] = {EVP_sha1(), EVP_sha256(), EVP_sha512()};
	struct ocsp_subject s = subject_now(time(NULL));
	struct ocsp_times times;
	int n;

	for (size_t i = 0; i < sizeof(hashes) / sizeof(*hashes); i++) {
		unsigned char *der = respond(V_OCSP_CERTSTATUS_REVOKED, s.now, s.now + 10, hashes[i], NULL, &n);

		cr_expect_eq(ocsp_examine(&s, NULL, der, (size_t)n, &times), REVOCATION_REVOKED);
		OPENSSL_free(der);
	}
}

Test(ocsp_says, nonces)
{
	struct ocsp_subject s = subject_now(time(NULL));
	OCSP_REQUEST *mine = ocsp_request_new(&s, true), *another = ocsp_request_new(&s, true),
		     *none = ocsp_request_new(&s, false);
	OCSP_REQUEST *const sent[] = {mine, mine, mine, none, none, NULL, NULL};
	OCSP_REQUEST *const back[] = {mine, another, NULL, another, NULL, another, NULL};
	const bool good[] = {true, false, false, true, true, true, true};
	struct ocsp_times times;
	int n;

	for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
		unsigned char *der = respond(V_OCSP_CERTSTATUS_GOOD, s.now, s.now + 10, EVP_sha1(), back[i], &n);

		cr_expect_eq(ocsp_examine(&s, sent[i], der, (size_t)n, &times), good[i] ? REVOCATION_GOOD : REVOCATION_UNKNOWN,
		             "%zu", i);
		OPENSSL_free(der);
	}
	OCSP_REQUEST_free(mine);
	OCSP_REQUEST_free(another);
	OCSP_REQUEST_free(none);
}

/* A request without a nonce is 69 bytes for a serial number of two; one with a nonce carries 16 random bytes. */
Test(ocsp_says, requests)
{
	struct ocsp_subject s = subject_now(0);
	OCSP_REQUEST *plain = ocsp_request_new(&s, false), *nonce = ocsp_request_new(&s, true);
	static const unsigned char begin[] = {0x30, 0x42, 0x30, 0x40, 0x30, 0x3e, 0x30, 0x3c, 0x30, 0x3a, 0x30, 0x09,
	                                      0x06, 0x05, 0x2b, 0x0e, 0x03, 0x02, 0x1a, 0x05, 0x00, 0x04, 0x14};
	static const unsigned char extension[] = {0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01, 0x02, 0x04, 0x12, 0x04, 0x10};
	size_t n;
	unsigned char *der = ocsp_request_encode(plain, &n);

	cr_expect_eq(n, 68); /* the serial number is of one byte here */
	cr_expect_arr_eq(der, begin, sizeof(begin));
	OPENSSL_free(der);
	der = ocsp_request_encode(nonce, &n);
	cr_expect_eq(n, 68 + 37);
	cr_expect_arr_eq(der + n - 16 - sizeof(extension), extension, sizeof(extension));
	OPENSSL_free(der);
	OCSP_REQUEST_free(plain);
	OCSP_REQUEST_free(nonce);
}

/* Whatever bit is turned over, nobody is called good who is not. */
Test(ocsp_says, damaged_responses)
{
	struct ocsp_subject s = subject_now(time(NULL));
	struct ocsp_times times;
	int n;
	unsigned char *der = respond(V_OCSP_CERTSTATUS_REVOKED, s.now, s.now + 10, EVP_sha1(), NULL, &n);

	for (int i = 0; i < n; i++) {
		der[i] ^= 1u << (i % 8);
		cr_expect_neq(ocsp_examine(&s, NULL, der, (size_t)n, &times), REVOCATION_GOOD, "%d", i);
		der[i] ^= 1u << (i % 8);
		cr_expect_eq(ocsp_examine(&s, NULL, der, (size_t)i, &times), REVOCATION_UNKNOWN, "%d", i);
	}
	OPENSSL_free(der);
}

/* --- when stapled responses are refreshed -------------------------------------------------------------------------------------------- */

Test(ocsp, refresh_at_half_of_the_validity)
{
	const time_t day = 86400;

	cr_expect_eq(tls_staple_refresh_at(1000, 1000, 1000 + 8 * day), 1000 + 4 * day);
	cr_expect_eq(tls_staple_refresh_at(1000 + day, 1000, 1000 + 8 * day), 1000 + 4 * day);
	/* Got in the second half: at half of what is left. */
	cr_expect_eq(tls_staple_refresh_at(1000 + 6 * day, 1000, 1000 + 8 * day), 1000 + 7 * day);
	/* Never without end in one second. */
	cr_expect_eq(tls_staple_refresh_at(1000, 900, 1001), 1001);
	cr_expect_eq(tls_staple_refresh_at(1000, 1000, 1000), 1001);
}

Test(ocsp, failures_are_put_off_longer_and_longer)
{
	time_t last = 0;

	for (unsigned n = 1; n < 40; n++) {
		time_t s = tls_staple_backoff_s(n);

		cr_expect(s == 3600 || s == 2 * last || n == 1);
		cr_expect_leq(s, 3600);
		last = s;
	}
	cr_expect_eq(tls_staple_backoff_s(1), 5);
	cr_expect_eq(last, 3600);
}

/* The context of a section whose certificate names a responder. */
static void staple_up(struct tls_context *context)
{
	X509 *cert = certificate("with a responder", world.ca, world.key, 3);
	X509_EXTENSION *aia = X509V3_EXT_conf_nid(NULL, NULL, NID_info_access, "OCSP;URI:http://localhost/");

	X509_add_ext(cert, aia, -1);
	cr_assert_gt(X509_sign(cert, world.key, EVP_sha256()), 0);
	context->ctx = SSL_CTX_new(TLS_server_method());
	cr_assert_eq(SSL_CTX_use_certificate(context->ctx, cert), 1);
	cr_assert_eq(SSL_CTX_use_PrivateKey(context->ctx, world.key), 1);
	cr_assert_eq(SSL_CTX_add1_chain_cert(context->ctx, world.ca), 1);
	X509_EXTENSION_free(aia);
	X509_free(cert);
}

/* Whenever it is by the new clock, nobody waits for a date of the old one. */
Test(ocsp_says, a_clock_that_is_set_back)
{
	static const struct section section = {.name = "s"};
	struct tls_context context = {.section = &section};
	struct tls_staples *staples;
	time_t now;

	staple_up(&context);
	staples = tls_staples_new(&context, NULL);
	cr_assert_eq(tls_staples_count(staples), 1);
	cr_expect_eq(tls_staple_wait_s(staples, 0, time(NULL)), 0);
	now = time(NULL);
	cr_expect_eq(tls_staple_put_off(staples, 0), 5);
	cr_expect_gt(tls_staple_wait_s(staples, 0, now + 1), 0);
	cr_expect_eq(tls_staple_wait_s(staples, 0, now + 100), 0);
	cr_expect_eq(tls_staple_wait_s(staples, 0, now - 1000), 0);
	tls_staples_unref(staples);
	SSL_CTX_free(context.ctx);
}
