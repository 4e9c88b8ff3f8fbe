# tlsplice -doctor: what a machine lacks for a configuration. Each thing is taken away once; the network is that of test_transparent.py.
#
#    client                      router, where the doctor is       server
#   192.0.2.2 .. 5 ------- lan 192.0.2.1    198.51.100.1 wan ------- 198.51.100.2 .. 5
#
# SPDX-License-Identifier: Apache-2.0
import os
import pathlib
import pwd
import re
import shutil
import subprocess
import tempfile

import pytest

from network import ROUTER, network  # noqa: F401
from peers import echo
from proxy import BINARY, REPORTS, SLOW, WRAPPER

pytestmark = [pytest.mark.ours]


class Report:
    def __init__(self, prefix, path, text, limits=""):
        path.write_text("foreground = yes\nsyslog = no\n" + text)
        argv = [*prefix, "sh", "-c", f'{limits}; exec "$@"', "-", *WRAPPER, BINARY, "-doctor", str(path)]
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60 * SLOW,
                              cwd=path.parent)
        self.status, self.out, self.err = done.returncode, done.stdout, done.stderr
        assert not REPORTS.search(self.err), self.err
        assert self.status in (0, 1), self.err
        problems, warnings = map(int, re.search(r"(?m)^(\d+) problem\(s\), (\d+) warning\(s\)$", self.out).groups())
        assert problems == len(self.lines("problem")) and warnings == len(self.lines("warning"))
        assert self.status == (problems > 0)

    def lines(self, verdict):
        return [line[9:] for line in self.out.splitlines() if line.startswith(f"{verdict:8} ")]

    def says(self, verdict, pattern, remedy=None):
        """A finding, and what to do about it in a line behind it."""
        lines = self.out.splitlines()
        for line, behind in zip(lines, lines[1:]):
            if line.startswith(f"{verdict:8} ") and re.search(pattern, line):
                assert remedy is None or (behind.startswith("         -> ") and re.search(remedy, behind)), self.out
                return
        raise AssertionError(f"{verdict} {pattern}:\n{self.out}{self.err}")


@pytest.fixture
def visit(tmp_path, pki):
    def visit(extra="", head="", prefix=(), limits=":", accept="127.0.0.1:18443", cert=None):
        return Report(prefix, tmp_path / "doctor.conf", f"{head}\n[s]\naccept = {accept}\ncert = {cert or pki.ec_pem}\n"
                      + (extra or "connect = 127.0.0.1:1") + "\n", limits)
    return visit


@pytest.fixture
def router(network):
    network.rules("up", "nft", "tproxy")
    return network


def test_nothing_is_missing(visit):
    report = visit()
    assert report.status == 0 and not report.lines("problem"), report.out
    assert len(report.lines("ok")) >= 5


def test_configuration_that_is_wrong(visit):
    report = visit(extra="connect = 1\nnonsense = 1")
    report.says("problem", "configuration")
    assert "Specified option name is not valid here" in report.err


def test_no_io_uring(tmp_path, pki, tools, visit):
    for error in ("EPERM", "ENOSYS"):
        report = visit(prefix=(f"{tools}/no-io-uring", error))
        report.says("problem", "io_uring: (io_uring is switched off|this kernel has no io_uring)")


def test_few_descriptors(visit):
    visit(limits="ulimit -n 300").says("warning", r"descriptors \(ulimit -n\): room for \d+ connections", "LimitNOFILE")


def test_little_locked_memory(visit, need, tmp_path):
    """Some kernels count rings as locked memory: what the doctor says must be what a start says."""
    little = (need("capsh"), "--drop=cap_ipc_lock", "--", "-c", 'ulimit -l 100; exec "$@"', "-")
    report = visit(prefix=little)
    if report.status == 0:  # this kernel does not
        report.says("ok", "locked memory")
        return
    report.says("problem", r"locked memory \(ulimit -l, 100 KiB\): 0 of \d+ workers get their ring", "LimitMEMLOCK=infinity")
    started = subprocess.run([*little, BINARY, str(tmp_path / "doctor.conf")], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, text=True, timeout=60 * SLOW)
    assert started.returncode == 1 and "ulimit -l" in started.stdout, started.stdout


@pytest.fixture
def open_path():
    """A directory that others get to, too."""
    with tempfile.TemporaryDirectory() as path:
        os.chmod(path, 0o755)
        yield pathlib.Path(path)


def test_user_who_takes_over(visit, open_path, pki):
    """What is read by a reload, and written, must be open to the user of `setuid`."""
    user = "setuid = nobody\nsetgid = nogroup\n"
    tmp_path, secret = open_path, open_path / "secret.pem"
    secret.write_bytes(open(pki.ec_pem, "rb").read())
    os.chmod(secret, 0o600)
    report = visit(head=f"{user}output = {tmp_path}/log\n", cert=secret)
    number = pwd.getpwnam("nobody").pw_uid
    report.says("warning", f"cert = .*secret.pem: a reload cannot read it as user {number}: Permission denied", f"setfacl -m u:{number}:r {secret}")
    report.says("problem", f"output = {tmp_path}/log: user {number} cannot write {tmp_path}: Permission denied", "let the user of `setuid` write")
    os.chown(secret, number, -1)
    (tmp_path / "open").mkdir()
    os.chown(tmp_path / "open", number, -1)
    assert visit(head=f"{user}output = {tmp_path}/open/log\npid = {tmp_path}/open/pid\n", cert=secret).status == 0
    assert not os.listdir(tmp_path / "open")


def test_groups_of_the_user_who_takes_over(visit, open_path, pki):
    """Without `setgid` they are his own, and root's is none of them."""
    tmp_path, secret = open_path, open_path / "secret.pem"
    secret.write_bytes(open(pki.ec_pem, "rb").read())
    os.chmod(secret, 0o640)
    report = visit(head="setuid = nobody\n", cert=secret)
    report.says("warning", f"cert = .*secret.pem: a reload cannot read it as user {pwd.getpwnam('nobody').pw_uid}: Permission denied")
    os.chown(secret, -1, pwd.getpwnam("nobody").pw_gid)
    assert not visit(head="setuid = nobody\n", cert=secret).lines("warning")


def test_chroot_and_its_files(visit, tmp_path, need):
    visit(head=f"chroot = {tmp_path}/none").says("problem", "chroot = .*/none: no such directory", "mkdir -p")
    (tmp_path / "jail/run").mkdir(parents=True)
    report = visit(head=f"chroot = {tmp_path}/jail\npid = /run/pid")
    assert report.status == 0
    report.says("ok", f"pid = {tmp_path}/jail/run/pid")
    weak = (need("capsh"), "--drop=cap_sys_chroot", "--", "-c", 'exec "$@"', "-")
    visit(head=f"chroot = {tmp_path}/jail", prefix=weak).says("problem", "chroot: needs CAP_SYS_CHROOT", "AmbientCapabilities")


def test_program_that_cannot_be_run(visit):
    visit("exec = /nonexistent/program").says("problem", "exec = /nonexistent/program: user .* cannot run it: No such file", "mend the path")
    assert visit("exec = /bin/cat").status == 0


def test_program_in_a_jail(visit, tmp_path):
    visit("exec = /bin/cat", head=f"chroot = {tmp_path}").says("problem", f"exec = {tmp_path}/bin/cat: user .* cannot run it: No such file", "mend the path")
    (tmp_path / "bin").mkdir()
    shutil.copy("/bin/cat", tmp_path / "bin")
    assert visit("exec = /bin/cat", head=f"chroot = {tmp_path}").status == 0


def test_port_that_needs_a_privilege(visit, need, tmp_path):
    nobody = (need("capsh"), "--drop=cap_net_bind_service", "--", "-c", 'exec "$@"', "-")
    report = visit(prefix=("unshare", "-n", *nobody), accept="0.0.0.0:443")
    report.says("problem", r"accept = 0\.0\.0\.0:443: Permission denied", "CAP_NET_BIND_SERVICE.*ip_unprivileged_port_start")
    assert visit(prefix=("unshare", "-n"), accept="0.0.0.0:443").status == 0


def test_port_in_use_and_address_of_nobody(visit, bench):
    server = bench.server(echo)
    report = visit(accept=f"127.0.0.1:{server.port}")
    assert report.status == 0
    report.says("warning", "in use", "ss -ltnp")
    visit(accept="203.0.113.9:443").says("problem", "no address of this machine", "ip_nonlocal_bind")


def test_files(visit, tmp_path, pki):
    visit(cert=f"{tmp_path}/none.pem").says("problem", "cert = .*none.pem: No such file", "mend the path")
    loose = tmp_path / "loose.pem"
    loose.write_bytes(open(pki.ec_pem, "rb").read())
    os.chmod(loose, 0o644)
    visit(cert=loose).says("warning", r"cert = .*loose.pem: others may read or change it \(mode 0644\)", f"chmod o=,g-w {loose}")
    os.chmod(loose, 0o600)
    assert not visit(cert=loose).lines("warning")
    visit(head="pid = /nowhere/to/be/found/pid").says("problem", "pid = /nowhere/to/be/found/pid", "make the directory")


def test_transparent_on_a_router_that_is_ready(visit, router):
    report = visit("transparent = both", prefix=router.prefix(ROUTER), accept="8443")
    assert report.status == 0 and not report.lines("warning"), report.out
    report.says("ok", "IPv4: packets with mark 1 are delivered here")
    report.says("ok", "IPv6: packets with mark 1 are delivered here")
    report.says("ok", "netfilter sets mark 1")


def test_transparent_by_iptables(visit, network):
    network.rules("up", "iptables", "tproxy")
    report = visit("transparent = both", prefix=network.prefix(ROUTER), accept="8443")
    assert report.status == 0 and not report.lines("warning"), report.out


def test_no_rules_at_all(visit, network):
    report = visit("transparent = both", prefix=network.prefix(ROUTER), accept="8443")
    report.says("problem", "IPv4: no rule has marked packets delivered", "ip -4 rule add fwmark 1 lookup 100; ip -4 route add local default dev lo table 100")
    report.says("warning", "IPv6: no rule has marked packets delivered", "ip -6 rule add")
    report.says("problem", "no rule marks what belongs to transparent sockets", "socket transparent 1")
    report.says("warning", "no rule with TPROXY, REDIRECT or DNAT", "configs/tproxy/rules")


def test_destination_alone_does_with_nat(visit, network):
    """Answers come to our own address: neither mark nor route is needed."""
    network.run(ROUTER, "nft", "add table ip t; add chain ip t c { type nat hook prerouting priority dstnat; }; "
                "add rule ip t c tcp dport 443 redirect to :8443")
    report = visit("transparent = destination", prefix=network.prefix(ROUTER), accept="8443")
    assert report.status == 0
    report.says("warning", r"IPv4: no rule has marked packets delivered here: TPROXY does not work \(REDIRECT and DNAT do\)")


def test_route_is_missing(visit, router):
    router.run(ROUTER, "ip", "route", "del", "local", "default", "dev", "lo", "table", "100")
    report = visit("transparent = source\nconnect = 198.51.100.2:1", prefix=router.prefix(ROUTER), accept="8443")
    report.says("problem", "IPv4: no rule has marked packets delivered here")
    report.says("ok", "IPv6: packets with mark 1")


def test_mark_without_a_rule(visit, router):
    router.run(ROUTER, "ip", "rule", "del", "fwmark", "1")
    router.run(ROUTER, "ip", "rule", "add", "fwmark", "2", "lookup", "100")
    report = visit("transparent = both", prefix=router.prefix(ROUTER), accept="8443")
    report.says("ok", "IPv4: packets with mark 2")
    report.says("problem", "netfilter sets mark 1, which no ip rule has delivered here")


def test_sysctls(visit, router):
    def with_sysctl(setting, undo):
        router.run(ROUTER, "sysctl", "-qw", setting)
        report = visit("transparent = both", prefix=router.prefix(ROUTER), accept="8443")
        router.run(ROUTER, "sysctl", "-qw", undo)
        return report

    with_sysctl("net.ipv4.conf.lan.src_valid_mark=1", "net.ipv4.conf.lan.src_valid_mark=0").says(
        "problem", r"net\.ipv4\.conf\.lan\.src_valid_mark is 1", r"sysctl -w net\.ipv4\.conf\.lan\.src_valid_mark=0")
    report = with_sysctl("net.ipv4.conf.wan.rp_filter=1", "net.ipv4.conf.wan.rp_filter=0")
    report.says("warning", r"net\.ipv4\.conf\.wan\.rp_filter is 1 \(strict\)", "rp_filter=2")
    assert report.status == 0
    with_sysctl("net.ipv4.ip_forward=0", "net.ipv4.ip_forward=1").says("warning", "ip_forward is 0", "ip_forward=1")
    with_sysctl("net.ipv4.ip_nonlocal_bind=1", "net.ipv4.ip_nonlocal_bind=0").says("warning", "ip_nonlocal_bind is 1")


def test_transparent_without_the_privilege(visit, router, need):
    drop = (need("capsh"), "--drop=cap_net_raw,cap_net_admin", "--", "-c", 'exec "$@"', "-")
    report = visit("transparent = both", prefix=(*router.prefix(ROUTER), *drop), accept="8443")
    report.says("problem", "transparent: sockets may not have foreign addresses: Operation not permitted", "CAP_NET_ADMIN")


def test_doctor_changes_nothing(visit, router):
    before = router.state()
    visit("transparent = both", prefix=router.prefix(ROUTER), accept="8443")
    assert router.state() == before
