# systemd's side of things, without systemd: sockets handed over by systemd-socket-activate or by hand, the datagrams of sd_notify, the watchdog; units.
#
#     systemd-socket-activate, or the test --descriptors 3, 4, ...--> tlsplice --datagrams--> the test's NOTIFY_SOCKET
#
# SPDX-License-Identifier: Apache-2.0
import os
import re
import shutil
import signal
import socket
import subprocess
import time

import pytest

from conftest import need
from peers import TlsClient, name
from proxy import BINARY, PREAMBLE, SLOW, TOP, WRAPPER, Proxy, listening_ports, until

pytestmark = pytest.mark.ours

# Puts descriptors 3, 4, ... in their places and says so, as systemd does.
ACTIVATE = ["sh", "-c", 'LISTEN_PID=$$ LISTEN_FDS=$FDS LISTEN_FDNAMES=a:b exec "$0" "$@"']


class Notified:
    """A NOTIFY_SOCKET."""

    def __init__(self, path):
        self.path = path
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind("\0" + path[1:] if path.startswith("@") else path)
        self.sock.settimeout(20 * SLOW)

    def message(self):
        return dict(line.split("=", 1) for line in self.sock.recv(4096).decode().splitlines())

    def wait(self, key):
        """The next message with that variable."""
        while True:
            message = self.message()
            if key in message:
                return message

    def close(self):
        self.sock.close()


@pytest.fixture(params=["path", "abstract"])
def notified(request, bench, tmp_path):
    return bench.keep(Notified(str(tmp_path / "notify") if request.param == "path" else f"@tlsplice-test-{os.getpid()}-{time.monotonic_ns()}"))


def services(bench, count, extra="", accept=None):
    """So many sections, each of which tells its number."""
    text = f"cert = {bench.pki.ec_pem}\n{extra}"
    for i in range(count):
        server = bench.server(name(f"section {i}"))
        text += f"[s{i}]\naccept = 127.0.0.1:{accept[i] if accept else 0}\nconnect = 127.0.0.1:{server.port}\n"
    return text


def listeners(count, family=socket.AF_INET, nonblocking=False):
    socks = []
    for _ in range(count):
        sock = socket.socket(family)
        sock.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
        sock.listen()
        sock.setblocking(not nonblocking)
        socks.append(sock)
    return socks


class Activated:
    """A proxy that is started with listening sockets as descriptors 3, 4, ..."""

    def __init__(self, bench, text, socks, wait=True, fds=None, env=None):
        self.log_file = os.path.join(str(bench.directory), "activated.out")
        self.config = os.path.join(str(bench.directory), "activated.conf")
        self.write(text)
        moved = [os.dup(sock.fileno()) for sock in socks]
        high = [200 + i for i in range(len(moved))]

        def place():
            for fd, to in zip(moved, high):
                os.dup2(fd, to)
            for i, fd in enumerate(high):
                os.dup2(fd, 3 + i)
                os.set_inheritable(3 + i, True)
            os.closerange(3 + len(high), 256)

        with open(self.log_file, "wb") as out:
            self.process = subprocess.Popen([*ACTIVATE, *WRAPPER, BINARY, self.config], stdin=subprocess.DEVNULL, stdout=out, stderr=out, close_fds=False,
                                            preexec_fn=place, env=dict(os.environ, FDS=str(len(socks) if fds is None else fds), **(env or {})))
        for fd in moved:
            os.close(fd)
        bench.children.append(self.process)
        if wait:
            self.wait_log("Accepting new connections")

    def write(self, text):
        with open(self.config, "w") as file:
            file.write(PREAMBLE + text)

    def log(self):
        with open(self.log_file, errors="replace") as file:
            return file.read()

    def wait_log(self, pattern, count=1):
        until(lambda: len(re.findall(pattern, self.log())) >= count or self.process.poll() is not None, what=pattern)
        assert len(re.findall(pattern, self.log())) >= count, self.log()[-3000:]

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(20 * SLOW) == 0, self.log()[-3000:]


def says(address):
    client = TlsClient(address)
    try:
        return client.recv()
    finally:
        client.close()


# --- sockets ---


@pytest.mark.san
def test_sockets_go_to_the_sections_in_their_order(bench):
    socks = listeners(2) + listeners(1, socket.AF_INET6, nonblocking=True)
    proxy = Activated(bench, services(bench, 3), socks)
    for i, sock in enumerate(socks):
        for _ in range(4):
            assert says(("::1" if i == 2 else "127.0.0.1", sock.getsockname()[1])) == b"section %d" % i
    assert "Systemd socket activation: 3 descriptors received" in proxy.log()
    assert "Listening file descriptor received from systemd (FD=3)" in proxy.log()
    assert re.search(rf"Service \[s1\] \(FD=\d+\) bound to 127\.0\.0\.1:{socks[1].getsockname()[1]}", proxy.log())
    proxy.stop()


def test_sections_beyond_the_last_socket_bind_their_own(bench, ports):
    own = ports()
    socks = listeners(1)
    proxy = Activated(bench, services(bench, 2, accept=[0, own]), socks)
    assert says(socks[0].getsockname()[1]) == b"section 0"
    assert says(own) == b"section 1"
    proxy.stop()


@pytest.mark.parametrize("count", [2, 3])
def test_more_sockets_than_sections(bench, count):
    proxy = Activated(bench, services(bench, 1), listeners(count), wait=False)
    assert proxy.process.wait(20 * SLOW) == 1
    assert f"Too many listening file descriptors received from systemd, got {count}" in proxy.log()


def test_inetd_mode_takes_none(bench):
    proxy = Activated(bench, "client = yes\nconnect = 127.0.0.1:1\n", listeners(1), wait=False)
    assert proxy.process.wait(20 * SLOW) == 1
    assert "Too many listening file descriptors received from systemd, got 1" in proxy.log()


@pytest.mark.parametrize("what", ["datagram", "not listening", "file", "closed"])
def test_what_is_no_listening_socket(bench, what, tmp_path):
    if what == "datagram":
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    elif what == "not listening":
        sock = socket.socket()
    else:
        sock = open(tmp_path / "file", "w")
    with sock:
        proxy = Activated(bench, services(bench, 1), [sock] if what != "closed" else [], fds=1, wait=False)
        assert proxy.process.wait(20 * SLOW) == 1
    assert re.search(r"Descriptor 3 received from systemd( is no listening stream socket|: )", proxy.log())


def test_sockets_for_another_process(bench, ports):
    """LISTEN_PID says for whom they are."""
    port = ports()
    proxy = bench.proxy(services(bench, 1, accept=[port]), env={"LISTEN_PID": "1", "LISTEN_FDS": "1"})
    assert "Systemd" not in proxy.log()
    assert says(port) == b"section 0"


@pytest.mark.san
def test_they_stay_over_reloads(bench):
    """Also those of a section that changes, while clients come."""
    socks = listeners(2)
    text = services(bench, 2)
    proxy = Activated(bench, text, socks)
    for i in range(3):
        proxy.write(text + ("TIMEOUTidle = %d\n" % (100 + i)))
        proxy.process.send_signal(signal.SIGHUP)
        for j, sock in enumerate(socks):
            assert says(sock.getsockname()[1]) == b"section %d" % j
        proxy.wait_log("Configuration successful", 2 + i)
    # Another order: the first socket is the first section's, whichever that is.
    head, first, second = re.split(r"(?m)^(?=\[s)", text)
    proxy.write(head + second + first)
    proxy.process.send_signal(signal.SIGHUP)
    proxy.wait_log("Configuration successful", 5)
    until(lambda: says(socks[0].getsockname()[1]) == b"section 1", what="the new order")
    # One section too few: everything stays.
    proxy.write(head + first)
    proxy.process.send_signal(signal.SIGHUP)
    proxy.wait_log("Failed to reload the configuration file")
    assert says(socks[1].getsockname()[1]) == b"section 0"
    proxy.stop()


def test_a_unix_socket_of_systemd_is_not_removed(bench, tmp_path):
    path = str(tmp_path / "socket")
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    sock.listen()
    proxy = Activated(bench, services(bench, 1), [sock])
    assert says(path) == b"section 0"
    proxy.stop()
    assert os.path.exists(path)
    sock.close()


@pytest.mark.san
def test_by_systemd_socket_activate(bench, ports, tmp_path):
    """Two sockets; the program is started by the first client, which is not lost."""
    at = [ports(), ports()]
    config = tmp_path / "tlsplice.conf"
    config.write_text("foreground = yes\nsyslog = no\n" + services(bench, 2))
    bench.run([need("systemd-socket-activate"), "-l", f"127.0.0.1:{at[0]}", "-l", f"127.0.0.1:{at[1]}", *WRAPPER, BINARY, str(config)])
    until(lambda: set(at) <= listening_ports(), what="systemd-socket-activate")
    assert says(at[1]) == b"section 1"
    assert says(at[0]) == b"section 0"


def test_children_know_nothing_of_it(bench, ports):
    socks = listeners(1)
    text = f"cert = {bench.pki.ec_pem}\n[s]\naccept = 0\nexec = /usr/bin/env\n"
    proxy = Activated(bench, text, socks, env={"NOTIFY_SOCKET": "", "WATCHDOG_USEC": "", "WATCHDOG_PID": "1"})
    client = bench.client(socks[0].getsockname()[1])
    said = client.recv_all().decode()
    assert "PATH=" in said and not re.search("LISTEN_|NOTIFY_|WATCHDOG_", said)
    client.close()
    proxy.stop()


# --- notification ---


@pytest.mark.san
def test_ready_reloading_stopping(bench, notified, port):
    text = services(bench, 1, accept=[port])
    proxy = bench.proxy(text, env={"NOTIFY_SOCKET": notified.path})
    ready = notified.wait("READY")
    assert ready["READY"] == "1" and int(ready["MAINPID"]) == proxy.pid and ready["STATUS"] == "Serving"
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert proxy.hup(text + "TIMEOUTidle = 5\n")
    reloading = notified.wait("RELOADING")
    assert before <= int(reloading["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert notified.message()["STATUS"] == "Serving"
    assert not proxy.hup(text + "nonsense\n")
    assert notified.message()["RELOADING"] == "1"
    message = notified.message()
    assert message["READY"] == "1" and "old configuration" in message["STATUS"]
    proxy.stop()
    assert notified.wait("STOPPING")["STOPPING"] == "1"


def test_a_drain_asks_for_time(bench, notified, port):
    proxy = bench.proxy(services(bench, 1, accept=[port], extra="drain = 100\n"), env={"NOTIFY_SOCKET": notified.path})
    proxy.stop()
    assert int(notified.wait("STOPPING")["EXTEND_TIMEOUT_USEC"]) >= 100_000_000


def test_in_the_background(bench, notified, port, tmp_path):
    pid_file = tmp_path / "pid"
    proxy = Proxy(tmp_path, services(bench, 1, accept=[port]), preamble=f"foreground = no\npid = {pid_file}\nsyslog = no\noutput = {tmp_path}/log\n",
                  env={"NOTIFY_SOCKET": notified.path}, wait=False)
    assert proxy.wait_exit() == 0
    pid = int(notified.wait("READY")["MAINPID"])
    assert pid == int(pid_file.read_text())
    os.kill(pid, signal.SIGTERM)
    notified.wait("STOPPING")
    until(lambda: not os.path.exists(f"/proc/{pid}"), what="its end")
    proxy.kill()


@pytest.mark.parametrize("path", ["/nonexistent/notify", "relative", "@", "/" + "x" * 200])
def test_a_socket_that_is_not_there(bench, path, port):
    proxy = bench.proxy(services(bench, 1, accept=[port]), env={"NOTIFY_SOCKET": path})
    proxy.wait_log(r"LOG4\[\w+\]: NOTIFY_SOCKET ")
    assert says(port) == b"section 0"


def test_a_manager_that_goes_away(bench, notified, port):
    proxy = bench.proxy(services(bench, 1, accept=[port]), env={"NOTIFY_SOCKET": notified.path})
    notified.wait("READY")
    notified.close()
    assert proxy.hup()
    assert says(port) == b"section 0"


@pytest.mark.san
def test_signs_of_life(bench, notified, port):
    proxy = bench.proxy(services(bench, 1, accept=[port]), env={"NOTIFY_SOCKET": notified.path, "WATCHDOG_USEC": "200000"})
    for _ in range(5):
        notified.wait("WATCHDOG")
    assert proxy.hup()
    # A reload may have to wait for name servers.
    assert int(notified.wait("RELOADING")["WATCHDOG_USEC"]) > 600_000_000
    assert notified.wait("READY")["WATCHDOG_USEC"] == "200000"
    notified.wait("WATCHDOG")


def test_no_sign_of_life_from_a_stuck_worker(bench, notified, port):
    proxy = bench.proxy(services(bench, 1, accept=[port], extra="workers = 2\n"), env={"NOTIFY_SOCKET": notified.path, "WATCHDOG_USEC": "200000"})
    notified.wait("WATCHDOG")
    # One worker is held in its system call for three seconds each time.
    worker = next(int(task) for task in os.listdir(f"/proc/{proxy.pid}/task")
                  if open(f"/proc/{proxy.pid}/task/{task}/comm").read().strip() == "worker")
    tracer = bench.run([need("strace"), "-qq", "-o", "/dev/null", "-p", str(worker), "-e", "inject=io_uring_enter:delay_enter=3000000"])
    time.sleep(0.5 * SLOW)
    notified.sock.settimeout(1.5)
    silent = False
    for _ in range(40):
        try:
            notified.wait("WATCHDOG")
        except TimeoutError:
            silent = True
            break
    assert silent
    tracer.terminate()
    tracer.wait()
    notified.sock.settimeout(20 * SLOW)
    notified.wait("WATCHDOG")


@pytest.mark.parametrize("env", [{"WATCHDOG_USEC": "100000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "0"}, {}])
def test_no_watchdog_no_signs(bench, notified, port, env):
    bench.proxy(services(bench, 1, accept=[port]), env={"NOTIFY_SOCKET": notified.path, **env})
    notified.wait("READY")
    notified.sock.settimeout(0.5)
    with pytest.raises(TimeoutError):
        notified.message()


# --- units ---


UNITS = os.path.join(TOP, "configs", "systemd")


@pytest.mark.parametrize("unit", sorted(unit for unit in os.listdir(UNITS) if not unit.endswith(".conf")))
def test_units(unit, tmp_path):
    """systemd-analyze finds nothing to complain of, with the binary where the unit looks for it."""
    for file in os.listdir(UNITS):
        with open(os.path.join(UNITS, file)) as text:
            (tmp_path / file).write_text(text.read().replace("/usr/local/sbin/tlsplice", "/bin/true"))
    path = tmp_path / unit.replace("@.", "@x.")
    if not path.exists():
        os.rename(tmp_path / unit, path)
        shutil.copy(path, tmp_path / unit)
    done = subprocess.run([need("systemd-analyze"), "verify", "--man=no", str(path)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60 * SLOW)
    said = [line for line in done.stdout.decode(errors="replace").splitlines() if "tlsplice" in line]
    assert not said, said


def test_the_configuration_of_the_units(bench, tmp_path):
    with open(os.path.join(UNITS, "tlsplice.conf")) as file:
        text = file.read()
    servers = [bench.server(name("first")), bench.server(name("second"))]
    text = text.replace("/etc/tlsplice/server.pem", bench.pki.ec_pem)
    for server, port in zip(servers, ("8080", "143")):
        text = text.replace(f"connect = 127.0.0.1:{port}", f"connect = 127.0.0.1:{server.port}")
    socks = listeners(2)
    proxy = Activated(bench, text, socks)
    assert [says(sock.getsockname()[1]) for sock in socks] == [b"first", b"second"]
    proxy.stop()


def test_the_configuration_of_inetd_mode(bench, tmp_path):
    with open(os.path.join(UNITS, "inetd.conf")) as file:
        text = file.read()
    config = tmp_path / "inetd.conf"
    config.write_text("syslog = no\n" + text.replace("/etc/tlsplice/server.pem", bench.pki.ec_pem).replace("/usr/lib/dovecot/imap", "/bin/echo"))
    port = bench.ports()
    bench.run([need("systemd-socket-activate"), "--inetd", "--accept", "-l", f"127.0.0.1:{port}", *WRAPPER, BINARY, str(config)])
    until(lambda: {port} <= listening_ports(), what="systemd-socket-activate")
    client = bench.client(port)
    assert client.recv_all() == b"\n"
