# Values of options and what each gives: a configuration that is taken, or the message that users know.
# The verdicts are those of stunnel 5.82 (5.75 where that is stricter), but for what is marked "ours".
# SPDX-License-Identifier: Apache-2.0
import os
import re
import subprocess

import pytest

from proxy import BINARY, SLOW, WRAPPER

pytestmark = [pytest.mark.ours, pytest.mark.san]  # -t is ours

OK = None
OPENSSL = tuple(map(int, re.findall(r"OpenSSL (\d+)\.(\d+)", subprocess.run(["openssl", "version"], capture_output=True, text=True).stdout)[-1]))
KEY16 = "00112233445566778899aabbccddeeff"
CONTEXT = "[!] Service [s]: Failed to initialize TLS context"
YES_NO = "The argument needs to be either 'yes' or 'no'"
UNKNOWN = "Specified option name is not valid here"
NO_CA = '[!] Service [s]: Either "CAengine", "CAfile", "CApath" or "CAstore" has to be configured'
ENDPOINTS = "[!] Service [s]: Each service must define two endpoints"


def not_built(name):
    return f'option "{name}" is not built yet'


# Before the sections, on line 4. A message that does not begin with "[!]" belongs to the line: FILE:4: "text": message
GLOBAL = [
    ("fips = no", OK),
    ("fips = yes", '[!] Global options: "fips = yes": OpenSSL\'s FIPS provider is not installed, or does not work'),
    ("foreground = maybe", "The argument needs to be either 'yes', 'quiet' or 'no'"),
    ("log = trunc", "The argument needs to be either 'append' or 'overwrite'"),
    ("output = rel.log", OK),
    ("pid = rel.pid", OK),
    ("compression = lz4", "Specified compression type is not available"),
    ("compression = deflate", "[!] Global options: Failed to initialize TLS"),
    ("RNDbytes = x", "Illegal number of bytes to read from random seed files"),
    ("setEnv = A=b", OK),
    ("setEnv = A", OK),
    ("setEnv = =x", "The name of the environment variable is empty"),  # ours: a message that says what is wrong
    ("debug = 9", "Illegal debug level"),
    ("debug = foo.info", "Illegal syslog facility"),
    ("debug = local3.info", OK),
    ("debug = daemon.", "Illegal debug level"),  # ours: refused
    ("service = foo", OK),
    ("EGD = /nonexist", OK),
    ("taskbar = no", UNKNOWN),
    ("chroot = /nonexist", OK),
    ("engine = auto", OK),
    ("engine = nosuchengine", "Failed to open the engine"),
    ("engine = dynamic\nengineCtrl = NOSUCH:x", '[!] CONFIG:5: "engineCtrl = ...": Failed to execute the engine control command'),
    ("engine = dynamic\nengineDefault = NOSUCH", "Failed to set engine as default"),
    ("engineCtrl = INIT", '[!] CONFIG:4: "engineCtrl = ...": No engine was defined'),
    ("provider = default", OK),
    ("provider = legacy", OK),
    ("provider = nosuchprovider", "Failed to load provider"),
    ("providerParameter = default", '[!] CONFIG:4: "providerParameter = ...": Malformed parameter'),
    ("providerParameter = default:a", '[!] CONFIG:4: "providerParameter = ...": Malformed parameter'),
    ("providerParameter = legacy:a=b", '[!] CONFIG:4: "providerParameter = ...": Provider not found'),
    ("provider = legacy\nproviderParameter = legacy:a=b", OK if OPENSSL >= (3, 5) else
     '[!] CONFIG:5: "providerParameter = ...": This needs OpenSSL 3.5 or newer'),
    ("RNDfile = /dev/zero", OK),
    ("RNDoverwrite = no", OK),
    ("setuid = nobody", OK),
    ("setgid = nogroup", OK),
    ("setuid = 0", OK),
    # ours
    ("workers = 2", OK),
    ("workers = 0", "Illegal number of workers"),
    ("drain = 5", OK),
    ("drain = 5s", "Illegal drain time"),
    ("admin = :1", "Illegal address of the status page (no host given before the colon)"),
]

# In a server section with accept, connect and cert, from line 8.
SECTION = [
    ("debug = local3.info", "Illegal debug level"),
    ("debug = 5", OK),
    ("debug = err", OK),
    ("sslVersion = SSLv2", "Invalid protocol version"),
    ("sslVersion = tlsv1.2", OK),
    ("sslVersion = TLSv1.4", "Invalid protocol version"),
    ("sslVersionMin = TLSv1.3\nsslVersionMax = TLSv1.2", "[!] Service [s]: Invalid protocol version range"),
    ("verify = 5", "Bad verify level"),
    ("verify = x", "Bad verify level"),
    ("verify = -1", "Bad verify level"),
    ("verify = 4", NO_CA),
    ("verifyPeer = yes", NO_CA),
    ("verifyPeer = yes\nCAfile = {ca}", OK),
    ("verifyPeer = yes\nCAfile = /dev/null", CONTEXT),
    ("verifyPeer = no", OK),
    ("requireCert = yes", OK),
    ("checkHost = a", '[!] Service [s]: Either "verifyChain" or "verifyPeer" has to be enabled'),
    ("retry = 0", OK),
    ("retry = -1", "Illegal retry delay"),
    ("retry = 5x", "Illegal retry delay"),
    ("securityLevel = 6", "Illegal security level"),
    ("securityLevel = 0", OK),
    ("stack = 0", "Illegal thread stack size"),
    ("stack = 1000", "Illegal thread stack size"),
    ("stack = 131072", OK),
    ("TIMEOUTidle = -1", OK),
    ("TIMEOUTidle = 0", OK),
    ("TIMEOUTidle = 1s", "Illegal idle timeout"),
    ("TIMEOUTclose = 0", OK),
    ("sessionCacheSize = -1", OK),
    ("sessionCacheSize = 0", OK),
    ("session = 10", OK),
    ("curve = P-256", OK),
    ("curves = BAD", "[!] Invalid groups list in 'curves'"),
    ("curves = P-256:BAD", "[!] Invalid groups list in 'curves'"),
    ("ciphers = BAD", CONTEXT),
    ("ciphersuites = BAD", CONTEXT),
    ("options = BAD", "Illegal TLS option"),
    ("options = no_ticket", OK),
    ("options = -NO_TICKET", OK),
    ("socket = a:SO_LINGER=1:60", OK),
    ("socket = l:so_keepalive=1", "Illegal socket option"),
    ("socket = l:SO_KEEPALIVE=2", "Illegal socket option"),
    ("socket = x:SO_KEEPALIVE=1", "Illegal socket option"),
    ("socket = r:TCP_KEEPIDLE=60", OK),
    ("socket = r:SO_BINDTODEVICE=lo", OK),
    ("transparent = yes", OK),
    ("transparent = none", OK),
    ("transparent = foo", "Selected transparent proxy mode is not available"),
    ("failover = rr", OK),
    ("failover = lc", "The argument needs to be either 'rr' or 'prio'"),
    ("logId = process", OK),
    ("logId = unique", OK),
    ("logId = x", "Invalid connection identifier type"),
    ("protocol = http", "[!] Service [s]: Protocol not supported"),
    ("protocol = ldap", "[!] Service [s]: The configured protocol is not supported in the server mode"),
    ("client = yes\nprotocol = proxy", "[!] Service [s]: The configured protocol is not supported in the client mode"),
    ("client = yes\nprotocol = connect", "[!] Service [s]: protocolHost not specified"),
    ("protocol = smtp", not_built("protocol")),
    ("protocol = smtp\nredirect = 127.0.0.1:1\nverifyChain = yes\nCAfile = /dev/null",
     '[!] Service [s]: "redirect" is incompatible with the specified protocol negotiation'),
    ("redirect = 127.0.0.1:1", '[!] Service [s]: Either "verifyChain" or "verifyPeer" has to be enabled for "redirect" to work'),
    ("client = yes\nredirect = 127.0.0.1:1", '[!] Service [s]: "redirect" is unsupported in client sections'),
    ("OCSPflag = BAD", "Illegal OCSP flag"),
    ("OCSP = foo", '[!] Service [s]: "verifyChain" has to be enabled for OCSP support'),
    ("verifyChain = yes\nOCSP = http://127.0.0.1:1/\nCAfile = /dev/null", CONTEXT),
    ("OCSP = http://127.0.0.1:1/", '[!] Service [s]: "verifyChain" has to be enabled for OCSP support'),
    ("PSKidentity = a", OK),
    ("PSKsecrets = /dev/null", "Failed to read PSK secrets"),
    ("PSKrequire = no", OK),
    ("PSKrequire = yes", '[!] Service [s]: "PSKsecrets" has to be configured for "PSKrequire = yes"'),
    ("PSKrequire = perhaps", "The argument needs to be either 'auto', 'yes' or 'no'"),
    ("PSKsecrets = /nonexist", "Failed to read PSK secrets"),
    ("ticketKeySecret = 00", "[!] ticketKeySecret value has 1 bytes instead of required 16 or 32 bytes"),
    ("ticketKeySecret = " + KEY16, '[!] Service [s]: "ticketKeySecret" and "ticketMacSecret" must be set together'),
    (f"ticketKeySecret = {KEY16}\nticketMacSecret = {KEY16}", OK),
    ("engineNum = 1", "Illegal engine number"),
    ("engineNum = 0", "Illegal engine number"),
    ("engineId = x", "Engine ID not found"),
    ("setuid = nosuchuser", "Illegal UID"),
    ("setgid = nosuchgroup", "Illegal GID"),
    ("setuid = nobody", OK),
    ("pty = yes", OK),
    ("local = 127.0.0.1", OK),
    ("local = ::1", OK),
    ("ident = joe", OK),
    ("sessiond = 127.0.0.1:9", OK),
    ("sni = x", "[!] Service [s]: Invalid SNI parameter format"),
    ("sni = nosuch:host", "[!] Service [s]: SNI section name not found"),
    ("client = yes\nsni =", OK),
    ("config = NoSuch:1", '[!] OpenSSL config command "NoSuch" was not recognised'),
    ("config = MinProtocol:TLSv1.2", OK),
    ("CRLfile = /nonexist", "[!] Failed to load /nonexist revocation lookup file"),
    ("CApath = /tmp", OK),
    ("CAfile = /nonexist\nverifyChain = yes", CONTEXT),
    ("cert = /nonexist", CONTEXT),
    ("include = /nonexist", "Failed to include directory"),
    ("execArgs = a b", OK),
    ("libwrap = yes", OK),
    ("libwrap = no", OK),
    ("reset = no", OK),
    ("renegotiation = no", OK),
    ("delay = yes\nfailover = rr", OK),
    ("transport = udp", '[!] Service [s]: "transport = udp" (DTLS) is not supported'),
    ("CRLcheckChain = yes", '[!] Service [s]: "verifyChain" has to be enabled for "CRLcheckChain"'),
    ("CAstore = file:/nonexist", "[!] Failed to load CA certificates from: file:/nonexist"),
    ("CAengine = x", '[!] Service [s]: "CAengine" needs "engineId" or "engineNum"'),
    ("iconIdle = x", UNKNOWN),
    ("service = foo", OK),
    ("client = yes\nverifyChain = yes\nCAfile = {ca}", OK),
    ("exec = /nonexist", ENDPOINTS),
    ("client = perhaps", YES_NO),
    ("EGD = /x", UNKNOWN),
    ("workers = 2", UNKNOWN),
    ("nonsense", "No '=' found"),
    ("accept = :443", "Cannot resolve accept target (no host given before the colon)"),
    ("accept = 65536", "Cannot resolve accept target (port number out of range 0..65535)"),
    # ours
    ("accept = [::1]:0", OK),
    ("accept = @tlsplice-test", OK),
]


def config_text(before, inside, pki):
    before = before + "\n" if before else "\n"
    return f"foreground = yes\nsyslog = no\npid =\n{before}[s]\naccept = 127.0.0.1:0\nconnect = 127.0.0.1:1\n" + (
        f"{inside}\ncert = {pki.ec_pem}\n" if not inside.startswith("cert") else inside + "\n")


def run(flag, text, directory):
    path = os.path.join(os.path.realpath(directory), "values.conf")
    with open(path, "w") as file:
        file.write(text)
    done = subprocess.run([*WRAPPER, BINARY, flag, path], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=30 * SLOW, cwd=directory)
    return done.returncode, done.stdout, done.stderr.replace(path, "CONFIG")


def judge(text, lines, line, expected, directory):
    status, _, said = run("-t", text, directory)
    if expected is OK:
        assert (status, "[!]" in said) == (0, False), said
        return
    assert status == 1, said
    assert "[!] Configuration failed" in said or expected == CONTEXT or "TLS context" in said, said
    if expected.startswith("[!]"):
        assert expected in said
        return
    quoted = [f'[!] CONFIG:{line + number}: "{one}": {expected}' for number, one in enumerate(lines.split("\n"))]
    assert any(each in said for each in quoted), said


@pytest.mark.parametrize("lines, expected", GLOBAL, ids=[lines for lines, _ in GLOBAL])
def test_global_value(lines, expected, pki, tmp_path):
    judge(config_text(lines, "", pki), lines, 4, expected, tmp_path)


@pytest.mark.parametrize("lines, expected", SECTION, ids=[lines.replace("\n", " // ") for lines, _ in SECTION])
def test_section_value(lines, expected, pki, tmp_path):
    lines = lines.format(ca=pki.ca)
    judge(config_text("", lines, pki), lines, 8, expected, tmp_path)


def test_effective_configuration_is_a_configuration(pki, tmp_path):
    text = config_text("debug = mail.7\nsocket = r:SO_KEEPALIVE=yes\noptions = -NO_SSLv3", "TIMEOUTidle = 9\nlogId = unique", pki)
    status, once, said = run("-T", text + "[t]\nclient = yes\naccept = @a\nconnect = [::1]:1\nsni =\n", tmp_path)
    assert status == 0, said
    assert "[t]\n" in once and "connect                = [::1]:1\n" in once
    assert run("-T", once, tmp_path)[:2] == (0, once)
    assert run("-t", once, tmp_path)[0] == 0
