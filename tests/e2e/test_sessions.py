# Sessions: what is in tickets and whose keys they are made with, who shares them, where a resumed connection goes, what a client offers.
# SPDX-License-Identifier: Apache-2.0
import base64
import contextlib
import hashlib
import hmac
import os
import re
import ssl
import subprocess
import time

import pytest

import proxy as proxies
from peers import client_context, connect, echo, name, server_context, source
from pki import openssl
from proxy import SLOW, until
from sessiond import Sessiond

pytestmark = pytest.mark.ours

V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
VERSIONS = pytest.mark.parametrize("version", [V12, V13])
KEY, MAC = "101112131415161718191a1b1c1d1e1f", "808182838485868788898a8b8c8d8e8f"
SECRETS = f"ticketKeySecret = {KEY}\nticketMacSecret = {MAC}"


def resumes(bench, port, session, version, said=b"ping"):
    """Whether a connection to that port resumes the session; returns it, closed in an orderly way."""
    client = bench.client(port, client_context(version=version), session=session)
    client.reused = client.tls.session_reused
    client.ping(said)
    client.session = client.tls.session
    client.bye()
    return client


def new_session(bench, port, version):
    client = resumes(bench, port, None, version)
    assert not client.reused
    return client.session


# The session of Python's ssl belongs to its context; every client here would otherwise be another one.
@pytest.fixture(autouse=True)
def one_context(monkeypatch):
    contexts = {}
    make = client_context

    def cached(pki=None, version=None, certificate=None, ciphers=None):
        key = (version, certificate)
        if key not in contexts:
            contexts[key] = make(pki, version, certificate, ciphers)
        return contexts[key]
    monkeypatch.setitem(globals(), "client_context", cached)


# --- tickets on the wire ---


def field(der, tag):
    """The content of a context field of a session in DER form."""
    def element(at):
        size, head = der[at + 1], 2
        if size & 0x80:
            head += size & 0x7f
            size = int.from_bytes(der[at + 2:at + head], "big")
        return at + head, at + head + size
    at, end = element(0)
    while at < end:
        start, stop = element(at)
        if der[at] == tag:
            start, stop = element(start)
            return der[start:stop]
        at = stop
    return None


def ticket_of(tmp_path, port, version, path=None):
    """A ticket as it came over the wire, by openssl s_client, which waits for it. The session is in the file `path` then."""
    path = path or tmp_path / f"ticket{time.monotonic_ns()}"
    child = subprocess.Popen(["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-sess_out", str(path),
                              "-tls1_2" if version == V12 else "-tls1_3"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL)
    try:
        until(lambda: path.exists() and b"END SSL SESSION" in path.read_bytes(), what="a session file")
    finally:
        child.communicate(b"Q\n", timeout=30 * SLOW)
    der = base64.b64decode(re.search(b"-----BEGIN.*?-----(.*?)-----END", path.read_bytes(), re.S).group(1))
    return field(der, 0xaa)


def opened(ticket, key, mac):
    """The session in a ticket, after a look at its form."""
    assert hmac.new(mac, ticket[:-32], hashlib.sha256).digest() == ticket[-32:]
    done = subprocess.run(["openssl", "enc", "-d", "-aes-128-cbc" if len(key) == 16 else "-aes-256-cbc", "-K", key.hex(), "-iv",
                           ticket[16:32].hex()], input=ticket[32:-32], stdout=subprocess.PIPE, timeout=30, check=True)
    return done.stdout


@pytest.mark.san
@VERSIONS
@pytest.mark.parametrize("key, mac", [(KEY, MAC), (KEY + MAC, MAC + KEY), (KEY, MAC + KEY), ("00" * 16, "00" * 15 + "01")])
def test_form_of_a_ticket(bench, tmp_path, version, key, mac):
    """What anybody who has the secrets can read: the session, and stunnel's 8 bytes that it was not authenticated."""
    proxy = bench.tls_server(f"ticketKeySecret = {key}\nticketMacSecret = {mac}", backend=bench.server(echo))
    secrets = bytes.fromhex(key), bytes.fromhex(mac)
    tickets = [ticket_of(tmp_path, proxy.port, version) for _ in range(2)]
    for ticket in tickets:
        assert ticket[:16] == hashlib.sha256(b"".join(secrets)).digest()[:16], "the name tells nothing but who shares the secrets"
        assert field(opened(ticket, *secrets), 0xb2) == bytes(8)
    assert tickets[0][16:32] != tickets[1][16:32]
    proxy.wait_log(r"LOG7\[0\]: Session ticket processing callback")
    proxy.wait_log(r"LOG7\[0\]: Generate session ticket callback")


@pytest.mark.san
@VERSIONS
def test_random_keys_name_themselves(bench, tmp_path, version):
    proxy = bench.tls_server()
    names = {ticket_of(tmp_path, proxy.port, version)[:16] for _ in range(2)}
    assert len(names) == 1
    assert len({ticket_of(tmp_path, bench.tls_server().port, version)[:16] for _ in range(2)} | names) == 3


# --- tickets that were made by somebody else ---


def element(tag, body):
    size = len(body)
    return bytes([tag]) + (bytes([size]) if size < 128 else bytes([0x82]) + size.to_bytes(2, "big")) + body


def with_field(der, tag, value):
    """A session in DER form with another content of a context field; None: without the field."""
    def length(at):
        size, head = der[at + 1], 2
        if size & 0x80:
            head += size & 0x7f
            size = int.from_bytes(der[at + 2:at + head], "big")
        return head, size
    head, size = length(0)
    at, body, end = head, b"", head + size
    while at < end:
        head, size = length(at)
        if der[at] != tag:
            body += der[at:at + head + size]
        elif value is not None:
            body += element(tag, element(4, value))
        at += head + size
    return element(0x30, body)


def sealed(plain, key, mac, name_of_key):
    iv = os.urandom(16)
    done = subprocess.run(["openssl", "enc", "-e", "-aes-128-cbc", "-K", key.hex(), "-iv", iv.hex()], input=plain, stdout=subprocess.PIPE,
                          timeout=30, check=True)
    return signed(name_of_key + iv + done.stdout, mac)


def signed(body, mac):
    return body + hmac.new(mac, body, hashlib.sha256).digest()


FORGED = {
    # what is done to it, whether it is resumed, what is said
    "another name": (lambda der: der, True, None),
    "no data": (lambda der: with_field(der, 0xb2, None), False, "LOG4.*Failed to get ticket application data"),
    "five bytes": (lambda der: with_field(der, 0xb2, b"\xff" * 5), False, "LOG4.*Invalid ticket application data length"),
    "much": (lambda der: with_field(der, 0xb2, b"\1\1" + bytes(16) + b"\4" * 100), False, "LOG4.*Invalid ticket application data length"),
    "mixed": (lambda der: with_field(der, 0xb2, b"\xff" * 7 + b"\0"), False, "LOG4.*Invalid ticket application data value"),
    "ones": (lambda der: with_field(der, 0xb2, b"\xff" * 8), True, "LOG6.*authenticated session: yes"),
    "32 bits": (lambda der: with_field(der, 0xb2, bytes(4)), True, "LOG6.*authenticated session: no"),
    "other checks": (lambda der: with_field(der, 0xb2, b"\1\1" + bytes(16)), False, "LOG6.*other checks are made: it is not resumed"),
    "no session": (lambda der: b"\x30\x03\x02\x01\x01", False, None),
    "nothing": (lambda der: b"", False, None),
}


@pytest.mark.san
@VERSIONS
@pytest.mark.parametrize("how", [*FORGED, "a bit"])
def test_tickets_of_others(bench, tmp_path, version, how):
    """Made with the right secrets, under whatever name, but not by us; or not quite with the secrets."""
    proxy = bench.tls_server(SECRETS)
    key, mac = bytes.fromhex(KEY), bytes.fromhex(MAC)
    path, forged = tmp_path / "session", tmp_path / "forged"
    ticket = ticket_of(tmp_path, proxy.port, version, path)
    der = base64.b64decode(re.search(b"-----BEGIN.*?-----(.*?)-----END", path.read_bytes(), re.S).group(1))
    change, reused, said = FORGED.get(how, (None, False, None))
    ticket = sealed(change(opened(ticket, key, mac)), key, mac, os.urandom(16)) if change else ticket[:-1] + bytes([ticket[-1] ^ 1])
    forged.write_text("-----BEGIN SSL SESSION PARAMETERS-----\n" + base64.encodebytes(with_field(der, 0xaa, ticket)).decode() +
                      "-----END SSL SESSION PARAMETERS-----\n")
    done = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{proxy.port}", "-sess_in", str(forged),
                           "-tls1_2" if version == V12 else "-tls1_3"], input=b"Q\n", stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          timeout=30 * SLOW)
    assert (b"Reused, TLSv1." if reused else b"New, TLSv1.") in done.stdout, done.stdout.decode(errors="replace")
    if said:
        proxy.wait_log(said)


# --- shared secrets ---


@pytest.mark.san
@VERSIONS
def test_secrets_are_shared_by_processes(bench, version):
    a, b, other = (bench.tls_server(secrets) for secrets in (SECRETS, SECRETS, SECRETS.replace("8f", "90")))
    again = resumes(bench, b.port, new_session(bench, a.port, version), version)
    assert again.reused
    assert resumes(bench, a.port, again.session, version).reused, "and back"
    assert not resumes(bench, other.port, again.session, version).reused
    b.wait_log(r"LOG7\[0\]: Decrypt session ticket callback")
    b.wait_log(r"LOG6\[0\]: Decrypted ticket for an authenticated session: no")


@pytest.mark.san
@VERSIONS
def test_secrets_of_the_defaults_with_zero_bytes(bench, pki, version):
    """Options before the sections; what stands behind a zero byte counts."""
    backend = bench.server(echo)

    def server(mac):
        port = bench.ports()
        return bench.proxy(f"ticketKeySecret = 00{KEY[2:]}\nticketMacSecret = 00{mac}\ncert = {pki.ec_pem}\n[s]\n"
                           f"accept = 127.0.0.1:{port}\nconnect = 127.0.0.1:{backend.port}\n"), port
    (_, a), (_, b), (_, other) = (server(mac) for mac in (MAC[2:], MAC[2:], MAC[2:-2] + "00"))
    session = new_session(bench, a, version)
    assert resumes(bench, b, session, version).reused
    assert not resumes(bench, other, session, version).reused


@pytest.mark.san
@VERSIONS
def test_the_same_secrets_in_sections_of_other_names(bench, pki, version):
    backend = bench.server(echo)
    ports = [bench.ports(), bench.ports()]
    bench.proxy(f"{SECRETS}\ncert = {pki.ec_pem}\nconnect = 127.0.0.1:{backend.port}\n[one]\naccept = 127.0.0.1:{ports[0]}\n"
                f"[two]\naccept = 127.0.0.1:{ports[1]}\n")
    session = new_session(bench, ports[0], version)
    assert not resumes(bench, ports[1], session, version).reused
    assert resumes(bench, ports[0], session, version).reused


@pytest.fixture
def stunnel(bench, need, monkeypatch):
    """Starts stunnel with a section [s] like that of tls_server()."""
    def start(extra="", backend=None):
        with monkeypatch.context() as patch:
            patch.setattr(proxies, "BINARY", need("stunnel4"))
            patch.setattr(proxies, "IS_STUNNEL", True)
            patch.setattr(proxies, "WRAPPER", [])
            server = bench.tls_server(extra, backend=backend, preamble=f"foreground = yes\nsyslog = no\ndebug = debug\n"
                                      f"pid = {bench.directory}/stunnel{len(bench.proxies)}.pid\n")
        server.expect_open, server.base_fds = True, None
        return server
    return start


@pytest.mark.san
@VERSIONS
def test_secrets_are_shared_with_stunnel(bench, stunnel, version):
    """Either way round, and on from there."""
    ours, theirs = bench.tls_server(SECRETS), stunnel(SECRETS)
    session = new_session(bench, theirs.port, version)
    again = resumes(bench, ours.port, session, version)
    assert again.reused
    # For nobody: it writes that for every client.
    ours.wait_log(r"LOG6\[0\]: Decrypted ticket for an authenticated session: yes")
    assert resumes(bench, theirs.port, again.session, version).reused
    back = resumes(bench, theirs.port, new_session(bench, ours.port, version), version)
    assert back.reused
    assert resumes(bench, ours.port, back.session, version).reused


@pytest.mark.san
@pytest.mark.parametrize("number", [0, 1, 5])
def test_number_of_tickets(bench, number):
    """What `config` says of TLS 1.3; after a resumption one, as one was used up."""
    proxy = bench.tls_server(f"config = NumTickets:{number}")
    session = new_session(bench, proxy.port, V13)
    proxy.wait_log(r"LOG7\[0\]: Service \[s\] finished")
    assert len(proxy.lines(r"LOG7\[0\]: New session callback")) == number
    if number:
        assert resumes(bench, proxy.port, session, V13).reused
        proxy.wait_log(r"LOG7\[1\]: Service \[s\] finished")
        assert len(proxy.lines(r"LOG7\[1\]: New session callback")) == 1


# --- other clients ---


@pytest.mark.san
@VERSIONS
@pytest.mark.parametrize("store", ["", "options = NO_TICKET"])
def test_gnutls_resumes(bench, need, version, store):
    proxy = bench.tls_server(store, backend=bench.server(source(b"hello\n")))
    done = subprocess.run([need("gnutls-cli"), "--insecure", "--resume", "--waitresumption", "--priority",
                           f"NORMAL:-VERS-ALL:+VERS-TLS1.{2 if version == V12 else 3}", "-p", str(proxy.port), "127.0.0.1"], input=b"",
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60 * SLOW)
    assert b"This is a resumed session" in done.stdout, done.stdout.decode(errors="replace")
    proxy.wait_log(r"LOG6\[1\]: TLS accepted: previous session reused")


@pytest.mark.san
@VERSIONS
def test_openssl_resumes_again_and_again(bench, tmp_path, version):
    """A session file that is written anew by each connection."""
    proxy = bench.tls_server(SECRETS, backend=bench.server(source(b"hello\n")))
    path = tmp_path / "session"
    for turn in range(4):
        how = ["-sess_in", str(path)] if turn else []
        done = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{proxy.port}", *how, "-sess_out", str(path), "-ign_eof",
                               "-tls1_2" if version == V12 else "-tls1_3"], input=b"", stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              timeout=60 * SLOW)
        assert (b"Reused, TLSv1." if turn else b"New, TLSv1.") in done.stdout, done.stdout.decode(errors="replace")


# --- ticketKeyFile ---


def write_keys(path, *keys):
    """One raw key as nginx has it, several as haproxy has them; in one step, as those who rotate keys do."""
    data = keys[0] if len(keys) == 1 else b"".join(base64.b64encode(key) + b"\n" for key in keys)
    new = path.with_suffix(".new")
    new.write_bytes(data)
    new.chmod(0o600)
    os.rename(new, path)


def key_bytes(seed, size=80):
    return hashlib.shake_128(str(seed).encode()).digest(size)


@pytest.mark.san
@VERSIONS
@pytest.mark.parametrize("size", [48, 80])
def test_key_files_of_nginx(bench, tmp_path, version, size):
    """Name, then AES and MAC keys (48 bytes) or MAC and AES keys (80 bytes)."""
    path, key = tmp_path / "raw.key", key_bytes("a", size)
    write_keys(path, key)
    proxy = bench.tls_server(f"ticketKeyFile = {path}")
    half = (size - 16) // 2
    first, second = key[16:16 + half], key[16 + half:]
    ticket = ticket_of(tmp_path, proxy.port, version)
    assert ticket[:16] == key[:16]
    assert opened(ticket, *((first, second) if size == 48 else (second, first)))
    assert resumes(bench, proxy.port, new_session(bench, proxy.port, version), version).reused


@pytest.mark.san
@VERSIONS
def test_key_files_of_haproxy(bench, tmp_path, version):
    """Lines of base64, the last but one of which makes the tickets: name, AES key, MAC key."""
    path, keys = tmp_path / "keys", [key_bytes(i) for i in range(3)]
    write_keys(path, *keys)
    proxy = bench.tls_server(f"ticketKeyFile = {path}")
    ticket = ticket_of(tmp_path, proxy.port, version)
    assert ticket[:16] == keys[1][:16]
    assert opened(ticket, keys[1][16:48], keys[1][48:])


@pytest.mark.san
@VERSIONS
def test_keys_are_rotated_without_a_restart(bench, tmp_path, version):
    """The file is replaced; a new key is in use soon, and the old one opens tickets as long as it is in the file."""
    path, keys = tmp_path / "keys", [key_bytes(i) for i in range(5)]
    write_keys(path, *keys[:3])
    proxy = bench.tls_server(f"ticketKeyFile = {path}")
    session = new_session(bench, proxy.port, version)
    write_keys(path, *keys[1:4])
    proxy.wait_log(r"LOG5\[\w+\]: Service \[s\]: changed ticket keys loaded", 1, 30)
    assert ticket_of(tmp_path, proxy.port, version)[:16] == keys[2][:16]
    again = resumes(bench, proxy.port, session, version)
    assert again.reused
    write_keys(path, *keys[2:5])
    proxy.wait_log(r"LOG5\[\w+\]: Service \[s\]: changed ticket keys loaded", 2, 30)
    assert not resumes(bench, proxy.port, session, version).reused, "its key has gone"
    assert resumes(bench, proxy.port, again.session, version).reused, "it was renewed meanwhile"


@pytest.mark.san
def test_a_broken_key_file_changes_nothing(bench, tmp_path):
    path = tmp_path / "keys"
    write_keys(path, *[key_bytes(i) for i in range(3)])
    proxy = bench.tls_server(f"ticketKeyFile = {path}")
    session = new_session(bench, proxy.port, V12)
    path.write_bytes(b"half of a li")
    proxy.wait_log(r"LOG4\[\w+\]: Service \[s\]: changed ticket keys cannot be used: the old ones stay", 1, 30)
    proxy.wait_log(r"LOG4\[\w+\]: Service \[s\]: ticketKeyFile \S+: neither 48 or 80 bytes, nor lines of base64")
    assert resumes(bench, proxy.port, session, V12).reused
    assert not proxy.hup(), "to be told of it again is an error"
    assert resumes(bench, proxy.port, session, V12).reused
    write_keys(path, *[key_bytes(i) for i in range(1, 4)])
    assert proxy.hup()
    assert ticket_of(tmp_path, proxy.port, V12)[:16] == key_bytes(2)[:16]
    assert resumes(bench, proxy.port, session, V12).reused


@pytest.mark.san
@pytest.mark.parametrize("content, said", [(None, "No such file"), (b"", "there is no key in it"), (b"x" * 47, "neither 48 or 80 bytes"),
                                           (b"x" * 70000, "too big"), (b"QUFB\n", "neither 48 or 80 bytes"),
                                           (b"".join(base64.b64encode(key_bytes(i)) + b"\n" for i in range(65)), "too many keys")])
def test_key_files_that_are_refused(bench, pki, tmp_path, content, said):
    path = tmp_path / "keys"
    if content is not None:
        path.write_bytes(content)
    out = bench.refused(f"[s]\naccept = 127.0.0.1:{bench.ports()}\nconnect = 127.0.0.1:1\ncert = {pki.ec_pem}\nticketKeyFile = {path}\n")
    assert f"Service [s]: ticketKeyFile {path}: {said}" in out


@pytest.mark.san
@VERSIONS
def test_key_files_are_shared(bench, tmp_path, version):
    """Two processes; the second has another file first, so that it renews what it gets from the first."""
    paths = [tmp_path / "a.key", tmp_path / "b.key"]
    for path in paths:
        write_keys(path, key_bytes(path.name))
    a, b = (bench.tls_server(f"ticketKeyFile = {first}\nticketKeyFile = {second}") for first, second in (paths, paths[::-1]))
    again = resumes(bench, b.port, new_session(bench, a.port, version), version)
    assert again.reused
    assert resumes(bench, a.port, again.session, version).reused


def test_a_key_file_that_everybody_may_read(bench, tmp_path):
    path = tmp_path / "raw.key"
    write_keys(path, key_bytes("a"))
    path.chmod(0o644)
    proxy = bench.tls_server(f"ticketKeyFile = {path}")
    proxy.wait_log(rf"LOG4\[\w+\]: Insecure file permissions on {path}")


# --- keys that change by themselves ---


@pytest.mark.san
@VERSIONS
def test_random_keys_change_by_themselves(bench, tmp_path, version):
    """A life time of four seconds: the key changes in two; all workers agree; what an older key made is still good then."""
    proxy = bench.tls_server("session = 4", head="workers = 2")
    seen = []

    def another():
        seen.append(ticket_of(tmp_path, proxy.port, version)[:16])
        return seen[-1] != seen[0]
    session = None
    while not session:
        session = new_session(bench, proxy.port, version)
        if not another():
            until(another, what="another key")
    assert len(set(seen)) == 2
    assert any(resumes(bench, proxy.port, new_session(bench, proxy.port, version), version).reused for _ in range(3))


# --- persistence ---

STORES = pytest.mark.parametrize("version, store", [(V12, ""), (V13, ""), (V12, "options = NO_TICKET"), (V13, "options = NO_TICKET"),
                                                    (V12, SECRETS), (V13, SECRETS)])


def backends(bench, count):
    return [bench.server(name(f"<{i}>")) for i in range(count)]


def served_by(bench, port, session, version):
    """(who served it, the session to go on with, whether it was resumed)."""
    client = bench.client(port, client_context(version=version), session=session)
    reused = client.tls.session_reused
    who = client.recv_exactly(3).decode()
    session = client.tls.session
    client.bye()
    return who, session, reused


def several(bench, connects, extra=""):
    return bench.tls_server("\n".join(f"connect = {connect}" for connect in connects[1:]) + f"\n{extra}", backend=connects[0])


@pytest.mark.san
@STORES
def test_a_session_stays_with_its_backend(bench, version, store):
    ports = [f"127.0.0.1:{backend.port}" for backend in backends(bench, 3)]
    proxy = several(bench, ports, f"failover = rr\n{store}")
    seen = set()
    for _ in range(3):
        first, session, reused = served_by(bench, proxy.port, None, version)
        assert not reused
        seen.add(first)
        for _ in range(3):
            who, again, reused = served_by(bench, proxy.port, session, version)
            assert reused and who == first
            session = again or session
    assert len(seen) == 3, "new sessions go round"
    for i in range(3):
        proxy.wait_log(rf"LOG6\[\d+\]: persistence: {ports[i]} cached")
        proxy.wait_log(rf"LOG6\[\d+\]: persistence: {ports[i]} reused")


@pytest.mark.san
@STORES
def test_a_backend_that_has_gone(bench, version, store):
    """The next one takes over; a session of TLS 1.3, or of the cache, stays with that one."""
    servers = backends(bench, 2)
    ports = [f"127.0.0.1:{server.port}" for server in servers]
    proxy = several(bench, ports, store)
    who, session, _ = served_by(bench, proxy.port, None, version)
    assert who == "<0>"
    servers[0].close()
    who, again, reused = served_by(bench, proxy.port, session, version)
    assert reused and who == "<1>"
    proxy.wait_log(rf"LOG6\[1\]: persistence: {ports[0]} reused")
    proxy.wait_log(rf"LOG6\[1\]: persistence: {ports[1]} cached")
    if version == V13 or "NO_TICKET" in store:
        assert served_by(bench, proxy.port, again or session, version)[0] == "<1>"
        proxy.wait_log(rf"LOG6\[2\]: persistence: {ports[1]} reused")


@pytest.mark.san
@VERSIONS
def test_a_backend_that_is_not_configured_here(bench, version):
    ports = [f"127.0.0.1:{server.port}" for server in backends(bench, 4)]
    a, b = several(bench, ports[:2], SECRETS), several(bench, ports[2:], SECRETS)
    _, session, _ = served_by(bench, a.port, None, version)
    who, _, reused = served_by(bench, b.port, session, version)
    assert reused and who == "<2>"
    b.wait_log(rf"LOG6\[0\]: persistence: {ports[0]} not available")
    b.wait_log(r"LOG6\[0\]: failover: priority, starting at entry #0")


@pytest.mark.san
@VERSIONS
def test_a_session_without_a_backend(bench, version):
    """One backend is no choice: nothing is remembered, and where there is one nothing is found."""
    ports = [f"127.0.0.1:{server.port}" for server in backends(bench, 3)]
    a, b = several(bench, ports[:1], SECRETS), several(bench, ports[1:], SECRETS)
    _, session, _ = served_by(bench, a.port, None, version)
    assert not a.lines("persistence:")
    who, _, reused = served_by(bench, b.port, session, version)
    assert reused and who == "<1>"
    b.wait_log(r"LOG5\[0\]: persistence: No cached address found")


@pytest.mark.san
@pytest.mark.parametrize("store", ["", "options = NO_TICKET"])
def test_persistence_with_names_looked_up_each_time(bench, store):
    ports = [f"127.0.0.1:{server.port}" for server in backends(bench, 2)]
    proxy = several(bench, ports, f"delay = yes\n{store}")
    who, session, _ = served_by(bench, proxy.port, None, V13)
    who, session, reused = served_by(bench, proxy.port, session, V13)
    assert reused and who == "<0>"
    proxy.wait_log(rf"LOG6\[1\]: persistence: {ports[0]} reused")


@pytest.mark.san
@VERSIONS
def test_persistence_with_unix_sockets(bench, tmp_path, version):
    places = [str(tmp_path / "one.sock"), f"@{tmp_path}"]
    for i, place in enumerate(places):
        bench.server(name(f"<{i}>"), place)
    proxy = several(bench, places, "failover = rr")
    for _ in range(2):
        first, session, _ = served_by(bench, proxy.port, None, version)
        who, _, reused = served_by(bench, proxy.port, session, version)
        assert reused and who == first


@pytest.mark.san
@VERSIONS
@pytest.mark.parametrize("shared", ["secrets", "sessiond"])
def test_every_process_knows_the_backend(bench, version, shared):
    ports = [f"127.0.0.1:{backend.port}" for backend in backends(bench, 4)]
    extra = SECRETS if shared == "secrets" else "sessiond = " + bench.keep(Sessiond(bench.ports())).address
    nodes = [several(bench, ports, f"failover = rr\n{extra}") for _ in range(2)]
    first, session, _ = served_by(bench, nodes[0].port, None, version)
    for turn in range(4):
        who, again, reused = served_by(bench, nodes[1 - turn % 2].port, session, version)
        assert reused and who == first
        session = again or session


@pytest.mark.san
def test_every_worker_knows_the_backend(bench):
    ports = [f"127.0.0.1:{backend.port}" for backend in backends(bench, 3)]
    proxy = bench.tls_server(f"failover = rr\nconnect = {ports[1]}\nconnect = {ports[2]}", backend=ports[0], head="workers = 2")
    first, session, _ = served_by(bench, proxy.port, None, V13)
    for _ in range(8):
        who, session, reused = served_by(bench, proxy.port, session, V13)
        assert reused and who == first


@VERSIONS
@pytest.mark.parametrize("options", ["", "options = NO_TICKET"])
def test_sessions_of_sessions_end_with_the_first(bench, version, options):
    """RFC 8446 4.6.1: or a client could go on for ever with what was found out about it once."""
    proxy = bench.tls_server(f"sessionCacheTimeout = {4 * SLOW}\n{options}")
    session = new_session(bench, proxy.port, version)
    hint = session.ticket_lifetime_hint

    def renewed():
        nonlocal session
        client = resumes(bench, proxy.port, session, version)
        session = client.session
        if version == V13 and client.reused:
            assert session.ticket_lifetime_hint <= hint
        return not client.reused
    assert not renewed()
    until(renewed, 10, "a full handshake")


# --- the client ---


def client_lines(proxy):
    """(address connected to, id offered or None, ids given) of each connection, from the log."""
    found = []
    for number in sorted({int(n) for n in re.findall(r"LOG5\[(\d+)\]: Service \[c\] accepted", proxy.log())}):
        text = "\n".join(proxy.lines(rf"LOG\d\[{number}\]: "))
        offered = re.search(r"Attempting to resume: ([0-9A-F]+)$", text, re.M)
        found.append((re.search(r"s_connect: connected (\S+)", text).group(1), offered.group(1) if offered else None,
                      set(re.findall(r"Session id: ([0-9A-F]+)$", text, re.M))))
    return found


def through(bench, proxy, count=1):
    """So many connections at once, to their ends."""
    socks = [bench.keep(connect(proxy.port)) for _ in range(count)]
    for sock in socks:
        sock.sendall(b"ping")
    for sock in socks:
        assert sock.recv(4) == b"ping"
        sock.close()
    proxy.carried = getattr(proxy, "carried", 0) + count
    proxy.wait_log(r"LOG7\[\d+\]: Service \[c\] finished", proxy.carried)


@pytest.mark.san
@VERSIONS
def test_a_session_that_went_bad_is_not_offered_again(bench, pki, version):
    """RFC 5246 7.2.2: after a fatal alert. A server that cannot resume says so once, and not until the session expires."""
    context = server_context(pki.ec_pem, version)

    def picky(sock, server):
        if server.accepted != 2:
            with context.wrap_socket(sock, server_side=True) as tls:
                return echo(tls, server)
        sock.recv(16384)
        sock.sendall(b"\x15\x03\x03\x00\x02\x02\x28")
        return sock.recv(16384)
    proxy = bench.tls_client(bench.server(picky).port, f"CAfile = {pki.ca}")
    through(bench, proxy)
    with contextlib.suppress(ConnectionError):
        connect(proxy.port).close()
    proxy.wait_log("TLS alert .read.: fatal: handshake failure")
    proxy.carried += 1
    for _ in range(2):
        through(bench, proxy)
    assert [bool(proxy.lines(rf"LOG6\[{n}\]: Attempting to resume")) for n in range(4)] == [False, True, False, True]


@pytest.mark.san
@VERSIONS
@pytest.mark.parametrize("delay", ["no", "yes"])
def test_a_session_is_offered_to_the_server_that_gave_it(bench, pki, version, delay):
    """Two servers in turn: the first is stopped for a while, so that the second gets connections, too."""
    context = server_context(pki.ec_pem, version)
    servers = [bench.server(echo, context=context) for _ in range(2)]
    proxy = bench.tls_client(servers[0].port, f"connect = 127.0.0.1:{servers[1].port}\ndelay = {delay}\nfailover = rr\n"
                             f"CAfile = {pki.ca}")
    for _ in range(3):
        through(bench, proxy)
    servers[0].close()
    for _ in range(3):
        through(bench, proxy)
    given = {}
    lines = client_lines(proxy)
    for to, offered, ids in lines:
        assert not offered or offered in given.setdefault(to, set())
        given.setdefault(to, set()).update(ids)
    assert len(given) == 2
    assert sum(1 for _, offered, _ in lines if offered) == 4, "all but the first two"
    assert len(proxy.lines("TLS connected: previous session reused")) == 4


@pytest.mark.san
def test_a_session_of_tls13_is_offered_once(bench, pki):
    """RFC 8446 C.4; eight connections at once, then eight more."""
    server = bench.server(echo, context=server_context(pki.ec_pem, V13))
    proxy = bench.tls_client(server.port)
    for _ in range(2):
        through(bench, proxy, 8)
    offered = [offered for _, offered, _ in client_lines(proxy) if offered]
    assert len(offered) >= 8 and len(set(offered)) == len(offered)


@pytest.mark.san
def test_both_tickets_of_a_connection_are_kept(bench, pki):
    server = bench.server(echo, context=server_context(pki.ec_pem, V13))
    proxy = bench.tls_client(server.port)
    through(bench, proxy)
    through(bench, proxy, 2)
    assert [bool(offered) for _, offered, _ in client_lines(proxy)] == [False, True, True]


@pytest.mark.san
def test_a_session_of_tls12_is_offered_again(bench, pki):
    server = bench.server(echo, context=server_context(pki.ec_pem, V12))
    proxy = bench.tls_client(server.port)
    for _ in range(4):
        through(bench, proxy)
    assert [bool(offered) for _, offered, _ in client_lines(proxy)] == [False, True, True, True]
    proxy.wait_log(r"LOG7\[0\]: No previous session to resume")


@VERSIONS
def test_a_client_does_not_go_on_with_a_server_for_ever(bench, pki, version):
    server = bench.server(echo, context=server_context(pki.ec_pem, version))
    proxy = bench.tls_client(server.port, f"sessionCacheTimeout = {4 * SLOW}")

    def renewed():
        through(bench, proxy)
        return len(proxy.lines("TLS connected: new session negotiated")) > 1
    assert not renewed() and not renewed()
    assert proxy.lines("TLS connected: previous session reused")
    until(renewed, 10, "a full handshake")
