/*
 * A store of sessions: see tls_session_cache.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tls_session_cache.h"

#include "list.h"

#include <openssl/crypto.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
	SHARDS = 16,  /* locks */
	BUCKETS = 64, /* per shard */
};

struct entry {
	struct entry *chain; /* bucket, newest first */
	struct list used;    /* least recently used first */
	time_t expires;
	bool once; /* TLS 1.3 */
	size_t key_len, der_len;
	unsigned char bytes[]; /* key, then DER */
};

struct shard {
	pthread_mutex_t lock;
	struct entry *bucket[BUCKETS];
	struct list used;
	size_t count, room; /* room 0: unlimited */
};

struct session_cache {
	struct shard shard[SHARDS];
};

static uint64_t hash(const void *key, size_t n)
{
	const unsigned char *p = key;
	uint64_t h =
		0xcbf29ce484222325; /* FNV-1a; session ids are our own random bytes, destinations are configured: nobody chooses collisions */

	while (n--)
		h = (h ^ *p++) * 0x100000001b3;
	return h ^ h >> 32;
}

struct session_cache *session_cache_new(size_t room)
{
	struct session_cache *cache = calloc(1, sizeof(*cache));

	for (int i = 0; cache && i < SHARDS; i++) {
		struct shard *s = &cache->shard[i];

		pthread_mutex_init(&s->lock, NULL);
		list_init(&s->used);
		s->room = room ? (room + SHARDS - 1) / SHARDS : 0;
	}
	return cache;
}

static struct shard *shard_of(struct session_cache *cache, const void *key, size_t n)
{
	return &cache->shard[hash(key, n) % SHARDS];
}

static struct entry **bucket_of(struct shard *s, const void *key, size_t n)
{
	return &s->bucket[hash(key, n) / SHARDS % BUCKETS];
}

/* The first entry of the key at or behind `at`. */
static struct entry **match(struct entry **at, const void *key, size_t n)
{
	while (*at && ((*at)->key_len != n || memcmp((*at)->bytes, key, n) != 0))
		at = &(*at)->chain;
	return at;
}

static void entry_free(struct entry *e)
{
	OPENSSL_cleanse(e->bytes, e->key_len + e->der_len); /* holds a master secret */
	free(e);
}

static void entry_drop(struct shard *s, struct entry **at)
{
	struct entry *e = *at;

	*at = e->chain;
	list_remove(&e->used);
	s->count--;
	entry_free(e);
}

static void drop_oldest(struct shard *s)
{
	struct entry *oldest = list_first(&s->used, struct entry, used);
	struct entry **at = bucket_of(s, oldest->bytes, oldest->key_len);

	while (*at != oldest)
		at = &(*at)->chain;
	entry_drop(s, at);
}

/* Keeps the newest `n` of a key. */
static void drop_beyond(struct shard *s, const void *key, size_t key_len, size_t n)
{
	struct entry **at = match(bucket_of(s, key, key_len), key, key_len);

	for (; *at && n > 0; n--)
		at = match(&(*at)->chain, key, key_len);
	while (*at) {
		entry_drop(s, at);
		at = match(at, key, key_len);
	}
}

long long session_end(const SSL_SESSION *session)
{
	long long end;

	return __builtin_add_overflow(SSL_SESSION_get_time(session), SSL_SESSION_get_timeout(session), &end) ? 0 : end;
}

static struct entry *entry_new(const void *key, size_t n, SSL_SESSION *session)
{
	int der_len = i2d_SSL_SESSION(session, NULL);
	struct entry *e = der_len > 0 ? malloc(sizeof(*e) + n + (size_t)der_len) : NULL;
	unsigned char *der;

	if (!e)
		return NULL;
	e->key_len = n;
	e->der_len = (size_t)der_len;
	e->expires = (time_t)session_end(session);
	e->once = SSL_SESSION_get_protocol_version(session) >= TLS1_3_VERSION;
	memcpy(e->bytes, key, n);
	der = e->bytes + n;
	i2d_SSL_SESSION(session, &der);
	return e;
}

void session_cache_store(struct session_cache *cache, const void *key, size_t n, SSL_SESSION *session, size_t alike)
{
	struct shard *s = shard_of(cache, key, n);
	struct entry *e = entry_new(key, n, session);
	struct entry **at;

	if (!e)
		return; /* the next connection makes a full handshake */
	pthread_mutex_lock(&s->lock);
	drop_beyond(s, key, n, alike - 1);
	while (s->room && s->count >= s->room)
		drop_oldest(s);
	at = bucket_of(s, key, n);
	e->chain = *at;
	*at = e;
	list_append(&s->used, &e->used);
	s->count++;
	pthread_mutex_unlock(&s->lock);
}

/* Under the lock: a copy of the newest entry's DER form, which is the caller's. */
static unsigned char *find(struct shard *s, const void *key, size_t n, bool single, size_t *der_len)
{
	struct entry **at = match(bucket_of(s, key, n), key, n);
	unsigned char *der;

	while (*at && (*at)->expires < time(NULL)) {
		entry_drop(s, at);
		at = match(at, key, n);
	}
	if (!*at)
		return NULL;
	*der_len = (*at)->der_len;
	der = OPENSSL_memdup((*at)->bytes + n, *der_len);
	list_remove(&(*at)->used);
	list_append(&s->used, &(*at)->used);
	if (single && (*at)->once)
		entry_drop(s, at);
	return der;
}

SSL_SESSION *session_cache_find(struct session_cache *cache, const void *key, size_t n, bool single)
{
	struct shard *s = shard_of(cache, key, n);
	SSL_SESSION *session = NULL;
	const unsigned char *at;
	unsigned char *der;
	size_t der_len;

	pthread_mutex_lock(&s->lock);
	at = der = find(s, key, n, single, &der_len);
	pthread_mutex_unlock(&s->lock);
	if (!der)
		return NULL;
	session = d2i_SSL_SESSION(NULL, &at, (long)der_len);
	OPENSSL_clear_free(der, der_len);
	return session;
}

void session_cache_forget(struct session_cache *cache, const void *key, size_t n)
{
	struct shard *s = shard_of(cache, key, n);

	pthread_mutex_lock(&s->lock);
	drop_beyond(s, key, n, 0);
	pthread_mutex_unlock(&s->lock);
}

void session_cache_free(struct session_cache *cache)
{
	if (!cache)
		return;
	for (int i = 0; i < SHARDS; i++) {
		struct shard *s = &cache->shard[i];

		while (!list_empty(&s->used))
			drop_oldest(s);
		pthread_mutex_destroy(&s->lock);
	}
	free(cache);
}
