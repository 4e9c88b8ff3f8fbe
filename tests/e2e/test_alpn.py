# The application protocol (ALPN): the server's order counts, a client that offers only others is refused or goes on without.
# SPDX-License-Identifier: Apache-2.0
import re
import socket
import ssl
import subprocess

import pytest

from peers import client_context, connect, echo, read_all, read_exactly, server_context
from proxy import SLOW, until

V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
VERSIONS = pytest.mark.parametrize("version", [V12, V13], ids=["TLSv1.2", "TLSv1.3"])

pytestmark = [pytest.mark.ours, pytest.mark.san]


def offering(*protocols, version=None, pki=None):
    context = client_context(pki, version)
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


def choosing(pki, *protocols, version=None):
    context = server_context(pki.ec_pem, version)
    context.set_alpn_protocols(list(protocols))
    return context


# --- server mode ---


@VERSIONS
@pytest.mark.valgrind
def test_server_chooses(bench, version):
    proxy = bench.tls_server("alpn = h2, http/1.1")
    for number, (offered, expected) in enumerate([(("http/1.1", "h2"), "h2"), (("http/1.1",), "http/1.1"), (("x", "http/1.1", "y"), "http/1.1"),
                                                  ((), None)]):
        client = bench.client(proxy.port, offering(*offered, version=version)).ping()
        assert client.tls.selected_alpn_protocol() == expected
        client.bye()
        line = f"protocol negotiated: {expected}" if expected else "no protocol negotiated"
        proxy.wait_log(rf"LOG6\[{number}\]: ALPN: {re.escape(line)}$")


@VERSIONS
def test_server_refuses(bench, version):
    """no_application_protocol, RFC 7301 3.2: the backend never sees the client."""
    proxy = bench.tls_server("alpn = h2,http/1.1")
    with pytest.raises(ssl.SSLError) as error:
        bench.client(proxy.port, offering("ftp", "h2c", version=version))
    assert "alert no application protocol" in str(error.value)
    proxy.wait_log(r"LOG5\[0\]: ALPN: the client offers none of the protocols that are served$")
    proxy.wait_log(r"\[0\]: Connection")
    assert proxy.backend.accepted == 0


@VERSIONS
def test_server_ignores(bench, version):
    proxy = bench.tls_server("alpn = h2,http/1.1\nalpnMismatch = ignore")
    client = bench.client(proxy.port, offering("ftp", "h2c", version=version)).ping()
    assert client.tls.selected_alpn_protocol() is None
    proxy.wait_log(r"LOG6\[0\]: ALPN: no protocol negotiated$")


def test_without_the_option(bench):
    """What clients offer is not looked at."""
    proxy = bench.tls_server()
    client = bench.client(proxy.port, offering("h2")).ping()
    assert client.tls.selected_alpn_protocol() is None
    assert not proxy.lines("ALPN")


@VERSIONS
@pytest.mark.parametrize("options", ["", "options = NO_TICKET"], ids=["ticket", "cache"])
def test_each_connection_of_a_session_has_its_own(bench, version, options):
    proxy = bench.tls_server(f"alpn = a,b\n{options}")
    first = offering("b", version=version)
    client = bench.client(proxy.port, first).ping()
    session = client.tls.session
    client.bye()
    first.set_alpn_protocols(["a"])
    client = bench.client(proxy.port, first, session=session).ping()
    assert client.tls.session_reused and client.tls.selected_alpn_protocol() == "a"
    first.set_alpn_protocols(["c"])
    with pytest.raises(ssl.SSLError):
        bench.client(proxy.port, first, session=session)


@VERSIONS
def test_virtual_hosts_have_their_own(bench, pki, version):
    port, backend = bench.ports(), bench.server(echo)
    bench.proxy(f"cert = {pki.ec_pem}\nconnect = 127.0.0.1:{backend.port}\nalpn = h2\n[p]\naccept = 127.0.0.1:{port}\n"
                "[a]\nsni = p:a\nalpn = imap\n[b]\nsni = p:b\nalpn = \n[c]\nsni = p:c\nalpnMismatch = ignore\n")

    def negotiated(name, *protocols):
        return bench.client(port, offering(*protocols, version=version), server_name=name).ping().tls.selected_alpn_protocol()

    assert negotiated("a", "h2", "imap") == "imap"
    assert negotiated("b", "h2", "imap") is None
    assert negotiated("c", "imap") is None and negotiated("c", "h2") == "h2"
    assert negotiated("p", "h2", "imap") == "h2"
    for name in "a", "p":
        with pytest.raises(ssl.SSLError):
            negotiated(name, "pop3")


def test_past_the_hand_over(bench):
    """The protocol outlives OpenSSL's object."""
    proxy = bench.tls_server("alpn = h2")
    client = bench.client(proxy.port, offering("h2"))
    for _ in range(5):
        client.ping(b"x" * 16000)
    client.bye()


def test_curl(bench, need, pki):
    proxy = bench.tls_server("alpn = http/1.1", pem=pki.rsa_pem)
    out = subprocess.run([need("curl"), "-sv", "--http0.9", "-m", "2", "--cacert", pki.ca, f"https://localhost:{proxy.port}/"],
                         stdin=subprocess.DEVNULL, capture_output=True, timeout=60 * SLOW).stderr.decode(errors="replace")
    assert "ALPN: server accepted http/1.1" in out or "ALPN, server accepted to use http/1.1" in out, out


def test_gnutls_cli(bench, need):
    proxy = bench.tls_server("alpn = imap,pop3")
    out = subprocess.run([need("gnutls-cli"), "--no-ca-verification", "--alpn", "pop3", "-p", str(proxy.port), "127.0.0.1"],
                         stdin=subprocess.DEVNULL, capture_output=True, timeout=60 * SLOW).stdout.decode(errors="replace")
    assert "Application protocol: pop3" in out, out


# --- client mode ---


def through(proxy):
    with connect(proxy.port) as sock:
        sock.sendall(b"ping")
        got = read_exactly(sock, 4)
        sock.shutdown(socket.SHUT_WR)
        read_all(sock)
    assert got == b"ping"


@VERSIONS
@pytest.mark.parametrize("served, expected", [(("http/1.1",), "http/1.1"), (("http/1.1", "h2"), "http/1.1"), (("x", "h2"), "h2")])
def test_client_offers(bench, pki, version, served, expected):
    server = bench.server(echo, context=choosing(pki, *served, version=version))
    proxy = bench.tls_client(server.port, "alpn = h2,http/1.1")
    through(proxy)
    proxy.wait_log(rf"LOG6\[0\]: ALPN: protocol negotiated: {re.escape(expected)}$")


@VERSIONS
def test_server_without_alpn(bench, pki, version):
    server = bench.server(echo, context=server_context(pki.ec_pem, version))
    proxy = bench.tls_client(server.port, "alpn = h2,http/1.1")
    through(proxy)
    proxy.wait_log(r"LOG6\[0\]: ALPN: no protocol negotiated$")


def client_hello(bench, options):
    server = bench.server(lambda sock, _server: sock.recv(4096))
    proxy = bench.tls_client(server.port, options)
    try:
        connect(proxy.port).close()  # the proxy may be done with it before we are
    except ConnectionError:
        pass
    return server.result()


def test_list_on_the_wire(bench):
    """As it stands in the configuration, in its order."""
    assert b"\x00\x10\x00\x10\x00\x0e\x02h2\x08http/1.1\x01x" in client_hello(bench, "alpn = h2,http/1.1,x")
    assert b"http/1.1" not in client_hello(bench, "")


def test_s_server(bench, pki):
    port = bench.ports()
    bench.run(["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-cert", pki.ec_pem, "-key", pki.ec_pem, "-alpn", "b,a", "-rev"],
              stdin=subprocess.PIPE)
    until(lambda: not bench.ports.free(port), 20, "s_server listens")
    proxy = bench.tls_client(port, "alpn = a,b")
    with connect(proxy.port) as sock:
        sock.sendall(b"abc\n")
        assert read_exactly(sock, 4) == b"cba\n"
    proxy.wait_log(r"LOG6\[0\]: ALPN: protocol negotiated: b$")


def test_pair(bench):
    behind = bench.tls_server("alpn = two,one")
    proxy = bench.tls_client(behind.port, "alpn = one,two")
    for _ in range(2):
        through(proxy)
    behind.wait_log("ALPN: protocol negotiated: two$", 2)
    proxy.wait_log("ALPN: protocol negotiated: two$", 2)
