/*
 * What is printed from the table of options: -help, -options, defaults, and -T, which must be readable again.
 * Run by `make unit`.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "config_testing.h"

#include "config_table.h"

#include <openssl/ssl.h>
#include <strings.h>

static char *printed(void (*print)(FILE *))
{
	static char *text; /* gcc 12 takes a local one for what is returned, and warns */
	static size_t size;
	FILE *out = open_memstream(&text, &size);

	print(out);
	fclose(out);
	return text;
}

/* Whether a line begins with the name, padded as tools expect. */
static bool has_line(const char *text, const char *name)
{
	char line[64];

	snprintf(line, sizeof(line), "\n%-22s = ", name);
	return strstr(text, line);
}

Test(config_print, every_option_is_in_help_once)
{
	char *help = printed(config_print_help);

	cr_assert_eq(strncmp(help, "Global options:\n", 16), 0);
	cr_assert(strstr(help, "\n \nService-level options:\naccept                 = "));
	cr_assert(strstr(help, "\nExtensions of tlsplice"));
	cr_assert(strstr(help, "cifs, connect, imap"));
	for (const struct option *row = options; row < options + OPTION_COUNT; row++) {
		char line[64];

		if (row->flags & HIDDEN)
			continue;
		cr_expect(has_line(help, row->name), "%s", row->name);
		snprintf(line, sizeof(line), "\n%s ", row->name);
		cr_expect_null(strstr(strstr(help, line) + 1, line), "%s stands there twice", row->name);
	}
	free(help);
}

Test(config_print, rows_are_sound)
{
	for (const struct option *row = options; row < options + OPTION_COUNT; row++) {
		cr_expect(row->kind->parse, "%s", row->name);
		cr_expect(row->help || row->flags & HIDDEN, "%s has no help", row->name);
		cr_expect_eq(option_find(row->name, row->scope), row, "%s stands in the table twice", row->name);
		cr_expect(!(row->flags & SHOWN_ONLY) || row->fallback, "%s shows no default", row->name);
	}
}

Test(config_print, tls_options)
{
	char *text = printed(config_print_tls_options);
	uint64_t set = 0, clear = 0;

	cr_assert_eq(strncmp(text, "Supported TLS options:\noptions = ALL\n", 36), 0);
	cr_assert(strstr(text, "\noptions = NO_TICKET\n"));
	for (char *line = strtok(strchr(text, '\n') + 1, "\n"); line; line = strtok(NULL, "\n"))
		cr_expect_null(tls_option_parse(line + strlen("options = "), &set, &clear), "%s", line);
	free(text);
}

Test(config_print, defaults)
{
	char *text = printed(config_print_defaults);

	cr_assert_eq(strncmp(text, "Global options:\n", 16), 0);
	cr_assert(strstr(text, "\nTIMEOUTidle            = 43200 seconds\n"));
	cr_assert(strstr(text, "\nsessionCacheSize       = 1000\n"));
	cr_assert(strstr(text, "\nsessionCacheTimeout    = 300 seconds\n"));
	cr_assert(strstr(text, "\noptions                = NO_SSLv2\noptions                = NO_SSLv3\n"));
	cr_assert(strstr(text, "\ndebug                  = daemon.notice\n"));
	cr_assert(strstr(text, "\nciphers                = HIGH:!aNULL:!SSLv2:!DH:!kDHEPSK\n"));
	free(text);
}

Test(config_print, unbuilt_options_by_name)
{
	char *text = printed(config_print_unbuilt);

	cr_assert(strstr(text, "protocol\n"));
	cr_assert_null(strstr(text, "\naccept\n"));
	cr_assert_null(strstr(text, "setuid\n"));
	free(text);
}

/* What -T prints gives the same configuration, and so the same print. */
static void round_trip(const char *text)
{
	struct config *config = load_good(text), *again;
	char *once = text_of(config_print_effective, config), *twice;

	again = load_good(once);
	twice = text_of(config_print_effective, again);
	cr_assert_str_eq(once, twice);
	cr_assert_eq(config->section_count, again->section_count);
	for (struct section *a = config->sections, *b = again->sections; a; a = a->next, b = b->next) {
		cr_assert_str_eq(a->name, b->name);
		cr_assert_str_eq(a->canonical, b->canonical);
	}
	config_free(config);
	config_free(again);
	free(once);
	free(twice);
}

Test(config_print, round_trip)
{
	round_trip(SERVER);
	round_trip("debug = mail.debug\nservice = x\nforeground = yes\noutput = a b\nlog = overwrite\nsyslog = no\npid = "
	           "p\nworkers = 2\ndrain = 3\n"
	           "admin = 127.0.0.1:9\nsetEnv = A=\nsetEnv = B = c\nsetuid = root\ncert = a\ncert = b\n"
	           "[ odd ] name ]\naccept =\naccept = @x\nconnect = /y\nconnect = [::1]:1\nservice = z\n"
	           "[second]\nclient = yes\nsni =\naccept = 1\nconnect = 2\nlocal = ::1\ndelay = yes\nfailover = rr\nlogId = "
	           "process\nsession = -4\n"
	           "[third]\nclient = yes\nsni = a\nsni = b\naccept = 1\nconnect = 2\noptions = ALL\noptions = "
	           "-NO_TICKET\noptions = -NO_SSLv3\n"
	           "options = NO_SSL_MASK\nciphers = A\nciphersuites = B\ncurves = C\nsslVersionMin = TLSv1.1\nsslVersionMax = "
	           "TLSv1.3\n"
	           "socket = a:SO_LINGER=1:60\nsocket = l:SO_RCVTIMEO=1:5\nsocket = r:SO_BINDTODEVICE=lo\nsocket = r:IP_TOS=-3\n"
	           "securityLevel = 0\nTIMEOUTclose = -1\nconfig = a:b\nkey = k\nretry = 5\nexecArgs = a b\npty = "
	           "yes\nprotocolUsername = u\n"
	           "verify = 0\nrequireCert = yes\nCAfile = f\nPSKidentity = i\nticketKeySecret = "
	           "00112233445566778899aabbccddeeff\n"
	           "[fourth]\nclient = yes\naccept = 3\nexec = /bin/a b\nexecArgs = a \"b\n");
	round_trip("service = x\nclient = yes\nexec = /bin/cat\ninetdStatus = yes\n");
}

/* The word for kernel TLS that counts is printed, whichever it was; read again it counts still. */
Test(config_print, ktls_round_trip)
{
	static const char *const lines[] = {
		"",
		"ktls = auto\n",
		"ktls = yes\n",
		"ktls = no\nktlsAfter = 0\n",
		"ktls = tx\nrelay = copy\n",
		"ktls = rx\nrelay = uring-splice\nktlsAfter = 9223372036854775807\n",
#ifdef SSL_OP_ENABLE_KTLS
		"options = ENABLE_KTLS\n",
		"options = -ENABLE_KTLS\n",
		"options = -ENABLE_KTLS\nktls = auto\n",
		"options = ENABLE_KTLS\nktls = tx\nrelay = splice\n",
#endif
	};
	char text[512];

	for (size_t i = 0; i < sizeof(lines) / sizeof(*lines); i++)
		for (int global = 0; global < 2; global++) {
			struct config *config, *again;
			char *printed_text;

			snprintf(text, sizeof(text), "%s" SERVER "%s", global ? lines[i] : "", global ? "" : lines[i]);
			round_trip(text);
			config = load_good(text);
			printed_text = text_of(config_print_effective, config);
			again = load_good(printed_text);
			cr_assert_eq(config->sections->ktls, again->sections->ktls, "%s", text);
			cr_assert_eq(config->sections->ktls_after, again->sections->ktls_after, "%s", text);
			cr_assert_eq(config->sections->relay, again->sections->relay, "%s", text);
			config_free(config);
			config_free(again);
			free(printed_text);
		}
}

Test(config_print, longest_lines_round_trip)
{
	char text[2 * CONFIG_LINE_MAX];
	size_t len = (size_t)sprintf(text, CLIENT "sni=");

	memset(text + len, 'a', CONFIG_LINE_MAX - 1 - 4);
	strcpy(text + len + CONFIG_LINE_MAX - 1 - 4, "\n");
	round_trip(text);
}

Test(config_print, sections_are_unchanged_when_their_text_is)
{
	struct config *a = load_good("debug = 3\n" SERVER), *b = load_good("; moved\n" SERVER "debug = err\n"),
		      *c = load_good(SERVER);

	cr_assert_str_eq(a->sections->canonical, b->sections->canonical);
	cr_assert_str_neq(a->sections->canonical, c->sections->canonical);
	config_free(a);
	config_free(b);
	config_free(c);
}
