/*
 * TLS connections: the handshake over queues. See tls.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tls.h"

#include "record_keyed.h"
#include "record_openssl.h"
#include "tls_alpn.h"
#include "tls_context.h"
#include "tls_hello.h"
#include "tls_modules.h"
#include "tls_ocsp.h"
#include "tls_psk.h"
#include "tls_sessions.h"
#include "tls_verify.h"

#include <arpa/inet.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* "func@file:line: error:0A000126:SSL routines::unexpected eof while reading: data" */
static void error_text(char *text, size_t size, unsigned long code, const char *file, int line, const char *func,
                       const char *data, int flags)
{
	char reason[256];

	ERR_error_string_n(code, reason, sizeof(reason));
	snprintf(text, size, "%s@%s:%d: %s%s%s", func, file, line, reason, flags & ERR_TXT_STRING && *data ? ": " : "",
	         flags & ERR_TXT_STRING ? data : "");
}

void tls_log_errors(int level, const char *log_id, const char *prefix, const char *suffix)
{
	const char *file, *func, *data;
	char text[LOG_TEXT_MAX];
	unsigned long code;
	int line, flags;

	while ((code = ERR_get_error_all(&file, &line, &func, &data, &flags))) {
		bool last = ERR_peek_error() == 0;

		error_text(text, sizeof(text), code, file, line, func, data, flags);
		if (!last)
			log_write(level, log_id, "error queue: %s", text);
		else
			log_write(level, log_id, "%s: %s%s%s", prefix, text, suffix ? ": client " : "", suffix ? suffix : "");
	}
}

void tls_log_failure(const struct tls *tls, const char *what)
{
	char text[ADDR_TEXT_MAX];

	if (tls->section->debug >= LOG_ERR)
		tls_log_errors(LOG_ERR, tls->log_id, what, addr_text(tls->peer, text));
	ERR_clear_error();
}

/* RFC 6066 section 3 has no place for IP addresses: neither those of inet(3), such as 127.1, nor IPv6 with brackets or a zone. */
static bool is_address(const char *name)
{
	struct in_addr ip;

	return strchr(name, ':') || inet_aton(name, &ip);
}

/* The name to ask for: the section's `sni`, else the host of its first `connect`. Without the dot at its end (RFC 6066 section 3). Returns false without memory for it. */
static bool set_server_name(struct tls *tls)
{
	const struct section *section = tls->section;
	const char *spec = section->connect.count ? section->connect.texts[0] : "";
	const char *colon = strrchr(spec, ':');
	char name[SERVER_NAME_MAX + 1] = "";
	size_t len;

	if (section->sni)
		snprintf(name, sizeof(name), "%s", section->sni);
	else if (colon && *spec != '/' && *spec != '@')
		snprintf(name, sizeof(name), "%.*s", (int)(colon - spec), spec);
	len = strlen(name);
	if (len && name[len - 1] == '.')
		name[len - 1] = '\0';
	if (!*name || is_address(name)) {
		tls_log(tls, LOG_DEBUG, "SNI: extension disabled");
		return true;
	}
	tls_log(tls, LOG_INFO, "SNI: sending servername: %s", name);
	return SSL_set_tlsext_host_name(tls->ssl, name) == 1;
}

/* The SSL object, over our queues. */
static int begin_openssl(struct tls *tls, struct tls_context *context)
{
	BIO *bio;

	tls->context = context;
	tls->section = context->section;
	ERR_clear_error();
	tls->ssl = SSL_new(context->ctx);
	if (!tls->ssl || !SSL_set_app_data(tls->ssl, tls)) /* the callbacks count on it */
		return -ENOMEM;
	if (tls->section->async)
		SSL_set_mode(tls->ssl, SSL_MODE_ASYNC);
	bio = record_bio_new(&tls->record);
	if (!bio)
		return -ENOMEM;
	SSL_set_bio(tls->ssl, bio, bio);
	/* A server's tickets of TLS 1.3 are made once it is known what is to be in them: tls_issue_tickets(). */
	return SSL_set_num_tickets(tls->ssl, 0) == 1 ? 0 : -ENOMEM;
}

int tls_start(struct tls *tls, struct tls_context *context, struct bufs *bufs, struct queue *in, struct queue *out,
              const char *destination)
{
	int error;

	tls->destination = destination;
	tls->record.engine = &record_openssl;
	tls->record.bufs = bufs;
	tls->record.in = in;
	tls->record.out = out;
	error = begin_openssl(tls, context);
	if (error)
		return error;
	tls->handshaking = true;
	tls->keep_hello = tls->section->hosts != NULL;
	if (tls->section->client) {
		SSL_set_connect_state(tls->ssl);
		if (!set_server_name(tls))
			return -ENOMEM;
		tls_sessions_offer(tls);
	} else {
		SSL_set_accept_state(tls->ssl);
	}
	verify_announce(tls);
	return 0;
}

/* What was kept of the ClientHello, in case that another section is chosen. */
static void forget_hello(struct tls *tls)
{
	tls->keep_hello = false;
	if (tls->record.bufs)
		queue_clear(&tls->hello, tls->record.bufs);
}

static void log_peer_key(struct tls *tls)
{
	EVP_PKEY *key;
	char group[80];

	if (SSL_get_peer_tmp_key(tls->ssl, &key) != 1) {
		tls_log(tls, LOG_INFO, "No peer temporary key received");
		return;
	}
	if (EVP_PKEY_get_group_name(key, group, sizeof(group), NULL) != 1)
		snprintf(group, sizeof(group), "%s", EVP_PKEY_get0_type_name(key));
	tls_log(tls, LOG_INFO, "Peer temporary key: %s, %d bits", group, EVP_PKEY_get_bits(key));
	EVP_PKEY_free(key);
}

const char *tls_session_id_text(const SSL_SESSION *session, char *hex)
{
	unsigned n;
	const unsigned char *id = SSL_SESSION_get_id(session, &n);

	*hex = '\0';
	for (unsigned i = 0; i < n; i++)
		snprintf(hex + 2 * i, 3, "%02X", id[i]);
	return hex;
}

void tls_log_session_id(const struct tls *tls, const SSL_SESSION *session)
{
	char hex[2 * SSL_MAX_SSL_SESSION_ID_LENGTH + 1];

	/* TLS 1.3, client: it comes with the ticket. */
	if (tls->section->debug >= LOG_INFO && *tls_session_id_text(session, hex))
		tls_log(tls, LOG_INFO, "Session id: %s", hex);
}

static void log_established(struct tls *tls)
{
	const SSL_CIPHER *cipher = SSL_get_current_cipher(tls->ssl);

	if (tls->section->debug < LOG_INFO)
		return;
	tls_log(tls, LOG_INFO, "TLS %s: %s", tls->section->client ? "connected" : "accepted",
	        tls->psk && tls_psk_used(tls)  ? "PSK"
	        : SSL_session_reused(tls->ssl) ? "previous session reused"
	                                       : "new session negotiated");
	tls_log(tls, LOG_INFO, "%s ciphersuite: %s (%d-bit encryption)", SSL_get_version(tls->ssl), SSL_CIPHER_get_name(cipher),
	        SSL_CIPHER_get_bits(cipher, NULL));
	log_peer_key(tls);
	tls_log_session_id(tls, SSL_get0_session(tls->ssl));
}

enum tls_progress tls_handshake(struct tls *tls)
{
	int code;

	ERR_clear_error();
	code = SSL_do_handshake(tls->ssl);
	tls_context_listen(tls->context, false);
	if (tls->greeted && !tls->chosen)
		forget_hello(tls);
	if (code == 1) {
		tls->handshaking = false;
		SSL_clear_mode(tls->ssl, SSL_MODE_ASYNC); /* records are not worth the switches */
		log_established(tls);
		if (!tls_psk_accepts(tls) || !tls_alpn_settle(tls))
			return TLS_FAILED;
		if (!tls->section->client && !tls->tickets_wait && !tls_issue_tickets(tls, NULL))
			return TLS_FAILED;
		return TLS_DONE;
	}
	switch (SSL_get_error(tls->ssl, code)) {
	case SSL_ERROR_WANT_READ: return TLS_WANTS_BYTES;
	case SSL_ERROR_WANT_CLIENT_HELLO_CB: return TLS_CHOSE;
	case SSL_ERROR_WANT_ASYNC: return TLS_WANTS_ENGINE;
	default: break;
	}
	tls_log_failure(tls, tls->section->client ? "SSL_connect" : "SSL_accept");
	return TLS_FAILED;
}

size_t tls_engine_fds(const struct tls *tls, int fds[TLS_ENGINE_FDS_MAX])
{
	size_t n = 0;

	if (SSL_get_all_async_fds(tls->ssl, NULL, &n) != 1 || n > TLS_ENGINE_FDS_MAX)
		return 0;
	return SSL_get_all_async_fds(tls->ssl, fds, &n) == 1 ? n : 0;
}

void tls_abandon(struct tls *tls)
{
	tls->ssl = NULL;
}

bool tls_resumed(const struct tls *tls)
{
	return SSL_session_reused(tls->ssl) && !(tls->psk && tls_psk_used(tls));
}

static void end_openssl(struct tls *tls)
{
	/* Ending without close_notify does not spoil the session (RFC 5246 7.2.1); a fatal alert does. */
	if (tls->ssl && !tls->alert_sent && !tls->alert_received)
		SSL_set_shutdown(tls->ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
	SSL_free(tls->ssl);
	tls->ssl = NULL;
	OPENSSL_cleanse(&tls->traffic, sizeof(tls->traffic));
	tls_ocsp_end(tls);
}

int tls_switch(struct tls *tls, struct tls_context *context)
{
	struct queue rest = *tls->record.in;
	int error;

	end_openssl(tls);
	tls->keep_hello = false;
	*tls->record.in = tls->hello;
	tls->hello = (struct queue){0};
	queue_move(tls->record.in, &rest);
	error = begin_openssl(tls, context);
	if (error)
		return error;
	verify_announce(tls);
	SSL_set_accept_state(tls->ssl);
	return 0;
}

/* True if only OpenSSL can do what the connection's section and version want. */
static bool needs_openssl(const struct tls *tls)
{
	uint64_t options = SSL_get_options(tls->ssl);
	int version = SSL_version(tls->ssl);

	if (version < TLS1_2_VERSION || tls->traffic.rekeyed || SSL_get_shutdown(tls->ssl) || tls_modules_fips())
		return true;
	if (version == TLS1_3_VERSION && !(tls->traffic.client_known && tls->traffic.server_known))
		return true;
	/* A server that asks for a second handshake gets it from OpenSSL alone. */
	if (version == TLS1_2_VERSION && tls->section->client && tls->section->renegotiation)
		return true;
	if (version == TLS1_2_VERSION && (options & SSL_OP_ALLOW_CLIENT_RENEGOTIATION))
		return true;
	for (size_t i = 0; i < tls->section->config.count; i++)
		if (strcasestr(tls->section->config.texts[i], "padding"))
			return true; /* config = RecordPadding:... */
	return options & SSL_OP_CLEANSE_PLAINTEXT;
}

enum tls_promotion tls_promote(struct tls *tls, bool tickets_due)
{
	const struct section *section = tls->section;

	if (tls->keyed)
		return TLS_PROMOTED;
	if (needs_openssl(tls))
		return TLS_STAYS;
	/* Nothing of the stream may be left inside OpenSSL: not even a record's header, which SSL_has_pending() does not count. */
	if (SSL_has_pending(tls->ssl) || SSL_in_init(tls->ssl) || strcmp(SSL_rstate_string(tls->ssl), "RH") != 0 ||
	    tls->traffic.partial)
		return TLS_NOT_YET;
	if (section->client && section->session_resume && SSL_version(tls->ssl) == TLS1_3_VERSION && !tls->traffic.tickets &&
	    tickets_due)
		return TLS_NOT_YET;
	tls->keyed = keyed_new(tls->ssl, &tls->traffic, section->client);
	if (!tls->keyed)
		return TLS_STAYS;
	/* From here on the records are ours: OpenSSL has neither bytes of the stream nor the right numbers any more. */
	tls->record.engine = &record_keyed;
	end_openssl(tls);
	return TLS_PROMOTED;
}

/* --- kernel TLS --------------------------------------------------------------------------------------------------------------------- */

enum ktls_outcome tls_ktls_outcome(const struct tls *tls, enum ktls_direction direction)
{
	const struct ktls_support *support = ktls_support();
	enum ktls_wish wish = tls->section->ktls, bit = direction == KTLS_SEND ? KTLS_TX : KTLS_RX;
	int version = SSL_version(tls->ssl);
	bool tls13 = version == TLS1_3_VERSION;
	enum aead_cipher cipher;

	if (wish != KTLS_AUTO && !(wish & bit))
		return KTLS_OFF;
	if (support->error)
		return KTLS_UNSUPPORTED;
	if (version < TLS1_2_VERSION)
		return KTLS_VERSION;
	if (!keyed_find_cipher(tls->ssl, &cipher) || !support->cipher[direction][tls13 ? KTLS_13 : KTLS_12][cipher])
		return KTLS_CIPHER;
	if (needs_openssl(tls))
		return KTLS_OPTIONS;
	if (keyed_plain_max(tls->ssl) != PLAIN_MAX)
		return KTLS_FRAGMENT;
	if (wish == KTLS_AUTO && tls13 && !support->rekey)
		return KTLS_REKEY;
	/* Measured: kernel-notes/ktls.md. */
	if (wish == KTLS_AUTO && tls->section->inplace && aead_is_accelerated(cipher))
		return KTLS_INPLACE;
	return KTLS_KERNEL;
}

void tls_log_ktls(const struct tls *tls, enum ktls_direction direction, enum ktls_outcome outcome, int error)
{
	static atomic_uint met;
	/* The others are no news, or have been said at start. */
	const unsigned news =
		1u << KTLS_VERSION | 1u << KTLS_CIPHER | 1u << KTLS_OPTIONS | 1u << KTLS_FRAGMENT | 1u << KTLS_REFUSED;
	unsigned bit = news & 1u << outcome;
	bool first = bit && !(atomic_fetch_or(&met, bit) & bit);
	const char *detail = "";

	if (outcome == KTLS_KERNEL)
		detail = ktls_cipher_name(tls->keyed->cipher);
	else if (error)
		detail = strerror(-error);
	tls_log(tls, first ? LOG_NOTICE : LOG_DEBUG, "Kernel TLS: %s: %s%s%s%s%s", ktls_direction_names[direction],
	        outcome == KTLS_KERNEL ? "" : "stays in user space: ", ktls_outcomes[outcome].why, *detail ? " (" : "", detail,
	        *detail ? ")" : "");
}

int tls_offload(struct tls *tls, enum ktls_direction direction, int fd)
{
	return kernel_take(tls->keyed, direction == KTLS_SEND ? &tls->keyed->tx : &tls->keyed->rx, fd);
}

size_t tls_missing(const struct tls *tls)
{
	return inplace_missing(tls->record.in);
}

bool tls_record_sent(struct tls *tls, unsigned char content)
{
	return kernel_written(&tls->record, tls->keyed, content);
}

enum record_result tls_spliced(struct tls *tls, size_t n)
{
	return kernel_count(&tls->record, tls->keyed, n);
}

enum record_result tls_read_failed(struct tls *tls, int error, bool *own)
{
	return kernel_read_failed(&tls->record, tls->keyed, error, own);
}

void tls_forget_name(struct tls *tls)
{
	free(tls->server_name);
	tls->server_name = NULL;
}

void tls_end(struct tls *tls)
{
	if (tls->alert_sent || tls->alert_received)
		tls_sessions_forget(tls);
	end_openssl(tls);
	forget_hello(tls);
	tls_forget_name(tls);
	keyed_free(tls->keyed);
	tls->keyed = NULL;
}
