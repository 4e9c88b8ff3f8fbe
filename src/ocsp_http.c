/*
 * The text of a conversation with an OCSP responder: see ocsp_http.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "ocsp_http.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* --- URLs --------------------------------------------------------------------------------------------------------------------------- */

/* Nothing that would end a line of the request, or a word of it. */
static bool is_plain(const char *text)
{
	for (const char *c = text; *c; c++)
		if (!isgraph((unsigned char)*c))
			return false;
	return true;
}

static bool take(char *to, size_t room, const char *from, size_t n)
{
	if (n >= room)
		return false;
	memcpy(to, from, n);
	to[n] = '\0';
	return true;
}

static bool is_port(const char *port)
{
	size_t digits = strspn(port, "0123456789");
	unsigned long n = strtoul(port, NULL, 10);

	return digits > 0 && port[digits] == '\0' && n > 0 && n <= 65535;
}

static bool is_name(const char *host)
{
	for (const char *c = host; *c; c++)
		if (!isalnum((unsigned char)*c) && !strchr("-._", *c))
			return false;
	return *host != '\0';
}

/* "host", "host:port", "[v6]" or "[v6]:port". */
static bool parse_authority(const char *text, size_t n, struct ocsp_url *url)
{
	const char *end = text + n, *port;
	struct in6_addr ignored;

	if (n > 0 && *text == '[') {
		const char *bracket = memchr(text, ']', n);

		if (!bracket || !take(url->host, sizeof(url->host), text + 1, (size_t)(bracket - text) - 1) ||
		    inet_pton(AF_INET6, url->host, &ignored) != 1)
			return false;
		port = bracket + 1;
	} else {
		port = memchr(text, ':', n);
		if (!port)
			port = end;
		if (!take(url->host, sizeof(url->host), text, (size_t)(port - text)) || !is_name(url->host))
			return false;
	}
	if (port == end)
		return take(url->port, sizeof(url->port), "80", 2);
	return *port == ':' && take(url->port, sizeof(url->port), port + 1, (size_t)(end - port) - 1) && is_port(url->port);
}

int ocsp_url_parse(const char *text, struct ocsp_url *url)
{
	const char *authority;
	size_t n;

	memset(url, 0, sizeof(*url));
	if (strlen(text) >= OCSP_URL_MAX - 1 || !is_plain(text))
		return -EINVAL;
	if (strncasecmp(text, "https://", 8) == 0)
		return -EPROTONOSUPPORT;
	if (strncasecmp(text, "http://", 7) != 0)
		return -EINVAL;
	authority = text + 7;
	n = strcspn(authority, "/?#");
	if (!parse_authority(authority, n, url))
		return -EINVAL;
	/* The fragment is the reader's own, and never sent. */
	snprintf(url->path, sizeof(url->path), "%s%.*s", authority[n] == '/' ? "" : "/", (int)strcspn(authority + n, "#"),
	         authority + n);
	return 0;
}

void ocsp_url_target(const struct ocsp_url *url, char target[OCSP_TARGET_MAX])
{
	snprintf(target, OCSP_TARGET_MAX, "%s:%s", url->host, url->port);
}

size_t ocsp_request_head(const struct ocsp_url *url, size_t length, char head[OCSP_HEAD_MAX])
{
	bool v6 = strchr(url->host, ':') != NULL, other = strcmp(url->port, "80") != 0;

	return (size_t)snprintf(head, OCSP_HEAD_MAX,
	                        "POST %s HTTP/1.0\r\n"
	                        "Host: %s%s%s%s%s\r\n"
	                        "User-Agent: stunnel\r\n" /* what responders and filters before them know */
	                        "Content-Type: application/ocsp-request\r\n"
	                        "Content-Length: %zu\r\n\r\n",
	                        url->path, v6 ? "[" : "", url->host, v6 ? "]" : "", other ? ":" : "", other ? url->port : "",
	                        length);
}

/* --- replies ------------------------------------------------------------------------------------------------------------------------ */

static enum ocsp_progress bad(struct ocsp_reply *r, const char *why)
{
	r->wrong = why;
	return OCSP_REPLY_BAD;
}

static bool reserve(struct ocsp_reply *r, size_t n)
{
	size_t room = r->room ? r->room : 4096;
	unsigned char *bytes;

	while (room < r->len + n)
		room *= 2;
	if (room == r->room)
		return true;
	bytes = realloc(r->bytes, room);
	if (!bytes)
		return false;
	r->bytes = bytes;
	r->room = room;
	return true;
}

/* The empty line that ends the header, looked for from `from` on: offset behind it, or 0. */
static size_t find_end_of_head(const struct ocsp_reply *r, size_t from)
{
	for (size_t i = from > 3 ? from - 3 : 0; i + 1 < r->len; i++) {
		if (r->bytes[i] != '\n')
			continue;
		if (r->bytes[i + 1] == '\n')
			return i + 2;
		if (i + 2 < r->len && r->bytes[i + 1] == '\r' && r->bytes[i + 2] == '\n')
			return i + 3;
	}
	return 0;
}

/* "HTTP/1.x 200": the only answer with a response in it. */
static const char *check_status(const unsigned char *line, size_t n)
{
	if (n < 12 || memcmp(line, "HTTP/1.", 7) != 0 || !isdigit(line[7]) || line[8] != ' ')
		return "not an HTTP response";
	if (memcmp(line + 9, "200", 3) != 0 || (n > 12 && !isspace(line[12])))
		return "the HTTP status is not 200";
	return NULL;
}

/* The value of a header line of that name, with its length in *n; NULL if the line is another. */
static const char *value_of(const unsigned char *line, size_t len, const char *name, size_t *n)
{
	size_t at = strlen(name);

	if (len <= at || line[at] != ':' || strncasecmp((const char *)line, name, at) != 0)
		return NULL;
	at++;
	while (at < len && (line[at] == ' ' || line[at] == '\t'))
		at++;
	while (len > at && isspace(line[len - 1]))
		len--;
	*n = len - at;
	return (const char *)line + at;
}

static const char *take_length(struct ocsp_reply *r, const char *digits, size_t n)
{
	size_t length = 0;

	for (size_t i = 0; i < n; i++) {
		if (!isdigit((unsigned char)digits[i]))
			return "malformed Content-Length";
		length = 10 * length + (size_t)(digits[i] - '0');
		if (length > OCSP_REPLY_BODY_MAX)
			return "the response is too long";
	}
	if (length == 0)
		return "the response is empty";
	if (r->length && r->length != length)
		return "two different lengths";
	r->length = length;
	return NULL;
}

static const char *read_line(struct ocsp_reply *r, const unsigned char *line, size_t len)
{
	const char *value;
	size_t n;

	value = value_of(line, len, "Content-Length", &n);
	if (value)
		return take_length(r, value, n);
	/* A server may not use it towards HTTP/1.0 (RFC 9112 6.1). */
	if (value_of(line, len, "Transfer-Encoding", &n))
		return "a transfer encoding";
	return NULL;
}

static const char *read_head(struct ocsp_reply *r)
{
	const unsigned char *line = r->bytes, *end = r->bytes + r->head;
	const char *wrong = check_status(line, r->head);

	while (!wrong && line < end) {
		const unsigned char *newline = memchr(line, '\n', (size_t)(end - line));

		if (!newline)
			break;
		wrong = read_line(r, line, (size_t)(newline - line));
		line = newline + 1;
	}
	return wrong;
}

/* Without Content-Length the response tells its own length: DER of a SEQUENCE (X.690 8.1.3). 0: not known yet, SIZE_MAX: it is none. */
static size_t der_length(const unsigned char *der, size_t n)
{
	size_t length = 0, bytes;

	if (n < 2)
		return 0;
	if (der[0] != 0x30)
		return SIZE_MAX;
	if (der[1] < 0x80)
		return 2u + der[1];
	bytes = der[1] & 0x7f;
	if (bytes == 0 || bytes > 3)
		return SIZE_MAX;
	if (n < 2 + bytes)
		return 0;
	for (size_t i = 0; i < bytes; i++)
		length = length << 8 | der[2 + i];
	return 2 + bytes + length;
}

static enum ocsp_progress look_at_body(struct ocsp_reply *r, bool ended)
{
	size_t body = r->len - r->head;

	if (!r->length)
		r->length = der_length(r->bytes + r->head, body);
	if (r->length == SIZE_MAX)
		return bad(r, "not a response in DER");
	if (r->length > OCSP_REPLY_BODY_MAX)
		return bad(r, "the response is too long");
	if (r->length && body >= r->length) {
		r->len = r->head + r->length;
		return OCSP_REPLY_WHOLE;
	}
	return ended ? bad(r, "the response is cut short") : OCSP_REPLY_MORE;
}

enum ocsp_progress ocsp_reply_add(struct ocsp_reply *r, const void *data, size_t n)
{
	size_t from = r->len;

	if (n > OCSP_REPLY_HEAD_MAX + OCSP_REPLY_BODY_MAX - r->len)
		return bad(r, "the response is too long");
	if (!reserve(r, n))
		return bad(r, "no memory");
	if (n > 0)
		memcpy(r->bytes + r->len, data, n);
	r->len += n;
	if (r->head)
		return look_at_body(r, n == 0);
	r->head = find_end_of_head(r, from);
	if (!r->head && n == 0)
		return bad(r, r->len ? "the response is cut short" : "no response");
	if (r->head > OCSP_REPLY_HEAD_MAX || (!r->head && r->len > OCSP_REPLY_HEAD_MAX))
		return bad(r, "the HTTP header is too long");
	if (!r->head)
		return OCSP_REPLY_MORE;
	r->wrong = read_head(r);
	return r->wrong ? OCSP_REPLY_BAD : look_at_body(r, false);
}

void ocsp_reply_free(struct ocsp_reply *r)
{
	free(r->bytes);
	memset(r, 0, sizeof(*r));
}
