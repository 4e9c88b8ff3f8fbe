/*
 * TLS contexts: a section's options become an SSL_CTX of one worker. See tls.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tls_context.h"

#include "record_openssl.h"
#include "tls_alpn.h"
#include "tls_dh.h"
#include "tls_hello.h"
#include "tls_identity.h"
#include "tls_modules.h"
#include "tls_ocsp.h"
#include "tls_psk.h"
#include "tls_sessions.h"
#include "tls_staple.h"
#include "tls_trust.h"

#include <openssl/conf.h>
#include <openssl/err.h>
#include <openssl/provider.h>
#include <openssl/ssl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* As with stunnel 5.82; the post-quantum group leads where this OpenSSL has it. */
struct defaults {
	const char *ciphers, *suites;
	const char *groups[2]; /* the first that this OpenSSL knows all of */
};

static const struct defaults defaults_any = {
	.ciphers = "HIGH:!aNULL:!SSLv2:!DH:!kDHEPSK",
	.suites = "TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256",
	.groups = {"X25519MLKEM768:X25519:P-256:X448:P-521:P-384", "X25519:P-256:X448:P-521:P-384"},
};

/* What is approved for FIPS 140. */
static const struct defaults defaults_fips = {
	.ciphers = "FIPS:!DH:!kDHEPSK",
	.suites = "TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256",
	.groups = {"P-256:P-521:P-384", "P-256:P-521:P-384"},
};

static const struct defaults *defaults(void)
{
	return tls_modules_fips() ? &defaults_fips : &defaults_any;
}

static const char *ciphers_of(const struct section *section)
{
	return section->ciphers ? section->ciphers : defaults()->ciphers;
}

static const char *suites_of(const struct section *section)
{
	return section->ciphersuites ? section->ciphersuites : defaults()->suites;
}

enum { SECURITY_LEVEL_MIN = 2 }; /* unless the section chooses */

struct tls_library {
	OSSL_LIB_CTX *context;
	struct tls_providers providers;
};

/* The machine's policy (openssl.cnf: minimum version, security level, providers) holds for us too. A missing file is no policy. */
static void load_policy(OSSL_LIB_CTX *context)
{
	static bool told;
	char *file = CONF_get1_default_config_file();

	ERR_clear_error();
	if (file && !OSSL_LIB_CTX_load_config(context, file) && access(file, F_OK) == 0 && !told) {
		tls_log_errors(LOG_WARNING, NULL, "OSSL_LIB_CTX_load_config", NULL);
		log_global(LOG_WARNING, "%s has a mistake: what it says about TLS is not in force", file);
		told = true;
	}
	ERR_clear_error();
	OPENSSL_free(file);
}

struct tls_library *tls_library_new(void)
{
	struct tls_library *library = calloc(1, sizeof(*library));

	if (!library)
		goto failed;
	library->context = OSSL_LIB_CTX_new();
	if (!library->context)
		goto failed;
	load_policy(library->context);
	if (tls_modules_install(library->context, &library->providers))
		return library;
	tls_library_free(library);
	return NULL;
failed:
	tls_log_errors(LOG_ERR, NULL, "OSSL_LIB_CTX_new", NULL);
	tls_library_free(library);
	return NULL;
}

void tls_library_free(struct tls_library *library)
{
	if (!library)
		return;
	tls_providers_unload(&library->providers);
	OSSL_LIB_CTX_free(library->context);
	free(library);
}

OSSL_LIB_CTX *tls_library_context(struct tls_library *library)
{
	return library->context;
}

const char *tls_compiled_version(void)
{
	return OPENSSL_VERSION_TEXT;
}

const char *tls_running_version(void)
{
	return OpenSSL_version(OPENSSL_VERSION);
}

/* State changes at LOG_DEBUG; alerts always, because the end of a connection depends on them. */
static void info(const SSL *ssl, int where, int ret)
{
	struct tls *tls = SSL_get_app_data(ssl);

	if (where & SSL_CB_ALERT) {
		bool fatal = ret >> 8 == SSL3_AL_FATAL;

		if (where & SSL_CB_READ)
			tls->alert_received |= fatal;
		else
			tls->alert_sent |= fatal;
		if (tls->section->debug >= LOG_DEBUG)
			log_write(LOG_DEBUG, tls->log_id, "TLS alert (%s): %s: %s", where & SSL_CB_READ ? "read" : "write",
			          SSL_alert_type_string_long(ret), SSL_alert_desc_string_long(ret));
	} else if (tls->section->debug >= LOG_DEBUG && where & SSL_CB_LOOP) {
		log_write(LOG_DEBUG, tls->log_id, "TLS state (%s): %s", tls->section->client ? "connect" : "accept",
		          SSL_state_string_long(ssl));
	}
}

/* renegotiation = no: a handshake message of TLS 1.2 or older after the handshake is the peer asking for another (CVE-2011-1473 class). */
static void watch_renegotiation(struct tls *tls, SSL *ssl, int write, int type, const void *data, size_t n)
{
	if (tls->section->renegotiation || write || type != SSL3_RT_HANDSHAKE || n == 0 || tls->handshaking ||
	    SSL_version(ssl) >= TLS1_3_VERSION)
		return;
	if (*(const unsigned char *)data == (tls->section->client ? SSL3_MT_HELLO_REQUEST : SSL3_MT_CLIENT_HELLO) &&
	    !tls->renegotiating) {
		tls->renegotiating = true;
		if (tls->section->debug >= LOG_WARNING)
			log_write(LOG_WARNING, tls->log_id, "Aborting due to renegotiation request");
	}
}

static void keylog(const SSL *ssl, const char *line)
{
	struct tls *tls = SSL_get_app_data(ssl);

	tls_traffic_keylog(&tls->traffic, line);
}

void tls_context_listen(struct tls_context *context, bool listen)
{
	SSL_CTX_set_keylog_callback(context->ctx, listen ? keylog : NULL);
}

/* Every record and handshake message that OpenSSL reads or writes. */
static void message(int write, int version, int type, const void *data, size_t n, SSL *ssl, void *arg)
{
	struct tls *tls = SSL_get_app_data(ssl);
	(void)arg;

	tls_traffic_message(&tls->traffic, write, version, type, data, n);
	if (type == SSL3_RT_HANDSHAKE && n > 0 && *(const unsigned char *)data == SSL3_MT_FINISHED && version == TLS1_3_VERSION)
		tls_context_listen(tls->context, true);
	watch_renegotiation(tls, ssl, write, type, data, n);
}

/* Of the two lists of defaults the first is for an OpenSSL, or a provider, that has all groups in it. */
static bool set_groups(SSL_CTX *ctx, const struct section *section, bool announce)
{
	const char *groups = section->curves ? section->curves : defaults()->groups[0];
	bool ok = SSL_CTX_set1_groups_list(ctx, groups) == 1;

	if (!ok && !section->curves) {
		groups = defaults()->groups[1];
		ok = SSL_CTX_set1_groups_list(ctx, groups) == 1;
	}
	ERR_clear_error();
	if (announce)
		log_global(LOG_DEBUG, "ECDH initialization");
	if (!ok)
		log_global(LOG_ERR, "Invalid groups list in 'curves'");
	else if (announce)
		log_global(LOG_DEBUG, "ECDH initialized with curves %s", groups);
	return ok;
}

/* One `config = command[:parameter]`. */
static bool config_command(SSL_CONF_CTX *conf, const char *line)
{
	char *command = strdup(line);
	char *parameter = command ? strchr(command, ':') : NULL;
	bool ok = false;
	int r;

	if (!command)
		return false;
	if (parameter)
		*parameter++ = '\0';
	ERR_clear_error();
	r = SSL_CONF_cmd(conf, command, parameter);
	if (r > 0)
		ok = true;
	else if (r == -2)
		log_global(LOG_ERR, "OpenSSL config command \"%s\" was not recognised", command);
	else if (r == -3)
		log_global(LOG_ERR, "OpenSSL config command \"%s\" requires a parameter", command);
	else
		tls_log_errors(LOG_ERR, NULL, "SSL_CONF_cmd", NULL);
	free(command);
	return ok;
}

static bool set_config(SSL_CTX *ctx, const struct section *section)
{
	SSL_CONF_CTX *conf;
	bool ok = true;

	if (section->config.count == 0)
		return true;
	conf = SSL_CONF_CTX_new();
	if (!conf)
		return false;
	SSL_CONF_CTX_set_ssl_ctx(conf, ctx);
	SSL_CONF_CTX_set_flags(conf, SSL_CONF_FLAG_FILE | SSL_CONF_FLAG_SHOW_ERRORS | SSL_CONF_FLAG_CERTIFICATE |
	                                     (section->client ? SSL_CONF_FLAG_CLIENT : SSL_CONF_FLAG_SERVER));
	for (size_t i = 0; ok && i < section->config.count; i++)
		ok = config_command(conf, section->config.texts[i]);
	if (ok && !SSL_CONF_CTX_finish(conf)) {
		tls_log_errors(LOG_ERR, NULL, "SSL_CONF_CTX_finish", NULL);
		ok = false;
	}
	SSL_CONF_CTX_free(conf);
	return ok;
}

static void set_security_level(SSL_CTX *ctx, const struct section *section)
{
	if (section->security_level >= 0)
		SSL_CTX_set_security_level(ctx, section->security_level);
	else if (SSL_CTX_get_security_level(ctx) < SECURITY_LEVEL_MIN)
		SSL_CTX_set_security_level(ctx, SECURITY_LEVEL_MIN);
}

static void set_options(SSL_CTX *ctx, const struct section *section)
{
	SSL_CTX_set_options(ctx, SSL_OP_NO_SSLv2 | SSL_OP_NO_SSLv3);
	/* The order of `ciphers` counts; but a client that puts ChaCha20 first has no fast AES, and gets it. */
	if (!section->client)
		SSL_CTX_set_options(ctx, SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA);
	SSL_CTX_set_options(ctx, section->options_set);
	SSL_CTX_clear_options(ctx, section->options_clear);
	/*
	 * RELEASE_BUFFERS: 33 KiB less for each idle connection. The others let SSL_write() return early and be repeated
	 * from another address, which our queues need.
	 */
	SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
}

/* Versions: what the section says; what it leaves open, the machine's policy says. */
static bool set_versions(SSL_CTX *ctx, const struct section *section)
{
	return (!section->min_version || SSL_CTX_set_min_proto_version(ctx, section->min_version)) &&
	       (!section->max_version || SSL_CTX_set_max_proto_version(ctx, section->max_version));
}

static void announce_context(SSL_CTX *ctx, const struct section *section)
{
	if (section->security_level >= 0)
		log_global(LOG_INFO, "User-specified security level set: %d", section->security_level);
	else
		log_global(LOG_INFO, "OpenSSL security level is used: %d", SSL_CTX_get_security_level(ctx));
	log_global(LOG_DEBUG, "Ciphers: %s", ciphers_of(section));
	log_global(LOG_DEBUG, "TLSv1.3 ciphersuites: %s", suites_of(section));
	log_global(LOG_DEBUG, "TLS options: 0x%llx (+0x%llx, -0x%llx)", (unsigned long long)SSL_CTX_get_options(ctx),
	           (unsigned long long)section->options_set, (unsigned long long)section->options_clear);
	log_global(LOG_INFO, "Session resumption %s", section->session_resume ? "enabled" : "disabled");
}

static bool context_fill(struct tls_context *context, const struct section *section, const struct tls_identity *identity,
                         struct tls_library *library, bool announce)
{
	SSL_CTX *ctx = context->ctx;

	if (!set_versions(ctx, section)) {
		tls_log_errors(LOG_ERR, NULL, "SSL_CTX_set_min_proto_version", NULL);
		return false;
	}
	set_security_level(ctx, section);
	set_options(ctx, section);
	if (!SSL_CTX_set_cipher_list(ctx, ciphers_of(section))) {
		tls_log_errors(LOG_ERR, NULL, "SSL_CTX_set_cipher_list", NULL);
		return false;
	}
	if (!SSL_CTX_set_ciphersuites(ctx, suites_of(section))) {
		tls_log_errors(LOG_ERR, NULL, "SSL_CTX_set_ciphersuites", NULL);
		return false;
	}
	if (!set_groups(ctx, section, announce) || !tls_sessions_install(section, ctx))
		return false;
	ERR_clear_error();
	if (!(tls_psk_required(section) && !section->client) && !tls_identity_install(identity, ctx, library->context)) {
		tls_log_errors(LOG_ERR, NULL, "SSL_CTX_use_certificate", NULL);
		return false;
	}
	if (!section->client)
		tls_hello_install(ctx);
	if (!tls_trust_install(context, library->context)) {
		tls_log_errors(LOG_ERR, NULL, "X509_STORE_new", NULL);
		return false;
	}
	if (section->client && !tls_ocsp_install(ctx)) {
		tls_log_errors(LOG_ERR, NULL, "SSL_CTX_set_tlsext_status_type", NULL);
		return false;
	}
	if (!tls_alpn_install(ctx, section)) {
		tls_log_errors(LOG_ERR, NULL, "SSL_CTX_set_alpn_protos", NULL);
		return false;
	}
	SSL_CTX_set_info_callback(ctx, info);
	SSL_CTX_set_msg_callback(ctx, message);
	return set_config(ctx, section) && tls_trust_check(context) && tls_psk_install(ctx, section, announce) &&
	       tls_dh_install(ctx, section, identity, library->context, announce);
}

struct tls_context *tls_context_new(const struct section *section, const struct tls_identity *identity, struct tls_trust *trust,
                                    struct tls_sessions *sessions, struct tls_library *library, bool announce)
{
	struct tls_context *context = calloc(1, sizeof(*context));

	if (!context)
		return NULL;
	context->refs = 1;
	if (!record_bio_init())
		goto failed;
	context->section = section;
	context->sessions = tls_sessions_ref(sessions);
	context->trust = tls_trust_ref(trust);
	ERR_clear_error();
	if (!tls_policy_of(section, trust, &context->policy) || !tickets_view_open(&context->tickets, library->context)) {
		tls_log_errors(LOG_ERR, NULL, "EVP_CIPHER_fetch", NULL);
		goto failed;
	}
	context->ctx = SSL_CTX_new_ex(library->context, NULL, section->client ? TLS_client_method() : TLS_server_method());
	if (!context->ctx) {
		tls_log_errors(LOG_ERR, NULL, "SSL_CTX_new", NULL);
		goto failed;
	}
	if (!context_fill(context, section, identity, library, announce))
		goto failed;
	if (announce)
		announce_context(context->ctx, section);
	return context;
failed:
	tls_context_free(context);
	return NULL;
}

struct tls_context *tls_context_ref(struct tls_context *context)
{
	atomic_fetch_add(&context->refs, 1);
	return context;
}

void tls_context_free(struct tls_context *context)
{
	if (!context || atomic_fetch_sub(&context->refs, 1) > 1)
		return;
	SSL_CTX_free(context->ctx);
	tickets_view_close(&context->tickets);
	tls_sessions_unref(context->sessions);
	tls_trust_unref(context->trust);
	tls_staples_uninstall(context);
	free(context);
}
