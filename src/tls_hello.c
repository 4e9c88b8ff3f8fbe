/*
 * Virtual hosts: see tls_hello.h. The choice is made before OpenSSL acts on anything in the ClientHello, and the connection then begins anew in
 * the context of the section that was chosen (tls_switch()): so everything is that section's, from the protocol versions to the ticket keys,
 * and no session of another section can be resumed.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tls_hello.h"

#include "log.h"
#include "tls_context.h"

#include <openssl/ssl.h>
#include <string.h>
#include <strings.h>

static size_t take_16(const unsigned char **at)
{
	size_t value = (size_t)(*at)[0] << 8 | (*at)[1];

	*at += 2;
	return value;
}

bool hello_server_name(const unsigned char *extension, size_t n, char name[SERVER_NAME_MAX + 1])
{
	enum { FRAME = 2 + 1 + 2 }; /* lengths of the list and of the name, and the type between them */
	const unsigned char *at = extension;
	size_t len;

	if (n <= FRAME || take_16(&at) != n - 2 || *at++ != TLSEXT_NAMETYPE_host_name)
		return false;
	len = take_16(&at);
	if (len != n - FRAME || len > SERVER_NAME_MAX || memchr(at, '\0', len))
		return false;
	memcpy(name, at, len);
	name[len] = '\0';
	return true;
}

bool hello_matches(const char *pattern, const char *name)
{
	size_t all = strlen(name), tail;

	if (*pattern != '*')
		return strcasecmp(pattern, name) == 0;
	tail = strlen(++pattern);
	return tail <= all && strcasecmp(pattern, name + all - tail) == 0;
}

const struct virtual_host *hello_find(const struct section *section, const char *name)
{
	const struct virtual_host *host = section->hosts;

	while (host && !hello_matches(host->pattern, name))
		host = host->next;
	return host;
}

/* The section of the first pattern that means the client's name, or NULL: the one that accepted the connection goes on. */
static const struct section *choose(const struct tls *tls, const char *name)
{
	const struct virtual_host *host = hello_find(tls->section, name);

	tls_log(tls, LOG_INFO, "SNI: requested servername: %s", name);
	if (!host) {
		tls_log(tls, LOG_ERR, "SNI: no pattern matched servername: %s", name);
		return NULL;
	}
	tls_log(tls, LOG_DEBUG, "SNI: matched pattern: %s", host->pattern);
	tls_log(tls, LOG_NOTICE, "SNI: switched to service [%s]", host->section->name);
	return host->section;
}

/* For the backend. OpenSSL forgets the name where a session of TLS 1.2 is resumed. False: no memory. */
static bool keep_name(struct tls *tls, const char *name)
{
	const struct section *section = tls->chosen ? tls->chosen : tls->section;

	if (!section->send_proxy)
		return true;
	tls->server_name = strdup(name);
	return tls->server_name != NULL;
}

/*
 * SSL_CTX_set_client_hello_cb(3). A second ClientHello, after a HelloRetryRequest or to renegotiate, changes nothing any more:
 * keys and certificates may have been shown by then.
 */
static int hello(SSL *ssl, int *alert, void *arg)
{
	struct tls *tls = SSL_get_app_data(ssl);
	const unsigned char *extension;
	char name[SERVER_NAME_MAX + 1];
	size_t n;
	(void)arg;

	if (tls->refused) {
		*alert = SSL_AD_ACCESS_DENIED;
		return SSL_CLIENT_HELLO_ERROR;
	}
	if (tls->greeted)
		return SSL_CLIENT_HELLO_SUCCESS;
	tls->greeted = true;
	if (!tls->section->hosts)
		tls_log(tls, LOG_DEBUG, "SNI: no virtual services defined");
	if (!tls->section->hosts && !tls->section->send_proxy)
		return SSL_CLIENT_HELLO_SUCCESS;
	if (!SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_server_name, &extension, &n)) {
		if (tls->section->hosts)
			tls_log(tls, LOG_NOTICE, "SNI: no servername received");
		return SSL_CLIENT_HELLO_SUCCESS;
	}
	if (!hello_server_name(extension, n, name)) {
		tls_log(tls, LOG_ERR, "SNI: malformed servername");
		*alert = SSL_AD_DECODE_ERROR;
		return SSL_CLIENT_HELLO_ERROR;
	}
	if (tls->section->hosts)
		tls->chosen = choose(tls, name);
	if (!keep_name(tls, name)) {
		tls_log(tls, LOG_ERR, "SNI: no memory for the servername");
		*alert = SSL_AD_INTERNAL_ERROR;
		return SSL_CLIENT_HELLO_ERROR;
	}
	return tls->chosen ? SSL_CLIENT_HELLO_RETRY : SSL_CLIENT_HELLO_SUCCESS;
}

/* RFC 6066 section 3: a server that has used the name says so, by an empty extension. */
static int acknowledge(SSL *ssl, int *alert, void *arg)
{
	const struct tls *tls = SSL_get_app_data(ssl);
	(void)alert;
	(void)arg;

	return tls->chosen ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_NOACK;
}

void tls_hello_install(SSL_CTX *ctx)
{
	SSL_CTX_set_client_hello_cb(ctx, hello, NULL);
	SSL_CTX_set_tlsext_servername_callback(ctx, acknowledge);
}
