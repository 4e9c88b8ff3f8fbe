# Certificates that change while the proxy serves: certReload, and HUP.
# SPDX-License-Identifier: Apache-2.0
import os
import re
import shutil
import ssl
import subprocess
import time

import pytest

from peers import client_context, echo
from pki import PASSWORD, openssl
from proxy import SLOW, until
from test_tls import Terminal

pytestmark = [pytest.mark.ours, pytest.mark.san]

LOADED = r"LOG5\[\w+\]: Service \[s\]: changed files of certificates loaded"
KEPT = r"LOG4\[\w+\]: Service \[s\]: changed files of certificates cannot be used: the old certificates stay"


class Pair:
    """A certificate and its key, and both in one file."""

    def __init__(self, pki, name, ec=True):
        self.cert = pki.certificate(name, "/CN=localhost", section="server", issuer="ca", ec=ec)
        self.key = pki.path(name + ".key")
        self.pem = pki.join(name + ".pem", self.cert, self.key)
        with open(self.cert) as file:
            self.der = ssl.PEM_cert_to_DER_cert(file.read())

    @property
    def text(self):
        with open(self.pem) as file:
            return file.read()


@pytest.fixture(scope="module")
def first(pki):
    return Pair(pki, "reload_first")


@pytest.fixture(scope="module")
def second(pki):
    return Pair(pki, "reload_second")


@pytest.fixture(scope="module")
def third(pki):
    return Pair(pki, "reload_third", ec=False)


def write(path, text):
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)


def served(bench, port):
    client = bench.client(port)
    der = client.tls.getpeercert(binary_form=True)
    client.ping().bye()
    return der


def becomes(bench, proxy, pair):
    until(lambda: served(bench, proxy.port) == pair.der, 20, "the new certificate is served")


# --- every way in which files change ---


class InPlace:
    def __init__(self, directory, pair):
        self.path = str(directory / "server.pem")
        self.put(pair)

    def put(self, pair):
        write(self.path, pair.text)


class RenamedOver(InPlace):
    def put(self, pair):
        write(self.path + ".new", pair.text)
        os.rename(self.path + ".new", self.path)


class RemovedAndMadeAnew(InPlace):
    def put(self, pair):
        if os.path.exists(self.path):
            os.unlink(self.path)
            time.sleep(0.2)
        write(self.path, pair.text)


class Certbot:
    """live/x/fullchain.pem is a relative link to archive/x/fullchainN.pem, set anew at each renewal."""

    def __init__(self, directory, pair):
        self.live, self.archive, self.count = directory / "live" / "x", directory / "archive" / "x", 0
        os.makedirs(self.live)
        os.makedirs(self.archive)
        self.path = str(self.live / "fullchain.pem")
        self.put(pair)

    def put(self, pair):
        self.count += 1
        write(self.archive / f"fullchain{self.count}.pem", pair.text)
        os.symlink(f"../../archive/x/fullchain{self.count}.pem", self.path + ".new")
        os.rename(self.path + ".new", self.path)


class Kubernetes:
    """tls.pem -> ..data/tls.pem, ..data -> ..N, which is renamed over; the old directory goes."""

    def __init__(self, directory, pair):
        self.directory, self.count = directory / "mount", 0
        os.makedirs(self.directory)
        self.path = str(self.directory / "tls.pem")
        self.put(pair)
        os.symlink("..data/tls.pem", self.path)

    def put(self, pair):
        old, self.count = self.directory / f"..{self.count}", self.count + 1
        os.mkdir(self.directory / f"..{self.count}")
        write(self.directory / f"..{self.count}" / "tls.pem", pair.text)
        os.symlink(f"..{self.count}", self.directory / "..data_tmp")
        os.rename(self.directory / "..data_tmp", self.directory / "..data")
        shutil.rmtree(old, ignore_errors=True)


class DirectorySwapped:
    """The directory itself is renamed and another comes in its place."""

    def __init__(self, directory, pair):
        self.directory, self.count = directory / "keys", 0
        self.path = str(self.directory / "server.pem")
        self.put(pair)

    def put(self, pair):
        fresh = self.directory.with_suffix(".new")
        os.mkdir(fresh)
        write(fresh / "server.pem", pair.text)
        if self.directory.exists():
            self.count += 1
            os.rename(self.directory, self.directory.with_suffix(f".{self.count}"))
        os.rename(fresh, self.directory)


WAYS = [InPlace, RenamedOver, RemovedAndMadeAnew, Certbot, Kubernetes, DirectorySwapped]


@pytest.mark.parametrize("way", WAYS)
def test_a_new_certificate_is_served_without_a_signal(bench, tmp_path, first, second, third, way):
    place = way(tmp_path, first)
    proxy = bench.tls_server("certReload = yes", pem=place.path)
    assert served(bench, proxy.port) == first.der
    for count, pair in enumerate((second, third), 1):
        place.put(pair)
        becomes(bench, proxy, pair)
        proxy.wait_log(LOADED, count)
    assert not proxy.lines(KEPT)


def test_certificate_and_key_in_two_files_are_taken_together(bench, tmp_path, first, second):
    cert, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    shutil.copy(first.cert, cert)
    shutil.copy(first.key, key)
    proxy = bench.tls_server(f"key = {key}\ncertReload = yes", pem=cert)
    shutil.copy(second.cert, cert)
    time.sleep(0.3)
    shutil.copy(second.key, key)
    becomes(bench, proxy, second)
    proxy.wait_log(LOADED)
    if SLOW == 1:
        assert not proxy.lines(KEPT)


@pytest.mark.parametrize("what", ["half", "empty", "garbage", "key", "gone", "cert only"])
def test_a_file_that_cannot_be_used_keeps_the_old_one_and_says_so_once(bench, pki, tmp_path, first, second, third, what):
    place = InPlace(tmp_path, first)
    proxy = bench.tls_server("certReload = yes", pem=place.path)
    before = bench.client(proxy.port).ping()
    if what == "gone":
        os.unlink(place.path)
    else:
        text = {"half": second.text[:len(second.text) // 3], "empty": "", "garbage": "\0\1\2garbage" * 100,
                "key": open(second.cert).read() + open(third.key).read(), "cert only": open(second.cert).read()}[what]
        write(place.path, text)
    proxy.wait_log(KEPT)
    assert served(bench, proxy.port) == first.der
    reasons = {"key": "Private key does not match the certificate", "gone": "No such file or directory",
               "cert only": "Failed to load private key from"}
    proxy.wait_log(r"LOG4\[\w+\]: .*" + reasons.get(what, "Failed to load certificate from"))
    assert not proxy.lines("LOG3")
    time.sleep(2.5)  # nothing has changed since: nothing more is said
    assert len(proxy.lines(KEPT)) == 1
    place.put(second)
    becomes(bench, proxy, second)
    before.ping()


def test_connections_and_sessions_survive(bench, tmp_path, first, second):
    place = RenamedOver(tmp_path, first)
    proxy = bench.tls_server("certReload = yes", pem=place.path)
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = client_context(version=version)
        client = bench.client(proxy.port, context).ping()
        place.put(second)
        becomes(bench, proxy, second)
        client.ping()
        again = bench.client(proxy.port, context, session=client.tls.session).ping()
        assert again.tls.session_reused
        place.put(first)
        becomes(bench, proxy, first)
        client.ping()


def test_without_the_option_files_are_left_alone_until_hup(bench, tmp_path, first, second):
    place = InPlace(tmp_path, first)
    proxy = bench.tls_server(pem=place.path)
    place.put(second)
    time.sleep(2.5)
    assert served(bench, proxy.port) == first.der
    assert proxy.hup()
    assert served(bench, proxy.port) == second.der


@pytest.mark.parametrize("option", ["yes", "no"])
def test_hup_loads_at_once_and_a_bad_file_keeps_everything(bench, tmp_path, first, second, third, option):
    place = InPlace(tmp_path, first)
    proxy = bench.tls_server(f"certReload = {option}", pem=place.path)
    place.put(second)
    assert proxy.hup()
    assert served(bench, proxy.port) == second.der
    write(place.path, open(third.cert).read() + open(first.key).read())
    assert not proxy.hup()
    proxy.wait_log(r"LOG3\[\w+\]: Private key does not match the certificate")
    assert served(bench, proxy.port) == second.der
    if option == "yes":
        proxy.wait_log(KEPT)
    place.put(third)
    assert proxy.hup()
    assert served(bench, proxy.port) == third.der
    place.put(first)
    if option == "yes":
        becomes(bench, proxy, first)


def test_the_configuration_file_is_not_read(bench, tmp_path, first, second):
    """Somebody may be editing it."""
    place = InPlace(tmp_path, first)
    proxy = bench.tls_server("certReload = yes", pem=place.path)
    proxy.write("nonsense\n")
    place.put(second)
    becomes(bench, proxy, second)
    assert len(proxy.lines("Reading configuration from file")) == 1


@pytest.mark.valgrind
def test_each_section_for_itself(bench, tmp_path, first, second, third):
    """One section's file is bad, another's is good, a third does not ask for it."""
    paths = [str(tmp_path / f"{name}.pem") for name in ("bad", "good", "still")]
    ports = [bench.ports() for _ in paths]
    backend = bench.server(echo)
    for path in paths:
        write(path, first.text)
    admin = bench.ports()
    proxy = bench.proxy(f"admin = {admin}\n" + "".join(f"[{name}]\naccept = 127.0.0.1:{port}\nconnect = 127.0.0.1:{backend.port}\ncert = {path}\n"
                                f"certReload = {'no' if name == 'still' else 'yes'}\n"
                                for name, port, path in zip(("bad", "s", "still"), ports, paths)))
    write(paths[0], "bad")
    write(paths[1], second.text)
    write(paths[2], third.text)
    proxy.wait_log(LOADED)
    proxy.wait_log(KEPT.replace(r"\[s\]", r"\[bad\]"))
    assert [served(bench, port) for port in ports] == [first.der, second.der, first.der]
    write(paths[0], third.text)
    until(lambda: served(bench, ports[0]) == third.der)
    assert [served(bench, port) for port in ports[1:]] == [second.der, first.der]
    page = subprocess.run(["curl", "-sS", f"http://127.0.0.1:{admin}/metrics"], stdout=subprocess.PIPE, text=True, timeout=30 * SLOW).stdout
    assert 'tlsplice_certificate_reloads_total{result="success"} 2\n' in page
    assert 'tlsplice_certificate_reloads_total{result="failure"} 1\n' in page


def lets_in(bench, proxy, certificate, session=None):
    """Whether the holder of a certificate is served, and the session that it got."""
    try:
        client = bench.client(proxy.port, client_context(certificate=certificate) if session is None else session[0],
                              session=session and session[1])
        client.ping()
    except (ssl.SSLError, OSError, EOFError, AssertionError):
        return None
    found = client.tls.context, client.tls.session, client.tls.session_reused
    client.bye()
    return found


def test_a_changed_revocation_list_counts(bench, pki, tmp_path):
    """For handshakes, and for sessions from before; one that cannot be read changes nothing."""
    trust = pki.trust
    trust.issue("reload-fine", issuer="root")
    trust.issue("reload-revoked", issuer="root")
    trust.crl("reload-none", "root")
    trust.crl("reload-some", "root", revoked=["reload-revoked"])
    path = tmp_path / "list.crl"
    shutil.copy(trust.path("reload-none.crl"), path)
    proxy = bench.tls_server(f"verifyChain = yes\nCAfile = {trust.crt('root')}\nCRLfile = {path}\ncertReload = yes")
    session = lets_in(bench, proxy, trust.pem("reload-revoked"))
    assert session and lets_in(bench, proxy, trust.pem("reload-fine"))
    path.write_text(open(trust.path("reload-some.crl")).read()[:200])
    proxy.wait_log(KEPT)
    proxy.wait_log(r"LOG4\[\w+\]: Failed to load .*list\.crl revocation lookup file")
    assert lets_in(bench, proxy, trust.pem("reload-revoked"))
    shutil.copy(trust.path("reload-some.crl"), path)
    proxy.wait_log(LOADED)
    assert not lets_in(bench, proxy, trust.pem("reload-revoked"))
    assert not lets_in(bench, proxy, None, session)
    assert lets_in(bench, proxy, trust.pem("reload-fine"))


@pytest.mark.parametrize("what", ["CAfile", "CAstore"])
def test_changed_cas_count(bench, pki, tmp_path, what):
    trust, path = pki.trust, tmp_path / "ca.pem"
    trust.issue("reload-fine", issuer="root")
    trust.issue("reload-other", issuer="other")
    shutil.copy(trust.crt("root"), path)
    proxy = bench.tls_server(f"verifyChain = yes\n{what} = {'file:' if what == 'CAstore' else ''}{path}\ncertReload = yes")
    assert lets_in(bench, proxy, trust.pem("reload-fine")) and not lets_in(bench, proxy, trust.pem("reload-other"))
    shutil.copy(trust.crt("other"), path)
    proxy.wait_log(LOADED)
    assert not lets_in(bench, proxy, trust.pem("reload-fine")) and lets_in(bench, proxy, trust.pem("reload-other"))
    path.write_text("")
    proxy.wait_log(KEPT)
    assert lets_in(bench, proxy, trust.pem("reload-other"))


def test_a_virtual_hosts_certificate_changes(bench, tmp_path, first, second, third):
    """The primary section stays as it is, and the other way round."""
    host, primary, port = str(tmp_path / "host.pem"), str(tmp_path / "primary.pem"), bench.ports()
    backend = bench.server(echo)
    write(host, first.text)
    write(primary, third.text)
    proxy = bench.proxy(f"certReload = yes\n[p]\naccept = 127.0.0.1:{port}\nconnect = 127.0.0.1:{backend.port}\ncert = {primary}\n"
                        f"[s]\nsni = p:www.example.test\nconnect = 127.0.0.1:{backend.port}\ncert = {host}\n")

    def certificates():
        found = []
        for name in ("www.example.test", "other.example.test"):
            client = bench.client(port, client_context(), server_name=name).ping()
            found.append(client.tls.getpeercert(binary_form=True))
            client.bye()
        return found

    assert certificates() == [first.der, third.der]
    write(host, second.text)
    proxy.wait_log(LOADED)
    assert certificates() == [second.der, third.der]
    write(primary, first.text)
    proxy.wait_log(LOADED.replace(r"\[s\]", r"\[p\]"))
    assert certificates() == [second.der, first.der]


def test_a_known_pass_phrase_is_used_and_none_is_asked_for(bench, pki, tmp_path, first):
    """The proxy serves: nobody would answer."""
    config, path, port = tmp_path / "ask.conf", str(tmp_path / "encrypted.pem"), bench.ports()
    shutil.copy(pki.encrypted_pem, path)
    backend = bench.server(echo)
    config.write_text(f"foreground = yes\nsyslog = no\npid =\n[s]\naccept = 127.0.0.1:{port}\nconnect = 127.0.0.1:{backend.port}\n"
                      f"cert = {path}\ncertReload = yes\n")
    other, key = pki.certificate("reload_encrypted", "/CN=localhost", section="server", issuer="ca", ec=True), tmp_path / "key"

    def encrypt(password):
        openssl("pkey", "-in", pki.path("reload_encrypted.key"), "-aes256", "-passout", "pass:" + password, "-out", str(key))
        return open(other).read() + key.read_text()

    terminal = Terminal(str(config))
    try:
        terminal.expect(r"(?i)(pass ?phrase|password).*:")
        terminal.say(PASSWORD)
        terminal.expect("Configuration successful")
        until(lambda: not bench.ports.free(port))
        write(path, encrypt(PASSWORD))
        terminal.expect("changed files of certificates loaded")
        new = served(bench, port)
        assert new == ssl.PEM_cert_to_DER_cert(open(other).read())
        asked = len(re.findall("(?i)enter pass", terminal.text))
        write(path, encrypt("another one"))
        terminal.expect("the old certificates stay")
        assert served(bench, port) == new
        assert len(re.findall("(?i)enter pass", terminal.text)) == asked
    finally:
        assert terminal.end() == 0


def test_nothing_is_lost_under_load(bench, tools, tmp_path, first, second):
    place, port = RenamedOver(tmp_path, first), bench.ports()
    bench.run([tools + "/echo", str(port)])
    proxy = bench.tls_server("certReload = yes", backend=port, pem=place.path, head="workers = 2\ndebug = notice")
    until(lambda: not bench.ports.free(port))
    load = bench.run([tools + "/load", str(proxy.port), "loop", "10", "4"], stdout=subprocess.PIPE)
    for count, pair in enumerate((second, first, second), 1):
        place.put(pair)
        proxy.wait_log(LOADED, count)
    out = load.communicate(timeout=120 * SLOW)[0].decode()
    assert load.returncode == 0, out
    assert int(re.search(r"ok (\d+) failed 0", out).group(1)) > 10, out


def test_many_renewals_leak_nothing(bench, tmp_path, first, second):
    place = Kubernetes(tmp_path, first)
    proxy = bench.tls_server("certReload = yes", pem=place.path)
    for count, pair in enumerate((second, first, second, first), 1):
        place.put(pair)
        proxy.wait_log(LOADED, count)
    becomes(bench, proxy, first)
    proxy.wait_idle()
