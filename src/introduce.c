/*
 * Whose connection it is: see introduce.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "introduce.h"

#include "proxy_header.h"

#include <sys/socket.h>

/* What the client has connected to: with a transparent destination that is what we have connected to, else the socket's address. */
static struct addr destination(const struct conn *c)
{
	struct addr addr = {.len = sizeof(addr) - sizeof(addr.len)};
	int error = section_keeps_destination(c->service->conf) ? getpeername(c->back.fd, &addr.sa, &addr.len)
	                                                        : getsockname(c->front.fd, &addr.sa, &addr.len);

	if (error < 0) /* no socket */
		addr.len = 0;
	return addr;
}

struct introduction {
	struct conn *c;
	struct addr destination;
	unsigned char *header;
	size_t n;
};

static void write_header(void *arg)
{
	struct introduction *i = arg;
	struct tls_facts facts;

	tls_facts(&i->c->tls, &facts);
	i->n = proxy_header_write(i->header, &i->c->peer, &i->destination, &facts);
	tls_forget_name(&i->c->tls);
}

void introduce(struct conn *c)
{
	struct introduction i = {.c = c};
	char source[ADDR_TEXT_MAX], to[ADDR_TEXT_MAX];
	struct chunk *chunk;

	if (c->failed || c->redirected || !c->service->conf->send_proxy)
		return;
	chunk = queue_reserve(&c->back.out, &c->worker->bufs, PROXY_HEADER_MAX);
	if (!chunk) {
		conn_log(c, LOG_ERR, "No memory for the header of the PROXY protocol");
		conn_fail(c, CONN_RESET);
		return;
	}
	i.destination = destination(c);
	i.header = chunk->data + chunk->end;
	conn_call(c, write_header, &i);
	chunk->end += (uint32_t)i.n;
	c->back.out.bytes += i.n;
	conn_log(c, LOG_DEBUG, " -> PROXY version 2, %zu bytes: %s to %s", i.n, addr_text(&c->peer, source),
	         addr_text(&i.destination, to));
}
