# Kernel TLS in the details: the switch from user space to the kernel, new keys, odd records, and every way a stream can end. Where it
# makes sense a test runs in user space, too ("user"): both must look the same from outside.
# SPDX-License-Identifier: Apache-2.0
import random
import re
import socket
import ssl
import subprocess
import threading
import time

import pytest

from kernel_tls import (ACCELERATED, AFTER, HAVE, MIB, REKEYS, V12, V13, KernelCount, each_relay, each_version, each_way, module,
                        needs_kernel, results, settled, shared, way)
from peers import (CLOSE_NOTIFY, EOF, RESET, TIMEOUT, client_context, collect, connect, echo, pattern, pump_both, read_all,
                   read_exactly, server_context)
from proxy import SLOW, until
from records import DATA, FATAL, records_client

pytestmark = pytest.mark.ours

BAD_RECORD_MAC, RECORD_OVERFLOW, HANDSHAKE_FAILURE = 20, 22, 40


# --- the switch ---


@needs_kernel
@each_relay
@each_version
@pytest.mark.parametrize("after", AFTER)
def test_odd_sizes_across_the_switch(shared, how, version, after):
    """Pieces of 1 to 40,000 bytes in records of any size, both ways at once, until long after the switch."""
    dice = random.Random(after)
    name = how if after == 0 else f"{how}.{after}"
    client = shared.client(shared.port[name], client_context(version=version))
    data = pattern(400000)
    sent = [0]

    def write():
        while sent[0] < len(data):
            size = dice.choice((1, 2, 17, 100, 1000, 16383, 16384, 16385, 40000))
            with lock:
                client.tls.write(data[sent[0]:sent[0] + size])
                out = client.outgoing.read()
            sent[0] += size
            place = dice.randrange(len(out))
            client.sock.sendall(out[:place])
            if dice.random() < 0.2:
                time.sleep(0.01)
            client.sock.sendall(out[place:])

    lock = threading.Lock()
    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    got = b""
    while len(got) < len(data):
        with lock:
            try:
                part = client.tls.read(65536)
                assert part, f"the end after {len(got)} bytes:\n{shared.log()[-3000:]}"
                got += part
                continue
            except ssl.SSLWantReadError:
                pass
        raw = client.sock.recv(65536)
        assert raw, f"the end after {len(got)} bytes:\n{shared.log()[-3000:]}"
        with lock:
            client.incoming.write(raw)
    thread.join(TIMEOUT)
    assert got == data
    client.ping(b"x" * 50000)
    shared.wait_kernel(name)
    client.ping(b"x" * 50000)
    assert client.bye() == b""
    assert client.ended == CLOSE_NOTIFY


@each_way
@each_version
@pytest.mark.parametrize("size", [1, 100, 40000, 300000])
@pytest.mark.parametrize("cut", [None, 3, 20])
def test_first_data_with_the_handshake(shared, how, version, size, cut):
    """The client's Finished and its first records in one segment, or the first record in two."""
    client = shared.client(shared.port[how], client_context(version=version), handshake=False).handshake(hold=True)
    flight = client.flight()
    data = pattern(size)
    client.tls.write(data)
    more = client.flight()
    if version == V12:
        client.sock.sendall(flight)  # its Finished is answered first
    both = more if version == V12 else flight + more
    if cut:
        place = len(both) - len(more) + cut
        client.sock.sendall(both[:place])
        time.sleep(0.1)
        both = both[place:]
    thread = threading.Thread(target=client.sock.sendall, args=(both,), daemon=True)
    thread.start()
    assert client.recv_exactly(size) == data
    thread.join(TIMEOUT)
    client.ping()
    shared.wait_kernel(how)
    client.ping()


@each_way
@each_version
def test_the_backend_speaks_first(shared, how, version):
    data = pattern(300000)

    def handler(sock, server):
        sock.sendall(data)
        return echo(sock, server)

    shared.backend.handler = handler
    client = shared.client(shared.port[how], client_context(version=version))
    assert client.recv_exactly(len(data)) == data
    client.ping()
    shared.wait_kernel(how)


@each_way
@each_version
@pytest.mark.parametrize("server_first", [False, True])
def test_client_section(shared, how, version, server_first):
    """Our client role; a server whose first bytes come with its tickets."""
    data = pattern(100000)

    def handler(sock, server):
        if server_first:
            sock.sendall(data)
        return echo(sock, server)

    shared.tls_backend.handler = handler
    shared.tls_backend.context = server_context(shared.pki.ec_pem, version)
    name = f"{how}.client"
    with connect(shared.port[name]) as sock:
        if server_first:
            assert read_exactly(sock, len(data)) == data
        for size in (1, 100, 16384, 100000):
            sock.sendall(data[:size])
            assert read_exactly(sock, size) == data[:size]
        sock.sendall(b"before")
        assert read_exactly(sock, 6) == b"before"
        shared.wait_kernel(name)
        sock.sendall(b"after")
        assert read_exactly(sock, 5) == b"after"
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock) == (b"", EOF)


@each_way
@each_version
@pytest.mark.parametrize("cuts", [(1,), (4,), (5,), (6,), (13,), (300,), (1, 5, 13, 300, 16000)])
def test_a_pause_inside_a_record(shared, how, version, cuts):
    """Before the switch and after it."""
    for turn in range(2):
        client = shared.keep(records_client(shared.port[how], client_context(version=version)))
        if turn:
            client.ping()
        client.raw(client.seal(DATA, b"r" * 16000) + client.seal(DATA, b"next"), cuts, pause=0.05)
        assert client.recv_exactly(16004) == b"r" * 16000 + b"next"
        client.close()


@each_way
@each_version
def test_one_byte_per_segment(shared, how, version):
    client = shared.keep(records_client(shared.port[how], client_context(version=version)))
    for text in (b"first" * 20, b"second" * 20):
        record = client.seal(DATA, text)
        client.raw(record, range(1, len(record)), pause=0.001)
        assert client.recv_exactly(len(text)) == text
    shared.wait_kernel(how)


@needs_kernel
@each_version
@pytest.mark.parametrize("name, tx, rx", [("tx", "kernel", "off"), ("rx", "off", "kernel"), ("option", "kernel", "kernel"),
                                          ("never", "short", "short"), ("padded", "options", "options"), ("user", "off", "off")])
def test_results(shared, version, name, tx, rx):
    client = shared.client(shared.port[name], client_context(version=version))
    data = pattern(100000)
    assert pump_both(client, data) == data
    client.bye()
    shared.main.wait_idle()
    shared.wait_results(name, tx, rx)
    assert shared.kernel["TlsTxSw"] == (tx == "kernel") and shared.kernel["TlsRxSw"] == (rx == "kernel")


@needs_kernel
@each_version
def test_auto(shared, version):
    """TLS 1.3 goes to the kernel where it can take new keys. What user space does faster stays there."""
    client = shared.client(shared.port["auto"], client_context(version=version)).ping()
    result = "rekey" if version != V12 and not REKEYS else "inplace" if ACCELERATED else "kernel"
    shared.wait_results("auto", result, result)
    client.bye()


@needs_kernel
def test_what_the_kernel_cannot(shared):
    client = shared.client(shared.port["cbc"], client_context(version=V12, ciphers="ECDHE-ECDSA-AES128-SHA256")).ping()
    shared.wait_results("cbc", "cipher", "cipher")
    client.bye()
    shared.main.wait_idle()
    child = shared.run(["openssl", "s_client", "-quiet", "-maxfraglen", "512", "-connect", f"127.0.0.1:{shared.port['copy']}"],
                       stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.stdin.write(b"x" * 3000 + b"\n")
    child.stdin.close()
    assert len(child.stdout.read(3001)) == 3001
    shared.wait_results("copy", "fragment", "fragment")


@needs_kernel
def test_log(shared):
    """Once a process at level notice, per connection at debug."""
    shared.client(shared.port["copy"], client_context(version=V13)).ping()
    shared.wait_log(r"LOG7\[\d+\]: Kernel TLS: tx: in the kernel \(AES-\d+-GCM\)")
    shared.wait_log(r"LOG7\[\d+\]: Kernel TLS: rx: in the kernel")
    for _ in range(2):
        shared.client(shared.port["user"]).ping().bye()
    assert len(re.findall(r"LOG5.*Kernel TLS: .*configuration", shared.main.log())) <= 1


# --- how streams end ---


@each_way
@each_version
@pytest.mark.parametrize("size", [5, 168 * 1024])
def test_half_close_of_the_client(shared, how, version, size):
    answer = pattern(size)

    def handler(sock, _server):
        got = read_all(sock)
        sock.sendall(answer)
        return got

    client = settled(shared, how, handler, version)
    client.send(b"question")
    client.close_notify()
    assert client.recv_all() == answer
    assert client.ended == CLOSE_NOTIFY
    assert shared.backend.result() == (b"question", EOF)


@each_way
@each_version
@pytest.mark.parametrize("size", [5, 168 * 1024])
def test_half_close_of_the_backend(shared, how, version, size):
    data = pattern(size)

    def handler(sock, _server):
        sock.sendall(b"hello")
        sock.shutdown(socket.SHUT_WR)
        return read_all(sock)

    client = settled(shared, how, handler, version)
    assert client.recv_all() == b"hello"
    assert client.ended == CLOSE_NOTIFY
    client.send(data)
    client.close_notify()
    assert shared.backend.result() == (data, EOF)


@each_way
@each_version
@pytest.mark.parametrize("size", [0, 5, 3 * MIB])
def test_close_of_the_backend_delivers_everything(shared, how, version, size):
    data = pattern(size)
    client = settled(shared, how, lambda sock, _server: sock.sendall(data), version)
    assert client.recv_all() == data
    assert client.ended == CLOSE_NOTIFY


@each_way
@each_version
@pytest.mark.parametrize("cut", [1, 16, 50, 16000, 16400])
def test_end_inside_a_record(shared, how, version, cut):
    """Whole records arrive, the torn one does not."""
    client = settled(shared, how, collect, version)
    client.send(b"whole")
    client.tls.write(b"t" * 16384)
    client.sock.sendall(client.flight()[:-cut])
    client.shut()
    assert shared.backend.result()[0] == b"whole"


@each_way
@each_version
def test_end_without_close_notify(shared, how, version):
    client = settled(shared, how, collect, version)
    client.send(b"data")
    client.shut()
    assert shared.backend.result() == (b"data", EOF)
    shared.wait_log(r"TLS socket closed")


@each_way
@each_version
def test_reset_with_nothing_unsent_is_an_end(shared, how, version):
    client = settled(shared, how, collect, version, size=5)
    client.send(b"data")
    time.sleep(0.2)
    client.abort()
    assert shared.backend.result() == (b"data", EOF)


@each_way
@each_version
def test_reset_with_data_unsent(shared, how, version):
    def pour(sock, _server):
        try:
            while True:
                sock.sendall(b"x" * 65536)
        except (ConnectionResetError, BrokenPipeError):
            return RESET

    client = settled(shared, how, pour, version)
    client.recv_exactly(MIB)
    client.abort()
    assert shared.backend.result() == RESET


@each_way
@each_version
def test_fatal_alert_of_the_client(shared, how, version):
    """An error, not an end: the backend must not take what it got for all there was."""
    client = settled(shared, how, collect, version, peer=records_client)
    client.data(b"part")
    client.alert(FATAL, HANDSHAKE_FAILURE)
    data, end = shared.backend.result()
    assert end == RESET and b"part".startswith(data)
    shared.wait_log(r"TLS alert \(read\): fatal")


@each_way
@each_version
def test_damaged_record(shared, how, version):
    """The client hears why, and not a byte of the record is believed."""
    client = settled(shared, how, collect, version, peer=records_client)
    client.data(b"whole")
    record = bytearray(client.seal(DATA, b"damaged"))
    record[-1] ^= 1
    client.raw(bytes(record))
    client.recv_all()
    data, end = shared.backend.result()
    assert end == RESET and b"whole".startswith(data)
    shared.wait_log(r"LOG3\[\d+\]: SSL_read: .*bad record mac")
    assert client.alerts == [BAD_RECORD_MAC]


@each_way
@each_version
@pytest.mark.parametrize("junk", [b"GET / HTTP/1.1\r\n\r\n", b"\x17\x03\x03\xff\xff" + b"j" * 20000, b"\x17\x03\x03\x00\x00",
                                  b"\x17\x03\x03\x00\x05hello"], ids=["text", "long", "empty", "short"])
def test_what_is_no_record(shared, how, version, junk):
    """With something behind it: of TLS 1.2 the kernel of 6.1 looks at a header only once 13 bytes are there."""
    client = settled(shared, how, collect, version, peer=records_client)
    client.raw(junk + b"j" * 13)
    client.recv_all()
    data, end = shared.backend.result()
    assert (data, end) == (b"", RESET)
    shared.wait_log(r"LOG3\[\d+\]: ")


@each_way
@each_version
def test_what_is_no_record_while_much_is_sent(shared, how, version):
    """A send may be the first to hear of it, and then no read does."""
    def pour(sock, _):
        try:
            for _ in range(1000):
                sock.sendall(b"d" * 65536)
        except OSError:
            return RESET

    for _ in range(4):
        client = settled(shared, how, pour, version, peer=records_client)
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)  # little lies in front of the alert
        assert client.recv_exactly(1 << 20) == b"d" * (1 << 20)
        client.raw(b"\x17\x03\x03\xff\xff" + b"j" * 13)
        client.recv_all()
        assert client.alerts == [RECORD_OVERFLOW], f"{client.ended}\n{shared.log()[-3000:]}"
        assert shared.backend.result() == RESET
        shared.wait_log(r"LOG3\[\d+\]: SSL_read: ")
        client.close()
        shared.main.wait_idle()
        shared.begin()


@needs_kernel
@each_version
def test_idle_time_out(shared, version):
    shared.backend.handler = collect
    client = shared.client(shared.port["idle"], client_context(version=version))
    client.send(b"data")
    assert shared.backend.result() == (b"data", RESET)
    client.recv_all()
    assert client.ended == RESET
    shared.wait_log("TIMEOUTidle exceeded")
    shared.wait_results("idle", "kernel", "kernel")


# --- proxies of their own ---


@needs_kernel
@pytest.mark.serial
@pytest.mark.nosan
@each_version
def test_stalled_client_on_the_way_to_the_kernel(bench, version):
    """What was sealed in user space has to leave first, and it does not: meanwhile the backend is held up."""
    def pour(sock, _):
        try:
            for _ in range(1000):
                sock.sendall(b"d" * 65536)
        except OSError:
            pass

    proxy = bench.tls_server("ktls = yes\nktlsAfter = 30000\nsocket = l:SO_SNDBUF=2048", backend=bench.server(pour))
    bench.client(proxy.port, client_context(version=version)).close()
    proxy.wait_idle()
    before = proxy.rss_kib()
    client = bench.client(proxy.port, client_context(version=version), rcvbuf=4096)
    time.sleep(3)
    assert proxy.rss_kib() - before < 16384
    assert client.recv_exactly(1 << 20) == b"d" * (1 << 20)


@pytest.mark.slow
@each_relay
@each_version
def test_tls_on_both_sides(bench, tools, how, version):
    """A client section and a server section in one proxy: four directions, all in the kernel; then tiny records."""
    port = bench.ports()
    bench.run([tools + "/echo", str(port)])
    until(lambda: not bench.ports.free(port))
    middle, front, admin = bench.ports(), bench.ports(), bench.ports()
    only = "sslVersion = " + ("TLSv1.2" if version == V12 else "TLSv1.3")
    proxy = bench.proxy(f"admin = 127.0.0.1:{admin}\n{only}\n[server]\naccept = 127.0.0.1:{middle}\nconnect = 127.0.0.1:{port}\n"
                        f"cert = {bench.pki.ec_pem}\n{way(how)}\n[client]\nclient = yes\nrenegotiation = no\naccept = 127.0.0.1:{front}\n"
                        f"connect = 127.0.0.1:{middle}\n{way(how)}\n")
    count = KernelCount()
    for arguments in (["bulk", str(16 * MIB)], ["drip", "2000"]):
        done = subprocess.run([tools + "/load", "-P", str(front), *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              timeout=250 * SLOW)
        assert done.returncode == 0, done.stdout
    proxy.wait_idle()
    if HAVE:
        assert count["TlsTxSw"] == count["TlsRxSw"] == 4
        assert count["TlsDecryptError"] == 0
        until(lambda: count["TlsCurrTxSw"] == 0 and count["TlsCurrRxSw"] == 0)


@pytest.mark.skipif(bool(HAVE), reason="there is kernel TLS here")
def test_without_kernel_tls(bench):
    """ktls = yes changes nothing but a line in the log and the metrics."""
    admin, backend, port = bench.ports(), bench.server(echo), bench.ports()
    proxy = bench.proxy(f"admin = 127.0.0.1:{admin}\n[s]\naccept = 127.0.0.1:{port}\nconnect = 127.0.0.1:{backend.port}\n"
                        f"cert = {bench.pki.ec_pem}\n{way('splice')}")
    data = pattern(MIB)
    for i in range(2):
        client = bench.client(port)
        assert pump_both(client, data) == data
        client.bye()
    until(lambda: results(admin, "s") == {("tx", "unsupported"): 2, ("rx", "unsupported"): 2}, 20, results(admin, "s"))
    assert len(proxy.lines("LOG5.*Kernel TLS")) == 1
