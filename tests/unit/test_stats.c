/*
 * Unit tests of stats.h: sums, the same counters after a reload, and hostile names in both printers.
 * Run by `make unit`.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "stats.h"

#include "log.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void set_up(void)
{
	cr_assert_eq(stats_start(3), 0);
}

TestSuite(stats, .init = set_up);

static char *printed(void (*print)(FILE *))
{
	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	cr_assert_not_null(out);
	print(out);
	cr_assert_eq(fclose(out), 0);
	return text;
}

static void assert_in(void (*print)(FILE *), const char *want)
{
	char *text = printed(print);

	cr_assert_not_null(strstr(text, want), "no %s in %s", want, text);
	free(text);
}

static void assert_not_in(void (*print)(FILE *), const char *unwanted)
{
	char *text = printed(print);

	cr_assert_null(strstr(text, unwanted), "%s in %s", unwanted, text);
	free(text);
}

static void configure(const char *name)
{
	stats_set_current(&name, 1);
}

Test(stats, same_name_same_counters)
{
	struct stats *a = stats_of("web", "server", 0);

	cr_assert_not_null(a);
	cr_assert_eq((uintptr_t)a % 64, 0);
	cr_assert_eq(stats_of("web", "server", 0), a);
	cr_assert_neq(stats_of("web", "server", 1), a);
	cr_assert_neq(stats_of("web", "client", 0), a);
	cr_assert_neq(stats_of("web2", "server", 0), a);
	cr_assert_eq(a->accepted, 0);
}

Test(stats, sums_over_workers)
{
	for (unsigned i = 0; i < 3; i++) {
		struct stats *stats = stats_of("web", "server", i);

		stats_add(&stats->accepted, 10 + i);
		stats_add(&stats->bytes_to_tls, UINT64_C(1) << 40);
	}
	/* opened on one worker's account, closed on another's: the sum is what counts */
	stats_add(&stats_of("web", "server", 0)->active, 2);
	stats_add(&stats_of("web", "server", 1)->active, (uint64_t)-1);
	assert_in(stats_print_prometheus, "\ntlsplice_connections_accepted_total{service=\"web\",role=\"server\"} 33\n");
	assert_in(stats_print_prometheus, "\ntlsplice_connections_active{service=\"web\",role=\"server\"} 1\n");
	assert_in(stats_print_prometheus, "\ntlsplice_bytes_to_tls_total{service=\"web\",role=\"server\"} 3298534883328\n");
	assert_in(stats_print_prometheus, "\ntlsplice_bytes_to_plain_total{service=\"web\",role=\"server\"} 0\n");
}

#define KTLS_SERIES(name, role, direction, result)                                                                     \
	"\ntlsplice_ktls_total{service=\"" name "\",role=\"" role "\",direction=\"" direction "\",result=\"" result "\"} "

/* Where records are made, by direction and outcome: only "kernel" is there before it has counted. */
Test(stats, kernel_tls)
{
	struct stats *one = stats_of("web", "server", 0), *two = stats_of("web", "server", 2);

	stats_of("mail\"", "client", 0);
	assert_in(stats_print_prometheus, KTLS_SERIES("web", "server", "tx", "kernel") "0\n");
	assert_in(stats_print_prometheus, KTLS_SERIES("web", "server", "rx", "kernel") "0\n");
	assert_in(stats_print_prometheus, KTLS_SERIES("mail\\\"", "client", "rx", "kernel") "0\n");
	for (int o = 0; o < KTLS_OUTCOME_COUNT; o++) {
		char label[64];

		snprintf(label, sizeof(label), "result=\"%s\"}", ktls_outcomes[o].word);
		if (o == KTLS_KERNEL)
			assert_in(stats_print_prometheus, label);
		else
			assert_not_in(stats_print_prometheus, label);
	}
	stats_add(&one->ktls[KTLS_SEND][KTLS_KERNEL], 3);
	stats_add(&two->ktls[KTLS_SEND][KTLS_KERNEL], 4);
	stats_add(&one->ktls[KTLS_RECEIVE][KTLS_REFUSED], 1);
	assert_in(stats_print_prometheus, KTLS_SERIES("web", "server", "tx", "kernel") "7\n");
	assert_in(stats_print_prometheus, KTLS_SERIES("web", "server", "rx", "kernel") "0\n");
	assert_in(stats_print_prometheus, KTLS_SERIES("web", "server", "rx", "refused") "1\n");
	assert_not_in(stats_print_prometheus, KTLS_SERIES("web", "server", "tx", "refused"));
	for (int d = 0; d < KTLS_DIRECTIONS; d++)
		for (int o = 0; o < KTLS_OUTCOME_COUNT; o++) {
			char series[128];

			stats_add(&two->ktls[d][o], 10);
			snprintf(series, sizeof(series), "direction=\"%s\",result=\"%s\"} 1", ktls_direction_names[d], ktls_outcomes[o].word);
			assert_in(stats_print_prometheus, series);
		}
	stats_add(&one->kernel_to_tls, 5);
	assert_in(stats_print_prometheus, "\ntlsplice_kernel_bytes_to_tls_total{service=\"web\",role=\"server\"} 5\n");
}

/* Every sample has its HELP and TYPE line before it, and no metric is declared twice. */
Test(stats, prometheus_format)
{
	char *text, *save = NULL, declared[64] = "";

	stats_of("a", "server", 0);
	stats_of("b", "client", 0);
	text = printed(stats_print_prometheus);
	cr_assert_eq(text[strlen(text) - 1], '\n');
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char name[64], kind[16];

		if (sscanf(line, "# TYPE %63s %15s", name, kind) == 2) {
			cr_assert_str_eq(name, declared);
			cr_assert(!strcmp(kind, "counter") || !strcmp(kind, "gauge"));
			cr_assert_eq(!strcmp(kind, "counter"), strlen(name) > 6 && !strcmp(name + strlen(name) - 6, "_total"),
			             "%s", name);
		} else if (sscanf(line, "# HELP %63s", name) == 1) {
			cr_assert_str_neq(name, declared);
			strcpy(declared, name);
		} else {
			cr_assert_eq(sscanf(line, "%63[a-z_]", name), 1);
			cr_assert_str_eq(name, declared);
			cr_assert_neq(strchr("{ ", line[strlen(name)]), NULL);
		}
	}
	free(text);
}

Test(stats, global_metrics)
{
	assert_in(stats_print_prometheus, "\ntlsplice_build_info{version=\"" TLSPLICE_VERSION "\"} 1\n");
	assert_in(stats_print_prometheus, "\ntlsplice_uptime_seconds ");
	assert_in(stats_print_prometheus, "\ntlsplice_config_last_reload_success 0\n");
	stats_note_reload(1);
	stats_note_reload(1);
	assert_in(stats_print_prometheus, "\ntlsplice_config_last_reload_success 1\n");
	assert_in(stats_print_html, "configuration <span class=\"good\">loaded ");
	stats_note_reload(0);
	assert_in(stats_print_prometheus, "\ntlsplice_config_last_reload_success 0\n");
	assert_in(stats_print_prometheus, "\ntlsplice_config_reloads_total{result=\"success\"} 2\n");
	assert_in(stats_print_prometheus, "\ntlsplice_config_reloads_total{result=\"failure\"} 1\n");
	stats_note_renewal(true);
	stats_note_renewal(false);
	stats_note_renewal(false);
	assert_in(stats_print_prometheus, "\ntlsplice_certificate_reloads_total{result=\"success\"} 1\n");
	assert_in(stats_print_prometheus, "\ntlsplice_certificate_reloads_total{result=\"failure\"} 2\n");
	assert_in(stats_print_html, "last reload failed");
	assert_in(stats_print_prometheus, "\nprocess_resident_memory_bytes ");
	assert_in(stats_print_prometheus, "\nprocess_open_fds ");
	assert_in(stats_print_prometheus, "\nprocess_cpu_seconds_total ");
	for (int i = 0; i < 20000; i++)
		log_write(LOG_NOTICE, "ui", "%0100d", i);
	assert_not_in(stats_print_prometheus, "\ntlsplice_log_lines_dropped_total 0\n");
	assert_in(stats_print_html, "log lines dropped");
}

Test(stats, hostile_names)
{
	static const char name[] = "<b>\"'&\\\n\x1b\x7f\xff\xc0\x80\xed\xa0\x80\xf4\x90\x80\x80\xc2\x85 "
				   "\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80 \xe2\x82";

	stats_of(name, "server", 0);
	stats_of("", "client", 0);
	configure(name);
	assert_in(stats_print_prometheus, "{service=\"<b>\\\"'&\\\\\\\\x0A\\\\x1B\\\\x7F"
	                                  "\\\\xFF\\\\xC0\\\\x80\\\\xED\\\\xA0\\\\x80\\\\xF4\\\\x90\\\\x80\\\\x80\\\\xC2\\\\x85 "
	                                  "\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80 \\\\xE2\\\\x82\",role=\"server\"} 0\n");
	assert_in(stats_print_prometheus, "{service=\"\",role=\"client\"} 0\n");
	assert_in(stats_print_html, "<td>&lt;b&gt;&quot;&#39;&amp;\\\\x0A\\x1B\\x7F\\xFF");
	assert_in(stats_print_html, "\xf0\x9f\x98\x80 \\xE2\\x82<small>");
	assert_not_in(stats_print_html, "<b>\"");
	assert_not_in(stats_print_html, "<script");
}

Test(stats, page_shows_what_is_configured_or_alive)
{
	stats_add(&stats_of("old", "server", 0)->active, 1);
	stats_of("gone", "server", 0);
	stats_of("new", "client", 2);
	configure("new");
	assert_in(stats_print_html, "<td>new<small>client</small>");
	assert_in(stats_print_html, "<td>old<small>server, no longer configured</small>");
	assert_not_in(stats_print_html, "gone");
	assert_in(stats_print_prometheus, "service=\"gone\"");
	stats_add(&stats_of("old", "server", 0)->active, (uint64_t)-1);
	assert_not_in(stats_print_html, "<td>old");
	configure("gone");
	assert_in(stats_print_html, "<td>gone<small>server</small>");
}

Test(stats, numbers_for_people)
{
	static const struct {
		uint64_t bytes;
		const char *text;
	} sizes[] = {
		{0, ">0 B<"},
		{1023, ">1023 B<"},
		{1024, ">1.0 KiB<"},
		{1536, ">1.5 KiB<"},
		{102400, ">100 KiB<"},
		{(1 << 20) - 1, ">1.0 MiB<"},
		{UINT64_C(5) << 40, ">5.0 TiB<"},
		{UINT64_MAX, ">16.0 EiB<"},
	};
	struct stats *stats = stats_of("web", "server", 0);

	configure("web");
	stats->accepted = 1234567;
	stats->failed = 999;
	assert_in(stats_print_html, ">1,234,567<");
	assert_in(stats_print_html, "class=\"bad\">999<");
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		stats->bytes_to_plain = sizes[i].bytes;
		assert_in(stats_print_html, sizes[i].text);
	}
}

/* ---- workers count and reload while the page is printed ---- */

static atomic_bool stop;

static void *worker(void *arg)
{
	unsigned number = (unsigned)(size_t)arg;
	char name[16];

	for (unsigned i = 0; !stop; i++) {
		snprintf(name, sizeof(name), "s%u", i % 50);
		stats_add(&stats_of(name, "server", number)->accepted, 1);
	}
	return NULL;
}

Test(stats, printing_beside_running_workers)
{
	pthread_t threads[3];

	for (size_t i = 0; i < 3; i++)
		cr_assert_eq(pthread_create(&threads[i], NULL, worker, (void *)i), 0);
	for (int i = 0; i < 50; i++) {
		free(printed(stats_print_prometheus));
		free(printed(stats_print_html));
		configure(i % 2 ? "s1" : "s2");
		stats_note_reload(i % 3);
	}
	stop = true;
	for (size_t i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
}
