/*
 * Unit tests of service.h: generations that load and that do not, what a reload keeps, and who frees what.
 * Run by `make unit`.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "service.h"

#include "tls_testing.h"

enum { WORKERS = 2 };

static struct tls_library *libraries[WORKERS];

static void up(void)
{
	scratch_up();
	make_identity("a.pem", NULL);
	make_identity("b.pem", NULL);
	cr_assert_eq(stats_start(WORKERS), 0);
	for (unsigned w = 0; w < WORKERS; w++)
		libraries[w] = tls_library_new();
}

static void down(void)
{
	for (unsigned w = 0; w < WORKERS; w++)
		tls_library_free(libraries[w]);
	scratch_down();
}

TestSuite(service, .init = up, .fini = down);

/* What generation_new() makes of a text, `said` what it says. */
static struct generation *bring_up(struct config *config, const struct generation *previous)
{
	struct generation *g = generation_new(config, previous, libraries, WORKERS);

	hear_stderr(log_dump_kept);
	return g;
}

static struct generation *good(struct config *config, const struct generation *previous)
{
	struct generation *g = bring_up(config, previous);

	cr_assert(g, "%s", said);
	return g;
}

#define HEAD "accept = 127.0.0.1:4711\nconnect = 127.0.0.1:80\n"

Test(service, each_worker_has_services_of_its_own)
{
	struct generation *g =
		good(load_format("[one]\naccept = 127.0.0.1:4711\nconnect = 127.0.0.1:80\nconnect = 127.0.0.2:81\ncert = %s\n"
	                         "[two]\nclient = yes\naccept = 127.0.0.1:4712\nconnect = 127.0.0.3:82\nlocal = 127.0.0.9\n",
	                         scratch("a.pem")),
	             NULL);

	cr_assert_eq(g->workers, WORKERS);
	cr_assert_eq(g->refs, WORKERS);
	for (unsigned w = 0; w < WORKERS; w++) {
		struct service *one = &g->sets[w].services[0], *two = &g->sets[w].services[1];

		cr_assert_str_eq(one->conf->name, "one");
		cr_assert_str_eq(two->conf->name, "two");
		cr_assert(one->set == &g->sets[w] && two->set == one->set && one->set->generation == g);
		cr_assert(one->tls && two->tls && one->stats && two->stats);
		cr_assert_eq(one->upstream->addrs.count, 2);
		cr_assert_eq(two->upstream->addrs.count, 1);
		cr_assert_eq(two->upstream->local.count, 1);
		cr_assert_not(one->upstream->delay);
	}
	cr_assert_neq(g->sets[0].services[0].tls, g->sets[1].services[0].tls);
	cr_assert_neq(g->sets[0].services[0].stats, g->sets[1].services[0].stats);
	cr_assert_eq(g->sets[0].services[0].upstream, g->sets[1].services[0].upstream);
	cr_assert_eq(g->commons[0].accept.count, 1);
	generation_free(g);
	generation_free(NULL);
}

/* A second section that fails takes the first, which is fine, along. */
static void fails(const char *options, const char *words)
{
	struct config *config =
		load_format("[fine]\naccept = 127.0.0.1:4710\nconnect = 80\ncert = %s\n[s]\n%s", scratch("a.pem"), options);

	cr_assert_null(bring_up(config, NULL), "%s", options);
	cr_assert(strstr(said, words), "%s\nsaid:\n%s", options, said);
	cr_assert(strstr(said, "[!] Configuration failed\n"), "%s", said);
}

Test(service, what_cannot_be_loaded)
{
	char text[512];

	snprintf(text, sizeof(text), HEAD "cert = %s\n", scratch("nowhere.pem"));
	fails(text, "Failed to load certificate from: ");
	fails(text, "Service [s]: Failed to initialize TLS context");
	snprintf(text, sizeof(text), HEAD "cert = %s\nkey = %s\n", scratch("a.pem"), scratch("b.pem"));
	fails(text, "Private key does not match the certificate");
	scratch_write("junk.pem", "junk\n");
	snprintf(text, sizeof(text), HEAD "cert = %s\n", scratch("junk.pem"));
	fails(text, "Failed to load certificate from: ");
	snprintf(text, sizeof(text), HEAD "cert = %s\nciphers = NO-SUCH-CIPHER\n", scratch("a.pem"));
	fails(text, "SSL_CTX_set_cipher_list");
	snprintf(text, sizeof(text), HEAD "cert = %s\nconfig = NoSuchCommand:1\n", scratch("a.pem"));
	fails(text, "was not recognised");
}

Test(service, an_accept_address_that_does_not_resolve)
{
	char text[512];

	snprintf(text, sizeof(text), "accept = 127.0.0.1:no-such-service\nconnect = 80\ncert = %s\n", scratch("a.pem"));
	fails(text, "Service [s]: Cannot resolve accept target");
}

/* ... of an upstream is looked up for each connection instead. */
Test(service, a_connect_address_that_does_not_resolve)
{
	struct generation *g =
		good(load_format("[s]\naccept = 127.0.0.1:4711\nconnect = 127.0.0.1:80\nconnect = 127.0.0.1:no-such-service\n"
	                         "cert = %s\n",
	                         scratch("a.pem")),
	             NULL);

	cr_assert(strstr(said, "Error resolving \"127.0.0.1:no-such-service\""), "%s", said);
	cr_assert(g->commons[0].upstream.delay);
	cr_assert_eq(g->commons[0].upstream.addrs.count, 0);
	generation_free(g);
}

static struct tls_sessions *sessions(const struct generation *g, const char *name)
{
	for (const struct section *s = g->config->sections; s; s = s->next)
		if (strcmp(s->name, name) == 0)
			return g->commons[s->index].sessions;
	return NULL;
}

Test(service, a_reload_keeps_the_sessions_of_unchanged_sections)
{
	const char *a = scratch("a.pem");
	struct generation *old =
		good(load_format("[same]\n" HEAD "cert = %s\n[changed]\naccept = 127.0.0.1:4712\nconnect = 80\ncert = %s\n"
	                         "[renamed]\naccept = 127.0.0.1:4713\nconnect = 80\ncert = %s\n",
	                         a, a, a),
	             NULL);
	struct generation *next =
		good(load_format("[changed]\naccept = 127.0.0.1:4712\nconnect = 80\ncert = %s\nsslVersion = TLSv1.3\n"
	                         "# another place in the file changes nothing\n[same]\n" HEAD "cert = %s\n"
	                         "[new name]\naccept = 127.0.0.1:4713\nconnect = 80\ncert = %s\n",
	                         a, a, a),
	             old);

	cr_assert_not_null(sessions(next, "same"));
	cr_assert_eq(sessions(next, "same"), sessions(old, "same"));
	cr_assert_neq(sessions(next, "changed"), sessions(old, "changed"));
	cr_assert_neq(sessions(next, "new name"), sessions(old, "renamed"));
	generation_free(old); /* the newer one holds what it shares */
	generation_free(next);
}

Test(service, a_failed_reload_leaves_the_old_generation_whole)
{
	struct generation *old = good(load_format("[s]\n" HEAD "cert = %s\n", scratch("a.pem")), NULL);
	struct tls_sessions *before = sessions(old, "s");

	cr_assert_null(
		bring_up(load_format("[s]\n" HEAD "cert = %s\n[t]\naccept = 127.0.0.1:2\nconnect = 3\ncert = /nonexistent\n",
	                             scratch("a.pem")),
	                 old));
	cr_assert_eq(sessions(old, "s"), before);
	cr_assert_eq(old->refs, WORKERS);
	generation_free(old);
}

/* The generation goes with the last of its sets; a retired set goes with its last connection. AddressSanitizer looks on. */
Test(service, the_last_one_frees)
{
	struct generation *g = good(load_format("[s]\n" HEAD "cert = %s\n", scratch("a.pem")), NULL);
	struct service_set *first = &g->sets[0], *second = &g->sets[1];

	service_set_enter(first);
	service_set_enter(first);
	service_set_leave(first);
	service_set_leave(first);
	cr_assert_eq(g->refs, WORKERS, "in force: stays without connections");
	service_set_enter(first);
	first->retired = true;
	service_set_release(second);
	cr_assert_eq(g->refs, 1);
	service_set_leave(first);
}
