# Inetd mode: the connection on descriptors 0 and 1, under real super-servers and as sockets, pipes, files and a terminal.
#
#     client --TLS--> inetd, xinetd, systemd-socket-activate --descriptors 0, 1, 2--> tlsplice --> program or server     server mode
#     somebody --pipes, a socket--> tlsplice --TLS--> server                                                             client mode
#
# SPDX-License-Identifier: Apache-2.0
import fcntl
import grp
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

import pytest

from conftest import need
from peers import CLOSE_NOTIFY, TlsClient, echo, listens, pattern, read_all, server_context
from proxy import BINARY, REPORTS, SLOW, WRAPPER, until

pytestmark = pytest.mark.ours

NOBODY = pwd.getpwnam("nobody").pw_uid, grp.getgrnam("nogroup").gr_gid

# In a jail there is no /proc, which the search for leaks at the end needs, and no program that gives addresses the names that tests/tsan.supp knows.
IN_JAIL = {"ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0",
           "TSAN_OPTIONS": os.environ.get("TSAN_OPTIONS", "") + ":report_bugs=0"}

IMAP = """#!/bin/sh
# As much of IMAP as a client needs to log in and out.
printf '* PREAUTH ready\\r\\n'
while read -r tag verb rest; do
	case $verb in
	LOGOUT*) printf '* BYE\\r\\n%s OK\\r\\n' "$tag"; exit 0 ;;
	*) printf '%s OK %s\\r\\n' "$tag" "$REMOTE_HOST" ;;
	esac
done
"""


class Inetd:
    """A configuration without sections and its log."""

    def __init__(self, bench, lines, output=None):
        self.directory = str(bench.directory)
        self.config, self.file = os.path.join(self.directory, "inetd.conf"), os.path.join(self.directory, "inetd.log")
        with open(self.config, "w") as file:
            file.write(f"syslog = no\ndebug = debug\noutput = {output or self.file}\n{lines}\n")
        self.argv = [*WRAPPER, BINARY, self.config]

    def log(self):
        try:
            with open(self.file, errors="replace") as file:
                return file.read()
        except FileNotFoundError:
            return ""

    def wait_log(self, text):
        until(lambda: re.search(text, self.log()), what=f"{text} in the log")

    def run(self, stdin, stdout, timeout=60):
        done = subprocess.run(self.argv, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, timeout=timeout * SLOW)
        assert not REPORTS.search(done.stderr.decode(errors="replace")), done.stderr
        return done

    def start(self, stdin, stdout, env=None):
        return subprocess.Popen(self.argv, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, env=dict(os.environ, **(env or {})))


def server_lines(bench, end="exec = /bin/cat"):
    return f"cert = {bench.pki.ec_pem}\n{end}"


def client_lines(bench, handler=echo, more=""):
    server = bench.server(handler, context=server_context(bench.pki.ec_pem))
    return server, f"client = yes\nconnect = 127.0.0.1:{server.port}\n{more}"


def imap(bench):
    program = os.path.join(str(bench.directory), "imapd")
    with open(program, "w") as file:
        file.write(IMAP)
    os.chmod(program, 0o755)
    return program


def session(port):
    client = TlsClient(port)
    try:
        assert client.recv_exactly(17) == b"* PREAUTH ready\r\n"
        client.send(b"a1 NOOP\r\n")
        assert client.recv_exactly(len(b"a1 OK 127.0.0.1\r\n")) == b"a1 OK 127.0.0.1\r\n"
        client.send(b"a2 LOGOUT\r\n")
        assert client.recv_all() == b"* BYE\r\na2 OK\r\n" and client.ended == CLOSE_NOTIFY
    finally:
        client.close()


# --- super-servers ---


def xinetd():
    """Debian has one super-server at a time installed; this one was unpacked only."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = os.path.join(cache, "tlsplice-tests/xinetd/usr/sbin/xinetd")
    if not os.access(path, os.X_OK):
        pytest.fail(f"{path} is not there (tests/install-deps test)")
    return path


def super_server(bench, kind, port, argv):
    words = " ".join(argv)
    config = os.path.join(str(bench.directory), "services")
    if kind == "inetd":
        with open(config, "w") as file:
            file.write(f"127.0.0.1:{port} stream tcp nowait.1000 root {argv[0]} {words}\n")
        return bench.run([need("inetd"), "-i", config])
    if kind == "xinetd":
        with open(config, "w") as file:
            file.write(f"service tlsplice\n{{\ntype = UNLISTED\nsocket_type = stream\nprotocol = tcp\nwait = no\nuser = root\nbind = 127.0.0.1\n"
                       f"port = {port}\nserver = {argv[0]}\nserver_args = {' '.join(argv[1:])}\ncps = 1000 1\ninstances = UNLIMITED\n}}\n")
        return bench.run([xinetd(), "-dontfork", "-f", config, "-pidfile", config + ".pid", "-filelog", config + ".log"])
    return bench.run([need("systemd-socket-activate"), "--inetd", "--accept", "-l", f"127.0.0.1:{port}", *argv])


@pytest.mark.parametrize("kind", ["inetd", "xinetd", "systemd"])
def test_under_a_super_server(bench, kind, port):
    inetd = Inetd(bench, server_lines(bench, f"exec = {imap(bench)}\nexecArgs = imapd --anything"))
    super_server(bench, kind, port, inetd.argv)
    until(lambda: listens(port), what=kind)
    for _ in range(5):
        session(port)
    threads = [threading.Thread(target=session, args=(port,)) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: len(re.findall(r"LOG5\[0\]: Connection closed: ", inetd.log())) == 15, what="fifteen connections")
    assert len(re.findall(r"LOG5\[0\]: Service \[stunnel\] accepted connection from 127\.0\.0\.1:\d+", inetd.log())) >= 15


def test_two_tunnel_ends_under_inetd(bench, ports):
    """Plain to TLS by one, TLS to a server by the other."""
    inner, outer = ports(), ports()
    server = bench.server(echo)
    first = Inetd(bench, server_lines(bench, f"connect = 127.0.0.1:{server.port}"))
    os.rename(first.config, first.config + ".1")
    second = Inetd(bench, f"client = yes\nconnect = 127.0.0.1:{inner}\nverifyChain = yes\nCAfile = {bench.pki.ca}\ncheckHost = localhost")
    super_server(bench, "inetd", inner, [*first.argv[:-1], first.config + ".1"])
    super_server(bench, "systemd", outer, second.argv)
    until(lambda: listens(inner) and listens(outer), what="both")
    data = pattern(2_000_000)
    with socket.create_connection(("127.0.0.1", outer), timeout=20 * SLOW) as sock:
        sender = threading.Thread(target=lambda: (sock.sendall(data), sock.shutdown(socket.SHUT_WR)))
        sender.start()
        assert read_all(sock)[0] == data
        sender.join()


# --- descriptors 0 and 1 ---


@pytest.mark.san
@pytest.mark.valgrind
def test_server_on_a_socket(bench):
    inetd = Inetd(bench, server_lines(bench))
    ours, theirs = socket.socketpair()
    process = inetd.start(theirs, theirs)
    theirs.close()
    bench.keep(ours)
    client = TlsClient(ours)
    client.send(b"hello")
    assert client.recv_exactly(5) == b"hello"
    client.close_notify()
    assert client.recv_all() == b"" and client.ended == CLOSE_NOTIFY
    ours.close()
    assert process.wait(20 * SLOW) == 0
    assert not REPORTS.search(process.stderr.read().decode())
    process.stderr.close()
    assert "Service [stunnel] accepted connection from unnamed socket" in inetd.log()
    assert "Sent socket write shutdown" in inetd.log()


@pytest.mark.san
def test_client_on_pipes(bench):
    """Bytes both ways, EOF of standard input passed on, everything from the server on standard output."""
    answer = pattern(1_500_000, 2)

    def handler(sock, _server):
        got = read_all(sock)[0]
        sock.sendall(answer)
        sock.unwrap()
        return got

    server, lines = client_lines(bench, handler)
    inetd = Inetd(bench, lines)
    data = pattern(1_000_000)
    process = inetd.start(subprocess.PIPE, subprocess.PIPE)
    out, err = process.communicate(data, timeout=60 * SLOW)
    assert process.returncode == 0 and not REPORTS.search(err.decode())
    assert server.result() == data and out == answer
    assert re.search(r"LOG5\[0\]: Service \[stunnel\] accepted connection\n", inetd.log())
    assert "LOG7[0]: Closing the file descriptor" in inetd.log()
    assert re.search(r"Connection closed: 1000000 byte\(s\) sent to TLS, 1500000 byte\(s\) sent to socket", inetd.log())


@pytest.mark.san
def test_slow_readers_and_writers_on_pipes(bench):
    server, lines = client_lines(bench)
    inetd = Inetd(bench, lines)
    process = inetd.start(subprocess.PIPE, subprocess.PIPE)
    data = pattern(600_000)

    def write():
        for i in range(0, len(data), 40_000):
            process.stdin.write(data[i:i + 40_000])
            process.stdin.flush()
            time.sleep(0.01)

    writer = threading.Thread(target=write)
    writer.start()
    time.sleep(0.5)  # nobody reads: what comes back fills the pipe
    got = b""
    while len(got) < len(data):
        got += os.read(process.stdout.fileno(), 65536)
    writer.join()
    assert got == data
    process.stdin.close()
    assert process.stdout.read() == b""
    assert process.wait(20 * SLOW) == 0
    process.stdout.close()
    process.stderr.close()


@pytest.mark.san
def test_server_on_pipes(bench):
    """TLS itself over pipes, as by ssh or socat."""
    inetd = Inetd(bench, server_lines(bench))
    process = inetd.start(subprocess.PIPE, subprocess.PIPE)
    ours, theirs = socket.socketpair()
    bench.keep(ours)

    def up():
        while True:
            data = theirs.recv(65536)
            if not data:
                process.stdin.close()
                return
            process.stdin.write(data)
            process.stdin.flush()

    def down():
        while True:
            data = os.read(process.stdout.fileno(), 65536)
            if not data:
                theirs.shutdown(socket.SHUT_WR)
                return
            theirs.sendall(data)

    threads = [threading.Thread(target=up, daemon=True), threading.Thread(target=down, daemon=True)]
    for thread in threads:
        thread.start()
    client = TlsClient(ours)
    data = pattern(500_000)
    for i in range(0, len(data), 50_000):
        client.send(data[i:i + 50_000])
        assert client.recv_exactly(50_000) == data[i:i + 50_000]
    client.send(b"the end")
    client.close_notify()
    assert client.recv_all() == b"the end" and client.ended == CLOSE_NOTIFY
    ours.shutdown(socket.SHUT_WR)
    assert process.wait(20 * SLOW) == 0
    assert not REPORTS.search(process.stderr.read().decode())
    for thread in threads:
        thread.join()
    theirs.close()
    for pipe in (process.stdout, process.stderr):
        pipe.close()


@pytest.mark.san
@pytest.mark.parametrize("source", ["file", "/dev/null"])
def test_files(bench, tmp_path, source):
    """What nobody can wait for."""
    server, lines = client_lines(bench)
    inetd = Inetd(bench, lines)
    data = pattern(300_000) if source == "file" else b""
    (tmp_path / "in").write_bytes(data)
    with open(tmp_path / "in" if data else source, "rb") as stdin, open(tmp_path / "out", "wb") as stdout:
        assert inetd.run(stdin, stdout).returncode == 0
    assert (tmp_path / "out").read_bytes() == data


@pytest.mark.san
@pytest.mark.parametrize("which", ["stdin", "stdout"])
def test_a_file_that_fails_is_no_end_of_stream(bench, which):
    """Only a terminal says by EIO that its other side is gone."""
    server, lines = client_lines(bench, handler=lambda sock, _server: (sock.sendall(b"x"), read_all(sock)))
    inetd = Inetd(bench, f"{lines}\ninetdStatus = yes")
    with open("/proc/self/mem", "r+b", buffering=0) as bad, open("/dev/null", "r+b", buffering=0) as good:
        assert inetd.run(*((bad, good) if which == "stdin" else (good, bad))).returncode == 2
    assert re.search(r"LOG[36]\[0\]: .*Input/output error \(5\)", inetd.log())
    assert "(HUP)" not in inetd.log() and "LOG5[0]: Connection reset" in inetd.log()


def flags(fd):
    return fcntl.fcntl(fd, fcntl.F_GETFL)


@pytest.mark.san
@pytest.mark.parametrize("ending", ["itself", "signal"])
def test_others_find_their_descriptors_as_they_were(bench, ending):
    server, lines = client_lines(bench)
    inetd = Inetd(bench, lines)
    (from_us, to_it), (from_it, to_us) = os.pipe(), os.pipe()
    process = inetd.start(from_us, to_us)
    os.write(to_it, b"ping")
    assert os.read(from_it, 4) == b"ping"
    assert flags(from_us) & os.O_NONBLOCK and flags(to_us) & os.O_NONBLOCK
    if ending == "signal":
        process.send_signal(signal.SIGTERM)
    else:
        os.close(to_it)
    assert process.wait(20 * SLOW) == (-signal.SIGTERM if ending == "signal" else 0)
    assert not flags(from_us) & os.O_NONBLOCK and not flags(to_us) & os.O_NONBLOCK
    process.stderr.close()
    for fd in (from_us, from_it, to_us) + ((to_it,) if ending == "signal" else ()):
        os.close(fd)


def test_on_a_terminal(bench):
    server, lines = client_lines(bench)
    inetd = Inetd(bench, lines)
    master, slave = os.openpty()
    process = inetd.start(slave, slave)
    os.write(master, b"hello\n")
    got = b""
    while got.count(b"hello\r\n") < 2:  # the terminal's echo, and the server's
        got += os.read(master, 1000)
    os.write(master, b"\4")  # end of input
    assert process.wait(20 * SLOW) == 0
    assert not flags(slave) & os.O_NONBLOCK
    process.stderr.close()
    os.close(master)
    os.close(slave)


def test_the_servers_end_ends_it(bench):
    """Standard input stays open, and nobody waits for it: a pipe has no half-close."""
    def handler(sock, _server):
        sock.sendall(b"bye")
        sock.unwrap()

    server, lines = client_lines(bench, handler)
    inetd = Inetd(bench, lines)
    process = inetd.start(subprocess.PIPE, subprocess.PIPE)
    assert process.stdout.read() == b"bye"
    assert process.wait(20 * SLOW) == 0
    for pipe in (process.stdin, process.stdout, process.stderr):
        pipe.close()


# --- another root, another user ---


@pytest.fixture
def jail(bench):
    """A directory where nobody may write a log."""
    path = tempfile.mkdtemp()
    os.chmod(path, 0o755)
    os.mkdir(path + "/log")
    os.chown(path + "/log", *NOBODY)
    yield path
    bench.close()
    shutil.rmtree(path)


def identity(pid):
    with open(f"/proc/{pid}/status") as file:
        lines = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    return {int(word) for word in lines["Uid"].split()}, {int(word) for word in lines["Gid"].split()}, lines["Groups"].split(), int(lines["CapPrm"], 16)


def jailed(bench, jail, lines):
    inetd = Inetd(bench, f"chroot = {jail}\nsetuid = nobody\nsetgid = nogroup\n{lines}", output="/log/out")
    inetd.file = jail + "/log/out"
    return inetd


def check_jailed(inetd, process, jail):
    uid, gid = NOBODY
    assert identity(process.pid) == ({uid}, {gid}, [str(gid)], 0)
    assert os.readlink(f"/proc/{process.pid}/root") == jail
    found = os.stat(inetd.file)
    assert (found.st_uid, found.st_gid) == NOBODY


def on_a_socket(bench, inetd):
    """A server on one end of a pair of sockets that has echoed what the client on the other end said."""
    ours, theirs = socket.socketpair()
    bench.keep(ours)
    process = inetd.start(theirs, theirs, IN_JAIL)
    theirs.close()
    client = TlsClient(ours)
    client.send(b"hello")
    assert client.recv_exactly(5) == b"hello"
    return process, client


def ended(process):
    assert process.wait(20 * SLOW) == 0
    assert not REPORTS.search(process.stderr.read().decode())
    process.stderr.close()


@pytest.mark.san
def test_a_server_in_a_jail(bench, jail):
    inetd = jailed(bench, jail, server_lines(bench, f"connect = 127.0.0.1:{bench.server(echo).port}"))
    process, client = on_a_socket(bench, inetd)
    check_jailed(inetd, process, jail)
    client.close_notify()
    assert client.recv_all() == b"" and client.ended == CLOSE_NOTIFY
    client.close()
    ended(process)
    assert f"Switched to chroot directory: {jail}" in inetd.log() and "Connection closed: 5 byte(s) sent to TLS" in inetd.log()


@pytest.mark.san
def test_a_client_in_a_jail(bench, jail):
    """On pipes, which are the test's: nobody can use them, since they are open."""
    server, lines = client_lines(bench, more=f"verifyChain = yes\nCAfile = {bench.pki.ca}\ncheckHost = localhost")
    inetd = jailed(bench, jail, lines)
    process = inetd.start(subprocess.PIPE, subprocess.PIPE, IN_JAIL)
    process.stdin.write(b"hello")
    process.stdin.flush()
    assert process.stdout.read(5) == b"hello"
    check_jailed(inetd, process, jail)
    process.stdin.close()
    assert process.stdout.read() == b""
    process.stdout.close()
    ended(process)
    assert "Connection closed: 5 byte(s) sent to TLS, 5 byte(s) sent to socket" in inetd.log()


@pytest.mark.san
def test_a_program_in_a_jail(bench, jail):
    for path in ["/bin/cat", *re.findall(r"(/\S+) \(0x", subprocess.run(["ldd", "/bin/cat"], stdout=subprocess.PIPE, text=True, check=True).stdout)]:
        os.makedirs(jail + os.path.dirname(path), exist_ok=True)
        shutil.copy(path, jail + path)
    inetd = jailed(bench, jail, server_lines(bench))
    process, client = on_a_socket(bench, inetd)
    client.close_notify()
    assert client.recv_all() == b""
    client.close()
    ended(process)
    assert "Local mode child started" in inetd.log()


def test_a_super_server_and_a_jail(bench, jail, port):
    """Everything at once, three times; the file of the log is opened by each of the processes."""
    inetd = jailed(bench, jail, server_lines(bench, f"connect = 127.0.0.1:{bench.server(echo).port}"))
    super_server(bench, "xinetd", port, inetd.argv)
    until(lambda: listens(port), what="xinetd")
    for _ in range(3):
        bench.client(port).ping().bye()
    until(lambda: inetd.log().count("Connection closed: 4 byte(s) sent to TLS") == 3, what="the log")
    found = os.stat(inetd.file)
    assert (found.st_uid, found.st_gid) == NOBODY


@pytest.mark.parametrize("lines, message", [
    ("setuid = no-such-user", "setuid"),
    ("chroot = /nonexistent", "chroot: No such file or directory (2)"),
])
def test_what_cannot_be_dropped_ends_it(bench, lines, message):
    """The connection is not served as root then."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        done = Inetd(bench, server_lines(bench) + f"\n{lines}").run(theirs, theirs)
        theirs.close()
        assert ours.recv(100) == b""
    assert done.returncode == 1 and message in done.stderr.decode()


# --- how it ends ---


@pytest.mark.parametrize("lines, status", [("", 0), ("inetdStatus = no", 0), ("inetdStatus = yes", 2)])
def test_exit_status(bench, lines, status):
    inetd = Inetd(bench, f"client = yes\nconnect = 127.0.0.1:{bench.ports()}\n{lines}")
    done = inetd.run(subprocess.DEVNULL, subprocess.DEVNULL)
    assert done.returncode == status
    assert "No more addresses to connect" in inetd.log()


def test_exit_status_of_what_went_well(bench):
    server, lines = client_lines(bench)
    assert Inetd(bench, lines + "inetdStatus = yes").run(subprocess.DEVNULL, subprocess.DEVNULL).returncode == 0


@pytest.mark.parametrize("lines, message", [
    ("client = yes", "Inetd mode: Inetd mode must define one endpoint"),
    ("client = yes\naccept = 1\nconnect = 2", "Inetd mode: 'accept' option is only allowed in a [section]"),
    ("connect = 2", "Inetd mode: TLS server needs a certificate"),
    ("client = yes\nnonsense = 1", "Specified option name is not valid here"),
])
def test_errors_go_to_standard_error(bench, lines, message):
    done = Inetd(bench, lines).run(subprocess.DEVNULL, subprocess.PIPE)
    assert done.returncode == 1 and message in done.stderr.decode() and done.stdout == b""


def test_a_socket_without_a_peer(bench):
    inetd = Inetd(bench, server_lines(bench))
    with socket.socket() as sock:
        assert inetd.run(sock, sock).returncode == 0
    assert re.search(r"LOG3\[0\]: getpeerbyname \(local_rfd\): Transport endpoint is not connected \(107\)", inetd.log())


def test_pipes_have_no_address_to_connect_from(bench):
    """Whose they are nobody can be asked either: libwrap and ident are about sockets."""
    server, lines = client_lines(bench)
    inetd = Inetd(bench, lines + "libwrap = yes\nident = joe\n")
    (from_us, to_it), (from_it, to_us) = os.pipe(), os.pipe()
    process = inetd.start(from_us, to_us)
    os.write(to_it, b"ping")
    assert os.read(from_it, 4) == b"ping"
    os.close(to_it)
    assert process.wait(20 * SLOW) == 0
    process.stderr.close()
    inetd = Inetd(bench, lines + "transparent = source\ninetdStatus = yes\n")
    process = inetd.start(from_us, to_us)
    assert process.wait(20 * SLOW) == 2
    process.stderr.close()
    inetd.wait_log(r"LOG3\[0\]: Transparent source needs a socket")
    for fd in (from_us, from_it, to_us):
        os.close(fd)


def test_service_names_it_and_there_is_no_pid_file(bench, tmp_path):
    server, lines = client_lines(bench)
    inetd = Inetd(bench, f"service = mine\npid = {tmp_path}/pid\nforeground = no\n{lines}")
    done = inetd.run(subprocess.DEVNULL, subprocess.DEVNULL)
    assert done.returncode == 0 and done.stderr == b""
    assert "Service [mine] accepted connection" in inetd.log() and not os.path.exists(tmp_path / "pid")


def test_children_are_reaped(bench):
    inetd = Inetd(bench, server_lines(bench, "exec = /bin/echo\nexecArgs = echo hi"))
    ours, theirs = socket.socketpair()
    process = inetd.start(theirs, theirs)
    theirs.close()
    with ours:
        client = TlsClient(ours)
        assert client.recv_all() == b"hi\n"
        inetd.wait_log(r"Child process \d+ finished with code 0")
    assert process.wait(20 * SLOW) == 0
    process.stderr.close()
