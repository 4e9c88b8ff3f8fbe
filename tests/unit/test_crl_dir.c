/*
 * Unit tests of tls_crl_dir.h: a directory of revocation lists as a worker's store sees it. Run by `make unit`.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tls_crl_dir.h"

#include "tls_testing.h"

#include <openssl/x509_vfy.h>
#include <sys/resource.h>

enum { DAY_S = 86400 };

static X509_STORE *store;
static EVP_PKEY *key;
static X509 *cert; /* serial number 1, issued by itself */
static char list_path[64];

static void up(void)
{
	scratch_up();
	key = EVP_EC_gen("P-256");
	cert = self_signed(key);
	snprintf(list_path, sizeof(list_path), "%s/%08lx.r0", scratch_dir, X509_NAME_hash(X509_get_subject_name(cert)));
	store = X509_STORE_new();
	cr_assert(crl_dir_add(store, scratch_dir, NULL));
}

static void down(void)
{
	X509_STORE_free(store);
	X509_free(cert);
	EVP_PKEY_free(key);
	unlink(list_path);
	scratch_down();
}

TestSuite(crl_dir, .init = up, .fini = down);

/* Appends a list of the certificate's issuer that names one serial number and is good until then, in seconds from now. */
static void list_add(const char *mode, long serial, long until_s)
{
	X509_CRL *crl = X509_CRL_new();
	ASN1_TIME *when = X509_gmtime_adj(NULL, -DAY_S);
	X509_REVOKED *entry = X509_REVOKED_new();
	ASN1_INTEGER *number = ASN1_INTEGER_new();
	FILE *file = fopen(list_path, mode);

	cr_assert(file && ASN1_INTEGER_set(number, serial));
	X509_CRL_set_version(crl, 1);
	X509_CRL_set_issuer_name(crl, X509_get_subject_name(cert));
	X509_CRL_set1_lastUpdate(crl, when);
	X509_REVOKED_set_serialNumber(entry, number);
	X509_REVOKED_set_revocationDate(entry, when);
	X509_CRL_add0_revoked(crl, entry);
	X509_gmtime_adj(when, until_s);
	X509_CRL_set1_nextUpdate(crl, when);
	cr_assert_gt(X509_CRL_sign(crl, key, EVP_sha256()), 0);
	PEM_write_X509_CRL(file, crl);
	fclose(file);
	ASN1_INTEGER_free(number);
	ASN1_TIME_free(when);
	X509_CRL_free(crl);
}

/* How many lists of the certificate's issuer a verification finds. */
static int found(void)
{
	X509_STORE_CTX *ctx = X509_STORE_CTX_new();
	STACK_OF(X509_CRL) * lists;
	int count;

	cr_assert(X509_STORE_CTX_init(ctx, store, cert, NULL));
	lists = X509_STORE_CTX_get_lookup_crls(ctx)(ctx, X509_get_issuer_name(cert));
	count = lists ? sk_X509_CRL_num(lists) : 0;
	sk_X509_CRL_pop_free(lists, X509_CRL_free);
	X509_STORE_CTX_free(ctx);
	hear_stderr(log_dump_kept);
	return count;
}

Test(crl_dir, all_lists_of_a_file)
{
	cr_expect_eq(found(), 0);
	list_add("w", 5, DAY_S);
	cr_expect_eq(found(), 1);
	list_add("a", 6, DAY_S);
	cr_expect_eq(found(), 2);
}

/* A list that is renewed every hour takes no more memory every hour. */
Test(crl_dir, newer_lists_take_the_place_of_older_ones)
{
	for (int i = 0; i < 5; i++) {
		unlink(list_path);
		list_add("w", i, DAY_S);
		cr_expect_eq(found(), 1);
	}
	scratch_write(list_path + strlen(scratch_dir) + 1, "-----BEGIN X509 CRL-----\nAA");
	cr_expect_eq(found(), 1, "half-written");
	unlink(list_path);
	cr_expect_eq(found(), 1, "gone");
}

/* No descriptor left: the file is no worse for that. */
Test(crl_dir, file_that_cannot_be_read_now)
{
	struct rlimit limit, none;

	list_add("w", 5, DAY_S);
	cr_assert_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
	none = (struct rlimit){.rlim_cur = 0, .rlim_max = limit.rlim_max};
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
	for (int i = 0; i < 2; i++)
		cr_expect_not(crl_dir_clears(store, cert), "nobody knows");
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
	cr_expect_eq(found(), 1);
	cr_expect(crl_dir_clears(store, cert));
}

Test(crl_dir, what_speaks_against_a_certificate)
{
	cr_expect(crl_dir_clears(store, cert), "there is no list");
	list_add("w", 5, DAY_S);
	cr_expect(crl_dir_clears(store, cert));
	list_add("w", 1, DAY_S);
	cr_expect_not(crl_dir_clears(store, cert));
	list_add("w", 5, -60);
	cr_expect_not(crl_dir_clears(store, cert), "out of date");
	list_add("a", 5, DAY_S);
	cr_expect(crl_dir_clears(store, cert), "one that is not");
	list_add("a", 1, -60);
	cr_expect_not(crl_dir_clears(store, cert));
}
