# Reload, signals and the end of the process.
# SPDX-License-Identifier: Apache-2.0
import os
import re
import signal
import subprocess
import time

import pytest

from peers import EOF, collect, connect, echo, name
from proxy import BINARY, SLOW, WRAPPER, gone, listening_ports, run_once, until


# --- HUP ---


@pytest.mark.san
@pytest.mark.valgrind
def test_reload_changes_the_backend_for_new_connections(bench):
    a, b = bench.server(name("A")), bench.server(name("B"))
    proxy = bench.tls_server(backend=a)
    old = bench.client(proxy.port)
    assert old.recv_exactly(1) == b"A"
    assert proxy.hup(proxy.body().replace(str(a.port), str(b.port)))
    assert bench.client(proxy.port).recv_exactly(1) == b"B"
    # The old connection goes on with what it began with.
    old.send(b"still here")
    old.close_notify()
    assert a.result() == (b"still here", EOF)


@pytest.mark.san
def test_reload_opens_and_closes_listeners(bench, pki):
    first, second, backend = bench.ports(), bench.ports(), bench.server(echo)
    text = f"cert = {pki.ec_pem}\nconnect = 127.0.0.1:{backend.port}\n[one]\naccept = 127.0.0.1:{first}\n"
    proxy = bench.proxy(text)
    assert proxy.hup(text + f"[two]\naccept = 127.0.0.1:{second}\n")
    bench.client(first).ping().bye()
    bench.client(second).ping().bye()
    assert proxy.hup(text)
    until(lambda: second not in listening_ports())
    with pytest.raises(ConnectionRefusedError):
        connect(second)
    bench.client(first).ping()


@pytest.mark.san
def test_reload_takes_a_new_certificate(bench, pki, tmp_path):
    path = tmp_path / "changing.pem"
    path.write_bytes(open(pki.ec_pem, "rb").read())
    os.chmod(path, 0o600)
    proxy = bench.tls_server(pem=str(path))

    def subject_key():
        return subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{proxy.port}"], input=b"Q\n",
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=30 * SLOW).stdout

    assert b"id-ecPublicKey" in subject_key()
    path.write_bytes(open(pki.rsa_pem, "rb").read())
    assert proxy.hup()
    assert b"rsaEncryption" in subject_key()


@pytest.mark.san
@pytest.mark.parametrize("broken", ["[s]\nnonsense\n", "[s]\naccept = 1\n", "", "foo = bar\n", "[s]\ncert = /nonexistent\naccept = {port}\n"
                                    "connect = 1\n", "no equals sign"])
def test_a_bad_file_changes_nothing(bench, broken):
    proxy = bench.tls_server()
    client = bench.client(proxy.port).ping()
    good = proxy.body()
    assert not proxy.hup(broken.format(port=proxy.port))
    client.ping()
    bench.client(proxy.port).ping()
    assert proxy.hup(good)
    bench.client(proxy.port).ping()


@pytest.mark.san
def test_a_missing_file_changes_nothing(bench):
    proxy = bench.tls_server()
    os.rename(proxy.config, proxy.config + ".away")
    assert not proxy.hup()
    bench.client(proxy.port).ping()
    os.rename(proxy.config + ".away", proxy.config)
    assert proxy.hup()
    bench.client(proxy.port).ping()


@pytest.mark.ours
@pytest.mark.san
def test_a_new_accept_that_cannot_be_bound_changes_nothing(bench, pki):
    taken = bench.server(echo)
    proxy = bench.tls_server()
    assert not proxy.hup(proxy.body() + f"[two]\naccept = 127.0.0.1:{taken.port}\nconnect = 127.0.0.1:1\ncert = {pki.ec_pem}\n")
    bench.client(proxy.port).ping()


@pytest.mark.ours
@pytest.mark.san
def test_a_configuration_without_sections_changes_nothing(bench):
    """It is one for inetd: nobody would listen any more."""
    proxy = bench.tls_server()
    assert not proxy.hup("client = yes\nconnect = 127.0.0.1:1\n")
    proxy.wait_log(r"LOG3\[main\]: A configuration without sections needs a restart")
    bench.client(proxy.port).ping()


@pytest.mark.san
def test_reload_says_so(bench):
    proxy = bench.tls_server()
    proxy.hup()
    proxy.wait_log(r"LOG5\[\w+\]: (Reading configuration|Configuration successful)", 1)
    assert not proxy.hup("garbage")
    proxy.wait_log(r"LOG3\[\w+\]: Failed to reload the configuration file")
    proxy.wait_log(r"proxy0\.conf:\d+: \"garbage\": No '=' found")


@pytest.mark.san
def test_many_reloads_leak_nothing(bench):
    proxy = bench.tls_server()
    bench.client(proxy.port).ping().bye()
    for _ in range(5):
        assert proxy.hup()
    proxy.settle()
    fds, rss = len(proxy.fds()), proxy.rss_kib()
    for _ in range(25):
        assert proxy.hup()
    bench.client(proxy.port).ping().bye()
    proxy.wait_idle()
    until(lambda: len(proxy.fds()) <= fds)
    if SLOW == 1:
        assert proxy.rss_kib() < rss + 8192


@pytest.mark.ours
@pytest.mark.slow
@pytest.mark.serial
@pytest.mark.san
@pytest.mark.parametrize("workers", [1, 2])
def test_reload_under_load_loses_no_connection(bench, tools, workers):
    """New connections all the time and some that stay, 20 reloads: 0 of N lost."""
    port = bench.ports()
    bench.run([tools + "/echo", str(port)])
    proxy = bench.tls_server(backend=port, head=f"workers = {workers}\ndebug = notice")
    until(lambda: not bench.ports.free(port))
    staying = [bench.client(proxy.port).ping() for _ in range(20)]
    load = bench.run([tools + "/load", str(proxy.port), "loop", "20", "8"], stdout=subprocess.PIPE)
    good = proxy.body()
    for i in range(20):
        time.sleep(0.25)
        assert proxy.hup(good + ("; changed\n" * i) + (f"TIMEOUTidle = {1000 + i}\n" if i % 2 else ""))
    out = load.communicate(timeout=120 * SLOW)[0].decode()
    assert load.returncode == 0, out
    assert int(re.search(r"ok (\d+) failed 0", out).group(1)) > 100, out
    for client in staying:
        client.ping()


@pytest.mark.ours
@pytest.mark.san
def test_listener_of_an_unchanged_address_stays(bench):
    """The same socket is in use before and after: no moment in which a connection could be refused."""
    proxy = bench.tls_server()

    def inodes():
        table = subprocess.run(["ss", "-tlneH", f"sport = :{proxy.port}"], stdout=subprocess.PIPE, text=True).stdout
        return set(re.findall(r"ino:(\d+)", table))

    before = inodes()
    assert before
    proxy.hup(proxy.body() + "TIMEOUTidle = 77\n")
    assert inodes() == before


# --- the other signals ---


@pytest.mark.san
def test_usr2_lists_connections(bench):
    proxy = bench.tls_server()
    client = bench.client(proxy.port).ping()
    client.ping(b"12345")
    time.sleep(0.2)
    proxy.send_signal(signal.SIGUSR2)
    proxy.wait_log(r"LOG0\[\w+\]: Active connections:")
    proxy.wait_log(r"LOG0\[\w+\]: Active connection 1: Service \[s\], 9 byte\(s\) sent to TLS, 9 byte\(s\) sent to socket")
    proxy.wait_log(r"LOG0\[\w+\]: Listed 1 active connection\(s\)")


@pytest.mark.san
@pytest.mark.parametrize("number, said", [(signal.SIGTERM, r"LOG5\[\w+\]: Terminated"),
                                          (signal.SIGINT, r"LOG3\[\w+\]: Received SIGINT; terminating"),
                                          (signal.SIGQUIT, r"LOG3\[\w+\]: Received SIGQUIT; terminating")])
def test_ends_at_once_and_well(bench, tmp_path, number, said):
    """Exit status 0, all connections dropped, pid file gone."""
    pid_file = str(tmp_path / "pid")
    proxy = bench.tls_server(backend=bench.server(collect), head=f"pid = {pid_file}")
    assert open(pid_file).read() == f"{proxy.pid}\n" or WRAPPER
    client = bench.client(proxy.port)
    client.send(b"data")
    proxy.wait_log("connected remote server")
    proxy.send_signal(number)
    assert proxy.wait_exit() == 0
    proxy.wait_log(said)
    client.recv_all()
    assert client.ended
    assert not os.path.exists(pid_file)


@pytest.mark.san
def test_an_ignored_signal_stays_ignored(bench):
    """nohup-like: SIGINT was ignored by the parent."""
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        proxy = bench.tls_server()
    finally:
        signal.signal(signal.SIGINT, previous)
    proxy.send_signal(signal.SIGINT)
    time.sleep(0.5)
    bench.client(proxy.port).ping()


@pytest.mark.ours
@pytest.mark.san
@pytest.mark.slow
def test_drain_lets_connections_finish(bench):
    proxy = bench.tls_server(head="drain = 30")
    client = bench.client(proxy.port).ping()
    proxy.send_signal(signal.SIGTERM)
    until(lambda: proxy.port not in listening_ports(), 10, "the listener is closed while draining")
    client.ping(b"still served")
    time.sleep(1)
    client.ping(b"still served")
    assert client.bye() == b""
    assert proxy.wait_exit() == 0


@pytest.mark.ours
@pytest.mark.san
@pytest.mark.slow
def test_drain_ends_when_its_time_is_up(bench):
    proxy = bench.tls_server(head="drain = 2")
    client = bench.client(proxy.port).ping()
    proxy.send_signal(signal.SIGTERM)
    client.recv_all()
    assert client.ended
    assert proxy.wait_exit() == 0


@pytest.mark.ours
@pytest.mark.san
def test_a_second_term_does_not_wait(bench):
    proxy = bench.tls_server(head="drain = 300")
    client = bench.client(proxy.port).ping()
    proxy.send_signal(signal.SIGTERM)
    until(lambda: proxy.port not in listening_ports())
    client.ping()
    proxy.send_signal(signal.SIGTERM)
    assert proxy.wait_exit() == 0


@pytest.mark.san
def test_restart_on_the_same_address_at_once(bench):
    """The listener is gone when the process is: no EADDRINUSE for whoever comes next."""
    backend = bench.server(echo)
    port = bench.ports()
    for _ in range(5):
        proxy = bench.tls_server(accept=port, backend=backend)
        bench.client(port).ping().bye()
        proxy.stop()


# --- the daemon ---


def daemon_pid(path):
    def check():
        try:
            return int(open(path).read())
        except (OSError, ValueError):
            return None
    return until(check, 20, path)


@pytest.mark.san
def test_daemon_log_file_and_reopen(bench, pki, tmp_path):
    """foreground = no: the parent ends with 0, the child logs to its file, USR1 reopens it after a rename."""
    log, pid_file, port, backend = tmp_path / "log", str(tmp_path / "pid"), bench.ports(), bench.server(echo)
    config = tmp_path / "daemon.conf"
    config.write_text(f"foreground = no\nsyslog = no\ndebug = debug\noutput = {log}\npid = {pid_file}\n[s]\naccept = 127.0.0.1:{port}\n"
                      f"connect = 127.0.0.1:{backend.port}\ncert = {pki.ec_pem}\n")
    done = subprocess.run([*WRAPPER, BINARY, str(config)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          timeout=30 * SLOW)
    assert done.returncode == 0, done.stderr
    assert done.stdout == b""
    pid = daemon_pid(pid_file)
    try:
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        with open(f"/proc/{pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        assert int(fields[3]) != os.getsid(0), "a session of its own"
        assert os.stat(pid_file).st_mode & 0o777 == 0o644
        assert os.stat(log).st_mode & 0o777 == 0o640
        until(lambda: not bench.ports.free(port))
        bench.client(port).ping().bye()
        until(lambda: "Connection closed: 4 byte(s) sent to TLS" in log.read_text())
        assert re.search(r"(?m)^\d{4}\.\d\d\.\d\d \d\d:\d\d:\d\d LOG5\[ui\]: Configuration successful$", log.read_text())
        os.rename(log, tmp_path / "log.1")
        os.kill(pid, signal.SIGUSR1)
        until(lambda: log.exists() and "Log file reopened" in log.read_text())
        bench.client(port).ping().bye()
        until(lambda: "Connection closed: 4 byte(s) sent to TLS" in log.read_text())
        os.kill(pid, signal.SIGHUP)
        until(lambda: "Configuration successful" in log.read_text())
        bench.client(port).ping().bye()
    finally:
        os.kill(pid, signal.SIGTERM)
    until(lambda: gone(pid), 20, "the daemon ends")
    assert not os.path.exists(pid_file)


@pytest.mark.san
@pytest.mark.parametrize("mode, shown", [("yes", True), ("quiet", False)])
def test_foreground_modes(bench, tmp_path, mode, shown):
    log = tmp_path / "log"
    proxy = bench.tls_server(preamble=f"foreground = {mode}\nsyslog = no\ndebug = debug\noutput = {log}\n")
    bench.client(proxy.port).ping().bye()
    until(lambda: "Connection closed" in log.read_text())
    assert ("Connection closed" in proxy.log()) == shown


@pytest.mark.parametrize("option, said", [("output = log", "Log file must include full path name"),
                                          ("pid = pid", "Pid file must include full path name")])
def test_daemon_wants_absolute_paths(bench, pki, option, said):
    out = bench.refused(f"[s]\naccept = 127.0.0.1:{bench.ports()}\nconnect = 127.0.0.1:1\ncert = {pki.ec_pem}\n",
                        preamble=f"foreground = no\nsyslog = no\n{option}\n")
    assert said in out


@pytest.mark.san
@pytest.mark.parametrize("mode, lines", [("append", 2), ("overwrite", 1)])
def test_log_append_and_overwrite(bench, tmp_path, mode, lines):
    log = tmp_path / "log"
    for _ in range(2):
        proxy = bench.tls_server(head=f"output = {log}\nlog = {mode}")
        proxy.stop()
    assert log.read_text().count("Configuration successful") == lines


def test_output_that_cannot_be_opened(bench, pki, tmp_path):
    out = bench.refused(f"output = {tmp_path}/no/such/dir/log\n[s]\naccept = 127.0.0.1:{bench.ports()}\nconnect = 127.0.0.1:1\n"
                        f"cert = {pki.ec_pem}\n")
    assert f"{tmp_path}/no/such/dir/log" in out


def test_pid_file_that_cannot_be_written(bench, pki, tmp_path):
    out = bench.refused(f"pid = {tmp_path}/no/such/dir/pid\n[s]\naccept = 127.0.0.1:{bench.ports()}\nconnect = 127.0.0.1:1\n"
                        f"cert = {pki.ec_pem}\n")
    assert f"Cannot create pid file {tmp_path}/no/such/dir/pid" in out and "Cannot remove" not in out


@pytest.mark.ours
@pytest.mark.san
@pytest.mark.parametrize("what", ["pid", "admin"])
def test_a_daemon_that_cannot_serve_is_no_success(bench, pki, tmp_path, what):
    """What goes wrong in the background too ends with status 1 and a sentence where the command was given."""
    taken = bench.server(echo)
    line = f"pid = {tmp_path}/no/such/dir/pid" if what == "pid" else f"admin = 127.0.0.1:{taken.port}"
    config, log = tmp_path / "daemon.conf", tmp_path / "log"
    config.write_text(f"syslog = no\noutput = {log}\n{line}\n[s]\naccept = 127.0.0.1:{bench.ports()}\nconnect = 127.0.0.1:1\ncert = {pki.ec_pem}\n")
    status, out, err = run_once([str(config)])
    assert (status, out) == (1, "")
    assert "in the background" in err and "the log says why" in err
    assert (f"{tmp_path}/no/such/dir/pid" if what == "pid" else str(taken.port)) in log.read_text()


def test_syslog(bench, pki, tmp_path):
    """A syslog daemon of our own on /dev/log, in a mount namespace where nobody else is."""
    if os.getuid() != 0:
        pytest.skip("needs root for a mount namespace")
    port, backend = bench.ports(), bench.server(echo)
    config, got = tmp_path / "syslog.conf", tmp_path / "got"
    config.write_text(f"foreground = quiet\nsyslog = yes\nservice = my-ident\ndebug = local3.debug\n[s]\naccept = 127.0.0.1:{port}\n"
                      f"connect = 127.0.0.1:{backend.port}\ncert = {pki.ec_pem}\n")
    script = tmp_path / "syslogd.py"
    script.write_text(f"""
import os, signal, socket, subprocess, sys, time
subprocess.check_call(["mount", "-t", "tmpfs", "tmpfs", "/run"])
# /dev/log may be a link into /run: make it one, on a /dev of our own.
subprocess.check_call(["mount", "-t", "tmpfs", "tmpfs", "/mnt"])
for node in ("null", "urandom", "random", "zero"):
    open("/mnt/" + node, "w").close()
    subprocess.check_call(["mount", "--bind", "/dev/" + node, "/mnt/" + node])
subprocess.check_call(["mount", "--bind", "/mnt", "/dev"])
sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
sock.bind("/dev/log")
child = subprocess.Popen(sys.argv[1:])
signal.signal(signal.SIGTERM, lambda *_: child.terminate())
sock.settimeout(0.2)
with open({str(got)!r}, "wb", 0) as out:
    while child.poll() is None:
        try:
            out.write(sock.recv(65536) + b"\\n")
        except (TimeoutError, InterruptedError):
            pass
sys.exit(child.returncode)
""")
    child = bench.run(["unshare", "-m", "--propagation", "private", "/usr/bin/python3", str(script), *WRAPPER, BINARY, str(config)],
                      stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    until(lambda: not bench.ports.free(port), 20)
    bench.client(port).ping().bye()
    try:
        until(lambda: b"Connection closed" in got.read_bytes())
    finally:
        child.terminate()
        child.wait(20 * SLOW)
    text = got.read_text(errors="replace")
    # facility local3 = 19; priority 19 * 8 + level
    assert re.search(r"(?m)^<157>[^\n]* my-ident(\[\d+\])?: LOG5\[0\]: Service \[s\] accepted connection from 127\.0\.0\.1:\d+", text), text
    assert child.returncode == 0
