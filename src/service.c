/*
 * Services: see service.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "service.h"

#include "log.h"
#include "sessiond.h"
#include "tls_staple.h"

#include <netdb.h>
#include <openssl/rand.h>
#include <stdlib.h>
#include <string.h>

static const struct section *section_of(const struct config *config, const struct section *like)
{
	for (const struct section *s = config->sections; s; s = s->next)
		if (strcmp(s->name, like->name) == 0 && strcmp(s->canonical, like->canonical) == 0)
			return s;
	return NULL;
}

/* The same section in the generation before, or NULL. */
static const struct common *common_before(const struct section *section, const struct generation *previous)
{
	const struct section *old = previous ? section_of(previous->config, section) : NULL;

	return old ? &previous->commons[old->index] : NULL;
}

/* The section of that name, whatever its options were then, or NULL. */
static const struct common *common_named(const struct section *section, const struct generation *previous)
{
	for (const struct section *s = previous ? previous->config->sections : NULL; s; s = s->next)
		if (strcmp(s->name, section->name) == 0)
			return &previous->commons[s->index];
	return NULL;
}

/* Tickets and sessions of the section before, unless others are trusted now: a session would spare its peer the new checks. */
static struct tls_sessions *sessions_for(const struct section *section, const struct tls_trust *trust, const struct common *old)
{
	if (old && tls_trust_equal(trust, old->trust))
		return tls_sessions_reload(old->sessions, section) ? tls_sessions_ref(old->sessions) : NULL;
	return tls_sessions_new(section);
}

static bool resolve_accept(const struct section *s, struct common *common)
{
	for (size_t i = 0; i < s->accept.count; i++) {
		int error = addr_resolve(s->accept.texts[i], ADDR_PASSIVE, &common->accept);

		if (error) {
			log_global(LOG_ERR, "Error resolving \"%s\": %s", s->accept.texts[i], gai_strerror(error));
			log_global(LOG_ERR, "Service [%s]: Cannot resolve accept target", s->name);
			return false;
		}
	}
	return true;
}

/* Names that cannot be resolved now are looked up for each connection, as with `delay = yes`. */
static void resolve_targets(const struct texts *names, const char *option, bool delay, struct upstream *upstream)
{
	unsigned random = 0;

	upstream->names = names;
	upstream->delay = delay;
	for (size_t i = 0; i < names->count && !upstream->delay; i++) {
		int error = addr_resolve(names->texts[i], ADDR_ACTIVE, &upstream->addrs);

		if (error) {
			log_global(LOG_ERR, "Error resolving \"%s\": %s", names->texts[i], gai_strerror(error));
			log_global(LOG_WARNING, "Cannot resolve %s target - delaying DNS lookup", option);
			upstream->delay = true;
			addr_list_free(&upstream->addrs);
		}
	}
	RAND_bytes((unsigned char *)&random, sizeof(random)); /* where to begin: no secret */
	upstream->next = random;
}

static bool resolve_local(const struct section *s, struct upstream *upstream)
{
	int error = s->local ? addr_resolve(s->local, ADDR_HOST, &upstream->local) : 0;

	if (error)
		log_global(LOG_ERR, "Service [%s]: Cannot resolve local address \"%s\": %s", s->name, s->local,
		           gai_strerror(error));
	return error == 0;
}

/*
 * A session is all that is needed to read a connection and, where clients have certificates, to be such a client. So it goes over a network only
 * sealed, and a cache that does not know how to (stunnel's) has to be on this machine.
 */
static bool resolve_sessiond(const struct section *s, struct addr *sessiond)
{
	struct addr_list list = {0};
	int error = s->sessiond && !s->client ? addr_resolve(s->sessiond, ADDR_ACTIVE, &list) : 0;
	size_t chosen = 0;

	if (s->sessiond && s->client)
		log_global(LOG_INFO, "Service [%s]: \"sessiond\" is for servers: clients keep their sessions to themselves",
		           s->name);
	if (error)
		log_global(LOG_ERR, "Service [%s]: Failed to resolve sessiond server address \"%s\": %s", s->name, s->sessiond,
		           gai_strerror(error));
	while (chosen + 1 < list.count && list.addrs[chosen].sa.sa_family != AF_INET)
		chosen++;
	if (list.count)
		*sessiond = list.addrs[chosen];
	addr_list_free(&list);
	if (error || !sessiond->len || sessiond_is_local(sessiond) || s->ticket_key)
		return !error;
	log_global(LOG_ERR,
	           "Service [%s]: \"sessiond\" on another machine needs \"ticketKeySecret\" and \"ticketMacSecret\" to protect "
	           "the sessions",
	           s->name);
	return false;
}

/* Responses to staple, once there are contexts: those about the same certificates go on. */
static bool make_staples(struct generation *g, const struct section *s, const struct common *old)
{
	struct common *common = &g->commons[s->index];
	bool ok;

	common->staples = tls_staples_new(g->sets[0].services[s->index].tls, old ? old->staples : NULL);
	ok = common->staples != NULL;
	for (unsigned w = 0; ok && w < g->workers; w++)
		ok = tls_staples_install(common->staples, g->sets[w].services[s->index].tls);
	if (!ok)
		log_global(LOG_ERR, "Service [%s]: no memory for stapling", s->name);
	return ok;
}

/* One SSL_CTX for each worker. */
static bool make_contexts(struct generation *g, const struct section *s, const struct tls_identity *identity,
                          struct tls_library *const *libraries)
{
	const struct common *common = &g->commons[s->index];
	bool ok = true;

	for (unsigned w = 0; ok && w < g->workers; w++) {
		struct service *service = &g->sets[w].services[s->index];

		service->tls = tls_context_new(s, identity, common->trust, common->sessions, libraries[w], w == 0);
		ok = service->tls != NULL;
	}
	return ok;
}

/* Who we are, who is trusted, what was agreed with peers before (`old`, or NULL), and contexts of all that. */
static bool init_tls(struct generation *g, const struct section *s, const struct common *old,
                     struct tls_library *const *libraries)
{
	struct tls_identity *identity = tls_identity_load(s);
	struct common *common = &g->commons[s->index];
	bool ok;

	common->trust = identity ? tls_trust_load(s) : NULL;
	common->sessions = common->trust ? sessions_for(s, common->trust, old) : NULL;
	ok = common->sessions && make_contexts(g, s, identity, libraries);
	tls_identity_free(identity);
	if (!ok)
		log_global(LOG_ERR, "Service [%s]: Failed to initialize TLS context", s->name);
	return ok;
}

static void end_tls(struct generation *g, const struct section *s)
{
	struct common *common = &g->commons[s->index];

	for (unsigned w = 0; w < g->workers; w++) {
		tls_context_free(g->sets[w].services[s->index].tls);
		g->sets[w].services[s->index].tls = NULL;
	}
	tls_sessions_unref(common->sessions);
	common->sessions = NULL;
	tls_trust_unref(common->trust);
	common->trust = NULL;
	tls_staples_unref(common->staples);
	common->staples = NULL;
}

/* True if something within OpenSSL's handshake of the section may have to wait: an OCSP responder's answer, or sessiond's. */
static bool handshake_waits(const struct section *s)
{
	return (s->verify_chain && (s->ocsp || s->ocsp_aia)) || (s->sessiond && !s->client && s->session_resume);
}

/* The same of a section that a handshake begins in, and may end in one of its virtual hosts. */
static bool any_handshake_waits(const struct section *s)
{
	bool waits = handshake_waits(s);

	for (const struct virtual_host *host = s->hosts; host && !waits; host = host->next)
		waits = handshake_waits(host->section);
	return waits;
}

static bool init_services(struct generation *g, const struct section *s)
{
	for (unsigned w = 0; w < g->workers; w++) {
		struct service *service = &g->sets[w].services[s->index];

		service->conf = s;
		service->set = &g->sets[w];
		service->upstream = &g->commons[s->index].upstream;
		service->sessiond = s->sessiond && !s->client ? &g->commons[s->index].sessiond : NULL;
		service->redirect = s->redirect.count ? &g->commons[s->index].redirect : NULL;
		service->deep = any_handshake_waits(s);
		service->stats = stats_of(s->name, s->client ? "client" : "server", w);
		if (!service->stats)
			return false;
	}
	return true;
}

/* OpenSSL cannot begin another job while one waits for something else than an engine. */
static bool check_async(const struct section *s)
{
	bool async = s->async;

	for (const struct virtual_host *host = s->hosts; host && !async; host = host->next)
		async = host->section->async;
	if (!async || !any_handshake_waits(s))
		return true;
	log_global(
		LOG_ERR,
		"Service [%s]: \"async\" cannot be combined with what handshakes wait for themselves, such as OCSP or sessiond",
		s->name);
	return false;
}

static bool init_section(struct generation *g, const struct section *s, const struct generation *previous,
                         struct tls_library *const *libraries)
{
	struct common *common = &g->commons[s->index];

	if (!check_async(s) || !init_services(g, s))
		return false;
	resolve_targets(&s->connect, "connect", s->delay, &common->upstream);
	resolve_targets(&s->redirect, "redirect", s->delay, &common->redirect);
	return resolve_accept(s, common) && resolve_local(s, &common->upstream) && resolve_sessiond(s, &common->sessiond) &&
	       init_tls(g, s, common_before(s, previous), libraries) && make_staples(g, s, common_named(s, previous));
}

/* An empty generation. The configuration becomes its own, also on failure. */
static struct generation *generation_alloc(struct config *config, unsigned workers)
{
	struct generation *g = calloc(1, sizeof(*g));
	bool ok;

	if (!g) {
		config_free(config);
		return NULL;
	}
	g->config = config;
	g->workers = workers;
	g->refs = workers;
	g->commons = calloc(config->section_count, sizeof(*g->commons));
	g->sets = calloc(workers, sizeof(*g->sets));
	ok = g->commons && g->sets;
	for (unsigned w = 0; ok && w < workers; w++) {
		g->sets[w].generation = g;
		g->sets[w].services = calloc(config->section_count, sizeof(struct service));
		ok = g->sets[w].services != NULL;
	}
	if (ok)
		return g;
	generation_free(g);
	return NULL;
}

struct generation *generation_new(struct config *config, const struct generation *previous, struct tls_library *const *libraries,
                                  unsigned workers)
{
	struct generation *g = generation_alloc(config, workers);
	bool ok = g != NULL;

	for (const struct section *s = ok ? config->sections : NULL; ok && s; s = s->next)
		ok = init_section(g, s, previous, libraries);
	if (ok)
		return g;
	log_global(LOG_ERR, "Configuration failed");
	generation_free(g);
	return NULL;
}

/* --- certReload --------------------------------------------------------------------------------------------------------------------- */

static bool copy_upstream(struct upstream *upstream, const struct upstream *old)
{
	upstream->names = old->names; /* in the configuration, which stays */
	upstream->delay = old->delay;
	upstream->next = atomic_load(&old->next);
	return addr_list_copy(&upstream->addrs, &old->addrs) == 0 && addr_list_copy(&upstream->local, &old->local) == 0;
}

/* What does not come from files is taken over as it is. */
static bool copy_common(struct common *common, const struct common *old)
{
	common->sessiond = old->sessiond;
	return addr_list_copy(&common->accept, &old->accept) == 0 && copy_upstream(&common->upstream, &old->upstream) &&
	       copy_upstream(&common->redirect, &old->redirect);
}

static void keep_tls(struct generation *g, const struct generation *current, const struct section *s)
{
	struct common *common = &g->commons[s->index];
	const struct common *old = &current->commons[s->index];

	end_tls(g, s);
	common->trust = tls_trust_ref(old->trust);
	common->sessions = tls_sessions_ref(old->sessions);
	common->staples = tls_staples_ref(old->staples);
	for (unsigned w = 0; w < g->workers; w++)
		g->sets[w].services[s->index].tls = tls_context_ref(current->sets[w].services[s->index].tls);
}

/* What would be an error at start is none: the old certificates go on. */
static bool renew_tls(struct generation *g, const struct section *s, const struct common *old,
                      struct tls_library *const *libraries)
{
	bool ok;

	tls_may_ask(false);
	log_soften(LOG_WARNING);
	ok = init_tls(g, s, old, libraries) && make_staples(g, s, old);
	log_soften(LOG_EMERG);
	tls_may_ask(true);
	stats_note_renewal(ok);
	g->commons[s->index].renewed = ok;
	if (!ok)
		log_global(LOG_WARNING, "Service [%s]: changed files of certificates cannot be used: the old certificates stay",
		           s->name);
	return ok;
}

void generation_announce(const struct generation *g)
{
	for (const struct section *s = g->config->sections; s; s = s->next)
		if (g->commons[s->index].renewed)
			log_global(LOG_NOTICE, "Service [%s]: changed files of certificates loaded", s->name);
}

struct generation *generation_renew(const struct generation *current, const bool *changed, struct tls_library *const *libraries)
{
	struct generation *g = generation_alloc(config_ref(current->config), current->workers);
	bool ok = g != NULL, any = false;

	for (const struct section *s = ok ? g->config->sections : NULL; ok && s; s = s->next) {
		ok = init_services(g, s) && copy_common(&g->commons[s->index], &current->commons[s->index]);
		if (ok && changed[s->index] && renew_tls(g, s, &current->commons[s->index], libraries))
			any = true;
		else if (ok)
			keep_tls(g, current, s);
	}
	if (!ok)
		log_global(LOG_WARNING, "No memory to load changed files of certificates");
	if (ok && any)
		return g;
	generation_free(g);
	return NULL;
}

void generation_free(struct generation *g)
{
	if (!g)
		return;
	for (unsigned w = 0; g->sets && w < g->workers; w++) {
		for (size_t i = 0; g->sets[w].services && i < g->config->section_count; i++)
			tls_context_free(g->sets[w].services[i].tls);
		free(g->sets[w].services);
	}
	for (size_t i = 0; g->commons && i < g->config->section_count; i++) {
		addr_list_free(&g->commons[i].accept);
		addr_list_free(&g->commons[i].upstream.addrs);
		addr_list_free(&g->commons[i].upstream.local);
		addr_list_free(&g->commons[i].redirect.addrs);
		addr_list_free(&g->commons[i].redirect.local);
		tls_sessions_unref(g->commons[i].sessions);
		tls_trust_unref(g->commons[i].trust);
		tls_staples_unref(g->commons[i].staples);
	}
	free(g->sets);
	free(g->commons);
	config_free(g->config);
	free(g);
}

void service_set_release(struct service_set *set)
{
	struct generation *g = set->generation;

	if (atomic_fetch_sub(&g->refs, 1) == 1)
		generation_free(g);
}

void service_set_enter(struct service_set *set)
{
	set->conns++;
}

void service_set_leave(struct service_set *set)
{
	if (--set->conns == 0 && set->retired)
		service_set_release(set);
}
