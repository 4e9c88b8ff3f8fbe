# Keys that are elsewhere: tokens (PKCS#11), engines and providers of OpenSSL, prompts for PINs, handshakes in an accelerator.
# SPDX-License-Identifier: Apache-2.0
import concurrent.futures
import os
import re
import signal
import ssl
import subprocess
import threading
import time

import pytest

from conftest import TOOLS, need
from peers import client_context, connect, echo, server_context
from pki import openssl
from proxy import BINARY, SLOW, WRAPPER, until
from test_tls import Terminal

pytestmark = [pytest.mark.ours, pytest.mark.san]

MODULES = os.path.join(os.path.dirname(TOOLS), "modules")
PIN = "pin-of-the-token"
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


def library(*names):
    """A shared object of a package that tests/install-deps installs."""
    for folder in ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib", "/usr/lib64"):
        for name in names:
            if os.path.exists(os.path.join(folder, name)):
                return os.path.join(folder, name)
    pytest.fail(f"{names[0]} is not installed (tests/install-deps test)")


def module(name):
    path = os.path.join(MODULES, name + ".so")
    if not os.path.exists(path):
        pytest.fail(f"{path} is not there: make tests")
    return path


class Token:
    """A token of SoftHSM with keys and certificates of the test PKI."""

    def __init__(self, directory, pki):
        self.conf, self.label = str(directory / "softhsm2.conf"), "tok"
        self.module = library("softhsm/libsofthsm2.so")
        self.engine = library("engines-3/pkcs11.so")
        os.mkdir(directory / "tokens")
        with open(self.conf, "w") as file:
            file.write(f"directories.tokendir = {directory}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n")
        self.tool("softhsm2-util", "--init-token", "--free", "--label", self.label, "--so-pin", "0815", "--pin", PIN)
        self.put(directory, "01", "rsa", pki.rsa, pki.rsa_key)
        self.put(directory, "02", "ec", pki.ec, pki.ec_key)
        self.put(directory, "03", "client", pki.client, pki.path("client.key"))
        self.put(directory, "04", "ca", pki.ca)

    def tool(self, program, *args):
        done = subprocess.run([need(program), *args], env=dict(os.environ, SOFTHSM2_CONF=self.conf), stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=60)
        assert done.returncode == 0, done.stdout.decode(errors="replace")

    def put(self, directory, number, label, cert, key=None):
        if key:
            pkcs8 = str(directory / (label + ".p8"))
            openssl("pkcs8", "-topk8", "-nocrypt", "-in", key, "-out", pkcs8)
            self.tool("softhsm2-util", "--import", pkcs8, "--token", self.label, "--label", label, "--id", number, "--pin", PIN)
        self.tool("p11tool", "--provider", self.module, "--login", "--set-pin", PIN, "--write", "--load-certificate", cert,
                  "--label", label, "--id", number, f"pkcs11:token={self.label}")

    def uri(self, label, kind):
        return f"pkcs11:token={self.label};object={label};type={kind}"

    def head(self, pin=PIN, more=""):
        """The global part: module, and the PIN unless it is to be asked for."""
        known = f"engineCtrl = PIN:{pin}\n" if pin else ""
        return f"setEnv = SOFTHSM2_CONF={self.conf}\n{more}engine = pkcs11\nengineCtrl = MODULE_PATH:{self.module}\n{known}"

    def keys(self, label="rsa"):
        return f"engineId = pkcs11\nkey = {self.uri(label, 'private')}\n"


@pytest.fixture(scope="module")
def token(tmp_path_factory, pki):
    return Token(tmp_path_factory.mktemp("token"), pki)


def without_pin(text, pin=PIN):
    assert pin not in re.sub(r"(?m)^\S+ \S+ ", "", text), "the PIN is in the log"


# --- tokens by the engine of libp11 ---


@pytest.mark.parametrize("label", ["rsa", "ec"])
def test_a_key_in_a_token_serves_from_all_workers(bench, pki, token, label):
    proxy = bench.tls_server(token.keys(label) + "logId = thread", pem=token.uri(label, "cert"), head=token.head() + "workers = 3")
    for line in ["LOG7.*Enabling support for engine \"pkcs11\"", "LOG5.*UI set for engine #1 .pkcs11.",
                 "LOG7.*Executing engine control command MODULE_PATH:/", "LOG7.*Initializing engine #1 .pkcs11.",
                 "LOG6.*Engine #1 .pkcs11. initialized", f"LOG6.*Loading certificate from engine ID: pkcs11:.*object={label};",
                 "LOG6.*Certificate loaded from engine ID: pkcs11:", "LOG6.*Initializing private key on engine ID: pkcs11:",
                 "LOG6.*Private key initialized on engine ID: pkcs11:", "LOG7.*Private key check succeeded"]:
        assert proxy.lines(line), line
    workers = set()
    for i in range(200):
        version = VERSIONS[i % 2]
        bench.client(proxy.port, client_context(pki, version), server_name="localhost").ping().bye()
        workers = set(re.findall(r"LOG5\[(\d+)\]: Service \[s\] accepted connection", proxy.log()))
        if len(workers) == 3 and i >= 20:
            break
    assert len(workers) == 3
    without_pin(proxy.log())


def test_many_handshakes_at_once_with_one_token(bench, pki, token, tools):
    port = bench.ports()
    bench.run([tools + "/echo", str(port)])
    proxy = bench.tls_server(token.keys("ec"), backend=port, pem=pki.ec, head=token.head() + "workers = 2\ndebug = notice")
    until(lambda: not bench.ports.free(port))
    load = bench.run([tools + "/load", str(proxy.port), "loop", "8", "3"], stdout=subprocess.PIPE)
    out = load.communicate(timeout=120 * SLOW)[0].decode()
    assert load.returncode == 0, out
    assert int(re.search(r"ok (\d+) failed 0", out).group(1)) > 8, out


@pytest.mark.valgrind
def test_a_certificate_file_with_its_key_in_a_token(bench, pki, token):
    proxy = bench.tls_server(token.keys("ec"), pem=pki.ec, head=token.head())
    assert proxy.lines(f"LOG6.*Certificate loaded from: {pki.ec}")
    bench.client(proxy.port, client_context(pki), server_name="localhost").ping()


def test_rsa_and_ecdsa_in_one_section(bench, pki, token):
    """One key in the token, one in a file."""
    proxy = bench.tls_server(f"cert = {pki.rsa_pem}\n" + token.keys("ec"), pem=token.uri("ec", "cert"), head=token.head())
    for ciphers in ("ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256"):
        context = client_context(pki, ssl.TLSVersion.TLSv1_2, ciphers=ciphers)
        bench.client(proxy.port, context, server_name="localhost").ping()


def test_both_keys_in_the_token(bench, pki, token):
    """The key of a further certificate has the certificate's id, but for the type."""
    rsa = f"pkcs11:token={token.label};object=rsa"
    proxy = bench.tls_server(f"cert = {rsa}\n" + token.keys("ec"), pem=token.uri("ec", "cert"), head=token.head())
    for ciphers in ("ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256"):
        context = client_context(pki, ssl.TLSVersion.TLSv1_2, ciphers=ciphers)
        bench.client(proxy.port, context, server_name="localhost").ping()


def test_the_engine_by_its_number(bench, pki, token):
    proxy = bench.tls_server(token.keys("ec").replace("engineId = pkcs11", "engineNum = 1"), pem=pki.ec, head=token.head())
    bench.client(proxy.port, client_context(pki), server_name="localhost").ping()


def test_the_engine_by_its_file(bench, pki, token):
    """`dynamic` becomes the engine that it loads."""
    head = token.head().replace("engine = pkcs11", f"engine = dynamic\nengineCtrl = SO_PATH:{token.engine}\nengineCtrl = ID:pkcs11\n"
                                                   "engineCtrl = LIST_ADD:1\nengineCtrl = LOAD")
    proxy = bench.tls_server(token.keys("ec"), pem=pki.ec, head=head)
    assert proxy.lines("LOG7.*Executing engine control command LOAD$")
    bench.client(proxy.port, client_context(pki), server_name="localhost").ping()


def test_a_client_certificate_in_a_token(bench, pki, token):
    context = server_context(pki.ec_pem)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(pki.ca)
    server = bench.server(echo, context=context)
    proxy = bench.tls_client(server.port, f"cert = {token.uri('client', 'cert')}\n" + token.keys("client"), head=token.head())
    with connect(proxy.port) as sock:
        sock.sendall(b"ping")
        assert sock.recv(4) == b"ping"


def test_ca_certificates_in_a_token(bench, pki, token):
    extra = token.keys("ec") + f"verifyChain = yes\nCAengine = {token.uri('ca', 'cert')}"
    proxy = bench.tls_server(extra, pem=pki.ec, head=token.head())
    bench.client(proxy.port, client_context(pki, certificate=pki.client_pem), server_name="localhost").ping()
    with pytest.raises((ssl.SSLError, OSError, EOFError, AssertionError)):
        bench.client(proxy.port, client_context(pki), server_name="localhost").ping()
    proxy.wait_log("peer did not return a certificate")
    out = bench.refused(f"{token.head()}[s]\naccept = 127.0.0.1:{bench.ports()}\nconnect = 127.0.0.1:1\ncert = {pki.ec}\n" +
                        extra.replace("object=ca", "object=nobody") + "\n")
    assert "Failed to load CA certificate from engine ID: pkcs11:token=tok;object=nobody" in out


def test_a_wrong_pin(bench, pki, token):
    out = bench.refused(f"{token.head('not-the-pin')}[s]\naccept = 127.0.0.1:{bench.ports()}\nconnect = 127.0.0.1:1\ncert = {pki.ec}\n" +
                        token.keys("ec"))
    assert re.search(r"ENGINE_load_private_key: .*", out) and "Failed to load private key from: pkcs11:token=tok" in out
    assert "[!] Service [s]: Failed to initialize TLS context" in out
    without_pin(out, "not-the-pin")


@pytest.mark.parametrize("what", ["token", "object", "module"])
def test_what_is_missing(bench, pki, token, what):
    keys, head = token.keys("ec"), token.head()
    if what == "token":
        keys = keys.replace("token=tok", "token=gone")
    elif what == "object":
        keys = keys.replace("object=ec", "object=gone")
    else:
        head = head.replace(token.module, "/nonexistent/module.so")
    out = bench.refused(f"{head}[s]\naccept = 127.0.0.1:{bench.ports()}\nconnect = 127.0.0.1:1\ncert = {pki.ec}\n{keys}")
    assert "[!] Failed to load private key from: pkcs11:" in out
    assert "[!] Service [s]: Failed to initialize TLS context" in out
    without_pin(out)


def test_a_pin_in_the_uri_is_not_logged(bench, pki, token):
    keys = token.keys("ec").replace("type=private", f"type=private;pin-value={PIN}")
    proxy = bench.tls_server(keys, pem=pki.ec, head=token.head(pin=None))
    assert proxy.lines(r"Private key initialized on engine ID: pkcs11:.*pin-value=\.\.\.")
    bench.client(proxy.port, client_context(pki), server_name="localhost").ping()
    without_pin(proxy.log())


def ask(bench, tmp_path, text, port, answer, prompt):
    """Starts the proxy on a terminal and answers its question."""
    config = tmp_path / "ask.conf"
    config.write_text(f"foreground = yes\nsyslog = no\npid =\n{text}")
    terminal = Terminal(str(config))
    terminal.expect(prompt)
    terminal.say(answer)
    return terminal


def test_the_pin_is_asked_for_once(bench, pki, token, tmp_path):
    port, backend = bench.ports(), bench.server(echo)
    text = f"{token.head(pin=None)}[s]\naccept = 127.0.0.1:{port}\nconnect = 127.0.0.1:{backend.port}\ncert = {pki.ec}\n" + token.keys("ec")
    terminal = ask(bench, tmp_path, text, port, PIN, r"Enter PKCS#11 token PIN for tok:")
    try:
        terminal.expect("Configuration successful")
        assert PIN not in terminal.text, "the PIN must not be echoed"
        until(lambda: not bench.ports.free(port))
        bench.client(port, client_context(pki), server_name="localhost").ping().bye()
        # The token stays open: a reload asks nobody.
        os.kill(terminal.pid, signal.SIGHUP)
        terminal.expect("(?s)Configuration successful.*Configuration successful")
        bench.client(port, client_context(pki), server_name="localhost").ping()
        assert terminal.text.count("Enter PKCS#11") == 1
    finally:
        assert terminal.end() == 0


def test_two_pass_phrases_and_a_reload(bench, pki, tmp_path):
    """Both are asked for once; what was right is tried when files are read again."""
    ports, backend, config = [bench.ports(), bench.ports()], bench.server(echo), tmp_path / "two.conf"
    phrases = ["first phrase", "second phrase"]
    for number, phrase in enumerate(phrases):
        openssl("pkey", "-in", pki.ec_key, "-aes256", "-passout", "pass:" + phrase, "-out", str(tmp_path / f"{number}.key"))
    config.write_text("foreground = yes\nsyslog = no\npid =\n" + "".join(
        f"[{number}]\naccept = 127.0.0.1:{port}\nconnect = 127.0.0.1:{backend.port}\ncert = {pki.ec}\nkey = {tmp_path}/{number}.key\n"
        for number, port in enumerate(ports)))
    terminal = Terminal(str(config))
    try:
        for number, phrase in enumerate(phrases):
            terminal.expect(rf"Enter pass phrase for \S*/{number}\.key:")
            terminal.say(phrase)
        terminal.expect("Configuration successful")
        until(lambda: not bench.ports.free(ports[1]))
        bench.client(ports[0]).ping().bye()  # from here on signals are taken
        os.kill(terminal.pid, signal.SIGHUP)
        terminal.expect("(?s)Configuration successful.*Configuration successful")
        for port in ports:
            bench.client(port, client_context(pki), server_name="localhost").ping().bye()
        assert terminal.text.count("Enter pass phrase") == 2
        assert not any(phrase in terminal.text for phrase in phrases)
    finally:
        assert terminal.end() == 0


def test_a_daemon_asks_before_it_goes_to_the_background(bench, pki, token, tmp_path):
    """The token is opened anew behind the fork, by whoever signs first."""
    port, backend, pid, log = bench.ports(), bench.server(echo), tmp_path / "pid", tmp_path / "log"
    config = tmp_path / "ask.conf"
    config.write_text(f"foreground = no\nsyslog = no\ndebug = debug\noutput = {log}\npid = {pid}\nworkers = 2\n{token.head(pin=None)}[s]\n"
                      f"accept = 127.0.0.1:{port}\nconnect = 127.0.0.1:{backend.port}\ncert = {pki.ec}\n" + token.keys("ec"))
    terminal = Terminal(str(config))
    terminal.expect("Enter PKCS#11 token PIN for tok:")
    terminal.say(PIN)
    assert os.waitstatus_to_exitcode(terminal.end(kill=False)) == 0
    until(lambda: pid.exists() and pid.read_text())
    try:
        handshakes = [later(lambda: bench.client(port, client_context(pki), server_name="localhost").ping().bye()) for _ in range(20)]
        for handshake in handshakes:
            handshake.result(20 * SLOW)
        os.kill(int(pid.read_text()), signal.SIGHUP)
        until(lambda: log.read_text().count("Configuration successful") == 2)
        bench.client(port, client_context(pki), server_name="localhost").ping().bye()
    finally:
        os.kill(int(pid.read_text()), signal.SIGTERM)
        until(lambda: not pid.exists())
    without_pin(log.read_text())


@pytest.mark.parametrize("answer", ["wrong", ""])
def test_a_token_gets_one_try(bench, pki, token, tmp_path, answer):
    """Three wrong PINs may lock it."""
    text = f"{token.head(pin=None)}[s]\naccept = 127.0.0.1:{bench.ports()}\nconnect = 127.0.0.1:1\ncert = {pki.ec}\n" + token.keys("ec")
    terminal = ask(bench, tmp_path, text, 0, answer, r"Enter PKCS#11 token PIN for tok:")
    terminal.expect("Configuration failed")
    assert terminal.text.count("Enter PKCS#11") == 1
    assert "Wrong PIN: giving up" in terminal.text
    assert os.waitstatus_to_exitcode(terminal.end(kill=False)) == 1


def test_a_daemon_with_a_token(bench, pki, token, tmp_path):
    """The engine has been initialised before the fork."""
    port, backend, log, pid = bench.ports(), bench.server(echo), tmp_path / "log", tmp_path / "pid"
    config = tmp_path / "daemon.conf"
    config.write_text(f"foreground = no\nsyslog = no\ndebug = debug\noutput = {log}\npid = {pid}\n{token.head()}[s]\n"
                      f"accept = 127.0.0.1:{port}\nconnect = 127.0.0.1:{backend.port}\ncert = {pki.ec}\n" + token.keys("ec"))
    done = subprocess.run([*WRAPPER, BINARY, str(config)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          timeout=30 * SLOW)
    assert done.returncode == 0, done.stdout
    until(lambda: pid.exists() and pid.read_text())
    try:
        for version in VERSIONS:
            bench.client(port, client_context(pki, version), server_name="localhost").ping().bye()
    finally:
        os.kill(int(pid.read_text()), signal.SIGTERM)
        until(lambda: not pid.exists())
    without_pin(log.read_text())


def test_a_reload_loads_no_engine_twice(bench, pki, token):
    proxy = bench.tls_server(token.keys("ec"), pem=pki.ec, head=token.head())
    body = proxy.text[len(proxy.preamble):]
    for _ in range(3):
        assert proxy.hup()
        bench.client(proxy.port, client_context(pki), server_name="localhost").ping().bye()
    assert len(proxy.lines("Enabling support for engine")) == 1
    assert not proxy.lines("change with the next start")
    assert proxy.hup(body.replace(f"engineCtrl = PIN:{PIN}\n", "engineCtrl = PIN:another\n"))
    proxy.wait_log("LOG5.*Engines, providers and \"fips\" change with the next start")
    bench.client(proxy.port, client_context(pki), server_name="localhost").ping().bye()
    assert not proxy.hup("engineCtrl = INIT\n" + body)
    proxy.wait_log("No engine was defined")
    assert not proxy.hup(body.replace("engineId = pkcs11", "engineId = other"))
    proxy.wait_log("LOG3.*\"engineId = other\": Engine ID not found")
    bench.client(proxy.port, client_context(pki), server_name="localhost").ping()


def test_the_certificate_changes_and_the_key_stays_in_the_token(bench, pki, token, tmp_path):
    path, other = tmp_path / "cert.pem", str(tmp_path / "other.pem")
    path.write_bytes(open(pki.ec, "rb").read())
    openssl("req", "-new", "-key", pki.ec_key, "-x509", "-subj", "/CN=localhost", "-days", "2", "-out", other)
    proxy = bench.tls_server(token.keys("ec") + "certReload = yes", pem=str(path), head=token.head())
    path.write_bytes(open(other, "rb").read())
    proxy.wait_log("LOG5.*changed files of certificates loaded")
    der = ssl.PEM_cert_to_DER_cert(open(other).read())
    assert bench.client(proxy.port).tls.getpeercert(binary_form=True) == der


# --- engines ---


def test_engines_are_opened_in_the_order_of_the_file(bench, pki):
    """The environment before, the latest engine's commands after; the one before is initialised when the next comes."""
    proxy = bench.tls_server(head=f"setEnv = OPENSSL_ENGINES={os.path.dirname(module('slowsign'))}\nengine = slowsign\n"
                             "engineCtrl = DELAY_MS:1\nengineCtrl = INIT\nengineDefault = RSA\nengine = dynamic\n")
    said = [line.split(": ", 1)[1] for line in proxy.lines(r"LOG\d\[ui\]: (UI |Logging |Initializing |Enabling |Executing |Engine #).*engine|Engine #")]
    assert said == ['Enabling support for engine "slowsign"', "Logging not supported by engine #1 (slowsign)",
                    "UI not supported by engine #1 (slowsign)", "Executing engine control command DELAY_MS:1",
                    "Initializing engine #1 (slowsign)", "Engine #1 (slowsign) initialized", "Engine #1 (slowsign) set as default for RSA",
                    'Enabling support for engine "dynamic"', "Logging not supported by engine #2 (dynamic)",
                    "UI not supported by engine #2 (dynamic)", "Initializing engine #2 (dynamic)", "Engine #2 (dynamic) not initialized"]


def test_an_engine_that_cannot_be_initialised_does_not_stop_the_start(bench, pki, token):
    proxy = bench.tls_server(head=token.head().replace(token.module, "/nonexistent/module.so"))
    assert proxy.lines("Initializing engine #1")
    bench.client(proxy.port).ping()


def test_automatic_engines(bench):
    proxy = bench.tls_server(head="engine = auto")
    assert proxy.lines("LOG6.*Enabling automatic engine support") and proxy.lines("LOG6.*Automatic engine support enabled")
    bench.client(proxy.port).ping()


def test_the_effective_configuration_keeps_the_order(bench, tmp_path, token, pki):
    config = tmp_path / "order.conf"
    lines = ["provider = legacy", "engine = dynamic", "engineCtrl = ID:pkcs11", "engine = pkcs11",
             f"engineCtrl = MODULE_PATH:{token.module}", "provider = base"]
    config.write_text("\n".join(lines) + f"\n[s]\naccept = 127.0.0.1:1\nconnect = 127.0.0.1:1\nengineNum = 2\ncert = {pki.ec_pem}\n")
    done = subprocess.run([*WRAPPER, BINARY, "-T", str(config)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=30 * SLOW)
    assert done.returncode == 0, done.stderr
    found = [re.sub(r"\s+=\s+", " = ", line) for line in done.stdout.splitlines() if re.match("(engine|provider)", line)]
    assert found == lines + ["engineNum = 2"]


# --- providers ---


@pytest.mark.parametrize("provider", ["default", "legacy", "base", "legacy\nprovider = base"])
@pytest.mark.parametrize("scheme", ["", "file:", "file://"])
def test_providers_beside_the_default_one(bench, pki, provider, scheme):
    proxy = bench.tls_server(f"key = {scheme}{pki.rsa_key}", pem=scheme + pki.rsa, head=f"provider = {provider}\nworkers = 2")
    for version in VERSIONS:
        bench.client(proxy.port, client_context(pki, version), server_name="localhost").ping()


def vault(key, cert):
    """A provider of the tests whose keys cannot be taken out."""
    return f"setEnv = OPENSSL_MODULES={os.path.dirname(module('vault'))}\nprovider = vault\n", f"vault:{cert}", f"vault:{key}"


@pytest.mark.valgrind
@pytest.mark.parametrize("kind", ["rsa", "ec"])
def test_a_key_that_stays_in_its_provider(bench, pki, kind):
    head, cert, key = vault(getattr(pki, kind + "_key"), getattr(pki, kind))
    proxy = bench.tls_server(f"key = {key}\nlogId = thread", pem=cert, head=head + "workers = 3")
    assert proxy.lines("LOG7.*Private key stays in its provider: each worker opens it")
    for i in range(60):
        bench.client(proxy.port, client_context(pki, VERSIONS[i % 2]), server_name="localhost").ping().bye()
    assert len(set(re.findall(r"LOG5\[(\d+)\]: Service \[s\] accepted connection", proxy.log()))) > 1
    assert proxy.hup()
    bench.client(proxy.port, client_context(pki), server_name="localhost").ping()


def test_a_providers_pin_is_asked_for_once_for_all_workers(bench, pki, tmp_path):
    head, cert, key = vault(pki.ec_key, pki.ec)
    port, backend = bench.ports(), bench.server(echo)
    text = (f"{head}workers = 3\n[s]\naccept = 127.0.0.1:{port}\nconnect = 127.0.0.1:{backend.port}\ncert = {cert}\nkey = {key};pin\n")
    terminal = ask(bench, tmp_path, text, port, "vault-pin", r"Enter PIN for the vault:")
    try:
        terminal.expect("Configuration successful")
        assert "vault-pin" not in terminal.text
        until(lambda: not bench.ports.free(port))
        for _ in range(20):
            bench.client(port, client_context(pki), server_name="localhost").ping().bye()
        assert terminal.text.count("Enter PIN") == 1
    finally:
        assert terminal.end() == 0


def test_a_provider_gets_one_try(bench, pki, tmp_path):
    head, cert, key = vault(pki.ec_key, pki.ec)
    text = f"{head}[s]\naccept = 127.0.0.1:{bench.ports()}\nconnect = 127.0.0.1:1\ncert = {cert}\nkey = {key};pin\n"
    terminal = ask(bench, tmp_path, text, 0, "not-the-pin", r"Enter PIN for the vault:")
    terminal.expect("Configuration failed")
    assert terminal.text.count("Enter PIN") == 1 and "Wrong PIN: giving up" in terminal.text
    assert os.waitstatus_to_exitcode(terminal.end(kill=False)) == 1


@pytest.mark.parametrize("uri", ["pkcs11:token=x;object=y", "nosuchscheme:key"])
def test_a_uri_that_no_provider_knows(bench, pki, uri):
    out = bench.refused(f"[s]\naccept = 127.0.0.1:{bench.ports()}\nconnect = 127.0.0.1:1\ncert = {pki.ec}\nkey = {uri}\n")
    assert f"[!] Failed to load private key from: {uri}" in out
    out = bench.refused(f"[s]\naccept = 127.0.0.1:{bench.ports()}\nconnect = 127.0.0.1:1\ncert = {uri}\n")
    assert f"[!] Failed to load certificate from: {uri}" in out


# --- FIPS ---


def test_fips_without_its_provider_is_refused(bench, pki, tmp_path):
    out = bench.refused(f"setEnv = OPENSSL_MODULES={tmp_path}\nfips = yes\n[s]\naccept = 127.0.0.1:{bench.ports()}\n"
                        f"connect = 127.0.0.1:1\ncert = {pki.ec_pem}\n")
    assert "[!] Global options: \"fips = yes\": OpenSSL's FIPS provider is not installed, or does not work" in out


def test_with_a_fips_provider_nothing_else_is_used(bench, pki):
    """A provider of the tests that only says that it is one."""
    head = f"setEnv = OPENSSL_MODULES={os.path.dirname(module('fips'))}\nfips = yes\nadmin = {{admin}}\n"
    admin = bench.ports()
    proxy = bench.tls_server(pem=pki.rsa_pem, head=head.format(admin=admin))
    assert proxy.lines("LOG5.*FIPS provider enabled")
    for version in VERSIONS:
        client = bench.client(proxy.port, client_context(pki, version), server_name="localhost")
        client.ping(b"x" * 100000)  # more than makes a record layer of our own worth its while
        client.bye()
    page = subprocess.run(["curl", "-sS", f"http://127.0.0.1:{admin}/metrics"], stdout=subprocess.PIPE, text=True, timeout=30 * SLOW).stdout
    assert [line for line in page.splitlines() if re.match(r"tlsplice_connections_promoted_total.* [1-9]", line)] == []
    for refused in (["-groups", "X25519"], ["-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256", "-tls1_3"]):
        done = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{proxy.port}", *refused], input=b"", stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=30 * SLOW)
        assert b"handshake failure" in done.stdout, done.stdout
    assert proxy.hup()
    bench.client(proxy.port, client_context(pki), server_name="localhost").ping()


# --- an accelerator ---


class Accelerator:
    """An engine of the tests that answers from another thread, when it is told to."""

    def __init__(self, directory, *commands, tasks="RSA,EC"):
        self.report, self.held = str(directory / "report"), str(directory / "hold")
        lines = [f"setEnv = OPENSSL_ENGINES={os.path.dirname(module('slowsign'))}", "engine = slowsign"]
        lines += [f"engineCtrl = {command}" for command in (*commands, f"REPORT:{self.report}")]
        self.head = "\n".join([*lines, f"engineDefault = {tasks}", "workers = 1", "async = yes", ""])

    def most(self):
        try:
            with open(self.report) as file:
                return int(file.read() or 0)
        except FileNotFoundError:
            return 0

    def waits(self, jobs=1):
        until(lambda: self.most() >= jobs, 20, f"{jobs} jobs in the accelerator")

    def release(self):
        open(self.held, "w").close()


def hold(tmp_path, *commands):
    return Accelerator(tmp_path, f"HOLD:{tmp_path / 'hold'}", *commands)


def later(function, *args):
    """Runs it in a thread; .result() gives what it returned or raised."""
    future = concurrent.futures.Future()

    def run():
        try:
            future.set_result(function(*args))
        except BaseException as error:
            future.set_exception(error)
    threading.Thread(target=run, daemon=True).start()
    return future


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", ["rsa", "ec"])
def test_one_worker_has_many_handshakes_in_the_accelerator(bench, pki, tmp_path, kind, version):
    """None is answered before sixteen are there."""
    accelerator = Accelerator(tmp_path, "GATHER:16")
    proxy = bench.tls_server(pem=getattr(pki, kind + "_pem"), head=accelerator.head)
    context = client_context(pki, version)
    handshakes = [later(lambda: bench.client(proxy.port, context, server_name="localhost").ping().bye()) for _ in range(16)]
    for handshake in handshakes:
        handshake.result(30 * SLOW)
    assert accelerator.most() == 16
    proxy.wait_log("TLS accepted", 16)


def test_without_async_they_go_one_after_another(bench, pki, tmp_path):
    accelerator = Accelerator(tmp_path, "DELAY_MS:20")
    proxy = bench.tls_server("async = no", pem=pki.rsa_pem, head=accelerator.head)
    handshakes = [later(lambda: bench.client(proxy.port).ping().bye()) for _ in range(8)]
    for handshake in handshakes:
        handshake.result(30 * SLOW)
    assert accelerator.most() == 1


def test_others_go_on_while_one_waits(bench, pki, tmp_path):
    """One worker; RSA waits, ECDSA does not, and bytes of an established connection move."""
    accelerator, ports, backend = hold(tmp_path, "SLOW:RSA"), [bench.ports(), bench.ports()], bench.server(echo)
    proxy = bench.proxy(accelerator.head + "".join(f"[{name}]\naccept = 127.0.0.1:{port}\nconnect = 127.0.0.1:{backend.port}\ncert = {pem}\n"
                                                   for name, port, pem in zip("ab", ports, (pki.rsa_pem, pki.ec_pem))))
    before = bench.client(ports[1]).ping()
    waiting = later(bench.client, ports[0])
    accelerator.waits()
    for version in VERSIONS:
        for _ in range(5):
            bench.client(ports[1], client_context(pki, version), server_name="localhost").ping().bye()
    before.ping(b"x" * 100000)
    assert not waiting.done()
    assert proxy.hup()
    bench.client(ports[1]).ping().bye()
    assert not waiting.done()
    accelerator.release()
    waiting.result(20 * SLOW).ping()


@pytest.mark.parametrize("commands", [("FDS:3",), ("NO_FD:1",)])
def test_engines_tell_in_different_ways(bench, pki, tmp_path, commands):
    accelerator = Accelerator(tmp_path, "GATHER:4", *commands)
    proxy = bench.tls_server(pem=pki.rsa_pem, head=accelerator.head)
    handshakes = [later(lambda: bench.client(proxy.port).ping().bye()) for _ in range(4)]
    for handshake in handshakes:
        handshake.result(30 * SLOW)
    assert accelerator.most() == 4


def test_the_deadline_comes_while_the_engine_is_at_work(bench, pki, tmp_path):
    accelerator = hold(tmp_path)
    proxy = bench.tls_server("TIMEOUTbusy = 1", pem=pki.rsa_pem, head=accelerator.head)
    waiting = later(bench.client, proxy.port)
    accelerator.waits()
    proxy.wait_log("LOG6.*ssl_start: s_poll_wait: TIMEOUTbusy exceeded: sending reset")
    accelerator.release()
    with pytest.raises((ssl.SSLError, OSError)):
        waiting.result(20 * SLOW)
    proxy.wait_log(r"Service \[s\] finished \(0 left\)")
    proxy.wait_idle()
    bench.client(proxy.port).ping()
    assert not proxy.lines("given up")


def test_the_client_goes_while_the_engine_is_at_work(bench, pki, tmp_path):
    accelerator = hold(tmp_path)
    proxy = bench.tls_server(pem=pki.rsa_pem, head=accelerator.head)
    for count in range(1, 4):
        client = bench.client(proxy.port, handshake=False)
        later(client.handshake)
        accelerator.waits(count)
        client.sock.shutdown(2)
        client.close()
    accelerator.release()
    proxy.wait_log(r"Service \[s\] finished \(0 left\)")
    proxy.wait_idle()
    bench.client(proxy.port).ping()


def test_the_proxy_ends_while_the_engine_is_at_work(bench, pki, tmp_path):
    accelerator = hold(tmp_path)
    proxy = bench.tls_server(pem=pki.rsa_pem, head=accelerator.head)
    later(bench.client, proxy.port)
    accelerator.waits()
    proxy.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert proxy.process.poll() is None, "the job's memory is still in use"
    accelerator.release()
    assert proxy.wait_exit() == 0
    assert not proxy.lines("given up")


@pytest.mark.slow
def test_an_engine_that_never_answers_keeps_nobody(bench, pki, tmp_path):
    accelerator = hold(tmp_path, "SLOW:RSA")
    proxy = bench.tls_server("TIMEOUTbusy = 1", pem=pki.rsa_pem, head=accelerator.head)
    later(bench.client, proxy.port)
    accelerator.waits()
    proxy.wait_log("LOG3.*The engine has not answered within 10 seconds: its job is given up", timeout=30)
    proxy.wait_log(r"Service \[s\] finished \(0 left\)")
    proxy.base_fds = None  # what the engine was to write to is lost, and that is meant
    proxy.stop()


def test_a_client_key_in_the_accelerator(bench, pki, tmp_path):
    """Client mode, with a certificate."""
    accelerator = Accelerator(tmp_path, "GATHER:4")
    context = server_context(pki.ec_pem)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(pki.ca)
    proxy = bench.tls_client(bench.server(echo, context=context).port, f"cert = {pki.client_pem}", head=accelerator.head)

    def ping():
        with connect(proxy.port) as sock:
            sock.sendall(b"ping")
            return sock.recv(4)
    pings = [later(ping) for _ in range(4)]
    assert [ping.result(30 * SLOW) for ping in pings] == [b"ping"] * 4


def test_a_virtual_host_in_the_accelerator(bench, pki, tmp_path):
    accelerator, port, backend = Accelerator(tmp_path, "GATHER:4"), bench.ports(), bench.server(echo)
    bench.proxy(accelerator.head + f"[s]\naccept = 127.0.0.1:{port}\nconnect = 127.0.0.1:{backend.port}\ncert = {pki.ec_pem}\n"
                f"[host]\nsni = s:www.example.test\nconnect = 127.0.0.1:{backend.port}\ncert = {pki.rsa_pem}\n")
    handshakes = [later(lambda: bench.client(port, client_context(pki), server_name="www.example.test").ping().bye()) for _ in range(4)]
    for handshake in handshakes:
        handshake.result(30 * SLOW)


def test_async_without_an_engine_changes_nothing(bench, pki):
    proxy = bench.tls_server("async = yes", pem=pki.rsa_pem)
    for version in VERSIONS:
        client = bench.client(proxy.port, client_context(pki, version), server_name="localhost").ping(b"x" * 50000)
        again = bench.client(proxy.port, client.tls.context, session=client.tls.session, server_name="localhost").ping()
        assert again.tls.session_reused


def test_async_with_client_certificates(bench, pki, tmp_path):
    """Verification runs on the engine's stack."""
    accelerator = Accelerator(tmp_path, "GATHER:4")
    proxy = bench.tls_server(f"verifyChain = yes\nCAfile = {pki.ca}", pem=pki.rsa_pem, head=accelerator.head)
    context = client_context(pki, certificate=pki.client_pem)
    handshakes = [later(lambda: bench.client(proxy.port, context, server_name="localhost").ping().bye()) for _ in range(4)]
    for handshake in handshakes:
        handshake.result(30 * SLOW)


def test_load_in_the_accelerator(bench, pki, tmp_path, tools):
    accelerator, port = Accelerator(tmp_path, "DELAY_MS:5"), bench.ports()
    bench.run([tools + "/echo", str(port)])
    proxy = bench.tls_server(backend=port, pem=pki.rsa_pem, head=accelerator.head + "debug = notice\n")
    until(lambda: not bench.ports.free(port))
    load = bench.run([tools + "/load", str(proxy.port), "loop", "16", "3"], stdout=subprocess.PIPE)
    out = load.communicate(timeout=120 * SLOW)[0].decode()
    assert load.returncode == 0, out
    assert int(re.search(r"ok (\d+) failed 0", out).group(1)) > 32, out
    assert accelerator.most() > 1


@pytest.mark.parametrize("what", ["ocsp", "sessiond", "host"])
def test_async_and_other_waits_exclude_one_another(bench, pki, what):
    head = f"[s]\naccept = 127.0.0.1:{bench.ports()}\nconnect = 127.0.0.1:1\ncert = {pki.ec_pem}\nasync = yes\n"
    ocsp = f"verifyChain = yes\nCAfile = {pki.ca}\nOCSP = http://127.0.0.1:1/\n"
    host = f"[host]\nsni = s:www.example.test\nconnect = 127.0.0.1:1\ncert = {pki.ec_pem}\n"
    out = bench.refused(head + {"ocsp": ocsp, "sessiond": "sessiond = 127.0.0.1:1\n", "host": host + ocsp}[what])
    assert '[!] Service [s]: "async" cannot be combined with what handshakes wait for themselves, such as OCSP or sessiond' in out
