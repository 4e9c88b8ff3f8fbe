/*
 * What this kernel's io_uring can do, found out by trying: versions say little, since distributions and containers take away and add.
 * For kernel.c, which reports it.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_RING_PROBE_H
#define TLSPLICE_RING_PROBE_H

#include <stdbool.h>

enum ring_feature {
	RING_DEFER_TASKRUN, /* SINGLE_ISSUER | DEFER_TASKRUN, as ring_open() wants it */
	RING_REGISTERED,    /* the ring's own descriptor registered */
	RING_BUFFERS,       /* rings of provided buffers */
	RING_ACCEPT_MANY,
	RING_RECV_MANY,
	RING_RECVMSG_MANY,
	RING_BUNDLES,     /* a receive fills, a send drains several buffers (Linux 6.10) */
	RING_INCREMENTAL, /* a receive uses part of a buffer (Linux 6.12) */
	RING_SEND_ZC,
	RING_SPLICE,
	RING_SETSOCKOPT, /* as an operation of the ring (Linux 6.7) */
	RING_FEATURES
};

struct ring_support {
	int error; /* 0, or why there is no ring: -errno; see ring_explain() */
	bool has[RING_FEATURES];
};

/* Opens a ring and connections over the loopback interface, tries everything once, and closes them. */
void ring_probe(struct ring_support *support);

#endif
