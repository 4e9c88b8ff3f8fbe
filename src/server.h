/*
 * The process that serves, as its main thread sees it. For serve*.c.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_SERVER_H
#define TLSPLICE_SERVER_H

#include "config.h"
#include "listen.h"
#include "log.h"
#include "service.h"
#include "worker.h"

#include <signal.h>
#include <stdbool.h>

struct admin;
struct watch;

struct server {
	const struct config_source *source;
	struct worker *workers;
	struct tls_library *libraries[WORKERS_MAX]; /* theirs */
	unsigned count;
	bool inetd; /* one connection, on descriptors 0 and 1: the configuration may be gone before we look */
	bool inetd_status;
	struct listening listening;
	struct generation *current;
	struct watch *watch; /* files that `current` was made of */
	struct admin *admin;
	char *admin_address; /* of `admin`, to see whether a reload changes it */
	char *pid_file;
	enum foreground foreground; /* as it was at the start */
	sigset_t signals;
	int signal_fd; /* the same signals, for poll(2) */
};

extern struct server server;

/* Of the configuration in force. */
static inline const struct globals *server_globals(void)
{
	return &server.current->config->global;
}

/* --- serve_reload.c: what the start and each reload do ------------------------------------------------------------------------------------ */

/* Before keys are loaded: a helper process has none of them. Returns false after logging why. */
bool server_prepare_access(const struct config *config);

/* As generation_new(), with the libraries of our workers. */
struct generation *server_generation(struct config *config, const struct generation *previous);

struct log_target server_log_target(const struct globals *globals);

/* Logs go where the configuration in force says. Returns 0 or -errno, logged. */
int server_open_log(void);

/* Tells the status page which services there are. */
void server_announce_services(void);

/* Starts, moves or stops the status page as the configuration in force says. A failure is logged and leaves the old one. */
bool server_start_admin(void);

/* The configuration is read again. Returns false, logged: the old one stays. */
bool server_reload(void);

/* Files may have changed: certReload. */
void server_reload_certificates(uint64_t now_ms);

/* --- serve_signals.c ------------------------------------------------------------------------------------------------------------------------ */

/* From now on signals are taken by server.signal_fd; those that were ignored when we were started stay ignored. Returns 0 or -errno. */
int server_take_signals(void);

/* Does what signals say, and looks after what has its time, until a signal ends the process. */
void server_run(void);

#endif
