# sessiond: sessions shared over UDP by processes of ours and by stunnel; what is asked, what is believed, and that nobody else waits.
# SPDX-License-Identifier: Apache-2.0
import socket
import ssl
import threading

import pytest

import proxy as proxies
from peers import TlsClient, client_context, echo, name
from pki import openssl
from proxy import SLOW, until
from sessiond import FOUND, GET, NEW, REMOVE, Sessiond

pytestmark = [pytest.mark.ours, pytest.mark.san]

V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
VERSIONS = pytest.mark.parametrize("version", [V12, V13])
IN, OUT = "<in>", "<out>"


@pytest.fixture
def cache(bench):
    return bench.keep(Sessiond(bench.ports()))


@pytest.fixture
def context():
    made = {}

    def get(version, certificate=None):
        if (version, certificate) not in made:
            made[version, certificate] = client_context(version=version, certificate=certificate)
        return made[version, certificate]
    return get


@pytest.fixture
def visit(context):
    def connect(port, version, session=None, certificate=None):
        """(answer, the session to go on with, whether it was resumed)."""
        with TlsClient(port, context(version, certificate), session=session) as client:
            client.send(b"ping")
            reused, answer = client.tls.session_reused, client.recv()
            session = client.tls.session
            client.bye()
        return answer.decode(), session, reused
    return connect


def node(bench, cache, extra="", **options):
    return bench.tls_server(f"sessiond = {cache.address}\n{extra}", **options)


def mark_of(der):
    """The application data of a session in DER form, or None."""
    at = der.find(b"\xb2")
    while at >= 0:
        if der[at + 1] == der[at + 3] + 2 and der[at + 2] == 4:
            return der[at + 4:at + 4 + der[at + 3]]
        at = der.find(b"\xb2", at + 1)
    return None


@VERSIONS
def test_two_processes_share(bench, cache, visit, version):
    a, b = node(bench, cache), node(bench, cache)
    _, session, _ = visit(a.port, version)
    news = cache.wait(NEW, 1 if version == V12 else 2)
    assert all(seconds == 300 and len(ident) == 32 and 0 < len(value) <= 512 for _, seconds, ident, value in news)
    assert mark_of(news[0][3]) == bytes(8), "nobody was authenticated, which is always said"
    _, again, reused = visit(b.port, version, session)
    assert reused and len(cache.of(GET)) == 1
    assert cache.of(GET)[0][1] == 0 and cache.of(GET)[0][2] in [ident for _, _, ident, _ in news]
    b.wait_log(r"LOG6\[0\]: cache_transfer: request=get, timeout=0, id=[0-9A-F]{64}, length=0")
    b.wait_log(r"LOG6\[0\]: cache_transfer: session found")
    a.wait_log(r"LOG6\[0\]: cache_transfer: request=new, timeout=300, id=[0-9A-F]{64}, length=\d+")
    assert visit(a.port, version, again or session)[2]


def test_what_was_fetched_need_not_be_fetched_again(bench, cache, visit):
    a, b = node(bench, cache), node(bench, cache, head="workers = 2")
    _, session, _ = visit(a.port, V12)
    for _ in range(5):
        assert visit(b.port, V12, session)[2]
    assert len(cache.of(GET)) == 1 and not cache.of(REMOVE)


@VERSIONS
def test_sessions_go_on_from_process_to_process(bench, cache, visit, version):
    nodes = [node(bench, cache) for _ in range(3)]
    _, session, _ = visit(nodes[0].port, version)
    for turn in range(1, 7):
        _, again, reused = visit(nodes[turn % 3].port, version, session)
        assert reused
        session = again or session
    assert not cache.of(REMOVE)


def test_a_session_that_went_bad_is_forgotten_everywhere(bench, cache, visit, context):
    """RFC 5246 7.2.2: after a fatal alert."""
    a, b = node(bench, cache), node(bench, cache)
    _, session, _ = visit(a.port, V12)
    cache.wait(NEW)
    client = bench.client(a.port, context(V12), session=session)
    assert client.tls.session_reused
    client.sock.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
    removed = cache.wait(REMOVE)
    assert len(removed[0][3]) == 0 and removed[0][1] == 0 and removed[0][2] == cache.of(NEW)[0][2]
    assert not visit(b.port, V12, session)[2]


def test_no_tickets_but_sessions(bench, cache, visit, context):
    """The option means NO_TICKET: a TLS 1.3 ticket is the session's id, and TLS 1.2 has none."""
    proxy = node(bench, cache)
    assert not visit(proxy.port, V12)[1].has_ticket
    visit(proxy.port, V13)
    assert not proxy.lines("Session ticket processing callback")


@VERSIONS
def test_the_end_of_a_process_takes_nothing_along(bench, cache, visit, version):
    """Neither a reload nor an exit empties the shared cache."""
    a, b = node(bench, cache), node(bench, cache)
    _, session, _ = visit(a.port, version)
    cache.wait(NEW)
    assert a.hup(a.text[len(a.preamble):] + "TIMEOUTidle = 99\n")
    a.stop()
    assert visit(b.port, version, session)[2]
    assert not cache.of(REMOVE)


def test_sessions_of_ipv6(bench, visit):
    cache = bench.keep(Sessiond(bench.ports(), "::1"))
    a, b = node(bench, cache), node(bench, cache)
    _, session, _ = visit(a.port, V12)
    cache.wait(NEW)
    assert visit(b.port, V12, session)[2]


# --- stunnel ---


@VERSIONS
def test_stunnel_is_the_third(bench, cache, visit, need, monkeypatch, version):
    """Either way round."""
    with monkeypatch.context() as patch:
        patch.setattr(proxies, "BINARY", need("stunnel4"))
        patch.setattr(proxies, "IS_STUNNEL", True)
        patch.setattr(proxies, "WRAPPER", [])
        theirs = node(bench, cache, preamble=f"foreground = yes\nsyslog = no\ndebug = debug\npid = {bench.directory}/stunnel.pid\n")
    theirs.expect_open, theirs.base_fds = True, None
    ours = node(bench, cache)
    _, session, _ = visit(theirs.port, version)
    cache.wait(NEW)
    assert visit(ours.port, version, session)[2]
    assert mark_of(cache.of(NEW)[0][3]) == (None if version == V12 else b"\xff" * 8)
    before = len(cache.of(NEW))
    _, session, _ = visit(ours.port, version)
    cache.wait(NEW, before + 1)
    until(lambda: visit(theirs.port, version, session)[2], what="stunnel, which waits for a fraction of a millisecond, has its answer")


# --- answers ---


@VERSIONS
def test_a_late_answer_is_waited_for(bench, cache, visit, version):
    """100 ms."""
    a, b = node(bench, cache), node(bench, cache)
    _, session, _ = visit(a.port, version)
    cache.wait(NEW)
    cache.delay = 0.1
    assert visit(b.port, version, session)[2] or SLOW > 1


@VERSIONS
def test_a_silent_server_costs_a_full_handshake(bench, cache, visit, version):
    a, b = node(bench, cache), node(bench, cache)
    _, session, _ = visit(a.port, version)
    cache.answer = lambda ident, value: []
    assert not visit(b.port, version, session)[2]
    b.wait_log(r"LOG6\[0\]: cache_transfer: recv timeout")


def test_no_server_at_all(bench, visit):
    """The refusal that the kernel reports, or none: the connection goes on."""
    port = bench.ports()
    a, b = (bench.tls_server(f"sessiond = 127.0.0.1:{port}") for _ in range(2))
    answer, session, _ = visit(a.port, V12)
    assert answer == "ping"
    answer, _, reused = visit(b.port, V12, session)
    assert answer == "ping" and not reused
    b.wait_log(r"LOG3\[0\]: cache_transfer: recv: Connection refused \(111\)")


def waiting(bench, cache, visit, context):
    """A node of one worker, and a client whose handshake waits there for the cache, which says nothing."""
    a, b = node(bench, cache), node(bench, cache, head="workers = 1")
    _, session, _ = visit(a.port, V12)
    asked = threading.Event()

    def silent(ident, value):
        asked.set()
        return []
    cache.answer = silent
    client = bench.client(b.port, context(V12), session=session, handshake=False)
    with pytest.raises(ssl.SSLWantReadError):
        client.tls.do_handshake()
    client.flush()
    assert asked.wait(20 * SLOW)
    return b, client


def test_nobody_waits_for_the_one_who_waits(bench, cache, visit, context):
    """One worker; a silent server; while a handshake waits for it, others come and go."""
    b, client = waiting(bench, cache, visit, context)
    assert visit(b.port, V12)[0] == "ping", "another one is served meanwhile"
    client.handshake()
    assert not client.tls.session_reused
    client.ping().bye()


def hello_with_sessions(context, idents):
    """A ClientHello of TLS 1.3 that offers sessions (RFC 8446 4.2.11), with binders that are none."""
    out = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context(V13).wrap_bio(ssl.MemoryBIO(), out).do_handshake()
    body = out.read()[9:]
    at = 34 + 1 + body[34]
    at += 2 + int.from_bytes(body[at:at + 2], "big")
    at += 1 + body[at]

    def sized(data):
        return len(data).to_bytes(2, "big") + data
    offered = b"".join(sized(ident) + bytes(4) for ident in idents)
    binders = b"".join(b"\x20" + bytes(32) for _ in idents)
    body = body[:at] + sized(body[at + 2:] + b"\x00\x29" + sized(sized(offered) + sized(binders)))
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    return b"".join(b"\x16\x03\x01" + sized(message[i:i + 16384]) for i in range(0, len(message), 16384))


def test_a_hello_does_not_ask_for_hundreds(bench, cache, context):
    """Who sends one packet has the proxy send a few, whatever is in it; the right session among the first is found."""
    proxy = node(bench, cache)
    with socket.create_connection(("127.0.0.1", proxy.port)) as sock:
        sock.sendall(hello_with_sessions(context, [i.to_bytes(32, "big") for i in range(500)]))
        assert sock.recv(1) == b"\x16", "it goes on as a full handshake"
    proxy.wait_log(r"LOG7\[0\]: Service \[s\] finished")
    asked = [ident for _, _, ident, _ in cache.of(GET)]
    assert asked == [i.to_bytes(32, "big") for i in range(len(asked))] and 2 <= len(asked) <= 8


@pytest.mark.parametrize("how", ["the client goes", "the proxy ends"])
def test_an_end_while_it_waits(bench, cache, visit, context, how):
    b, client = waiting(bench, cache, visit, context)
    if how == "the proxy ends":
        b.expect_open = True
        b.stop()
    else:
        client.abort()
        b.wait_log(r"LOG7\[0\]: Service \[s\] finished")
        assert visit(b.port, V12)[0] == "ping"


def refusing(bench, cache, visit, answer, version=V12):
    """A node that is told nonsense of a session."""
    a, b = node(bench, cache), node(bench, cache)
    _, session, _ = visit(a.port, version)
    cache.wait(NEW)
    cache.answer = answer
    said, _, reused = visit(b.port, version, session)
    assert said == "ping" and not reused
    assert visit(b.port, version)[0] == "ping"
    return b


@pytest.mark.parametrize("what, answer", [
    ("nothing", lambda ident, value: [b""]),
    ("short", lambda ident, value: [bytes([1, FOUND, 0, 0]) + ident[:31]]),
    ("version", lambda ident, value: [bytes([2, FOUND, 0, 0]) + ident + value]),
    ("another id", lambda ident, value: [bytes([1, FOUND, 0, 0]) + ident[:31] + bytes([ident[31] ^ 1]) + value]),
    ("too long", lambda ident, value: [bytes([1, FOUND, 0, 0]) + ident + value + bytes(512)]),
    ("huge", lambda ident, value: [bytes([1, FOUND, 0, 0]) + ident + bytes(60000)]),
    ("a flood", lambda ident, value: [b"x"] * 100)])
def test_what_is_no_answer(bench, cache, visit, what, answer):
    refusing(bench, cache, visit, answer).wait_log(r"LOG7\[0\]: cache_transfer: malformed packet received")


@pytest.mark.parametrize("what, answer", [
    ("not found", lambda ident, value: [bytes([1, 0x80, 0, 0]) + ident]),
    ("some type", lambda ident, value: [bytes([1, 0x01, 0, 0]) + ident + value]),
    ("no session", lambda ident, value: [bytes([1, FOUND, 0, 0]) + ident]),
    ("half a session", lambda ident, value: [bytes([1, FOUND, 0, 0]) + ident + value[:len(value) // 2]]),
    ("bytes", lambda ident, value: [bytes([1, FOUND, 0, 0]) + ident + bytes(range(200))]),
    ("another's session", lambda ident, value: [bytes([1, FOUND, 0, 0]) + ident + value.replace(ident, bytes(32))])])
def test_answers_that_are_not_believed(bench, cache, visit, what, answer):
    refusing(bench, cache, visit, answer)


def test_a_right_answer_after_wrong_ones(bench, cache, visit):
    a, b = node(bench, cache), node(bench, cache)
    _, session, _ = visit(a.port, V12)
    cache.wait(NEW)
    honest = cache.answer
    cache.answer = lambda ident, value: [b"x", bytes(40), *honest(ident, value)]
    assert visit(b.port, V12, session)[2]


def test_only_the_server_is_heard(bench, cache, visit):
    """An answer from another port is none: the socket is connected."""
    a, b = node(bench, cache), node(bench, cache)
    _, session, _ = visit(a.port, V12)
    cache.wait(NEW)
    honest, other = cache.answer, socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def reply(sender, ident):
        for packet in honest(ident, cache.kept.get(ident)):
            other.sendto(packet, sender)
    cache.reply = reply
    assert not visit(b.port, V12, session)[2]
    b.wait_log(r"LOG6\[0\]: cache_transfer: recv timeout")
    other.close()


def test_a_session_that_is_too_big(bench, pki, cache, visit):
    """With a client's certificate of two kilobytes: it is kept, but not shared."""
    openssl("req", "-x509", "-newkey", "rsa:4096", "-nodes", "-subj", "/CN=" + "x" * 60, "-keyout", pki.path("big.key"), "-out",
            pki.path("big.crt"), "-days", "2")
    big = pki.join("big.pem", pki.path("big.crt"), pki.path("big.key"))
    proxy = node(bench, cache, f"verifyPeer = yes\nCAfile = {pki.path('big.crt')}")
    _, session, _ = visit(proxy.port, V12, None, big)
    proxy.wait_log(r"LOG3\[0\]: cache_transfer: encoded session too big \(\d{3,4} bytes\)")
    assert visit(proxy.port, V12, session, big)[2] and not cache.of(NEW)


# --- redirect ---


@pytest.fixture(scope="module")
def small(pki):
    """Certificates that leave room in 512 bytes for the session."""
    for who in ("good", "bad"):
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={who[0]}", "-keyout",
                pki.path(f"small-{who}.key"), "-out", pki.path(f"small-{who}.crt"), "-days", "2", "-config", "/dev/null")
        pki.join(f"small-{who}.pem", pki.path(f"small-{who}.crt"), pki.path(f"small-{who}.key"))
    return {"good": pki.path("small-good.pem"), "bad": pki.path("small-bad.pem"), "nobody": None}


@VERSIONS
@pytest.mark.parametrize("who, where", [("good", IN), ("bad", OUT), ("nobody", OUT)])
def test_who_was_rejected_stays_so_elsewhere(bench, pki, cache, visit, small, version, who, where):
    """The mark goes with the session, to the other process and back."""
    inside, outside = (bench.server(name(text)) for text in (IN, OUT))
    checks = f"verifyPeer = yes\nCAfile = {pki.path('small-good.crt')}\nredirect = 127.0.0.1:{outside.port}"
    a, b = (node(bench, cache, checks, backend=inside) for _ in range(2))
    led, session, _ = visit(a.port, version, None, small[who])
    assert led == where
    until(lambda: len(cache.of(NEW)) >= (1 if version == V12 else 2))
    led, again, reused = visit(b.port, version, session, small[who])
    assert reused and led == where
    if version == V13:
        assert visit(a.port, version, again, small[who])[0] == where


@VERSIONS
@pytest.mark.parametrize("forged", [None, bytes(8), b"\xff" * 8])
def test_a_mark_that_is_missing_or_without_checks(bench, pki, cache, visit, small, version, forged):
    """As stunnel writes sessions: they prove nothing where something is checked."""
    inside, outside = (bench.server(name(text)) for text in (IN, OUT))
    checks = f"verifyPeer = yes\nCAfile = {pki.path('small-good.crt')}\nredirect = 127.0.0.1:{outside.port}"
    a, b = (node(bench, cache, checks, backend=inside) for _ in range(2))
    _, session, _ = visit(a.port, version, None, small["bad"])
    until(lambda: len(cache.of(NEW)) >= (1 if version == V12 else 2))

    def forge(ident, value):
        own = mark_of(value)
        field = b"\xb2" + bytes([len(own) + 2, 4, len(own)]) + own
        other = b"" if forged is None else b"\xb2" + bytes([len(forged) + 2, 4, len(forged)]) + forged
        head, size = (3, 1) if value[1] == 0x81 else (4, 2)
        body = value[head:].replace(field, other)
        return [bytes([1, FOUND, 0, 0]) + ident + (b"\x30\x81" + bytes([len(body)]) if len(body) < 256 else
                                                   b"\x30\x82" + len(body).to_bytes(2, "big")) + body]
    cache.answer = forge
    led, _, reused = visit(b.port, version, session, small["bad"])
    assert led == OUT and not reused


# --- other machines ---


def addresses():
    """An address of this machine that is not of the loopback, where there is one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))
            return sock.getsockname()[0]
        except OSError:
            return None


def test_another_machine_without_secrets_is_refused(bench, pki):
    out = bench.refused(f"[s]\naccept = 127.0.0.1:{bench.ports()}\nconnect = 127.0.0.1:1\ncert = {pki.ec_pem}\nsessiond = 192.0.2.1:9\n")
    assert 'Service [s]: "sessiond" on another machine needs "ticketKeySecret" and "ticketMacSecret" to protect the sessions' in out


@VERSIONS
def test_another_machine_gets_sealed_sessions(bench, visit, version):
    host = addresses()
    if not host or host.startswith("127."):
        pytest.skip("this machine has the loopback interface alone")
    cache = bench.keep(Sessiond(bench.ports(), host))
    secrets = "ticketKeySecret = {0}\nticketMacSecret = {0}"
    a, b = (node(bench, cache, secrets.format("00112233445566778899aabbccddeeff")) for _ in range(2))
    other = node(bench, cache, secrets.format("ff112233445566778899aabbccddeeff"))
    _, session, _ = visit(a.port, version)
    news = cache.wait(NEW)
    assert all(mark_of(value) is None and ident not in value for _, _, ident, value in news)
    assert not visit(other.port, version, session)[2]
    assert visit(b.port, version, session)[2]


def test_it_is_for_servers(bench):
    """A client section that inherits it says so, and does not use it."""
    backend = bench.server(echo, context=None)
    proxy = bench.tls_client(backend.port, "sessiond = 192.0.2.1:9")
    proxy.wait_log(r'LOG6\[\w+\]: Service \[c\]: "sessiond" is for servers')


@pytest.mark.parametrize("value", ["/run/sessiond.sock", "@sessiond", "no-such-host.invalid:1"])
def test_addresses_that_are_refused(bench, pki, value):
    out = bench.refused(f"[s]\naccept = 127.0.0.1:{bench.ports()}\nconnect = 127.0.0.1:1\ncert = {pki.ec_pem}\nsessiond = {value}\n")
    assert "Failed to resolve sessiond server address" in out
