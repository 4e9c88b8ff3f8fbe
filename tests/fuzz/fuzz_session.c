/*
 * Fuzz target: what comes back as a session from somewhere else. The first byte says what the others are: a session's application data, an answer of
 * sessiond, a file of ticket keys, a ticket, or what sessiond says a session is. What is read must come out the same when it is written.
 * libFuzzer (`make fuzz`), or replays the corpus with `make test`.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "sessiond.h"
#include "tls_session_data.h"
#include "tls_tickets.h"

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void session_data(const uint8_t *data, size_t n)
{
	unsigned char bytes[SESSION_DATA_MAX];
	struct session_data read, again;
	size_t written;

	if (session_data_read(data, n, &read))
		return;
	written = session_data_write(&read, bytes);
	if (written > SESSION_DATA_MAX || session_data_read(bytes, written, &again))
		abort();
	if (read.authenticated != again.authenticated || read.bound != again.bound || !addr_equal(&read.backend, &again.backend))
		abort();
	if (read.bound && (written != n || memcmp(bytes, data, n) != 0))
		abort();
}

/* As of a session that a cache gave: everything is taken apart, and kept. */
static void der(const uint8_t *data, size_t n)
{
	const unsigned char *at = data;
	SSL_SESSION *session = d2i_SSL_SESSION(NULL, &at, (long)n);
	void *bytes = NULL;
	size_t len = 0;
	unsigned char *copy = NULL;
	int copied = session ? i2d_SSL_SESSION(session, &copy) : 0;

	if (session && SSL_SESSION_get0_ticket_appdata(session, &bytes, &len) == 1 && bytes)
		session_data(bytes, len);
	if (copied < 0)
		abort();
	OPENSSL_free(copy);
	SSL_SESSION_free(session);
	ERR_clear_error();
}

static void answer(const uint8_t *data, size_t n)
{
	static const unsigned char id[SESSIOND_ID] = "the id that was asked for";
	const unsigned char *session = NULL;
	size_t len = 0;

	if (sessiond_read(data, n, id, SESSIOND_ID, &session, &len) != SESSIOND_FOUND)
		return;
	if (session != data + SESSIOND_HEAD || len != n - SESSIOND_HEAD || len > SESSIOND_VALUE_MAX)
		abort();
	der(session, len);
}

static void key_file(const uint8_t *data, size_t n)
{
	struct ticket_key keys[TICKET_KEYS_MAX];
	const char *wrong = NULL;
	size_t seals = 0, count = ticket_keys_parse(data, n, keys, TICKET_KEYS_MAX, &seals, &wrong);

	if (count > TICKET_KEYS_MAX || (count && seals >= count) || (!count && !wrong))
		abort();
	for (size_t i = 0; i < count; i++)
		if ((keys[i].aes_len != 16 && keys[i].aes_len != 32) || keys[i].aes_len != keys[i].mac_len)
			abort();
}

static struct tls_tickets *tickets;
static struct tickets_view view;

/* Nobody but us can make one; what we make opens. */
static void ticket(const uint8_t *data, size_t n)
{
	unsigned char *plain = malloc(n + 1), *sealed = malloc(n + TICKET_OVERHEAD);
	size_t size;

	if (tickets_open(tickets, &view, data, n, plain) && n < TICKET_OVERHEAD)
		abort();
	size = n ? tickets_seal(tickets, &view, data, n, sealed) : 0;
	free(plain);
	plain = malloc(size + 1);
	if (size > n + TICKET_OVERHEAD || (n && tickets_open(tickets, &view, sealed, size, plain) != n) ||
	    (n && memcmp(plain, data, n) != 0))
		abort();
	free(plain);
	free(sealed);
}

static void (*const kinds[])(const uint8_t *data, size_t n) = {session_data, der, answer, key_file, ticket};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct section section = {
		.name = "s",
		.ticket_key = "101112131415161718191a1b1c1d1e1f",
		.ticket_mac = "808182838485868788898a8b8c8d8e8f",
	};

	if (!tickets) {
		tickets = tls_tickets_new(&section);
		if (!tickets || !tickets_view_open(&view, NULL))
			abort();
	}
	if (size > 0)
		kinds[data[0] % (sizeof(kinds) / sizeof(*kinds))](data + 1, size - 1);
	return 0;
}
