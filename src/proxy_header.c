/*
 * The header of the PROXY protocol: see proxy_header.h. The comments give the names of its specification.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "proxy_header.h"

#include <assert.h>
#include <stdint.h>
#include <string.h>

enum {
	/* 13th byte: version 2, and the command */
	LOCAL = 0x20,
	PROXY = 0x21,

	/* 14th byte */
	UNSPEC = 0x00,
	TCP_OVER_IPV4 = 0x11,
	TCP_OVER_IPV6 = 0x21,
	UNIX_STREAM = 0x31,

	COMMAND_AT = 12,
	FAMILY_AT = 13,
	LENGTH_AT = 14,
	HEAD = 16,

	/* PP2_TYPE_... */
	TYPE_ALPN = 0x01,
	TYPE_AUTHORITY = 0x02,
	TYPE_CRC32C = 0x03,
	TYPE_SSL = 0x20,
	/* PP2_SUBTYPE_SSL_... */
	SSL_VERSION = 0x21,
	SSL_CN = 0x22,
	SSL_CIPHER = 0x23,
	SSL_SIG_ALG = 0x24,
	SSL_KEY_ALG = 0x25,
	TLV_HEAD = 3,

	/* PP2_CLIENT_... */
	CLIENT_SSL = 0x01,
	CLIENT_CERT_CONN = 0x02,
	CLIENT_CERT_SESS = 0x04,

	NAME_MAX_BYTES = 255,
	UNIX_PATH = 108,
	CRC_BYTES = 4,
};

_Static_assert(HEAD + 2 * UNIX_PATH + 2 * (TLV_HEAD + NAME_MAX_BYTES) + TLV_HEAD + CRC_BYTES + TLV_HEAD + 5 +
                               4 * (TLV_HEAD + FACT_MAX) + TLV_HEAD + COMMON_NAME_MAX <=
                       PROXY_HEADER_MAX,
               "a header with everything in it");
_Static_assert(sizeof(((struct sockaddr_un *)0)->sun_path) == UNIX_PATH, "the path of a Unix socket");

/* --- parts ---------------------------------------------------------------------------------------------------------------------------- */

static unsigned char *put(unsigned char *at, const void *data, size_t n)
{
	memcpy(at, data, n);
	return at + n;
}

static unsigned char *put_8(unsigned char *at, unsigned value)
{
	*at++ = (unsigned char)value;
	return at;
}

static unsigned char *put_16(unsigned char *at, size_t value)
{
	return put_8(put_8(at, (unsigned)(value >> 8)), (unsigned)value);
}

static unsigned char *put_32(unsigned char *at, uint32_t value)
{
	return put_16(put_16(at, value >> 16), value);
}

/* A TLV; nothing where there is nothing to say. */
static unsigned char *put_text(unsigned char *at, unsigned type, const char *text, size_t max)
{
	size_t n = text ? strlen(text) : 0;

	if (n == 0 || n > max)
		return at;
	return put(put_16(put_8(at, type), n), text, n);
}

/* --- addresses ------------------------------------------------------------------------------------------------------------------------ */

static unsigned char *put_path(unsigned char *at, const struct addr *addr)
{
	size_t n = addr->len - offsetof(struct sockaddr_un, sun_path);

	if (n > UNIX_PATH) /* the kernel counts a NUL behind the longest path */
		n = UNIX_PATH;
	memset(at, 0, UNIX_PATH);
	memcpy(at, addr->un.sun_path, n);
	return at + UNIX_PATH;
}

/*
 * Writes the addresses behind the header's first 16 bytes, and what they are into these. A header without addresses is LOCAL, which everyone must take;
 * UNSPEC as PROXY may be refused, and is by haproxy 2.6.
 */
static unsigned char *put_addresses(unsigned char *header, struct addr from, struct addr to)
{
	unsigned char *at = header + HEAD;
	bool known;

	addr_unmap(&from);
	addr_unmap(&to);
	known = from.len && to.len && from.sa.sa_family == to.sa.sa_family;
	header[COMMAND_AT] = PROXY;
	switch (known ? from.sa.sa_family : AF_UNSPEC) {
	case AF_INET:
		header[FAMILY_AT] = TCP_OVER_IPV4;
		at = put(put(at, &from.in.sin_addr, 4), &to.in.sin_addr, 4);
		return put(put(at, &from.in.sin_port, 2), &to.in.sin_port, 2);
	case AF_INET6:
		header[FAMILY_AT] = TCP_OVER_IPV6;
		at = put(put(at, &from.in6.sin6_addr, 16), &to.in6.sin6_addr, 16);
		return put(put(at, &from.in6.sin6_port, 2), &to.in6.sin6_port, 2);
	case AF_UNIX: header[FAMILY_AT] = UNIX_STREAM; return put_path(put_path(at, &from), &to);
	default:
		header[COMMAND_AT] = LOCAL;
		header[FAMILY_AT] = UNSPEC;
		return at;
	}
}

/* --- TLS ------------------------------------------------------------------------------------------------------------------------------ */

/* "zero if the client presented a certificate and it was successfully verified, and non-zero otherwise" */
static unsigned char *put_tls(unsigned char *at, const struct tls_facts *tls)
{
	unsigned client = CLIENT_SSL;
	unsigned char *length = at + 1;

	if (tls->has_certificate)
		client |= tls->resumed ? CLIENT_CERT_SESS : CLIENT_CERT_SESS | CLIENT_CERT_CONN;
	at = put_8(put_8(at, TYPE_SSL) + 2, client);
	at = put_32(at, !(tls->has_certificate && tls->verified));
	at = put_text(at, SSL_VERSION, tls->version, FACT_MAX);
	at = put_text(at, SSL_CN, tls->common_name, COMMON_NAME_MAX);
	at = put_text(at, SSL_CIPHER, tls->cipher, FACT_MAX);
	at = put_text(at, SSL_SIG_ALG, tls->signature, FACT_MAX);
	at = put_text(at, SSL_KEY_ALG, tls->key, FACT_MAX);
	put_16(length, (size_t)(at - length) - 2);
	return at;
}

/* --- the whole ------------------------------------------------------------------------------------------------------------------------ */

/* CRC-32C (RFC 9260, appendix A), of four bits at a time. */
static uint32_t crc32c(const unsigned char *data, size_t n)
{
	static const uint32_t table[16] = {0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3,
	                                   0x61c69362, 0x7198540d, 0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9,
	                                   0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75};
	uint32_t crc = 0xffffffff;

	for (size_t i = 0; i < n; i++) {
		crc ^= data[i];
		crc = crc >> 4 ^ table[crc & 15];
		crc = crc >> 4 ^ table[crc & 15];
	}
	return ~crc;
}

size_t proxy_header_write(unsigned char header[PROXY_HEADER_MAX], const struct addr *source, const struct addr *destination,
                          const struct tls_facts *tls)
{
	static const char signature[] = "\r\n\r\n\0\r\nQUIT\n";
	unsigned char *at, *crc;
	size_t n;

	put(header, signature, sizeof(signature) - 1);
	at = put_addresses(header, *source, *destination);
	at = put_text(at, TYPE_ALPN, tls->alpn, NAME_MAX_BYTES);
	at = put_text(at, TYPE_AUTHORITY, tls->server_name, NAME_MAX_BYTES);
	at = put_16(put_8(at, TYPE_CRC32C), CRC_BYTES);
	crc = at;
	at = put_32(at, 0); /* for the time of the calculation */
	at = put_tls(at, tls);
	n = (size_t)(at - header);
	assert(n <= PROXY_HEADER_MAX);
	put_16(header + LENGTH_AT, n - HEAD);
	put_32(crc, crc32c(header, n));
	return n;
}
