/*
 * Unit tests of sessiond.h: packets as stunnel sends them, answers that are none, addresses.
 * Run by `make unit`.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "sessiond.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

/* stunnel 5.75's request for a session of TLS 1.2. */
static const char known[] =
	"0100012cc922fcfd7942e99c87c313c998f30eee6d62781ec2ea7810c6f936fc6a9484fd"
	"307c020101020203030402c02c0420c922fcfd7942e99c87c313c998f30eee6d62781ec2ea7810c6f936fc6a9484fd043073eb53"
	"1602c352445c725459c7a4a089ce467930e3f1c2bad82bb949b9d4e42b6795faa33b2a3816635518e5ebdb5550a10602046b03df"
	"42a2040202012ca403040173ad03020101b30302011d";

static unsigned char stored[SESSIOND_PACKET_MAX];
static const unsigned char *const id = stored + 4;

static size_t read_known(void)
{
	size_t n = 0;

	for (const char *hex = known; *hex; hex += 2)
		sscanf(hex, "%2hhx", &stored[n++]);
	return n;
}

Test(sessiond, requests)
{
	unsigned char packet[SESSIOND_PACKET_MAX], zeros[SESSIOND_ID] = {0};
	size_t size = read_known();

	cr_assert_eq(size, 162);
	cr_assert_eq(sessiond_write(packet, SESSIOND_NEW, 300, id, SESSIOND_ID, stored + SESSIOND_HEAD, size - SESSIOND_HEAD),
	             size);
	cr_assert_eq(memcmp(packet, stored, size), 0);
	cr_assert_eq(sessiond_write(packet, SESSIOND_GET, 0, id, SESSIOND_ID, NULL, 0), 36);
	cr_assert_eq(memcmp(packet, "\1\1\0\0", 4), 0);
	cr_assert_eq(memcmp(packet + 4, id, SESSIOND_ID), 0);
	cr_assert_eq(sessiond_write(packet, SESSIOND_REMOVE, 0, id, 5, NULL, 0), 36);
	cr_assert_eq(memcmp(packet, "\1\2\0\0", 4), 0);
	cr_assert(memcmp(packet + 4, id, 5) == 0 && memcmp(packet + 9, zeros, SESSIOND_ID - 5) == 0);
	sessiond_write(packet, SESSIOND_NEW, 100000, id, SESSIOND_ID, NULL, 0);
	cr_assert_eq(packet[2] << 8 | packet[3], 64800);
	sessiond_write(packet, SESSIOND_NEW, -5, id, SESSIOND_ID, NULL, 0);
	cr_assert_eq(packet[2] << 8 | packet[3], 0);
}

Test(sessiond, answers)
{
	const unsigned char *session = NULL;
	size_t size = read_known(), n = 0;

	stored[1] = 0x81;
	cr_assert_eq(sessiond_read(stored, size, id, SESSIOND_ID, &session, &n), SESSIOND_FOUND);
	cr_assert(session == stored + SESSIOND_HEAD && n == size - SESSIOND_HEAD);
	cr_assert_eq(sessiond_read(stored, SESSIOND_HEAD, id, SESSIOND_ID, &session, &n), SESSIOND_FOUND);
	cr_assert_eq(n, 0);
	for (unsigned type = 0; type < 256; type++) {
		stored[1] = (unsigned char)type;
		cr_assert_eq(sessiond_read(stored, size, id, SESSIOND_ID, &session, &n),
		             type == 0x81 ? SESSIOND_FOUND : SESSIOND_NOT_FOUND);
	}
}

Test(sessiond, what_is_no_answer)
{
	unsigned char other[SESSIOND_ID];
	const unsigned char *session;
	size_t size = read_known(), n;

	stored[1] = 0x81;
	for (size_t cut = 0; cut < SESSIOND_HEAD; cut++)
		cr_assert_eq(sessiond_read(stored, cut, id, SESSIOND_ID, &session, &n), SESSIOND_MALFORMED);
	cr_assert_eq(sessiond_read(stored, SESSIOND_PACKET_MAX + 1, id, SESSIOND_ID, &session, &n), SESSIOND_MALFORMED);
	for (size_t i = 0; i < SESSIOND_ID; i++) {
		memcpy(other, id, SESSIOND_ID);
		other[i] ^= 1;
		cr_assert_eq(sessiond_read(stored, size, other, SESSIOND_ID, &session, &n), SESSIOND_MALFORMED, "byte %zu", i);
	}
	cr_assert_eq(sessiond_read(stored, size, id, SESSIOND_ID - 1, &session, &n), SESSIOND_MALFORMED,
	             "a shorter one is padded with zeros");
	stored[0] = 2;
	cr_assert_eq(sessiond_read(stored, size, id, SESSIOND_ID, &session, &n), SESSIOND_MALFORMED);
}

Test(sessiond, places)
{
	static const struct {
		const char *text;
		bool local;
	} places[] = {
		{"127.0.0.1:9", true},
		{"127.255.0.7:9", true},
		{"[::1]:9", true},
		{"[::ffff:127.0.0.1]:9", true},
		{"128.0.0.1:9", false},
		{"0.0.0.0:9", false},
		{"[::ffff:10.0.0.1]:9", false},
		{"[fe80::1]:9", false},
		{"[::]:9", false},
		{"/run/x", false},
	};

	for (size_t i = 0; i < sizeof(places) / sizeof(*places); i++) {
		struct addr_list list = {0};

		cr_assert_eq(addr_resolve(places[i].text, ADDR_ACTIVE, &list), 0, "%s", places[i].text);
		cr_assert_eq(sessiond_is_local(&list.addrs[0]), places[i].local, "%s", places[i].text);
		addr_list_free(&list);
	}
}
