/*
 * Socket addresses: parse, resolve, print.
 * Everyone may use it (addr.h); addr_resolve() blocks.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "addr.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <net/if.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* A name of RFC 1035 has at most 255 bytes; a scope id may follow a numeric address. */
enum { HOST_MAX = 256, PORT_MAX = 64, AGAIN_TRIES = 3 };

/* An address taken apart. */
struct parts {
	bool unix_path; /* a path or an abstract name: nothing else is set */
	bool any_host;  /* no host: a bare port, or "*" */
	char host[HOST_MAX];
	char port[PORT_MAX];
};

static bool all_digits(const char *text)
{
	return *text && text[strspn(text, "0123456789")] == '\0';
}

/* getaddrinfo(3) takes 65536 as port 0 and "+80" as 80: neither was meant. */
static const char *check_port(const char *port)
{
	if (!*port)
		return "no port given";
	if (all_digits(port))
		return strtoul(port, NULL, 10) <= 65535 && strlen(port) <= 9 ? NULL : "port number out of range 0..65535";
	/* A name of services(5): printable, and no number in disguise. */
	for (const char *c = port; *c; c++)
		if (!isgraph((unsigned char)*c))
			return "malformed port";
	return isalnum((unsigned char)*port) ? NULL : "malformed port";
}

static bool looks_like_ipv6(const char *host)
{
	char address[HOST_MAX];
	struct in6_addr ignored;

	snprintf(address, sizeof(address), "%.*s", (int)strcspn(host, "%"), host);
	return inet_pton(AF_INET6, address, &ignored) == 1;
}

static const char *check_host(const char *host)
{
	if (!*host)
		return "no host given before the colon";
	if (strchr(host, ':') && !looks_like_ipv6(host))
		return "the host is neither a name nor an IPv6 address";
	for (const char *c = host; *c; c++)
		if (isspace((unsigned char)*c) || *c == '[' || *c == ']' || *c == '/')
			return "malformed host";
	return NULL;
}

static const char *check_unix(const char *path, enum addr_use use)
{
	const size_t room = sizeof(((struct sockaddr_un *)0)->sun_path);

	if (use == ADDR_HOST)
		return "a host is needed here, not a Unix socket";
	if (!path[1])
		return "no name of the Unix socket given";
	/* A path needs its NUL, an abstract name a NUL in front instead of the '@'. */
	if (path[0] == '/' ? strlen(path) >= room : strlen(path) > room)
		return "name of the Unix socket too long";
	return NULL;
}

static const char *copy_host(struct parts *parts, const char *host, size_t len)
{
	if (len >= sizeof(parts->host))
		return "host name too long";
	memcpy(parts->host, host, len);
	parts->host[len] = '\0';
	return NULL;
}

static const char *copy_port(struct parts *parts, const char *port)
{
	size_t len = strlen(port);

	if (len >= sizeof(parts->port))
		return "port too long";
	memcpy(parts->port, port, len + 1);
	return check_port(parts->port);
}

/* "[ipv6]" or "[ipv6]:port"; the brackets promise a numeric address. */
static const char *split_brackets(const char *spec, enum addr_use use, struct parts *parts)
{
	const char *end = strchr(spec, ']');
	const char *wrong;

	if (!end)
		return "no closing bracket";
	wrong = copy_host(parts, spec + 1, (size_t)(end - spec) - 1);
	if (!wrong && !looks_like_ipv6(parts->host))
		wrong = "no IPv6 address between the brackets";
	if (!wrong)
		wrong = check_host(parts->host);
	if (wrong)
		return wrong;
	if (use == ADDR_HOST)
		return end[1] ? "a host without a port is needed here" : NULL;
	return end[1] == ':' ? copy_port(parts, end + 2) : "no port given";
}

/* "host:port", cut at the last colon so that "::1:443" is port 443 of ::1. */
static const char *split_host_port(const char *spec, struct parts *parts)
{
	const char *colon = strrchr(spec, ':');
	const char *wrong;

	if (!colon) {
		parts->any_host = true;
		return copy_port(parts, spec);
	}
	wrong = copy_host(parts, spec, (size_t)(colon - spec));
	if (!wrong)
		wrong = check_host(parts->host);
	if (!wrong)
		wrong = copy_port(parts, colon + 1);
	parts->any_host = !wrong && !strcmp(parts->host, "*");
	return wrong;
}

static const char *split(const char *spec, enum addr_use use, struct parts *parts)
{
	const char *wrong;

	memset(parts, 0, sizeof(*parts));
	if (*spec == '/' || *spec == '@') {
		parts->unix_path = true;
		return check_unix(spec, use);
	}
	if (*spec == '[')
		return split_brackets(spec, use, parts);
	if (use == ADDR_HOST) {
		wrong = copy_host(parts, spec, strlen(spec));
		return wrong ? wrong : *spec ? check_host(spec) : "no host given";
	}
	if (!*spec && use == ADDR_PASSIVE) /* any address, any port */
		spec = "0";
	return split_host_port(spec, parts);
}

const char *addr_check(const char *spec, enum addr_use use)
{
	struct parts parts;

	return split(spec, use, &parts);
}

static bool host_is_numeric(const char *host)
{
	struct addrinfo hints = {.ai_flags = AI_NUMERICHOST, .ai_socktype = SOCK_STREAM}, *found = NULL;

	if (getaddrinfo(host, NULL, &hints, &found))
		return false;
	freeaddrinfo(found);
	return true;
}

/* "::1" is a host and "::1:443" is a host with a port or a longer host: numeric all the same. */
bool addr_is_numeric(const char *spec)
{
	struct parts parts;
	bool host_only = !strchr(spec, ':') && !all_digits(spec) && *spec;

	if (looks_like_ipv6(spec))
		return true;
	if (split(spec, ADDR_PASSIVE, &parts) && split(spec, ADDR_HOST, &parts))
		return false;
	if (parts.unix_path)
		return true;
	if (host_only)
		return host_is_numeric(spec);
	return (!*parts.port || all_digits(parts.port)) && (parts.any_host || host_is_numeric(parts.host));
}

static bool list_has(const struct addr_list *list, size_t from, const struct addr *addr)
{
	for (size_t i = from; i < list->count; i++)
		if (addr_equal(&list->addrs[i], addr))
			return true;
	return false;
}

static int append(struct addr_list *list, const struct sockaddr *sa, socklen_t len)
{
	struct addr *more = reallocarray(list->addrs, list->count + 1, sizeof(*more));

	if (!more)
		return EAI_MEMORY;
	list->addrs = more;
	memset(&more[list->count], 0, sizeof(*more));
	memcpy(&more[list->count].sa, sa, len);
	more[list->count++].len = len;
	return 0;
}

static int append_unix(const char *spec, struct addr_list *list)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	size_t len = strlen(spec);

	memcpy(un.sun_path, spec, len);
	if (*spec == '@')
		un.sun_path[0] = '\0';
	else
		len++;
	return append(list, (struct sockaddr *)&un, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len));
}

/* getaddrinfo(3) with patience: a resolver that is not up yet deserves a second try. */
static int look_up(const struct parts *parts, enum addr_use use, int flags, struct addrinfo **found)
{
	struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = flags};
	const char *host = parts->any_host ? NULL : parts->host;
	const char *port = use == ADDR_HOST ? NULL : parts->port;
	int err;

	if (use == ADDR_PASSIVE)
		hints.ai_flags |= AI_PASSIVE;
	for (int tries = 0;; tries++) {
		err = getaddrinfo(host, port, &hints, found);
		if (err != EAI_AGAIN || tries == AGAIN_TRIES)
			return err;
		nanosleep(&(struct timespec){.tv_sec = 1}, NULL);
	}
}

/* The two wildcard addresses in the order in which they are bound: IPv4, then IPv6. */
static int append_wildcards(const struct addrinfo *found, struct addr_list *list)
{
	struct sockaddr_in in = {.sin_family = AF_INET};
	struct sockaddr_in6 in6 = {.sin6_family = AF_INET6};
	int err;

	/* The port stands at the same place in both. */
	in.sin_port = in6.sin6_port = ((const struct sockaddr_in *)found->ai_addr)->sin_port;
	err = append(list, (struct sockaddr *)&in, sizeof(in));
	return err ? err : append(list, (struct sockaddr *)&in6, sizeof(in6));
}

static int append_found(const struct addrinfo *found, struct addr_list *list)
{
	size_t first = list->count;
	int err = 0;

	for (; found && !err; found = found->ai_next) {
		struct addr addr = {.len = found->ai_addrlen};

		if (found->ai_addrlen > sizeof(struct sockaddr_in6))
			continue;
		memcpy(&addr.sa, found->ai_addr, found->ai_addrlen);
		if (!list_has(list, first, &addr))
			err = append(list, found->ai_addr, found->ai_addrlen);
	}
	return err;
}

static int resolve_inet(const struct parts *parts, enum addr_use use, struct addr_list *list)
{
	struct addrinfo *found = NULL;
	int err = look_up(parts, use, AI_ADDRCONFIG, &found);

	if (err)
		err = look_up(parts, use, 0, &found);
	if (err)
		return err;
	if (use == ADDR_PASSIVE && parts->any_host)
		err = append_wildcards(found, list);
	else
		err = append_found(found, list);
	freeaddrinfo(found);
	return err;
}

int addr_resolve(const char *spec, enum addr_use use, struct addr_list *list)
{
	struct parts parts;
	size_t before = list->count;
	int err;

	if (split(spec, use, &parts))
		return EAI_NONAME;
	err = parts.unix_path ? append_unix(spec, list) : resolve_inet(&parts, use, list);
	if (err)
		list->count = before;
	return err;
}

int addr_list_copy(struct addr_list *to, const struct addr_list *from)
{
	struct addr *addrs = malloc((from->count + 1) * sizeof(*addrs)); /* not of no bytes */

	if (!addrs)
		return -ENOMEM;
	if (from->count)
		memcpy(addrs, from->addrs, from->count * sizeof(*addrs));
	*to = (struct addr_list){.addrs = addrs, .count = from->count};
	return 0;
}

void addr_list_free(struct addr_list *list)
{
	free(list->addrs);
	memset(list, 0, sizeof(*list));
}

static const char *fixed_text(const char *fixed, char text[ADDR_TEXT_MAX])
{
	snprintf(text, ADDR_TEXT_MAX, "%s", fixed);
	return text;
}

static const char *unix_text(const struct addr *addr, char text[ADDR_TEXT_MAX])
{
	size_t len = addr->len - offsetof(struct sockaddr_un, sun_path);

	if (addr->len <= offsetof(struct sockaddr_un, sun_path))
		return fixed_text("unnamed socket", text);
	if (addr->un.sun_path[0]) {
		snprintf(text, ADDR_TEXT_MAX, "%.*s", (int)len, addr->un.sun_path);
		return text;
	}
	text[0] = '@';
	for (size_t i = 1; i < len; i++) /* an abstract name may hold any byte, NUL too */
		text[i] = addr->un.sun_path[i] ? addr->un.sun_path[i] : '@';
	text[len] = '\0';
	return text;
}

static bool is_link_local(const struct in6_addr *in6)
{
	return IN6_IS_ADDR_LINKLOCAL(in6) || IN6_IS_ADDR_MC_LINKLOCAL(in6);
}

/* inet_ntop(3) rather than getnameinfo(3), which wants more stack than a conversation has. */
static const char *inet6_text(const struct sockaddr_in6 *in6, char text[ADDR_TEXT_MAX])
{
	char host[INET6_ADDRSTRLEN], scope[IF_NAMESIZE] = "";

	inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof(host));
	/* As getnameinfo(3): only a link-local address is read back with the name of an interface. */
	if (in6->sin6_scope_id && !(is_link_local(&in6->sin6_addr) && if_indextoname(in6->sin6_scope_id, scope)))
		snprintf(scope, sizeof(scope), "%u", in6->sin6_scope_id);
	snprintf(text, ADDR_TEXT_MAX, "%s%s%s:%u", host, *scope ? "%" : "", scope, ntohs(in6->sin6_port));
	return text;
}

const char *addr_text(const struct addr *addr, char text[ADDR_TEXT_MAX])
{
	char host[INET_ADDRSTRLEN];

	if (addr->len < sizeof(addr->sa.sa_family))
		return fixed_text("unnamed socket", text);
	switch (addr->sa.sa_family) {
	case AF_UNIX: return unix_text(addr, text);
	case AF_INET6: return inet6_text(&addr->in6, text);
	case AF_INET:
		inet_ntop(AF_INET, &addr->in.sin_addr, host, sizeof(host));
		snprintf(text, ADDR_TEXT_MAX, "%s:%u", host, ntohs(addr->in.sin_port));
		return text;
	default: return fixed_text("unknown address family", text);
	}
}

void addr_unmap(struct addr *addr)
{
	struct sockaddr_in in = {.sin_family = AF_INET};

	if (addr->len < sizeof(addr->in6) || addr->sa.sa_family != AF_INET6 || !IN6_IS_ADDR_V4MAPPED(&addr->in6.sin6_addr))
		return;
	in.sin_port = addr->in6.sin6_port;
	memcpy(&in.sin_addr, &addr->in6.sin6_addr.s6_addr[12], sizeof(in.sin_addr));
	*addr = (struct addr){.in = in, .len = sizeof(in)};
}

bool addr_equal(const struct addr *a, const struct addr *b)
{
	return a->len == b->len && !memcmp(&a->sa, &b->sa, a->len);
}
