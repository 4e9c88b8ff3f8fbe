# A TLS peer that writes its records itself, in either role: with padding, with new keys, empty, torn or wrong. OpenSSL makes the
# handshake; the keys come from its key log, and its AEAD does the rest. For the tests of this directory.
# SPDX-License-Identifier: Apache-2.0
import ctypes
import hashlib
import hmac
import os
import socket
import ssl
import struct
import tempfile
import time

from peers import CLOSE_NOTIFY, EOF, RESET, TIMEOUT, abort, client_context, connect

CCS, ALERT, HANDSHAKE, DATA = 20, 21, 22, 23
KEY_UPDATE, TICKET, HELLO_REQUEST, CLIENT_HELLO = 24, 4, 0, 1
WARNING, FATAL = 1, 2

crypto = ctypes.CDLL("libcrypto.so.3")
for function in ("EVP_CIPHER_CTX_new", "EVP_aes_128_gcm", "EVP_aes_256_gcm", "EVP_chacha20_poly1305"):
    getattr(crypto, function).restype = ctypes.c_void_p
GET_TAG, SET_TAG = 0x10, 0x11
TAG = 16

# What OpenSSL calls a suite -> the AEAD's function, the length of its key, the hash.
SUITES = {
    "TLS_AES_128_GCM_SHA256": ("EVP_aes_128_gcm", 16, "sha256"), "TLS_AES_256_GCM_SHA384": ("EVP_aes_256_gcm", 32, "sha384"),
    "TLS_CHACHA20_POLY1305_SHA256": ("EVP_chacha20_poly1305", 32, "sha256"),
    "ECDHE-ECDSA-AES128-GCM-SHA256": ("EVP_aes_128_gcm", 16, "sha256"),
    "ECDHE-ECDSA-AES256-GCM-SHA384": ("EVP_aes_256_gcm", 32, "sha384"),
    "ECDHE-ECDSA-CHACHA20-POLY1305": ("EVP_chacha20_poly1305", 32, "sha256")}


class Aead:
    def __init__(self, function, key, sealing):
        self.ctx = ctypes.c_void_p(crypto.EVP_CIPHER_CTX_new())
        self.sealing = sealing
        assert crypto.EVP_CipherInit_ex(self.ctx, ctypes.c_void_p(getattr(crypto, function)()), None, key, None, int(sealing)) == 1

    def __del__(self):
        crypto.EVP_CIPHER_CTX_free(self.ctx)

    def __call__(self, nonce, extra, data):
        """Seals, and appends the tag; or opens, and raises ValueError when the tag is wrong."""
        if not self.sealing:
            data, tag = data[:-TAG], data[-TAG:]
        out, n = ctypes.create_string_buffer(len(data) or 1), ctypes.c_int()
        crypto.EVP_CipherInit_ex(self.ctx, None, None, None, nonce, int(self.sealing))
        crypto.EVP_CipherUpdate(self.ctx, None, ctypes.byref(n), extra, len(extra))
        if data:
            crypto.EVP_CipherUpdate(self.ctx, out, ctypes.byref(n), data, len(data))
        if not self.sealing:
            crypto.EVP_CIPHER_CTX_ctrl(self.ctx, SET_TAG, TAG, ctypes.create_string_buffer(tag, TAG))
        if crypto.EVP_CipherFinal_ex(self.ctx, ctypes.create_string_buffer(16), ctypes.byref(n)) != 1:
            raise ValueError("bad record MAC")
        if not self.sealing:
            return out.raw[:len(data)]
        tag = ctypes.create_string_buffer(TAG)
        crypto.EVP_CIPHER_CTX_ctrl(self.ctx, GET_TAG, TAG, tag)
        return out.raw[:len(data)] + tag.raw


def expand_label(digest, secret, label, size):
    """HKDF-Expand-Label, RFC 8446 section 7.1; never more than one block here."""
    label = b"tls13 " + label
    info = struct.pack(">HB", size, len(label)) + label + b"\0"
    return hmac.digest(secret, info + b"\1", digest)[:size]


def prf(digest, secret, seed, size):
    """RFC 5246 section 5."""
    out, a = b"", seed
    while len(out) < size:
        a = hmac.digest(secret, a, digest)
        out += hmac.digest(secret, a + seed, digest)
    return out[:size]


class Direction:
    """The keys of one direction and the number of its next record."""

    def __init__(self, function, sealing, key, iv, sequence):
        self.function, self.sealing, self.iv, self.sequence = function, sealing, iv, sequence
        self.aead = Aead(function, key, sealing)

    def nonce(self):
        counter = struct.pack(">Q", self.sequence)
        return self.iv[:4] + bytes(a ^ b for a, b in zip(self.iv[4:], counter))


class Records:
    """
    A connection whose records the test makes. `sock` is connected, and with `server` the peer begins. What comes is read record by
    record; .ended says how the stream ended, .alerts what alerts came, .updates which KeyUpdates (True: asked for ours), .kinds and
    .sizes what every record held.
    """

    def __init__(self, sock, context=None, server=False, finish=True):
        self.sock, self.server = sock, server
        sock.settimeout(TIMEOUT)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        context = context or client_context()
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.ended, self.alerts, self.updates, self.kinds, self.sizes = None, [], [], [], []
        self.tickets = 0
        self.left = b""
        with tempfile.NamedTemporaryFile() as log:
            context.keylog_filename = log.name
            self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=server)
            self.last_flight = self._handshake()
            context.keylog_filename = None
            secrets = dict(line.split(" ", 1) for line in log.read().decode().splitlines() if not line.startswith("#"))
        self._keys({name: bytes.fromhex(value.split()[1]) for name, value in secrets.items()})
        if finish:
            self.raw(self.last_flight)

    def _record(self):
        """The next record as it is on the wire, or b"" at the end."""
        raw = b""
        while len(raw) < 5 or len(raw) < 5 + struct.unpack(">H", raw[3:5])[0]:
            want = 5 - len(raw) if len(raw) < 5 else 5 + struct.unpack(">H", raw[3:5])[0] - len(raw)
            try:
                part = self.sock.recv(want)
            except ConnectionResetError:
                self.ended = RESET
                return b""
            if not part:
                self.ended = self.ended or EOF
                return b""
            raw += part
        return raw

    def _handshake(self):
        """Returns the last flight, if it is ours and nothing is waited for after it."""
        self.randoms = {}
        while True:
            try:
                self.tls.do_handshake()
                flight = self.outgoing.read()
                self._note(flight, self.server)
                return flight
            except ssl.SSLWantReadError:
                flight = self.outgoing.read()
                self._note(flight, self.server)
                self.sock.sendall(flight)
                record = self._record()
                self._note(record, not self.server)
                if record:
                    self.incoming.write(record)
                else:
                    self.incoming.write_eof()

    def _note(self, flight, of_server):
        """The randoms of the hellos, which are the first handshake messages of each side."""
        if flight[:1] == bytes([HANDSHAKE]):
            self.randoms.setdefault("server" if of_server else "client", flight[11:43])

    def _keys(self, secrets):
        self.version = self.tls.version()
        self.function, self.key_size, self.digest = SUITES[self.tls.cipher()[0]]
        if self.version == "TLSv1.3":
            self.secrets = {"client": secrets["CLIENT_TRAFFIC_SECRET_0"], "server": secrets["SERVER_TRAFFIC_SECRET_0"]}
            self.writer, self.reader = self._derived(self.me(), True), self._derived(self.other(), False)
            if self.server:
                self.writer.sequence = self.tls.context.num_tickets  # they came with the handshake
            return
        salt = 12 if "chacha" in self.function else 4
        block = prf(self.digest, secrets["CLIENT_RANDOM"], b"key expansion" + self.randoms["server"] + self.randoms["client"],
                    2 * self.key_size + 2 * salt)
        keys = {"client": block[:self.key_size], "server": block[self.key_size:2 * self.key_size]}
        ivs = {"client": block[-2 * salt:-salt], "server": block[-salt:]}
        self.writer = Direction(self.function, True, keys[self.me()], ivs[self.me()], 1)
        self.reader = Direction(self.function, False, keys[self.other()], ivs[self.other()], 1)

    def me(self):
        return "server" if self.server else "client"

    def other(self):
        return "client" if self.server else "server"

    def _derived(self, who, sealing):
        secret = self.secrets[who]
        return Direction(self.function, sealing, expand_label(self.digest, secret, b"key", self.key_size),
                         expand_label(self.digest, secret, b"iv", 12), 0)

    def _next(self, who):
        self.secrets[who] = expand_label(self.digest, self.secrets[who], b"traffic upd", len(self.secrets[who]))

    # --- writing ---

    def seal(self, kind, data, pad=0):
        """One record for the wire."""
        w = self.writer
        if self.version == "TLSv1.3":
            data = data + bytes([kind]) + bytes(pad)
            head = struct.pack(">BHH", DATA, 0x0303, len(data) + TAG)
            body = w.aead(w.nonce(), head, data)
        else:
            explicit = b"" if len(w.iv) == 12 else os.urandom(8)
            nonce = w.iv + explicit if explicit else w.nonce()
            extra = struct.pack(">QBHH", w.sequence, kind, 0x0303, len(data))
            body = explicit + w.aead(nonce, extra, data)
            head = struct.pack(">BHH", kind, 0x0303, len(body))
        w.sequence += 1
        return head + body

    def raw(self, data, pieces=(), pause=0.0):
        """Bytes for the wire, cut at the given places, with a pause at each."""
        start = 0
        for cut in [*pieces, len(data)]:
            if start and pause:
                time.sleep(pause)
            self.sock.sendall(data[start:cut])
            start = cut

    def send(self, kind, data, pad=0):
        self.raw(self.seal(kind, data, pad))

    def data(self, data, chunk=16384):
        self.raw(b"".join(self.seal(DATA, data[i:i + chunk]) for i in range(0, len(data), chunk)))

    def alert(self, level, what):
        self.send(ALERT, bytes([level, what]))

    def close_notify(self):
        self.alert(WARNING, 0)

    def updated(self, request=False):
        """A KeyUpdate for the wire; what comes behind it has new keys."""
        out = self.seal(HANDSHAKE, struct.pack(">BBHB", KEY_UPDATE, 0, 1, int(request)))
        self._next(self.me())
        self.writer = self._derived(self.me(), True)
        return out

    def key_update(self, request=False):
        self.raw(self.updated(request))

    # --- reading ---

    def record(self):
        """The next record as (content type, content), None at the end of the stream."""
        raw = self._record()
        if not raw:
            return None
        r, head, body = self.reader, raw[:5], raw[5:]
        if self.version == "TLSv1.3":
            data = r.aead(r.nonce(), head, body).rstrip(b"\0")
            kind, data = data[-1], data[:-1]
        else:
            explicit = 0 if len(r.iv) == 12 else 8
            nonce = r.iv + body[:8] if explicit else r.nonce()
            kind = head[0]
            extra = struct.pack(">QBHH", r.sequence, kind, 0x0303, len(body) - explicit - TAG)
            data = r.aead(nonce, extra, body[explicit:])
        r.sequence += 1
        self.kinds.append(kind)
        self.sizes.append(len(data))
        return kind, data

    def _control(self, kind, data):
        if kind == ALERT:
            self.alerts.append(data[1])
            if data[1] == 0:
                self.ended = CLOSE_NOTIFY
        elif kind == HANDSHAKE and data[0] == KEY_UPDATE:
            self.updates.append(data[4] == 1)
            self._next(self.other())
            self.reader = self._derived(self.other(), False)
        elif kind == HANDSHAKE and data[0] == TICKET:
            self.tickets += 1

    def recv(self):
        """Some bytes, or b"" at the end."""
        while self.ended not in (EOF, RESET, CLOSE_NOTIFY):
            record = self.record()
            if not record:
                break
            if record[0] == DATA:
                if record[1]:
                    return record[1]
            else:
                self._control(*record)
        return b""

    def recv_exactly(self, size):
        while len(self.left) < size:
            part = self.recv()
            if not part:
                raise EOFError(f"{size - len(self.left)} bytes short, ended with {self.ended}, alerts {self.alerts}")
            self.left += part
        data, self.left = self.left[:size], self.left[size:]
        return data

    def recv_all(self):
        parts = [self.left]
        while parts[-1] or len(parts) == 1:
            parts.append(self.recv())
        self.left = b""
        return b"".join(parts)

    def ping(self, data=b"ping"):
        self.data(data)
        assert self.recv_exactly(len(data)) == data
        return self

    def bye(self):
        self.close_notify()
        rest = self.recv_all()
        self.close()
        return rest

    def shut(self):
        self.sock.shutdown(socket.SHUT_WR)

    def abort(self):
        abort(self.sock)

    def close(self):
        self.sock.close()


def records_client(address, context=None, **options):
    return Records(connect(address), context, **options)
