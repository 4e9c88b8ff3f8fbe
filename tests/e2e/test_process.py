# The process: chroot, setuid, setgid, files' owners and modes, what is left of root's rights, seed files. As root, for only root can become somebody else.
#
#     /tmp/XXXX/              run/ and log/ belong to nobody
#         jail/  = "/" of the proxy once it is bound
#             the same paths again, for reloads
#
# SPDX-License-Identifier: Apache-2.0
import datetime
import grp
import os
import pwd
import re
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import threading

import pytest

from peers import connect, echo
from proxy import BINARY, PREAMBLE, SLOW, WRAPPER, gone, listening_ports, run_once, until

pytestmark = [pytest.mark.ours, pytest.mark.san]

NOBODY, NOGROUP = pwd.getpwnam("nobody").pw_uid, grp.getgrnam("nogroup").gr_gid
NET_RAW, NET_BIND_SERVICE = 1 << 13, 1 << 10

# In a jail there is no /proc, which the search for leaks at the end needs, and no program that gives addresses the names that tests/tsan.supp knows.
IN_JAIL = {"ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0",
           "TSAN_OPTIONS": os.environ.get("TSAN_OPTIONS", "") + ":report_bugs=0"}


def status(pid):
    with open(f"/proc/{pid}/status") as file:
        return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)


def ids(pid, which):
    return {int(field) for field in status(pid)[which].split()}


@pytest.fixture
def open_dir():
    """A directory that everybody can get to: those of pytest are root's alone."""
    path = tempfile.mkdtemp()
    os.chmod(path, 0o755)
    for name in ("jail", "jail/run", "jail/log", "run", "log"):
        os.mkdir(os.path.join(path, name))
        if name.endswith(("run", "log")):
            os.chown(os.path.join(path, name), NOBODY, NOGROUP)
    yield path
    shutil.rmtree(path)


def inside(jail, path):
    """The same path in the jail, with its directories."""
    path = jail + path
    os.makedirs(os.path.dirname(path), exist_ok=True)
    return path


def pair(bench, pki, head, front=None, **options):
    """A client and a server section of one proxy, one behind the other: both roles at once."""
    backend, plain, tls = bench.server(echo), bench.ports(), front or bench.ports()
    text = (f"{head}\n[s]\naccept = 127.0.0.1:{tls}\nconnect = 127.0.0.1:{backend.port}\ncert = {pki.ec_pem}\n"
            f"[c]\nclient = yes\naccept = 127.0.0.1:{plain}\nconnect = 127.0.0.1:{tls}\n")
    proxy = bench.proxy(text, **options)
    proxy.port, proxy.tls = plain, tls
    return proxy


def ping(port, data=b"ping"):
    with connect(port) as sock:
        sock.sendall(data)
        got = b""
        while len(got) < len(data):
            more = sock.recv(100)
            assert more
            got += more
        assert got == data


# --- who we are ---


def test_setuid_alone_leaves_no_group_of_root(bench, pki):
    proxy = pair(bench, pki, "setuid = nobody", prefix=("setpriv", "--groups=4,27"))
    assert (ids(proxy.pid, "Uid"), ids(proxy.pid, "Gid"), ids(proxy.pid, "Groups")) == ({NOBODY}, {NOGROUP}, {NOGROUP})
    ping(proxy.port)


def test_setuid_takes_the_users_own_groups(bench, pki, open_dir):
    """A user with further groups: an /etc/group of the test's own, in a mount namespace."""
    group = os.path.join(open_dir, "group")
    shutil.copy("/etc/group", group)
    with open(group, "a") as file:
        file.write("tlsplice-a:x:54321:nobody\ntlsplice-b:x:54322:root,nobody\ntlsplice-c:x:54323:root\n")
    proxy = pair(bench, pki, "setuid = nobody",
                 prefix=("unshare", "-m", "sh", "-c", 'mount --bind "$0" /etc/group && exec "$@"', group))
    assert ids(proxy.pid, "Groups") == {NOGROUP, 54321, 54322}
    ping(proxy.port)


def test_setuid_and_setgid(bench, pki):
    proxy = pair(bench, pki, "setuid = nobody\nsetgid = daemon", prefix=("setpriv", "--groups=4,27"))
    daemon = grp.getgrnam("daemon").gr_gid
    assert (ids(proxy.pid, "Uid"), ids(proxy.pid, "Gid"), ids(proxy.pid, "Groups")) == ({NOBODY}, {daemon}, {daemon})
    ping(proxy.port)


def test_setgid_alone(bench, pki):
    proxy = pair(bench, pki, "setgid = 54321", prefix=("setpriv", "--groups=4,27"))
    assert (ids(proxy.pid, "Uid"), ids(proxy.pid, "Gid"), ids(proxy.pid, "Groups")) == ({0}, {54321}, {54321})
    ping(proxy.port)


def test_a_number_that_is_nobody(bench, pki):
    proxy = pair(bench, pki, "setuid = 54321")
    assert (ids(proxy.pid, "Uid"), ids(proxy.pid, "Gid"), ids(proxy.pid, "Groups")) == ({54321}, {65534}, {65534})
    assert proxy.lines(r'LOG5\[ui\]: User 54321 has no group of his own')
    ping(proxy.port)


def unprivileged(bench, head, **options):
    """Started by nobody, who cannot read our directories: the configuration comes through a descriptor."""
    port = bench.ports()
    text = f"{head}\n[c]\nclient = yes\naccept = 127.0.0.1:{port}\nconnect = 127.0.0.1:1\n"
    return text, dict(prefix=("setpriv", f"--reuid={NOBODY}", f"--regid={NOGROUP}", "--clear-groups"), **options)


@pytest.mark.parametrize("head, said", [
    ("setuid = daemon\nsetgid = daemon", "[!] setgid: Operation not permitted (1)"),
    ("setuid = daemon\nsetgid = nogroup", "[!] setgroups: Operation not permitted (1)"),
    ("chroot = /tmp", "[!] chroot: Operation not permitted (1)"),
])
def test_who_is_not_root_cannot(bench, open_dir, head, said):
    config = os.path.join(open_dir, "config")
    text, options = unprivileged(bench, head)
    with open(config, "w") as file:
        file.write("foreground = yes\nsyslog = no\n" + text)
    done = subprocess.run([*options["prefix"], *WRAPPER, BINARY, config], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=30 * SLOW)
    assert done.returncode == 1
    assert said in done.stderr, done.stderr


def test_whoever_is_already_need_not_be_root(bench, open_dir):
    config = os.path.join(open_dir, "config")
    text, options = unprivileged(bench, "setuid = nobody\nsetgid = nogroup")
    with open(config, "w") as file:
        file.write("foreground = yes\nsyslog = no\ndebug = debug\n" + text)
    proxy = bench.proxy(text, args=[config], **options)
    assert ids(proxy.pid, "Uid") == {NOBODY}


@pytest.mark.parametrize("head, said", [
    ("chroot = /nonexist", "[!] chroot: No such file or directory (2)"),
    ("chroot = /etc/passwd", "[!] chroot: Not a directory (20)"),
])
def test_failures_end_the_start(bench, pki, head, said):
    assert said in bench.refused(f"{head}\n[s]\naccept = 127.0.0.1:{bench.ports()}\nconnect = 127.0.0.1:1\ncert = {pki.ec_pem}\n")


# --- capabilities ---


def privileged_port():
    taken = listening_ports()
    return next(port for port in range(1023, 512, -1) if port not in taken)


def capabilities(pid):
    now = status(pid)
    return {int(now[name], 16) for name in ("CapPrm", "CapEff")} | {int(now["CapInh"], 16) or int(now["CapPrm"], 16)}


def test_no_capability_is_left(bench, pki):
    proxy = pair(bench, pki, "setuid = nobody")
    for task in os.listdir(f"/proc/{proxy.pid}/task"):
        assert capabilities(f"{proxy.pid}/task/{task}") == {0}


def for_nobody(bench, pki, directory, head="", **options):
    """A proxy whose files nobody can read, so that it can reload; returns it and what makes a configuration of a port."""
    cert, backend = os.path.join(directory, "cert.pem"), bench.server(echo)
    shutil.copy(pki.ec_pem, cert)
    os.chmod(cert, 0o644)
    config = os.path.join(directory, "config")

    def text(accept):
        return (f"{head}\nsetuid = nobody\n[s]\naccept = 127.0.0.1:{accept}\nconnect = 127.0.0.1:{backend.port}\ncert = {cert}\n")

    def start(accept):
        with open(config, "w") as file:
            file.write(PREAMBLE + text(accept))
        proxy = bench.proxy(text(accept), args=[config], **options)
        proxy.config = config
        return proxy
    return start, text


def test_foreign_addresses_need_little(bench, pki):
    """transparent: CAP_NET_RAW, not CAP_NET_ADMIN."""
    proxy = bench.tls_server(head="setuid = nobody", extra="transparent = source")
    assert capabilities(proxy.pid) == {NET_RAW}
    bench.client(proxy.port).ping().bye()
    proxy.wait_log("LOG6.*: IP_TRANSPARENT socket option set")


def test_a_privileged_port_later_fails_cleanly(bench, pki, open_dir):
    start, text = for_nobody(bench, pki, open_dir)
    port, low = bench.ports(), privileged_port()
    proxy = start(port)
    held = bench.client(port).ping()
    assert not proxy.hup(text(low))
    assert proxy.lines(rf"LOG5\[main\]: Binding service \[s\] to 127.0.0.1:{low}: Permission denied \(13\)")
    held.ping().bye()
    bench.client(port).ping().bye()


def test_a_privileged_port_by_reload(bench, pki, open_dir):
    """CAP_NET_BIND_SERVICE is kept where a port needed it at the start, and nothing else."""
    start, text = for_nobody(bench, pki, open_dir)
    low = privileged_port()
    other = next(port for port in range(low - 1, 512, -1) if port not in listening_ports())
    proxy = start(low)
    assert capabilities(proxy.pid) == {NET_BIND_SERVICE}
    bench.client(low).ping().bye()
    assert proxy.hup(text(other))
    bench.client(other).ping().bye()


# --- the jail ---


def jailed(bench, pki, directory, head=""):
    """In a jail and nobody; the configuration for reloads is in the jail. Returns the proxy and its front port."""
    jail = os.path.join(directory, "jail")
    proxy = pair(bench, pki, f"chroot = {jail}\nsetuid = nobody\n{head}", env=IN_JAIL)
    assert os.readlink(f"/proc/{proxy.pid}/root") == jail
    proxy.outside, proxy.config = proxy.config, inside(jail, proxy.config)
    return proxy, jail


def test_an_empty_jail_serves_both_roles(bench, pki, open_dir):
    proxy, jail = jailed(bench, pki, open_dir)
    assert proxy.lines(rf"LOG5\[ui\]: Switched to chroot directory: {jail}$")
    for _ in range(3):
        ping(proxy.port)
    assert ids(proxy.pid, "Uid") == {NOBODY}


def test_a_reload_in_the_jail(bench, pki, open_dir):
    """Paths are those of the jail; ports and connections stay; what changes is served."""
    proxy, jail = jailed(bench, pki, open_dir)
    held = connect(proxy.port)
    held.sendall(b"a")
    assert held.recv(1) == b"a"
    shutil.copy(pki.ec_pem, inside(jail, str(pki.ec_pem)))
    os.chmod(inside(jail, str(pki.ec_pem)), 0o644)
    more = bench.ports()
    assert proxy.hup(proxy.text[len(proxy.preamble):] + f"accept = 127.0.0.1:{more}\n")
    ping(more)
    ping(proxy.port)
    held.sendall(b"b")
    assert held.recv(1) == b"b"
    held.close()


def test_a_reload_finds_nothing_outside_of_the_jail(bench, pki, open_dir):
    proxy, _ = jailed(bench, pki, open_dir)
    before = proxy.lines("Failed to reload")
    proxy.send_signal(signal.SIGHUP)
    proxy.wait_log(r"LOG3\[main\]: Failed to reload the configuration file", len(before) + 1)
    assert proxy.lines(r"LOG3\[main\]: Cannot open configuration file$")
    assert proxy.lines(r"LOG3\[main\]: Configuration failed$")
    ping(proxy.port)


def test_users_are_known_in_a_jail_without_etc_passwd(bench, pki, open_dir):
    """A reload reads `setuid = nobody` again."""
    proxy, jail = jailed(bench, pki, open_dir, head="setgid = nogroup")
    shutil.copy(pki.ec_pem, inside(jail, str(pki.ec_pem)))
    os.chmod(inside(jail, str(pki.ec_pem)), 0o644)
    assert proxy.hup(proxy.text[len(proxy.preamble):])
    ping(proxy.port)


def test_names_are_those_of_the_jail(bench, open_dir):
    """Modules for names are loaded before, their files are in the jail."""
    jail = os.path.join(open_dir, "jail")
    os.mkdir(jail + "/etc")
    with open(jail + "/etc/hosts", "w") as file:
        file.write("127.0.0.1 only-inside.test\n")
    backend, port = bench.server(echo), bench.ports()
    proxy = bench.proxy(f"chroot = {jail}\nsetuid = nobody\n[c]\naccept = 127.0.0.1:{port}\nclient = yes\ndelay = yes\n"
                        f"connect = only-inside.test:{backend.port}\n", env=IN_JAIL)
    assert proxy.lines(r"LOG4\[ui\]: There is no /etc/resolv.conf in ")
    with connect(port):
        proxy.wait_log(rf"s_connect: connected 127.0.0.1:{backend.port}")


def test_the_time_zone_is_that_of_the_start(bench, pki, open_dir):
    proxy = pair(bench, pki, f"chroot = {open_dir}/jail\nsetuid = nobody", env={**IN_JAIL, "TZ": "Asia/Kolkata"})
    ping(proxy.port)
    hours = {line[11:13] + line[14:16] for line in proxy.lines(r"^\d{4}\.")}
    now = datetime.datetime.now(datetime.timezone(datetime.timedelta(hours=5, minutes=30)))
    expected = {(now - datetime.timedelta(minutes=n)).strftime("%H%M") for n in range(4)}
    assert hours <= expected


def test_a_daemon_in_a_jail(bench, pki, open_dir):
    """Log and pid file are inside and nobody's, /dev/null is not needed there; the parent ends with 0 when the log is open."""
    jail, port, config = os.path.join(open_dir, "jail"), bench.ports(), os.path.join(open_dir, "config")
    with open(config, "w") as file:
        file.write(f"chroot = {jail}\nsetuid = nobody\nsetgid = nogroup\nsyslog = no\ndebug = debug\noutput = /log/out\npid = /run/pid\n"
                   f"[s]\naccept = 127.0.0.1:{port}\nconnect = 127.0.0.1:{bench.server(echo).port}\ncert = {pki.ec_pem}\n")
    code, out, err = run_once([config], env=IN_JAIL)
    assert (code, out) == (0, ""), err
    pid_file, log = f"{jail}/run/pid", f"{jail}/log/out"
    until(lambda: os.path.exists(pid_file) and os.path.getsize(pid_file))
    with open(pid_file) as file:
        text = file.read()
    assert re.fullmatch(r"\d+\n", text)
    pid = int(text)
    try:
        for path, mode in ((pid_file, 0o644), (log, 0o640)):
            found = os.stat(path)
            assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (NOBODY, NOGROUP, mode)
        until(lambda: "Accepting new connections" in open(log).read())
        bench.client(port).ping().bye()
        os.rename(log, log + ".1")
        os.kill(pid, signal.SIGUSR1)
        until(lambda: os.path.exists(log) and "Log file reopened" in open(log).read())
    finally:
        os.kill(pid, signal.SIGTERM)
    until(lambda: gone(pid), 20)
    assert not os.path.exists(pid_file)


def test_what_must_be_writable_for_whom_we_become(bench, pki, open_dir):
    os.chown(f"{open_dir}/jail/log", 0, 0)
    said = bench.refused(f"chroot = {open_dir}/jail\nsetuid = nobody\noutput = /log/out\n[s]\naccept = 127.0.0.1:{bench.ports()}\n"
                         f"connect = 127.0.0.1:1\ncert = {pki.ec_pem}\n", env=IN_JAIL)
    assert "[!] Cannot open log file: /log/out: Permission denied (13)" in said


def test_the_umask_is_kept(bench, pki, open_dir):
    head = f"setuid = nobody\noutput = {open_dir}/log/out\npid = {open_dir}/run/pid"
    proxy = pair(bench, pki, head, prefix=("sh", "-c", 'umask 077; exec "$@"', "sh"))
    modes = [stat.S_IMODE(os.stat(path).st_mode) for path in (f"{open_dir}/log/out", f"{open_dir}/run/pid")]
    assert modes == [0o600, 0o600]
    assert proxy.lines("Created pid file")


class Syslog(threading.Thread):
    """Reads what comes, at once: a log that nobody reads holds up whoever writes to it."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(path)
        self.lines = []
        self.start()

    def run(self):
        while True:
            line = self.sock.recv(4096).decode()
            if not line:
                return
            self.lines.append(line)

    def wait(self, pattern):
        until(lambda: any(re.search(pattern, line) for line in self.lines), what=f"{pattern} in {self.lines}")

    def close(self):
        self.sock.shutdown(socket.SHUT_RDWR)
        self.join()
        self.sock.close()


def test_syslog_is_reached_from_the_jail(bench, pki, open_dir):
    """The socket is outside: connected before. In a mount namespace, where /dev/log is ours."""
    path = os.path.join(open_dir, "log.sock")
    log = bench.keep(Syslog(path))
    script = ('mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && mknod -m 666 /dev/urandom c 1 9 && ln -s "$0" /dev/log '
              '&& exec "$@"')
    proxy = pair(bench, pki, f"chroot = {open_dir}/jail\nsetuid = nobody\nservice = here",
                 env=IN_JAIL, preamble="foreground = yes\nsyslog = yes\ndebug = local3.debug\n", prefix=("unshare", "-m", "sh", "-c", script, path))
    log.wait(r"^<158>.* here: LOG6\[main\]: Accepting new connections")
    inside(f"{open_dir}/jail", proxy.config)
    proxy.send_signal(signal.SIGHUP)  # fails, which is logged: the old connection is still there
    log.wait("Failed to reload")


# --- Unix sockets ---


def owner(path):
    found = os.lstat(path)
    return found.st_uid, found.st_gid


def test_a_unix_socket_belongs_to_whom_the_section_says(bench, pki, tmp_path):
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    text = "\n".join(f"[{os.path.basename(path)}]\naccept = {path}\nconnect = 127.0.0.1:1\ncert = {pki.ec_pem}\n{extra}"
                     for path, extra in ((one, "setuid = nobody\nsetgid = nogroup\n"), (two, "")))
    proxy = bench.proxy(text)
    assert (owner(one), owner(two)) == ((NOBODY, NOGROUP), (0, 0))
    assert ids(proxy.pid, "Uid") == {0}, "a section's setuid is no setuid"
    proxy.stop()
    assert not os.path.exists(one) and not os.path.exists(two)


def test_a_unix_socket_belongs_to_whom_we_become(bench, pki, open_dir):
    path = f"{open_dir}/run/sock"
    proxy = bench.proxy(f"setuid = nobody\nsetgid = nogroup\n[s]\naccept = {path}\nconnect = 127.0.0.1:{bench.server(echo).port}\n"
                        f"cert = {pki.ec_pem}\n")
    assert owner(path) == (NOBODY, NOGROUP)
    bench.client(path).ping().bye()
    proxy.stop()
    assert not os.path.exists(path)


def test_a_file_of_that_name_in_the_jail_is_not_removed(bench, pki, open_dir):
    path = f"{open_dir}/run/sock"
    other = inside(f"{open_dir}/jail", path)
    os.chown(os.path.dirname(other), NOBODY, NOGROUP)
    with open(other, "w"):
        pass
    proxy = bench.proxy(f"chroot = {open_dir}/jail\nsetuid = nobody\n[s]\naccept = {path}\nconnect = 127.0.0.1:1\ncert = {pki.ec_pem}\n",
                        env=IN_JAIL)
    proxy.stop()
    assert os.path.exists(other)


# --- what cannot be reloaded ---


@pytest.mark.parametrize("name, value", [("chroot", "/"), ("setuid", "root"), ("setgid", "0"), ("pid", "/nonexist"), ("sandbox", "no"),
                                         ("foreground", "quiet"), ("workers", "7")])
def test_what_changes_with_the_next_start(bench, name, value):
    proxy = bench.tls_server()
    assert proxy.hup(f"{name} = {value}\n" + proxy.text[len(proxy.preamble):])
    assert proxy.lines(rf'LOG5\[main\]: "{name}" changes with the next start$')


# --- seeds ---


@pytest.mark.parametrize("overwrite, changed", [("", True), ("RNDoverwrite = yes\n", True), ("RNDoverwrite = no\n", False)])
def test_a_seed_file_is_read_and_renewed(bench, tmp_path, overwrite, changed):
    seed = tmp_path / "seed"
    seed.write_bytes(b"x" * 2000)
    proxy = bench.tls_server(head=f"RNDfile = {seed}\nRNDbytes = 1500\n{overwrite}")
    assert proxy.lines(rf"LOG7\[ui\]: Seeded from 1500 byte\(s\) of {seed} besides the kernel's$")
    assert (seed.read_bytes() != b"x" * 2000) == changed
    assert bool(proxy.lines(rf"LOG7\[ui\]: Wrote 1024 new random bytes to {seed}$")) == changed
    bench.client(proxy.port).ping().bye()


def test_a_device_is_no_file_to_renew(bench):
    proxy = bench.tls_server(head="RNDfile = /dev/zero\nRNDbytes = 99999999")
    assert proxy.lines(r"Seeded from 65536 byte\(s\) of /dev/zero")
    bench.client(proxy.port).ping().bye()


def test_a_missing_seed_is_no_reason_to_stop(bench):
    proxy = bench.tls_server(head="RNDfile = /nonexist")
    assert proxy.lines(r"LOG4\[ui\]: RNDfile: /nonexist: No such file or directory \(2\)$")
    assert not os.path.exists("/nonexist")


def test_without_a_seed_nothing_is_missing(bench):
    assert bench.tls_server().lines(r"LOG7\[ui\]: No PRNG seeding was required$")


def test_egd_says_that_it_has_no_effect(bench):
    proxy = bench.tls_server(head="EGD = /var/run/egd-pool")
    assert proxy.lines(r'LOG5\[ui\]: "EGD" has no effect: OpenSSL takes its random numbers from the kernel$')
    assert proxy.lines(r"LOG6\[ui\]: Compression disabled$")
