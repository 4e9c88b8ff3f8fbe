# What goes wrong inside: ring operations, buffers, allocations and name lookups fail one after the other, connections are
# made meanwhile, and the proxy must come to rest, serve the next one, leak nothing, never spin and end with status 0.
# SPDX-License-Identifier: Apache-2.0
import errno
import mmap
import os
import signal
import socket
import ssl
import struct
import subprocess
import time

import pytest
from conftest import TOOLS
from kernel_tls import RELAYS, needs_kernel, results, way
from peers import Server, TlsClient, client_context, echo, server_context
from peers import name as peer_name
from pki import LEAF
from proxy import BINARY, REPORTS, SLOW, TOP, Proxy, until
from proxy_protocol import introduced


def attempt(port, size=4):
    """One connection; whether it came through. It may fail in any way, but must not hang."""
    try:
        with TlsClient(port) as client:
            client.ping(b"x" * size).bye()
            return True
    except TimeoutError:
        raise AssertionError("the connection hangs") from None
    except (OSError, ssl.SSLError, EOFError, AssertionError):
        return False


def check_rest(proxy):
    """Nothing is left of the connections, and an idle half second costs no CPU time to speak of."""
    proxy.wait_idle()
    before = proxy.cpu_s()
    time.sleep(0.5)
    assert proxy.cpu_s() - before < 0.1, "it spins:\n" + proxy.log()[-3000:]


def survive(bench, env, sizes=(4, 100000, 4), must_serve=True, extra=""):
    proxy = bench.tls_server(head="workers = 1\n", env=env, extra="TIMEOUTclose = 2\n" + extra)
    done = [attempt(proxy.port, size) for size in sizes]
    check_rest(proxy)
    if must_serve:
        until(lambda: attempt(proxy.port), 20, f"serving after {env}, before: {done}")
    proxy.stop()
    return done


@pytest.mark.ours
@pytest.mark.san
@pytest.mark.parametrize("nth", range(4, 24, 2))
def test_ring_operations_fail_while_an_engine_is_at_work(faulty, bench, pki, nth, tmp_path):
    """Its answer is polled for; a job cannot be taken back."""
    modules = os.path.join(os.path.dirname(TOOLS), "modules")
    head = f"workers = 1\nsetEnv = OPENSSL_ENGINES={modules}\nengine = slowsign\nengineCtrl = DELAY_MS:20\nengineDefault = RSA\n"
    proxy = bench.tls_server("async = yes\nTIMEOUTclose = 2", pem=pki.rsa_pem, head=head, env={"TLSPLICE_FAIL": f"{nth}:{errno.ENOMEM}"})
    for _ in range(3):
        attempt(proxy.port)
    check_rest(proxy)
    until(lambda: attempt(proxy.port), 20, "serving")
    assert not proxy.lines("given up")


# The first operations are those of start-up, the next thirty or so those of three connections.
@pytest.mark.ours
@pytest.mark.san
@pytest.mark.slow
@pytest.mark.parametrize("first", range(1, 33, 4))
def test_each_operation_fails_once(bench, faulty, first):
    errors = [errno.ENOMEM, errno.ECANCELED, errno.EIO, errno.ENOBUFS]
    failures = 0
    for i in range(4):
        # Each four operations with the errors in another order.
        failures += not all(survive(bench, {"TLSPLICE_FAIL": f"{first + i}:{errors[(first // 4 + i) % 4]}"}))
    assert failures or first == 1 or first > 20, "the fault layer does nothing"


@pytest.mark.ours
@pytest.mark.san
@pytest.mark.slow
@pytest.mark.parametrize("error", [errno.ENOMEM, errno.ECANCELED, errno.ENOBUFS])
@pytest.mark.parametrize("nth", [2, 7, 40])
def test_operations_fail_again_and_again(bench, faulty, nth, error):
    survive(bench, {"TLSPLICE_FAIL": f"{nth}:{error}:every"}, must_serve=nth >= 40)


def least_buffers(comes_through):
    """How many times buffers must be had until a first connection comes through: the start takes hundreds, the connection the last ones."""
    least, most = 1, 4096
    while least < most:
        middle = (least + most) // 2
        least, most = (least, middle) if comes_through(middle) else (middle + 1, most)
    return least


@pytest.fixture
def first_connection(bench, cache={}):
    """The number of the first buffer that a first connection can do without."""

    def comes_through(nth):
        proxy = bench.tls_server(head="workers = 1\n", env={"TLSPLICE_FAIL_CHUNK": f"{nth}:1000000000"})
        done = attempt(proxy.port)
        proxy.stop()
        return done

    if not cache:
        cache["nth"] = least_buffers(comes_through)
    return cache["nth"]


@pytest.mark.ours
@pytest.mark.san
@pytest.mark.slow
@pytest.mark.parametrize("first", range(1, 9, 2))
def test_a_buffer_cannot_be_had_at_start(bench, faulty, first):
    survive(bench, {"TLSPLICE_FAIL_CHUNK": str(first)})


@pytest.mark.ours
@pytest.mark.san
@pytest.mark.slow
@pytest.mark.parametrize("where", [-16, -8, 0, 8])
def test_a_buffer_cannot_be_had(bench, faulty, first_connection, where):
    for nth in range(first_connection + where, first_connection + where + 8, 2):
        survive(bench, {"TLSPLICE_FAIL_CHUNK": str(nth)})


@pytest.mark.ours
@pytest.mark.san
@pytest.mark.parametrize("where", [None, -8, 8])
def test_no_buffers_for_a_while(bench, faulty, first_connection, where):
    first = 1 if where is None else first_connection + where
    survive(bench, {"TLSPLICE_FAIL_CHUNK": f"{first}:3000"}, sizes=(4, 100000) * 4)


@pytest.mark.ours
@pytest.mark.san
@pytest.mark.parametrize("where", [None, -8, -1])
def test_no_buffers_for_ever(bench, faulty, first_connection, where):
    """Every connection fails, and says why; the proxy lives on and rests."""
    first = 1 if where is None else first_connection + where
    proxy = bench.tls_server(head="workers = 1\n", env={"TLSPLICE_FAIL_CHUNK": f"{first}:1000000000"})
    for _ in range(3):
        assert not attempt(proxy.port, 100000)
    check_rest(proxy)
    assert proxy.lines(r"LOG3.*(Cannot allocate memory|malloc failure|no memory)")


# --- programs, and inetd ---


def programs(bench, pty, **options):
    """A proxy whose clients get /bin/cat, on a socket pair or a terminal."""
    port = bench.ports()
    proxy = bench.proxy(f"workers = 1\n[s]\naccept = 127.0.0.1:{port}\nexec = /bin/cat\npty = {pty}\ncert = {bench.pki.ec_pem}\n"
                        "TIMEOUTclose = 2\n", **options)
    proxy.port = port
    return proxy


def has_children(proxy):
    for task in os.listdir(f"/proc/{proxy.pid}/task"):
        with open(f"/proc/{proxy.pid}/task/{task}/children") as file:
            if file.read().strip():
                return True
    return False


@pytest.mark.ours
@pytest.mark.san
@pytest.mark.parametrize("pty", ["no", "yes"])
@pytest.mark.parametrize("first", range(3, 35, 8))
def test_ring_operations_fail_around_a_program(bench, faulty, pty, first):
    """No program is left behind, whatever its connection comes to."""
    for nth in range(first, first + 8, 2):
        proxy = programs(bench, pty, env={"TLSPLICE_FAIL": f"{nth}:{errno.ENOMEM}"})
        for size in (4, 20000, 4):
            attempt(proxy.port, 4 if pty == "yes" else size)
        check_rest(proxy)
        until(lambda: not has_children(proxy), what="every child is reaped")
        proxy.stop()


@pytest.mark.ours
@pytest.mark.san
@pytest.mark.parametrize("nth", [3, 7, 20])
def test_ring_operations_fail_under_a_runner(bench, faulty, nth):
    """Its program is started again and again, and in between."""
    server = bench.server(lambda sock, _server: sock.recv(100), context=server_context(bench.pki.ec_pem))
    proxy = bench.proxy(f"workers = 1\n[r]\nclient = yes\nconnect = 127.0.0.1:{server.port}\nexec = /bin/echo\nexecArgs = echo hi\nretry = 10\n",
                        env={"TLSPLICE_FAIL": f"{nth}:{errno.ENOMEM}:every"})
    proxy.wait_log(r"LOG6\[0_20\]: Local mode child started")
    proxy.expect_open = True


def inetd(bench, text, env, sock=None):
    """A process of its own for one connection; returns it."""
    config = os.path.join(str(bench.directory), "inetd.conf")
    with open(config, "w") as file:
        file.write(f"syslog = no\ndebug = debug\noutput = {bench.directory}/inetd.log\ninetdStatus = yes\nTIMEOUTclose = 2\n{text}")
    return subprocess.Popen([BINARY, config], stdin=sock or subprocess.PIPE, stdout=sock or subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ, **env))


@pytest.mark.ours
@pytest.mark.san
@pytest.mark.parametrize("first", range(1, 33, 8))
def test_ring_operations_fail_in_inetd_mode(bench, faulty, first):
    """On pipes: it ends, and says by its status whether all went well."""
    server = bench.server(echo, context=server_context(bench.pki.ec_pem))
    data = b"x" * 100000
    for nth in range(first, first + 8):
        process = inetd(bench, f"client = yes\nconnect = 127.0.0.1:{server.port}\n",
                        {"TLSPLICE_FAIL": f"{nth}:{(errno.ENOMEM, errno.EIO)[nth % 2]}"})
        out, err = process.communicate(data, timeout=60 * SLOW)
        assert not REPORTS.search(err.decode()), err
        assert process.returncode in (0, 2) or first == 1 and process.returncode == 1
        assert process.returncode or out == data, nth


@pytest.mark.ours
@pytest.mark.san
@pytest.mark.parametrize("first", range(3, 27, 8))
def test_ring_operations_fail_in_inetd_mode_with_a_program(bench, faulty, first):
    """On a socket, TLS outside and a program inside."""
    for nth in range(first, first + 8, 2):
        ours, theirs = socket.socketpair()
        process = inetd(bench, f"cert = {bench.pki.ec_pem}\nexec = /bin/cat\n", {"TLSPLICE_FAIL": f"{nth}:{errno.ENOMEM}"}, theirs)
        theirs.close()
        try:
            client = TlsClient(ours)
            client.ping(b"x" * 20000).bye()
        except TimeoutError:
            raise AssertionError("the connection hangs") from None
        except (OSError, ssl.SSLError, EOFError, AssertionError):
            pass
        ours.close()
        assert process.wait(20 * SLOW) in (0, 2)
        assert not REPORTS.search(process.stderr.read().decode())
        process.stderr.close()


@pytest.mark.ours
@pytest.mark.san
def test_no_buffer_for_the_header(bench, faulty):
    """From the nth on there is none: the first connection comes as far as n allows, and one of its buffers is for the header of `sendProxy`."""
    said = []

    def comes_through(nth):
        backend = bench.server(introduced(echo))
        proxy = bench.tls_server("sendProxy = v2", head="workers = 1\n", backend=backend, env={"TLSPLICE_FAIL_CHUNK": f"{nth}:1000000000"})
        done = attempt(proxy.port)
        proxy.stop()
        said.extend(proxy.lines(r"LOG3\[0\]: No memory for the header of the PROXY protocol"))
        assert all(isinstance(error, OSError) or str(error) == "16 bytes short" for error in backend.errors), backend.errors
        return done

    least = least_buffers(comes_through)
    for nth in range(least - 1, least - 16, -1):
        if not said:
            comes_through(nth)
    assert said


# --- kernel TLS ---


@pytest.mark.ours
@pytest.mark.san
@needs_kernel
@pytest.mark.parametrize("how", RELAYS)
@pytest.mark.parametrize("first", [1, 4])
def test_the_kernel_refuses(bench, faulty, how, first):
    """Each of the system calls that give it something fails once: the connection goes on in user space, in that direction."""
    for nth in range(first, first + 3):
        admin = bench.ports()
        proxy = bench.tls_server(head=f"workers = 1\nadmin = 127.0.0.1:{admin}", extra=way(how) + "sslVersion = TLSv1.2",
                                 env={"TLSPLICE_FAIL_KTLS": f"{nth}:{errno.ENOMEM}"})
        for _ in range(3):
            assert attempt(proxy.port, 100000)
        check_rest(proxy)
        came = results(admin, "s")
        assert sum(came.values()) == 6, came
        assert came.get(("tx", "refused"), 0) + came.get(("rx", "refused"), 0) in (1, 2), came
        proxy.stop()


@pytest.mark.ours
@pytest.mark.san
@pytest.mark.slow
@needs_kernel
@pytest.mark.parametrize("how", RELAYS)
@pytest.mark.parametrize("first", [2, 10, 18, 26, 34])
def test_each_operation_fails_once_with_kernel_tls(bench, faulty, how, first):
    for nth in range(first, first + 8, 2):
        survive(bench, {"TLSPLICE_FAIL": f"{nth}:{errno.ENOMEM}"}, extra=way(how))


# --- allocations and lookups, by a library loaded before the others ---


class Faults:
    """The orders of tests/tools/preload/faults.c."""

    def __init__(self, directory):
        self.library = os.path.join(directory, "faults.so")
        self.file = os.path.join(directory, "orders")
        source = os.path.join(TOP, "tests/tools/preload/faults.c")
        done = subprocess.run(["cc", "-D_GNU_SOURCE", "-std=gnu17", "-Wall", "-Wextra", "-Werror", "-O2", "-shared", "-fPIC", "-o",
                               self.library, source, "-ldl"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
        assert done.returncode == 0, done.stdout.decode()
        with open(self.file, "wb") as file:
            file.write(bytes(4096))
        with open(self.file, "r+b") as file:
            self.memory = mmap.mmap(file.fileno(), 4096)
        self.env = {"LD_PRELOAD": self.library, "FAULTS_FILE": self.file}

    def _get(self, at):
        return struct.unpack_from("q", self.memory, 8 * at)[0]

    def _set(self, at, value):
        struct.pack_into("q", self.memory, 8 * at, value)

    def spare_openssl(self):
        """OpenSSL 3.0 does not survive every failure while it reads a certificate."""
        self._set(4, 1)

    def fail_nth(self, nth):
        self._set(1, 0)
        self._set(0, nth)

    def failed(self):
        """Forgets the order; returns whether it was carried out."""
        self._set(0, 0)
        return self._get(1) > 0

    def lookups_take(self, ms):
        self._set(2, ms)

    def lookups(self):
        return self._get(3)


@pytest.fixture
def faults(tmp_path):
    return Faults(str(tmp_path))


@pytest.mark.ours
@pytest.mark.nosan
@pytest.mark.slow
@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_each_allocation_fails_once(bench, faults, version):
    """One by one until a connection comes through before the order is due; then there are no more."""
    proxy = bench.tls_server(head="workers = 1\n", extra=f"sslVersion = {version}\nTIMEOUTclose = 2", env=faults.env)
    assert attempt(proxy.port)
    proxy.wait_idle()
    due = lost = 0
    for nth in range(1, 20000):
        faults.fail_nth(nth)
        lost += not attempt(proxy.port)
        if not faults.failed():
            due += 1
            if due == 3:
                break
        assert proxy.process.poll() is None, f"allocation {nth}: status {proxy.process.returncode}\n{proxy.log()[-3000:]}"
        if nth % 50 == 0:
            until(lambda: attempt(proxy.port), 20, f"serving after allocation {nth}")
    assert lost > 10, "no allocation failed"
    assert attempt(proxy.port)
    check_rest(proxy)


@pytest.mark.ours
@pytest.mark.nosan
@pytest.mark.slow
@pytest.mark.parametrize("where, version", [("CRLfile", ssl.TLSVersion.TLSv1_2), ("CRLfile", ssl.TLSVersion.TLSv1_3),
                                            ("CRLpath", ssl.TLSVersion.TLSv1_3)])
def test_no_failed_allocation_lets_anybody_in(bench, faults, pki, tmp_path, where, version):
    """Whichever allocation fails while a revoked or foreign certificate, or one of another name, is looked at: it is not accepted."""
    trust = pki.trust
    good, revoked, unnamed = (trust.issue(f"fault-{name}", issuer="intermediate", extensions=LEAF + f"subjectAltName = DNS:{name}\n")
                              for name in ("fine", "fine-too", "other"))
    foreign = trust.issue("fault-foreign", issuer="other", extensions=LEAF + "subjectAltName = DNS:fine\n")
    crl = trust.crl("fault", "intermediate", [revoked])
    place = crl if where == "CRLfile" else trust.hashed(tmp_path / "lists", crl)
    proxy = bench.tls_server(head="workers = 1\n", env=faults.env, extra=f"verifyChain = yes\nCAfile = {trust.crt('root')}\n{where} = {place}\n"
                             "checkHost = fine\ncheckHost = fine-too\nsessionResume = no\nTIMEOUTclose = 2\ndebug = err\n")
    contexts = {name: client_context(version=version, certificate=trust.pem(name)) for name in (good, revoked, unnamed, foreign)}

    def enters(name):
        try:
            with TlsClient(proxy.port, contexts[name]) as client:
                client.ping()
                return True
        except TimeoutError:
            raise AssertionError("the connection hangs") from None
        except (OSError, ssl.SSLError, EOFError, AssertionError):
            return False
    assert [enters(name) for name in contexts] == [True, False, False, False]
    for name in contexts:
        nth, due = 1, 0
        while due < 3:
            if where == "CRLpath":
                os.utime(place + "/" + os.listdir(place)[0])  # read it again
            faults.fail_nth(nth)
            came = enters(name)
            due += not faults.failed()
            assert proxy.process.poll() is None, f"allocation {nth}: status {proxy.process.returncode}\n{proxy.log()[-3000:]}"
            assert not came or name == good, f"{name}, allocation {nth}:\n{proxy.log()[-3000:]}"
            nth += 1 + nth // 50
        assert nth > 1000, "no allocation failed"
        until(lambda: enters(good), 20, "serving afterwards")
    check_rest(proxy)


@pytest.mark.ours
@pytest.mark.nosan
@pytest.mark.slow
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("store", ["options = NO_TICKET", "ticketKeySecret = 00112233445566778899aabbccddeeff\n"
                                   "ticketMacSecret = 00112233445566778899aabbccddeeff"])
def test_no_failed_allocation_undoes_a_redirect(bench, faults, pki, version, store):
    """Whichever allocation fails while a session is made or resumed: who was not authenticated does not get to the backend."""
    inside, outside = (bench.server(peer_name(text)) for text in ("<in>", "<out>"))
    stranger = pki.trust.issue("fault-stranger", issuer="other")
    proxy = bench.tls_server(head="workers = 1\ndebug = err\n", env=faults.env, backend=inside, extra=f"verifyChain = yes\nCAfile = {pki.ca}\n"
                             f"redirect = 127.0.0.1:{outside.port}\nTIMEOUTclose = 2\n{store}\n")
    contexts = [client_context(version=version, certificate=pki.trust.pem(stranger)), client_context(version=version)]

    def visit(context, session=None):
        try:
            with TlsClient(proxy.port, context, session=session) as client:
                led = client.recv()
                return led.decode(), client.tls.session
        except TimeoutError:
            raise AssertionError("the connection hangs") from None
        except (OSError, ssl.SSLError, EOFError):
            return None, None
    for context in contexts:
        nth, due = 1, 0
        while due < 3:
            led, session = visit(context)
            assert led == "<out>"
            faults.fail_nth(nth)
            led, again = visit(context, session if nth % 3 else None)
            due += not faults.failed()
            assert led in ("<out>", "", None), f"allocation {nth}:\n{proxy.log()[-3000:]}"
            if again:
                assert visit(context, again)[0] == "<out>"
            nth += 1 + nth // 50
        assert nth > 100, "no allocation failed"
    assert inside.accepted == 0
    check_rest(proxy)


def reloads(proxy):
    return len(proxy.lines("Configuration successful|Failed to reload the configuration file"))


@pytest.mark.ours
@pytest.mark.nosan
@pytest.mark.slow
def test_reload_while_allocations_fail(bench, faults):
    """A reload either succeeds or changes nothing."""
    proxy = bench.tls_server(head="workers = 1\n", env=faults.env)
    faults.spare_openssl()
    nth = 1
    while nth < 30000:
        before = reloads(proxy)
        faults.fail_nth(nth)
        proxy.send_signal(signal.SIGHUP)
        until(lambda: reloads(proxy) > before or proxy.process.poll() is not None, 20, f"reload with allocation {nth}")
        if not faults.failed():
            break
        assert proxy.process.poll() is None, f"allocation {nth}: status {proxy.process.returncode}\n{proxy.log()[-3000:]}"
        nth += 1 + nth // 200
    assert proxy.hup()
    assert attempt(proxy.port)
    check_rest(proxy)


def lookup_proxy(bench, faults, extra=""):
    backend = bench.keep(Server(echo, bench.ports()))
    port = bench.ports()
    proxy = bench.proxy(f"workers = 1\n{extra}[s]\naccept = 127.0.0.1:{port}\nconnect = localhost:{backend.address}\n"
                        f"delay = yes\ncert = {bench.pki.ec_pem}\n", env=faults.env)
    proxy.port = port
    return proxy


@pytest.mark.ours
@pytest.mark.nosan
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_end_comes_during_a_lookup(bench, faults, number):
    proxy = lookup_proxy(bench, faults)
    faults.lookups_take(60000)
    clients = [bench.client(proxy.port) for _ in range(6)]  # more than the pool has threads
    until(lambda: faults.lookups() >= 4)
    proxy.expect_open = True
    proxy.send_signal(number)
    assert proxy.wait_exit(20) == 0
    for client in clients:
        client.close()


@pytest.mark.ours
@pytest.mark.nosan
def test_inetd_dies_by_its_signal_during_a_lookup(bench, faults, tmp_path):
    config = tmp_path / "inetd.conf"
    config.write_text(f"syslog = no\nclient = yes\ndelay = yes\nconnect = localhost:{bench.ports()}\n")
    process = subprocess.Popen([BINARY, str(config)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=dict(os.environ, **faults.env))
    faults.lookups_take(60000)
    until(lambda: faults.lookups() >= 1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20 * SLOW) == -signal.SIGTERM
    process.stdin.close()


@pytest.mark.ours
@pytest.mark.nosan
def test_a_reload_comes_during_a_lookup(bench, faults):
    proxy = lookup_proxy(bench, faults)
    faults.lookups_take(1500)
    clients = [bench.client(proxy.port) for _ in range(6)]
    until(lambda: faults.lookups() >= 1)
    assert proxy.hup(f"[t]\naccept = 127.0.0.1:{bench.ports()}\nconnect = 127.0.0.1:9\ncert = {bench.pki.ec_pem}\n")
    for client in clients:
        client.ping().bye()  # with the configuration they began with
    proxy.wait_idle()


@pytest.mark.ours
@pytest.mark.nosan
def test_the_client_goes_during_a_lookup(bench, faults):
    proxy = lookup_proxy(bench, faults)
    faults.lookups_take(1000)
    clients = [bench.client(proxy.port) for _ in range(6)]
    until(lambda: faults.lookups() >= 1)
    for client in clients:
        client.abort()
    proxy.wait_idle()
    faults.lookups_take(0)
    bench.client(proxy.port).ping().bye()
