# Where connections go: address forms, several addresses, look-ups, source addresses, Unix sockets, limits of time.
# SPDX-License-Identifier: Apache-2.0
import os
import re
import socket
import stat
import subprocess
import time

import pytest

from peers import TIMEOUT, collect, connect, echo, name, read_all, read_exactly, server_context
from proxy import IS_STUNNEL, until


def said(bench, port, size=1):
    """What the backend behind the proxy calls itself."""
    client = bench.client(port)
    data = client.recv_exactly(size)
    client.close_notify()
    client.recv_all()
    client.close()
    return data.decode()


def two_backends(bench):
    return bench.server(name("A")), bench.server(name("B"))


def connects(*servers):
    return "\n".join(f"connect = 127.0.0.1:{server if isinstance(server, int) else server.port}" for server in servers)


# --- failover ---


@pytest.mark.san
@pytest.mark.parametrize("option", ["", "failover = prio"])
def test_prio_takes_the_first_that_answers(bench, option):
    a, b = two_backends(bench)
    port = bench.ports()
    proxy = bench.proxy(f"[s]\naccept = 127.0.0.1:{port}\n{connects(bench.ports(), a, b)}\ncert = {bench.pki.ec_pem}\n{option}\n")
    assert [said(bench, port) for _ in range(4)] == ["A"] * 4
    assert proxy.wait_log(r"LOG3\[0\]: s_connect: connect 127\.0\.0\.1:\d+: Connection refused \(111\)")
    a.close()
    assert [said(bench, port) for _ in range(2)] == ["B"] * 2


@pytest.mark.san
def test_round_robin_takes_turns(bench):
    a, b = two_backends(bench)
    port = bench.ports()
    bench.proxy(f"[s]\naccept = 127.0.0.1:{port}\n{connects(a, b)}\ncert = {bench.pki.ec_pem}\nfailover = rr\n"
                "sessionResume = no\n")
    got = "".join(said(bench, port) for _ in range(12))
    # With several workers each takes turns of its own: shares, not a strict alternation.
    assert 2 <= got.count("A") <= 10, got
    a.close()
    assert {said(bench, port) for _ in range(4)} == {"B"}


@pytest.mark.san
def test_all_backends_down(bench):
    port = bench.ports()
    proxy = bench.proxy(f"[s]\naccept = 127.0.0.1:{port}\n{connects(bench.ports(), bench.ports())}\ncert = {bench.pki.ec_pem}\n")
    client = bench.client(port)
    assert client.recv_all() == b""
    proxy.wait_log("Connection refused", 2)
    proxy.wait_log("LOG3.*No more addresses to connect")


@pytest.mark.san
def test_one_backend_of_a_name_with_two_addresses(bench):
    """localhost is ::1 and 127.0.0.1: the one that listens is found."""
    backend = bench.server(echo)
    port = bench.ports()
    bench.proxy(f"[s]\naccept = 127.0.0.1:{port}\nconnect = localhost:{backend.port}\ncert = {bench.pki.ec_pem}\n")
    bench.client(port).ping()


# --- names ---


@pytest.mark.san
@pytest.mark.parametrize("option", ["", "delay = yes"])
def test_a_name_that_does_not_exist(bench, option):
    """The proxy starts all the same and says so; the connection ends, others are served."""
    port, good, backend = bench.ports(), bench.ports(), bench.server(echo)
    proxy = bench.proxy(f"cert = {bench.pki.ec_pem}\n[s]\naccept = 127.0.0.1:{port}\nconnect = no-such-host.invalid:1\n{option}\n"
                        f"[good]\naccept = 127.0.0.1:{good}\nconnect = 127.0.0.1:{backend.port}\n")
    if not option:
        proxy.wait_log("Cannot resolve connect target - delaying DNS lookup")
    waiting = bench.client(port, handshake=False)
    try:
        waiting.handshake()
        assert waiting.recv_all() == b""
    except OSError:
        pass
    bench.client(good).ping()
    proxy.wait_log("No remote host resolved|No more addresses to connect|no-such-host", timeout=40)


@pytest.mark.san
def test_delayed_lookup(bench):
    proxy = bench.tls_server("delay = yes")
    bench.client(proxy.port).ping().bye()
    bench.client(proxy.port).ping()


def test_a_delayed_lookup_that_fails_says_of_which_name(bench):
    """The other one is tried."""
    proxy = bench.tls_server("delay = yes\nconnect = no-such-host.invalid:1")
    bench.client(proxy.port).ping()
    proxy.wait_log(r'LOG3\[0\]: Error resolving "no-such-host\.invalid:1": ')



@pytest.mark.parametrize("target", ["no-such-host.invalid:443", "127.0.0.1:no-such-service"])
def test_accept_that_cannot_be_resolved(bench, target):
    said = bench.refused(f"[s]\naccept = {target}\nconnect = 127.0.0.1:1\ncert = {bench.pki.ec_pem}\n")
    assert re.search(r"(?s)\[!\].*Cannot resolve accept target.*\[!\] Configuration failed", said)


def test_accept_address_in_use(bench):
    taken = bench.server(echo)
    said = bench.refused(f"[s]\naccept = 127.0.0.1:{taken.port}\nconnect = 127.0.0.1:1\ncert = {bench.pki.ec_pem}\n")
    assert re.search(rf"(?s)Binding service \[s\] to 127\.0\.0\.1:{taken.port}: Address already in use \(98\)"
                     r".*Binding service \[s\] failed", said)


# --- address forms ---


@pytest.mark.san
@pytest.mark.parametrize("accept, host", [
    ("{}", "127.0.0.1"), ("127.0.0.1:{}", "127.0.0.1"), ("localhost:{}", "127.0.0.1"), ("::1:{}", "::1"), (":::{}", "::1"),
    ("*:{}", "127.0.0.1"), ("0.0.0.0:{}", "127.0.0.1"),
    pytest.param("[::1]:{}", "::1", marks=pytest.mark.ours), pytest.param("[::]:{}", "127.0.0.1", marks=pytest.mark.ours)])
def test_accept_forms(bench, accept, host):
    backend, port = bench.server(echo), bench.ports()
    bench.proxy(f"[s]\naccept = {accept.format(port)}\nconnect = 127.0.0.1:{backend.port}\ncert = {bench.pki.ec_pem}\n")
    bench.client((host, port)).ping()


@pytest.mark.san
@pytest.mark.parametrize("target, host", [
    ("{}", "127.0.0.1"), ("{}", "::1"), ("localhost:{}", "127.0.0.1"), ("::1:{}", "::1"),
    pytest.param("[::1]:{}", "::1", marks=pytest.mark.ours)])
def test_connect_forms(bench, target, host):
    port, accept = bench.ports(), bench.ports()
    bench.server(echo, address=(port, host))
    bench.proxy(f"[s]\naccept = 127.0.0.1:{accept}\nconnect = {target.format(port)}\ncert = {bench.pki.ec_pem}\n")
    bench.client(accept).ping()


@pytest.mark.san
def test_several_accepts_in_a_section(bench):
    a, b, backend = bench.ports(), bench.ports(), bench.server(echo)
    bench.proxy(f"[s]\naccept = 127.0.0.1:{a}\naccept = 127.0.0.1:{b}\nconnect = 127.0.0.1:{backend.port}\n"
                f"cert = {bench.pki.ec_pem}\n")
    bench.client(a).ping()
    bench.client(b).ping()


@pytest.mark.san
def test_unix_sockets_on_both_sides(bench, tmp_path):
    path, front = str(tmp_path / "back.sock"), str(tmp_path / "front.sock")
    bench.server(echo, address=path)
    proxy = bench.proxy(f"[s]\naccept = {front}\nconnect = {path}\ncert = {bench.pki.ec_pem}\n")
    assert stat.S_ISSOCK(os.stat(front).st_mode)
    bench.client(front).ping().bye()
    proxy.wait_log(r"LOG5\[0\]: Service \[s\] accepted connection from unnamed socket")
    proxy.stop()
    assert not os.path.exists(front), "the socket is unlinked at the end"


@pytest.mark.san
def test_unix_socket_in_client_mode(bench, tmp_path):
    path, front = str(tmp_path / "back.sock"), str(tmp_path / "front.sock")
    bench.server(echo, address=path, context=server_context(bench.pki.ec_pem))
    bench.proxy(f"[c]\nclient = yes\naccept = {front}\nconnect = {path}\n")
    with connect(front) as sock:
        sock.sendall(b"ping")
        assert read_exactly(sock, 4) == b"ping"


def test_unix_socket_that_is_in_use_is_not_taken_over(bench, tmp_path):
    path = str(tmp_path / "used.sock")
    bench.server(echo, address=path)
    said = bench.refused(f"[s]\naccept = {path}\nconnect = 127.0.0.1:1\ncert = {bench.pki.ec_pem}\n")
    assert "Address already in use (98)" in said
    with connect(path) as sock:
        sock.sendall(b"ping")
        assert read_exactly(sock, 4) == b"ping"


@pytest.mark.ours
@pytest.mark.san
def test_stale_unix_socket_is_replaced(bench, tmp_path):
    """A name that a killed process left behind: nobody answers there. (stunnel does not start.)"""
    path = str(tmp_path / "stale.sock")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
    backend = bench.server(echo)
    bench.proxy(f"[s]\naccept = {path}\nconnect = 127.0.0.1:{backend.port}\ncert = {bench.pki.ec_pem}\n")
    bench.client(path).ping()


@pytest.mark.san
def test_a_file_in_place_of_a_unix_socket_is_not_touched(bench, tmp_path):
    path = tmp_path / "file"
    path.write_text("precious")
    said = bench.refused(f"[s]\naccept = {path}\nconnect = 127.0.0.1:1\ncert = {bench.pki.ec_pem}\n")
    assert "Address already in use (98)" in said
    assert path.read_text() == "precious"


@pytest.mark.ours
@pytest.mark.san
def test_abstract_sockets_on_both_sides(bench):
    mark = f"tlsplice-{os.getpid()}-{time.monotonic_ns()}"
    bench.server(echo, address="@" + mark + "-back")
    bench.proxy(f"[s]\naccept = @{mark}-front\nconnect = @{mark}-back\ncert = {bench.pki.ec_pem}\n")

    def ready():
        with open("/proc/net/unix") as table:
            return f"@{mark}-front" in table.read()
    until(ready)
    bench.client("@" + mark + "-front").ping()


# --- source address and socket options ---


@pytest.mark.san
def test_local_source_address(bench):
    proxy = bench.tls_server("local = 127.0.0.77")
    bench.client(proxy.port).ping()
    assert proxy.backend.peer[0] == "127.0.0.77"
    proxy.wait_log(r"Service \[s\] connected remote server from 127\.0\.0\.77:\d+")


@pytest.mark.san
def test_local_of_another_family_is_not_fatal(bench):
    """`connect` has both families, `local` one: the address that fits is used."""
    port, accept = bench.ports(), bench.ports()
    backend = bench.server(echo, address=port)
    bench.proxy(f"[s]\naccept = 127.0.0.1:{accept}\nconnect = ::1:{port}\nconnect = 127.0.0.1:{port}\nlocal = 127.0.0.78\n"
                f"cert = {bench.pki.ec_pem}\n")
    bench.client(accept).ping()
    assert backend.peer[0] == "127.0.0.78"


@pytest.mark.san
def test_local_address_that_is_not_ours(bench):
    proxy = bench.tls_server("local = 203.0.113.1")
    client = bench.client(proxy.port)
    assert client.recv_all() == b""
    proxy.wait_log(r"Cannot assign requested address \(99\)")


@pytest.mark.san
def test_socket_options_are_set(bench):
    proxy = bench.tls_server("socket = l:SO_KEEPALIVE=yes\nsocket = r:SO_KEEPALIVE=1\nsocket = r:TCP_KEEPIDLE=77\n"
                             "socket = r:IP_TTL=42\nsocket = a:SO_RCVBUF=100000\nsocket = l:TCP_NODELAY=no")
    bench.client(proxy.port).ping()

    def check():
        # ss(8) shows one timer at a time, and that may be a retransmission's.
        found = sockets_of(proxy.port, proxy.backend.port)
        return found if found["remote"]["keepalive"] and found["local"]["keepalive"] else None

    found = until(check, what="keepalive timers")
    assert found["remote"]["keepalive_s"] in range(60, 78), found
    if not IS_STUNNEL:
        assert found["local"]["rcvbuf"] == 200000, found  # the kernel doubles it; accepted sockets inherit it


def sockets_of(front, back):
    """What ss(8) shows of the proxy's two sockets."""
    out = subprocess.run(["ss", "-tnomiH"], stdout=subprocess.PIPE, text=True, check=True).stdout
    found = {}
    for first, rest in re.findall(r"(?m)^(ESTAB.*)\n\s+(.*)$", out):
        local, remote = first.split()[3:5]
        key = "local" if local.endswith(f":{front}") else "remote" if remote.endswith(f":{back}") else None
        if key:
            timer = re.search(r"timer:\(keepalive,(?:(\d+)min)?(?:([\d.]+)sec)?", first)
            found[key] = {"keepalive": bool(timer),
                          "keepalive_s": int(timer.group(1) or 0) * 60 + int(float(timer.group(2) or 0)) if timer else 0,
                          "rcvbuf": int(re.search(r"rb(\d+)", rest).group(1))}
    return found


@pytest.mark.san
def test_socket_option_that_fails_is_a_warning(bench):
    proxy = bench.tls_server("socket = r:SO_BINDTODEVICE=nosuchdev0")
    client = bench.client(proxy.port)
    client.ping()
    proxy.wait_log("SO_BINDTODEVICE")


# --- time-outs ---


def silent(sock, server):
    server.released.wait(300)


@pytest.mark.san
@pytest.mark.slow
def test_timeout_busy_stalled_handshake(bench):
    """Nothing comes after the TCP connection: TIMEOUTbusy ends it, and others are served meanwhile."""
    proxy = bench.tls_server("TIMEOUTbusy = 2")
    stalled = bench.client(proxy.port, handshake=False)
    bench.client(proxy.port).ping().bye()
    assert read_raw(stalled)[0] == b""
    proxy.wait_log(r"TIMEOUTbusy exceeded", timeout=20)


def read_raw(client):
    client.sock.settimeout(TIMEOUT)
    return read_all(client.sock)


@pytest.mark.ours
@pytest.mark.san
@pytest.mark.slow
def test_timeout_busy_is_a_total_deadline(bench):
    """A handshake that drips in, 1 byte each half second, ends after TIMEOUTbusy and not with the last byte."""
    proxy = bench.tls_server("TIMEOUTbusy = 3")
    client = bench.client(proxy.port, handshake=False)
    try:
        client.tls.do_handshake()
    except OSError:
        pass
    hello = client.flight()
    sent = 0
    try:
        for byte in hello[:-1]:
            client.sock.sendall(bytes([byte]))
            sent += 1
            time.sleep(0.5)
            if proxy.lines("TIMEOUTbusy exceeded"):
                break
    except OSError:
        pass
    assert sent < len(hello) - 1, "the drip was never stopped"
    proxy.wait_log("TIMEOUTbusy exceeded")
    bench.client(proxy.port).ping()


@pytest.mark.san
@pytest.mark.slow
def test_timeout_busy_in_client_mode(bench):
    """The upstream accepts the connection and never speaks TLS."""
    backend = bench.server(silent)
    proxy = bench.tls_client(backend.port, "TIMEOUTbusy = 2")
    with connect(proxy.port) as sock:
        assert read_all(sock)[0] == b""
    proxy.wait_log("TIMEOUTbusy exceeded")


@pytest.mark.san
@pytest.mark.slow
def test_timeout_connect_goes_on_to_the_next_address(bench):
    """The first backend's queue is full and drops connection requests: after TIMEOUTconnect the second is taken."""
    full = bench.keep(socket.socket())
    full.bind(("127.0.0.1", bench.ports()))
    full.listen(0)
    for _ in range(4):
        sock = bench.keep(socket.socket())
        sock.setblocking(False)
        sock.connect_ex(full.getsockname())
    backend = bench.server(echo)
    accept = bench.ports()
    proxy = bench.proxy(f"[s]\naccept = 127.0.0.1:{accept}\n{connects(full.getsockname()[1], backend)}\n"
                        f"cert = {bench.pki.ec_pem}\nTIMEOUTconnect = 2\n")
    bench.client(accept).ping()
    proxy.wait_log(rf"LOG3\[0\]: s_connect: s_poll_wait 127\.0\.0\.1:{full.getsockname()[1]}: TIMEOUTconnect exceeded")


@pytest.mark.san
@pytest.mark.slow
def test_timeout_idle_resets(bench):
    proxy = bench.tls_server("TIMEOUTidle = 2", backend=bench.server(collect))
    client = bench.client(proxy.port)
    client.send(b"once")
    client.recv_all()
    proxy.wait_log("TIMEOUTidle exceeded: sending reset")
    proxy.wait_log("Connection reset: 0 byte.*4 byte")


@pytest.mark.san
@pytest.mark.slow
def test_timeout_idle_is_moved_by_traffic(bench):
    proxy = bench.tls_server("TIMEOUTidle = 3")
    client = bench.client(proxy.port)
    for _ in range(10):
        client.ping()
        time.sleep(0.5)
    client.ping()
    assert client.bye() == b""
    assert not proxy.lines("TIMEOUTidle exceeded")


@pytest.mark.san
@pytest.mark.slow
def test_timeout_close_ends_a_client_that_never_says_goodbye(bench):
    """The backend is done and the client got its close_notify, but answers nothing: TIMEOUTclose ends it."""
    def short(sock, _server):
        sock.sendall(b"bye")

    proxy = bench.tls_server("TIMEOUTclose = 2", backend=bench.server(short))
    client = bench.client(proxy.port)
    assert client.recv_exactly(3) == b"bye"
    proxy.wait_log("LOG3.*TIMEOUTclose exceeded: closing", timeout=20)
    proxy.wait_idle()


@pytest.mark.san
def test_timeout_close_zero(bench):
    """0 = does not wait for the client's close_notify."""
    def short(sock, _server):
        sock.sendall(b"bye")

    proxy = bench.tls_server("TIMEOUTclose = 0", backend=bench.server(short))
    client = bench.client(proxy.port)
    assert client.recv_exactly(3) == b"bye"
    assert client.recv_all() == b""
    proxy.wait_log("TIMEOUTclose exceeded: closing")
    proxy.wait_idle()
