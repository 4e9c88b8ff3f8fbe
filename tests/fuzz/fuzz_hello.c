/*
 * Fuzz target: any bytes as a server_name extension or a list of application protocols, and as what a client sends to a section with virtual hosts, in pieces of any size.
 * A connection that was switched must end as one that has begun in the chosen section. libFuzzer (`make fuzz`), or replays the corpus
 * with `make test`. The first byte: 0 is an extension, else the size of the pieces.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tls_alpn.h"
#include "tls_hello.h"

#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct addr peer = {.in = {.sin_family = AF_INET}, .len = sizeof(struct sockaddr_in)};
static struct config *config;
static struct tls_context *contexts[2];
static struct bufs bufs;

static int pem_new(void)
{
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509 *cert = X509_new();
	int fd = memfd_create("pem", 0);
	FILE *file = fdopen(dup(fd), "w");

	X509_set_version(cert, 2);
	X509_gmtime_adj(X509_getm_notBefore(cert), -60);
	X509_gmtime_adj(X509_getm_notAfter(cert), 3600);
	X509_set_pubkey(cert, key);
	if (!file || !X509_sign(cert, key, EVP_sha256()) || !PEM_write_X509(file, cert) ||
	    !PEM_write_PrivateKey(file, key, NULL, NULL, 0, NULL, NULL))
		abort();
	fclose(file);
	X509_free(cert);
	EVP_PKEY_free(key);
	return fd;
}

static struct tls_context *context_new(const struct section *section, struct tls_library *library)
{
	struct tls_identity *identity = tls_identity_load(section);
	struct tls_trust *trust = tls_trust_load(section);
	struct tls_sessions *sessions = tls_sessions_new(section);
	struct tls_context *context =
		identity && trust ? tls_context_new(section, identity, trust, sessions, library, false) : NULL;

	if (!context)
		abort();
	tls_identity_free(identity);
	tls_trust_unref(trust);
	tls_sessions_unref(sessions);
	return context;
}

static void begin(void)
{
	static struct tls_library *library;
	struct config_source source = {.fd = memfd_create("config", 0)};
	int pem = pem_new();

	library = tls_library_new();
	dprintf(source.fd,
	        "debug = 0\ncert = /proc/self/fd/%d\n[p]\naccept = 1\nconnect = 2\n[v]\nsni = p:v*\nsni = p:*v\nconnect = 2\n"
	        "ciphers = ECDHE\ncurves = P-384:P-256\n",
	        pem);
	lseek(source.fd, 0, SEEK_SET);
	config = config_load(&source);
	close(source.fd);
	if (!config || !library)
		abort();
	contexts[0] = context_new(config->sections, library);
	contexts[1] = context_new(config->sections->next, library);
	close(pem);
}

static void try_extension(const uint8_t *data, size_t size)
{
	static char h2[] = "h2", http[] = "http/1.1", x[] = "x", *protocols[] = {h2, http, x};
	static const struct texts alpn = {protocols, 3};
	char name[SERVER_NAME_MAX + 1];
	const char *protocol = alpn_select(&alpn, data, size);

	if (protocol && !memmem(data, size, protocol, strlen(protocol)))
		abort();
	if (!hello_server_name(data, size, name))
		return;
	if (strlen(name) + 5 != size || memcmp(name, data + 5, size - 5) != 0)
		abort();
	if (!hello_matches(name, name))
		abort();
	hello_find(config->sections, name);
}

/* What comes of these bytes; *chosen: the section that the client is in then. */
static enum tls_progress try_stream(const uint8_t *data, size_t size, size_t piece, struct tls_context *context,
                                    const struct section **chosen)
{
	struct tls tls = {.log_id = "fuzz", .peer = &peer};
	struct queue in = {0}, out = {0};
	enum tls_progress progress = TLS_WANTS_BYTES;

	if (tls_start(&tls, context, &bufs, &in, &out, "") < 0)
		abort();
	for (size_t at = 0, n; at < size && progress == TLS_WANTS_BYTES; at += n) {
		n = size - at < piece ? size - at : piece;
		if (queue_write(&in, &bufs, data + at, n) < 0)
			abort();
		progress = tls_handshake(&tls);
		if (progress == TLS_CHOSE) {
			if (tls.chosen != config->sections->next || tls_switch(&tls, contexts[1]) < 0)
				abort();
			progress = tls_handshake(&tls);
		}
		if (tls.greeted && tls.hello.bytes)
			abort();
	}
	*chosen = tls.section;
	tls_end(&tls);
	queue_clear(&in, &bufs);
	queue_clear(&out, &bufs);
	if (bufs.lent[CHUNK_SMALL] || bufs.lent[CHUNK_BIG])
		abort();
	return progress;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct section *chosen, *same;
	enum tls_progress progress;

	if (!config)
		begin();
	if (size < 2)
		return 0;
	if (data[0] == 0) {
		try_extension(data + 1, size - 1);
		return 0;
	}
	progress = try_stream(data + 1, size - 1, data[0], contexts[0], &chosen);
	if (chosen == config->sections->next && try_stream(data + 1, size - 1, size, contexts[1], &same) != progress)
		abort();
	return 0;
}
