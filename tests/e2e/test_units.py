# The units under a real systemd: it is PID 1 of namespaces of the test's own, on a copy of this machine.
#
#   this machine ── read-only ──> overlay, PID, mount, network and cgroup namespace ── systemd ──> tlsplice
#                                 the test's clients and backends are in that network
#
# Nothing is installed on the machine itself, and services of it are not started in the copy.
# SPDX-License-Identifier: Apache-2.0
import contextlib
import os
import re
import shutil
import socket
import subprocess

import pytest

from conftest import need
from network import CLONE_NEWNET, enter, libc
from peers import CLOSE_NOTIFY, name
from proxy import BINARY, SLOW, TOP, until

pytestmark = [pytest.mark.ours, pytest.mark.nosan, pytest.mark.timeout(240)]

# Units of the machine that would reach beyond the namespaces, or take time.
MASKED = ["systemd-sysctl.service", "systemd-modules-load.service", "systemd-remount-fs.service", "systemd-update-utmp.service", "networking.service",
          "systemd-journal-flush.service", "systemd-sysusers.service", "systemd-networkd-wait-online.service", "ifupdown-wait-online.service",
          "systemd-udevd.service", "systemd-udev-trigger.service", "sys-kernel-debug.mount", "sys-kernel-tracing.mount"]

BOOT = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
cd "$1/root"
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,ro,bind proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs dev
mkdir dev/pts dev/shm
for device in null zero full random urandom tty; do
	touch dev/$device
	mount --bind /dev/$device dev/$device
done
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
rm -f etc/machine-id
echo 0123456789abcdef0123456789abcdef >etc/machine-id
cp -r "$2/." .
for unit in $3; do
	ln -sf /dev/null etc/systemd/system/$unit
done
ip link set lo up
mkdir old
pivot_root . old
umount -l old
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 /lib/systemd/systemd --system --unit=basic.target --log-target=journal
"""


class Machine:
    """A copy of this machine that systemd runs, with more files in it."""

    def __init__(self, bench, directory, files):
        if os.geteuid() != 0:
            pytest.fail("namespaces need root")
        need("systemctl")
        for path, content in files.items():
            at = directory / ("files" + path)
            at.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, str):
                at.write_text(content)
            else:
                shutil.copy(content[0], at)
        (directory / "copy").mkdir()
        self.log = open(directory / "systemd.log", "wb")
        self.child = bench.run(["unshare", "--pid", "--mount", "--uts", "--ipc", "--net", "--cgroup", "--fork", "--kill-child=KILL", "sh", "-c", BOOT, "sh",
                                str(directory / "copy"), str(directory / "files"), " ".join(MASKED)], stdout=self.log)
        self.pid = until(self.first_child, what="PID 1")
        until(lambda: self.run("systemctl", "is-system-running", ok=False).strip() in ("running", "degraded"), 60, what="systemd has started")

    def first_child(self):
        assert self.child.poll() is None, open(self.log.name).read()
        with open(f"/proc/{self.child.pid}/task/{self.child.pid}/children") as file:
            return file.read().strip()

    def run(self, *argv, ok=True):
        done = subprocess.run(["nsenter", "-t", self.pid, "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w", *argv], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60 * SLOW, env={"PATH": "/usr/sbin:/usr/bin", "LANG": "C.UTF-8"})
        said = done.stdout.decode(errors="replace")
        assert not ok or done.returncode == 0, f"{argv}: {said}"
        return said

    def systemctl(self, *words, **options):
        return self.run("systemctl", "--no-pager", *words, **options)

    def show(self, unit, what):
        return self.systemctl("show", "--value", "-p", what, unit).strip()

    def wait(self, unit, what, value):
        until(lambda: re.fullmatch(value, self.show(unit, what)), 30, what=f"{what} of {unit}: {value}")

    def journal(self, unit):
        return self.run("journalctl", "--no-pager", "-u", unit)

    def write(self, path, text):
        with open(f"/proc/{self.pid}/root{path}", "w") as file:
            file.write(text)

    @contextlib.contextmanager
    def network(self):
        """Sockets that are made in here are the machine's."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            enter(f"/proc/{self.pid}/ns/net")
            yield
        finally:
            libc.setns(before, CLONE_NEWNET)
            os.close(before)


def unit_files(directory, binary):
    """The units of a directory, with the path of the binary in the copy."""
    files = {}
    for file in os.listdir(os.path.join(TOP, directory)):
        if file.endswith((".service", ".socket")):
            with open(os.path.join(TOP, directory, file)) as unit:
                files["/etc/systemd/system/" + file] = unit.read().replace("@SBINDIR@", os.path.dirname(binary)).replace("/usr/local/sbin/tlsplice", binary)
    return files


def machine(bench, tmp_path, directory, files=()):
    binary = "/usr/sbin/tlsplice"
    everything = {binary: (BINARY,), "/etc/tlsplice/server.pem": (bench.pki.ec_pem,), **unit_files(directory, binary), **dict(files)}
    machine = Machine(bench, tmp_path, everything)
    return machine


def says(bench, port):
    client = bench.client(port)
    said = client.recv()
    client.close()
    return said


def conf(port, backend, extra=""):
    return f"foreground = yes\nsyslog = no\ncert = /etc/tlsplice/server.pem\n[s]\naccept = 127.0.0.1:{port}\nconnect = 127.0.0.1:{backend}\n{extra}"


def test_the_unit_of_the_package(bench, tmp_path):
    drop_in = "[Service]\nWatchdogSec=4\nRestartSec=100ms\n"
    m = machine(bench, tmp_path, "packaging", {"/etc/tlsplice/tlsplice.conf": conf(443, 8001), "/etc/systemd/system/tlsplice.service.d/fast.conf": drop_in})
    with m.network():
        for port in 8001, 8002:
            bench.server(name(f"from {port}"), port)

        # Type=notify: start returns when it serves.
        m.systemctl("start", "tlsplice")
        assert says(bench, 443) == b"from 8001"
        assert (m.show("tlsplice", "ActiveState"), m.show("tlsplice", "StatusText")) == ("active", "Serving")
        assert "Configuration successful" in m.journal("tlsplice")
        first = m.show("tlsplice", "MainPID")

        # Reloads, one that works and one that does not; a connection stays.
        held = bench.client(443)
        assert held.recv() == b"from 8001"
        m.write("/etc/tlsplice/tlsplice.conf", conf(443, 8002))
        m.systemctl("reload", "tlsplice")
        until(lambda: says(bench, 443) == b"from 8002", what="the new configuration")
        m.wait("tlsplice", "ActiveState", "active")
        m.write("/etc/tlsplice/tlsplice.conf", "nonsense\n")
        m.systemctl("reload", "tlsplice")
        m.wait("tlsplice", "StatusText", ".*old configuration.*")
        m.wait("tlsplice", "ActiveState", "active")
        assert says(bench, 443) == b"from 8002"
        assert m.show("tlsplice", "MainPID") == first
        m.write("/etc/tlsplice/tlsplice.conf", conf(443, 8002))
        held.close()

        # The watchdog.
        m.run("kill", "-STOP", first)
        m.wait("tlsplice", "NRestarts", "1")
        m.wait("tlsplice", "ActiveState", "active")
        assert "Watchdog timeout" in m.journal("tlsplice") and m.show("tlsplice", "MainPID") not in (first, "0")
        assert says(bench, 443) == b"from 8002"

        # A name server that says nothing makes a reload last longer than the watchdog waits: four tries, a second between them.
        m.write("/etc/resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
        m.write("/etc/nsswitch.conf", "hosts: dns\n")
        silent = bench.keep(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        silent.bind(("127.0.0.1", 53))
        second = m.show("tlsplice", "MainPID")
        m.write("/etc/tlsplice/tlsplice.conf", conf(443, 8001, "[t]\naccept = 127.0.0.1:444\nconnect = no.such.name:1\ncert = /etc/tlsplice/server.pem\n"))
        m.systemctl("reload", "tlsplice")
        until(lambda: says(bench, 443) == b"from 8001", 60, what="the new configuration")
        m.wait("tlsplice", "StatusText", "Serving")
        assert (m.show("tlsplice", "MainPID"), m.show("tlsplice", "NRestarts")) == (second, "1")
        m.write("/etc/tlsplice/tlsplice.conf", conf(443, 8002, "").replace("[s]", "drain = 100\n[s]"))
        m.systemctl("reload", "tlsplice")
        until(lambda: says(bench, 443) == b"from 8002", 60, what="the new configuration")

        # And guards as before.
        m.run("kill", "-STOP", second)
        m.wait("tlsplice", "NRestarts", "2")
        m.wait("tlsplice", "ActiveState", "active")

        # The end waits for a connection.
        held = bench.client(443)
        assert held.recv() == b"from 8002"
        m.systemctl("stop", "--no-block", "tlsplice")
        m.wait("tlsplice", "StatusText", "Waiting for connections to end")
        assert m.show("tlsplice", "ActiveState") == "deactivating"
        held.close()
        m.wait("tlsplice", "ActiveState", "inactive")
        assert m.show("tlsplice", "Result") == "success"


def test_what_systemd_says_of_the_units(bench, tmp_path):
    """Verified where everything they name is there, and how exposed the service is, by systemd's own measure."""
    m = machine(bench, tmp_path, "packaging", {"/etc/tlsplice/tlsplice.conf": conf(443, 8001)})
    assert "tlsplice" not in m.run("systemd-analyze", "verify", "--man=no", "tlsplice.service")
    m.run("systemd-analyze", "--no-pager", "security", "--threshold=67", "tlsplice.service")


def test_programs_and_users_under_the_unit(bench, tmp_path):
    """Its restrictions leave what `exec`, pty, chroot and setuid need."""
    sections = "".join(f"[{name}]\naccept = 127.0.0.1:{port}\nexec = /bin/sh\nexecArgs = sh -c {command}\n{more}" for name, port, command, more in (
        ("shell", 444, "tty||id${IFS}-u;echo${IFS}>/tmp/here;echo${IFS}$?", ""), ("terminal", 445, "tty", "pty = yes\n")))
    m = machine(bench, tmp_path, "packaging", {"/etc/tlsplice/tlsplice.conf": conf(443, 8001, sections)})
    with m.network():
        bench.server(name("from 8001"), 8001)
        m.systemctl("start", "tlsplice")
        assert bench.client(444).recv_all() == b"not a tty\n0\n0\n"
        assert re.fullmatch(rb"/dev/pts/\d+\r\n", bench.client(445).recv_all())
        m.systemctl("stop", "tlsplice")
        m.run("mkdir", "-p", "/var/empty-jail")
        m.write("/etc/tlsplice/tlsplice.conf", "chroot = /var/empty-jail\nsetuid = nobody\nsetgid = nogroup\n" + conf(443, 8001))
        m.systemctl("start", "tlsplice")
        assert says(bench, 443) == b"from 8001"
        assert re.search(r"(?m)^Uid:\t65534\t65534\t65534\t65534$", m.run("cat", f"/proc/{m.show('tlsplice', 'MainPID')}/status"))
        assert m.show("tlsplice", "StatusText") == "Serving"
        m.systemctl("stop", "tlsplice")
        assert m.show("tlsplice", "Result") == "success"


def test_sockets_and_instances(bench, tmp_path):
    with open(os.path.join(TOP, "configs/systemd/tlsplice.conf")) as file:
        config = "debug = info\n" + file.read()
    with open(os.path.join(TOP, "configs/systemd/inetd.conf")) as file:
        inetd = file.read().replace("/usr/lib/dovecot/imap", "/bin/cat").replace("execArgs = imap", "execArgs = cat")
    m = machine(bench, tmp_path, "configs/systemd", {"/etc/tlsplice/tlsplice.conf": config, "/etc/tlsplice/inetd.conf": "syslog = no\n" + inetd,
                                                     "/etc/tlsplice/mail.conf": conf(465, 8080)})
    with m.network():
        for port in 8080, 143:
            bench.server(name(f"from {port}"), port)

        # Two sockets; the first client starts the service, whichever it comes to.
        m.systemctl("start", "tlsplice.socket")
        assert m.show("tlsplice.service", "ActiveState") == "inactive"
        assert says(bench, 993) == b"from 143"
        assert says(bench, 443) == b"from 8080"
        assert "Systemd socket activation: 2 descriptors received" in m.journal("tlsplice.service")
        m.systemctl("restart", "tlsplice.service")
        assert says(bench, 443) == b"from 8080"
        m.systemctl("reload", "tlsplice.service")
        m.wait("tlsplice.service", "ActiveState", "active")
        assert says(bench, 993) == b"from 143"
        m.systemctl("stop", "tlsplice.service", "tlsplice.socket")
        assert m.show("tlsplice.service", "Result") == "success"

        # An instance for each file.
        m.systemctl("start", "tlsplice@mail")
        assert says(bench, 465) == b"from 8080"
        m.systemctl("stop", "tlsplice@mail")

        # Inetd mode: a process for each connection.
        m.systemctl("start", "tlsplice-inetd.socket")
        clients = [bench.client(993) for _ in range(3)]
        for client in clients:
            client.ping()
        assert m.show("tlsplice-inetd.socket", "NAccepted") == "3"
        for client in clients:
            client.close_notify()
            assert client.recv_all() == b"" and client.ended == CLOSE_NOTIFY
            client.close()
        until(lambda: "tlsplice-inetd@" not in m.systemctl("list-units", "--state=active", "--no-legend"), what="their end")
        assert "failed" not in m.systemctl("list-units", "--all", "--no-legend", "tlsplice*")
