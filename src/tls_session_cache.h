/*
 * A store of sessions under a key (a session id, a destination), for all threads. Kept as DER, so that they belong to no worker.
 * For tls_sessions.c and tests only.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_TLS_SESSION_CACHE_H
#define TLSPLICE_TLS_SESSION_CACHE_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>

struct session_cache;

/* When a session ends, in seconds since 1970, whatever times it has: from sessiond anything may come. */
long long session_end(const SSL_SESSION *session);

/* A cache for `room` sessions, the least recently used of which goes first; 0: without limit. Returns NULL when there is no memory. */
struct session_cache *session_cache_new(size_t room);

/* Wipes and frees. session_cache_free(NULL) is fine. */
void session_cache_free(struct session_cache *cache);

/* Stores a session, as one of up to `alike` of the same key, the oldest of which goes first. Without memory nothing is stored. */
void session_cache_store(struct session_cache *cache, const void *key, size_t n, SSL_SESSION *session, size_t alike);

/* Returns a copy of the newest session of the key that has not expired, or NULL. A TLS 1.3 session is taken out if `single` says so. */
SSL_SESSION *session_cache_find(struct session_cache *cache, const void *key, size_t n, bool single);

/* Drops all sessions of the key. */
void session_cache_forget(struct session_cache *cache, const void *key, size_t n);

#endif
