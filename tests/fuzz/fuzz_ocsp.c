/*
 * Fuzz target: what an OCSP responder may send. The first byte says in what pieces the rest arrives; a whole reply is examined as a response about a
 * certificate, and may be called good or revoked only if its signature is that of the CA. The rest is also taken for a URL.
 * libFuzzer (`make fuzz`), or replays the corpus with `make test`.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "addr.h"
#include "ocsp.h"
#include "ocsp_http.h"

#include <ctype.h>
#include <openssl/pem.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { NOW = 1800000000 }; /* the responses of the corpus are of that time */

/* Valid for a hundred years; nobody has the keys. */
static const char ca_pem[] = "-----BEGIN CERTIFICATE-----\n"
			     "MIIBUjCB+KADAgECAgEBMAoGCCqGSM49BAMCMBExDzANBgNVBAMMBmZ1enpjYTAg\n"
			     "Fw0yNjExMjYwNjA2MTNaGA8yMTI2MTEwMjA2MDYxM1owETEPMA0GA1UEAwwGZnV6\n"
			     "emNhMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE9sXSH1HbFwzsSLlAm6dywUGg\n"
			     "Ia7UvMgxvIFoEE10IZPK05BFo+P+UEymQ/oYwvvAJ9GO9UO05EkBQU3He9QvGKM/\n"
			     "MD0wDwYDVR0TAQH/BAUwAwEB/zALBgNVHQ8EBAMCAQYwHQYDVR0OBBYEFKxlL2ye\n"
			     "fCWmrrGW/NSOeMacpDxAMAoGCCqGSM49BAMCA0kAMEYCIQDwp+9uqRVxoJGrWD4h\n"
			     "B6ajqFI8cRatZbIsa/4KixSyJgIhAMafWRFhpGJCxAnrpalUcxRbNICMUEhT5F2W\n"
			     "dGJMx4aF\n"
			     "-----END CERTIFICATE-----\n";
static const char leaf_pem[] = "-----BEGIN CERTIFICATE-----\n"
			       "MIIBdTCCARqgAwIBAgICEAEwCgYIKoZIzj0EAwIwETEPMA0GA1UEAwwGZnV6emNh\n"
			       "MCAXDTI2MTEyNjA2MDYxNFoYDzIxMjYxMTAyMDYwNjE0WjATMREwDwYDVQQDDAhm\n"
			       "dXp6bGVhZjBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABIeEEuSmJoiBbytup/oR\n"
			       "fIlMLJPVnPsodyQWS094rdXng0ZGu1LjUZxEhfyBulLOgkKcy7GT9vap+CqFJMYo\n"
			       "dcGjXjBcMBoGA1UdEQQTMBGCCWxvY2FsaG9zdIcEfwAAATAdBgNVHQ4EFgQU01yY\n"
			       "DNyS3/ahhkjQLKkeLp3cpiAwHwYDVR0jBBgwFoAUrGUvbJ58JaausZb81I54xpyk\n"
			       "PEAwCgYIKoZIzj0EAwIDSQAwRgIhAIgbNXkaaMvL/v3f2vnk6sOtzei5SnPoMOz5\n"
			       "fHJ1F/2AAiEAh8aL21Q2eJH8d9Bz0d+XbqJKpZ/aQlINWbSgUvo0dUw=\n"
			       "-----END CERTIFICATE-----\n";

static struct ocsp_subject subject = {.skew_s = OCSP_SKEW_S, .now = NOW, .debug = -1};

static X509 *read_cert(const char *pem)
{
	BIO *bio = BIO_new_mem_buf(pem, -1);
	X509 *cert = PEM_read_bio_X509(bio, NULL, NULL, NULL);

	BIO_free(bio);
	if (!cert)
		abort();
	return cert;
}

static void begin(void)
{
	if (subject.cert)
		return;
	subject.cert = read_cert(leaf_pem);
	subject.issuer = read_cert(ca_pem);
	subject.store = X509_STORE_new();
	subject.chain = sk_X509_new_null();
	if (!subject.store || !X509_STORE_add_cert(subject.store, subject.issuer) || !sk_X509_push(subject.chain, subject.issuer))
		abort();
}

static void try_reply(const uint8_t *data, size_t size, size_t piece)
{
	struct ocsp_reply reply = {0};
	enum ocsp_progress progress = OCSP_REPLY_MORE;
	struct ocsp_times times;

	for (size_t at = 0; at < size && progress == OCSP_REPLY_MORE; at += piece)
		progress = ocsp_reply_add(&reply, data + at, size - at < piece ? size - at : piece);
	if (progress == OCSP_REPLY_MORE)
		progress = ocsp_reply_add(&reply, NULL, 0);
	if (progress == OCSP_REPLY_MORE || (progress == OCSP_REPLY_BAD) != (reply.wrong != NULL))
		abort();
	if (progress == OCSP_REPLY_WHOLE) {
		if (reply.head > reply.len || reply.len - reply.head > OCSP_REPLY_BODY_MAX)
			abort();
		ocsp_examine(&subject, NULL, reply.bytes + reply.head, reply.len - reply.head, &times);
	}
	ocsp_reply_free(&reply);
}

static void try_url(const uint8_t *data, size_t size)
{
	char *text = strndup((const char *)data, size), target[OCSP_TARGET_MAX], head[OCSP_HEAD_MAX];
	struct ocsp_url url;

	if (!text)
		abort();
	if (ocsp_url_parse(text, &url) == 0) {
		size_t n = ocsp_request_head(&url, 69, head), lines = 0;

		ocsp_url_target(&url, target);
		if (addr_check(target, ADDR_ACTIVE) || *target == '/' || *target == '@' || n >= OCSP_HEAD_MAX ||
		    n != strlen(head))
			abort();
		for (size_t i = 0; i < n; i++)
			lines += head[i] == '\n';
		if (lines != 6 || *url.path != '/')
			abort();
	}
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	begin();
	if (size == 0)
		return 0;
	try_reply(data + 1, size - 1, 1 + (size_t)data[0] * 4);
	try_url(data + 1, size - 1);
	return 0;
}
