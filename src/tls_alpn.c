/*
 * The application protocol: see tls_alpn.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tls_alpn.h"

#include "tls_context.h"

#include <openssl/ssl.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_MAX_BYTES = 255 };

static bool offers(const unsigned char *theirs, size_t n, const char *protocol)
{
	size_t len = strlen(protocol);

	for (size_t at = 0; at < n && theirs[at] <= n - at - 1; at += 1 + (size_t)theirs[at])
		if (theirs[at] == len && memcmp(theirs + at + 1, protocol, len) == 0)
			return true;
	return false;
}

const char *alpn_select(const struct texts *ours, const unsigned char *theirs, size_t n)
{
	for (size_t i = 0; i < ours->count; i++)
		if (offers(theirs, n, ours->texts[i]))
			return ours->texts[i];
	return NULL;
}

/* SSL_CTX_set_alpn_select_cb(3): called if the client offers any. */
static int choose(SSL *ssl, const unsigned char **out, unsigned char *out_len, const unsigned char *theirs, unsigned n, void *arg)
{
	struct tls *tls = SSL_get_app_data(ssl);
	const char *protocol = alpn_select(&tls->section->alpn, theirs, n);
	(void)arg;

	if (protocol) {
		*out = (const unsigned char *)protocol;
		*out_len = (unsigned char)strlen(protocol);
		return SSL_TLSEXT_ERR_OK;
	}
	if (tls->section->alpn_ignore_mismatch)
		return SSL_TLSEXT_ERR_NOACK;
	tls_log(tls, LOG_NOTICE, "ALPN: the client offers none of the protocols that are served");
	return SSL_TLSEXT_ERR_ALERT_FATAL; /* no_application_protocol, RFC 7301 3.2 */
}

static bool offer(SSL_CTX *ctx, const struct texts *alpn)
{
	unsigned char *wire = malloc(alpn->count * (1 + NAME_MAX_BYTES)), *at = wire;
	bool ok;

	if (!wire)
		return false;
	for (size_t i = 0; i < alpn->count; i++) {
		size_t len = strlen(alpn->texts[i]);

		*at++ = (unsigned char)len;
		memcpy(at, alpn->texts[i], len);
		at += len;
	}
	ok = SSL_CTX_set_alpn_protos(ctx, wire, (unsigned)(at - wire)) == 0;
	free(wire);
	return ok;
}

bool tls_alpn_install(SSL_CTX *ctx, const struct section *section)
{
	if (section->alpn.count == 0)
		return true;
	if (section->client)
		return offer(ctx, &section->alpn);
	SSL_CTX_set_alpn_select_cb(ctx, choose, NULL);
	return true;
}

bool tls_alpn_settle(struct tls *tls)
{
	const struct texts *alpn = &tls->section->alpn;
	const unsigned char *chosen;
	unsigned len;

	if (alpn->count == 0)
		return true;
	SSL_get0_alpn_selected(tls->ssl, &chosen, &len);
	for (size_t i = 0; i < alpn->count && len; i++)
		if (strlen(alpn->texts[i]) == len && memcmp(alpn->texts[i], chosen, len) == 0)
			tls->alpn = alpn->texts[i];
	if (len && !tls->alpn) {
		tls_log(tls, LOG_ERR, "ALPN: the server has chosen a protocol that was not offered: %.*s", (int)len,
		        (const char *)chosen);
		return false;
	}
	if (tls->alpn)
		tls_log(tls, LOG_INFO, "ALPN: protocol negotiated: %s", tls->alpn);
	else
		tls_log(tls, LOG_INFO, "ALPN: no protocol negotiated");
	return true;
}
