# What this kernel has of TLS, found out without the proxy, and proxies that the tests of one module share: a section for each way
# to move the bytes, one backend behind all of them whose behaviour each test chooses.
# SPDX-License-Identifier: Apache-2.0
import os
import re
import socket
import ssl
import struct
import subprocess
import threading

import pytest

from conftest import Bench
from peers import TlsClient, client_context, echo, pattern, read_exactly, server_context
from proxy import BINARY, SLOW, until
from records import records_client
from test_admin import fetch, metric

MIB = 1 << 20
V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
REQUIRED = os.environ.get("TLSPLICE_KTLS_REQUIRED") == "1"

TCP_ULP, SOL_TLS, TLS_TX, TLS_RX = 31, 282, 1, 2
WORDS = {"TLSv1.2": 0x0303, "TLSv1.3": 0x0304}
# The kernel's number of each cipher, and the lengths of IV, key and salt in its struct.
CIPHERS = {"AES-128-GCM": (51, 8, 16, 4), "AES-256-GCM": (52, 8, 32, 4), "AES-128-CCM": (53, 8, 16, 4), "CHACHA20-POLY1305": (54, 12, 32, 0)}

SUITES = [
    ("TLSv1.3", "TLS_AES_128_GCM_SHA256", "AES-128-GCM"), ("TLSv1.3", "TLS_AES_256_GCM_SHA384", "AES-256-GCM"),
    ("TLSv1.3", "TLS_CHACHA20_POLY1305_SHA256", "CHACHA20-POLY1305"), ("TLSv1.3", "TLS_AES_128_CCM_SHA256", "AES-128-CCM"),
    ("TLSv1.2", "ECDHE-ECDSA-AES128-GCM-SHA256", "AES-128-GCM"), ("TLSv1.2", "ECDHE-ECDSA-AES256-GCM-SHA384", "AES-256-GCM"),
    ("TLSv1.2", "ECDHE-ECDSA-CHACHA20-POLY1305", "CHACHA20-POLY1305"), ("TLSv1.2", "ECDHE-ECDSA-AES128-CCM", "AES-128-CCM")]
ALL_SUITES = ("ciphers = " + ":".join(suite for version, suite, _ in SUITES if version == "TLSv1.2")
              + "\nciphersuites = " + ":".join(suite for version, suite, _ in SUITES if version == "TLSv1.3"))


def _takes(version, cipher, again=False):
    """Whether a socket takes keys of both directions (with `again`, new ones, too)."""
    number, iv, key, salt = CIPHERS[cipher]
    info = struct.pack("HH", WORDS[version], number) + bytes(iv + key + salt + 8)
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as sock:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, TCP_ULP, b"tls")
            for direction in (TLS_TX, TLS_RX) * (1 + again):
                sock.setsockopt(SOL_TLS, direction, info)
        except OSError:
            return False
    return True


HAVE = {(version, cipher) for version in WORDS for cipher in CIPHERS if _takes(version, cipher)}
REKEYS = _takes("TLSv1.3", "AES-128-GCM", again=True)
# What `ktls = auto` leaves to user space because it is faster there.
ACCELERATED = "ktls = auto: in user space, which is faster" in subprocess.run([BINARY, "-kernel"], stdout=subprocess.PIPE, text=True).stdout
RELAYS = ["copy", "splice", "uring-splice"] if HAVE else ["auto"]

if REQUIRED and len(HAVE) < 8:
    raise RuntimeError(f"kernel TLS is required here, and this kernel has only {sorted(HAVE)}")

needs_kernel = pytest.mark.skipif(not HAVE, reason="no kernel TLS here: tests/run guest runs it in a guest")
needs_rekey = pytest.mark.skipif(bool(HAVE) and not REKEYS, reason="this kernel takes no new keys: Linux 6.14 does")


def tls_stat():
    """The kernel's counters, of all its connections."""
    with open("/proc/net/tls_stat") as file:
        return {name: int(value) for name, value in (line.split() for line in file)}


class KernelCount:
    """How the kernel's counters differ from what they were."""

    def __init__(self):
        self.before = tls_stat() if HAVE else {}

    def __getitem__(self, name):
        return tls_stat()[name] - self.before[name] if HAVE else 0


def results(port, service, text=None):
    """{(direction, result): count} of a service."""
    found = {}
    for labels, value in re.findall(r"(?m)^tlsplice_ktls_total\{(.*)\} (\S+)$", text or fetch(port, "/metrics")[2]):
        have = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        if have["service"] == service and float(value):
            key = have["direction"], have["result"]
            found[key] = found.get(key, 0) + int(float(value))
    return found


class Shared(Bench):
    """
    A proxy for many tests. sections: {name: its lines}; .port[name] is where each listens. The backend does what .handler says;
    .log() is the log since the test began.
    """

    def __init__(self, directory, ports, pki, sections, head="", **options):
        super().__init__(directory, ports, pki)
        self.backend = self.server(echo)
        self.port = {name: ports() for name in sections}
        self.admin = ports()
        text = [f"admin = 127.0.0.1:{self.admin}\ncert = {pki.ec_pem}\n{ALL_SUITES}\n{head}\n"]
        for name, lines in sections.items():
            connect = "" if "connect = " in lines else f"connect = 127.0.0.1:{self.backend.port}\n"
            text.append(f"[{name}]\naccept = 127.0.0.1:{self.port[name]}\n{connect}{lines}\n")
        try:
            self.main = self.proxy("".join(text), **options)
            until(lambda: not ports.free(self.admin))
        except BaseException:
            self.close()
            raise
        self.begin()

    def begin(self, handler=echo):
        """Forgets what was."""
        self.backend.handler = handler
        self.backend.results.clear()
        self.backend.errors.clear()
        self.backend.socks.clear()
        self.backend.accepted = 0
        self.mark = len(self.main.log())
        text = fetch(self.admin, "/metrics")[2]
        self.before = {name: results(self.admin, name, text) for name in self.port}
        self.bytes_before = self._bytes(text)
        self.kernel = KernelCount()

    def log(self):
        return self.main.log()[self.mark:]

    def wait_log(self, pattern):
        until(lambda: re.search(pattern, self.log()), 20, f"{pattern} in:\n{self.log()[-5000:]}")

    @staticmethod
    def _bytes(text):
        return [metric(text, f"tlsplice_kernel_bytes_to_{side}_total") for side in ("tls", "plain")]

    def kernel_bytes(self):
        """(to TLS, to plain) since the test began."""
        return [now - before for now, before in zip(self._bytes(fetch(self.admin, "/metrics")[2]), self.bytes_before)]

    def results(self, name):
        """What became of the directions of a section's connections since the test began."""
        now = results(self.admin, name)
        return {key: count - self.before[name].get(key, 0) for key, count in now.items() if count > self.before[name].get(key, 0)}

    def wait_results(self, name, tx, rx, count=1):
        """Each direction came out so, `count` times, and no other way."""
        expected = {}
        for direction, result in (("tx", tx), ("rx", rx)):
            if result:
                expected[direction, result] = count
        try:
            until(lambda: self.results(name) == expected, 20)
        except AssertionError:
            raise AssertionError(f"{expected} of {name} expected, now {self.results(name)}:\n{self.log()[-4000:]}") from None

    def wait_kernel(self, name, count=1):
        """The kernel has both directions of this test's connections, where there is kernel TLS and the section wants it."""
        how = name.split(".")[0]
        if how != "user":
            result = "kernel" if HAVE else "unsupported"
            if HAVE:
                self.wait_results(name, result, result, count)

    def rest(self, keep=1):
        """Nothing is left of the test's connections; the first `keep` peers live on."""
        self.backend.released.set()
        self.backend.released.clear()
        for peer in self.peers[keep:]:
            try:
                peer.close()
            except OSError:
                pass
        del self.peers[keep:]
        for child in self.children:
            if child.poll() is None:
                child.kill()
            child.wait()
        self.children.clear()
        self.main.wait_idle()


def way(how, rest=""):
    """The lines of a section that moves its bytes so: `user`, or a relay."""
    return (f"ktls = no\n{rest}" if how == "user" else f"ktls = yes\nktlsAfter = 0\nrelay = {how}\n{rest}")


# --- one proxy for most tests ---

WAYS = ["user", *RELAYS] if HAVE else ["user"]
AFTER = [0, 1, 16384, 65536, 100000]
each_way = pytest.mark.parametrize("how", WAYS)
each_relay = pytest.mark.parametrize("how", RELAYS)
each_version = pytest.mark.parametrize("version", [V12, V13], ids=["1.2", "1.3"])



@pytest.fixture(scope="module")
def module(tmp_path_factory, ports, pki):
    tls_port = ports()
    sections = {how: way(how) for how in WAYS}
    for how in WAYS:
        sections[f"{how}.client"] = way(how, f"client = yes\nrenegotiation = no\nconnect = 127.0.0.1:{tls_port}\n")
    if HAVE:
        for how in RELAYS:
            for after in AFTER[1:]:
                sections[f"{how}.{after}"] = f"ktls = yes\nrelay = {how}\nktlsAfter = {after}\n"
        for name, lines in {"tx": "ktls = tx", "rx": "ktls = rx", "auto": "ktls = auto", "option": "options = ENABLE_KTLS",
                            "never": "ktls = yes\nktlsAfter = 1000000000", "strict": "ktls = yes\nrenegotiation = no",
                            "idle": "ktls = yes\nTIMEOUTidle = 1", "padded": "ktls = yes\nconfig = RecordPadding:512",
                            "cbc": "ktls = yes\nciphers = ECDHE-ECDSA-AES128-SHA256"}.items():
            sections[name] = lines + ("\nktlsAfter = 0" if "ktlsAfter" not in lines else "")
    module = Shared(tmp_path_factory.mktemp("ktls"), ports, pki, sections)
    try:
        module.tls_backend = module.server(echo, address=tls_port, context=server_context(pki.ec_pem))
        yield module
    finally:
        module.close()


@pytest.fixture
def shared(module):
    module.begin()
    module.tls_backend.handler = echo
    module.tls_backend.context = server_context(module.pki.ec_pem)
    module.tls_backend.results.clear()
    module.tls_backend.errors.clear()
    keep = module.tls_backend
    yield module
    module.peers.remove(keep)
    module.peers.insert(1, keep)
    module.rest(2)


def settled(shared, name, handler, version=V13, peer=TlsClient, size=30000):
    """A connection that has carried some bytes each way and is where it is to stay; `handler` goes on with it."""
    gone = threading.Event()

    def backend(sock, server):
        sock.sendall(read_exactly(sock, size) + read_exactly(sock, 4))
        read_exactly(sock, 2)
        gone.set()
        return handler(sock, server)

    shared.backend.handler = backend
    client = shared.keep(peer(shared.port[name], client_context(version=version)))
    data = pattern(size) + b"more"
    send = client.data if peer is records_client else client.send
    send(data[:size])
    send(data[size:])  # receiving goes over to the kernel between records
    assert client.recv_exactly(size + 4) == data
    shared.wait_kernel(name)
    send(b"go")
    assert gone.wait(20 * SLOW)
    return client
