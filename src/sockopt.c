/*
 * The socket options that a configuration can set: one table for parser, -sockets and setsockopt(2).
 * Everyone may use it (sockopt.h).
 * SPDX-License-Identifier: Apache-2.0
 */
#include "sockopt.h"

#include "log.h"

#include <errno.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

enum value_form { FORM_FLAG, FORM_NUMBER, FORM_LINGER, FORM_TIMEVAL, FORM_NAME };
enum transport { TCP = 1, UDP = 2, BOTH = TCP | UDP };

struct sockopt_kind {
	const char *name;
	int level, option;
	enum value_form form;
	enum transport transport; /* which table of -sockets shows it */
};

/* Older headers lack the names of options that the kernel knows: Linux 4.18 and 5.0, uapi/linux/udp.h. */
enum { UDP_SEGMENT_OPTION = 103, UDP_GRO_OPTION = 104 };

static const struct sockopt_kind kinds[] = {
	{"SO_DEBUG", SOL_SOCKET, SO_DEBUG, FORM_FLAG, BOTH},
	{"SO_DONTROUTE", SOL_SOCKET, SO_DONTROUTE, FORM_FLAG, BOTH},
	{"SO_KEEPALIVE", SOL_SOCKET, SO_KEEPALIVE, FORM_FLAG, BOTH},
	{"SO_LINGER", SOL_SOCKET, SO_LINGER, FORM_LINGER, BOTH},
	{"SO_OOBINLINE", SOL_SOCKET, SO_OOBINLINE, FORM_FLAG, BOTH},
	{"SO_RCVBUF", SOL_SOCKET, SO_RCVBUF, FORM_NUMBER, BOTH},
	{"SO_SNDBUF", SOL_SOCKET, SO_SNDBUF, FORM_NUMBER, BOTH},
	{"SO_RCVLOWAT", SOL_SOCKET, SO_RCVLOWAT, FORM_NUMBER, BOTH},
	{"SO_SNDLOWAT", SOL_SOCKET, SO_SNDLOWAT, FORM_NUMBER, BOTH},
	{"SO_RCVTIMEO", SOL_SOCKET, SO_RCVTIMEO, FORM_TIMEVAL, BOTH},
	{"SO_SNDTIMEO", SOL_SOCKET, SO_SNDTIMEO, FORM_TIMEVAL, BOTH},
	{"SO_REUSEADDR", SOL_SOCKET, SO_REUSEADDR, FORM_FLAG, BOTH},
	{"SO_BINDTODEVICE", SOL_SOCKET, SO_BINDTODEVICE, FORM_NAME, BOTH},
	{"TCP_KEEPCNT", IPPROTO_TCP, TCP_KEEPCNT, FORM_NUMBER, TCP},
	{"TCP_KEEPIDLE", IPPROTO_TCP, TCP_KEEPIDLE, FORM_NUMBER, TCP},
	{"TCP_KEEPINTVL", IPPROTO_TCP, TCP_KEEPINTVL, FORM_NUMBER, TCP},
	{"IP_TOS", IPPROTO_IP, IP_TOS, FORM_NUMBER, BOTH},
	{"IP_TTL", IPPROTO_IP, IP_TTL, FORM_NUMBER, BOTH},
	{"TCP_NODELAY", IPPROTO_TCP, TCP_NODELAY, FORM_FLAG, TCP},
	{"UDP_CORK", IPPROTO_UDP, UDP_CORK, FORM_FLAG, UDP},
	{"UDP_ENCAP", IPPROTO_UDP, UDP_ENCAP, FORM_NUMBER, UDP},
	{"UDP_NO_CHECK6_TX", IPPROTO_UDP, UDP_NO_CHECK6_TX, FORM_FLAG, UDP},
	{"UDP_NO_CHECK6_RX", IPPROTO_UDP, UDP_NO_CHECK6_RX, FORM_FLAG, UDP},
	{"UDP_SEGMENT", IPPROTO_UDP, UDP_SEGMENT_OPTION, FORM_NUMBER, UDP},
	{"UDP_GRO", IPPROTO_UDP, UDP_GRO_OPTION, FORM_FLAG, UDP},
	{"IP_FREEBIND", IPPROTO_IP, IP_FREEBIND, FORM_FLAG, BOTH},
	{"IPV6_V6ONLY", IPPROTO_IPV6, IPV6_V6ONLY, FORM_FLAG, BOTH},
};

enum { KINDS = sizeof(kinds) / sizeof(*kinds) };

static const char role_letters[SOCK_ROLES] = {[SOCK_ACCEPT] = 'a', [SOCK_LOCAL] = 'l', [SOCK_REMOTE] = 'r'};
static const char *const role_names[SOCK_ROLES] = {[SOCK_ACCEPT] = "accept", [SOCK_LOCAL] = "local", [SOCK_REMOTE] = "remote"};

static const struct sockopt_kind *kind_find(const char *name, size_t len)
{
	for (size_t i = 0; i < KINDS; i++)
		if (strlen(kinds[i].name) == len && !memcmp(kinds[i].name, name, len))
			return &kinds[i];
	return NULL;
}

/* A number that ends at `stop`; nothing at all counts as 0. */
static bool parse_number(const char *text, char stop, long min, long max, long *number, const char **end)
{
	char *behind;

	errno = 0;
	*number = strtol(text, &behind, 10);
	*end = behind;
	return !errno && (*behind == '\0' || *behind == stop) && *number >= min && *number <= max;
}

static bool parse_int(const char *text, int *number)
{
	const char *end;
	long value;

	if (!parse_number(text, '\0', INT_MIN, INT_MAX, &value, &end))
		return false;
	*number = (int)value;
	return true;
}

static bool parse_flag(const char *text, int *flag)
{
	*flag = !strcasecmp(text, "yes") || !strcmp(text, "1");
	return *flag || !strcasecmp(text, "no") || !strcmp(text, "0");
}

/* "first[:second]" */
static bool parse_pair(const char *text, long min, long max, long *first, long *second)
{
	const char *end;

	*second = 0;
	if (!parse_number(text, ':', min, max, first, &end))
		return false;
	return *end == '\0' || parse_number(end + 1, '\0', min, max, second, &end);
}

static bool parse_linger(const char *text, int linger[2])
{
	long on, seconds;

	if (!parse_pair(text, INT_MIN, INT_MAX, &on, &seconds))
		return false;
	linger[0] = (int)on;
	linger[1] = (int)seconds;
	return true;
}

static bool parse_value(const char *text, struct sockopt *opt)
{
	switch (opt->kind->form) {
	case FORM_FLAG: return parse_flag(text, &opt->value.number);
	case FORM_NUMBER: return parse_int(text, &opt->value.number);
	case FORM_LINGER: return parse_linger(text, opt->value.linger);
	case FORM_TIMEVAL: return parse_pair(text, LONG_MIN, LONG_MAX, &opt->value.timeval[0], &opt->value.timeval[1]);
	case FORM_NAME:
		if (strlen(text) >= sizeof(opt->value.name))
			return false;
		memcpy(opt->value.name, text, strlen(text) + 1);
		return true;
	}
	return false;
}

static bool parse_role(char letter, enum sock_role *role)
{
	for (int i = 0; i < SOCK_ROLES; i++) {
		if (role_letters[i] != letter)
			continue;
		*role = (enum sock_role)i;
		return true;
	}
	return false;
}

bool sockopt_parse(const char *spec, enum sock_role *role, struct sockopt *opt)
{
	const char *equals;

	memset(opt, 0, sizeof(*opt));
	if (!parse_role(spec[0], role) || spec[1] != ':')
		return false;
	equals = strchr(spec, '=');
	if (!equals)
		return false;
	opt->kind = kind_find(spec + 2, (size_t)(equals - spec) - 2);
	return opt->kind && parse_value(equals + 1, opt);
}

static void value_text(const struct sockopt *opt, char *text, size_t room)
{
	switch (opt->kind->form) {
	case FORM_FLAG: snprintf(text, room, "%s", opt->value.number ? "yes" : "no"); break;
	case FORM_NUMBER: snprintf(text, room, "%d", opt->value.number); break;
	case FORM_LINGER: snprintf(text, room, "%d:%d", opt->value.linger[0], opt->value.linger[1]); break;
	case FORM_TIMEVAL: snprintf(text, room, "%ld:%ld", opt->value.timeval[0], opt->value.timeval[1]); break;
	case FORM_NAME: snprintf(text, room, "%s", opt->value.name); break;
	}
}

const char *sockopt_text(const struct sockopt *opt, enum sock_role role, char text[SOCKOPT_TEXT_MAX])
{
	int len = snprintf(text, SOCKOPT_TEXT_MAX, "%c:%s=", role_letters[role], opt->kind->name);

	value_text(opt, text + len, SOCKOPT_TEXT_MAX - (size_t)len);
	return text;
}

const char *sockopt_name(const struct sockopt *opt)
{
	return opt->kind->name;
}

static int set_one(const struct sockopt *opt, int fd)
{
	const struct sockopt_kind *kind = opt->kind;
	struct linger linger = {.l_onoff = opt->value.linger[0], .l_linger = opt->value.linger[1]};
	struct timeval timeval = {.tv_sec = opt->value.timeval[0], .tv_usec = opt->value.timeval[1]};

	switch (kind->form) {
	case FORM_LINGER: return setsockopt(fd, kind->level, kind->option, &linger, sizeof(linger));
	case FORM_TIMEVAL: return setsockopt(fd, kind->level, kind->option, &timeval, sizeof(timeval));
	case FORM_NAME: return setsockopt(fd, kind->level, kind->option, opt->value.name, (socklen_t)strlen(opt->value.name));
	default: return setsockopt(fd, kind->level, kind->option, &opt->value.number, sizeof(opt->value.number));
	}
}

static bool applies_to(const struct sockopt_kind *kind, int fd)
{
	int domain = AF_UNSPEC;

	if (kind->level == SOL_SOCKET)
		return true;
	getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &(socklen_t){sizeof(domain)});
	return domain != AF_UNIX;
}

int sockopts_apply(const struct sockopts *set, enum sock_role role, int fd, const char *log_id, int debug_level)
{
	int refused = 0;

	if (debug_level >= LOG_DEBUG)
		log_write(LOG_DEBUG, log_id, "Setting %s socket options (FD=%d)", role_names[role], fd);
	for (size_t i = 0; i < set->count; i++) {
		const struct sockopt *opt = &set->opts[i];

		if (!applies_to(opt->kind, fd))
			continue;
		if (set_one(opt, fd)) {
			refused++;
			if (debug_level >= LOG_WARNING)
				log_write(LOG_WARNING, log_id, "setsockopt %s: %s (%d)", opt->kind->name, strerror(errno), errno);
		} else if (debug_level >= LOG_DEBUG) {
			log_write(LOG_DEBUG, log_id, "Option %s set on %s socket", opt->kind->name, role_names[role]);
		}
	}
	return refused;
}

/* What the system gives a fresh socket; empty where it does not tell. */
static void system_default(const struct sockopt_kind *kind, int fd, char *text, size_t room)
{
	struct sockopt opt = {.kind = kind};
	struct linger linger = {0};
	struct timeval timeval = {0};
	void *to = kind->form == FORM_LINGER ? (void *)&linger : kind->form == FORM_TIMEVAL ? (void *)&timeval : &opt.value;
	socklen_t len = kind->form == FORM_LINGER    ? sizeof(linger)
	                : kind->form == FORM_TIMEVAL ? sizeof(timeval)
	                : kind->form == FORM_NAME    ? sizeof(opt.value.name)
	                                             : sizeof(opt.value.number);

	*text = '\0';
	if (getsockopt(fd, kind->level, kind->option, to, &len))
		return;
	if (kind->form == FORM_LINGER) {
		opt.value.linger[0] = linger.l_onoff;
		opt.value.linger[1] = linger.l_linger;
	} else if (kind->form == FORM_TIMEVAL) {
		opt.value.timeval[0] = timeval.tv_sec;
		opt.value.timeval[1] = timeval.tv_usec;
	}
	value_text(&opt, text, room);
}

static void own_default(const char *defaults, const struct sockopt_kind *kind, enum sock_role role, char *text, size_t room)
{
	char line[SOCKOPT_TEXT_MAX];
	struct sockopt opt;
	enum sock_role its_role;

	snprintf(text, room, "--    ");
	for (const char *at = defaults; *at; at += strcspn(at, "\n"), at += *at == '\n') {
		snprintf(line, sizeof(line), "%.*s", (int)strcspn(at, "\n"), at);
		if (sockopt_parse(line, &its_role, &opt) && its_role == role && opt.kind == kind)
			value_text(&opt, text, room);
	}
}

/* The system's defaults come from an IPv6 socket where there is one: it answers for IP_* and IPV6_* alike. */
static int fresh_socket(int type)
{
	int fd = socket(AF_INET6, type | SOCK_CLOEXEC, 0);

	return fd >= 0 ? fd : socket(AF_INET, type | SOCK_CLOEXEC, 0);
}

static void print_table(FILE *out, enum transport transport, const char *defaults)
{
	int fd = fresh_socket(transport == UDP ? SOCK_DGRAM : SOCK_STREAM);
	char text[SOCKOPT_TEXT_MAX];

	fprintf(out, "%s socket option defaults:\n", transport == UDP ? "UDP" : "TCP");
	fputs("    Option Name         |  Accept  |   Local  |  Remote  |OS default\n"
	      "    --------------------+----------+----------+----------+----------\n",
	      out);
	for (size_t i = 0; i < KINDS; i++) {
		if (!(kinds[i].transport & transport))
			continue;
		fprintf(out, "    %-20s|", kinds[i].name);
		for (int role = 0; role < SOCK_ROLES; role++) {
			own_default(defaults, &kinds[i], (enum sock_role)role, text, sizeof(text));
			fprintf(out, "%10s|", text);
		}
		system_default(&kinds[i], fd, text, sizeof(text));
		fprintf(out, "%10s\n", text);
	}
	if (fd >= 0)
		close(fd);
}

void sockopts_print(FILE *out)
{
	print_table(out, TCP, SOCKOPT_DEFAULTS);
	fputs(" \n", out);
	print_table(out, UDP, SOCKOPT_DEFAULTS_UDP);
}
