/*
 * Sessions of a section: see tls_sessions.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tls_sessions.h"

#include "log.h"
#include "tls_context.h"
#include "tls_session_cache.h"
#include "tls_session_data.h"
#include "tls_verify.h"

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
	CLIENT_SESSIONS_MAX = 1024,
	/* TLS 1.3 sessions kept for a destination: each is good for one connection, and a server gives two, so that many may begin at once. */
	CLIENT_ALIKE = 16,
	/* Questions to another process, of a connection. A client offers one session or two; a ClientHello has room for more than a thousand. */
	CACHE_ASKED_MAX = 4,
};

struct tls_sessions {
	atomic_uint refs;
	struct tls_tickets *tickets;
	struct session_cache *server; /* by session id */
	struct session_cache *client; /* by destination */
};

static int session_index = -1; /* SSL_SESSION ex_data: the struct tls whose session it is, once it is in the cache */

struct tls_sessions *tls_sessions_new(const struct section *section)
{
	struct tls_sessions *t = calloc(1, sizeof(*t));
	size_t room = section->session_cache_size > 0 ? (size_t)section->session_cache_size : 0;

	if (session_index < 0)
		session_index = SSL_SESSION_get_ex_new_index(0, NULL, NULL, NULL, NULL);
	if (!t || session_index < 0) {
		free(t);
		return NULL;
	}
	t->refs = 1;
	t->tickets = tls_tickets_new(section);
	t->server = session_cache_new(room);
	t->client = session_cache_new(CLIENT_SESSIONS_MAX);
	if (t->tickets && t->server && t->client)
		return t;
	tls_sessions_unref(t);
	return NULL;
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
	tls_tickets_free(t->tickets);
	session_cache_free(t->server);
	session_cache_free(t->client);
	free(t);
}

bool tls_sessions_reload(struct tls_sessions *t, const struct section *section)
{
	return tls_tickets_reload(t->tickets, section);
}

static struct tls_sessions *sessions_of(const struct tls *tls)
{
	return tls->context->sessions;
}

/* --- what a session remembers ------------------------------------------------------------------------------------------------------- */

/* Reads a session's data. False if it has none, or nothing that can be read. */
static bool get_data(SSL_SESSION *session, struct session_data *data, const char **wrong)
{
	void *bytes = NULL;
	size_t n = 0;

	*wrong = "Failed to get ticket application data";
	if (!session || SSL_SESSION_get0_ticket_appdata(session, &bytes, &n) != 1 || !bytes || n == 0)
		return false;
	*wrong = session_data_read(bytes, n, data);
	return !*wrong;
}

bool tls_authenticated(const struct tls *tls)
{
	struct session_data data;
	const char *wrong;

	if (!SSL_session_reused(tls->ssl))
		return tls->authenticated;
	return get_data(SSL_get0_session(tls->ssl), &data, &wrong) && data.authenticated && SSL_get0_peer_certificate(tls->ssl);
}

bool tls_remembered(const struct tls *tls, struct addr *backend)
{
	struct session_data data;
	const char *wrong;

	if (!SSL_session_reused(tls->ssl) || !get_data(SSL_get0_session(tls->ssl), &data, &wrong) || !data.backend.len)
		return false;
	*backend = data.backend;
	return true;
}

/* stunnel, with which the section shares its sessions, reads the short form alone; it will do where there is nothing more to say. */
static bool is_short(const struct tls *tls, const struct addr *backend)
{
	const struct section *section = tls->section;

	return tls->context->policy.plain && !backend && !section->client && (section->ticket_key || section->sessiond);
}

/*
 * TLS 1.3 gives new sessions for old ones without end. They end when the first would have (RFC 8446 4.6.1): the peer's certificate was checked when
 * that began. Returns the seconds until then, or what the session has anyway.
 */
static long long seconds_left(const struct tls *tls, const SSL_SESSION *session)
{
	if (!tls->session_end || !SSL_session_reused(tls->ssl) || SSL_SESSION_get_protocol_version(session) < TLS1_3_VERSION)
		return SSL_SESSION_get_timeout(session);
	return tls->session_end - time(NULL);
}

/* Writes down in a session what its connection has been found to be. */
static bool set_data(struct tls *tls, SSL_SESSION *session, const struct addr *backend)
{
	struct session_data data = {.authenticated = tls_authenticated(tls), .bound = !is_short(tls, backend)};
	long long left = seconds_left(tls, session);
	unsigned char bytes[SESSION_DATA_MAX];
	size_t n;

	memcpy(data.policy, tls->context->policy.hash, POLICY_SIZE);
	if (backend)
		data.backend = *backend;
	n = session_data_write(&data, bytes);
	SSL_SESSION_set_timeout(session, left ? (long)left : 1); /* OpenSSL reads a zero as three seconds */
	return SSL_SESSION_set1_ticket_appdata(session, bytes, n) == 1;
}

/* What stunnel puts into sessiond for TLS 1.2 has no data at all, and so no mark. */
static bool is_bare(const struct tls *tls, const SSL_SESSION *session)
{
	return tls->cache && SSL_SESSION_get_protocol_version(session) < TLS1_3_VERSION;
}

/*
 * Whether a session may be resumed here: it was made by a section that checks the same, and nothing is known against its certificate since. Sessions that
 * do not say so, as those of stunnel, are good where nothing is checked.
 */
static bool is_ours(struct tls *tls, SSL_SESSION *session, struct session_data *data)
{
	const struct tls_policy *policy = &tls->context->policy;
	X509 *cert = SSL_SESSION_get0_peer(session);
	const char *wrong;

	if (!get_data(session, data, &wrong)) {
		*data = (struct session_data){0};
		if (policy->plain && is_bare(tls, session))
			return true;
		tls_log(tls, LOG_WARNING, "%s", wrong);
		return false;
	}
	if (data->bound ? memcmp(data->policy, policy->hash, POLICY_SIZE) != 0 : !policy->plain) {
		tls_log(tls, LOG_INFO, "The session was made where other checks are made: it is not resumed");
		return false;
	}
	return !data->authenticated || !cert || verify_again(tls, cert);
}

/* --- server: tickets ---------------------------------------------------------------------------------------------------------------- */

static int ticket_key(SSL *ssl, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac, int seal)
{
	struct tls *tls = SSL_get_app_data(ssl);

	tls_log(tls, LOG_DEBUG, "Session ticket processing callback");
	return tickets_set_up(sessions_of(tls)->tickets, &tls->context->tickets, name, iv, cipher, mac, seal);
}

/* A session is about to become a ticket, or to be stored under one. */
static int ticket_made(SSL *ssl, void *arg)
{
	struct tls *tls = SSL_get_app_data(ssl);
	const struct addr *backend = tls->backend;
	(void)arg;

	tls_log(tls, LOG_DEBUG, "Generate session ticket callback");
	if (!backend && tls->choose_backend && SSL_version(ssl) < TLS1_3_VERSION)
		backend = tls->choose_backend(tls);
	return set_data(tls, SSL_get0_session(ssl), backend);
}

static SSL_TICKET_RETURN ticket_opened(SSL *ssl, SSL_SESSION *session, const unsigned char *name, size_t n,
                                       SSL_TICKET_STATUS status, void *arg)
{
	struct tls *tls = SSL_get_app_data(ssl);
	struct session_data data;
	(void)name;
	(void)n;
	(void)arg;

	tls_log(tls, LOG_DEBUG, "Decrypt session ticket callback");
	if (status == SSL_TICKET_EMPTY || status == SSL_TICKET_NO_DECRYPT)
		return SSL_TICKET_RETURN_IGNORE_RENEW;
	if (status != SSL_TICKET_SUCCESS && status != SSL_TICKET_SUCCESS_RENEW)
		return SSL_TICKET_RETURN_ABORT;
	if (!is_ours(tls, session, &data))
		return SSL_TICKET_RETURN_IGNORE_RENEW;
	tls_log(tls, LOG_INFO, "Decrypted ticket for an authenticated session: %s", data.authenticated ? "yes" : "no");
	return status == SSL_TICKET_SUCCESS ? SSL_TICKET_RETURN_USE : SSL_TICKET_RETURN_USE_RENEW;
}

/* --- server: the cache -------------------------------------------------------------------------------------------------------------- */

/* True if a new session is to live here and not in a ticket. */
static bool is_stateful(const SSL *ssl, const SSL_SESSION *session)
{
	unsigned n;

	SSL_SESSION_get_id(session, &n);
	return n > 0 && (SSL_SESSION_get_protocol_version(session) < TLS1_3_VERSION || SSL_get_options(ssl) & SSL_OP_NO_TICKET);
}

/* True if it does. One that came in a ticket has an id, too, but that is the client's choice. */
static bool is_stored(const SSL_SESSION *session)
{
	return SSL_SESSION_get_ex_data(session, session_index) != NULL;
}

/* To a cache that other processes share. */
static void share(struct tls *tls, SSL_SESSION *session)
{
	struct tls_tickets *keys = sessions_of(tls)->tickets;
	unsigned id_len;
	const unsigned char *id = SSL_SESSION_get_id(session, &id_len);
	int n = i2d_SSL_SESSION(session, NULL);
	unsigned char *der = n > 0 ? OPENSSL_malloc((size_t)n) : NULL, *at = der;
	unsigned char *sealed = der && tls->cache->seals ? OPENSSL_malloc((size_t)n + TICKET_OVERHEAD) : NULL;
	size_t size = (size_t)n;

	if (der && i2d_SSL_SESSION(session, &at) == n) {
		if (sealed)
			size = tickets_seal(keys, &tls->context->tickets, der, size, sealed);
		if (size && !sealed == !tls->cache->seals)
			tls->cache->put(tls, id, id_len, sealed ? sealed : der, size, SSL_SESSION_get_timeout(session));
	}
	OPENSSL_clear_free(der, n > 0 ? (size_t)n : 0);
	OPENSSL_free(sealed);
}

static void server_store(struct tls *tls, SSL_SESSION *session)
{
	unsigned n;
	const unsigned char *id = SSL_SESSION_get_id(session, &n);

	SSL_SESSION_set_ex_data(session, session_index, tls);
	session_cache_store(sessions_of(tls)->server, id, n, session, 1);
	if (tls->cache)
		share(tls, session);
}

/* Returns 0: no reference kept. */
static int server_new(SSL *ssl, SSL_SESSION *session)
{
	struct tls *tls = SSL_get_app_data(ssl);

	bool tls13 = SSL_SESSION_get_protocol_version(session) >= TLS1_3_VERSION;

	tls_log(tls, LOG_DEBUG, "New session callback");
	if (tls13)
		tls_log_session_id(tls, session);
	if (!tls->section->session_resume || !is_stateful(ssl, session))
		return 0;
	if (tls13 || set_data(tls, session, tls->backend)) /* ticket_made() has written the other one's */
		server_store(tls, session);
	return 0;
}

static SSL_SESSION *decode(const unsigned char *der, size_t n, const unsigned char *id, size_t id_len)
{
	SSL_SESSION *session = d2i_SSL_SESSION(NULL, &der, (long)n);
	unsigned own_len = 0;
	const unsigned char *own = session ? SSL_SESSION_get_id(session, &own_len) : NULL;

	if (session && own_len == id_len && memcmp(own, id, id_len) == 0)
		return session;
	SSL_SESSION_free(session);
	ERR_clear_error();
	return NULL;
}

/* From a cache that other processes share, which may say anything. What it gives is good here from now on. */
static SSL_SESSION *fetch(struct tls *tls, const unsigned char *id, size_t id_len)
{
	unsigned char bytes[TLS_CACHED_MAX], plain[TLS_CACHED_MAX];
	size_t n = tls->cache->get(tls, id, id_len, bytes);
	SSL_SESSION *session = NULL;

	ERR_clear_error(); /* other connections of this thread have called OpenSSL meanwhile */
	if (n && tls->cache->seals) {
		n = tickets_open(sessions_of(tls)->tickets, &tls->context->tickets, bytes, n, plain);
		session = n ? decode(plain, n, id, id_len) : NULL;
		OPENSSL_cleanse(plain, sizeof(plain));
	} else if (n) {
		session = decode(bytes, n, id, id_len);
	}
	OPENSSL_cleanse(bytes, sizeof(bytes));
	if (session)
		session_cache_store(sessions_of(tls)->server, id, id_len, session, 1);
	return session;
}

static SSL_SESSION *server_get(SSL *ssl, const unsigned char *id, int n, int *copy)
{
	struct tls *tls = SSL_get_app_data(ssl);
	struct session_data data;
	SSL_SESSION *session;

	*copy = 0;
	if (!tls->section->session_resume)
		return NULL;
	session = session_cache_find(sessions_of(tls)->server, id, (size_t)n, false);
	if (!session && tls->cache && tls->cache_asked < CACHE_ASKED_MAX) {
		tls->cache_asked++;
		session = fetch(tls, id, (size_t)n);
	}
	if (session && !is_ours(tls, session, &data)) {
		SSL_SESSION_free(session);
		session = NULL;
	}
	if (session)
		SSL_SESSION_set_ex_data(session, session_index, tls);
	return session;
}

/* A session went bad (fatal alert): RFC 5246 7.2.2 wants it forgotten. */
static void server_remove(SSL_CTX *ctx, SSL_SESSION *session)
{
	struct tls *tls = SSL_SESSION_get_ex_data(session, session_index);
	unsigned n;
	const unsigned char *id = SSL_SESSION_get_id(session, &n);
	(void)ctx;

	if (!tls || n == 0)
		return;
	session_cache_forget(sessions_of(tls)->server, id, n);
	if (tls->cache)
		tls->cache->forget(tls, id, n);
}

/* The tickets of TLS 1.3 that the section gives: after a resumption one, for one was used up, unless it would be of no use. */
static size_t tickets_due(const struct tls *tls)
{
	size_t n = SSL_CTX_get_num_tickets(SSL_get_SSL_CTX(tls->ssl));

	if (!tls->section->session_resume || seconds_left(tls, SSL_get0_session(tls->ssl)) <= 0)
		return 0;
	return n > 1 && SSL_session_reused(tls->ssl) ? 1 : n;
}

bool tls_issue_tickets(struct tls *tls, const struct addr *backend)
{
	bool ok = true;

	ERR_clear_error();
	tls->backend = backend;
	if (SSL_version(tls->ssl) >= TLS1_3_VERSION) {
		size_t n;

		if (tls_resumed(tls))
			tls->session_end = session_end(SSL_get0_session(tls->ssl));
		n = tickets_due(tls);
		for (size_t i = 0; ok && i < n; i++)
			ok = SSL_new_session_ticket(tls->ssl) == 1;
		ok = ok && (n == 0 || SSL_do_handshake(tls->ssl) == 1);
	} else if (backend && is_stored(SSL_get0_session(tls->ssl))) {
		ok = set_data(tls, SSL_get0_session(tls->ssl), backend);
		if (ok)
			server_store(tls, SSL_get0_session(tls->ssl));
	}
	tls->backend = NULL;
	if (!ok)
		tls_log_failure(tls, "SSL_new_session_ticket");
	return ok;
}

/* --- client ------------------------------------------------------------------------------------------------------------------------- */

static int client_new(SSL *ssl, SSL_SESSION *session)
{
	struct tls *tls = SSL_get_app_data(ssl);
	bool tls13 = SSL_SESSION_get_protocol_version(session) >= TLS1_3_VERSION;

	tls_log(tls, LOG_DEBUG, "New session callback");
	if (tls13)
		tls_log_session_id(tls, session);
	if (tls->section->session_resume && SSL_SESSION_is_resumable(session) && seconds_left(tls, session) > 0 &&
	    set_data(tls, session, NULL))
		session_cache_store(sessions_of(tls)->client, tls->destination, strlen(tls->destination), session,
		                    tls13 ? CLIENT_ALIKE : 1);
	return 0;
}

void tls_sessions_offer(struct tls *tls)
{
	struct session_cache *cache = sessions_of(tls)->client;
	const char *to = tls->destination;
	SSL_SESSION *session = tls->section->session_resume ? session_cache_find(cache, to, strlen(to), true) : NULL;
	char hex[2 * SSL_MAX_SSL_SESSION_ID_LENGTH + 1];
	struct session_data data;

	if (session && is_ours(tls, session, &data) && SSL_set_session(tls->ssl, session) == 1) {
		tls->session_end = session_end(session);
		tls_log(tls, LOG_INFO, "Attempting to resume: %s", tls_session_id_text(session, hex));
	} else {
		tls_log(tls, LOG_DEBUG, "No previous session to resume");
	}
	SSL_SESSION_free(session);
}

/* OpenSSL calls its callback for this whenever a ticket follows another, too. */
void tls_sessions_forget(const struct tls *tls)
{
	if (tls->section->client)
		session_cache_forget(sessions_of(tls)->client, tls->destination, strlen(tls->destination));
}

/* --- contexts ----------------------------------------------------------------------------------------------------------------------- */

/* The first 32 bytes of the section's name, so that daemons with the same section can share. */
static unsigned id_context(const struct section *section, unsigned char id[SSL_MAX_SID_CTX_LENGTH])
{
	size_t n = strnlen(section->name, SSL_MAX_SID_CTX_LENGTH);

	memcpy(id, section->name, n);
	return (unsigned)n;
}

static bool install_server(SSL_CTX *ctx)
{
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_SERVER | SSL_SESS_CACHE_NO_INTERNAL);
	SSL_CTX_sess_set_new_cb(ctx, server_new);
	SSL_CTX_sess_set_get_cb(ctx, server_get);
	SSL_CTX_sess_set_remove_cb(ctx, server_remove);
	return SSL_CTX_set_tlsext_ticket_key_evp_cb(ctx, ticket_key) == 1 &&
	       SSL_CTX_set_session_ticket_cb(ctx, ticket_made, ticket_opened, NULL) == 1;
}

bool tls_sessions_install(const struct section *section, SSL_CTX *ctx)
{
	unsigned char id[SSL_MAX_SID_CTX_LENGTH];

	if (!SSL_CTX_set_session_id_context(ctx, id, id_context(section, id)))
		return false;
	SSL_CTX_set_timeout(ctx, section->session_cache_timeout_s);
	if (!section->client && !install_server(ctx))
		return false;
	if (section->sessiond && !section->client)
		SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET);
	if (!section->session_resume) {
		SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
		SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET);
		return SSL_CTX_set_num_tickets(ctx, 0) == 1;
	}
	if (section->client) {
		SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
		SSL_CTX_sess_set_new_cb(ctx, client_new);
	}
	return true;
}
