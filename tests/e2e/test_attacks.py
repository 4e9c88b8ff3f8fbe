# What strangers send: torn and mutated handshakes, floods, stalls. Each ends in an alert or a close; whoever is connected
# beside it notices nothing, and descriptors come back to where they were.
# SPDX-License-Identifier: Apache-2.0
import os
import random
import re
import signal
import socket
import ssl
import struct
import subprocess
import time

import pytest

from peers import TIMEOUT, TlsClient, client_context, collect, connect, echo, read_all
from proxy import IS_STUNNEL, SLOW, until

V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
HANDSHAKE, ALERT, CCS, DATA = 22, 21, 20, 23


def record(kind, body, version=0x0303):
    return struct.pack(">BHH", kind, version, len(body)) + body


def client_hello():
    """The first flight of OpenSSL's client, one record."""
    out = ssl.MemoryBIO()
    tls = client_context().wrap_bio(ssl.MemoryBIO(), out, server_hostname="localhost")
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return out.read()


class Watched:
    """A proxy with a bystander on it who must not notice anything."""

    def __init__(self, bench, extra=""):
        self.bench = bench
        self.proxy = bench.tls_server(extra)
        self.port = self.proxy.port
        self.bystander = bench.client(self.port).ping()

    def check(self):
        self.bystander.ping(b"still there")
        self.bench.client(self.port).ping(b"newcomer").bye()
        self.bystander.bye()
        self.proxy.wait_idle()


@pytest.fixture
def watched(bench):
    return Watched(bench)


def throw(port, data, shut=True):
    """Sends bytes and returns what came back until the end (an alert, usually)."""
    with connect(port) as sock:
        try:
            sock.sendall(data)
            if shut:
                sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        return read_all(sock)[0]


# --- framing ---


@pytest.mark.san
@pytest.mark.valgrind
def test_handshake_one_byte_per_segment(bench, pki):
    proxy = bench.tls_server()
    client = bench.client(proxy.port, client_context(pki), server_name="localhost", handshake=False)
    client.handshake(chunk=1)
    client.ping()


@pytest.mark.san
@pytest.mark.parametrize("version", [V12, V13])
def test_client_hello_one_byte_per_record(bench, version):
    """The same handshake message in as many records as it has bytes; the server goes on as far as it can."""
    proxy = bench.tls_server()
    client = bench.client(proxy.port, client_context(version=version), handshake=False)
    try:
        client.tls.do_handshake()
    except ssl.SSLWantReadError:
        pass
    hello = client.flight()
    for byte in hello[5:]:
        client.sock.sendall(record(HANDSHAKE, bytes([byte]), 0x0301))
    answer = client.sock.recv(65536)
    # Either it is put together (a ServerHello or a request for another hello), or refused with an alert.
    assert answer[0] in (HANDSHAKE, ALERT)
    client.close()
    bench.client(proxy.port).ping()


@pytest.mark.san
@pytest.mark.parametrize("size", [17000, 65536, 1 << 20, 16 << 20])
def test_oversized_client_hello(watched, size):
    body = b"\x01" + struct.pack(">I", min(size, 0xffffff))[1:] + b"\x03\x03" + b"A" * size
    data = b"".join(record(HANDSHAKE, body[i:i + 16000], 0x0301) for i in range(0, len(body), 16000))
    answer = throw(watched.port, data)
    assert not answer or answer[0] == ALERT
    watched.check()


@pytest.mark.san
@pytest.mark.parametrize("data", [
    b"", b"\0", b"\x16", b"\x16\x03\x01", b"\x16\x03\x01\xff\xff" + b"A" * 70000, b"\x16\x03\x01\x00\x00" * 100,
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n", b"\x80\x2e\x01\x00\x02" + b"A" * 44, b"\r\n" * 1000,
    b"A" * 100000, b"\x17\x03\x03\x00\x05hello", b"\x15\x03\x03\x00\x02\x02\x28", b"\x14\x03\x03\x00\x01\x01", b"\xff" * 5,
    b"\x18\x03\x02\x00\x03\x01\x40\x00"],
    ids=lambda data: (data[:12].hex() or "nothing") + f"-{len(data)}")
def test_garbage_in_place_of_a_handshake(watched, data):
    throw(watched.port, data)
    watched.check()


@pytest.mark.san
@pytest.mark.slow
def test_mutated_client_hellos(watched):
    """A few hundred hellos with random bytes changed, removed, doubled; the seed is fixed."""
    dice = random.Random(1)
    good = client_hello()
    for _ in range(300 if SLOW == 1 else 60):
        hello = bytearray(good)
        for _ in range(dice.choice((1, 1, 2, 5, 20))):
            place = dice.randrange(len(hello))
            what = dice.random()
            if what < 0.6:
                hello[place] = dice.randrange(256)
            elif what < 0.8:
                del hello[place:place + dice.randrange(1, 9)]
            else:
                hello[place:place] = bytes(dice.randrange(256) for _ in range(dice.randrange(1, 9)))
        if dice.random() < 0.7:
            hello[3:5] = struct.pack(">H", min(len(hello) - 5, 0xffff))
        throw(watched.port, bytes(hello))
    watched.check()


@pytest.mark.san
@pytest.mark.slow
def test_cut_client_hellos(watched):
    """The hello cut at every 7th place, then the end of the stream."""
    good = client_hello()
    for cut in range(0, len(good), 7):
        throw(watched.port, good[:cut])
    watched.check()


@pytest.mark.san
def test_cut_in_the_second_flight(bench):
    """The client leaves in the middle of its own last flight, with FIN and with RST."""
    watched = Watched(bench)
    for how in ("fin", "rst"):
        for cut in (1, 5, 20, 60):
            client = TlsClient(watched.port, handshake=False).handshake(hold=True)
            client.sock.sendall(client.flight()[:cut])
            if how == "fin":
                client.close()
            else:
                client.abort()
    watched.check()


@pytest.mark.san
@pytest.mark.parametrize("how", ["flip", "junk", "oversize", "plain"])
def test_damaged_records_after_the_handshake(bench, how):
    """A record that does not decrypt ends the connection; nothing of it reaches the backend."""
    proxy = bench.tls_server(backend=bench.server(collect))
    client = bench.client(proxy.port)
    client.send(b"good")
    client.tls.write(b"damaged")
    data = bytearray(client.flight())
    if how == "flip":
        data[-1] ^= 1
    elif how == "junk":
        data = record(DATA, os.urandom(100))
    elif how == "oversize":
        data = record(DATA, os.urandom(20000))
    else:
        data = b"plain text in the middle of TLS"
    client.sock.sendall(bytes(data))
    try:
        client.recv_all()
    except ssl.SSLError:
        pass
    assert proxy.backend.result()[0] in (b"good", b"")
    proxy.wait_log(r"LOG3\[0\]: SSL_read: ")


# --- floods ---


def quiet_cpu(proxy):
    """The proxy comes to rest: it does not spin after the flood."""
    time.sleep(0.5)
    before = proxy.cpu_s()
    time.sleep(1)
    assert proxy.cpu_s() - before < 0.5 * SLOW


@pytest.mark.san
def test_flood_of_empty_records_before_the_handshake(watched):
    throw(watched.port, record(HANDSHAKE, b"", 0x0301) * 5000)
    quiet_cpu(watched.proxy)
    watched.check()


@pytest.mark.san
@pytest.mark.parametrize("version", [V12, V13])
def test_flood_of_one_byte_records(bench, version):
    """20,000 records of one byte each are data: all of it arrives."""
    proxy = bench.tls_server(backend=bench.server(collect))
    client = bench.client(proxy.port, client_context(version=version))
    count = 20000 if SLOW == 1 else 4000
    for i in range(count):
        client.tls.write(b"x")
        if i % 500 == 0:
            client.flush()
    client.flush()
    client.bye()
    data, _ = proxy.backend.result()
    assert data == b"x" * count


@pytest.mark.san
@pytest.mark.parametrize("body, kind", [(b"\x01\x5a", ALERT), (b"\x01\x64", ALERT), (b"\x01", CCS)],
                         ids=["user_canceled", "no_renegotiation", "ccs"])
def test_flood_before_the_client_hello(watched, body, kind):
    """Warning alerts and change_cipher_spec without end are not waited for for ever."""
    throw(watched.port, record(kind, body) * 2000)
    quiet_cpu(watched.proxy)
    watched.check()


@pytest.mark.san
def test_flood_of_ccs_within_the_handshake(watched):
    """TLS 1.3 tolerates one for compatibility, not thousands."""
    throw(watched.port, client_hello() + record(CCS, b"\x01") * 2000)
    quiet_cpu(watched.proxy)
    watched.check()


@pytest.mark.san
@pytest.mark.parametrize("kind, requests", [("k", 100), ("K", 100), ("k", 3000)])
def test_key_updates(bench, need, kind, requests):
    """s_client's k and K: update keys, and ask the peer to. Data goes on or the connection ends; it never hangs or spins."""
    watched = Watched(bench)
    child = bench.run([need("openssl"), "s_client", "-connect", f"127.0.0.1:{watched.port}", "-tls1_3"], stdin=subprocess.PIPE,
                      stdout=subprocess.PIPE)
    try:
        for i in range(requests):
            child.stdin.write(kind.encode() + b"\n")
            child.stdin.flush()
            # s_client takes a command only if it is all that a read returned.
            time.sleep(0.001 if requests > 1000 else 0.005)
        time.sleep(0.2)
        child.stdin.write(b"after the updates\n")
        child.stdin.flush()
        text = b""
        while b"\nafter the updates" not in text:
            part = os.read(child.stdout.fileno(), 65536)
            if not part:
                break
            text += part
        if requests <= 100:
            assert b"\nafter the updates" in text
    except BrokenPipeError:
        assert requests > 100, "a hundred updates are no flood"
    child.kill()
    child.wait()
    quiet_cpu(watched.proxy)
    watched.check()


@pytest.mark.san
@pytest.mark.slow
@pytest.mark.parametrize("option", ["renegotiation = no", "options = ALLOW_CLIENT_RENEGOTIATION",
                                    "renegotiation = no\noptions = ALLOW_CLIENT_RENEGOTIATION", ""])
def test_flood_of_renegotiations(bench, need, option):
    watched = Watched(bench, f"sslVersion = TLSv1.2\n{option}")
    child = bench.run([need("openssl"), "s_client", "-connect", f"127.0.0.1:{watched.port}", "-tls1_2", "-legacy_renegotiation"],
                      stdin=subprocess.PIPE)
    try:
        for _ in range(100):
            child.stdin.write(b"R\n")
            child.stdin.flush()
            time.sleep(0.02)
    except BrokenPipeError:
        pass
    child.kill()
    child.wait()
    quiet_cpu(watched.proxy)
    watched.check()


@pytest.mark.san
@pytest.mark.slow
def test_flood_of_connections_that_say_nothing(bench):
    """Hundreds stall in the handshake; a newcomer is served; TIMEOUTbusy clears them away."""
    watched = Watched(bench, "TIMEOUTbusy = 5")
    stalled = [bench.keep(connect(watched.port)) for _ in range(300)]
    for sock in stalled[::2]:
        sock.sendall(client_hello()[:100])
    bench.client(watched.port).ping(b"newcomer").bye()
    watched.proxy.wait_log("TIMEOUTbusy exceeded", 300, timeout=40)
    for sock in stalled:
        sock.close()
    watched.check()


@pytest.mark.san
def test_flood_of_connections_that_leave_at_once(watched):
    for i in range(500):
        sock = connect(watched.port)
        if i % 2:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
    watched.check()


# --- other ends of the same stick ---


@pytest.mark.san
def test_client_that_never_reads_does_not_hold_others(bench):
    def pour(sock, server):
        block = b"x" * 65536
        try:
            for _ in range(400):
                sock.sendall(block)
        except OSError:
            pass

    proxy = bench.tls_server(backend=bench.server(pour))
    stalled = [bench.client(proxy.port, rcvbuf=4096) for _ in range(10)]
    reader = bench.client(proxy.port)
    assert len(reader.recv_exactly(400 * 65536)) == 400 * 65536
    for client in stalled:
        client.abort()


@pytest.mark.san
def test_black_hole_backend_does_not_hold_others(bench):
    """Three connections to a backend that never reads; others on the same service go on."""
    def mixed(sock, server):
        first = sock.recv(1)
        if first == b"h":
            server.released.wait(300)
            return None
        sock.sendall(first)
        return echo(sock, server)

    proxy = bench.tls_server(backend=bench.server(mixed))
    for _ in range(3):
        hole = bench.client(proxy.port)
        hole.settimeout(0.5)
        try:
            hole.send(b"h" * (32 << 20))
        except OSError:
            pass
    bench.client(proxy.port).ping(b"others")


@pytest.mark.san
@pytest.mark.parametrize("answer", [b"", b"\x15\x03\x03\x00\x02\x02\x28", b"\x16\x03\x03\xff\xff" + b"A" * 66000, b"HTTP/1.1 400 Bad\r\n\r\n",
                                    b"\x16\x03\x03\x00\x04\x02\x00\x00\x00", bytes(range(256)) * 2, b"\x16\x03\x03\x00\x00" * 3000],
                         ids=lambda answer: (answer[:5].hex() or "nothing") + f"-{len(answer)}")
def test_hostile_tls_server(bench, answer):
    """Client mode: whatever the server says in place of a ServerHello, the plain client's connection ends."""
    def handler(sock, _server):
        sock.recv(4096)
        sock.sendall(answer)

    proxy = bench.tls_client(bench.server(handler).port)
    try:
        with connect(proxy.port) as sock:
            assert read_all(sock)[0] == b""
    except ConnectionResetError:
        pass  # quicker than connect(2) came back
    proxy.wait_log(r"LOG3\[0\]: (SSL_connect|TLS|transfer|.*[Pp]eer)")


@pytest.mark.san
def test_heartbeat_is_not_answered(bench):
    """CVE-2014-0160: OpenSSL 3 has no heartbeats; nothing comes back but an alert."""
    proxy = bench.tls_server("sslVersion = TLSv1.2")
    client = bench.client(proxy.port, client_context(version=V12))
    client.sock.sendall(record(24, b"\x01\x40\x00" + bytes(16)))
    client.sock.settimeout(TIMEOUT)
    raw, _ = read_all(client.sock)
    assert len(raw) < 200


@pytest.mark.ours
def test_no_core_dumps_and_no_ptrace(bench):
    """Keys are in memory: the process is not dumpable. The hard limit stays, for the programs of `exec` get theirs back."""
    proxy = bench.tls_server()
    limits = open(f"/proc/{proxy.pid}/limits").read()
    assert re.search(r"Max core file size\s+0\s", limits), limits


@pytest.mark.san
def test_secrets_are_in_no_log(bench, pki, tmp_path):
    key, mac, psk = (bytes([n] * 16).hex() for n in (0x51, 0x52, 0x53))
    secrets, path = tmp_path / "secrets", bench.ports()
    secrets.write_text(f"joe:{psk}\n")
    secrets.chmod(0o600)
    proxy = bench.tls_server(f"ticketKeySecret = {key}\nticketMacSecret = {mac}\n[psk]\naccept = 127.0.0.1:{path}\nconnect = 127.0.0.1:1\nPSKsecrets = {secrets}")
    bench.client(proxy.port).ping(b"application secret").bye()
    proxy.wait_log("finished")
    assert proxy.hup(proxy.text[len(proxy.preamble):] + "TIMEOUTidle = 99\n")
    proxy.send_signal(signal.SIGUSR2)
    log = proxy.log()
    assert "application secret" not in log
    assert "PRIVATE KEY" not in log
    assert not [secret for secret in (key, mac, psk) if secret in log.lower() or bytes.fromhex(secret).decode() in log]
    assert not re.search(r"CLIENT_RANDOM|TRAFFIC_SECRET", log)


@pytest.mark.san
def test_names_that_do_not_resolve_do_not_hold_others(bench, pki):
    """Fifty look-ups at once for a name that does not exist, and a good service beside them."""
    bad, good, backend = bench.ports(), bench.ports(), bench.server(echo)
    bench.proxy(f"cert = {pki.ec_pem}\n[bad]\naccept = 127.0.0.1:{bad}\nconnect = no-such-host.invalid:1\ndelay = yes\n"
                f"[good]\naccept = 127.0.0.1:{good}\nconnect = 127.0.0.1:{backend.port}\n")
    waiting = [bench.client(bad) for _ in range(50)]
    for _ in range(5):
        bench.client(good).ping().bye()
    for client in waiting:
        client.recv_all()


@pytest.mark.ours
@pytest.mark.san
def test_memory_comes_back(bench):
    """After a burst of damaged handshakes the process is about as big as before."""
    watched = Watched(bench)
    hello = client_hello()

    def burst():
        for i in range(200):
            throw(watched.port, hello[:100 + i])

    burst()
    before = watched.proxy.rss_kib()
    for _ in range(4):
        burst()
    if SLOW == 1:
        assert watched.proxy.rss_kib() < before + 8192
    watched.check()


def test_restart_after_a_kill(bench):
    """kill -9 leaves nothing behind that would keep the next one from starting."""
    backend, port = bench.server(echo), bench.ports()
    first = bench.tls_server(accept=port, backend=backend)
    bench.client(port).ping()
    first.kill()
    until(lambda: bench.ports.free(port) or not listening(port), 20, "the kernel closes the listener")
    bench.tls_server(accept=port, backend=backend)
    bench.client(port).ping()


def listening(port):
    from proxy import listening_ports
    return port in listening_ports()
