/*
 * The table of options, and which values of options that are not built yet ask for something.
 * For config*.c only.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "config_table.h"

#include "coro.h"

#include <string.h>
#include <strings.h>

/* Alone a value may be harmless: these say whether, in the service it stands in, it would change anything. */

static bool asks_always(const struct global_options *global, const struct service_options *service)
{
	(void)global, (void)service;
	return true;
}

/* These need `protocol`, which is named itself. */
static bool asks_protocol(const struct global_options *global, const struct service_options *service)
{
	(void)global, (void)service;
	return false;
}

/* Without `sni` a client sends the host in it. */
static bool asks_protocol_host(const struct global_options *global, const struct service_options *service)
{
	(void)global;
	return service->pub.client && !service->sni.count;
}

#define BUILT NULL
#define CORO_STACK_TEXT "32768" /* CORO_STACK_DEFAULT: asserted below */
_Static_assert(CORO_STACK_DEFAULT == 32768, "CORO_STACK_TEXT must follow CORO_STACK_DEFAULT");

#define GLOBAL_OFFSET(field) offsetof(struct global_options, field)
#define SERVICE_OFFSET(field) offsetof(struct service_options, field)
#define OPTION(scope_, name_, alias_, kind_, field_, flags_, fallback_, error_, asks_, help_) \
	{.scope = scope_,                                                                     \
	 .name = name_,                                                                       \
	 .alias = alias_,                                                                     \
	 .kind = &kind_,                                                                      \
	 .offset = scope_##_OFFSET(field_),                                                   \
	 .flags = flags_,                                                                     \
	 .fallback = fallback_,                                                               \
	 .error = error_,                                                                     \
	 .asks = asks_,                                                                       \
	 .help = help_},
const struct option options[OPTION_COUNT] = {
#include "options.def"
};
#undef OPTION

const struct option *option_find(const char *name, enum option_scope scope)
{
	for (const struct option *row = options; row < options + OPTION_COUNT; row++)
		if (row->scope == scope && (!strcasecmp(row->name, name) || (row->alias && !strcasecmp(row->alias, name))))
			return row;
	return NULL;
}

const struct protocol_row protocols[] = {
	{"capwin", .client = true, .server = true, .server_needs_host = true},
	{"capwinctrl", .client = true, .client_endpoint = true},
	{"cifs", .client = true, .server = true, .listed = true},
	{"connect", .client = true, .server = true, .client_needs_host = true, .listed = true},
	{"imap", .client = true, .server = true, .no_redirect = true, .listed = true},
	{"ldap", .client = true, .listed = true},
	{"nntp", .client = true, .listed = true},
	{"pgsql", .client = true, .server = true, .listed = true},
	{"pop3", .client = true, .server = true, .no_redirect = true, .listed = true},
	{"proxy", .server = true, .listed = true},
	{"smtp", .client = true, .server = true, .no_redirect = true, .listed = true},
	{"socks", .client = true, .server = true, .server_endpoint = true, .listed = true},
};
const size_t protocol_count = sizeof(protocols) / sizeof(*protocols);
