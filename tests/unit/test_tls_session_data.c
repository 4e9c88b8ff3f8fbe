/*
 * Unit tests of tls_session_data.h and tls_session_cache.h: what sessions remember, what policies are made of, which sessions are kept.
 * Run by `make unit`.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "arena.h"
#include "psk.h"
#include "tls_session_cache.h"
#include "tls_session_data.h"

#include <criterion/criterion.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

/* --- the data --- */

static struct addr resolved(const char *text)
{
	struct addr_list list = {0};
	struct addr addr;

	cr_assert_eq(addr_resolve(text, ADDR_ACTIVE, &list), 0, "%s", text);
	addr = list.addrs[0];
	addr_list_free(&list);
	return addr;
}

Test(session_data, comes_back)
{
	static const char *const backends[] = {"127.0.0.1:80", "[2001:db8::1]:65535", "/run/backend.sock", "@backend"};
	unsigned char bytes[SESSION_DATA_MAX];

	for (size_t i = 0; i < sizeof(backends) / sizeof(*backends); i++) {
		struct session_data data = {.authenticated = i % 2, .bound = true, .backend = resolved(backends[i])}, got;
		size_t n;

		memset(data.policy, (int)i + 7, POLICY_SIZE);
		n = session_data_write(&data, bytes);
		cr_assert_leq(n, SESSION_DATA_MAX);
		cr_assert_null(session_data_read(bytes, n, &got));
		cr_assert(got.bound && got.authenticated == (i % 2));
		cr_assert_eq(memcmp(got.policy, data.policy, POLICY_SIZE), 0);
		cr_assert(addr_equal(&got.backend, &data.backend), "%s", backends[i]);
		for (size_t cut = 0; cut < n; cut++) {
			if (session_data_read(bytes, cut, &got))
				continue;
			cr_assert(cut == 2 + POLICY_SIZE ? !got.backend.len : backends[i][0] == '/' || backends[i][0] == '@');
		}
	}
}

/* What stunnel writes, on machines of 64 bits and of 32. */
Test(session_data, short_form)
{
	static const unsigned char ones[9] = "\xff\xff\xff\xff\xff\xff\xff\xff\xff", zeros[9];
	unsigned char bytes[SESSION_DATA_MAX];
	struct session_data data;

	for (size_t n = 4; n <= 8; n += 4) {
		cr_assert_null(session_data_read(ones, n, &data));
		cr_assert(data.authenticated && !data.bound && !data.backend.len);
		cr_assert_null(session_data_read(zeros, n, &data));
		cr_assert(!data.authenticated && !data.bound);
	}
	for (int yes = 0; yes < 2; yes++) {
		data = (struct session_data){.authenticated = yes};
		cr_assert_eq(session_data_write(&data, bytes), 8);
		cr_assert_eq(memcmp(bytes, yes ? ones : zeros, 8), 0);
	}
	for (size_t n = 0; n < 10; n++)
		if (n != 4 && n != 8)
			cr_assert_str_eq(session_data_read(ones, n < 9 ? n : 9, &data), "Invalid ticket application data length");
	cr_assert_str_eq(session_data_read((const unsigned char *)"\xff\xff\xff\xff\xff\xff\xff\0", 8, &data),
	                 "Invalid ticket application data value");
	cr_assert_str_eq(session_data_read((const unsigned char *)"\1\1\1\1\1\1\1\1", 8, &data),
	                 "Invalid ticket application data value");
}

Test(session_data, of_another_version)
{
	struct session_data data = {.bound = true, .authenticated = true}, got;
	unsigned char bytes[SESSION_DATA_MAX];
	size_t n = session_data_write(&data, bytes);

	bytes[0]++;
	cr_assert_str_eq(session_data_read(bytes, n, &got), "Invalid ticket application data value");
	bytes[0]--;
	bytes[1] |= 2;
	cr_assert_str_eq(session_data_read(bytes, n, &got), "Invalid ticket application data value");
}

/* --- the policy --- */

static char *list[] = {(char *)"a", (char *)"b"};

static struct tls_policy policy_of(const struct section *section)
{
	struct tls_trust *trust = tls_trust_load(section);
	struct tls_policy policy;

	cr_assert_not_null(trust);
	cr_assert(tls_policy_of(section, trust, &policy));
	tls_trust_unref(trust);
	return policy;
}

static bool differ(const struct section *a, const struct section *b)
{
	struct tls_policy x = policy_of(a), y = policy_of(b);

	return memcmp(x.hash, y.hash, POLICY_SIZE) != 0;
}

Test(session_data, policies)
{
	const struct section plain = {.name = "s", .session_cache_timeout_s = 300};
	const struct section long_name = {.name = "a name of more bytes than a session's context"};
	const struct section changes[] = {
		{.name = "t"},
		{.name = "s", .require_cert = true},
		{.name = "s", .ocsp = "http://x"},
		{.name = "s", .check_host = {list, 2}},
		{.name = "s", .psk_identity = "i"},
	};
	struct section s = plain;

	s.session_cache_timeout_s = 5; /* decides nothing */
	cr_assert_not(differ(&plain, &s));
	cr_assert(policy_of(&plain).plain);
	cr_assert_not(policy_of(&changes[1]).plain);
	cr_assert_not(policy_of(&long_name).plain, "another one's may begin alike");
	for (unsigned i = 0; i < sizeof(changes) / sizeof(*changes); i++)
		for (unsigned j = 0; j <= i; j++)
			cr_assert_eq(differ(j < i ? &changes[j] : &plain, &changes[i]), true, "%u %u", i, j);
}

/* A file of keys counts by what is in it, not by its name. */
Test(session_data, policies_with_keys)
{
	struct arena *arena = arena_new();
	struct psks *keys = psks_parse(arena, "id:sixteen bytes ok.", 20), *other = psks_parse(arena, "id:sixteen bytes or.", 20);
	const struct section one = {.name = "s", .psk_secrets = "a", .psks = keys},
			     same = {.name = "s", .psk_secrets = "b", .psks = keys};
	const struct section two = {.name = "s", .psk_secrets = "a", .psks = other};

	cr_assert(keys && other);
	cr_assert_not(differ(&one, &same));
	cr_assert_not(policy_of(&one).plain);
	cr_assert(differ(&one, &two));
	arena_free(arena);
}

/* --- the cache --- */

static SSL_SESSION *session_of(int version, unsigned char id)
{
	SSL_SESSION *session = SSL_SESSION_new();

	SSL_SESSION_set_protocol_version(session, version);
	SSL_SESSION_set1_id(session, &id, 1);
	SSL_SESSION_set_time(session, (long)time(NULL));
	SSL_SESSION_set_timeout(session, 300);
	return session;
}

static const SSL_CIPHER *some_cipher(bool tls13)
{
	static SSL *ssl;

	if (!ssl)
		ssl = SSL_new(SSL_CTX_new(TLS_client_method()));
	return SSL_CIPHER_find(ssl, (const unsigned char *)(tls13 ? "\x13\x02" : "\xc0\x2c"));
}

static void store(struct session_cache *cache, const char *key, bool tls13, unsigned char id, long age_s, size_t alike)
{
	SSL_SESSION *session = session_of(tls13 ? TLS1_3_VERSION : TLS1_2_VERSION, id);

	SSL_SESSION_set_cipher(session, some_cipher(tls13));
	SSL_SESSION_set1_master_key(session, (const unsigned char *)"secret", 6);
	SSL_SESSION_set_time(session, (long)time(NULL) - age_s);
	session_cache_store(cache, key, strlen(key), session, alike);
	SSL_SESSION_free(session);
}

Test(session_cache, times_beyond_reason)
{
	SSL_SESSION *session = session_of(TLS1_2_VERSION, 1);

	SSL_SESSION_set_time(session, LONG_MAX);
	cr_expect_eq(session_end(session), 0, "that was long ago");
	SSL_SESSION_set_time(session, 1000);
	cr_expect_eq(session_end(session), 1300);
	SSL_SESSION_free(session);
}

/* The id of the session that is found, 0 if there is none. */
static unsigned found(struct session_cache *cache, const char *key)
{
	SSL_SESSION *session = session_cache_find(cache, key, strlen(key), true);
	unsigned n = 0, id = 0;

	if (session)
		id = *SSL_SESSION_get_id(session, &n);
	SSL_SESSION_free(session);
	return id;
}

Test(session_cache, one_of_tls12_is_used_again_and_again)
{
	struct session_cache *cache = session_cache_new(0);

	cr_assert_eq(found(cache, "a"), 0);
	store(cache, "a", false, 1, 0, 1);
	store(cache, "b", false, 2, 0, 1);
	cr_assert(found(cache, "a") == 1 && found(cache, "a") == 1 && found(cache, "b") == 2);
	store(cache, "a", false, 3, 0, 1);
	cr_assert_eq(found(cache, "a"), 3);
	session_cache_forget(cache, "a", 1);
	cr_assert(found(cache, "a") == 0 && found(cache, "b") == 2);
	session_cache_free(cache);
}

Test(session_cache, those_of_tls13_are_used_once_the_newest_first)
{
	struct session_cache *cache = session_cache_new(0);

	for (unsigned char i = 1; i <= 5; i++)
		store(cache, "a", true, i, 0, 3);
	cr_assert(found(cache, "a") == 5 && found(cache, "a") == 4 && found(cache, "a") == 3);
	cr_assert_eq(found(cache, "a"), 0, "three were kept");
	store(cache, "a", true, 6, 0, 3);
	store(cache, "a", false, 7, 0, 1);
	cr_assert(found(cache, "a") == 7 && found(cache, "a") == 7, "an older version puts an end to it");
	session_cache_free(cache);
}

Test(session_cache, old_ones_go)
{
	struct session_cache *cache = session_cache_new(0);

	store(cache, "a", true, 1, 0, 3);
	store(cache, "a", true, 2, 301, 3);
	store(cache, "b", true, 3, 1000, 3);
	cr_assert(found(cache, "a") == 1 && found(cache, "a") == 0 && found(cache, "b") == 0);
	session_cache_free(cache);
}

Test(session_cache, a_full_one_loses_what_was_used_least_recently)
{
	struct session_cache *cache = session_cache_new(16);
	char key[16];
	unsigned left = 0;

	for (int i = 0; i < 1000; i++) {
		snprintf(key, sizeof(key), "%d", i);
		store(cache, key, false, (unsigned char)(1 + i % 200), 0, 1);
	}
	for (int i = 0; i < 1000; i++) {
		snprintf(key, sizeof(key), "%d", i);
		left += found(cache, key) != 0;
	}
	cr_assert_leq(left, 16);
	cr_assert_neq(found(cache, "999"), 0);
	session_cache_free(cache);
	session_cache_free(NULL);
}

static struct session_cache *shared;

static void *store_and_find(void *arg)
{
	char key[16];

	for (int i = 0; i < 2000; i++) {
		snprintf(key, sizeof(key), "%d", i % 50);
		store(shared, key, i % 3 == 0, (unsigned char)(1 + i % 200), 0, 4);
		found(shared, key);
		if (i % 7 == 0)
			session_cache_forget(shared, key, strlen(key));
	}
	return arg;
}

Test(session_cache, of_many_threads)
{
	pthread_t thread[4];

	some_cipher(true);
	shared = session_cache_new(32);
	for (int i = 0; i < 4; i++)
		cr_assert_eq(pthread_create(&thread[i], NULL, store_and_find, NULL), 0);
	for (int i = 0; i < 4; i++)
		cr_assert_eq(pthread_join(thread[i], NULL), 0);
	session_cache_free(shared);
}
