/*
 * Configurations put in force, by the start and by reloads: see server.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "server.h"

#include "access.h"
#include "admin.h"
#include "renew.h"
#include "sandbox.h"
#include "stats.h"
#include "watch.h"
#include "wrap.h"

#include <stdlib.h>
#include <string.h>

bool server_prepare_access(const struct config *config)
{
	access_prepare(config);
	return wrap_start(config);
}

struct generation *server_generation(struct config *config, const struct generation *previous)
{
	return generation_new(config, previous, server.libraries, server.count);
}

struct log_target server_log_target(const struct globals *g)
{
	return (struct log_target){
		.output = g->output,
		.overwrite = g->log_overwrite,
		.to_stderr = server.foreground == FOREGROUND_YES,
		.to_syslog = g->syslog,
		.ident = g->service,
		.facility = g->facility,
	};
}

int server_open_log(void)
{
	struct log_target target = server_log_target(server_globals());

	log_set_level(server_globals()->debug);
	return log_open(&target);
}

void server_announce_services(void)
{
	const struct config *config = server.current->config;
	const char **names = calloc(config->section_count, sizeof(*names));

	for (const struct section *s = config->sections; names && s; s = s->next)
		names[s->index] = s->name;
	if (names)
		stats_set_current(names, (unsigned)config->section_count);
	free(names);
}

bool server_start_admin(void)
{
	const char *wanted = server_globals()->admin;
	struct admin *fresh;

	if (wanted && server.admin_address && strcmp(wanted, server.admin_address) == 0)
		return true;
	fresh = wanted ? admin_start(wanted) : NULL;
	if (wanted && !fresh)
		return false;
	admin_stop(server.admin);
	server.admin = fresh;
	free(server.admin_address);
	server.admin_address = wanted ? strdup(wanted) : NULL;
	return true;
}

/* --- reload ------------------------------------------------------------------------------------------------------------------------- */

static bool same(const char *a, const char *b)
{
	return a == b || (a && b && strcmp(a, b) == 0);
}

/* What was done at the start and cannot be done again. */
static void announce_unchanged(const struct globals *now, const struct globals *wanted)
{
	const struct {
		const char *name;
		bool changes;
	} fixed[] = {
		{"chroot", !same(now->chroot, wanted->chroot)},        {"setuid", !same(now->setuid, wanted->setuid)},
		{"setgid", !same(now->setgid, wanted->setgid)},        {"pid", !same(now->pid, wanted->pid)},
		{"foreground", now->foreground != wanted->foreground}, {"sandbox", now->sandbox != wanted->sandbox},
		{"workers", now->workers != wanted->workers},
	};

	for (size_t i = 0; i < sizeof(fixed) / sizeof(*fixed); i++)
		if (fixed[i].changes)
			log_global(LOG_NOTICE, "\"%s\" changes with the next start", fixed[i].name);
}

/* What the sandbox keeps from us is refused by name, before something fails for no apparent reason. */
static struct config *load_again(void)
{
	struct config *config = config_load(server.source);
	bool ok = config && sandbox_allows(config);

	if (ok && config->inetd) { /* nobody would listen any more */
		log_global(LOG_ERR, "A configuration without sections needs a restart");
		ok = false;
	}
	if (ok)
		return config;
	config_free(config);
	return NULL;
}

bool server_reload(void)
{
	struct config *config = load_again();
	struct watch *watch = config ? renew_watch(config) : NULL;
	struct generation *next = NULL;

	if (config && server_prepare_access(config))
		next = server_generation(config, server.current);
	else
		config_free(config);
	if (next && !listening_prepare(&server.listening, next)) {
		generation_free(next);
		next = NULL;
	}
	stats_note_reload(next != NULL);
	if (!next) {
		log_global(LOG_ERR, "Failed to reload the configuration file");
		watch_free(watch);
		return false;
	}
	announce_unchanged(server_globals(), &next->config->global);
	listening_commit(&server.listening, next, server.workers);
	server.current = next;
	watch_free(server.watch);
	server.watch = watch;
	server_open_log();
	server_announce_services();
	server_start_admin();
	log_global(LOG_NOTICE, "Configuration successful");
	return true;
}

void server_reload_certificates(uint64_t now_ms)
{
	struct generation *next = renew(server.watch, now_ms, server.current, server.libraries);

	if (!next)
		return;
	if (!listening_prepare(&server.listening, next)) {
		generation_free(next);
		return;
	}
	listening_commit(&server.listening, next, server.workers);
	server.current = next;
	generation_announce(next);
}
