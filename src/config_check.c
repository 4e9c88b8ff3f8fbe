/*
 * What options mean together: combinations that cannot work are refused, then what is valid but not built yet.
 * For config.c only. The order of the checks is the order in which users of stunnel meet the messages.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "config_table.h"

#include "log.h"
#include "wrap.h"

#include <errno.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

/*
 * Lengths of compressed text tell an attacker who can add some what is in it (CRIME, CVE-2012-4929); OpenSSL is mostly built without it, and has none
 * for TLS 1.3.
 */
static const char *check_compression(const char *wanted)
{
	if (!wanted) {
		log_global(LOG_INFO, "Compression disabled");
		return NULL;
	}
	if (tls_modules_compression())
		log_write(LOG_ERR, NULL, "\"compression = %s\" is refused: it betrays what is encrypted (CRIME)", wanted);
	else
		log_write(LOG_ERR, NULL, "Configured compression is unsupported by OpenSSL");
	return "Failed to initialize TLS";
}

bool check_globals(struct reading *reading)
{
	const struct globals *global = &reading->global->pub;
	const char *wrong = NULL;

	/* The daemon changes to "/": a relative path would lead elsewhere. */
	if (global->foreground == FOREGROUND_NO && global->output && global->output[0] != '/')
		wrong = "Log file must include full path name";
	else if (global->foreground == FOREGROUND_NO && global->pid && global->pid[0] != '/')
		wrong = "Pid file must include full path name";
	else
		wrong = tls_modules_end(&reading->modules, global->fips);
	if (!wrong)
		wrong = check_compression(reading->global->compression);
	if (reading->global->egd)
		log_global(LOG_NOTICE, "\"EGD\" has no effect: OpenSSL takes its random numbers from the kernel");
	if (wrong)
		log_write(LOG_ERR, NULL, "Global options: %s", wrong);
	return !wrong;
}

/* --- one rule each: NULL or what is wrong -------------------------------------------------------------------------- */

static const struct protocol_row *protocol_of(const struct service_options *service)
{
	for (size_t i = 0; service->protocol && i < protocol_count; i++)
		if (!strcasecmp(protocols[i].name, service->protocol))
			return &protocols[i];
	return NULL;
}

static const char *check_cert(const struct reading *reading, const struct service_options *service)
{
	(void)reading;
	if (service->pub.client || service->pub.cert.count || service->pub.psk_secrets || service->pub.engine_num)
		return NULL;
	return "TLS server needs a certificate";
}

static const char *check_psk(const struct reading *reading, const struct service_options *service)
{
	const struct section *section = &service->pub;

	(void)reading;
	if (section->psk_require == PSK_REQUIRE_YES && !section->psks)
		return "\"PSKsecrets\" has to be configured for \"PSKrequire = yes\"";
	if (!section->client || !section->psks)
		return NULL;
	if (section->psk_identity && !psks_find(section->psks, section->psk_identity))
		return "No key found for the specified PSK identity";
	if (section->psk_require == PSK_REQUIRE_NO && !section_verifies(section))
		return "Either \"verifyChain\" or \"verifyPeer\" has to be enabled for \"PSKrequire = no\" in client sections";
	return NULL;
}

static const char *check_subjects(const struct reading *reading, const struct service_options *service)
{
	(void)reading;
	if (section_verifies(&service->pub) ||
	    !(service->pub.check_email.count + service->pub.check_host.count + service->pub.check_ip.count))
		return NULL;
	return "Either \"verifyChain\" or \"verifyPeer\" has to be enabled";
}

static const char *check_ocsp(const struct reading *reading, const struct service_options *service)
{
	(void)reading;
	return service->pub.ocsp && !service->pub.verify_chain ? "\"verifyChain\" has to be enabled for OCSP support" : NULL;
}

static const char *check_protocol(const struct reading *reading, const struct service_options *service)
{
	const struct protocol_row *protocol = protocol_of(service);
	bool client = service->pub.client;

	(void)reading;
	if (!service->protocol)
		return NULL;
	if (!protocol)
		return "Protocol not supported";
	if (client ? !protocol->client : !protocol->server)
		return client ? "The configured protocol is not supported in the client mode"
		              : "The configured protocol is not supported in the server mode";
	if (!service->protocol_host && (client ? protocol->client_needs_host : protocol->server_needs_host))
		return "protocolHost not specified";
	return NULL;
}

static const char *check_redirect(const struct reading *reading, const struct service_options *service)
{
	const struct protocol_row *protocol = protocol_of(service);

	(void)reading;
	if (!service->pub.redirect.count)
		return NULL;
	if (service->pub.client)
		return "\"redirect\" is unsupported in client sections";
	if (protocol && protocol->no_redirect)
		return "\"redirect\" is incompatible with the specified protocol negotiation";
	if (!section_verifies(&service->pub))
		return "Either \"verifyChain\" or \"verifyPeer\" has to be enabled for \"redirect\" to work";
	return NULL;
}

/* "primary:pattern"; the primary service stands before its virtual ones. */
struct section *sni_primary(const struct reading *reading, const char *sni)
{
	size_t len = strcspn(sni, ":");

	for (struct section *section = reading->config->sections; section; section = section->next)
		if (strlen(section->name) == len && !memcmp(section->name, sni, len))
			return section;
	return NULL;
}

static const char *check_one_sni(const struct reading *reading, const char *sni)
{
	const struct section *primary = sni_primary(reading, sni);

	if (!strchr(sni, ':'))
		return "Invalid SNI parameter format";
	if (!primary)
		return "SNI section name not found";
	return primary->client ? "SNI primary service is a TLS client" : NULL;
}

static const char *check_sni(const struct reading *reading, const struct service_options *service)
{
	const char *wrong = NULL;

	for (size_t i = 0; !service->pub.client && !wrong && i < service->sni.count; i++)
		wrong = check_one_sni(reading, service->sni.texts[i]);
	return wrong;
}

static const char *check_versions(const struct reading *reading, const struct service_options *service)
{
	const struct section *section = &service->pub;

	(void)reading;
	if (section->max_version && section->min_version > section->max_version)
		return "Invalid protocol version range";
	return NULL;
}

static const char *check_tickets(const struct reading *reading, const struct service_options *service)
{
	(void)reading;
	if (service->pub.client)
		return NULL;
	if (service->pub.ticket_key_files.count && (service->pub.ticket_key || service->pub.ticket_mac))
		return "\"ticketKeyFile\" and \"ticketKeySecret\" exclude each other";
	if (!service->pub.ticket_key == !service->pub.ticket_mac)
		return NULL;
	return "\"ticketKeySecret\" and \"ticketMacSecret\" must be set together";
}

static const char *check_trust(const struct reading *reading, const struct service_options *service)
{
	(void)reading;
	if (!section_verifies(&service->pub) || service->pub.ca_engine.count || service->pub.ca_file || service->pub.ca_path ||
	    service->pub.ca_store)
		return NULL;
	return "Either \"CAengine\", \"CAfile\", \"CApath\" or \"CAstore\" has to be configured";
}

static const char *check_ca_engine(const struct reading *reading, const struct service_options *service)
{
	(void)reading;
	if (!service->pub.ca_engine.count || service->pub.engine_num)
		return NULL;
	return "\"CAengine\" needs \"engineId\" or \"engineNum\"";
}

/* A list that is not there must not pass for one that revokes nothing. */
static const char *check_crl(const struct reading *reading, const struct service_options *service)
{
	(void)reading;
	if (service->pub.crl_check_chain && !service->pub.verify_chain)
		return "\"verifyChain\" has to be enabled for \"CRLcheckChain\"";
	if (!service->pub.crl_file || !access(service->pub.crl_file, R_OK))
		return NULL;
	log_write(LOG_ERR, NULL, "Failed to load %s revocation lookup file", service->pub.crl_file);
	return "Failed to initialize TLS context";
}

static const char *check_ca_file(const struct reading *reading, const struct service_options *service)
{
	(void)reading;
	if (!service->pub.ca_file || !section_verifies(&service->pub) || !access(service->pub.ca_file, R_OK))
		return NULL;
	log_write(LOG_ERR, NULL, "SSL_CTX_load_verify_locations: %s: %s (%d)", service->pub.ca_file, strerror(errno), errno);
	return "Failed to initialize TLS context";
}

static const char *check_sockets(const struct reading *reading, const struct service_options *service)
{
	(void)reading;
	for (int role = 0; role < SOCK_ROLES && !service->udp; role++)
		for (size_t i = 0; i < service->pub.socket[role].count; i++)
			if (!strncmp(sockopt_name(&service->pub.socket[role].opts[i]), "UDP_", 4))
				return "Illegal socket option: UDP_ options need \"transport = udp\"";
	return NULL;
}

static const char *check_libwrap(const struct reading *reading, const struct service_options *service)
{
	(void)reading;
	if (!service->pub.libwrap || wrap_available())
		return NULL;
	return "\"libwrap\" needs a build with the library libwrap, which this one is not";
}

static const char *check_transport(const struct reading *reading, const struct service_options *service)
{
	(void)reading;
	return service->udp ? "\"transport = udp\" (DTLS) is not supported: this is a proxy for TLS over TCP" : NULL;
}

/* A terminal takes some of the header's bytes for itself: 3, which means a checksum there, ends the program. */
static const char *check_send_proxy(const struct reading *reading, const struct service_options *service)
{
	const struct section *section = &service->pub;

	(void)reading;
	if (!section->send_proxy)
		return NULL;
	if (section->client)
		return "\"sendProxy\" is unsupported in client sections";
	return section->exec && section->pty && !section->connect.count ? "\"sendProxy\" and \"pty\" exclude each other" : NULL;
}

/* What a connection comes from and goes to, `accept` left out. */
static unsigned endpoints(const struct service_options *service)
{
	const struct protocol_row *protocol = protocol_of(service);
	bool client = service->pub.client;
	unsigned count = 0;

	count += service->pub.connect.count > 0;
	count += service->pub.exec != NULL;
	count += section_keeps_destination(&service->pub);
	count += !client && service->sni.count > 0;
	count += protocol && (client ? protocol->client_endpoint : protocol->server_endpoint);
	return count;
}

static const char *check_endpoints(const struct reading *reading, const struct service_options *service)
{
	(void)reading;
	return endpoints(service) + (service->pub.accept.count > 0) == 2 ? NULL : "Each service must define two endpoints";
}

static const char *check_inetd_endpoints(const struct reading *reading, const struct service_options *service)
{
	(void)reading;
	return endpoints(service) == 1 ? NULL : "Inetd mode must define one endpoint";
}

static const char *check_inetd_accept(const struct reading *reading, const struct service_options *service)
{
	(void)reading;
	return service->pub.accept.count ? "'accept' option is only allowed in a [section]" : NULL;
}

/* --- all rules in order -------------------------------------------------------------------------------------------- */

typedef const char *rule_fn(const struct reading *reading, const struct service_options *service);

static rule_fn *const rules[] = {
	check_cert, check_psk,      check_subjects, check_ocsp,      check_protocol,   check_redirect,
	check_sni,  check_versions, check_tickets,  check_trust,     check_ca_engine,  check_ca_file,
	check_crl,  check_sockets,  check_libwrap,  check_transport, check_send_proxy,
};

static const char *check_rules(const struct reading *reading, const struct service_options *service)
{
	const char *wrong = NULL;

	for (size_t i = 0; !wrong && i < sizeof(rules) / sizeof(*rules); i++)
		wrong = rules[i](reading, service);
	return wrong;
}

/* The first option, in the order of the file, that wants what is not there. */
static const struct option *first_unbuilt(const struct reading *reading, const struct service_options *service)
{
	const struct option *first = NULL;
	struct origin *const *of = service->origins.of;

	for (const struct option *row = options; row < options + OPTION_COUNT; row++)
		if (row->scope == SERVICE && row->asks && of[row - options] && row->asks(reading->global, service) &&
		    (!first || of[row - options]->order < of[first - options]->order))
			first = row;
	return first;
}

static bool check_built(struct reading *reading, const struct service_options *service)
{
	const struct option *row = first_unbuilt(reading, service);

	if (row)
		config_complain_of(service->origins.of[row - options], row, config_not_built(reading, row));
	return !row;
}

bool check_service(struct reading *reading, struct service_options *service)
{
	const char *wrong = check_rules(reading, service);

	if (!wrong)
		wrong = check_endpoints(reading, service);
	if (wrong) {
		log_write(LOG_ERR, NULL, "Service [%s]: %s", service->pub.name, wrong);
		return false;
	}
	return check_built(reading, service);
}

/* No section: one service on descriptors 0 and 1. */
bool check_inetd(struct reading *reading)
{
	struct service_options *service = reading->defaults;
	const char *wrong = check_inetd_accept(reading, service);

	if (!wrong)
		wrong = check_rules(reading, service);
	if (!wrong)
		wrong = check_inetd_endpoints(reading, service);
	if (!wrong)
		return check_built(reading, service);
	log_write(LOG_ERR, NULL, "Inetd mode: %s", wrong);
	return false;
}
