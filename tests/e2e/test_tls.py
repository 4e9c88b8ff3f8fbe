# The TLS side: certificates in every form, protocol versions, ciphers, sessions, names.
# SPDX-License-Identifier: Apache-2.0
import os
import pty
import re
import select
import ssl
import subprocess
import threading
import time

import pytest

from peers import client_context, connect, echo, read_all, read_exactly, server_context
from pki import PASSWORD, openssl
from proxy import BINARY, IS_STUNNEL, SLOW, WRAPPER, until

V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


def served(bench, pki, proxy, **options):
    """One verified round trip; returns the client."""
    return bench.client(proxy.port, client_context(pki, **options), server_name="localhost").ping()


def refused(bench, port, context=None):
    """The handshake must fail."""
    with pytest.raises((ssl.SSLError, OSError)):
        bench.client(port, context).ping()


def s_client(port, *args, stdin=b"Q\n", check=True):
    done = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{port}", *args], input=stdin, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=30 * SLOW)
    if check:
        assert done.returncode == 0, done.stdout.decode(errors="replace")
    return done.stdout.decode(errors="replace")


# --- certificates and keys ---


@pytest.mark.san
@pytest.mark.valgrind
@pytest.mark.parametrize("cert, key", [
    ("rsa_pem", None), ("ec_pem", None), ("rsa", "rsa_key"), ("ec", "ec_key"), ("p12", None), ("p12_chain", None)])
def test_certificate_forms(bench, pki, cert, key):
    proxy = bench.tls_server(f"key = {getattr(pki, key)}" if key else "", pem=getattr(pki, cert))
    out = s_client(proxy.port, "-CAfile", pki.bundle)
    assert "Verify return code: 0 (ok)" in out


@pytest.mark.san
@pytest.mark.parametrize("cert, key", [("chain_pem", None), ("chain", "leaf_key"),
                                       pytest.param("p12_chain", None, marks=pytest.mark.ours)])
def test_chain_is_sent(bench, pki, cert, key):
    """A client that knows only the root verifies the leaf: the intermediate came along. (PKCS#12 chains: since 5.70.)"""
    proxy = bench.tls_server(f"key = {getattr(pki, key)}" if key else "", pem=getattr(pki, cert))
    served(bench, pki, proxy)


@pytest.mark.san
def test_options_before_the_sections_are_defaults(bench, pki):
    backend, port = bench.server(echo), bench.ports()
    proxy = bench.proxy(f"cert = {pki.ec}\nkey = {pki.ec_key}\nclient = no\n[s]\naccept = 127.0.0.1:{port}\n"
                        f"connect = 127.0.0.1:{backend.port}\n")
    proxy.port = port
    served(bench, pki, proxy)


@pytest.mark.san
@pytest.mark.parametrize("what, said", [
    ("cert = /nonexistent.pem", "/nonexistent.pem"),
    ("cert = {pki.ec}\nkey = /nonexistent.key", "/nonexistent.key"),
    ("cert = {pki.ec}\nkey = {pki.rsa_key}", "key"),
    ("cert = {pki.extensions}", "extensions.cnf"),
    ("cert = {pki.ec_key}", ""),
    ("", "TLS server needs a certificate"),
    ("cert = {pki.ec_pem}\nciphers = NOSUCHCIPHER", ""),
    ("cert = {pki.ec_pem}\ncurves = nosuchcurve", ""),
    ("cert = {pki.ec_pem}\nsslVersion = TLSv1.4", "Invalid protocol version"),
    ("cert = {pki.ec_pem}\nsslVersionMin = TLSv1.3\nsslVersionMax = TLSv1.2", "Invalid protocol version range"),
    ("cert = {pki.ec_pem}\nconfig = NoSuchCommand:x", "NoSuchCommand"),
    ("cert = {pki.ec_pem}\noptions = NO_SUCH_OPTION", "Illegal TLS option"),
])
def test_bad_tls_settings_are_refused(bench, pki, what, said):
    out = bench.refused(f"[s]\naccept = 127.0.0.1:{bench.ports()}\nconnect = 127.0.0.1:1\n{what.format(pki=pki)}\n")
    assert said in out
    assert re.search(r"(?m)^\[!\] Configuration failed$", out)
    assert "Service [s]" in out or re.search(r"refused\.conf:\d+: ", out)


def test_garbage_certificate_file(bench, pki, tmp_path):
    junk = tmp_path / "junk.pem"
    for content in (b"", b"\0" * 5000, b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", os.urandom(3000),
                    b"\x30\x82\xff\xff" + b"A" * 100):
        junk.write_bytes(content)
        out = bench.refused(f"[s]\naccept = 127.0.0.1:{bench.ports()}\nconnect = 127.0.0.1:1\ncert = {junk}\n")
        assert "Configuration failed" in out


def test_key_file_that_all_may_read_is_warned_of(bench, pki, tmp_path):
    loose = tmp_path / "loose.pem"
    with open(pki.ec_pem) as source:
        loose.write_text(source.read())
    os.chmod(loose, 0o644)
    proxy = bench.tls_server(pem=str(loose))
    assert proxy.lines(r"LOG4\[ui\]: Insecure file permissions on .*loose\.pem")
    served(bench, pki, proxy)


class Terminal:
    """The proxy with a controlling terminal on which it can ask."""

    def __init__(self, config):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            argv = [*WRAPPER, BINARY, config]
            os.execvp(argv[0], argv)
        self.text = ""

    def expect(self, pattern, timeout=20):
        end = time.monotonic() + timeout * SLOW
        while not re.search(pattern, self.text):
            assert time.monotonic() < end, self.text
            if select.select([self.fd], [], [], 0.5)[0]:
                try:
                    data = os.read(self.fd, 4096)
                except OSError:
                    data = b""
                if not data:
                    assert re.search(pattern, self.text), "ended: " + self.text
                self.text += data.decode(errors="replace")

    def say(self, line):
        os.write(self.fd, line.encode() + b"\n")

    def end(self, kill=True):
        if kill:
            os.kill(self.pid, 15)
        _, status = os.waitpid(self.pid, 0)
        os.close(self.fd)
        return status


@pytest.mark.san
@pytest.mark.parametrize("cert, key", [("encrypted_pem", None), ("ec", "encrypted_key"), ("p12_password", None)])
def test_pass_phrase_is_asked_for_on_the_terminal(bench, pki, cert, key, tmp_path):
    backend, port = bench.server(echo), bench.ports()
    config = tmp_path / "ask.conf"
    config.write_text(f"foreground = yes\nsyslog = no\npid =\n[s]\naccept = 127.0.0.1:{port}\nconnect = 127.0.0.1:{backend.port}\n"
                      f"cert = {getattr(pki, cert)}\n" + (f"key = {getattr(pki, key)}\n" if key else ""))
    terminal = Terminal(str(config))
    try:
        # OpenSSL's own words, or the ones that stunnel puts in their place.
        terminal.expect(r"(?i)(pass ?phrase|password).*:")
        terminal.say(PASSWORD)
        terminal.expect("Configuration successful")
        assert PASSWORD not in terminal.text, "the pass phrase must not be echoed"
        until(lambda: not bench.ports.free(port))
        bench.client(port, client_context(pki), server_name="localhost").ping()
    finally:
        assert terminal.end() == 0


def test_wrong_pass_phrases_end_in_an_error(bench, pki, tmp_path):
    config = tmp_path / "ask.conf"
    config.write_text(f"foreground = yes\nsyslog = no\npid =\n[s]\naccept = 127.0.0.1:{bench.ports()}\nconnect = 127.0.0.1:1\n"
                      f"cert = {pki.encrypted_pem}\n")
    terminal = Terminal(str(config))
    for _ in range(3):
        seen = len(terminal.text)
        try:
            terminal.expect(rf"(?is)^.{{{seen},}}(pass ?phrase|password).*:")
            terminal.say("wrong")
        except AssertionError:
            break
    terminal.expect("Configuration failed")
    assert os.waitstatus_to_exitcode(terminal.end(kill=False)) == 1
    if not IS_STUNNEL:  # whose older versions ask more often
        assert len(re.findall("Enter pass phrase for", terminal.text)) == 3
        assert terminal.text.count("Wrong password or PIN: retrying") == 2 and terminal.text.count("Wrong password or PIN: giving up") == 1


def test_encrypted_key_without_a_terminal(bench, pki):
    """Nobody to ask: an error, never a hang."""
    out = subprocess.run(["setsid", *WRAPPER, BINARY, "/dev/stdin"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                         input=f"foreground = yes\nsyslog = no\n[s]\naccept = 127.0.0.1:{bench.ports()}\nconnect = 127.0.0.1:1\n"
                               f"cert = {pki.encrypted_pem}\n".encode(), timeout=30 * SLOW)
    assert out.returncode == 1
    assert b"Configuration failed" in out.stdout or b"Invalid configuration file" in out.stdout


# --- versions and ciphers ---


@pytest.mark.san
@pytest.mark.parametrize("option, good, bad", [
    ("sslVersion = TLSv1.2", V12, V13), ("sslVersion = TLSv1.3", V13, V12), ("sslVersionMin = TLSv1.3", V13, V12),
    ("sslVersionMax = TLSv1.2", V12, V13), ("options = NO_TLSv1_3", V12, V13), ("options = NO_TLSv1_2", V13, V12),
    ("sslVersion = tlsv1.2", V12, V13)])
def test_protocol_versions(bench, pki, option, good, bad):
    proxy = bench.tls_server(option)
    served(bench, pki, proxy, version=good)
    refused(bench, proxy.port, client_context(version=bad))
    proxy.wait_log(r"LOG3\[\d+\]: SSL_accept: .*error:0A000102:SSL routines::unsupported protocol|no suitable signature algorithm")


@pytest.mark.san
@pytest.mark.parametrize("option, arguments, cipher", [
    ("ciphers = ECDHE-ECDSA-AES128-GCM-SHA256", ["-tls1_2"], "ECDHE-ECDSA-AES128-GCM-SHA256"),
    ("ciphersuites = TLS_CHACHA20_POLY1305_SHA256", ["-tls1_3"], "TLS_CHACHA20_POLY1305_SHA256"),
    ("", ["-tls1_3"], "TLS_AES_256_GCM_SHA384"),
    ("curves = P-384", ["-tls1_3"], "TLS_AES_256_GCM_SHA384"),
    ("curve = P-256", ["-tls1_2"], "ECDHE-ECDSA-AES256-GCM-SHA384"),
])
def test_ciphers_and_curves(bench, option, arguments, cipher):
    proxy = bench.tls_server(option)
    out = s_client(proxy.port, *arguments)
    assert re.search(rf"Cipher +(is|:) {cipher}", out), out
    if "P-384" in option:
        assert "secp384r1" in out
    if "P-256" in option:
        assert "prime256v1" in out


@pytest.mark.san
def test_no_cipher_in_common(bench):
    proxy = bench.tls_server("ciphers = ECDHE-ECDSA-AES128-GCM-SHA256\nsslVersion = TLSv1.2")
    refused(bench, proxy.port, client_context(version=V12, ciphers="ECDHE-ECDSA-AES256-GCM-SHA384"))
    proxy.wait_log(r"LOG3\[0\]: SSL_accept: .*no shared cipher")


@pytest.mark.san
@pytest.mark.parametrize("option, chosen", [("", "AES128"), ("CIPHER_SERVER_PREFERENCE", "AES128"), ("-CIPHER_SERVER_PREFERENCE", "AES256")])
def test_whose_order_of_ciphers_counts(bench, option, chosen):
    order = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384"
    proxy = bench.tls_server(f"ciphers = {order}\n" + (f"options = {option}" if option else ""))
    out = s_client(proxy.port, "-tls1_2", "-cipher", ":".join(reversed(order.split(":"))))
    assert re.search(rf"Cipher +is ECDHE-ECDSA-{chosen}-GCM", out)


@pytest.mark.san
def test_who_prefers_chacha20_gets_it(bench):
    proxy = bench.tls_server()
    suites = ["TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256"]
    assert re.search(rf"Cipher +is {suites[0]}", s_client(proxy.port, "-tls1_3", "-ciphersuites", ":".join(suites)))
    assert re.search(rf"Cipher +is {suites[1]}", s_client(proxy.port, "-tls1_3", "-ciphersuites", ":".join(reversed(suites))))


@pytest.mark.san
def test_config_commands(bench):
    proxy = bench.tls_server("config = MaxProtocol:TLSv1.2\nconfig = CipherString:ECDHE-ECDSA-AES128-GCM-SHA256")
    assert re.search(r"Cipher +is ECDHE-ECDSA-AES128-GCM-SHA256", s_client(proxy.port))


def test_old_versions_are_off_by_default(bench):
    proxy = bench.tls_server()
    out = s_client(proxy.port, "-tls1_1", "-cipher", "ALL:@SECLEVEL=0", check=False)
    assert "Cipher is (NONE)" in out


@pytest.mark.san
def test_security_level(bench, pki):
    """Level 4 wants 192 bits: P-256 will not do."""
    out = bench.refused(f"[s]\naccept = 127.0.0.1:{bench.ports()}\nconnect = 127.0.0.1:1\ncert = {pki.ec_pem}\nsecurityLevel = 4\n")
    assert "Configuration failed" in out


ALLOW = "options = ALLOW_CLIENT_RENEGOTIATION\n"


@pytest.mark.ours
def test_the_machine_s_policy(bench, tmp_path):
    """What openssl.cnf forbids is forbidden. A mistake in it is told of, once; its absence is no mistake."""
    cnf = tmp_path / "openssl.cnf"
    for text, said, works in (("MinProtocol = TLSv1.3\n", 0, False), ("[mistake\n", 1, True), (None, 0, True)):
        if text:
            cnf.write_text(f"openssl_conf = a\n[a]\nssl_conf = b\n[b]\nsystem_default = c\n[c]\n{text}")
        else:
            cnf.unlink()
        proxy = bench.tls_server(head="workers = 2", env={"OPENSSL_CONF": str(cnf)})
        if works:
            bench.client(proxy.port, client_context(version=ssl.TLSVersion.TLSv1_2)).ping()
        else:
            with pytest.raises(ssl.SSLError):
                bench.client(proxy.port, client_context(version=ssl.TLSVersion.TLSv1_2))
        proxy.expect_open = True
        assert len(proxy.lines(r"LOG4\[ui\]: .*openssl\.cnf has a mistake: what it says about TLS is not in force$")) == said


@pytest.mark.san
@pytest.mark.parametrize("option, outcome", [(ALLOW, "works"), (ALLOW + "renegotiation = no", "aborted"), ("", "refused"),
                                             ("renegotiation = no", "refused")])
def test_renegotiation(bench, option, outcome):
    """OpenSSL 3 refuses a client's request unless told otherwise; renegotiation = no ends the connection that asks."""
    proxy = bench.tls_server(f"{option}\nsslVersion = TLSv1.2")
    child = bench.run(["openssl", "s_client", "-connect", f"127.0.0.1:{proxy.port}", "-tls1_2", "-legacy_renegotiation"],
                      stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def say(line):
        child.stdin.write(line)
        child.stdin.flush()

    def hear(wanted):
        text = b""
        while wanted not in text:
            part = os.read(child.stdout.fileno(), 65536)
            if not part:
                break
            text += part
        return text

    say(b"before\n")
    assert b"\nbefore\n" in hear(b"\nbefore\n")
    say(b"R\n")
    if outcome == "works":
        hear(b"RENEGOTIATING")
        time.sleep(0.5)
        say(b"after\n")
        assert b"after\n" in hear(b"after\n")  # the line break before it may have been heard already
    else:
        assert b"after" not in hear(b"never said")
        child.wait(20 * SLOW)
        if outcome == "aborted":
            proxy.wait_log("Aborting due to renegotiation request")
    bench.client(proxy.port).ping()


class Renegotiating:
    """`openssl s_server`, which counts what it is sent and can be told to want another handshake."""

    def __init__(self, bench, pki):
        self.port = bench.ports()
        self.child = bench.run(["openssl", "s_server", "-accept", f"127.0.0.1:{self.port}", "-cert", pki.ec, "-key", pki.ec_key, "-tls1_2",
                                "-no_ticket", "-no_resumption_on_reneg"],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.arrived, self.said = 0, b""
        until(lambda: not bench.ports.free(self.port))

    def read(self):
        part = os.read(self.child.stdout.fileno(), 1 << 20)
        assert part, f"the end after {self.arrived} bytes"
        self.arrived += part.count(b"\1")
        self.said += part.replace(b"\1", b"")

    def say(self, line):
        self.child.stdin.write(line)
        self.child.stdin.flush()

    def renegotiate(self):
        before = self.said.count(b"SSL_do_handshake")
        self.say(b"R\n")
        while self.said.count(b"SSL_do_handshake") == before:
            self.read()


@pytest.mark.san
def test_renegotiation_while_data_flows(bench, pki):
    """The server wants another handshake while we are sending: what is sent waits for it, and nothing is lost."""
    size, server = 64 << 20, Renegotiating(bench, pki)
    proxy = bench.tls_client(server.port)
    with connect(proxy.port) as sock:
        thread = threading.Thread(target=sock.sendall, args=(b"\1" * size,), daemon=True)
        thread.start()
        for part in range(1, 5):
            while server.arrived < part * size // 8:
                server.read()
            server.renegotiate()
        while server.arrived < size:
            server.read()
        thread.join()
        server.say(b"done\n")
        assert read_exactly(sock, 5) == b"done\n"


@pytest.mark.serial
@pytest.mark.nosan
def test_server_that_stalls_in_a_renegotiation_takes_no_memory(bench, pki):
    """While the handshake waits for it, so does who sends to it."""
    size, server, open_gate = 64 << 20, Renegotiating(bench, pki), threading.Event()
    open_gate.set()

    def between(sock, _):
        """Lets nothing to the server while the gate is shut."""
        with connect(server.port) as upstream:
            back = threading.Thread(target=pass_on, args=(upstream, sock), daemon=True)
            back.start()
            pass_on(sock, upstream, open_gate)

    proxy = bench.tls_client(bench.server(between).port)
    with connect(proxy.port) as sock:
        sock.sendall(b"\1")
        while not server.arrived:
            server.read()
        open_gate.clear()
        before = proxy.rss_kib()
        server.say(b"R\n")
        proxy.wait_log("read hello request")
        thread = threading.Thread(target=sock.sendall, args=(b"\1" * size,), daemon=True)
        thread.start()
        thread.join(3)
        assert thread.is_alive() and proxy.rss_kib() - before < 16384
        open_gate.set()
        while server.arrived < size + 1:
            server.read()
        thread.join()


def pass_on(source, target, gate=None):
    try:
        while data := source.recv(65536):
            if gate:
                gate.wait()
            target.sendall(data)
    except OSError:
        pass


# --- sessions and tickets ---


def resumed(path, port, *arguments, tries=6):
    return sum("Reused, TLS" in s_client(port, *arguments, "-sess_in", path) for _ in range(tries))


def with_echo(port, *arguments):
    """s_client that stays until an echo came back."""
    child = subprocess.Popen(["openssl", "s_client", "-connect", f"127.0.0.1:{port}", *arguments], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    child.stdin.write(b"hello\n")
    child.stdin.flush()
    text = b""
    while b"\nhello\n" not in text:
        part = os.read(child.stdout.fileno(), 65536)
        if not part:
            break
        text += part
    child.stdin.write(b"Q\n")
    child.stdin.close()
    child.wait(20 * SLOW)
    return text.decode(errors="replace")


def new_session(tmp_path, port, *arguments):
    path = str(tmp_path / f"session{time.monotonic_ns()}")
    out = with_echo(port, *arguments, "-sess_out", path)
    assert os.path.exists(path) and os.path.getsize(path), out
    return path


SESSIONS = [("", "-tls1_3"), ("", "-tls1_2"), ("", "-tls1_2 -no_ticket"), ("options = NO_TICKET", "-tls1_2"),
            ("options = NO_TICKET", "-tls1_3")]


@pytest.mark.san
@pytest.mark.parametrize("option, arguments", SESSIONS)
def test_resumption(bench, tmp_path, option, arguments):
    """Tickets and the stateful cache; the second time and the sixth. A stateful TLS 1.3 ticket is good once."""
    proxy = bench.tls_server(option)
    arguments = arguments.split()
    single = "NO_TICKET" in option and "-tls1_3" in arguments
    for _ in range(4 if single else 1):
        path = new_session(tmp_path, proxy.port, *arguments)
        tries = 1 if single else 6
        assert resumed(path, proxy.port, *arguments, tries=tries) == tries
    assert proxy.lines(r"LOG6\[\d+\]: TLS accepted: previous session reused")


@pytest.mark.ours
@pytest.mark.san
@pytest.mark.parametrize("option, arguments", SESSIONS)
def test_resumption_across_workers(bench, tmp_path, option, arguments):
    """Two workers: whichever gets the connection knows the session."""
    proxy = bench.tls_server(option, head="workers = 2")
    arguments = arguments.split()
    single = "NO_TICKET" in option and "-tls1_3" in arguments
    for _ in range(8 if single else 2):
        path = new_session(tmp_path, proxy.port, *arguments)
        tries = 1 if single else 8
        assert resumed(path, proxy.port, *arguments, tries=tries) == tries


@pytest.mark.ours
@pytest.mark.san
@pytest.mark.parametrize("option, arguments", SESSIONS)
def test_sessions_survive_the_reload_of_an_unchanged_section(bench, tmp_path, option, arguments):
    arguments = arguments.split()
    proxy = bench.tls_server(option)
    path = new_session(tmp_path, proxy.port, *arguments)
    for _ in range(2):
        assert proxy.hup()
    assert resumed(path, proxy.port, *arguments, tries=1) == 1


@pytest.mark.san
def test_sessions_of_a_changed_section_are_dropped(bench, tmp_path, pki):
    proxy = bench.tls_server("sslVersion = TLSv1.2")
    path = new_session(tmp_path, proxy.port)
    assert proxy.hup(proxy.text[len(proxy.preamble):].replace(pki.ec_pem, pki.rsa_pem))
    assert resumed(path, proxy.port, tries=2) == 0


@pytest.mark.san
def test_session_of_another_section_is_not_resumed(bench, tmp_path, pki):
    """The session id context is the section's name: no session crosses over."""
    a, b, backend = bench.ports(), bench.ports(), bench.server(echo)
    bench.proxy(f"cert = {pki.ec_pem}\nconnect = 127.0.0.1:{backend.port}\n[a]\naccept = 127.0.0.1:{a}\n[b]\naccept = 127.0.0.1:{b}\n")
    for arguments in (["-tls1_2"], ["-tls1_3"], ["-tls1_2", "-no_ticket"]):
        path = new_session(tmp_path, a, *arguments)
        assert resumed(path, a, *arguments, tries=1) == 1
        path = new_session(tmp_path, a, *arguments)
        out = s_client(b, *arguments, "-sess_in", path, check=False)
        assert "Reused, TLS" not in out


@pytest.mark.san
def test_session_resume_no(bench, tmp_path):
    proxy = bench.tls_server("sessionResume = no\nsslVersion = TLSv1.2")
    path = str(tmp_path / "session")
    with_echo(proxy.port, "-sess_out", path)
    assert not os.path.exists(path) or resumed(path, proxy.port, tries=3) == 0


@pytest.mark.san
@pytest.mark.parametrize("version", [V12, V13])
def test_client_mode_resumes(bench, pki, version):
    backend = bench.server(echo, context=server_context(pki.ec_pem, version))
    proxy = bench.tls_client(backend.port)
    for _ in range(4):
        with connect(proxy.port) as sock:
            sock.sendall(b"ping")
            assert read_exactly(sock, 4) == b"ping"
        proxy.wait_idle()
    assert proxy.lines(r"LOG6\[0\]: TLS connected: new session negotiated")
    assert proxy.lines(r"LOG6\[\d\]: TLS connected: previous session reused")


# --- names ---


@pytest.mark.san
@pytest.mark.parametrize("option, connect_host, expected", [
    ("sni = name.example.test", "127.0.0.1", "name.example.test"), ("", "localhost", "localhost"), ("sni =", "localhost", None)])
def test_client_mode_sni(bench, pki, option, connect_host, expected):
    names = []
    context = server_context(pki.ec_pem)
    context.sni_callback = lambda sock, name, ctx: names.append(name)
    backend = bench.server(echo, context=context)
    proxy = bench.tls_client(f"{connect_host}:{backend.port}", option)
    with connect(proxy.port) as sock:
        sock.sendall(b"ping")
        assert read_exactly(sock, 4) == b"ping"
    assert names == [expected]
    if expected:
        proxy.wait_log(rf"LOG6\[0\]: SNI: sending servername: {re.escape(expected)}")


@pytest.mark.san
def test_client_certificate_is_offered(bench, pki):
    context = server_context(pki.ec_pem)
    context.load_verify_locations(pki.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    subjects = []

    def handler(sock, server):
        subjects.append(dict(part[0] for part in sock.getpeercert()["subject"])["commonName"])
        return echo(sock, server)

    backend = bench.server(handler, context=context)
    proxy = bench.tls_client(backend.port, f"cert = {pki.client_pem}")
    with connect(proxy.port) as sock:
        sock.sendall(b"ping")
        assert read_exactly(sock, 4) == b"ping"
    assert subjects == ["a client"]


@pytest.mark.san
def test_dh_parameters_in_the_certificate_file(bench, pki, tmp_path):
    combined = tmp_path / "dh.pem"
    with open(pki.rsa_pem) as source:
        combined.write_text(source.read() + openssl("genpkey", "-genparam", "-algorithm", "DH", "-pkeyopt", "group:ffdhe2048"))
    os.chmod(combined, 0o600)
    proxy = bench.tls_server("ciphers = DHE-RSA-AES128-GCM-SHA256\nsslVersion = TLSv1.2", pem=str(combined))
    assert re.search(r"Cipher +is DHE-RSA-AES128-GCM-SHA256", s_client(proxy.port, "-tls1_2"))


@pytest.mark.san
def test_alpn_offered_by_the_client_does_no_harm(bench):
    context = client_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    proxy = bench.tls_server()
    bench.client(proxy.port, context).ping()


@pytest.mark.san
def test_handshake_failure_reaches_the_client_as_an_alert(bench):
    """The fatal alert is not destroyed by a reset behind it."""
    proxy = bench.tls_server("sslVersion = TLSv1.3")
    out = s_client(proxy.port, "-tls1_2", check=False)
    assert "alert protocol version" in out
    if not IS_STUNNEL:
        proxy.wait_log(r"SSL_accept: .*unsupported protocol.*: client 127\.0\.0\.1:\d+")


@pytest.mark.san
def test_upstream_that_is_not_tls(bench):
    def handler(sock, _server):
        sock.sendall(b"220 not TLS at all\r\n" * 10)

    proxy = bench.tls_client(bench.server(handler).port)
    try:
        with connect(proxy.port) as sock:
            assert read_all(sock)[0] == b""
    except ConnectionResetError:
        pass  # quicker than connect(2) came back
    proxy.wait_log(r"LOG3\[0\]: SSL_connect: .*wrong version number")
