/*
 * Socket addresses: parse, resolve, print. The forms are those of stunnel and two more (README).
 * Everyone may use it. addr_resolve() blocks: workers reach it through the job pool only.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_ADDR_H
#define TLSPLICE_ADDR_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>

struct addr {
	union {
		struct sockaddr sa;
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
		struct sockaddr_un un;
	};
	socklen_t len; /* bytes of the union in use, 0 = no address */
};

struct addr_list {
	struct addr *addrs; /* malloc()ed */
	size_t count;
};

/* "host:port" as in the logs; a Unix path, or "@name" for an abstract one. */
enum { ADDR_TEXT_MAX = 140 };

enum addr_use {
	ADDR_PASSIVE, /* accept: a bare port means every local address, IPv4 first */
	ADDR_ACTIVE,  /* connect: a bare port means the loopback addresses */
	ADDR_HOST,    /* local: a host without a port */
};

/*
 * Checks the form of an address without looking anything up.
 * Returns NULL when it is well formed, else what is wrong with it (a constant string).
 */
const char *addr_check(const char *spec, enum addr_use use);

/*
 * Resolves `spec` with getaddrinfo(3), blocking; EAI_AGAIN is tried three times, a second apart; AI_ADDRCONFIG first, then without.
 * On success appends to `list` (which must be zeroed or hold earlier results) and returns 0, else a getaddrinfo EAI_ code
 * (EAI_MEMORY, EAI_NONAME, ...; gai_strerror(3) explains it) with `list` untouched.
 */
int addr_resolve(const char *spec, enum addr_use use, struct addr_list *list);

/* True when no lookup is needed: numeric host and port, a bare numeric port, or a Unix socket. */
bool addr_is_numeric(const char *spec);

/* Copies a list. Returns 0, or -ENOMEM with `to` untouched. */
int addr_list_copy(struct addr_list *to, const struct addr_list *from);

/* Frees what addr_resolve() appended and zeroes the list. */
void addr_list_free(struct addr_list *list);

/* Writes the address as the logs show it ("127.0.0.1:443", "::1:443", "/run/x.sock", "@name", "unnamed socket") and returns `text`. */
const char *addr_text(const struct addr *addr, char text[ADDR_TEXT_MAX]);

/* ::ffff:192.0.2.1, as sockets of IPv6 have it, becomes 192.0.2.1. Other addresses stay. */
void addr_unmap(struct addr *addr);

bool addr_equal(const struct addr *a, const struct addr *b);

#endif
