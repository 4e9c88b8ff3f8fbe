/*
 * What a session remembers: see tls_session_data.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tls_session_data.h"

#include "tls_trust.h"

#include <openssl/evp.h>
#include <string.h>

/*
 * The short form is a pointer-sized integer, all ones or all zero. Ours, which cannot be taken for it: a version, flags, the policy and, unless
 * there is no backend, its family and address (port first, both in network order; of a Unix socket its name).
 */
enum {
	SHORT_32 = 4,
	SHORT_64 = 8,
	VERSION = 1,
	FLAG_AUTHENTICATED = 1,
	HEAD = 2 + POLICY_SIZE,
	FAMILY_IPV4 = 4,
	FAMILY_IPV6 = 6,
	FAMILY_UNIX = 1,
	ID_CONTEXT_MAX =
		32, /* bytes of a section's name that a session is bound to without our doing; a longer one says it itself */
	PATH_AT = offsetof(struct sockaddr_un, sun_path),
};

/* --- the bytes ---------------------------------------------------------------------------------------------------------------------- */

static unsigned char *put(unsigned char *at, const void *data, size_t n)
{
	memcpy(at, data, n);
	return at + n;
}

static unsigned char *put_backend(unsigned char *at, const struct addr *backend)
{
	switch (backend->sa.sa_family) {
	case AF_INET:
		*at++ = FAMILY_IPV4;
		at = put(at, &backend->in.sin_port, 2);
		return put(at, &backend->in.sin_addr, 4);
	case AF_INET6:
		*at++ = FAMILY_IPV6;
		at = put(at, &backend->in6.sin6_port, 2);
		at = put(at, &backend->in6.sin6_addr, 16);
		return put(at, &backend->in6.sin6_scope_id, 4);
	case AF_UNIX: *at++ = FAMILY_UNIX; return put(at, backend->un.sun_path, backend->len - PATH_AT);
	default: return at;
	}
}

size_t session_data_write(const struct session_data *data, unsigned char bytes[SESSION_DATA_MAX])
{
	unsigned char *at = bytes;

	if (!data->bound) {
		memset(bytes, data->authenticated ? 0xff : 0, SHORT_64);
		return SHORT_64;
	}
	*at++ = VERSION;
	*at++ = data->authenticated ? FLAG_AUTHENTICATED : 0;
	at = put(at, data->policy, POLICY_SIZE);
	if (data->backend.len)
		at = put_backend(at, &data->backend);
	return (size_t)(at - bytes);
}

static const char *read_short(const unsigned char *bytes, size_t n, struct session_data *data)
{
	for (size_t i = 1; i < n; i++)
		if (bytes[i] != bytes[0])
			return "Invalid ticket application data value";
	if (bytes[0] != 0 && bytes[0] != 0xff)
		return "Invalid ticket application data value";
	data->authenticated = bytes[0] != 0;
	return NULL;
}

static bool read_backend(const unsigned char *at, size_t n, struct addr *backend)
{
	unsigned family = *at++;

	n--;
	if (family == FAMILY_IPV4 && n == 6) {
		backend->in.sin_family = AF_INET;
		memcpy(&backend->in.sin_port, at, 2);
		memcpy(&backend->in.sin_addr, at + 2, 4);
		backend->len = sizeof(backend->in);
	} else if (family == FAMILY_IPV6 && n == 22) {
		backend->in6.sin6_family = AF_INET6;
		memcpy(&backend->in6.sin6_port, at, 2);
		memcpy(&backend->in6.sin6_addr, at + 2, 16);
		memcpy(&backend->in6.sin6_scope_id, at + 18, 4);
		backend->len = sizeof(backend->in6);
	} else if (family == FAMILY_UNIX && n > 0 && n <= sizeof(backend->un.sun_path)) {
		backend->un.sun_family = AF_UNIX;
		memcpy(backend->un.sun_path, at, n);
		backend->len = (socklen_t)(PATH_AT + n);
	} else {
		return false;
	}
	return true;
}

const char *session_data_read(const unsigned char *bytes, size_t n, struct session_data *data)
{
	*data = (struct session_data){0};
	if (n == SHORT_32 || n == SHORT_64)
		return read_short(bytes, n, data);
	if (n < HEAD)
		return "Invalid ticket application data length";
	if (bytes[0] != VERSION || bytes[1] & ~FLAG_AUTHENTICATED)
		return "Invalid ticket application data value";
	data->authenticated = bytes[1] & FLAG_AUTHENTICATED;
	data->bound = true;
	memcpy(data->policy, bytes + 2, POLICY_SIZE);
	if (n > HEAD && !read_backend(bytes + HEAD, n - HEAD, &data->backend))
		return "Invalid ticket application data length";
	return NULL;
}

/* --- the policy --------------------------------------------------------------------------------------------------------------------- */

/* Each part with its length in front, so that no two policies give the same bytes. */
static bool add(EVP_MD_CTX *hash, const void *data, size_t n)
{
	uint64_t length = n;

	return EVP_DigestUpdate(hash, &length, sizeof(length)) == 1 && EVP_DigestUpdate(hash, data, n) == 1;
}

static bool add_text(EVP_MD_CTX *hash, const char *text)
{
	return text ? add(hash, text, strlen(text)) : add(hash, "", 0);
}

bool tls_policy_of(const struct section *section, const struct tls_trust *trust, struct tls_policy *policy)
{
	unsigned char digest[EVP_MAX_MD_SIZE];
	EVP_MD_CTX *hash = EVP_MD_CTX_new();
	bool ok = hash && EVP_DigestInit_ex(hash, EVP_sha256(), NULL) == 1 && add_text(hash, section->name) &&
	          add(hash, tls_trust_digest(trust), TRUST_DIGEST) && add_text(hash, section->psk_identity) &&
	          EVP_DigestFinal_ex(hash, digest, NULL) == 1;

	EVP_MD_CTX_free(hash);
	if (ok)
		memcpy(policy->hash, digest, POLICY_SIZE);
	policy->plain = !section->request_cert && !section->require_cert && !section->verify_chain && !section->verify_peer &&
	                !section->psk_secrets && strlen(section->name) <= ID_CONTEXT_MAX;
	return ok;
}
