# How keys are agreed on, and which certificate is shown: DH, the groups, several certificates in a section.
# SPDX-License-Identifier: Apache-2.0
import os
import re
import socket
import ssl
import subprocess

import pytest

from peers import client_context, connect, echo, read_all, read_exactly
from pki import openssl
from proxy import SLOW, until
from test_keys import module

V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3

pytestmark = pytest.mark.san

FFDHE2048, FFDHE3072 = "DH, 2048 bits", "DH, 3072 bits"
RFC7919 = "ad f8 54 58"  # where the primes of RFC 7919 begin to differ from others (appendix A)
DHE = "ciphers = DHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256"


def s_client(port, *args, need_ok=True):
    done = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{port}", *args], input=b"Q\n", stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=30 * SLOW)
    out = done.stdout.decode(errors="replace")
    assert not need_ok or done.returncode == 0, out
    return out


def dhe(port, *args):
    """What was said, with the bytes of the messages, in one line."""
    return " ".join(s_client(port, "-tls1_2", "-cipher", "DHE-RSA-AES128-GCM-SHA256", "-msg", *args).split())


def parameters(pki, group):
    path = pki.path(group + ".pem")
    openssl("genpkey", "-genparam", "-algorithm", "DH", "-pkeyopt", f"group:{group}", "-out", path)
    return path


def rsa_of(pki, bits):
    """A certificate of another size, and its key."""
    key, cert = pki.path(f"rsa{bits}.key"), pki.path(f"rsa{bits}.crt")
    openssl("req", "-x509", "-newkey", f"rsa:{bits}", "-nodes", "-subj", "/CN=localhost", "-days", "2", "-keyout", key, "-out", cert)
    return pki.join(f"rsa{bits}.pem", cert, key)


# --- DH ---


def test_dh_is_not_needed(bench):
    proxy = bench.tls_server()
    assert "LOG6[ui]: DH initialization skipped: no DH ciphersuites" in proxy.log()
    proxy = bench.tls_client(proxy.port)
    assert "LOG6[ui]: DH initialization skipped: client section" in proxy.log()


@pytest.mark.ours
def test_dh_by_rfc_7919(bench, pki):
    """Without parameters: the group that is as strong as the key."""
    proxy = bench.tls_server(DHE, pem=pki.rsa_pem)
    out = dhe(proxy.port)
    assert FFDHE2048 in out and RFC7919 in out
    for line in ["LOG6[ui]: DH initialization needed for DHE-RSA-AES128-GCM-SHA256", "LOG7[ui]: DH initialization",
                 f"LOG7[ui]: Could not load DH parameters from {pki.rsa_pem}", "LOG6[ui]: Using dynamic DH parameters"]:
        assert proxy.log().count(line + "\n") == 1, line
    proxy = bench.tls_server(DHE, pem=rsa_of(pki, 3072))
    out = dhe(proxy.port)
    assert FFDHE3072 in out and RFC7919 in out
    proxy = bench.tls_server(DHE + "\nsecurityLevel = 3", pem=rsa_of(pki, 3072))
    assert FFDHE3072 in dhe(proxy.port)


def test_dh_parameters_beside_the_certificate(bench, pki):
    pem = pki.join("with-dh.pem", pki.rsa, pki.rsa_key, parameters(pki, "modp_3072"))
    proxy = bench.tls_server(DHE, pem=pem)
    out = dhe(proxy.port)
    assert FFDHE3072 in out and RFC7919 not in out
    for line in [f"LOG7[ui]: Using DH parameters from {pem}", "LOG6[ui]: 3072-bit DH parameters loaded"]:
        assert proxy.log().count(line + "\n") == 1, line


@pytest.mark.ours
def test_dh_parameters_that_are_too_small(bench, pki):
    pem = pki.join("weak-dh.pem", pki.rsa, pki.rsa_key, parameters(pki, "modp_1536"))
    text = f"[s]\naccept = 127.0.0.1:{bench.ports()}\nconnect = 1\ncert = {pem}\n"
    said = bench.refused(text + DHE + "\n")
    assert "dh key too small" in said and "Service [s]: Failed to initialize TLS context" in said
    bench.proxy(text)  # nobody needs them


@pytest.mark.ours
def test_dh_parameters_by_config(bench, pki):
    proxy = bench.tls_server(f"{DHE}\nconfig = DHParameters:{parameters(pki, 'ffdhe3072')}", pem=pki.rsa_pem)
    assert FFDHE3072 in dhe(proxy.port)


@pytest.mark.ours
def test_dh_with_a_pre_shared_key(bench, tmp_path):
    secrets = tmp_path / "psk.txt"
    secrets.write_text("a:" + "00" * 16 + "\n")
    secrets.chmod(0o600)
    port, backend = bench.ports(), bench.server(echo)
    proxy = bench.proxy(f"[s]\naccept = 127.0.0.1:{port}\nconnect = 127.0.0.1:{backend.port}\nPSKsecrets = {secrets}\n"
                        "ciphers = DHE-PSK-AES128-GCM-SHA256\n")
    assert "LOG7[ui]: No certificate available to load DH parameters" in proxy.log()
    out = s_client(port, "-tls1_2", "-psk", "00" * 16, "-psk_identity", "a", "-cipher", "DHE-PSK-AES128-GCM-SHA256")
    assert FFDHE2048 in out and "Cipher is DHE-PSK-AES128-GCM-SHA256" in out


@pytest.mark.ours
def test_dh_with_gnutls(bench, need, pki):
    proxy = bench.tls_server(DHE, pem=pki.rsa_pem)
    out = subprocess.run([need("gnutls-cli"), "-p", str(proxy.port), "--x509cafile", pki.ca, "--priority",
                          "NORMAL:-KX-ALL:+DHE-RSA:-VERS-ALL:+VERS-TLS1.2", "localhost"], stdin=subprocess.DEVNULL,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60 * SLOW).stdout.decode(errors="replace")
    assert "Handshake was completed" in out and "FFDHE2048" in out, out


# --- groups ---


def running(proxy):
    """The version of OpenSSL."""
    return tuple(int(part) for part in re.search(r"(?:running|Running)\s+with OpenSSL (\d+)\.(\d+)", proxy.log()).groups())


@pytest.mark.ours
def test_default_groups(bench):
    """The post-quantum group leads where OpenSSL has it, and only there."""
    proxy = bench.tls_server()
    has_it = running(proxy) >= (3, 5)
    groups = ("X25519MLKEM768:" if has_it else "") + "X25519:P-256:X448:P-521:P-384"
    assert f"LOG7[ui]: ECDH initialized with curves {groups}\n" in proxy.log()
    bench.client(proxy.port).ping().bye()
    if has_it and "X25519MLKEM768" in s_client(proxy.port, "-groups", "X25519MLKEM768", need_ok=False):
        proxy.wait_log("Peer temporary key: X25519MLKEM768")


def test_groups_of_the_section(bench):
    proxy = bench.tls_server("curves = P-384:X25519")
    assert "LOG7[ui]: ECDH initialization\n" in proxy.log()
    assert "LOG7[ui]: ECDH initialized with curves P-384:X25519\n" in proxy.log()
    assert "X25519" in s_client(proxy.port, "-groups", "P-521:X25519")
    assert "secp384r1" in s_client(proxy.port, "-groups", "X448:P-384")
    assert "handshake failure" in s_client(proxy.port, "-groups", "P-521", need_ok=False)


# --- several certificates ---


@pytest.fixture(scope="module")
def families(pki):
    """An RSA and an ECDSA certificate, each below an intermediate of its own, and an Ed25519 one."""
    pki.certificate("rsa_ca", "/CN=Intermediate for RSA", section="ca", issuer="ca", ec=True)
    rsa = pki.certificate("family_rsa", "/CN=localhost", section="server", issuer="rsa_ca")
    ed_key, ed = pki.path("family_ed.key"), pki.path("family_ed.crt")
    openssl("genpkey", "-algorithm", "ed25519", "-out", ed_key)
    openssl("req", "-new", "-key", ed_key, "-subj", "/CN=localhost", "-out", pki.path("family_ed.csr"))
    openssl("x509", "-req", "-in", pki.path("family_ed.csr"), "-days", "2", "-CA", pki.ca, "-CAkey", pki.path("ca.key"), "-CAcreateserial",
            "-extfile", pki.extensions, "-extensions", "server", "-out", ed)
    return {"rsa": pki.join("family_rsa.pem", rsa, pki.path("rsa_ca.crt"), pki.path("family_rsa.key")), "ec": pki.chain_pem,
            "ed": pki.join("family_ed.pem", ed, ed_key)}


def issuers(out):
    """The issuer of each certificate that was sent, from the leaf up."""
    return re.findall(r"(?m)^   i:(?:.*)CN ?= ?(.*)$", out)


CHAINS = {"rsa": ["Intermediate for RSA", "Test CA"], "ec": ["Intermediate", "Test CA"], "ed": ["Test CA"]}


@pytest.mark.ours
@pytest.mark.parametrize("order", [("rsa", "ec", "ed"), ("ed", "ec", "rsa")], ids="-".join)
@pytest.mark.parametrize("kind, arguments", [
    ("rsa", ["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"]), ("ec", ["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"]),
    ("rsa", ["-tls1_3", "-sigalgs", "RSA-PSS+SHA256"]), ("ec", ["-tls1_3", "-sigalgs", "ECDSA+SHA256"]), ("ed", ["-tls1_3", "-sigalgs", "ed25519"]),
    ("ed", ["-tls1_2", "-sigalgs", "ed25519"]), ("ec", ["-tls1_3", "-sigalgs", "ECDSA+SHA256:RSA-PSS+SHA256"]),
    ("ec", ["-tls1_3", "-sigalgs", "RSA-PSS+SHA256:ECDSA+SHA256"])])  # the server's order counts
def test_clients_get_what_they_understand(bench, pki, families, order, kind, arguments):
    """Each with its chain, which leads to the root that is all the client knows."""
    proxy = bench.tls_server("".join(f"cert = {families[each]}\n" for each in order[1:]), pem=families[order[0]])
    out = s_client(proxy.port, *arguments, "-CAfile", pki.ca, "-showcerts")
    assert "Verify return code: 0 (ok)" in out, out
    assert issuers(out) == CHAINS[kind], out


@pytest.mark.ours
def test_client_s_order_of_algorithms(bench, families):
    proxy = bench.tls_server(f"cert = {families['ec']}\noptions = -CIPHER_SERVER_PREFERENCE", pem=families["rsa"])
    for algorithms, kind in ("RSA-PSS+SHA256:ECDSA+SHA256", "rsa"), ("ECDSA+SHA256:RSA-PSS+SHA256", "ec"):
        assert issuers(s_client(proxy.port, "-sigalgs", algorithms, "-showcerts")) == CHAINS[kind]


@pytest.mark.ours
def test_gnutls_and_curl_with_both(bench, need, pki, families):
    proxy = bench.tls_server(f"cert = {families['ec']}", pem=families["rsa"])
    for algorithm in "RSA", "ECDSA":
        out = subprocess.run([need("gnutls-cli"), "-p", str(proxy.port), "--x509cafile", pki.ca, "--priority",
                              f"NORMAL:-KX-ALL:+ECDHE-{algorithm}:-VERS-ALL:+VERS-TLS1.2", "localhost"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                             timeout=60 * SLOW).stdout.decode(errors="replace")
        assert "Status: The certificate is trusted" in out, out
        assert re.search(rf"Certificate\[0\](?s:.)*?{algorithm}", out), out
    for cipher in "ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256":
        out = subprocess.run([need("curl"), "-sv", "--http0.9", "-m", "2", "--tls-max", "1.2", "--ciphers", cipher, "--cacert", pki.ca,
                              f"https://localhost:{proxy.port}/"], stdin=subprocess.DEVNULL, capture_output=True,
                             timeout=60 * SLOW).stderr.decode(errors="replace")
        assert "SSL certificate verify ok" in out and cipher in out, out


@pytest.mark.ours
def test_chain_in_a_file_of_its_own(bench, pki, families):
    """A further file without a key belongs to the certificate before it."""
    leaf = pki.join("leaf_alone.pem", pki.leaf, pki.leaf_key)
    proxy = bench.tls_server(f"cert = {pki.intermediate}\ncert = {families['rsa']}", pem=leaf)
    for kind, algorithms in ("ec", "ECDSA+SHA256"), ("rsa", "RSA-PSS+SHA256"):
        out = s_client(proxy.port, "-sigalgs", algorithms, "-CAfile", pki.ca, "-showcerts")
        assert "Verify return code: 0 (ok)" in out
        assert issuers(out) == CHAINS[kind]


@pytest.mark.ours
def test_two_of_a_kind(bench, pki):
    said = bench.refused(f"[s]\naccept = 127.0.0.1:{bench.ports()}\nconnect = 1\ncert = {pki.ec_pem}\ncert = {pki.rsa_pem}\ncert = {pki.chain_pem}\n")
    assert f"Another certificate of the section has a EC key, too: {pki.chain_pem}" in said


@pytest.mark.ours
@pytest.mark.parametrize("algorithms, kind", [("RSA-PSS+SHA256", "rsa"), ("ECDSA+SHA256", "ec")])
def test_certificates_of_a_client(bench, pki, families, algorithms, kind):
    """The one that the server asks for."""
    port = bench.ports()
    child = subprocess.Popen(["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-cert", pki.ec_pem, "-key", pki.ec_pem, "-CAfile", pki.ca,
                              "-Verify", "3", "-client_sigalgs", algorithms, "-tls1_3"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT)
    bench.children.append(child)
    until(lambda: not bench.ports.free(port), 20, "s_server listens")
    proxy = bench.tls_client(port, f"cert = {families['rsa']}\ncert = {families['ec']}")
    with connect(proxy.port) as sock:
        sock.sendall(b"hello\n")
        proxy.wait_log(r"\[0\]: TLS connected")
        child.stdin.write(b"Q\n")
        child.stdin.flush()
        read_all(sock)
    out = child.communicate(timeout=30 * SLOW)[0].decode(errors="replace")
    assert "hello" in out and CHAINS[kind][0] in out, out
    other = CHAINS["ec" if kind == "rsa" else "rsa"][0]
    assert f"CN = {other}\n" not in out


@pytest.mark.ours
def test_virtual_hosts_with_several(bench, pki, families):
    port, backend = bench.ports(), bench.server(echo)
    bench.proxy(f"connect = 127.0.0.1:{backend.port}\n[p]\naccept = 127.0.0.1:{port}\ncert = {pki.rsa_pem}\n"
                f"[v]\nsni = p:v.test\ncert = {families['rsa']}\ncert = {families['ec']}\n")
    for name, algorithms, expected in [("v.test", "ECDSA+SHA256", CHAINS["ec"]), ("v.test", "RSA-PSS+SHA256", CHAINS["rsa"]),
                                       ("p.test", "ECDSA+SHA256:RSA-PSS+SHA256", ["Test CA"])]:
        out = s_client(port, "-servername", name, "-sigalgs", algorithms, "-CAfile", pki.ca, "-showcerts")
        assert issuers(out) == expected, (name, algorithms, out)


# --- a post-quantum group that a provider has ---


PQ = "X25519MLKEM768"


def hybrid():
    """Lines that load a provider with the group, which is there in name, number and sizes only: tests/modules/hybrid.c."""
    return f"setEnv = OPENSSL_MODULES={os.path.dirname(module('hybrid'))}\nprovider = hybrid\n"


@pytest.mark.ours
def test_post_quantum_group_leads_where_it_is(bench, pki, monkeypatch):
    proxy = bench.tls_server(head=hybrid())
    assert f"LOG7[ui]: ECDH initialized with curves {PQ}:X25519:P-256:X448:P-521:P-384\n" in proxy.log()
    monkeypatch.setenv("OPENSSL_MODULES", os.path.dirname(module("hybrid")))
    both = ["-provider", "hybrid", "-provider", "default"]
    for number, (groups, chosen) in enumerate([(f"{PQ}:X25519", PQ), (PQ, PQ), ("P-256", "prime256v1"), ("X25519:P-256", "X25519")]):
        s_client(proxy.port, *both, "-groups", groups)
        proxy.wait_log(rf"LOG6\[{number}\]: Peer temporary key: {chosen}, \d+ bits$")


@pytest.mark.ours
def test_post_quantum_pair(bench, tmp_path):
    """The client offers it first; a server without it asks for another one, and keys go with either."""
    behind = bench.tls_server(head=hybrid())
    proxy = bench.tls_client(behind.port, head=hybrid())
    for _ in range(2):
        with connect(proxy.port) as sock:
            sock.sendall(b"x" * 50000)
            assert read_exactly(sock, 50000) == b"x" * 50000
            sock.shutdown(socket.SHUT_WR)
            read_all(sock)
    behind.wait_log(rf"Peer temporary key: {PQ}", 2)  # the client's; what a server answers with is no key
    behind.wait_log("TLS accepted: previous session reused")
    secrets = tmp_path / "psk.txt"
    secrets.write_text("a:" + "11" * 16 + "\n")
    secrets.chmod(0o600)
    for groups in "curves = P-384", "":
        port, backend = bench.ports(), bench.server(echo)
        bench.proxy(f"[s]\naccept = 127.0.0.1:{port}\nconnect = 127.0.0.1:{backend.port}\nPSKsecrets = {secrets}\n{groups}\n")
        proxy = bench.tls_client(port, f"PSKsecrets = {secrets}", head=hybrid())
        with connect(proxy.port) as sock:
            sock.sendall(b"ping")
            assert read_exactly(sock, 4) == b"ping"
        proxy.wait_log("Peer temporary key: " + ("secp384r1" if groups else "X25519,"))
