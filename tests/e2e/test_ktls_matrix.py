# Kernel TLS with each kind of peer, in both roles, with each version, cipher and way to move the bytes: so many MiB there, then so many
# back, compared by checksum; our counters and the kernel's say who made the records. On a kernel without TLS the same transfers
# are made in user space.
#
#   s_client, GnuTLS, curl ──TLS──> [server sections] ──plain──> this file
#   this file, curl ──plain──> [client sections] ──TLS──> s_server, GnuTLS, nginx
#
# TLSPLICE_KTLS_MIB says how many MiB, TLSPLICE_KTLS_RELAYS which ways ("copy splice uring-splice").
# SPDX-License-Identifier: Apache-2.0
import hashlib
import os
import subprocess
import sys
import threading

import pytest

from conftest import need
from gnutls import GnuTls
from kernel_tls import HAVE, MIB, RELAYS, SUITES, Shared, way
from peers import TIMEOUT, connect
from proxy import SLOW, until

pytestmark = [pytest.mark.ours, pytest.mark.slow]

SIZE = int(os.environ.get("TLSPLICE_KTLS_MIB", "4")) * MIB
LIMIT = 60 + SIZE // (MIB // 2)  # seconds
WAYS = os.environ.get("TLSPLICE_KTLS_RELAYS", " ".join(RELAYS)).split()
SERVERS = ["openssl", "gnutls", "nginx"]

each_suite = pytest.mark.parametrize("version, suite, cipher", SUITES, ids=lambda value: value if "." not in value else value[3:])
each_way = pytest.mark.parametrize("how", WAYS)
pytestmark.append(pytest.mark.timeout(LIMIT * SLOW + 120))


# --- bytes ---


class Payload:
    """Bytes that do not repeat."""

    def __init__(self, path):
        self.path = str(path)
        self.data = hashlib.shake_128(b"kernel TLS").digest(SIZE + 12345)
        self.digest = hashlib.sha256(self.data).hexdigest()
        with open(self.path, "wb") as file:
            file.write(self.data)

    def __len__(self):
        return len(self.data)


def digest(read, size):
    """The checksum of the next `size` bytes that read(n) gives, and how many there were."""
    total, sha = 0, hashlib.sha256()
    while total < size:
        part = read(min(size - total, 1 << 18))
        if not part:
            break
        sha.update(part)
        total += len(part)
    return sha.hexdigest(), total


def pipe_reader(pipe):
    return lambda n: os.read(pipe.fileno(), n)


def feed(pipe, data):
    """Writes in a thread; whoever dies meanwhile is noticed elsewhere."""
    def write():
        try:
            pipe.write(data)
            pipe.flush()
        except OSError:
            pass
    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    return thread


def there_and_back(payload):
    """A backend: takes the payload and says its checksum, then sends it."""
    def handler(sock, _server):
        sock.settimeout(LIMIT * SLOW)
        got = digest(sock.recv, len(payload))
        sock.sendall(payload.data)
        sock.recv(1)
        return got
    return handler


def http_there_and_back(payload):
    """The same as an answer to a PUT."""
    def handler(sock, _server):
        sock.settimeout(LIMIT * SLOW)
        head = b""
        while b"\r\n\r\n" not in head:
            head += sock.recv(65536)
        body = head.split(b"\r\n\r\n", 1)[1]
        rest = iter([body])
        got = digest(lambda n: next(rest, b"") or sock.recv(n), len(payload))
        sock.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(payload))
        sock.sendall(payload.data)
        return got
    return handler


# --- programs ---


def gnutls_priority(version, cipher):
    return f"NORMAL:-VERS-ALL:+VERS-{version.replace('v', '')}:-CIPHER-ALL:+{cipher}"


def start_servers(shared, pki, target):
    """One of each for all tests of the module."""
    any12, any13 = (":".join(suite for version, suite, _ in SUITES if version == wanted) for wanted in ("TLSv1.2", "TLSv1.3"))
    servers = {}
    if "openssl" in target:
        servers["openssl"] = shared.run(
            [need("openssl"), "s_server", "-quiet", "-accept", f"127.0.0.1:{target['openssl']}", "-cert", pki.ec, "-key", pki.ec_key,
             "-cipher", any12, "-ciphersuites", any13], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    servers["gnutls"] = shared.run([sys.executable, os.path.join(os.path.dirname(__file__), "gnutls.py"), str(target["gnutls"]), pki.ec, pki.ec_key,
                                    "NORMAL:+AES-128-CCM:+AES-256-CCM"])
    root = os.path.join(str(shared.directory), "www")
    os.makedirs(root)
    os.chmod(str(shared.directory), 0o755)
    paths = "".join(f"{kind}_temp_path {root}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    user = "user root;" if os.getuid() == 0 else ""
    conf = os.path.join(root, "nginx.conf")
    with open(conf, "w") as file:
        file.write(f"""
daemon off; master_process off; pid {root}/pid; error_log stderr; {user}
events {{ worker_connections 64; }}
http {{ access_log off; {paths} client_max_body_size 0;
  server {{ listen 127.0.0.1:{target["nginx"]} ssl; ssl_certificate {pki.ec}; ssl_certificate_key {pki.ec_key};
    ssl_protocols TLSv1.2 TLSv1.3; ssl_ciphers {any12}; ssl_conf_command Ciphersuites {any13};
    root {root}; location / {{ dav_methods PUT DELETE; }} }} }}
""")
    servers["nginx"] = shared.run([need("nginx"), "-e", "stderr", "-c", conf, "-p", root])
    for port in target.values():
        until(lambda: not shared.ports.free(port), 20, f"port {port}")
    return servers


@pytest.fixture(scope="module")
def payload(tmp_path_factory):
    return Payload(tmp_path_factory.mktemp("payload") / "payload")


@pytest.fixture(scope="module")
def shared(tmp_path_factory, ports, pki):
    target = {name: ports() for name in SERVERS}
    sections = {f"server.{how}": way(how) for how in WAYS}
    for how in WAYS:
        for version, suite, _ in SUITES:
            only = f"sslVersion = {version}\n{'ciphersuites' if version == 'TLSv1.3' else 'ciphers'} = {suite}\n"
            for name, port in target.items():
                sections[f"{name}.{how}.{suite}"] = way(how, f"client = yes\nrenegotiation = no\nconnect = 127.0.0.1:{port}\n{only}")
    shared = Shared(tmp_path_factory.mktemp("matrix"), ports, pki, sections)
    try:
        shared.servers = start_servers(shared, pki, target)
        yield shared
    finally:
        shared.close()


def check(shared, section, payload):
    """The kernel had both directions, by every count there is."""
    result = "kernel" if HAVE else "unsupported"
    shared.wait_results(section, result, result)
    shared.main.wait_idle()
    if not HAVE:
        return
    assert shared.kernel["TlsTxSw"] == 1 and shared.kernel["TlsRxSw"] == 1
    assert shared.kernel["TlsDecryptError"] == 0
    # A peer may begin at once, and send its tickets late: some bytes move before the keys are the kernel's.
    assert min(shared.kernel_bytes()) >= (len(payload) // 2 if SIZE >= 16 * MIB else 1)


# --- our server sections ---


def run_client(argv, payload):
    """A program that sends what it reads and prints what it gets: first the one, then the other."""
    child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        feed(child.stdin, payload.data)
        return digest(pipe_reader(child.stdout), len(payload))
    finally:
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()


@each_way
@each_suite
@pytest.mark.parametrize("peer", ["openssl", "gnutls", "curl"])
def test_client(shared, payload, peer, version, suite, cipher, how):
    section = f"server.{how}"
    port = shared.port[section]
    shared.begin(http_there_and_back(payload) if peer == "curl" else there_and_back(payload))
    v13 = version == "TLSv1.3"
    if peer == "openssl":
        got = run_client(["openssl", "s_client", "-quiet", "-nocommands", "-connect", f"127.0.0.1:{port}",
                          *(["-tls1_3", "-ciphersuites", suite] if v13 else ["-tls1_2", "-cipher", suite])], payload)
    elif peer == "gnutls":
        client = GnuTls(port, gnutls_priority(version, cipher), LIMIT * SLOW)
        client.sendall(payload.data)
        got = digest(client.recv, len(payload))
        client.close()
    else:
        done = subprocess.Popen([need("curl"), "-sk", "--fail", "-H", "Expect:", "-T", payload.path, f"https://127.0.0.1:{port}/",
                                 *(["--tlsv1.3", "--tls13-ciphers", suite] if v13 else ["--tls-max", "1.2", "--ciphers", suite])],
                                stdout=subprocess.PIPE)
        got = digest(pipe_reader(done.stdout), len(payload))
        done.stdout.close()
        assert done.wait(LIMIT * SLOW) == 0
    assert got == (payload.digest, len(payload))
    assert shared.backend.result() == (payload.digest, len(payload))
    shared.wait_log(f"{version} ciphersuite: {suite}")
    check(shared, section, payload)


# --- our client sections ---


def through_openssl(shared, port, payload):
    child = shared.servers["openssl"]
    with connect(port) as sock:
        sock.settimeout(LIMIT * SLOW)
        writer = threading.Thread(target=sock.sendall, args=(payload.data,), daemon=True)
        writer.start()
        there = digest(pipe_reader(child.stdout), len(payload))
        writer.join(TIMEOUT)
        feed(child.stdin, payload.data)
        return there, digest(sock.recv, len(payload))


def through_gnutls(_shared, port, payload):
    """An echo: both directions at once."""
    with connect(port) as sock:
        sock.settimeout(LIMIT * SLOW)
        threading.Thread(target=sock.sendall, args=(payload.data,), daemon=True).start()
        back = digest(sock.recv, len(payload))
        return back, back


def through_nginx(_shared, port, payload):
    """curl puts a file there and fetches it, by one connection."""
    url = f"http://127.0.0.1:{port}/file"
    curl = subprocess.Popen([need("curl"), "-sS", "--fail", "-H", "Expect:", "-T", payload.path, url, "--next", "-sS", "--fail", url],
                            stdout=subprocess.PIPE)
    back = digest(pipe_reader(curl.stdout), len(payload))
    curl.stdout.close()
    assert curl.wait(LIMIT * SLOW) == 0
    return back, back


@each_way
@each_suite
@pytest.mark.parametrize("peer", SERVERS)
def test_server(shared, payload, peer, version, suite, cipher, how):
    section = f"{peer}.{how}.{suite}"
    shared.begin()
    through = {"openssl": through_openssl, "gnutls": through_gnutls, "nginx": through_nginx}[peer]
    there, back = through(shared, shared.port[section], payload)
    assert there == back == (payload.digest, len(payload))
    shared.wait_log(f"{version} ciphersuite: {suite}")
    check(shared, section, payload)
