/*
 * Socket options: what is read, what is written back, and what reaches the socket.
 * Run by `make unit`.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "sockopt.h"

#include "config_testing.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

Test(sockopt, read_and_written_back)
{
	static const struct {
		const char *spec, *text;
	} good[] = {
		{"a:SO_LINGER=1:60", "a:SO_LINGER=1:60"},
		{"a:SO_LINGER=1", "a:SO_LINGER=1:0"},
		{"l:SO_KEEPALIVE=YES", "l:SO_KEEPALIVE=yes"},
		{"r:SO_KEEPALIVE=0", "r:SO_KEEPALIVE=no"},
		{"r:TCP_KEEPIDLE=60", "r:TCP_KEEPIDLE=60"},
		{"r:IP_TOS=-3", "r:IP_TOS=-3"},
		{"r:SO_RCVTIMEO=1:5", "r:SO_RCVTIMEO=1:5"},
		{"r:SO_SNDTIMEO=1", "r:SO_SNDTIMEO=1:0"},
		{"r:SO_BINDTODEVICE=averylongdevice", "r:SO_BINDTODEVICE=averylongdevice"},
		{"r:SO_RCVTIMEO=-9223372036854775808:-9223372036854775808",
	         "r:SO_RCVTIMEO=-9223372036854775808:-9223372036854775808"},
	};
	static const char *const bad[] = {"",
	                                  "a",
	                                  "a:",
	                                  "a:SO_DEBUG",
	                                  "x:SO_DEBUG=1",
	                                  "A:SO_DEBUG=1",
	                                  "al:SO_DEBUG=1",
	                                  "a:so_debug=1",
	                                  "a:SO_DEBUG=2",
	                                  "a:SO_DEBUG=",
	                                  "a:SO_DEBUG =1",
	                                  " a:SO_DEBUG=1",
	                                  "a:SO_LINGER=x",
	                                  "a:SO_LINGER=1:x",
	                                  "a:SO_LINGER=1:2:3",
	                                  "a:SO_LINGER=9999999999:1",
	                                  "a:SO_RCVBUF=1:2",
	                                  "a:SO_RCVBUF=99999999999",
	                                  "a:SO_RCVBUF=1k",
	                                  "a:SO_BINDTODEVICE=averyverylongdevicename",
	                                  "a:=1",
	                                  "=",
	                                  "a:SO_NONE=1"};
	char text[SOCKOPT_TEXT_MAX];
	enum sock_role role;
	struct sockopt opt;

	for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
		cr_expect(sockopt_parse(good[i].spec, &role, &opt), "%s", good[i].spec);
		cr_expect_str_eq(sockopt_text(&opt, role, text), good[i].text);
		cr_expect(sockopt_parse(text, &role, &opt), "%s", text);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		cr_expect_not(sockopt_parse(bad[i], &role, &opt), "%s", bad[i]);
}

static struct sockopts set_of(struct sockopt *opts, const char *const *specs, size_t count)
{
	enum sock_role role;

	for (size_t i = 0; i < count; i++)
		cr_assert(sockopt_parse(specs[i], &role, &opts[i]), "%s", specs[i]);
	return (struct sockopts){.opts = opts, .count = count};
}

static int flag_of(int fd, int level, int option)
{
	int value = -1;

	getsockopt(fd, level, option, &value, &(socklen_t){sizeof(value)});
	return value;
}

Test(sockopt, applied)
{
	static const char *const specs[] = {"a:SO_REUSEADDR=yes", "a:TCP_NODELAY=yes", "a:SO_LINGER=1:7",
	                                    "a:SO_RCVTIMEO=3:0",  "a:IP_TTL=33",       "a:IPV6_V6ONLY=yes"};
	struct sockopt opts[6];
	struct sockopts set = set_of(opts, specs, 6);
	struct linger linger = {0};
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	cr_assert_eq(sockopts_apply(&set, SOCK_ACCEPT, fd, "0", LOG_DEBUG), 1, "an IPv4 socket has no IPV6_V6ONLY");
	cr_assert_eq(flag_of(fd, SOL_SOCKET, SO_REUSEADDR), 1);
	cr_assert_eq(flag_of(fd, IPPROTO_TCP, TCP_NODELAY), 1);
	cr_assert_eq(flag_of(fd, IPPROTO_IP, IP_TTL), 33);
	getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &(socklen_t){sizeof(linger)});
	cr_assert_eq(linger.l_linger, 7);
	close(fd);
	hear_stderr(log_dump_kept);
	cr_assert(strstr(said, "[:] setsockopt IPV6_V6ONLY: Protocol not available (92)\n"), "%s", said);
}

Test(sockopt, unix_sockets_have_no_tcp)
{
	static const char *const specs[] = {"l:TCP_NODELAY=yes", "l:IP_TOS=1", "l:SO_KEEPALIVE=yes"};
	struct sockopt opts[3];
	struct sockopts set = set_of(opts, specs, 3);
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	cr_assert_eq(sockopts_apply(&set, SOCK_LOCAL, fd, "0", LOG_WARNING), 0);
	cr_assert_eq(flag_of(fd, SOL_SOCKET, SO_KEEPALIVE), 1);
	close(fd);
}

Test(sockopt, quiet_below_the_level)
{
	static const char *const specs[] = {"l:TCP_NODELAY=yes"};
	struct sockopt opts[1];
	struct sockopts set = set_of(opts, specs, 1);

	cr_assert_eq(sockopts_apply(&set, SOCK_LOCAL, -1, "0", LOG_ERR), 1);
	hear_stderr(log_dump_kept);
	cr_assert_str_eq(said, "");
}

Test(sockopt, table)
{
	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	sockopts_print(out);
	fclose(out);
	cr_assert(strstr(text,
	                 "TCP socket option defaults:\n    Option Name         |  Accept  |   Local  |  Remote  |OS default\n"));
	cr_assert(strstr(text, "    SO_REUSEADDR        |       yes|    --    |    --    |        no\n"));
	cr_assert(strstr(text, "    TCP_NODELAY         |    --    |       yes|       yes|        no\n"));
	cr_assert(strstr(text, "UDP socket option defaults:\n"));
	free(text);
}
