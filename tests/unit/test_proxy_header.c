/*
 * Unit tests of proxy_header.h, byte for byte, and of the option `sendProxy`. Run by `make unit`.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "proxy_header.h"

#include "config_testing.h"

#include <arpa/inet.h>
#include <string.h>

#define SIGNATURE "\r\n\r\n\0\r\nQUIT\n"
#define PROXY SIGNATURE "\x21"
#define LOCAL SIGNATURE "\x20"
/* PP2_TYPE_SSL without a certificate of the client's. */
#define BARE "\x20\0\x28\x01\0\0\0\x01\x21\0\x07TLSv1.3\x23\0\x16TLS_AES_128_GCM_SHA256"

static const struct tls_facts bare = {.version = "TLSv1.3", .cipher = "TLS_AES_128_GCM_SHA256"};
static const struct addr nowhere;

static struct addr ip(const char *text, unsigned port)
{
	struct addr addr = {.len = sizeof(addr.in)};

	if (inet_pton(AF_INET, text, &addr.in.sin_addr) == 1) {
		addr.in.sin_family = AF_INET;
		addr.in.sin_port = htons((uint16_t)port);
	} else {
		cr_assert_eq(inet_pton(AF_INET6, text, &addr.in6.sin6_addr), 1);
		addr.in6.sin6_family = AF_INET6;
		addr.in6.sin6_port = htons((uint16_t)port);
		addr.len = sizeof(addr.in6);
	}
	return addr;
}

/* The n bytes of a path, as the kernel gives them: with or without a NUL behind. */
static struct addr path(const char *text, size_t n, size_t counted)
{
	struct addr addr = {.un.sun_family = AF_UNIX};

	memcpy(addr.un.sun_path, text, n);
	addr.len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + counted);
	return addr;
}

static void expect(const struct addr *from, const struct addr *to, const struct tls_facts *tls, const char *bytes, size_t n)
{
	unsigned char header[PROXY_HEADER_MAX + 1];

	header[PROXY_HEADER_MAX] = 0x5a;
	cr_assert_eq(proxy_header_write(header, from, to, tls), n);
	cr_expect_arr_eq(header, bytes, n);
	cr_expect_eq(header[PROXY_HEADER_MAX], 0x5a);
}

#define EXPECT(from, to, tls, bytes) expect((from), (to), (tls), (bytes), sizeof(bytes) - 1)

#define IPV4 PROXY "\x11\0\x3e\xc0\0\x02\x01\xc6\x33\x64\x02\x9c\x40\x01\xbb\x03\0\x04\x55\x28\x04\x8c" BARE

Test(proxy_header, ipv4)
{
	struct addr from = ip("192.0.2.1", 40000), to = ip("198.51.100.2", 443);

	EXPECT(&from, &to, &bare, IPV4);
}

Test(proxy_header, ipv4_on_a_socket_of_ipv6)
{
	struct addr from = ip("::ffff:192.0.2.1", 40000), to = ip("::ffff:198.51.100.2", 443);

	EXPECT(&from, &to, &bare, IPV4);
	to = ip("198.51.100.2", 443);
	EXPECT(&from, &to, &bare, IPV4);
}

static const struct tls_facts everything = {
	.version = "TLSv1.2",
	.cipher = "ECDHE-RSA-AES128-GCM-SHA256",
	.alpn = "h2",
	.server_name = "example.com",
	.has_certificate = true,
	.verified = true,
	.common_name = "J\xc3\xbcrgen",
	.signature = "RSA-SHA256",
	.key = "RSA2048",
};

Test(proxy_header, ipv6_and_everything)
{
	struct addr from = ip("2001:db8::1", 40000), to = ip("2001:db8::2", 443);

	from.in6.sin6_scope_id = 7;
	EXPECT(&from, &to, &everything,
	       PROXY "\x21\0\x8f"
	             "\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x02\x9c\x40\x01\xbb"
	             "\x01\0\x02h2"
	             "\x02\0\x0b"
	             "example.com"
	             "\x03\0\x04\x37\xc6\x13\xb8"
	             "\x20\0\x4e\x07\0\0\0\0"
	             "\x21\0\x07TLSv1.2"
	             "\x22\0\x07J\xc3\xbcrgen"
	             "\x23\0\x1b"
	             "ECDHE-RSA-AES128-GCM-SHA256"
	             "\x24\0\x0aRSA-SHA256"
	             "\x25\0\x07RSA2048");
}

#define NO_ADDRESS LOCAL "\0\0\x32\x03\0\x04\x3a\x8e\x96\xba" BARE

Test(proxy_header, addresses_that_are_not_known)
{
	struct addr v4 = ip("192.0.2.1", 1), v6 = ip("2001:db8::1", 1),
		    other = {.sa.sa_family = AF_NETLINK, .len = sizeof(other.sa)};

	EXPECT(&nowhere, &nowhere, &bare, NO_ADDRESS);
	EXPECT(&v4, &nowhere, &bare, NO_ADDRESS);
	EXPECT(&nowhere, &v4, &bare, NO_ADDRESS);
	EXPECT(&v4, &v6, &bare, NO_ADDRESS);
	EXPECT(&other, &other, &bare, NO_ADDRESS);
}

/* --- Unix sockets --- */

/* Both paths of the header, 216 bytes. */
static const unsigned char *paths_of(const struct addr *from, const struct addr *to, unsigned char header[PROXY_HEADER_MAX])
{
	size_t n = proxy_header_write(header, from, to, &bare);

	cr_assert_eq(n, 282);
	cr_expect_arr_eq(header, PROXY "\x31\x01\x0a", 16);
	cr_expect_arr_eq(header + 282 - 43, BARE, 43);
	return header + 16;
}

Test(proxy_header, unix_sockets)
{
	unsigned char header[PROXY_HEADER_MAX], expected[216] = {0};
	struct addr unnamed = path("", 0, 0), named = path("/run/x.sock", 11, 12);

	memcpy(expected + 108, "/run/x.sock", 11);
	cr_expect_arr_eq(paths_of(&unnamed, &named, header), expected, 216);
	cr_expect_arr_eq(header + 16 + 216, "\x03\0\x04\xb7\x59\xc9\x7a", 7);
}

Test(proxy_header, unix_sockets_without_a_file)
{
	unsigned char header[PROXY_HEADER_MAX], expected[216] = {0};
	struct addr from = path("\0a\0b", 4, 4), to = path("\0", 1, 1);

	memcpy(expected, "\0a\0b", 4);
	cr_expect_arr_eq(paths_of(&from, &to, header), expected, 216);
}

Test(proxy_header, longest_path)
{
	unsigned char header[PROXY_HEADER_MAX], expected[216];
	struct addr longest;

	memset(expected, 'p', sizeof(expected));
	longest = path((const char *)expected, 108, 109); /* unix(7) */
	cr_expect_arr_eq(paths_of(&longest, &longest, header), expected, 216);
}

/* --- TLS --- */

struct seen {
	unsigned char header[PROXY_HEADER_MAX];
	size_t n;
};

static struct seen write_facts(const struct tls_facts *facts)
{
	struct seen seen;

	seen.n = proxy_header_write(seen.header, &nowhere, &nowhere, facts);
	return seen;
}

Test(proxy_header, client_and_verify)
{
	static const struct {
		bool has_certificate, resumed, verified;
		unsigned char client, verify;
	} cases[] = {
		{false, false, false, 1, 1}, {false, true, false, 1, 1}, {true, false, false, 7, 1}, {true, true, false, 5, 1},
		{true, false, true, 7, 0},   {true, true, true, 5, 0},   {false, false, true, 1, 1}, /* nothing was verified */
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct tls_facts facts = bare;
		struct seen seen;

		facts.has_certificate = cases[i].has_certificate;
		facts.resumed = cases[i].resumed;
		facts.verified = cases[i].verified;
		seen = write_facts(&facts);
		cr_expect_eq(seen.header[23], 0x20); /* behind the checksum */
		cr_expect_eq(seen.header[26], cases[i].client, "case %zu: %u", i, seen.header[26]);
		cr_expect_arr_eq(seen.header + 27, "\0\0\0", 3);
		cr_expect_eq(seen.header[30], cases[i].verify, "case %zu: %u", i, seen.header[30]);
	}
}

/* Whether the header has a TLV of a type, wherever: the bytes of the others are no such. */
static bool has(const struct seen *seen, unsigned type, size_t n)
{
	const unsigned char tlv[] = {(unsigned char)type, (unsigned char)(n >> 8), (unsigned char)n, 'x'};

	return memmem(seen->header, seen->n, tlv, sizeof(tlv)) != NULL;
}

Test(proxy_header, longest_names)
{
	char name[258];
	struct tls_facts facts = bare;
	struct seen seen;

	memset(name, 'x', 257);
	name[255] = '\0';
	facts.alpn = facts.server_name = name;
	seen = write_facts(&facts);
	cr_expect(has(&seen, 0x01, 255) && has(&seen, 0x02, 255));
	cr_expect_eq(seen.n, 66 + 2 * 258);
	name[255] = 'x';
	name[256] = '\0';
	seen = write_facts(&facts);
	cr_expect_eq(seen.n, 66, "a name that is too long is none");
	memcpy(facts.common_name, name, 257);
	facts.alpn = facts.server_name = NULL;
	seen = write_facts(&facts);
	cr_expect(has(&seen, 0x22, 256));
	cr_expect_eq(seen.n, 66 + 259);
}

Test(proxy_header, longest_header)
{
	char name[256], word[64];
	struct tls_facts facts = {.alpn = name, .server_name = name, .version = word, .cipher = word};
	struct addr from = path("", 0, 0);
	unsigned char header[PROXY_HEADER_MAX];

	memset(name, 'x', 255);
	name[255] = '\0';
	memset(word, 'x', 63);
	word[63] = '\0';
	memset(facts.common_name, 'x', 256);
	memcpy(facts.signature, word, 64);
	memcpy(facts.key, word, 64);
	cr_expect_eq(proxy_header_write(header, &from, &from, &facts), 16 + 216 + 2 * 258 + 7 + 8 + 4 * 66 + 259);
}

/* --- the option --- */

Test(proxy_header, option)
{
	struct config *config = load_good(SERVER "sendProxy = v2\n[t]\naccept = 3\nconnect = 4\ncert = a\n");

	cr_expect_eq(config->sections->send_proxy, SEND_PROXY_V2);
	cr_expect_eq(config->sections->next->send_proxy, SEND_PROXY_NO);
	config_free(config);
}

Test(proxy_header, what_the_option_refuses)
{
	refused(SERVER "sendProxy = v1\n", ":5: \"sendProxy = v1\": The argument needs to be either 'no' or 'v2'");
	refused(SERVER "sendProxy = yes\n", "The argument needs to be either 'no' or 'v2'");
	refused(CLIENT "sendProxy = v2\n", "Service [s]: \"sendProxy\" is unsupported in client sections");
	refused("cert = a\n[s]\naccept = 1\nexec = /bin/cat\npty = yes\nsendProxy = v2\n",
	        "Service [s]: \"sendProxy\" and \"pty\" exclude each other");
	refused(SERVER "sendProxy = v2\nprotocol = proxy\n", "not built yet");
}

/* The program is the client; what goes to the server goes through no terminal. */
Test(proxy_header, program_on_a_terminal_in_the_place_of_the_client)
{
	config_free(load_good("cert = a\n[s]\nexec = /bin/cat\nconnect = 2\npty = yes\nsendProxy = v2\n"));
}
