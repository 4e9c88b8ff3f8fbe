# The sandbox: that it is in force, what it keeps from a reload, and that nothing which a proxy does for a living is kept from it. All other tests run with
# it too, for it is the default.
# SPDX-License-Identifier: Apache-2.0
import ctypes
import os
import re
import shutil
import signal
import socket
import ssl
import tempfile
import urllib.request

import pytest

from peers import echo
from proxy import until

pytestmark = [pytest.mark.ours, pytest.mark.san]


def landlock_version():
    libc = ctypes.CDLL(None, use_errno=True)
    return libc.syscall(444, None, 0, 1)  # landlock_create_ruleset(..., LANDLOCK_CREATE_RULESET_VERSION)


needs_landlock = pytest.mark.skipif(landlock_version() < 1, reason="this kernel has no Landlock, or it is switched off")


def tasks(proxy):
    found = []
    for task in os.listdir(f"/proc/{proxy.pid}/task"):
        with open(f"/proc/{proxy.pid}/task/{task}/status") as file:
            found.append(dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line))
    return found


@pytest.fixture
def elsewhere():
    """A directory that no configuration has named."""
    path = tempfile.mkdtemp(prefix="tlsplice-elsewhere-")
    yield path
    shutil.rmtree(path)


def test_every_thread_is_in_it(bench):
    proxy = bench.tls_server(head=f"admin = 127.0.0.1:{bench.ports()}")
    assert len(tasks(proxy)) > 5
    for task in tasks(proxy):
        assert (task["NoNewPrivs"], task["Seccomp"]) == ("1", "2"), task
    if landlock_version() < 1:
        assert proxy.lines(r"LOG5\[main\]: Sandbox: files are not restricted: Landlock: ")
    else:
        assert proxy.lines(r"LOG6\[main\]: Sandbox: files restricted by Landlock$")
    assert proxy.lines(r"LOG6\[main\]: Sandbox: system calls restricted by seccomp$")
    bench.client(proxy.port).ping().bye()


def test_threads_have_their_names(bench):
    """/proc/self/task is no place that a process without a dump may write to."""
    assert {"worker", "jobs", "log"} <= {task["Name"] for task in tasks(bench.tls_server())}


def test_no_is_no(bench, elsewhere):
    proxy = bench.tls_server(head="sandbox = no")
    assert {(task["NoNewPrivs"], task["Seccomp"]) for task in tasks(proxy)} == {("0", "0")}
    shutil.copy(bench.pki.ec_pem, elsewhere)
    assert proxy.hup(re.sub(r"(?m)^cert = .*", f"cert = {elsewhere}/ec.pem", proxy.body()))
    assert not proxy.lines("Sandbox")
    bench.client(proxy.port).ping().bye()


# --- what a reload cannot have ---


@needs_landlock
@pytest.mark.parametrize("line", ["cert = {dir}/ec.pem", "CAfile = {dir}/ec.pem", "CApath = {dir}", "CRLpath = {dir}",
                                  "ticketKeyFile = {dir}/keys", "accept = {dir}/socket"])
def test_files_elsewhere_need_a_restart(bench, elsewhere, line):
    proxy = bench.tls_server()
    held = bench.client(proxy.port).ping()
    shutil.copy(bench.pki.ec_pem, elsewhere)
    with open(f"{elsewhere}/keys", "wb") as file:
        file.write(os.urandom(80))
    text = proxy.body()
    assert not proxy.hup(text + line.format(dir=elsewhere) + "\n")
    assert proxy.lines(rf"LOG3\[main\]: Sandbox: {elsewhere} is out of reach: it had no part in the configuration at start\.")
    assert proxy.hup(text)
    held.ping().bye()
    bench.client(proxy.port).ping().bye()


@needs_landlock
def test_the_log_cannot_move_elsewhere(bench, tmp_path, elsewhere):
    proxy = bench.tls_server(head=f"output = {tmp_path}/log")
    text = proxy.body()
    assert not proxy.hup(text.replace(f"{tmp_path}/log", f"{elsewhere}/log"))
    assert os.listdir(elsewhere) == []
    assert proxy.hup(text.replace(f"{tmp_path}/log", f"{tmp_path}/other"))
    bench.client(proxy.port).ping().bye()
    until(lambda: "Connection closed" in (tmp_path / "other").read_text())


@needs_landlock
def test_it_is_the_kernel_that_refuses(bench, elsewhere):
    """What is opened while the configuration is read gets no further than the first open(2)."""
    proxy = bench.tls_server()
    text = proxy.body()
    with open(f"{elsewhere}/keys", "w") as file:
        file.write("a:0123456789abcdef0123456789abcdef\n")
    assert not proxy.hup(text + f"include = {elsewhere}\n")
    assert proxy.lines(r"LOG3\[main\]: scandir: Permission denied \(13\)$")
    assert not proxy.hup(text + f"PSKsecrets = {elsewhere}/keys\n")
    assert proxy.lines(r"LOG3\[main\]: .*Permission denied \(13\)$")[1:]
    assert proxy.hup(text)
    bench.client(proxy.port).ping().bye()


@needs_landlock
def test_engines_and_tokens_need_a_restart(bench):
    proxy = bench.tls_server()
    assert not proxy.hup(proxy.body() + "key = pkcs11:object=key\n")
    assert proxy.lines("LOG3.*Sandbox: engines and tokens need a restart")


def test_with_an_engine_files_are_free(bench, elsewhere):
    proxy = bench.tls_server(head="engine = dynamic")
    assert proxy.lines(r"LOG5\[main\]: Sandbox: files are not restricted: nobody knows which ones engines and tokens need$")
    assert {(task["NoNewPrivs"], task["Seccomp"]) for task in tasks(proxy)} == {("1", "2")}
    shutil.copy(bench.pki.ec_pem, elsewhere)
    assert proxy.hup(re.sub(r"(?m)^cert = .*", f"cert = {elsewhere}/ec.pem", proxy.body()))
    bench.client(proxy.port).ping().bye()


needs_ports = pytest.mark.skipif(landlock_version() < 4, reason="this kernel's Landlock knows no TCP ports")


@needs_ports
@pytest.mark.parametrize("line", ["accept = 127.0.0.1:{port}", "connect = 127.0.0.1:{port}"])
def test_strict_ports_need_a_restart(bench, line):
    proxy = bench.tls_server(head="sandbox = strict")
    held = bench.client(proxy.port).ping()
    text, port = proxy.body(), bench.ports()
    assert not proxy.hup(text + line.format(port=port) + "\n")
    assert proxy.lines(rf"LOG3\[main\]: Sandbox: TCP port {port} is out of reach: it had no part in the configuration at start\.")
    assert proxy.hup(text)
    held.ping().bye()
    bench.client(proxy.port).ping().bye()


@needs_ports
def test_strict_serves(bench):
    """A status page, names, an own source address: what is named may be had."""
    admin = bench.ports()
    proxy = bench.tls_client(f"localhost:{bench.server(echo).port}", head=f"sandbox = strict\nadmin = {admin}", extra="delay = yes\nlocal = 127.0.0.1")
    with urllib.request.urlopen(f"http://127.0.0.1:{admin}/health") as page:
        assert page.read() == b"ok\n"
    with socket.create_connection(("127.0.0.1", proxy.port)):
        proxy.wait_log(r"s_connect: connected 127\.0\.0\.1:\d+")


@needs_ports
def test_strict_cannot_know_where_clients_meant_to_go(bench):
    proxy = bench.tls_server(head="sandbox = strict")
    text = proxy.body()
    assert not proxy.hup(re.sub(r"(?m)^connect = .*", "transparent = destination", text))
    assert proxy.lines("LOG3.*Sandbox: ports that only clients or certificates know need a restart")
    assert proxy.hup(text)


# --- what it must not keep from us ---


def certificate(port):
    return ssl.DER_cert_to_PEM_cert(ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", port))))


def test_certificates_are_exchanged_by_a_rename(bench, tmp_path):
    """Landlock knows files, not names: a new file in the place of the old one is another file."""
    for name in ("cert", "next"):
        shutil.copy(bench.pki.ec_pem if name == "cert" else bench.pki.rsa_pem, tmp_path / f"{name}.pem")
    proxy = bench.tls_server(pem=tmp_path / "cert.pem")
    before = certificate(proxy.port)
    os.rename(tmp_path / "next.pem", tmp_path / "cert.pem")
    assert proxy.hup(proxy.body())
    assert certificate(proxy.port) != before


def test_certificates_behind_symbolic_links(bench, tmp_path):
    """As certbot has them: live/cert.pem leads to archive/cert1.pem, and then to archive/cert2.pem."""
    (tmp_path / "live").mkdir()
    (tmp_path / "archive").mkdir()
    shutil.copy(bench.pki.ec_pem, tmp_path / "archive" / "cert1.pem")
    (tmp_path / "live" / "cert.pem").symlink_to("../archive/cert1.pem")
    proxy = bench.tls_server(pem=tmp_path / "live" / "cert.pem")
    before = certificate(proxy.port)
    shutil.copy(bench.pki.rsa_pem, tmp_path / "archive" / "cert2.pem")
    (tmp_path / "live" / "new").symlink_to("../archive/cert2.pem")
    os.rename(tmp_path / "live" / "new", tmp_path / "live" / "cert.pem")
    assert proxy.hup(proxy.body())
    assert certificate(proxy.port) != before


def test_new_files_and_ports_by_reload(bench, tmp_path):
    """A section with a certificate beside the others', on a port, and on a Unix socket, that were not there."""
    shutil.copy(bench.pki.ec_pem, tmp_path / "one.pem")
    proxy = bench.tls_server(pem=tmp_path / "one.pem", extra=f"accept = {tmp_path}/one.sock")
    shutil.copy(bench.pki.rsa_pem, tmp_path / "two.pem")
    port, other = bench.ports(), bench.server(echo)
    assert proxy.hup(proxy.body() + f"[t]\naccept = 127.0.0.1:{port}\naccept = {tmp_path}/two.sock\nconnect = 127.0.0.1:{other.port}\n"
                     f"cert = {tmp_path}/two.pem\n")
    for front in (port, proxy.port, f"{tmp_path}/one.sock", f"{tmp_path}/two.sock"):
        bench.client(front).ping().bye()
    proxy.stop()
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".sock")]


@pytest.mark.parametrize("mode", ["append", "overwrite"])
def test_logs_are_rotated(bench, tmp_path, mode):
    log, pid = tmp_path / "log", tmp_path / "pid"
    proxy = bench.tls_server(head=f"output = {log}\nlog = {mode}\npid = {pid}")
    os.rename(log, tmp_path / "log.1")
    proxy.send_signal(signal.SIGUSR1)
    until(lambda: log.exists() and "Log file reopened" in log.read_text())
    proxy.stop()
    assert not pid.exists()


def test_names_are_looked_up(bench):
    proxy = bench.tls_client(f"localhost:{bench.server(echo).port}", extra="delay = yes")
    with socket.create_connection(("127.0.0.1", proxy.port)):
        proxy.wait_log(r"s_connect: connecting (127\.0\.0\.1|::1):\d+")
    assert not proxy.lines("Error resolving")


def test_the_status_page_knows_the_process(bench):
    """Memory and descriptors are read in /proc."""
    admin = bench.ports()
    bench.tls_server(head=f"admin = 127.0.0.1:{admin}")
    with urllib.request.urlopen(f"http://127.0.0.1:{admin}/metrics") as page:
        text = page.read().decode()
    for name in ("process_resident_memory_bytes", "process_open_fds"):
        assert int(float(re.search(rf"(?m)^{name} (\S+)$", text).group(1))) > 0


@needs_landlock
def test_the_certificate_is_in_the_root_directory(bench):
    """Not all of the machine is opened for the sake of one file."""
    path = f"/tlsplice-{os.getpid()}.pem"
    shutil.copy(bench.pki.ec_pem, path)
    try:
        proxy = bench.tls_server(pem=path)
        assert proxy.hup(proxy.body())
        bench.client(proxy.port).ping().bye()
        assert not proxy.hup(proxy.body() + f"include = {os.path.dirname(bench.pki.ec_pem)}\n")
    finally:
        os.unlink(path)
