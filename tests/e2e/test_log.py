# The lines of the log: their form, and the texts that people's tools look for.
# SPDX-License-Identifier: Apache-2.0
import os
import re
import ssl
import struct

import pytest

from peers import client_context, connect, echo, read_all, read_exactly, server_context
from proxy import IS_STUNNEL

LINE = re.compile(r"\d{4}\.\d\d\.\d\d \d\d:\d\d:\d\d LOG[0-7]\[[\w:-]+\]: .*")


@pytest.mark.san
@pytest.mark.valgrind
def test_every_line_has_the_form(bench):
    proxy = bench.tls_server()
    bench.client(proxy.port).ping().bye()
    proxy.wait_log("Connection closed")
    started = proxy.log().splitlines()
    odd = [line for line in started if not LINE.fullmatch(line) and not re.match(r"\[[ .:!*]\] ", line)]
    assert not odd


SERVER_LINES = [
    r"LOG5\[ui\]: Configuration successful",
    r"LOG6\[ui\]: Service \[s\] \(FD=\d+\) bound to 127\.0\.0\.1:{front}",
    r"LOG6\[\w+\]: Accepting new connections",
    r"LOG7\[0\]: Service \[s\] started",
    r"LOG7\[\w+\]: Service \[s\] accepted \(FD=\d+\) from 127\.0\.0\.1:\d+",
    r"LOG5\[0\]: Service \[s\] accepted connection from 127\.0\.0\.1:\d+",
    r"LOG6\[0\]: TLS accepted: new session negotiated",
    r"LOG6\[0\]: TLSv1\.3 ciphersuite: TLS_AES_256_GCM_SHA384 \(256-bit encryption\)",
    r"LOG6\[0\]: Peer temporary key: X25519, 253 bits",
    r"LOG6\[0\]: Session id: [0-9A-F]*",
    r"LOG6\[0\]: s_connect: connecting 127\.0\.0\.1:{back}",
    r"LOG5\[0\]: s_connect: connected 127\.0\.0\.1:{back}",
    r"LOG5\[0\]: Service \[s\] connected remote server from 127\.0\.0\.1:\d+",
    r"LOG5\[0\]: Connection closed: 4 byte\(s\) sent to TLS, 4 byte\(s\) sent to socket",
    r"LOG7\[0\]: Remote descriptor \(FD=\d+\) closed",
    r"LOG7\[0\]: Service \[s\] finished \(0 left\)",
]


@pytest.mark.san
def test_lines_of_a_server_connection(bench):
    proxy = bench.tls_server()
    bench.client(proxy.port).ping().bye()
    proxy.wait_log(r"finished \(0 left\)")
    for pattern in SERVER_LINES:
        proxy.wait_log(r"\d " + pattern.replace("{front}", str(proxy.port)).replace("{back}", str(proxy.backend.port)) + "$")


@pytest.mark.san
def test_lines_of_a_client_connection(bench, pki):
    backend = bench.server(echo, context=server_context(pki.ec_pem))
    proxy = bench.tls_client(backend.port)
    with connect(proxy.port) as sock:
        sock.sendall(b"ping")
        read_exactly(sock, 4)
    for pattern in (r"LOG5\[0\]: Service \[c\] accepted connection from 127\.0\.0\.1:\d+$",
                    r"LOG5\[0\]: Service \[c\] connected remote server from 127\.0\.0\.1:\d+$",
                    r"LOG6\[0\]: TLS connected: new session negotiated$",
                    r"LOG6\[0\]: TLSv1\.3 ciphersuite: TLS_AES_256_GCM_SHA384 \(256-bit encryption\)$",
                    r"LOG4\[ui\]: Service \[c\] needs authentication to prevent MITM attacks$",
                    r"LOG5\[0\]: Connection closed: 4 byte\(s\) sent to TLS, 4 byte\(s\) sent to socket$"):
        proxy.wait_log(pattern)


@pytest.mark.san
def test_connections_are_numbered_from_zero(bench):
    proxy = bench.tls_server()
    for _ in range(3):
        bench.client(proxy.port).ping().bye()
    proxy.wait_log("Connection closed", 3)
    assert [line.split("[", 1)[1].split("]")[0] for line in proxy.lines("LOG5.*accepted connection from")] == ["0", "1", "2"]


@pytest.mark.san
@pytest.mark.parametrize("form, pattern", [("sequential", r"\d+"), ("unique", r"[0-9A-Za-z]{22}"), ("thread", r"\d+"),
                                           ("process", r"{pid}")])
def test_log_id_forms(bench, form, pattern):
    proxy = bench.tls_server(f"logId = {form}")
    ids = []
    for i in range(2):
        bench.client(proxy.port).ping().bye()
        line = proxy.wait_log("LOG5.*Connection closed", i + 1)[i]
        ids.append(re.search(r"LOG5\[(.*?)\]", line).group(1))
    pattern = pattern.replace("{pid}", str(proxy.pid))
    assert all(re.fullmatch(pattern, word) for word in ids), ids
    if form == "thread" and not IS_STUNNEL:  # whose threads end
        assert set(ids) <= set(os.listdir(f"/proc/{proxy.pid}/task")), "as the kernel numbers them"
    if form in ("sequential", "unique"):
        assert ids[0] != ids[1]


@pytest.mark.san
@pytest.mark.parametrize("level, shown, hidden", [
    ("err", None, "LOG[4-7]"), ("3", None, "LOG[4-7]"), ("notice", "LOG5.*Connection closed", "LOG[67]"), ("5", "LOG5", "LOG[67]"),
    ("info", "LOG6", "LOG7"), ("debug", "LOG7", None), ("daemon.info", "LOG6", "LOG7")])
def test_levels(bench, level, shown, hidden):
    proxy = bench.tls_server(preamble=f"foreground = yes\nsyslog = no\ndebug = {level}\n")
    bench.client(proxy.port).ping().bye()
    if shown:
        proxy.wait_log(shown)
    proxy.wait_idle()
    if hidden:
        # Lines of connections: what is kept until the configuration is known is another matter.
        assert not proxy.lines(hidden + r"\[\d+\]")


@pytest.mark.san
def test_level_per_section(bench, pki):
    loud, calm, backend = bench.ports(), bench.ports(), bench.server(echo)
    proxy = bench.proxy(f"debug = notice\ncert = {pki.ec_pem}\nconnect = 127.0.0.1:{backend.port}\n"
                        f"[loud]\naccept = 127.0.0.1:{loud}\ndebug = debug\n[calm]\naccept = 127.0.0.1:{calm}\ndebug = err\n")
    bench.client(calm).ping().bye()
    bench.client(loud).ping().bye()
    proxy.wait_log(r"LOG7\[1\]: Service \[loud\] finished")
    assert not proxy.lines(r"\[calm\] (accepted|connected)")


@pytest.mark.san
def test_service_renames_a_section(bench, pki):
    port, backend = bench.ports(), bench.server(echo)
    proxy = bench.proxy(f"[section]\nservice = renamed\naccept = 127.0.0.1:{port}\nconnect = 127.0.0.1:{backend.port}\n"
                        f"cert = {pki.ec_pem}\n")
    bench.client(port).ping().bye()
    proxy.wait_log(r"Service \[renamed\] accepted connection")


@pytest.mark.san
@pytest.mark.parametrize("sni", ["a" * 250, "line\nLOG0[1]: forged", "%n%s%x%s", "\x1b[31mred", "nul\x01byte"])
def test_names_from_the_network_cannot_forge_lines(bench, pki, sni):
    """Control characters from the wire are masked, format directives mean nothing, long names are cut."""
    proxy = bench.tls_server(f"[v]\nsni = s:v\nconnect = 127.0.0.1:1\ncert = {pki.ec_pem}")  # a primary service says what it is asked for
    hello = client_hello(sni.encode())
    with connect(proxy.port) as sock:
        sock.sendall(hello)
        sock.shutdown(1)
        read_all(sock)
    proxy.wait_log(r"LOG5\[0\]: Connection (reset|closed)|SSL_accept")
    assert proxy.lines(r"LOG6\[0\]: SNI: requested servername: ") and proxy.lines(r"LOG3\[0\]: SNI: no pattern matched servername: ")
    assert not proxy.lines(r"^LOG0\[1\]: forged")
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", proxy.log())
    assert all(len(line) < 1200 for line in proxy.log().splitlines())
    bench.client(proxy.port).ping()


def client_hello(sni):
    """A ClientHello as OpenSSL makes it, with another server name patched in."""
    placeholder = "x" * len(sni) if len(sni) < 64 else ".".join(["y" * 60] * (len(sni) // 60 + 1))[:len(sni)].rstrip(".")
    placeholder = placeholder.ljust(len(sni), "z")
    out = ssl.MemoryBIO()
    tls = client_context().wrap_bio(ssl.MemoryBIO(), out, server_hostname=placeholder)
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        pass
    hello = out.read()
    assert placeholder.encode() in hello
    assert struct.unpack(">H", hello[3:5])[0] == len(hello) - 5
    return hello.replace(placeholder.encode(), sni)
