# Pre-shared keys, TLS 1.2 and 1.3, both roles: who has the key is let in, who has not is not, whatever certificates there are.
# SPDX-License-Identifier: Apache-2.0
import re
import socket
import ssl
import subprocess

import pytest

from peers import Server, client_context, connect, echo, pattern, read_all, read_exactly, server_context
from proxy import SLOW, until

V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
VERSIONS = pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
FLAG = {"TLSv1.2": "-tls1_2", "TLSv1.3": "-tls1_3"}
ALICE, BOB = "00112233445566778899aabbccddeeff", "a key that is no hexadecimal"
WRONG = "ff" * 16

pytestmark = pytest.mark.san


@pytest.fixture
def secrets(tmp_path):
    return secrets_file(tmp_path, f"alice:{ALICE}\nbob:{BOB}\n")


def secrets_file(directory, text, file="psk.txt"):
    path = directory / file
    path.write_text(text)
    path.chmod(0o600)
    return str(path)


def s_client(port, version, *args, data=b"", identity=None, key=ALICE):
    """What the client printed, and what the other end sent. With `data` it waits for an echo."""
    args = [*args, FLAG[version]]
    if identity is not None:
        args += ["-psk_identity", identity, "-psk", key]
    child = subprocess.Popen(["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", "s", *args], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        return child.communicate(data + b"\nQ\n", timeout=60 * SLOW)[0].decode(errors="replace")
    except subprocess.TimeoutExpired:
        child.kill()
        raise


def server(bench, secrets, extra="", **options):
    """A server section without certificate."""
    port, backend = bench.ports(), bench.server(options.pop("handler", echo))
    proxy = bench.proxy(f"[s]\naccept = 127.0.0.1:{port}\nconnect = 127.0.0.1:{backend.port}\nPSKsecrets = {secrets}\n{extra}\n")
    proxy.port, proxy.backend = port, backend
    return proxy


def greeting(text):
    """Says something and closes."""
    def handler(sock, _server):
        sock.sendall(text.encode())
    return handler


def round_trip(port, data=b"ping"):
    with connect(port) as sock:
        sock.sendall(data)
        got = read_exactly(sock, len(data))
        sock.shutdown(socket.SHUT_WR)
        read_all(sock)
    return got


def is_refused(port):
    """Nothing comes back. The connection may be gone before we have said anything, or before we know that we have one."""
    try:
        with connect(port) as sock:
            sock.sendall(b"secret")
            assert read_all(sock)[0] == b""
    except ConnectionError:
        pass


# --- server mode ---


@pytest.mark.ours
@VERSIONS
@pytest.mark.valgrind
def test_server(bench, secrets, version):
    proxy = server(bench, secrets)
    out = s_client(proxy.port, version, identity="alice")
    assert re.search("(Reused|New), " + version, out), out
    proxy.wait_log(r'LOG5\[0\]: Key configured for PSK identity "alice"$')
    proxy.wait_log(r"LOG6\[0\]: TLS accepted: PSK$")
    assert not proxy.lines(r"\[0\]: TLS accepted: (new|previous)")
    out = s_client(proxy.port, version, identity="bob", key=BOB.encode().hex())
    assert re.search("(Reused|New), " + version, out), out
    proxy.wait_log(r'LOG5\[1\]: Key configured for PSK identity "bob"$')


@pytest.mark.ours
@VERSIONS
@pytest.mark.parametrize("case", ["no key", "unknown", "wrong key", "other's key"])
@pytest.mark.parametrize("with_cert", [False, True], ids=["", "cert"])
def test_server_refuses(bench, pki, secrets, version, case, with_cert):
    """A certificate of the section's makes no difference: it is not shown to clients without a key."""
    proxy = server(bench, secrets, f"cert = {pki.ec_pem}" if with_cert else "", handler=greeting("hello"))
    identity, key = {"no key": (None, ""), "unknown": ("eve", ALICE), "wrong key": ("alice", WRONG), "other's key": ("bob", ALICE)}[case]
    out = s_client(proxy.port, version, identity=identity, key=key)
    alert = {"no key": (40, 40), "unknown": (115, 40)}.get(case, (20, 47))[version == "TLSv1.3"]
    assert f"SSL alert number {alert}" in out and "hello" not in out, out
    assert "BEGIN CERTIFICATE" not in out
    if case == "unknown":
        proxy.wait_log(r"LOG6\[0\]: PSK identity not found: eve$")
    proxy.wait_log(r"\[0\]: Connection reset")
    assert proxy.backend.accepted == 0


@pytest.mark.ours
@VERSIONS
def test_server_that_takes_certificates_too(bench, pki, secrets, version):
    """PSKrequire = no: clients without a key get the certificate, those with one need none."""
    proxy = server(bench, secrets, f"cert = {pki.ec_pem}\nPSKrequire = no")
    bench.client(proxy.port, client_context(pki, {"TLSv1.2": V12, "TLSv1.3": V13}[version]), server_name="localhost").ping().bye()
    proxy.wait_log(r"LOG6\[0\]: TLS accepted: new session negotiated")
    assert "BEGIN CERTIFICATE" not in s_client(proxy.port, version, "-cipher", "PSK", identity="alice")
    proxy.wait_log(r"LOG6\[1\]: TLS accepted: PSK")
    assert "BEGIN CERTIFICATE" in s_client(proxy.port, version, identity="eve")


@pytest.mark.ours
def test_server_says_that_its_certificate_is_not_used(bench, pki, secrets):
    proxy = server(bench, secrets, f"cert = {pki.ec_pem}\nPSKidentity = bob")
    assert proxy.lines(r"LOG5\[ui\]: PSK identity is ignored in the server mode")
    assert len(proxy.lines(r"LOG5\[ui\]: Service \[s\]: clients need a pre-shared key, the certificate is not used")) == 1


@pytest.mark.ours
@VERSIONS
def test_tickets_in_the_place_of_a_key(bench, secrets, version, tmp_path):
    """A session that a key has begun is resumed; in TLS 1.3 without the key too, for it is as good."""
    proxy = server(bench, secrets, handler=greeting("hello"))
    session = str(tmp_path / "session")
    out = s_client(proxy.port, version, "-sess_out", session, "-ign_eof", identity="alice")
    assert "hello" in out
    out = s_client(proxy.port, version, "-sess_in", session, "-ign_eof", identity=None if version == "TLSv1.3" else "alice")
    assert "Reused" in out and "hello" in out, out
    proxy.wait_log(r"LOG6\[1\]: TLS accepted: previous session reused")


@pytest.mark.ours
@VERSIONS
def test_key_that_is_gone_after_a_reload(bench, secrets, version, tmp_path):
    """Neither it nor the sessions that it has begun are of use any more; with the same keys sessions go on."""
    proxy = server(bench, secrets, handler=greeting("hello"))
    session = str(tmp_path / "session")
    s_client(proxy.port, version, "-sess_out", session, "-ign_eof", identity="alice")
    assert proxy.hup()
    assert "Reused" in s_client(proxy.port, version, "-sess_in", session, "-ign_eof", identity="alice")
    secrets_file(tmp_path, f"bob:{BOB}\n")
    assert proxy.hup()
    for identity in "alice", None:
        out = s_client(proxy.port, version, "-sess_in", session, "-ign_eof", identity=identity)
        assert "hello" not in out and "SSL alert number" in out, out
    secrets_file(tmp_path, "not a key\n")
    assert not proxy.hup()
    out = s_client(proxy.port, version, "-ign_eof", identity="bob", key=BOB.encode().hex())
    assert "hello" in out


@pytest.mark.ours
def test_suites_of_a_server(bench, secrets):
    """TLS 1.2: nothing without a key; TLS 1.3: nothing but SHA-256."""
    proxy = server(bench, secrets)
    for suite in "TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256":
        assert suite in s_client(proxy.port, "TLSv1.3", "-ciphersuites", suite, identity="alice")
    out = s_client(proxy.port, "TLSv1.3", "-ciphersuites", "TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256", identity="alice")
    assert "Cipher is TLS_AES_128_GCM_SHA256" in out
    assert "SSL alert number 40" in s_client(proxy.port, "TLSv1.3", "-ciphersuites", "TLS_AES_256_GCM_SHA384", identity="alice")
    for suite in "PSK-AES128-GCM-SHA256", "ECDHE-PSK-AES256-CBC-SHA384", "PSK-CHACHA20-POLY1305":
        assert suite in s_client(proxy.port, "TLSv1.2", "-cipher", suite, identity="alice")


@pytest.mark.ours
@pytest.mark.parametrize("options, works, fails", [
    ("ciphersuites = TLS_AES_256_GCM_SHA384", "TLSv1.2", "TLSv1.3"), ("ciphers = ECDHE-RSA-AES128-GCM-SHA256", "TLSv1.3", "TLSv1.2"),
    ("config = CipherString:ALL", "TLSv1.2", None), ("sslVersionMax = TLSv1.2", "TLSv1.2", "TLSv1.3")])
def test_suites_decide_the_version(bench, secrets, options, works, fails):
    proxy = server(bench, secrets, options)
    assert works in s_client(proxy.port, works, identity="alice")
    if fails:
        assert "alert protocol version" in s_client(proxy.port, fails, identity="alice")


@pytest.mark.ours
@pytest.mark.parametrize("options", [
    "ciphersuites = TLS_AES_256_GCM_SHA384\nsslVersion = TLSv1.3", "ciphers = ECDHE-RSA-AES128-GCM-SHA256\nsslVersionMax = TLSv1.2",
    "ciphersuites = TLS_AES_256_GCM_SHA384\nciphers = ECDHE-RSA-AES128-GCM-SHA256"])
def test_no_suite_left(bench, secrets, options):
    said = bench.refused(f"[s]\naccept = 127.0.0.1:{bench.ports()}\nconnect = 1\nPSKsecrets = {secrets}\n{options}\n")
    assert "PSK: no cipher suite is left that a pre-shared key can be used with" in said


@pytest.mark.ours
def test_certificate_by_config_is_refused(bench, pki, secrets):
    said = bench.refused(f"[s]\naccept = 127.0.0.1:{bench.ports()}\nconnect = 1\nPSKsecrets = {secrets}\n"
                         f"config = Certificate:{pki.ec_pem}\nconfig = PrivateKey:{pki.ec_pem}\n")
    assert 'PSK: a certificate in "config" would let clients in without a pre-shared key' in said


@pytest.mark.ours
@VERSIONS
def test_virtual_host_with_keys(bench, pki, secrets, version):
    """Beside a primary section with a certificate: each has its own."""
    port, backends = bench.ports(), [bench.server(greeting(text)).port for text in ("primary", "virtual")]
    bench.proxy(f"[p]\naccept = 127.0.0.1:{port}\nconnect = 127.0.0.1:{backends[0]}\ncert = {pki.ec_pem}\n"
                f"[v]\nsni = p:v.test\nconnect = 127.0.0.1:{backends[1]}\nPSKsecrets = {secrets}\n")
    context = client_context(version={"TLSv1.2": V12, "TLSv1.3": V13}[version])
    assert bench.client(port, context, server_name="p.test").recv() == b"primary"
    with pytest.raises(ssl.SSLError):
        bench.client(port, context, server_name="v.test")
    assert "virtual" in s_client(port, version, "-servername", "v.test", "-ign_eof", identity="alice")
    # At the primary's the identity says nothing: a certificate is shown.
    assert "BEGIN CERTIFICATE" in s_client(port, version, "-servername", "p.test", "-ign_eof", identity="alice")


# --- client mode ---


def s_server(bench, version, *args, key=ALICE, identity="alice", cert=None):
    port = bench.ports()
    certificate = ["-cert", cert, "-key", cert] if cert else ["-nocert"]
    bench.run(["openssl", "s_server", "-accept", f"127.0.0.1:{port}", FLAG[version], "-psk", key, "-psk_identity", identity, "-rev",
               *certificate, *args], stdin=subprocess.PIPE)
    until(lambda: not bench.ports.free(port), 20, "s_server listens")
    return port


@VERSIONS
@pytest.mark.valgrind
def test_client(bench, secrets, version):
    proxy = bench.tls_client(s_server(bench, version), f"PSKsecrets = {secrets}")
    with connect(proxy.port) as sock:
        sock.sendall(b"abc\n")
        assert read_exactly(sock, 4) == b"cba\n"
    proxy.wait_log(r'LOG6\[0\]: PSK client configured for identity "alice"$')
    proxy.wait_log(r"LOG6\[0\]: TLS connected: " + ("previous session reused" if version == "TLSv1.3" else "new session negotiated"))
    proxy.wait_log(rf"LOG6\[0\]: {version} ciphersuite: .*")
    assert not proxy.lines("needs authentication to prevent MITM")


@VERSIONS
def test_client_with_another_identity(bench, secrets, version):
    proxy = bench.tls_client(s_server(bench, version, key=BOB.encode().hex(), identity="bob"), f"PSKsecrets = {secrets}\nPSKidentity = bob")
    with connect(proxy.port) as sock:
        sock.sendall(b"abc\n")
        assert read_exactly(sock, 4) == b"cba\n"
    proxy.wait_log(r'LOG6\[0\]: PSK client configured for identity "bob"$')


@pytest.mark.ours
@pytest.mark.parametrize("version, case", [("TLSv1.2", "wrong key"), ("TLSv1.3", "wrong key"), ("TLSv1.3", "unknown"),
                                           ("TLSv1.3", "unknown, certificate")])  # s_server looks at the identity in TLS 1.3 only
def test_client_refuses(bench, pki, secrets, version, case):
    if case == "wrong key":
        port = s_server(bench, version, key=WRONG)
    else:
        port = s_server(bench, version, identity="eve", cert=pki.ec_pem if "certificate" in case else None)
    proxy = bench.tls_client(port, f"PSKsecrets = {secrets}")
    is_refused(proxy.port)
    proxy.wait_log(r"LOG3\[0\]: SSL_connect: .*")
    assert proxy.lines(r"\[0\]: Connection .*: 0 byte\(s\) sent to TLS, 0 byte\(s\) sent to socket")


@pytest.mark.ours
@VERSIONS
def test_client_shows_nothing_to_a_server_without_the_key(bench, pki, secrets, version):
    """Any server with any certificate, even one that the machine trusts: the handshake fails, no data is sent."""
    context = server_context(pki.ec_pem, {"TLSv1.2": V12, "TLSv1.3": V13}[version])
    heard = []

    def listen(sock, _server):
        try:
            with context.wrap_socket(sock, server_side=True) as tls:
                heard.append(tls.recv(100))
        except (ssl.SSLError, OSError) as error:
            return str(error)
        return ""

    server = bench.keep(Server(listen, bench.ports()))
    proxy = bench.tls_client(server.address, f"PSKsecrets = {secrets}")
    is_refused(proxy.port)
    assert ("NO_SHARED_CIPHER" if version == "TLSv1.2" else "HANDSHAKE_FAILURE") in server.result()
    assert not heard
    if version == "TLSv1.3":
        proxy.wait_log(r"LOG3\[0\]: PSK: the server has shown a certificate instead of using the pre-shared key")


def client_hello(bench, secrets, extra=""):
    """The ClientHello of a client section with keys."""
    server = bench.server(lambda sock, _server: sock.recv(4096))
    proxy = bench.tls_client(server.port, f"PSKsecrets = {secrets}\n{extra}")
    try:
        connect(proxy.port).close()  # the proxy may be done with it before we are
    except ConnectionError:
        pass
    return server.result()


@pytest.mark.ours
def test_suites_that_a_client_offers(bench, secrets):
    """Nothing that could do without the key, and of TLS 1.3 only what the key can be used with."""
    hello = client_hello(bench, secrets)
    at = 5 + 4 + 2 + 32
    at += 1 + hello[at]
    size = int.from_bytes(hello[at:at + 2], "big")
    suites = [int.from_bytes(hello[at + 2 + i:at + 4 + i], "big") for i in range(0, size, 2)]
    assert suites[:2] == [0x1301, 0x1303] and 0x1302 not in suites
    names = subprocess.run(["openssl", "ciphers", "-V", "ALL:COMPLEMENTOFALL"], capture_output=True, check=True).stdout.decode()
    known = {int(a, 16) << 8 | int(b, 16): suite for a, b, suite in re.findall(r"0x(..),0x(..) +- +(\S+)", names)}
    assert len(suites) > 5
    for suite in suites[2:]:
        assert suite == 0xff or "PSK" in known[suite], hex(suite)  # 0xff: the renegotiation mark, RFC 5746


@pytest.mark.ours
def test_hello_retry_request(bench, secrets):
    """The server wants another group: the second hello has the key, too."""
    port = s_server(bench, "TLSv1.3", "-groups", "P-384")
    proxy = bench.tls_client(port, f"PSKsecrets = {secrets}")
    with connect(proxy.port) as sock:
        sock.sendall(b"abc\n")
        assert read_exactly(sock, 4) == b"cba\n"
    proxy.wait_log(r"LOG6\[0\]: Peer temporary key: secp384r1")


def test_rsa_psk(bench, pki, secrets):
    """The suite that has both: the certificate comes along, and the key decides."""
    port = s_server(bench, "TLSv1.2", "-cipher", "RSA-PSK-AES128-GCM-SHA256", cert=pki.rsa_pem)
    proxy = bench.tls_client(port, f"PSKsecrets = {secrets}\nciphers = RSA-PSK-AES128-GCM-SHA256")
    with connect(proxy.port) as sock:
        sock.sendall(b"abc\n")
        assert read_exactly(sock, 4) == b"cba\n"
    port = s_server(bench, "TLSv1.2", "-cipher", "RSA-PSK-AES128-GCM-SHA256", cert=pki.rsa_pem, key=WRONG)
    proxy = bench.tls_client(port, f"PSKsecrets = {secrets}\nciphers = RSA-PSK-AES128-GCM-SHA256")
    is_refused(proxy.port)


@pytest.mark.ours
def test_empty_identity(bench, tmp_path):
    """TLS 1.3 has no place for it, so the client speaks TLS 1.2."""
    secrets = secrets_file(tmp_path, f":{ALICE}\n")
    behind = server(bench, secrets)
    proxy = bench.tls_client(behind.port, f"PSKsecrets = {secrets}")
    assert round_trip(proxy.port) == b"ping"
    proxy.wait_log(r"LOG6\[0\]: TLSv1.2 ciphersuite: .*PSK")
    behind.wait_log(r'LOG5\[0\]: Key configured for PSK identity ""$')


# --- both roles ---


@pytest.mark.ours
@VERSIONS
@pytest.mark.parametrize("suite", [None, "AES"])
def test_pair(bench, secrets, version, suite):
    """Bulk past the hand-over from OpenSSL, and resumption."""
    options = {("TLSv1.2", "AES"): "ciphers = ECDHE-PSK-AES128-CBC-SHA256:PSK-AES128-GCM-SHA256",
               ("TLSv1.3", "AES"): "ciphersuites = TLS_AES_128_GCM_SHA256"}.get((version, suite), "")
    behind = server(bench, secrets, f"sslVersion = {version}\n{options}\noptions = CIPHER_SERVER_PREFERENCE")
    proxy = bench.tls_client(behind.port, f"PSKsecrets = {secrets}\nsslVersion = {version}\n{options}")
    data = pattern(200000)
    for _ in range(3):
        with connect(proxy.port) as sock:
            for at in range(0, len(data), 20000):
                sock.sendall(data[at:at + 20000])
                assert read_exactly(sock, 20000) == data[at:at + 20000]
            sock.shutdown(socket.SHUT_WR)
            read_all(sock)
    behind.wait_log("TLS accepted: PSK")
    behind.wait_log("TLS accepted: previous session reused")


@pytest.mark.ours
def test_messages_of_the_file(bench, tmp_path):
    secrets = secrets_file(tmp_path, f"alice:{ALICE}\n\nbob:{BOB}\n")
    (tmp_path / "psk.txt").chmod(0o644)
    proxy = server(bench, secrets)
    log = proxy.log()
    for line in [f"LOG4[ui]: Insecure file permissions on {secrets}", 'LOG6[ui]: PSKsecrets line 1: 16-byte hexadecimal key configured for identity "alice"',
                 f'LOG6[ui]: PSKsecrets line 3: {len(BOB)}-byte ASCII key configured for identity "bob"', "LOG6[ui]: PSK identities: 2 retrieved"]:
        assert line in log
    assert ALICE not in log and BOB not in log


@pytest.mark.ours
@pytest.mark.parametrize("text, message", [
    ("id:", "PSKsecrets line 1: Key shorter than 16 bytes"), ("id", "PSKsecrets line 1: Not in identity:key format"),
    (f"a:{ALICE}\na:{ALICE}\n", 'PSKsecrets line 2: Identity "a" has a key in line 1'), ("", "PSKsecrets: There is no key in the file"), ("\n\r\n", "PSKsecrets: There is no key in the file")])
def test_bad_files(bench, tmp_path, text, message):
    secrets = secrets_file(tmp_path, text)
    said = bench.refused(f"[s]\naccept = 127.0.0.1:{bench.ports()}\nconnect = 1\nPSKsecrets = {secrets}\n")
    assert message in said and f'"PSKsecrets = {secrets}": Failed to read PSK secrets' in said


# --- other programs ---


@pytest.mark.ours
@VERSIONS
def test_gnutls_cli(bench, need, secrets, version):
    proxy = server(bench, secrets, handler=greeting("hello from behind"))
    tls = {"TLSv1.2": "1.2", "TLSv1.3": "1.3"}[version]
    kx = {"TLSv1.2": "PSK", "TLSv1.3": "DHE-PSK"}[version]  # gnutls-cli 3.7.9 crashes when it prints what ECDHE-PSK has given
    out = subprocess.run([need("gnutls-cli"), "-p", str(proxy.port), "--pskusername", "alice", "--pskkey", ALICE, "--priority",
                          f"NORMAL:-KX-ALL:+{kx}:-VERS-ALL:+VERS-TLS{tls}", "--no-ca-verification", "127.0.0.1"],
                         stdin=subprocess.DEVNULL, capture_output=True, timeout=60 * SLOW).stdout.decode(errors="replace")
    assert "Handshake was completed" in out and "PSK" in out, out
    proxy.wait_log(r"LOG6\[0\]: TLS accepted: PSK")


@VERSIONS
def test_gnutls_serv(bench, need, secrets, version, tmp_path):
    keys = secrets_file(tmp_path, f"alice:{ALICE}\n", "gnutls.txt")
    port, tls = bench.ports(), {"TLSv1.2": "1.2", "TLSv1.3": "1.3"}[version]
    kx = "-KX-ALL:+ECDHE-PSK" if version == "TLSv1.2" else "-KX-ALL:+DHE-PSK:+ECDHE-PSK"
    bench.run([need("gnutls-serv"), "--echo", "-p", str(port), "--pskpasswd", keys, "--priority", f"NORMAL:{kx}:-VERS-ALL:+VERS-TLS{tls}"])
    until(lambda: not bench.ports.free(port), 20, "gnutls-serv listens")
    proxy = bench.tls_client(port, f"PSKsecrets = {secrets}")
    assert round_trip(proxy.port, b"ping\n") == b"ping\n"
    proxy.wait_log(rf"LOG6\[0\]: {version} ciphersuite")


def stunnel(bench, need, text):
    port, conf = bench.ports(), str(bench.directory) + "/stunnel.conf"
    with open(conf, "w") as file:
        file.write(f"foreground = yes\npid =\nsyslog = no\n[x]\naccept = 127.0.0.1:{port}\n{text}\n")
    bench.run([need("stunnel4"), conf])
    until(lambda: not bench.ports.free(port), 20, "stunnel listens")
    return port


@pytest.mark.ours
@VERSIONS
def test_stunnel_as_client(bench, need, secrets, version):
    proxy = server(bench, secrets)
    port = stunnel(bench, need, f"client = yes\nconnect = 127.0.0.1:{proxy.port}\nPSKsecrets = {secrets}\nPSKidentity = bob\nsslVersion = {version}")
    assert round_trip(port) == b"ping"
    assert round_trip(port) == b"ping"
    proxy.wait_log(r'LOG5\[0\]: Key configured for PSK identity "bob"')
    proxy.wait_log(rf"LOG6\[0\]: {version} ciphersuite")


@pytest.mark.ours
@VERSIONS
def test_stunnel_as_server(bench, need, secrets, version):
    backend = bench.server(echo)
    port = stunnel(bench, need, f"connect = 127.0.0.1:{backend.port}\nPSKsecrets = {secrets}\nsslVersion = {version}\nciphers = PSK")
    proxy = bench.tls_client(port, f"PSKsecrets = {secrets}\nPSKidentity = bob")
    assert round_trip(proxy.port) == b"ping"
    assert round_trip(proxy.port) == b"ping"
    proxy.wait_log(rf"LOG6\[0\]: {version} ciphersuite")


# --- beside certificates that are verified ---


@pytest.mark.ours
@VERSIONS
def test_client_that_verifies_takes_either(bench, pki, secrets, version):
    """A key, or a certificate that passes the checks; none that does not."""
    options = f"PSKsecrets = {secrets}\nverifyChain = yes\nCAfile = {pki.ca}\ncheckHost = localhost\nsslVersion = {version}"
    context = server_context(pki.ec_pem, {"TLSv1.2": V12, "TLSv1.3": V13}[version])
    proxy = bench.tls_client(bench.server(echo, context=context).port, options)
    assert round_trip(proxy.port) == b"ping"
    proxy = bench.tls_client(s_server(bench, version), options)
    with connect(proxy.port) as sock:
        sock.sendall(b"abc\n")
        assert read_exactly(sock, 4) == b"cba\n"
    other = pki.join("self.pem", pki.other_ca, pki.path("other_ca.key"))
    context = server_context(other, {"TLSv1.2": V12, "TLSv1.3": V13}[version])
    is_refused(bench.tls_client(bench.server(echo, context=context).port, options).port)


@pytest.mark.ours
@VERSIONS
def test_server_that_verifies_takes_either(bench, pki, secrets, version):
    proxy = server(bench, secrets, f"cert = {pki.ec_pem}\nverifyChain = yes\nCAfile = {pki.ca}")
    assert "TLS accepted: PSK" not in proxy.log()
    s_client(proxy.port, version, "-cipher", "PSK", identity="alice")
    proxy.wait_log(r"LOG6\[0\]: TLS accepted: PSK")
    python = {"TLSv1.2": V12, "TLSv1.3": V13}[version]
    bench.client(proxy.port, client_context(version=python, certificate=pki.client_pem)).ping().bye()
    with pytest.raises((ssl.SSLError, OSError)):
        bench.client(proxy.port, client_context(version=python)).ping()


@pytest.mark.ours
@VERSIONS
@pytest.mark.parametrize("options", ["verify = 1", "verifyChain = yes\nPSKrequire = yes"])
def test_server_whose_certificates_are_not_enough(bench, pki, secrets, version, options):
    """Where a client may do without a certificate, or PSKrequire says so, a key is needed."""
    proxy = server(bench, secrets, f"cert = {pki.ec_pem}\nCAfile = {pki.ca}\n{options}")
    python = {"TLSv1.2": V12, "TLSv1.3": V13}[version]
    for certificate in None, pki.client_pem:
        with pytest.raises((ssl.SSLError, OSError)):
            bench.client(proxy.port, client_context(version=python, certificate=certificate)).ping()
    s_client(proxy.port, version, identity="alice")
    proxy.wait_log(r"LOG6\[2\]: TLS accepted: PSK")
