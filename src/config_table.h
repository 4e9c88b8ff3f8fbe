/*
 * The configuration's inside: one row per option, the structures the rows point into, and the state of a reading.
 * For config*.c and their tests only; everybody else reads config.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_CONFIG_TABLE_H
#define TLSPLICE_CONFIG_TABLE_H

#include "arena.h"
#include "config.h"
#include "tls_modules.h"

enum {
	CONFIG_LINE_MAX = 16384, /* a line's buffer; what is longer continues on a "next" line, as stunnel's users know it */
	CONFIG_DEPTH_MAX = 16,   /* nested include directories: more can only be a loop */
	CONFIG_QUOTE_MAX = 640,  /* bytes of a line quoted in a message, so that the message fits into LOG_TEXT_MAX */
};

enum option_scope { GLOBAL, SERVICE };

enum option_flags {
	LIST = 1,       /* may be given more than once; a section's own list of texts replaces the inherited one */
	HIDDEN = 2,     /* not in -help */
	SHOWN_ONLY = 4, /* the default is for people: the field keeps its "not configured" value */
	SECRET = 8,     /* messages do not quote the value */
	EXTENSION = 16, /* not an option of stunnel */
	SECONDS = 32,   /* unit shown behind the default by -version */
	BYTES = 64,
};

enum {
	OPTION_COUNT = 0
#define OPTION(...) +1
#include "options.def"
#undef OPTION
};

/* Where an option was set: for messages about combinations that are known to be wrong only later. */
struct origin {
	const char *file;
	const char *text; /* the whole line */
	unsigned line;
	unsigned order; /* counts all options set in a reading */
};

/* What a reading knows about either kind of option set. Must come first in both, see origins_of(). */
struct origins {
	struct origin *of[OPTION_COUNT]; /* NULL: default */
	bool own[OPTION_COUNT];          /* set in this section, not inherited */
};

struct global_options {
	struct origins origins;
	struct globals pub;
	const char *egd, *compression;
};

struct service_options {
	struct origins origins;
	struct section pub;
	const char *header; /* the text between [ and ] */

	struct texts sni;
	bool udp;


	/* negotiation */
	const char *protocol, *protocol_authentication, *protocol_domain, *protocol_host, *protocol_password, *protocol_username;
	struct texts protocol_header;
};

/* What config_load() really returns: -T shows all of it. */
struct generation {
	struct config config;
	struct global_options global;
};

/* A configuration being read. */
struct reading {
	struct config *config;
	struct arena *arena;
	struct global_options *global;
	struct service_options *defaults; /* what the lines before the first section say about every section */
	struct service_options *section;  /* the open one; NULL before the first */
	struct section **tail;
	const char *file; /* being read, with its line */
	const char *text;
	unsigned line;
	bool secret; /* the option of this line */
	unsigned depth;
	unsigned order;
	struct tls_modules_reading modules;
};

struct option;

struct word {
	const char *word;
	int value;
};

/* How values of a kind are read and written. `base` is the struct that the row's offset is in. */
struct option_kind {
	/* Returns NULL, or what is wrong. */
	const char *(*parse)(struct reading *reading, const struct option *row, void *base, const char *value);
	/* Writes the lines that parse() reads back; NULL: there is nothing to write. */
	void (*print)(FILE *out, const struct option *row, const void *base);
	const struct word *words;
};

/* Whether a valid value of an option that is not built yet would change anything. `service` is NULL for global options. */
typedef bool option_asks(const struct global_options *global, const struct service_options *service);

struct option {
	enum option_scope scope;
	unsigned flags;
	const char *name, *alias;
	const struct option_kind *kind;
	size_t offset;
	const char *fallback; /* default as text, one value per line */
	const char *error;    /* what a value of the wrong form is told */
	option_asks *asks;    /* NULL: built */
	const char *help;
};

extern const struct option options[OPTION_COUNT];

/* Negotiation protocols, and what of them exists in which mode. */
struct protocol_row {
	const char *name;
	bool client, server;
	bool client_endpoint, server_endpoint;     /* knows by itself where to connect */
	bool no_redirect;                          /* connects before the certificate is seen */
	bool client_needs_host, server_needs_host; /* does nothing useful without protocolHost */
	bool listed;                               /* in -help */
};
extern const struct protocol_row protocols[];
extern const size_t protocol_count;

extern const struct option_kind kind_text, kind_text_or_none, kind_texts, kind_flag, kind_log_file, kind_foreground,
	kind_failover, kind_log_id, kind_int, kind_long, kind_debug_global, kind_debug, kind_compression, kind_engine,
	kind_engine_ctrl, kind_engine_default, kind_provider, kind_provider_parameter, kind_set_env, kind_user_global,
	kind_group_global, kind_user, kind_group, kind_accept, kind_connect, kind_redirect, kind_local, kind_sessiond,
	kind_include, kind_version, kind_version_both, kind_tls_options, kind_security_level, kind_stack, kind_socket,
	kind_verify, kind_verify_flag, kind_retry, kind_send_proxy, kind_transparent, kind_transport, kind_ocsp_flag, kind_psk_secrets,
	kind_psk_require, kind_alpn, kind_alpn_mismatch, kind_ticket, kind_engine_id, kind_engine_num, kind_service, kind_workers,
	kind_drain, kind_admin, kind_ktls, kind_relay, kind_byte_count, kind_ip, kind_rnd_bytes, kind_sandbox;

/* config.c */
extern const char config_told[]; /* an error whose message has been logged already */
extern const char config_no_memory[];
struct origins *origins_of(void *base);
const struct option *option_find(const char *name, enum option_scope scope);
const char *config_line(struct reading *reading, char *line);             /* one line, which is cut up; NULL or what is wrong */
void config_complain(const struct reading *reading, const char *message); /* logs FILE:LINE: "text": message */
void config_complain_of(const struct origin *origin, const struct option *row, const char *message);
const char *config_not_built(struct reading *reading, const struct option *row);

/* config_read.c */
bool config_read_source(struct reading *reading, const struct config_source *source);
const char *config_read_directory(struct reading *reading, const char *path);

/* config_kinds.c */
bool config_number(const char *text, long min, long max, long *number);
const char *texts_add(struct arena *arena, struct texts *texts, const char *text);

/* config_tls.c */
const char *tls_option_parse(const char *text, uint64_t *set, uint64_t *clear);
void tls_options_print(FILE *out, const struct option *row, uint64_t bits, const char *prefix);
enum ktls_wish tls_options_ktls(uint64_t set, uint64_t clear, enum ktls_wish unless_said);
int tls_version_parse(const char *text); /* TLS1_2_VERSION ..., 0 for "all", -1 if there is no such version */
const char *tls_version_text(int version);

/* config_check.c: false after logging what is wrong */
bool check_globals(struct reading *reading);
bool check_service(struct reading *reading, struct service_options *service);
bool check_inetd(struct reading *reading);
struct section *sni_primary(const struct reading *reading,
                            const char *sni); /* whose clients "primary:pattern" is about, or NULL */

/* config_print.c */
void print_option(FILE *out, const struct option *row, const char *value);
void print_options(FILE *out, enum option_scope scope, const void *base);

/* config_man.c: a paragraph of the man page on the option of that name */
struct config_note {
	const char *name, *text;
};
extern const struct config_note config_notes[];
extern const size_t config_note_count;

#endif
