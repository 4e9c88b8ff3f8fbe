/*
 * The table of options as the option section of man/tlsplice.conf.5, in mdoc(7).
 * For man/options.c (`make man`) and tests only; the proxy itself is linked without it.
 * SPDX-License-Identifier: Apache-2.0
 */
#include "config_table.h"

#include <ctype.h>
#include <string.h>

/* What -help has no room for. `Quoted` words are set in bold. */
const struct config_note config_notes[] = {
	{"engine",
         "Engines act as soon as the line is read, in the order of the file: put `setEnv` before. They are numbered from 1. "
         "`auto` takes those that OpenSSL has loaded for its own configuration file. "
         "Engines and providers belong to the process: a reload does not load or change any, and says so if its lines differ."},
	{"engineCtrl",
         "Given to the engine before it is initialised; `INIT` initialises it now. The argument of `PIN` is not logged."},
	{"engineDefault", "As `ALL`, or `RSA,EC,RAND`: what OpenSSL then does with this engine without being asked to. "
                          "Keys loaded from files are used in it too."},
	{"fips", "`yes|no` use only algorithms of the FIPS provider of OpenSSL, which must be installed. "
                 "Records stay with OpenSSL then: see `inplace` and `ktls`."},
	{"provider", "Loaded as soon as the line is read; OpenSSL's own algorithms stay available. See `engine`."},
	{"providerParameter", "The provider must have been named before. Needs OpenSSL 3.5."},
	{"chroot",
         "Done once everything is bound. From then on paths are those inside: `output`, `pid`, `CApath`, `CRLpath`, "
         "`/etc/resolv.conf`, `/etc/hosts`, and at a reload the configuration file itself and everything that it names. "
         "Certificates, keys and CAs of the start are loaded before, modules for names and the time zone too, and syslog is "
         "connected. "
         "No descriptor of a directory outside is kept, for that would be a way out."},
	{"compression", "Any value ends the start, for lengths of compressed data betray what is encrypted."},
	{"EGD", "Accepted, without effect: random numbers come from the kernel."},
	{"RNDfile", "Its bytes are stirred into the random number generators at start, besides the kernel's. One that cannot be "
                    "read is warned about."},
	{"RNDbytes", "At most 65536 are read."},
	{"RNDoverwrite", "With `yes` a regular file gets 1024 new bytes once it was read."},
	{"setgid", "The process's further groups are given up. In a section it says only whose a Unix socket of `accept` is. "
                   "Names are looked up at the start; a number need not be known."},
	{"setuid", "Done once everything is bound, before `output` and `pid` are opened. Without `setgid` the process gets the "
                   "groups of the user, "
                   "and of a number that is no user the group 65534; no group of root's is left. "
                   "No capability is left either, but for CAP_NET_RAW with `transparent`, and CAP_NET_BIND_SERVICE where a port "
                   "below 1024 was bound at the start, so that a reload can bind "
                   "another; otherwise a reload that names one fails and changes nothing. In a section it says only whose a Unix "
                   "socket of `accept` is."},
	{"sandbox", "With `yes`: by Landlock the process can open no other files than those in the directories of the files that "
                    "the configuration names, and what "
                    "the system's libraries need; by a seccomp filter it can run no programs but itself, and make none of the "
                    "system calls that a proxy never "
                    "makes; its rings take no other operations than its own; it can get no new privileges. What the kernel does "
                    "not have is left out, and the log says so. "
                    "A reload that names files elsewhere is refused: they need a restart, as do new engines and tokens. "
                    "While there are engines or tokens, files are not restricted. Programs of `exec` would be in it too, so with "
                    "them only the rings are restricted. "
                    "With `strict` the TCP ports to listen on and to connect to are those that the configuration names, too "
                    "(Linux 6.7); a reload that names others needs a restart."},
	{"foreground", "`yes` logs to stderr besides everything else, `quiet` does not. "
                       "In the background relative paths would lead elsewhere: `output` and `pid` must be absolute there."},
	{"log", "`overwrite` empties the file whenever it is opened, by SIGUSR1, a reload and once a day too."},
	{"output", "A new file gets the mode 0640. `/dev/stdout` and `/dev/stderr` mean these descriptors, whatever they are."},
	{"pid", "An older file of that name is replaced; at the end it is removed. An empty value means no file."},
	{"setEnv", "Set as soon as the line is read. An empty value removes the variable."},
	{"syslog", "The program is called there what the global `service` says; the facility is that of the global `debug`."},
	{"admin", "See STATUS PAGE."},
	{"drain", "Without it they are dropped at once. See SIGTERM in tlsplice(8)."},
	{"inetdStatus",
         "In inetd mode the status is 0 however the connection ended, as with stunnel; with `yes` it is 2 if it failed."},
	{"workers",
         "From 1 to 1024; `auto` is one for each CPU that the process may run on. A reload does not change the number."},
	{"alpn", "Names as in the registry of RFC 7301, such as `h2,http/1.1`; an empty value takes back what was inherited. A "
                 "server chooses the first of them that "
                 "the client offers; one that offers none goes on without. A client offers them all, and goes on if the server "
                 "chooses none."},
	{"alpnMismatch", "`refuse` ends such a handshake with the alert no_application_protocol, `ignore` goes on as if the "
                         "client had offered nothing."},
	{"accept", "A service starts when at least one of its addresses could be bound. "
                   "The socket file of a process that is gone is removed first. See ADDRESSES."},
	{"CApath", "The files are named as `openssl rehash` does. They are looked for during handshakes; the names of the CAs "
                   "are read at start."},
	{"CAfile", "PEM. It may hold revocation lists too. A server tells clients the names of the CAs that it knows. "
                   "The certificates also complete the chain of `cert`."},
	{"CAstore", "A URI of OpenSSL, such as `file:/etc/ssl/certs`. It is read as a whole at start; one that cannot be read "
                    "ends the start."},
	{"async", "For engines and providers that can do so, as those of Intel QAT: one worker then has many handshakes in the "
                  "accelerator at once. "
                  "It cannot be combined with what handshakes wait for themselves, such as OCSP or `sessiond`."},
	{"cert", "PEM, DER or PKCS#12, told apart by their content. "
                 "A PEM file has the certificate first, then those that lead to its CA, and may have the key and DH parameters; "
                 "without those a cipher suite that needs them uses a group of RFC 7919. "
                 "A further `cert` with a key of its own, such as RSA beside ECDSA, is one more certificate to choose from, "
                 "one for each kind of key; one without a key adds to the chain of the one before. "
                 "The pass phrase of an encrypted key is asked for on the terminal. "
                 "A URI names a certificate that a `provider` knows; with `engineId` it is looked for in the engine. "
                 "A server needs a certificate, a client need not have one."},
	{"certReload", "The files that `cert`, `key`, `CAfile`, `CApath`, `CAstore`, `CRLfile` and `CRLpath` name are watched, "
                       "symbolic links on the way to them too. "
                       "A second after the last change they are loaded, all of the section together, and serve new connections; "
                       "established ones are not touched, nor are tickets and sessions unless CAs or CRLs have changed. "
                       "If they cannot be used the old ones stay, with a warning that says why, and "
                       "`tlsplice_certificate_reloads_total` counts it. "
                       "Pass phrases are not asked for: one that was given at start is tried. "
                       "A reload (SIGHUP) loads the files at once, with or without this option, and `PSKsecrets`, which is not watched."},
	{"checkEmail",
         "One match of any value of `checkHost`, `checkEmail` and `checkIP` is enough. They need `verifyChain` or `verifyPeer`."},
	{"checkHost", "The certificate may have a `*` for its first label, or for a part of it. "
                      "A value that begins with a dot stands for all names below it. "
                      "The common name counts if the certificate has no DNS name. See `checkEmail`."},
	{"checkIP", "See `checkEmail`."},
	{"config", "The commands are those that SSL_CONF_cmd(3) knows in files."},
	{"connect", "Each address that a name stands for counts. See ADDRESSES and `failover`."},
	{"CRLpath", "The files are named as `openssl rehash` does, and looked for during handshakes; one that has been changed "
                    "is read again. "
                    "From then on a session whose certificate it names is not resumed either. "
                    "See `CRLfile`."},
	{"CRLfile", "PEM, read at start. With `CRLfile` or `CRLpath` a peer is refused if its certificate is revoked, or if "
                    "there is no valid list of "
                    "its issuer."},
	{"CRLcheckChain", "Without it only the peer's own certificate is looked for. It needs `verifyChain`. "
                          "The lists may also be in `CAfile` or `CApath`."},
	{"curves", "Where OpenSSL has it, X25519MLKEM768 comes first unless this option is given."},
	{"debug", "Levels are 0 to 7, or `emerg`, `alert`, `crit`, `err`, `warning`, `notice`, `info` and `debug`. "
                  "The level of a section holds for the lines of its connections."},
	{"delay", "With `no` they are looked up at start and at each reload. "
                  "A name that cannot be resolved then is looked up for each connection, as with `yes`."},
	{"exec",
         "A path: PATH is not searched. In the place of `connect` the program is started for each connection, with a socket as "
         "its descriptors 0, 1 and 2 "
         "(with `foreground = yes`, 2 stays the log's) and no other descriptor. It finds REMOTE_HOST and REMOTE_PORT in its "
         "environment, and "
         "SSL_CLIENT_DN and SSL_CLIENT_I_DN if the client has shown a certificate; variables that begin with REMOTE_ or "
         "SSL_CLIENT_ come from nowhere else. "
         "A section with `exec` and `connect` but no `accept` starts the program when the proxy starts: what the program says "
         "goes to `connect`. "
         "With `transparent = source` a library is loaded into the program that lets getpeername(2) tell the client's address. "
         "In a `chroot` the program must be inside with all that it needs, that library too, under its path outside. "
         "The program is not killed when the connection ends: it reads the end of its input."},
	{"execArgs",
         "Words with white space between them, the first of which is the name that the program is told; there is no quoting. "
         "Without it the program is told its path."},
	{"failover", "`rr` begins anywhere and goes on by one for each connection. "
                     "An address that does not answer is followed by the next, until all have been tried. "
                     "Addresses that are looked up for each connection are always taken in their order."},
	{"ident",
         "The server at port 113 of the client is asked, from the address that the client has connected to, and must answer that "
         "the connection is this user's. `TIMEOUTconnect` and then `TIMEOUTbusy` are the limits. Clients on Unix sockets are "
         "refused."},
	{"include",
         "Regular files in the order of the bytes of their names, also those that begin with a dot; no subdirectories. "
         "An open section stays open in the files, and one that is opened there stays open after them. "
         "Directories may include others, 16 deep."},
	{"inplace",
         "After 16 KiB or a second of silence a connection of TLS 1.2 or 1.3 with an AEAD cipher needs OpenSSL no more: "
         "it becomes faster and takes a third of the memory. What cannot be handed over stays with OpenSSL. "
         "With `no` only a connection that the kernel takes (`ktls`) leaves OpenSSL."},
	{"engineId", "`cert` and `key` are then looked for in this engine first, by the id that they have there: see `engine`."},
	{"engineNum", "As `engineId`, by number."},
	{"key", "A file, or as `cert` what a provider or the engine of the section knows, as a PKCS#11 URI. "
                "The PIN of a token is asked for on the terminal, once, unless it is known to the engine or the provider. "
                "A file that everybody may read is warned about."},
	{"ktls",
         "A direction that the kernel has costs no encryption in user space, and bulk can be spliced: see `relay`. "
         "`auto` leaves to user space what is faster there, which is AES-GCM where intel-ipsec-mb is built in (unless `inplace = "
         "no`), "
         "and TLS 1.3 on kernels that cannot change its keys after a KeyUpdate (before Linux 6.14); with the other values such a "
         "KeyUpdate ends the connection. What the kernel cannot do stays in user space, is counted by its reason in the metrics "
         "and said in the log. "
         "`options = ENABLE_KTLS` means `yes`. `tlsplice -kernel` tells what this kernel can do."},
	{"ktlsAfter",
         "The set-up costs some microseconds, which a short connection does not earn back. 0: as soon as the handshake is over."},
	{"libwrap", "The daemon's name in hosts.allow and hosts.deny is the section's, or its `service`. A client that chooses a "
                    "virtual host is "
                    "asked about for either section, where it has the option. "
                    "The files are read for each connection, by a process outside of a `chroot`; slow lookups of names hold up "
                    "nobody else, for `TIMEOUTbusy` at most. "
                    "Clients on Unix sockets pass."},
	{"logId", "`sequential` counts from 0, `unique` is 22 random letters and digits, `thread` and `process` are the kernel's "
                  "numbers."},
	{"OCSP", "A URL that begins with http://. It is asked about the peer's own certificate, unless a response that the "
                 "server stapled has decided. "
                 "Needs `verifyChain`. The connection waits for the answer, other connections do not. "
                 "Nobody is asked again when a session is resumed."},
	{"OCSPaia", "Asked when neither a stapled response nor the responder of `OCSP` has decided, and about the authorities in "
                    "between too. "
                    "Needs `verifyChain`."},
	{"OCSPflag", "A flag of OCSP_basic_verify(3) without OCSP_, such as `NOCHAIN`."},
	{"OCSPrequire",
         "It counts once a responder was asked. With `no` such a peer is accepted; a revoked certificate never is."},
	{"options", "The names are those of SSL_CTX_set_options(3) without SSL_OP_; `tlsplice -options` lists them. "
                    "Those of a section add to the global ones."},
	{"PSKidentity", "In client mode; a server takes every identity of the file."},
	{"PSKrequire", "`yes`, which needs `PSKsecrets`, lets nobody in, and trusts no server, without a key: a server section needs no `cert` then and "
                       "shows none. `no` has a server take clients "
                       "with a certificate's handshake too; in client mode it needs `verifyChain` or `verifyPeer`. `auto` is "
                       "`yes` unless the section verifies "
                       "certificates and, in server mode, `requireCert` holds."},
	{"PSKsecrets",
         "Lines of identity, colon and key. A key is 16 to 512 bytes, as hexadecimal digits if it consists of pairs of them, "
         "with or without colons "
         "between them, or as it stands. Nothing is trimmed, there are no comments, and an identity may be there once. "
         "In TLS 1.2 only cipher suites with a pre-shared key are left then, and in TLS 1.3 only those with SHA-256. "
         "The file is read at start and at each reload; keys that are gone take their sessions along."},
	{"pty", "Instead of a socket the program gets a new terminal, which is nobody's controlling one. "
                "The connection ends in both directions when either does. "
                "In a `chroot` there must be the device /dev/ptmx and devpts on /dev/pts."},
	{"redirect", "Clients without a certificate, or with one that fails a check, are let in and connected to this address "
                     "instead of `connect`, "
                     "however often they resume their session. Several addresses are taken as `failover` says."},
	{"relay", "`copy` receives and sends. `splice` moves bulk through a pipe, by splice(2). `uring-splice` has the ring do "
                  "it, which takes a thread of the "
                  "kernel for each splice. `auto` is `splice`."},
	{"renegotiation", "It exists in TLS 1.2 and older. With `no` a connection whose peer tries it is ended."},
	{"requireCert", "`verifyChain` and `verifyPeer` imply it, `redirect` takes it back."},
	{"reset", "By it the other peer can tell a stream that was cut from one that is complete. "
                  "A side that a TLS alert has been exchanged with is closed instead, for a reset could overtake the alert."},
	{"retry", "For sections with `exec` and `connect` but no `accept`: how long after the end of a connection the program is "
                  "started again, `yes` meaning a second. "
                  "Without it that happens once."},
	{"securityLevel", "Unless it is given it is what openssl.cnf says, but at least 2."},
	{"sendProxy", "Server mode. `v2` sends the backend, or the program's standard input, the binary header of HAProxy's PROXY protocol, "
                      "version 2, before anything else: the addresses and ports that the client came from and went to, "
                      "the protocol of `alpn`, the server name that the client asked for, "
                      "the version and cipher of TLS, how the certificate that it was shown is signed and what its key is, "
                      "whether it has shown one itself, with which common name, and a checksum. "
                      "The field `verify` is zero only for a certificate that has passed `verifyChain` or `verifyPeer`: "
                      "a section without either believes nobody, whatever the certificate says. "
                      "A client without an address (inetd mode on pipes, a program in its place) is announced by the command LOCAL. "
                      "Where `redirect` leads to nothing is sent. The backend must expect the header, "
                      "and must not take it from anybody else. It excludes `pty`."},
	{"service",
         "In a section it takes the place of the name in brackets. The global one is not inherited; its default is `stunnel`."},
	{"sessionCacheSize", "0 or less: without limit. Sessions that live in tickets take no room."},
	{"sessionCacheTimeout",
         "Tickets are valid for the same time. It begins with a full handshake: sessions that are given when one is "
         "resumed (TLS 1.3) end when that would have."},
	{"sessiond", "Each new session is told to the server, and a session that is not in our own cache is asked for: for 200 "
                     "ms, then the client has a full handshake. "
                     "Tickets without state are off, as with `options = NO_TICKET`. Sessions of more than 512 bytes, which those "
                     "with a client's certificate often are, are not shared. "
                     "Packets are in clear, so the server has to be on this machine; "
                     "one on another machine needs `ticketKeySecret` and `ticketMacSecret`, with which the sessions are sealed "
                     "(stunnel cannot read them then). "
                     "Who shares needs the same section name and the same checks of peers."},
	{"sessionResume",
         "A resumed session goes to the backend that served it before, if there are several and it is still one of them. "
         "In TLS 1.2 a ticket names the backend that is tried first, in all else the one that answered. "
         "A session is resumed only where the same is checked about the peer as where it began: the section's name, its options "
         "about "
         "certificates, and the content of their files count."},
	{"sni",
         "In server mode a section without `accept` that has it is a virtual host of the section named first: clients that ask "
         "for a name that the "
         "pattern means get to it, and everything is then as it says. A pattern is a name, or a star and the end of one; the "
         "case of "
         "letters does not count. The first match in the order of the file decides, and who asks for no name or for another "
         "stays where he is. "
         "Sessions of one section are never resumed in another. In client mode the default is the host of the first `connect`, "
         "an empty value sends no name, and an IP address is not sent."},
	{"socket", "Those of a section add to the global ones. See SOCKET OPTIONS."},
	{"sslVersion", "Sets `sslVersionMin` and `sslVersionMax`. What `all` leaves open is decided by openssl.cnf."},
	{"stack", "At least 16384. The largest one of all sections holds for all."},
	{"ticketKeyFile",
         "A file of 48 or 80 bytes is one key as nginx has it: a name, and keys for AES-128 and HMAC or for HMAC and AES-256. "
         "Any other file has lines of base64 as haproxy has them: a name, an AES key and an HMAC key in 48 or 80 bytes. "
         "The last line but one makes the tickets, all others open what is old or comes from a host that is ahead: "
         "a key is rotated by appending a line everywhere and dropping the first. "
         "With several files the first one makes the tickets. "
         "A file that has changed is read again by itself, or by SIGHUP; one that cannot be used changes nothing. "
         "Without this option and `ticketKeySecret` keys are random, and change whenever half of `sessionCacheTimeout` is over."},
	{"ticketKeySecret", "16 or 32 bytes, for AES-128 or AES-256; colons may stand between them. "
                            "Whoever has the same `ticketKeySecret`, `ticketMacSecret` and section name takes the tickets of the "
                            "others, stunnel too. "
                            "With stunnel this works where the section checks nothing about its peers and has one backend: its "
                            "tickets do not say what was checked."},
	{"ticketMacSecret", "16 or 32 bytes, for HMAC-SHA256."},
	{"TIMEOUTbusy", "It is a deadline for the whole handshake."},
	{"TIMEOUTclose", "It runs once one side has ended and what it sent has been passed on."},
	{"TIMEOUTidle", "It runs from the last byte in either direction, and ends in a reset."},
	{"TIMEOUTocsp", "It is a deadline for the whole question, from the lookup of the name to the end of the answer."},
	{"transparent",
         "`source` (also written `yes`) connects from the client's address, and from its port where that is free; the server's "
         "answers must "
         "be routed back to this machine. `destination` connects to where the client wanted to go before TPROXY, REDIRECT or "
         "DNAT brought its "
         "connection here, and takes the place of `connect`. `both` is both. `none` is also written `no`. A destination that is "
         "tlsplice "
         "itself is refused. Needs CAP_NET_ADMIN or CAP_NET_RAW, and rules and routes such as configs/tproxy has."},
	{"verify",
         "Obsolete: `verifyChain` and `verifyPeer` say it more clearly. 0 asks for a certificate and does not look at it, "
         "1 verifies the chain of one that is there, 2 is `verifyChain`, 3 is both, 4 is `verifyPeer`."},
	{"verifyChain", "The chain must lead to a self-signed certificate of `CAfile`, `CApath` or `CAstore`. "
                        "A client should say with `checkHost` or `checkIP` whom it wants to talk to."},
	{"verifyPeer",
         "A certificate of the same subject and the same key must be among those of `CAfile`, `CApath` and `CAstore`. "
         "No chain is needed, but the certificate must not have expired."},
};
const size_t config_note_count = sizeof(config_notes) / sizeof(*config_notes);

static const char *note_of(const struct option *row)
{
	for (size_t i = 0; i < config_note_count; i++)
		if (!strcmp(config_notes[i].name, row->name))
			return config_notes[i].text;
	return NULL;
}

/* A backslash would begin an escape, and a hyphen is a minus: people copy it. */
static void print_char(FILE *out, char c)
{
	if (c == '\\')
		fputs("\\e", out);
	else if (c == '-')
		fputs("\\-", out);
	else
		fputc(c, out);
}

static void print_bold(FILE *out, const char *text, size_t len)
{
	fputs("\\fB", out);
	for (size_t i = 0; i < len; i++) {
		print_char(out, text[i]);
		if ((text[i] == '|' || text[i] == ':') && i + 1 < len)
			fputs("\\:", out); /* a list of ciphers is longer than a line */
	}
	fputs("\\fP", out);
}

/* Each sentence begins a line: mdoc(7) makes the space between them. No text of the tables begins a sentence with a dot or a quote. */
static void print_prose(FILE *out, const char *text)
{
	for (const char *at = text; *at; at++) {
		if (*at == '`') {
			print_bold(out, at + 1, strcspn(at + 1, "`"));
			at += 1 + strcspn(at + 1, "`");
		} else if (*at == ' ' && at > text && at[-1] == '.') {
			fputc('\n', out);
		} else {
			print_char(out, *at);
		}
	}
}

/* The text of -help begins with what a value looks like, or with a word that says it. */
static void print_help_text(FILE *out, const char *help)
{
	size_t len = strcspn(help, " ,");

	if (strcspn(help, "|[=:.") < len) {
		print_bold(out, help, len);
	} else {
		fputc(toupper((unsigned char)*help), out);
		len = 1;
	}
	print_prose(out, help + len);
	fputs(".\n", out);
}

/* "a\nb" is a default of two values. */
static void print_fallback(FILE *out, const struct option *row)
{
	const char *unit = row->flags & SECONDS ? " seconds" : row->flags & BYTES ? " bytes" : "";

	fputs("Default:", out);
	for (const char *at = row->fallback; *at; at += strcspn(at, "\n"), at += *at == '\n') {
		fputs(at == row->fallback ? "\n" : ",\n", out);
		print_bold(out, at, strcspn(at, "\n"));
	}
	fprintf(out, "%s.\n", unit);
}

static void print_known_protocols(FILE *out)
{
	const char *before = "Known are\n";

	for (size_t i = 0; i < protocol_count; i++) {
		if (!protocols[i].listed)
			continue;
		fputs(before, out);
		print_bold(out, protocols[i].name, strlen(protocols[i].name));
		before = ",\n";
	}
	fputs(".\n", out);
}

static void print_row(FILE *out, const struct option *row)
{
	const char *note = note_of(row);

	fprintf(out, ".It Ic %s\n", row->name);
	if (row->asks)
		fputs(".Em Not built yet .\n", out);
	if (row->help)
		print_help_text(out, row->help);
	if (note) {
		print_prose(out, note);
		fputc('\n', out);
	}
	if (row->scope == SERVICE && !strcmp(row->name, "protocol"))
		print_known_protocols(out);
	if (row->alias)
		fprintf(out, "Also read as\n\\fB%s\\fP.\n", row->alias);
	if (row->flags & LIST)
		fputs("May be given more than once.\n", out);
	if (row->fallback)
		print_fallback(out, row);
	if (row->flags & EXTENSION)
		fputs("An extension: stunnel does not know it.\n", out);
}

/* An option that may stand in a section stands there once, though its global half is a row of its own. */
static bool has_twin(const struct option *row)
{
	return row->scope == GLOBAL && option_find(row->name, SERVICE);
}

static void print_part(FILE *out, const char *heading, enum option_scope scope)
{
	fprintf(out, ".Ss %s\n.Bl -tag -width Ds\n", heading);
	for (const struct option *row = options; row < options + OPTION_COUNT; row++)
		if (row->scope == scope && !has_twin(row))
			print_row(out, row);
	fputs(".El\n", out);
}

void config_print_man(FILE *out)
{
	print_part(out, "Global options", GLOBAL);
	print_part(out, "Service options", SERVICE);
}
