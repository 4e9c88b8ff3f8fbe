# The PROXY protocol, version 2 (sendProxy): what the backend is told of each connection, and that it is true.
#
#   client ──TLS──> [s] ──header, plain──> a parser that forgives nothing, varnish, haproxy, nginx
#
# SPDX-License-Identifier: Apache-2.0
import os
import re
import socket
import ssl
import subprocess
import threading

import pytest

from kernel_tls import HAVE, results
from peers import TIMEOUT, TlsClient, abort, client_context, connect, echo, listens, pattern, read_all, read_exactly
from proxy import BINARY, SLOW, until
from proxy_protocol import (CERT_CONN, CERT_SESS, CIPHER, CLIENT_SSL, CN, KEY_ALG, SIG_ALG, VERSION, Header, announced, introduced)

V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
VERSIONS = pytest.mark.parametrize("version", [V12, V13], ids=["TLSv1.2", "TLSv1.3"])
NEVER, NOW, BEFORE = CLIENT_SSL, CLIENT_SSL | CERT_CONN | CERT_SESS, CLIENT_SSL | CERT_SESS

pytestmark = [pytest.mark.ours, pytest.mark.san]


def section(bench, extra="", handler=echo, **options):
    return bench.tls_server(f"sendProxy = v2\n{extra}", backend=options.pop("backend", None) or bench.server(introduced(handler)), **options)


def header_of(bench, proxy, context=None, number=None, **options):
    """Connects once; what the backend was told, and the session."""
    seen = len(getattr(proxy.backend, "headers", []))
    client = bench.client(proxy.port, context, **options).ping()
    session = client.tls.session
    source = client.sock.getsockname()
    client.bye()
    assert not proxy.backend.errors and len(proxy.backend.headers) == seen + 1
    header = proxy.backend.headers[seen]
    assert header.source == source
    return header, session


def s_client(proxy, *args):
    done = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{proxy.port}", *args], input=b"Q\n", stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=60 * SLOW)
    assert done.returncode == 0, done.stdout.decode(errors="replace")


# --- what is said ---


@VERSIONS
@pytest.mark.valgrind
def test_everything(bench, pki, version):
    proxy = section(bench, f"alpn = h2\nverifyChain = yes\nCAfile = {pki.ca}", pem=pki.rsa_pem)
    context = client_context(version=version, certificate=pki.client_pem)
    context.set_alpn_protocols(["h2"])
    header, _ = header_of(bench, proxy, context, server_name="www.example.test")
    assert header.family == 0x11 and header.destination == ("127.0.0.1", proxy.port)
    assert header.alpn == b"h2" and header.authority == b"www.example.test"
    assert header.client == NOW and header.verify == 0
    cipher = "ECDHE-RSA-AES256-GCM-SHA384" if version == V12 else "TLS_AES_256_GCM_SHA384"
    assert header.tls == {VERSION: version.name.replace("_", "."), CN: "a client", CIPHER: cipher,
                          SIG_ALG: "ecdsa-with-SHA256", KEY_ALG: "RSA2048"}
    proxy.wait_log(rf"LOG7\[0\]:  -> PROXY version 2, {header.size} bytes: 127\.0\.0\.1:\d+ to 127\.0\.0\.1:{proxy.port}$")


@VERSIONS
def test_as_little_as_there_can_be(bench, version):
    header, _ = header_of(bench, section(bench), client_context(version=version))
    assert header.alpn is None and header.authority is None
    assert header.client == NEVER and header.verify != 0
    assert set(header.tls) == {VERSION, CIPHER, SIG_ALG, KEY_ALG} and header.tls[KEY_ALG] == "EC256"


def test_protocol_only_if_there_is_one(bench):
    proxy = section(bench, "alpn = h2\nalpnMismatch = ignore")
    for offered, agreed in (["x", "h2"], b"h2"), (["x"], None), ([], None):
        context = client_context()
        context.set_alpn_protocols(offered)
        assert header_of(bench, proxy, context)[0].alpn == agreed


@pytest.mark.parametrize("kind, signature, key", [("rsa", "RSA-SHA256", "RSA2048"), ("p384", "ecdsa-with-SHA256", "EC384"),
                                                  ("ed25519", "ED25519", "ED25519")])
def test_certificates_of_each_kind(bench, pki, kind, signature, key):
    name = pki.trust.issue(f"pp-{kind}", kind=kind)
    header, _ = header_of(bench, section(bench, pem=pki.trust.pem(name)))
    assert (header.tls[SIG_ALG], header.tls[KEY_ALG]) == (signature, key)


@VERSIONS
def test_the_certificate_that_was_shown(bench, pki, version):
    """Of two the one that the client could use."""
    proxy = section(bench, f"cert = {pki.rsa_pem}", pem=pki.ec_pem)
    for number, (algorithms, key) in enumerate([("rsa_pss_rsae_sha256", "RSA2048"), ("ecdsa_secp256r1_sha256", "EC256")]):
        s_client(proxy, "-sigalgs", algorithms, "-tls1_2" if version == V12 else "-tls1_3")
        assert proxy.backend.result(number + 1)[0].tls[KEY_ALG] == key


@pytest.mark.parametrize("name", ["a", ".".join(["x" * 63] * 4), "xn--bcher-kva.example", "UPPER.example"], ids=["1", "255", "IDN", "case"])
def test_names_of_servers(bench, name):
    assert header_of(bench, section(bench), server_name=name)[0].authority == name.encode()


@VERSIONS
def test_names_after_a_second_hello(bench, version):
    """The group that the client would like is not to be had: TLS 1.3 says hello twice."""
    proxy = section(bench, "curves = P-384")
    header, _ = header_of(bench, proxy, client_context(version=version), server_name="some.test")
    assert header.authority == b"some.test"


@pytest.mark.parametrize("change", ["nul", "type", "length"])
def test_malformed_names(bench, change):
    proxy = section(bench)
    client = bench.client(proxy.port, server_name="some.test", handshake=False)
    with pytest.raises(ssl.SSLWantReadError):
        client.tls.do_handshake()
    hello = bytearray(client.outgoing.read())
    at = hello.index(b"some.test")
    hello[{"nul": at, "type": at - 3, "length": at - 1}[change]] = {"nul": 0, "type": 1, "length": 10}[change]
    client.sock.sendall(hello)
    with pytest.raises(ssl.SSLError):
        client.handshake()
    assert proxy.backend.accepted == 0


# --- certificates of clients: zero only where one was shown and verified ---


@VERSIONS
@pytest.mark.parametrize("checks, believed", [
    ("", None), ("verify = 0", False), ("requireCert = yes", False), ("verifyChain = yes\nCAfile = {ca}", True),
    ("verifyChain = yes\nrequireCert = no\nCAfile = {ca}", True), ("verifyPeer = yes\nCAfile = {client}", True), ("verify = 1\nCAfile = {ca}", True),
    ("verify = 2\nCAfile = {ca}", True), ("verify = 4\nCAfile = {client}", True)])
def test_verify(bench, pki, version, checks, believed):
    proxy = section(bench, checks.format(ca=pki.ca, client=pki.client))
    header, _ = header_of(bench, proxy, client_context(version=version, certificate=pki.client_pem))
    assert header.client == (NEVER if believed is None else NOW)
    assert (header.verify == 0) == bool(believed)
    assert header.tls.get(CN) == (None if believed is None else "a client")


@VERSIONS
@pytest.mark.parametrize("checks", ["", "verify = 0", "verify = 1\nCAfile = {ca}", "verifyChain = yes\nrequireCert = no\nCAfile = {ca}"])
def test_clients_without_a_certificate(bench, pki, version, checks):
    header, _ = header_of(bench, section(bench, checks.format(ca=pki.ca)), client_context(version=version))
    assert header.client == NEVER and header.verify != 0 and CN not in header.tls


@VERSIONS
def test_a_certificate_that_nobody_checks(bench, pki, version):
    """Of a CA that the section has never heard of: shown, and not believed."""
    stranger = pki.trust.issue("pp-stranger", subject="/CN=admin")
    header, _ = header_of(bench, section(bench, "verify = 0"), client_context(version=version, certificate=pki.trust.pem(stranger)))
    assert header.client == NOW and header.verify != 0 and header.tls[CN] == "admin"


@VERSIONS
def test_refused_clients_are_not_announced(bench, pki, version):
    proxy = section(bench, f"verifyChain = yes\nCAfile = {pki.other_ca}")
    with pytest.raises((ssl.SSLError, OSError, AssertionError, EOFError)):
        bench.client(proxy.port, client_context(version=version, certificate=pki.client_pem)).ping()
    proxy.wait_log(r"\[0\]: Connection")
    assert proxy.backend.accepted == 0


@VERSIONS
@pytest.mark.parametrize("how", ["", "options = NO_TICKET", "workers"])
@pytest.mark.parametrize("checks, verify", [("verifyChain = yes\nCAfile = {ca}", True), ("verify = 0", False)])
def test_resumed_sessions(bench, pki, version, how, checks, verify):
    """The certificate was shown when the session began; the names are those of each connection; the server shows nothing."""
    head = "workers = 2" if how == "workers" else ""
    proxy = section(bench, f"alpn = one,two\n{how if not head else ''}\n{checks.format(ca=pki.ca)}", head=head)
    context = client_context(version=version, certificate=pki.client_pem)
    context.set_alpn_protocols(["two"])
    first, session = header_of(bench, proxy, context, server_name="first.test")
    assert first.client == NOW and SIG_ALG in first.tls and first.authority == b"first.test"
    context.set_alpn_protocols(["one"])
    for name in "first.test", "second.test", None:
        client = bench.client(proxy.port, context, session=session, server_name=name).ping()
        assert client.tls.session_reused
        client.bye()
        header = proxy.backend.headers[-1]
        assert header.client == BEFORE and (header.verify == 0) == verify and header.tls[CN] == "a client"
        assert not {SIG_ALG, KEY_ALG} & set(header.tls)
        assert header.alpn == b"one" and header.authority == (name and name.encode())


@VERSIONS
def test_resumed_without_a_certificate(bench, version):
    proxy = section(bench)
    context = client_context(version=version)
    _, session = header_of(bench, proxy, context)
    client = bench.client(proxy.port, context, session=session).ping()
    assert client.tls.session_reused
    client.bye()
    assert proxy.backend.headers[1].client == NEVER and proxy.backend.headers[1].verify != 0


COMMON_NAMES = [("/CN=J\u00fcrgen M\u00fcller", "J\u00fcrgen M\u00fcller"), ("/O=Nobody", None), ("/CN=general/OU=x/CN=special", "special"),
                ("/CN=" + "x" * 64, "x" * 64), ("/CN=" + "\u20ac" * 64, "\u20ac" * 64)]


@pytest.mark.parametrize("number, subject, told", [(i, *each) for i, each in enumerate(COMMON_NAMES)])
def test_common_names(bench, pki, number, subject, told):
    name = pki.trust.issue(f"pp-cn-{number}", subject=subject)
    header, _ = header_of(bench, section(bench, "verify = 0"), client_context(certificate=pki.trust.pem(name)))
    assert header.client == NOW and header.tls.get(CN) == told


def common_name_with_nul(trust, _monkeypatch):
    trust.issue("pp-before-nul", subject="/CN=testX.evil", issuer="intermediate")
    return trust.doctored("pp-nul", "pp-before-nul", b"testX.evil", b"test\0.evil")


def common_name_of(size):
    def issue(trust, monkeypatch):
        lax = trust.path("lax.cnf")
        with open(lax, "w") as file:
            file.write("openssl_conf = init\n[init]\nstbl_section = strings\n[strings]\nCN = min:1,max:70000\n")
        monkeypatch.setenv("OPENSSL_CONF", lax)
        name = trust.issue(f"pp-cn-of-{size}", subject="/CN=" + "x" * size, issuer="intermediate")
        monkeypatch.delenv("OPENSSL_CONF")
        return name
    return issue


@VERSIONS
@pytest.mark.parametrize("issue, told", [(common_name_with_nul, None), (common_name_of(256), "x" * 256), (common_name_of(257), None),
                                         (common_name_of(20000), None)], ids=["NUL", "256", "257", "20000"])
def test_common_names_that_are_not_passed_on(bench, pki, issue, told, version, monkeypatch):
    """What a backend could take for another name, or has no room for. The certificate is verified all the same."""
    name = issue(pki.trust, monkeypatch)
    proxy = section(bench, f"verifyChain = yes\nCAfile = {pki.trust.crt('root')}")
    header, _ = header_of(bench, proxy, client_context(version=version, certificate=pki.trust.pem(name)))
    assert header.client == NOW and header.verify == 0 and header.tls.get(CN) == told


def test_pre_shared_keys(bench, tmp_path):
    secrets = tmp_path / "psk.txt"
    secrets.write_text("alice:00112233445566778899aabbccddeeff\n")
    secrets.chmod(0o600)
    proxy = section(bench, f"PSKsecrets = {secrets}")
    for number, version in enumerate(["-tls1_2", "-tls1_3"]):
        s_client(proxy, "-servername", "s.test", "-psk_identity", "alice", "-psk", "00112233445566778899aabbccddeeff", version)
        header = proxy.backend.result(number + 1)[0]
        assert header.client == NEVER and header.verify != 0 and header.authority == b"s.test"
        assert set(header.tls) == {VERSION, CIPHER}


# --- addresses ---


def test_ipv6(bench, pki):
    port, backend = bench.ports(), bench.server(introduced(echo))
    bench.proxy(f"[s]\naccept = ::1:{port}\nconnect = 127.0.0.1:{backend.port}\ncert = {pki.ec_pem}\nsendProxy = v2\n")
    client = bench.client(("::1", port)).ping()
    header = backend.headers[0]
    assert header.family == 0x21 and header.source == client.sock.getsockname()[:2] and header.destination == ("::1", port)


def test_ipv4_on_a_socket_of_ipv6(bench, pki):
    port, backend = bench.ports(), bench.server(introduced(echo))
    proxy = bench.proxy(f"[s]\naccept = :::{port}\nconnect = 127.0.0.1:{backend.port}\ncert = {pki.ec_pem}\nsendProxy = v2\n"
                        "socket = a:IPV6_V6ONLY=no\n")
    client = bench.client(port).ping()
    proxy.wait_log(r"accepted connection from (::ffff:)?127\.0\.0\.1:")
    header = backend.headers[0]
    assert header.family == 0x11 and header.source == client.sock.getsockname() and header.destination == ("127.0.0.1", port)


@pytest.mark.parametrize("name", ["socket", "x" * 107, "@abstract-{port}"])
@pytest.mark.parametrize("named", [False, True])
def test_unix_sockets(bench, pki, name, named, tmp_path):
    path = name.format(port=bench.ports()) if name[0] == "@" else f"/tmp/{os.getpid()}-{name}"[:107]
    backend = bench.server(introduced(echo))
    bench.proxy(f"[s]\naccept = {path}\nconnect = 127.0.0.1:{backend.port}\ncert = {pki.ec_pem}\nsendProxy = v2\n")
    if path[0] == "@":
        until(lambda: path in open("/proc/net/unix").read(), what="the socket is there")
    sock = socket.socket(socket.AF_UNIX)
    bench.keep(sock)
    own = str(tmp_path / "client")
    if named:
        sock.bind(own)
    sock.settimeout(TIMEOUT)
    sock.connect("\0" + path[1:] if path[0] == "@" else path)
    over(sock).ping()
    header = backend.headers[0]
    assert header.family == 0x31 and header.source == (own.encode() if named else b"")
    assert header.destination == (b"\0" + path[1:].encode() if path[0] == "@" else path.encode())


def over(sock, context=None):
    """A TLS client on a socket that is connected already."""
    client = TlsClient.__new__(TlsClient)
    client.sock, client.incoming, client.outgoing, client.ended = sock, ssl.MemoryBIO(), ssl.MemoryBIO(), None
    client.tls = (context or client_context()).wrap_bio(client.incoming, client.outgoing)
    return client.handshake()


@pytest.mark.parametrize("kind", ["tcp", "socket pair"])
def test_inetd(bench, pki, kind):
    """The super-server's socket is the client's; one without names is told as such."""
    backend = bench.server(introduced(echo))
    config = bench.directory / "inetd.conf"
    config.write_text(f"syslog = no\noutput = {bench.directory}/inetd.log\ncert = {pki.ec_pem}\nconnect = 127.0.0.1:{backend.port}\n"
                      "sendProxy = v2\n")
    if kind == "tcp":
        with socket.create_server(("127.0.0.1", 0)) as listener:
            ours = connect(listener.getsockname()[1])
            theirs = listener.accept()[0]
            expected = (0x11, ours.getsockname(), ours.getpeername())
    else:
        ours, theirs = socket.socketpair()
        ours.settimeout(TIMEOUT)
        expected = (0x31, b"", b"")
    bench.keep(ours)
    process = bench.run([BINARY, str(config)], stdin=theirs, stdout=theirs)
    theirs.close()
    client = over(ours).ping()
    header = backend.headers[0]
    assert (header.family, header.source, header.destination) == expected
    client.bye()
    assert process.wait(20 * SLOW) == 0


# --- programs ---


@VERSIONS
def test_program(bench, pki, version):
    """On its standard input, so /bin/cat sends it to the client."""
    port = bench.ports()
    bench.proxy(f"[s]\naccept = 127.0.0.1:{port}\nexec = /bin/cat\ncert = {pki.ec_pem}\nsendProxy = v2\n")
    client = bench.client(port, client_context(version=version), server_name="cat.test")
    head = client.recv_exactly(16)
    header = Header(head + client.recv_exactly(int.from_bytes(head[14:], "big")))
    assert header.source == client.sock.getsockname() and header.authority == b"cat.test"
    data = pattern(300_000)
    client.send(data)
    assert client.recv_exactly(len(data)) == data


def test_program_that_cannot_be_run(bench, pki):
    port = bench.ports()
    proxy = bench.proxy(f"[s]\naccept = 127.0.0.1:{port}\nexec = /nonexistent/program\ncert = {pki.ec_pem}\nsendProxy = v2\n")
    with bench.client(port) as client:
        assert client.recv_all() == b""
    proxy.wait_log(r"\[0\]: Connection")


def test_program_in_the_place_of_the_client(bench, pki):
    """It has no address: the header says that somebody is there, and how, but not who."""
    backend = bench.server(announced)
    program = os.path.join(str(bench.directory), "client")
    with open(program, "w") as file:
        file.write("#!/usr/bin/python3\nimport socket, ssl\ncontext = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)\ncontext.check_hostname = False\n"
                   "context.verify_mode = ssl.CERT_NONE\nsock = context.wrap_socket(socket.socket(fileno=0), server_hostname='program.test')\n"
                   "sock.sendall(b'hello')\nsock.unwrap()\n")
    os.chmod(program, 0o755)
    bench.proxy(f"[s]\nexec = {program}\nconnect = 127.0.0.1:{backend.port}\ncert = {pki.ec_pem}\nsendProxy = v2\n")
    header, rest = backend.result()
    assert header.family == 0 and header.source is None and header.authority == b"program.test" and rest == b"hello"


# --- whose setting counts, and where it leads ---


@VERSIONS
def test_virtual_hosts(bench, pki, version):
    plain, told = bench.server(echo), bench.server(introduced(echo))
    ports = bench.ports(), bench.ports()
    bench.proxy(f"cert = {pki.ec_pem}\n"
                f"[p]\naccept = 127.0.0.1:{ports[0]}\nconnect = 127.0.0.1:{plain.port}\n[told]\nsni = p:told.test\nsendProxy = v2\n"
                f"connect = 127.0.0.1:{told.port}\n"
                f"[q]\naccept = 127.0.0.1:{ports[1]}\nconnect = 127.0.0.1:{told.port}\nsendProxy = v2\n[plain]\nsni = q:plain.test\n"
                f"connect = 127.0.0.1:{plain.port}\n")
    context = client_context(version=version)
    for port, name, expected in [(ports[0], "told.test", b"told.test"), (ports[0], "other.test", None), (ports[0], None, None),
                                 (ports[1], "plain.test", None), (ports[1], "other.test", b"other.test"), (ports[1], None, b"")]:
        before = len(getattr(told, "headers", []))
        client = bench.client(port, context, server_name=name).ping()
        client.bye()
        after = getattr(told, "headers", [])[before:]
        assert [header.authority or b"" for header in after] == ([] if expected is None else [expected]), name
    assert not plain.errors and not told.errors


@VERSIONS
def test_redirect(bench, pki, version):
    """Who is led elsewhere is not announced there; others are, and with zero."""
    inside, outside = bench.server(introduced(echo)), bench.server(echo)
    proxy = section(bench, f"verifyChain = yes\nCAfile = {pki.ca}\nredirect = 127.0.0.1:{outside.port}", backend=inside)
    bench.client(proxy.port, client_context(version=version)).ping().bye()
    context = client_context(version=version, certificate=pki.client_pem)
    _, session = header_of(bench, proxy, context)
    client = bench.client(proxy.port, context, session=session).ping()
    assert client.tls.session_reused
    client.bye()
    stranger = pki.trust.issue("pp-stranger", subject="/CN=admin")
    bench.client(proxy.port, client_context(version=version, certificate=pki.trust.pem(stranger))).ping().bye()
    assert outside.accepted == 2 and [(h.client, h.verify) for h in inside.headers] == [(NOW, 0), (BEFORE, 0)]


@VERSIONS
@pytest.mark.parametrize("failover", ["prio", "rr"])
def test_failover(bench, pki, version, failover):
    """Once, to the one that answered."""
    port, dead, backend = bench.ports(), bench.ports(), bench.server(introduced(echo))
    bench.proxy(f"[s]\naccept = 127.0.0.1:{port}\nconnect = 127.0.0.1:{dead}\nconnect = 127.0.0.1:{backend.port}\nfailover = {failover}\n"
                f"cert = {pki.ec_pem}\nsendProxy = v2\n")
    context = client_context(version=version)
    session = None
    for number in range(4):
        client = bench.client(port, context, session=session).ping()
        session = client.tls.session
        client.bye()
        assert len(backend.headers) == number + 1
    assert not backend.errors


def test_reload(bench):
    proxy = section(bench)
    old = bench.client(proxy.port).ping()
    told = proxy.backend.headers[0]
    plain = bench.server(echo)
    assert proxy.hup(proxy.text.replace("sendProxy = v2", "sendProxy = no").replace(str(proxy.backend.port), str(plain.port)))
    bench.client(proxy.port).ping()
    old.ping()
    assert plain.accepted == 1 and not plain.errors and proxy.backend.headers == [told]


# --- when it is sent ---


@VERSIONS
def test_a_server_that_speaks_first(bench, version):
    """It waits for the header, and the client for its greeting."""
    def greet(sock, server):
        sock.sendall(b"220 ready\r\n")
        return echo(sock, server)

    client = bench.client(section(bench, handler=greet).port, client_context(version=version))
    assert client.recv_exactly(11) == b"220 ready\r\n"
    client.ping()


@pytest.mark.parametrize("version, resumed", [(V13, False), (V13, True), (V12, True)], ids=["TLSv1.3", "TLSv1.3 resumed", "TLSv1.2 resumed"])
def test_together_with_the_first_data(bench, version, resumed):
    """What the client sends with the end of its handshake goes in one piece with the header."""
    def handler(sock, _server):
        data = sock.recv(65536)
        sock.sendall(b"x")
        return data

    proxy = section(bench, backend=bench.server(handler))
    context, session = client_context(version=version), None
    for number in range(1 + resumed):
        client = bench.client(proxy.port, context, session=session, handshake=False).handshake(hold=True)
        client.send(b"early")  # with the Finished
        assert client.recv_exactly(1) == b"x" and client.tls.session_reused == (number > 0)
        data, session = proxy.backend.result(number + 1), client.tls.session
        client.bye()
    assert data.endswith(b"early")
    Header(data[:-5])


@pytest.mark.parametrize("how", ["close", "reset", "refuse to read"])
def test_a_backend_that_goes(bench, how):
    def handler(sock, _server):
        if how == "reset":
            abort(sock)
        elif how == "refuse to read":
            sock.shutdown(socket.SHUT_RD)
            sock.shutdown(socket.SHUT_WR)

    proxy = section(bench, backend=bench.server(handler))
    for number in range(5):
        try:
            with bench.client(proxy.port) as client:
                client.recv_all()
        except OSError:
            pass
        proxy.wait_log(rf"LOG5\[{number}\]: Connection (closed|reset)")


def test_a_backend_that_reads_late(bench):
    """It has the header and all the data in the end."""
    def handler(sock, server):
        server.released.wait(TIMEOUT)
        return announced(sock, server)

    proxy = section(bench, backend=bench.server(handler))
    client = bench.client(proxy.port)
    data = pattern(3_000_000)
    threading.Timer(1, proxy.backend.released.set).start()
    client.send(data)
    client.bye()
    header, got = proxy.backend.result()
    assert got == data and header.source is not None


PATHS = {"openssl": "inplace = no\nktls = no", "inplace": "ktls = no",
         **{f"kernel {relay}": f"ktls = yes\nktlsAfter = 0\nrelay = {relay}" for relay in ("auto", "copy", "splice", "uring-splice")}}


@VERSIONS
@pytest.mark.parametrize("path", PATHS)
def test_ways_of_the_relay(bench, version, path):
    """The header first, then every byte; the kernel's ways where it has them."""
    answer = pattern(2_000_000, 2)

    def handler(sock, _server):
        got = read_exactly(sock, 2_000_000)
        sock.sendall(answer)
        return got, read_all(sock)[0]

    admin = bench.ports()
    proxy = section(bench, PATHS[path], handler, head=f"admin = 127.0.0.1:{admin}")
    client = bench.client(proxy.port, client_context(version=version), server_name="way.test")
    data = pattern(2_000_000)
    client.send(data)
    assert client.recv_exactly(len(answer)) == answer
    client.bye()
    header, (got, rest) = proxy.backend.result()
    assert got == data and rest == b"" and header.authority == b"way.test"
    if HAVE and path.startswith("kernel"):
        assert results(admin, "s") == {("tx", "kernel"): 1, ("rx", "kernel"): 1}


def test_many_at_once(bench):
    """Each backend connection has the header of its own client."""
    proxy = section(bench)
    clients = [bench.client(proxy.port, server_name=f"c{i}.test") for i in range(100)]
    for client in clients:
        client.ping()
    told = {header.source: header.authority for header in proxy.backend.headers}
    assert told == {client.sock.getsockname(): f"c{i}.test".encode() for i, client in enumerate(clients)}


# --- what others make of it ---


def ask(bench, port, context=None, session=None, server_name=None):
    """One request of HTTP/1.0: the answer's body, the client's address, the session."""
    client = bench.client(port, context, session=session, server_name=server_name)
    client.send(b"GET / HTTP/1.0\r\nHost: x\r\n\r\n")
    source, answer = client.sock.getsockname(), client.recv_all().decode()
    assert re.match(r"HTTP/1\.[01] 200 ", answer), answer
    client.close()
    return answer.split("\r\n\r\n", 1)[1], source, client.tls.session


VCL = """vcl 4.1;
import std; import proxy;
backend none none;
sub vcl_recv { return (synth(200)); }
sub vcl_synth {
  set resp.body = "client " + client.ip + " " + std.port(client.ip) + " server " + server.ip + " " + std.port(server.ip) + " alpn " + proxy.alpn() +
    " authority " + proxy.authority() + " ssl " + proxy.is_ssl() + " conn " + proxy.client_has_cert_conn() + " sess " + proxy.client_has_cert_sess() +
    " verify " + proxy.ssl_verify_result() + " version " + proxy.ssl_version() + " cn " + proxy.client_cert_cn() + " cipher " + proxy.ssl_cipher() +
    " sign " + proxy.cert_sign() + " key " + proxy.cert_key() + ";";
  return (deliver);
}
"""


@pytest.fixture
def varnish(bench, need, tmp_path):
    """Its port."""
    vcl, port = tmp_path / "facts.vcl", bench.ports()
    vcl.write_text(VCL)
    with open(tmp_path / "varnish.log", "wb") as log:
        bench.run([need("varnishd"), "-F", "-j", "none", "-n", str(tmp_path / "varnish"), "-a", f"127.0.0.1:{port},PROXY", "-f", str(vcl),
                   "-s", "malloc,8m", "-p", "thread_pools=1", "-p", "thread_pool_min=10"], stdout=log)
    until(lambda: listens(port), 60, "varnish listens")
    return port


@VERSIONS
def test_varnish(bench, pki, varnish, version):
    """It checks the checksum, and has a name for every other TLV."""
    proxy = section(bench, f"alpn = http/1.1\nverifyChain = yes\nrequireCert = no\nCAfile = {pki.ca}", backend=varnish, pem=pki.rsa_pem)
    context = client_context(version=version, certificate=pki.client_pem)
    context.set_alpn_protocols(["http/1.1"])
    cipher = "ECDHE-RSA-AES256-GCM-SHA384" if version == V12 else "TLS_AES_256_GCM_SHA384"
    where = "client 127.0.0.1 {} server 127.0.0.1 " + str(proxy.port)
    names = f" alpn http/1.1 authority www.test ssl true conn {{}} sess true verify 0 version {version.name.replace('_', '.')} cn a client cipher {cipher}"
    body, source, session = ask(bench, proxy.port, context, server_name="www.test")
    assert body == where.format(source[1]) + names.format("true") + " sign ecdsa-with-SHA256 key RSA2048;"
    body, source, _ = ask(bench, proxy.port, context, session, server_name="www.test")
    assert body == where.format(source[1]) + names.format("false") + " sign  key ;"
    body, source, _ = ask(bench, proxy.port, client_context(version=version))
    assert body == (where.format(source[1]) + f" alpn  authority  ssl true conn false sess false verify 1 version {version.name.replace('_', '.')} cn "
                    f" cipher {cipher} sign ecdsa-with-SHA256 key RSA2048;")


def haproxy(bench, need, *lines):
    config, log = os.path.join(str(bench.directory), "haproxy.cfg"), os.path.join(str(bench.directory), "haproxy.log")
    with open(config, "w") as file:
        file.write(f"defaults\n  mode http\n  timeout client 20s\n  timeout server 20s\n  timeout connect 20s\nfrontend f\n" + "\n".join(lines) + "\n")
    with open(log, "wb") as out:
        return bench.run([need("haproxy"), "-db", "-f", config], stdout=out)


@pytest.mark.parametrize("family", [4, 6])
def test_haproxy(bench, pki, need, family):
    """Version 2.6 has a name for the authority."""
    port, accept, host = bench.ports(), bench.ports(), {4: "127.0.0.1", 6: "::1"}[family]
    haproxy(bench, need, f"  bind 127.0.0.1:{port} accept-proxy",
            '  http-request return status 200 content-type text/plain lf-string "%[src] %[src_port] %[dst] %[dst_port] %[fc_rcvd_proxy] %[fc_pp_authority]"')
    until(lambda: listens(port), 20, "haproxy listens")
    bench.proxy(f"[s]\naccept = {host}:{accept}\nconnect = 127.0.0.1:{port}\ncert = {pki.ec_pem}\nsendProxy = v2\n")
    for name in "www.test", None:
        body, source, _ = ask(bench, (host, accept), server_name=name)
        assert body.split() == [host, str(source[1]), host, str(accept), "1"] + ([name] if name else [])


def nginx(bench, need, text):
    config = os.path.join(str(bench.directory), "nginx.conf")
    with open(config, "w") as file:
        file.write(f"daemon off; master_process off; pid {bench.directory}/nginx.pid; error_log {bench.directory}/nginx.log info; events {{}}\n{text}\n")
    bench.run([need("nginx"), "-e", "stderr", "-c", config, "-p", str(bench.directory)])


@pytest.mark.parametrize("family", [4, 6])
def test_nginx(bench, pki, need, family):
    port, accept, host = bench.ports(), bench.ports(), {4: "127.0.0.1", 6: "::1"}[family]
    nginx(bench, need, f"http {{ access_log off; client_body_temp_path {bench.directory}/b; proxy_temp_path {bench.directory}/p; "
          f"fastcgi_temp_path {bench.directory}/f; uwsgi_temp_path {bench.directory}/u; scgi_temp_path {bench.directory}/s;\n"
          f"server {{ listen 127.0.0.1:{port} proxy_protocol; location / {{ return 200 "
          '"$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr $proxy_protocol_server_port"; } } }')
    until(lambda: listens(port), 20, "nginx listens")
    bench.proxy(f"[s]\naccept = {host}:{accept}\nconnect = 127.0.0.1:{port}\ncert = {pki.ec_pem}\nsendProxy = v2\n")
    body, source, _ = ask(bench, (host, accept), server_name="www.example.test")
    assert body == f"{host} {source[1]} {host} {accept}"
