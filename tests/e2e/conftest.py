# Fixtures: ports, keys, servers and proxies that are stopped, and checked, when the test ends.
# SPDX-License-Identifier: Apache-2.0
import os
import resource
import shutil
import socket
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.dirname(__file__))
from peers import Server, TlsClient, echo  # noqa: E402
from pki import Pki  # noqa: E402
from proxy import BINARY, IS_STUNNEL, SLOW, TOP, Proxy  # noqa: E402

TOOLS = os.path.join(TOP, os.environ.get("TLSPLICE_TOOLS", "build/tools"))


def pytest_collection_modifyitems(items):
    for item in items:
        if IS_STUNNEL and item.get_closest_marker("ours"):
            item.add_marker(pytest.mark.skip(reason="not in stunnel"))
        if SLOW > 1:
            item.add_marker(pytest.mark.timeout(900))


def pytest_assertrepr_compare(op, left, right):
    """Megabytes that differ: where, in a line. pytest's own comparison takes minutes and prints all of them."""
    if isinstance(left, tuple) and isinstance(right, tuple) and left and right:
        ends = f", then {left[1:]} and {right[1:]}"
        left, right = left[0], right[0]
    else:
        ends = ""
    if op != "==" or not isinstance(left, bytes) or not isinstance(right, bytes) or max(len(left), len(right)) < 500:
        return None
    place = next((i for i, (a, b) in enumerate(zip(left, right)) if a != b), min(len(left), len(right)))
    return [f"{len(left)} bytes == {len(right)} bytes", f"first difference at {place}: {left[place:place + 16]!r} == "
            f"{right[place:place + 16]!r}{ends}"]


def pytest_sessionstart(session):
    if not os.access(BINARY, os.X_OK):
        pytest.exit(f"{BINARY} is not there: build it first", returncode=4)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@pytest.fixture(scope="session")
def pki(tmp_path_factory):
    return Pki(tmp_path_factory.mktemp("pki"))


class Ports:
    """Ports below the range that the kernel hands out to clients; each parallel runner has a range of its own."""

    def __init__(self):
        runner = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
        self.next = 10000 + (os.getpid() * 37 % 1000) * 20 + runner * 200

    def __call__(self):
        while True:
            self.next = 10000 + (self.next - 10000 + 1) % 22000
            if self.free(self.next):
                return self.next

    @staticmethod
    def free(port):
        for family, host in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
            with socket.socket(family) as sock:
                try:
                    if family == socket.AF_INET6:
                        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    sock.bind((host, port))
                except OSError:
                    return False
        return True


@pytest.fixture(scope="session")
def ports():
    return Ports()


@pytest.fixture
def port(ports):
    return ports()


def address(target):
    """As `connect` writes it: a bare port would be tried on ::1 first."""
    return f"127.0.0.1:{target}" if isinstance(target, int) else target


class Bench:
    """Everything a test starts; all of it ends with the test, peers first so that the proxy can be seen to come to rest."""

    def __init__(self, directory, ports, pki):
        self.directory, self.ports, self.pki = directory, ports, pki
        self.proxies, self.peers, self.children = [], [], []

    def proxy(self, text, **options):
        options.setdefault("name", f"proxy{len(self.proxies)}")
        proxy = Proxy(self.directory, text, **options)
        self.proxies.append(proxy)
        return proxy

    def refused(self, text, **options):
        """A configuration that must end the proxy with exit status 1; returns what it said."""
        proxy = Proxy(self.directory, text, wait=False, name="refused", **options)
        try:
            assert proxy.wait_exit() == 1, proxy.log()
            proxy.check_reports()
            return proxy.log()
        finally:
            proxy.kill()
            os.unlink(proxy.out)

    def server(self, handler=echo, address=None, **options):
        server = Server(handler, self.ports() if address is None else address, **options)
        server.port = server.address
        self.peers.append(server)
        return server

    def client(self, address, *args, **options):
        client = TlsClient(address, *args, **options)
        self.peers.append(client)
        return client

    def keep(self, closable):
        """Closes it when the test ends."""
        self.peers.append(closable)
        return closable

    def run(self, argv, **options):
        """Starts a program that is killed when the test ends."""
        options.setdefault("stdout", subprocess.DEVNULL)
        options.setdefault("stderr", subprocess.STDOUT)
        options.setdefault("stdin", subprocess.DEVNULL)
        child = subprocess.Popen(argv, **options)
        self.children.append(child)
        return child

    def tls_server(self, extra="", backend=None, accept=None, pem=None, head="", **options):
        """A TLS-to-plain proxy; .port is where to connect, .backend the server behind it (an echo unless given)."""
        port = accept or self.ports()
        if backend is None:
            backend = self.server(echo)
        connect = address(backend if isinstance(backend, (int, str)) else backend.address)
        proxy = self.proxy(f"{head}\n[s]\naccept = 127.0.0.1:{port}\nconnect = {connect}\n"
                           f"cert = {pem or self.pki.ec_pem}\n{extra}\n", **options)
        proxy.port, proxy.backend = port, backend
        return proxy

    def tls_client(self, connect, extra="", head="", **options):
        """A plain-to-TLS proxy."""
        port = self.ports()
        proxy = self.proxy(f"{head}\n[c]\nclient = yes\naccept = 127.0.0.1:{port}\nconnect = {address(connect)}\n{extra}\n",
                           **options)
        proxy.port = port
        return proxy

    def close(self):
        errors = []
        for peer in reversed(self.peers):
            try:
                peer.close()
            except OSError:
                pass
        for child in reversed(self.children):
            if child.poll() is None:
                child.kill()
            child.wait()
        for proxy in reversed(self.proxies):
            try:
                proxy.stop()
            except AssertionError as error:
                errors.append(str(error))
                proxy.kill()
        assert not errors, "\n".join(errors)


@pytest.fixture
def bench(tmp_path, ports, pki):
    bench = Bench(tmp_path, ports, pki)
    try:
        yield bench
    finally:
        bench.close()


@pytest.fixture(scope="session")
def faulty():
    """The fault layer of rings, buffers and kernel TLS is in sanitizer builds only, which `make test` runs these tests with."""
    with open(BINARY, "rb") as file:
        if b"TLSPLICE_FAIL" not in file.read():
            pytest.skip("a build without RING_FAULTS: the sanitizer builds have it")


@pytest.fixture
def tools():
    """The directory of the helper programs of tests/tools."""
    if not os.path.exists(os.path.join(TOOLS, "load")):
        pytest.fail(f"{TOOLS}/load is not there: make tests")
    return TOOLS


def need(program):
    """The path of a program that tests/install-deps installs."""
    path = shutil.which(program, path="/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
    if not path:
        pytest.fail(f"{program} is not installed (tests/install-deps test)")
    return path


@pytest.fixture(name="need")
def need_fixture():
    return need
