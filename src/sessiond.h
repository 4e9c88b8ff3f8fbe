/*
 * sessiond: a session cache outside of the process, asked over UDP. Requests are sent and forgotten, but for a GET inside a handshake, whose conversation
 * waits for the answer on the ring; nothing else of the worker does.
 * A packet is version 1, type 1, seconds 2 (big-endian), session id 32 (padded with zeros), then the session.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_SESSIOND_H
#define TLSPLICE_SESSIOND_H

#include "addr.h"
#include "tls.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	SESSIOND_ID = 32,
	SESSIOND_HEAD = 4 + SESSIOND_ID,
	SESSIOND_VALUE_MAX = TLS_CACHED_MAX,
	SESSIOND_PACKET_MAX = SESSIOND_HEAD + SESSIOND_VALUE_MAX,
	SESSIOND_SECONDS_MAX = 64800,
};

enum sessiond_request { SESSIOND_NEW, SESSIOND_GET, SESSIOND_REMOVE };

enum sessiond_answer { SESSIOND_FOUND, SESSIOND_NOT_FOUND, SESSIOND_MALFORMED };

/* Writes a packet; the id has up to SESSIOND_ID bytes and the session up to SESSIOND_VALUE_MAX. Returns its size. */
size_t sessiond_write(unsigned char packet[SESSIOND_PACKET_MAX], enum sessiond_request request, long seconds,
                      const unsigned char *id, size_t id_len, const unsigned char *session, size_t n);

/* Reads an answer to a GET of that id, all 32 bytes of which must come back. *session points into the packet. */
enum sessiond_answer sessiond_read(const unsigned char *packet, size_t size, const unsigned char *id, size_t id_len,
                                   const unsigned char **session, size_t *n);

/* True for an address that only this machine can answer from. */
bool sessiond_is_local(const struct addr *addr);

/* What tls.cache is of a connection whose service has a sessiond: on this machine, or on another one. */
extern const struct tls_cache sessiond_here, sessiond_away;

#endif
