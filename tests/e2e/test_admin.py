# The status page, the metrics and the health answer of `admin = [host:]port`.
# SPDX-License-Identifier: Apache-2.0
import re
import signal
import socket
import urllib.error
import urllib.request

import pytest

from peers import connect, echo, read_all
from proxy import SLOW, until

pytestmark = pytest.mark.ours


def fetch(port, path="/", method="GET"):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=20 * SLOW) as answer:
            return answer.status, dict(answer.headers), answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read().decode()


def metric(text, name, **labels):
    """The sum of the samples of a metric with these labels."""
    total = 0.0
    for match in re.finditer(rf"(?m)^{name}(?:\{{(.*)\}})? (\S+)$", text):
        have = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match.group(1) or ""))
        if all(have.get(key) == value for key, value in labels.items()):
            total += float(match.group(2))
    return total


def names(text):
    return set(re.findall(r"(?m)^# TYPE (\S+) ", text))


@pytest.fixture
def admin(bench):
    port = bench.ports()
    proxy = bench.tls_server(head=f"admin = 127.0.0.1:{port}")
    proxy.admin = port
    until(lambda: not bench.ports.free(port))
    return proxy


@pytest.mark.san
@pytest.mark.valgrind
def test_page(admin, bench):
    bench.client(admin.port).ping()
    status, headers, page = fetch(admin.admin)
    assert status == 200
    assert headers["Content-Type"].startswith("text/html")
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "Content-Security-Policy" in headers
    assert "refresh" in page.lower() + str(headers).lower()
    assert "<script" not in page.lower()
    assert re.search(r">\s*s\s*<", page), "the service is on the page"


@pytest.mark.san
def test_metrics_count_what_happens(admin, bench):
    client = bench.client(admin.port).ping(b"x" * 1000)

    def text():
        return fetch(admin.admin, "/metrics")[2]

    def value(suffix):
        name = next((name for name in names(text()) if re.search(suffix, name)), None)
        assert name, (suffix, names(text()))
        return metric(text(), name, service="s")

    until(lambda: value(r"active") == 1)
    assert value(r"accepted") == 1
    assert value(r"handshakes_full") >= 1
    until(lambda: value(r"^tlsplice_bytes_to_tls") == 1000)
    until(lambda: value(r"^tlsplice_bytes_to_plain") == 1000)
    client.bye()
    until(lambda: value(r"active") == 0)
    with connect(admin.port) as sock:
        sock.sendall(b"garbage, not TLS\n")
        read_all(sock)
    until(lambda: value(r"handshakes_failed") == 1)


@pytest.mark.san
def test_metrics_are_prometheus_text(admin):
    status, headers, text = fetch(admin.admin, "/metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain")
    assert text.endswith("\n")
    typed = names(text)
    assert typed
    for line in text.splitlines():
        if line and not line.startswith("#"):
            match = re.fullmatch(r'([a-zA-Z_:][\w:]*)(\{(?:\w+="(?:[^"\\\n]|\\[\\"n])*",?)*\})? [-+]?[\d.eE+-]+', line)
            assert match, line
            assert re.sub(r"_(bucket|sum|count)$", "", match.group(1)) in typed or match.group(1) in typed, line


@pytest.mark.san
def test_health(admin):
    status, _, text = fetch(admin.admin, "/health")
    assert (status, text.strip()) == (200, "ok")


@pytest.mark.san
@pytest.mark.slow
def test_health_while_draining(bench):
    port = bench.ports()
    proxy = bench.tls_server(head=f"admin = 127.0.0.1:{port}\ndrain = 30")
    client = bench.client(proxy.port).ping()
    proxy.send_signal(signal.SIGTERM)
    until(lambda: fetch(port, "/health")[0] == 503)
    assert "draining" in fetch(port, "/health")[2]
    client.ping().bye()
    assert proxy.wait_exit() == 0


@pytest.mark.san
@pytest.mark.parametrize("method, path, status", [("GET", "/nothing", 404), ("POST", "/", 405), ("DELETE", "/metrics", 405),
                                                  ("HEAD", "/", 200), ("GET", "/../../etc/passwd", 404), ("GET", "/?x=y", 200)])
def test_requests(admin, method, path, status):
    got, _, body = fetch(admin.admin, path, method)
    assert got == status
    assert "root:" not in body
    if method == "HEAD":
        assert body == ""


@pytest.mark.san
def test_names_are_escaped(bench, pki):
    port, accept, backend = bench.ports(), bench.ports(), bench.server(echo)
    bench.proxy(f"admin = 127.0.0.1:{port}\n[<script>alert(\"1\")</script>\\]\naccept = 127.0.0.1:{accept}\n"
                f"connect = 127.0.0.1:{backend.port}\ncert = {pki.ec_pem}\n")
    bench.client(accept).ping()
    assert "<script>" not in fetch(port)[2]
    assert '\\"1\\"' in fetch(port, "/metrics")[2]


@pytest.mark.san
@pytest.mark.parametrize("data", [b"\0" * 1000, b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20000, b"GET " + b"/" * 100000 + b" HTTP/1.1\r\n\r\n",
                                  b"\x16\x03\x01\x00\x05hello", b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n"],
                         ids=["zeros", "headers", "long-path", "tls", "content-length"])
def test_hostile_requests(admin, bench, data):
    with connect(admin.admin) as sock:
        try:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            read_all(sock)
        except OSError:
            pass
    assert fetch(admin.admin, "/health")[0] == 200
    bench.client(admin.port).ping()


@pytest.mark.san
def test_it_is_on_the_loopback_unless_told_otherwise(bench, pki):
    port = bench.ports()
    bench.tls_server(head=f"admin = {port}")
    until(lambda: not bench.ports.free(port))
    with open("/proc/net/tcp") as table:
        hosts = {line.split()[1].split(":")[0] for line in table.readlines()[1:]
                 if line.split()[3] == "0A" and int(line.split()[1].split(":")[1], 16) == port}
    assert hosts == {"0100007F"}


def test_an_address_in_use_ends_the_start(bench, pki):
    taken = bench.server(echo)
    out = bench.refused(f"admin = 127.0.0.1:{taken.port}\n[s]\naccept = 127.0.0.1:{bench.ports()}\nconnect = 127.0.0.1:1\n"
                        f"cert = {pki.ec_pem}\n")
    assert "admin" in out and "Address already in use" in out


@pytest.mark.san
def test_counters_outlive_a_reload(admin, bench):
    bench.client(admin.port).ping().bye()

    def accepted():
        text = fetch(admin.admin, "/metrics")[2]
        return metric(text, next(name for name in names(text) if "accepted" in name), service="s")

    until(lambda: accepted() == 1)
    assert admin.hup()
    bench.client(admin.port).ping().bye()
    until(lambda: accepted() == 2)
