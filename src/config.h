/*
 * The configuration: what a stunnel.conf says, checked, with every default filled in. One generation lives in one arena and never changes
 * once config_load() returned it. The language is that of stunnel 5.82. The options stand in options.def, one row each.
 * Reading it opens the configuration files and those of PSKsecrets, and the first time loads engines and providers; no certificate is loaded, no name looked
 * up, no port bound (service.c does that).
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_CONFIG_H
#define TLSPLICE_CONFIG_H

#include "addr.h"
#include "psk.h"
#include "sockopt.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* List options keep their values in order. */
struct texts {
	char **texts;
	size_t count;
};

enum foreground { FOREGROUND_NO, FOREGROUND_QUIET, FOREGROUND_YES };
enum log_id_form { LOG_ID_SEQUENTIAL, LOG_ID_UNIQUE, LOG_ID_THREAD, LOG_ID_PROCESS };

/* Extension: strict: TCP ports too. See sandbox.h. */
enum sandbox { SANDBOX_NO, SANDBOX_YES, SANDBOX_STRICT };

/* Which addresses of a connection the other side sees: the client's towards the upstream, the upstream that the client meant. */
enum transparent { TRANSPARENT_NONE, TRANSPARENT_SOURCE, TRANSPARENT_DESTINATION, TRANSPARENT_BOTH };

enum failover { FAILOVER_PRIO, FAILOVER_RR };

/* Extension: which directions of a connection may have their records made by the kernel. */
enum ktls_wish { KTLS_NO, KTLS_TX = 1, KTLS_RX = 2, KTLS_YES = KTLS_TX | KTLS_RX, KTLS_AUTO = 4 };

/* Extension: how bulk moves from socket to socket once the kernel makes the records. */
enum relay_path { RELAY_AUTO, RELAY_COPY, RELAY_SPLICE, RELAY_URING_SPLICE };

/* Server mode: a name by which the clients of one section get to another. */
struct virtual_host {
	struct virtual_host *next; /* in the order of the configuration */
	const char *pattern;       /* a name, or a star and the end of one */
	const struct section *section;
};

/* Extension: whether peers of a section with pre-shared keys must have one. auto: unless their certificates are verified. */
enum psk_require { PSK_REQUIRE_AUTO, PSK_REQUIRE_YES, PSK_REQUIRE_NO };

/* Extension: whether the backend is told of each connection first, by a header of the PROXY protocol, and of which version. */
enum send_proxy { SEND_PROXY_NO, SEND_PROXY_V2 };

enum { TIMEOUT_FOREVER = -1 }; /* any negative number of seconds */

/* The options before the first section. */
struct globals {
	const char *output;  /* log file or NULL */
	const char *pid;     /* pid file or NULL */
	const char *service; /* syslog ident, default "stunnel" */
	const char *chroot, *setuid, *setgid;
	const char *rnd_file; /* seed for OpenSSL besides the kernel's, or NULL */
	long rnd_bytes;       /* of it */
	bool rnd_overwrite;   /* it gets new data */
	struct texts set_env; /* NAME=VALUE, applied by config_load() as it reads */
	enum foreground foreground;
	bool log_overwrite;
	bool syslog;
	int debug;    /* level 0..7 of lines that belong to no section */
	int facility; /* LOG_DAEMON ... */

	struct texts
		modules; /* engine, engineCtrl, engineDefault, provider, providerParameter: "NAME=VALUE" in the order of the file */
	bool fips;

	/* Extensions of tlsplice */
	int workers;       /* 0 = auto: one per CPU this process may run on */
	enum sandbox sandbox;
	int drain_s;       /* TERM lets connections finish for so long; 0 = drop at once */
	const char *admin; /* [host:]port of the status page, or NULL */
	bool inetd_status; /* inetd mode: the exit status tells how the connection ended */
};

/* A [section]: one service. */
struct section {
	struct section *next;
	unsigned index;          /* position in the file, from 0 */
	const char *name;        /* what logs, session id context and metrics call it: [name], or its `service` */
	const char *config_line; /* where it starts, "FILE:LINE", for messages */

	/* endpoints */
	struct texts accept;
	struct texts connect;
	const char *local; /* source address of connect, or NULL */
	const char *setuid, *setgid; /* owner of Unix sockets in `accept`, or NULL */
	bool client;
	bool delay; /* look `connect` up for each connection */
	enum failover failover;
	int transparent; /* enum transparent */
	enum send_proxy send_proxy; /* extension, server mode */

	/* who may come in */
	const char *ident; /* the user that identd must name, or NULL */
	bool libwrap;      /* hosts.allow and hosts.deny decide */

	/* programs */
	const char *
		exec; /* in the place of `connect`; with `connect` and without `accept`: in the place of the client. NULL: none */
	const char *exec_args; /* as in the file, or NULL */
	char **exec_argv;      /* its words, the program's name first; NULL behind the last */
	bool pty;
	long retry_ms; /* of a program in the place of the client: from one end to the next start; negative: once only */

	/* TLS */
	struct texts cert; /* files */
	const char *key;   /* file; NULL = the first cert file */
	const char *ciphers, *ciphersuites, *curves;
	uint64_t options_set, options_clear; /* SSL_OP_ bits */
	int min_version, max_version;        /* TLS1_2_VERSION ...; 0 = no limit */
	int security_level;                  /* -1 = not configured: max(OpenSSL's, 2) */
	struct texts config;                 /* SSL_CONF_cmd "command[:parameter]" */
	const char *sni;                     /* client mode: name to send; "" = none; NULL = first connect host */
	struct virtual_host *hosts, **hosts_end; /* server mode: sections that clients of this one choose by name */
	struct texts alpn;         /* extension: application protocols, the most wanted first */
	bool alpn_ignore_mismatch; /* extension, server mode: clients that offer only others go on without any */
	bool renegotiation;
	bool session_resume;
	bool inplace;            /* extension: records without OpenSSL once the handshake is over */
	enum ktls_wish ktls;     /* extension */
	long ktls_after;         /* extension: bytes that a connection has carried by then */
	enum relay_path relay;   /* extension */
	long session_cache_size; /* sessions; <= 0 = unlimited */
	long session_cache_timeout_s;

	/* who is trusted */
	struct texts ca_engine;
	const char *ca_file, *ca_path, *ca_store; /* file, directory of hashed names, URI */
	bool request_cert, require_cert;          /* ask for a certificate; refuse who has none */
	bool verify_chain, verify_peer;           /* to a root of the store; the very certificate must be in the store */
	struct texts check_host, check_email, check_ip;
	const char *crl_file, *crl_path;
	const char *ocsp; /* responder's URL or NULL */
	struct texts ocsp_flags;
	int timeout_ocsp_s;
	bool ocsp_aia, ocsp_nonce, ocsp_require;
	bool crl_check_chain;
	struct texts redirect; /* where clients go that were not authenticated */

	/* keys from elsewhere */
	const char *psk_identity, *psk_secrets;
	const struct psks *psks; /* what is in the file, or NULL */
	const char *sessiond;                /* [host:]port of a session cache, UDP */
	const char *ticket_key, *ticket_mac; /* hexadecimal */
	struct texts ticket_key_files;       /* extension */
	const char *engine_id;
	enum psk_require psk_require;
	int engine_num;   /* from 1; 0 = none; also where engine_id was given */
	bool async;       /* extension: handshakes do not wait for an engine */
	bool cert_reload; /* extension: files that change are loaded anew */

	/* life of a connection */
	bool reset;                                                             /* RST on error */
	int timeout_busy_s, timeout_close_s, timeout_connect_s, timeout_idle_s; /* negative: for ever */
	struct sockopts socket[SOCK_ROLES];
	size_t stack; /* bytes of a conversation's stack */

	int debug; /* log level of its lines */
	enum log_id_form log_id;

	/*
	 * All effective options of the section in the form of `-T`, one per line: two generations' sections of the same name and
	 * the same text are "unchanged" and keep tickets and sessions over a reload.
	 */
	const char *canonical;
};

/* Whether a peer's certificate decides. */
static inline bool section_verifies(const struct section *section)
{
	return section->verify_chain || section->verify_peer;
}

static inline bool section_keeps_source(const struct section *section)
{
	return section->transparent == TRANSPARENT_SOURCE || section->transparent == TRANSPARENT_BOTH;
}

static inline bool section_keeps_destination(const struct section *section)
{
	return section->transparent == TRANSPARENT_DESTINATION || section->transparent == TRANSPARENT_BOTH;
}

struct config {
	struct globals global;
	struct section *sections; /* in file order; never empty */
	size_t section_count;
	struct texts included; /* directories that a reload reads again */
	bool inetd;         /* no section in the file: the only one is for the connection on descriptors 0 and 1 */
	char **environment; /* for programs, without what is told of each connection: NULL behind the last */
	struct arena *arena;
	atomic_uint refs;
};

/* Where the configuration comes from. */
struct config_source {
	const char *
		path; /* as given on the command line; NULL = read `fd`. A relative one keeps the meaning it had at the first load. */
	int fd;       /* a regular file is read from where the descriptor stands, which is not moved: a reload reads it again */
};

/*
 * Reads and checks a configuration. Problems are logged at LOG_ERR ("FILE:LINE: "text": message", "Service [x]: message",
 * then "Configuration failed") and NULL is returned. The result is freed with config_free().
 */
struct config *config_load(const struct config_source *source);

/* For a word of `OCSPflag`: true, and the flag of OCSP_basic_verify(3) that has its name. */
bool config_ocsp_flag(const char *word, unsigned long *flag);

/* One more owner of a configuration, and one less: the last frees it, and wipes the passwords in it. config_free(NULL) is fine. Callable from any thread. */
struct config *config_ref(struct config *config);
void config_free(struct config *config);

/*
 * What the command line prints, all of it made from the tables: -help, -options, -T, defaults of -version; each with its own headings
 * ("Global options:" ...). What -T prints is a configuration again, includes resolved and inherited options written out.
 */
void config_print_help(FILE *out);
void config_print_tls_options(FILE *out);
void config_print_effective(const struct config *config, FILE *out);
void config_print_defaults(FILE *out);

/* The options that are refused as "not built yet", one name per line: NEWS.md lists the same. */
void config_print_unbuilt(FILE *out);

/* The options as the section of man/tlsplice.conf.5 that `make man` puts there. */
void config_print_man(FILE *out);

#endif
