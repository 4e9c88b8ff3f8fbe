# Revocation by OCSP: what responders say decides who gets through, in both roles, and nobody else waits for them.
# tests/e2e/test_stapling.py has the responses that server sections send.
# SPDX-License-Identifier: Apache-2.0
import errno
import os
import re
import signal
import socket
import ssl
import subprocess
import threading
import time

import pytest
from ocsp import GOOD, UNKNOWN, Authority, OpensslResponder, Request, Responder, reply
from peers import Server, client_context, connect, echo, server_context
from proxy import SLOW, until
from test_admin import fetch, metric
from test_faults import Faults

pytestmark = pytest.mark.ours

REJECTED = r"LOG3.*OCSP: Rejected \(OCSPrequire = yes\)"
TOLERATED = r"LOG5.*OCSP: Accepted \(OCSPrequire = no\)"


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


def get_through(port):
    """One round trip in plain; False if the connection ends instead."""
    try:
        with connect(port) as sock:
            sock.sendall(b"ping")
            return sock.recv(4) == b"ping"
    except ConnectionError:
        return False


def get_in(port, certificate, version=None):
    """One round trip with a client certificate; False if TLS refuses."""
    context = client_context(certificate=certificate, version=version)
    try:
        with connect(port) as raw, context.wrap_socket(raw) as sock:
            sock.sendall(b"ping")
            return sock.recv(4) == b"ping"
    except (ssl.SSLError, ConnectionError):
        return False


def tls_echo(bench, pem, version=None):
    return bench.server(echo, context=server_context(pem, version))


def checking_client(bench, authority, upstream, extra="", **options):
    return bench.tls_client(upstream, f"verifyChain = yes\nCAfile = {authority.cert}\n{extra}", **options)


def checking_server(bench, authority, extra="", **options):
    return bench.tls_server(extra=f"verifyChain = yes\nCAfile = {authority.cert}\n{extra}", **options)


class S_server:
    """`openssl s_server -rev`, which turns lines around."""

    def __init__(self, bench, cert, key, *args):
        self.port = bench.ports()
        bench.run(["openssl", "s_server", "-accept", f"127.0.0.1:{self.port}", "-cert", cert, "-key", key, "-rev", *args])
        until(self.listening, 20, "s_server listens")

    def listening(self):
        try:
            connect(self.port).close()
            return True
        except OSError:
            return False


def turned_around(port):
    with connect(port) as sock:
        try:
            sock.sendall(b"gnip\n")
            return sock.makefile("rb").readline() == b"ping\n"
        except ConnectionError:
            return False


# --- `openssl ocsp` decides, in both roles ---


@pytest.mark.san
@pytest.mark.valgrind
@pytest.mark.parametrize("nonce", ["no", "yes"])
@pytest.mark.parametrize("revoked", [False, True], ids=["good", "revoked"])
def test_openssl_responder_client_mode(bench, authority, revoked, nonce):
    responder = OpensslResponder(bench, authority)
    pem = authority.pem("server", revoked=revoked)
    responder.start("-ndays", "1")
    proxy = checking_client(bench, authority, tls_echo(bench, pem).port, f"OCSP = {responder.url}\nOCSPnonce = {nonce}")
    assert get_through(proxy.port) is not revoked
    proxy.wait_log(rf'LOG5\[0\]: OCSP: Connecting the configured responder "{responder.url}"')
    if revoked:
        proxy.wait_log(r"LOG6\[0\]: OCSP: Status: revoked")
        proxy.wait_log(r"LOG3\[0\]: OCSP: Certificate revoked: 1: keyCompromise")
        proxy.wait_log(r"LOG5\[0\]: OCSP: Revoked at: 2025\.01\.0")
        proxy.wait_log(r"LOG3\[0\]: OCSP: Rejected \(revoked\)")
        proxy.wait_log("SSL_connect: .*invalid status response")
    else:
        proxy.wait_log(r"LOG7\[0\]: OCSP: Waiting for OCSP stapling response")
        proxy.wait_log(r"LOG7\[0\]: OCSP stapling: Client callback called")
        proxy.wait_log(r"LOG6\[0\]: OCSP: No OCSP stapling response received")
        proxy.wait_log(rf"LOG7\[0\]: OCSP: Connected 127.0.0.1:{responder.port}")
        proxy.wait_log(r"LOG7\[0\]: OCSP: Response received")
        proxy.wait_log(r"LOG6\[0\]: OCSP: Status: good")
        proxy.wait_log(r"LOG6\[0\]: OCSP: This update: \d{4}\.\d\d\.\d\d \d\d:\d\d:\d\d$")
        proxy.wait_log(r"LOG6\[0\]: OCSP: Next update: \d{4}\.\d\d\.\d\d \d\d:\d\d:\d\d$")
        proxy.wait_log(r"LOG5\[0\]: OCSP: Certificate accepted")
        proxy.wait_log(r"LOG5\[0\]: OCSP: Accepted \(good\)")
        proxy.wait_log(r"LOG7\[0\]: OCSP: Ignoring the root certificate")


@pytest.mark.san
@pytest.mark.valgrind
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
@pytest.mark.parametrize("revoked", [False, True], ids=["good", "revoked"])
def test_openssl_responder_server_mode(bench, authority, revoked, version):
    responder = OpensslResponder(bench, authority)
    pem = authority.pem("visitor", revoked=revoked)
    responder.start("-ndays", "1")
    proxy = checking_server(bench, authority, f"OCSP = {responder.url}")
    assert get_in(proxy.port, pem, version) is not revoked
    if revoked:
        proxy.wait_log(r"LOG3\[0\]: OCSP: Rejected \(revoked\)")
        proxy.wait_log(r"LOG4\[0\]: Rejected by OCSP at depth=0: CN=visitor")
        proxy.wait_log(r"TLS alert \(write\): fatal: certificate revoked")
    else:
        proxy.wait_log(r"LOG5\[0\]: OCSP: Accepted \(good\)")
        proxy.wait_log(r"LOG5\[0\]: Certificate accepted at depth=0: CN=visitor")


def test_openssl_responder_that_does_not_know(bench, authority, tmp_path):
    responder = OpensslResponder(bench, authority)
    pem = authority.pem("visitor")
    authority.issued.clear()
    responder.start("-ndays", "1")
    proxy = checking_server(bench, authority, f"OCSP = {responder.url}")
    assert not get_in(proxy.port, pem)
    proxy.wait_log(r"LOG6\[0\]: OCSP: Status: unknown")
    proxy.wait_log(r"LOG4\[0\]: OCSP: Unknown verification status")
    proxy.wait_log(REJECTED)


def test_openssl_responder_with_a_delegated_key(bench, authority):
    responder = OpensslResponder(bench, authority)
    pem = authority.pem("visitor")
    responder.start("-ndays", "1", signer=authority.responder())
    proxy = checking_server(bench, authority, f"OCSP = {responder.url}")
    assert get_in(proxy.port, pem)


def test_openssl_responder_with_a_key_that_nobody_chose(bench, authority, tmp_path):
    responder = OpensslResponder(bench, authority)
    pem = authority.pem("visitor")
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other", "other")
    responder.start("-ndays", "1", signer=(other.cert, other.key))
    proxy = checking_server(bench, authority, f"OCSP = {responder.url}")
    assert not get_in(proxy.port, pem)
    proxy.wait_log(r"LOG3\[0\]: OCSP: OCSP_basic_verify: ")
    proxy.wait_log(REJECTED)


# --- answers that decide nothing ---


def drip(data):
    """Byte by byte: nobody may wait for each of them anew."""
    def send(sock):
        try:
            for i in range(len(data)):
                sock.sendall(data[i:i + 1])
                time.sleep(0.05)
        except OSError:
            pass
    return send


INCONCLUSIVE = [
    ("unknown", lambda q, r: reply(r.response(q, status=UNKNOWN)), r"LOG4.*OCSP: Unknown verification status"),
    ("expired", lambda q, r: reply(r.response(q, this=-7200, until=-3600)), r"LOG3.*OCSP: OCSP_check_validity: .*status expired"),
    ("future", lambda q, r: reply(r.response(q, this=3600, until=7200)), r"LOG3.*OCSP: OCSP_check_validity: .*status not yet valid"),
    ("backwards", lambda q, r: reply(r.response(q, this=0, until=-30)), r"LOG3.*OCSP_check_validity: .*nextupdate before thisupdate"),
    ("old", lambda q, r: reply(r.response(q, this=-8 * 86400, until=None)), r"LOG3.*OCSP: OCSP_check_validity: .*status too old"),
    ("another", lambda q, r: reply(r.response(q, cert_id=q.cert_id[:-1] + bytes([q.cert_id[-1] ^ 1]))), r"LOG4.*OCSP: OCSP_resp_find_status"),
    ("stranger", lambda q, r: reply(r.other.response(q)), r"LOG3.*OCSP: OCSP_basic_verify: "),
    ("broken", lambda q, r: reply(r.response(q)[:-9] + b"123456789"), r"LOG3.*OCSP: OCSP_basic_verify: "),
    ("unauthorized", lambda q, r: reply(b"0\x03\x0a\x01\x06"), r"LOG3.*OCSP: OCSP responder error: 6: unauthorized"),
    ("trylater", lambda q, r: reply(b"0\x03\x0a\x01\x03"), r"LOG3.*OCSP: OCSP responder error: 3: trylater"),
    ("nothing-in-it", lambda q, r: reply(b"0\x03\x0a\x01\x00"), r"LOG4.*OCSP: OCSP_response_get1_basic"),
    ("garbage", lambda q, r: reply(os.urandom(500)), r"LOG3.*OCSP: No OCSP response"),
    ("html", lambda q, r: reply(b"<html>welcome</html>", length=False), "OCSP: OCSP_sendreq_nbio: not a response in DER"),
    ("404", lambda q, r: reply(r.response(q), status="404 Not Found"), "OCSP: OCSP_sendreq_nbio: the HTTP status is not 200"),
    ("moved", lambda q, r: reply(b"x", status="301 Moved", head="Location: http://127.0.0.1/\r\n"), "the HTTP status is not 200"),
    ("500", lambda q, r: reply(b"", status="500 Oops"), "OCSP: OCSP_sendreq_nbio: the HTTP status is not 200"),
    ("chunked", lambda q, r: reply(r.response(q), head="Transfer-Encoding: chunked\r\n"), "OCSP_sendreq_nbio: a transfer encoding"),
    ("not-http", lambda q, r: b"\x16\x03\x01" * 10000, "OCSP: OCSP_sendreq_nbio: the HTTP header is too long"),
    ("hang-up", lambda q, r: b"", "OCSP: OCSP_sendreq_nbio: no response"),
    ("cut", lambda q, r: reply(r.response(q))[:-20], "OCSP: OCSP_sendreq_nbio: the response is cut short"),
    ("endless", lambda q, r: reply(b"\x30\x83\x7f\xff\xff" + bytes(300000), length=False), "OCSP_sendreq_nbio: the response is too long"),
    ("silent", lambda q, r: None, r"LOG6.*OCSP: s_poll_wait: TIMEOUTocsp exceeded"),
    ("slow", lambda q, r: drip(reply(r.response(q))), r"LOG6.*OCSP: s_poll_wait: TIMEOUTocsp exceeded"),
]


def some_responder(bench, authority, tmp_path, answer):
    (tmp_path / "other").mkdir()
    responder = Responder(bench, authority, answer)
    responder.other = Responder(bench, Authority(tmp_path / "other", "other"))
    return responder


@pytest.mark.san
@pytest.mark.parametrize("answer, said", [pytest.param(*rest, id=name) for name, *rest in INCONCLUSIVE])
def test_inconclusive_answers(bench, authority, tmp_path, answer, said):
    """Refused with OCSPrequire (the default) and let through without; in both roles."""
    responder = some_responder(bench, authority, tmp_path, answer)
    pem = authority.pem("peer")
    upstream = tls_echo(bench, pem)
    text = (f"verifyChain = yes\nCAfile = {authority.cert}\nOCSP = {responder.url}\nTIMEOUTocsp = {1 if 'TIMEOUT' in said else 60}\n"
            "TIMEOUTbusy = 1000\n")
    ports = [bench.ports() for _ in range(4)]
    for i, extra in enumerate(("", "OCSPrequire = no\n")):
        text += f"[c{i}]\nclient = yes\naccept = 127.0.0.1:{ports[i]}\nconnect = 127.0.0.1:{upstream.port}\n{extra}"
        text += (f"[s{i}]\naccept = 127.0.0.1:{ports[2 + i]}\nconnect = 127.0.0.1:{bench.server(echo).port}\ncert = {bench.pki.ec_pem}\n"
                 f"{extra}")
    proxy = bench.proxy(text)
    assert not get_through(ports[0])
    proxy.wait_log(said)
    proxy.wait_log(REJECTED)
    assert get_through(ports[1])
    proxy.wait_log(TOLERATED)
    assert not get_in(ports[2], pem)
    proxy.wait_log(REJECTED, 2)
    proxy.wait_log("Rejected by OCSP at depth=0: CN=peer")
    assert get_in(ports[3], pem)
    proxy.wait_log(TOLERATED, 2)
    proxy.wait_log(said, 4)


def test_revoked_is_refused_whatever_ocsprequire_says(bench, authority):
    responder = Responder(bench, authority)
    pem = authority.pem("peer", revoked=True)
    client = checking_client(bench, authority, tls_echo(bench, pem).port, f"OCSP = {responder.url}\nOCSPrequire = no")
    server = checking_server(bench, authority, f"OCSP = {responder.url}\nOCSPrequire = no")
    assert not get_through(client.port)
    assert not get_in(server.port, pem)
    server.wait_log(r"LOG3\[0\]: OCSP: Rejected \(revoked\)")


def test_response_without_next_update_is_good_for_a_week(bench, authority):
    responder = Responder(bench, authority, lambda q, r: reply(r.response(q, this=-6 * 86400, until=None)))
    proxy = checking_server(bench, authority, f"OCSP = {responder.url}")
    assert get_in(proxy.port, authority.pem("peer"))
    assert not proxy.lines("Next update")


@pytest.mark.parametrize("url, said", [
    ("foo", "LOG3.*OCSP: Failed to parse the OCSP URL"),
    ("http://", "LOG3.*OCSP: Failed to parse the OCSP URL"),
    ("http://127.0.0.1:99999/", "LOG3.*OCSP: Failed to parse the OCSP URL"),
    ("ftp://127.0.0.1/", "LOG3.*OCSP: Failed to parse the OCSP URL"),
    ("https://127.0.0.1/", "LOG3.*OCSP: TLS not supported for OCSP - an additional stunnel service needs to be defined"),
    ("http://no-such-host.invalid/", "LOG3.*OCSP: Failed to resolve the OCSP responder address"),
    ("http://127.0.0.1:{dead}/", r"LOG3.*s_connect: connect 127.0.0.1:\d+: Connection refused \(111\)"),
])
def test_bad_urls_decide_nothing(bench, authority, url, said):
    proxy = checking_server(bench, authority, f"OCSP = {url.format(dead=bench.ports())}\nTIMEOUTocsp = 60")
    assert not get_in(proxy.port, authority.pem("peer"))
    proxy.wait_log(said)
    proxy.wait_log(REJECTED)


def test_metrics_count_questions_and_verdicts(bench, authority):
    """By section: what was asked, what was not answered, what was decided."""
    answers = []
    responder = Responder(bench, authority, lambda q, r: answers.pop(0)(q, r))
    admin, port, never = bench.ports(), bench.ports(), bench.ports()
    good, bad = authority.pem("good"), authority.pem("bad", revoked=True)
    section = f"connect = 127.0.0.1:{bench.server(echo).port}\ncert = {bench.pki.ec_pem}\nverifyChain = yes\nCAfile = {authority.cert}\n"
    bench.proxy(f"admin = {admin}\nsessionResume = no\nOCSP = {responder.url}\n[s]\naccept = 127.0.0.1:{port}\n{section}"
                f"[never]\naccept = 127.0.0.1:{never}\n{section}")
    honest = lambda q, r: reply(r.response(q))
    for pem, answer, passes in ((good, honest, True), (good, honest, True), (bad, honest, False),
                                (good, lambda q, r: reply(r.response(q, status=UNKNOWN)), False), (good, lambda q, r: b"", False)):
        answers.append(answer)
        assert get_in(port, pem) is passes
    text = fetch(admin, "/metrics")[2]
    counts = {name: metric(text, f"tlsplice_ocsp_{name}_total", service="s") for name in ("requests", "requests_failed", "good", "revoked", "unknown")}
    assert counts == {"requests": 5, "requests_failed": 1, "good": 2, "revoked": 1, "unknown": 2}
    assert metric(text, "tlsplice_ocsp_requests_total", service="never") == 0


# --- requests ---


def test_request_is_what_responders_know(bench, authority):
    responder = Responder(bench, authority)
    proxy = checking_server(bench, authority, f"OCSP = http://localhost:{responder.port}/some/path?and=query#not-this")
    pem = authority.pem("peer")
    assert get_in(proxy.port, pem)
    head = responder.heads[0].decode().split("\r\n")
    assert head == ["POST /some/path?and=query HTTP/1.0", f"Host: localhost:{responder.port}", "User-Agent: stunnel",
                    "Content-Type: application/ocsp-request", f"Content-Length: {len(responder.requests[0].raw)}"]
    expected = subprocess.run(["openssl", "ocsp", "-issuer", authority.cert, "-cert", authority.path("peer.crt"), "-no_nonce", "-reqout",
                               "/dev/stdout"], stdout=subprocess.PIPE, check=True).stdout
    assert responder.requests[0].raw == expected


@pytest.mark.parametrize("nonce, accepted", [(True, True), (False, False), (
    bytes.fromhex("301f06092b060105050730010204120410") + bytes(16), False)], ids=["returned", "missing", "wrong"])
def test_nonce(bench, authority, nonce, accepted):
    responder = Responder(bench, authority, lambda q, r: reply(r.response(q, nonce=nonce)))
    proxy = checking_server(bench, authority, f"OCSP = {responder.url}\nOCSPnonce = yes")
    pem = authority.pem("peer")
    assert get_in(proxy.port, pem) is accepted
    assert get_in(proxy.port, pem) is accepted
    one, other = responder.requests
    assert one.nonce and other.nonce and one.nonce != other.nonce
    if not accepted:
        proxy.wait_log(r"LOG3\[0\]: OCSP: Invalid or unsupported nonce")


def test_answer_in_small_pieces(bench, authority):
    def pieces(data):
        def send(sock):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for i in range(len(data)):
                sock.sendall(data[i:i + 1])
        return send
    responder = Responder(bench, authority, lambda q, r: pieces(reply(r.response(q), length=False, version="1.1")))
    proxy = checking_server(bench, authority, f"OCSP = {responder.url}\nTIMEOUTocsp = 60")
    assert get_in(proxy.port, authority.pem("peer"))


def test_other_hash_in_the_response(bench, authority):
    """A certificate may be named by other hashes than ours in a stapled response: it is the same certificate."""
    responder = Responder(bench, authority)
    cert, key = authority.issue("server", revoked=True)
    sha256 = subprocess.run(["openssl", "ocsp", "-issuer", authority.cert, "-sha256", "-cert", cert, "-no_nonce", "-reqout",
                             "/dev/stdout"], stdout=subprocess.PIPE, check=True).stdout
    path = responder.file(authority.path("staple"), cert, authority.cert, cert_id=Request(sha256).cert_id)
    server = S_server(bench, cert, key, "-status_file", path)
    proxy = checking_client(bench, authority, server.port)
    assert not turned_around(proxy.port)
    proxy.wait_log(r"OCSP: Rejected \(revoked\)")


# --- flags ---


def test_noverify_believes_any_signer_that_comes_along(bench, authority, tmp_path):
    """OCSPflag is passed to OpenSSL: with NOVERIFY a signer whose certificate is in the response needs no chain."""
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other", "other")
    responder = Responder(bench, authority, lambda q, r: reply(r.response(q, certs=(other.cert,))), signer=(other.cert, other.key))
    pem = authority.pem("peer")
    strict = checking_server(bench, authority, f"OCSP = {responder.url}")
    lax = checking_server(bench, authority, f"OCSP = {responder.url}\nOCSPflag = NOCHAIN\nOCSPflag = noverify")
    assert not get_in(strict.port, pem)
    assert get_in(lax.port, pem)


# --- the order: stapled, configured, named in the certificate ---


@pytest.mark.san
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
@pytest.mark.parametrize("revoked", [False, True], ids=["good", "revoked"])
def test_stapled_response_decides(bench, authority, version, revoked):
    """s_server -status_file. Nobody else is asked."""
    responder = Responder(bench, authority)
    cert, key = authority.issue("server", aia=responder.url, revoked=revoked)
    path = responder.file(authority.path("staple"), cert, authority.cert)
    server = S_server(bench, cert, key, version, "-status_file", path)
    proxy = checking_client(bench, authority, server.port, f"OCSP = {responder.url}\nOCSPaia = yes")
    assert turned_around(proxy.port) is not revoked
    proxy.wait_log(r"LOG6\[0\]: OCSP: OCSP stapling response received")
    proxy.wait_log(r"OCSP: Rejected \(revoked\)" if revoked else r"OCSP: Accepted \(good\)")
    if revoked:
        proxy.wait_log(r"TLS alert \(write\): fatal: bad certificate status response")
    assert not responder.requests


def test_stapled_response_alone_asks_nobody(bench, authority):
    """Without a responder to ask, a stapled response that says nothing is no reason to refuse; a revoked one is."""
    responder = Responder(bench, authority)
    cert, key = authority.issue("server")
    path = responder.file(authority.path("staple"), cert, authority.cert, status=UNKNOWN)
    proxy = checking_client(bench, authority, S_server(bench, cert, key, "-status_file", path).port)
    assert turned_around(proxy.port)
    proxy.wait_log("OCSP: Unknown verification status")
    assert not proxy.lines("OCSPrequire")


@pytest.mark.parametrize("stapled", ["unknown", "expired", "garbage"])
def test_stapled_response_that_decides_nothing_is_followed_by_a_question(bench, authority, stapled):
    responder = Responder(bench, authority)
    cert, key = authority.issue("server", revoked=True)
    path = authority.path("staple")
    if stapled == "garbage":
        with open(path, "wb") as file:
            file.write(b"0\x03\x0a\x01\x06")
    else:
        responder.file(path, cert, authority.cert, status=UNKNOWN if stapled == "unknown" else GOOD, this=-9000,
                       until=3600 if stapled == "unknown" else -8000)
    proxy = checking_client(bench, authority, S_server(bench, cert, key, "-status_file", path).port, f"OCSP = {responder.url}")
    assert not turned_around(proxy.port)
    proxy.wait_log(r"OCSP: Rejected \(revoked\)")
    assert len(responder.requests) == 1


def test_stapled_response_is_ignored_without_verify_chain(bench, authority):
    responder = Responder(bench, authority)
    cert, key = authority.issue("server", revoked=True)
    path = responder.file(authority.path("staple"), cert, authority.cert)
    proxy = bench.tls_client(S_server(bench, cert, key, "-status_file", path).port)
    assert turned_around(proxy.port)
    proxy.wait_log(r"LOG7\[0\]: OCSP stapling: Client callback called")
    proxy.wait_log(r"LOG6\[0\]: OCSP: Certificate chain verification disabled")


def test_gnutls_serv_staples(bench, authority, need):
    responder = Responder(bench, authority)
    cert, key = authority.issue("server", revoked=True)
    path = responder.file(authority.path("staple"), cert, authority.cert)
    port = bench.ports()
    bench.run([need("gnutls-serv"), "--echo", "-p", str(port), "--x509certfile", cert, "--x509keyfile", key, "--ocsp-response", path,
               "--ignore-ocsp-response-errors"])
    until(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, 20, "gnutls-serv listens")
    proxy = checking_client(bench, authority, port)
    assert not get_through(proxy.port)
    proxy.wait_log(r"OCSP: OCSP stapling response received")
    proxy.wait_log(r"OCSP: Rejected \(revoked\)")


def test_responders_in_their_order(bench, authority):
    """The configured one first; those of the certificate follow while nothing is decided."""
    first, second = (Responder(bench, authority, lambda q, r: reply(r.response(q, status=UNKNOWN))) for _ in range(2))
    third, never = Responder(bench, authority), Responder(bench, authority)
    pem = authority.pem("peer", aia=[second.url, third.url, never.url])
    proxy = checking_server(bench, authority, f"OCSP = {first.url}\nOCSPaia = yes")
    assert get_in(proxy.port, pem)
    assert [len(r.requests) for r in (first, second, third, never)] == [1, 1, 1, 0]
    asked = [re.search(r'"(.*)"', line).group(1) for line in proxy.wait_log(r"LOG5\[0\]: OCSP: Connecting the (configured|AIA) responder", 3)]
    assert asked == [first.url, second.url, third.url]


def test_aia_is_asked_only_if_wanted(bench, authority):
    responder = Responder(bench, authority)
    pem = authority.pem("peer", aia=responder.url, revoked=True)
    proxy = checking_server(bench, authority)
    assert get_in(proxy.port, pem)
    assert not responder.requests
    proxy = checking_server(bench, authority, "OCSPaia = yes")
    assert not get_in(proxy.port, pem)


def test_certificate_that_names_nobody_is_accepted(bench, authority):
    """OCSPrequire is about those who were asked."""
    proxy = checking_server(bench, authority, "OCSPaia = yes")
    assert get_in(proxy.port, authority.pem("peer"))
    proxy.wait_log(r"LOG6\[0\]: OCSP: No AIA responder URL")


@pytest.mark.san
@pytest.mark.parametrize("mode", ["client", "server"])
@pytest.mark.parametrize("revoked", [False, True], ids=["good", "revoked"])
def test_authority_in_between_is_asked_about(bench, authority, mode, revoked):
    """Depth 1: its AIA responder, never the configured one, which speaks for leaves."""
    root, leaves = Responder(bench, authority), None
    middle = Authority(authority.directory, "middle", parent=authority, aia=root.url)
    leaves = Responder(bench, middle)
    if revoked:
        authority.revoked.add(authority.issued[middle.cert])
    pem = middle.pem("peer", middle.cert, aia=leaves.url)
    extra = "OCSPaia = yes\n"
    if mode == "server":
        proxy = checking_server(bench, authority, extra)
        passed = get_in(proxy.port, pem)
    else:
        proxy = checking_client(bench, authority, tls_echo(bench, pem).port, extra)
        passed = get_through(proxy.port)
    assert passed is not revoked
    assert len(root.requests) == 1 and len(leaves.requests) == (0 if revoked else 1)
    if revoked:
        proxy.wait_log(r"LOG4\[0\]: Rejected by OCSP at depth=1: CN=middle")
        proxy.wait_log(r"TLS alert \(write\): fatal: certificate revoked")
    else:
        proxy.wait_log(r"OCSP: Accepted \(good\)", 2)


def test_resumed_session_asks_nobody(bench, authority):
    responder = Responder(bench, authority)
    upstream = tls_echo(bench, authority.pem("server"))
    proxy = checking_client(bench, authority, upstream.port, f"OCSP = {responder.url}")
    assert get_through(proxy.port)
    until(lambda: get_through(proxy.port) and proxy.lines("previous session reused$"), 20, "a session is resumed")
    asked = len(responder.requests)
    proxy.wait_log(r"LOG7\[\d+\]: OCSP: Skipped OCSP stapling \(previous session reused\)")
    assert asked < len(proxy.lines("TLS connected"))


def test_virtual_host_that_checks(bench, authority):
    """Only the section that the name chooses asks a responder: the conversation can wait all the same."""
    responder = Responder(bench, authority)
    backend = bench.server(echo)
    good, bad = authority.pem("good"), authority.pem("bad", revoked=True)
    port = bench.ports()
    bench.proxy(f"[main]\naccept = 127.0.0.1:{port}\nconnect = 127.0.0.1:{backend.port}\ncert = {bench.pki.ec_pem}\n"
                f"[strict]\nsni = main:strict.test\nconnect = 127.0.0.1:{backend.port}\ncert = {bench.pki.ec_pem}\n"
                f"verifyChain = yes\nCAfile = {authority.cert}\nOCSP = {responder.url}\n")
    for pem, passes in ((good, True), (bad, False)):
        context = client_context(certificate=pem)
        try:
            bench.client(port, context, server_name="strict.test").ping()
            assert passes
        except (ssl.SSLError, ConnectionError, EOFError):
            assert not passes
    bench.client(port, client_context(certificate=bad), server_name="other.test").ping()
    assert len(responder.requests) == 2


# --- peers of other makes ---


def hello(sock, _server):
    """Answers at once and ends, so that no client has to wait for anything."""
    sock.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 6\r\n\r\nhello\n")
    sock.shutdown(socket.SHUT_WR)
    return sock.recv(65536)


def said_by(port):
    try:
        with connect(port) as sock:
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return sock.recv(1000)
    except OSError:
        return b""


@pytest.mark.parametrize("program", ["openssl", "gnutls-cli", "curl", "stunnel4"])
def test_clients_of_other_makes(bench, authority, need, tmp_path, program):
    """A good and a revoked client certificate each."""
    responder = Responder(bench, authority)
    proxy = checking_server(bench, authority, f"OCSP = {responder.url}\nsessionResume = no", backend=bench.server(hello))
    for revoked in (False, True):
        cert, key = authority.issue(f"visitor{revoked}", revoked=revoked)
        argv = {
            "openssl": ["s_client", "-connect", f"127.0.0.1:{proxy.port}", "-cert", cert, "-key", key, "-quiet"],
            "gnutls-cli": ["--insecure", "-p", str(proxy.port), f"--x509certfile={cert}", f"--x509keyfile={key}", "127.0.0.1"],
            "curl": ["-sS", "-k", "-m", "60", "--cert", cert, "--key", key, f"https://127.0.0.1:{proxy.port}/"],
        }
        if program == "stunnel4":
            port, config = bench.ports(), tmp_path / "peer.conf"
            config.write_text(f"foreground = yes\nsyslog = no\npid =\n[c]\nclient = yes\naccept = 127.0.0.1:{port}\n"
                              f"connect = 127.0.0.1:{proxy.port}\ncert = {cert}\nkey = {key}\n")
            peer = bench.run([need("stunnel4"), str(config)])
            until(lambda: not bench.ports.free(port), what="stunnel4 listens")
            out = said_by(port)
            peer.terminate()
        else:
            out = subprocess.run([need(program), *argv[program]], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                 stderr=subprocess.DEVNULL, timeout=60 * SLOW).stdout
        assert (b"hello" in out) is not revoked, (out, proxy.log()[-4000:])
    assert len(proxy.wait_log(r"OCSP: Rejected \(revoked\)")) == len(proxy.wait_log(r"OCSP: Accepted \(good\)")) == 1


@pytest.mark.parametrize("revoked", [False, True], ids=["good", "revoked"])
@pytest.mark.parametrize("program", ["nginx", "stunnel4"])
def test_servers_of_other_makes(bench, authority, need, tmp_path, program, revoked):
    """nginx staples what is in a file; stunnel4 staples nothing, and a responder is asked."""
    responder = Responder(bench, authority)
    port = bench.ports()
    pem = authority.pem("server", revoked=revoked)
    config = tmp_path / "server.conf"
    if program == "nginx":
        staple = responder.file(authority.path("staple"), authority.path("server.crt"), authority.cert)
        paths = "".join(f"{kind}_temp_path {tmp_path}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        config.write_text(f"daemon off; master_process off; pid {tmp_path}/nginx.pid; error_log stderr; events {{}}\n"
                          f"http {{ access_log off; {paths} server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {pem};\n"
                          f"ssl_certificate_key {pem}; ssl_stapling on; ssl_stapling_file {staple}; return 200 hello; }} }}\n")
        bench.run([need("nginx"), "-e", "stderr", "-c", str(config), "-p", str(tmp_path)])
    else:
        config.write_text(f"foreground = yes\nsyslog = no\npid =\n[s]\naccept = 127.0.0.1:{port}\n"
                          f"connect = 127.0.0.1:{bench.server(hello).port}\ncert = {pem}\n")
        bench.run([need("stunnel4"), str(config)])
    until(lambda: not bench.ports.free(port), what=f"{program} listens")
    proxy = checking_client(bench, authority, port, f"OCSP = {responder.url}")
    assert (b"hello" in said_by(proxy.port)) is not revoked, proxy.log()[-4000:]
    proxy.wait_log(r"OCSP: Rejected \(revoked\)" if revoked else r"OCSP: Accepted \(good\)")
    assert len(responder.requests) == (program == "stunnel4")


# --- nobody else waits ---


@pytest.mark.san
def test_silent_responder_holds_up_only_who_asked(bench, authority):
    """One worker: a hundred handshakes hang on the responder, and other sections, start and reload go on."""
    responder = Responder(bench, authority, lambda q, r: None)
    pem = authority.pem("peer")
    count = 100 // SLOW
    plain, checked = bench.ports(), bench.ports()
    backend = bench.server(echo)
    proxy = bench.proxy(f"workers = 1\n[plain]\naccept = 127.0.0.1:{plain}\nconnect = 127.0.0.1:{backend.port}\n"
                        f"cert = {bench.pki.ec_pem}\n[checked]\naccept = 127.0.0.1:{checked}\nconnect = 127.0.0.1:{backend.port}\n"
                        f"cert = {bench.pki.ec_pem}\nverifyChain = yes\nCAfile = {authority.cert}\nOCSP = {responder.url}\n"
                        "TIMEOUTocsp = 100000\n")
    context = client_context(certificate=pem)
    for _ in range(count):
        client = bench.client(checked, context, handshake=False)
        with pytest.raises(ssl.SSLWantReadError):
            client.tls.do_handshake()
        client.flush()
        client._feed()
        try:
            client.tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        client.flush()
    responder.asked(count)
    for _ in range(5):
        bench.client(plain).ping()
    assert proxy.hup()
    bench.client(plain).ping()
    # Let go of them: each is refused, and its descriptors come back.
    responder.server.close()
    proxy.wait_log(REJECTED, count)


@pytest.mark.san
@pytest.mark.parametrize("mode", ["client", "server"])
@pytest.mark.parametrize("ending", ["term", "drain"])
def test_end_while_a_responder_is_asked(bench, authority, mode, ending):
    """Suspended inside OpenSSL when the process is told to end: it ends cleanly, nothing is leaked."""
    responder = Responder(bench, authority, lambda q, r: None)
    pem = authority.pem("peer")
    extra = f"OCSP = {responder.url}\nTIMEOUTocsp = 100000"
    head = "drain = 1" if ending == "drain" else ""
    if mode == "client":
        proxy = checking_client(bench, authority, tls_echo(bench, pem).port, extra, head=head)
        threading.Thread(target=lambda: get_through(proxy.port), daemon=True).start()
    else:
        proxy = checking_server(bench, authority, extra, head=head)
        threading.Thread(target=lambda: get_in(proxy.port, pem), daemon=True).start()
    responder.asked()
    proxy.expect_open = True
    proxy.send_signal(signal.SIGTERM)
    assert proxy.wait_exit() == 0
    proxy.stop()


@pytest.mark.san
@pytest.mark.parametrize("mode", ["client", "server"])
def test_timeout_of_the_handshake_while_a_responder_is_asked(bench, authority, mode):
    """TIMEOUTbusy ends it, however long the responder may take; no further responder is asked."""
    responder, never = Responder(bench, authority, lambda q, r: None), Responder(bench, authority)
    pem = authority.pem("peer", aia=never.url)
    extra = f"OCSP = {responder.url}\nTIMEOUTocsp = 100000\nTIMEOUTbusy = {SLOW}\nOCSPaia = yes\nOCSPrequire = no"
    if mode == "client":
        proxy = checking_client(bench, authority, tls_echo(bench, pem).port, extra)
        assert not get_through(proxy.port)
    else:
        proxy = checking_server(bench, authority, extra)
        assert not get_in(proxy.port, pem)
    proxy.wait_log("ssl_start: s_poll_wait: TIMEOUTbusy exceeded: sending reset")
    assert len(responder.requests) == 1 and not never.requests
    proxy.wait_idle()


def test_silent_lookup_does_not_outlive_the_deadline(bench, authority):
    """A name that a resolver knows nothing about: the question fails, and the worker goes on meanwhile."""
    proxy = checking_server(bench, authority, "OCSP = http://a.name.that.is.not.there.invalid/\nTIMEOUTocsp = 60")
    assert not get_in(proxy.port, authority.pem("peer"))
    proxy.wait_log("OCSP: Failed to resolve the OCSP responder address")


# --- no decision leaks ---


class Crowd:
    """Many handshakes that wait for a responder together: it answers once all have asked."""

    def __init__(self, bench, authority):
        self.gate = threading.Semaphore(0)
        self.responder = Responder(bench, authority, self.answer)
        self.count = 200 if SLOW == 1 else 60

    def answer(self, request, responder):
        self.gate.acquire()
        return reply(responder.response(request))

    def results(self, visit):
        """What visit(i) returns for each i."""
        found = {}

        def one(i):
            found[i] = visit(i)
        threads = [threading.Thread(target=one, args=(i,), daemon=True) for i in range(self.count)]
        for thread in threads:
            thread.start()
        self.responder.asked(self.count)
        self.gate.release(self.count)
        for thread in threads:
            thread.join(120 * SLOW)
        return [found.get(i) for i in range(self.count)]


@pytest.mark.san
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
@pytest.mark.parametrize("source", ["configured", "aia"])
def test_two_hundred_at_once_good_and_revoked(bench, authority, version, source):
    """Interleaved inside one worker: the answers come in any order, and each decides its own handshake only."""
    crowd = Crowd(bench, authority)
    aia = crowd.responder.url if source == "aia" else None
    good, bad = authority.pem("good", aia=aia), authority.pem("bad", aia=aia, revoked=True)
    extra = "OCSPaia = yes" if source == "aia" else f"OCSP = {crowd.responder.url}"
    proxy = checking_server(bench, authority, extra + "\nTIMEOUTocsp = 1000\nsessionResume = no", head="workers = 1")
    assert crowd.results(lambda i: get_in(proxy.port, bad if i % 2 else good, version)) == [True, False] * (crowd.count // 2)
    for said in (r"OCSP: Accepted \(good\)", r"OCSP: Rejected \(revoked\)"):
        assert len(proxy.wait_log(said, crowd.count // 2)) == crowd.count // 2


@pytest.mark.san
def test_two_hundred_clients_at_once_good_and_revoked(bench, authority):
    """Client mode: two upstreams, one of them revoked."""
    crowd = Crowd(bench, authority)
    ups = [tls_echo(bench, authority.pem("good")), tls_echo(bench, authority.pem("bad", revoked=True))]
    ports = [bench.ports(), bench.ports()]
    text = (f"workers = 1\nverifyChain = yes\nCAfile = {authority.cert}\nOCSP = {crowd.responder.url}\nTIMEOUTocsp = 1000\n"
            "sessionResume = no\n")
    for i in range(2):
        text += f"[c{i}]\nclient = yes\naccept = 127.0.0.1:{ports[i]}\nconnect = 127.0.0.1:{ups[i].port}\n"
    bench.proxy(text)
    assert crowd.results(lambda i: get_through(ports[i % 2])) == [True, False] * (crowd.count // 2)


# --- renegotiation ---


def test_renegotiation_remembers_what_the_responder_said(bench, authority):
    """TLS 1.2: the second handshake cannot wait for a responder; the certificate that was good when the connection began still is."""
    responder = Responder(bench, authority)
    cert, key = authority.issue("server")
    port = bench.ports()
    server = bench.run(["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-cert", cert, "-key", key, "-tls1_2", "-no_ticket",
                        "-no_resumption_on_reneg"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    until(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, 20, "s_server listens")
    proxy = checking_client(bench, authority, port, f"OCSP = {responder.url}")
    with connect(proxy.port) as sock:
        sock.sendall(b"x")
        proxy.wait_log("TLS connected")
        server.stdin.write(b"R\n")
        server.stdin.flush()
        proxy.wait_log(r"OCSP: Accepted \(good when this connection began\)")
        server.stdin.write(b"hello\n")
        server.stdin.flush()
        assert sock.recv(6) == b"hello\n"
    assert len(responder.requests) == 1


# --- what goes wrong inside ---


@pytest.mark.san
@pytest.mark.slow
@pytest.mark.parametrize("mode", ["client", "server"])
@pytest.mark.parametrize("first", range(1, 25, 6))
def test_each_operation_of_the_ring_fails_once(bench, authority, faulty, mode, first):
    """Whatever fails: a revoked certificate never passes, a good one only with its answer, and the next connection is served."""
    responder = Responder(bench, authority)
    good, bad = authority.pem("good"), authority.pem("bad", revoked=True)
    upstreams = {pem: tls_echo(bench, pem).port for pem in (good, bad)}
    for nth in range(first, first + 6):
        env = {"TLSPLICE_FAIL": f"{nth}:{(errno.ENOMEM, errno.ECANCELED, errno.EIO)[nth % 3]}"}
        for pem in (bad, good):
            extra = f"OCSP = {responder.url}\nTIMEOUTocsp = 60\nTIMEOUTclose = 2"
            if mode == "client":
                proxy = checking_client(bench, authority, upstreams[pem], extra, head="workers = 1", env=env)
                passed = [get_through(proxy.port) for _ in range(2)]
            else:
                proxy = checking_server(bench, authority, extra, head="workers = 1", env=env)
                passed = [get_in(proxy.port, pem) for _ in range(2)]
            assert not any(passed) if pem == bad else any(passed), proxy.log()[-5000:]
            proxy.stop()


@pytest.mark.nosan
@pytest.mark.slow
@pytest.mark.parametrize("mode", ["client", "server"])
def test_each_allocation_fails_once(bench, authority, tmp_path, mode):
    """A connection that lacks memory is refused, and no other: a revoked certificate never passes."""
    faults = Faults(str(tmp_path))
    responder = Responder(bench, authority)
    good, bad = authority.pem("good"), authority.pem("bad", revoked=True)
    extra = f"OCSP = {responder.url}\nTIMEOUTocsp = 60\nTIMEOUTclose = 2\nsessionResume = no"
    if mode == "client":
        proxies = [checking_client(bench, authority, tls_echo(bench, pem).port, extra, head="workers = 1", env=faults.env)
                   for pem in (bad, good)]
        attempts = [lambda: get_through(proxies[0].port), lambda: get_through(proxies[1].port)]
    else:
        proxies = [checking_server(bench, authority, extra, head="workers = 1", env=faults.env)] * 2
        attempts = [lambda: get_in(proxies[0].port, bad), lambda: get_in(proxies[1].port, good)]
    for attempt, expected in zip(attempts, (False, True)):
        assert attempt() is expected
        nth, lost = 1, 0
        while nth < 30000:
            faults.fail_nth(nth)
            passed = attempt()
            assert expected or not passed, f"allocation {nth}"
            lost += not passed
            assert all(proxy.process.poll() is None for proxy in proxies), f"allocation {nth}"
            if not faults.failed():
                break
            nth += 1 + nth // 100
        assert lost > 10 and attempt() is expected


@pytest.mark.nosan
def test_deadline_while_a_name_is_looked_up(bench, authority, tmp_path):
    """The resolver takes a minute, the question one second: the lookup finds nobody waiting when it comes back."""
    faults = Faults(str(tmp_path))
    responder = Responder(bench, authority)
    proxy = checking_server(bench, authority, f"OCSP = http://localhost:{responder.port}/\nTIMEOUTocsp = 1", env=faults.env)
    faults.lookups_take(5000)
    assert not get_in(proxy.port, authority.pem("peer"))
    proxy.wait_log(r"LOG3\[0\]: OCSP: Failed to resolve the OCSP responder address")
    assert not responder.requests
    proxy.wait_idle()
    faults.lookups_take(0)
    until(lambda: get_in(proxy.port, authority.path("peer.pem")), 30, "the resolver's threads are free again")


def test_ipv6_responder(bench, authority):
    port = bench.ports()
    responder = Responder(bench, authority)
    bench.keep(Server(responder.serve, (port, "::1")))
    proxy = checking_server(bench, authority, f"OCSP = http://[::1]:{port}/")
    assert get_in(proxy.port, authority.pem("peer"))
    assert f"Host: [::1]:{port}" in responder.heads[0].decode()
