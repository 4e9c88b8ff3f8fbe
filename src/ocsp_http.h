/*
 * The text of a conversation with an OCSP responder (RFC 6960 appendix A: HTTP): its URL, the head of our request, its reply as it comes in.
 * Bytes in memory only; whoever has the socket is fetch.c. URLs come from certificates and replies from anybody: everything is bounded.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_OCSP_HTTP_H
#define TLSPLICE_OCSP_HTTP_H

#include <stdbool.h>
#include <stddef.h>

enum {
	OCSP_URL_MAX = 2048,
	OCSP_HOST_MAX = 256,
	OCSP_REPLY_HEAD_MAX = 8 * 1024,   /* bytes of status line and header */
	OCSP_REPLY_BODY_MAX = 100 * 1024, /* bytes: what OpenSSL's own client takes, too */
};

/* A URL of a responder taken apart: "http://host[:port][/path]". */
struct ocsp_url {
	char host[OCSP_HOST_MAX]; /* without brackets */
	char port[8];
	char path[OCSP_URL_MAX]; /* with its query; "/" at least */
};

/* Returns 0; -EPROTONOSUPPORT for https; -EINVAL for anything else, a control character or a blank included. */
int ocsp_url_parse(const char *text, struct ocsp_url *url);

/* host:port as addr_resolve() reads it. */
enum { OCSP_TARGET_MAX = OCSP_HOST_MAX + 8 };
void ocsp_url_target(const struct ocsp_url *url, char target[OCSP_TARGET_MAX]);

/* The head of a POST of `length` bytes, up to the empty line. Returns its length; it fits into OCSP_HEAD_MAX. */
enum { OCSP_HEAD_MAX = OCSP_URL_MAX + OCSP_HOST_MAX + 256 };
size_t ocsp_request_head(const struct ocsp_url *url, size_t length, char head[OCSP_HEAD_MAX]);

/* A reply as it comes in. Zeroed is empty. */
struct ocsp_reply {
	unsigned char *bytes; /* malloc()ed */
	size_t len, room;
	size_t head;       /* bytes of status line and header; 0: not all there yet */
	size_t length;     /* of the body, once known; 0 otherwise */
	const char *wrong; /* OCSP_REPLY_BAD: why, a constant text */
};

enum ocsp_progress {
	OCSP_REPLY_MORE,
	OCSP_REPLY_WHOLE, /* the body is bytes + head, len - head bytes */
	OCSP_REPLY_BAD,   /* `wrong` says why */
};

/* Takes n more bytes of the reply; n = 0: the stream has ended. */
enum ocsp_progress ocsp_reply_add(struct ocsp_reply *reply, const void *data, size_t n);

/* Frees the bytes and zeroes. */
void ocsp_reply_free(struct ocsp_reply *reply);

#endif
