/*
 * Transparent proxying: see transparent.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "transparent.h"

#include <errno.h>
#include <linux/netfilter_ipv4.h> /* SO_ORIGINAL_DST */
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

/* linux/netfilter_ipv6/ip6_tables.h does not go with netinet/in.h everywhere. */
enum { ORIGINAL_DST_6 = 80 };

enum { PRIVILEGED_PORTS = 1024 };

static in_port_t *port_of(struct addr *addr)
{
	return addr->sa.sa_family == AF_INET6 ? &addr->in6.sin6_port : &addr->in.sin_port;
}

int transparent_set(int fd, int family, bool on)
{
	int value = on, error;

	error = family == AF_INET6 ? setsockopt(fd, IPPROTO_IPV6, IPV6_TRANSPARENT, &value, sizeof(value))
	                           : setsockopt(fd, IPPROTO_IP, IP_TRANSPARENT, &value, sizeof(value));
	return error < 0 ? -errno : 0;
}

bool transparent_listens(const struct section *section)
{
	bool listens = section->transparent != TRANSPARENT_NONE;

	for (const struct virtual_host *host = section->hosts; host && !listens; host = host->next)
		listens = host->section->transparent != TRANSPARENT_NONE;
	return listens;
}

/* --- source ------------------------------------------------------------------------------------------------------------------------- */

/* Without the privilege IP_FREEBIND lets bind(2) pass, and the answers may still find their way back. */
static void allow_foreign(struct conn *c, int fd, int family)
{
	static const int one = 1;
	int error = transparent_set(fd, family, true);

	if (!error) {
		conn_log(c, LOG_INFO, "IP_TRANSPARENT socket option set");
		return;
	}
	conn_log(c, LOG_ERR, "setsockopt IP_TRANSPARENT: %s (%d)", strerror(-error), -error);
	if (setsockopt(fd, IPPROTO_IP, IP_FREEBIND, &one, sizeof(one)) == 0)
		conn_log(c, LOG_INFO, "IP_FREEBIND socket option set");
	else
		conn_log(c, LOG_ERR, "setsockopt IP_FREEBIND: %s (%d)", strerror(errno), errno);
}

/* Returns 0 or -errno, which but for -EADDRINUSE has been logged. */
static int bind_original(struct conn *c, int fd, const struct addr *from)
{
	if (bind(fd, &from->sa, from->len) == 0) {
		conn_log(c, LOG_INFO, "bind succeeded on the original port");
		return 0;
	}
	if (errno != EADDRINUSE)
		conn_log(c, LOG_ERR, "bind (original port): %s (%d)", strerror(errno), errno);
	return -errno;
}

/* One port serves connections to many destinations, so the choice is left to connect(2). */
bool transparent_bind_ephemeral(struct conn *c, int fd, const struct addr *from)
{
	static const int one = 1;

	setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof(one));
	if (bind(fd, &from->sa, from->len) == 0) {
		conn_log(c, LOG_INFO, "bind succeeded on an ephemeral port");
		return true;
	}
	conn_log(c, LOG_ERR, "bind (ephemeral port): %s (%d)", strerror(errno), errno);
	return false;
}

bool transparent_bind(struct conn *c, int fd, const struct addr *to)
{
	struct addr from = c->peer;
	int error = -EADDRINUSE;

	if (from.len == 0) {
		conn_log(c, LOG_ERR, "Transparent source needs a socket");
		return false;
	}
	addr_unmap(&from);
	if (from.sa.sa_family != to->sa.sa_family) {
		conn_log(c, LOG_DEBUG, "Cannot assign an AF=%d address an AF=%d socket", from.sa.sa_family, to->sa.sa_family);
		return false;
	}
	if (from.sa.sa_family == AF_UNIX) /* to a Unix socket: there is no address to keep */
		return true;
	allow_foreign(c, fd, from.sa.sa_family);
	/* After NAT connection tracking knows client, port and destination already, and would send our packets where it sent the client's: to us. */
	if (ntohs(*port_of(&from)) >= PRIVILEGED_PORTS && !c->translated)
		error = bind_original(c, fd, &from);
	if (error != -EADDRINUSE)
		return error == 0;
	*port_of(&from) = 0;
	return transparent_bind_ephemeral(c, fd, &from);
}

/* --- destination -------------------------------------------------------------------------------------------------------------------- */

/* What connection tracking knows of it. Returns 0 or -errno: -ENOPROTOOPT where there is no connection tracking, -ENOENT if this one is not tracked. */
static int before_nat(int fd, struct addr *addr)
{
	*addr = (struct addr){.len = sizeof(addr->in6)};
	if (getsockopt(fd, IPPROTO_IPV6, ORIGINAL_DST_6, &addr->sa, &addr->len) == 0)
		return 0;
	addr->len = sizeof(addr->in);
	if (getsockopt(fd, IPPROTO_IP, SO_ORIGINAL_DST, &addr->sa, &addr->len) == 0)
		return 0;
	addr->len = 0;
	return -errno;
}

/* What a socket that is bound to the address for a moment says. Where anybody may bind to anything (net.ipv4.ip_nonlocal_bind) every address counts. */
static bool is_of_this_machine(const struct addr *addr)
{
	struct addr probe = *addr;
	int fd = socket(addr->sa.sa_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	bool local;

	*port_of(&probe) = 0;
	local = fd < 0 || bind(fd, &probe.sa, probe.len) == 0 || errno != EADDRNOTAVAIL;
	if (fd >= 0)
		close(fd);
	return local;
}

static bool is_wildcard(const struct addr *addr)
{
	return addr->sa.sa_family == AF_INET6 ? IN6_IS_ADDR_UNSPECIFIED(&addr->in6.sin6_addr)
	                                      : addr->in.sin_addr.s_addr == htonl(INADDR_ANY);
}

static bool same_host(const struct addr *a, const struct addr *b)
{
	if (a->sa.sa_family != b->sa.sa_family)
		return false;
	if (a->sa.sa_family == AF_INET6)
		return IN6_ARE_ADDR_EQUAL(&a->in6.sin6_addr, &b->in6.sin6_addr);
	return a->in.sin_addr.s_addr == b->in.sin_addr.s_addr;
}

static bool reaches(const struct addr *listener, const struct addr *addr)
{
	struct addr at = *listener;

	if (at.sa.sa_family != AF_INET && at.sa.sa_family != AF_INET6)
		return false;
	addr_unmap(&at);
	if (*port_of(&at) != 0 && *port_of(&at) != ((addr->sa.sa_family == AF_INET6) ? addr->in6.sin6_port : addr->in.sin_port))
		return false;
	if (!is_wildcard(&at))
		return same_host(&at, addr);
	/* :: takes IPv4 along unless it is told not to. */
	return (at.sa.sa_family == addr->sa.sa_family || at.sa.sa_family == AF_INET6) && is_of_this_machine(addr);
}

bool transparent_reaches(const struct addr_list *listeners, const struct addr *addr)
{
	for (size_t i = 0; i < listeners->count; i++)
		if (reaches(&listeners->addrs[i], addr))
			return true;
	return false;
}

/* Whoever connects to a listener directly would be connected to it once more, and so on. */
static bool is_tlsplice(const struct generation *g, const struct addr *addr)
{
	for (size_t i = 0; i < g->config->section_count; i++)
		if (transparent_reaches(&g->commons[i].accept, addr))
			return true;
	return false;
}

/* --- ourselves, by way of netfilter --------------------------------------------------------------------------------------------------- */

/*
 * A rule that redirects what this machine sends, and has no exception for us, brings our own connections back: each would make another one. So both ends
 * of such connections are known to all workers, by source and destination: what we have dialled, and what we have accepted. Whichever end comes second
 * finds the other. A slot that is overwritten is a loop that is found one round later.
 */
enum { ENDS = 1 << 14 };
static atomic_uint_least64_t dialled[ENDS], accepted[ENDS];

static uint64_t mix(uint64_t tag, const struct addr *addr)
{
	struct addr plain = *addr;
	uint32_t words[5] = {0};

	addr_unmap(&plain);
	if (plain.sa.sa_family == AF_INET6)
		memcpy(words, &plain.in6.sin6_addr, sizeof(plain.in6.sin6_addr));
	else
		memcpy(words, &plain.in.sin_addr, sizeof(plain.in.sin_addr));
	words[4] = *port_of(&plain);
	for (int i = 0; i < 5; i++) {
		tag = (tag ^ words[i]) * 0xff51afd7ed558ccd;
		tag ^= tag >> 32;
	}
	return tag;
}

/* Of both addresses and ports of a connection; never 0. */
static uint64_t tag_of(const struct addr *source, const struct addr *destination)
{
	uint64_t tag = mix(mix(0x9e3779b97f4a7c15, source), destination);

	return tag ? tag : 1;
}

/* Returns true if the other end is known already. */
static bool meet(atomic_uint_least64_t ends[ENDS], atomic_uint_least64_t others[ENDS], uint64_t tag)
{
	atomic_store(&ends[tag % ENDS], tag);
	return atomic_load(&others[tag % ENDS]) == tag;
}

static void leave(atomic_uint_least64_t ends[ENDS], uint64_t tag)
{
	uint_least64_t expected = tag;

	if (tag)
		atomic_compare_exchange_strong(&ends[tag % ENDS], &expected, 0);
}

/* With the client's address as the source both connections look alike. */
static bool is_watched(const struct conn *c)
{
	return c->service->conf->transparent == TRANSPARENT_DESTINATION;
}

static bool is_from_us(struct conn *c, const struct addr *destination)
{
	char text[ADDR_TEXT_MAX];

	if (!is_watched(c))
		return false;
	c->accepted_tag = tag_of(&c->peer, destination);
	if (!meet(accepted, dialled, c->accepted_tag))
		return false;
	conn_log(c, LOG_ERR, "%s is tlsplice itself: connection refused; netfilter must leave alone what tlsplice sends",
	         addr_text(&c->peer, text));
	return true;
}

bool transparent_dialled(struct conn *c, const struct addr *local, const struct addr *destination)
{
	char text[ADDR_TEXT_MAX];

	if (!is_watched(c) || local->len == 0)
		return true;
	c->dialled_tag = tag_of(local, destination);
	if (!meet(dialled, accepted, c->dialled_tag))
		return true;
	conn_log(c, LOG_ERR, "The connection from %s came to tlsplice itself: netfilter must leave alone what tlsplice sends",
	         addr_text(local, text));
	return false;
}

void transparent_forget(struct conn *c)
{
	leave(accepted, c->accepted_tag);
	leave(dialled, c->dialled_tag);
}

bool transparent_destination(struct conn *c, struct addr *destination)
{
	struct addr here = {.len = sizeof(here) - sizeof(here.len)};
	char text[ADDR_TEXT_MAX];
	int error;

	if (getsockname(c->front.fd, &here.sa, &here.len) < 0 || (here.sa.sa_family != AF_INET && here.sa.sa_family != AF_INET6))
		here.len = 0;
	addr_unmap(&here);
	error = before_nat(c->front.fd, destination);
	if (error && here.len) /* with TPROXY the socket has the address that the client meant, tracked or not */
		*destination = here;
	addr_unmap(destination);
	c->translated = !error && !(same_host(destination, &here) && *port_of(destination) == *port_of(&here));
	if (destination->len && !is_tlsplice(c->service->set->generation, destination))
		return !is_from_us(c, destination);
	if (error)
		conn_log(c, LOG_ERR, "getsockopt SO_ORIGINAL_DST: %s (%d)", strerror(-error), -error);
	if (destination->len)
		conn_log(c, LOG_ERR, "Transparent destination %s is tlsplice itself: connection refused",
		         addr_text(destination, text));
	return false;
}
