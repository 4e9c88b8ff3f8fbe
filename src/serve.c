/*
 * Serving: see serve.h. The main thread does this and nothing else: it reads configurations, binds, waits for signals, and tells the workers.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "serve.h"

#include "activation.h"
#include "admin.h"
#include "conn.h"
#include "daemon.h"
#include "exec.h"
#include "inetd.h"
#include "jobs.h"
#include "ktls.h"
#include "log.h"
#include "notify.h"
#include "privileges.h"
#include "renew.h"
#include "ring.h"
#include "sandbox.h"
#include "server.h"
#include "stats.h"
#include "tls_random.h"
#include "watch.h"
#include "wrap.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	JOB_THREADS = 5,  /* four of them may wait for name servers */
	INETD_FAILED = 2, /* exit status with `inetdStatus = yes` */
};

struct server server;

/* The largest stack that a section asks for: a worker's coroutines have one size. */
static size_t stack_wanted(const struct config *config)
{
	size_t stack = 0;

	for (const struct section *s = config->sections; s; s = s->next)
		if (s->stack > stack)
			stack = s->stack;
	return stack;
}

static bool make_workers(const struct config *config)
{
	server.inetd = config->inetd;
	server.inetd_status = config->global.inetd_status;
	server.count = workers_wanted(config);
	server.workers = workers_new(server.count);
	if (!server.workers || stats_start(server.count) < 0)
		return false;
	for (unsigned w = 0; w < server.count; w++) {
		server.libraries[w] = server.workers[w].library = tls_library_new();
		if (!server.libraries[w])
			return false;
	}
	listening_init(&server.listening, server.count);
	return true;
}

static void stop_workers(void)
{
	for (unsigned w = 0; w < server.count; w++)
		worker_post_stop(&server.workers[w]);
	for (unsigned w = 0; w < server.count; w++)
		worker_join(&server.workers[w]);
}

/* Whether this machine lets us have rings: said while somebody at the terminal can read it. */
static bool probe_ring(void)
{
	struct bufs bufs = {0};
	int error;
	struct ring *ring = ring_open(&bufs, &error);

	if (!ring)
		log_global(LOG_CRIT, "%s", ring_explain(error));
	ring_close(ring);
	bufs_free(&bufs);
	return ring != NULL;
}

/* From root in the whole file system to whom and where the configuration says. */
static bool drop_privileges(void)
{
	const struct globals *g = server_globals();
	struct log_target target = server_log_target(g);

	ktls_probe(); /* the kernel loads a module for root only */
	log_connect(&target);
	if (g->foreground == FOREGROUND_NO && daemonise_prepare() < 0) {
		log_global(LOG_ERR, "/dev/null: %s (%d)", strerror(errno), errno);
		return false;
	}
	if (!privileges_drop(server.current))
		return false;
	process_protect();
	if (g->chroot) { /* what is watched is what will be loaded */
		exec_look_in_jail(server.current->config);
		watch_free(server.watch);
		server.watch = renew_watch(server.current->config);
	}
	return (!g->setuid && !g->chroot) || probe_ring();
}

/* Opens everything that can fail and be told to whoever started us. Returns false after logging why. */
static bool prepare(struct config *config)
{
	unsigned clients = process_limits();

	conn_set_limit(clients);
	log_global(LOG_DEBUG, "Clients allowed=%u", clients);
	if (!probe_ring() || !server_prepare_access(config) || !make_workers(config)) {
		config_free(config);
		return false;
	}
	tls_random_seed(&config->global, server.libraries, server.count);
	server.watch = renew_watch(config);
	server.current = server_generation(config, NULL);
	if (!server.current)
		return false;
	log_global(LOG_NOTICE, "Configuration successful");
	if (!listening_prepare(&server.listening, server.current))
		return false;
	return drop_privileges() && server_open_log() == 0;
}

/* What holds for all connections is said once, here. */
static void announce_ktls(const struct config *config)
{
	const struct ktls_support *support = ktls_support();
	bool wanted = false, automatic = false;

	for (const struct section *section = config->sections; section; section = section->next) {
		wanted |= section->ktls != KTLS_NO;
		automatic |= section->ktls == KTLS_AUTO;
	}
	if (wanted && support->error)
		log_global(LOG_NOTICE, "Kernel TLS: not used: %s", ktls_explain(support->error));
	else if (automatic && !support->rekey)
		log_global(LOG_NOTICE, "Kernel TLS: not used for TLS 1.3 unless \"ktls\" says so: %s",
		           ktls_outcomes[KTLS_REKEY].why);
}

/* From here on there are threads: into the background first. */
static bool launch(void)
{
	const struct globals *g = server_globals();
	int error = 0;

	log_before_fork();
	if (g->foreground == FOREGROUND_NO && !server.inetd) {
		error = daemonise();
		if (error)
			log_global(LOG_CRIT, "Into the background: %s (%d)", strerror(-error), -error);
	}
	log_set_id("main");
	if (!server.inetd && !error) {
		error = pid_file_create(g->pid);
		server.pid_file = g->pid && !error ? strdup(g->pid) : NULL;
	}
	if (!error)
		sandbox_files(server.current->config, server.source); /* while this is the only thread */
	log_after_fork();
	if (error)
		return false;
	error = server_take_signals();
	if (error) {
		log_global(LOG_CRIT, "signalfd: %s (%d)", strerror(-error), -error);
		return false;
	}
	process_memory();
	signal(SIGPIPE, SIG_IGN);
	error = server.inetd ? inetd_prepare(server.workers) : 0;
	if (!error)
		error = jobs_start(JOB_THREADS);
	if (!error)
		error = workers_start(server.workers, server.count, stack_wanted(server.current->config));
	if (error) {
		log_global(LOG_CRIT, "%s", ring_explain(error));
		return false;
	}
	sandbox_calls(server.current->config); /* of all threads, now that their rings are open */
	listening_commit(&server.listening, server.current, server.workers);
	server_announce_services();
	announce_ktls(server.current->config);
	stats_note_reload(1);
	if (server.inetd) {
		inetd_start(server.workers);
		return true;
	}
	if (!server_start_admin())
		return false;
	log_global(LOG_INFO, "Accepting new connections");
	daemonise_done();
	notify_ready("Serving");
	return true;
}

/* The end of everything that others see. */
static void finish(void)
{
	admin_stop(server.admin);
	free(server.admin_address);
	listening_end(&server.listening);
	wrap_stop();
	watch_free(server.watch);
	close(server.signal_fd);
	if (!server.inetd)
		pid_file_remove(server.pid_file);
	free(server.pid_file);
	tls_forget_passphrase();
	log_close();
}

/* What only this process has is given back, except where a name lookup cannot be waited for. Returns the exit status. */
static int end_with(int status)
{
	if (jobs_pending() > 0)
		_exit(status);
	jobs_stop();
	workers_free(server.workers, server.count);
	return status;
}

/* Inetd mode: one connection. Like any other process one dies by the signal that ends it. */
static int serve_inherited(void)
{
	int ended_by = inetd_wait(server.workers, server.signal_fd);
	sigset_t pending = server.signals;

	finish();
	if (ended_by) {
		signal(ended_by, SIG_DFL);
		raise(ended_by);
		sigprocmask(SIG_UNBLOCK, &pending, NULL);
	}
	return end_with(server.inetd_status && conn_failures() ? INETD_FAILED : 0);
}

int serve(const struct config_source *source)
{
	struct config *config;

	server.source = source;
	notify_open();
	exec_find_preload();
	config = activation_take() ? config_load(source) : NULL;
	server.foreground = config ? config->global.foreground : FOREGROUND_NO;
	if (!config || !prepare(config)) {
		log_dump_kept();
		return 1;
	}
	if (!launch()) {
		log_flush(1000);
		log_dump_kept();
		pid_file_remove(server.pid_file);
		log_close();
		_exit(1); /* threads may run */
	}
	if (server.inetd)
		return serve_inherited();
	server_run();
	stop_workers();
	finish();
	return end_with(0);
}

int test_configuration(const struct config_source *source)
{
	struct config *config = config_load(source);
	bool ok;

	if (config)
		config->global.workers = 1;
	ok = config && make_workers(config);
	if (ok) {
		server.current = server_generation(config, NULL);
		ok = server.current != NULL;
	} else {
		config_free(config);
	}
	if (ok)
		log_global(LOG_NOTICE, "Configuration successful");
	log_dump_kept();
	generation_free(server.current);
	workers_free(server.workers, server.count);
	return ok ? 0 : 1;
}
