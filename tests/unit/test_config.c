/*
 * The configuration file: lexical rules, sections, inheritance, include, where messages point, and memory that runs out.
 * Run by `make unit`.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "config_testing.h"

#include "arena.h"
#include "config_table.h"

#include <errno.h>
#include <openssl/ssl.h>
#include <sys/stat.h>

static struct section *first(struct config *config)
{
	return config->sections;
}

/* --- lines --------------------------------------------------------------------------------------------------------- */

Test(config, defaults)
{
	struct config *config = load_good(SERVER);
	const struct globals *global = &config->global;
	const struct section *s = first(config);

	cr_assert_eq(config->section_count, 1);
	cr_assert_str_eq(global->service, "stunnel");
	cr_assert_null(global->output);
	cr_assert_null(global->pid);
	cr_assert_null(global->admin);
	cr_assert_eq(global->foreground, FOREGROUND_NO);
	cr_assert(global->syslog);
	cr_assert_not(global->log_overwrite);
	cr_assert_eq(global->debug, LOG_NOTICE);
	cr_assert_eq(global->facility, LOG_DAEMON);
	cr_assert_eq(global->workers, 0);
	cr_assert_eq(global->drain_s, 0);

	cr_assert_str_eq(s->name, "s");
	cr_assert_str_eq(s->config_line, "descriptor 77:1");
	cr_assert_eq(s->accept.count, 1);
	cr_assert_str_eq(s->connect.texts[0], "80");
	cr_assert_not(s->client);
	cr_assert_not(s->delay);
	cr_assert_eq(s->failover, FAILOVER_PRIO);
	cr_assert_null(s->key);
	cr_assert_null(s->ciphers);
	cr_assert_null(s->curves);
	cr_assert_null(s->sni);
	cr_assert_eq(s->options_set, (uint64_t)SSL_OP_NO_SSLv3);
	cr_assert_eq(s->options_clear, 0);
	cr_assert_eq(s->min_version, 0);
	cr_assert_eq(s->max_version, 0);
	cr_assert_eq(s->security_level, -1);
	cr_assert(s->renegotiation);
	cr_assert(s->session_resume);
	cr_assert_eq(s->session_cache_size, 1000);
	cr_assert_eq(s->session_cache_timeout_s, 300);
	cr_assert(s->reset);
	cr_assert_eq(s->timeout_busy_s, 300);
	cr_assert_eq(s->timeout_close_s, 60);
	cr_assert_eq(s->timeout_connect_s, 10);
	cr_assert_eq(s->timeout_idle_s, 43200);
	cr_assert_eq(s->stack, 32768);
	cr_assert_eq(s->debug, LOG_NOTICE);
	cr_assert_eq(s->log_id, LOG_ID_SEQUENTIAL);
	cr_assert_eq(s->socket[SOCK_ACCEPT].count, 1);
	cr_assert_str_eq(sockopt_name(&s->socket[SOCK_ACCEPT].opts[0]), "SO_REUSEADDR");
	cr_assert_str_eq(sockopt_name(&s->socket[SOCK_LOCAL].opts[0]), "TCP_NODELAY");
	cr_assert_str_eq(sockopt_name(&s->socket[SOCK_REMOTE].opts[0]), "TCP_NODELAY");
	config_free(config);
}

Test(config, blanks_comments_and_cr)
{
	struct config *config = load_good("; comment\n  # another\n\n\r\n \t[s]  \r\n\taccept\t=  \t127.0.0.1:1 \r\nCONNECT=2\r\n"
	                                  "cert = a\rb ; c = d # e\nClient = YES");

	cr_assert_str_eq(first(config)->accept.texts[0], "127.0.0.1:1");
	cr_assert_str_eq(first(config)->cert.texts[0], "ab ; c = d # e", "a CR goes, there are no comments behind values");
	cr_assert(first(config)->client, "the last line needs no end");
	config_free(config);
}

Test(config, byte_order_mark)
{
	struct config *config = load_good("\xef\xbb\xbf" CLIENT);

	cr_assert(strstr(said, "[.] UTF-8 byte order mark detected\n"));
	config_free(config);
	config = load_good(CLIENT);
	cr_assert(strstr(said, "[.] UTF-8 byte order mark not detected\n"));
	config_free(config);
	refused("\n\xef\xbb\xbf" CLIENT, "descriptor 77:2: \"\xef\xbb\xbf[s]\": No '=' found");
}

Test(config, messages_quote_the_line_as_it_stands)
{
	refused(SERVER "   connect   \n", "[!] descriptor 77:5: \"   connect   \": No '=' found\n");
	refused(SERVER "  foo =   bar \r\n",
	        "[!] descriptor 77:5: \"  foo =   bar \": Specified option name is not valid here\n");
	refused("client = no ; c\n", "[!] descriptor 77:1: \"client = no ; c\": The argument needs to be either 'yes' or 'no'\n");
	refused("=x\n", "\"=x\": Specified option name is not valid here\n");
	refused("[s\n", "\"[s\": No '=' found");
	refused("[\n", "\"[\": No '=' found");
}

Test(config, long_lines)
{
	char text[2 * CONFIG_LINE_MAX];
	struct config *config;
	size_t len = (size_t)sprintf(text, CLIENT "sni=");

	memset(text + len, 'a', CONFIG_LINE_MAX - 1 - 4);
	text[len + CONFIG_LINE_MAX - 1 - 4] = '\0';
	config = load_good(text);
	cr_assert_eq(strlen(first(config)->sni), CONFIG_LINE_MAX - 1 - 4, "16383 bytes are a line");
	config_free(config);

	strcat(text, "zzz\n");
	refused(text, "descriptor 77:6: \"zzz\": No '=' found");
	refused("client=yes\nx", "\"x\": No '=' found");
	memset(text, 'b', CONFIG_LINE_MAX);
	text[CONFIG_LINE_MAX] = '\0';
	refused(text, "bbb...\": No '=' found");
}

Test(config, nul_bytes)
{
	cr_assert_null(load_bytes("[s]\ncon\0nect = 1\n", 16));
	cr_assert(strstr(said, "[!] descriptor 77:2: There is a NUL byte in this line\n"), "%s", said);
}

Test(config, secrets_are_not_quoted)
{
	refused(SERVER "ticketKeySecret = abcd\n",
	        "descriptor 77:5: \"ticketKeySecret = ...\": Failed to read ticketKeySecret\n");
	cr_assert(strstr(said, "[!] ticketKeySecret value has 2 bytes instead of required 16 or 32 bytes\n"));
	cr_assert_null(strstr(said, "abcd"));
}

Test(config, unknown_names_come_with_advice)
{
	refused(SERVER "TIMEOUTidel = 3\n", "Specified option name is not valid here (did you mean \"TIMEOUTidle\"?)");
	refused(SERVER "conect = 3\n", "(did you mean \"connect\"?)");
	refused(SERVER "pid = /x\n", "Specified option name is not valid here (it belongs before the first [section])");
	refused("taskbar = no\n", "Specified option name is not valid here (it exists on Windows only)");
	refused(SERVER "wholly = 3\n", "Specified option name is not valid here\n");
}

/* --- sections ------------------------------------------------------------------------------------------------------ */

Test(config, names_of_sections_are_verbatim_and_may_repeat)
{
	struct config *config =
		load_good("client = yes\nconnect = 1\naccept = 2\n[]\n[ a ]\n[b]c]\n[b]c]\n[\xc3\xa4]\nservice = renamed\n");
	static const char *const names[] = {"", " a ", "b]c", "b]c", "renamed"};
	unsigned i = 0;

	for (const struct section *s = config->sections; s; s = s->next, i++) {
		cr_assert_str_eq(s->name, names[i]);
		cr_assert_eq(s->index, i);
	}
	cr_assert_eq(config->section_count, 5);
	config_free(config);
}

Test(config, sections_inherit)
{
	struct config *config = load_good("service = ident\ndebug = local3.info\ncert = c.pem\nconnect = 1\nTIMEOUTidle = 7\n"
	                                  "options = NO_TICKET\nsocket = l:SO_KEEPALIVE=yes\n"
	                                  "[a]\naccept = 1\n[b]\naccept = 2\nTIMEOUTidle = 8\ndebug = 7\noptions = -NO_TICKET\n"
	                                  "socket = l:SO_KEEPALIVE=no\n");
	const struct section *a = first(config), *b = a->next;

	cr_assert_str_eq(config->global.service, "ident");
	cr_assert_str_eq(a->name, "a", "the global name is not inherited");
	cr_assert_eq(config->global.debug, LOG_INFO);
	cr_assert_eq(config->global.facility, LOG_LOCAL3);
	cr_assert_eq(a->debug, LOG_INFO);
	cr_assert_eq(b->debug, LOG_DEBUG);
	cr_assert_str_eq(b->connect.texts[0], "1");
	cr_assert_eq(a->timeout_idle_s, 7);
	cr_assert_eq(b->timeout_idle_s, 8);
	cr_assert(a->options_set & SSL_OP_NO_TICKET);
	cr_assert_not(b->options_set & SSL_OP_NO_TICKET);
	cr_assert(b->options_clear & SSL_OP_NO_TICKET);
	cr_assert_eq(a->socket[SOCK_LOCAL].opts[1].value.number, 1);
	cr_assert_eq(b->socket[SOCK_LOCAL].opts[1].value.number, 0, "a later one replaces an earlier one");
	cr_assert_eq(b->socket[SOCK_LOCAL].count, 2);
	config_free(config);
}

Test(config, a_section_replaces_the_lists_it_inherits)
{
	struct config *config = load_good("client = yes\nconnect = 1\nconnect = 2\nconnect = 3\n"
	                                  "[a]\naccept = 1\n[b]\naccept = 2\nconnect = 4\nconnect = 5\n[c]\naccept = 3\n");
	const struct section *a = first(config), *b = a->next, *c = b->next;

	cr_assert_eq(a->connect.count, 3);
	cr_assert_eq(b->connect.count, 2);
	cr_assert_str_eq(b->connect.texts[0], "4");
	cr_assert_str_eq(b->connect.texts[1], "5");
	cr_assert_eq(c->connect.count, 3);
	cr_assert_str_eq(c->connect.texts[2], "3");
	config_free(config);
}

Test(config, many_values)
{
	char *text = malloc(1 << 20), *at = text;
	struct config *config;

	at += sprintf(at, "[s]\nclient = yes\naccept = 1\n");
	for (unsigned i = 0; i < 10000; i++)
		at += sprintf(at, "connect = %u\n", i);
	config = load_good(text);
	cr_assert_eq(first(config)->connect.count, 10000);
	cr_assert_str_eq(first(config)->connect.texts[9999], "9999");
	config_free(config);
	free(text);
}

Test(config, the_last_single_value_wins)
{
	struct config *config = load_good(CLIENT "TIMEOUTidle = 1\nTIMEOUTidle = 2\nsni = a\nsni = b\n");

	cr_assert_eq(first(config)->timeout_idle_s, 2);
	cr_assert_str_eq(first(config)->sni, "b");
	config_free(config);
}

Test(config, delay_takes_the_targets_in_order)
{
	struct config *config = load_good(CLIENT "delay = yes\nfailover = rr\n");

	cr_assert_eq(first(config)->failover, FAILOVER_PRIO);
	config_free(config);
}

Test(config, without_a_section_it_is_inetd_mode)
{
	refused("", "[!] Inetd mode: TLS server needs a certificate\n");
	refused("client = yes\naccept = 1\nconnect = 2\n", "[!] Inetd mode: 'accept' option is only allowed in a [section]\n");
	refused("client = yes\n", "[!] Inetd mode: Inetd mode must define one endpoint\n");
	refused("client = yes\nconnect = 2\nexec = /bin/cat\n", "[!] Inetd mode: Inetd mode must define one endpoint\n");
	refused("client = yes\nprotocol = smtp\nconnect = 2\n",
	        "descriptor 77:2: \"protocol = smtp\": option \"protocol\" is not built yet\n");
}

Test(config, inetd_mode_has_one_section)
{
	struct config *config = load_good("service = x\nclient = yes\nconnect = 2\ninetdStatus = yes\n");

	cr_assert(config->inetd);
	cr_assert(config->global.inetd_status);
	cr_assert_eq(config->section_count, 1);
	cr_assert_str_eq(first(config)->name, "x");
	cr_assert_str_eq(first(config)->connect.texts[0], "2");
	cr_assert_null(first(config)->next);
	config_free(config);
	config = load_good("client = yes\nexec = /bin/cat\n");
	cr_assert_str_eq(first(config)->name, "stunnel");
	config_free(config);
	config = load_good(CLIENT);
	cr_assert_not(config->inetd);
	config_free(config);
}

static void expect_argv(const char *lines, size_t count, const char *const *argv)
{
	char text[256];
	struct config *config;

	snprintf(text, sizeof(text), "[x]\nclient = yes\naccept = 1\nexec = /bin/a b\n%s", lines);
	config = load_good(text);
	for (size_t i = 0; i < count; i++)
		cr_assert_str_eq(first(config)->exec_argv[i], argv[i]);
	cr_assert_null(first(config)->exec_argv[count]);
	config_free(config);
}

/* At white space and nowhere else: there is no quoting. */
Test(config, arguments_of_programs)
{
	expect_argv("", 1, (const char *const[]){"/bin/a b"});
	expect_argv("execArgs =\n", 1, (const char *const[]){"/bin/a b"});
	expect_argv("execArgs = a\n", 1, (const char *const[]){"a"});
	expect_argv("execArgs = a  \"b\tc\" \\ d\n", 5, (const char *const[]){"a", "\"b", "c\"", "\\", "d"});
}

Test(config, environment_of_programs)
{
	struct config *config;
	unsigned found = 0;

	setenv("SSL_CLIENT_DN", "CN=forged", 1);
	config = load_good("setEnv = TLSPLICE_B=1\nsetEnv = REMOTE_HOST=10.0.0.1\n" CLIENT);
	for (char **at = config->environment; *at; at++) {
		found += strcmp(*at, "TLSPLICE_B=1") == 0;
		cr_assert(strncmp(*at, "SSL_CLIENT_", 11) != 0 && strncmp(*at, "REMOTE_", 7) != 0);
	}
	cr_assert_eq(found, 1);
	config_free(config);
}

Test(config, environment_is_set_at_once)
{
	setenv("TLSPLICE_GONE", "x", 1);
	setenv("TLSPLICE_EMPTY", "x", 1);
	refused("setEnv = TLSPLICE_A=b=c\nsetEnv = TLSPLICE_GONE\nsetEnv = TLSPLICE_EMPTY=\nbad\n", "No '=' found");
	cr_assert_str_eq(getenv("TLSPLICE_A"), "b=c");
	cr_assert_null(getenv("TLSPLICE_GONE"));
	cr_assert_null(getenv("TLSPLICE_EMPTY"));
}

/* --- files --------------------------------------------------------------------------------------------------------- */

static char directory[] = "/tmp/tlsplice-config-XXXXXX";

static void make_directory(void)
{
	cr_assert(mkdtemp(directory));
	cr_assert_eq(chdir(directory), 0);
}

static void remove_directory(void)
{
	char command[128];

	snprintf(command, sizeof(command), "rm -rf %s", directory);
	cr_assert_eq(system(command), 0);
}

static void put(const char *path, const char *text)
{
	FILE *out = fopen(path, "w");

	cr_assert(out, "%s: %s", path, strerror(errno));
	fputs(text, out);
	fclose(out);
}

TestSuite(config_files, .init = make_directory, .fini = remove_directory);

Test(config_files, included_in_byte_order_with_the_section_carried_over)
{
	char wanted[256];
	struct config *config;

	mkdir("d", 0755);
	mkdir("d/subdirectory", 0755);
	mkfifo("d/fifo", 0644);
	put("d/subdirectory/x", "garbage\n");
	put("d/.hidden", "connect = 1\n");
	put("d/B", "connect = 2\n[two]\n");
	put("d/a", "connect = 3\n");
	put("main", "client = yes\n[one]\naccept = 9\ninclude = d\nconnect = 4\naccept = 10\n");
	config = load_file("main");
	cr_assert(config, "%s", said);
	cr_assert_eq(config->section_count, 2);
	cr_assert_eq(config->sections->connect.count, 2);
	cr_assert_str_eq(config->sections->connect.texts[0], "1");
	cr_assert_str_eq(config->sections->connect.texts[1], "2");
	cr_assert_str_eq(config->sections->next->connect.texts[0], "3");
	cr_assert_str_eq(config->sections->next->connect.texts[1], "4");
	snprintf(wanted, sizeof(wanted), "%s/d/B:2", directory);
	cr_assert_str_eq(config->sections->next->config_line, wanted);
	config_free(config);
}

Test(config_files, included_globally)
{
	struct config *config;

	mkdir("d", 0755);
	put("d/00-global", "foreground = yes\nclient = yes\n");
	put("d/10-service", "\xef\xbb\xbf[a]\naccept = 1\nconnect = 2\n");
	put("main", "include = d\n");
	config = load_file("main");
	cr_assert(config, "%s", said);
	cr_assert_eq(config->global.foreground, FOREGROUND_YES);
	config_free(config);
}

Test(config_files, errors_name_the_included_file)
{
	char wanted[256];

	mkdir("d", 0755);
	put("d/x", "\n\nbad\n");
	put("main", "\ninclude = d\n");
	cr_assert_null(load_file("main"));
	snprintf(wanted, sizeof(wanted),
	         "[!] %s/d/x:3: \"bad\": No '=' found\n[!] %s/main:2: \"include = d\": Failed to include directory\n", directory,
	         directory);
	cr_assert(strstr(said, wanted), "%s", said);
}

Test(config_files, missing_directory)
{
	refused("include = /nonexist\n", "[!] scandir: No such file or directory (2)\n"
	                                 "[!] descriptor 77:1: \"include = /nonexist\": Failed to include directory\n");
	refused("include =\n", "[!] scandir: No such file or directory (2)\n");
}

Test(config_files, directories_that_include_themselves)
{
	mkdir("d", 0755);
	put("d/a", "include = d\n");
	put("d/b", "include = d\n");
	put("main", "include = d\n");
	cr_assert_null(load_file("main"));
	cr_assert(strstr(said, "Failed to include directory (directories include one another too deeply)\n"), "%s", said);
}

Test(config_files, a_relative_path_survives_chdir)
{
	struct config *config;

	mkdir("d", 0755);
	put("d/a", CLIENT);
	put("main", "include = d\n");
	config = load_file("main");
	cr_assert(config, "%s", said);
	config_free(config);
	cr_assert_eq(chdir("/"), 0);
	config = load_file("main");
	cr_assert(config, "%s", said);
	config_free(config);
}

Test(config_files, a_descriptor_is_read_again_on_reload)
{
	struct config_source source = {.fd = FROM};
	struct config *config;

	put("main", "garbage\n" CLIENT);
	cr_assert_eq(dup2(open("main", O_RDONLY | O_CLOEXEC), FROM), FROM);
	lseek(FROM, 8, SEEK_SET); /* where it stands counts */
	for (int i = 0; i < 2; i++) {
		config = config_load(&source);
		cr_assert(config);
		config_free(config);
	}
}

Test(config_files, a_pipe_is_read_to_its_end)
{
	int ends[2];
	struct config_source source = {.fd = FROM};
	struct config *config;

	cr_assert_eq(pipe(ends), 0);
	cr_assert_eq(dup2(ends[0], FROM), FROM);
	cr_assert_eq(write(ends[1], CLIENT, strlen(CLIENT)), (ssize_t)strlen(CLIENT));
	close(ends[1]);
	config = config_load(&source);
	cr_assert(config);
	config_free(config);
}

Test(config_files, what_cannot_be_read)
{
	struct config_source source = {.fd = 999};

	cr_assert_null(load_file("/nonexist"));
	cr_assert(
		strstr(said, "[!] Invalid configuration file name \"/nonexist\"\n[!] realpath: No such file or directory (2)\n"),
		"%s", said);
	cr_assert_null(load_file("/tmp"));
	cr_assert(strstr(said, "Is a directory (21)\n[!] Configuration failed\n"), "%s", said);
	cr_assert_null(config_load(&source));
	hear_stderr(log_dump_kept);
	cr_assert(strstr(said, "[!] Cannot open configuration file\n[!] Configuration failed\n"), "%s", said);
}

/* --- memory -------------------------------------------------------------------------------------------------------- */

/* Each allocation fails in turn, and all after it: no configuration, no crash, nothing leaked. */
Test(config, out_of_memory)
{
	static const char text[] =
		"debug = local0.5\noutput = /x\nsetEnv = A=b\nworkers = 3\nadmin = 99\nsocket = a:SO_LINGER=1:2\n"
		"[one]\ncert = a\ncert = b\naccept = 1\nconnect = 2\nconnect = 3\noptions = NO_TICKET\n"
		"[two]\nclient = yes\nsni = x\naccept = @a\nlocal = ::1\nconnect = /x\nservice = n\nsocket = r:SO_DEBUG=no\n";
	struct config *config = NULL;
	long succeed;

	for (succeed = 0; !config && succeed < 1000; succeed++) {
		arena_fail_after = succeed;
		config = load(text);
		arena_fail_after = -1;
		if (!config)
			cr_assert(strstr(said, "Out of memory\n") && strstr(said, "Configuration failed\n"), "after %ld: %s",
			          succeed, said);
	}
	cr_assert(config);
	cr_assert_gt(succeed, 50);
	config_free(config);
}
