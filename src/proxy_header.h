/*
 * The header of the PROXY protocol, version 2: what a backend is told of a connection before its first byte
 * (https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt, section 2.2). It only writes bytes; introduce.c and tests use it.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_PROXY_HEADER_H
#define TLSPLICE_PROXY_HEADER_H

#include "addr.h"
#include "tls_facts.h"

#include <stddef.h>

/* Room for any header: it has an upper bound, and one TCP segment holds it. */
enum { PROXY_HEADER_MAX = 1300 };

/*
 * Writes the header and returns its length. `source`: the client; `destination`: what it has connected to. Addresses that are not known (len 0), or
 * not of the same family, are left out: the header is a LOCAL one then, and the backend takes the proxy's own address. Names of more than 255 bytes are left out too.
 */
size_t proxy_header_write(unsigned char header[PROXY_HEADER_MAX], const struct addr *source, const struct addr *destination,
                          const struct tls_facts *tls);

#endif
