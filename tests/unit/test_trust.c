/*
 * Unit tests of who is trusted: what is loaded, when two loads are alike, a worker's store, names for the log, and
 * what a connection says of its peer. Run by `make unit`.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tls_trust.h"

#include "tls_context.h"
#include "tls_testing.h"
#include "tls_verify.h"

#include <openssl/ssl.h>
#include <openssl/x509_vfy.h>

static struct config *config;
static struct tls_library *library;

static void up(void)
{
	scratch_up();
	make_identity("a.pem", NULL);
	make_identity("b.pem", NULL);
	library = tls_library_new();
	cr_assert_not_null(library);
}

static void down(void)
{
	tls_library_free(library);
	config_free(config);
	scratch_down();
}

TestSuite(trust, .init = up, .fini = down);

/* A server section with these options more; the configuration before it is gone. */
static struct tls_trust *trust_of(const char *options)
{
	struct tls_trust *trust;

	config_free(config);
	config = load_format("[s]\naccept = 127.0.0.1:1\nconnect = 2\ncert = %s\n%s\n", scratch("a.pem"), options);
	trust = tls_trust_load(config->sections);
	hear_stderr(log_dump_kept);
	return trust;
}

/* "OPTION = PATH", and more lines. */
static const char *line(const char *option, const char *path, const char *more)
{
	static char lines[16][512];
	static unsigned turn;
	char *p = lines[turn++ % 16];

	snprintf(p, sizeof(lines[0]), "%s = %s\n%s\n", option, path, more);
	return p;
}

static const char *ca_file(const char *name, const char *more)
{
	return line("CAfile", scratch(name), more);
}

static void copy(const char *from, const char *to, int times)
{
	char text[8192];
	FILE *file = fopen(scratch(from), "r");
	size_t n = fread(text, 1, sizeof(text) - 1, file);

	fclose(file);
	text[n] = '\0';
	file = fopen(scratch(to), "w");
	while (times--)
		fputs(text, file);
	fclose(file);
}

/* --- loading --- */

Test(trust, loads_each_certificate_once)
{
	struct tls_trust *trust = trust_of(ca_file("a.pem", "verifyChain = yes"));

	cr_assert_not_null(trust, "%s", said);
	cr_expect_eq(trust->count, 1);
	cr_expect_eq(sk_X509_NAME_num(trust->names), 1);
	tls_trust_unref(trust);
	copy("a.pem", "other.pem", 3);
	trust = trust_of(ca_file("other.pem", "verifyChain = yes"));
	cr_assert_not_null(trust, "%s", said);
	cr_expect_eq(trust->count, 1);
	tls_trust_unref(trust);
}

Test(trust, what_cannot_be_loaded_matters_to_who_verifies)
{
	struct tls_trust *trust;

	scratch_write("junk.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
	for (int i = 0; i < 2; i++) {
		trust = trust_of(ca_file(i ? "junk.pem" : "no such file", ""));
		cr_expect_not_null(trust, "%s", said);
		tls_trust_unref(trust);
	}
	trust = trust_of(ca_file("junk.pem", "verifyPeer = yes"));
	cr_expect_null(trust);
	cr_expect(strstr(said, "[!]"));
	trust = trust_of(line("CAstore", scratch("no such file"), ""));
	cr_expect_null(trust, "that one ends the start in any case");
	cr_expect(strstr(said, "Failed to load CA certificates from: /"), "%s", said);
	trust = trust_of(line("CApath", "/nonexistent", "verifyPeer = yes"));
	cr_expect_null(trust);
	cr_expect(strstr(said, "[!] No trusted certificates found\n"), "%s", said);
}

/* --- alike or not --- */

static bool alike(const char *options, const char *others)
{
	struct tls_trust *one = trust_of(options), *other = trust_of(others);
	bool equal;

	cr_assert(one && other, "%s", said);
	equal = tls_trust_equal(one, other);
	cr_expect_eq(memcmp(tls_trust_digest(one), tls_trust_digest(other), TRUST_DIGEST) == 0, equal);
	tls_trust_unref(one);
	tls_trust_unref(other);
	return equal;
}

Test(trust, digest_is_of_what_decides)
{
	const char *base = ca_file("a.pem", "verifyChain = yes");

	copy("a.pem", "other.pem", 2);
	cr_expect(alike(base, base));
	cr_expect(alike(base, ca_file("a.pem", "verifyChain = yes\nTIMEOUTidle = 1")), "a matter of other things");
	cr_expect(alike(base, ca_file("other.pem", "verifyChain = yes")), "the same in another file");
	cr_expect_not(alike(base, ca_file("b.pem", "verifyChain = yes")));
	cr_expect_not(alike(base, ca_file("a.pem", "verifyPeer = yes")));
	cr_expect_not(alike(base, ca_file("a.pem", "verifyChain = yes\ncheckHost = a")));
	cr_expect_not(
		alike(ca_file("a.pem", "verifyPeer = yes\ncheckHost = a"), ca_file("a.pem", "verifyPeer = yes\ncheckEmail = a")));
	cr_expect_not(alike(ca_file("a.pem", "verifyPeer = yes\ncheckHost = ab"),
	                    ca_file("a.pem", "verifyPeer = yes\ncheckHost = a\ncheckHost = b")));
	cr_expect_not(alike(base, ca_file("a.pem", "verifyChain = yes\nCRLcheckChain = yes")));
	cr_expect_not(alike(base, ca_file("a.pem", "verifyChain = yes\nredirect = 3")), "who is let in there is not let in here");
	cr_expect_not(alike(base, ca_file("a.pem", "verifyChain = yes\nCRLpath = /nonexistent")), "nobody is let in there");
	cr_expect_not(alike(base, ca_file("a.pem", "verifyChain = yes\nconfig = VerifyMode:Request")));
}

Test(trust, digest_knows_directories_by_what_is_in_them)
{
	const char *options = ca_file("a.pem", line("CRLpath", scratch_dir, "verifyChain = yes"));
	struct tls_trust *before, *after;

	before = trust_of(options);
	after = trust_of(options);
	cr_assert(before && after);
	cr_expect(tls_trust_equal(before, after));
	tls_trust_unref(after);
	scratch_write("junk.pem", "something new");
	after = trust_of(options);
	cr_expect_not(tls_trust_equal(before, after));
	tls_trust_unref(after);
	tls_trust_unref(before);
}

/* Nobody is at the other end of it. */
Test(trust, fifo_in_a_directory_holds_up_nothing, .timeout = 60)
{
	struct tls_trust *trust;

	cr_assert_eq(mkfifo(scratch("socket"), 0600), 0);
	trust = trust_of(line("CApath", scratch_dir, "verifyChain = yes"));
	cr_expect_not_null(trust, "%s", said);
	tls_trust_unref(trust);
}

/* --- a worker's store --- */

static X509 *cert_in(const char *name)
{
	FILE *file = fopen(scratch(name), "r");
	X509 *cert = PEM_read_X509(file, NULL, NULL, NULL);

	fclose(file);
	cr_assert_not_null(cert);
	return cert;
}

/* How many certificates of that name a store that trusts `file` finds. */
static int found(const char *file, const X509 *like)
{
	struct tls_trust *trust = trust_of(ca_file(file, "verifyPeer = yes"));
	struct tls_context *context = context_of(config->sections, NULL, library);
	X509_STORE_CTX *store = X509_STORE_CTX_new();
	int count = 0;

	cr_assert(trust && store);
	cr_assert(X509_STORE_CTX_init(store, SSL_CTX_get_cert_store(context->ctx), NULL, NULL));
	for (int i = 0; i < 2; i++) {
		STACK_OF(X509) *certs = X509_STORE_CTX_get1_certs(store, X509_get_subject_name(like));

		cr_expect(i == 0 || count == (certs ? sk_X509_num(certs) : 0), "asked again");
		count = certs ? sk_X509_num(certs) : 0;
		sk_X509_pop_free(certs, X509_free);
	}
	X509_STORE_CTX_free(store);
	tls_context_free(context);
	tls_trust_unref(trust);
	return count;
}

static X509 *named(const char *name)
{
	X509 *cert = X509_new();

	X509_NAME_add_entry_by_txt(X509_get_subject_name(cert), "CN", MBSTRING_UTF8, (const unsigned char *)name, -1, -1, 0);
	return cert;
}

Test(trust, store_finds_all_of_a_name)
{
	X509 *same = cert_in("a.pem"), *other = named("somebody else");
	FILE *file;

	cr_expect_eq(found("a.pem", same), 1);
	cr_expect_eq(found("a.pem", other), 0);
	/* Two of the same name, with other keys, and the first once more. */
	copy("a.pem", "other.pem", 1);
	file = fopen(scratch("other.pem"), "a");
	for (int i = 0; i < 2; i++) {
		X509 *cert = cert_in(i ? "a.pem" : "b.pem");

		PEM_write_X509(file, cert);
		X509_free(cert);
	}
	fclose(file);
	cr_expect_eq(found("other.pem", same), 2);
	X509_free(same);
	X509_free(other);
}

/* --- names for the log --- */

static const char *text_of_name(const char *cn, int len)
{
	static char text[LOG_TEXT_MAX];
	X509_NAME *name = X509_NAME_new();

	cr_assert(X509_NAME_add_entry_by_txt(name, "C", MBSTRING_ASC, (const unsigned char *)"PL", -1, -1, 0));
	cr_assert(X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8, (const unsigned char *)cn, len, -1, 0));
	name_text(name, text);
	X509_NAME_free(name);
	return text;
}

Test(trust, names_in_the_log)
{
	char cn[64], text[LOG_TEXT_MAX];
	X509_NAME *name = X509_NAME_new();

	cr_expect_str_eq(text_of_name("client", -1), "C=PL, CN=client");
	cr_expect_str_eq(text_of_name("Za\xc5\xbc\xc3\xb3\xc5\x82\xc4\x87", -1), "C=PL, CN=Za\xc5\xbc\xc3\xb3\xc5\x82\xc4\x87");
	cr_expect_str_eq(text_of_name("a, b", -1), "C=PL, CN=\"a, b\"");
	cr_expect_str_eq(text_of_name("a\nLOG5[1]: b", -1), "C=PL, CN=a\\0ALOG5[1]: b");
	cr_expect_str_eq(text_of_name("a\0b", 3), "C=PL, CN=a\\00b");
	cr_expect_str_eq(text_of_name("%n%s", -1), "C=PL, CN=%n%s");
	cr_expect_str_eq(name_text(name, text), "");
	/* Longer than a line of the log. */
	memset(cn, 'x', sizeof(cn));
	for (int i = 0; i < 40; i++)
		cr_assert(X509_NAME_add_entry_by_txt(name, "OU", MBSTRING_ASC, (const unsigned char *)cn, sizeof(cn), -1, 0));
	name_text(name, text);
	cr_expect_eq(strlen(text), LOG_TEXT_MAX - 1);
	cr_expect(strncmp(text, "OU=xxx", 6) == 0);
	X509_NAME_free(name);
}
