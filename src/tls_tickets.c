/*
 * Session ticket keys: see tls_tickets.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tls_tickets.h"

#include "log.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <openssl/rand.h>
#include <openssl/sha.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { FILE_SHORT = 48, FILE_LONG = 80, LINE_SHORT = 64, LINE_LONG = 108 }; /* bytes of a key, and as base64 */

struct tls_tickets {
	pthread_mutex_t lock;
	struct ticket_keys *keys; /* under the lock */
	atomic_uint version;      /* counts the sets, so that whoever has the newest need not lock */
	uint64_t lifetime_s;      /* of a ticket */
};

static uint64_t now_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_BOOTTIME, &now); /* tickets age while a machine sleeps */
	return (uint64_t)now.tv_sec;
}

/* --- sets of keys ------------------------------------------------------------------------------------------------------------------- */

static size_t keys_size(size_t count)
{
	return sizeof(struct ticket_keys) + count * sizeof(struct ticket_key);
}

static struct ticket_keys *keys_new(size_t count)
{
	struct ticket_keys *keys = calloc(1, keys_size(count));

	if (!keys)
		return NULL;
	keys->refs = 1;
	keys->count = count;
	keys->renew_s = UINT64_MAX;
	return keys;
}

static void keys_unref(struct ticket_keys *keys)
{
	if (!keys || atomic_fetch_sub(&keys->refs, 1) > 1)
		return;
	OPENSSL_cleanse(keys, keys_size(keys->count));
	free(keys);
}

/* Puts a set in force. */
static void publish(struct tls_tickets *tickets, struct ticket_keys *keys)
{
	keys_unref(tickets->keys);
	tickets->keys = keys;
	atomic_fetch_add_explicit(&tickets->version, 1, memory_order_release);
}

/*
 * Random keys: one makes tickets for half of their lifetime; older ones open them until the last has expired. Forward secrecy lasts no longer than a key
 * does, and nothing ever needs a fourth one.
 */
static struct ticket_keys *keys_renewed(const struct ticket_keys *old, uint64_t lifetime_s, uint64_t now)
{
	uint64_t period = lifetime_s > 1 ? lifetime_s / 2 : 1;
	struct ticket_keys *keys = keys_new(1 + (old ? old->count : 0));
	struct ticket_key *key = keys ? keys->key : NULL;
	bool ok = key && RAND_bytes(key->name, TICKET_NAME) == 1 && RAND_priv_bytes(key->aes, TICKET_SECRET_MAX) == 1 &&
	          RAND_priv_bytes(key->mac, TICKET_SECRET_MAX) == 1;

	if (!ok) {
		keys_unref(keys);
		return NULL;
	}
	key->aes_len = key->mac_len = TICKET_SECRET_MAX;
	key->until_s = now + period + lifetime_s;
	keys->renew_s = now + period;
	keys->count = 1;
	for (size_t i = 0; old && i < old->count; i++)
		if (old->key[i].until_s > now)
			keys->key[keys->count++] = old->key[i];
	return keys;
}

/* --- ticketKeySecret, ticketMacSecret ----------------------------------------------------------------------------------------------- */

static unsigned digit(char c)
{
	return (unsigned)(c <= '9' ? c - '0' : (c | 32) - 'a' + 10);
}

/* Hexadecimal digits that the configuration has checked, colons between bytes left out. Keys may have zero bytes. */
static size_t secret_bytes(const char *hex, unsigned char bytes[TICKET_SECRET_MAX])
{
	size_t n = 0;

	for (; *hex && n < TICKET_SECRET_MAX; hex += 2 + (hex[2] == ':'))
		bytes[n++] = (unsigned char)(digit(hex[0]) << 4 | digit(hex[1]));
	return n;
}

/* The name tells who shares the secrets and nothing of them; tickets with other names are tried all the same, for the name is no part of the secrets. */
static struct ticket_keys *keys_of_secrets(const struct section *section)
{
	struct ticket_keys *keys = keys_new(1);
	unsigned char both[2 * TICKET_SECRET_MAX], hash[SHA256_DIGEST_LENGTH];
	struct ticket_key *key;

	if (!keys)
		return NULL;
	key = keys->key;
	keys->any_name = true;
	key->until_s = UINT64_MAX;
	key->aes_len = secret_bytes(section->ticket_key, key->aes);
	key->mac_len = secret_bytes(section->ticket_mac, key->mac);
	memcpy(both, key->aes, key->aes_len);
	memcpy(both + key->aes_len, key->mac, key->mac_len);
	SHA256(both, key->aes_len + key->mac_len, hash);
	memcpy(key->name, hash, TICKET_NAME);
	OPENSSL_cleanse(both, sizeof(both));
	return keys;
}

/* --- ticketKeyFile ------------------------------------------------------------------------------------------------------------------ */

static void key_parts(struct ticket_key *key, const unsigned char *bytes, size_t n, bool mac_first)
{
	size_t half = (n - TICKET_NAME) / 2;

	memset(key, 0, sizeof(*key));
	memcpy(key->name, bytes, TICKET_NAME);
	memcpy(mac_first ? key->mac : key->aes, bytes + TICKET_NAME, half);
	memcpy(mac_first ? key->aes : key->mac, bytes + TICKET_NAME + half, half);
	key->aes_len = key->mac_len = half;
	key->until_s = UINT64_MAX;
}

/* A line of base64 without its end. */
static bool key_line(struct ticket_key *key, const unsigned char *line, size_t n)
{
	unsigned char bytes[LINE_LONG / 4 * 3];
	size_t size = n == LINE_SHORT ? FILE_SHORT : FILE_LONG;
	/* 48 bytes need no padding, 80 bytes one character of it. */
	size_t padding = n == LINE_SHORT ? 0 : 1;
	bool ok = n == LINE_SHORT || n == LINE_LONG;

	for (size_t i = 0; ok && i < n; i++)
		ok = (line[i] == '=') == (i >= n - padding);
	ok = ok && EVP_DecodeBlock(bytes, line, (int)n) == (int)(n / 4 * 3);
	if (ok)
		key_parts(key, bytes, size, false);
	OPENSSL_cleanse(bytes, sizeof(bytes));
	return ok;
}

static bool is_blank(unsigned char c)
{
	return c == '\r' || c == ' ' || c == '\t';
}

static size_t key_lines(const unsigned char *at, size_t n, struct ticket_key *keys, size_t room, const char **wrong)
{
	const unsigned char *end = at + n;
	size_t count = 0;

	while (at < end) {
		const unsigned char *newline = memchr(at, '\n', (size_t)(end - at));
		const unsigned char *stop = newline ? newline : end, *next = newline ? newline + 1 : end;

		while (stop > at && is_blank(stop[-1]))
			stop--;
		if (stop > at && count == room) {
			*wrong = "too many keys";
			return 0;
		}
		if (stop > at && !key_line(&keys[count++], at, (size_t)(stop - at))) {
			*wrong = "neither 48 or 80 bytes, nor lines of base64 of 48 or 80 bytes each";
			return 0;
		}
		at = next;
	}
	return count;
}

size_t ticket_keys_parse(const unsigned char *bytes, size_t n, struct ticket_key *keys, size_t room, size_t *seals,
                         const char **wrong)
{
	size_t count;

	*seals = 0;
	if (n != FILE_SHORT && n != FILE_LONG) {
		*wrong = "there is no key in it";
		count = key_lines(bytes, n, keys, room, wrong);
		/* The newest waits until every host has it. */
		*seals = count > 1 ? count - 2 : 0;
		return count;
	}
	if (room == 0) {
		*wrong = "too many keys";
		return 0;
	}
	key_parts(keys, bytes, n, n == FILE_LONG);
	return 1;
}

/* Returns what is wrong, or NULL. */
static const char *read_key_file(const char *file, unsigned char bytes[TICKET_FILE_MAX], size_t *n)
{
	int fd = open(file, O_RDONLY | O_CLOEXEC);
	const char *wrong = NULL;
	struct stat info;
	ssize_t got = 1;

	*n = 0;
	if (fd < 0)
		return strerror(errno);
	while (got > 0 && *n < TICKET_FILE_MAX) {
		got = read(fd, bytes + *n, TICKET_FILE_MAX - *n);
		*n += got > 0 ? (size_t)got : 0;
	}
	if (got < 0)
		wrong = strerror(errno);
	else if (*n == TICKET_FILE_MAX)
		wrong = "too big";
	else if (fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && info.st_mode & 7)
		log_global(LOG_WARNING, "Insecure file permissions on %s", file);
	close(fd);
	return wrong;
}

/* Appends the keys of one file. Returns what is wrong, or NULL. */
static const char *add_key_file(struct ticket_keys *keys, const char *file)
{
	unsigned char *bytes = malloc(TICKET_FILE_MAX);
	const char *wrong = "no memory";
	size_t n = 0, seals, count = 0;

	if (bytes)
		wrong = read_key_file(file, bytes, &n);
	if (!wrong)
		count = ticket_keys_parse(bytes, n, keys->key + keys->count, TICKET_KEYS_MAX - keys->count, &seals, &wrong);
	if (count && keys->count == 0)
		keys->seals = seals; /* the first file makes the tickets */
	keys->count += count;
	if (bytes)
		OPENSSL_cleanse(bytes, n);
	free(bytes);
	return count ? NULL : wrong;
}

static struct ticket_keys *keys_of_files(const struct section *section)
{
	struct ticket_keys *keys = keys_new(TICKET_KEYS_MAX);

	if (!keys)
		return NULL;
	keys->count = 0;
	for (size_t i = 0; i < section->ticket_key_files.count; i++) {
		const char *file = section->ticket_key_files.texts[i];
		const char *wrong = add_key_file(keys, file);

		if (!wrong)
			continue;
		log_global(LOG_ERR, "Service [%s]: ticketKeyFile %s: %s", section->name, file, wrong);
		keys->count = TICKET_KEYS_MAX;
		keys_unref(keys);
		return NULL;
	}
	return keys;
}

/* --- all of them -------------------------------------------------------------------------------------------------------------------- */

static struct ticket_keys *first_keys(const struct section *section, uint64_t lifetime_s)
{
	if (!section->client && section->ticket_key_files.count)
		return keys_of_files(section);
	if (!section->client && section->ticket_key)
		return keys_of_secrets(section);
	return keys_renewed(NULL, lifetime_s, now_s());
}

struct tls_tickets *tls_tickets_new(const struct section *section)
{
	struct tls_tickets *tickets = calloc(1, sizeof(*tickets));

	if (!tickets)
		return NULL;
	tickets->lifetime_s = section->session_cache_timeout_s > 0 ? (uint64_t)section->session_cache_timeout_s : 1;
	tickets->keys = first_keys(section, tickets->lifetime_s);
	if (!tickets->keys) {
		free(tickets);
		return NULL;
	}
	tickets->version = 1;
	pthread_mutex_init(&tickets->lock, NULL);
	return tickets;
}

void tls_tickets_free(struct tls_tickets *tickets)
{
	if (!tickets)
		return;
	keys_unref(tickets->keys);
	pthread_mutex_destroy(&tickets->lock);
	free(tickets);
}

bool tls_tickets_reload(struct tls_tickets *tickets, const struct section *section)
{
	struct ticket_keys *keys;

	if (section->client || section->ticket_key_files.count == 0)
		return true;
	keys = keys_of_files(section);
	if (!keys)
		return false;
	pthread_mutex_lock(&tickets->lock);
	publish(tickets, keys);
	pthread_mutex_unlock(&tickets->lock);
	return true;
}

bool tickets_view_open(struct tickets_view *view, OSSL_LIB_CTX *library)
{
	view->aes_128 = EVP_CIPHER_fetch(library, "AES-128-CBC", NULL);
	view->aes_256 = EVP_CIPHER_fetch(library, "AES-256-CBC", NULL);
	view->hmac = EVP_MAC_fetch(library, "HMAC", NULL);
	return view->aes_128 && view->aes_256 && view->hmac;
}

void tickets_view_close(struct tickets_view *view)
{
	EVP_CIPHER_free(view->aes_128);
	EVP_CIPHER_free(view->aes_256);
	EVP_MAC_free(view->hmac);
	keys_unref(view->keys);
	*view = (struct tickets_view){0};
}

/* Under the lock. */
static void renew(struct tls_tickets *tickets, uint64_t now)
{
	struct ticket_keys *keys;

	if (now < tickets->keys->renew_s)
		return; /* another worker was faster */
	keys = keys_renewed(tickets->keys, tickets->lifetime_s, now);
	if (keys)
		publish(tickets, keys);
}

const struct ticket_keys *tickets_look(struct tls_tickets *tickets, struct tickets_view *view)
{
	unsigned version = atomic_load_explicit(&tickets->version, memory_order_acquire);
	bool due = view->keys && view->keys->renew_s != UINT64_MAX && now_s() >= view->keys->renew_s;

	if (view->keys && view->version == version && !due)
		return view->keys;
	pthread_mutex_lock(&tickets->lock);
	renew(tickets, now_s());
	keys_unref(view->keys);
	view->keys = tickets->keys;
	view->version = atomic_load_explicit(&tickets->version, memory_order_relaxed);
	atomic_fetch_add(&view->keys->refs, 1);
	pthread_mutex_unlock(&tickets->lock);
	/* A key that is past its time makes no more tickets, not even for want of memory. */
	return now_s() < view->keys->renew_s ? view->keys : NULL;
}

static const struct ticket_key *key_named(const struct ticket_keys *keys, const unsigned char name[TICKET_NAME])
{
	for (size_t i = 0; i < keys->count; i++)
		if (keys->any_name || memcmp(keys->key[i].name, name, TICKET_NAME) == 0)
			return &keys->key[i];
	return NULL;
}

static bool mac_init(EVP_MAC_CTX *mac, const struct ticket_key *key)
{
	OSSL_PARAM params[] = {
		OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, (void *)key->mac, key->mac_len),
		OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, (char *)"SHA256", 0),
		OSSL_PARAM_construct_end(),
	};

	return EVP_MAC_CTX_set_params(mac, params) == 1;
}

int tickets_set_up(struct tls_tickets *tickets, struct tickets_view *view, unsigned char *name, unsigned char *iv,
                   EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac, bool seal)
{
	const struct ticket_keys *keys = tickets_look(tickets, view);
	const struct ticket_key *key;
	const EVP_CIPHER *aes;

	if (!keys)
		return -1;
	key = seal ? &keys->key[keys->seals] : key_named(keys, name);
	if (!key || key->until_s <= now_s())
		return 0;
	if (seal) {
		memcpy(name, key->name, TICKET_NAME);
		if (RAND_bytes(iv, TICKET_IV) != 1)
			return -1;
	}
	aes = key->aes_len == 16 ? view->aes_128 : view->aes_256;
	if (EVP_CipherInit_ex2(cipher, aes, key->aes, iv, seal, NULL) != 1 || !mac_init(mac, key))
		return -1;
	return seal || key == &keys->key[keys->seals] ? 1 : 2;
}

/* --- without a handshake ------------------------------------------------------------------------------------------------------------ */

static bool tag_of(EVP_MAC_CTX *mac, const unsigned char *data, size_t n, unsigned char tag[TICKET_TAG])
{
	size_t size;

	return EVP_MAC_init(mac, NULL, 0, NULL) == 1 && EVP_MAC_update(mac, data, n) == 1 &&
	       EVP_MAC_final(mac, tag, &size, TICKET_TAG) == 1 && size == TICKET_TAG;
}

static size_t run_cipher(EVP_CIPHER_CTX *cipher, const unsigned char *from, size_t n, unsigned char *to)
{
	int len, last;

	if (EVP_CipherUpdate(cipher, to, &len, from, (int)n) != 1 || EVP_CipherFinal_ex(cipher, to + len, &last) != 1)
		return 0;
	return (size_t)len + (size_t)last;
}

static size_t seal_with(struct tls_tickets *tickets, struct tickets_view *view, EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac,
                        const unsigned char *plain, size_t n, unsigned char *sealed)
{
	unsigned char *body = sealed + TICKET_NAME + TICKET_IV;

	if (tickets_set_up(tickets, view, sealed, sealed + TICKET_NAME, cipher, mac, true) <= 0)
		return 0;
	n = run_cipher(cipher, plain, n, body);
	return n && tag_of(mac, sealed, (size_t)(body - sealed) + n, body + n) ? (size_t)(body - sealed) + n + TICKET_TAG : 0;
}

static size_t open_with(struct tls_tickets *tickets, struct tickets_view *view, EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac,
                        const unsigned char *sealed, size_t n, unsigned char *plain)
{
	unsigned char head[TICKET_NAME + TICKET_IV], tag[TICKET_TAG];

	if (n <= sizeof(head) + TICKET_TAG)
		return 0;
	memcpy(head, sealed, sizeof(head));
	if (tickets_set_up(tickets, view, head, head + TICKET_NAME, cipher, mac, false) <= 0)
		return 0;
	n -= TICKET_TAG;
	if (!tag_of(mac, sealed, n, tag) || CRYPTO_memcmp(tag, sealed + n, TICKET_TAG) != 0)
		return 0;
	return run_cipher(cipher, sealed + sizeof(head), n - sizeof(head), plain);
}

/* What seals and what opens: the same but for the direction. */
typedef size_t transform_fn(struct tls_tickets *tickets, struct tickets_view *view, EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac,
                            const unsigned char *from, size_t n, unsigned char *to);

static size_t transform(transform_fn *fn, struct tls_tickets *tickets, struct tickets_view *view, const unsigned char *from,
                        size_t n, unsigned char *to)
{
	EVP_CIPHER_CTX *cipher = EVP_CIPHER_CTX_new();
	EVP_MAC_CTX *mac = EVP_MAC_CTX_new(view->hmac);
	size_t size = cipher && mac ? fn(tickets, view, cipher, mac, from, n, to) : 0;

	EVP_CIPHER_CTX_free(cipher);
	EVP_MAC_CTX_free(mac);
	return size;
}

size_t tickets_seal(struct tls_tickets *tickets, struct tickets_view *view, const unsigned char *plain, size_t n,
                    unsigned char *sealed)
{
	return transform(seal_with, tickets, view, plain, n, sealed);
}

size_t tickets_open(struct tls_tickets *tickets, struct tickets_view *view, const unsigned char *sealed, size_t n,
                    unsigned char *plain)
{
	return transform(open_with, tickets, view, sealed, n, plain);
}
