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
#include "ktls.h"
#include "record.h"
#include "tls_traffic.h"

#include <stdbool.h>
#include <stddef.h>

struct ssl_st;
struct keyed;
struct tls_library;
struct tls_identity;
struct tls_sessions;
struct tls_trust;
struct tls_context;
struct tls_staples;
struct tls_ocsp;
struct ocsp_reply;
struct stats;

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

/* Whether the calling thread may ask for pass phrases and PINs. At first it may not. */
void tls_may_ask(bool yes);

/* Wipes the pass phrase remembered for further keys; called before exit. */
void tls_forget_passphrase(void);

/*
 * Reads a section's CA certificates and revocation lists, and says what the section lacks of checks. Returns NULL after logging why. Reference counted:
 * the contexts made from it keep it.
 */
struct tls_trust *tls_trust_load(const struct section *section);
struct tls_trust *tls_trust_ref(struct tls_trust *trust);
void tls_trust_unref(struct tls_trust *trust);

/* True if both decide alike about every peer, as far as that is known when a section is loaded: same options, CA certificates, revocation lists. */
bool tls_trust_equal(const struct tls_trust *one, const struct tls_trust *other);

/*
 * What all workers share of a section, and what outlives a reload that leaves the section unchanged: ticket keys, the server's session cache,
 * the client's sessions by destination. Reference counted.
 */
struct tls_sessions *tls_sessions_new(const struct section *section);
struct tls_sessions *tls_sessions_ref(struct tls_sessions *sessions);
void tls_sessions_unref(struct tls_sessions *sessions);

/* Reads the section's ticketKeyFile again. False after logging why: the keys that were read before stay in force. Callable from any thread. */
bool tls_sessions_reload(struct tls_sessions *sessions, const struct section *section);

/*
 * Makes the SSL_CTX of a section for one worker. Returns NULL after logging why. `announce`: log at LOG_INFO what is configured (once, not per worker).
 * The section and the sessions must outlive the context.
 */
struct tls_context *tls_context_new(const struct section *section, const struct tls_identity *identity, struct tls_trust *trust,
                                    struct tls_sessions *sessions, struct tls_library *library, bool announce);
struct tls_context *tls_context_ref(struct tls_context *context); /* one more owner: it goes with the last */
void tls_context_free(struct tls_context *context);

/*
 * A session cache outside of the process (sessiond), which the owner of the connection reaches. Ids have up to 32 bytes, sessions up to TLS_CACHED_MAX:
 * longer ones are refused.
 */
enum { TLS_CACHED_MAX = 512 };

struct tls;
struct tls_cache {
	/* Hands a session over, and lets it be forgotten: both come back at once, whatever becomes of it. */
	void (*put)(struct tls *tls, const unsigned char *id, size_t id_len, const unsigned char *session, size_t n,
	            long lifetime_s);
	void (*forget)(struct tls *tls, const unsigned char *id, size_t id_len);
	/* Asks for a session, suspending, and copies it to `session`. Returns its size, 0: there is none. */
	size_t (*get)(struct tls *tls, const unsigned char *id, size_t id_len, unsigned char *session);
	bool seals; /* the network is in between: what is handed over is sealed with the section's ticket keys */
};

/* One TLS connection. Lives inside its owner; zeroed is "none". */
struct tls {
	struct record record; /* `record.engine` is set by tls_start() */
	struct ssl_st *ssl;   /* until the connection is promoted */
	struct keyed *keyed;  /* from then on */
	struct tls_traffic traffic;
	const struct section *section;
	const char *log_id;      /* of the connection, for log lines */
	const struct addr *peer; /* the client's address, which ends TLS error lines */
	struct stats *stats;     /* the section's, for what OCSP says; set by the owner */
	bool handshaking;
	bool greeted;            /* server mode: a ClientHello has been looked at */
	bool keep_hello;         /* server mode with virtual hosts: `hello` is being filled, in case that one of them is chosen */
	bool alert_sent;         /* fatal */
	bool alert_received;     /* fatal */
	bool renegotiating;      /* the peer asked, and the section says no */
	bool authenticated;      /* its certificate passed every check of this handshake; false when resumed */
	bool accepted, rejected; /* while they go on: the peer's own certificate passed; something did not */
	const char *destination; /* client mode: whose sessions to offer, see tls_start() */
	struct tls_context *context;
	const struct psk *psk;        /* server mode: the key that the client asked for, or NULL */
	const char *alpn;             /* the application protocol agreed on, one of the section's; NULL: none */
	const struct section *chosen; /* server mode: whose virtual host the client asked for, or NULL */
	struct queue hello;           /* what the client has sent until then */
	char *server_name;            /* server mode: what the client asked for, if the section tells its backend; NULL: nothing */
	bool refused; /* set by the owner in the place of tls_switch(): the client is not to come in there, and is told so by an alert */
	/*
	 * Set while the conversation can wait inside OpenSSL: asks an OCSP responder, suspending. Returns 0 with the whole reply; -ECANCELED: the
	 * connection is to end; else another -errno, logged.
	 */
	int (*ask)(struct tls *tls, const char *url, const unsigned char *request, size_t n, struct ocsp_reply *reply);
	struct tls_ocsp *ocsp; /* certificates that responders have called good */

	/* server mode: set by the owner */
	bool tickets_wait; /* the owner calls tls_issue_tickets() itself, once it knows the backend */
	/* For a ticket that TLS 1.2 wants at once: where the connection is going to, or NULL. */
	const struct addr *(*choose_backend)(struct tls *tls);

	const struct tls_cache *cache; /* asked besides our own; NULL: none */
	unsigned cache_asked;          /* how often */

	const struct addr *backend; /* for the tickets under way */
	long long session_end; /* of a session that was resumed, in seconds since 1970: those that come of it end then, too */
};

/*
 * Prepares a TLS connection of the section's role over the queues of its socket. `destination`, client mode: which slot of the session cache
 * belongs to the upstream ("" = the section's common one); must live as long as the connection. Returns 0 or -ENOMEM. (deep)
 */
int tls_start(struct tls *tls, struct tls_context *context, struct bufs *bufs, struct queue *in, struct queue *out,
              const char *destination);

enum tls_progress {
	TLS_DONE,
	TLS_CHOSE, /* server mode: the client's server name belongs to the section `chosen`: tls_switch() to its context, or set `refused`, and call again */
	TLS_WANTS_BYTES,  /* send what is in `out`, append what comes to `in`, and call again */
	TLS_WANTS_ENGINE, /* an engine is at work: call again when one of tls_engine_fds() is readable, and not before */
	TLS_FAILED,       /* logged; `out` may hold an alert that should still be sent */
};

/* Takes the handshake as far as it goes. (deep) */
enum tls_progress tls_handshake(struct tls *tls);

/*
 * Server mode: begins anew, with all that the client has sent, in the context of the section that it chose. Nothing of the first context is left in
 * the connection. Returns 0 or -ENOMEM. (deep)
 */
int tls_switch(struct tls *tls, struct tls_context *context);

/*
 * The names of the peer's certificate and of its issuer as text ("C=PL, CN=x"), to be freed with free(3); NULL where it has none. After the handshake, and
 * before records are taken over. False: no memory.
 */
bool tls_peer_names(struct tls *tls, char **subject, char **issuer);

/*
 * The descriptors by which the engine will tell, written to `fds`. None: it has no way to tell, or more than TLS_ENGINE_FDS_MAX. While it is at work
 * tls_end() must not be called: there is no way to take a job back. tls_abandon() forgets the SSL object instead, which is never freed then.
 */
enum { TLS_ENGINE_FDS_MAX = 16 };
size_t tls_engine_fds(const struct tls *tls, int fds[TLS_ENGINE_FDS_MAX]);
void tls_abandon(struct tls *tls);

/* True when the handshake resumed a session. */
bool tls_resumed(const struct tls *tls);

/*
 * Whether the peer has shown a certificate that passed all checks: in this handshake, or in the one that began the session it resumed.
 * What cannot be found out is a no. Asked while OpenSSL still has the connection. (deep)
 */
bool tls_authenticated(const struct tls *tls);

/* Server mode: the backend that the session which was resumed remembers. False: none. (deep) */
bool tls_remembered(const struct tls *tls, struct addr *backend);

/*
 * Server mode, once the handshake is over: sends the tickets of TLS 1.3, which then lie in `out`, and lets the session remember `backend` (NULL: none)
 * as far as it is not in a ticket already. False after logging why. (deep)
 */
bool tls_issue_tickets(struct tls *tls, const struct addr *backend);

enum tls_promotion {
	TLS_PROMOTED,
	TLS_NOT_YET, /* in the middle of something: ask again later */
	TLS_STAYS,   /* with OpenSSL for good: its version, cipher or options need it */
};

/*
 * Hands an established connection over from OpenSSL to the record layer of our own, which is faster and needs a tenth of the memory. `tickets_due`: session
 * tickets may still come, for which a client waits. Nothing is lost whatever it returns. (deep)
 */
enum tls_promotion tls_promote(struct tls *tls, bool tickets_due);

/*
 * Whether the kernel is to make a direction's records: KTLS_KERNEL, or why not. Asked once the handshake is over, while OpenSSL still has the
 * connection. (deep)
 */
enum ktls_outcome tls_ktls_outcome(const struct tls *tls, enum ktls_direction direction);

/*
 * Gives a direction of a promoted connection to the kernel. Sending: all that was sealed must have gone to the socket. Receiving: `in` must be empty,
 * at a record boundary (tls_missing() is 0), and no receive under way. From then on the socket takes and gives application data, and
 * other records as chunks with `content`. Returns 0, or -errno: nothing has changed. (deep)
 */
int tls_offload(struct tls *tls, enum ktls_direction direction, int fd);

/*
 * Says where a direction's records are made, and why not in the kernel; `error`: the kernel's -errno or 0. Each reason is a notice the first time it is met
 * and for debugging afterwards.
 */
void tls_log_ktls(const struct tls *tls, enum ktls_direction direction, enum ktls_outcome outcome, int error);

/* Promoted, not the kernel's: how many bytes are missing to a record boundary, or to the end of a record's header. */
size_t tls_missing(const struct tls *tls);

/* What the relay must tell of a connection of which the kernel has a direction. False or RECORD_FAILED: logged, and an alert may lie in `out`. (deep) */
bool tls_record_sent(struct tls *tls, unsigned char content);              /* a chunk with `content` has gone */
enum record_result tls_spliced(struct tls *tls, size_t n);                 /* n bytes went to the peer past `out`, by one call */
enum record_result tls_read_failed(struct tls *tls, int error, bool *own); /* -errno; *own: it is about records, not the socket */

/* Once nobody asks for tls->server_name any more. */
void tls_forget_name(struct tls *tls);

/* Frees the SSL object. tls_end() of a zeroed struct is fine. (deep) */
void tls_end(struct tls *tls);

/* The engine that works for every connection (record_openssl.c). */
extern const struct record_engine record_openssl;

/* For record_*.c and tls.c: the same for a connection, at LOG_ERR. */
void tls_log_failure(const struct tls *tls, const char *what);

/* For tls*.c and ocsp.c: logs the OpenSSL error queue of this thread, most recent last, as "prefix: func@file:line: error:...". Clears it. */
void tls_log_errors(int level, const char *log_id, const char *prefix, const char *suffix);

#endif
