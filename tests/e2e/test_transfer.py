# Bytes through the relay: all of them, in order, both ways, and every way in which a stream can end.
# SPDX-License-Identifier: Apache-2.0
import socket
import subprocess
import threading
import time

import pytest

from peers import (CLOSE_NOTIFY, EOF, RESET, abort, client_context, collect, connect, echo, pattern, pump_both, read_all,
                   read_exactly, respond, server_context, source)
from proxy import SLOW, until

MIB = 1 << 20


@pytest.mark.san
@pytest.mark.valgrind
def test_server_mode_round_trip(bench, pki):
    proxy = bench.tls_server()
    client = bench.client(proxy.port, client_context(pki), server_name="localhost")
    client.ping()
    assert client.bye() == b""
    assert client.ended == CLOSE_NOTIFY
    assert proxy.wait_log(r"LOG5\[0\]: Connection closed: 4 byte\(s\) sent to TLS, 4 byte\(s\) sent to socket")


@pytest.mark.san
@pytest.mark.valgrind
def test_client_mode_round_trip(bench, pki):
    backend = bench.server(echo, context=server_context(pki.ec_pem))
    proxy = bench.tls_client(backend.port)
    with connect(proxy.port) as sock:
        sock.sendall(b"ping")
        assert read_exactly(sock, 4) == b"ping"
    assert backend.result() == 4
    assert proxy.wait_log(r"LOG5\[0\]: Connection closed: 4 byte\(s\) sent to TLS, 4 byte\(s\) sent to socket")


@pytest.mark.san
@pytest.mark.valgrind
def test_bytes_one_by_one_from_the_tls_side(bench):
    proxy = bench.tls_server(backend=bench.server(collect))
    client = bench.client(proxy.port)
    data = pattern(500)
    client.send(data, chunk=1)
    client.bye()
    assert proxy.backend.result() == (data, EOF)


@pytest.mark.san
def test_bytes_one_by_one_from_the_plain_side(bench):
    data = pattern(500)

    def drip(sock, _server):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for i in range(len(data)):
            sock.sendall(data[i:i + 1])

    proxy = bench.tls_server(backend=bench.server(drip))
    client = bench.client(proxy.port)
    assert client.recv_all() == data
    assert client.ended == CLOSE_NOTIFY


@pytest.mark.san
def test_one_byte_ping_pong(bench):
    client = bench.client(bench.tls_server().port)
    for i in range(300):
        client.ping(bytes([i % 256]))
    assert client.bye() == b""


@pytest.mark.san
@pytest.mark.parametrize("size", [1, 16383, 16384, 16385, 18432, 65536, 65537, 1000003])
def test_sizes_around_record_and_buffer_limits(bench, size):
    client = bench.client(bench.tls_server().port)
    data = pattern(size)
    assert pump_both(client, data) == data
    assert client.bye() == b""


@pytest.mark.san
def test_full_duplex(bench):
    client = bench.client(bench.tls_server().port)
    data = pattern(8 * MIB)
    assert pump_both(client, data) == data
    assert client.bye() == b""


@pytest.mark.parametrize("mode", ["server", "pair"])
@pytest.mark.parametrize("mib", [pytest.param(64, marks=[pytest.mark.san, pytest.mark.slow, pytest.mark.serial]),
                                 pytest.param(1024, marks=[pytest.mark.slow, pytest.mark.nosan, pytest.mark.serial])])
def test_bulk_with_checksums(bench, tools, mode, mib):
    """Both directions at once, each byte compared with what its place in the stream says."""
    port = bench.ports()
    bench.run([tools + "/echo", str(port)])
    server = bench.tls_server(backend=port)
    if mode == "server":
        target, plain = server.port, []
    else:
        target, plain = bench.tls_client(server.port).port, ["-P"]
    until(lambda: not bench.ports.free(port))
    done = subprocess.run([tools + "/load", *plain, str(target), "bulk", str(mib * MIB)], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=250 * SLOW)
    assert done.returncode == 0, done.stdout
    size = mib * MIB + 100  # the helper echoes 100 bytes first
    server.wait_log(rf"Connection closed: {size} byte\(s\) sent to TLS, {size} byte\(s\) sent to socket")


@pytest.mark.slow
@pytest.mark.san
def test_full_duplex_while_keys_change(bench, tools):
    """32 MiB each way in pieces of random size, with a KeyUpdate of either side every hundred pieces."""
    port = bench.ports()
    bench.run([tools + "/echo", str(port)])
    until(lambda: not bench.ports.free(port))
    proxy = bench.tls_server(backend=port)
    done = subprocess.run([tools + "/load", "-k", str(proxy.port), "bulk", str(32 * MIB)], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=100 * SLOW)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.san
def test_full_duplex_while_reloading(bench, tools):
    """A transfer is not disturbed by reloads."""
    port = bench.ports()
    bench.run([tools + "/echo", str(port)])
    until(lambda: not bench.ports.free(port))
    proxy = bench.tls_server(backend=port)
    load = bench.run([tools + "/load", str(proxy.port), "bulk", str(256 * MIB if SLOW == 1 else 32 * MIB)], stdout=subprocess.PIPE)
    for _ in range(8):
        assert proxy.hup()
    out, _ = load.communicate(timeout=200 * SLOW)
    assert load.returncode == 0, out


@pytest.mark.san
def test_download_then_close_delivers_everything(bench):
    data = pattern(3 * MIB)
    proxy = bench.tls_server(backend=bench.server(source(data)))
    client = bench.client(proxy.port, rcvbuf=4096)
    assert client.recv_all() == data
    assert client.ended == CLOSE_NOTIFY


@pytest.mark.san
def test_upload_then_close_delivers_everything(bench):
    data = pattern(3 * MIB)
    proxy = bench.tls_server(backend=bench.server(collect))
    client = bench.client(proxy.port)
    client.send(data)
    assert client.bye() == b""
    assert proxy.backend.result() == (data, EOF)


@pytest.mark.san
@pytest.mark.parametrize("size", [5, 168 * 1024])
def test_client_half_close_then_response(bench, size):
    """close_notify from the client; only then does the backend answer."""
    answer = pattern(size)

    def handler(sock, _server):
        request, end = read_all(sock)
        sock.sendall(answer)
        return request, end

    proxy = bench.tls_server(backend=bench.server(handler))
    client = bench.client(proxy.port)
    client.send(b"question")
    client.close_notify()
    assert client.recv_all() == answer
    assert client.ended == CLOSE_NOTIFY
    assert proxy.backend.result() == (b"question", EOF)


@pytest.mark.san
@pytest.mark.parametrize("size", [5, 168 * 1024])
def test_backend_half_close_then_upload(bench, size):
    """The backend ends its direction first and still gets everything."""
    data = pattern(size)
    proxy = bench.tls_server(backend=bench.server(source(b"hello")))
    client = bench.client(proxy.port)
    assert client.recv_all() == b"hello"
    assert client.ended == CLOSE_NOTIFY
    client.send(data)
    client.close_notify()
    assert proxy.backend.result() == (data, EOF)


@pytest.mark.san
@pytest.mark.parametrize("first", ["plain", "tls"])
def test_half_close_through_a_pair(bench, first):
    """A client section and a server section in a row carry half-closes like a wire."""
    answer = pattern(168 * 1024)

    def handler(sock, _server):
        if first == "tls":
            sock.sendall(answer)
            sock.shutdown(socket.SHUT_WR)
            return read_all(sock)
        got = read_all(sock)
        sock.sendall(answer)
        return got

    server = bench.tls_server(backend=bench.server(handler))
    pair = bench.tls_client(server.port)
    with connect(pair.port) as sock:
        if first == "plain":
            sock.sendall(b"question")
            sock.shutdown(socket.SHUT_WR)
            assert read_all(sock) == (answer, EOF)
        else:
            assert read_all(sock) == (answer, EOF)
            sock.sendall(b"question")
            sock.shutdown(socket.SHUT_WR)
        assert server.backend.result() == (b"question", EOF)


@pytest.mark.san
def test_end_without_close_notify_is_an_orderly_end(bench):
    """FIN without close_notify, nothing waiting for the client: the backend sees EOF and all the data."""
    proxy = bench.tls_server(backend=bench.server(collect))
    client = bench.client(proxy.port)
    client.send(b"data")
    client.shut()
    assert proxy.backend.result() == (b"data", EOF)
    assert proxy.wait_log(r"LOG6\[0\]: TLS socket closed")


@pytest.mark.san
def test_end_inside_a_record(bench):
    """The stream ends within a TLS record: the whole records before it arrive, the torn one does not."""
    proxy = bench.tls_server(backend=bench.server(collect))
    client = bench.client(proxy.port)
    client.send(b"whole")
    client.tls.write(b"torn" * 100)
    client.sock.sendall(client.flight()[:-50])
    client.shut()
    data, _ = proxy.backend.result()
    assert data == b"whole"


@pytest.mark.san
def test_tls_side_reset_with_nothing_unsent_is_an_end(bench):
    """Reading takes the error off the socket; with nothing waiting for the client the backend sees an orderly end."""
    proxy = bench.tls_server(backend=bench.server(collect))
    client = bench.client(proxy.port)
    client.send(b"data")
    proxy.wait_log("connected remote server")
    time.sleep(0.2)
    client.abort()
    assert proxy.backend.result() == (b"data", EOF)
    proxy.wait_log(r"Connection closed: 0 byte\(s\) sent to TLS, 4 byte\(s\) sent to socket")


@pytest.mark.san
@pytest.mark.parametrize("option, word", [("", "reset"), ("reset = no", "closed")])
def test_tls_side_reset_with_data_unsent(bench, option, word):
    """The client resets in the middle of a download: the backend is told."""
    def pour(sock, _server):
        block = b"x" * 65536
        try:
            while True:
                sock.sendall(block)
        except ConnectionResetError:
            return RESET
        except BrokenPipeError:
            return "pipe"

    proxy = bench.tls_server(option, backend=bench.server(pour))
    client = bench.client(proxy.port)
    client.recv_exactly(MIB)
    client.abort()
    # Unread data in the proxy's socket makes the kernel send a reset at close, whatever the proxy wants.
    assert proxy.backend.result() in (RESET, "pipe")
    proxy.wait_log(rf"Connection {word}: \d+ byte\(s\) sent to TLS, 0 byte\(s\) sent to socket")


@pytest.mark.san
@pytest.mark.slow
@pytest.mark.parametrize("option, end", [("", RESET), ("reset = no", EOF)])
def test_error_is_passed_on_as_a_reset(bench, option, end):
    """TIMEOUTidle is an error: both sides get a reset, with reset = no an ordinary end."""
    proxy = bench.tls_server(f"TIMEOUTidle = 1\n{option}", backend=bench.server(collect))
    client = bench.client(proxy.port)
    client.send(b"data")
    assert proxy.backend.result() == (b"data", end)
    client.recv_all()
    assert (client.ended == RESET) == (end == RESET)


@pytest.mark.san
def test_plain_side_reset(bench):
    """A reset of the backend is noticed and logged; the data before it arrives and the client's stream ends."""
    def handler(sock, server):
        sock.sendall(b"before")
        assert sock.recv(4) == b"now!"
        abort(sock)

    proxy = bench.tls_server(backend=bench.server(handler))
    client = bench.client(proxy.port)
    assert client.recv_exactly(6) == b"before"
    client.send(b"now!")
    assert client.recv_all() == b""
    assert proxy.wait_log(r"Connection reset by peer \(104\)")


@pytest.mark.san
def test_killed_backend_in_mid_transfer(bench):
    """kill -9 of the backend's process while it sends: that connection ends, the next one is served."""
    port = bench.ports()
    program = ("import socket\ns = socket.create_server(('127.0.0.1', %d))\nc, _ = s.accept()\n"
               "while True: c.sendall(b'x' * 65536)\n" % port)
    child = bench.run(["/usr/bin/python3", "-c", program])
    until(lambda: not bench.ports.free(port))
    proxy = bench.tls_server(backend=port)
    client = bench.client(proxy.port)
    client.recv_exactly(MIB)
    child.kill()
    child.wait()
    client.recv_all()
    assert client.ended
    client.close()
    bench.server(echo, address=port)
    bench.client(proxy.port).ping()


@pytest.mark.san
def test_backend_down(bench):
    """Nobody listens: the client's connection ends, the log says why, the next one works once somebody listens."""
    port = bench.ports()
    proxy = bench.tls_server(backend=port)
    client = bench.client(proxy.port)
    assert client.recv_all() == b""
    assert proxy.wait_log(rf"LOG3\[0\]: s_connect: connect 127\.0\.0\.1:{port}: Connection refused \(111\)")
    assert proxy.wait_log(r"LOG3\[0\]: No more addresses to connect")
    bench.server(echo, address=port)
    bench.client(proxy.port).ping()


@pytest.mark.san
def test_backend_that_reads_slowly_gets_everything(bench):
    data = pattern(2 * MIB)

    def slow(sock, _server):
        got = []
        while True:
            part = sock.recv(20000)
            if not part:
                return b"".join(got)
            got.append(part)
            threading.Event().wait(0.002)

    proxy = bench.tls_server(backend=bench.server(slow))
    client = bench.client(proxy.port)
    client.send(data)
    client.close_notify()
    assert proxy.backend.result() == data


@pytest.mark.slow
@pytest.mark.serial
@pytest.mark.parametrize("stalled", ["client", "backend"])
def test_stalled_reader_holds_the_other_side_up(bench, stalled):
    """Back-pressure: 20 peers that do not read cost the proxy no more memory than its buffers."""
    size = 64 * MIB
    count = 20

    def pour(sock, server):
        block = b"x" * 65536
        try:
            for _ in range(size // len(block)):
                sock.sendall(block)
        except OSError:
            pass

    def wait(sock, server):
        server.released.wait(300)

    backend = bench.server(pour if stalled == "client" else wait)
    proxy = bench.tls_server(backend=backend)
    before = proxy.rss_kib()
    clients = [bench.client(proxy.port) for _ in range(count)]
    if stalled == "backend":
        for client in clients:
            client.settimeout(1)
            threading.Thread(target=swallow, args=(lambda c=client: c.send(b"x" * size),), daemon=True).start()
    until(lambda: backend.accepted == count)
    last = -1
    for _ in range(50):
        # Until the buffers of the kernel are full and nothing moves.
        threading.Event().wait(0.5)
        now = sum(int(line.split()[4].split(":")[0], 16) for line in open("/proc/net/tcp").readlines()[1:])
        if now == last:
            break
        last = now
    grown = proxy.rss_kib() - before
    # 128 KB stacks and two buffers each is what stunnel takes; 64 MiB each would show.
    assert grown < count * 512 + 8192, f"{grown} KiB more for {count} stalled connections"


def swallow(call):
    try:
        call()
    except (OSError, ValueError):
        pass


@pytest.mark.san
def test_fast_side_is_not_lost_when_the_client_reads_late(bench):
    data = pattern(4 * MIB)
    proxy = bench.tls_server(backend=bench.server(respond(data)))
    client = bench.client(proxy.port, rcvbuf=4096)
    client.send(b"go")
    threading.Event().wait(1.0)
    assert client.recv_all() == data


def test_many_connections_after_another_leave_nothing(bench):
    proxy = bench.tls_server()
    for i in range(200):
        client = bench.client(proxy.port)
        client.ping()
        if i % 3 == 0:
            client.abort()
        elif i % 3 == 1:
            client.close()
        else:
            client.bye()
    proxy.wait_idle()
    proxy.wait_log(r"Service \[s\] accepted connection", 200)
