/*
 * What a session remembers besides TLS: whether the peer had passed all checks, what those checks were, and the backend it was served by. It stands
 * in the session's ticket application data (field 18 of its DER form), so it is in tickets, in the cache and in sessiond alike.
 * For tls*.c only.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_TLS_SESSION_DATA_H
#define TLSPLICE_TLS_SESSION_DATA_H

#include "config.h"
#include "tls.h"

#include <stdbool.h>
#include <stddef.h>

enum {
	POLICY_SIZE = 16,
	SESSION_DATA_MAX = 2 + POLICY_SIZE + 1 + sizeof(struct sockaddr_un),
};

/* What decides about trust in a section, as a hash. Sections that check nothing are `plain`: any session of theirs will do. */
struct tls_policy {
	bool plain;
	unsigned char hash[POLICY_SIZE];
};

struct session_data {
	bool authenticated;
	bool bound; /* `policy` says to what; false in the short form, which is all that stunnel writes */
	unsigned char policy[POLICY_SIZE];
	struct addr backend; /* len 0: none */
};

/*
 * The policy of a section: its name and what tls_trust_digest() says, which includes its pre-shared keys. Equal on all hosts that are configured
 * alike. Returns false without memory.
 */
bool tls_policy_of(const struct section *section, const struct tls_trust *trust, struct tls_policy *policy);

/* Returns the number of bytes. */
size_t session_data_write(const struct session_data *data, unsigned char bytes[SESSION_DATA_MAX]);

/* Returns NULL, or what is wrong in stunnel's words. The bytes may be anybody's. */
const char *session_data_read(const unsigned char *bytes, size_t n, struct session_data *data);

#endif
