/*
 * sessiond: see sessiond.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "sessiond.h"

#include "conn.h"
#include "coro.h"
#include "timer.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

enum {
	VERSION = 1,
	ANSWER_FOUND = 0x81,
	WAIT_MS = 200,    /* for an answer; the client then has a full handshake */
	PACKETS_MAX = 16, /* looked at in that time */
};

static const char *const request_names[] = {"new", "get", "remove"};

/* --- packets ------------------------------------------------------------------------------------------------------------------------ */

size_t sessiond_write(unsigned char packet[SESSIOND_PACKET_MAX], enum sessiond_request request, long seconds,
                      const unsigned char *id, size_t id_len, const unsigned char *session, size_t n)
{
	if (seconds < 0)
		seconds = 0;
	if (seconds > SESSIOND_SECONDS_MAX)
		seconds = SESSIOND_SECONDS_MAX;
	memset(packet, 0, SESSIOND_HEAD);
	packet[0] = VERSION;
	packet[1] = (unsigned char)request;
	packet[2] = (unsigned char)(seconds >> 8);
	packet[3] = (unsigned char)seconds;
	memcpy(packet + 4, id, id_len);
	if (n)
		memcpy(packet + SESSIOND_HEAD, session, n);
	return SESSIOND_HEAD + n;
}

enum sessiond_answer sessiond_read(const unsigned char *packet, size_t size, const unsigned char *id, size_t id_len,
                                   const unsigned char **session, size_t *n)
{
	unsigned char asked[SESSIOND_ID] = {0};

	memcpy(asked, id, id_len);
	if (size < SESSIOND_HEAD || size > SESSIOND_PACKET_MAX || packet[0] != VERSION ||
	    memcmp(packet + 4, asked, SESSIOND_ID) != 0)
		return SESSIOND_MALFORMED;
	if (packet[1] != ANSWER_FOUND)
		return SESSIOND_NOT_FOUND;
	*session = packet + SESSIOND_HEAD;
	*n = size - SESSIOND_HEAD;
	return SESSIOND_FOUND;
}

bool sessiond_is_local(const struct addr *addr)
{
	const unsigned char *ip6 = addr->in6.sin6_addr.s6_addr;

	if (addr->sa.sa_family == AF_INET)
		return ntohl(addr->in.sin_addr.s_addr) >> 24 == 127;
	if (addr->sa.sa_family != AF_INET6)
		return false;
	return IN6_IS_ADDR_LOOPBACK(&addr->in6.sin6_addr) || (IN6_IS_ADDR_V4MAPPED(&addr->in6.sin6_addr) && ip6[12] == 127);
}

/* --- the socket --------------------------------------------------------------------------------------------------------------------- */

static struct conn *conn_of(struct tls *tls)
{
	return container_of(tls, struct conn, tls);
}

static void log_error(struct conn *c, const char *call, int error)
{
	conn_log(c, LOG_ERR, "cache_transfer: %s: %s (%d)", call, strerror(error), error);
}

static void log_request(struct conn *c, const unsigned char *packet, size_t size, size_t id_len)
{
	char hex[2 * SESSIOND_ID + 1] = "";

	for (size_t i = 0; i < id_len && conn_wants(c, LOG_INFO); i++)
		snprintf(hex + 2 * i, 3, "%02X", packet[4 + i]);
	conn_log(c, LOG_INFO, "cache_transfer: request=%s, timeout=%d, id=%s, length=%zu", request_names[packet[1]],
	         packet[2] << 8 | packet[3], hex, size - SESSIOND_HEAD);
}

/* Sends a packet from a socket of its own, which only that peer can answer. Returns the socket, or -1. Nothing waits. */
static int send_packet(struct conn *c, const unsigned char *packet, size_t size)
{
	const struct addr *to = c->service->sessiond;
	int fd = socket(to->sa.sa_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0) {
		log_error(c, "socket", errno);
		return -1;
	}
	if (connect(fd, &to->sa, to->len) == 0 && send(fd, packet, size, MSG_DONTWAIT) == (ssize_t)size)
		return fd;
	log_error(c, "sendto", errno);
	close(fd);
	return -1;
}

static void tell(struct conn *c, const unsigned char *packet, size_t size, size_t id_len)
{
	int fd;

	log_request(c, packet, size, id_len);
	fd = send_packet(c, packet, size);
	if (fd >= 0)
		close(fd);
}

static void put(struct tls *tls, const unsigned char *id, size_t id_len, const unsigned char *session, size_t n, long lifetime_s)
{
	unsigned char packet[SESSIOND_PACKET_MAX];
	struct conn *c = conn_of(tls);

	if (id_len > SESSIOND_ID)
		conn_log(c, LOG_ERR, "cache_transfer: session id too big (%zu bytes)", id_len);
	else if (n > SESSIOND_VALUE_MAX)
		conn_log(c, LOG_ERR, "cache_transfer: encoded session too big (%zu bytes)", n);
	else
		tell(c, packet, sessiond_write(packet, SESSIOND_NEW, lifetime_s, id, id_len, session, n), id_len);
	explicit_bzero(packet, sizeof(packet)); /* the master secret, unless it was sealed */
}

static void forget(struct tls *tls, const unsigned char *id, size_t id_len)
{
	unsigned char packet[SESSIOND_PACKET_MAX];

	if (id_len <= SESSIOND_ID)
		tell(conn_of(tls), packet, sessiond_write(packet, SESSIOND_REMOVE, 0, id, id_len, NULL, 0), id_len);
}

/* --- asking ------------------------------------------------------------------------------------------------------------------------- */

struct question {
	struct conn *c;
	const unsigned char *id;
	size_t id_len;
	int fd;
	struct timer timer;
	bool expired;
};

static void expired(struct timer *timer)
{
	struct question *q = container_of(timer, struct question, timer);

	q->expired = true;
	ring_cancel(q->c->worker->ring, &q->c->wait.op);
}

/* The answer in a packet (NULL: an empty one), copied to `session`. Returns its size, 0: not found, -1: it was no answer. */
static ssize_t take_answer(struct question *q, const struct chunk *packet, unsigned char *session)
{
	enum sessiond_answer answer = SESSIOND_MALFORMED;
	const unsigned char *value;
	size_t n;

	if (packet)
		answer = sessiond_read(packet->data + packet->start, packet->end - packet->start, q->id, q->id_len, &value, &n);
	switch (answer) {
	case SESSIOND_FOUND:
		conn_log(q->c, LOG_INFO, "cache_transfer: session found");
		memcpy(session, value, n);
		return (ssize_t)n;
	case SESSIOND_NOT_FOUND: conn_log(q->c, LOG_INFO, "cache_transfer: session not found"); return 0;
	case SESSIOND_MALFORMED: break;
	}
	conn_log(q->c, LOG_DEBUG, "cache_transfer: malformed packet received");
	return -1;
}

static size_t await_answer(struct question *q, unsigned char *session)
{
	struct conn *c = q->c;
	ssize_t answer = -1;

	for (int i = 0; i < PACKETS_MAX && answer < 0; i++) {
		struct chunk *chunk = NULL;
		int r = ring_await_recv(c->worker->ring, &c->wait, q->fd, &chunk);

		if (r >= 0)
			answer = take_answer(q, chunk, session);
		chunk_put(&c->worker->bufs, chunk);
		if (q->expired || c->expired || c->failed)
			break;
		if (r < 0) {
			log_error(c, "recv", -r);
			return 0;
		}
	}
	if (answer < 0 && q->expired)
		conn_log(c, LOG_INFO, "cache_transfer: recv timeout");
	return answer > 0 ? (size_t)answer : 0;
}

static size_t ask(struct question *q, unsigned char *session)
{
	struct worker *w = q->c->worker;
	size_t n;

	q->timer.expired = expired;
	if (timer_arm(&w->timers, &q->timer, ring_now_ms(w->ring) + WAIT_MS) < 0)
		return 0;
	n = await_answer(q, session);
	timer_disarm(&w->timers, &q->timer);
	return n;
}

/* A handshake in the middle of a connection has no stack to wait on: it goes without. */
static size_t get(struct tls *tls, const unsigned char *id, size_t id_len, unsigned char *session)
{
	struct conn *c = conn_of(tls);
	struct question q = {.c = c, .id = id, .id_len = id_len};
	unsigned char packet[SESSIOND_PACKET_MAX];
	size_t size, n;

	if (!coro_self() || id_len > SESSIOND_ID || c->failed || c->expired)
		return 0;
	size = sessiond_write(packet, SESSIOND_GET, 0, id, id_len, NULL, 0);
	log_request(c, packet, size, id_len);
	q.fd = send_packet(c, packet, size);
	if (q.fd < 0)
		return 0;
	n = ask(&q, session);
	close(q.fd);
	return n;
}

const struct tls_cache sessiond_here = {.put = put, .get = get, .forget = forget, .seals = false};
const struct tls_cache sessiond_away = {.put = put, .get = get, .forget = forget, .seals = true};
