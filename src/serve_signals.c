/*
 * Signals, and what has its time: see server.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "server.h"

#include "admin.h"
#include "child.h"
#include "conn.h"
#include "notify.h"
#include "watch.h"
#include "wrap.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

enum {
	DRAIN_LOOK_MS = 50, /* how often a drain looks whether it is over */
	REOPEN_MS = 24 * 3600 * 1000,
};

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

int server_take_signals(void)
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

/* Listeners close now, connections get `drain` seconds; another signal cuts that short. */
static void drain(int seconds)
{
	struct timespec look = {.tv_nsec = DRAIN_LOOK_MS * 1000000L};
	uint64_t end_ms = now_ms() + (uint64_t)seconds * 1000;

	log_global(LOG_NOTICE, "Draining %u connection(s), %d second(s) at most", conn_count(), seconds);
	admin_set_healthy(server.admin, false);
	for (unsigned w = 0; w < server.count; w++)
		worker_ask(&server.workers[w], tell_drain, NULL);
	while (conn_count() > 0 && now_ms() < end_ms) {
		int signal = sigtimedwait(&server.signals, NULL, &look);

		if (notify_watchdog_due(now_ms())) /* workers that have no connection any more would not answer */
			notify_alive(now_ms());
		if (signal == SIGCHLD)
			child_reap();
		if (signal == SIGUSR1)
			log_reopen();
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
		notify_ready(server_reload() ? "Serving" : "Serving with the old configuration: the new one is wrong");
		return true;
	case SIGUSR1: log_reopen(); return true;
	case SIGUSR2: list_connections(); return true;
	case SIGTERM:
		log_global(LOG_NOTICE, "Terminated");
		notify_stopping(server_globals()->drain_s);
		if (server_globals()->drain_s > 0)
			drain(server_globals()->drain_s);
		return false;
	default:
		log_global(LOG_ERR, "Received %s; terminating", signal == SIGINT ? "SIGINT" : "SIGQUIT");
		notify_stopping(0);
		return false;
	}
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

void server_run(void)
{
	int signal;

	do {
		signal = next_signal();
		if (!signal) {
			server_reload_certificates(now_ms());
			wrap_look(now_ms());
		}
	} while (!signal || handle(signal));
}
