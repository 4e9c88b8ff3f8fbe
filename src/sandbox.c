/*
 * The sandbox: see sandbox.h. What the configuration needs is listed twice: at the start, to be allowed, and at a reload, to see whether it was.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "sandbox.h"

#include "landlock.h"
#include "log.h"
#include "renew.h"
#include "ring.h"
#include "sandbox_ports.h"
#include "seccomp.h"

#include <errno.h>
#include <limits.h>
#include <link.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#if __has_include(<valgrind/valgrind.h>)
#include <valgrind/valgrind.h>
#else
#define RUNNING_ON_VALGRIND 0
#endif

struct need {
	char *path; /* without symbolic links in it */
	unsigned rights;
};

struct needs {
	struct need *list;
	size_t count;
	bool jailed; /* "/" is a directory like others then */
	bool failed; /* no memory */
};

static struct needs allowed; /* at the start; empty: everything */
static bool confined;        /* there is a sandbox */
static bool enforced;        /* by Landlock */
static bool restricted;      /* by seccomp */
static bool runs;            /* programs, if only those that Landlock allows */

/* --- what is needed ----------------------------------------------------------------------------------------------------------------- */

static void needs_free(struct needs *needs)
{
	for (size_t i = 0; i < needs->count; i++)
		free(needs->list[i].path);
	free(needs->list);
	*needs = (struct needs){0};
}

/* Takes `real`, which may be NULL. */
static void need_real(struct needs *needs, char *real, unsigned rights)
{
	struct need *grown = real ? realloc(needs->list, (needs->count + 1) * sizeof(*grown)) : NULL;

	if (!grown) {
		needs->failed |= real != NULL;
		free(real);
		return;
	}
	needs->list = grown;
	needs->list[needs->count++] = (struct need){real, rights};
}

/* A file or a directory with all that is below it; one that does not exist needs nothing. */
static void need(struct needs *needs, const char *path, unsigned rights)
{
	need_real(needs, realpath(path, NULL), rights);
}

/* The directory that a path is in. */
static void need_parent(struct needs *needs, const char *path, unsigned rights)
{
	char copy[PATH_MAX], *slash;

	if (strlen(path) >= sizeof(copy))
		return;
	strcpy(copy, path);
	slash = strrchr(copy, '/');
	if (slash)
		slash[1] = '\0';
	else
		strcpy(copy, ".");
	if (strcmp(copy, "/") != 0 || needs->jailed)
		need(needs, copy, rights);
	else
		need(needs, path, rights); /* not the whole machine for the sake of one file */
}

/*
 * A file is exchanged by a rename or a symbolic link, and Landlock knows files, not names: so its directory is what is needed, and the one that links lead to.
 */
static void need_file(struct needs *needs, const char *path, unsigned rights)
{
	char *real = realpath(path, NULL);
	struct stat st;

	if (real && stat(real, &st) == 0 && S_ISDIR(st.st_mode)) {
		need_real(needs, real, rights);
		return;
	}
	if (real && strcmp(real, path) != 0)
		need_parent(needs, real, rights);
	need_parent(needs, path, rights);
	free(real);
}

static int need_place(void *needs, const struct section *section, const char *place)
{
	const char *path = renew_path(place);

	(void)section;
	if (path)
		need_file(needs, path, LANDLOCK_READ);
	return 0;
}

static void need_section(struct needs *needs, const struct section *s)
{
	renew_each_place(s, need_place, needs);
	if (s->psk_secrets)
		need_file(needs, s->psk_secrets, LANDLOCK_READ);
	for (size_t i = 0; i < s->ticket_key_files.count; i++)
		need_file(needs, s->ticket_key_files.texts[i], LANDLOCK_READ);
	for (size_t i = 0; i < s->accept.count; i++)
		if (s->accept.texts[i][0] == '/')
			need_parent(needs, s->accept.texts[i], LANDLOCK_SOCKET);
}

/* A device or FIFO is not moved away and made anew. */
static void need_output(struct needs *needs, const char *output)
{
	struct stat st;

	if (stat(output, &st) == 0 && !S_ISREG(st.st_mode))
		need(needs, output, LANDLOCK_WRITE);
	else
		need_file(needs, output, LANDLOCK_WRITE);
}

static void need_config(struct needs *needs, const struct config *config)
{
	needs->jailed = config->global.chroot;
	for (const struct section *s = config->sections; s; s = s->next)
		need_section(needs, s);
	for (size_t i = 0; i < config->included.count; i++)
		need_file(needs, config->included.texts[i], LANDLOCK_READ);
	if (config->global.output)
		need_output(needs, config->global.output);
}

/* --- what libraries need ------------------------------------------------------------------------------------------------------------- */

/* Names, time, and how many CPUs there are; libraries that are loaded late; what we tell about ourselves. */
static const char *const system_files[] = {
	"/usr",
	"/lib",
	"/lib32",
	"/lib64",
	"/etc/ld.so.cache",
	"/etc/ld.so.conf",
	"/etc/ld.so.conf.d",
	"/etc/alternatives",
	/* names */
	"/etc/nsswitch.conf",
	"/etc/resolv.conf",
	"/etc/hosts",
	"/etc/host.conf",
	"/etc/gai.conf",
	"/etc/services",
	"/etc/protocols",
	"/etc/networks",
	"/etc/passwd",
	"/etc/group",
	"/etc/hosts.allow",
	"/etc/hosts.deny",
	"/run/systemd/resolve",
	"/run/resolvconf",
	"/run/NetworkManager",
	"/var/run/nscd",
	"/var/lib/sss",
	"/var/lib/extrausers",
	/* time, TLS */
	"/etc/localtime",
	"/etc/timezone",
	"/etc/ssl/openssl.cnf",
	"/etc/ssl/certs",
	"/etc/pki/tls",
	"/etc/pki/ca-trust",
	"/etc/crypto-policies",
	/* the machine and this process */
	"/proc/self",
	"/proc/sys",
	"/proc/cpuinfo",
	"/proc/meminfo",
	"/proc/net",
	"/sys/devices/system",
	"/sys/fs/cgroup",
	"/sys/kernel/mm",
	"/dev/random",
	"/dev/urandom",
};

static void need_system(struct needs *needs)
{
	if (needs->jailed) /* where a reload may find directories that were not there at the start */
		need(needs, "/", LANDLOCK_READ);
	for (size_t i = 0; i < sizeof(system_files) / sizeof(*system_files); i++)
		need(needs, system_files[i], LANDLOCK_READ);
	/* Files there come and go by renaming. What root alone may read stays out of reach of nobody else but root. */
	if (geteuid() != 0)
		need(needs, "/etc", LANDLOCK_READ);
	need(needs, "/dev/null", LANDLOCK_READ | LANDLOCK_WRITE);
	need(needs, "/dev/tty", LANDLOCK_READ | LANDLOCK_WRITE | LANDLOCK_DEVICE); /* pass phrases at a reload */
}

/* The loader that the kernel starts with a program, which is another file to execute. */
static int find_loader(struct dl_phdr_info *info, size_t size, void *loader)
{
	(void)size;
	for (int i = 0; i < info->dlpi_phnum; i++)
		if (info->dlpi_phdr[i].p_type == PT_INTERP)
			*(const char **)loader = (const char *)(info->dlpi_addr + info->dlpi_phdr[i].p_vaddr);
	return 1; /* the first is the program itself */
}

/* The helper of libwrap is this program. A reload may be the first that wants it, and it may have to be started again. */
static bool runs_helper(const struct config *config)
{
	const struct section *s = config->sections;

	while (s && !s->libwrap)
		s = s->next;
	return s != NULL;
}

static void need_helper(struct needs *needs)
{
	const char *loader = NULL;

	need(needs, "/proc/self/exe", LANDLOCK_RUN);
	dl_iterate_phdr(find_loader, (void *)&loader);
	if (loader)
		need(needs, loader, LANDLOCK_RUN);
}

/* --- Landlock ------------------------------------------------------------------------------------------------------------------------ */

static bool is_builtin(const char *provider)
{
	static const char *const names[] = {"default", "legacy", "base", "fips", "null"};

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		if (strcasecmp(provider, names[i]) == 0)
			return true;
	return false;
}

/* "pkcs11:..." */
static int is_stranger(void *arg, const struct section *section, const char *place)
{
	(void)arg, (void)section;
	return renew_path(place) == NULL;
}

/* Engines and tokens have files, devices and helpers that only they know. */
static bool has_strangers(const struct config *config)
{
	const struct texts *modules = &config->global.modules;
	bool any = false;

	for (size_t i = 0; i < modules->count && !any; i++)
		any = strncasecmp(modules->texts[i], "engine=", 7) == 0 ||
		      (strncasecmp(modules->texts[i], "provider=", 9) == 0 && !is_builtin(modules->texts[i] + 9));
	for (const struct section *s = config->sections; s && !any; s = s->next)
		any = renew_each_place(s, is_stranger, NULL);
	return any;
}

/* Ports that were allowed at the start, and which uses of them are restricted. */
static unsigned char ports[65536];
static unsigned ports_restricted;

struct port_list {
	int ruleset;
	unsigned uses;
};

static int allow_port(void *arg, unsigned port, enum landlock_ports use)
{
	const struct port_list *list = arg;

	if (!(list->uses & use) || ports[port] & use)
		return 0;
	ports[port] |= (unsigned char)use;
	return landlock_allow_port(list->ruleset, port, use);
}

static unsigned ports_to_restrict(const struct config *config, int version)
{
	if (config->global.sandbox != SANDBOX_STRICT)
		return 0;
	if (version >= LANDLOCK_VERSION_PORTS)
		return sandbox_ports_known(config);
	log_global(LOG_NOTICE, "Sandbox: TCP ports are not restricted: this kernel's Landlock cannot (Linux 6.7 can)");
	return 0;
}

/* Returns 0 or -errno. */
static int enforce(const struct needs *needs, const struct config *config)
{
	int version = landlock_version();
	struct port_list list = {.uses = ports_to_restrict(config, version)};
	int ruleset = version < 0 ? version : landlock_open(version, list.uses);

	for (size_t i = 0; ruleset >= 0 && i < needs->count; i++) {
		int error = landlock_allow(ruleset, version, needs->list[i].path, needs->list[i].rights);

		if (error)
			log_global(LOG_INFO, "Sandbox: %s: %s (%d)", needs->list[i].path, strerror(-error), -error);
	}
	list.ruleset = ruleset;
	if (ruleset >= 0 && list.uses && sandbox_ports_each(config, allow_port, &list) < 0)
		log_global(LOG_NOTICE, "Sandbox: not all TCP ports could be listed");
	ports_restricted = list.uses;
	return ruleset < 0 ? ruleset : landlock_enforce(ruleset);
}

static void restrict_files(const struct config *config, const struct config_source *source)
{
	int error;

	need_config(&allowed, config);
	if (source->path)
		need_file(&allowed, source->path, LANDLOCK_READ);
	if (config->global.pid)
		need_parent(&allowed, config->global.pid, LANDLOCK_REMOVE);
	need_system(&allowed);
	need_helper(&allowed);
	error = allowed.failed ? -ENOMEM : enforce(&allowed, config);
	enforced = !error;
	if (enforced)
		log_global(LOG_INFO, "Sandbox: files restricted by Landlock");
	else
		log_global(LOG_NOTICE, "Sandbox: files are not restricted: Landlock: %s (%d)", strerror(-error), -error);
}

/* Whatever is in force is so for the programs of `exec` too, which are no proxies. */
static bool has_programs(const struct config *config)
{
	const struct section *s = config->sections;

	while (s && !s->exec)
		s = s->next;
	return s != NULL;
}

/* Nothing that could be proved to valgrind: it lives in our process, and makes system calls of its own. */
static bool wanted(const struct config *config)
{
	return config->global.sandbox && !RUNNING_ON_VALGRIND;
}

void sandbox_files(const struct config *config, const struct config_source *source)
{
	if (!wanted(config))
		return;
	ring_restrict();
	if (has_programs(config)) {
		log_global(LOG_NOTICE, "Sandbox: the rings only: programs of \"exec\" would be in the rest of it too");
		return;
	}
	confined = true;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		log_global(LOG_NOTICE, "Sandbox: PR_SET_NO_NEW_PRIVS: %s (%d)", strerror(errno), errno);
	if (has_strangers(config))
		log_global(LOG_NOTICE, "Sandbox: files are not restricted: nobody knows which ones engines and tokens need");
	else
		restrict_files(config, source);
}

void sandbox_calls(const struct config *config)
{
	bool strangers = has_strangers(config);
	int error;

	if (!wanted(config) || has_programs(config))
		return;
	runs = strangers || enforced || runs_helper(config);
	error = seccomp_restrict(strangers, runs);
	restricted = !error;
	if (error)
		log_global(LOG_NOTICE, "Sandbox: system calls are not restricted: seccomp: %s (%d)", strerror(-error), -error);
	else
		log_global(LOG_INFO, "Sandbox: system calls restricted by seccomp");
}

/* --- reload -------------------------------------------------------------------------------------------------------------------------- */

static bool is_below(const char *path, const char *directory)
{
	size_t n = strlen(directory);

	return strncmp(path, directory, n) == 0 && (path[n] == '/' || !path[n] || directory[n - 1] == '/');
}

static bool is_allowed(const struct need *need)
{
	unsigned left = need->rights;

	for (size_t i = 0; i < allowed.count && left; i++)
		if (is_below(need->path, allowed.list[i].path))
			left &= ~allowed.list[i].rights;
	return !left;
}

static int see_port(void *arg, unsigned port, enum landlock_ports use)
{
	bool *ok = arg;

	if (!(ports_restricted & use) || ports[port] & use)
		return 0;
	*ok = false;
	log_global(LOG_ERR,
	           "Sandbox: TCP port %u is out of reach: it had no part in the configuration at start. A restart makes it one",
	           port);
	return 0;
}

bool sandbox_allows(const struct config *config)
{
	struct needs needs = {0};
	bool ok = true;

	if (confined && has_programs(config)) {
		log_global(LOG_ERR, "Sandbox: the first \"exec\" needs a restart");
		return false;
	}
	if (restricted && !runs && runs_helper(config)) {
		log_global(LOG_ERR, "Sandbox: without Landlock the first \"libwrap\" needs a restart");
		return false;
	}
	if (!enforced)
		return true;
	if (has_strangers(config)) {
		log_global(LOG_ERR, "Sandbox: engines and tokens need a restart");
		return false;
	}
	need_config(&needs, config);
	for (size_t i = 0; i < needs.count; i++) {
		if (is_allowed(&needs.list[i]))
			continue;
		ok = false;
		log_global(LOG_ERR,
		           "Sandbox: %s is out of reach: it had no part in the configuration at start. A restart makes it one",
		           needs.list[i].path);
	}
	if (ports_restricted & ~sandbox_ports_known(config)) {
		ok = false;
		log_global(LOG_ERR, "Sandbox: ports that only clients or certificates know need a restart");
	}
	sandbox_ports_each(config, see_port, &ok);
	if (needs.failed)
		log_global(LOG_ERR, "Sandbox: %s (%d)", strerror(ENOMEM), ENOMEM);
	ok = ok && !needs.failed;
	needs_free(&needs);
	return ok;
}
