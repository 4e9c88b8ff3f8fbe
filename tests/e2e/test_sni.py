# Virtual hosts: the server name that a client sends chooses the section, and the connection is that section's in every respect.
#
#   clients ──TLS, SNI──> [p] ─┬─> backend "p"            no name, or one that no pattern means
#                              ├─ [one] ──> backend "one"
#                              └─ [two] ──> backend "two"
#
# SPDX-License-Identifier: Apache-2.0
import random
import socket
import ssl
import subprocess
import threading

import pytest

from peers import RESET, TIMEOUT, client_context, connect, echo, name, read_all, server_context
from proxy import SLOW, until

V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
VERSIONS = pytest.mark.parametrize("version", [V12, V13], ids=["TLSv1.2", "TLSv1.3"])

pytestmark = pytest.mark.san


class Hosts:
    """A proxy with a primary section p and virtual hosts: {section: options}, each with a backend that says the section's name."""

    def __init__(self, bench, sections, primary="", head="", handler=name):
        self.bench, self.port = bench, bench.ports()
        self.handler = handler
        self.backends = {}
        self.head = head
        self.proxy = bench.proxy(self.text(sections, primary))

    def backend(self, section):
        if section not in self.backends:
            self.backends[section] = self.bench.server(self.handler(section))
        return self.backends[section].port

    def text(self, sections, primary=""):
        text = f"{self.head}\ncert = {self.bench.pki.ec_pem}\n[p]\naccept = 127.0.0.1:{self.port}\n"
        text += f"connect = 127.0.0.1:{self.backend('p')}\n{primary}\n"
        for section, options in sections.items():
            text += f"[{section}]\nconnect = 127.0.0.1:{self.backend(section)}\n{options}\n"
        return text

    def client(self, server_name, context=None, **options):
        return self.bench.client(self.port, context, server_name=server_name, **options)

    def who(self, server_name, context=None, **options):
        """Which section's backend answers."""
        client = self.client(server_name, context, **options)
        return client.recv_exactly(1).decode() if self.handler is not name else client.recv().decode()


def s_client(port, *args, stdin=b"Q\n", need_ok=True):
    done = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{port}", *args], input=stdin, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=30 * SLOW)
    assert not need_ok or done.returncode == 0, done.stdout.decode(errors="replace")
    return done.stdout.decode(errors="replace")


# --- which section ---


@VERSIONS
@pytest.mark.valgrind
def test_patterns(bench, version):
    """Exact, or the end of a name behind a star; ASCII letters of either case; the first match in the order of the file."""
    hosts = Hosts(bench, {"one": "sni = p:www.example.test", "two": "sni = p:*.Example.test", "three": "sni = p:*x",
                          "four": "sni = p:four.x"})
    context = client_context(version=version)
    for server_name, section in [("www.example.test", "one"), ("WWW.example.TEST", "one"), ("ftp.example.test", "two"),
                                 ("a.b.example.test", "two"), ("example.test", "p"), ("wwww.example.test", "two"),
                                 ("four.x", "three"), ("x", "three"), ("y", "p"), ("www.example.test2", "p"), (None, "p"),
                                 ("127.0.0.1", "p")]:
        assert hosts.who(server_name, context) == section, server_name


@pytest.mark.ours
def test_several_names_of_a_section(bench):
    hosts = Hosts(bench, {"one": "sni = p:a.test\nsni = p:b.test", "two": "sni = p:*.test"})
    assert [hosts.who(each) for each in ("a.test", "b.test", "c.test")] == ["one", "one", "two"]


def test_star_alone_takes_every_name(bench):
    hosts = Hosts(bench, {"one": "sni = p:*"})
    assert [hosts.who("a.test"), hosts.who("b"), hosts.who(None)] == ["one", "one", "p"]


def test_log_lines(bench):
    hosts = Hosts(bench, {"one": "sni = p:*.test"})
    log = hosts.proxy.log()
    assert "LOG7[ui]: Skipped SNI secondary service [one]" in log
    hosts.client("a.test").bye()
    hosts.client("b").bye()
    hosts.client(None).bye()
    hosts.proxy.wait_log(r"LOG5\[2\]: Connection closed")
    for line in [r"LOG6\[0\]: SNI: requested servername: a\.test$", r"LOG7\[0\]: SNI: matched pattern: \*\.test$",
                 r"LOG5\[0\]: SNI: switched to service \[one\]$", r"LOG7\[0\]: Service \[one\] finished",
                 r"LOG6\[1\]: SNI: requested servername: b$", r"LOG3\[1\]: SNI: no pattern matched servername: b$",
                 r"LOG5\[2\]: SNI: no servername received$"]:
        assert len(hosts.proxy.lines(line)) == 1, line
    assert not hosts.proxy.lines(r"\[[12]\]: SNI: (switched|matched)")


def test_without_virtual_hosts(bench):
    proxy = bench.tls_server()
    bench.client(proxy.port, server_name="a.test").ping().bye()
    assert len(proxy.wait_log(r"LOG7\[0\]: SNI: no virtual services defined$")) == 1


def test_hello_in_single_bytes(bench):
    hosts = Hosts(bench, {"one": "sni = p:a.test"})
    for server_name, section in ("a.test", "one"), ("b.test", "p"):
        client = hosts.client(server_name, handshake=False)
        client.handshake(chunk=1)
        assert client.recv().decode() == section


@pytest.mark.ours
def test_hello_in_many_records(bench):
    hosts = Hosts(bench, {"one": "sni = p:a.test"})
    client = hosts.client("a.test", handshake=False)
    with pytest.raises(ssl.SSLWantReadError):
        client.tls.do_handshake()
    hello = client.outgoing.read()[5:]
    for i in range(0, len(hello), 11):
        part = hello[i:i + 11]
        client.sock.sendall(b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part)
    client.handshake()
    assert client.recv() == b"one"


@pytest.mark.ours
@pytest.mark.parametrize("change", ["nul", "type", "length", "empty"])
def test_malformed_name_ends_the_handshake(bench, change):
    hosts = Hosts(bench, {"one": "sni = p:*"})
    client = hosts.client("some.test", handshake=False)
    with pytest.raises(ssl.SSLWantReadError):
        client.tls.do_handshake()
    hello = bytearray(client.outgoing.read())
    at = hello.index(b"some.test")
    if change == "nul":
        hello[at] = 0
    elif change == "type":
        hello[at - 3] = 1
    elif change == "length":
        hello[at - 1] += 1
    else:
        hello[at - 4] = hello[at - 5] = 0
    client.sock.sendall(hello)
    alert = read_all(client.sock)[0]
    assert alert[:1] + alert[3:] == b"\x15\x00\x02\x02\x32"  # decode_error, RFC 8446 6.2
    hosts.proxy.wait_log(r"LOG3\[0\]: SNI: malformed servername")


@pytest.mark.ours
def test_name_is_acknowledged(bench):
    """RFC 6066 section 3: an empty extension says that the name was of use; there is none where it was not."""
    hosts = Hosts(bench, {"one": "sni = p:a.test"})
    for version in "-tls1_2", "-tls1_3":
        assert 'TLS server extension "server name"' in s_client(hosts.port, version, "-tlsextdebug", "-servername", "a.test")
        assert 'TLS server extension "server name"' not in s_client(hosts.port, version, "-tlsextdebug", "-servername", "b.test")


# --- what is the section's ---


def test_certificate(bench, pki):
    pem = pki.join("virtual.pem", pki.rsa, pki.rsa_key)
    hosts = Hosts(bench, {"one": f"sni = p:a.test\ncert = {pem}"})
    for version in V12, V13:
        context = client_context(version=version)
        with open(pki.rsa) as file:
            rsa = ssl.PEM_cert_to_DER_cert(file.read())
        with open(pki.ec) as file:
            ec = ssl.PEM_cert_to_DER_cert(file.read())
        assert hosts.client("a.test", context).tls.getpeercert(True) == rsa
        assert hosts.client("b.test", context).tls.getpeercert(True) == ec


@pytest.mark.ours
@pytest.mark.parametrize("options, arguments, expected, other", [
    ("sslVersionMax = TLSv1.2", [], "New, TLSv1.2", "New, TLSv1.3"),
    ("sslVersion = TLSv1.3", ["-tls1_2"], "alert protocol version", "New, TLSv1.2"),
    ("curves = P-384", [], "secp384r1", "X25519"),
    ("options = NO_TLSv1_3", [], "New, TLSv1.2", "New, TLSv1.3"),
    ("options = NO_ENCRYPT_THEN_MAC", ["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA256", "-tlsextdebug"],
     "New, TLSv1.2", "encrypt-then-mac"),
    ("ciphers = ECDHE-ECDSA-AES128-GCM-SHA256", ["-tls1_2"], "Cipher is ECDHE-ECDSA-AES128-GCM-SHA256",
     "Cipher is ECDHE-ECDSA-AES256-GCM-SHA384"),
    ("ciphersuites = TLS_CHACHA20_POLY1305_SHA256", [], "Cipher is TLS_CHACHA20_POLY1305_SHA256", "Cipher is TLS_AES_256_GCM_SHA384"),
    ("options = CIPHER_SERVER_PREFERENCE\nciphersuites = TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384", [],
     "Cipher is TLS_AES_128_GCM_SHA256", "Cipher is TLS_AES_256_GCM_SHA384"),
    ("securityLevel = 3", ["-tls1_2"], "New, TLSv1.2", "TLS session ticket:"),
    ("config = MaxProtocol:TLSv1.2", [], "New, TLSv1.2", "New, TLSv1.3"),
    ("options = NO_TICKET", ["-tls1_2"], "New, TLSv1.2", "TLS session ticket:"),
], ids=lambda value: value if isinstance(value, str) and "=" in value else "")
def test_tls_properties(bench, options, arguments, expected, other):
    """Each is seen in the virtual host and not in the primary; and the other way round when the primary has it."""
    hosts = Hosts(bench, {"one": "sni = p:a.test\n" + options, "two": "sni = p:b.test"})
    reverse = Hosts(bench, {"one": "sni = p:a.test"}, primary=options)
    with_option = [(hosts, "a.test"), (reverse, "c.test")]
    without = [(hosts, "b.test"), (hosts, "c.test"), (reverse, "a.test")]
    for where, server_name in with_option:
        said = s_client(where.port, *arguments, "-servername", server_name, need_ok=False)
        assert expected in said and other not in said, said
    for where, server_name in without:
        said = s_client(where.port, *arguments, "-servername", server_name, need_ok=False)
        assert other in said, said


@pytest.mark.ours
def test_log_level(bench):
    """Until the switch the lines are the primary's, then the virtual host's."""
    hosts = Hosts(bench, {"quiet": "sni = p:quiet\ndebug = 0", "loud": "sni = p:loud\ndebug = 7"}, primary="debug = 5")
    hosts.client("quiet").bye()
    hosts.client("loud").bye()
    hosts.proxy.wait_log(r"LOG5\[1\]: Connection closed")
    assert [line.split("]: ")[1].rsplit(" from", 1)[0] for line in hosts.proxy.lines(r"\[0\]: ")] == [
        "Service [p] accepted connection", "SNI: switched to service [quiet]"]
    lines = hosts.proxy.lines(r"\[1\]: ")
    assert any("TLSv1.3 ciphersuite" in line for line in lines) and any("Service [loud] finished" in line for line in lines)
    assert not any("SNI: requested" in line for line in lines)


def test_timeouts(bench):
    def silent(_name):
        return echo

    hosts = Hosts(bench, {"one": "sni = p:a.test\nTIMEOUTidle = 1"}, handler=silent)
    with hosts.client("a.test") as client:
        client.ping()
        client.recv_all()
    hosts.proxy.wait_log(r"LOG6\[0\]: transfer: s_poll_wait: TIMEOUTidle exceeded")
    with hosts.client("b.test") as client:
        client.ping()


def test_busy_timeout_of_the_handshake(bench):
    """It begins anew with the switch: whoever says a name and nothing more is waited for as the virtual host says."""
    hosts = Hosts(bench, {"one": "sni = p:a.test\nTIMEOUTbusy = 1"})
    client = hosts.client("a.test", handshake=False)
    with pytest.raises(ssl.SSLWantReadError):
        client.tls.do_handshake()
    client.flush()
    assert client.sock.recv(1)
    hosts.proxy.wait_log(r"\[0\]: ssl_start: s_poll_wait: TIMEOUTbusy exceeded")


def test_connect_and_its_failure(bench):
    """A virtual host whose backend is not there does not fall back to the primary's."""
    hosts = Hosts(bench, {"one": "sni = p:a.test"})
    hosts.backends["one"].close()
    client = hosts.client("a.test")
    assert client.recv_all() == b"" and client.ended == RESET
    hosts.proxy.wait_log(r"LOG3\[0\]: No more addresses to connect")
    assert hosts.who("b.test") == "p"


@pytest.mark.ours
def test_relay_options(bench):
    def mute(_name):
        return echo

    hosts = Hosts(bench, {"one": "sni = p:a.test\nktls = no\ninplace = no"}, handler=mute)
    hosts.client("a.test").ping().bye()
    hosts.proxy.wait_log(r"\[0\]: Connection closed")
    assert len(hosts.proxy.lines(r"LOG7\[0\]: Kernel TLS: [tr]x: stays in user space: the configuration says so")) == 2
    hosts.client("b.test").ping().bye()
    hosts.proxy.wait_log(r"\[1\]: Connection closed")
    assert not hosts.proxy.lines(r"\[1\]: Kernel TLS: .*: the configuration says so")


@pytest.mark.ours
def test_metrics(bench):
    admin = bench.ports()
    hosts = Hosts(bench, {"one": "sni = p:a.test"}, head=f"admin = 127.0.0.1:{admin}")
    open_client = hosts.client("a.test")
    hosts.client("a.test").bye()
    hosts.client("b.test").bye()

    def metrics():
        with connect(admin) as sock:
            sock.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            text = read_all(sock)[0].decode()
        return {line.split(" ")[0]: int(line.split(" ")[1]) for line in text.splitlines() if line.startswith("tlsplice_conn")
                or line.startswith("tlsplice_handshakes")}

    def value(counter, service):
        return sum(value for key, value in metrics().items() if key.startswith(f"tlsplice_{counter}{{") and f'"{service}"' in key)

    until(lambda: value("connections_active", "one") == 1 and value("connections_active", "p") == 0, what="the active ones")
    assert value("connections_accepted_total", "p") == 3
    assert value("connections_switched_total", "one") == 2 and value("connections_switched_total", "p") == 0
    assert value("handshakes_full_total", "one") == 2 and value("handshakes_full_total", "p") == 1
    open_client.bye()
    until(lambda: value("connections_active", "one") == 0, what="none active")


# --- sessions ---


def session_of(hosts, server_name, context):
    client = hosts.client(server_name, context)
    client.recv()  # TLS 1.3: the tickets come before the data
    session = client.tls.session
    client.bye()
    return session


def resumes(hosts, server_name, context, session):
    """Whether the session is taken, and who answers."""
    client = hosts.client(server_name, context, session=session)
    answer = client.recv().decode()
    reused = client.tls.session_reused
    client.bye()
    return reused, answer


@pytest.mark.ours
@VERSIONS
@pytest.mark.parametrize("options", ["", "options = NO_TICKET"], ids=["ticket", "cache"])
def test_sessions_stay_in_their_section(bench, version, options):
    """A session of one section is a full handshake in another, in every direction; in its own it is resumed."""
    hosts = Hosts(bench, {"one": "sni = p:a.test", "two": "sni = p:b.test"}, head=options)
    names = {"p": None, "one": "a.test", "two": "b.test"}
    context = client_context(version=version)
    for of in names:
        for to in names:
            session = session_of(hosts, names[of], context)
            assert resumes(hosts, names[to], context, session) == (of == to, to), (of, to)


@pytest.mark.ours
@VERSIONS
@pytest.mark.parametrize("which", ["p", "one"])
def test_session_resume_is_each_section_s_own(bench, version, which):
    no = "sessionResume = no"
    hosts = Hosts(bench, {"one": "sni = p:a.test\n" + (no if which == "one" else "")}, primary=no if which == "p" else "")
    context = client_context(version=version)
    for section, server_name in ("p", "b.test"), ("one", "a.test"):
        session = session_of(hosts, server_name, context)
        if section == which and (version == V12 or not session):
            assert not session or not session.has_ticket
        elif section != which:
            assert resumes(hosts, server_name, context, session) == (True, section)


# --- reload, load ---


@pytest.mark.ours
def test_reload(bench):
    """Virtual hosts come and go; connections stay, and so do sessions of sections that are as they were."""
    def mute(_name):
        return echo

    hosts = Hosts(bench, {"one": "sni = p:a.test"})
    context = client_context(version=V13)
    open_client = hosts.client("a.test", context)
    assert open_client.recv() == b"one"
    session = session_of(hosts, "a.test", context)
    assert hosts.who("b.test") == "p"
    assert hosts.proxy.hup(hosts.text({"one": "sni = p:a.test", "two": "sni = p:b.test"}))
    assert hosts.who("b.test") == "two"
    assert resumes(hosts, "a.test", context, session) == (True, "one")
    assert hosts.proxy.hup(hosts.text({"two": "sni = p:b.test"}))
    assert hosts.who("a.test") == "p"
    open_client.close_notify()
    assert open_client.recv_all() == b""


def test_many_at_once(bench):
    hosts = Hosts(bench, {f"v{i}": f"sni = p:{i}.test" for i in range(10)})
    wrong = []

    def work(seed):
        chance = random.Random(seed)
        for _ in range(10):
            i = chance.randrange(12)
            expected = f"v{i}" if i < 10 else "p"
            try:
                client = hosts.client(f"{i}.test")
                got = client.recv().decode()
                client.bye()
            except Exception as error:  # reported below
                got = repr(error)
            if got != expected:
                wrong.append((i, got))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT * 3)
    assert not wrong


# --- other programs ---


def test_curl_and_gnutls(bench, pki, need):
    hosts = Hosts(bench, {"one": f"sni = p:*.example.test\ncert = {pki.rsa_pem}"})
    out = subprocess.run([need("gnutls-cli"), "--x509cafile", pki.ca, "--sni-hostname", "a.example.test", "--verify-hostname",
                          "a.example.test", "-p", str(hosts.port), "127.0.0.1"], stdin=subprocess.DEVNULL,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60 * SLOW).stdout.decode(errors="replace")
    assert "Status: The certificate is trusted" in out and "RSA" in out, out
    out = subprocess.run([need("curl"), "-sv", "--http0.9", "--cacert", pki.ca, "--resolve", f"b.example.test:{hosts.port}:127.0.0.1",
                          f"https://b.example.test:{hosts.port}/", "-m", "3"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, timeout=60 * SLOW).stdout.decode(errors="replace")
    assert "SSL certificate verify ok" in out, out
    hosts.proxy.wait_log(r"SNI: switched to service \[one\]", 2)


@pytest.mark.ours
def test_stunnel_as_client(bench, need):
    hosts = Hosts(bench, {"one": "sni = p:a.test"})
    port, conf = bench.ports(), str(bench.directory) + "/stunnel.conf"
    with open(conf, "w") as file:
        file.write(f"foreground = yes\npid =\nsyslog = no\n[c]\nclient = yes\nsni = a.test\naccept = 127.0.0.1:{port}\n"
                   f"connect = 127.0.0.1:{hosts.port}\n")
    bench.run([need("stunnel4"), conf])
    until(lambda: not bench.ports.free(port), 20, "stunnel listens")
    with connect(port) as sock:
        assert sock.recv(100) == b"one"


# --- client mode: what is sent ---


@pytest.mark.ours
@pytest.mark.parametrize("host, options, expected", [
    ("127.0.0.1", "", None), ("::1", "", None), ("[::1]", "", None), ("localhost", "", "localhost"), ("127.1", "", None),
    ("localhost", "sni = 127.0.0.1", None), ("localhost", "sni = ::1", None), ("localhost", "sni = [::1]", None),
    ("localhost", "sni = fe80::1%lo", None), ("localhost", "sni = name.test.", "name.test"), ("localhost", "sni =", None)])
def test_addresses_are_not_sent_as_names(bench, pki, host, options, expected):
    names = []
    context = server_context(pki.ec_pem)
    context.sni_callback = lambda sock, server_name, ctx: names.append(server_name)
    family = ("::1",) if ":" in host else ("127.0.0.1",)
    port = bench.ports()
    bench.server(echo, (port, *family), context=context)
    proxy = bench.tls_client(f"{host}:{port}", options)
    with connect(proxy.port) as sock:
        sock.sendall(b"ping")
        assert sock.recv(4) == b"ping"
        sock.shutdown(socket.SHUT_WR)
        read_all(sock)
    assert names == [expected]
    proxy.wait_log(rf"LOG6\[0\]: SNI: sending servername: {expected}$" if expected else r"LOG7\[0\]: SNI: extension disabled")


# --- client certificates ---


def trusting(bench, pki, options=""):
    """The primary wants no certificate; one, two and three do, each in its way."""
    return Hosts(bench, {"one": f"sni = p:one\nverifyChain = yes\nCAfile = {pki.ca}",
                         "two": f"sni = p:two\nverifyPeer = yes\nCAfile = {pki.client}",
                         "three": f"sni = p:three\nverifyChain = yes\nCAfile = {pki.other_ca}"}, head=options)


def is_let_in(hosts, server_name, context, session=None):
    try:
        return hosts.client(server_name, context, session=session).recv().decode() == server_name
    except (ssl.SSLError, OSError):
        return False


@VERSIONS
def test_trust(bench, pki, version):
    hosts = trusting(bench, pki)
    without, with_one = client_context(version=version), client_context(version=version, certificate=pki.client_pem)
    assert [is_let_in(hosts, host, without) for host in ("one", "two", "three")] == [False, False, False]
    assert [is_let_in(hosts, host, with_one) for host in ("one", "two", "three")] == [True, True, False]
    assert hosts.who("other", with_one) == "p" and hosts.who("other", without) == "p"


@pytest.mark.ours
@VERSIONS
@pytest.mark.parametrize("options", ["", "options = NO_TICKET"], ids=["ticket", "cache"])
def test_session_without_certificate_does_not_open_a_virtual_host(bench, pki, version, options):
    """A session that the primary has given without asking for a certificate: a full handshake in the virtual hosts, refused without one."""
    hosts = trusting(bench, pki, options)
    context = client_context(version=version)
    for host in "one", "two", "three":
        session = session_of(hosts, None, context)
        assert session
        assert not is_let_in(hosts, host, context, session)
        assert hosts.backends[host].accepted == 0
    assert resumes(hosts, None, context, session_of(hosts, None, context)) == (True, "p")


@pytest.mark.ours
@VERSIONS
@pytest.mark.parametrize("options", ["", "options = NO_TICKET"], ids=["ticket", "cache"])
def test_session_of_one_trust_is_none_of_another(bench, pki, version, options):
    """The certificate that opened one virtual host is asked for again in the next, which does not take it."""
    hosts = trusting(bench, pki, options)
    context = client_context(version=version, certificate=pki.client_pem)
    session = session_of(hosts, "one", context)
    assert resumes(hosts, "one", context, session) == (True, "one")
    assert not is_let_in(hosts, "three", context, session_of(hosts, "one", context))
    assert hosts.backends["three"].accepted == 0
    assert resumes(hosts, "two", context, session_of(hosts, "one", context)) == (False, "two")


# --- with what else a section has ---


SHARED = "ticketKeySecret = 00112233445566778899aabbccddeeff\nticketMacSecret = ffeeddccbbaa99887766554433221100"


@pytest.mark.ours
@VERSIONS
def test_ticket_keys_in_common_open_no_door(bench, pki, version):
    """All sections have the same ticket keys, and names that begin alike: a ticket is still only good where it was made."""
    long = "a-name-whose-first-32-bytes-are-the-same-"
    port, backends = bench.ports(), {each: bench.server(name(each)) for each in ("p", "one", "two")}
    bench.proxy(f"cert = {pki.ec_pem}\n{SHARED}\n[{long}p]\naccept = 127.0.0.1:{port}\nconnect = 127.0.0.1:{backends['p'].port}\n" + "".join(
        f"[{long}{each}]\nsni = {long}p:{each}\nconnect = 127.0.0.1:{backends[each].port}\n{options}\n" for each, options in
        (("one", f"verifyChain = yes\nCAfile = {pki.ca}"), ("two", ""))))

    def visit(server_name, context, session=None):
        client = bench.client(port, context, server_name=server_name, session=session)
        answer, reused, ticket = client.recv().decode(), client.tls.session_reused, client.tls.session
        client.bye()
        return answer, reused, ticket

    context = client_context(version=version)
    for server_name, section in ("elsewhere", "p"), ("two", "two"):
        answer, _, session = visit(server_name, context)
        assert answer == section
        assert visit(server_name, context, session)[:2] == (section, True)
        _, _, session = visit(server_name, context)
        with pytest.raises((ssl.SSLError, OSError)):
            visit("one", context, session)
        assert backends["one"].accepted == 0
    _, _, session = visit("elsewhere", context)
    assert visit("two", context, session)[:2] == ("two", False)


@pytest.mark.ours
@VERSIONS
def test_redirect_of_a_virtual_host(bench, pki, version):
    """Clients without a certificate go where the virtual host says, resumed or not; the primary has no such place."""
    elsewhere = bench.server(name("elsewhere"))
    hosts = Hosts(bench, {"one": f"sni = p:one\nverifyChain = yes\nCAfile = {pki.ca}\nredirect = 127.0.0.1:{elsewhere.port}"})
    without, with_one = client_context(version=version), client_context(version=version, certificate=pki.client_pem)
    assert hosts.who("one", with_one) == "one" and hosts.who("one", without) == "elsewhere" and hosts.who("x", without) == "p"
    session = session_of(hosts, "one", without)
    assert resumes(hosts, "one", without, session) == (True, "elsewhere")
    assert resumes(hosts, "one", without, session_of(hosts, "x", without)) == (False, "elsewhere")


@pytest.mark.ours
def test_certificate_of_a_virtual_host_changes(bench, pki, tmp_path):
    pem = tmp_path / "changing.pem"

    def put(path):
        with open(path) as source:
            pem.write_text(source.read())
        pem.chmod(0o600)

    put(pki.rsa_pem)
    hosts = Hosts(bench, {"one": f"sni = p:one\ncert = {pem}\ncertReload = yes"})
    before = hosts.client("one").tls.getpeercert(True)
    put(pki.chain_pem)
    hosts.proxy.wait_log(r"Service \[one\]: changed files of certificates loaded")
    until(lambda: hosts.client("one").tls.getpeercert(True) != before, what="the new certificate")
    assert hosts.who("one") == "one" and hosts.who("x") == "p"


@VERSIONS
def test_upstream_is_the_virtual_host_s(bench, version):
    """Its addresses and its rule, with the session's memory of them where that is the section's."""
    hosts = Hosts(bench, {})
    a, b = bench.server(name("a")).port, bench.server(name("b")).port
    text = hosts.text({}) + f"[one]\nsni = p:one\nconnect = 127.0.0.1:{a}\nconnect = 127.0.0.1:{b}\nfailover = rr\n"
    assert hosts.proxy.hup(text)
    context = client_context(version=version)
    assert {hosts.who("one", context) for _ in range(4)} == {"a", "b"}
    assert hosts.who("x", context) == "p"


@pytest.mark.ours
@VERSIONS
def test_with_handshakes_that_wait_for_an_engine(bench, version):
    """`async` in the primary, in the virtual host, in both."""
    for primary, virtual in ("async = yes", ""), ("", "async = yes"), ("async = yes", "async = yes"):
        hosts = Hosts(bench, {"one": f"sni = p:one\n{virtual}"}, primary=primary)
        context = client_context(version=version)
        assert hosts.who("one", context) == "one" and hosts.who("x", context) == "p"
        assert resumes(hosts, "one", context, session_of(hosts, "one", context)) == (True, "one")
