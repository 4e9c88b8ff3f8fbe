# An OCSP responder that does what a test wants, one that is `openssl ocsp`, and certificates that name them. Responses are made of DER by hand (RFC 6960)
# and signed by the openssl command, so that their times can be anything. For the tests of this directory.
# SPDX-License-Identifier: Apache-2.0
import datetime
import hashlib
import os
import subprocess
import threading
import time

from peers import Server
from pki import openssl
from proxy import listening_ports, until

OCSP_BASIC = bytes.fromhex("06092b0601050507300101")
OCSP_NONCE = bytes.fromhex("06092b0601050507300102")
ECDSA_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")

GOOD, REVOKED, UNKNOWN = "good", "revoked", "unknown"

EXTENSIONS = """
[leaf]
subjectAltName = DNS:localhost, IP:127.0.0.1
{aia}
[ca]
basicConstraints = critical, CA:true
keyUsage = keyCertSign, cRLSign
{aia}
[responder]
extendedKeyUsage = OCSPSigning
noCheck = ignored
"""


# --- DER ---


def der(tag, *parts):
    body = b"".join(parts)
    if len(body) < 128:
        return bytes([tag, len(body)]) + body
    size = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(size)]) + size + body


def elements(body):
    """The elements of a constructed value: (tag, content, whole)."""
    found, at = [], 0
    while at < len(body):
        size, head = body[at + 1], 2
        if size >= 128:
            head += size & 0x7f
            size = int.from_bytes(body[at + 2:at + head], "big")
        found.append((body[at], body[at + head:at + head + size], body[at:at + head + size]))
        at += head + size
    return found


def generalized(seconds):
    return der(0x18, datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).strftime("%Y%m%d%H%M%SZ").encode())


class Request:
    """What a client asks: the CertID as DER, its serial number, the nonce extension or None."""

    def __init__(self, raw):
        self.raw = raw
        tbs = elements(elements(raw)[0][1])[0][1]
        parts = elements(tbs)
        requests = next(content for tag, content, _ in parts if tag == 0x30)
        self.cert_id = elements(elements(requests)[0][1])[0][2]
        self.serial = int.from_bytes(elements(elements(self.cert_id)[0][1])[3][1], "big")
        extensions = [content for tag, content, _ in parts if tag == 0xa2]
        self.nonce = next((whole for _, content, whole in elements(elements(extensions[0])[0][1])
                           if content.startswith(OCSP_NONCE)), None) if extensions else None


# --- certificates ---


class Authority:
    """A CA with an EC key. issue() makes certificates that name an OCSP responder; .revoked holds serial numbers."""

    def __init__(self, directory, name="ocspca", parent=None, aia=None):
        self.directory, self.name, self.parent = str(directory), name, parent
        self.serials = 0x1000
        self.revoked, self.issued = set(), {}
        if parent:
            self.cert, self.key = parent.issue(name, aia=aia, section="ca")
        else:
            self.cert, self.key = self._certificate(name, None, "ca", 1)

    def path(self, name):
        return os.path.join(self.directory, name)

    def _certificate(self, name, aia, section, serial, signer=None, days="2"):
        key, request, out = self.path(name + ".key"), self.path(name + ".csr"), self.path(name + ".crt")
        extensions = self.path(name + ".ext")
        aia = [aia] if isinstance(aia, str) else aia or []
        line = "authorityInfoAccess = " + ", ".join("OCSP;URI:" + url for url in aia) if aia else ""
        with open(extensions, "w") as file:
            file.write(EXTENSIONS.format(aia=line))
        openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=" + name,
                "-keyout", key, "-out", request)
        how = ["-CA", signer.cert, "-CAkey", signer.key] if signer else ["-signkey", key]
        openssl("x509", "-req", "-in", request, "-days", days, *how, "-set_serial", str(serial), "-extfile", extensions,
                "-extensions", section, "-out", out)
        os.chmod(key, 0o600)
        return out, key

    def issue(self, name, aia=None, section="leaf", revoked=False):
        """Returns (certificate, key) files. `aia`: the URL of a responder, or several."""
        self.serials += 1
        cert, key = self._certificate(name, aia, section, self.serials, self)
        self.issued[cert] = self.serials
        if revoked:
            self.revoked.add(self.serials)
        return cert, key

    def pem(self, name, *chain, **options):
        """A file with certificate, further certificates and key."""
        cert, key = self.issue(name, **options)
        out = self.path(name + ".pem")
        with open(out, "w") as file:
            os.fchmod(file.fileno(), 0o600)
            for part in (cert, *chain, key):
                with open(part) as source:
                    file.write(source.read())
        return out

    def responder(self, name="responder"):
        """A certificate that may sign responses for this authority: (certificate, key)."""
        return self.issue(name, section="responder")

    def index(self):
        """The database of `openssl ocsp`."""
        out = self.path(self.name + ".index")
        with open(out, "w") as file:
            for path, serial in self.issued.items():
                kind, date = ("R", "250101000000Z,keyCompromise") if serial in self.revoked else ("V", "")
                file.write(f"{kind}\t491231235959Z\t{date}\t{serial:X}\tunknown\t/CN={os.path.basename(path)[:-4]}\n")
        return out


def key_hash(cert):
    public = openssl("x509", "-in", cert, "-noout", "-pubkey")
    spki = subprocess.run(["openssl", "pkey", "-pubin", "-outform", "DER"], input=public.encode(), stdout=subprocess.PIPE,
                          check=True, timeout=60).stdout
    return hashlib.sha1(spki[-65:]).digest()  # the point of a P-256 key


# --- responders ---


class Responder:
    """
    Answers as told by `answer`, which gets (request, responder) and returns a whole HTTP reply, or None to say nothing until the test ends.
    .requests has what was asked, .heads the HTTP heads.
    """

    def __init__(self, bench, authority, answer=None, signer=None, port=None):
        self.authority = authority
        self.signer, self.key = signer or (authority.cert, authority.key)
        self.hash = key_hash(self.signer)
        self.answer = answer or (lambda request, responder: reply(responder.response(request)))
        self.requests, self.heads = [], []
        self.cache, self.lock = {}, threading.Lock()
        self.port = port or bench.ports()
        self.url = f"http://127.0.0.1:{self.port}/ocsp"
        self.server = bench.keep(Server(self.serve, self.port))

    def serve(self, sock, server):
        data = b""
        while b"\r\n\r\n" not in data:
            more = sock.recv(65536)
            if not more:
                return
            data += more
        head, body = data.split(b"\r\n\r\n", 1)
        length = int(next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")).split(b":")[1])
        while len(body) < length:
            body += sock.recv(65536)
        request = Request(body)
        self.heads.append(head)
        self.requests.append(request)
        answer = self.answer(request, self)
        if answer is None:
            server.released.wait(300)
        elif callable(answer):
            answer(sock)
        else:
            sock.sendall(answer)

    def status(self, request):
        return REVOKED if request.serial in self.authority.revoked else GOOD

    def response(self, request, status=None, this=-60, until=3600, nonce=True, certs=(), cert_id=None):
        """A response that is made `this` seconds from now and valid `until` then (None: it does not say)."""
        status = status or self.status(request)
        now = int(time.time())
        with self.lock:
            key = (request.cert_id, status, this, until, certs, cert_id, now // 60) if not (nonce and request.nonce) else None
            if key and key in self.cache:
                return self.cache[key]
            made = self._sign(self._data(request, status, now + this, None if until is None else now + until, nonce, cert_id), certs)
            if key and until is not None and until >= 3600:
                self.cache[key] = made
            return made

    def _data(self, request, status, this, until, nonce, cert_id):
        said = {GOOD: b"\x80\x00", UNKNOWN: b"\x82\x00",
                REVOKED: der(0xa1, generalized(this), der(0xa0, b"\x0a\x01\x01"))}[status]
        single = der(0x30, cert_id or request.cert_id, said, generalized(this),
                     b"" if until is None else der(0xa0, generalized(until)))
        extension = request.nonce if nonce is True else nonce
        extensions = der(0xa1, der(0x30, extension)) if extension else b""
        return der(0x30, der(0xa2, der(0x04, self.hash)), generalized(this), der(0x30, single), extensions)

    def _sign(self, data, certs):
        signature = subprocess.run(["openssl", "dgst", "-sha256", "-sign", self.key], input=data, stdout=subprocess.PIPE, check=True,
                                   timeout=60).stdout
        extra = b"".join(subprocess.run(["openssl", "x509", "-in", cert, "-outform", "DER"], stdout=subprocess.PIPE, check=True,
                                        timeout=60).stdout for cert in certs)
        basic = der(0x30, data, ECDSA_SHA256, der(0x03, b"\x00", signature), der(0xa0, der(0x30, extra)) if extra else b"")
        return der(0x30, b"\x0a\x01\x00", der(0xa0, der(0x30, OCSP_BASIC, der(0x04, basic))))

    def asked(self, count=1):
        """Waits until somebody has asked so often."""
        until(lambda: len(self.requests) >= count, 20, f"{count} requests to the responder")
        return self.requests

    def file(self, path, cert, issuer, **options):
        """A response in a file, for `openssl s_server -status_file`."""
        request = subprocess.run(["openssl", "ocsp", "-issuer", issuer, "-cert", cert, "-no_nonce", "-reqout", "/dev/stdout"],
                                 stdout=subprocess.PIPE, check=True, timeout=60).stdout
        with open(path, "wb") as out:
            out.write(self.response(Request(request), **options))
        return path


def reply(body, status="200 OK", head="", version="1.0", length=True):
    size = f"Content-Length: {len(body)}\r\n" if length else ""
    return f"HTTP/{version} {status}\r\nContent-Type: application/ocsp-response\r\n{size}{head}\r\n".encode() + body


class OpensslResponder:
    """`openssl ocsp` itself. start() it once the certificates are made that name it."""

    def __init__(self, bench, authority):
        self.bench, self.authority = bench, authority
        self.port = bench.ports()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = authority.path(f"responder{self.port}.log")

    def start(self, *args, signer=None):
        cert, key = signer or (self.authority.cert, self.authority.key)
        with open(self.log, "wb") as log:
            self.bench.run(["openssl", "ocsp", "-index", self.authority.index(), "-CA", self.authority.cert, "-rsigner", cert,
                            "-rkey", key, "-port", str(self.port), "-text", *args], stdout=log)
        until(lambda: self.port in listening_ports(), 20, "openssl ocsp listens")
        return self
