# Kernel TLS: odd records, new keys, sessions, many connections. As in test_ktls.py, "user" is user space.
# SPDX-License-Identifier: Apache-2.0
import re
import threading
import time

import pytest

from kernel_tls import (HAVE, MIB, REKEYS, RELAYS, V12, V13, WAYS, each_relay, each_version, each_way, module, needs_kernel, needs_rekey,
                        settled, shared)
from peers import (CLOSE_NOTIFY, EOF, RESET, TIMEOUT, client_context, collect, connect, echo, pattern, pump_both, read_all,
                   read_exactly, server_context)
from proxy import SLOW
from records import CLIENT_HELLO, DATA, HANDSHAKE, Records, records_client

pytestmark = pytest.mark.ours

NO_RENEGOTIATION = 100


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


@pytest.mark.parametrize("section", [*WAYS, "strict"] if HAVE else WAYS)
def test_another_handshake_in_tls12(shared, section):
    """Refused: the connection goes on, or ends where no renegotiation is wanted."""
    client = settled(shared, section, echo, V12, peer=records_client)
    client.send(HANDSHAKE, bytes([CLIENT_HELLO]) + b"\0\0\2\3\3")
    if section == "strict":
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
