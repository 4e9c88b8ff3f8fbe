# transparent = source, destination, both: what the server sees, and where the proxy connects to.
#
#    client                      router, with tlsplice            server
#   192.0.2.2 .. 5 ------- lan 192.0.2.1    198.51.100.1 wan ------- 198.51.100.2 .. 5
#   2001:db8:1::2 .. 5         2001:db8:1::1, 2001:db8:2::1          2001:db8:2::2 .. 5
#
#   TLS to port 443  ======>  [in], 8443: TLS ends here   -------->  443, plain
#   plain to 8080    ------>  [out], 8081: TLS begins here ======>   8080, TLS
#
# The network is that of configs/tproxy/lab, the rules are those of configs/tproxy/rules: what users copy is what is tested.
# SPDX-License-Identifier: Apache-2.0
import collections
import concurrent.futures
import os
import random
import re
import socket
import ssl
import subprocess

import pytest

from network import CLIENT, CLIENTS, ROUTER, ROUTERS, ROUTERS_OUT, SERVER, SERVERS, enter, network  # noqa: F401
from peers import client_context, server_context
from proxy import BINARY, SLOW, TOP
from proxy_protocol import introduced

pytestmark = [pytest.mark.ours, pytest.mark.timeout(300)]

CONNECTIONS = int(os.environ.get("TLSPLICE_TRANSPARENT_CONNECTIONS", 1000 if SLOW == 1 else 100))
AT_ONCE = 12
INTO, OUT_OF = "into", "out of"  # TLS ends, TLS begins
PORTS = {INTO: 443, OUT_OF: 8080}
ACCEPTS = {INTO: 8443, OUT_OF: 8081}
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}

Seen = collections.namedtuple("Seen", "server client")  # (host, port) each


def endpoint(address):
    return address[0].removeprefix("::ffff:"), address[1]


def say_who(sock, _server):
    """Tells whom it talks to and as whom, waits for the end."""
    seen = Seen(endpoint(sock.getsockname()), endpoint(sock.getpeername()))
    sock.sendall(f"{seen.server[0]} {seen.server[1]} {seen.client[0]} {seen.client[1]}\n".encode())
    while sock.recv(100):
        pass
    return seen


class Client:
    """Connects from the client machine and asks the server what it sees."""

    def __init__(self, network, direction):
        self.network, self.context = network, client_context() if direction == INTO else None

    def ask(self, source, target):
        with socket.socket(socket.AF_INET6 if ":" in target[0] else socket.AF_INET) as sock:
            sock.settimeout(20 * SLOW)
            sock.bind(source)
            sock.connect(target)
            mine = endpoint(sock.getsockname())
            if self.context:
                sock = self.context.wrap_socket(sock, server_hostname="localhost")
            with sock, sock.makefile("rb") as lines:
                words = lines.readline().decode().split()
                assert len(words) == 4, f"{mine} -> {target}: {words}"
                return mine, Seen((words[0], int(words[1])), (words[2], int(words[3])))

    def ask_once(self, source, target):
        with self.network.inside(CLIENT):
            return self.ask(source, target)

    def ask_often(self, pairs):
        """Many at once; a list of (own address, target, what the server saw)."""
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE, initializer=enter, initargs=(self.network.path(CLIENT),)) as pool:
            return [(*answer, target) for answer, (_, target) in zip(pool.map(lambda pair: self.ask(*pair), pairs), pairs)]


def servers(network, bench):
    """Both servers, on every address of the server machine."""
    with network.inside(SERVER):
        plain = bench.server(say_who, address=(PORTS[INTO], "::"))
        tls = bench.server(say_who, address=(PORTS[OUT_OF], "::"), context=server_context(bench.pki.ec_pem))
    return {INTO: plain, OUT_OF: tls}


def start(network, bench, into, out_of, **options):
    options.setdefault("preamble", "foreground = yes\nsyslog = no\ndebug = info\n")
    return bench.proxy(f"[in]\naccept = {ACCEPTS[INTO]}\ncert = {bench.pki.ec_pem}\n{into}\n"
                       f"[out]\nclient = yes\naccept = {ACCEPTS[OUT_OF]}\n{out_of}\n", prefix=network.prefix(ROUTER), **options)


def check(network, direction, family, targets, expected_client):
    """CONNECTIONS connections, each from any client address to any target. The target's own address must answer, and have seen the right client."""
    dice = random.Random(family)
    pairs = [((dice.choice(CLIENTS[family]), 0), dice.choice(targets)) for _ in range(CONNECTIONS)]
    wrong = []
    for mine, seen, target in Client(network, direction).ask_often(pairs):
        if not expected_client(mine, seen.client) or (target[0] in SERVERS[family] and seen.server != target):
            wrong.append((mine, target, seen))
    assert not wrong, f"{len(wrong)} of {CONNECTIONS}: {wrong[:5]}"


def same(mine, seen):
    return mine == seen


def same_host(mine, seen):
    return mine[0] == seen[0]


def router(family):
    return lambda _mine, seen: seen[0] == ROUTERS_OUT[family]


def all_targets(direction, family):
    return [(host, PORTS[direction]) for host in SERVERS[family]]


def rules_go(network, proxy, tool, mode, before):
    """`down` leaves nothing of what `up` has made."""
    proxy.wait_idle()
    assert network.state() != before
    network.rules("down", tool, mode)
    assert network.state() == before


# --- a thousand connections each ---


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("tool", ["nft", "iptables"])
def test_source(network, bench, tool, family):
    """The proxy is addressed itself, `connect` says where to go, and the server sees the client, port included."""
    before = network.state()
    network.rules("up", tool, "tproxy")
    host = SERVERS[family][0]
    servers(network, bench)
    proxy = start(network, bench, f"connect = {host}:443\ntransparent = source", f"connect = {host}:8080\ntransparent = yes")
    for direction in INTO, OUT_OF:
        check(network, direction, family, [(ROUTERS[family], ACCEPTS[direction])], same)
    assert len(proxy.lines("LOG6.*: IP_TRANSPARENT socket option set")) == 2 * CONNECTIONS
    assert len(proxy.lines("LOG6.*: bind succeeded on the original port")) == 2 * CONNECTIONS
    rules_go(network, proxy, tool, "tproxy", before)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("mode", ["tproxy", "redirect", "dnat"])
@pytest.mark.parametrize("tool", ["nft", "iptables"])
def test_destination(network, bench, tool, mode, family):
    """Where the client wanted to go is where the proxy goes."""
    before = network.state()
    network.rules("up", tool, mode)
    servers(network, bench)
    proxy = start(network, bench, "transparent = destination", "transparent = destination")
    for direction in INTO, OUT_OF:
        check(network, direction, family, all_targets(direction, family), router(family))
    rules_go(network, proxy, tool, mode, before)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("mode", ["tproxy", "redirect", "dnat"])
@pytest.mark.parametrize("tool", ["nft", "iptables"])
def test_both(network, bench, tool, mode, family):
    """Neither the client nor the server can tell that there is a proxy. With NAT the client's port is not kept."""
    before = network.state()
    network.rules("up", tool, mode)
    servers(network, bench)
    proxy = start(network, bench, "transparent = both", "transparent = both")
    for direction in INTO, OUT_OF:
        check(network, direction, family, all_targets(direction, family), same if mode == "tproxy" else same_host)
    assert len(proxy.lines("bind succeeded on")) == 2 * CONNECTIONS
    rules_go(network, proxy, tool, mode, before)


# --- what the server is told ---


def told(network, bench, lines, target):
    """One connection; the client's address, and the header that its server got first."""
    with network.inside(SERVER):
        server = bench.server(introduced(say_who), address=(PORTS[INTO], "::"))
    start(network, bench, f"sendProxy = v2\n{lines}", "transparent = destination")
    family = 6 if ":" in target[0] else 4
    mine, seen = Client(network, INTO).ask_once((CLIENTS[family][1], 0), target)
    header, _ = server.result()
    assert header.family == {4: 0x11, 6: 0x21}[family]
    return mine, header


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("mode", ["tproxy", "redirect", "dnat"])
@pytest.mark.parametrize("lines", ["transparent = destination", "transparent = both"])
def test_the_header_has_what_the_client_meant(network, bench, mode, lines, family):
    """Not the address of the socket, which NAT has made up."""
    network.rules("up", "nft", mode)
    target = (SERVERS[family][1], PORTS[INTO])
    mine, header = told(network, bench, lines, target)
    assert header.source == mine and header.destination == target


@pytest.mark.parametrize("family", [4, 6])
def test_the_header_beside_the_source(network, bench, family):
    """The same as the server sees, and the address of the proxy."""
    network.rules("up", "nft", "tproxy")
    target = (ROUTERS[family], ACCEPTS[INTO])
    mine, header = told(network, bench, f"transparent = source\nconnect = {SERVERS[family][0]}:443", target)
    assert header.source == mine and header.destination == target


# --- the source ---


def one_of(network, bench, direction, source, target):
    """One connection from the client; what the server saw."""
    return Client(network, direction).ask_once(source, target)


@pytest.fixture
def routed(network):
    network.rules("up", "nft", "tproxy")
    return network


def test_privileged_port_of_a_client_is_not_kept(routed, bench):
    servers(routed, bench)
    proxy = start(routed, bench, "connect = 198.51.100.2:443\ntransparent = source", "connect = 198.51.100.2:8080\ntransparent = source")
    mine, seen = one_of(routed, bench, INTO, ("192.0.2.3", 777), ("192.0.2.1", 8443))
    assert mine[1] == 777 and seen.client[0] == "192.0.2.3" and seen.client[1] >= 1024
    proxy.wait_log("LOG6.*: bind succeeded on an ephemeral port")
    assert not proxy.lines("original port")


def test_port_in_use_is_not_kept(routed, bench):
    """One client port for two destinations: the second has another port towards its server."""
    servers(routed, bench)
    proxy = start(routed, bench, "transparent = both", "transparent = both")
    with routed.inside(CLIENT):
        one, two = (socket.socket() for _ in range(2))
    for sock, host in (one, SERVERS[4][0]), (two, SERVERS[4][1]):
        bench.keep(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("192.0.2.2", 40000))
        sock.settimeout(20 * SLOW)
        sock.connect((host, 8080))
    said = [sock.recv(200).decode().split() for sock in (one, two)]
    assert [words[:3] for words in said] == [[SERVERS[4][0], "8080", "192.0.2.2"], [SERVERS[4][1], "8080", "192.0.2.2"]]
    assert sorted(words[3] == "40000" for words in said) == [False, True]
    assert len(proxy.lines("bind succeeded on the original port")) == len(proxy.lines("bind succeeded on an ephemeral port")) == 1


def test_target_of_another_family_is_passed_over(routed, bench):
    """An IPv6 client cannot be shown to an IPv4 server: the next address is tried, and it is an error if none is left."""
    servers(routed, bench)
    proxy = start(routed, bench, "connect = 198.51.100.2:443\nconnect = [2001:db8:2::2]:443\nfailover = prio\ntransparent = source",
                  "connect = 198.51.100.2:8080\ntransparent = source", preamble="foreground = yes\nsyslog = no\ndebug = debug\n")
    _, seen = one_of(routed, bench, INTO, ("2001:db8:1::4", 0), ("2001:db8:1::1", 8443))
    assert seen.server[0] == "2001:db8:2::2" and seen.client[0] == "2001:db8:1::4"
    proxy.wait_log(f"LOG7.*: Cannot assign an AF={int(socket.AF_INET6)} address an AF={int(socket.AF_INET)} socket")
    with pytest.raises((AssertionError, OSError)):
        one_of(routed, bench, OUT_OF, ("2001:db8:1::4", 0), ("2001:db8:1::1", 8081))
    proxy.wait_log("LOG3.*: No more addresses to connect")


def test_ipv4_client_of_an_ipv6_listener(routed, bench):
    """The accepted socket says ::ffff:192.0.2.5; the server's says 192.0.2.5."""
    servers(routed, bench)
    bench.proxy(f"[in]\naccept = :::8443\ncert = {bench.pki.ec_pem}\ntransparent = source\nconnect = 198.51.100.3:443\n",
                prefix=routed.prefix(ROUTER))
    mine, seen = one_of(routed, bench, INTO, ("192.0.2.5", 0), ("192.0.2.1", 8443))
    assert seen == (("198.51.100.3", 443), mine)


@pytest.mark.parametrize("mode", ["tproxy", "redirect"])
def test_ipv4_destination_of_an_ipv6_listener(network, bench, mode):
    network.rules("up", "nft", mode)
    servers(network, bench)
    bench.proxy(f"[in]\naccept = :::8443\ncert = {bench.pki.ec_pem}\ntransparent = both\n", prefix=network.prefix(ROUTER))
    mine, seen = one_of(network, bench, INTO, ("192.0.2.5", 0), ("198.51.100.4", 443))
    assert seen.server == ("198.51.100.4", 443) and seen.client[0] == mine[0]


def test_local_takes_the_place_of_the_client(routed, bench):
    """Even with an address of another machine."""
    servers(routed, bench)
    start(routed, bench, "connect = 198.51.100.2:443\ntransparent = source\nlocal = 192.0.2.77",
          "connect = 198.51.100.2:8080\ntransparent = source\nlocal = 198.51.100.1")
    assert one_of(routed, bench, INTO, ("192.0.2.2", 0), ("192.0.2.1", 8443))[1].client[0] == "192.0.2.77"
    assert one_of(routed, bench, OUT_OF, ("192.0.2.2", 0), ("192.0.2.1", 8081))[1].client[0] == "198.51.100.1"


def test_one_port_serves_connections_to_many_servers(routed, bench):
    """The choice of a port of our own is left to connect(2), which knows where the connection goes: a machine has more connections than ports."""
    servers(routed, bench)
    routed.run(ROUTER, "sysctl", "-qw", "net.ipv4.ip_local_port_range=50000 50000")
    start(routed, bench, "connect = 198.51.100.2:443\nlocal = 198.51.100.1", "connect = 198.51.100.3:8080\nlocal = 198.51.100.1")
    with routed.inside(CLIENT):
        one, two = (bench.keep(socket.socket()) for _ in range(2))
    for sock, port in (one, 8443), (two, 8081):
        sock.settimeout(20 * SLOW)
        sock.connect(("192.0.2.1", port))
    one = bench.keep(client_context().wrap_socket(one))
    assert [sock.recv(200).decode().split()[2:] for sock in (one, two)] == [["198.51.100.1", "50000"]] * 2


def test_client_on_a_unix_socket_has_no_address(routed, bench, tmp_path):
    servers(routed, bench)
    proxy = bench.proxy(f"[out]\nclient = yes\naccept = {tmp_path}/accept\nconnect = 198.51.100.2:8080\ntransparent = source\n",
                        prefix=routed.prefix(ROUTER))
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(f"{tmp_path}/accept")
        proxy.wait_log(f"LOG7.*: Cannot assign an AF={int(socket.AF_UNIX)} address an AF={int(socket.AF_INET)} socket")
        proxy.wait_log("LOG3.*: No more addresses to connect")


def test_without_the_privilege(routed, bench, need):
    """The listener says so at start, each connection says so, and IP_FREEBIND is what is left."""
    servers(routed, bench)
    drop = (need("capsh"), "--drop=cap_net_admin,cap_net_raw", "--", "-c", 'exec "$@"', "-")
    proxy = bench.proxy(f"[in]\naccept = 8443\ncert = {bench.pki.ec_pem}\ntransparent = source\nconnect = 198.51.100.2:443\n",
                        prefix=(*routed.prefix(ROUTER), *drop))
    proxy.wait_log(r"LOG4.*: Service \[in\]: setsockopt IP_TRANSPARENT: Operation not permitted \(1\): TPROXY cannot send connections here")
    with routed.inside(CLIENT):
        bench.keep(client_context().wrap_socket(socket.create_connection(("192.0.2.1", 8443), timeout=20 * SLOW)))
    proxy.wait_log(r"LOG3.*: setsockopt IP_TRANSPARENT: Operation not permitted \(1\)")
    proxy.wait_log("LOG6.*: IP_FREEBIND socket option set")
    proxy.wait_log("LOG6.*: bind succeeded on the original port")


# --- the destination ---


def refused_by(network, direction, target):
    """The connection ends, and nobody behind it has answered."""
    with pytest.raises((AssertionError, OSError, ssl.SSLError)):
        Client(network, direction).ask_once(("::" if ":" in target[0] else "0.0.0.0", 0), target)


@pytest.mark.parametrize("tracked", [True, False])
@pytest.mark.parametrize("host", ["192.0.2.1", "198.51.100.1", "2001:db8:1::1"])
def test_whoever_connects_to_the_listener_is_refused(network, bench, host, tracked):
    """It would connect to itself, again and again. With and without connection tracking, both modes."""
    if tracked:
        network.rules("up", "nft", "redirect")
    proxy = start(network, bench, "transparent = destination", "transparent = destination")
    for direction in INTO, OUT_OF:
        for _ in range(3):
            refused_by(network, direction, (host, ACCEPTS[direction]))
    proxy.wait_log(r"LOG3.*: Transparent destination .* is tlsplice itself: connection refused", 6)
    assert len(proxy.lines("accepted connection from")) == 6


def test_listener_of_another_section_is_refused_too(network, bench):
    """[out] would be led to [in] of the same process, and [in] wherever that says: one of them is not transparent."""
    servers(network, bench)
    network.rules("up", "nft", "redirect", PORTS="8443:8081")
    proxy = start(network, bench, "connect = 198.51.100.2:443", "transparent = destination")
    refused_by(network, OUT_OF, ("192.0.2.1", 8443))
    proxy.wait_log(r"Transparent destination 192\.0\.2\.1:8443 is tlsplice itself")


@pytest.mark.parametrize("family", [4, 6])
def test_rules_that_send_our_own_connections_back(network, bench, family):
    """Without an exception for tlsplice each of its connections would make the next one, until nobody could connect any more."""
    servers(network, bench)
    network.rules("up", "nft", "tproxy")
    network.run(ROUTER, "nft", "add table inet loop; add chain inet loop c { type nat hook output priority -100; }; "
                "add rule inet loop c tcp dport 8080 redirect to :8081")
    proxy = start(network, bench, "transparent = destination", "transparent = destination")
    for _ in range(10):
        refused_by(network, OUT_OF, (SERVERS[family][0], 8080))
    proxy.wait_idle()
    proxy.wait_log("LOG3.*: (The connection from .* came to tlsplice itself|.* is tlsplice itself: connection refused)", 10)
    assert len(proxy.lines("accepted connection from")) < 100
    network.run(ROUTER, "nft", "delete table inet loop")
    assert one_of(network, bench, OUT_OF, (CLIENTS[family][0], 0), (SERVERS[family][0], 8080))[1].server == (SERVERS[family][0], 8080)


@pytest.mark.parametrize("kept", ["transparent = both", "transparent = destination"])
def test_privileges_of_a_user(network, bench, tmp_path, kept):
    """setuid leaves what foreign addresses need; a reload too."""
    network.rules("up", "nft", "tproxy")
    servers(network, bench)
    os.chmod(tmp_path, 0o755)
    proxy = start(network, bench, kept, kept, preamble="foreground = yes\nsyslog = no\ndebug = info\nsetuid = nobody\nsetgid = nogroup\n")
    with open(f"/proc/{proxy.pid}/status") as status:
        assert re.search(r"(?m)^Uid:\s+65534\s", status.read())
    for direction in INTO, OUT_OF:
        mine, seen = one_of(network, bench, direction, ("192.0.2.2", 0), ("198.51.100.3", PORTS[direction]))
        assert seen.server == ("198.51.100.3", PORTS[direction]) and (seen.client == mine) == ("both" in kept)


def test_another_machine_may_have_the_port_of_the_listener(network, bench):
    network.rules("up", "nft", "tproxy", PORTS="8443:8443")
    with network.inside(SERVER):
        bench.server(say_who, address=(8443, "::"))
    start(network, bench, "transparent = both", "transparent = both")
    for host in SERVERS[4] + SERVERS[6]:
        source = CLIENTS[6 if ":" in host else 4][0]
        mine, seen = one_of(network, bench, INTO, (source, 0), (host, 8443))
        assert seen == ((host, 8443), mine)


def test_nobody_answers_at_the_destination(network, bench):
    network.rules("up", "nft", "tproxy")
    proxy = start(network, bench, "transparent = both", "transparent = both")
    refused_by(network, INTO, ("198.51.100.2", 443))
    proxy.wait_log(r"LOG3.*: s_connect: connect 198\.51\.100\.2:443: Connection refused \(111\)")
    proxy.wait_log("LOG3.*: No more addresses to connect")


def test_reload_turns_it_on_and_off(network, bench):
    """The listeners stay the same sockets."""
    network.rules("up", "nft", "tproxy")
    servers(network, bench)
    fixed = f"[in]\naccept = 8443\ncert = {bench.pki.ec_pem}\nconnect = 198.51.100.5:443\n"
    proxy = bench.proxy(fixed, prefix=network.prefix(ROUTER))
    refused_by(network, INTO, ("198.51.100.3", 443))  # TPROXY finds no socket that may have it
    assert one_of(network, bench, INTO, ("192.0.2.2", 0), ("192.0.2.1", 8443))[1].server[0] == "198.51.100.5"
    assert proxy.hup(fixed.replace("connect = 198.51.100.5:443", "transparent = both"))
    mine, seen = one_of(network, bench, INTO, ("192.0.2.2", 0), ("198.51.100.3", 443))
    assert seen == (("198.51.100.3", 443), mine)
    assert proxy.hup(fixed)
    refused_by(network, INTO, ("198.51.100.3", 443))
    assert len(proxy.lines("bound to")) == 2


def test_virtual_host(network, bench, pki):
    """The section that the server name chooses decides; the listener is that of the primary section."""
    network.rules("up", "nft", "tproxy")
    servers(network, bench)
    bench.proxy(f"cert = {pki.ec_pem}\n[main]\naccept = 8443\nconnect = 198.51.100.5:443\n"
                f"[host]\nsni = main:localhost\ntransparent = destination\n", prefix=network.prefix(ROUTER))
    assert one_of(network, bench, INTO, ("192.0.2.2", 0), ("198.51.100.3", 443))[1].server[0] == "198.51.100.3"


def test_redirect_of_peers_that_are_not_authenticated(network, bench, pki):
    """`redirect` comes before the destination."""
    network.rules("up", "nft", "tproxy")
    servers(network, bench)
    bench.proxy(f"[in]\naccept = 8443\ncert = {pki.ec_pem}\nverifyChain = yes\nCAfile = {pki.ca}\nredirect = 198.51.100.5:443\n"
                "transparent = both\n", prefix=network.prefix(ROUTER))
    mine, seen = one_of(network, bench, INTO, ("192.0.2.2", 0), ("198.51.100.3", 443))
    assert seen == (("198.51.100.5", 443), mine)


def test_strict_reverse_path_filter(network, bench):
    """Where each address is behind one interface it is no obstacle."""
    for interface in "all", "default", "lan", "wan", "lo":
        network.run(ROUTER, "sysctl", "-qw", f"net.ipv4.conf.{interface}.rp_filter=1")
    network.rules("up", "nft", "tproxy")
    servers(network, bench)
    start(network, bench, "transparent = both", "transparent = both")
    for direction in INTO, OUT_OF:
        mine, seen = one_of(network, bench, direction, ("192.0.2.2", 0), ("198.51.100.3", PORTS[direction]))
        assert seen == (("198.51.100.3", PORTS[direction]), mine)


# --- by hand ---


def test_evening_of_a_new_user(tmp_path, need):
    """README's commands, as they stand there, in a directory that looks like the project's after it was built."""
    with open(os.path.join(TOP, "README.md")) as file:
        section = re.search(r"(?ms)^## Transparent proxying\n(.*?)^## ", file.read()).group(1)
    commands = "\n".join(line[4:] for line in section.splitlines() if line.startswith("    "))
    assert "tlsplice-router" in commands
    for program in ("make", "openssl", "curl", "nft", "ip"):
        need(program)
    os.makedirs(tmp_path / "build")
    os.makedirs("/run/netns", exist_ok=True)
    os.symlink(BINARY, tmp_path / "build/tlsplice")
    os.symlink(os.path.join(TOP, "configs"), tmp_path / "configs")
    (tmp_path / "Makefile").write_text("all:\n")
    # Namespaces of processes and mounts, so that what is left, whatever happens, goes with them.
    alone = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-euc",
             f"mount -t tmpfs tmpfs /run/netns\n{commands}\nls /run/netns"]
    done = subprocess.run(alone, cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=120 * SLOW)
    assert done.returncode == 0, done.stdout
    seen = re.findall(r"(?m)^(\S+) port (\d+) sees (192\.0\.2\.|2001:db8:1::)\d port \d+$", done.stdout)
    assert seen == [("198.51.100.3", "443", "192.0.2."), ("2001:db8:2::4", "443", "2001:db8:1::"), ("198.51.100.5", "8080", "192.0.2.")], done.stdout
    assert re.search(r"(?m)^0 problem\(s\), 0 warning\(s\)$", done.stdout), done.stdout
    assert done.stdout.count("Connection closed: ") >= 3, done.stdout
    assert not re.search("tlsplice-(client|router|server)$", done.stdout.splitlines()[-1])


@pytest.mark.parametrize("mode", ["tproxy", "redirect", "dnat"])
@pytest.mark.parametrize("tool", ["nft", "iptables"])
def test_rules_are_shown_as_they_are_set(network, tmp_path, tool, mode):
    """What `show` prints does the same as `up`, and `up` twice is refused and changes nothing."""
    bare = network.state()
    network.rules("up", tool, mode)
    up = network.state()
    with pytest.raises(AssertionError):
        network.rules("up", tool, mode)
    assert network.state() == up
    network.rules("down", tool, mode)
    shown = network.rules("show", tool, mode)
    assert network.state() == bare
    if tool == "nft":
        table, commands = shown[shown.index("table inet"):], shown[:shown.index("table inet")]
        (tmp_path / "rules.nft").write_text(table)
        shown = f"{commands}\nnft -f {tmp_path}/rules.nft\n"
    network.run(ROUTER, "sh", "-euc", shown)
    assert network.state() == up


def test_rules_that_cannot_be_set_leave_nothing(network):
    bare = network.state()
    for tool in "nft", "iptables":
        with pytest.raises(AssertionError):
            network.rules("up", tool, "tproxy", PORTS="443:8443 nonsense:1")
        assert network.state() == bare
    for words in (), ("up",), ("up", "nft", "magic"), ("sideways", "nft"):
        with pytest.raises(AssertionError, match="usage"):
            network.rules(*words)
