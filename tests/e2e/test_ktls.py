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

from kernel_tls import HAVE, MIB, REKEYS, RELAYS, V12, V13, KernelCount, Shared, needs_kernel, needs_rekey, results, way
from peers import (CLOSE_NOTIFY, EOF, RESET, TIMEOUT, TlsClient, client_context, collect, connect, echo, pattern, pump_both, read_all,
                   read_exactly, server_context)
from proxy import SLOW, until
from records import CLIENT_HELLO, DATA, FATAL, HANDSHAKE, Records, records_client

pytestmark = pytest.mark.ours

WAYS = ["user", *RELAYS] if HAVE else ["user"]
AFTER = [0, 1, 16384, 65536, 100000]
BAD_RECORD_MAC, NO_RENEGOTIATION, HANDSHAKE_FAILURE = 20, 100, 40

each_way = pytest.mark.parametrize("how", WAYS)
each_relay = pytest.mark.parametrize("how", RELAYS)
each_version = pytest.mark.parametrize("version", [V12, V13], ids=["1.2", "1.3"])


# --- one proxy for most of it ---


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


@needs_kernel
def test_there_is_kernel_tls():
    """Skipped: then everything below ran in user space only."""


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
    client = shared.client(shared.port[how], client_context(version=version), handshake=False)
    while True:
        try:
            client.tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            client.flush()
            client._feed()
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
    """TLS 1.3 goes to the kernel where it can take new keys."""
    client = shared.client(shared.port["auto"], client_context(version=version)).ping()
    result = "kernel" if version == V12 or REKEYS else "rekey"
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
    client = settled(shared, how, collect, version, peer=records_client)
    client.raw(junk)
    client.recv_all()
    data, end = shared.backend.result()
    assert (data, end) == (b"", RESET)
    shared.wait_log(r"LOG3\[\d+\]: ")


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


# --- odd records ---


@each_way
@each_version
def test_empty_records(shared, how, version):
    client = shared.keep(records_client(shared.port[how], client_context(version=version)))
    for _ in range(20):
        client.send(DATA, b"")
        client.ping(b"between")
    client.send(DATA, b"")
    assert client.bye() == b""
    assert client.ended == CLOSE_NOTIFY


@each_way
def test_padded_records(shared, how):
    """Also more padding than data, and a record that padding fills up. Linux 6.1 and 6.12 leave the padding in if they were told not to expect any."""
    client = shared.keep(records_client(shared.port[how]))
    for size, pad in ((1, 1), (1, 16383), (16383, 1), (0, 100), (100, 1000), (0, 16384), (5000, 0)):
        client.send(DATA, b"p" * size, pad)
        client.data(b"plain")
        got = client.recv_exactly(size + 5)
        assert got == b"p" * size + b"plain", f"{size} bytes, {pad} of padding: {got[:20]!r}... {got[-10:]!r}"
    client.bye()


@needs_kernel
@pytest.mark.slow
@pytest.mark.parametrize("how", RELAYS[:2])
@each_version
def test_more_than_65536_records(shared, how, version):
    """Up in records of one byte; down as they come."""
    count = 66000
    client = shared.keep(records_client(shared.port[how], client_context(version=version)))
    client.ping()
    shared.wait_kernel(how)
    thread = threading.Thread(target=client.data, args=(b"1" * count, 1), daemon=True)
    thread.start()
    assert client.recv_exactly(count) == b"1" * count
    thread.join(TIMEOUT)
    client.ping()


@each_way
@pytest.mark.parametrize("option", ["", "strict"])
def test_another_handshake_in_tls12(shared, how, option):
    """Refused: the connection goes on, or ends where no renegotiation is wanted."""
    if option and how != "copy":
        pytest.skip("once is enough")
    client = settled(shared, option or how, echo, V12, peer=records_client)
    client.send(HANDSHAKE, bytes([CLIENT_HELLO]) + b"\0\0\2\3\3")
    if option:
        client.recv_all()
        assert client.ended in (RESET, EOF)
        shared.wait_log("renegotiation")
    else:
        try:
            client.ping()
        except EOFError:
            pass
        assert client.alerts[:1] in ([NO_RENEGOTIATION], [50]), client.alerts


# --- new keys ---


def goes_on(how):
    return how == "user" or REKEYS


def ends_cleanly(shared, client, result):
    """The contract where the kernel takes no new keys."""
    client.recv_all()
    assert result()[1] == RESET
    shared.wait_log("LOG3.*KeyUpdate")
    assert client.alerts and client.alerts[-1] != 0


@each_way
@pytest.mark.parametrize("request_ours", [False, True])
def test_key_update(shared, how, request_ours):
    client = settled(shared, how, echo if goes_on(how) else collect, peer=records_client)
    if not goes_on(how):
        client.key_update(request_ours)
        ends_cleanly(shared, client, shared.backend.result)
        return
    for i in range(5):
        client.key_update(request_ours)
        client.ping(b"after" * 1000)
    assert client.updates == [False] * (5 * request_ours)
    # In one segment with the records before and after it, and cut in the middle.
    out = client.seal(DATA, b"before") + client.updated(request_ours) + client.seal(DATA, b"after")
    client.raw(out, (len(out) // 2,), pause=0.05)
    assert client.recv_exactly(11) == b"beforeafter"
    assert client.bye() == b""


@each_way
def test_key_update_under_load(shared, how):
    """Bulk both ways while keys change."""
    if not goes_on(how):
        pytest.skip("this kernel takes no new keys")
    client = shared.keep(records_client(shared.port[how]))
    data = pattern(2 * MIB)

    def write():
        for i in range(0, len(data), 65536):
            part = data[i:i + 65536]
            out = b"".join(client.seal(DATA, part[j:j + 16384]) for j in range(0, len(part), 16384))
            client.raw(out + client.updated(i % (4 * 65536) == 0))

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    assert client.recv_exactly(len(data)) == data
    thread.join(TIMEOUT)
    client.ping()


@needs_kernel
@pytest.mark.parametrize("name, request_ours", [("tx", False), ("tx", True), ("rx", False), ("rx", True), ("auto", True)])
def test_key_update_with_one_direction_in_the_kernel(shared, name, request_ours):
    works = REKEYS or name == "auto" or (name == "tx" and not request_ours)
    shared.backend.handler = echo if works else collect
    client = shared.keep(records_client(shared.port[name]))
    client.data(b"ping" * 1000)
    if works:
        client.recv_exactly(4000)
        client.key_update(request_ours)
        client.ping().ping()
        client.bye()
    else:
        shared.wait_results(name, *(("kernel", "off") if name == "tx" else ("off", "kernel")))
        client.key_update(request_ours)
        ends_cleanly(shared, client, shared.backend.result)


@each_way
@pytest.mark.parametrize("request_ours", [False, True])
def test_key_update_of_a_server(shared, how, request_ours):
    """Our client role."""
    name = f"{how}.client"

    def handler(sock, server):
        peer = Records(sock, server_context(shared.pki.ec_pem, V13), server=True)
        peer.data(peer.recv_exactly(4))
        peer.recv_exactly(2)
        for _ in range(3):
            peer.key_update(request_ours)
            if not goes_on(how):
                peer.recv_all()
                return peer.alerts
            peer.data(peer.recv_exactly(4))
        peer.recv_all()
        return peer.updates

    shared.tls_backend.context = None
    shared.tls_backend.handler = handler
    with connect(shared.port[name]) as sock:
        sock.sendall(b"ping")
        assert read_exactly(sock, 4) == b"ping"
        shared.wait_kernel(name)
        sock.sendall(b"go")
        if not goes_on(how):
            assert read_all(sock)[1] == RESET
            assert shared.tls_backend.result()[-1:] not in ([], [0])
            return
        for _ in range(3):
            sock.sendall(b"next")
            assert read_exactly(sock, 4) == b"next"
    updates = shared.tls_backend.result()
    assert (1 <= len(updates) <= 3) == request_ours and not any(updates)  # one answer may be to two requests


@needs_rekey
@each_way
def test_flood_of_key_updates(shared, how):
    """A hundred in a row are no flood, thousands are."""
    client = settled(shared, how, echo, peer=records_client)
    client.raw(b"".join(client.updated() for _ in range(100)))
    client.ping()
    try:
        client.raw(b"".join(client.updated() for _ in range(3000)))
        client.recv_all()
    except OSError:
        client.ended = RESET
    assert client.ended
    shared.wait_log("LOG3")


# --- sessions ---


@each_way
@each_version
def test_sessions_of_the_server(shared, how, version):
    """The tickets came before the switch or after it; a resumed connection goes to the kernel, too."""
    context = client_context(version=version)
    first = shared.client(shared.port[how], context).ping()
    second = shared.client(shared.port[how], context, session=first.tls.session).ping()
    assert second.tls.session_reused
    shared.wait_kernel(how, 2)
    second.ping()


@each_way
@each_version
def test_sessions_of_the_client(shared, how, version):
    """The tickets that a server sends reach the session cache, whoever reads them."""
    name = f"{how}.client"
    shared.tls_backend.context = server_context(shared.pki.ec_pem, version)
    for turn in range(3):
        with connect(shared.port[name]) as sock:
            sock.sendall(b"x" * 50000)
            assert read_exactly(sock, 50000) == b"x" * 50000
            sock.sendall(b"before")
            assert read_exactly(sock, 6) == b"before"
            shared.wait_kernel(name, turn + 1)
            sock.sendall(b"after")
            assert read_exactly(sock, 5) == b"after"
        shared.main.wait_idle()
    assert len(re.findall("TLS connected: previous session reused", shared.log())) >= 2 or how != "user" and "reused" in shared.log()


# --- many, and long ---


@each_way
def test_three_hundred_at_once(shared, how):
    """Of mixed sizes, all open at the same time, then all used again."""
    sizes = (1, 100, 5000, 16384, 70000, 300000)
    clients = [shared.client(shared.port[how], client_context(version=V12 if i % 2 else V13)) for i in range(300 if SLOW == 1 else 100)]
    errors = []

    def talk(part):
        try:
            for i, client in part:
                data = pattern(sizes[i % len(sizes)], seed=i)
                if pump_both(client, data) != data:
                    errors.append(i)
        except Exception as error:  # whatever it is, the test says so
            errors.append((i, error))

    numbered = list(enumerate(clients))
    threads = [threading.Thread(target=talk, args=(numbered[i::12],), daemon=True) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120 * SLOW)
    assert not errors
    for client in clients:
        client.ping()
    shared.wait_kernel(how, len(clients))
    for i, client in numbered:
        client.ping() if i % 3 else client.abort()


@each_relay
@pytest.mark.slow
@pytest.mark.serial
@pytest.mark.nosan
@pytest.mark.parametrize("stalled", ["client", "backend"])
@needs_kernel
def test_stalled_reader_holds_the_other_side_up(shared, how, stalled):
    """Back-pressure, also through pipes."""
    count, block = 10, b"x" * 65536

    def pour(sock, server):
        try:
            for _ in range(1000):
                sock.sendall(block)
        except OSError:
            pass

    def wait(sock, server):
        server.released.wait(300)

    shared.backend.handler = pour if stalled == "client" else wait
    before = shared.main.rss_kib()
    clients = [shared.client(shared.port[how]) for _ in range(count)]
    if stalled == "backend":
        for client in clients:
            client.settimeout(2)
            threading.Thread(target=swallow, args=(lambda c=client: c.send(block * 1000),), daemon=True).start()
    shared.wait_kernel(how, count)
    last = -1
    for _ in range(50):
        time.sleep(0.5)
        with open("/proc/net/tcp") as table:
            now = sum(int(line.split()[4].split(":")[0], 16) for line in table.readlines()[1:])
        if now == last:
            break
        last = now
    assert shared.main.rss_kib() - before < count * 512 + 8192
    for client in clients:
        client.abort()


def swallow(call):
    try:
        call()
    except (OSError, ValueError):
        pass


# --- proxies of their own ---


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
