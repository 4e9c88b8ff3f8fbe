/*
 * Privileges: see privileges.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "privileges.h"

#include "log.h"
#include "owner.h"

#include <dlfcn.h>
#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static bool failed(const char *what)
{
	log_global(LOG_ERR, "%s: %s (%d)", what, strerror(errno), errno);
	return false;
}

/* --- the jail ----------------------------------------------------------------------------------------------------------------------- */

/* libc loads modules for names when it needs them, and finds those again that are loaded. */
static void load_name_services(void)
{
	FILE *file = fopen("/etc/nsswitch.conf", "re");
	char line[256], library[64], *rest, *word;

	while (file && fgets(line, sizeof(line), file)) {
		rest = strncmp(line, "hosts:", 6) == 0 ? line + 6 : NULL;
		while (rest && (word = strsep(&rest, " \t\r\n"))) {
			if (!*word || *word == '[' || *word == '#' || strchr(word, '/') || strchr(word, ']'))
				continue;
			snprintf(library, sizeof(library), "libnss_%s.so.2", word);
			(void)dlopen(library, RTLD_NOW); /* those that are built into libc are no files */
		}
	}
	if (file)
		fclose(file);
}

/* What libc reads when it is first used is out of reach afterwards: the time zone, modules for names. */
static void load_what_is_outside(void)
{
	struct addrinfo *list = NULL;

	tzset();
	load_name_services();
	if (getaddrinfo("localhost", NULL, NULL, &list) == 0)
		freeaddrinfo(list);
}

static bool looks_names_up(const struct generation *g)
{
	bool any = false;

	for (size_t i = 0; i < g->config->section_count && !any; i++)
		any = g->commons[i].upstream.delay || g->commons[i].redirect.delay;
	return any;
}

static bool enter_jail(const struct generation *g)
{
	const char *directory = g->config->global.chroot;

	if (!directory)
		return true;
	load_what_is_outside();
	if (chroot(directory) < 0)
		return failed("chroot");
	if (chdir("/") < 0)
		return failed("chdir");
	log_global(LOG_NOTICE, "Switched to chroot directory: %s", directory);
	if (looks_names_up(g) && access("/etc/resolv.conf", R_OK) < 0)
		log_global(LOG_WARNING, "There is no /etc/resolv.conf in %s: names of servers will not be found there",
		           directory);
	return true;
}

/* --- capabilities ------------------------------------------------------------------------------------------------------------------- */

static bool is_privileged(unsigned port)
{
	static unsigned first = 0;
	FILE *file = first ? NULL : fopen("/proc/sys/net/ipv4/ip_unprivileged_port_start", "re");

	if (!first && (!file || fscanf(file, "%u", &first) != 1))
		first = 1024;
	if (file)
		fclose(file);
	return port && port < first;
}

static unsigned port_of(const struct addr *addr)
{
	switch (addr->sa.sa_family) {
	case AF_INET: return ntohs(addr->in.sin_port);
	case AF_INET6: return ntohs(addr->in6.sin6_port);
	default: return 0;
	}
}

/* A reload may then bind another such port, and one whose service comes back. */
static bool has_privileged_port(const struct generation *g)
{
	const char *admin = g->config->global.admin, *colon = admin ? strrchr(admin, ':') : NULL;
	bool any = admin && is_privileged((unsigned)strtoul(colon ? colon + 1 : admin, NULL, 10));

	for (size_t i = 0; i < g->config->section_count && !any; i++)
		for (size_t a = 0; a < g->commons[i].accept.count && !any; a++)
			any = is_privileged(port_of(&g->commons[i].accept.addrs[a]));
	return any;
}

/* Other sockets' addresses: content with CAP_NET_RAW, which is less than CAP_NET_ADMIN. */
static bool is_transparent(const struct config *config)
{
	const struct section *s = config->sections;

	while (s && s->transparent == TRANSPARENT_NONE)
		s = s->next;
	return s != NULL;
}

static unsigned capabilities_needed(const struct generation *g)
{
	unsigned needed = 0;

	if (is_transparent(g->config))
		needed |= 1U << CAP_NET_RAW;
	if (has_privileged_port(g))
		needed |= 1U << CAP_NET_BIND_SERVICE;
	return needed;
}

static bool capabilities_set(unsigned wanted)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {{.effective = wanted, .permitted = wanted}};

	return syscall(SYS_capset, &header, data) == 0 || failed("capset");
}

/* --- who we are --------------------------------------------------------------------------------------------------------------------- */

/* Of a user without `setgid`: his own groups. Root's are not left to him. */
static void take_groups(struct identity *id, const char *user)
{
	id->count = owner_groups(user, id->groups, PRIVILEGES_GROUPS_MAX);
	if (id->count)
		return;
	id->groups[id->count++] = OWNER_NOBODYS_GROUP;
	log_global(LOG_NOTICE, "User %s has no group of his own and there is no \"setgid\": it is %d then", user,
	           OWNER_NOBODYS_GROUP);
}

/* The names were found when the configuration was read. */
bool privileges_identity(const struct globals *g, struct identity *id)
{
	*id = (struct identity){.user = g->setuid, .group = g->setgid || g->setuid, .count = g->setgid ? 1 : 0};
	if ((g->setuid && !owner_user(g->setuid, &id->uid)) || (g->setgid && !owner_group(g->setgid, &id->groups[0]))) {
		errno = ENOENT;
		return failed("setuid");
	}
	if (g->setuid && !g->setgid)
		take_groups(id, g->setuid);
	return true;
}

static bool change_group(const struct identity *id)
{
	if (setresgid(id->groups[0], id->groups[0], id->groups[0]) < 0)
		return failed("setgid");
	return setgroups((size_t)id->count, id->groups) == 0 || failed("setgroups");
}

/* What has been given up must be gone. */
static bool is_gone(const struct identity *id)
{
	uid_t r, e, s;
	gid_t rg, eg, sg;

	if (getresuid(&r, &e, &s) < 0 || getresgid(&rg, &eg, &sg) < 0)
		return failed("getresuid");
	if ((id->user && (r != id->uid || e != id->uid || s != id->uid || (id->uid && setuid(0) == 0))) ||
	    (id->group && (rg != id->groups[0] || eg != id->groups[0] || sg != id->groups[0]))) {
		log_global(LOG_CRIT, "setuid: privileges could not be given up");
		return false;
	}
	return true;
}

static bool change_user(const struct identity *id, unsigned needed)
{
	bool keep = id->uid && needed && geteuid() == 0;

	if (keep && prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0)
		return failed("prctl");
	if (setresuid(id->uid, id->uid, id->uid) < 0)
		return failed("setuid");
	return !keep || (capabilities_set(needed) && (prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0) == 0 || failed("prctl")));
}

/* Whoever is it already need not be root. */
static bool is_already(const struct identity *id)
{
	return getuid() && (!id->user || (getuid() == id->uid && geteuid() == id->uid)) &&
	       (!id->group || (getgid() == id->groups[0] && getegid() == id->groups[0]));
}

bool privileges_drop(const struct generation *g)
{
	unsigned needed = capabilities_needed(g); /* /proc may be out of reach later */
	struct identity id;

	if (!privileges_identity(&g->config->global, &id) || !enter_jail(g))
		return false;
	if (is_already(&id))
		return true;
	if (id.group && !change_group(&id))
		return false;
	return (!id.user || change_user(&id, needed)) && is_gone(&id);
}
