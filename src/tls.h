/*
 * TLS: contexts made from a section's options, handshakes, sessions. tls*.c and record_*.c are the only files that see the SSL API;
 * none of them sees a socket or the ring: bytes come and go through queues, and whoever has them moves them.
 * The functions marked (deep) need a thread's stack: coroutines call them through coro_call().
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_TLS_H
#define TLSPLICE_TLS_H

#include "addr.h"
#include "config.h"
#include "record.h"
#include "tls_traffic.h"

#include <stdbool.h>
#include <stddef.h>

struct ssl_st;
struct inplace;
struct tls_library;
struct tls_identity;
struct tls_sessions;
struct tls_context;

/*
 * The OpenSSL library state of one worker (an OSSL_LIB_CTX with the machine's openssl.cnf): workers share no lock inside OpenSSL.
 * Returns NULL after logging why.
 */
struct tls_library *tls_library_new(void);
void tls_library_free(struct tls_library *library);

/* "OpenSSL 3.0.x 1 Jan 2026" of the headers and of the library that runs. */
const char *tls_compiled_version(void);
const char *tls_running_version(void);

/*
 * Loads a section's certificates and keys, asking for pass phrases on the terminal. Returns NULL after logging why.
 * Used to make contexts, then freed, which wipes the keys.
 */
struct tls_identity *tls_identity_load(const struct section *section);
void tls_identity_free(struct tls_identity *identity);

/* Wipes the pass phrase remembered for further keys; called before exit. */
void tls_forget_passphrase(void);

/*
 * What all workers share of a section, and what outlives a reload that leaves the section unchanged: ticket keys, the server's session cache,
 * the client's sessions by destination. Reference counted.
 */
struct tls_sessions *tls_sessions_new(const struct section *section);
struct tls_sessions *tls_sessions_ref(struct tls_sessions *sessions);
void tls_sessions_unref(struct tls_sessions *sessions);

/*
 * Makes the SSL_CTX of a section for one worker. Returns NULL after logging why. `announce`: log at LOG_INFO what is configured (once, not per worker).
 * The section and the sessions must outlive the context.
 */
struct tls_context *tls_context_new(const struct section *section, const struct tls_identity *identity,
                                    struct tls_sessions *sessions, struct tls_library *library, bool announce);
void tls_context_free(struct tls_context *context);

/* One TLS connection. Lives inside its owner; zeroed is "none". */
struct tls {
	struct record record;    /* `record.engine` is set by tls_start() */
	struct ssl_st *ssl;      /* until the connection is promoted */
	struct inplace *inplace; /* from then on */
	struct tls_traffic traffic;
	const struct section *section;
	const char *log_id;      /* of the connection, for log lines */
	const struct addr *peer; /* the client's address, which ends TLS error lines */
	bool handshaking;
	bool alert_sent;         /* fatal */
	bool alert_received;     /* fatal */
	bool renegotiating;      /* the peer asked, and the section says no */
	const char *destination; /* client mode: whose sessions to offer, see tls_start() */
	struct tls_context *context;
};

/*
 * Prepares a TLS connection of the section's role over the queues of its socket. `destination`, client mode: which slot of the session cache
 * belongs to the upstream ("" = the section's common one); must live as long as the connection. Returns 0 or -ENOMEM. (deep)
 */
int tls_start(struct tls *tls, struct tls_context *context, struct bufs *bufs, struct queue *in, struct queue *out,
              const char *destination);

enum tls_progress {
	TLS_DONE,
	TLS_WANTS_BYTES, /* send what is in `out`, append what comes to `in`, and call again */
	TLS_FAILED,      /* logged; `out` may hold an alert that should still be sent */
};

/* Takes the handshake as far as it goes. (deep) */
enum tls_progress tls_handshake(struct tls *tls);

/* True when the handshake resumed a session. */
bool tls_resumed(const struct tls *tls);

enum tls_promotion {
	TLS_PROMOTED,
	TLS_NOT_YET, /* in the middle of something: ask again later */
	TLS_STAYS,   /* with OpenSSL for good: its version, cipher or options need it */
};

/*
 * Hands an established connection over from OpenSSL to the record engine `inplace`, which is faster and needs a tenth of the memory.
 * `idle`: no bytes have come for a while, so a client need not wait for session tickets any longer. Nothing is lost whatever it returns. (deep)
 */
enum tls_promotion tls_promote(struct tls *tls, bool idle);

/* Frees the SSL object. tls_end() of a zeroed struct is fine. (deep) */
void tls_end(struct tls *tls);

/* The engine that works for every connection (record_openssl.c). */
extern const struct record_engine record_openssl;

/* For record_*.c and tls.c: the same for a connection, at LOG_ERR. */
void tls_log_failure(const struct tls *tls, const char *what);

/* For tls*.c: logs the OpenSSL error queue of this thread, most recent last, as "prefix: func@file:line: error:...". Clears it. */
void tls_log_errors(int level, const char *log_id, const char *prefix, const char *suffix);

#endif
