/*
 * Rules and routes examined: see doctor.h. What the kernel has comes by netlink (rtnetlink(7)), what netfilter has from its own programs.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "doctor.h"

#include <errno.h>
#include <linux/fib_rules.h>
#include <linux/rtnetlink.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MARKS_MAX = 64 };

/* What is known about marks. */
struct marks {
	struct {
		uint32_t mark, table;
	} rule[MARKS_MAX];
	uint32_t local_table[MARKS_MAX]; /* has a route that delivers everything here */
	uint32_t set[MARKS_MAX];         /* by netfilter */
	unsigned rules, locals, sets;
	bool listed;  /* a program of netfilter has answered */
	bool steals;  /* there is a rule with TPROXY, REDIRECT or DNAT */
	bool diverts; /* there is one that knows transparent sockets */
};

/* --- netlink ------------------------------------------------------------------------------------------------------------------------ */

/* Asks for everything of a kind and gives each message to `each`. Returns 0 or -errno. */
static int dump(uint16_t type, unsigned char family, void (*each)(struct marks *marks, const struct nlmsghdr *message),
                struct marks *marks)
{
	struct {
		struct nlmsghdr head;
		struct rtmsg body; /* struct fib_rule_hdr has the same size and its family in the same place */
	} ask = {.head = {.nlmsg_len = sizeof(ask), .nlmsg_type = type, .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
	         .body = {.rtm_family = family}};
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE), error = 0;
	_Alignas(struct nlmsghdr) char answer[32768];
	bool more = fd >= 0 && send(fd, &ask, sizeof(ask), 0) == sizeof(ask);

	if (!more)
		error = -errno;
	while (more) {
		ssize_t n = recv(fd, answer, sizeof(answer), 0);
		const struct nlmsghdr *m = (const struct nlmsghdr *)answer;

		if (n < 0)
			error = -errno;
		more = n > 0;
		for (; n > 0 && NLMSG_OK(m, (size_t)n); m = NLMSG_NEXT(m, n)) {
			if (m->nlmsg_type == NLMSG_DONE || m->nlmsg_type == NLMSG_ERROR)
				more = false;
			else
				each(marks, m);
		}
	}
	if (fd >= 0)
		close(fd);
	return error;
}

/* A number among the attributes, or `otherwise`. */
static uint32_t attribute(const struct rtattr *a, size_t n, unsigned short type, uint32_t otherwise)
{
	for (; RTA_OK(a, n); a = RTA_NEXT(a, n))
		if (a->rta_type == type && RTA_PAYLOAD(a) >= sizeof(otherwise))
			memcpy(&otherwise, RTA_DATA(a), sizeof(otherwise));
	return otherwise;
}

static void note_rule(struct marks *marks, const struct nlmsghdr *message)
{
	const struct fib_rule_hdr *rule = NLMSG_DATA(message);
	const struct rtattr *first = (const struct rtattr *)((const char *)rule + NLMSG_ALIGN(sizeof(*rule)));
	size_t n = message->nlmsg_len - NLMSG_LENGTH(sizeof(*rule));
	uint32_t mark;

	if (message->nlmsg_type != RTM_NEWRULE || marks->rules == MARKS_MAX)
		return;
	mark = attribute(first, n, FRA_FWMARK, 0);
	if (!mark)
		return;
	marks->rule[marks->rules].mark = mark;
	marks->rule[marks->rules++].table = attribute(first, n, FRA_TABLE, rule->table);
}

static void note_route(struct marks *marks, const struct nlmsghdr *message)
{
	const struct rtmsg *route = NLMSG_DATA(message);
	size_t n = RTM_PAYLOAD(message);

	if (message->nlmsg_type == RTM_NEWROUTE && route->rtm_type == RTN_LOCAL && route->rtm_dst_len == 0 &&
	    marks->locals < MARKS_MAX)
		marks->local_table[marks->locals++] = attribute(RTM_RTA(route), n, RTA_TABLE, route->rtm_table);
}

/* --- netfilter ---------------------------------------------------------------------------------------------------------------------- */

static void note_set(struct marks *marks, const char *number)
{
	uint32_t mark = (uint32_t)strtoul(number, NULL, 0);

	for (unsigned i = 0; i < marks->sets; i++)
		if (marks->set[i] == mark)
			return;
	if (mark && marks->sets < MARKS_MAX)
		marks->set[marks->sets++] = mark;
}

/* One line of `nft list ruleset` or iptables-save(8). */
static void note_line(struct marks *marks, const char *line)
{
	static const char *const setters[] = {"meta mark set ", "--tproxy-mark ", "--set-xmark ", "--set-mark "};
	static const char *const takers[] = {"tproxy to ", "tproxy ip",   "redirect to ", "dnat ",
	                                     "-j TPROXY",  "-j REDIRECT", "-j DNAT"};

	for (size_t i = 0; i < sizeof(setters) / sizeof(*setters); i++) {
		const char *at = strstr(line, setters[i]);

		if (at)
			note_set(marks, at + strlen(setters[i]));
	}
	for (size_t i = 0; i < sizeof(takers) / sizeof(*takers); i++)
		marks->steals |= strstr(line, takers[i]) != NULL;
	marks->diverts |= strstr(line, "socket transparent") || strstr(line, "-m socket");
}

static void read_rules(struct marks *marks, const char *command)
{
	FILE *lines = popen(command, "re"); /* NOLINT(cert-env33-c): a constant */
	char *line = NULL;
	size_t size = 0;

	while (lines && getline(&line, &size, lines) > 0)
		note_line(marks, line);
	free(line);
	if (lines && pclose(lines) == 0)
		marks->listed = true;
}

/* --- the judgement ------------------------------------------------------------------------------------------------------------------ */

static bool is_delivered(const struct marks *marks, uint32_t mark)
{
	for (unsigned i = 0; i < marks->rules; i++)
		for (unsigned j = 0; marks->rule[i].mark == mark && j < marks->locals; j++)
			if (marks->rule[i].table == marks->local_table[j])
				return true;
	return false;
}

/* A mark for which there is a rule that leads to a table that delivers here, or 0. */
static uint32_t delivered_mark(const struct marks *marks)
{
	for (unsigned i = 0; i < marks->rules; i++)
		if (is_delivered(marks, marks->rule[i].mark))
			return marks->rule[i].mark;
	return 0;
}

static bool any_source(const struct config *config)
{
	bool any = false;

	for (const struct section *s = config->sections; s && !any; s = s->next)
		any = section_keeps_source(s);
	return any;
}

static void judge_routes(struct doctor *d, const struct marks *marks, const char *version)
{
	uint32_t mark = delivered_mark(marks);
	const char *needs = any_source(d->config) ? "the servers' answers to the clients do not reach tlsplice"
	                                          : "TPROXY does not work (REDIRECT and DNAT do)";

	if (mark) {
		finding(d, VERDICT_OK, "IPv%s: packets with mark %u are delivered here", version, mark);
		return;
	}
	/* A machine may have IPv6 and not proxy it. */
	finding(d, any_source(d->config) && *version == '4' ? VERDICT_PROBLEM : VERDICT_WARNING,
	        "IPv%s: no rule has marked packets delivered here: %s", version, needs);
	remedy(d, "ip -%s rule add fwmark 1 lookup 100; ip -%s route add local default dev lo table 100", version, version);
}

static void judge_marks(struct doctor *d, const struct marks *marks)
{
	bool any = false;

	for (unsigned i = 0; i < marks->sets; i++)
		any |= is_delivered(marks, marks->set[i]);
	for (unsigned i = 0; i < marks->sets; i++) {
		if (is_delivered(marks, marks->set[i]))
			finding(d, VERDICT_OK, "netfilter sets mark %u", marks->set[i]);
		else /* other marks may have other ends */
			finding(d, any || !any_source(d->config) ? VERDICT_WARNING : VERDICT_PROBLEM,
			        "netfilter sets mark %u, which no ip rule has delivered here", marks->set[i]);
	}
	if (!marks->listed) {
		finding(d, VERDICT_WARNING,
		        "netfilter: neither nft nor iptables-save can be run, so rules and marks are not seen");
		remedy(d, "run the doctor as root, with nftables or iptables installed");
		return;
	}
	if (!marks->diverts && any_source(d->config)) {
		finding(d, VERDICT_PROBLEM,
		        "netfilter: no rule marks what belongs to transparent sockets: the servers' answers pass by");
		remedy(d, "nft: socket wildcard 0 socket transparent 1 meta mark set 1; iptables: -t mangle -m socket "
		          "--transparent -j MARK --set-mark 1");
	}
	if (!marks->steals) {
		finding(d, VERDICT_WARNING,
		        "netfilter: no rule with TPROXY, REDIRECT or DNAT: only who connects to tlsplice itself gets there");
		remedy(d, "configs/tproxy/rules up nft tproxy has what is needed");
	}
}

void doctor_routes(struct doctor *d)
{
	static const struct {
		const char *version;
		unsigned char family;
	} families[] = {{"4", AF_INET}, {"6", AF_INET6}};
	struct marks all = {0};

	for (size_t i = 0; i < sizeof(families) / sizeof(*families); i++) {
		struct marks marks = {0};

		if (families[i].family == AF_INET6 && access("/proc/net/if_inet6", F_OK) < 0)
			continue;
		dump(RTM_GETRULE, families[i].family, note_rule, &marks);
		dump(RTM_GETROUTE, families[i].family, note_route, &marks);
		judge_routes(d, &marks, families[i].version);
		if (families[i].family == AF_INET)
			all = marks;
	}
	read_rules(&all, "PATH=/usr/sbin:/sbin:/usr/bin:/bin; nft list ruleset 2>/dev/null");
	read_rules(&all, "PATH=/usr/sbin:/sbin:/usr/bin:/bin; iptables-save 2>/dev/null");
	read_rules(&all, "PATH=/usr/sbin:/sbin:/usr/bin:/bin; iptables-legacy-save 2>/dev/null");
	read_rules(&all, "PATH=/usr/sbin:/sbin:/usr/bin:/bin; ip6tables-save 2>/dev/null");
	judge_marks(d, &all);
}
