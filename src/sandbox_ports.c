/*
 * TCP ports that a configuration needs: see sandbox_ports.h.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "sandbox_ports.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>

/* What libraries and features connect to by themselves: names (53, 853), identd, OCSP responders that certificates name. */
static const unsigned always[] = {53, 853, 113, 80};

enum { NO_PORT = 65536 };

/* Of "host:port", "port", "http://host:port/path"; NO_PORT for Unix sockets. */
static unsigned port_of(const char *text, unsigned otherwise)
{
	const char *slashes = strstr(text, "://"), *start = slashes ? slashes + 3 : text, *colon;
	const struct servent *service;
	char copy[256];

	if (*text == '/' || *text == '@')
		return NO_PORT;
	strncpy(copy, start, sizeof(copy) - 1);
	copy[sizeof(copy) - 1] = '\0';
	if (slashes)
		copy[strcspn(copy, "/")] = '\0';
	colon = strrchr(copy, ':');
	if (!colon && slashes)
		return otherwise;
	start = colon ? colon + 1 : copy;
	if (isdigit((unsigned char)*start))
		return (unsigned)strtoul(start, NULL, 10) & 0xffff;
	service = getservbyname(start, "tcp");
	return service ? ntohs((uint16_t)service->s_port) : otherwise;
}

/* An original destination may have any port; so may what a `protocol` asks for, once there is one. */
unsigned sandbox_ports_known(const struct config *config)
{
	unsigned known = LANDLOCK_BIND | LANDLOCK_CONNECT;

	for (const struct section *s = config->sections; s; s = s->next) {
		if (section_keeps_destination(s) || s->ocsp_aia)
			known &= ~(unsigned)LANDLOCK_CONNECT;
		if (section_keeps_source(s))
			known &= ~(unsigned)LANDLOCK_BIND;
	}
	return known;
}

struct walk {
	int (*see)(void *arg, unsigned port, enum landlock_ports use);
	void *arg;
	int result;
};

static void visit(struct walk *walk, unsigned port, enum landlock_ports use)
{
	if (!walk->result && port != NO_PORT)
		walk->result = walk->see(walk->arg, port, use);
}

static void visit_texts(struct walk *walk, const struct texts *texts, enum landlock_ports use)
{
	for (size_t i = 0; i < texts->count; i++)
		visit(walk, *texts->texts[i] ? port_of(texts->texts[i], 0) : 0, use);
}

int sandbox_ports_each(const struct config *config, int (*see)(void *arg, unsigned port, enum landlock_ports use), void *arg)
{
	struct walk walk = {see, arg, 0};

	for (size_t i = 0; i < sizeof(always) / sizeof(*always); i++)
		visit(&walk, always[i], LANDLOCK_CONNECT);
	visit(&walk, 0, LANDLOCK_BIND); /* whatever is free: `local` */
	if (config->global.admin)
		visit(&walk, port_of(config->global.admin, 0), LANDLOCK_BIND);
	for (const struct section *s = config->sections; s; s = s->next) {
		visit_texts(&walk, &s->accept, LANDLOCK_BIND);
		visit_texts(&walk, &s->connect, LANDLOCK_CONNECT);
		visit_texts(&walk, &s->redirect, LANDLOCK_CONNECT);
		if (s->ocsp)
			visit(&walk, port_of(s->ocsp, 80), LANDLOCK_CONNECT);
	}
	return walk.result;
}
