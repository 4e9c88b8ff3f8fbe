/*
 * Sessions of a section: see tls_sessions.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tls_sessions.h"

#include "list.h"
#include "log.h"
#include "tls_context.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
	SHARDS = 16,            /* locks of the server cache */
	BUCKETS = 64,           /* per shard */
	TICKET_KEYS = 80,       /* name 16, HMAC key 32, AES key 32: SSL_CTX_set_tlsext_ticket_keys(3) */
	DESTINATIONS_MAX = 256, /* client sessions kept */
};

/* A stored session: of the server, by session id; of the client, by destination. */
struct entry {
	struct entry *chain; /* bucket */
	struct list used;    /* least recently used first */
	time_t expires;
	size_t key_len, der_len;
	unsigned char bytes[]; /* key, then DER */
};

struct shard {
	pthread_mutex_t lock;
	struct entry *bucket[BUCKETS];
	struct list used;
	size_t count, room; /* room 0: unlimited */
};

struct tls_sessions {
	atomic_uint refs;
	unsigned char ticket_keys[TICKET_KEYS];
	struct shard server[SHARDS];
	struct shard client;
};

static int ctx_index = -1; /* SSL_CTX ex_data: struct tls_sessions */

static uint64_t hash(const void *key, size_t n)
{
	const unsigned char *p = key;
	uint64_t h =
		0xcbf29ce484222325; /* FNV-1a; session ids are our own random bytes, destinations are configured: nobody chooses collisions */

	while (n--)
		h = (h ^ *p++) * 0x100000001b3;
	return h ^ h >> 32;
}

static void shard_init(struct shard *s, size_t room)
{
	pthread_mutex_init(&s->lock, NULL);
	list_init(&s->used);
	s->room = room;
}

static struct entry **entry_at(struct shard *s, const void *key, size_t n)
{
	struct entry **at = &s->bucket[hash(key, n) / SHARDS % BUCKETS];

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

static void shard_forget(struct shard *s, const void *key, size_t n)
{
	struct entry **at;

	pthread_mutex_lock(&s->lock);
	at = entry_at(s, key, n);
	if (*at)
		entry_drop(s, at);
	pthread_mutex_unlock(&s->lock);
}

static void shard_store(struct shard *s, const void *key, size_t n, SSL_SESSION *session)
{
	int der_len = i2d_SSL_SESSION(session, NULL);
	struct entry *e = der_len > 0 ? malloc(sizeof(*e) + n + (size_t)der_len) : NULL;
	unsigned char *der;
	struct entry **at;

	if (!e)
		return; /* the next connection makes a full handshake */
	e->key_len = n;
	e->der_len = (size_t)der_len;
	e->expires = (time_t)SSL_SESSION_get_time(session) + (time_t)SSL_SESSION_get_timeout(session);
	memcpy(e->bytes, key, n);
	der = e->bytes + n;
	i2d_SSL_SESSION(session, &der);

	pthread_mutex_lock(&s->lock);
	at = entry_at(s, key, n);
	if (*at)
		entry_drop(s, at);
	while (s->room && s->count >= s->room) {
		struct entry *oldest = list_first(&s->used, struct entry, used);

		entry_drop(s, entry_at(s, oldest->bytes, oldest->key_len));
	}
	at = &s->bucket[hash(key, n) / SHARDS % BUCKETS];
	e->chain = *at;
	*at = e;
	list_append(&s->used, &e->used);
	s->count++;
	pthread_mutex_unlock(&s->lock);
}

static SSL_SESSION *shard_find(struct shard *s, const void *key, size_t n)
{
	SSL_SESSION *session = NULL;
	struct entry **at;

	pthread_mutex_lock(&s->lock);
	at = entry_at(s, key, n);
	if (*at && (*at)->expires < time(NULL)) {
		entry_drop(s, at);
	} else if (*at) {
		struct entry *e = *at;
		const unsigned char *der = e->bytes + e->key_len;

		list_remove(&e->used);
		list_append(&s->used, &e->used);
		session = d2i_SSL_SESSION(NULL, &der, (long)e->der_len);
	}
	pthread_mutex_unlock(&s->lock);
	return session;
}

static void shard_free(struct shard *s)
{
	while (!list_empty(&s->used)) {
		struct entry *e = list_first(&s->used, struct entry, used);

		entry_drop(s, entry_at(s, e->bytes, e->key_len));
	}
	pthread_mutex_destroy(&s->lock);
}

static struct shard *server_shard(struct tls_sessions *t, const void *id, size_t n)
{
	return &t->server[hash(id, n) % SHARDS];
}

struct tls_sessions *tls_sessions_new(const struct section *section)
{
	struct tls_sessions *t = calloc(1, sizeof(*t));
	size_t room = section->session_cache_size > 0 ? (size_t)section->session_cache_size : 0;

	if (ctx_index < 0)
		ctx_index = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, NULL);
	if (!t || ctx_index < 0 || RAND_bytes(t->ticket_keys, TICKET_KEYS) != 1) {
		free(t);
		return NULL;
	}
	t->refs = 1;
	for (int i = 0; i < SHARDS; i++)
		shard_init(&t->server[i], room ? (room + SHARDS - 1) / SHARDS : 0);
	shard_init(&t->client, DESTINATIONS_MAX);
	return t;
}

struct tls_sessions *tls_sessions_ref(struct tls_sessions *t)
{
	atomic_fetch_add(&t->refs, 1);
	return t;
}

void tls_sessions_unref(struct tls_sessions *t)
{
	if (!t || atomic_fetch_sub(&t->refs, 1) > 1)
		return;
	for (int i = 0; i < SHARDS; i++)
		shard_free(&t->server[i]);
	shard_free(&t->client);
	OPENSSL_cleanse(t, sizeof(*t));
	free(t);
}

struct tls_sessions *tls_sessions_of(SSL_CTX *ctx)
{
	return SSL_CTX_get_ex_data(ctx, ctx_index);
}

/* A new session of a server: only those that live here, not in a ticket. Returns 0: no reference kept. */
static int server_new(SSL *ssl, SSL_SESSION *session)
{
	unsigned n;
	const unsigned char *id = SSL_SESSION_get_id(session, &n);
	struct tls_sessions *t = tls_sessions_of(SSL_get_SSL_CTX(ssl));

	if (SSL_SESSION_get_protocol_version(session) >= TLS1_3_VERSION && !(SSL_get_options(ssl) & SSL_OP_NO_TICKET))
		return 0;
	if (n > 0)
		shard_store(server_shard(t, id, n), id, n, session);
	return 0;
}

static SSL_SESSION *server_get(SSL *ssl, const unsigned char *id, int n, int *copy)
{
	struct tls_sessions *t = tls_sessions_of(SSL_get_SSL_CTX(ssl));

	*copy = 0;
	return shard_find(server_shard(t, id, (size_t)n), id, (size_t)n);
}

/* A session went bad (fatal alert): RFC 5246 7.2.2 wants it forgotten. */
static void server_remove(SSL_CTX *ctx, SSL_SESSION *session)
{
	unsigned n;
	const unsigned char *id = SSL_SESSION_get_id(session, &n);
	struct tls_sessions *t = tls_sessions_of(ctx);

	if (t && n > 0)
		shard_forget(server_shard(t, id, n), id, n);
}

static int client_new(SSL *ssl, SSL_SESSION *session)
{
	struct tls *tls = SSL_get_app_data(ssl);
	struct tls_sessions *t = tls_sessions_of(SSL_get_SSL_CTX(ssl));

	if (SSL_SESSION_get_protocol_version(session) >= TLS1_3_VERSION)
		tls_log_session_id(tls, session);
	if (tls->destination && SSL_SESSION_is_resumable(session))
		shard_store(&t->client, tls->destination, strlen(tls->destination), session);
	return 0;
}

void tls_sessions_offer(struct tls_sessions *t, const char *destination, SSL *ssl, const struct section *section,
                        const char *log_id)
{
	SSL_SESSION *session = section->session_resume ? shard_find(&t->client, destination, strlen(destination)) : NULL;

	if (session)
		SSL_set_session(ssl, session);
	SSL_SESSION_free(session);
	if (section->debug >= LOG_DEBUG && !session)
		log_write(LOG_DEBUG, log_id, "No previous session to resume");
	if (section->debug >= LOG_INFO && session)
		log_write(LOG_INFO, log_id, "Attempting to resume a session of %s", *destination ? destination : section->name);
}

bool tls_sessions_install(struct tls_sessions *t, const struct section *section, SSL_CTX *ctx)
{
	unsigned char id[SSL_MAX_SID_CTX_LENGTH] = {0};
	size_t n = strlen(section->name);

	if (n > sizeof(id))
		n = sizeof(id); /* the first 32 bytes, so that daemons with the same section can share */
	memcpy(id, section->name, n);
	if (!SSL_CTX_set_ex_data(ctx, ctx_index, t) || !SSL_CTX_set_session_id_context(ctx, id, (unsigned)n))
		return false;
	if (!section->session_resume) {
		SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
		SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET);
		return SSL_CTX_set_num_tickets(ctx, 0);
	}
	SSL_CTX_set_timeout(ctx, section->session_cache_timeout_s);
	if (section->client) {
		SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
		SSL_CTX_sess_set_new_cb(ctx, client_new);
		return true;
	}
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_SERVER | SSL_SESS_CACHE_NO_INTERNAL);
	SSL_CTX_sess_set_new_cb(ctx, server_new);
	SSL_CTX_sess_set_get_cb(ctx, server_get);
	SSL_CTX_sess_set_remove_cb(ctx, server_remove);
	return SSL_CTX_set_tlsext_ticket_keys(ctx, t->ticket_keys, TICKET_KEYS) == 1;
}
