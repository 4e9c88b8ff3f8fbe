/*
 * Unit tests of transparent.h, as far as they need neither privileges nor rules: which listeners an address reaches, and IPv4 written as IPv6.
 * Run by `make unit`.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "transparent.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

static struct addr address(const char *host, unsigned port)
{
	struct addr addr = {0};

	if (strchr(host, ':')) {
		addr.in6.sin6_family = AF_INET6;
		addr.in6.sin6_port = htons((uint16_t)port);
		addr.len = sizeof(addr.in6);
		cr_assert_eq(inet_pton(AF_INET6, host, &addr.in6.sin6_addr), 1);
	} else {
		addr.in.sin_family = AF_INET;
		addr.in.sin_port = htons((uint16_t)port);
		addr.len = sizeof(addr.in);
		cr_assert_eq(inet_pton(AF_INET, host, &addr.in.sin_addr), 1);
	}
	return addr;
}

static bool reaches(const char *listener, unsigned port, const char *host, unsigned at)
{
	struct addr one = address(listener, port), to = address(host, at);
	struct addr_list list = {.addrs = &one, .count = 1};

	return transparent_reaches(&list, &to);
}

Test(transparent, a_listener_on_one_address)
{
	cr_assert(reaches("127.0.0.1", 443, "127.0.0.1", 443));
	cr_assert_not(reaches("127.0.0.1", 443, "127.0.0.1", 444));
	cr_assert_not(reaches("127.0.0.1", 443, "127.0.0.2", 443), "it is of this machine, but nobody listens there");
	cr_assert(reaches("203.0.113.1", 443, "203.0.113.1", 443), "whosever it is");
	cr_assert(reaches("::1", 443, "::1", 443));
	cr_assert_not(reaches("::1", 443, "::2", 443));
	cr_assert_not(reaches("::1", 443, "127.0.0.1", 443));
	cr_assert(reaches("::ffff:127.0.0.1", 443, "127.0.0.1", 443));
}

Test(transparent, a_listener_on_every_address)
{
	cr_assert(reaches("0.0.0.0", 443, "127.0.0.1", 443));
	cr_assert(reaches("0.0.0.0", 443, "127.3.4.5", 443));
	cr_assert_not(reaches("0.0.0.0", 443, "127.0.0.1", 80));
	cr_assert_not(reaches("0.0.0.0", 443, "203.0.113.1", 443), "another machine's");
	cr_assert_not(reaches("0.0.0.0", 443, "::1", 443));
	cr_assert(reaches("::", 443, "127.0.0.1", 443), "unless the socket is told otherwise");
	cr_assert(reaches("::", 443, "::1", 443));
	cr_assert_not(reaches("::", 443, "2001:db8::1", 443));
	cr_assert_not(reaches("::", 443, "203.0.113.1", 443));
}

Test(transparent, a_listener_whose_port_the_kernel_chose)
{
	cr_assert(reaches("127.0.0.1", 0, "127.0.0.1", 4711));
	cr_assert_not(reaches("127.0.0.1", 0, "127.0.0.2", 4711));
}

Test(transparent, other_listeners)
{
	struct addr list[] = {{.un = {.sun_family = AF_UNIX, .sun_path = "/run/x"}, .len = sizeof(struct sockaddr_un)}, address("127.0.0.1", 1)};
	struct addr to = address("127.0.0.1", 1);

	cr_assert_not(transparent_reaches(&(struct addr_list){.addrs = list, .count = 0}, &to));
	cr_assert_not(transparent_reaches(&(struct addr_list){.addrs = list, .count = 1}, &to));
	cr_assert(transparent_reaches(&(struct addr_list){.addrs = list, .count = 2}, &to));
}

Test(transparent, ipv4_written_as_ipv6)
{
	struct addr addr = address("::ffff:192.0.2.1", 80), expected = address("192.0.2.1", 80), other = address("2001:db8::1", 80);
	struct addr same = other, none = {0}, un = {.un = {.sun_family = AF_UNIX}, .len = sizeof(sa_family_t)}, un_same = un;

	addr_unmap(&addr);
	cr_assert(addr_equal(&addr, &expected));
	addr_unmap(&addr);
	cr_assert(addr_equal(&addr, &expected));
	addr_unmap(&other);
	cr_assert(addr_equal(&other, &same));
	addr_unmap(&none);
	cr_assert_eq(none.len, 0);
	addr_unmap(&un);
	cr_assert(addr_equal(&un, &un_same));
}

Test(transparent, who_listens_for_others)
{
	struct section host = {.transparent = TRANSPARENT_DESTINATION}, plain = {0};
	struct virtual_host two = {.section = &host}, one = {.next = &two, .section = &plain};

	cr_assert(transparent_listens(&host));
	cr_assert_not(transparent_listens(&plain));
	plain.hosts = &one;
	cr_assert(transparent_listens(&plain), "one of its virtual hosts does");
	two.section = &plain;
	cr_assert_not(transparent_listens(&plain));
}

Test(transparent, a_socket_that_is_none)
{
	cr_assert_eq(transparent_set(-1, AF_INET, true), -EBADF);
	cr_assert_eq(transparent_set(-1, AF_INET6, false), -EBADF);
}
