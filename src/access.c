/*
 * Who may come in: see access.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "access.h"

#include "conn.h"
#include "ident.h"
#include "transparent.h"
#include "wrap.h"

#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

enum { AUTH_PORT = 113 };

static atomic_uint auth_port = AUTH_PORT;

/* Whom we talk to, as far as these checks go. */
enum visitor {
	VISITOR_INET,
	VISITOR_UNIX,
	VISITOR_NONE, /* no socket at all */
	VISITOR_GONE,
};

static enum visitor visitor_of(const struct conn *c)
{
	struct addr local = {.len = sizeof(local) - sizeof(local.len)};

	if (c->peer.len)
		return c->peer.sa.sa_family == AF_UNIX ? VISITOR_UNIX : VISITOR_INET;
	return getsockname(c->front.fd, &local.sa, &local.len) < 0 && errno == ENOTSOCK ? VISITOR_NONE : VISITOR_GONE;
}

static void log_gone(struct conn *c)
{
	conn_log(c, LOG_ERR, "getpeername: %s (%d)", strerror(ENOTCONN), ENOTCONN);
	conn_fail(c, CONN_RESET);
}

/* --- libwrap ------------------------------------------------------------------------------------------------------------------------ */

/* Asks the helper process, which may be at its limit. Returns the descriptor that the answer comes from, or -errno. */
static int question(struct conn *c, const char *daemon)
{
	int reply = -1, error = -EAGAIN;

	while (error == -EAGAIN && !c->failed && !c->expired) {
		error = wrap_ask(daemon, c->front.fd, c->service->conf->timeout_busy_s, &reply);
		if (error == -EAGAIN)
			ring_await_poll(c->worker->ring, &c->wait, wrap_asked(), POLLOUT);
	}
	if (error && error != -EAGAIN)
		conn_log(c, LOG_ERR, "libwrap: the helper process cannot be asked: %s (%d)", strerror(-error), -error);
	return error ? error : reply;
}

/* True if the answer is a yes. */
static bool answer(struct conn *c, int reply)
{
	struct chunk *chunk = NULL;
	int n = c->failed ? -ECANCELED : ring_await_recv(c->worker->ring, &c->wait, reply, &chunk);
	bool yes = n == 1 && chunk->data[chunk->start] == 1;

	if (n == 0)
		conn_log(c, LOG_ERR, "libwrap: the helper process has given no answer");
	chunk_put(&c->worker->bufs, chunk);
	close(reply);
	return yes && !c->failed && !c->expired;
}

static bool ask_library(struct conn *c, const struct section *section)
{
	char text[ADDR_TEXT_MAX];
	int reply;
	bool yes;

	conn_deadline(c, c->service->conf->timeout_busy_s, "libwrap");
	reply = question(c, section->name);
	yes = reply >= 0 && answer(c, reply);
	if (c->expired)
		conn_log_expired(c);
	if (c->failed)
		return false;
	if (yes) {
		conn_log(c, LOG_DEBUG, "Service [%s] permitted by libwrap from %s", section->name, addr_text(&c->peer, text));
	} else {
		conn_log(c, LOG_WARNING, "Service [%s] REFUSED by libwrap from %s", section->name, addr_text(&c->peer, text));
		conn_log(c, LOG_DEBUG, "See hosts_access(5) manual for details");
	}
	return yes;
}

/* Returns false: refused, or the connection has failed. */
static bool check_library(struct conn *c, const struct section *section)
{
	if (c->failed)
		return false;
	if (!section->libwrap)
		return true;
	switch (visitor_of(c)) {
	case VISITOR_INET: return ask_library(c, section);
	case VISITOR_UNIX: conn_log(c, LOG_INFO, "Libwrap is not supported on Unix sockets"); return true;
	case VISITOR_NONE: return true;
	case VISITOR_GONE: break;
	}
	log_gone(c);
	return false;
}

bool access_check_host(struct conn *c, const struct section *section)
{
	return check_library(c, section);
}

/* --- ident -------------------------------------------------------------------------------------------------------------------------- */

static unsigned port_of(const struct addr *addr)
{
	return ntohs(addr->sa.sa_family == AF_INET6 ? addr->in6.sin6_port : addr->in.sin_port);
}

static struct addr with_port(const struct addr *addr, unsigned port)
{
	struct addr other = *addr;

	if (other.sa.sa_family == AF_INET6)
		other.in6.sin6_port = htons((uint16_t)port);
	else
		other.in.sin_port = htons((uint16_t)port);
	return other;
}

/* From the address that the client has connected to: its server looks for that very connection. Returns a socket or -1, logged. */
static int ident_socket(struct conn *c, const struct addr *from)
{
	int on = 1, fd = socket(from->sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char text[ADDR_TEXT_MAX];

	if (fd < 0) {
		conn_log(c, LOG_ERR, "s_connect: socket: %s (%d)", strerror(errno), errno);
		return -1;
	}
	if (transparent_listens(c->service->conf)) /* the address may not be this machine's */
		transparent_set(fd, from->sa.sa_family, true);
	setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on));
	if (bind(fd, &from->sa, from->len) == 0)
		return fd;
	conn_log(c, LOG_ERR, "s_connect: bind %s: %s (%d)", addr_text(from, text), strerror(errno), errno);
	close(fd);
	return -1;
}

static bool ident_connect(struct conn *c, int fd)
{
	struct addr to = with_port(&c->peer, atomic_load(&auth_port));
	char text[ADDR_TEXT_MAX];
	int error;

	conn_log(c, LOG_INFO, "s_connect: connecting %s", addr_text(&to, text));
	conn_deadline(c, c->service->conf->timeout_connect_s, "s_connect");
	error = c->failed ? -ECANCELED : ring_await_connect(c->worker->ring, &c->wait, fd, &to);
	if (c->failed)
		return false;
	if (c->expired)
		conn_log(c, LOG_ERR, "s_connect: s_poll_wait %s: TIMEOUTconnect exceeded", addr_text(&to, text));
	else if (error)
		conn_log(c, LOG_ERR, "s_connect: connect %s: %s (%d)", addr_text(&to, text), strerror(-error), -error);
	if (c->expired || error)
		return false;
	conn_log(c, LOG_NOTICE, "s_connect: connected %s", addr_text(&to, text));
	conn_log(c, LOG_DEBUG, "IDENT server connected");
	return true;
}

static bool ident_send(struct conn *c, int fd, const char *text, size_t n)
{
	for (size_t done = 0; done < n;) {
		int r = c->failed ? -ECANCELED : ring_await_send(c->worker->ring, &c->wait, fd, text + done, n - done);

		if (r < 0 && !c->failed && !c->expired)
			conn_log(c, LOG_ERR, "s_write: writesocket: %s (%d)", strerror(-r), -r);
		if (r < 0 || c->failed || c->expired)
			return false;
		done += (size_t)r;
	}
	conn_log(c, LOG_DEBUG, " -> %.*s", (int)n - 2, text);
	return true;
}

static bool ident_receive(struct conn *c, int fd, struct ident_line *line)
{
	enum ident_progress progress = IDENT_MORE;

	while (progress == IDENT_MORE) {
		struct chunk *chunk = NULL;
		int r = c->failed ? -ECANCELED : ring_await_recv(c->worker->ring, &c->wait, fd, &chunk);

		if (r > 0)
			progress = ident_add(line, chunk->data + chunk->start, chunk->end - chunk->start);
		chunk_put(&c->worker->bufs, chunk);
		if (c->failed || c->expired)
			return false;
		if (r == 0)
			conn_log(c, LOG_ERR, "Malformed IDENT response: no end of line");
		else if (r < 0)
			conn_log(c, LOG_ERR, "s_read_eof: readsocket: %s (%d)", strerror(-r), -r);
		if (r <= 0)
			return false;
	}
	if (progress == IDENT_TOO_LONG)
		conn_log(c, LOG_ERR, "fd_getline: Line too long");
	else
		conn_log(c, LOG_DEBUG, " <- %s", line->text);
	return progress == IDENT_WHOLE;
}

static bool ident_judge(struct conn *c, const struct ident_line *line, unsigned ours)
{
	const char *wanted = c->service->conf->ident, *user;
	char text[ADDR_TEXT_MAX];

	switch (ident_parse(line->text, port_of(&c->peer), ours, &user)) {
	case IDENT_USER: break;
	case IDENT_MALFORMED: conn_log(c, LOG_ERR, "Malformed IDENT response"); return false;
	case IDENT_OTHER_TYPE: conn_log(c, LOG_ERR, "Incorrect IDENT response type"); return false;
	case IDENT_OTHER_PORTS: conn_log(c, LOG_ERR, "Incorrect ports in the IDENT response"); return false;
	}
	if (strcmp(user, wanted) != 0) {
		conn_log(c, LOG_WARNING, "Connection from %s REFUSED by IDENT (user \"%s\")", addr_text(&c->peer, text), user);
		return false;
	}
	conn_log(c, LOG_INFO, "IDENT authentication passed");
	return true;
}

static bool ident_converse(struct conn *c, int fd, unsigned ours)
{
	char query[IDENT_QUERY_MAX];
	struct ident_line line = {.n = 0};

	if (!ident_connect(c, fd))
		return false;
	conn_deadline(c, c->service->conf->timeout_busy_s, "s_read_eof");
	if (!ident_send(c, fd, query, ident_query(query, port_of(&c->peer), ours)) || !ident_receive(c, fd, &line)) {
		if (c->expired && !c->failed)
			conn_log_expired(c);
		return false;
	}
	return ident_judge(c, &line, ours);
}

static bool ask_ident(struct conn *c)
{
	struct addr local = {.len = sizeof(local) - sizeof(local.len)}, from;
	bool passed;
	int fd;

	if (getsockname(c->front.fd, &local.sa, &local.len) < 0) {
		log_gone(c);
		return false;
	}
	from = with_port(&local, 0);
	fd = ident_socket(c, &from);
	if (fd < 0)
		return false;
	passed = ident_converse(c, fd, port_of(&local));
	close(fd);
	return passed;
}

/* Who cannot be asked about has not passed. */
static bool check_ident(struct conn *c)
{
	if (c->failed)
		return false;
	if (!c->service->conf->ident)
		return true;
	switch (visitor_of(c)) {
	case VISITOR_INET: return ask_ident(c);
	case VISITOR_UNIX: conn_log(c, LOG_ERR, "IDENT not supported on Unix sockets"); return false;
	case VISITOR_NONE: return true;
	case VISITOR_GONE: log_gone(c); break;
	}
	return false;
}

void access_prepare(const struct config *config)
{
	const struct section *s = config->sections;
	const struct servent *service;

	while (s && !s->ident)
		s = s->next;
	if (!s)
		return;
	service = getservbyname("auth", "tcp");
	if (!service)
		log_global(LOG_WARNING, "Unknown service 'auth': using default %d", AUTH_PORT);
	atomic_store(&auth_port, service ? ntohs((uint16_t)service->s_port) : AUTH_PORT);
}

/* --- both --------------------------------------------------------------------------------------------------------------------------- */

void access_check(struct conn *c)
{
	const struct section *conf = c->service->conf;

	if (!conf->libwrap && !conf->ident)
		return;
	if (!check_library(c, conf) || !check_ident(c))
		conn_fail(c, CONN_RESET);
}
