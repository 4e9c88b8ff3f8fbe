/*
 * tlsplice: the command line. What happens then stands in serve.c.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "config.h"
#include "daemon.h"
#include "doctor.h"
#include "kernel.h"
#include "log.h"
#include "serve.h"
#include "sockopt.h"
#include "tls.h"
#include "wrap.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/utsname.h>
#include <unistd.h>

#ifndef SYSCONFDIR
#define SYSCONFDIR "/etc"
#endif

static const char default_file[] = SYSCONFDIR "/stunnel/stunnel.conf";

/* What tools look for in the output of stunnel stays as they know it. */
static void banner(void)
{
	struct utsname u;

	uname(&u);
	log_global(LOG_NOTICE, "tlsplice %s on %s-pc-linux-gnu platform", TLSPLICE_VERSION, u.machine);
	if (strcmp(tls_compiled_version(), tls_running_version()) == 0) {
		log_global(LOG_NOTICE, "Compiled/running with %s", tls_running_version());
	} else {
		log_global(LOG_NOTICE, "Compiled with %s", tls_compiled_version());
		log_global(LOG_NOTICE, "Running  with %s", tls_running_version());
	}
}

static void print_banner(FILE *out)
{
	struct utsname u;

	uname(&u);
	fprintf(out, "tlsplice %s on %s-pc-linux-gnu platform\n", TLSPLICE_VERSION, u.machine);
	fprintf(out, "stunnel 5.82 compatible on %s-pc-linux-gnu platform\n", u.machine);
	if (strcmp(tls_compiled_version(), tls_running_version()) == 0)
		fprintf(out, "Compiled/running with %s\n", tls_running_version());
	else
		fprintf(out, "Compiled with %s\nRunning  with %s\n", tls_compiled_version(), tls_running_version());
	fprintf(out, "Threading:PTHREAD Sockets:IO_URING,IPv6 TLS:ENGINE,OCSP,PSK,SNI%s\n\n",
	        wrap_available() ? " Auth:LIBWRAP" : "");
}

static int print_version(void)
{
	print_banner(stderr);
	config_print_defaults(stderr);
	return 0;
}

static int print_help(void)
{
	print_banner(stderr);
	config_print_help(stderr);
	return 0;
}

static int print_sockets(void)
{
	print_banner(stderr);
	sockopts_print(stderr);
	return 0;
}

static int print_options(void)
{
	print_banner(stderr);
	config_print_tls_options(stderr);
	return 0;
}

static int print_kernel(void)
{
	return kernel_report(stdout) ? 0 : 1;
}

static const struct {
	const char *flag;
	int (*print)(void);
} prints[] = {
	{"-version", print_version},
	{"-help", print_help},
	{"-sockets", print_sockets},
	{"-options", print_options},
	{"-kernel", print_kernel},
};

static void print_usage(void)
{
	fprintf(stderr, "    tlsplice [<filename>] | -fd <n> | -help | -version | -sockets | -options\n"
	                "    tlsplice -t [<filename>]   test a configuration\n"
	                "    tlsplice -T [<filename>]   print the effective configuration\n"
	                "    tlsplice -doctor [<filename>]   say what this machine lacks for a configuration\n"
	                "    tlsplice -kernel           print what this kernel offers and what of it is used\n");
}

static int usage(const char *problem)
{
	fprintf(stderr, "[!] %s\n", problem);
	print_usage();
	return 1;
}

/* The file's full name, so that a reload finds it from another directory. */
static bool find_file(const char *name, struct config_source *source)
{
	char *path = realpath(name, NULL);

	if (!path) {
		int error = errno;

		fprintf(stderr, "[!] Invalid configuration file name \"%s\"\n", name);
		fprintf(stderr, "[!] realpath: %s (%d)\n", strerror(error), error);
		print_usage();
		return false;
	}
	if (access(path, R_OK) < 0) {
		usage("Cannot open configuration file");
		free(path);
		return false;
	}
	source->path = path;
	return true;
}

static bool parse_descriptor(const char *text, int *fd)
{
	char *end;
	long n = strtol(text, &end, 10);

	*fd = (int)n;
	return *text && !*end && n >= 0 && n <= INT_MAX;
}

static int print_effective(const struct config_source *source)
{
	struct config *config = config_load(source);

	log_dump_kept();
	if (!config)
		return 1;
	config_print_effective(config, stdout);
	config_free(config);
	return 0;
}

int main(int argc, char **argv)
{
	int (*act)(const struct config_source *) = serve;
	struct config_source source = {.fd = -1};
	const char *name;
	int status;

	if (wrap_is_helper(argc, argv))
		return wrap_main(argv);
	process_standard_descriptors();
	log_set_id("ui");
	tls_may_ask(true);
	for (size_t i = 0; argc > 1 && i < sizeof(prints) / sizeof(*prints); i++)
		if (strcasecmp(argv[1], prints[i].flag) == 0)
			return prints[i].print();
	if (argc > 1 && (strcmp(argv[1], "-t") == 0 || strcmp(argv[1], "-T") == 0)) {
		act = argv[1][1] == 't' ? test_configuration : print_effective;
		argv++;
		argc--;
	} else if (argc > 1 && strcasecmp(argv[1], "-doctor") == 0) {
		act = doctor;
		argv++;
		argc--;
	}
	name = argc > 1 ? argv[1] : default_file;
	if (strcasecmp(name, "-fd") == 0) {
		if (argc < 3)
			return usage("No file descriptor specified");
		if (!parse_descriptor(argv[2], &source.fd))
			return usage("Invalid file descriptor number");
	} else if (!find_file(name, &source)) {
		return 1;
	}
	if (act == serve)
		banner();
	status = act(&source);
	free((char *)source.path);
	return status;
}
