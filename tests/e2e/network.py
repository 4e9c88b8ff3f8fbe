# Networks of several machines, made of network namespaces: see the map in configs/tproxy/lab. For the tests of this directory.
# SPDX-License-Identifier: Apache-2.0
import contextlib
import ctypes
import itertools
import os
import re
import subprocess

import pytest

from proxy import SLOW, TOP

LAB = os.path.join(TOP, "configs/tproxy/lab")
RULES = os.path.join(TOP, "configs/tproxy/rules")
CLIENT, ROUTER, SERVER = "client", "router", "server"
CLIENTS = {4: [f"192.0.2.{n}" for n in range(2, 6)], 6: [f"2001:db8:1::{n}" for n in range(2, 6)]}
SERVERS = {4: [f"198.51.100.{n}" for n in range(2, 6)], 6: [f"2001:db8:2::{n}" for n in range(2, 6)]}
ROUTERS = {4: "192.0.2.1", 6: "2001:db8:1::1"}  # as the clients see it
ROUTERS_OUT = {4: "198.51.100.1", 6: "2001:db8:2::1"}  # as the servers do

CLONE_NEWNET = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)
numbers = itertools.count()


def enter(path):
    """Moves this thread into a network namespace."""
    with open(path) as namespace:
        if libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {path}")


class Network:
    """Client, router and server, with names of their own so that many such networks can be there at once."""

    def __init__(self):
        if os.geteuid() != 0:
            pytest.fail("network namespaces need root")
        self.name = f"tl{os.getpid()}-{next(numbers)}"
        self.script(LAB, "up")

    def script(self, *argv, env=None):
        done = subprocess.run(argv, env=dict(os.environ, TPROXY_LAB=self.name, **(env or {})), stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=60 * SLOW, text=True)
        assert done.returncode == 0, f"{argv}: {done.stdout}"
        return done.stdout

    def prefix(self, machine):
        return ("ip", "netns", "exec", f"{self.name}-{machine}")

    def run(self, machine, *argv, **options):
        """Runs a command on a machine and returns what it printed."""
        return self.script(*self.prefix(machine), *argv, **options)

    def rules(self, *words, **env):
        return self.run(ROUTER, RULES, *words, env=env)

    def path(self, machine):
        return f"/run/netns/{self.name}-{machine}"

    @contextlib.contextmanager
    def inside(self, machine):
        """Sockets that are made in here are that machine's, wherever they are used."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            enter(self.path(machine))
            yield
        finally:
            libc.setns(before, CLONE_NEWNET)
            os.close(before)

    def state(self):
        """Everything of the router that rules may change, without counters and without what iptables leaves behind, empty."""
        kept = []
        for argv in (["nft", "-s", "list", "ruleset"], ["iptables-save"], ["ip6tables-save"]):
            kept += [line for line in self.run(ROUTER, *argv).splitlines() if re.search("(?i)tlsplice|^-A|mark|tproxy|redirect|dnat|zone", line)]
        for family in "-4", "-6":
            kept += self.run(ROUTER, "ip", family, "rule").splitlines()
            kept += [line for line in self.run(ROUTER, "ip", family, "route", "show", "table", "all").splitlines() if "proto kernel" not in line]
        return sorted(kept)

    def close(self):
        self.script(LAB, "down")


@pytest.fixture
def network(need, bench):  # the bench is emptied before: after it nothing runs on the machines
    for program in ("ip", "nft", "iptables", "ip6tables", "sysctl"):
        need(program)
    network = Network()
    try:
        yield network
    finally:
        bench.close()
        network.close()
