/*
 * Serving: see serve.h. The main thread does this and nothing else: it reads configurations, binds, waits for signals, and tells the workers.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "serve.h"

#include "access.h"
#include "activation.h"
#include "admin.h"
#include "child.h"
#include "conn.h"
#include "daemon.h"
#include "exec.h"
#include "inetd.h"
#include "jobs.h"
#include "ktls.h"
#include "listen.h"
#include "log.h"
#include "notify.h"
#include "privileges.h"
#include "renew.h"
#include "ring.h"
#include "sandbox.h"
#include "service.h"
#include "stats.h"
#include "tls_random.h"
#include "worker.h"
#include "wrap.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

enum {
	JOB_THREADS = 5,  /* four of them may wait for name servers */
	INETD_FAILED = 2, /* exit status with `inetdStatus = yes` */
	WORKERS_MAX = 1024,
	DRAIN_LOOK_MS = 50, /* how often a drain looks whether it is over */
	REOPEN_MS = 24 * 3600 * 1000,
};

/* The process. */
static struct {
	const struct config_source *source;
	struct worker *workers;
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
} server;

static const struct globals *globals(void)
{
	return &server.current->config->global;
}

static unsigned workers_wanted(const struct config *config)
{
	unsigned n = (unsigned)config->global.workers;
	cpu_set_t cpus;

	if (config->inetd)
		return 1;
	if (n == 0)
		n = sched_getaffinity(0, sizeof(cpus), &cpus) == 0 ? (unsigned)CPU_COUNT(&cpus) : 1;
	return n < WORKERS_MAX ? n : WORKERS_MAX;
}

/* The largest stack that a section asks for: a worker's coroutines have one size. */
static size_t stack_wanted(const struct config *config)
{
	size_t stack = 0;

	for (const struct section *s = config->sections; s; s = s->next)
		if (s->stack > stack)
			stack = s->stack;
	return stack;
}

static struct log_target log_target(const struct globals *g)
{
	return (struct log_target){
		.output = g->output,
		.overwrite = g->log_overwrite,
		.to_stderr = server.foreground == FOREGROUND_YES,
		.to_syslog = g->syslog,
		.ident = g->service,
		.facility = g->facility,
	};
}

static int open_log(const struct globals *g)
{
	struct log_target target = log_target(g);

	log_set_level(g->debug);
	return log_open(&target);
}

/* Tells the status page which services there are. */
static void announce_services(const struct config *config)
{
	const char **names = calloc(config->section_count, sizeof(*names));

	for (const struct section *s = config->sections; names && s; s = s->next)
		names[s->index] = s->name;
	if (names)
		stats_set_current(names, (unsigned)config->section_count);
	free(names);
}

/* Starts, moves or stops the status page as the configuration in force says. A failure is logged and leaves the old one. */
static bool start_admin(void)
{
	const char *wanted = globals()->admin;
	struct admin *fresh;

	if (wanted && server.admin_address && strcmp(wanted, server.admin_address) == 0)
		return true;
	fresh = wanted ? admin_start(wanted) : NULL;
	if (wanted && !fresh)
		return false;
	admin_stop(server.admin);
	server.admin = fresh;
	free(server.admin_address);
	server.admin_address = wanted ? strdup(wanted) : NULL;
	return true;
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
		server.workers[w].library = tls_library_new();
		if (!server.workers[w].library)
			return false;
	}
	listening_init(&server.listening, server.count);
	return true;
}

static void get_libraries(struct tls_library *libraries[WORKERS_MAX])
{
	for (unsigned w = 0; w < server.count; w++)
		libraries[w] = server.workers[w].library;
}

static void seed(const struct config *config)
{
	struct tls_library *libraries[WORKERS_MAX];

	get_libraries(libraries);
	tls_random_seed(&config->global, libraries, server.count);
}

static struct generation *make_generation(struct config *config, const struct generation *previous)
{
	struct tls_library *libraries[WORKERS_MAX];

	get_libraries(libraries);
	return generation_new(config, previous, libraries, server.count);
}

/* Signals that were ignored when we were started stay ignored; the others are taken by signalfd. Returns 0 or -errno. */
static int take_signals(void)
{
	static const int all[] = {SIGHUP, SIGUSR1, SIGUSR2, SIGTERM, SIGINT, SIGQUIT};
	struct sigaction before;

	sigemptyset(&server.signals);
	signal(SIGCHLD, SIG_DFL); /* ignored, it would make children vanish without a word */
	sigaddset(&server.signals, SIGCHLD);
	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		if (sigaction(all[i], NULL, &before) == 0 && before.sa_handler != SIG_IGN)
			sigaddset(&server.signals, all[i]);
	sigprocmask(SIG_BLOCK, &server.signals, NULL);
	server.signal_fd = signalfd(-1, &server.signals, SFD_CLOEXEC | SFD_NONBLOCK);
	return server.signal_fd < 0 ? -errno : 0;
}

/* Before keys are loaded: the helper process has none of them. */
static bool prepare_access(const struct config *config)
{
	access_prepare(config);
	return wrap_start(config);
}

static bool same(const char *a, const char *b)
{
	return a == b || (a && b && strcmp(a, b) == 0);
}

/* What was done at the start and cannot be done again. */
static void announce_unchanged(const struct globals *now, const struct globals *wanted)
{
	const struct {
		const char *name;
		bool changes;
	} fixed[] = {
		{"chroot", !same(now->chroot, wanted->chroot)},        {"setuid", !same(now->setuid, wanted->setuid)},
		{"setgid", !same(now->setgid, wanted->setgid)},        {"pid", !same(now->pid, wanted->pid)},
		{"foreground", now->foreground != wanted->foreground}, {"sandbox", now->sandbox != wanted->sandbox},
		{"workers", now->workers != wanted->workers},
	};

	for (size_t i = 0; i < sizeof(fixed) / sizeof(*fixed); i++)
		if (fixed[i].changes)
			log_global(LOG_NOTICE, "\"%s\" changes with the next start", fixed[i].name);
}

/* What the sandbox keeps from us is refused by name, before something fails for no apparent reason. */
static struct config *load_again(void)
{
	struct config *config = config_load(server.source);

	if (!config || sandbox_allows(config))
		return config;
	config_free(config);
	return NULL;
}

/* False: the old configuration stays. */
static bool reload(void)
{
	struct config *config = load_again();
	struct watch *watch = config ? renew_watch(config) : NULL;
	struct generation *next = NULL;

	if (config && prepare_access(config))
		next = make_generation(config, server.current);
	else
		config_free(config);
	if (next && !listening_prepare(&server.listening, next)) {
		generation_free(next);
		next = NULL;
	}
	stats_note_reload(next != NULL);
	if (!next) {
		log_global(LOG_ERR, "Failed to reload the configuration file");
		watch_free(watch);
		return false;
	}
	announce_unchanged(globals(), &next->config->global);
	listening_commit(&server.listening, next, server.workers);
	server.current = next;
	watch_free(server.watch);
	server.watch = watch;
	open_log(globals());
	announce_services(next->config);
	start_admin();
	log_global(LOG_NOTICE, "Configuration successful");
	return true;
}

/* Files may have changed: certReload. */
static void reload_certificates(uint64_t now_ms)
{
	struct tls_library *libraries[WORKERS_MAX];
	struct generation *next;

	get_libraries(libraries);
	next = renew(server.watch, now_ms, server.current, libraries);
	if (!next)
		return;
	if (!listening_prepare(&server.listening, next)) {
		generation_free(next);
		return;
	}
	listening_commit(&server.listening, next, server.workers);
	server.current = next;
	generation_announce(next);
}

static void list_worker(struct worker *w, void *arg)
{
	unsigned *number = arg;

	*number = conn_list(w, *number);
}

static void list_connections(void)
{
	unsigned number = 0;

	log_write(LOG_EMERG, NULL, "Active connections:");
	for (unsigned w = 0; w < server.count; w++)
		worker_ask(&server.workers[w], list_worker, &number);
	log_write(LOG_EMERG, NULL, "Listed %u active connection(s)", number);
}

static void tell_drain(struct worker *w, void *arg)
{
	(void)arg;
	worker_drain(w);
}

static void post_stop(struct worker *w, struct message *message)
{
	free(message);
	worker_stop(w);
}

/* Listeners close now, connections get `drain` seconds; another signal cuts that short. */
static void drain(int seconds)
{
	struct timespec look = {.tv_nsec = DRAIN_LOOK_MS * 1000000L};
	time_t end = time(NULL) + seconds;

	log_global(LOG_NOTICE, "Draining %u connection(s), %d second(s) at most", conn_count(), seconds);
	admin_set_healthy(server.admin, false);
	for (unsigned w = 0; w < server.count; w++)
		worker_ask(&server.workers[w], tell_drain, NULL);
	while (conn_count() > 0 && time(NULL) < end) {
		int signal = sigtimedwait(&server.signals, NULL, &look);

		if (signal == SIGCHLD)
			child_reap();
		if (signal == SIGTERM || signal == SIGINT || signal == SIGQUIT)
			return;
	}
}

/* Returns false when the signal ends the process. */
static bool handle(int signal)
{
	switch (signal) {
	case SIGCHLD: child_reap(); return true;
	case SIGHUP:
		log_global(LOG_DEBUG, "Processing SIGNAL_RELOAD_CONFIG");
		notify_reloading();
		notify_ready(reload() ? "Serving" : "Serving with the old configuration: the new one is wrong");
		return true;
	case SIGUSR1: log_reopen(); return true;
	case SIGUSR2: list_connections(); return true;
	case SIGTERM:
		log_global(LOG_NOTICE, "Terminated");
		notify_stopping(globals()->drain_s);
		if (globals()->drain_s > 0)
			drain(globals()->drain_s);
		return false;
	default:
		log_global(LOG_ERR, "Received %s; terminating", signal == SIGINT ? "SIGINT" : "SIGQUIT");
		notify_stopping(0);
		return false;
	}
}

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Once a day, for whoever moves the log file away without telling. */
static int reopen_log_in_ms(void)
{
	static uint64_t due;

	if (due && now_ms() >= due)
		log_reopen();
	if (!due || now_ms() >= due)
		due = now_ms() + REOPEN_MS;
	return (int)(due - now_ms());
}

static void be_asked(struct worker *w, void *arg)
{
	(void)w, (void)arg;
}

/* systemd's watchdog hears of us as long as every worker answers. */
static void show_life(void)
{
	if (!notify_watchdog_due(now_ms()))
		return;
	for (unsigned w = 0; w < server.count; w++)
		worker_ask(&server.workers[w], be_asked, NULL);
	notify_alive(now_ms());
}

static int sooner(int a_ms, int b_ms)
{
	return b_ms >= 0 && (a_ms < 0 || b_ms < a_ms) ? b_ms : a_ms;
}

/* Returns the next signal, or 0 when there is something else to look after. */
static int next_signal(void)
{
	struct pollfd fds[] = {{.fd = server.signal_fd, .events = POLLIN},
	                       {.fd = watch_descriptor(server.watch), .events = POLLIN},
	                       {.fd = wrap_descriptor()}};
	int timeout = sooner(reopen_log_in_ms(), watch_wait_ms(server.watch, now_ms()));
	struct signalfd_siginfo info;

	timeout = sooner(timeout, wrap_wait_ms(now_ms()));
	poll(fds, 3, sooner(timeout, notify_watchdog_wait_ms(now_ms())));
	show_life();
	return read(server.signal_fd, &info, sizeof(info)) == sizeof(info) ? (int)info.ssi_signo : 0;
}

static void wait_for_signals(void)
{
	int signal;

	do {
		signal = next_signal();
		if (!signal) {
			reload_certificates(now_ms());
			wrap_look(now_ms());
		}
	} while (!signal || handle(signal));
}

static void stop_workers(void)
{
	for (unsigned w = 0; w < server.count; w++) {
		struct message *stop = malloc(sizeof(*stop));

		if (!stop)
			_exit(1);
		list_init(&stop->link);
		stop->deliver = post_stop;
		worker_post(&server.workers[w], stop);
	}
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
	const struct globals *g = globals();
	struct log_target target = log_target(g);

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
	if (!probe_ring() || !prepare_access(config) || !make_workers(config)) {
		config_free(config);
		return false;
	}
	seed(config);
	server.watch = renew_watch(config);
	server.current = make_generation(config, NULL);
	if (!server.current)
		return false;
	log_global(LOG_NOTICE, "Configuration successful");
	if (!listening_prepare(&server.listening, server.current))
		return false;
	return drop_privileges() && open_log(globals()) == 0;
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
	const struct globals *g = globals();
	int error = 0;

	log_before_fork();
	if (g->foreground == FOREGROUND_NO && !server.inetd) {
		error = daemonise();
		if (error)
			log_global(LOG_CRIT, "Into the background: %s (%d)", strerror(-error), -error);
	}
	log_set_id("main");
	if (!server.inetd && !error) {
		server.pid_file = g->pid ? strdup(g->pid) : NULL;
		error = pid_file_create(server.pid_file);
	}
	if (!error)
		sandbox_files(server.current->config, server.source); /* while this is the only thread */
	log_after_fork();
	if (error)
		return false;
	error = take_signals();
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
	announce_services(server.current->config);
	announce_ktls(server.current->config);
	stats_note_reload(1);
	if (server.inetd) {
		inetd_start(server.workers);
		return true;
	}
	if (!start_admin())
		return false;
	log_global(LOG_INFO, "Accepting new connections");
	daemonise_done();
	notify_ready("Serving");
	return true;
}

/* The end: everything is given back, except where a name lookup cannot be waited for. */
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
	if (jobs_pending() > 0)
		_exit(0);
	jobs_stop();
	workers_free(server.workers, server.count);
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
	return server.inetd_status && conn_failures() ? INETD_FAILED : 0;
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
	wait_for_signals();
	stop_workers();
	finish();
	return 0;
}

int test_configuration(const struct config_source *source)
{
	struct config *config = config_load(source);
	bool ok;

	if (config)
		config->global.workers = 1;
	ok = config && make_workers(config);
	if (ok) {
		server.current = make_generation(config, NULL);
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
