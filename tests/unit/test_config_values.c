/*
 * What each value of each option gives: taken, refused in stunnel's words, or not built yet. And what it becomes in the structs.
 * Run by `make unit`.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "config_testing.h"

#include "config_table.h"
#include "wrap.h"

#include <openssl/ssl.h>

#define OK NULL
#define NOT_BUILT(name) "option \"" name "\" is not built yet"
#define KEY16 "00112233445566778899aabbccddeeff"

struct value {
	const char *lines;
	const char *words; /* OK, or what is said */
};

static void check(const char *before, const struct value *values, size_t count, const char *after)
{
	char text[2048];
	struct config *config;

	for (size_t i = 0; i < count; i++) {
		snprintf(text, sizeof(text), "%s%s\n%s", before, values[i].lines, after);
		config = load(text);
		if (values[i].words)
			cr_expect(!config && strstr(said, values[i].words), "%s: wanted: %s\n%s", values[i].lines,
			          values[i].words, said);
		else
			cr_expect(config, "%s: wanted it accepted\n%s", values[i].lines, said);
		config_free(config);
	}
}

#define CHECK(before, values, after) check(before, values, sizeof(values) / sizeof(*(values)), after)

Test(config_values, global)
{
	static const struct value values[] = {
		{"fips = no", OK},
		{"fips = maybe", "The argument needs to be either 'yes' or 'no'"},
		{"foreground = maybe", "\"foreground = maybe\": The argument needs to be either 'yes', 'quiet' or 'no'\n"},
		{"log = trunc", "\"log = trunc\": The argument needs to be either 'append' or 'overwrite'\n"},
		{"foreground = yes\noutput = rel.log", OK},
		{"foreground = quiet\npid = rel.pid", OK},
		{"output = rel.log", "[!] Global options: Log file must include full path name\n"},
		{"pid = rel.pid", "[!] Global options: Pid file must include full path name\n"},
		{"pid =", OK},
		{"compression = lz4", "Specified compression type is not available"},
		{"compression = deflate", "[!] Global options: Failed to initialize TLS\n"},
		{"compression = ZSTD", "[!] Global options: Failed to initialize TLS\n"},
		{"RNDbytes = x", "Illegal number of bytes to read from random seed files"},
		{"RNDbytes = 1256", OK},
		{"RNDbytes = 1", OK},
		{"RNDbytes = -1", "Illegal number of bytes to read from random seed files"},
		{"RNDfile = /dev/urandom", OK},
		{"RNDoverwrite = yes", OK},
		{"RNDoverwrite = no", OK},
		{"EGD = /nonexist", OK},
		{"setEnv = A=b", OK},
		{"setEnv = A", OK},
		{"setEnv = =x", "The name of the environment variable is empty"},
		{"debug = 9", "Illegal debug level"},
		{"debug = foo.info", "Illegal syslog facility"},
		{"debug = .info", "Illegal syslog facility"},
		{"debug = local3.info", OK},
		{"debug = DAEMON.INFO", OK},
		{"debug = daemon.", "Illegal debug level"},
		{"debug =", "Illegal debug level"},
		{"debug = local3", "Illegal debug level"},
		{"debug = auth.1.2", "Illegal debug level"},
		{"syslog = maybe", "The argument needs to be either 'yes' or 'no'"},
		{"service = foo", OK},
		{"engineCtrl = PIN:1", "No engine was defined"},
		{"engineDefault = ALL", "No engine was defined"},
		{"chroot = /", OK},
		{"setuid = root", OK},
		{"setgid = 0", OK},
		{"setuid = nobody", OK},
		{"setgid = 65534", OK},
		{"setuid = nosuchuser", "Illegal UID"},
		{"setgid = nosuchgroup", "Illegal GID"},
		{"setuid =", "Illegal UID"},
		{"setuid = 1:2", "Illegal UID"},
		{"setuid = 99999999999999", "Illegal UID"},
		{"iconIdle = x", "Specified option name is not valid here"},
		{"taskbar = no", "Specified option name is not valid here"},
		{"workers = 4", OK},
		{"workers = AUTO", OK},
		{"workers = 0", "Illegal number of workers"},
		{"workers = 1025", "Illegal number of workers"},
		{"workers = x", "Illegal number of workers"},
		{"drain = 30", OK},
		{"drain = -1", "Illegal drain time"},
		{"drain = 1s", "Illegal drain time"},
		{"admin = 9901", OK},
		{"admin = 192.0.2.1:9901", OK},
		{"admin = [::1]:9901", OK},
		{"admin =", "Illegal address of the status page"},
		{"admin = /run/x", "Illegal address of the status page"},
		{"admin = 99999", "Illegal address of the status page (port number out of range 0..65535)"},
		{"protocol = smtp", NOT_BUILT("protocol")},
		{"EGD =", OK},
		{"sandbox = no", OK},
		{"sandbox = strict", OK},
		{"sandbox = maybe", "The argument needs to be either 'yes', 'no' or 'strict'"},
	};

	CHECK("", values, SERVER);
}

Test(config_values, server)
{
	static const struct value values[] = {
		{"debug = local3.info", "Illegal debug level"},
		{"debug = 5", OK},
		{"debug = err", OK},
		{"debug = DEBUG", OK},
		{"debug = warn", "Illegal debug level"},
		{"debug = -1", "Illegal debug level"},
		{"debug = 8", "Illegal debug level"},
		{"sslVersion = SSLv2", "Invalid protocol version\n"},
		{"sslVersion = tlsv1.2", OK},
		{"sslVersion = TLSv1.4", "Invalid protocol version\n"},
		{"sslVersionMin = TLSv1.3\nsslVersionMax = TLSv1.2", "[!] Service [s]: Invalid protocol version range\n"},
		{"sslVersionMin = TLSv1.3\nsslVersionMax = all", OK},
		{"sslVersionMax =", "Invalid protocol version\n"},
		{"verify = 5", "Bad verify level"},
		{"verify = x", "Bad verify level"},
		{"verify = -1", "Bad verify level"},
		{"verify =", "Bad verify level"},
		{"verify = 0", OK},
		{"verify = 1\nCAfile = /dev/null", OK},
		{"verify = 4",
	         "[!] Service [s]: Either \"CAengine\", \"CAfile\", \"CApath\" or \"CAstore\" has to be configured\n"},
		{"verifyPeer = yes", "Either \"CAengine\", \"CAfile\", \"CApath\" or \"CAstore\" has to be configured"},
		{"verifyPeer = yes\nCApath = /tmp", OK},
		{"verifyChain = yes\nCAstore = file:/x", OK},
		{"verifyPeer = no", OK},
		{"verifyChain = no", OK},
		{"requireCert = yes", OK},
		{"requireCert = no", OK},
		{"ktls = auto", OK},
		{"ktls = YES", OK},
		{"ktls = no", OK},
		{"ktls = tx", OK},
		{"ktls = rx", OK},
		{"ktls = both", "\"ktls = both\": The argument needs to be either 'auto', 'yes', 'no', 'tx' or 'rx'\n"},
		{"ktls =", "The argument needs to be either 'auto', 'yes', 'no', 'tx' or 'rx'"},
		{"ktlsAfter = 0", OK},
		{"ktlsAfter = 9223372036854775807", OK},
		{"ktlsAfter = 9223372036854775808", "Illegal number of bytes"},
		{"ktlsAfter = -1", "\"ktlsAfter = -1\": Illegal number of bytes\n"},
		{"ktlsAfter = 64k", "Illegal number of bytes"},
		{"ktlsAfter =", "Illegal number of bytes"},
		{"relay = auto", OK},
		{"relay = copy", OK},
		{"relay = splice", OK},
		{"relay = Uring-Splice", OK},
		{"relay = uring",
	         "\"relay = uring\": The argument needs to be either 'auto', 'copy', 'splice' or 'uring-splice'\n"},
		{"relay =", "The argument needs to be either 'auto', 'copy', 'splice' or 'uring-splice'"},
		{"checkHost = a", "[!] Service [s]: Either \"verifyChain\" or \"verifyPeer\" has to be enabled\n"},
		{"checkEmail = a", "Either \"verifyChain\" or \"verifyPeer\" has to be enabled\n"},
		{"checkIP = 1.2.3.4", "Either \"verifyChain\" or \"verifyPeer\" has to be enabled\n"},
		{"checkHost = a\nverifyChain = yes\nCAfile = /dev/null", OK},
		{"checkIP = 127.0.0.1\ncheckIP = ::1\nverifyPeer = yes\nCAfile = /dev/null", OK},
		{"checkIP = localhost\nverifyPeer = yes\nCAfile = /dev/null", "\"checkIP = localhost\": Illegal IP address\n"},
		{"retry = 0", OK},
		{"retry = yes", OK},
		{"retry = -1", "Illegal retry delay"},
		{"retry = 5x", "Illegal retry delay"},
		{"securityLevel = 6", "Illegal security level"},
		{"securityLevel = -1", "Illegal security level"},
		{"securityLevel = x", "Illegal security level"},
		{"securityLevel = 0", OK},
		{"securityLevel = 5", OK},
		{"stack = 0", "Illegal thread stack size"},
		{"stack = 1000", "Illegal thread stack size"},
		{"stack = x", "Illegal thread stack size"},
		{"stack = 65536", OK},
		{"stack = 131072", OK},
		{"stack = 99999999999", "Illegal thread stack size"},
		{"TIMEOUTidle = -1", OK},
		{"TIMEOUTidle = 0", OK},
		{"TIMEOUTidle = 010", OK},
		{"TIMEOUTidle = +5", OK},
		{"TIMEOUTidle = 1s", "Illegal idle timeout"},
		{"TIMEOUTidle = 0x10", "Illegal idle timeout"},
		{"TIMEOUTidle =", "Illegal idle timeout"},
		{"TIMEOUTidle = 99999999999999999999", "Illegal idle timeout"},
		{"TIMEOUTbusy = x", "Illegal busy timeout"},
		{"TIMEOUTclose = x", "Illegal close timeout"},
		{"TIMEOUTclose = 0", OK},
		{"TIMEOUTconnect = x", "Illegal connect timeout"},
		{"TIMEOUTocsp = x", "Illegal OCSP timeout"},
		{"TIMEOUTocsp = 5", OK},
		{"TIMEOUTocsp = 6", OK},
		{"sessionCacheSize = -1", OK},
		{"sessionCacheSize = 0", OK},
		{"sessionCacheSize = x", "Illegal session cache size"},
		{"sessionCacheTimeout = x", "Illegal session cache timeout"},
		{"session = 10", OK},
		{"session = -5", OK},
		{"curve = P-256", OK},
		{"options = BAD", "\"options = BAD\": Illegal TLS option\n"},
		{"options = no_ticket", OK},
		{"options = -NO_TICKET", OK},
		{"options = ALL", OK},
		{"options =", "Illegal TLS option"},
		{"options = -", "Illegal TLS option"},
		{"options = --NO_TICKET", "Illegal TLS option"},
		{"socket = a:SO_LINGER=1:60", OK},
		{"socket = l:so_keepalive=1", "\"socket = l:so_keepalive=1\": Illegal socket option\n"},
		{"socket = l:SO_KEEPALIVE=2", "Illegal socket option"},
		{"socket = x:SO_KEEPALIVE=1", "Illegal socket option"},
		{"socket = r:TCP_KEEPIDLE=60", OK},
		{"socket = r:SO_BINDTODEVICE=lo", OK},
		{"socket = a:UDP_CORK=yes", "Illegal socket option: UDP_ options need \"transport = udp\""},
		{"transparent = yes", OK},
		{"transparent = source", OK},
		{"transparent = none", OK},
		{"transparent = no", OK},
		{"transparent = foo", "Selected transparent proxy mode is not available"},
		{"transparent = destination", "Each service must define two endpoints"},
		{"failover = rr", OK},
		{"failover = lc", "The argument needs to be either 'rr' or 'prio'"},
		{"logId = process", OK},
		{"logId = unique", OK},
		{"logId = thread", OK},
		{"logId = x", "Invalid connection identifier type"},
		{"protocol = http", "[!] Service [s]: Protocol not supported\n"},
		{"protocol = ldap", "[!] Service [s]: The configured protocol is not supported in the server mode\n"},
		{"protocol = capwinctrl", "The configured protocol is not supported in the server mode"},
		{"protocol = capwin", "protocolHost not specified"},
		{"protocol = capwin\nprotocolHost = a:1", NOT_BUILT("protocol")},
		{"protocol = SMTP", NOT_BUILT("protocol")},
		{"protocol = connect", NOT_BUILT("protocol")},
		{"protocol = socks", "Each service must define two endpoints"},
		{"protocolHost = a:1", OK},
		{"protocolUsername = a\nprotocolPassword = b\nprotocolDomain = c\nprotocolHeader = d: e\nprotocolAuthentication "
	         "= ntlm",
	         OK},
		{"protocol = smtp\nredirect = 127.0.0.1:1\nverifyChain = yes\nCAfile = /dev/null",
	         "[!] Service [s]: \"redirect\" is incompatible with the specified protocol negotiation\n"},
		{"redirect = 127.0.0.1:1", "Either \"verifyChain\" or \"verifyPeer\" has to be enabled for \"redirect\" to work"},
		{"redirect = :1", "Cannot resolve redirect target"},
		{"redirect = 127.0.0.1:1\nverifyChain = yes\nCAfile = /dev/null", OK},
		{"redirect = 127.0.0.1:1\nredirect = 2\nverifyPeer = yes\nCAfile = /dev/null", OK},
		{"OCSPflag = BAD", "Illegal OCSP flag"},
		{"OCSPflag = notime", OK},
		{"OCSPaia = yes", OK},
		{"OCSPaia = no", OK},
		{"OCSPnonce = yes", OK},
		{"OCSPnonce = x", "The argument needs to be either 'yes' or 'no'"},
		{"OCSPrequire = no", OK},
		{"OCSP = foo", "[!] Service [s]: \"verifyChain\" has to be enabled for OCSP support\n"},
		{"OCSP = http://127.0.0.1:1/\nverifyChain = yes\nCAfile = /dev/null", OK},
		{"OCSP = http://127.0.0.1:1/", "\"verifyChain\" has to be enabled for OCSP support"},
		{"PSKidentity = a", OK},
		{"PSKsecrets = /nonexist", "[!] /nonexist: No such file or directory (2)\n"},
		{"PSKsecrets = /nonexist", "\"PSKsecrets = /nonexist\": Failed to read PSK secrets\n"},
		{"PSKsecrets = /dev/null", "\"PSKsecrets = /dev/null\": Failed to read PSK secrets\n"},
		{"ticketKeySecret = 00", "ticketKeySecret value has 1 bytes instead of required 16 or 32 bytes"},
		{"ticketMacSecret = 001", "Required ticketMacSecret is 16 or 32 byte hexadecimal key"},
		{"ticketMacSecret =", "Failed to read ticketMacSecret"},
		{"ticketKeySecret = " KEY16,
	         "[!] Service [s]: \"ticketKeySecret\" and \"ticketMacSecret\" must be set together\n"},
		{"ticketKeySecret = " KEY16 "\nticketMacSecret = 00:" KEY16 "00112233445566778899aabbccddee", OK},
		{"ticketKeyFile = keys", OK},
		{"ticketKeyFile = keys\nticketKeyFile = older", OK},
		{"ticketKeyFile = keys\nticketKeySecret = " KEY16 "\nticketMacSecret = " KEY16,
	         "[!] Service [s]: \"ticketKeyFile\" and \"ticketKeySecret\" exclude each other\n"},
		{"engineNum = 1", "Illegal engine number"},
		{"engineNum = x", "Illegal engine number"},
		{"engineId = x", "Engine ID not found"},
		{"CAengine = x", "\"CAengine\" needs \"engineId\" or \"engineNum\"\n"},
		{"setuid = nosuchuser", "Illegal UID"},
		{"setgid = nosuchgroup", "Illegal GID"},
		{"setuid = nobody", OK},
		{"accept = /run/x\nsetuid = nobody", OK},
		{"accept = /run/x\nsetgid = nogroup", OK},
		{"accept = /run/x\nsetuid = root", OK},
		{"pty = yes", OK},
		{"pty = maybe", "The argument needs to be either 'yes' or 'no'"},
		{"execArgs = a b", OK},
		{"local = 127.0.0.1", OK},
		{"local = ::1", OK},
		{"local = [::1]", OK},
		{"local =", "Failed to resolve local address"},
		{"local = /x", "Failed to resolve local address"},
		{"ident = joe", OK},
		{"libwrap = no", OK},
		{"sessiond = 127.0.0.1:9", OK},
		{"sessiond = /run/x", "Failed to resolve sessiond server address (a port is needed here, not a Unix socket)"},
		{"sessiond = 127.0.0.1:x y", "Failed to resolve sessiond server address (malformed port)"},
		{"sessiond = :9", "Failed to resolve sessiond server address"},
		{"sni = x", "[!] Service [s]: Invalid SNI parameter format\n"},
		{"sni = nosuch:host", "[!] Service [s]: SNI section name not found\n"},
		{"config = MinProtocol:TLSv1.2", OK},
		{"CApath = /tmp", OK},
		{"CAfile = /nonexist", OK},
		{"CAfile = /nonexist\nverifyChain = yes", "[!] Service [s]: Failed to initialize TLS context\n"},
		{"CAstore = file:/nonexist", OK},
		{"CRLpath = /tmp", OK},
		{"CRLfile = /nonexist",
	         "[!] Failed to load /nonexist revocation lookup file\n[!] Service [s]: Failed to initialize TLS context\n"},
		{"CRLfile = /dev/null", OK},
		{"CRLcheckChain = yes", "[!] Service [s]: \"verifyChain\" has to be enabled for \"CRLcheckChain\"\n"},
		{"reset = no", OK},
		{"reset = maybe", "The argument needs to be either 'yes' or 'no'"},
		{"renegotiation = no", OK},
		{"delay = yes\nfailover = rr", OK},
		{"transport = tcp", OK},
		{"transport = udp", "[!] Service [s]: \"transport = udp\" (DTLS) is not supported"},
		{"transport = sctp", "The argument needs to be either 'tcp' or 'udp'"},
		{"service = foo", OK},
		{"exec = /nonexist", "[!] Service [s]: Each service must define two endpoints\n"},
		{"EGD = /x", "Specified option name is not valid here"},
		{"workers = 2", "Specified option name is not valid here"},
		{"accept =", OK},
		{"accept = [::1]:443", OK},
		{"accept = @name", OK},
		{"accept = @", "Cannot resolve accept target"},
		{"accept = *:443", OK},
		{"accept = :::443", OK},
		{"accept = ::1:443", OK},
		{"accept = localhost:https", OK},
		{"accept = :443", "\"accept = :443\": Cannot resolve accept target (no host given before the colon)\n"},
		{"accept = 1:2:3", "Cannot resolve accept target"},
		{"accept = 65536", "Cannot resolve accept target (port number out of range 0..65535)"},
		{"accept = 127.0.0.1:-1", "Cannot resolve accept target"},
		{"accept = 127.0.0.1:+80", "Cannot resolve accept target"},
		{"connect =", "Cannot resolve connect target"},
		{"connect = @name", OK},
		{"connect = nosuchhost.invalid:1", OK},
	};

	CHECK(SERVER, values, "");
}

Test(config_values, client)
{
	static const struct value values[] = {
		{"sni =", OK},
		{"sni = host", OK},
		{"sni = a:b", OK},
		{"verify = 0", OK},
		{"verify = 1\nCAfile = /dev/null", OK},
		{"verifyChain = yes\nCAfile = /dev/null", OK},
		{"requireCert = yes", OK},
		{"redirect = 1", "[!] Service [s]: \"redirect\" is unsupported in client sections\n"},
		{"protocol = proxy", "[!] Service [s]: The configured protocol is not supported in the client mode\n"},
		{"protocol = connect", "[!] Service [s]: protocolHost not specified\n"},
		{"protocol = connect\nprotocolHost = a:1", NOT_BUILT("protocol")},
		{"protocol = capwinctrl", "Each service must define two endpoints"},
		{"protocolHost = a:1", NOT_BUILT("protocolHost")},
		{"protocolHost = a:1\nsni = x", OK},
		{"ticketKeySecret = " KEY16, OK},
		{"ticketKeySecret = 00", "Failed to read ticketKeySecret"},
		{"OCSPflag = NOTIME\nOCSPaia = yes\nOCSPnonce = yes\nTIMEOUTocsp = 9", OK},
		{"PSKidentity = a", OK},
		{"connect = 1\nexec = /bin/cat", "Each service must define two endpoints"},
		{"cert = c.pem\nkey = k.pem", OK},
	};

	CHECK(CLIENT, values, "");
}

Test(config_values, endpoints)
{
	static const struct value values[] = {
		{"accept = 1", "[!] Service [s]: Each service must define two endpoints\n"},
		{"connect = 1", "[!] Service [s]: Each service must define two endpoints\n"},
		{"accept = 1\naccept = 2\nconnect = 3\nconnect = 4", OK},
		{"accept = 1\nexec = /bin/cat", OK},
		{"connect = 1\nexec = /bin/cat\nretry = yes\npty = yes\nexecArgs = cat -u", OK},
		{"accept = 1\ntransparent = destination", OK},
		{"accept = 1\ntransparent = both", OK},
		{"accept = 1\nconnect = 2\ntransparent = both", "Each service must define two endpoints"},
		{"accept = 1\nprotocol = capwinctrl", NOT_BUILT("protocol")},
		{"accept = 1\nconnect = 2\nexec = /x", "Each service must define two endpoints"},
	};

	CHECK("[s]\nclient = yes\n", values, "");
	refused("[s]\naccept = 1\nconnect = 2\n", "[!] Service [s]: TLS server needs a certificate\n");
	refused("[s]\naccept = 1\n", "[!] Service [s]: TLS server needs a certificate\n");
}

Test(config_values, sni_of_servers)
{
	refused(CLIENT "[t]\ncert = c\nconnect = 1\nsni = s:x\n", "[!] Service [t]: SNI primary service is a TLS client\n");
	refused(SERVER "[t]\ncert = c\nconnect = 1\nsni = x:x\n", "[!] Service [t]: SNI section name not found\n");
}

Test(config_values, libwrap_needs_its_library)
{
	if (wrap_available())
		config_free(load_good(SERVER "libwrap = yes\n"));
	else
		refused(SERVER "libwrap = yes\n",
		        "[!] Service [s]: \"libwrap\" needs a build with the library libwrap, which this one is not\n");
	config_free(load_good("libwrap = yes\n" SERVER "libwrap = no\n"));
}

Test(config_values, an_unbuilt_default_is_named_where_it_stands)
{
	refused("\nprotocol = smtp\n" SERVER, "descriptor 77:2: \"protocol = smtp\": " NOT_BUILT("protocol"));
}

Test(config_values, fields)
{
	struct config *config = load_good(
		"foreground = quiet\noutput = x\npid = /p\nlog = overwrite\nsyslog = no\nservice = n\ndebug = 3\n"
		"workers = 3\ndrain = 9\nadmin = ::1:99\nsetEnv = A=b\n" SERVER
		"key = k\nciphers = a\nciphersuites = b\ncurve = c\nsslVersion = TLSv1.2\nsecurityLevel = 3\n"
		"config = d\nconfig = e:f\nlocal = ::1\nfailover = rr\nlogId = unique\nrenegotiation = no\n"
		"sessionResume = no\nsessionCacheSize = 5\nsession = 6\nreset = no\nTIMEOUTbusy = 7\nTIMEOUTclose = -8\n"
		"TIMEOUTconnect = 9\nTIMEOUTidle = 10\nstack = 65536\ndebug = 7\noptions = -NO_SSLv3\n"
		"socket = a:SO_LINGER=1:60\nsocket = l:SO_RCVTIMEO=1:5\nsocket = r:SO_BINDTODEVICE=lo\nsocket = "
		"a:SO_REUSEADDR=no\n");
	const struct globals *g = &config->global;
	const struct section *s = config->sections;

	cr_assert_eq(g->foreground, FOREGROUND_QUIET);
	cr_assert_str_eq(g->output, "x");
	cr_assert_str_eq(g->pid, "/p");
	cr_assert(g->log_overwrite);
	cr_assert_not(g->syslog);
	cr_assert_str_eq(g->service, "n");
	cr_assert_eq(g->debug, LOG_ERR);
	cr_assert_eq(g->workers, 3);
	cr_assert_eq(g->drain_s, 9);
	cr_assert_str_eq(g->admin, "::1:99");
	cr_assert_str_eq(g->set_env.texts[0], "A=b");
	cr_assert_str_eq(s->key, "k");
	cr_assert_str_eq(s->ciphers, "a");
	cr_assert_str_eq(s->ciphersuites, "b");
	cr_assert_str_eq(s->curves, "c");
	cr_assert_eq(s->min_version, TLS1_2_VERSION);
	cr_assert_eq(s->max_version, TLS1_2_VERSION);
	cr_assert_eq(s->security_level, 3);
	cr_assert_str_eq(s->config.texts[1], "e:f");
	cr_assert_str_eq(s->local, "::1");
	cr_assert_eq(s->failover, FAILOVER_RR);
	cr_assert_eq(s->log_id, LOG_ID_UNIQUE);
	cr_assert_not(s->renegotiation);
	cr_assert_not(s->session_resume);
	cr_assert_eq(s->session_cache_size, 5);
	cr_assert_eq(s->session_cache_timeout_s, 6);
	cr_assert_not(s->reset);
	cr_assert_eq(s->timeout_busy_s, 7);
	cr_assert_eq(s->timeout_close_s, -8);
	cr_assert_eq(s->timeout_connect_s, 9);
	cr_assert_eq(s->timeout_idle_s, 10);
	cr_assert_eq(s->stack, 65536);
	cr_assert_eq(s->debug, LOG_DEBUG);
	cr_assert_not(s->options_set & SSL_OP_NO_SSLv3);
	cr_assert(s->options_clear & SSL_OP_NO_SSLv3);
	cr_assert_eq(s->socket[SOCK_ACCEPT].count, 2);
	cr_assert_eq(s->socket[SOCK_ACCEPT].opts[0].value.number, 0);
	cr_assert_eq(s->socket[SOCK_ACCEPT].opts[1].value.linger[1], 60);
	cr_assert_eq(s->socket[SOCK_LOCAL].opts[1].value.timeval[1], 5);
	cr_assert_str_eq(s->socket[SOCK_REMOTE].opts[1].value.name, "lo");
	config_free(config);
}

/* --- kernel TLS ---------------------------------------------------------------------------------------------------- */

static enum ktls_wish wish(const char *before, const char *lines)
{
	char text[512];
	struct config *config;
	enum ktls_wish result;

	snprintf(text, sizeof(text), "%s%s%s\n", before, SERVER, lines);
	config = load_good(text);
	result = config->sections->ktls;
	config_free(config);
	return result;
}

Test(config_values, ktls)
{
	cr_assert_eq(wish("", ""), KTLS_AUTO);
	cr_assert_eq(wish("", "ktls = auto"), KTLS_AUTO);
	cr_assert_eq(wish("", "ktls = yes"), KTLS_YES);
	cr_assert_eq(wish("", "ktls = no"), KTLS_NO);
	cr_assert_eq(wish("", "ktls = tx"), KTLS_TX);
	cr_assert_eq(wish("", "ktls = rx"), KTLS_RX);
	cr_assert_eq(wish("", "ktls = rx\nktls = tx"), KTLS_TX, "the last counts");
	cr_assert_eq(wish("ktls = no\n", ""), KTLS_NO);
	cr_assert_eq(wish("ktls = no\n", "ktls = rx"), KTLS_RX);
	cr_assert_eq(wish("ktls = no\n", "ktls = auto"), KTLS_AUTO);
}

#ifdef SSL_OP_ENABLE_KTLS
/* stunnel's word, unless there is ours. */
Test(config_values, ktls_in_the_words_of_openssl)
{
	cr_assert_eq(wish("", "options = ENABLE_KTLS"), KTLS_YES);
	cr_assert_eq(wish("", "options = -ENABLE_KTLS"), KTLS_NO);
	cr_assert_eq(wish("", "options = NO_TICKET"), KTLS_AUTO);
	cr_assert_eq(wish("options = ENABLE_KTLS\n", ""), KTLS_YES);
	cr_assert_eq(wish("options = -ENABLE_KTLS\n", ""), KTLS_NO);
	cr_assert_eq(wish("", "ktls = tx\noptions = ENABLE_KTLS"), KTLS_TX);
	cr_assert_eq(wish("", "options = ENABLE_KTLS\nktls = no"), KTLS_NO);
	cr_assert_eq(wish("", "options = -ENABLE_KTLS\nktls = yes"), KTLS_YES);
	cr_assert_eq(wish("", "options = -ENABLE_KTLS\nktls = auto"), KTLS_AUTO, "said, though it is the default");
	cr_assert_eq(wish("ktls = rx\n", "options = ENABLE_KTLS"), KTLS_RX);
	cr_assert_eq(wish("ktls = auto\n", "options = ENABLE_KTLS"), KTLS_AUTO);
	cr_assert_eq(wish("options = ENABLE_KTLS\n", "ktls = no"), KTLS_NO);
}
#endif

Test(config_values, relay_and_ktls_after)
{
	struct config *config = load_good("relay = splice\nktlsAfter = 7\n" SERVER "[t]\nclient = yes\naccept = 1\nconnect = 2\n"
	                                  "relay = copy\nktlsAfter = 0\n[u]\nclient = yes\naccept = 3\nconnect = 4\n"
	                                  "relay = uring-splice\nktlsAfter = 10000000000\n");
	const struct section *s = config->sections;

	cr_assert(s->relay == RELAY_SPLICE && s->ktls_after == 7, "from the global part");
	s = s->next;
	cr_assert(s->relay == RELAY_COPY && s->ktls_after == 0);
	s = s->next;
	cr_assert(s->relay == RELAY_URING_SPLICE && s->ktls_after == 10000000000);
	config_free(config);
	config = load_good(SERVER);
	cr_assert(config->sections->relay == RELAY_AUTO && config->sections->ktls_after == 65536);
	config_free(config);
}
