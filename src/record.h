/*
 * Record engines: what turns application bytes into TLS records and back after the handshake, behind one interface.
 * An engine sees queues of bytes, never a socket. The engine `openssl` (record_openssl.c) always works.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_RECORD_H
#define TLSPLICE_RECORD_H

#include "buf.h"

#include <stdbool.h>

enum record_result {
	RECORD_OK,     /* everything that could be done is done; more bytes are needed for more */
	RECORD_MORE,   /* stopped at the limit: open again once there is room */
	RECORD_CLOSED, /* the peer's close_notify was read */
	RECORD_FAILED, /* fatal: an alert to the peer may lie in `out` */
};

struct record;

struct record_engine {
	const char *name;
	/* Opens records from record->in, appending what was in them to `plain` until that holds `limit` bytes or more. */
	enum record_result (*open)(struct record *record, struct queue *plain, size_t limit);
	/* Seals all of `plain` into record->out, emptying it. */
	enum record_result (*seal)(struct record *record, struct queue *plain);
	/* Appends a close_notify alert to record->out. */
	enum record_result (*close)(struct record *record);
};

struct record {
	const struct record_engine *engine;
	struct bufs *bufs;
	struct queue *in;  /* from the peer's socket, not yet opened; the socket's owner's */
	struct queue *out; /* to the peer's socket, likewise */
	bool busy;         /* a handshake is under way: seal() and close() have to wait until open() has seen its end */
};

#endif
