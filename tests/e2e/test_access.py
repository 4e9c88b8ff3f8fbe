# Who may come in: libwrap (hosts.allow, hosts.deny) and ident (RFC 1413).
#
#   client 127.A.B.n ──TLS──> 127.0.0.1 [s] ──> backend
#          127.A.B.n:113 <── ident ── from 127.0.0.1, about that connection
#          127.A.B.53 name server <── the library's lookups
#
# A and B belong to the runner, so that several can have port 113. The proxy sees hosts.allow, hosts.deny, resolv.conf and nsswitch.conf of the test's
# own: it runs in a mount namespace in which they are bound over those of the machine.
# SPDX-License-Identifier: Apache-2.0
import os
import re
import signal
import socket
import ssl
import subprocess
import threading
import time

import pytest

from peers import RESET, abort, connect, echo, name, read_all, server_context
from proxy import BINARY, run_once, until

pytestmark = [pytest.mark.san, pytest.mark.ours]

BOUND = ("hosts.allow", "hosts.deny", "resolv.conf", "nsswitch.conf")

# In a jail there is no /proc, which the search for leaks at the end needs, and no program that gives addresses the names that tests/tsan.supp knows.
IN_JAIL = {"ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0",
           "TSAN_OPTIONS": os.environ.get("TSAN_OPTIONS", "") + ":report_bugs=0"}


@pytest.fixture
def network(tmp_path):
    """127.A.B. of this runner."""
    runner = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
    return f"127.{100 + os.getpid() % 100}.{runner}."


class Files:
    """The files that the library reads, as the proxy sees them."""

    def __init__(self, directory):
        self.directory = directory
        for file in BOUND:
            (directory / file).write_text("")
            if not os.path.exists("/etc/" + file):
                pytest.fail(f"/etc/{file} is not there (tests/install-deps test)")
        (directory / "nsswitch.conf").write_text("hosts: files\npasswd: files\ngroup: files\nservices: files\n")
        binds = " && ".join(f"mount --bind {directory}/{file} /etc/{file}" for file in BOUND)
        self.prefix = ["unshare", "-m", "sh", "-c", binds + ' && exec "$@"', "sh"]

    def write(self, allow=None, deny=None):
        """In place: the files are bound."""
        for file, text in (("hosts.allow", allow), ("hosts.deny", deny)):
            if text is not None:
                (self.directory / file).write_text(text)

    def ask(self, server):
        (self.directory / "resolv.conf").write_text(f"nameserver {server}\noptions timeout:60 attempts:1\n")
        (self.directory / "nsswitch.conf").write_text("hosts: files dns\npasswd: files\ngroup: files\nservices: files\n")


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


def wrapped(bench, files, extra="", **options):
    proxy = bench.tls_server("libwrap = yes\n" + extra, prefix=files.prefix, **options)
    idle_helpers(proxy)
    return proxy


def helpers(proxy):
    """The helper processes of a proxy and their children: {pid: parent's pid}."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
            with open(f"/proc/{pid}/stat") as file:
                fields = file.read().rsplit(")", 1)[1].split()
            if words[0] == b"tlsplice-libwrap" and mount_namespace(pid) == mount_namespace(proxy.pid):
                found[int(pid)] = int(fields[1])
        except (OSError, IndexError):
            pass
    return found


def idle_helpers(proxy, count=2):
    """(the one that starts the other, the one that serves), once they have no children."""
    found = until(lambda: len(helpers(proxy)) == count and helpers(proxy), what="helper processes without children")
    return sorted(found, key=lambda pid: found[pid] in found)


def running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def mount_namespace(pid):
    return os.readlink(f"/proc/{pid}/ns/mnt")


def call(bench, port, source):
    """A plain client; None if it has been cut off already."""
    try:
        return bench.keep(connect(port, source=source))
    except ConnectionResetError:
        return None


def refused(bench, port, source):
    """A client that is cut off before any byte of TLS."""
    sock = call(bench, port, source)
    if not sock:
        return True
    try:
        sock.sendall(b"\x16\x03\x01")
    except OSError:
        pass
    return read_all(sock) == (b"", RESET)


def served(bench, port, source, **options):
    client = bench.client(port, source=source, **options)
    client.send(b"hello")
    return client.recv_exactly(5) == b"hello"


# --- libwrap ---


def test_the_library_decides(bench, files, network):
    files.write(deny=f"s: {network}2\n")
    proxy = wrapped(bench, files)
    assert served(bench, proxy.port, network + "1")
    assert refused(bench, proxy.port, network + "2")
    line = proxy.wait_log(r"LOG4\[\d+\]: Service \[s\] REFUSED by libwrap from ")[0]
    assert re.search(rf"from {re.escape(network)}2:\d+$", line)
    proxy.wait_log(r"LOG7\[\d+\]: See hosts_access\(5\) manual for details$")
    proxy.wait_log(rf"LOG7\[\d+\]: Service \[s\] permitted by libwrap from {re.escape(network)}1:\d+$")
    proxy.wait_log("Connection reset: 0 byte")
    # Who is refused has not been accepted, and the backend has not heard of it.
    assert len(proxy.lines(r"Service \[s\] accepted connection")) == 1
    assert proxy.backend.accepted == 1


def test_files_are_read_for_each_connection(bench, files, network):
    files.write(deny="ALL: ALL\n")
    proxy = wrapped(bench, files)
    assert refused(bench, proxy.port, network + "1")
    files.write(allow=f"s: {network}1\n")
    assert served(bench, proxy.port, network + "1")
    files.write(allow="", deny="")
    assert served(bench, proxy.port, network + "1")
    files.write(deny=f"s: {network}\n")  # a prefix
    assert refused(bench, proxy.port, network + "1")


@pytest.mark.parametrize("rule, ok", [("s: ALL", True), ("ALL: LOCAL", True), ("other: ALL", False), ("s@127.0.0.1: ALL", True), ("s@127.0.0.2: ALL", False),
                                      ("joe@ALL", False), ("s: NET0/255.255.255.0", True), ("s: ALL EXCEPT NET1", False), ("s: ALL: deny", False),
                                      ("s: ALL: allow", True), ("s: localhost", True), ("s: ALL: nice 5: setenv X Y: umask 077", True)])
def test_rules(bench, files, network, rule, ok):
    """LOCAL and localhost are names: 127.0.0.1 has one in /etc/hosts."""
    named = "LOCAL" in rule or "localhost" in rule
    source = "127.0.0.1" if named else network + "1"
    files.write(allow=rule.replace("NET", network) + "\n", deny="ALL: ALL\n")
    proxy = wrapped(bench, files)
    assert (served if ok else refused)(bench, proxy.port, source)


def test_the_daemon_is_the_service(bench, files, network):
    """The section's name, or what its `service` says."""
    files.write(allow="imaps: ALL\n", deny="ALL: ALL\n")
    assert served(bench, wrapped(bench, files, "service = imaps").port, network + "1")
    assert refused(bench, wrapped(bench, files).port, network + "1")


def test_client_mode(bench, files, network, pki):
    files.write(deny=f"c: {network}2\n")
    server = bench.server(echo, context=server_context(pki.ec_pem))
    proxy = bench.tls_client(server.port, "libwrap = yes", prefix=files.prefix)
    good = bench.keep(connect(proxy.port, source=network + "1"))
    good.sendall(b"x")
    assert good.recv(1) == b"x"
    assert refused(bench, proxy.port, network + "2")
    assert server.accepted == 1


def test_ipv6(bench, files):
    port = bench.ports()
    files.write(deny="s: [::1]\n")
    proxy = bench.proxy(f"[s]\naccept = :::{port}\nconnect = {bench.server(echo).port}\ncert = {bench.pki.ec_pem}\nlibwrap = yes\n", prefix=files.prefix)
    sock = bench.keep(connect(("::1", port)))
    assert read_all(sock)[0] == b""
    proxy.wait_log(r"REFUSED by libwrap from ::1:\d+")
    assert served(bench, port, "127.0.0.1")  # as ::ffff:127.0.0.1, which is an IPv4 address to the library


def test_unix_sockets_are_not_asked_about(bench, files, tmp_path):
    path = str(tmp_path / "socket")
    files.write(deny="ALL: ALL\n")
    proxy = bench.proxy(f"[s]\naccept = {path}\nconnect = {bench.server(echo).port}\ncert = {bench.pki.ec_pem}\nlibwrap = yes\n", prefix=files.prefix)
    client = bench.client(path)
    client.send(b"x")
    assert client.recv(1) == b"x"
    proxy.wait_log(r"LOG6\[0\]: Libwrap is not supported on Unix sockets$")


def test_programs(bench, files, network):
    """The client of a program is asked about before it is started."""
    files.write(deny=f"s: {network}2\n")
    port = bench.ports()
    proxy = bench.proxy(f"[s]\naccept = 127.0.0.1:{port}\nexec = /bin/cat\nexecArgs = cat\ncert = {bench.pki.ec_pem}\nlibwrap = yes\n", prefix=files.prefix)
    assert served(bench, port, network + "1")
    assert refused(bench, port, network + "2")
    assert len(proxy.wait_log("Child process|started$")) >= 1 and not proxy.lines(rf"accepted connection from {re.escape(network)}2")


@pytest.mark.parametrize("closed", ["", " 2>&-"], ids=["", "no-stderr"])
def test_inetd(bench, files, network, tmp_path, closed):
    """One connection, on descriptors 0 and 1."""
    files.write(deny=f"stunnel: {network}2\n")
    listener = bench.keep(socket.create_server(("127.0.0.1", bench.ports())))
    server = bench.server(echo)
    config = tmp_path / "inetd.conf"
    config.write_text(f"syslog = no\ndebug = debug\noutput = {tmp_path}/log\nconnect = {server.port}\ncert = {bench.pki.ec_pem}\nlibwrap = yes\n")

    def proxy():
        sock, _ = listener.accept()
        with sock:
            bench.run([*files.prefix, "sh", "-c", f'exec "$@"{closed}', "sh", BINARY, str(config)], stdin=sock, stdout=sock, stderr=subprocess.DEVNULL)

    threads = [threading.Thread(target=proxy) for _ in range(2)]
    threads[0].start()
    client = bench.client(listener.getsockname()[1], source=network + "1")
    client.send(b"hello")
    assert client.recv_exactly(5) == b"hello"
    threads[1].start()
    assert refused(bench, listener.getsockname()[1], network + "2")
    for thread in threads:
        thread.join()
    until(lambda: "REFUSED by libwrap from " + network + "2:" in (tmp_path / "log").read_text(), what="the log")


# --- libwrap and virtual hosts ---


def hosts(bench, files, primary="", secondary="libwrap = yes"):
    port = bench.ports()
    backends = {section: bench.server(name(section)) for section in "pv"}
    proxy = bench.proxy(f"cert = {bench.pki.ec_pem}\n[p]\naccept = 127.0.0.1:{port}\nconnect = {backends['p'].port}\n{primary}\n"
                        f"[v]\nsni = p:v.test\nconnect = {backends['v'].port}\n{secondary}\n", prefix=files.prefix)
    proxy.port, proxy.backends = port, backends
    return proxy


def test_both_sections_are_asked_about(bench, files, network):
    files.write(deny=f"p: {network}2\nv: {network}3\n")
    proxy = hosts(bench, files, "libwrap = yes")
    who = lambda n, server_name: bench.client(proxy.port, source=network + str(n), server_name=server_name).recv()
    assert who(1, "p.test") == b"p" and who(1, "v.test") == b"v" and who(3, "p.test") == b"p"
    assert refused(bench, proxy.port, network + "2")
    with pytest.raises(ssl.SSLError, match="ACCESS_DENIED"):
        bench.client(proxy.port, source=network + "3", server_name="v.test")
    proxy.wait_log(rf"LOG4\[\d+\]: Service \[v\] REFUSED by libwrap from {re.escape(network)}3:")
    proxy.wait_log(rf"LOG7\[\d+\]: Service \[v\] permitted by libwrap from {re.escape(network)}1:")
    assert proxy.backends["v"].accepted == 1


def test_only_the_virtual_host_asks(bench, files, network):
    files.write(deny="p: ALL\nv: ALL EXCEPT " + network + "1\n")
    proxy = hosts(bench, files)
    assert bench.client(proxy.port, source=network + "2", server_name="p.test").recv() == b"p"
    assert bench.client(proxy.port, source=network + "1", server_name="v.test").recv() == b"v"
    with pytest.raises(ssl.SSLError, match="ACCESS_DENIED"):
        bench.client(proxy.port, source=network + "2", server_name="v.test")


def test_only_the_first_section_asks(bench, files, network):
    files.write(deny="v: ALL\n")
    proxy = hosts(bench, files, "libwrap = yes", "")
    assert bench.client(proxy.port, source=network + "1", server_name="v.test").recv() == b"v"


# --- slow lookups ---


class NameServer:
    """Knows no name; says nothing about some addresses."""

    def __init__(self, address, silent):
        self.silent = silent.rsplit(".", 1)[1].encode()
        self.asked = 0
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind((address, 53))
        self.sock.settimeout(0.1)
        self.closed = False
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while not self.closed:
            try:
                query, sender = self.sock.recvfrom(512)
            except socket.timeout:
                continue
            if query[12:13 + len(self.silent)] == bytes([len(self.silent)]) + self.silent:
                self.asked += 1
                continue
            # NXDOMAIN, with the question (RFC 1035 section 4.1).
            self.sock.sendto(query[:2] + b"\x81\x83" + query[4:6] + bytes(6) + query[12:], sender)

    def close(self):
        self.closed = True
        self.thread.join()
        self.sock.close()


SLOW_CLIENTS = 40


def slow_set_up(bench, files, network, extra="", head=""):
    server = bench.keep(NameServer(network + "53", network + "9"))
    files.ask(network + "53")
    files.write(deny="s: .evil.test\n")
    return server, wrapped(bench, files, extra, head=head)


def test_slow_lookups_hold_up_nobody_else(bench, files, network):
    """More clients with names that nobody tells than the proxy has threads of any kind."""
    server, proxy = slow_set_up(bench, files, network, head="workers = 1")
    slow = [bench.keep(connect(proxy.port, source=network + "9")) for _ in range(SLOW_CLIENTS)]
    until(lambda: server.asked >= SLOW_CLIENTS, 60, what="slow lookups")
    for _ in range(20):
        assert served(bench, proxy.port, network + "1")
    assert len(proxy.wait_log("accepted connection", 20)) == 20
    # A reload need not wait either, nor the end.
    assert proxy.hup()
    assert served(bench, proxy.port, network + "1")
    for sock in slow:
        sock.close()
    proxy.expect_open = True
    proxy.stop()


def test_a_lookup_has_a_deadline(bench, files, network):
    server, proxy = slow_set_up(bench, files, network, "TIMEOUTbusy = 1")

    def refused_while_looked_up():
        """On a busy machine the second may be over before there is a child that looks anything up."""
        before = server.asked
        assert refused(bench, proxy.port, network + "9")
        return server.asked > before

    until(refused_while_looked_up, 60, "a lookup under way at the deadline")
    proxy.wait_log(r"LOG6\[\d+\]: libwrap: s_poll_wait: TIMEOUTbusy exceeded: sending reset$")
    assert not proxy.lines("accepted connection")
    idle_helpers(proxy)  # the child that waited has gone


# --- the helper process ---


def test_helpers_that_die_are_replaced(bench, files, network):
    files.write(deny=f"s: {network}2\n")
    proxy = wrapped(bench, files)

    def works():
        return served(bench, proxy.port, network + "1") and refused(bench, proxy.port, network + "2")

    first, second = idle_helpers(proxy)
    os.kill(second, signal.SIGKILL)  # the other one sees to it
    assert works()
    again = idle_helpers(proxy)
    assert again[0] == first and again[1] != second
    os.kill(first, signal.SIGKILL)  # it only waits
    assert works()
    os.kill(again[1], signal.SIGKILL)
    proxy.wait_log(r"LOG4\[\w+\]: libwrap: the helper process had died; there is another one$")
    assert works()
    for pid in idle_helpers(proxy):
        os.kill(pid, signal.SIGKILL)
    proxy.wait_log(r"LOG4\[\w+\]: libwrap: the helper process had died; there is another one$", 2)
    assert works()


def test_no_answer_is_a_no(bench, files, network):
    server, proxy = slow_set_up(bench, files, network)
    before = set(idle_helpers(proxy))
    sock = bench.keep(connect(proxy.port, source=network + "9"))
    until(lambda: server.asked, what="the lookup")
    for pid in set(helpers(proxy)) - before:
        os.kill(pid, signal.SIGKILL)
    assert read_all(sock) == (b"", RESET)
    proxy.wait_log(r"LOG3\[0\]: libwrap: the helper process has given no answer$")
    proxy.wait_log(r"LOG4\[0\]: Service \[s\] REFUSED by libwrap from ")


def test_the_helper_is_outside_of_the_jail_and_has_no_privileges(bench, files, network, tmp_path):
    jail = tmp_path / "jail"
    jail.mkdir()
    files.write(deny=f"s: {network}2\n")
    proxy = wrapped(bench, files, head=f"chroot = {jail}\nsetuid = nobody\nsetgid = nogroup", env=IN_JAIL)
    for _ in range(2):
        assert served(bench, proxy.port, network + "1")
        assert refused(bench, proxy.port, network + "2")
        for pid in idle_helpers(proxy):
            with open(f"/proc/{pid}/status") as status:
                text = status.read()
            assert re.search(r"(?m)^Uid:\t65534\t65534\t65534\t65534$", text) and re.search(r"(?m)^Gid:\t65534\t65534\t65534\t65534$", text)
            assert re.search(r"(?m)^Groups:\t65534 $", text)
            assert os.readlink(f"/proc/{pid}/root") == "/"
        os.kill(idle_helpers(proxy)[1], signal.SIGKILL)


def test_the_helper_begins_with_the_first_section_that_asks_and_ends_with_the_proxy(bench, files, network):
    proxy = bench.tls_server(prefix=files.prefix)
    text = proxy.text
    assert not helpers(proxy)
    assert proxy.hup(text[len(proxy.preamble):] + "libwrap = yes\n")
    files.write(deny="ALL: ALL\n")
    assert refused(bench, proxy.port, network + "1")
    pids = idle_helpers(proxy)
    for pid in pids:
        with open(f"/proc/{pid}/status") as status:
            threads = int(re.search(r"Threads:\s*(\d+)", status.read()).group(1))
        assert threads == 1 or "san-thread" in BINARY  # which has one of its own
        links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        assert not [link for link in links if "io_uring" in link or bench.pki.ec_pem in link]
        assert len([link for link in links if link.startswith("socket:")]) == 1
    assert proxy.hup(text[len(proxy.preamble):] + "libwrap = yes\n")
    assert idle_helpers(proxy) == pids
    proxy.stop()
    until(lambda: not [pid for pid in pids if running(pid)], what="their end")


def test_the_helper_inherits_nothing(bench, files, network):
    """What whoever started the proxy has left open is not for the commands of rules."""
    ours, theirs = os.pipe()
    proxy = wrapped(bench, files, pass_fds=(theirs,))
    os.close(theirs)
    for pid in idle_helpers(proxy):
        assert not [fd for fd in os.listdir(f"/proc/{pid}/fd") if "pipe:" in os.readlink(f"/proc/{pid}/fd/{fd}")]
    os.close(ours)


def test_a_child_cannot_become_another_program(bench, files, network, tmp_path):
    """`spawn` runs beside; `twist` would run in our place."""
    files.write(allow=f"s: {network}1: spawn (echo %a %d > {tmp_path}/spawned)\ns: ALL: twist /bin/echo twisted\n", deny="ALL: ALL\n")
    proxy = wrapped(bench, files)
    assert served(bench, proxy.port, network + "1")
    until(lambda: (tmp_path / "spawned").exists() and (tmp_path / "spawned").read_text() == f"{network}1 s\n", what="the command of the rule")
    assert refused(bench, proxy.port, network + "2")


def test_many_at_once(bench, files, network):
    """More than the helper has children at a time."""
    files.write(deny=f"s: {network}2\n")
    proxy = wrapped(bench, files)
    socks = [(n, call(bench, proxy.port, network + str(n))) for _ in range(300) for n in (1, 2)]
    proxy.wait_log(r"REFUSED by libwrap", 300, 60)
    proxy.wait_log(r"accepted connection from", 300, 60)
    for n, sock in socks:
        if n == 2:
            assert not sock or read_all(sock) == (b"", RESET)
        else:
            sock.close()
    assert not proxy.lines(rf"accepted connection from {re.escape(network)}2:|REFUSED by libwrap from {re.escape(network)}1:")
    idle_helpers(proxy)


def test_a_client_that_hangs_up_meanwhile(bench, files, network):
    server, proxy = slow_set_up(bench, files, network, "TIMEOUTbusy = 3")
    for _ in range(5):
        connect(proxy.port, source=network + "9").close()
    proxy.wait_log("TIMEOUTbusy exceeded", 5)
    assert served(bench, proxy.port, network + "1")


# --- ident ---


def identd(bench, address, answer):
    """answer(question, sock) returns bytes to send before the connection is closed, or None."""
    def handler(sock, server):
        question = b""
        while not question.endswith(b"\n"):
            byte = sock.recv(1)
            if not byte:
                return None
            question += byte
        said = answer(question, sock)
        if said is not None:
            sock.sendall(said)
        return question, sock.getpeername()[0]
    return bench.server(handler, address=(113, address))


def says(text):
    """An answer to the question: PORTS stands for its ports."""
    return lambda question, _sock: text.replace(b"PORTS", question.rstrip(b"\r\n"))


def test_ident(bench, network):
    daemon = identd(bench, network + "1", says(b"PORTS : USERID : UNIX : joe\r\n"))
    proxy = bench.tls_server("ident = joe")
    client = bench.client(proxy.port, source=network + "1")
    client.send(b"x")
    assert client.recv(1) == b"x"
    question, asker = daemon.result()
    # The port there first, then ours; asked from the address that the connection came to.
    assert question == b"%d , %d\r\n" % (client.sock.getsockname()[1], proxy.port)
    assert asker == "127.0.0.1"
    proxy.wait_log(r"LOG7\[0\]: IDENT server connected$")
    proxy.wait_log(rf"LOG7\[0\]:  -> {client.sock.getsockname()[1]} , {proxy.port}$")
    proxy.wait_log(r"LOG7\[0\]:  <- \d+ , \d+ : USERID : UNIX : joe$")
    proxy.wait_log(r"LOG6\[0\]: IDENT authentication passed$")
    proxy.wait_log("accepted connection from")
    log = proxy.log()
    assert log.index("IDENT authentication passed") < log.index("accepted connection from")


def test_ident_of_another_address_of_ours(bench, network):
    """The real local port and address, not the first of the section."""
    daemon = identd(bench, network + "1", says(b"PORTS : USERID : UNIX : joe\r\n"))
    ports = bench.ports(), bench.ports()
    proxy = bench.proxy(f"[s]\naccept = 127.0.0.1:{ports[0]}\naccept = {network}7:{ports[1]}\nconnect = {bench.server(echo).port}\n"
                        f"cert = {bench.pki.ec_pem}\nident = joe\n")
    client = bench.client((network + "7", ports[1]), source=network + "1")
    assert daemon.result() == (b"%d , %d\r\n" % (client.sock.getsockname()[1], ports[1]), network + "7")
    proxy.wait_log("IDENT authentication passed")


def test_ident_in_inetd_mode(bench, network, tmp_path):
    """About the port that the super-server listens on, which stands in no configuration of ours."""
    daemon = identd(bench, network + "1", says(b"PORTS : USERID : UNIX : joe\r\n"))
    listener = bench.keep(socket.create_server(("127.0.0.1", bench.ports())))
    config = tmp_path / "inetd.conf"
    config.write_text(f"syslog = no\ndebug = debug\noutput = {tmp_path}/log\nconnect = {bench.server(echo).port}\ncert = {bench.pki.ec_pem}\nident = joe\n")

    def proxy():
        sock, _ = listener.accept()
        with sock:
            bench.run([BINARY, str(config)], stdin=sock, stdout=sock, stderr=subprocess.DEVNULL)

    thread = threading.Thread(target=proxy)
    thread.start()
    client = bench.client(listener.getsockname()[1], source=network + "1")
    client.send(b"hello")
    assert client.recv_exactly(5) == b"hello"
    thread.join()
    assert daemon.result()[0] == b"%d , %d\r\n" % (client.sock.getsockname()[1], listener.getsockname()[1])


@pytest.mark.parametrize("role", ["server", "client"])
def test_everything_in_inetd_mode(bench, files, network, pki, tmp_path, role):
    """libwrap, then ident, before a byte is served, by a process that is nobody and in a jail: both roles."""
    jail = tmp_path / "jail"
    (jail / "log").mkdir(parents=True)
    os.chown(jail / "log", 65534, 65534)
    files.write(deny=f"stunnel: {network}2\n")
    for n, user in (1, b"joe"), (3, b"ann"):
        identd(bench, f"{network}{n}", says(b"PORTS : USERID : UNIX : %b\r\n" % user))
    server = bench.server(echo, context=server_context(pki.ec_pem) if role == "client" else None)
    listener = bench.keep(socket.create_server(("127.0.0.1", bench.ports())))
    config = tmp_path / "inetd.conf"
    config.write_text(f"syslog = no\ndebug = debug\nchroot = {jail}\nsetuid = nobody\nsetgid = nogroup\noutput = /log/out\nlibwrap = yes\nident = joe\n"
                      f"connect = 127.0.0.1:{server.port}\n" + ("client = yes\n" if role == "client" else f"cert = {pki.ec_pem}\n"))
    children = []

    def proxies():
        for _ in range(3):
            sock, _ = listener.accept()
            with sock:
                children.append(bench.run([*files.prefix, BINARY, str(config)], stdin=sock, stdout=sock, stderr=subprocess.DEVNULL, env=dict(os.environ, **IN_JAIL)))

    def log():
        try:
            return (jail / "log/out").read_text()
        except FileNotFoundError:
            return ""

    thread = threading.Thread(target=proxies)
    thread.start()
    port = listener.getsockname()[1]
    for n, line in (2, "REFUSED by libwrap from "), (3, r'REFUSED by IDENT \(user "ann"\)'):
        assert refused(bench, port, f"{network}{n}")
        until(lambda: re.search(line, log()), what=line)
    assert server.accepted == 0 and "accepted connection" not in log()
    client = bench.client(port, source=network + "1") if role == "server" else None
    sock = client or bench.keep(connect(port, source=network + "1"))
    (client.send if client else sock.sendall)(b"hello")
    assert (client.recv_exactly(5) if client else sock.recv(5)) == b"hello"
    thread.join()
    sock.close()
    for child in children:
        assert child.wait(30) == 0
    assert log().index("permitted by libwrap") < log().index("IDENT authentication passed") < log().index("accepted connection from")


@pytest.mark.parametrize("check", ["libwrap = yes", "ident = joe"])
def test_pipes_have_no_address(bench, files, check):
    """Nobody can be asked about them, and whoever has them has started us."""
    files.write(deny="ALL: ALL\n")
    config = files.directory / "inetd.conf"
    server = bench.server(echo, context=server_context(bench.pki.ec_pem))
    config.write_text(f"syslog = no\ndebug = debug\noutput = {files.directory}/log\nclient = yes\nconnect = 127.0.0.1:{server.port}\n{check}\n")
    done = subprocess.run([*files.prefix, BINARY, str(config)], input=b"hello", stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120)
    assert done.stdout == b"hello", done.stderr


def test_ident_over_ipv6(bench, network):
    identd(bench, "::1", says(b"PORTS : USERID : UNIX : joe\r\n"))
    port = bench.ports()
    bench.proxy(f"[s]\naccept = ::1:{port}\nconnect = {bench.server(echo).port}\ncert = {bench.pki.ec_pem}\nident = joe\n")
    client = bench.client(("::1", port))
    client.send(b"x")
    assert client.recv(1) == b"x"


def test_ident_in_client_mode(bench, network, pki):
    identd(bench, network + "1", says(b"PORTS : USERID : UNIX : joe\r\n"))
    identd(bench, network + "2", says(b"PORTS : USERID : UNIX : ann\r\n"))
    server = bench.server(echo, context=server_context(pki.ec_pem))
    proxy = bench.tls_client(server.port, "ident = joe")
    good = bench.keep(connect(proxy.port, source=network + "1"))
    good.sendall(b"x")
    assert good.recv(1) == b"x"
    assert refused(bench, proxy.port, network + "2")
    assert server.accepted == 1


@pytest.mark.parametrize("answer", [b"PORTS:USERID:UNIX:joe\r\n", b"PORTS : USERID : UNIX , UTF-8 :   joe\n", b"PORTS : USERID :: joe\0",
                                    b"\rPORTS : USERID : UNIX : joe\r\nPORTS : USERID : UNIX : ann\r\n"],
                         ids=["tight", "blanks", "nul", "more"])
def test_good_answers(bench, network, answer):
    identd(bench, network + "1", says(answer))
    assert served(bench, bench.tls_server("ident = joe").port, network + "1")


BAD_ANSWERS = [
    (b"PORTS : USERID : UNIX : ann\r\n", r'LOG4\[0\]: Connection from NET1:\d+ REFUSED by IDENT \(user "ann"\)$'),
    (b"PORTS : USERID : UNIX : joe \r\n", r'REFUSED by IDENT \(user "joe "\)$'),
    (b"PORTS : USERID : UNIX : joe:x\r\n", r'REFUSED by IDENT \(user "joe:x"\)$'),
    (b"PORTS : USERID : UNIX : Joe\r\n", r'REFUSED by IDENT \(user "Joe"\)$'),
    (b"PORTS : USERID : UNIX : \r\n", r'REFUSED by IDENT \(user ""\)$'),
    (b"PORTS : USERID : UNIX : %s%n\x1b[2J\r\n", r'REFUSED by IDENT \(user "%s%n.\[2J"\)$'),
    (b"1 , 2 : USERID : UNIX : joe\r\n", r"LOG3\[0\]: Incorrect ports in the IDENT response$"),
    (b"PORTS : ERROR : NO-USER\r\n", r"LOG3\[0\]: Incorrect IDENT response type$"),
    (b"PORTS : ERROR : X : joe\r\n", r"LOG3\[0\]: Incorrect IDENT response type$"),
    (b"PORTS : USERID : joe\r\n", r"LOG3\[0\]: Malformed IDENT response$"),
    (b"\r\n", r"LOG3\[0\]: Malformed IDENT response$"),
    (b"\0", r"LOG3\[0\]: Malformed IDENT response$"),
    (b"\x16\x03\x01\x00\xff" * 50 + b"\n", r"LOG3\[0\]: Malformed IDENT response$"),
    (b"", r"LOG3\[0\]: Malformed IDENT response: no end of line$"),
    (b"PORTS : USERID : UNIX : joe", r"LOG3\[0\]: Malformed IDENT response: no end of line$"),
    (b"PORTS : USERID : UNIX : joe" + b" " * 2000, r"LOG3\[0\]: fd_getline: Line too long$"),
    (b"\r" * 100000, r"LOG3\[0\]: fd_getline: Line too long$"),
]


@pytest.mark.parametrize("answer, line", BAD_ANSWERS, ids=range(len(BAD_ANSWERS)))
def test_bad_answers(bench, network, answer, line):
    identd(bench, network + "1", says(answer))
    proxy = bench.tls_server("ident = joe")
    assert refused(bench, proxy.port, network + "1")
    proxy.wait_log(line.replace("NET", re.escape(network)))
    assert not proxy.lines("accepted connection") and proxy.backend.accepted == 0


def test_no_ident_server(bench, network):
    proxy = bench.tls_server("ident = joe")
    assert refused(bench, proxy.port, network + "1")
    proxy.wait_log(rf"LOG3\[0\]: s_connect: connect {re.escape(network)}1:113: Connection refused \(111\)$")


def test_an_ident_server_that_cuts_the_connection(bench, network):
    identd(bench, network + "1", lambda _question, sock: abort(sock))
    proxy = bench.tls_server("ident = joe")
    assert refused(bench, proxy.port, network + "1")
    proxy.wait_log(r"LOG3\[0\]: s_read_eof: readsocket: Connection reset by peer \(104\)$")


def test_a_silent_and_an_endless_ident_server_hold_up_nobody(bench, network):
    """A byte now and then does not move the deadline."""
    def drip(_question, sock):
        try:
            while True:
                sock.sendall(b" ")
                time.sleep(0.05)
        except OSError:
            return None

    def silent(_question, sock):
        return sock.recv(1) and None

    identd(bench, network + "1", says(b"PORTS : USERID : UNIX : joe\r\n"))
    identd(bench, network + "2", silent)
    identd(bench, network + "3", drip)
    proxy = bench.tls_server("ident = joe\nTIMEOUTbusy = 2", head="workers = 1")
    stuck = [bench.keep(connect(proxy.port, source=network + str(n))) for n in (2, 3) for _ in range(10)]
    proxy.wait_log("IDENT server connected", 20)
    assert served(bench, proxy.port, network + "1")
    for sock in stuck:
        assert read_all(sock) == (b"", RESET)
    assert len(proxy.wait_log(r"LOG6\[\d+\]: s_read_eof: s_poll_wait: TIMEOUTbusy exceeded: sending reset$", 10)) <= 20


def test_an_ident_server_that_does_not_answer_the_call(bench, network):
    """Its backlog is full."""
    listener = bench.keep(socket.socket())
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((network + "1", 113))
    listener.listen(0)
    fill = [bench.keep(socket.socket()) for _ in range(3)]
    for sock in fill:
        sock.setblocking(False)
        sock.connect_ex((network + "1", 113))
    proxy = bench.tls_server("ident = joe\nTIMEOUTconnect = 1")
    assert refused(bench, proxy.port, network + "1")
    proxy.wait_log(rf"LOG3\[0\]: s_connect: s_poll_wait {re.escape(network)}1:113: TIMEOUTconnect exceeded$")


def test_ident_refuses_unix_sockets(bench, tmp_path):
    path = str(tmp_path / "socket")
    proxy = bench.proxy(f"[s]\naccept = {path}\nconnect = {bench.server(echo).port}\ncert = {bench.pki.ec_pem}\nident = joe\n")
    assert read_all(bench.keep(connect(path)))[0] == b""
    proxy.wait_log(r"LOG3\[0\]: IDENT not supported on Unix sockets$")
    assert not proxy.lines("accepted connection")


def test_the_end_does_not_wait_for_ident(bench, network):
    identd(bench, network + "1", lambda _question, sock: sock.recv(1) and None)
    proxy = bench.tls_server("ident = joe")
    bench.keep(connect(proxy.port, source=network + "1"))
    proxy.wait_log("IDENT server connected")
    proxy.expect_open = True
    proxy.stop()


def test_libwrap_comes_before_ident(bench, files, network):
    daemon = identd(bench, network + "1", says(b"PORTS : USERID : UNIX : joe\r\n"))
    files.write(deny="ALL: ALL\n")
    proxy = wrapped(bench, files, "ident = joe")
    assert refused(bench, proxy.port, network + "1")
    assert daemon.accepted == 0
    files.write(deny="")
    assert served(bench, proxy.port, network + "1")
    proxy.wait_log("IDENT authentication passed")
    log = proxy.log()
    assert log.index("permitted by libwrap") < log.index("IDENT authentication passed")


@pytest.mark.nosan
def test_a_real_identd(bench, network, need):
    """oidentd looks the connection up in the kernel's tables: right only if the question is."""
    bench.run([need("oidentd"), "-i", "-a", network + "1", "-u", "root", "-g", "root"])
    until(lambda: not connect_error(network + "1", 113), what="oidentd")
    for user, ok in ("nobody", True), ("daemon", False):
        proxy = bench.tls_server("ident = nobody")
        child = bench.run(["openssl", "s_client", "-quiet", "-connect", f"127.0.0.1:{proxy.port}", "-bind", network + "1:0"], user=user,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        child.stdin.write(b"hello\n")
        child.stdin.flush()
        assert child.stdout.readline() == (b"hello\n" if ok else b"")
        child.kill()
        proxy.wait_log("IDENT authentication passed" if ok else r'REFUSED by IDENT \(user "daemon"\)')


def connect_error(host, port):
    with socket.socket() as sock:
        return sock.connect_ex((host, port))


# --- configuration ---


def test_both_are_options_of_a_section(bench, pki, tmp_path):
    path = tmp_path / "options.conf"
    path.write_text(f"libwrap = yes\nident = joe\ncert = {pki.ec_pem}\n[a]\naccept = 1\nconnect = 2\n[b]\naccept = 3\nconnect = 4\nlibwrap = no\n")
    status, out, err = run_once(["-T", str(path)])
    assert status == 0, err
    assert re.findall(r"(?m)^libwrap += (\w+)$", out) == ["yes", "no"] and re.findall(r"(?m)^ident += (\w+)$", out) == ["joe", "joe"]
    assert "Auth:LIBWRAP" in run_once(["-version"])[2]
