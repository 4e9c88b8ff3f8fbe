/*
 * The counters as a page for people: it refreshes itself, needs no script and nothing from elsewhere.
 * For the admin endpoint's "/".
 * SPDX-License-Identifier: Apache-2.0
 */
#include "log.h"
#include "stats_view.h"

#include <inttypes.h>
#include <string.h>

static const char head[] =
	"<!doctype html>\n"
	"<html lang=\"en\">\n"
	"<head>\n"
	"<meta charset=\"utf-8\">\n"
	"<meta http-equiv=\"refresh\" content=\"2\">\n"
	"<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
	"<meta name=\"color-scheme\" content=\"light dark\">\n"
	"<title>tlsplice</title>\n"
	"<style>\n"
	":root { --ground: #f6f7f9; --card: #fff; --ink: #1b2430; --soft: #5d6b7c; --line: #e3e7ec; --good: #17794b; --bad: "
        "#b3261e }\n"
	"@media (prefers-color-scheme: dark) {\n"
	"  :root { --ground: #11161d; --card: #1a212b; --ink: #e4e9ef; --soft: #97a4b4; --line: #2b3542;\n"
	"          --good: #62c695; --bad: #ff8a80 }\n"
	"}\n"
	"* { box-sizing: border-box }\n"
	"body { margin: 0; padding: 2rem 1.5rem; background: var(--ground); color: var(--ink);\n"
	"       font: 15px/1.45 system-ui, sans-serif; font-variant-numeric: tabular-nums }\n"
	"main { max-width: 76rem; margin: auto }\n"
	"h1 { font-size: 1.4rem; margin: 0 }\n"
	"header p, footer { color: var(--soft); margin: .2rem 0 0 }\n"
	".tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)); gap: .8rem; margin: 1.4rem 0 }\n"
	".tiles div, .card { background: var(--card); border: 1px solid var(--line); border-radius: .6rem }\n"
	".tiles div { padding: .8rem 1rem }\n"
	".tiles span { display: block; color: var(--soft); font-size: .85rem }\n"
	".tiles b { font-size: 1.35rem; font-weight: 600 }\n"
	".card { overflow-x: auto }\n"
	"table { border-collapse: collapse; width: 100% }\n"
	"th, td { padding: .55rem .9rem; text-align: right; white-space: nowrap; border-top: 1px solid var(--line) }\n"
	"thead th { color: var(--soft); font-size: .8rem; font-weight: 600; border-top: 0 }\n"
	"thead tr + tr th { padding-top: 0 }\n"
	"tr:first-child th:first-child, td:first-child { text-align: left; white-space: normal; overflow-wrap: anywhere;\n"
	"                                                min-width: 10rem }\n"
	"td small { color: var(--soft); margin-left: .5rem }\n"
	".old { color: var(--soft) } .zero { color: var(--soft) } .good { color: var(--good) } .bad { color: var(--bad) }\n"
	"footer { font-size: .85rem; margin-top: 1rem } a { color: inherit }\n"
	"</style>\n"
	"</head>\n"
	"<body>\n"
	"<main>\n";

static const char table_head[] =
	"<div class=\"card\"><table>\n"
	"<thead><tr><th rowspan=\"2\" scope=\"col\">Service</th><th colspan=\"4\" scope=\"colgroup\">Connections</th>"
	"<th colspan=\"3\" scope=\"colgroup\">Handshakes</th><th rowspan=\"2\" scope=\"col\">Connect<br>failures</th>"
	"<th colspan=\"2\" scope=\"colgroup\">Bytes</th></tr>\n"
	"<tr><th scope=\"col\">open</th><th scope=\"col\">accepted</th><th scope=\"col\">rejected</th><th "
        "scope=\"col\">failed</th>"
	"<th scope=\"col\">full</th><th scope=\"col\">resumed</th><th scope=\"col\">failed</th>"
	"<th scope=\"col\">to TLS</th><th scope=\"col\">to plain</th></tr></thead>\n<tbody>\n";

static const char *escape(char c)
{
	switch (c) {
	case '&': return "&amp;";
	case '<': return "&lt;";
	case '>': return "&gt;";
	case '"': return "&quot;";
	case '\'': return "&#39;";
	default: return NULL;
	}
}

/* 1234567 as "1,234,567". */
static const char *grouped(uint64_t n, char text[32])
{
	char digits[24];
	int length = snprintf(digits, sizeof(digits), "%" PRIu64, n);
	char *to = text;

	for (int i = 0; i < length; i++) {
		if (i > 0 && (length - i) % 3 == 0)
			*to++ = ',';
		*to++ = digits[i];
	}
	*to = '\0';
	return text;
}

/* Bytes with three digits or so and a unit. */
static const char *sized(uint64_t n, char text[32])
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	double size = (double)n;
	size_t unit = 0;

	while (size >= 1023.95 && unit < 6) {
		size /= 1024;
		unit++;
	}
	snprintf(text, 32, unit && size < 99.95 ? "%.1f %s" : "%.0f %s", size, units[unit]);
	return text;
}

/* Seconds as the two largest units that matter. */
static const char *lasting(uint64_t s, char text[32])
{
	if (s < 60)
		snprintf(text, 32, "%" PRIu64 " s", s);
	else if (s < 3600)
		snprintf(text, 32, "%" PRIu64 " min %" PRIu64 " s", s / 60, s % 60);
	else if (s < 86400)
		snprintf(text, 32, "%" PRIu64 " h %" PRIu64 " min", s / 3600, s / 60 % 60);
	else
		snprintf(text, 32, "%" PRIu64 " d %" PRIu64 " h", s / 86400, s / 3600 % 24);
	return text;
}

/* ---- the table ---- */

static void print_count(FILE *out, uint64_t n, const char *class)
{
	char text[32];

	fprintf(out, "<td class=\"%s\">%s</td>", n ? class : "zero", grouped(n, text));
}

static void print_bytes(FILE *out, uint64_t n)
{
	char text[32];

	fprintf(out, "<td class=\"%s\">%s</td>", n ? "" : "zero", sized(n, text));
}

static void print_name(FILE *out, const struct stats_view *view)
{
	fprintf(out, "<tr%s><td>", view->current ? "" : " class=\"old\"");
	stats_text(out, view->service, escape);
	fprintf(out, "<small>%s%s</small></td>", view->role, view->current ? "" : ", no longer configured");
}

/* What is no longer configured is shown while connections of it are open. */
static bool shown(const struct stats_view *view)
{
	return view->current || view->of[STATS_active];
}

static void print_row(const struct stats_view *view, void *arg)
{
	FILE *out = arg;

	if (!shown(view))
		return;
	print_name(out, view);
	print_count(out, view->of[STATS_active], "");
	print_count(out, view->of[STATS_accepted], "");
	print_count(out, view->of[STATS_rejected], "bad");
	print_count(out, view->of[STATS_failed], "bad");
	print_count(out, view->of[STATS_handshakes_full], "");
	print_count(out, view->of[STATS_handshakes_resumed], "");
	print_count(out, view->of[STATS_handshakes_failed], "bad");
	print_count(out, view->of[STATS_connect_failed], "bad");
	print_bytes(out, view->of[STATS_bytes_to_tls]);
	print_bytes(out, view->of[STATS_bytes_to_plain]);
	fputs("</tr>\n", out);
}

/* ---- what is above and below ---- */

static void add_up(const struct stats_view *view, void *arg)
{
	uint64_t *sums = arg;

	for (int i = 0; i < STATS_COUNT; i++)
		sums[i] += view->of[i];
}

static void print_tile(FILE *out, const char *label, const char *value)
{
	fprintf(out, "<div><span>%s</span><b>%s</b></div>\n", label, value);
}

static void print_tiles(FILE *out)
{
	uint64_t sums[STATS_COUNT] = {0};
	char text[32];

	stats_each(add_up, sums);
	fputs("<section class=\"tiles\">\n", out);
	print_tile(out, "Open connections", grouped(sums[STATS_active], text));
	print_tile(out, "Accepted", grouped(sums[STATS_accepted], text));
	print_tile(out, "Handshakes", grouped(sums[STATS_handshakes_full] + sums[STATS_handshakes_resumed], text));
	print_tile(out, "Sent to TLS", sized(sums[STATS_bytes_to_tls], text));
	print_tile(out, "Sent to plain", sized(sums[STATS_bytes_to_plain], text));
	fputs("</section>\n", out);
}

static void print_configuration(FILE *out, const struct stats_process *process)
{
	time_t now = time(NULL);
	char age[32];

	if (!process->last_ok)
		return;
	lasting(now > process->last_ok ? (uint64_t)(now - process->last_ok) : 0, age);
	if (process->last_reload_ok)
		fprintf(out, " &middot; configuration <span class=\"good\">loaded %s ago</span>", age);
	else
		fprintf(out, " &middot; <span class=\"bad\">last reload failed</span>, configuration of %s ago in force", age);
}

static void print_header(FILE *out, const struct stats_process *process)
{
	char text[32];

	fprintf(out, "<header><h1>tlsplice</h1>\n<p>version %s &middot; up %s", TLSPLICE_VERSION,
	        lasting((uint64_t)process->uptime_s, text));
	print_configuration(out, process);
	fputs("</p></header>\n", out);
}

static void print_footer(FILE *out, const struct stats_process *process)
{
	char text[32];

	fputs("<footer>", out);
	if (process->resident >= 0)
		fprintf(out, "%s resident &middot; ", sized((uint64_t)process->resident, text));
	if (process->open_files >= 0)
		fprintf(out, "%s open files &middot; ", grouped((uint64_t)process->open_files, text));
	fprintf(out, "%.1f s of CPU &middot; ", process->cpu_s);
	if (log_dropped())
		fprintf(out, "<span class=\"bad\">%s log lines dropped</span> &middot; ", grouped(log_dropped(), text));
	fputs("<a href=\"/metrics\">metrics</a></footer>\n", out);
}

void stats_print_html(FILE *out)
{
	struct stats_process process;

	stats_process(&process);
	fputs(head, out);
	print_header(out, &process);
	print_tiles(out);
	fputs(table_head, out);
	stats_each(print_row, out);
	fputs("</tbody></table></div>\n", out);
	print_footer(out, &process);
	fputs("</main>\n</body>\n</html>\n", out);
}
