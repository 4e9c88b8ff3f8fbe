/*
 * Transparent proxying: the client's address towards the upstream, and the destination that the client meant. kernel-notes/tproxy.md has the why.
 * For listen.c (the listeners) and dial.c (the rest, on the connection's coroutine).
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_TRANSPARENT_H
#define TLSPLICE_TRANSPARENT_H

#include "addr.h"
#include "conn.h"
#include "service.h"

#include <stdbool.h>

/*
 * Lets a socket have addresses that are not this machine's (ip(7), IP_TRANSPARENT; ipv6(7), IPV6_TRANSPARENT), or not any more.
 * Returns 0 or -errno: -EPERM without CAP_NET_ADMIN and CAP_NET_RAW.
 */
int transparent_set(int fd, int family, bool on);

/* Whether listeners of the section are to be given connections to foreign addresses: it asks for that, or one of its virtual hosts does. */
bool transparent_listens(const struct section *section);

/*
 * transparent = source: binds a socket that is to connect `to` to the client's address, and to its port where that can be. Returns false, after logging why,
 * if it cannot be bound. The socket may be of IPv4 for a client that came to an IPv6 socket with an IPv4 address.
 */
bool transparent_bind(struct conn *c, int fd, const struct addr *to);

/* Binds a socket that is to connect to an address without a port, which connect(2) will choose. Returns false after logging why not. */
bool transparent_bind_ephemeral(struct conn *c, int fd, const struct addr *from);

/*
 * transparent = destination: where the client wanted to go, before netfilter sent its connection here. Sets c->translated where that was by NAT.
 * Returns false, after logging why, if there is no telling, or if that is tlsplice itself.
 */
bool transparent_destination(struct conn *c, struct addr *destination);

/*
 * transparent = destination: a socket that has been connected to the client's destination. Returns false, after logging why, if that was sent back to us,
 * by a rule for this machine's own connections. transparent_forget() when the connection ends, whatever became of it.
 */
bool transparent_dialled(struct conn *c, const struct addr *local, const struct addr *destination);
void transparent_forget(struct conn *c);

/* Whether one of these addresses to listen on is reached at `addr`: the very address, or every address of this machine and `addr` is one. */
bool transparent_reaches(const struct addr_list *listeners, const struct addr *addr);

#endif
