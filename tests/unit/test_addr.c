/*
 * Addresses: which forms are taken, what they resolve to, and how they are shown.
 * Run by `make unit`; needs no network, only /etc/hosts and /etc/services.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "addr.h"

#include <criterion/criterion.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>

/* All addresses of a spec as one text, or the error. */
static const char *resolved(const char *spec, enum addr_use use)
{
	static char all[4096];
	struct addr_list list = {0};
	char text[ADDR_TEXT_MAX];
	size_t len = 0;
	int err = addr_resolve(spec, use, &list);

	if (err) {
		cr_expect_eq(list.count, 0);
		snprintf(all, sizeof(all), "error %d", err);
		return all;
	}
	*all = '\0';
	for (size_t i = 0; i < list.count; i++)
		len += (size_t)snprintf(all + len, sizeof(all) - len, "%s%s", i ? " " : "", addr_text(&list.addrs[i], text));
	addr_list_free(&list);
	cr_expect_null(list.addrs);
	return all;
}

Test(addr, forms_that_are_taken)
{
	static const struct {
		const char *spec;
		enum addr_use use;
		const char *gives;
	} forms[] = {
		{"443", ADDR_PASSIVE, "0.0.0.0:443 :::443"},
		{"*:443", ADDR_PASSIVE, "0.0.0.0:443 :::443"},
		{"", ADDR_PASSIVE, "0.0.0.0:0 :::0"},
		{"0", ADDR_PASSIVE, "0.0.0.0:0 :::0"},
		{"https", ADDR_PASSIVE, "0.0.0.0:443 :::443"},
		{":::443", ADDR_PASSIVE, ":::443"},
		{":::443", ADDR_ACTIVE, ":::443"},
		{"::1:443", ADDR_PASSIVE, "::1:443"},
		{"[::1]:443", ADDR_PASSIVE, "::1:443"},
		{"[::ffff:192.0.2.1]:443", ADDR_ACTIVE, "::ffff:192.0.2.1:443"},
		{"127.0.0.1:0443", ADDR_ACTIVE, "127.0.0.1:443"},
		{"127.0.0.1:https", ADDR_ACTIVE, "127.0.0.1:443"},
		{"127.0.0.1:65535", ADDR_ACTIVE, "127.0.0.1:65535"},
		{"fe80::1%lo:443", ADDR_ACTIVE, "fe80::1%lo:443"},
		{"[fe80::1%lo]:443", ADDR_ACTIVE, "fe80::1%lo:443"},
		{"/run/x.sock", ADDR_PASSIVE, "/run/x.sock"},
		{"/run/x:1", ADDR_ACTIVE, "/run/x:1"},
		{"@name", ADDR_ACTIVE, "@name"},
		{"127.0.0.1", ADDR_HOST, "127.0.0.1:0"},
		{"::1", ADDR_HOST, "::1:0"},
		{"[::1]", ADDR_HOST, "::1:0"},
	};

	for (size_t i = 0; i < sizeof(forms) / sizeof(*forms); i++) {
		cr_expect_null(addr_check(forms[i].spec, forms[i].use), "%s: %s", forms[i].spec,
		               addr_check(forms[i].spec, forms[i].use));
		cr_expect_str_eq(resolved(forms[i].spec, forms[i].use), forms[i].gives, "%s: %s", forms[i].spec,
		                 resolved(forms[i].spec, forms[i].use));
	}
}

Test(addr, forms_that_are_refused)
{
	static const struct {
		const char *spec;
		enum addr_use use;
	} forms[] = {
		{":443", ADDR_PASSIVE},
		{":443", ADDR_ACTIVE},
		{"", ADDR_ACTIVE},
		{"host:", ADDR_ACTIVE},
		{"65536", ADDR_PASSIVE},
		{"127.0.0.1:-1", ADDR_ACTIVE},
		{"127.0.0.1:+1", ADDR_ACTIVE},
		{"127.0.0.1: 1", ADDR_ACTIVE},
		{"4294967297", ADDR_PASSIVE},
		{"99999999999999999999999", ADDR_PASSIVE},
		{"1:2:3", ADDR_ACTIVE},
		{"a:b:1", ADDR_ACTIVE},
		{"[::1]", ADDR_ACTIVE},
		{"[::1]443", ADDR_ACTIVE},
		{"[::1:443", ADDR_ACTIVE},
		{"[host]:443", ADDR_ACTIVE},
		{"[]:443", ADDR_ACTIVE},
		{"[127.0.0.1]:1", ADDR_ACTIVE},
		{"a b:1", ADDR_ACTIVE},
		{"x/y:1", ADDR_ACTIVE},
		{"/", ADDR_ACTIVE},
		{"@", ADDR_ACTIVE},
		{"", ADDR_HOST},
		{"/x", ADDR_HOST},
		{"[::1]:5", ADDR_HOST},
		{"@x", ADDR_HOST},
		{"127.0.0.1:5", ADDR_HOST},
		{"h:\t1", ADDR_ACTIVE},
	};

	for (size_t i = 0; i < sizeof(forms) / sizeof(*forms); i++) {
		cr_expect(addr_check(forms[i].spec, forms[i].use), "%s", forms[i].spec);
		cr_expect_eq(strncmp(resolved(forms[i].spec, forms[i].use), "error ", 6), 0, "%s", forms[i].spec);
	}
}

Test(addr, lengths)
{
	char spec[512];

	memset(spec, 'a', sizeof(spec));
	strcpy(spec + 300, ":1");
	cr_assert(addr_check(spec, ADDR_ACTIVE));
	spec[0] = '/';
	spec[107] = '\0';
	cr_assert_null(addr_check(spec, ADDR_ACTIVE));
	cr_assert_str_eq(resolved(spec, ADDR_ACTIVE), spec);
	spec[107] = 'a';
	spec[108] = '\0';
	cr_assert(addr_check(spec, ADDR_ACTIVE));
	spec[0] = '@';
	cr_assert_null(addr_check(spec, ADDR_ACTIVE), "the @ takes the place of the NUL");
	cr_assert_str_eq(resolved(spec, ADDR_ACTIVE), spec);
	spec[108] = 'a';
	spec[109] = '\0';
	cr_assert(addr_check(spec, ADDR_ACTIVE));
	memset(spec, 'p', 100);
	spec[100] = '\0';
	cr_assert(addr_check(spec, ADDR_ACTIVE), "a port of 100 letters");
}

Test(addr, a_bare_port_connects_to_the_loopback)
{
	const char *text = resolved("443", ADDR_ACTIVE);

	cr_assert(strstr(text, "127.0.0.1:443") || strstr(text, "::1:443"), "%s", text);
	cr_assert_null(strstr(text, "0.0.0.0"));
	cr_assert_null(addr_check("*:443", ADDR_ACTIVE));
}

Test(addr, names)
{
	cr_assert(strstr(resolved("localhost:80", ADDR_ACTIVE), ":80"));
	cr_assert_eq(strncmp(resolved("127.0.0.1:nosuchservice", ADDR_ACTIVE), "error ", 6), 0);
}

Test(addr, appends)
{
	struct addr_list list = {0};

	cr_assert_eq(addr_resolve("127.0.0.1:1", ADDR_ACTIVE, &list), 0);
	cr_assert_eq(addr_resolve("127.0.0.1:1", ADDR_ACTIVE, &list), 0);
	cr_assert_eq(addr_resolve(":1", ADDR_ACTIVE, &list), EAI_NONAME);
	cr_assert_eq(list.count, 2, "what was there stays");
	cr_assert(addr_equal(&list.addrs[0], &list.addrs[1]));
	addr_list_free(&list);
	addr_list_free(&list);
}

Test(addr, numeric)
{
	static const char *const yes[] = {"443", "127.0.0.1:443", "::1:443", "::1",   "[::1]:443", "*:1", "/x", "@x",
	                                  "",    "127.0.0.1",     ":::1",    "[::1]", "fe80::1%lo"};
	static const char *const no[] = {"localhost:443", "127.0.0.1:https",    "https",      "localhost",
	                                 ":443",          "host.example.com:1", "[::1]:https"};

	for (size_t i = 0; i < sizeof(yes) / sizeof(*yes); i++)
		cr_expect(addr_is_numeric(yes[i]), "%s", yes[i]);
	for (size_t i = 0; i < sizeof(no) / sizeof(*no); i++)
		cr_expect_not(addr_is_numeric(no[i]), "%s", no[i]);
}

Test(addr, text_of_odd_ones)
{
	char text[ADDR_TEXT_MAX];
	struct addr addr = {0};

	cr_assert_str_eq(addr_text(&addr, text), "unnamed socket");
	addr.un.sun_family = AF_UNIX;
	addr.len = sizeof(sa_family_t);
	cr_assert_str_eq(addr_text(&addr, text), "unnamed socket");
	memcpy(addr.un.sun_path, "\0a\0b", 4);
	addr.len = sizeof(sa_family_t) + 4;
	cr_assert_str_eq(addr_text(&addr, text), "@a@b");
	memset(addr.un.sun_path, 'x', sizeof(addr.un.sun_path)); /* the kernel may give a path without a NUL */
	addr.len = sizeof(addr.un);
	cr_assert_eq(strlen(addr_text(&addr, text)), sizeof(addr.un.sun_path));
	addr.sa.sa_family = AF_APPLETALK;
	cr_assert_str_eq(addr_text(&addr, text), "unknown address family");
}
