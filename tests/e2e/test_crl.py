# Revocation lists: CRLfile, CRLpath, CRLcheckChain, in both roles and both versions of TLS.
# SPDX-License-Identifier: Apache-2.0
import concurrent.futures
import os
import re
import ssl
import threading

import pytest

from peers import TIMEOUT, TlsClient, client_context, connect, echo, name, server_context
from pki import CA
from proxy import IS_STUNNEL, SLOW, until
from test_trust import INTERMEDIATE, ROLES, ROOT, TLS12, TLS13, VERSIONS, Meeting, bad_chain, dn, expect


@pytest.fixture(scope="module")
def trust(pki):
    t = pki.trust
    for name in ("fine", "revoked", "revoked-2"):
        t.issue(name, issuer="intermediate")
    t.issue("root-leaf", issuer="root")
    t.issue("bad-intermediate", "/C=PL/O=Wire/CN=Bad intermediate", issuer="root", extensions=CA)
    t.issue("below-bad", issuer="bad-intermediate")
    t.issue("false-intermediate", "/C=PL/O=Wire/CN=Intermediate", issuer="other", extensions=CA)
    t.crl("good", "intermediate", ["revoked"])
    t.crl("none-revoked", "intermediate")
    t.crl("both-revoked", "intermediate", ["revoked", "revoked-2"])
    t.crl("all-revoked", "intermediate", ["fine", "revoked", "revoked-2"])
    t.crl("expired-list", "intermediate", ["revoked"], start=-3, end=-1)
    t.crl("future-list", "intermediate", ["revoked"], start=1, end=3)
    t.crl("foreign-list", "other", ["revoked"])
    t.crl("false-list", "false-intermediate", keyid=False)  # the right name, another key
    t.crl("nameless-list", "intermediate", keyid=False)
    t.crl("root-list", "root", ["bad-intermediate"])
    t.crl("bad-list", "bad-intermediate", [])
    t.join("all-lists.crl", t.path("good.crl"), t.path("root-list.crl"), t.path("bad-list.crl"))
    t.join("two-lists.crl", t.path("foreign-list.crl"), t.path("good.crl"))
    t.join("root-and-list.crt", t.crt("root"), t.path("good.crl"))
    return t


def options(trust, crl, more="verifyChain = yes"):
    return f"{more}\nCAfile = {trust.crt('root')}\nCRLfile = {trust.path(crl + '.crl')}"


LISTS = {
    # list: (fine, why not, alert), (revoked, why not, alert)
    "good": ((True, None, None), (False, "certificate revoked", "certificate_revoked")),
    "none-revoked": ((True, None, None), (True, None, None)),
    "expired-list": ((False, "CRL has expired", "certificate_expired"),) * 2,
    "future-list": ((False, "CRL is not yet valid", "bad_certificate"),) * 2,
    "foreign-list": ((False, "unable to get certificate CRL", "unknown_ca"),) * 2,
    "false-list": ((False, "CRL signature failure", "decrypt_error"),) * 2,
    "two-lists": ((True, None, None), (False, "certificate revoked", "certificate_revoked")),
}


@pytest.mark.san
@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("role", ROLES)
def test_crlfile(bench, trust, role, name):
    meet = Meeting(bench, role, options(trust, name))
    assert meet.proxy.lines(rf"LOG7\[ui\]: Loaded {re.escape(trust.path(name + '.crl'))} revocation lookup file$")
    for version in (TLS12, TLS13):
        for shown, (ok, error, alert) in zip(("fine", "revoked", "fine"), (*LISTS[name], LISTS[name][0])):
            lines = [f"5 Certificate accepted at depth=0: {dn(shown)}"] if ok else bad_chain(0, dn(shown), error)
            expect(meet(trust.pem(shown), version), ok, alert, *lines)


@pytest.mark.parametrize("role", ROLES)
def test_crlpath(bench, trust, role, tmp_path):
    """hash.rN names, looked for when they are needed: nothing there at first, then a list, then a newer one beside it."""
    directory = tmp_path / "lists"
    directory.mkdir()
    meet = Meeting(bench, role, f"verifyChain = yes\nCAfile = {trust.crt('root')}\nCRLpath = {directory}")
    assert meet.proxy.lines(rf"LOG7\[ui\]: Added {re.escape(str(directory))} revocation lookup directory$")
    expect(meet(trust.pem("fine")), False, "unknown_ca", "4 CERT: Pre-verification error: unable to get certificate CRL")
    trust.hashed(directory, trust.path("good.crl"))
    for version in (TLS12, TLS13):
        expect(meet(trust.pem("fine"), version), True)
        expect(meet(trust.pem("revoked-2"), version), True)
        expect(meet(trust.pem("revoked"), version), False, "certificate_revoked")
    newer = trust.crl("newer", "intermediate", ["revoked", "revoked-2"], start=-0.5)
    trust.hashed(directory, newer)
    assert sorted(name[-3:] for name in os.listdir(directory)) == [".r0", ".r1"]
    expect(meet(trust.pem("fine")), True)
    expect(meet(trust.pem("revoked-2")), False, "certificate_revoked")
    expect(meet(trust.pem("revoked")), False, "certificate_revoked")


@pytest.mark.ours  # a list that was read once stays there
@pytest.mark.parametrize("role", ROLES)
def test_list_that_is_replaced(bench, trust, role, tmp_path):
    """Written in place or renamed over, a half-written one in between: without a reload."""
    directory = trust.hashed(tmp_path / "lists", trust.path("good.crl"))
    meet = Meeting(bench, role, f"verifyChain = yes\nCAfile = {trust.crt('root')}\nCRLpath = {directory}", "workers = 1\n")
    expect(meet(trust.pem("revoked-2")), True)
    path = os.path.join(directory, os.listdir(directory)[0])
    newer = open(trust.crl("replaced-1", "intermediate", ["revoked", "revoked-2"], start=-0.5)).read()
    with open(path, "w") as file:
        file.write(newer[:150])
    expect(meet(trust.pem("revoked")), False, "certificate_revoked")
    expect(meet(trust.pem("revoked-2")), True)
    assert meet.proxy.wait_log(r"LOG4\[\w+\]: No revocation list in " + re.escape(path))
    with open(path, "w") as file:
        file.write(newer)
    expect(meet(trust.pem("revoked-2")), False, "certificate_revoked")
    expect(meet(trust.pem("fine")), True)
    newest = trust.crl("replaced-2", "intermediate", ["fine", "revoked", "revoked-2"], start=-0.25)
    os.rename(newest, path)
    expect(meet(trust.pem("fine")), False, "certificate_revoked")


@pytest.mark.ours  # there it is one more CA
def test_certificate_in_crlpath_is_no_ca(bench, trust, tmp_path):
    directory = trust.hashed(tmp_path / "lists", trust.path("good.crl"), trust.crt("other"), trust.crl("other-list", "other"))
    meet = Meeting(bench, "server", f"verifyChain = yes\nCAfile = {trust.crt('root')}\nCRLpath = {directory}")
    trust.issue("by-other-crl", issuer="other")
    expect(meet(trust.pem("by-other-crl")), False, "unknown_ca")
    expect(meet(trust.pem("fine")), True)


def test_lists_in_capath(bench, trust, tmp_path):
    """One directory for both, with both options."""
    directory = trust.hashed(tmp_path / "both", trust.crt("root"), trust.path("good.crl"))
    meet = Meeting(bench, "server", f"verifyChain = yes\nCApath = {directory}\nCRLpath = {directory}")
    expect(meet(trust.pem("fine")), True)
    expect(meet(trust.pem("revoked")), False, "certificate_revoked")


def test_crlfile_and_crlpath_together(bench, trust, tmp_path):
    directory = trust.hashed(tmp_path / "lists", trust.path("root-list.crl"))
    meet = Meeting(bench, "server", options(trust, "good") + f"\nCRLpath = {directory}")
    expect(meet(trust.pem("root-leaf")), True)
    expect(meet(trust.pem("revoked")), False, "certificate_revoked")


@pytest.mark.parametrize("role", ROLES)
def test_only_the_leaf_is_looked_at(bench, trust, role):
    """The list of the leaf's issuer is enough: the intermediate's own state, revoked or unknown, does not matter."""
    meet = Meeting(bench, role, options(trust, "bad-list"))
    expect(meet(trust.pem("below-bad")), True)
    meet = Meeting(bench, role, options(trust, "all-lists"))
    expect(meet(trust.pem("below-bad")), True)


@pytest.mark.ours  # since 5.80
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("role", ROLES)
def test_the_whole_chain(bench, trust, role, version):
    meet = Meeting(bench, role, options(trust, "all-lists") + "\nCRLcheckChain = yes")
    expect(meet(trust.pem("fine"), version), True)
    expect(meet(trust.pem("revoked"), version), False, "certificate_revoked", *bad_chain(0, dn("revoked"), "certificate revoked"))
    expect(meet(trust.pem("below-bad"), version), False, "certificate_revoked",
           *bad_chain(1, "C=PL, O=Wire, CN=Bad intermediate", "certificate revoked"))


@pytest.mark.ours
def test_the_whole_chain_needs_every_list(bench, trust):
    meet = Meeting(bench, "server", options(trust, "good") + "\nCRLcheckChain = yes")
    expect(meet(trust.pem("fine")), False, "unknown_ca", *bad_chain(1, INTERMEDIATE, "unable to get certificate CRL"))


@pytest.mark.ours
def test_the_whole_chain_with_lists_in_cafile(bench, trust):
    """CRLcheckChain alone: the lists may be in CAfile. Without any nobody is accepted."""
    bundle = trust.join("chain-and-lists.crt", trust.crt("root"), trust.path("all-lists.crl"))
    meet = Meeting(bench, "server", f"verifyChain = yes\nCAfile = {bundle}\nCRLcheckChain = yes")
    expect(meet(trust.pem("fine")), True)
    expect(meet(trust.pem("revoked")), False, "certificate_revoked")
    meet = Meeting(bench, "server", f"verifyChain = yes\nCAfile = {trust.crt('root')}\nCRLcheckChain = yes")
    expect(meet(trust.pem("fine")), False, "unknown_ca")


def test_list_in_cafile_alone_revokes_nothing(bench, trust):
    """It is CRLfile, CRLpath or CRLcheckChain that asks for revocation."""
    meet = Meeting(bench, "server", f"verifyChain = yes\nCAfile = {trust.path('root-and-list.crt')}")
    expect(meet(trust.pem("revoked")), True)


@pytest.mark.parametrize("role", ROLES)
def test_installed_certificate_and_lists(bench, trust, role):
    """verifyPeer with the whole chain in the store; with the leaf alone nobody can say whose list it is."""
    bundle = trust.join("installed.crt", trust.crt("revoked"), trust.crt("fine"), trust.crt("intermediate"), trust.crt("root"))
    meet = Meeting(bench, role, f"verifyPeer = yes\nCAfile = {bundle}\nCRLfile = {trust.path('good.crl')}")
    expect(meet(trust.pem("fine")), True, None, "6 CERT: Locally installed certificate matched")
    expect(meet(trust.pem("revoked")), False, "certificate_revoked")
    alone = trust.join("fine-alone.pem", trust.crt("fine"), trust.key("fine"))
    meet = Meeting(bench, role, f"verifyPeer = yes\nCAfile = {trust.crt('fine')}\nCRLfile = {trust.path('nameless-list.crl')}")
    expect(meet(alone), False, "decrypt_error", *bad_chain(0, dn("fine"), "CRL signature failure"))


@pytest.mark.parametrize("what", ["missing", "empty", "garbage", "certificate"])
def test_crlfile_that_gives_nothing_ends_the_start(bench, trust, pki, tmp_path, what):
    path = trust.crt("root") if what == "certificate" else str(tmp_path / what)
    if what == "empty":
        open(path, "w").close()
    if what == "garbage":
        (tmp_path / what).write_text("-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n")
    said = bench.refused(f"[s]\naccept = 127.0.0.1:{bench.ports()}\nconnect = 127.0.0.1:1\ncert = {pki.ec_pem}\nverifyChain = yes\n"
                         f"CAfile = {trust.crt('root')}\nCRLfile = {path}\n")
    assert f"[!] Failed to load {path} revocation lookup file" in said, said
    assert "[!] Service [s]: Failed to initialize TLS context" in said


@pytest.mark.parametrize("version", VERSIONS)
def test_reload_revokes(bench, trust, version, tmp_path):
    """After the reload neither the certificate nor a session from before gets its holder in; one whose list cannot be read changes nothing."""
    crl = tmp_path / "list.crl"
    crl.write_text(open(trust.path("none-revoked.crl")).read())
    proxy = bench.tls_server(f"verifyChain = yes\nCAfile = {trust.crt('root')}\nCRLfile = {crl}")
    contexts = {name: client_context(version=version, certificate=trust.pem(name)) for name in ("fine", "revoked")}
    sessions = {}
    for name, context in contexts.items():
        with TlsClient(proxy.port, context) as client:
            client.ping()
            sessions[name] = client.tls.session
            client.bye()

    def allowed(name, session=None):
        try:
            with TlsClient(proxy.port, contexts[name], session=session) as client:
                client.ping()
                client.bye()
                return True
        except (ssl.SSLError, OSError, EOFError):
            return False
    crl.write_text("")
    assert not proxy.hup()
    assert allowed("revoked")
    crl.write_text(open(trust.path("good.crl")).read())
    assert proxy.hup()
    assert not allowed("revoked", sessions["revoked"])
    assert not allowed("revoked")
    assert allowed("fine", sessions["fine"])


def lists(trust, tmp_path, name):
    """A directory in which that list takes the place of the others, by a rename."""
    directory = tmp_path / "lists"
    if not directory.exists():
        return trust.hashed(directory, trust.path(name + ".crl"))
    (tmp_path / "new").write_bytes(open(trust.path(name + ".crl"), "rb").read())
    os.rename(tmp_path / "new", directory / os.listdir(directory)[0])
    return directory


@pytest.mark.ours
@pytest.mark.san
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("more", ["", "redirect = 127.0.0.1:{}", "options = NO_TICKET"])
def test_a_session_ends_with_its_certificate(bench, trust, version, more, tmp_path):
    """Revoked in CRLpath since: the client is looked at anew, without a reload. So is everybody whose list is out of date."""
    directory = lists(trust, tmp_path, "none-revoked")
    outside = bench.server(name("<out>"))
    proxy = bench.tls_server(f"verifyChain = yes\nCAfile = {trust.crt('root')}\nCRLpath = {directory}\n{more.format(outside.port)}",
                             backend=bench.server(name("<in>")), head="workers = 1")
    contexts = {who: client_context(version=version, certificate=trust.pem(who)) for who in ("fine", "revoked")}
    sessions = {}

    def visit(who):
        """Where it led, and whether a session was resumed."""
        try:
            with TlsClient(proxy.port, contexts[who], session=sessions.get(who)) as client:
                where, sessions[who] = client.recv(), client.tls.session
                client.bye()
                return where, client.tls.session_reused
        except (ssl.SSLError, OSError, EOFError):
            return b"", False
    nowhere = b"<out>" if more.startswith("redirect") else b""
    for reused in (False, True, True):
        assert visit("revoked") == visit("fine") == (b"<in>", reused)
    lists(trust, tmp_path, "good")
    assert visit("revoked") == (nowhere, False)
    assert visit("fine") == (b"<in>", True)
    assert proxy.wait_log(r"LOG6\[\d+\]: The certificate of the session may have been revoked since: it is not resumed$")
    lists(trust, tmp_path, "expired-list")
    assert visit("fine") == (nowhere, False)


@pytest.mark.ours
@pytest.mark.parametrize("version", VERSIONS)
def test_a_session_of_a_client_section_ends_with_the_server_s_certificate(bench, trust, version, tmp_path):
    directory = lists(trust, tmp_path, "none-revoked")
    server = bench.server(echo, context=server_context(trust.pem("revoked"), version))
    proxy = bench.tls_client(server.port, f"verifyChain = yes\nCAfile = {trust.crt('root')}\nCRLpath = {directory}", head="workers = 1")

    def works(number):
        with connect(proxy.port) as sock:
            try:
                sock.sendall(b"ping")
                ok = sock.recv(4) == b"ping"
            except OSError:
                ok = False
        proxy.wait_log(rf"LOG7\[{number}\]: Service \[c\] finished")
        return ok
    for number in range(3):
        assert works(number)
    assert len(proxy.lines("TLS connected: previous session reused")) == 2
    lists(trust, tmp_path, "good")
    assert not works(3)
    server.errors.clear()


@pytest.mark.ours
@pytest.mark.parametrize("version", VERSIONS)
def test_a_session_ends_on_the_last_day_of_its_certificate(bench, trust, version):
    who = f"short-{version}"
    trust.issue(who, issuer="intermediate", end=10 * SLOW / 86400)
    proxy = bench.tls_server(f"verifyChain = yes\nCAfile = {trust.crt('root')}")
    context, session = client_context(version=version, certificate=trust.pem(who)), None

    def visit():
        """Whether it was resumed; None: refused."""
        nonlocal session
        try:
            with TlsClient(proxy.port, context, session=session) as client:
                client.ping()
                session = client.tls.session
                client.bye()
                return client.tls.session_reused
        except (ssl.SSLError, OSError, EOFError):
            return None
    assert visit() is False
    assert visit() is True
    until(lambda: visit() is None, 20, "the end of the certificate")
    assert proxy.wait_log(r"LOG6\[\d+\]: The certificate of the session has expired since: it is not resumed$")


@pytest.mark.san
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("where", ["CRLfile", "CRLpath"])
def test_two_hundred_at_once(bench, trust, where, version, tmp_path):
    """A good and a revoked certificate, interleaved: no decision leaks from one to the other."""
    source = trust.path("good.crl") if where == "CRLfile" else trust.hashed(tmp_path / "lists", trust.path("good.crl"))
    meet = Meeting(bench, "server", f"verifyChain = yes\nCAfile = {trust.crt('root')}\n{where} = {source}")
    gate = threading.Barrier(50)

    def one(number):
        name = ("fine", "revoked")[number % 2]
        gate.wait(TIMEOUT)
        return meet._as_client(trust.pem(name), version)[0]
    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        results = list(pool.map(one, range(200)))
    assert results == [True, False] * 100
    meet.proxy.wait_idle()
    meet.proxy.wait_log("Service .* finished", 200)
    # Line by line: each connection has one verdict, and it is that of its own certificate.
    verdicts = {}
    for number, text in re.findall(r"LOG\d\[(\d+)\]: ((?:Certificate accepted|Rejected by CERT) at depth=0: .*|CERT: Pre-verification error: .*)",
                                   meet.proxy.log()):
        verdicts.setdefault(number, []).append(text)
    said = sorted(verdicts.values())
    assert len(said) == 200
    assert said[:100] == [["CERT: Pre-verification error: certificate revoked", "Rejected by CERT at depth=0: " + dn("revoked")]] * 100
    assert said[100:] == [["Certificate accepted at depth=0: " + dn("fine")]] * 100
    if not IS_STUNNEL:
        backend = meet.proxy.backend
        until(lambda: backend.accepted == 100, what="the backend has seen the good ones alone")


def test_root_is_in_the_chain(bench, trust):
    """The whole chain is walked from the root down, each with a line."""
    meet = Meeting(bench, "server", options(trust, "good"))
    expect(meet(trust.pem("fine")), True, None, "6 Certificate accepted at depth=2: " + ROOT,
           "6 Certificate accepted at depth=1: " + INTERMEDIATE, "5 Certificate accepted at depth=0: " + dn("fine"))
