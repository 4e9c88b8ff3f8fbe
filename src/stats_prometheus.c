/*
 * The counters in Prometheus' text exposition format 0.0.4.
 * For the admin endpoint's "/metrics".
 * SPDX-License-Identifier: Apache-2.0
 */
#include "log.h"
#include "stats_view.h"

#include <inttypes.h>

static const struct {
	const char *metric, *kind, *help;
} counters[STATS_COUNT] = {
#define X(name, metric, kind, help) [STATS_##name] = {metric, kind, help},
	STATS_COUNTERS(X)
#undef X
};

/* A metric that is being printed. */
struct column {
	FILE *out;
	enum stats_index index;
};

static const char *escape(char c)
{
	switch (c) {
	case '\\': return "\\\\";
	case '"': return "\\\"";
	default: return NULL;
	}
}

static void print_head(FILE *out, const char *metric, const char *kind, const char *help)
{
	fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", metric, help, metric, kind);
}

static void print_cell(const struct stats_view *view, void *arg)
{
	struct column *column = arg;

	fprintf(column->out, "tlsplice_%s{service=\"", counters[column->index].metric);
	stats_text(column->out, view->service, escape);
	fprintf(column->out, "\",role=\"%s\"} %" PRIu64 "\n", view->role, view->of[column->index]);
}

static void print_counter(FILE *out, enum stats_index index)
{
	struct column column = {.out = out, .index = index};
	char metric[64];

	snprintf(metric, sizeof(metric), "tlsplice_%s", counters[index].metric);
	print_head(out, metric, counters[index].kind, counters[index].help);
	stats_each(print_cell, &column);
}

/* Outcomes that did not happen are left out, but for the first: a series must be there before it counts. */
static void print_ktls(const struct stats_view *view, void *arg)
{
	FILE *out = arg;

	for (int d = 0; d < KTLS_DIRECTIONS; d++) {
		for (int o = 0; o < KTLS_OUTCOME_COUNT; o++) {
			if (o != KTLS_KERNEL && view->ktls[d][o] == 0)
				continue;
			fputs("tlsplice_ktls_total{service=\"", out);
			stats_text(out, view->service, escape);
			fprintf(out, "\",role=\"%s\",direction=\"%s\",result=\"%s\"} %" PRIu64 "\n", view->role,
			        ktls_direction_names[d], ktls_outcomes[o].word, view->ktls[d][o]);
		}
	}
}

static void print_number(FILE *out, const char *metric, const char *kind, const char *help, double value)
{
	print_head(out, metric, kind, help);
	fprintf(out, "%s %.15g\n", metric, value);
}

static void print_reloads(FILE *out, const struct stats_process *process)
{
	print_number(out, "tlsplice_config_last_reload_success", "gauge",
	             "Whether the last (re)load of the configuration succeeded", process->last_reload_ok);
	print_number(out, "tlsplice_config_last_reload_success_timestamp_seconds", "gauge",
	             "When the configuration in force was loaded", (double)process->last_ok);
	print_head(out, "tlsplice_config_reloads_total", "counter", "Loads of the configuration, the first one included");
	fprintf(out, "tlsplice_config_reloads_total{result=\"success\"} %" PRIu64 "\n", process->reloads_ok);
	fprintf(out, "tlsplice_config_reloads_total{result=\"failure\"} %" PRIu64 "\n", process->reloads_failed);
	print_head(out, "tlsplice_certificate_reloads_total", "counter", "Changed files of a section's certificates, as certReload met them");
	fprintf(out, "tlsplice_certificate_reloads_total{result=\"success\"} %" PRIu64 "\n", process->renewals_ok);
	fprintf(out, "tlsplice_certificate_reloads_total{result=\"failure\"} %" PRIu64 "\n", process->renewals_failed);
}

static void print_process(FILE *out, const struct stats_process *process)
{
	print_number(out, "process_cpu_seconds_total", "counter", "User and system CPU time", process->cpu_s);
	if (process->resident >= 0)
		print_number(out, "process_resident_memory_bytes", "gauge", "Resident memory", (double)process->resident);
	if (process->open_files >= 0)
		print_number(out, "process_open_fds", "gauge", "Open file descriptors", (double)process->open_files);
}

void stats_print_prometheus(FILE *out)
{
	struct stats_process process;

	stats_process(&process);
	print_head(out, "tlsplice_build_info", "gauge", "Constant 1; the label has the version");
	fprintf(out, "tlsplice_build_info{version=\"%s\"} 1\n", TLSPLICE_VERSION);
	print_number(out, "tlsplice_uptime_seconds", "gauge", "Time since the start", process.uptime_s);
	for (int i = 0; i < STATS_COUNT; i++)
		print_counter(out, (enum stats_index)i);
	print_head(out, "tlsplice_ktls_total", "counter",
	           "Directions of connections whose records the kernel makes, or why it does not");
	stats_each(print_ktls, out);
	print_reloads(out, &process);
	print_number(out, "tlsplice_log_lines_dropped_total", "counter", "Log lines dropped because the log was too slow",
	             (double)log_dropped());
	print_process(out, &process);
}
