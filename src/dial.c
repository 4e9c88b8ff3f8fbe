/*
 * Dialling: see dial.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "dial.h"

#include "lookup.h"
#include "transparent.h"

#include <errno.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The addresses to try: those of the section, or looked up now. `mine` is to be freed by the caller. */
static const struct addr_list *addresses(struct conn *c, struct addr_list *mine)
{
	const struct texts *names = c->upstream->names;
	const struct lookup_names wanted = {.names = (const char *const *)names->texts, .count = names->count};
	struct lookup_failure failure;

	if (!c->upstream->delay)
		return &c->upstream->addrs;
	lookup_await(&c->lookup, c->worker, &c->wait, &wanted, mine, &failure);
	if (failure.error)
		conn_log(c, LOG_ERR, "Error resolving \"%s\": %s", names->texts[failure.name], gai_strerror(failure.error));
	return mine;
}

/* --- where to begin ----------------------------------------------------------------------------------------------------------------- */

struct recall {
	struct conn *c;
	struct addr backend;
	bool resumed, found;
};

static void recall(void *arg)
{
	struct recall *r = arg;

	r->resumed = tls_resumed(&r->c->tls);
	r->found = tls_remembered(&r->c->tls, &r->backend);
}

/* The address that served the session before. */
static bool begin_as_before(struct conn *c, const struct addr_list *list, size_t *first)
{
	struct recall r = {.c = c};
	char text[ADDR_TEXT_MAX];

	conn_call(c, recall, &r);
	if (!r.resumed)
		return false;
	if (!r.found) {
		conn_log(c, LOG_NOTICE, "persistence: No cached address found");
		return false;
	}
	for (*first = 0; *first < list->count; ++*first) {
		if (addr_equal(&list->addrs[*first], &r.backend)) {
			conn_log(c, LOG_INFO, "persistence: %s reused", addr_text(&r.backend, text));
			return true;
		}
	}
	conn_log(c, LOG_INFO, "persistence: %s not available", addr_text(&r.backend, text));
	return false;
}

static size_t begin(struct conn *c, const struct addr_list *list)
{
	bool round_robin = c->service->conf->failover == FAILOVER_RR && !c->upstream->delay;
	size_t first = 0;

	if (dial_remembers(c) && begin_as_before(c, list, &first))
		return first;
	first = 0;
	if (round_robin)
		first = atomic_fetch_add_explicit(&c->upstream->next, 1, memory_order_relaxed) % list->count;
	conn_log(c, LOG_INFO, "failover: %s, starting at entry #%zu", round_robin ? "round-robin" : "priority", first);
	return first;
}

bool dial_remembers(const struct conn *c)
{
	const struct upstream *upstream = c->upstream;

	return !c->service->conf->client && c->tls.ssl && !c->redirected && upstream->names->count > 0 &&
	       (upstream->delay || upstream->addrs.count > 1);
}

const struct addr *dial_choose(struct tls *tls)
{
	struct conn *c = container_of(tls, struct conn, tls);
	const struct addr_list *list = &c->upstream->addrs;
	bool redirected = c->service->redirect && !tls_authenticated(tls);

	if (redirected || c->upstream->delay || list->count < 2)
		return NULL;
	if (!c->chosen)
		c->first = begin(c, list);
	c->chosen = true;
	return &list->addrs[c->first];
}

/* --- connecting --------------------------------------------------------------------------------------------------------------------- */

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
		if (section_keeps_source(c->service->conf)) /* `local` takes the client's place, but may be foreign too */
			transparent_set(fd, from->sa.sa_family, true);
		return transparent_bind_ephemeral(c, fd, from);
	}
	conn_log(c, LOG_NOTICE, "s_connect: no local address of the family of %s", addr_text(to, text));
	return true;
}

static bool bind_source(struct conn *c, int fd, const struct addr *to)
{
	if (section_keeps_source(c->service->conf) && c->service->upstream->local.count == 0)
		return transparent_bind(c, fd, to);
	return bind_local(c, fd, to);
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
	if (bind_source(c, fd, to))
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

/* What the client wanted is the only place to go, but for peers that `redirect` sends away. */
static bool is_given(const struct conn *c)
{
	return section_keeps_destination(c->service->conf) && !c->redirected;
}

static void connected(struct conn *c, int fd, const struct addr *to, size_t choice)
{
	char mine[ADDR_TEXT_MAX];
	struct addr local = {.len = sizeof(local) - sizeof(local.len)};

	end_open(&c->back, fd);
	addr_text(to, c->destination);
	conn_log(c, LOG_NOTICE, "s_connect: connected %s", c->destination);
	if (choice > 1 && dial_remembers(c))
		conn_log(c, LOG_INFO, "persistence: %s cached", c->destination);
	if (!conn_wants(c, LOG_NOTICE) && !is_given(c))
		return;
	if (getsockname(fd, &local.sa, &local.len) < 0)
		local.len = 0;
	if (is_given(c) && !transparent_dialled(c, &local, to))
		conn_fail(c, CONN_RESET);
	conn_log(c, LOG_NOTICE, "Service [%s] connected remote server from %s", c->service->conf->name, addr_text(&local, mine));
	conn_log(c, LOG_DEBUG, "Remote descriptor (FD=%d) initialized", fd);
}

/* One address of so many. True when connected. */
static bool dial_one(struct conn *c, const struct addr *to, size_t choice)
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
		connected(c, fd, to, choice);
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
	struct addr original;
	struct addr_list mine = {0}, given = {.addrs = &original};
	const struct addr_list *list = &given;

	if (c->failed)
		return;
	conn_deadline(c, TIMEOUT_FOREVER, NULL);
	if (is_given(c))
		given.count = transparent_destination(c, &original);
	else
		list = addresses(c, &mine);
	if (list->count > 1 && !c->chosen)
		c->first = begin(c, list);
	for (size_t i = 0; i < list->count && !c->failed; i++) {
		const struct addr *to = &list->addrs[(c->first + i) % list->count];

		if (!dial_one(c, to, list->count))
			continue;
		if (dial_remembers(c))
			conn_issue_tickets(c, list->count > 1 ? to : NULL);
		goto out;
	}
	if (!c->failed && (list->count || !is_given(c)))
		conn_log(c, LOG_ERR, list->count ? "No more addresses to connect" : "No remote host resolved");
	conn_fail(c, CONN_RESET);
out:
	addr_list_free(&mine);
}
