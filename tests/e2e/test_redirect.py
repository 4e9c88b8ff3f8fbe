# redirect: who is not authenticated never reaches `connect`, neither at once nor by a session, wherever that was kept and whoever made it.
# SPDX-License-Identifier: Apache-2.0
import os
import re
import ssl
import threading
import urllib.request

import pytest

import peers
import proxy as proxies
from ocsp import Authority, OpensslResponder, Responder
from peers import client_context, name
from pki import LEAF, openssl

pytestmark = [pytest.mark.ours, pytest.mark.san]

V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
VERSIONS = pytest.mark.parametrize("version", [V12, V13])
SECRETS = "ticketKeySecret = 00112233445566778899aabbccddeeff\nticketMacSecret = 000102030405060708090a0b0c0d0e0f"
IN, OUT = "<in>", "<out>"


@pytest.fixture(scope="module")
def clients(pki):
    """Who asks to be let in: certificate and key, or None."""
    def signed(what, subject, issuer):
        pki.certificate(what, subject, section="client", issuer=issuer, ec=True)
        return pki.join(what + ".pem", pki.path(what + ".crt"), pki.path(what + ".key"))
    expired = pki.path("late.crt")
    signed("late", "/CN=late", "ca")
    openssl("x509", "-req", "-in", pki.path("late.csr"), "-days", "-1", "-CA", pki.ca, "-CAkey", pki.path("ca.key"), "-CAcreateserial",
            "-extfile", pki.extensions, "-extensions", "client", "-out", expired)
    return {"good": pki.client_pem, "nobody": None, "stranger": signed("stranger", "/CN=a client", "other_ca"),
            "another": signed("another", "/CN=another client", "ca"), "late": pki.join("late.pem", expired, pki.path("late.key"))}


@pytest.fixture
def context():
    """A session of Python's ssl belongs to a context: one for each version and certificate."""
    made = {}

    def get(version, certificate):
        if (version, certificate) not in made:
            made[version, certificate] = client_context(version=version, certificate=certificate)
        return made[version, certificate]
    return get


class Place:
    """A server section with a door and a back yard."""

    def __init__(self, bench, pki, context, extra="", checks=None, head="", redirect=None, **options):
        self.bench, self.context = bench, context
        self.backends = [bench.server(name(text)) for text in (IN, OUT)]
        checks = f"verifyChain = yes\nCAfile = {pki.ca}" if checks is None else checks
        redirect = redirect or f"redirect = 127.0.0.1:{self.backends[1].port}"
        self.proxy = bench.tls_server(f"{checks}\n{redirect}\n{extra}", backend=self.backends[0], head=head, **options)

    def visit(self, version, certificate, session=None):
        """(where it led, the session to go on with, whether it was resumed)."""
        client = peers.TlsClient(self.proxy.port, self.context(version, certificate), session=session)
        with client:
            reused = client.tls.session_reused
            where = b""
            while not where.endswith(b">"):
                part = client.recv()
                assert part, f"ended with {client.ended} after {where!r}\n{self.proxy.log()[-3000:]}"
                where += part
            session = client.tls.session
            client.bye()
        return where.decode(), session, reused


@pytest.fixture
def place(bench, pki, context):
    return lambda *args, **options: Place(bench, pki, context, *args, **options)


@VERSIONS
@pytest.mark.parametrize("who, where", [("good", IN), ("nobody", OUT), ("stranger", OUT), ("late", OUT), ("another", IN)])
def test_chain(place, clients, version, who, where):
    assert place().visit(version, clients[who])[0] == where


@VERSIONS
@pytest.mark.parametrize("who, where", [("good", IN), ("nobody", OUT), ("stranger", OUT), ("another", OUT)])
def test_installed_certificates(place, pki, clients, version, who, where):
    here = place(checks=f"verifyPeer = yes\nCAfile = {pki.client}")
    assert here.visit(version, clients[who])[0] == where


@VERSIONS
@pytest.mark.parametrize("who, where", [("good", IN), ("nobody", OUT), ("another", OUT), ("stranger", OUT)])
def test_both_and_a_name(place, pki, clients, version, who, where):
    here = place(checks=f"verify = 3\nCAfile = {pki.join('both.crt', pki.ca, pki.client)}")
    assert here.visit(version, clients[who])[0] == where


def test_what_the_log_says(place, clients):
    here = place()
    here.visit(V13, clients["nobody"])
    here.visit(V13, clients["good"])
    here.proxy.wait_log(r"LOG7\[1\]: Service \[s\] finished")
    lines = "\n".join(here.proxy.lines(r"LOG[0-6]\[0\]: (?!Session id)"))
    assert re.search(r"LOG5\[0\]: Redirecting connection\n.* s_connect: connecting 127\.0\.0\.1:" + str(here.backends[1].port), lines), lines
    assert not here.proxy.lines(r"LOG\d\[1\]: Redirecting")


@VERSIONS
@pytest.mark.parametrize("who", ["late", "stranger"])
def test_what_was_rejected_is_not_called_accepted(place, clients, version, who):
    """OpenSSL goes on to ask about the certificate after each error that is let pass."""
    here = place()
    here.visit(version, clients[who])
    here.proxy.wait_log(r"LOG7\[0\]: Service \[s\] finished")
    assert here.proxy.lines(r"LOG4\[0\]: Rejected by CERT at depth=0")
    assert not here.proxy.lines(r"Certificate accepted at depth=0")


# --- sessions ---


class Sharing:
    """How two processes come to know each other's sessions; `same` is one process."""

    def __init__(self, how, tmp_path):
        self.how, self.keys = how, tmp_path / "ticket.keys"
        self.extra = {"tickets": "", "cache": "options = NO_TICKET", "secrets": SECRETS, "key file": f"ticketKeyFile = {self.keys}"}[how]
        self.keys.write_bytes(os.urandom(80))

    def places(self, place, **options):
        first = place(self.extra, **options)
        return first, place(self.extra, **options) if self.how in ("secrets", "key file") else first


@pytest.fixture(params=["tickets", "cache", "secrets", "key file"])
def sharing(request, tmp_path):
    return Sharing(request.param, tmp_path)


@VERSIONS
@pytest.mark.parametrize("who, where", [("good", IN), ("nobody", OUT), ("stranger", OUT), ("late", OUT)])
def test_a_session_leads_where_its_first_connection_went(place, clients, sharing, version, who, where):
    """And so do the sessions that come of it."""
    first, second = sharing.places(place)
    led, session, reused = first.visit(version, clients[who])
    assert led == where and not reused
    for here in (second, first, second):
        led, again, reused = here.visit(version, clients[who], session)
        assert reused and led == where
        session = again or session
    mark = "yes" if where == IN else "no"
    if sharing.how != "cache":
        second.proxy.wait_log(rf"LOG6\[\d+\]: Decrypted ticket for an authenticated session: {mark}")
        assert not second.proxy.lines("authenticated session: " + ("no" if where == IN else "yes"))


@VERSIONS
@pytest.mark.parametrize("who, where", [("good", IN), ("stranger", OUT)])
def test_a_session_of_workers(place, clients, version, who, where):
    here = place(head="workers = 2")
    _, session, _ = here.visit(version, clients[who])
    for _ in range(8):
        led, again, reused = here.visit(version, clients[who], session)
        assert reused and led == where
        session = again or session


@VERSIONS
@pytest.mark.parametrize("who", ["good", "stranger", "nobody"])
def test_a_session_made_under_other_checks_is_not_resumed(place, pki, clients, tmp_path, version, who):
    """The same name, the same secrets, another CA; and no checks at all."""
    lax = place(SECRETS, checks="", redirect="connect = 127.0.0.1:1")
    other = place(SECRETS, checks=f"verifyChain = yes\nCAfile = {pki.other_ca}")
    here = place(SECRETS)
    for elsewhere in (lax, other):
        _, session, _ = elsewhere.visit(version, clients[who])
        led, _, reused = here.visit(version, clients[who], session)
        assert not reused
        assert led == (IN if who == "good" else OUT)
    _, session, _ = here.visit(version, clients[who])
    assert other.visit(version, clients[who], session)[0] == (IN if who == "stranger" else OUT)


@VERSIONS
@pytest.mark.parametrize("who", ["stranger", "nobody", "late"])
def test_a_session_of_a_redirected_client_opens_no_door_elsewhere(place, clients, tmp_path, version, who):
    """The same name, secrets and checks, but no `redirect`: who fails the checks there is refused, and so is who failed them before."""
    elsewhere, here = place(SECRETS), place(SECRETS, redirect="; none")
    led, session, _ = elsewhere.visit(version, clients[who])
    assert led == OUT
    for offered in (None, session):
        with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
            here.visit(version, clients[who], offered)
    assert not here.proxy.lines("s_connect: connect")
    assert here.visit(version, clients["good"])[0] == IN


@VERSIONS
def test_a_session_of_stunnel_proves_nothing(bench, place, pki, clients, need, monkeypatch, version):
    """Its tickets call every client authenticated, also one without a certificate."""
    with monkeypatch.context() as patch:
        patch.setattr(proxies, "BINARY", need("stunnel4"))
        patch.setattr(proxies, "IS_STUNNEL", True)
        patch.setattr(proxies, "WRAPPER", [])
        theirs = place(SECRETS, preamble=f"foreground = yes\nsyslog = no\ndebug = debug\npid = {bench.directory}/stunnel.pid\n")
    theirs.proxy.expect_open, theirs.proxy.base_fds = True, None
    here = place(SECRETS)
    for who, where in (("nobody", OUT), ("stranger", OUT), ("good", IN)):
        led, session, _ = theirs.visit(version, clients[who])
        assert led == where
        led, _, reused = here.visit(version, clients[who], session)
        assert led == where and not reused


@VERSIONS
def test_a_new_ca_ends_the_sessions_of_the_old_one(place, pki, clients, tmp_path, version):
    """Also those whose tickets could still be opened."""
    ca = tmp_path / "ca.crt"
    ca.write_bytes(open(pki.ca, "rb").read())
    here = place(SECRETS, checks=f"verifyChain = yes\nCAfile = {ca}")
    led, session, _ = here.visit(version, clients["good"])
    assert led == IN
    assert here.proxy.hup()
    led, again, reused = here.visit(version, clients["good"], session)
    assert led == IN and reused, "nothing has changed"
    session = again or session
    ca.write_bytes(open(pki.other_ca, "rb").read())
    assert here.proxy.hup()
    led, _, reused = here.visit(version, clients["good"], session)
    assert led == OUT and not reused


@pytest.mark.slow
@VERSIONS
def test_many_at_once_do_not_mix(place, clients, version):
    """Full handshakes and resumptions of all kinds of clients, interleaved."""
    here = place(head="workers = 2\ndebug = notice")
    wrong, started = [], threading.Barrier(20)

    def client(who, where):
        try:
            session = None
            started.wait(60)
            for turn in range(5):
                led, again, _ = here.visit(version, clients[who], session)
                session = None if turn == 2 else again or session
                if led != where:
                    wrong.append((who, led))
        except Exception as error:
            wrong.append((who, error))
    kinds = [("good", IN), ("nobody", OUT), ("stranger", OUT), ("another", IN)]
    for who, _ in kinds:
        here.context(version, clients[who])
    threads = [threading.Thread(target=client, args=kinds[i % 4]) for i in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# --- what else can be wrong with a certificate ---


@pytest.fixture(scope="module")
def leafs(pki):
    trust = pki.trust
    made = {who: trust.pem(trust.issue("redirect-" + who, issuer="intermediate", extensions=LEAF + f"subjectAltName = DNS:{who}.test\n"))
            for who in ("fine", "gone")}
    made["crl"] = trust.crl("redirect", "intermediate", ["redirect-gone"])
    return made


def back_again(here, version, certificate, where):
    """At once, and twice by a session."""
    led, session, reused = here.visit(version, certificate)
    assert led == where and not reused
    for _ in range(2):
        led, again, reused = here.visit(version, certificate, session)
        assert led == where and reused
        session = again or session


@VERSIONS
@pytest.mark.parametrize("who, where", [("fine", IN), ("gone", OUT)])
def test_revoked_certificates(place, pki, leafs, version, who, where):
    back_again(place(checks=f"verifyChain = yes\nCAfile = {pki.trust.crt('root')}\nCRLfile = {leafs['crl']}"), version, leafs[who], where)


@VERSIONS
@pytest.mark.parametrize("who, where", [("fine", IN), ("gone", OUT)])
def test_names_of_certificates(place, pki, leafs, version, who, where):
    back_again(place(checks=f"verifyChain = yes\nCAfile = {pki.trust.crt('root')}\ncheckHost = fine.test"), version, leafs[who], where)


@VERSIONS
@pytest.mark.parametrize("revoked, where", [(False, IN), (True, OUT)])
def test_certificates_that_a_responder_calls_revoked(bench, place, tmp_path, version, revoked, where):
    """Asked in the first handshake; a session brings the answer along."""
    authority = Authority(tmp_path)
    responder = OpensslResponder(bench, authority)
    pem = authority.pem("a-client", revoked=revoked)
    responder.start("-ndays", "1")
    here = place(checks=f"verifyChain = yes\nCAfile = {authority.cert}\nOCSP = {responder.url}")
    back_again(here, version, pem, where)


def test_the_deadline_that_came_while_a_responder_was_asked(bench, pki, tmp_path, place, context):
    """The client keeps the end of its handshake to itself. Its certificate is rejected, as nobody answered in time; it is not waited for any longer."""
    authority = Authority(tmp_path)
    responder = Responder(bench, authority, lambda request, responder: None)
    here = place("TIMEOUTocsp = 100000\nTIMEOUTbusy = 1", checks=f"verifyChain = yes\nCAfile = {authority.cert}\nOCSP = {responder.url}")
    client = bench.client(here.proxy.port, context(V13, authority.pem("a-client")), handshake=False).handshake(hold=True)
    flight, at = client.flight(), 0
    while flight[at] != 0x17:
        at += 5 + int.from_bytes(flight[at + 3:at + 5], "big")
    at += 5 + int.from_bytes(flight[at + 3:at + 5], "big")
    assert at < len(flight), "the certificate is not all"
    client.sock.sendall(flight[:at])
    responder.asked()
    here.proxy.wait_log("ssl_start: s_poll_wait: TIMEOUTbusy exceeded: sending reset")
    here.proxy.wait_log(r"LOG7\[0\]: Service \[s\] finished")


@VERSIONS
def test_nobody_asks_where_a_stranger_says(bench, pki, tmp_path, place, version):
    """A certificate that nobody has vouched for does not choose whom the proxy connects to, though its holder is let pass to the other target."""
    authority = Authority(tmp_path, "stranger-ca")
    responder = Responder(bench, authority)
    pem = authority.pem("a-stranger", authority.cert, aia=responder.url)
    here = place("OCSPaia = yes")
    assert here.visit(version, pem)[0] == OUT
    assert not responder.requests


@VERSIONS
@pytest.mark.parametrize("who, where", [("good", IN), ("nobody", OUT)])
def test_a_virtual_host_has_its_own_target(bench, pki, context, clients, version, who, where):
    """Sessions of the section in front of it do not count there."""
    front, inside, outside = (bench.server(name(text)) for text in ("<front>", IN, OUT))
    port = bench.ports()
    proxy = bench.proxy(f"{SECRETS}\ncert = {pki.ec_pem}\n[front]\naccept = 127.0.0.1:{port}\nconnect = 127.0.0.1:{front.port}\n"
                        f"[host]\nsni = front:host.test\nconnect = 127.0.0.1:{inside.port}\nredirect = 127.0.0.1:{outside.port}\n"
                        f"verifyChain = yes\nCAfile = {pki.ca}\n")

    def visit(server_name, session):
        with peers.TlsClient(port, context(version, clients[who]), server_name=server_name, session=session) as client:
            reused, answer = client.tls.session_reused, client.recv()
            session = client.tls.session
            client.bye()
        return answer.decode(), session, reused
    led, session, _ = visit("elsewhere.test", None)
    assert led == "<front>"
    led, host_session, reused = visit("host.test", session)
    assert led == where and not reused
    assert visit("host.test", host_session)[::2] == (where, True)
    assert visit("elsewhere.test", host_session)[::2] == ("<front>", False)
    proxy.wait_log(r"LOG5\[\d+\]: SNI: switched to service \[host\]")


def test_it_is_counted(bench, place, clients):
    admin = bench.ports()
    here = place(head=f"admin = {admin}")
    for who in ("good", "nobody", "stranger"):
        here.visit(V13, clients[who])
    text = urllib.request.urlopen(f"http://127.0.0.1:{admin}/metrics", timeout=20).read().decode()
    counts = re.findall(r'(?m)^tlsplice_connections_redirected_total\{[^}]*service="s"[^}]*\} (\d+)$', text)
    assert sum(map(int, counts)) == 2


# --- where it leads ---


def test_targets_are_tried_in_turn(bench, place, clients):
    dead, alive = bench.ports(), bench.server(name(OUT))
    here = place(redirect=f"redirect = 127.0.0.1:{dead}\nredirect = 127.0.0.1:{alive.port}")
    assert here.visit(V13, clients["nobody"])[0] == OUT
    here.proxy.wait_log(rf"LOG3\[0\]: s_connect: connect 127\.0\.0\.1:{dead}: Connection refused")
    assert here.visit(V13, clients["good"])[0] == IN


def test_targets_of_round_robin(bench, place, clients):
    """They have a turn of their own."""
    servers = [bench.server(name(f"<out{i}>")) for i in range(3)]
    here = place("failover = rr", redirect="\n".join(f"redirect = 127.0.0.1:{server.port}" for server in servers))
    assert {here.visit(V13, clients["nobody"])[0] for _ in range(3)} == {"<out0>", "<out1>", "<out2>"}
    assert here.visit(V13, clients["good"])[0] == IN


@VERSIONS
def test_a_redirected_session_is_not_tied_to_a_backend(bench, place, clients, version):
    """Nor does it bring one along."""
    servers = [bench.server(name(f"<out{i}>")) for i in range(2)]
    here = place(f"failover = rr\nconnect = 127.0.0.1:{bench.server(name(IN)).port}",
                 redirect="\n".join(f"redirect = 127.0.0.1:{server.port}" for server in servers))
    first, session, _ = here.visit(version, clients["nobody"])
    second, _, reused = here.visit(version, clients["nobody"], session)
    assert reused and {first, second} == {"<out0>", "<out1>"}
    assert not here.proxy.lines("persistence:")


@pytest.mark.parametrize("delay", ["delay = yes", ""])
def test_names_of_targets(bench, place, clients, delay):
    """Looked up for each connection, or once; a name that nobody knows is looked up again."""
    out = bench.server(name(OUT), address=(bench.ports(), "127.0.0.1"))
    here = place(delay, redirect=f"redirect = localhost:{out.address[0]}")
    assert here.visit(V13, clients["nobody"])[0] == OUT
    lost = place(delay, redirect="redirect = no-such-host.invalid:1")
    with pytest.raises((AssertionError, OSError)):
        lost.visit(V13, clients["nobody"])
    if not delay:
        lost.proxy.wait_log(r"LOG4\[\w+\]: Cannot resolve redirect target - delaying DNS lookup")
    lost.proxy.wait_log(r"LOG3\[0\]: Error resolving \"no-such-host\.invalid:1\"")
    lost.proxy.wait_log(r"LOG3\[0\]: No remote host resolved")
    assert lost.visit(V13, clients["good"])[0] == IN


def test_a_target_that_is_down_does_not_lead_in(bench, place, clients):
    here = place(redirect=f"redirect = 127.0.0.1:{bench.ports()}")
    with pytest.raises((AssertionError, OSError)):
        here.visit(V13, clients["nobody"])
    here.proxy.wait_log(r"LOG3\[0\]: No more addresses to connect")
    assert here.backends[0].accepted == 0
