# Stapling by server sections: what clients get, how it is kept fresh, and that no responder holds anything up.
# SPDX-License-Identifier: Apache-2.0
import os
import re
import signal
import subprocess

import pytest
from ocsp import Authority, OpensslResponder, Responder, reply
from peers import echo
from pki import openssl
from proxy import SLOW, until
from test_admin import fetch, metric

pytestmark = pytest.mark.ours


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


def s_client(port, *args):
    done = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-status", *args], input=b"Q\n",
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60 * SLOW)
    return done.stdout.decode(errors="replace")


def stapled(port, *args):
    """What the server sends about its certificate: good, revoked, or None."""
    found = re.search(r"Cert Status: (\w+)", s_client(port, *args))
    return found and found.group(1)


def next_update(port):
    found = re.search(r"Next Update: (.*)", s_client(port))
    return found and found.group(1)


def wait_cached(proxy, count=1):
    proxy.wait_log("OCSP: Response cached", count)


# --- what clients see ---


@pytest.mark.san
@pytest.mark.valgrind
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
@pytest.mark.parametrize("revoked", [False, True], ids=["good", "revoked"])
def test_openssl_client_gets_the_status(bench, authority, version, revoked):
    responder = Responder(bench, authority)
    proxy = bench.tls_server(pem=authority.pem("server", authority.cert, aia=responder.url, revoked=revoked))
    wait_cached(proxy)
    assert stapled(proxy.port, version) == ("revoked" if revoked else "good")
    proxy.wait_log(r"LOG7\[0\]: OCSP stapling: Server callback called")
    proxy.wait_log(r"LOG7\[0\]: OCSP stapling: OCSP response sent back")
    assert proxy.lines("OCSP: Server OCSP stapling enabled")
    assert responder.requests[0].nonce is None


@pytest.mark.parametrize("revoked", [False, True], ids=["good", "revoked"])
def test_openssl_responder(bench, authority, revoked):
    responder = OpensslResponder(bench, authority)
    pem = authority.pem("server", authority.cert, aia=responder.url, revoked=revoked)
    responder.start("-ndays", "1")
    proxy = bench.tls_server(pem=pem)
    wait_cached(proxy)
    assert stapled(proxy.port) == ("revoked" if revoked else "good")


def test_gnutls_and_curl_accept_the_response(bench, authority, need):
    responder = Responder(bench, authority)
    proxy = bench.tls_server(pem=authority.pem("server", authority.cert, aia=responder.url), backend=bench.server(http))
    wait_cached(proxy)
    done = subprocess.run([need("gnutls-cli"), "--x509cafile", authority.cert, "--ocsp", "-p", str(proxy.port), "127.0.0.1"], input=b"",
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60 * SLOW)
    assert b"Options: OCSP status request" in done.stdout and b"Handshake was completed" in done.stdout, done.stdout.decode()
    done = subprocess.run([need("curl"), "-sS", "--cert-status", "--cacert", authority.cert, f"https://localhost:{proxy.port}/"],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60 * SLOW)
    assert done.returncode == 0 and done.stdout == b"hello", done.stdout.decode()


def http(sock, _server):
    while b"\r\n\r\n" not in sock.recv(65536):
        pass
    sock.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello")


def test_metrics_count_what_is_stapled(bench, authority):
    answers = [lambda q, r: reply(r.response(q)), lambda q, r: reply(b"", status="503 Later")]
    responder, admin = Responder(bench, authority, lambda q, r: answers.pop()(q, r)), bench.ports()
    proxy = bench.tls_server(pem=authority.pem("server", authority.cert, aia=responder.url), head=f"admin = {admin}")
    wait_cached(proxy)
    assert [stapled(proxy.port) for _ in range(3)] == ["good"] * 3
    bench.client(proxy.port).ping()
    text = fetch(admin, "/metrics")[2]
    assert [metric(text, f"tlsplice_{name}_total", service="s") for name in (
        "ocsp_requests", "ocsp_requests_failed", "staples_refreshed", "staples_sent", "ocsp_good")] == [2, 1, 1, 3, 0]


def test_client_that_does_not_ask_gets_nothing(bench, authority):
    responder = Responder(bench, authority)
    proxy = bench.tls_server(pem=authority.pem("server", authority.cert, aia=responder.url))
    wait_cached(proxy)
    bench.client(proxy.port).ping()
    assert not proxy.lines("Server callback called")


def test_each_certificate_has_its_own_response(bench, authority, tmp_path):
    """ECDSA and RSA in one section: what is stapled is about the certificate that was chosen."""
    responder = Responder(bench, authority)
    ec = authority.pem("ec", authority.cert, aia=responder.url)
    key, request, cert, pem = (str(tmp_path / name) for name in ("r.key", "r.csr", "r.crt", "r.pem"))
    openssl("req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=r", "-keyout", key, "-out", request)
    openssl("x509", "-req", "-in", request, "-days", "2", "-CA", authority.cert, "-CAkey", authority.key, "-set_serial", "777",
            "-extfile", authority.path("ec.ext"), "-extensions", "leaf", "-out", cert)
    with open(pem, "w") as out:
        out.write(open(cert).read() + open(authority.cert).read() + open(key).read())
    authority.revoked.add(777)
    proxy = bench.tls_server(pem=ec, extra=f"cert = {pem}")
    wait_cached(proxy, 2)
    assert stapled(proxy.port, "-sigalgs", "ECDSA+SHA256") == "good"
    assert stapled(proxy.port, "-sigalgs", "RSA-PSS+SHA256") == "revoked"


def test_issuer_from_the_trusted_certificates(bench, authority):
    responder = Responder(bench, authority)
    proxy = bench.tls_server(pem=authority.pem("server", aia=responder.url), extra=f"CAfile = {authority.cert}")
    wait_cached(proxy)
    assert stapled(proxy.port) == "good"


def test_no_issuer_no_question(bench, authority):
    responder = Responder(bench, authority)
    proxy = bench.tls_server(pem=authority.pem("server", aia=responder.url))
    proxy.wait_log("OCSP: No stapling: the issuer is neither")
    assert stapled(proxy.port) is None
    assert not responder.requests


def test_certificate_without_responder(bench):
    proxy = bench.tls_server()
    assert stapled(proxy.port) is None
    assert proxy.lines("LOG6.*OCSP: No AIA responder URL")
    proxy.wait_log("LOG6.*OCSP: No OCSP stapling response to send")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_smallest_stack(bench, authority, host):
    """Fetching needs no more room than the set-up of a connection."""
    responder = Responder(bench, authority)
    url = f"http://{host}:{responder.port}/" + "p" * 1500
    proxy = bench.tls_server(pem=authority.pem("server", authority.cert, aia=url), extra="stack = 16384")
    wait_cached(proxy)
    assert stapled(proxy.port) == "good"


def test_delegated_signer(bench, authority):
    """RFC 6960 4.2.2.2: the CA lets another key sign. The certificate comes with the response."""
    signer = authority.responder()
    responder = Responder(bench, authority, lambda request, it: reply(it.response(request, certs=(signer[0],))), signer=signer)
    proxy = bench.tls_server(pem=authority.pem("server", authority.cert, aia=responder.url))
    wait_cached(proxy)
    assert stapled(proxy.port) == "good"


def test_virtual_hosts_staple_their_own(bench, authority):
    responder = Responder(bench, authority)
    backend = bench.server(echo)
    port = bench.ports()
    main = authority.pem("main", authority.cert, aia=responder.url)
    other = authority.pem("other", authority.cert, aia=responder.url, revoked=True)
    proxy = bench.proxy(f"[main]\naccept = 127.0.0.1:{port}\nconnect = 127.0.0.1:{backend.port}\ncert = {main}\n"
                        f"[other]\nsni = main:other.test\nconnect = 127.0.0.1:{backend.port}\ncert = {other}\n")
    wait_cached(proxy, 2)
    assert stapled(port, "-servername", "main.test") == "good"
    assert stapled(port, "-servername", "other.test") == "revoked"


def test_pre_shared_keys_and_stapling_exclude_one_another(bench, authority, tmp_path):
    responder = Responder(bench, authority)
    secrets = tmp_path / "secrets"
    secrets.write_text("client:" + "ab" * 20 + "\n")
    secrets.chmod(0o600)
    proxy = bench.tls_server(pem=authority.pem("server", authority.cert, aia=responder.url), extra=f"PSKsecrets = {secrets}\nPSKrequire = no")
    proxy.wait_log(r"LOG5\[ui\]: OCSP: Server OCSP stapling is incompatible with PSK")
    assert stapled(proxy.port) is None
    assert not responder.requests


# --- what is not taken ---


def stranger(request, responder):
    """Signed by a key that nobody has trusted with it."""
    other = responder.other
    return reply(other.response(request))


@pytest.mark.san
@pytest.mark.parametrize("answer, said", [
    (lambda q, r: reply(r.response(q, until=None)), "A response that does not say how long it is valid is not stapled"),
    (lambda q, r: reply(r.response(q, this=-7200, until=-3600)), "OCSP: OCSP_check_validity: .*status expired"),
    (lambda q, r: reply(r.response(q, this=3600, until=7200)), "OCSP: OCSP_check_validity: .*status not yet valid"),
    (lambda q, r: reply(r.response(q, status="unknown")), "OCSP: Unknown verification status"),
    (stranger, "OCSP: OCSP_basic_verify: "),
    (lambda q, r: reply(b"0\x03\x0a\x01\x06"), "OCSP: OCSP responder error: 6: unauthorized"),
    (lambda q, r: reply(b"garbage"), "OCSP: No OCSP response"),
    (lambda q, r: reply(b"garbage", length=False), "OCSP: OCSP_sendreq_nbio: not a response in DER"),
    (lambda q, r: reply(r.response(q), status="404 Not Found"), "OCSP: OCSP_sendreq_nbio: the HTTP status is not 200"),
    (lambda q, r: b"\x00" * 20000, "OCSP: OCSP_sendreq_nbio: the HTTP header is too long"),
    (lambda q, r: b"", "OCSP: OCSP_sendreq_nbio: no response"),
    (lambda q, r: reply(b"0" * 200000), "OCSP: OCSP_sendreq_nbio: the response is too long"),
], ids=["no-next-update", "expired", "future", "unknown", "stranger", "unauthorized", "garbage", "garbage-no-length", "404", "not-http",
        "nothing", "endless"])
def test_response_that_is_not_stapled(bench, authority, tmp_path, answer, said):
    responder = Responder(bench, authority, answer)
    (tmp_path / "other").mkdir()
    responder.other = Responder(bench, Authority(tmp_path / "other", "other"))
    proxy = bench.tls_server(pem=authority.pem("server", authority.cert, aia=responder.url))
    proxy.wait_log(said)
    proxy.wait_log(r"OCSP: Service \[s\] asks again in 5 second")
    assert stapled(proxy.port) is None
    assert not proxy.lines("OCSP: Response cached")


def test_the_next_responder_is_asked(bench, authority):
    dead, bad = bench.ports(), Responder(bench, authority, lambda q, r: reply(b"", status="500 Oops"))
    good = Responder(bench, authority)
    urls = [f"http://127.0.0.1:{dead}/", "ldap://127.0.0.1/", "https://127.0.0.1/", bad.url, good.url]
    proxy = bench.tls_server(pem=authority.pem("server", authority.cert, aia=urls))
    wait_cached(proxy)
    assert stapled(proxy.port) == "good"
    assert proxy.lines(rf"LOG3\[stapling\]: s_connect: connect 127.0.0.1:{dead}: Connection refused \(111\)")
    assert proxy.lines(r"LOG3\[stapling\]: OCSP: Failed to parse the OCSP URL")
    assert proxy.lines("TLS not supported for OCSP - an additional stunnel service needs to be defined")


# --- freshness ---


@pytest.mark.san
def test_refreshed_before_it_expires(bench, authority):
    """Every response is valid for a few seconds; clients never see an old one, nor none."""
    responder = Responder(bench, authority, lambda q, r: reply(r.response(q, this=0, until=8 * SLOW)))
    proxy = bench.tls_server(pem=authority.pem("server", authority.cert, aia=responder.url))
    wait_cached(proxy)
    first = next_update(proxy.port)
    assert first

    def renewed():
        now = next_update(proxy.port)
        assert now, proxy.log()[-5000:]
        return now != first
    until(renewed, 20, "a fresh response is stapled")
    assert len(responder.requests) >= 2


@pytest.mark.slow
def test_old_response_serves_while_it_is_valid_and_no_longer(bench, authority):
    answers = [lambda q, r: reply(r.response(q, this=0, until=8 * SLOW))]
    responder = Responder(bench, authority, lambda q, r: answers[-1](q, r))
    proxy = bench.tls_server(pem=authority.pem("server", authority.cert, aia=responder.url))
    wait_cached(proxy)
    answers.append(lambda q, r: reply(b"", status="503 Later"))
    responder.asked(2)
    proxy.wait_log("asks again")
    assert stapled(proxy.port) == "good"
    until(lambda: stapled(proxy.port) is None, 20, "the response expires")
    proxy.wait_log("LOG6.*OCSP: No OCSP stapling response to send")
    answers.pop()
    until(lambda: stapled(proxy.port) == "good", 60, "a later try succeeds")


def test_reload_keeps_the_response(bench, authority):
    """Unchanged certificate: no question is asked again, though the section has changed."""
    responder = Responder(bench, authority)
    proxy = bench.tls_server(pem=authority.pem("server", authority.cert, aia=responder.url))
    wait_cached(proxy)
    assert proxy.hup(proxy.text[len(proxy.preamble):] + "TIMEOUTidle = 100\n")
    assert proxy.lines("OCSP: Use the cached OCSP response")
    assert stapled(proxy.port) == "good"
    assert len(responder.requests) == 1


def test_reload_with_another_certificate_fetches_anew(bench, authority):
    responder = Responder(bench, authority)
    old, new = (authority.pem(name, authority.cert, aia=responder.url) for name in ("old", "new"))
    proxy = bench.tls_server(pem=old)
    wait_cached(proxy)
    assert proxy.hup(proxy.text[len(proxy.preamble):].replace(old, new))
    wait_cached(proxy, 2)
    assert stapled(proxy.port) == "good"
    assert [request.serial for request in responder.requests] == [0x1001, 0x1002]


@pytest.mark.parametrize("way", ["certReload", "HUP"])
def test_file_with_another_certificate_fetches_anew(bench, authority, way):
    """What another section staples stays as it is."""
    responder = Responder(bench, authority)
    still, old, new = (authority.pem(name, authority.cert, aia=responder.url) for name in ("still", "old", "new"))
    backend = bench.server(echo)
    ports = bench.ports(), bench.ports()
    proxy = bench.proxy(f"certReload = {'yes' if way == 'certReload' else 'no'}\n"
                        f"[still]\naccept = 127.0.0.1:{ports[0]}\nconnect = 127.0.0.1:{backend.port}\ncert = {still}\n"
                        f"[changes]\naccept = 127.0.0.1:{ports[1]}\nconnect = 127.0.0.1:{backend.port}\ncert = {old}\n")
    wait_cached(proxy, 2)
    os.replace(new, old)
    if way == "HUP":
        assert proxy.hup()
    wait_cached(proxy, 3)
    assert [stapled(port) for port in ports] == ["good", "good"]
    assert sorted(request.serial for request in responder.requests) == [0x1001, 0x1002, 0x1003]


# --- nothing waits ---


@pytest.mark.san
def test_silent_responder_holds_up_nothing(bench, authority):
    """Neither start nor reload nor handshakes nor the end wait for it."""
    responder = Responder(bench, authority, lambda q, r: None)
    proxy = bench.tls_server(pem=authority.pem("server", authority.cert, aia=responder.url), extra="TIMEOUTocsp = 100000",
                             head="workers = 2")
    responder.asked()
    for _ in range(10):
        assert stapled(proxy.port) is None
        bench.client(proxy.port).ping()
    assert proxy.hup()
    responder.asked(2)
    bench.client(proxy.port).ping()
    # Its descriptors are those of the fetch under way, which ends with the process.
    proxy.expect_open = True
    proxy.stop()


@pytest.mark.san
@pytest.mark.parametrize("drain", [False, True], ids=["term", "drain"])
def test_end_while_a_responder_is_asked(bench, authority, drain):
    responder = Responder(bench, authority, lambda q, r: None)
    proxy = bench.tls_server(pem=authority.pem("server", authority.cert, aia=responder.url), extra="TIMEOUTocsp = 100000",
                             head="drain = 100" if drain else "")
    responder.asked()
    proxy.expect_open = True
    proxy.send_signal(signal.SIGTERM)
    assert proxy.wait_exit() == 0
    proxy.stop()


def test_silent_responder_times_out(bench, authority):
    responder = Responder(bench, authority, lambda q, r: None)
    proxy = bench.tls_server(pem=authority.pem("server", authority.cert, aia=responder.url), extra="TIMEOUTocsp = 1")
    proxy.wait_log(r"LOG6\[stapling\]: OCSP: s_poll_wait: TIMEOUTocsp exceeded")
    proxy.wait_log(r"asks again in 5 second")


def test_many_sections_with_silent_responders(bench, authority):
    """They wait side by side: the last section's response does not wait for the others' time-outs."""
    silent, good = Responder(bench, authority, lambda q, r: None), Responder(bench, authority)
    backend = bench.server(echo)
    dull = authority.pem("dull", authority.cert, aia=silent.url)
    text = "TIMEOUTocsp = 100000\n" + "".join(f"[s{i}]\naccept = 127.0.0.1:{bench.ports()}\nconnect = 127.0.0.1:{backend.port}\ncert = {dull}\n"
                                             for i in range(40))
    port = bench.ports()
    text += (f"[good]\naccept = 127.0.0.1:{port}\nconnect = 127.0.0.1:{backend.port}\n"
             f"cert = {authority.pem('bright', authority.cert, aia=good.url)}\n")
    proxy = bench.proxy(text)
    wait_cached(proxy)
    assert stapled(port) == "good"
    silent.asked(40)
    proxy.expect_open = True


@pytest.mark.slow
def test_hundreds_of_sections_take_turns(bench, authority):
    """No more than 64 questions of a worker at a time; all get their response in the end, whoever is silent."""
    silent, good = Responder(bench, authority, lambda q, r: None), Responder(bench, authority)
    backend = bench.server(echo)
    dull, bright = authority.pem("dull", authority.cert, aia=silent.url), authority.pem("bright", authority.cert, aia=good.url)
    ports = [bench.ports() for _ in range(150)]
    text = f"workers = 1\nTIMEOUTocsp = {5 * SLOW}\n" + "".join(
        f"[s{i}]\naccept = 127.0.0.1:{port}\nconnect = 127.0.0.1:{backend.port}\ncert = {dull if i < 100 else bright}\n"
        for i, port in enumerate(ports))
    proxy = bench.proxy(text)
    wait_cached(proxy, 50)
    assert stapled(ports[-1]) == "good"
    silent.asked(100)
    proxy.expect_open = True
