/*
 * certReload: see renew.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "renew.h"

#include "log.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char *renew_path(const char *place)
{
	const char *end = place;

	if (!place || access(place, F_OK) == 0)
		return place;
	if (strncmp(place, "file:", 5) == 0)
		return strncmp(place + 5, "///", 3) == 0 ? place + 7 : place + 5;
	while (isalnum((unsigned char)*end) || *end == '+' || *end == '-' || *end == '.')
		end++;
	return *end == ':' && end > place + 1 ? NULL : place;
}

int renew_each_place(const struct section *section, int (*see)(void *arg, const struct section *section, const char *place),
                     void *arg)
{
	const char *const files[] = {section->key,      section->ca_file,  section->ca_path,
	                             section->ca_store, section->crl_file, section->crl_path};
	int error = 0;

	for (size_t i = 0; i < section->cert.count && !error; i++)
		error = see(arg, section, section->cert.texts[i]);
	for (size_t i = 0; i < sizeof(files) / sizeof(*files) && !error; i++)
		error = files[i] ? see(arg, section, files[i]) : 0;
	return error;
}

static int watch_place(void *watch, const struct section *section, const char *place)
{
	const char *path = renew_path(place);

	return path ? watch_add(watch, path, section->index) : 0;
}

/* Files of ticket keys change by design, so they are always watched. What they concern is not the section's contexts, hence an owner of their own. */
static unsigned ticket_owner(const struct config *config, const struct section *section)
{
	return (unsigned)config->section_count + section->index;
}

static bool has_ticket_files(const struct section *section)
{
	return section->ticket_key_files.count && !section->client;
}

static int watch_tickets(struct watch *watch, const struct config *config, const struct section *section)
{
	int error = 0;

	for (size_t i = 0; has_ticket_files(section) && i < section->ticket_key_files.count && !error; i++)
		error = watch_add(watch, section->ticket_key_files.texts[i], ticket_owner(config, section));
	return error;
}

static bool wanted(const struct config *config)
{
	for (const struct section *s = config->sections; s; s = s->next)
		if (s->cert_reload || has_ticket_files(s))
			return true;
	return false;
}

struct watch *renew_watch(const struct config *config)
{
	struct watch *watch = wanted(config) ? watch_new() : NULL;
	int error = watch ? 0 : -ENOMEM;

	if (!wanted(config))
		return NULL;
	for (const struct section *s = config->sections; s && !error; s = s->next) {
		if (s->cert_reload)
			error = renew_each_place(s, watch_place, watch);
		if (!error)
			error = watch_tickets(watch, config, s);
	}
	if (!error)
		return watch;
	log_global(LOG_ERR, "certReload: %s", strerror(-error));
	watch_free(watch);
	return NULL;
}

static bool any(const bool *flags, size_t count)
{
	size_t i = 0;

	while (i < count && !flags[i])
		i++;
	return i < count;
}

static void renew_tickets(const struct generation *current, const bool *changed)
{
	const struct config *config = current->config;

	for (const struct section *s = config->sections; s; s = s->next) {
		if (!changed[ticket_owner(config, s)])
			continue;
		log_soften(LOG_WARNING);
		if (tls_sessions_reload(current->commons[s->index].sessions, s))
			log_global(LOG_NOTICE, "Service [%s]: changed ticket keys loaded", s->name);
		else
			log_global(LOG_WARNING, "Service [%s]: changed ticket keys cannot be used: the old ones stay", s->name);
		log_soften(LOG_EMERG);
	}
}

struct generation *renew(struct watch *watch, uint64_t now_ms, const struct generation *current,
                         struct tls_library *const *libraries)
{
	size_t count = current->config->section_count;
	bool *changed = watch ? calloc(2 * count, sizeof(*changed)) : NULL; /* sections, then ticket_owner() of each */
	struct generation *next = NULL;

	if (changed && watch_turn(watch, now_ms, changed)) {
		renew_tickets(current, changed);
		if (any(changed, count))
			next = generation_renew(current, changed, libraries);
	}
	free(changed);
	return next;
}
