# Every file of configs/ is started, with its ports and its certificate moved to where the test has them, and used.
# SPDX-License-Identifier: Apache-2.0
import os
import re
import subprocess

import pytest

from conftest import TOOLS
from peers import client_context, connect, echo, name, read_exactly, server_context
from proxy import BINARY, SLOW, TOP, WRAPPER, listening_ports, until
from proxy_protocol import introduced

CONFIGS = sorted(name for name in os.listdir(os.path.join(TOP, "configs")) if name.endswith(".conf"))


class Moved:
    """A configuration with each of its ports replaced by a free one."""

    def __init__(self, bench, pki, name):
        self.ports = {}
        with open(os.path.join(TOP, "configs", name)) as file:
            text = file.read()

        def move(match):
            port = int(match.group(3))
            self.ports.setdefault(port, bench.ports())
            host = "127.0.0.1:" if "example.com" in match.group(2) else match.group(2)
            return match.group(1) + host + str(self.ports[port])

        self.text = re.sub(r"(?m)^(\s*(?:accept|connect|admin)\s*=\s*)(\S*?)(\d+)\s*$", move, text)
        self.text = self.text.replace("build/run/cert.pem", pki.ec_pem)

    def start(self, bench):
        return bench.proxy(self.text, preamble="")


def echoes(port):
    with connect(port) as sock:
        sock.sendall(b"ping")
        assert read_exactly(sock, 4) == b"ping"


@pytest.mark.ours
@pytest.mark.san
def test_quickstart(bench, pki):
    moved = Moved(bench, pki, "quickstart.conf")
    moved.start(bench)
    page = subprocess.run(["curl", "-sS", "--fail", "--cacert", pki.ca, f"https://localhost:{moved.ports[8443]}/"],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=30 * SLOW)
    assert page.returncode == 0 and b"<html" in page.stdout.lower(), page.stdout
    assert b"https" in page.stdout


@pytest.mark.ours
@pytest.mark.san
def test_proxy_protocol(bench, pki):
    moved = Moved(bench, pki, "proxy-protocol.conf")
    backend = bench.server(introduced(echo), address=moved.ports[8086])
    moved.start(bench)
    context = client_context()
    context.set_alpn_protocols(["http/1.1"])
    client = bench.client(moved.ports[8454], context, server_name="web.test").ping()
    assert [(h.source, h.alpn, h.authority) for h in backend.headers] == [(client.sock.getsockname(), b"http/1.1", b"web.test")]


@pytest.mark.ours
@pytest.mark.san
def test_virtual_hosts(bench, pki):
    moved = Moved(bench, pki, "virtual-hosts.conf")
    for number in 8081, 8143, 8082:
        bench.server(name(str(number)), address=moved.ports[number])
    moved.start(bench)
    for server_name, protocol, backend in [("www.example.com", "http/1.1", b"8081"), ("mail.example.net", "imap", b"8143"),
                                           ("x.example.net", "x", b"8082"), ("y.example.org", "x", b"8082")]:
        context = client_context()
        context.set_alpn_protocols([protocol])
        assert bench.client(moved.ports[8452], context, server_name=server_name).recv() == backend


@pytest.mark.san
def test_https_server(bench, pki):
    moved = Moved(bench, pki, "https-server.conf")
    bench.server(echo, address=moved.ports[8081])
    moved.start(bench)
    bench.client(moved.ports[8444]).ping()


@pytest.mark.san
def test_tls_client(bench, pki):
    moved = Moved(bench, pki, "tls-client.conf")
    bench.server(echo, address=moved.ports[443], context=server_context(pki.ec_pem))
    moved.start(bench)
    echoes(moved.ports[8082])


@pytest.mark.san
def test_tunnel_pair(bench, pki):
    moved = Moved(bench, pki, "tunnel-pair.conf")
    bench.server(echo, address=moved.ports[6379])
    bench.server(echo, address=moved.ports[5432])
    moved.start(bench)
    echoes(moved.ports[16379])
    echoes(moved.ports[15432])


@pytest.mark.ours
@pytest.mark.san
def test_load_balancer(bench, pki):
    moved = Moved(bench, pki, "load-balancer.conf")
    for port in (9001, 9003):
        bench.server(echo, address=moved.ports[port])
    moved.start(bench)
    for _ in range(4):
        bench.client(moved.ports[8445]).ping().bye()
        bench.client(("::1", moved.ports[8445])).ping().bye()


@pytest.mark.ours
@pytest.mark.san
def test_kernel_tls(bench, pki):
    moved = Moved(bench, pki, "kernel-tls.conf")
    bench.server(echo, address=moved.ports[8450], context=server_context(pki.ec_pem))
    moved.start(bench)
    client = bench.client(moved.ports[8448])
    client.ping(b"x" * 300000)


@pytest.mark.ours
def test_accelerator(bench, pki):
    """As it is; then with QAT's engine, of which an engine of the tests takes the part."""
    moved = Moved(bench, pki, "accelerator.conf")
    bench.server(echo, address=moved.ports[8080])
    moved.start(bench)
    bench.client(moved.ports[8451]).ping().bye()
    moved = Moved(bench, pki, "accelerator.conf")
    bench.server(echo, address=moved.ports[8080])
    modules = os.path.join(os.path.dirname(TOOLS), "modules")
    moved.text = moved.text.replace(";setEnv = OPENSSL_ENGINES=/usr/local/lib/engines-3", f"setEnv = OPENSSL_ENGINES={modules}")
    moved.text = moved.text.replace(";engine = qatengine\n;engineDefault", "engine = slowsign\nengineDefault")
    proxy = moved.start(bench)
    assert "\nengineDefault" in moved.text
    bench.client(moved.ports[8451]).ping()
    assert not proxy.lines("not initialized")


def test_every_file_has_a_test():
    with open(__file__) as file:
        text = file.read()
    assert [name for name in CONFIGS if f'"{name}"' not in text] == []


@pytest.mark.ours
def test_make_run(bench, tmp_path):
    """What `make run` does after building: certificate, proxy, page. In a directory of its own, on ports of its own."""
    ports = {8443: bench.ports(), 8080: bench.ports()}
    os.makedirs(tmp_path / "configs")
    with open(os.path.join(TOP, "configs", "quickstart.conf")) as file:
        text = file.read()
    for old, new in ports.items():
        text = text.replace(f"127.0.0.1:{old}", f"127.0.0.1:{new}")
    (tmp_path / "configs" / "quickstart.conf").write_text(text)
    out = open(tmp_path / "out", "wb")
    child = bench.run([os.path.join(TOP, "packaging", "quickstart"), *WRAPPER[:0], BINARY], cwd=tmp_path, stdout=out)
    until(lambda: set(ports.values()) <= listening_ports() or child.poll() is not None, 20)
    assert child.poll() is None, (tmp_path / "out").read_text()
    page = subprocess.run(["curl", "-sS", "--fail", "--cacert", str(tmp_path / "build/run/cert.pem"),
                           f"https://127.0.0.1:{ports[8443]}/health"], stdout=subprocess.PIPE, timeout=30 * SLOW)
    assert page.returncode == 0 and page.stdout.strip() == b"ok"
    assert os.stat(tmp_path / "build/run/cert.pem").st_mode & 0o077 == 0
    child.terminate()
    assert child.wait(20 * SLOW) == 0
    assert "curl" in (tmp_path / "out").read_text()
