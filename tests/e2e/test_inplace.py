# The record engine inplace, to which OpenSSL hands connections over: with real programs, in both roles. The counter
# tlsplice_connections_promoted_total says which engine has a connection.
# SPDX-License-Identifier: Apache-2.0
import hashlib
import os
import re
import ssl
import subprocess
import threading
import time

import pytest

from peers import (CLOSE_NOTIFY, EOF, RESET, client_context, collect, connect, echo, pattern, pump_both, read_all,
                   read_exactly, server_context)
from proxy import EXTRA, SLOW, until
from test_admin import fetch, metric

pytestmark = pytest.mark.ours

MIB = 1 << 20
# Then a connection is handed over at its first byte, and whatever `inplace` says.
AT_ONCE = "ktlsAfter = 0" in EXTRA
V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3

SUITES = [
    ("TLSv1.3", "TLS_AES_128_GCM_SHA256"), ("TLSv1.3", "TLS_AES_256_GCM_SHA384"), ("TLSv1.3", "TLS_CHACHA20_POLY1305_SHA256"),
    ("TLSv1.2", "ECDHE-ECDSA-AES128-GCM-SHA256"), ("TLSv1.2", "ECDHE-ECDSA-AES256-GCM-SHA384"),
    ("TLSv1.2", "ECDHE-ECDSA-CHACHA20-POLY1305")]
SUITE = pytest.mark.parametrize("version, suite", SUITES)


def only(version, suite):
    return f"sslVersion = {version}\n" + (f"ciphersuites = {suite}" if version == "TLSv1.3" else f"ciphers = {suite}")


def counted(bench, make, *args, **options):
    """A proxy whose metrics can be asked for."""
    admin = bench.ports()
    proxy = make(*args, head=f"admin = 127.0.0.1:{admin}", **options)
    proxy.admin = admin
    until(lambda: not bench.ports.free(admin))
    return proxy


def promoted(proxy):
    return metric(fetch(proxy.admin, "/metrics")[2], "tlsplice_connections_promoted_total")


def wait_promoted(proxy, count=1):
    until(lambda: promoted(proxy) >= count, 20, f"{count} connections handed over")
    assert promoted(proxy) == count


# A client leaves the right to another handshake to the server unless told otherwise, and TLS 1.2 with OpenSSL then.
CLIENT = "renegotiation = no\n"


# --- every suite ---


@pytest.mark.slow
@pytest.mark.serial
@SUITE
@pytest.mark.parametrize("mode", ["server", "pair"])
def test_bulk_with_checksums(bench, tools, mode, version, suite):
    """64 MiB each way at once, each byte compared with what its place in the stream says; in the pair both ends are ours."""
    port = bench.ports()
    bench.run([tools + "/echo", str(port)])
    until(lambda: not bench.ports.free(port))
    server = counted(bench, bench.tls_server, only(version, suite), backend=port)
    proxies, plain, target = [server], [], server.port
    if mode == "pair":
        client = counted(bench, bench.tls_client, server.port, CLIENT)
        proxies, plain, target = [server, client], ["-P"], client.port
    done = subprocess.run([tools + "/load", *plain, str(target), "bulk", str(64 * MIB)], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=250 * SLOW)
    assert done.returncode == 0, done.stdout
    server.wait_log(rf"{re.escape(version)} ciphersuite: {suite}")
    for proxy in proxies:
        wait_promoted(proxy)


@pytest.mark.san
@SUITE
@pytest.mark.parametrize("mode", ["server", "client"])
def test_every_suite_in_both_roles(bench, pki, mode, version, suite):
    """OpenSSL at the other end, by way of Python."""
    data = pattern(3 * MIB)
    if mode == "server":
        proxy = counted(bench, bench.tls_server, only(version, suite))
        client = bench.client(proxy.port)
        assert pump_both(client, data) == data
        wait_promoted(proxy)
        client.ping()
        assert client.bye() == b""
        assert client.ended == CLOSE_NOTIFY
    else:
        backend = bench.server(echo, context=server_context(pki.ec_pem))
        proxy = counted(bench, bench.tls_client, backend.port, CLIENT + only(version, suite))
        with connect(proxy.port) as sock:
            for _ in range(3):
                threading.Thread(target=sock.sendall, args=(data,), daemon=True).start()
                assert read_exactly(sock, len(data)) == data
            wait_promoted(proxy)
    proxy.wait_log(rf"{re.escape(version)} ciphersuite: {suite}")


@pytest.mark.san
@pytest.mark.parametrize("version", ["--tls-max 1.2", "--tlsv1.3"])
def test_curl(bench, tmp_path, need, version):
    """A download and an upload in one connection, compared by checksum."""
    data = pattern(16 * MIB)

    def http(sock, _server):
        got = b""
        while b"\r\n\r\n" not in got:
            got += sock.recv(65536)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
        head = b""
        while b"\r\n\r\n" not in head:
            head += sock.recv(65536)
        head, body = head.split(b"\r\n\r\n", 1)
        if b"100-continue" in head:
            sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        body += read_exactly(sock, len(data) - len(body))
        digest = hashlib.sha256(body).hexdigest().encode()
        sock.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(digest) + digest)

    proxy = counted(bench, bench.tls_server, backend=bench.server(http))
    url, body, answer = f"https://127.0.0.1:{proxy.port}/", tmp_path / "body", tmp_path / "answer"
    body.write_bytes(data)
    subprocess.run([need("curl"), "-sk", "--fail", *version.split(), "-o", str(tmp_path / "got"), url, "--next", "-sk", "--fail",
                    *version.split(), "-T", str(body), "-o", str(answer), url], check=True, timeout=60 * SLOW)
    assert (tmp_path / "got").read_bytes() == data
    assert answer.read_text() == hashlib.sha256(data).hexdigest()
    wait_promoted(proxy)


# --- who is handed over ---


@pytest.mark.san
@pytest.mark.valgrind
@pytest.mark.parametrize("version", [V12, V13])
def test_handed_over_at_rest(bench, version):
    proxy = counted(bench, bench.tls_server)
    client = bench.client(proxy.port, client_context(version=version)).ping()
    assert AT_ONCE or promoted(proxy) == 0
    wait_promoted(proxy)
    for i in range(3):
        client.ping(bytes([i]) * 20000)
    assert client.bye() == b""
    assert client.ended == CLOSE_NOTIFY
    assert proxy.wait_log(r"LOG7\[0\]: TLS alert \(write\): warning: close notify")
    assert proxy.wait_log(r"LOG7\[0\]: TLS alert \(read\): warning: close notify")


@pytest.mark.san
@pytest.mark.valgrind
@pytest.mark.parametrize("version", [V12, V13])
def test_client_mode_handed_over_at_rest(bench, pki, version):
    backend = bench.server(echo, context=server_context(pki.ec_pem, version))
    proxy = counted(bench, bench.tls_client, backend.port, CLIENT)
    with connect(proxy.port) as sock:
        for _ in range(2):
            sock.sendall(b"ping")
            assert read_exactly(sock, 4) == b"ping"
            wait_promoted(proxy)
    assert backend.result() == 8


@pytest.mark.san
def test_client_mode_does_not_wait_for_tickets_that_never_come(bench, pki):
    context = server_context(pki.ec_pem, V13)
    context.num_tickets = 0
    backend = bench.server(echo, context=context)
    proxy = counted(bench, bench.tls_client, backend.port, CLIENT)
    data = pattern(4 * MIB)
    with connect(proxy.port) as sock:
        threading.Thread(target=sock.sendall, args=(data,), daemon=True).start()
        assert read_exactly(sock, len(data)) == data
        assert promoted(proxy) == 1


@pytest.mark.san
@pytest.mark.parametrize("version", [V12, V13])
def test_inplace_no(bench, version):
    proxy = counted(bench, bench.tls_server, "inplace = no")
    client = bench.client(proxy.port, client_context(version=version))
    data = pattern(MIB)
    assert pump_both(client, data) == data
    time.sleep(1.5)
    client.ping()
    assert AT_ONCE or promoted(proxy) == 0
    client.bye()


@pytest.mark.san
@pytest.mark.parametrize("arguments, options", [
    (["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA256"], ""), (["-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-SHA"], ""),
    (["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-CCM8:@SECLEVEL=0"], "ciphers = ALL:@SECLEVEL=0\nsecurityLevel = 0"),
    (["-tls1_3"], "inplace = no"),
    (["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], "sslVersionMin = TLSv1\nciphers = ALL:@SECLEVEL=0\nsecurityLevel = 0"),
    (["-tls1_3"], "config = RecordPadding:1024"), (["-tls1_2"], "options = ALLOW_CLIENT_RENEGOTIATION")])
def test_what_stays_with_openssl(bench, arguments, options):
    proxy = counted(bench, bench.tls_server, options)
    talk = Talk(bench, "s_client", proxy.port, *arguments)
    talk.echo("one")
    talk.echo("a" * 3000)
    for i in range(10):
        talk.echo(f"{i}" * 2000)
    time.sleep(1.5)
    talk.echo("two")
    assert promoted(proxy) == 0
    talk.end()


# --- new keys, other handshakes ---


class Talk:
    """A program that sends what it is told line by line and prints what it gets."""

    def __init__(self, bench, what, port, *arguments, program=None):
        argv = program or ["openssl", what, *(["-connect", f"127.0.0.1:{port}"] if what == "s_client" else ["-accept", str(port)])]
        self.child = bench.run([*argv, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.text = b""

    def say(self, line):
        self.child.stdin.write(line.encode() + b"\n")
        self.child.stdin.flush()

    def hear(self, wanted):
        wanted = wanted.encode()
        while wanted not in self.text:
            part = os.read(self.child.stdout.fileno(), 65536)
            assert part, f"ended before {wanted!r}: {self.text[-2000:]!r}"
            self.text += part
        self.text = self.text.split(wanted, 1)[1]

    def echo(self, line):
        self.say(line)
        self.hear(line)

    def end(self):
        self.child.stdin.close()
        self.child.kill()
        self.child.wait()


@pytest.mark.san
@pytest.mark.valgrind
@pytest.mark.parametrize("version, suite", SUITES[:3])
def test_key_updates_of_s_client(bench, version, suite):
    """K asks us for new keys too, k does not."""
    proxy = counted(bench, bench.tls_server, only(version, suite))
    talk = Talk(bench, "s_client", proxy.port)
    talk.echo("before")
    wait_promoted(proxy)
    for i in range(10):
        talk.say("K" if i % 2 else "k")
        talk.hear("KEYUPDATE")
        talk.echo(f"after key update {i}")
        talk.echo(f"{i}" * 3000)
    talk.end()


@pytest.mark.san
def test_key_updates_of_s_server(bench, pki):
    port = bench.ports()
    server = Talk(bench, "s_server", port, "-cert", pki.ec, "-key", pki.ec_key, "-tls1_3")
    until(lambda: not bench.ports.free(port))
    proxy = counted(bench, bench.tls_client, port)
    with connect(proxy.port) as sock:
        sock.sendall(b"before\n")
        server.hear("before")
        wait_promoted(proxy)
        for i in range(10):
            server.say("K" if i % 2 else "k")
            sock.sendall(b"to the server %d\n" % i)
            server.hear(f"to the server {i}")
            server.say(f"to the client {i}")
            line = f"to the client {i}\n".encode()
            assert read_exactly(sock, len(line)) == line
    server.end()


@pytest.mark.san
@pytest.mark.parametrize("priority", ["NORMAL:-VERS-ALL:+VERS-TLS1.3", "NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+CHACHA20-POLY1305"])
def test_key_updates_of_gnutls(bench, need, priority):
    """^rekey1^: its keys alone, ^rekey^: ours too."""
    proxy = counted(bench, bench.tls_server)
    talk = Talk(bench, None, 0, program=[need("gnutls-cli"), "--insecure", "--inline-commands", "--priority", priority,
                                         "-p", str(proxy.port), "127.0.0.1"])
    talk.echo("before")
    wait_promoted(proxy)
    for i in range(6):
        talk.say("^rekey^" if i % 2 else "^rekey1^")
        talk.echo(f"after key update {i}")
        talk.echo(f"{i}" * 3000)
    talk.end()


@pytest.mark.san
@pytest.mark.parametrize("peer", ["gnutls", "padding"])
def test_records_of_other_peers(bench, need, peer):
    """GnuTLS, and an OpenSSL that pads, before the hand-over and after it."""
    proxy = counted(bench, bench.tls_server)
    program = ([need("gnutls-cli"), "--insecure", "-p", str(proxy.port), "127.0.0.1"] if peer == "gnutls"
               else ["openssl", "s_client", "-connect", f"127.0.0.1:{proxy.port}", "-record_padding", "512"])
    talk = Talk(bench, None, 0, program=program)
    for turn in range(2):
        for size in (1, 100, 1000, 4000):
            talk.echo(f"{turn}" * size)
        wait_promoted(proxy)
    talk.end()


@pytest.mark.san
@pytest.mark.parametrize("option, outcome", [("", "refused"), ("renegotiation = no", "aborted")])
def test_another_handshake_in_tls12(bench, need, option, outcome):
    """GnuTLS takes the refusal for what it is and goes on; s_client gives up."""
    proxy = counted(bench, bench.tls_server, option)
    talk = Talk(bench, None, 0, program=[need("gnutls-cli"), "--insecure", "--inline-commands", "--priority",
                                         "NORMAL:-VERS-ALL:+VERS-TLS1.2", "-p", str(proxy.port), "127.0.0.1"])
    talk.echo("before")
    wait_promoted(proxy)
    talk.say("^renegotiate^")
    if outcome == "aborted":
        proxy.wait_log("Aborting due to renegotiation request")
        assert proxy.wait_log(r"Connection reset: 7 byte")
    else:
        proxy.wait_log(r"TLS alert \(write\): warning: no renegotiation")
    talk.end()
    bench.client(proxy.port).ping()


@pytest.mark.san
def test_max_fragment_length(bench):
    """A client that wants records of 512 bytes gets no longer ones."""
    proxy = counted(bench, bench.tls_server)
    talk = Talk(bench, "s_client", proxy.port, "-maxfraglen", "512")
    talk.echo("before")
    wait_promoted(proxy)
    for size in (500, 512, 513, 4000):
        talk.echo("x" * size)
    talk.end()


# --- sessions ---


@pytest.mark.san
@pytest.mark.parametrize("arguments", [["-tls1_3"], ["-tls1_2"], ["-tls1_2", "-no_ticket"]])
def test_sessions_of_the_server(bench, tmp_path, arguments):
    """A session lives on when its connection has been handed over, and a resumed one is handed over too."""
    session = str(tmp_path / "session")
    proxy = counted(bench, bench.tls_server)
    for turn in range(3):
        how = ["-sess_out", session] if turn == 0 else ["-sess_in", session]
        talk = Talk(bench, "s_client", proxy.port, *arguments, *how)
        talk.hear("New, TLS" if turn == 0 else "Reused, TLS")
        talk.echo("before")
        wait_promoted(proxy, turn + 1)
        talk.echo("after")
        talk.say("Q")
        talk.child.wait(20 * SLOW)
    assert len(proxy.wait_log("TLS accepted: previous session reused", 2)) == 2


@pytest.mark.san
@pytest.mark.parametrize("version", [V12, V13])
@pytest.mark.parametrize("at_rest", [True, False])
def test_sessions_of_the_client(bench, pki, version, at_rest):
    backend = bench.server(echo, context=server_context(pki.ec_pem, version))
    proxy = counted(bench, bench.tls_client, backend.port, CLIENT)
    for turn in range(3):
        with connect(proxy.port) as sock:
            data = b"x" * (4 if at_rest else 100000)
            sock.sendall(data)
            assert read_exactly(sock, len(data)) == data
            wait_promoted(proxy, turn + 1)
            sock.sendall(data)
            assert read_exactly(sock, len(data)) == data
        proxy.wait_idle()
    assert len(proxy.wait_log("TLS connected: previous session reused", 2)) == 2


# --- how streams end: the same with both engines ---

ENGINES = pytest.mark.parametrize("option", ["inplace = yes", "inplace = no"])


def settled(bench, option, handler, size=100000):
    """A connection in which so many bytes went each way; it is with the engine that the option says."""
    gone = threading.Event()

    def backend(sock, server):
        sock.sendall(read_exactly(sock, size))
        read_exactly(sock, 2)
        gone.set()
        return handler(sock, server)

    proxy = counted(bench, bench.tls_server, option, backend=bench.server(backend))
    client = bench.client(proxy.port)
    data = pattern(size)
    assert pump_both(client, data) == data
    if option == "inplace = yes":
        wait_promoted(proxy)
    client.send(b"go")
    assert gone.wait(20 * SLOW)
    return proxy, client


@pytest.mark.san
@ENGINES
@pytest.mark.parametrize("size", [5, 3 * MIB])
def test_client_half_close(bench, option, size):
    answer = pattern(size)

    def handler(sock, _server):
        got = read_all(sock)
        sock.sendall(answer)
        return got

    proxy, client = settled(bench, option, handler)
    client.send(b"question")
    client.close_notify()
    assert client.recv_all() == answer
    assert client.ended == CLOSE_NOTIFY
    assert proxy.backend.result() == (b"question", EOF)
    proxy.wait_log(rf"Connection closed: {100000 + size} byte\(s\) sent to TLS, 100010 byte\(s\) sent to socket")


@pytest.mark.san
@ENGINES
@pytest.mark.parametrize("size", [5, 3 * MIB])
def test_backend_half_close(bench, option, size):
    data = pattern(size)

    def handler(sock, _server):
        sock.sendall(b"hello")
        sock.shutdown(1)
        return read_all(sock)

    proxy, client = settled(bench, option, handler)
    assert client.recv_all() == b"hello"
    assert client.ended == CLOSE_NOTIFY
    client.send(data)
    client.close_notify()
    assert proxy.backend.result() == (data, EOF)


@pytest.mark.san
@ENGINES
@pytest.mark.parametrize("cut", [1, 16, 50, 16000, 16400])
def test_end_inside_a_record(bench, option, cut):
    """Whole records arrive, the torn one does not."""
    proxy, client = settled(bench, option, collect)
    client.send(b"whole")
    client.tls.write(b"t" * 16384)
    client.sock.sendall(client.flight()[:-cut])
    client.shut()
    assert proxy.backend.result()[0] == b"whole"


@pytest.mark.san
@ENGINES
def test_end_without_close_notify(bench, option):
    proxy, client = settled(bench, option, collect)
    client.send(b"data")
    client.shut()
    assert proxy.backend.result() == (b"data", EOF)
    proxy.wait_log(r"LOG6\[0\]: TLS socket closed")


@pytest.mark.san
@ENGINES
def test_reset_of_the_client(bench, option):
    proxy, client = settled(bench, option, collect, size=5)
    client.send(b"data")
    time.sleep(0.2)
    client.abort()
    assert proxy.backend.result() == (b"data", EOF)


@pytest.mark.san
@ENGINES
@pytest.mark.parametrize("size", [5, 3 * MIB])
def test_close_of_the_backend_delivers_everything(bench, option, size):
    data = pattern(size)

    def handler(sock, _server):
        sock.sendall(data)

    proxy, client = settled(bench, option, handler)
    assert client.recv_all() == data
    assert client.ended == CLOSE_NOTIFY


@pytest.mark.san
@ENGINES
def test_damaged_record(bench, option):
    """The client hears why, and not a byte of the record is believed."""
    proxy, client = settled(bench, option, collect)
    client.send(b"whole")
    client.tls.write(b"damaged")
    record = bytearray(client.flight())
    record[-1] ^= 1
    client.sock.sendall(record)
    with pytest.raises(ssl.SSLError, match="BAD_RECORD_MAC"):
        client.recv_all()
    data, end = proxy.backend.result()
    assert end == RESET and b"whole".startswith(data)
    assert proxy.wait_log(r"LOG7\[0\]: TLS alert \(write\): fatal: bad record mac")
    assert proxy.wait_log(r"LOG3\[0\]: SSL_read: .*bad record mac.*: client 127\.0\.0\.1:\d+")
    proxy.wait_log(r"Connection reset/closed: 100000 byte\(s\) sent to TLS, 100007 byte\(s\) sent to socket")


@pytest.mark.san
@ENGINES
def test_damaged_record_with_much_behind_it(bench, option):
    """What comes behind it is read until the client has hung up: a RST in the place of our end might destroy the alert."""
    proxy, client = settled(bench, option, collect)
    client.tls.write(b"damaged" * 2000)
    record = bytearray(client.flight())
    record[-1] ^= 1
    client.sock.sendall(record + b"x" * 400000)
    answer, end = read_all(client.sock)
    assert answer and end == EOF
    for _ in range(5):
        client.sock.sendall(b"x")  # fails once a RST has come
        time.sleep(0.02)
    proxy.wait_log(r"LOG7\[0\]: TLS alert \(write\): fatal: bad record mac")
    client.close()
    proxy.wait_idle()


@pytest.mark.san
@ENGINES
def test_plain_text_in_the_middle(bench, option):
    proxy, client = settled(bench, option, collect)
    client.sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    with pytest.raises(ssl.SSLError):
        client.recv_all()
    assert proxy.backend.result() == (b"", RESET)
    proxy.wait_log(r"LOG3\[0\]: SSL_read: ")


# --- memory ---


@pytest.mark.slow
@pytest.mark.serial
@pytest.mark.nosan
@ENGINES
def test_a_record_byte_by_byte_takes_no_memory(bench, option):
    """Segments of one byte that make up one record: 16 MiB and more of chunks, if each had its own."""
    proxy, client = settled(bench, option, echo)
    before = proxy.rss_kib()
    client.tls.write(b"y" * 16384)
    record = client.flight()
    for i in range(len(record) - 1):
        client.sock.send(record[i:i + 1])
        if i % 8 == 0:
            time.sleep(0.0002)
    assert proxy.rss_kib() - before < 4096
    client.sock.send(record[-1:])
    assert client.recv_exactly(16384) == b"y" * 16384
    client.bye()


@pytest.mark.slow
@pytest.mark.serial
@pytest.mark.nosan
@ENGINES
def test_one_byte_records_to_a_stalled_backend_take_no_memory(bench, option):
    """30,000 records of a byte each for a backend that does not read, with next to no room in the sockets."""
    def hole(sock, server):
        server.released.wait(300)

    backend = bench.server(hole)
    backend.listener.setsockopt(1, 8, 2048)  # SO_RCVBUF
    proxy = counted(bench, bench.tls_server, f"socket = r:SO_SNDBUF=2048\n{option}", backend=backend)
    client = bench.client(proxy.port)
    if option == "inplace = yes":
        wait_promoted(proxy)
    before = proxy.rss_kib()
    for i in range(30000):
        client.tls.write(b"z")
        client.sock.sendall(client.flight())
        if i % 4 == 0:
            time.sleep(0.0002)
    assert proxy.rss_kib() - before < 8192
    backend.released.set()
