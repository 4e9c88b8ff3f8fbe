# The Debian package: built by `make deb`, looked at by lintian, installed and started.
#
#   this machine ── read-only ──> overlay in a mount namespace of the test's own ── chroot ──> dpkg -i, the proxy, dpkg --purge
#
# Nothing is installed on the machine itself.
# SPDX-License-Identifier: Apache-2.0
import glob
import os
import re
import shutil
import subprocess

import pytest

from peers import TIMEOUT, echo, name
from proxy import TOP, listening_ports, until
from test_units import Machine, conf, says

pytestmark = [pytest.mark.ours, pytest.mark.nosan, pytest.mark.slow, pytest.mark.serial]

# Commands are read from stdin, one a line, and run in the copy of this machine; each ends with a line "== STATUS".
COPY = """
set -e
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
mount -t proc proc "$1/root/proc"
mount --rbind /dev "$1/root/dev"
mount --bind "$2" "$1/root/mnt"
set +e
while read -r command; do
	chroot "$1/root" sh -c "$command" 2>&1 </dev/null
	echo "== $?"
done
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The path of the package."""
    if not shutil.which("dpkg-buildpackage") or not shutil.which("dh"):
        pytest.fail("debhelper is not installed (tests/install-deps test)")
    build = tmp_path_factory.mktemp("deb")
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(["make", "deb", f"BUILD={build}"], cwd=TOP, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=280)
    assert done.returncode == 0, done.stdout.decode(errors="replace")
    (path,) = glob.glob(f"{build}/deb/tlsplice_*.deb")
    return path


@pytest.fixture(scope="module")
def next_package(package, tmp_path_factory):
    """The same with a higher version."""
    tree = str(tmp_path_factory.mktemp("next"))
    output("dpkg-deb", "-R", package, tree + "/tree")
    control = tree + "/tree/DEBIAN/control"
    with open(control) as file:
        text = file.read()
    with open(control, "w") as file:
        file.write(re.sub(r"(?m)^Version: .*$", f"Version: {version()}-2", text))
    output("dpkg-deb", "--root-owner-group", "-b", tree + "/tree", tree + "/next.deb")
    return tree + "/next.deb"


def output(*argv):
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120, env=dict(os.environ, LC_ALL="C.UTF-8"))
    assert done.returncode == 0, done.stdout.decode(errors="replace")
    return done.stdout.decode(errors="replace")


def contents(package):
    """{path: "mode owner"}"""
    listed = [line.split() for line in output("dpkg-deb", "-c", package).splitlines()]
    return {words[5].lstrip("."): f"{words[0]} {words[1]}" for words in listed if not words[0].startswith("l")}


def version():
    with open(os.path.join(TOP, "Makefile")) as makefile:
        return re.search(r"(?m)^VERSION\s*=\s*(\S+)$", makefile.read()).group(1)


def test_the_package_is_of_this_version(package):
    fields = dict(re.findall(r"(?m)^ (\w[\w-]*): (.*)$", output("dpkg-deb", "-I", package)))
    assert fields["Version"].startswith(version() + "-")
    for library in "liburing2", "libssl3", "libwrap0":
        assert library in fields["Depends"]


def test_contents(package):
    files = contents(package)
    documents = "/usr/share/doc/tlsplice/"
    wanted = {"/usr/sbin/tlsplice", "/usr/share/man/man8/tlsplice.8.gz", "/usr/share/man/man5/tlsplice.conf.5.gz", documents + "copyright",
              documents + "NEWS.md.gz", documents + "changelog.Debian.gz", "/etc/tlsplice/"}
    wanted |= {documents + "examples/" + os.path.basename(path) for path in glob.glob(os.path.join(TOP, "configs", "*.conf"))}
    assert not wanted - set(files)
    assert [path for path in files if path.endswith("/systemd/system/tlsplice.service")]
    assert {mode.split()[1] for mode in files.values()} == {"root/root"}
    assert not [path for path, mode in files.items() if mode[8] == "w" or mode[5] == "w" or "s" in mode.split()[0]]
    executable = [path for path, mode in files.items() if mode[0] == "-" and mode[3] == "x"]
    assert [path for path in executable if "/examples/" not in path] == ["/usr/sbin/tlsplice"]


def test_lintian_has_nothing_to_say(package, need):
    (changes,) = glob.glob(os.path.join(os.path.dirname(package), "*.changes"))
    said = output(need("lintian"), "--fail-on", "none", changes)
    assert not re.findall(r"(?m)^[EW]: .*", said)


def test_the_maintainer_is_who_builds_it(tmp_path):
    """Up to where the package would be built."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "dpkg-buildpackage").write_text("#!/bin/sh\ncat debian/control debian/changelog >../said\nexit 1\n")
    (tools / "dpkg-buildpackage").chmod(0o755)
    path = f"{tools}:{os.environ['PATH']}"
    for who, env in (("Jane Doe <jane@example.org>", {"DEBFULLNAME": "Jane Doe", "DEBEMAIL": "jane@example.org"}),
                     ("tlsplice maintainers <maintainers@tlsplice.example>", {"DEBEMAIL": ""})):
        subprocess.run(["packaging/build-deb", version(), str(tmp_path / "deb")], cwd=TOP, env={**os.environ, "PATH": path, **env},
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=120)
        said = (tmp_path / "deb/said").read_text()
        assert f"\nMaintainer: {who}\n" in said and re.search(rf"(?m)^ -- {re.escape(who)}  \w", said)


def test_examples_name_the_installed_binary(package, tmp_path):
    output("dpkg-deb", "-x", package, str(tmp_path))
    units = glob.glob(f"{tmp_path}/usr/share/doc/tlsplice/examples/systemd/*.service")
    assert units
    for unit in units:
        with open(unit) as file:
            assert "/usr/sbin/tlsplice /etc/tlsplice/" in file.read()


def test_upgrade_remove_and_purge_under_systemd(bench, package, next_package, tmp_path):
    """A running service is restarted by an upgrade, stopped by a removal; what the administrator wrote stays, and nothing else does."""
    m = Machine(bench, tmp_path, {"/root/one.deb": (package,), "/root/two.deb": (next_package,), "/etc/tlsplice-test/server.pem": (bench.pki.ec_pem,)})

    def files():
        """But for dpkg's own books, and what systemd writes meanwhile."""
        found = m.run("find", "/etc", "/usr", "/var", "-xdev", "-not", "-path", "/var/log/*", "-not", "-path", "/var/tmp/*", "-not", "-path", "/var/lib/dpkg/*-old", "-not", "-path", "/var/lib/dpkg/triggers/*",
                      "-not", "-path", "/var/cache/*", "-not", "-path", "/var/lib/systemd/timers/*", "-not", "-path", "/etc/tlsplice*").splitlines()
        return set(found)

    m.run("rm", "-f", "/usr/sbin/policy-rc.d")
    m.run("dpkg", "--purge", "tlsplice")
    before = files()
    m.run("dpkg", "-i", "/root/one.deb")
    assert m.show("tlsplice", "ActiveState") == "inactive" and m.show("tlsplice", "UnitFileState") == "enabled"  # nothing to serve yet
    text = conf(443, 8001).replace("/etc/tlsplice/", "/etc/tlsplice-test/")
    m.write("/etc/tlsplice/tlsplice.conf", text)
    with m.network():
        bench.server(name("from 8001"), 8001)
        m.systemctl("start", "tlsplice")
        assert says(bench, 443) == b"from 8001"
        first = m.show("tlsplice", "MainPID")
        m.run("dpkg", "-i", "/root/two.deb")
        assert m.run("dpkg-query", "-W", "-f", "${Version}", "tlsplice") == f"{version()}-2"
        m.wait("tlsplice", "ActiveState", "active")
        assert m.show("tlsplice", "MainPID") not in ("0", first)
        assert says(bench, 443) == b"from 8001"

        # Disabled stays disabled, stopped stopped.
        m.systemctl("disable", "--now", "tlsplice")
        m.run("dpkg", "-i", "/root/one.deb")  # dpkg goes back too
        assert m.show("tlsplice", "UnitFileState") == "disabled"
        m.systemctl("start", "tlsplice")
        m.run("dpkg", "-r", "tlsplice")
        assert m.show("tlsplice", "ActiveState") == "inactive" and m.show("tlsplice", "MainPID") == "0"
    assert m.run("cat", "/etc/tlsplice/tlsplice.conf") == text
    m.run("dpkg", "--purge", "tlsplice")
    assert m.run("cat", "/etc/tlsplice/tlsplice.conf") == text
    assert files() - before == set()


class Copy:
    """A copy of this machine that is gone when the test ends."""

    def __init__(self, bench, directory, package):
        copy = directory / "copy"
        copy.mkdir()
        self.child = bench.run(["unshare", "-m", "sh", "-c", COPY, "sh", str(copy), os.path.dirname(package)], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE)

    def run(self, command, ok=True):
        self.child.stdin.write(command.encode() + b"\n")
        self.child.stdin.flush()
        said = ""
        for line in self.child.stdout:
            line = line.decode(errors="replace")
            if line.startswith("== "):
                assert not ok or line == "== 0\n", f"{command}: {line}{said}"
                return said
            said += line
        raise AssertionError(f"{command}: {said}")


def test_installed_and_started(bench, package, tmp_path, pki):
    """The package's own example, where the unit expects its configuration, with other ports and certificate."""
    before = os.path.exists("/usr/sbin/tlsplice")
    copy = Copy(bench, tmp_path, package)
    copy.run("dpkg --purge tlsplice")
    copy.run(f"dpkg -i /mnt/{os.path.basename(package)}")
    assert "install ok installed" in copy.run("dpkg -s tlsplice")
    assert copy.run("/usr/sbin/tlsplice -version").startswith(f"tlsplice {version()} ")
    unit = copy.run("cat $(dpkg -L tlsplice | grep /tlsplice.service)")
    command = re.search(r"(?m)^ExecStart=(.*)$", unit).group(1)
    assert command == "/usr/sbin/tlsplice /etc/tlsplice/tlsplice.conf"
    said = copy.run("systemd-analyze verify --man=no $(dpkg -L tlsplice | grep /tlsplice.service)")
    assert "tlsplice" not in said
    assert "tlsplice.service" in copy.run("ls /etc/systemd/system/multi-user.target.wants")

    port, backend = bench.ports(), bench.server(echo)
    shutil.copy(pki.ec_pem, os.path.join(os.path.dirname(package), "server.pem"))
    copy.run(r"sed -e 's|^accept = .*|accept = 127.0.0.1:%d|' -e 's|^connect = .*|connect = 127.0.0.1:%d|' -e 's|^cert = .*|cert = /mnt/server.pem|' -e '/^key = /d' "
             r"-e '/^output = /d' -e '/^foreground = /d' -e '1i foreground = no\npid = /run/tlsplice.pid' "
             r"/usr/share/doc/tlsplice/examples/https-server.conf > /etc/tlsplice/tlsplice.conf" % (port, backend.port))
    copy.run(command)
    until(lambda: port in listening_ports(), what="the installed proxy listens")
    try:
        client = bench.client(port)
        client.send(b"installed")
        assert client.recv_exactly(9) == b"installed"
        assert "/usr/sbin/tlsplice" in copy.run("readlink /proc/$(cat /run/tlsplice.pid)/exe")
    finally:
        copy.run("kill $(cat /run/tlsplice.pid)")
    until(lambda: port not in listening_ports(), what="its end")
    copy.run("rm /etc/tlsplice/tlsplice.conf")
    copy.run("dpkg --purge tlsplice")
    assert copy.run("ls -d /usr/sbin/tlsplice /etc/tlsplice /usr/share/doc/tlsplice /usr/share/man/man8/tlsplice.8.gz "
                    "/etc/systemd/system/multi-user.target.wants/tlsplice.service", ok=False).count("No such file") == 5
    assert os.path.exists("/usr/sbin/tlsplice") == before
    copy.child.stdin.close()
    assert copy.child.wait(TIMEOUT) == 0
