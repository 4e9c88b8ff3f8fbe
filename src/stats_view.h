/*
 * The counters as their two printers see them: a service's sums over all workers, and the process's own figures.
 * For stats_*.c alone.
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TLSPLICE_STATS_VIEW_H
#define TLSPLICE_STATS_VIEW_H

#include "stats.h"

#include <stdbool.h>
#include <time.h>

enum stats_index {
#define X(name, metric, kind, help) STATS_##name,
	STATS_COUNTERS(X)
#undef X
		STATS_COUNT
};

struct stats_view {
	const char *service, *role;
	bool current; /* part of the running configuration */
	uint64_t of[STATS_COUNT];
	uint64_t ktls[KTLS_DIRECTIONS][KTLS_OUTCOME_COUNT];
};

/* Calls fn for each service in the order in which they came; with the registry's lock held, so fn must not block. */
void stats_each(void (*fn)(const struct stats_view *view, void *arg), void *arg);

struct stats_process {
	double uptime_s;
	double cpu_s;
	uint64_t reloads_ok, reloads_failed;
	uint64_t renewals_ok, renewals_failed;
	bool last_reload_ok;
	time_t last_ok;       /* 0 = no configuration yet */
	long long resident;   /* bytes, -1 = /proc is not there (chroot) */
	long long open_files; /* -1 likewise */
};

void stats_process(struct stats_process *process);

/*
 * Prints text from a configuration file: escape(c) gives what stands for a byte, or NULL for the byte itself.
 * Control characters and bytes that are no UTF-8 come out as "\xHH", with the backslash escaped like any other.
 */
void stats_text(FILE *out, const char *text, const char *(*escape)(char c));

#endif
