# What scanners say of the default configuration: testssl.sh and sslscan, which know this software's neighbours better than we do.
# kernel-notes/tls.md has a complete run with its grade.
# SPDX-License-Identifier: Apache-2.0
import json
import re
import subprocess

import pytest

from pki import openssl

pytestmark = [pytest.mark.ours, pytest.mark.slow]

HARMLESS = ("OK", "INFO", "LOW", "DEBUG")
# Of the certificate and of what stands behind the proxy, not of the proxy.
NOT_OURS = ("cert_", "OCSP", "DNS_CAA", "HSTS", "security_headers", "banner", "cookie", "scanTime", "clientsimulation")


@pytest.fixture
def listed(bench, pki):
    """A certificate that names where its revocation can be looked up."""
    extensions = pki.path("listed.ext")
    with open(extensions, "w") as file:
        file.write("subjectAltName = DNS:localhost,IP:127.0.0.1\nextendedKeyUsage = serverAuth\nkeyUsage = digitalSignature\n"
                   "basicConstraints = critical,CA:FALSE\ncrlDistributionPoints = URI:http://127.0.0.1:1/list.crl\n")
    root, root_key, key, request, out = (pki.path(name) for name in ("listed-ca.crt", "listed-ca.key", "listed.key", "listed.csr", "listed.crt"))
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl("req", "-x509", *curve, "-subj", "/CN=listed CA", "-days", "30", "-keyout", root_key, "-out", root)
    openssl("req", *curve, "-subj", "/CN=localhost", "-keyout", key, "-out", request)
    openssl("x509", "-req", "-in", request, "-CA", root, "-CAkey", root_key, "-CAcreateserial", "-days", "30", "-extfile", extensions, "-out", out)
    return bench.tls_server(pem=pki.join("listed.pem", out, key)), root


def test_testssl_finds_nothing_above_low(listed, need, tmp_path):
    proxy, root = listed
    report = tmp_path / "report.json"
    done = subprocess.run([need("testssl"), "--quiet", "--color", "0", "--warnings", "off", "--add-ca", root, "-p", "-s", "-P", "-f", "-S", "-U",
                           "--jsonfile", str(report), f"127.0.0.1:{proxy.port}"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=400)
    found = json.loads(report.read_text())
    assert any(finding["id"] == "cipher_order" for finding in found), done.stdout[-3000:]
    bad = [finding for finding in found if finding["severity"] not in HARMLESS and not finding["id"].startswith(NOT_OURS)]
    assert not bad, bad


def test_sslscan_finds_nothing_old(listed, need):
    proxy, _ = listed
    out = subprocess.run([need("sslscan"), "--no-colour", f"127.0.0.1:{proxy.port}"], stdout=subprocess.PIPE, text=True, check=True, timeout=200).stdout
    for old in ("SSLv2", "SSLv3", "TLSv1.0", "TLSv1.1"):
        assert re.search(rf"{re.escape(old)} +disabled", out), out
    assert "TLS_AES_256_GCM_SHA384" in re.search(r"Preferred TLSv1.3 .*", out)[0]
    assert re.search(r"supports TLS Fallback SCSV", out)
    assert re.search(r"Session renegotiation not supported", out)
    assert "not vulnerable to heartbleed" in out and "but vulnerable" not in out
    accepted = re.findall(r"(?:Preferred|Accepted) +TLSv1\.2 +(\d+) bits +(\S+)", out)
    assert accepted and all(int(bits) >= 128 and suite.startswith("ECDHE-") for bits, suite in accepted), accepted
