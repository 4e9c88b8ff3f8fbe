# Who is let in: chains, installed certificates, names, in both roles and both versions of TLS, with every line of the log.
# SPDX-License-Identifier: Apache-2.0
import concurrent.futures
import os
import re
import socket
import ssl
import subprocess
import threading

import pytest

from peers import TIMEOUT, TlsClient, client_context, connect, echo, read_all, server_context
from pki import CA, LEAF
from proxy import IS_STUNNEL, SLOW, until

TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
VERSIONS = [pytest.param(TLS12, id="tls12"), pytest.param(TLS13, id="tls13")]
ROLES = ["server", "client"]

EKU_SERVER, EKU_CLIENT = LEAF + "extendedKeyUsage = serverAuth\n", LEAF + "extendedKeyUsage = clientAuth\n"


@pytest.fixture(scope="module")
def trust(pki):
    """The certificates that the tests of this file show to the proxy."""
    t = pki.trust
    name = "good.example.test"
    t.issue("good", issuer="intermediate", extensions=LEAF + f"subjectAltName = DNS:{name}, DNS:*.wild.example.test\n")
    t.issue("by-root", issuer="root")
    t.issue("by-other", issuer="other")
    t.issue("expired", issuer="intermediate", start=-3, end=-1)
    t.issue("future", issuer="intermediate", start=1, end=3)
    t.issue("self", extensions=LEAF)
    t.issue("no-chain", issuer="intermediate", chain=False)
    t.issue("not-a-ca", issuer="intermediate")
    t.issue("below-leaf", issuer="not-a-ca")
    t.issue("for-servers", issuer="intermediate", extensions=EKU_SERVER)
    t.issue("for-clients", issuer="intermediate", extensions=EKU_CLIENT)
    t.issue("rsa4096", issuer="intermediate", kind="rsa4096")
    t.issue("ed25519", issuer="intermediate", kind="ed25519")
    t.issue("p384", issuer="intermediate", kind="p384")
    t.issue("san-ip", issuer="intermediate", extensions=LEAF + "subjectAltName = IP:192.0.2.7, IP:2001:db8::7\n")
    t.issue("san-email", issuer="intermediate", extensions=LEAF + "subjectAltName = email:Joe@Example.test\n")
    t.issue("dn-email", "/C=PL/CN=joe/emailAddress=joe@example.test", issuer="intermediate")
    t.issue("cn-only", "/CN=only.example.test", issuer="intermediate")
    t.issue("cn-and-san", "/CN=only.example.test", issuer="intermediate", extensions=LEAF + "subjectAltName = DNS:other.example.test\n")
    t.issue("cn-and-ip-san", "/CN=only.example.test", issuer="intermediate", extensions=LEAF + "subjectAltName = IP:192.0.2.7\n")
    t.issue("star-all", issuer="intermediate", extensions=LEAF + "subjectAltName = DNS:*\n")
    t.issue("star-tld", issuer="intermediate", extensions=LEAF + "subjectAltName = DNS:*.test\n")
    t.issue("star-part", issuer="intermediate", extensions=LEAF + "subjectAltName = DNS:f*.example.test\n")
    t.issue("star-middle", issuer="intermediate", extensions=LEAF + "subjectAltName = DNS:a.*.test\n")
    t.issue("odd-name", "/C=PL/O=Foo, Bar \\+ Co/CN=Zażółć gęślą", issuer="intermediate")
    t.issue("before-nul", f"/CN={name}X.evil.test", issuer="intermediate")
    t.doctored("nul-in-cn", "before-nul", b"testX.evil", b"test\0.evil")
    t.issue("before-nul-san", "/CN=whoever", issuer="intermediate", extensions=LEAF + f"subjectAltName = DNS:{name}X.evil.test\n")
    t.doctored("nul-in-san", "before-nul-san", b"testX.evil", b"test\0.evil")
    t.doctored("forged", "good", b"good.example.test", b"evil.example.test")
    with open(t.crt("forged")) as file, open(t.crt("good")) as good:
        assert file.read() != good.read()
    # What the issuer has signed, and a name that it has not.
    der = subprocess.run(["openssl", "x509", "-in", t.crt("good"), "-outform", "DER"], stdout=subprocess.PIPE, check=True).stdout
    with open(t.path("tampered.der"), "wb") as file:
        file.write(der.replace(b"good.example.test", b"evil.example.test"))
    subprocess.run(["openssl", "x509", "-in", t.path("tampered.der"), "-inform", "DER", "-out", t.crt("tampered")], check=True)
    t.join("tampered.pem", t.crt("tampered"), t.crt("intermediate"), t.key("good"))
    # Cross-signed: root's key and name, from another root. And a root of the same name with another key.
    t.issue("cross", "/C=PL/O=Wire/CN=Root", issuer="other", extensions=CA, key_of="root")
    t.join("crossed.pem", t.crt("good"), t.crt("intermediate"), t.crt("cross"), t.key("good"))
    t.issue("root-again", "/C=PL/O=Wire/CN=Root", extensions=CA)
    t.issue("by-root-again", issuer="root-again")
    t.join("both-roots.crt", t.crt("root-again"), t.crt("root"))
    # The same name: renewed with the same key, and with another key.
    t.issue("good-renewed", "/C=PL/O=Wire/OU=leaf/CN=good", issuer="other", key_of="good", end=3)
    t.issue("good-impostor", "/C=PL/O=Wire/OU=leaf/CN=good", issuer="other")
    t.issue("expired-installed", start=-3, end=-1)
    t.issue("other-name", "/CN=another name, the key of good", issuer="other", key_of="good")
    t.join("two-goods.crt", t.crt("good-impostor"), t.crt("good"))
    t.join("good-and-root.crt", t.crt("good"), t.crt("root"))
    # A chain of four.
    t.issue("second", "/CN=Second", issuer="intermediate", extensions=CA)
    t.issue("third", "/CN=Third", issuer="second", extensions=CA)
    t.issue("deep", issuer="third")
    return t


# --- the two roles, made alike ---


class Outcome:
    """What came of one connection: whether bytes went both ways, which alert the peer got, and what the log says of it."""

    def __init__(self, ok, alert, log):
        self.ok, self.alert, self.log = ok, alert, log


def alert_of(error):
    """'TLSV1_ALERT_UNKNOWN_CA' and its like as 'unknown_ca'."""
    found = re.search(r"ALERT_(\w+)", getattr(error, "reason", "") or "")
    return found.group(1).lower() if found else None


class Meeting:
    """The proxy with one section, and a peer that shows it a certificate."""

    def __init__(self, bench, role, options, global_options=""):
        self.bench, self.role = bench, role
        self.pems = []  # client role: what the server shows, connection by connection
        self.contexts = []
        options = options + "\nsessionResume = no\n"
        if role == "server":
            self.proxy = bench.tls_server(options, head=global_options)
        else:
            self.server = bench.server(self._serve)
            self.proxy = bench.tls_client(self.server.address, options, head=global_options)

    def _serve(self, sock, server):
        with self.contexts[len(self.contexts) - 1].wrap_socket(sock, server_side=True) as tls:
            return echo(tls, server)

    def log_from(self, mark):
        """The log lines of the connection, without time and number."""
        lines = self.proxy.log()[mark:].splitlines()
        return [re.sub(r"^.*?LOG(\d)\[\d+\]: ", r"\1 ", line) for line in lines if re.search(r"LOG\d\[\d+\]: ", line)]

    def wait_end(self, mark):
        until(lambda: re.search(r"LOG7\[\d+\]: Service \[\w+\] finished", self.proxy.log()[mark:]), what="the end of the connection")

    def __call__(self, pem, version=TLS13):
        mark = len(self.proxy.log())
        ok, alert = (self._as_client if self.role == "server" else self._as_server)(pem, version)
        self.wait_end(mark)
        return Outcome(ok, alert, self.log_from(mark))

    def _as_client(self, pem, version):
        context = client_context(version=version, certificate=pem)
        try:
            with TlsClient(self.proxy.port, context) as client:
                client.ping()
                client.bye()
                return True, None
        except (ssl.SSLError, OSError, EOFError) as error:
            return False, alert_of(error)

    def _as_server(self, pem, version):
        self.contexts.append(server_context(pem, version))
        served = len(self.server.results) + len(self.server.errors)
        try:
            with connect(self.proxy.port) as sock:  # a reset may come as early as here
                sock.sendall(b"ping")
                ok = sock.recv(4) == b"ping"
                sock.shutdown(socket.SHUT_WR)
                read_all(sock)
        except OSError:
            ok = False
        until(lambda: len(self.server.results) + len(self.server.errors) > served, what="the server's part")
        alert = alert_of(self.server.errors[-1]) if self.server.errors else None
        self.server.errors.clear()
        return ok, alert


def expect(outcome, ok, alert=None, *lines):
    """Each of `lines` stands in the log, in this order; "6 text": level and text."""
    log = "\n".join(outcome.log)
    assert outcome.ok == ok, log
    if alert and not (IS_STUNNEL and outcome.alert is None):  # a reset of 5.68 may overtake it
        assert outcome.alert == alert, (outcome.alert, log)
    at = 0
    for line in lines:
        assert line in outcome.log[at:], f"{line!r} is missing (in its place) in:\n{log}"
        at += outcome.log[at:].index(line) + 1


def expect_exactly(outcome, ok, *lines):
    """The lines of the verification are these and no others."""
    assert outcome.ok == ok, "\n".join(outcome.log)
    said = [line for line in outcome.log if re.search(r"^\d (CERT:|Verification started|Certificate |Rejected by)", line)]
    assert said == list(lines), "\n".join(outcome.log)


def dn(name):
    return f"C=PL, O=Wire, OU=leaf, CN={name}"


ROOT, INTERMEDIATE = "C=PL, O=Wire, CN=Root", "C=PL, O=Wire, CN=Intermediate"


def passed_above(*names):
    """The lines of certificates above the leaf, from the top."""
    return [line for depth, name in reversed(list(enumerate(names, 1))) for line in
            (f"7 Verification started at depth={depth}: {name}", "7 CERT: Pre-verification succeeded",
             f"6 Certificate accepted at depth={depth}: {name}")]


# --- verifyChain ---


@pytest.mark.san
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("role", ROLES)
def test_every_line_of_an_accepted_chain(bench, trust, role, version):
    meet = Meeting(bench, role, f"verifyChain = yes\nCAfile = {trust.crt('root')}")
    outcome = meet(trust.pem("good"), version)
    expect(outcome, True, None, "6 Peer certificate required", "7 Verification started at depth=2: " + ROOT)
    expect_exactly(outcome, True, *passed_above(INTERMEDIATE, ROOT), "7 Verification started at depth=0: " + dn("good"),
                   "7 CERT: Pre-verification succeeded", "6 CERT: No subject checks configured",
                   "5 Certificate accepted at depth=0: " + dn("good"))


def bad_chain(depth, name, error):
    return [f"7 Verification started at depth={depth}: {name}", f"4 CERT: Pre-verification error: {error}",
            f"4 Rejected by CERT at depth={depth}: {name}"]


CHAINS = {
    # peer: (accepted, alert, lines), CAfile = root
    "good": (True, None, []),
    "by-root": (True, None, []),
    "deep": (True, None, ["6 Certificate accepted at depth=4: " + ROOT, "6 Certificate accepted at depth=1: CN=Third"]),
    "rsa4096": (True, None, []),
    "ed25519": (True, None, []),
    "p384": (True, None, []),
    "crossed": (True, None, ["6 Certificate accepted at depth=2: " + ROOT]),
    "by-other": (False, "unknown_ca", bad_chain(0, dn("by-other"), "unable to get local issuer certificate")),
    "expired": (False, "certificate_expired", bad_chain(0, dn("expired"), "certificate has expired")),
    "future": (False, "bad_certificate", bad_chain(0, dn("future"), "certificate is not yet valid")),
    "no-chain": (False, "unknown_ca", bad_chain(0, dn("no-chain"), "unable to get local issuer certificate")),
    "below-leaf": (False, "unknown_ca", ["4 CERT: Pre-verification error: invalid CA certificate", "4 Rejected by CERT at depth=1: " + dn("not-a-ca")]),
    "tampered": (False, "decrypt_error", bad_chain(0, dn("good"), "certificate signature failure")),
    "by-root-again": (False, "unknown_ca", ["4 Rejected by CERT at depth=0: " + dn("by-root-again")]),
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("role", ROLES)
def test_chains(bench, trust, role, version):
    """Each certificate by a connection of its own: no verdict lives on to the next one."""
    meet = Meeting(bench, role, f"verifyChain = yes\nCAfile = {trust.crt('root')}")
    for name, (ok, alert, lines) in [*CHAINS.items(), *reversed(CHAINS.items())]:
        outcome = meet(trust.pem(name), version)
        try:
            expect(outcome, ok, alert, *lines)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None
    assert not re.search("Sanitizer", meet.proxy.log())


@pytest.mark.ours  # 5.68 says it without what stands in front
@pytest.mark.parametrize("role", ROLES)
def test_self_signed_certificate(bench, trust, role):
    meet = Meeting(bench, role, f"verifyChain = yes\nCAfile = {trust.crt('root')}")
    expect_exactly(meet(trust.pem("self")), False, *bad_chain(
        0, dn("self"), "certificate not found in local repository: self-signed certificate"))
    trusting = Meeting(bench, role, f"verifyChain = yes\nCAfile = {trust.crt('self')}")
    expect(trusting(trust.pem("self")), True)


@pytest.mark.ours
@pytest.mark.parametrize("role", ROLES)
def test_peer_that_sends_its_own_root(bench, trust, role):
    pem = trust.join("with-root.pem", trust.crt("by-other"), trust.crt("other"), trust.key("by-other"))
    meet = Meeting(bench, role, f"verifyChain = yes\nCAfile = {trust.crt('root')}")
    expect(meet(pem), False, "unknown_ca", *bad_chain(
        1, "CN=Other root", "certificate not found in local repository: self-signed certificate in certificate chain"))


@pytest.mark.parametrize("role, pem, ok", [("server", "for-clients", True), ("server", "for-servers", False), ("client", "for-servers", True),
                                           ("client", "for-clients", False)])
def test_purpose_of_the_certificate(bench, trust, role, pem, ok):
    meet = Meeting(bench, role, f"verifyChain = yes\nCAfile = {trust.crt('root')}")
    outcome = meet(trust.pem(pem))
    if ok:
        expect(outcome, True)
    else:
        expect(outcome, False, "unsupported_certificate", *bad_chain(0, dn(pem), "unsuitable certificate purpose"))


@pytest.mark.parametrize("role", ROLES)
def test_cross_signed_root(bench, trust, role):
    """The peer offers a second way up; each root alone is enough."""
    meet = Meeting(bench, role, f"verifyChain = yes\nCAfile = {trust.crt('other')}")
    expect(meet(trust.pem("crossed")), True, None, "6 Certificate accepted at depth=3: CN=Other root", "6 Certificate accepted at depth=2: " + ROOT)
    expect(meet(trust.pem("good")), False, "unknown_ca")


@pytest.mark.parametrize("role", ROLES)
def test_two_roots_of_one_name(bench, trust, role):
    """A renewed root stands beside the old one, in whichever order: both count."""
    for bundle in (trust.path("both-roots.crt"), trust.join("both-roots-2.crt", trust.crt("root"), trust.crt("root-again"))):
        meet = Meeting(bench, role, f"verifyChain = yes\nCAfile = {bundle}")
        for name in ("good", "by-root-again", "by-root"):
            expect(meet(trust.pem(name)), True)


@pytest.mark.parametrize("role", ROLES)
def test_intermediate_alone_is_no_root(bench, trust, role):
    meet = Meeting(bench, role, f"verifyChain = yes\nCAfile = {trust.crt('intermediate')}")
    expect(meet(trust.pem("good")), False, "unknown_ca", "4 CERT: Pre-verification error: unable to get issuer certificate")


def test_intermediate_from_cafile(bench, trust):
    """The peer sends its leaf alone, the rest is known."""
    bundle = trust.join("root-intermediate.crt", trust.crt("root"), trust.crt("intermediate"))
    meet = Meeting(bench, "server", f"verifyChain = yes\nCAfile = {bundle}")
    expect(meet(trust.pem("no-chain")), True)


# --- where CAs come from ---


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("role", ROLES)
def test_capath(bench, trust, role, version, tmp_path):
    directory = trust.hashed(tmp_path / "cas", trust.crt("other"), trust.crt("root-again"), trust.crt("root"))
    meet = Meeting(bench, role, f"verifyChain = yes\nCApath = {directory}")
    for name in ("good", "by-other", "by-root-again"):
        expect(meet(trust.pem(name), version), True)
    expect(meet(trust.pem("self"), version), False, "unknown_ca")
    side = "client" if role == "server" else "server"
    for name in (ROOT, "CN=Other root"):
        assert meet.proxy.lines(rf"LOG6\[ui\]: Configured trusted {side} CA: {re.escape(name)}$")


@pytest.mark.parametrize("role", ROLES)
def test_capath_is_looked_into_when_it_is_needed(bench, trust, role, tmp_path):
    """A CA that comes later counts without a reload."""
    directory = trust.hashed(tmp_path / "cas", trust.crt("other"))
    meet = Meeting(bench, role, f"verifyChain = yes\nCApath = {directory}")
    expect(meet(trust.pem("good")), False, "unknown_ca")
    trust.hashed(directory, trust.crt("root"))
    expect(meet(trust.pem("good")), True)


@pytest.mark.ours  # since 5.75; and there the start goes on
@pytest.mark.parametrize("role", ROLES)
def test_castore(bench, trust, role, tmp_path):
    directory = tmp_path / "store"
    directory.mkdir()
    for name in ("root", "other"):
        (directory / f"{name}.anything").write_text(open(trust.crt(name)).read())
    (directory / "README").write_text("not a certificate\n")
    subprocess.run(["openssl", "x509", "-in", trust.crt("root"), "-outform", "DER", "-out", tmp_path / "root.der"], check=True)
    for uri in (f"file:{trust.crt('root')}", trust.crt("root"), str(tmp_path / "root.der"), f"file:{directory}"):
        meet = Meeting(bench, role, f"verifyChain = yes\nCAstore = {uri}")
        expect(meet(trust.pem("good")), True)
        expect(meet(trust.pem("self")), False, "unknown_ca")
    expect(meet(trust.pem("by-other")), True)


@pytest.mark.ours
@pytest.mark.parametrize("uri", ["file:/nonexistent/x", "/nonexistent/x", "nosuchscheme:x", "{empty}", "file:{directory}", "{key}"])
def test_castore_that_gives_nothing_ends_the_start(bench, trust, pki, tmp_path, uri):
    (tmp_path / "empty").write_text("")
    (tmp_path / "nothing").mkdir()
    uri = uri.format(empty=tmp_path / "empty", directory=tmp_path / "nothing", key=trust.key("good"))
    for verify in ("verifyChain = yes\n", ""):
        said = bench.refused(f"[s]\naccept = 127.0.0.1:{bench.ports()}\nconnect = 127.0.0.1:1\ncert = {pki.ec_pem}\n{verify}CAstore = {uri}\n")
        assert f"[!] Failed to load CA certificates from: {uri}" in said, said
        assert "[!] Service [s]: Failed to initialize TLS context" in said


@pytest.mark.parametrize("file", ["/nonexistent", "{empty}", "{garbage}", "{key}", "{cut}"])
def test_cafile_that_gives_nothing_ends_the_start(bench, trust, pki, tmp_path, file):
    (tmp_path / "empty").write_text("")
    (tmp_path / "garbage").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    (tmp_path / "cut").write_text(open(trust.crt("root")).read()[:200])
    file = file.format(empty=tmp_path / "empty", garbage=tmp_path / "garbage", cut=tmp_path / "cut", key=trust.key("good"))
    said = bench.refused(f"[s]\naccept = 127.0.0.1:{bench.ports()}\nconnect = 127.0.0.1:1\ncert = {pki.ec_pem}\nverifyChain = yes\nCAfile = {file}\n")
    assert "[!] Service [s]: Failed to initialize TLS context" in said


def test_all_sources_count(bench, trust, tmp_path):
    directory = trust.hashed(tmp_path / "cas", trust.crt("other"))
    store = "" if IS_STUNNEL else f"CAstore = {trust.crt('self')}\n"
    meet = Meeting(bench, "server", f"verifyChain = yes\nCAfile = {trust.crt('root')}\nCApath = {directory}\n{store}")
    for name in ("good", "by-other") + (("self",) if store else ()):
        expect(meet(trust.pem(name)), True)
    expect(meet(trust.pem("by-root-again")), False, "unknown_ca")


def test_empty_capath_ends_the_start(bench, trust, pki, tmp_path):
    said = bench.refused(f"[s]\naccept = 127.0.0.1:{bench.ports()}\nconnect = 127.0.0.1:1\ncert = {pki.ec_pem}\nverifyChain = yes\nCApath = {tmp_path}\n")
    assert "[!] No trusted certificates found" in said, said


def test_crowded_cafile(bench, trust, tmp_path):
    """Hundreds of CAs, some twice: the one that is needed is found, in each worker."""
    machine = "/etc/ssl/certs/ca-certificates.crt"
    parts = [machine] * 2 if os.path.exists(machine) else [trust.crt("other")]
    bundle = trust.join("crowd.crt", *parts, trust.crt("root"), trust.crt("root"))
    meet = Meeting(bench, "server", f"verifyChain = yes\nCAfile = {bundle}")
    for _ in range(4):
        expect(meet(trust.pem("good")), True)
        expect(meet(trust.pem("by-other")), len(parts) == 1)


# --- verifyPeer ---


@pytest.mark.san
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("role", ROLES)
def test_every_line_of_an_installed_certificate(bench, trust, role, version):
    """The issuer is not known: three times the same, as OpenSSL asks three times."""
    meet = Meeting(bench, role, f"verifyPeer = yes\nCAfile = {trust.crt('good')}")
    once = ["6 CERT: No subject checks configured", "6 CERT: Locally installed certificate matched",
            "5 Certificate accepted at depth=0: " + dn("good")]
    started = "7 Verification started at depth=0: " + dn("good")
    pem = trust.join("good-alone.pem", trust.crt("good"), trust.key("good"))
    expect_exactly(meet(pem, version), True,
                   started, "6 CERT: Pre-verification error ignored: unable to get local issuer certificate", *once,
                   started, "6 CERT: Pre-verification error ignored: unable to verify the first certificate", *once,
                   started, "7 CERT: Pre-verification succeeded", *once)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("role", ROLES)
def test_certificate_that_is_not_installed(bench, trust, role, version):
    meet = Meeting(bench, role, f"verifyPeer = yes\nCAfile = {trust.crt('good')}")
    pem = trust.join("by-root-alone.pem", trust.crt("by-root"), trust.key("by-root"))
    outcome = meet(pem, version)
    expect_exactly(outcome, False, "7 Verification started at depth=0: " + dn("by-root"),
                   "6 CERT: Pre-verification error ignored: unable to get local issuer certificate",
                   "6 CERT: No subject checks configured", "4 CERT: Certificate not found in local repository",
                   "4 Rejected by CERT at depth=0: " + dn("by-root"))
    assert outcome.alert == "bad_certificate"


INSTALLED = [
    # installed, shown, accepted, alert
    ("good", "good-renewed", True, None),
    ("good-renewed", "good", True, None),
    ("good", "good-impostor", False, "bad_certificate"),
    ("good", "other-name", False, "bad_certificate"),
    ("good-and-root", "good", True, None),
    ("good-and-root", "by-root", False, "bad_certificate"),
    ("two-goods", "good", True, None),
    ("two-goods", "good-impostor", True, None),
    ("root", "good", False, "bad_certificate"),
    ("intermediate", "good", False, "bad_certificate"),
    ("self", "self", True, None),
    ("expired-installed", "expired-installed", False, "certificate_expired"),
    ("good", "self", False, "unknown_ca"),
    ("ed25519", "ed25519", True, None),
    ("good", "tampered", False, None),
]


@pytest.mark.parametrize("installed, shown, ok, alert", INSTALLED, ids=[f"{a}-{b}" for a, b, _, _ in INSTALLED])
def test_verify_peer(bench, trust, installed, shown, ok, alert):
    """The same name and the same key: that is what counts, whoever has signed it."""
    for role in ROLES:
        meet = Meeting(bench, role, f"verifyPeer = yes\nCAfile = {trust.crt(installed)}")
        for version in (TLS12, TLS13):
            expect(meet(trust.pem(shown), version), ok, alert)


def test_same_point_on_another_curve(bench, trust, tmp_path):
    """CVE-2020-0601: the bits of the public key alone are not the key."""
    explicit = tmp_path / "explicit.pem"
    made = subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-param_enc", "explicit", "-genkey", "-noout", "-out", explicit],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert made.returncode == 0, made.stdout
    subprocess.run(["openssl", "req", "-x509", "-new", "-key", explicit, "-subj", "/C=PL/O=Wire/OU=leaf/CN=good", "-days", "2",
                    "-out", tmp_path / "explicit.crt"], check=True, stderr=subprocess.DEVNULL)
    pem = tmp_path / "both.pem"
    pem.write_text((tmp_path / "explicit.crt").read_text() + explicit.read_text())
    meet = Meeting(bench, "server", f"verifyPeer = yes\nCAfile = {trust.crt('good')}")
    expect(meet(trust.pem("good")), True)
    try:
        outcome = meet(str(pem))
    except ssl.SSLError:
        return  # the peer's own OpenSSL does not take it
    expect(outcome, False)


@pytest.mark.parametrize("role", ROLES)
def test_verify_peer_with_capath(bench, trust, role, tmp_path):
    directory = trust.hashed(tmp_path / "peers", trust.crt("good-impostor"), trust.crt("good"), trust.crt("self"))
    meet = Meeting(bench, role, f"verifyPeer = yes\nCApath = {directory}")
    for name in ("good", "good-impostor", "self"):
        expect(meet(trust.pem(name)), True, None, "6 CERT: Locally installed certificate matched")
    expect(meet(trust.pem("by-root")), False, "bad_certificate")


@pytest.mark.ours  # there a file hides the directory
def test_verify_peer_looks_everywhere(bench, trust, tmp_path):
    """CAfile has a certificate of that name, CApath has the right one."""
    directory = trust.hashed(tmp_path / "peers", trust.crt("good"))
    meet = Meeting(bench, "server", f"verifyPeer = yes\nCAfile = {trust.crt('good-impostor')}\nCApath = {directory}\nCAstore = {trust.crt('self')}")
    for _ in range(3):
        for name in ("good", "good-impostor", "self"):
            expect(meet(trust.pem(name)), True)
        expect(meet(trust.pem("other-name")), False, "bad_certificate")


def test_verify_peer_and_chain(bench, trust):
    """Both must hold."""
    meet = Meeting(bench, "server", f"verifyPeer = yes\nverifyChain = yes\nCAfile = {trust.path('good-and-root.crt')}")
    expect(meet(trust.pem("good")), True, None, "6 CERT: Locally installed certificate matched")
    expect(meet(trust.pem("by-root")), False, "bad_certificate", "4 CERT: Certificate not found in local repository")
    leaf_only = Meeting(bench, "server", f"verifyPeer = yes\nverifyChain = yes\nCAfile = {trust.crt('good')}")
    expect(leaf_only(trust.pem("good")), False, "unknown_ca")


# --- verify = 0 ... 4, requireCert ---


LEVELS = {
    # what is shown to each level with CAfile = root and good: accepted?
    0: {"good": True, "by-root": True, "by-other": True, "self": True, None: True},
    1: {"good": True, "by-root": True, "by-other": False, "self": False, None: True},
    2: {"good": True, "by-root": True, "by-other": False, "self": False, None: False},
    3: {"good": True, "by-root": False, "by-other": False, "self": False, None: False},
    4: {"good": True, "by-root": False, "by-other": False, "self": False, None: False},
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("level", LEVELS)
def test_verify_levels(bench, trust, level, version):
    meet = Meeting(bench, "server", f"verify = {level}\nCAfile = {trust.path('good-and-root.crt')}")
    for name, ok in LEVELS[level].items():
        outcome = meet(name and trust.pem(name), version)
        expect(outcome, ok, None, f"6 Peer certificate {'required' if level >= 2 else 'not required'}")
        if name is None and not ok:
            expect(outcome, False, "certificate_required" if version == TLS13 else "handshake_failure")
            assert any("peer did not return a certificate" in line for line in outcome.log), outcome.log


@pytest.mark.parametrize("level", [2, 3, 4])
def test_verify_levels_of_clients(bench, trust, level):
    meet = Meeting(bench, "client", f"verify = {level}\nCAfile = {trust.path('good-and-root.crt')}")
    for name, ok in LEVELS[level].items():
        if name:
            expect(meet(trust.pem(name)), ok)


def test_verify_4_needs_no_chain(bench, trust):
    meet = Meeting(bench, "server", f"verify = 4\nCAfile = {trust.crt('good')}")
    expect(meet(trust.pem("good")), True)
    expect(meet(trust.pem("by-root")), False)


@pytest.mark.ours  # the words of 5.75
@pytest.mark.parametrize("role", ROLES)
def test_nothing_is_verified_unless_asked_for(bench, trust, role):
    """CAfile alone verifies nobody, and the log says so."""
    meet = Meeting(bench, role, f"CAfile = {trust.crt('root')}" + ("\nrequireCert = yes" if role == "server" else ""))
    outcome = meet(trust.pem("self"))
    expect_exactly(outcome, True, "6 CERT: Certificate verification disabled")
    expect(outcome, True, None, f"6 Peer certificate {'required' if role == 'server' else 'not required'}")


@pytest.mark.parametrize("version", VERSIONS)
def test_require_cert(bench, trust, version):
    """Any certificate, but one."""
    meet = Meeting(bench, "server", "requireCert = yes")
    expect(meet(trust.pem("self"), version), True)
    outcome = meet(None, version)
    expect(outcome, False)
    assert any("peer did not return a certificate" in line for line in outcome.log), outcome.log


def test_require_cert_as_a_global_option(bench, trust):
    meet = Meeting(bench, "server", "", global_options="requireCert = yes\n")
    expect(meet(None), False)
    expect(meet(trust.pem("self")), True)


def test_nobody_is_asked_by_default(bench, trust):
    meet = Meeting(bench, "server", "")
    outcome = meet(trust.pem("good"))
    expect(outcome, True, None, "6 Peer certificate not required")
    assert not [line for line in outcome.log if "CERT:" in line]


# --- names ---


NAMES = [
    # shown, options, what matched (None: refused)
    ("good", "checkHost = good.example.test", '6 CERT: Host name "good.example.test" matched with "good.example.test"'),
    ("good", "checkHost = GOOD.Example.TEST", '6 CERT: Host name "GOOD.Example.TEST" matched with "good.example.test"'),
    ("good", "checkHost = a.wild.example.test", '6 CERT: Host name "a.wild.example.test" matched with "*.wild.example.test"'),
    ("good", "checkHost = a.b.wild.example.test", None),
    ("good", "checkHost = wild.example.test", None),
    ("good", "checkHost = example.test", None),
    ("good", "checkHost = .example.test", '6 CERT: Host name ".example.test" matched with "good.example.test"'),
    ("good", "checkHost = good.example.test.", None),
    ("good", "checkHost = good", None),
    ("good", "checkHost = wrong.test\ncheckHost = good.example.test", '6 CERT: Host name "good.example.test" matched with "good.example.test"'),
    ("good", "checkHost = wrong.test\ncheckHost = wronger.test", None),
    ("cn-only", "checkHost = only.example.test", '6 CERT: Host name "only.example.test" matched with "only.example.test"'),
    ("cn-and-san", "checkHost = only.example.test", None),
    ("cn-and-san", "checkHost = other.example.test", '6 CERT: Host name "other.example.test" matched with "other.example.test"'),
    ("cn-and-ip-san", "checkHost = only.example.test", '6 CERT: Host name "only.example.test" matched with "only.example.test"'),
    ("nul-in-cn", "checkHost = good.example.test", None),
    ("nul-in-san", "checkHost = good.example.test", None),
    ("star-all", "checkHost = anything", None),
    ("star-tld", "checkHost = example.test", None),
    ("star-part", "checkHost = foo.example.test", '6 CERT: Host name "foo.example.test" matched with "f*.example.test"'),
    ("star-part", "checkHost = goo.example.test", None),
    ("star-middle", "checkHost = a.b.test", None),
    ("san-ip", "checkIP = 192.0.2.7", '6 CERT: IP address "192.0.2.7" matched'),
    ("san-ip", "checkIP = 2001:DB8:0::7", '6 CERT: IP address "2001:DB8:0::7" matched'),
    ("san-ip", "checkIP = 192.0.2.8", None),
    ("san-ip", "checkIP = ::ffff:192.0.2.7", None),
    ("san-ip", "checkHost = 192.0.2.7", None),
    ("san-email", "checkEmail = Joe@Example.test", '6 CERT: Email address "Joe@Example.test" matched'),
    ("san-email", "checkEmail = Joe@example.TEST", '6 CERT: Email address "Joe@example.TEST" matched'),
    ("san-email", "checkEmail = joe@example.test", None),
    ("dn-email", "checkEmail = joe@example.test", '6 CERT: Email address "joe@example.test" matched'),
    ("good", "checkEmail = joe@example.test", None),
    # any of any
    ("san-ip", "checkHost = wrong.test\ncheckEmail = a@b.test\ncheckIP = 192.0.2.9\ncheckIP = 192.0.2.7", '6 CERT: IP address "192.0.2.7" matched'),
    ("san-email", "checkHost = wrong.test\ncheckEmail = Joe@Example.test\ncheckIP = 192.0.2.9", '6 CERT: Email address "Joe@Example.test" matched'),
    ("good", "checkHost = good.example.test\ncheckEmail = a@b.test\ncheckIP = 192.0.2.9",
     '6 CERT: Host name "good.example.test" matched with "good.example.test"'),
    ("good", "checkHost = wrong.test\ncheckEmail = a@b.test\ncheckIP = 192.0.2.9", None),
]


def lines_of(name):
    return name.replace("\n", ", ")


@pytest.mark.parametrize("shown, options, matched", NAMES, ids=[f"{a}: {lines_of(b)}" for a, b, _ in NAMES])
def test_names(bench, trust, shown, options, matched):
    for number, role in enumerate(ROLES):
        meet = Meeting(bench, role, f"verifyChain = yes\nCAfile = {trust.crt('root')}\n{options}")
        outcome = meet(trust.pem(shown), (TLS12, TLS13)[number])
        if matched:
            expect(outcome, True, None, "7 CERT: Pre-verification succeeded", matched)
        else:
            expect(outcome, False, None if IS_STUNNEL else "bad_certificate", "4 CERT: Subject checks failed")


@pytest.mark.ours  # 80 internal_error there
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("role", ROLES)
def test_wrong_name_is_a_bad_certificate(bench, trust, role, version):
    for check in ("checkHost = wrong.test", "checkEmail = a@b.test", "checkIP = 192.0.2.9"):
        meet = Meeting(bench, role, f"verifyPeer = yes\nCAfile = {trust.crt('good')}\n{check}")
        expect(meet(trust.pem("good"), version), False, "bad_certificate", "4 CERT: Subject checks failed",
               "4 Rejected by CERT at depth=0: " + dn("good"))


def test_names_are_looked_at_before_the_local_copy(bench, trust):
    meet = Meeting(bench, "server", f"verifyPeer = yes\nCAfile = {trust.crt('good')}\ncheckHost = wrong.test")
    outcome = meet(trust.pem("good"))
    expect(outcome, False)
    assert not [line for line in outcome.log if "Locally installed" in line]


def test_how_names_look_in_the_log(bench, trust):
    meet = Meeting(bench, "server", f"verifyChain = yes\nCAfile = {trust.crt('root')}")
    outcome = meet(trust.pem("odd-name"))
    expect(outcome, True, None, '5 Certificate accepted at depth=0: C=PL, O="Foo, Bar + Co", CN=Zażółć gęślą')
    outcome = meet(trust.pem("nul-in-cn"))
    expect(outcome, True, None, r"5 Certificate accepted at depth=0: CN=good.example.test\00.evil.test")


def test_lists_of_a_section_replace_the_global_ones(bench, trust):
    if IS_STUNNEL:
        pytest.skip("since 5.76")
    meet = Meeting(bench, "server", f"verifyChain = yes\nCAfile = {trust.crt('root')}\ncheckHost = wrong.test",
                   global_options="checkHost = good.example.test\n")
    expect(meet(trust.pem("good")), False)


# --- what is said at start, what clients are told ---


def start_lines(bench, role, options):
    return Meeting(bench, role, options).proxy.lines(r"LOG\d\[ui\]:")


@pytest.mark.parametrize("options, needs, unchecked", [
    ("", True, False), ("CAfile = {root}", True, False), ("verifyChain = yes\nCAfile = {root}", False, True),
    ("verifyChain = yes\nCAfile = {root}\ncheckHost = a", False, False), ("verifyChain = yes\nCAfile = {root}\ncheckIP = 1.2.3.4", False, False),
    ("verifyChain = yes\nCAfile = {root}\ncheckEmail = a@b", False, False), ("verifyPeer = yes\nCAfile = {root}", False, False),
    ("verify = 2\nCAfile = {root}", False, True), ("verify = 0", True, False)])
def test_warnings_of_clients(bench, trust, options, needs, unchecked):
    lines = start_lines(bench, "client", options.format(root=trust.crt("root")))

    def said(text):
        return bool([line for line in lines if line.endswith("LOG4[ui]: " + text)])
    assert said("Service [c] needs authentication to prevent MITM attacks") == needs
    assert said('Service [c] uses "verifyChain" without subject checks') == unchecked
    assert said('Use "checkHost" or "checkIP" to restrict trusted certificates') == unchecked


def test_servers_are_not_warned(bench, trust):
    for options in ("", f"verifyChain = yes\nCAfile = {trust.crt('root')}"):
        assert not [line for line in start_lines(bench, "server", options) if "MITM" in line or "subject checks" in line]


def test_client_cas_are_told(bench, trust, need):
    """The names of CAfile, once each, in the CertificateRequest."""
    bundle = trust.join("told.crt", trust.crt("root"), trust.crt("other"), trust.crt("root-again"))
    proxy = bench.tls_server(f"verifyChain = yes\nCAfile = {bundle}")
    for version in ("-tls1_2", "-tls1_3"):
        out = subprocess.run([need("openssl"), "s_client", "-connect", f"127.0.0.1:{proxy.port}", version, "-cert", trust.pem("good"), "-key",
                              trust.key("good"), "-cert_chain", trust.pem("good")], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, timeout=30 * SLOW, text=True).stdout
        told = re.search(r"Acceptable client certificate CA names\n(.*?)\n(?:Client|Requested)", out, re.S).group(1)
        assert sorted(told.splitlines()) == ["C = PL, O = Wire, CN = Root", "CN = Other root"], out
    assert len(proxy.lines(r"LOG6\[ui\]: Configured trusted client CA: C=PL, O=Wire, CN=Root$")) == 1
    proxy.wait_idle()


def test_cafile_completes_the_own_chain(bench, trust):
    """The server has its leaf alone in `cert`; a client that knows the root only still gets there."""
    bundle = trust.join("root-intermediate.crt", trust.crt("root"), trust.crt("intermediate"))
    pem = trust.join("good-alone.pem", trust.crt("good"), trust.key("good"))
    crl = trust.crl("none-of-all", "intermediate")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(trust.crt("root"))
    for more in ("", f"CRLfile = {crl}\nverify = 1\n"):  # lists are for peers
        proxy = bench.tls_server(f"CAfile = {bundle}\n{more}", pem=pem)
        with bench.client(proxy.port, context, server_name="good.example.test") as client:
            client.ping()
            client.bye()


@pytest.mark.ours
@pytest.mark.parametrize("role", ROLES)
def test_ciphers_without_certificates_are_refused_beside_verification(bench, trust, pki, role):
    """A peer that needs no certificate would pass every check of it."""
    text = f"[s]\naccept = 127.0.0.1:{bench.ports()}\nconnect = 127.0.0.1:1\nCAfile = {trust.crt('root')}\n" + (
        "client = yes\n" if role == "client" else f"cert = {pki.ec_pem}\n")
    weak = "securityLevel = 0\nciphers = aNULL:HIGH\n"
    for verify in ("verifyChain = yes\n", "verifyPeer = yes\n", "verify = 2\n", "requireCert = yes\n"):
        assert "has no certificates to verify" in bench.refused(text + verify + weak)
    bench.proxy(text + weak)
    text = re.sub(r"accept = .*", f"accept = 127.0.0.1:{bench.ports()}", text)
    bench.proxy(text + "verifyChain = yes\nciphers = ALL\n")  # level 2 has none of them


# --- reload ---


@pytest.mark.parametrize("role", ROLES)
def test_reload_changes_who_is_trusted(bench, trust, role, tmp_path):
    """A new CAfile counts for the next connection; a bad one changes nothing."""
    ca = tmp_path / "ca.crt"
    ca.write_text(open(trust.crt("root")).read())
    meet = Meeting(bench, role, f"verifyChain = yes\nCAfile = {ca}")
    expect(meet(trust.pem("good")), True)
    ca.write_text(open(trust.crt("other")).read())
    assert meet.proxy.hup()
    expect(meet(trust.pem("good")), False, "unknown_ca")
    expect(meet(trust.pem("by-other")), True)
    ca.write_text("")
    assert not meet.proxy.hup()
    expect(meet(trust.pem("by-other")), True)


@pytest.mark.parametrize("version", VERSIONS)
def test_session_of_one_who_was_trusted(bench, trust, version, tmp_path):
    """A ticket from before the reload is worth nothing once another CA decides."""
    ca = tmp_path / "ca.crt"
    ca.write_text(open(trust.crt("root")).read())
    proxy = bench.tls_server(f"verifyChain = yes\nCAfile = {ca}")
    context = client_context(version=version, certificate=trust.pem("good"))
    with TlsClient(proxy.port, context) as client:
        client.ping()
        session = client.tls.session
        client.bye()
    with TlsClient(proxy.port, context, session=session) as client:
        client.ping()
        assert client.tls.session_reused
        client.bye()
    assert proxy.hup()
    if not IS_STUNNEL:
        with TlsClient(proxy.port, context, session=session) as client:
            client.ping()
            assert client.tls.session_reused
            client.bye()
    ca.write_text(open(trust.crt("other")).read())
    assert proxy.hup()
    with pytest.raises((ssl.SSLError, OSError, EOFError)):
        with TlsClient(proxy.port, context, session=session) as client:
            client.ping()


# --- other peers ---


def run(argv, data=b"ping\n", timeout=30):
    done = subprocess.run(argv, input=data, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout * SLOW)
    return done.returncode, done.stdout.decode(errors="replace")


def said_by(port):
    """What comes back through a proxy; nothing if it ends the connection."""
    try:
        with connect(port) as sock:
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return sock.recv(1000)
    except OSError:
        return b""


def greeter(sock, _server):
    """Answers at once and ends, so that no client has to wait for anything."""
    sock.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 6\r\n\r\nhello\n")
    sock.shutdown(socket.SHUT_WR)
    return read_all(sock)


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("program", ["openssl", "gnutls-cli", "curl", "stunnel4"])
def test_clients_of_other_makes(bench, trust, need, program, version, tmp_path):
    """Each with a good, a foreign and no certificate."""
    backend = bench.server(greeter)
    proxy = bench.tls_server(f"verifyChain = yes\nCAfile = {trust.crt('root')}\nsessionResume = no", backend=backend)
    tls = f"127.0.0.1:{proxy.port}"
    for name, ok in (("good", True), ("by-other", False), (None, False)):
        pem, key = name and trust.pem(name), name and trust.key(name)
        if program == "openssl":
            argv = [need("openssl"), "s_client", "-connect", tls, "-tls" + version.replace(".", "_"), "-quiet"]
            argv += ["-cert", pem, "-key", key, "-cert_chain", pem] if name else []
        elif program == "gnutls-cli":
            argv = [need("gnutls-cli"), "--insecure", "-p", str(proxy.port), "--priority", "NORMAL:-VERS-ALL:+VERS-TLS" + version, "127.0.0.1"]
            argv += [f"--x509certfile={pem}", f"--x509keyfile={key}"] if name else []
        elif program == "curl":
            argv = [need("curl"), "-sS", "-k", "-m", "20", f"--tlsv{version}", "--tls-max", version, f"https://{tls}/"]
            argv += ["--cert", pem, "--key", key] if name else []
        else:
            port = bench.ports()
            config = tmp_path / f"peer-{name}.conf"
            config.write_text(f"foreground = yes\nsyslog = no\npid =\n[c]\nclient = yes\naccept = 127.0.0.1:{port}\nconnect = {tls}\n"
                              f"sslVersion = TLSv{version}\n" + (f"cert = {pem}\nkey = {key}\n" if name else ""))
            peer = bench.run([need("stunnel4"), str(config)])
            until(lambda: not bench.ports.free(port), what="stunnel4 listens")
            out = said_by(port)
            peer.terminate()
            peer.wait()
            assert (b"hello" in out) == ok, (name, out, proxy.log()[-3000:])
            continue
        status, out = run(argv)
        assert ("hello" in out) == ok, (name, status, out, proxy.log()[-3000:])
    proxy.wait_log("Service .* finished", 3)
    assert len(proxy.lines(r"LOG5\[\d+\]: Certificate accepted at depth=0: " + re.escape(dn("good")))) == 1
    assert len(proxy.lines(r"LOG5\[\d+\]: Certificate accepted at depth=0: ")) == 1
    assert proxy.lines("peer did not return a certificate")


@pytest.mark.parametrize("version", ["1.2", "1.3"])
@pytest.mark.parametrize("program", ["openssl", "gnutls-serv", "stunnel4"])
def test_servers_of_other_makes(bench, trust, need, program, version, tmp_path):
    """Each with a good and a foreign certificate, and with a good one of another name."""
    for name, ok in (("good", True), ("by-other", False), ("by-root", False)):
        port = bench.ports()
        pem, key = trust.pem(name), trust.key(name)
        if program == "openssl":
            peer = bench.run([need("openssl"), "s_server", "-accept", f"127.0.0.1:{port}", "-cert", pem, "-key", key, "-cert_chain", pem,
                              "-tls" + version.replace(".", "_"), "-www"])
        elif program == "gnutls-serv":
            peer = bench.run([need("gnutls-serv"), "-p", str(port), "--http", f"--x509certfile={pem}", f"--x509keyfile={key}",
                              "--priority", "NORMAL:-VERS-ALL:+VERS-TLS" + version])
        else:
            backend = bench.server(greeter)
            config = tmp_path / f"peer-{name}.conf"
            config.write_text(f"foreground = yes\nsyslog = no\npid =\n[s]\naccept = 127.0.0.1:{port}\nconnect = 127.0.0.1:{backend.address}\n"
                              f"sslVersion = TLSv{version}\ncert = {pem}\n")
            peer = bench.run([need("stunnel4"), str(config)])
        until(lambda: not bench.ports.free(port), what=f"{program} listens")
        proxy = bench.tls_client(port, f"verifyChain = yes\nCAfile = {trust.crt('root')}\ncheckHost = good.example.test")
        out = said_by(proxy.port)
        assert (b"HTTP/1.0 200" in out) == ok, (name, out, proxy.log()[-3000:])
        proxy.wait_log("Service .* finished")
        assert bool(proxy.lines(r"LOG5\[\d+\]: Certificate accepted at depth=0: " + re.escape(dn("good")))) == ok
        peer.terminate()
        peer.wait()


# --- many at once ---


@pytest.mark.san
@pytest.mark.parametrize("version", VERSIONS)
def test_no_verdict_leaks_between_handshakes(bench, trust, version):
    """Two hundred handshakes at once, every other one with a certificate that is not accepted: each gets its own verdict."""
    meet = Meeting(bench, "server", f"verifyChain = yes\nCAfile = {trust.crt('root')}\ncheckHost = good.example.test", global_options="debug = info\n")
    names = ["good", "by-root", "good", "expired", "good", "by-other", "good", None]
    gate = threading.Barrier(50)

    def one(number):
        name = names[number % len(names)]
        gate.wait(TIMEOUT)
        return name, meet._as_client(name and trust.pem(name), version)[0]
    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        results = list(pool.map(one, range(200)))
    assert [ok for _, ok in results] == [name == "good" for name, _ in results]
    meet.proxy.wait_idle()
    meet.proxy.wait_log(r"LOG5\[\d+\]: Connection ", 200)  # the log is written by a thread of its own
    accepted = meet.proxy.lines(r"LOG5\[\d+\]: Certificate accepted at depth=0")
    assert len(accepted) == 100 and all(line.endswith(dn("good")) for line in accepted)
    assert not [line for line in meet.proxy.lines("Rejected by CERT") if line.endswith("CN=good")]

