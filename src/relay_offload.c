/*
 * Relay: from OpenSSL to the record layer of our own, and from there to the kernel, each direction by itself, at a record boundary.
 * See relay.h; kernel-notes/records.md and ktls.md have the why.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "relay.h"

#include <errno.h>
#include <string.h>

enum {
	/*
	 * A connection that has carried this much, or has carried nothing for a while, is handed over from OpenSSL: that costs about 10 us
	 * net, which a short exchange does not earn back (kernel-notes/records.md).
	 */
	PROMOTE_BYTES = 16384,
	/* Servers that send session tickets do so with their first bytes; a client whose server has none is not to wait for ever. */
	TICKETS_BY_BYTES = 256 << 10,
};

static struct end *tls_end_of(const struct pump *p)
{
	return p->direction == KTLS_SEND ? p->to : p->from;
}

/* The last word on a direction. */
static void decide(struct pump *p, enum ktls_outcome outcome, int error)
{
	struct conn *c = p->from->conn;

	p->offload = OFFLOAD_NONE;
	stats_add(&c->service->stats->ktls[p->direction][outcome], 1);
	tls_log_ktls(&c->tls, p->direction, outcome, error);
}

static void want(struct pump *p)
{
	enum ktls_outcome outcome = tls_ktls_outcome(&p->from->conn->tls, p->direction);

	p->offload = OFFLOAD_WANTED;
	if (outcome != KTLS_KERNEL)
		decide(p, outcome, 0);
}

static bool is_wanted(const struct conn *c)
{
	return c->to_tls.offload == OFFLOAD_WANTED || c->to_plain.offload == OFFLOAD_WANTED;
}

void offload_start(struct conn *c)
{
	const struct section *conf = c->service->conf;
	uint64_t after = (uint64_t)conf->ktls_after;

	want(&c->to_tls);
	want(&c->to_plain);
	c->promotion = conf->inplace || is_wanted(c) ? TLS_NOT_YET : TLS_STAYS;
	c->promote_at = conf->inplace ? PROMOTE_BYTES : UINT64_MAX;
	if (is_wanted(c) && after < c->promote_at)
		c->promote_at = after;
}

/* What was still to go to the kernel does not. */
static void give_up(struct conn *c, enum ktls_outcome why)
{
	if (c->to_tls.offload != OFFLOAD_NONE)
		decide(&c->to_tls, why, 0);
	if (c->to_plain.offload != OFFLOAD_NONE)
		decide(&c->to_plain, why, 0);
}

static uint64_t carried(const struct conn *c)
{
	return c->to_tls.bytes + c->to_plain.bytes;
}

static void promote(struct conn *c, bool idle)
{
	c->promotion = tls_promote(&c->tls, !idle && carried(c) < TICKETS_BY_BYTES);
	if (c->promotion == TLS_NOT_YET && idle)
		c->promotion = TLS_STAYS; /* nothing was under way, and still it cannot be */
	if (c->promotion == TLS_PROMOTED)
		stats_add(&c->service->stats->promoted, 1);
	else if (c->promotion == TLS_NOT_YET)
		c->promote_at = carried(c) + carried(c) / 8 + 1; /* soon, but not at each step */
	else
		give_up(c, KTLS_OPTIONS);
}

static void make_due(struct pump *p)
{
	if (p->offload != OFFLOAD_WANTED)
		return;
	p->offload = OFFLOAD_DUE;
	offload_try(p);
	relay_receive(p); /* in the manner that leads to a boundary */
}

void offload_moved(struct conn *c)
{
	if (c->promotion == TLS_NOT_YET && carried(c) >= c->promote_at)
		promote(c, false);
	if (c->promotion == TLS_PROMOTED && carried(c) >= (uint64_t)c->service->conf->ktls_after) {
		make_due(&c->to_tls);
		make_due(&c->to_plain);
	}
}

void offload_idle(struct conn *c)
{
	if (c->promotion == TLS_NOT_YET && (c->service->conf->inplace || carried(c) >= (uint64_t)c->service->conf->ktls_after))
		promote(c, true);
	offload_moved(c);
}

/* Sending: all that we sealed is with TCP. Receiving: we hold whole records only, none in fact, and no receive may bring more. */
static bool at_boundary(const struct pump *p)
{
	const struct end *e = tls_end_of(p);

	return p->direction == KTLS_SEND ? e->out.bytes == 0 && !e->send.armed : e->in.bytes == 0 && !e->recv.armed;
}

void offload_try(struct pump *p)
{
	struct end *e = tls_end_of(p);
	int error;

	if (p->offload != OFFLOAD_DUE || !at_boundary(p))
		return;
	error = e->fd == e->to_fd && !e->file ? tls_offload(e->tls, p->direction, e->fd) : -ENOTSOCK;
	if (!error && p->direction == KTLS_SEND)
		e->seals = true;
	else if (!error)
		e->opens = true;
	decide(p, error ? KTLS_REFUSED : KTLS_KERNEL, error);
}

bool offload_holds(const struct pump *p)
{
	return p->offload == OFFLOAD_DUE && p->direction == KTLS_SEND;
}

void offload_end(struct conn *c)
{
	give_up(c, KTLS_SHORT);
}
