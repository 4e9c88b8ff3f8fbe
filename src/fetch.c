/*
 * Fetching from an OCSP responder: see fetch.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "fetch.h"

#include "coro.h"
#include "log.h"

#include <errno.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define fetch_log(f, level, ...) ((void)((f)->debug >= (level) && (log_write((level), (f)->log_id, __VA_ARGS__), 0)))

void fetch_interrupt(struct worker *worker, struct ring_wait *wait, struct lookup **lookup)
{
	if (*lookup)
		lookup_abandon(lookup);
	else
		ring_cancel(worker->ring, &wait->op);
}

static void expired(struct timer *timer)
{
	struct fetch *f = container_of(timer, struct fetch, deadline);

	f->expired = true;
	fetch_interrupt(f->worker, f->wait, f->lookup);
}

/* What an operation's result comes to once one knows who ended it: the deadline, or somebody else. */
static int outcome(const struct fetch *f, int res)
{
	if (f->expired)
		return -ETIMEDOUT;
	return f->wait->op.cancelled ? -ECANCELED : res;
}

static int take_url(const struct fetch *f, const char *text, struct ocsp_url *url)
{
	int error = ocsp_url_parse(text, url);

	if (error == -EPROTONOSUPPORT)
		fetch_log(f, LOG_ERR, "OCSP: TLS not supported for OCSP - an additional stunnel service needs to be defined");
	else if (error)
		fetch_log(f, LOG_ERR, "OCSP: Failed to parse the OCSP URL");
	return error;
}

/* A number need not wait for the resolver, which may be busy with names. */
struct number {
	const char *target;
	struct addr_list list;
};

static void resolve_number(void *arg)
{
	struct number *n = arg;

	if (addr_is_numeric(n->target))
		addr_resolve(n->target, ADDR_ACTIVE, &n->list);
}

static int look_up(struct fetch *f, const char *target, struct addr_list *list)
{
	struct number number = {.target = target};
	struct lookup_names names = {.names = &target, .count = 1, .background = f->background};
	struct lookup_failure failure;
	int error;

	coro_call(resolve_number, &number);
	*list = number.list;
	if (list->count)
		return 0;
	error = lookup_await(f->lookup, f->worker, f->wait, &names, list, &failure);
	if (failure.error)
		fetch_log(f, LOG_ERR, "Error resolving \"%s\": %s", target, gai_strerror(failure.error));
	return f->expired ? -ETIMEDOUT : error;
}

/* One address is tried: the first of IPv4, else the first. */
static int resolve(struct fetch *f, const char *target, struct addr *addr)
{
	struct addr_list list = {0};
	size_t chosen = 0;
	int error = look_up(f, target, &list);

	if (!error && list.count == 0)
		error = -ENOENT;
	if (!error) {
		while (chosen < list.count && list.addrs[chosen].sa.sa_family != AF_INET)
			chosen++;
		*addr = list.addrs[chosen < list.count ? chosen : 0];
	}
	addr_list_free(&list);
	if (error && error != -ECANCELED)
		fetch_log(f, LOG_ERR, "OCSP: Failed to resolve the OCSP responder address");
	return error;
}

static void log_connect_failure(const struct fetch *f, const struct addr *addr, int error)
{
	char text[ADDR_TEXT_MAX];

	if (error == -ETIMEDOUT && f->expired)
		fetch_log(f, LOG_ERR, "s_connect: s_poll_wait %s: TIMEOUTocsp exceeded", addr_text(addr, text));
	else if (error != -ECANCELED)
		fetch_log(f, LOG_ERR, "s_connect: connect %s: %s (%d)", addr_text(addr, text), strerror(-error), -error);
}

/* Returns the connected socket or -errno. */
static int dial_responder(struct fetch *f, const struct addr *addr, const char *target)
{
	char text[ADDR_TEXT_MAX];
	int error, fd = socket(addr->sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0) {
		error = -errno;
		fetch_log(f, LOG_ERR, "s_connect: socket: %s (%d)", strerror(-error), -error);
		return error;
	}
	fetch_log(f, LOG_INFO, "s_connect: connecting %s", addr_text(addr, text));
	error = outcome(f, ring_await_connect(f->worker->ring, f->wait, fd, addr));
	if (error) {
		log_connect_failure(f, addr, error);
		close(fd);
		return error;
	}
	fetch_log(f, LOG_NOTICE, "s_connect: connected %s", addr_text(addr, text));
	fetch_log(f, LOG_DEBUG, "OCSP: Connected %s", target);
	return fd;
}

static int send_all(struct fetch *f, int fd, const void *data, size_t n)
{
	for (size_t done = 0; done < n;) {
		int r = outcome(f, ring_await_send(f->worker->ring, f->wait, fd, (const char *)data + done, n - done));

		if (r < 0)
			return r;
		done += (size_t)r;
	}
	return 0;
}

static int receive_reply(struct fetch *f, int fd, struct ocsp_reply *reply)
{
	enum ocsp_progress progress = OCSP_REPLY_MORE;

	while (progress == OCSP_REPLY_MORE) {
		struct chunk *chunk = NULL;
		int r = outcome(f, ring_await_recv(f->worker->ring, f->wait, fd, &chunk));

		if (r >= 0)
			progress = ocsp_reply_add(reply, chunk ? chunk->data + chunk->start : NULL,
			                          chunk ? chunk->end - chunk->start : 0);
		chunk_put(&f->worker->bufs, chunk);
		if (r < 0)
			return r;
	}
	if (progress == OCSP_REPLY_WHOLE)
		return 0;
	fetch_log(f, LOG_ERR, "OCSP: OCSP_sendreq_nbio: %s", reply->wrong);
	return -EBADMSG;
}

/* Head and request in one piece, for a responder that answers before it has seen everything. */
static int send_request(struct fetch *f, int fd, const struct ocsp_url *url, const unsigned char *request, size_t n)
{
	char *text = malloc(OCSP_HEAD_MAX + n);
	size_t head;
	int error;

	if (!text)
		return -ENOMEM;
	head = ocsp_request_head(url, n, text);
	memcpy(text + head, request, n);
	error = send_all(f, fd, text, head + n);
	free(text);
	return error;
}

static int converse(struct fetch *f, const struct ocsp_url *url, const unsigned char *request, size_t n, struct ocsp_reply *reply)
{
	char target[OCSP_TARGET_MAX];
	struct addr addr;
	int fd, error;

	ocsp_url_target(url, target);
	error = resolve(f, target, &addr);
	if (error)
		return error;
	fd = dial_responder(f, &addr, target);
	if (fd < 0)
		return fd;
	error = send_request(f, fd, url, request, n);
	if (!error)
		error = receive_reply(f, fd, reply);
	close(fd);
	if (!error)
		fetch_log(f, LOG_DEBUG, "OCSP: Response received");
	else if (error == -ETIMEDOUT && f->expired)
		fetch_log(f, LOG_INFO, "OCSP: s_poll_wait: TIMEOUTocsp exceeded");
	else if (error != -ECANCELED && error != -EBADMSG)
		fetch_log(f, LOG_ERR, "OCSP: OCSP_sendreq_nbio: %s (%d)", strerror(-error), -error);
	return error;
}

/* fetch(), not counted. */
static int try_fetch(struct fetch *f, const char *url, const unsigned char *request, size_t n, struct ocsp_reply *reply)
{
	uint64_t when_ms = ring_now_ms(f->worker->ring) + (f->timeout_s > 0 ? (uint64_t)f->timeout_s * 1000 : 0);
	struct ocsp_url parsed;
	int error = take_url(f, url, &parsed);

	if (error)
		return error;
	f->expired = false;
	f->deadline.expired = expired;
	if (timer_arm(&f->worker->timers, &f->deadline, when_ms) < 0) {
		fetch_log(f, LOG_ERR, "OCSP: No memory for a time-out");
		return -ENOMEM;
	}
	error = converse(f, &parsed, request, n, reply);
	timer_disarm(&f->worker->timers, &f->deadline);
	return error;
}

int fetch(struct fetch *f, const char *url, const unsigned char *request, size_t n, struct ocsp_reply *reply)
{
	int error = try_fetch(f, url, request, n, reply);

	stats_add(&f->stats->ocsp_asked, 1);
	stats_add(&f->stats->ocsp_unanswered, error != 0);
	return error;
}
