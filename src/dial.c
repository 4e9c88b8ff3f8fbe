/*
 * Dialling: see dial.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "dial.h"

#include "lookup.h"

#include <errno.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The addresses to try: those of the section, or looked up now. `mine` is to be freed by the caller. */
static const struct addr_list *addresses(struct conn *c, struct addr_list *mine)
{
	const struct texts *connect = &c->service->conf->connect;
	int error;

	if (!c->service->upstream->delay)
		return &c->service->upstream->addrs;
	lookup_await(&c->lookup, c->worker, &c->wait, (const char *const *)connect->texts, connect->count, mine, &error);
	if (error)
		conn_log(c, LOG_ERR, "Error resolving \"%s\": %s", connect->texts[0], gai_strerror(error));
	return mine;
}

/* Binds to the section's source address of the same family, if it has one. */
static bool bind_local(struct conn *c, int fd, const struct addr *to)
{
	const struct addr_list *local = &c->service->upstream->local;
	char text[ADDR_TEXT_MAX];

	if (local->count == 0 || to->sa.sa_family == AF_UNIX)
		return true;
	for (size_t i = 0; i < local->count; i++) {
		const struct addr *from = &local->addrs[i];

		if (from->sa.sa_family != to->sa.sa_family)
			continue;
		if (bind(fd, &from->sa, from->len) == 0)
			return true;
		conn_log(c, LOG_ERR, "s_connect: bind %s: %s (%d)", addr_text(from, text), strerror(errno), errno);
		return false;
	}
	conn_log(c, LOG_NOTICE, "s_connect: no local address of the family of %s", addr_text(to, text));
	return true;
}

static int new_socket(struct conn *c, const struct addr *to)
{
	const struct section *conf = c->service->conf;
	int fd = socket(to->sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0) {
		conn_log(c, LOG_ERR, "s_connect: socket: %s (%d)", strerror(errno), errno);
		return -1;
	}
	sockopts_apply(&conf->socket[SOCK_REMOTE], SOCK_REMOTE, fd, c->id, conf->debug);
	if (bind_local(c, fd, to))
		return fd;
	close(fd);
	return -1;
}

static void log_failure(struct conn *c, const struct addr *to, int error)
{
	char text[ADDR_TEXT_MAX];

	if (c->expired)
		conn_log(c, LOG_ERR, "s_connect: s_poll_wait %s: TIMEOUTconnect exceeded", addr_text(to, text));
	else
		conn_log(c, LOG_ERR, "s_connect: connect %s: %s (%d)", addr_text(to, text), strerror(-error), -error);
}

static void connected(struct conn *c, int fd, const struct addr *to)
{
	char text[ADDR_TEXT_MAX], mine[ADDR_TEXT_MAX];
	struct addr local = {.len = sizeof(local) - sizeof(local.len)};

	c->back.fd = fd;
	if (c->service->conf->client && c->service->upstream->addrs.count > 1)
		snprintf(c->destination, sizeof(c->destination), "%.*s", (int)sizeof(c->destination) - 1, addr_text(to, text));
	conn_log(c, LOG_NOTICE, "s_connect: connected %s", addr_text(to, text));
	if (!conn_wants(c, LOG_NOTICE))
		return;
	if (getsockname(fd, &local.sa, &local.len) < 0)
		local.len = 0;
	conn_log(c, LOG_NOTICE, "Service [%s] connected remote server from %s", c->service->conf->name, addr_text(&local, mine));
	conn_log(c, LOG_DEBUG, "Remote descriptor (FD=%d) initialized", fd);
}

/* One address. True when connected. */
static bool dial_one(struct conn *c, const struct addr *to)
{
	char text[ADDR_TEXT_MAX];
	int fd, error;

	conn_log(c, LOG_INFO, "s_connect: connecting %s", addr_text(to, text));
	fd = new_socket(c, to);
	if (fd < 0)
		return false;
	conn_deadline(c, c->service->conf->timeout_connect_s, "s_connect");
	error = c->failed ? -ECANCELED : ring_await_connect(c->worker->ring, &c->wait, fd, to);
	if (error == 0 && !c->failed) {
		connected(c, fd, to);
		return true;
	}
	close(fd);
	if (!c->failed) {
		log_failure(c, to, error);
		stats_add(&c->service->stats->connect_failed, 1);
	}
	return false;
}

void dial(struct conn *c)
{
	struct upstream *upstream = c->service->upstream;
	bool round_robin = c->service->conf->failover == FAILOVER_RR && !upstream->delay;
	struct addr_list mine = {0};
	const struct addr_list *list;
	size_t first = 0;

	if (c->failed)
		return;
	conn_deadline(c, TIMEOUT_FOREVER, NULL);
	list = addresses(c, &mine);
	if (list->count > 1) {
		if (round_robin)
			first = atomic_fetch_add_explicit(&upstream->next, 1, memory_order_relaxed) % list->count;
		conn_log(c, LOG_INFO, "failover: %s, starting at entry #%zu", round_robin ? "round-robin" : "priority", first);
	}
	for (size_t i = 0; i < list->count && !c->failed; i++) {
		if (dial_one(c, &list->addrs[(first + i) % list->count]))
			goto out;
	}
	if (!c->failed)
		conn_log(c, LOG_ERR, list->count ? "No more addresses to connect" : "No remote host resolved");
	conn_fail(c, CONN_RESET);
out:
	addr_list_free(&mine);
}
