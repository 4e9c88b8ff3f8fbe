/*
 * Unit tests of tls_tickets.h: a ticket that another program made, the ticket's form, key files, keys that change by themselves.
 * Run by `make unit`.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tls_tickets.h"

#include <criterion/criterion.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* stunnel 5.75 made it, TLS 1.2, section `s`. */
#define KEY "101112131415161718191a1b1c1d1e1f"
#define MAC "808182838485868788898a8b8c8d8e8f"
static const char known_ticket[] =
	"c064f9b36d7f000000cbb4b16d7f00009cc2cc013b823d656d9188b6fe259b61"
	"9f046e4b3b896c41c7208e673f83a6b73fcce12e91f26fdbce06b0a9b31ac1e66a8c8f7151611c73b221c38b5fbcf1a0d2463f17207969a1"
	"3e96e11062b6840df37de41189ea347fa0283b9807e5dc5f357019c1636c41be0aee6062e5e6352dbd2bfc7cb675dea3ef998dc40f730484"
	"932cf50d7ba8b651a2f936128a4b208e1be72efb67566d8503f8fa715ecdea3d";
static const char known_plain[] =
	"3068020101020203030402c02c040004308f4f5db3ff1dfafa7f0f2bf744772721a62d5204f6812913ea468d508985d4c90d8fae28045e8e"
	"cdc157dffa004b02bba10602046b03e049a2040202012ca423";

enum { TICKET_MAX = 512, NAME = TICKET_NAME, IV = TICKET_IV, TAG = TICKET_TAG };

static struct tickets_view view;

static void up(void)
{
	cr_assert(tickets_view_open(&view, NULL));
}

static void down(void)
{
	tickets_view_close(&view);
}

TestSuite(tickets, .init = up, .fini = down);

static size_t from_hex(const char *hex, unsigned char *bytes)
{
	size_t n = 0;

	for (; hex[0] && hex[1]; hex += 2)
		sscanf(hex, "%2hhx", &bytes[n++]);
	return n;
}

static EVP_MAC_CTX *mac_new(void)
{
	EVP_MAC *hmac = EVP_MAC_fetch(NULL, "HMAC", NULL);
	EVP_MAC_CTX *mac = EVP_MAC_CTX_new(hmac);

	EVP_MAC_free(hmac);
	return mac;
}

static void tag_of(EVP_MAC_CTX *mac, const unsigned char *data, size_t n, unsigned char *tag)
{
	size_t size;

	cr_assert_eq(EVP_MAC_init(mac, NULL, 0, NULL), 1);
	cr_assert_eq(EVP_MAC_update(mac, data, n), 1);
	cr_assert_eq(EVP_MAC_final(mac, tag, &size, TAG), 1);
	cr_assert_eq(size, TAG);
}

/* A view belongs to one section. */
static void look_at(const struct tls_tickets *tickets)
{
	static const struct tls_tickets *last;

	if (tickets != last) {
		tickets_view_close(&view);
		cr_assert(tickets_view_open(&view, NULL));
	}
	last = tickets;
}

/* Opens a ticket as OpenSSL does with its callback's help: tag, then plain text. Returns the callback's result, 0 too if the tag is wrong. */
static int open_ticket(struct tls_tickets *tickets, const unsigned char *ticket, size_t n, unsigned char *plain,
                       size_t *plain_len)
{
	EVP_CIPHER_CTX *cipher = EVP_CIPHER_CTX_new();
	EVP_MAC_CTX *mac = mac_new();
	unsigned char head[NAME + IV], tag[TAG];
	int result, len, last;

	look_at(tickets);
	memcpy(head, ticket, sizeof(head));
	result = tickets_set_up(tickets, &view, head, head + NAME, cipher, mac, false);
	if (result > 0) {
		tag_of(mac, ticket, n - TAG, tag);
		if (CRYPTO_memcmp(tag, ticket + n - TAG, TAG) != 0)
			result = 0;
	}
	if (result > 0) {
		cr_assert_eq(EVP_DecryptUpdate(cipher, plain, &len, ticket + NAME + IV, (int)(n - NAME - IV - TAG)), 1);
		cr_assert_eq(EVP_DecryptFinal_ex(cipher, plain + len, &last), 1);
		*plain_len = (size_t)(len + last);
	}
	EVP_CIPHER_CTX_free(cipher);
	EVP_MAC_CTX_free(mac);
	return result;
}

static size_t make_ticket(struct tls_tickets *tickets, const char *plain, unsigned char *ticket)
{
	EVP_CIPHER_CTX *cipher = EVP_CIPHER_CTX_new();
	EVP_MAC_CTX *mac = mac_new();
	int len, last;
	size_t n;

	look_at(tickets);
	cr_assert_eq(tickets_set_up(tickets, &view, ticket, ticket + NAME, cipher, mac, true), 1);
	cr_assert_eq(EVP_EncryptUpdate(cipher, ticket + NAME + IV, &len, (const unsigned char *)plain, (int)strlen(plain)), 1);
	cr_assert_eq(EVP_EncryptFinal_ex(cipher, ticket + NAME + IV + len, &last), 1);
	n = NAME + IV + (size_t)(len + last);
	tag_of(mac, ticket, n, ticket + n);
	EVP_CIPHER_CTX_free(cipher);
	EVP_MAC_CTX_free(mac);
	return n + TAG;
}

static bool opens(struct tls_tickets *tickets, const unsigned char *ticket, size_t n)
{
	unsigned char plain[TICKET_MAX];
	size_t len;

	return open_ticket(tickets, ticket, n, plain, &len) > 0;
}

static struct tls_tickets *tickets_of(const char *key, const char *mac)
{
	struct section section = {.name = "s", .ticket_key = key, .ticket_mac = mac, .session_cache_timeout_s = 300};
	struct tls_tickets *tickets = tls_tickets_new(&section);

	cr_assert_not_null(tickets);
	return tickets;
}

Test(tickets, of_another_program)
{
	unsigned char ticket[TICKET_MAX], plain[TICKET_MAX], wanted[TICKET_MAX];
	struct tls_tickets *tickets = tickets_of(KEY, MAC);
	size_t n = from_hex(known_ticket, ticket), len;
	const unsigned char *der = plain;
	SSL_SESSION *session;
	void *data;

	cr_assert_eq(n, 176);
	cr_assert_eq(open_ticket(tickets, ticket, n, plain, &len), 1);
	cr_assert_eq(len, 106);
	cr_assert_eq(memcmp(plain, wanted, from_hex(known_plain, wanted) - 1), 0);
	session = d2i_SSL_SESSION(NULL, &der, (long)len);
	cr_assert_not_null(session);
	cr_assert_eq(SSL_SESSION_get0_ticket_appdata(session, &data, &len), 1);
	cr_assert_eq(len, 8);
	SSL_SESSION_free(session);
	ticket[0] ^= 1; /* a name is no secret, but the tag covers it */
	cr_assert_not(opens(tickets, ticket, n));
	tls_tickets_free(tickets);
}

Test(tickets, every_bit_counts)
{
	struct tls_tickets *tickets = tickets_of(KEY, MAC);
	unsigned char ticket[TICKET_MAX];
	size_t n = make_ticket(tickets, "a session", ticket);

	cr_assert(opens(tickets, ticket, n));
	for (size_t i = 0; i < n; i++) {
		ticket[i] ^= 0x40;
		cr_assert_not(opens(tickets, ticket, n), "byte %zu", i);
		ticket[i] ^= 0x40;
	}
	tls_tickets_free(tickets);
}

/* 16 and 32 bytes in every combination, upper case, colons, zero bytes at any place. */
Test(tickets, secrets_of_all_forms)
{
	static const char *const forms[][2] = {
		{KEY, MAC},
		{KEY MAC, MAC KEY},
		{KEY, MAC KEY},
		{KEY MAC, MAC},
		{"00000000000000000000000000000000", "00112233445566778899AABBCCDDEEFF"},
		{"10:11:12:13:14:15:16:17:18:19:1A:1b:1c:1d:1e:00", "00:81:00:83:84:85:86:87:88:89:8a:8b:8c:8d:8e:8f"},
	};
	enum { FORMS = sizeof(forms) / sizeof(*forms) };
	unsigned char ticket[TICKET_MAX], name[FORMS][NAME];

	for (size_t i = 0; i < FORMS; i++) {
		struct tls_tickets *one = tickets_of(forms[i][0], forms[i][1]), *other = tickets_of(forms[i][0], forms[i][1]);
		size_t n = make_ticket(one, "a session", ticket);

		memcpy(name[i], ticket, NAME);
		cr_assert(opens(other, ticket, n), "%zu", i);
		make_ticket(one, "a session", ticket);
		cr_assert_eq(memcmp(name[i], ticket, NAME), 0, "the name stays");
		for (size_t j = 0; j < i; j++)
			cr_assert_neq(memcmp(name[i], name[j], NAME), 0);
		tls_tickets_free(one);
		tls_tickets_free(other);
	}
}

/* What is behind a zero byte counts. */
Test(tickets, zero_bytes_do_not_end_a_secret)
{
	struct tls_tickets *one = tickets_of("00000000000000000000000000000001", MAC);
	struct tls_tickets *other = tickets_of("00000000000000000000000000000002", MAC);
	unsigned char ticket[TICKET_MAX], plain[TICKET_MAX];
	EVP_CIPHER_CTX *cipher = EVP_CIPHER_CTX_new();
	size_t n = make_ticket(one, "a session", ticket);
	EVP_MAC_CTX *mac = mac_new();
	int len, last;

	look_at(other);
	/* The tag is right, the MAC key being the same; the plain text is not. */
	cr_assert_eq(tickets_set_up(other, &view, ticket, ticket + NAME, cipher, mac, false), 1);
	cr_assert_eq(EVP_DecryptUpdate(cipher, plain, &len, ticket + NAME + IV, (int)(n - NAME - IV - TAG)), 1);
	if (EVP_DecryptFinal_ex(cipher, plain + len, &last) == 1)
		cr_assert(len + last != 9 || memcmp(plain, "a session", 9) != 0);
	EVP_CIPHER_CTX_free(cipher);
	EVP_MAC_CTX_free(mac);
	tls_tickets_free(one);
	tls_tickets_free(other);
}

/* --- keys that change by themselves --- */

Test(tickets, random_keys_are_shared_and_told_apart)
{
	struct tls_tickets *one = tickets_of(NULL, NULL), *other = tickets_of(NULL, NULL);
	struct tickets_view second = {0}, saved;
	unsigned char ticket[TICKET_MAX];
	size_t n = make_ticket(one, "a session", ticket);

	cr_assert(tickets_view_open(&second, NULL));
	saved = view;
	view = second;
	cr_assert(opens(one, ticket, n), "another worker");
	second = view;
	view = saved;
	tickets_view_close(&second);
	cr_assert_not(opens(other, ticket, n));
	tls_tickets_free(one);
	tls_tickets_free(other);
}

/* A second's life time: the key changes each second, and the old one is gone a second after its last ticket. */
Test(tickets, random_keys_change)
{
	struct section section = {.name = "s", .session_cache_timeout_s = 2};
	struct tls_tickets *tickets = tls_tickets_new(&section);
	unsigned char first[TICKET_MAX], later[TICKET_MAX], plain[TICKET_MAX];
	size_t n = make_ticket(tickets, "a session", first), len;

	cr_assert_eq(open_ticket(tickets, first, n, plain, &len), 1);
	for (int i = 0; i < 300; i++) {
		make_ticket(tickets, "a session", later);
		if (memcmp(first, later, NAME) != 0)
			break;
		usleep(20000);
	}
	cr_assert_neq(memcmp(first, later, NAME), 0);
	cr_assert_eq(open_ticket(tickets, later, n, plain, &len), 1);
	for (int i = 0; i < 500 && opens(tickets, first, n); i++) {
		cr_assert_eq(open_ticket(tickets, first, n, plain, &len), 2, "still good, but to be renewed");
		usleep(20000);
	}
	cr_assert_not(opens(tickets, first, n));
	cr_assert_leq(tickets_look(tickets, &view)->count, 4);
	tls_tickets_free(tickets);
}

/* --- key files --- */

static unsigned char raw[2][80];

static void fill_raw(void)
{
	for (unsigned i = 0; i < sizeof(raw); i++)
		raw[i / 80][i % 80] = (unsigned char)(i % 7 ? i : 0);
}

static size_t parse(const void *bytes, size_t n, struct ticket_key *keys, size_t *seals)
{
	const char *wrong = NULL;
	size_t count = ticket_keys_parse(bytes, n, keys, TICKET_KEYS_MAX, seals, &wrong);

	cr_assert(count > 0 || wrong != NULL);
	return count;
}

Test(tickets, raw_key_files)
{
	struct ticket_key keys[TICKET_KEYS_MAX];
	size_t seals;

	fill_raw();
	cr_assert_eq(parse(raw[0], 48, keys, &seals), 1);
	cr_assert_eq(memcmp(keys->name, raw[0], 16), 0);
	cr_assert(keys->aes_len == 16 && memcmp(keys->aes, raw[0] + 16, 16) == 0);
	cr_assert(keys->mac_len == 16 && memcmp(keys->mac, raw[0] + 32, 16) == 0);
	cr_assert_eq(parse(raw[0], 80, keys, &seals), 1);
	cr_assert_eq(memcmp(keys->name, raw[0], 16), 0);
	cr_assert(keys->mac_len == 32 && memcmp(keys->mac, raw[0] + 16, 32) == 0);
	cr_assert(keys->aes_len == 32 && memcmp(keys->aes, raw[0] + 48, 32) == 0);
}

static size_t add_line(char *text, const unsigned char *bytes, int n, const char *end)
{
	EVP_EncodeBlock((unsigned char *)text + strlen(text), bytes, n);
	strcat(text, end);
	return strlen(text);
}

Test(tickets, base64_key_files)
{
	struct ticket_key keys[TICKET_KEYS_MAX];
	char text[1024] = "";
	size_t seals;

	fill_raw();
	add_line(text, raw[0], 80, "\n");
	cr_assert_eq(parse(text, strlen(text), keys, &seals), 1);
	cr_assert_eq(seals, 0);
	cr_assert(keys->aes_len == 32 && memcmp(keys->aes, raw[0] + 16, 32) == 0);
	cr_assert(keys->mac_len == 32 && memcmp(keys->mac, raw[0] + 48, 32) == 0);
	add_line(text, raw[1], 48, " \r\n\r\n");
	cr_assert_eq(parse(text, strlen(text), keys, &seals), 2);
	cr_assert_eq(seals, 0, "the last but one");
	cr_assert(keys[1].aes_len == 16 && memcmp(keys[1].mac, raw[1] + 32, 16) == 0);
	add_line(text, raw[1], 80, "");
	cr_assert_eq(parse(text, strlen(text), keys, &seals), 3);
	cr_assert_eq(seals, 1);
}

Test(tickets, bad_key_files)
{
	static const char *const bad[] = {
		"",
		"\n\n",
		"AAAA\n",
		"# a comment\n",
		"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
		"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA!\n",
		"=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n",
		"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\nAAAA\n",
		"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA "
		"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n",
	};
	struct ticket_key keys[TICKET_KEYS_MAX];
	char *many = calloc(TICKET_KEYS_MAX + 1, 66);
	size_t seals;

	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		cr_assert_eq(parse(bad[i], strlen(bad[i]), keys, &seals), 0, "%s", bad[i]);
	for (int i = 0; i < TICKET_KEYS_MAX; i++)
		add_line(many, raw[0], 48, "\n");
	cr_assert_eq(parse(many, strlen(many), keys, &seals), TICKET_KEYS_MAX);
	add_line(many, raw[0], 48, "\n");
	cr_assert_eq(parse(many, strlen(many), keys, &seals), 0);
	free(many);
}

/* Two files; then the first gets a newer key, a broken one changes nothing, and so does a missing one. */
Test(tickets, files_are_read_again)
{
	char path[] = "/tmp/tlsplice-unit-tickets-XXXXXX", other[] = "/tmp/tlsplice-unit-tickets-XXXXXX";
	char *paths[] = {path, other};
	struct section section = {.name = "s", .ticket_key_files = {paths, 2}, .session_cache_timeout_s = 300};
	unsigned char old[TICKET_MAX], ticket[TICKET_MAX];
	int a = mkstemp(path), b = mkstemp(other);
	struct tls_tickets *tickets;
	size_t n;

	fill_raw();
	cr_assert(write(a, raw[0], 80) == 80 && write(b, raw[1], 80) == 80);
	tickets = tls_tickets_new(&section);
	cr_assert_not_null(tickets);
	n = make_ticket(tickets, "a session", old);
	cr_assert_eq(memcmp(old, raw[0], NAME), 0, "the first file's key");
	cr_assert_eq(pwrite(a, raw[1], 80, 0), 80);
	cr_assert_eq(pwrite(b, raw[0], 80, 0), 80);
	cr_assert(tls_tickets_reload(tickets, &section));
	make_ticket(tickets, "a session", ticket);
	cr_assert_eq(memcmp(ticket, raw[1], NAME), 0);
	cr_assert(opens(tickets, old, n), "the older key opens");
	cr_assert_eq(ftruncate(a, 79), 0);
	cr_assert_not(tls_tickets_reload(tickets, &section));
	cr_assert(opens(tickets, old, n) && opens(tickets, ticket, n));
	unlink(path);
	cr_assert_not(tls_tickets_reload(tickets, &section));
	cr_assert(opens(tickets, ticket, n));
	section.ticket_key_files = (struct texts){paths + 1, 1};
	cr_assert(tls_tickets_reload(tickets, &section));
	cr_assert_not(opens(tickets, ticket, n), "its key has gone");
	cr_assert(opens(tickets, old, n));
	tls_tickets_free(tickets);
	unlink(other);
	close(a);
	close(b);
}

/* --- threads --- */

static struct tls_tickets *shared;

static void *seal_and_open(void *arg)
{
	struct tickets_view mine = {0};
	unsigned char sealed[64 + TICKET_OVERHEAD], plain[64 + TICKET_OVERHEAD];
	bool ok = tickets_view_open(&mine, NULL);

	for (int i = 0; ok && i < 2000; i++) {
		size_t n = tickets_seal(shared, &mine, (const unsigned char *)"a session", 9, sealed);

		ok = n > 0 && tickets_open(shared, &mine, sealed, n, plain) == 9 && memcmp(plain, "a session", 9) == 0;
	}
	tickets_view_close(&mine);
	return ok ? arg : NULL;
}

/* Workers that make tickets while the main thread reads new keys; the older one stays in the file. */
Test(tickets, keys_change_under_the_workers)
{
	char path[] = "/tmp/tlsplice-unit-tickets-XXXXXX", other[] = "/tmp/tlsplice-unit-tickets-XXXXXX";
	char *paths[] = {path, other, path};
	struct section section = {.name = "s", .ticket_key_files = {paths, 2}, .session_cache_timeout_s = 300};
	int a = mkstemp(path), b = mkstemp(other);
	pthread_t thread[3];
	void *ok;

	fill_raw();
	cr_assert(write(a, raw[0], 80) == 80 && write(b, raw[1], 80) == 80);
	shared = tls_tickets_new(&section);
	cr_assert_not_null(shared);
	for (int i = 0; i < 3; i++)
		cr_assert_eq(pthread_create(&thread[i], NULL, seal_and_open, &shared), 0);
	for (int i = 0; i < 300; i++) {
		section.ticket_key_files.texts = paths + i % 2;
		cr_assert(tls_tickets_reload(shared, &section));
	}
	for (int i = 0; i < 3; i++) {
		cr_assert_eq(pthread_join(thread[i], &ok), 0);
		cr_assert_not_null(ok);
	}
	tls_tickets_free(shared);
	unlink(path);
	unlink(other);
	close(a);
	close(b);
}
