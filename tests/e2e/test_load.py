# Many connections at once, many one after another, and not enough descriptors.
# SPDX-License-Identifier: Apache-2.0
import re
import socket
import subprocess
import time

import pytest

from peers import connect, echo
from proxy import IS_STUNNEL, SLOW, until


def echo_server(bench, tools):
    port = bench.ports()
    bench.run([tools + "/echo", str(port)])
    until(lambda: not bench.ports.free(port))
    return port


def load(tools, *arguments, timeout=280):
    done = subprocess.run([tools + "/load", *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          timeout=timeout * SLOW, text=True)
    assert done.returncode == 0, done.stdout
    return tuple(map(int, re.search(r"ok (\d+) failed (\d+) resumed (\d+)", done.stdout).groups()))


@pytest.mark.serial
@pytest.mark.slow
@pytest.mark.parametrize("count", [pytest.param(200, marks=pytest.mark.san), pytest.param(5000, marks=pytest.mark.nosan)])
def test_concurrent_connections(bench, tools, count):
    """All open at once, each one echoes, waits and echoes again."""
    proxy = bench.tls_server(backend=echo_server(bench, tools), preamble="foreground = yes\nsyslog = no\ndebug = err\n")
    child = bench.run([tools + "/load", str(proxy.port), "hold", str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"held %d\n" % count
    sockets = sum("socket:" in target for target in proxy.fds().values())
    assert sockets >= 2 * count
    out, _ = child.communicate(b"go\n", timeout=200 * SLOW)
    assert child.returncode == 0, out
    assert out.startswith(b"ok %d failed 0" % count)
    proxy.wait_idle(60)


@pytest.mark.serial
@pytest.mark.slow
@pytest.mark.parametrize("rate, seconds", [pytest.param(50, 5, marks=pytest.mark.san), pytest.param(1000, 30, marks=pytest.mark.nosan)])
def test_connection_rate(bench, tools, rate, seconds):
    """Each connection shakes hands anew, echoes and says goodbye: none fails, nothing stays behind."""
    proxy = bench.tls_server(backend=echo_server(bench, tools), preamble="foreground = yes\nsyslog = no\ndebug = err\n")
    load(tools, proxy.port, "loop", 20, 1)
    until(lambda: len(proxy.fds()) <= proxy.base_fds)
    before = proxy.rss_kib()
    ok, failed, _ = load(tools, proxy.port, "rate", rate, seconds)
    assert (ok, failed) == (rate * seconds, 0)
    proxy.wait_idle(60)
    if SLOW == 1 and not IS_STUNNEL:
        assert proxy.rss_kib() < before + 65536, "memory grows with every connection"


@pytest.mark.serial
@pytest.mark.slow
@pytest.mark.parametrize("version", [[], ["-2"]])
def test_resumption_rate(bench, tools, version):
    proxy = bench.tls_server(backend=echo_server(bench, tools), preamble="foreground = yes\nsyslog = no\ndebug = err\n")
    ok, _, resumed = load(tools, *version, "-r", proxy.port, "loop", 10, 4)
    # The helper's ten connections share one session, and not each finds it usable while another one changes it.
    assert resumed > ok / 2


@pytest.mark.san
@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2", "4", "auto"])
@pytest.mark.ours
def test_worker_counts(bench, tools, workers):
    proxy = bench.tls_server(backend=echo_server(bench, tools), head=f"workers = {workers}\ndebug = notice")
    load(tools, proxy.port, "loop", 20, 2)


@pytest.mark.san
@pytest.mark.slow
def test_descriptor_exhaustion(bench):
    """64 descriptors and 200 peers: it refuses or waits, uses no CPU meanwhile, and serves again when peers leave."""
    proxy = bench.tls_server(nofile=64)
    peers = []
    for _ in range(200):
        sock = socket.socket()
        sock.settimeout(10)
        sock.connect(("127.0.0.1", proxy.port))
        peers.append(bench.keep(sock))
    time.sleep(1.5)
    before = proxy.cpu_s()
    time.sleep(3)
    used = proxy.cpu_s() - before
    # A loop around accept(2) would take all of it.
    assert used < 1.0, f"{used} s of CPU in 3 s while out of descriptors"
    for sock in peers:
        sock.close()
    until(lambda: serves(bench, proxy.port), 30, "serves again")
    proxy.wait_idle()


def serves(bench, port):
    try:
        bench.client(port).ping().close()
        return True
    except (OSError, EOFError):
        return False


@pytest.mark.san
def test_client_limit(bench):
    """soft RLIMIT_NOFILE x 125/256 clients; the next is refused and the log says so, others are not disturbed."""
    proxy = bench.tls_server(nofile=512)
    limit = 512 * 125 // 256
    first = bench.client(proxy.port).ping()
    rest = [bench.keep(connect(proxy.port)) for _ in range(limit + 50)]
    proxy.wait_log(rf"LOG4\[\w+\]: Connection rejected: too many clients \(>={limit}\)")
    first.ping()
    for sock in rest:
        sock.close()
    until(lambda: serves(bench, proxy.port), 30, "serves again")


@pytest.mark.ours
@pytest.mark.san
def test_backend_descriptors_run_out(bench):
    """Handshakes succeed and the connections to the backend cannot be opened: each ends by itself."""
    proxy = bench.tls_server(nofile=48)
    clients = []
    for _ in range(40):
        try:
            clients.append(bench.client(proxy.port))
        except OSError:
            pass
    for client in clients:
        client.close()
    until(lambda: serves(bench, proxy.port), 30, "serves again")
    proxy.wait_idle()


@pytest.mark.slow
@pytest.mark.ours
@pytest.mark.serial
def test_idle_connections_are_cheap(bench, tools):
    """Not a benchmark: only that an idle connection does not keep its stack and buffers."""
    proxy = bench.tls_server(backend=echo_server(bench, tools), preamble="foreground = yes\nsyslog = no\ndebug = err\n")
    before = proxy.rss_kib()
    child = bench.run([tools + "/load", str(proxy.port), "hold", "1000"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"held 1000\n"
    time.sleep(1)
    grown = proxy.rss_kib() - before
    child.communicate(b"go\n", timeout=60 * SLOW)
    assert grown < 1000 * 60 + 16384, f"{grown} KiB for 1000 idle connections"


@pytest.mark.san
def test_an_idle_proxy_uses_no_cpu(bench):
    proxy = bench.tls_server(backend=bench.server(echo))
    client = bench.client(proxy.port).ping()
    before = proxy.cpu_s()
    time.sleep(2)
    assert proxy.cpu_s() - before < 0.2 * SLOW
    client.ping()
