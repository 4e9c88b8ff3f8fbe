# Programs in the place of a backend (exec), on terminals (pty), and in the place of clients (exec and connect).
#
#     client --TLS--> tlsplice --socket pair or terminal--> program            accept and exec
#                     program <--socket pair-- tlsplice --TLS--> server        exec and connect
#
# SPDX-License-Identifier: Apache-2.0
import os
import re
import signal
import socket
import ssl
import struct
import threading
import time

import pytest

from conftest import TOOLS
from peers import CLOSE_NOTIFY, TlsClient, client_context, connect, pattern, read_all, read_exactly, server_context
from proxy import BINARY, PREAMBLE, until
from test_faults import Faults

pytestmark = pytest.mark.ours
WHO = os.path.join(TOOLS, "who")


def programs(bench, *sections, head="", **options):
    """A proxy with a section for each of the lists of lines; .at is where they listen."""
    at = [bench.ports() for _ in sections]
    text = f"{head}\ncert = {bench.pki.ec_pem}\n"
    for i, (port, lines) in enumerate(zip(at, sections)):
        accept = "" if "accept" in lines else f"accept = 127.0.0.1:{port}\n"
        text += f"[s{i}]\n{accept}{lines}\n"
    proxy = bench.proxy(text, **options)
    proxy.at = at
    return proxy


def who(address, context=None):
    """What tests/tools/who says: its lines by their first word."""
    client = TlsClient(address, context)
    said = client.recv_all().decode()
    assert client.ended == CLOSE_NOTIFY
    client.close()
    lines = {}
    for line in said.splitlines():
        key, _, rest = line.partition(" ")
        lines.setdefault(key, []).append(rest)
    return lines


def environment(lines):
    names = [entry.split("=", 1)[0] for entry in lines["env"]]
    assert len(set(names)) == len(names), "each name once"
    return dict(entry.split("=", 1) for entry in lines["env"])


def children(pid):
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children") as file:
            found += map(int, file.read().split())
    return found


# --- what a program gets ---


@pytest.mark.san
@pytest.mark.valgrind
def test_bytes_both_ways_and_half_close(bench):
    proxy = programs(bench, "exec = /bin/cat")
    client = bench.client(proxy.at[0])
    client.ping()
    data = pattern(3_000_000)
    for i in range(0, len(data), 60_000):
        client.send(data[i:i + 60_000])
        assert client.recv_exactly(60_000) == data[i:i + 60_000]
    client.send(b"the end")
    client.close_notify()
    assert client.recv_all() == b"the end" and client.ended == CLOSE_NOTIFY
    client.close()
    pid = re.search(r"LOG6\[0\]: Local mode child started \(PID=(\d+)\)", proxy.log()).group(1)
    proxy.wait_log(rf"LOG6\[main\]: Child process {pid} finished with code 0")
    proxy.wait_log(r"LOG5\[0\]: Connection closed: 3000\d+ byte\(s\) sent to TLS, 3000\d+ byte\(s\) sent to socket")
    assert not children(proxy.pid)


@pytest.mark.san
def test_environment(bench):
    env = {"REMOTE_HOST": "10.9.9.9", "REMOTE_PORT": "1", "REMOTE_USER": "root", "SSL_CLIENT_DN": "CN=forged", "SSL_CLIENT_S_DN": "CN=forged",
           "KEPT": "yes", "NOTIFY_SOCKET": "", "LD_PRELOAD": os.environ.get("LD_PRELOAD", "")}
    proxy = programs(bench, f"exec = {WHO}", f"exec = {WHO}\nverifyChain = yes\nCAfile = {bench.pki.ca}",
                     head="setEnv = BY_CONFIGURATION=a=b", env=env)
    client = bench.client(proxy.at[0])
    port = client.sock.getsockname()[1]
    found = environment({"env": re.findall(r"(?m)^env (.*)$", client.recv_all().decode())})
    assert (found["REMOTE_HOST"], found["REMOTE_PORT"], found["KEPT"], found["BY_CONFIGURATION"]) == ("127.0.0.1", str(port), "yes", "a=b")
    assert not [name for name in found if name.startswith(("REMOTE_", "SSL_CLIENT_")) and name not in ("REMOTE_HOST", "REMOTE_PORT")]
    assert "NOTIFY_SOCKET" not in found and "LISTEN_FDS" not in found
    found = environment(who(proxy.at[1], client_context(certificate=bench.pki.client_pem)))
    assert (found["SSL_CLIENT_DN"], found["SSL_CLIENT_I_DN"]) == ("CN=a client", "CN=Test CA")
    assert found["REMOTE_HOST"] == "127.0.0.1"


def test_a_reload_changes_the_environment(bench):
    text = f"cert = {bench.pki.ec_pem}\n[s]\naccept = 127.0.0.1:{bench.ports()}\nexec = {WHO}\n"
    proxy = bench.proxy("setEnv = A=1\n" + text)
    port = int(re.search(r":(\d+)", text).group(1))
    assert environment(who(port))["A"] == "1"
    assert proxy.hup("setEnv = A=2\n" + text)
    until(lambda: environment(who(port)).get("A") == "2", what="the new value")


def test_client_addresses(bench, tmp_path):
    path = str(tmp_path / "sock")
    six = bench.ports()
    proxy = programs(bench, f"accept = :::{six}\nexec = {WHO}", f"accept = {path}\nexec = {WHO}")
    client = bench.client(("::1", six))
    found = dict(re.findall(r"(?m)^env (REMOTE_\w+)=(.*)$", client.recv_all().decode()))
    assert found == {"REMOTE_HOST": "::1", "REMOTE_PORT": str(client.sock.getsockname()[1])}
    found = environment(who(("127.0.0.1", six)))
    assert found["REMOTE_HOST"] == "::ffff:127.0.0.1"
    found = environment(who(path))
    assert (found["REMOTE_HOST"], found["REMOTE_PORT"]) == ("localhost", "")
    proxy.wait_log(r"Service \[s1\] accepted connection from unnamed socket")


@pytest.mark.san
def test_a_program_has_three_descriptors(bench):
    """However many others run, on terminals too: what they say is theirs. The pair is none of a network."""
    proxy = programs(bench, f"exec = {WHO}", "exec = /bin/cat\npty = yes", "exec = /bin/cat", f"exec = {WHO}\npty = yes",
                     head="", preamble="foreground = quiet\nsyslog = no\ndebug = debug\noutput = log\n")
    log = os.path.join(proxy.directory, "log")
    proxy.log = lambda: open(log, errors="replace").read()
    others = [bench.client(proxy.at[i % 2 + 1]) for i in range(8)]
    until(lambda: len(children(proxy.pid)) == 8, what="eight programs")
    lines = who(proxy.at[0])
    assert [line.split()[0] for line in lines["fd"]] == ["0", "1", "2"]
    assert len({line.split()[1] for line in lines["fd"]}) == 1 and "socket:" in lines["fd"][0]
    assert lines["peer"][0] == "0: family 1"
    lines = who(proxy.at[3])
    assert [line.split()[0] for line in lines["fd"]] == ["0", "1", "2"]
    assert len({line.split()[1] for line in lines["fd"]}) == 1 and "/dev/pts/" in lines["fd"][0]
    for other in others:
        other.close()
    until(lambda: not children(proxy.pid), what="the end of the programs")


@pytest.mark.san
def test_everything_else_is_as_it_was(bench):
    """Signals, mask, limits; process group and session are the proxy's. With foreground = yes standard error is too."""
    prefix = ["sh", "-c", "trap '' USR1 TERM ALRM; ulimit -Sn 777; exec \"$0\" \"$@\""]
    proxy = programs(bench, f"exec = {WHO}", prefix=prefix)
    lines = who(proxy.at[0])
    assert "blocked" not in lines
    assert str(int(signal.SIGALRM)) in lines.get("ignored", [])
    assert not {str(int(s)) for s in (signal.SIGUSR1, signal.SIGTERM, signal.SIGPIPE, signal.SIGHUP, signal.SIGCHLD)} & set(lines.get("ignored", []))
    assert lines["nofile"] == ["777"]
    assert lines["session"][0].startswith("0 group 0 ")
    assert lines["arg"] == [WHO]
    assert [line for line in lines["fd"] if line.startswith("2 ")] == [f"2 {proxy.out}"]
    proxy.stop(signal.SIGINT)


def test_arguments_and_codes(bench):
    proxy = programs(bench, f"exec = {WHO}\nexecArgs = code 7 \"b c\"  \\x", "exec = /bin/sh\nexecArgs = sh -c kill${IFS}-9${IFS}$$")
    assert who(proxy.at[0])["arg"] == ["code", "7", '"b', 'c"', "\\x"]
    proxy.wait_log(r"LOG6\[main\]: Child process \d+ finished with code (0|7)")
    client = bench.client(proxy.at[1])
    assert client.recv_all() == b"" and client.ended == CLOSE_NOTIFY
    proxy.wait_log(r"LOG6\[main\]: Child process \d+ terminated on SIGKILL")


@pytest.mark.san
@pytest.mark.parametrize("path", ["/nonexistent", "/", "/etc/passwd"])
def test_a_program_that_cannot_be_run(bench, path):
    proxy = programs(bench, f"exec = {path}")
    client = bench.client(proxy.at[0])
    assert client.recv_all() == b"" and client.ended == CLOSE_NOTIFY
    client.close()
    if "thread" not in BINARY:  # that sanitizer makes a fork of vfork: the reason stays in the child
        proxy.wait_log(rf"LOG3\[0\]: exec {path}: .* \(\d+\)")
    proxy.wait_log(r"LOG6\[main\]: Child process \d+ finished with code 1")
    proxy.wait_log(r"LOG5\[0\]: Connection closed: 0 byte")


def test_a_program_is_not_killed_with_its_connection(bench, tmp_path):
    script = tmp_path / "late"
    script.write_text(f"#!/bin/sh\ncat >/dev/null\necho $1 >{tmp_path}/end\n")
    script.chmod(0o755)
    proxy = programs(bench, f"exec = {script}\nexecArgs = late done")
    client = bench.client(proxy.at[0])
    client.close()
    until(lambda: os.path.exists(tmp_path / "end"), what="the program's end")
    proxy.wait_log(r"Child process \d+ finished with code 0")


# --- transparent = source ---


@pytest.mark.parametrize("pty", ["no", "yes"])
def test_a_program_asks_for_its_peer(bench, pty):
    """A library tells it, about standard descriptors only, IPv4 and IPv6."""
    port = bench.ports()
    proxy = programs(bench, f"accept = :::{port}\nexec = {WHO}\ntransparent = source\npty = {pty}", f"exec = {WHO}\ntransparent = source\npty = {pty}",
                     f"exec = {WHO}\npty = {pty}", env={"LD_PRELOAD": "/nonexistent/theirs.so"})
    for address, family in ((("::1", port), 6), (("127.0.0.1", port), 6), (proxy.at[1], 4)):
        client = bench.client(address)
        host, number = client.sock.getsockname()[:2]
        said = client.recv_all().decode().replace("\r", "")
        host = "::ffff:" + host if family == 6 and "." in host else host
        assert f"peer 0: {host} {number} length {28 if family == 6 else 16}\n" in said
        assert not re.search(rf"peer [1-9]\d*: {re.escape(host)}", said), "only standard descriptors"
        assert re.findall(r"(?m)^env LD_PRELOAD=(.*)$", said) == [os.path.join(os.path.dirname(BINARY), "libtlsplice_preload.so")]
        client.close()
    said = bench.client(proxy.at[2]).recv_all().decode().replace("\r", "")
    assert re.findall(r"(?m)^env LD_PRELOAD=(.*)$", said) == ["/nonexistent/theirs.so"]
    assert "peer 0: family 1\n" in said or "peer 0: Inappropriate ioctl for device\n" in said or "peer 0: Socket operation on non-socket\n" in said


def test_a_client_without_an_address(bench, tmp_path):
    """On a Unix socket there is no more to tell than the system says."""
    path = str(tmp_path / "sock")
    programs(bench, f"accept = {path}\nexec = {WHO}\ntransparent = source")
    assert who(path)["peer"][0] == "0: family 1"


def test_a_client_that_is_gone_is_nobody(bench):
    """Its address cannot be had any more, and that does not make it one of this machine."""
    proxy = programs(bench, "client = yes\nexec = /bin/sh\nexecArgs = sh -c env${IFS}>&2")
    proxy.send_signal(signal.SIGSTOP)
    sock = connect(proxy.at[0])
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
    proxy.send_signal(signal.SIGCONT)
    proxy.wait_log("^PWD=")
    proxy.wait_log("Child process .* finished")
    assert not proxy.lines("^REMOTE_")


# --- the sandbox ---


def test_programs_are_in_no_sandbox(bench, tmp_path):
    proxy = programs(bench, "exec = /bin/sh\nexecArgs = sh -c grep${IFS}NoNewPrivs${IFS}/proc/self/status;id>id", cwd=str(tmp_path))
    proxy.wait_log(r'Sandbox: the rings only: programs of "exec" would be in the rest of it too')
    client = bench.client(proxy.at[0])
    assert client.recv_all() == b"NoNewPrivs:\t0\n"
    client.close()
    until(lambda: os.path.exists(tmp_path / "id"), what="a file of the program's")


def test_a_reload_adds_no_program_to_a_sandbox(bench):
    proxy = bench.tls_server()
    if not proxy.lines("Sandbox: system calls restricted|Sandbox: files restricted"):
        pytest.skip("no sandbox here")
    assert not proxy.hup(proxy.text.replace(PREAMBLE, "") + f"[e]\naccept = 127.0.0.1:{bench.ports()}\nexec = /bin/cat\ncert = {bench.pki.ec_pem}\n")
    proxy.wait_log(r'Sandbox: the first "exec" needs a restart')


# --- terminals ---


@pytest.mark.san
def test_a_login_shell_on_a_terminal(bench):
    proxy = programs(bench, "exec = /bin/bash\nexecArgs = -bash --norc --noprofile --noediting -i\npty = yes", env={"PS1": "> ", "HOME": "/nonexistent"})
    client = bench.client(proxy.at[0])
    said = b""

    def expect(text):
        nonlocal said
        while text not in said:
            data = client.recv()
            assert data, said
            said += data

    client.send(b"echo $((6 * 7)); tty; ps -o tty= -p $$\n")
    expect(b"echo $((6 * 7))")  # echoed
    expect(b"42\r\n/dev/pts/")
    expect(b"?\r\n")  # no controlling terminal
    client.send(b"exit 3\n")
    client.recv_all()
    assert client.ended == CLOSE_NOTIFY
    proxy.wait_log(r"Child process \d+ finished with code 3")
    proxy.wait_log(r"LOG7\[0\]: TTY=/dev/pts/\d+ allocated")
    proxy.wait_log(r"LOG6\[0\]: Write socket closed \(HUP\)")
    proxy.wait_log(r"LOG6\[0\]: Read socket closed \(HUP\)")
    proxy.wait_log(r"LOG5\[0\]: Connection closed: ")


@pytest.mark.san
def test_the_clients_end_is_the_terminals(bench):
    proxy = programs(bench, "exec = /bin/cat\npty = yes")
    client = bench.client(proxy.at[0])
    client.send(b"hello\n")
    assert client.recv_exactly(14) == b"hello\r\nhello\r\n"
    client.close_notify()
    assert client.recv_all() == b"" and client.ended == CLOSE_NOTIFY
    proxy.wait_log(r"LOG7\[0\]: Closing the file descriptor")
    proxy.wait_log(r"Child process \d+ (terminated|finished)")
    proxy.wait_log(r"LOG5\[0\]: Connection closed: ")


@pytest.mark.san
def test_much_through_a_terminal(bench, tmp_path):
    """More than a terminal takes at once, in both directions, to the last byte although the program ends at once."""
    script = tmp_path / "count"
    script.write_text("#!/bin/sh\nstty raw -echo\necho ready\nhead -c 300000 | md5sum\nseq 1 30000\n")
    script.chmod(0o755)
    proxy = programs(bench, f"exec = {script}\npty = yes")
    client = bench.client(proxy.at[0])
    assert client.recv_exactly(6) == b"ready\n"
    data = pattern(300_000)
    client.send(data)
    said = client.recv_all().decode().splitlines()
    assert client.ended == CLOSE_NOTIFY
    assert said[0].split()[0] == __import__("hashlib").md5(data).hexdigest()
    assert said[1:] == [str(i) for i in range(1, 30001)]
    proxy.wait_log(r"LOG5\[0\]: Connection closed: ")


# --- many ---


def one(port, wanted):
    client = TlsClient(port)
    try:
        assert client.recv_all() == wanted and client.ended == CLOSE_NOTIFY
    finally:
        client.close()


def in_a_row(bench, count, threads=4):
    proxy = programs(bench, "exec = /bin/echo\nexecArgs = echo hi", preamble="foreground = yes\nsyslog = no\ndebug = info\n")
    errors = []

    def some(n):
        try:
            for _ in range(n):
                one(proxy.at[0], b"hi\n")
        except Exception as error:
            errors.append(error)

    some(20)
    before = proxy.rss_kib()
    workers = [threading.Thread(target=some, args=(count // threads,)) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not errors, errors[:3]
    until(lambda: not children(proxy.pid), what="every child is reaped")
    until(lambda: len(proxy.lines(r"Child process \d+ finished with code 0")) == 20 + count, what="a line for each child")
    until(lambda: len(proxy.lines("Connection closed: 3 byte")) == 20 + count, what="a line for each connection")
    proxy.wait_idle()
    return proxy.rss_kib() - before


def test_four_hundred_in_a_row(bench):
    in_a_row(bench, 400)


@pytest.mark.slow
@pytest.mark.serial
@pytest.mark.nosan
@pytest.mark.timeout(900)
def test_ten_thousand_in_a_row(bench):
    assert in_a_row(bench, 10_000) < 8192


@pytest.mark.san
def test_a_hundred_at_once(bench):
    proxy = programs(bench, "exec = /bin/cat")
    clients = [bench.client(proxy.at[0]) for _ in range(100)]
    for i, client in enumerate(clients):
        client.send(f"client {i}\n".encode())
    for i, client in enumerate(clients):
        assert client.recv_exactly(len(f"client {i}\n")) == f"client {i}\n".encode()
    assert len(children(proxy.pid)) == 100
    for client in clients:
        client.close()
    until(lambda: not children(proxy.pid), what="every child is reaped")


@pytest.mark.san
def test_the_proxy_ends_while_programs_are_being_started(bench):
    proxy = programs(bench, "exec = /bin/cat")
    clients = [bench.client(proxy.at[0]) for _ in range(30)]
    proxy.expect_open = True
    proxy.stop()
    for client in clients:
        client.close()


@pytest.mark.nosan
def test_a_name_server_that_says_nothing_holds_up_no_program(bench, tmp_path):
    """More lookups than the proxy has threads for blocking work, each of which takes a minute."""
    faults = Faults(str(tmp_path))
    lookups, program = bench.ports(), bench.ports()
    proxy = bench.proxy(f"cert = {bench.pki.ec_pem}\n[lookups]\naccept = 127.0.0.1:{lookups}\nconnect = localhost:1\ndelay = yes\n"
                        f"[program]\naccept = 127.0.0.1:{program}\nexec = /bin/echo\nexecArgs = echo hi\n", env=faults.env)
    faults.lookups_take(60_000)
    for _ in range(20):
        bench.client(lookups)
    for _ in range(10):
        one(program, b"hi\n")
    assert not proxy.lines("s_connect|Error resolving")
    proxy.expect_open = True
    proxy.stop()


# --- with other things ---


def test_redirect_leads_away_from_the_program(bench):
    server = bench.server(lambda sock, _server: sock.sendall(b"redirected"))
    proxy = programs(bench, f"exec = {WHO}\nverifyChain = yes\nCAfile = {bench.pki.ca}\nredirect = 127.0.0.1:{server.port}")
    client = bench.client(proxy.at[0])
    assert client.recv_all() == b"redirected"
    client.close()
    assert "Local mode child" not in proxy.log()
    assert "env" in who(proxy.at[0], client_context(certificate=bench.pki.client_pem))


def test_sessions_are_resumed(bench):
    """`delay` has nothing to look up here, and tickets must not wait for that."""
    proxy = programs(bench, "exec = /bin/cat\ndelay = yes")
    context = client_context(version=ssl.TLSVersion.TLSv1_3)
    first = bench.client(proxy.at[0], context)
    first.ping()
    second = bench.client(proxy.at[0], context, session=first.tls.session)
    second.ping()
    assert second.tls.session_reused


def test_a_program_that_speaks_tls(bench):
    """Client mode: TLS goes to the program."""
    inner = os.path.join(str(bench.directory), "inner.conf")
    with open(inner, "w") as file:
        file.write(f"syslog = no\ncert = {bench.pki.ec_pem}\nexec = /bin/cat\n")
    proxy = programs(bench, f"client = yes\nexec = {BINARY}\nexecArgs = tlsplice {inner}\nverifyChain = yes\nCAfile = {bench.pki.ca}")
    with connect(proxy.at[0]) as sock:
        sock.sendall(b"ping")
        assert read_exactly(sock, 4) == b"ping"
        sock.shutdown(1)
        assert read_all(sock)[0] == b""
    proxy.wait_log(r"LOG6\[0\]: TLS connected: new session negotiated")


# --- exec and connect ---


def runner(bench, lines="", server=None, **options):
    server = server or bench.server(lambda sock, _server: read_all(sock), context=server_context(bench.pki.ec_pem))
    proxy = bench.proxy(f"[r]\nclient = yes\nconnect = 127.0.0.1:{server.port}\n{lines}\n", **options)
    return proxy, server


@pytest.mark.san
def test_a_program_in_the_place_of_the_client(bench):
    proxy, server = runner(bench, f"exec = {WHO}")
    said = server.result()[0].decode()
    assert "arg " + WHO in said and not re.search(r"(?m)^env (REMOTE_|SSL_CLIENT_)", said)
    proxy.wait_log(r"LOG7\[\w+\]: Skipped exec\+connect service \[r\]")
    proxy.wait_log(r"LOG7\[\w+\]: Starting exec\+connect service \[r\]")
    proxy.wait_log(r"LOG7\[0\]: Service \[r\] started")
    proxy.wait_log(r"LOG6\[0_0\]: Local mode child started \(PID=\d+\)")
    proxy.wait_log(r"LOG5\[0_0\]: Service \[r\] accepted connection from unnamed socket")
    proxy.wait_log(r"LOG5\[0_0\]: Connection closed: ")
    time.sleep(0.3)
    assert not proxy.lines("Retrying") and not proxy.lines("0_1"), "once only"


@pytest.mark.san
def test_it_is_started_again(bench):
    proxy, server = runner(bench, "exec = /bin/echo\nexecArgs = echo hi\nretry = 10")
    assert server.result(4)[0] == b"hi\n"
    proxy.wait_log(r"LOG6\[0_0\]: Retrying an exec\+connect section")
    proxy.wait_log(r"LOG6\[0_3\]: Local mode child started")
    proxy.expect_open = True


def test_it_is_started_again_when_the_server_is_away(bench):
    server = bench.server(lambda sock, _server: read_all(sock), context=server_context(bench.pki.ec_pem))
    proxy, _ = runner(bench, "exec = /bin/echo\nexecArgs = echo hi\nretry = 20", server=server)
    server.result()
    server.close()
    proxy.wait_log(r"LOG3\[0_\d+\]: No more addresses to connect", count=2)
    proxy.expect_open = True


@pytest.mark.san
def test_a_reload_starts_it_anew(bench):
    """What runs goes on to its end and is not repeated; without a change too, as stunnel does."""
    proxy, server = runner(bench, "exec = /bin/cat\nretry = 10\n")
    until(lambda: server.accepted == 1, what="the first")
    proxy.expect_open = True
    proxy.base_fds = 0
    assert proxy.hup()
    until(lambda: server.accepted == 2, what="the second")
    before = children(proxy.pid)
    assert len(before) == 2
    os.kill(before[0], signal.SIGTERM)
    os.kill(before[1], signal.SIGTERM)
    until(lambda: server.accepted == 3, what="the second's repetition")
    time.sleep(0.3)
    assert server.accepted == 3 and len(children(proxy.pid)) == 1
    proxy.wait_log(r"Child process \d+ terminated on SIGTERM", count=2)


def test_renewed_certificates_do_not_start_it_anew(bench, tmp_path):
    pem = tmp_path / "server.pem"
    pem.write_bytes(open(bench.pki.ec_pem, "rb").read())
    server = bench.server(lambda sock, _server: read_all(sock), context=server_context(bench.pki.ec_pem))
    port = bench.ports()
    proxy = bench.proxy(f"[r]\nclient = yes\nconnect = 127.0.0.1:{server.port}\nexec = /bin/cat\nretry = 10\n"
                        f"[s]\naccept = 127.0.0.1:{port}\nconnect = 127.0.0.1:{server.port}\ncert = {pem}\ncertReload = yes\n")
    until(lambda: server.accepted == 1, what="the program's connection")
    pem.write_bytes(open(bench.pki.rsa_pem, "rb").read())
    proxy.wait_log(r"Service \[s\]: changed files of certificates loaded")
    time.sleep(0.3)
    assert server.accepted == 1
    os.kill(children(proxy.pid)[0], signal.SIGTERM)
    until(lambda: server.accepted == 2, what="the repetition")
    proxy.expect_open = True


@pytest.mark.san
def test_a_reload_after_renewed_certificates(bench, tmp_path):
    """The program outlives two generations: that of its connection, and the one that had nothing of it but its runner."""
    pem = tmp_path / "server.pem"
    pem.write_bytes(open(bench.pki.ec_pem, "rb").read())
    server = bench.server(lambda sock, _server: read_all(sock), context=server_context(bench.pki.ec_pem))
    proxy = bench.proxy(f"[r]\nclient = yes\nconnect = 127.0.0.1:{server.port}\nexec = /bin/cat\nretry = 10\n"
                        f"[s]\naccept = 127.0.0.1:{bench.ports()}\nconnect = 127.0.0.1:1\ncert = {pem}\ncertReload = yes\n")
    until(lambda: server.accepted == 1, what="the program's connection")
    before = children(proxy.pid)[0]
    pem.write_bytes(open(bench.pki.rsa_pem, "rb").read())
    proxy.wait_log(r"Service \[s\]: changed files of certificates loaded")
    proxy.expect_open = True
    assert proxy.hup()
    until(lambda: server.accepted == 2, what="the new configuration's program")
    os.kill(before, signal.SIGTERM)
    proxy.wait_log(r"LOG7\[0_0\]: Service \[r\] finished")
    time.sleep(0.2)
    assert server.accepted == 2


def test_unique_ids_have_numbers_too(bench):
    proxy, server = runner(bench, "exec = /bin/true\nretry = 5\nlogId = unique")
    proxy.wait_log(r"LOG6\[[0-9a-zA-Z]{22}_3\]: Local mode child started")
    ids = {line.split("[")[1].split("_")[0] for line in proxy.lines(r"LOG6\[[0-9a-zA-Z]{22}_\d+\]: Local mode")}
    assert len(ids) == 1
    proxy.expect_open = True


def test_drain_waits_for_no_repetition(bench):
    server = bench.server(lambda sock, _server: read_all(sock), context=server_context(bench.pki.ec_pem))
    proxy = bench.proxy(f"drain = 20\n[r]\nclient = yes\nconnect = 127.0.0.1:{server.port}\nexec = /bin/cat\nretry = 10\n")
    until(lambda: server.accepted == 1, what="the program's connection")
    proxy.send_signal(signal.SIGTERM)
    proxy.wait_log("Draining 1 connection")
    os.kill(children(proxy.pid)[0], signal.SIGKILL)
    assert proxy.wait_exit() == 0
    assert server.accepted == 1
    assert proxy.lines("terminated on SIGKILL")
    proxy.kill()
