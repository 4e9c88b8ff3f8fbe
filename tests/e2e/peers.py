# The other ends of the connections: small servers whose behaviour a test chooses, and a TLS client that controls every
# byte on the wire. For the tests of this directory.
# SPDX-License-Identifier: Apache-2.0
import hashlib
import os
import socket
import ssl
import struct
import threading

from proxy import SLOW, until

TIMEOUT = 20 * SLOW
RST = struct.pack("ii", 1, 0)

# How a byte stream can end.
CLOSE_NOTIFY, EOF, RESET = "close_notify", "eof", "reset"


def pattern(size, seed=1):
    """Bytes that do not repeat, so that a lost, doubled or swapped block shows."""
    block = hashlib.sha512(str(seed).encode()).digest()
    parts = []
    for i in range(0, size, 64):
        parts.append(block[:60] + struct.pack(">I", i // 64))
    return b"".join(parts)[:size]


def abort(sock):
    """Closes with a TCP RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
    sock.close()


def read_all(sock):
    """Reads to the end; returns (bytes, EOF or RESET)."""
    parts = []
    try:
        while True:
            data = sock.recv(65536)
            if not data:
                return b"".join(parts), EOF
            parts.append(data)
    except ConnectionResetError:
        return b"".join(parts), RESET


def read_exactly(sock, size):
    parts = []
    while size:
        data = sock.recv(min(size, 65536))
        if not data:
            raise EOFError(f"{size} bytes short")
        parts.append(data)
        size -= len(data)
    return b"".join(parts)


class Server:
    """
    Calls handler(sock, server) in a thread for each connection; what it returns is appended to .results, what it raises to
    .errors. The address is a port, a path, "@name" or (port, host). With a context it speaks TLS.
    """

    def __init__(self, handler, address, context=None, backlog=4096):
        self.handler, self.context = handler, context
        self.address = address
        self.results, self.errors, self.socks = [], [], []
        self.accepted = 0
        self.released = threading.Event()  # for handlers that wait for the test
        if isinstance(address, str):
            self.listener = socket.socket(socket.AF_UNIX)
            self.listener.bind("\0" + address[1:] if address.startswith("@") else address)
        else:
            port, host = address if isinstance(address, tuple) else (address, "127.0.0.1")
            self.listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.listener.bind((host, port))
        self.listener.listen(backlog)
        self.thread = threading.Thread(target=self._accept, daemon=True)
        self.thread.start()

    def _accept(self):
        while True:
            try:
                sock, self.peer = self.listener.accept()
            except OSError:
                return
            self.accepted += 1
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock):
        self.socks.append(sock)
        sock.settimeout(TIMEOUT)
        try:
            if self.context:
                sock = self.context.wrap_socket(sock, server_side=True)
                self.socks.append(sock)
            self.results.append(self.handler(sock, self))
        except Exception as error:  # the test looks at .errors
            self.errors.append(error)
        finally:
            try:
                sock.close()
            except OSError:
                pass

    def result(self, count=1):
        """Waits for the count-th connection to be served and returns what its handler returned."""
        until(lambda: len(self.results) + len(self.errors) >= count, 20, f"{count} served connections")
        assert not self.errors, self.errors
        return self.results[count - 1]

    def close(self):
        self.released.set()
        try:
            # Wakes the accept(2), which close(2) alone does not.
            self.listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.listener.close()
        for sock in self.socks:
            try:
                sock.close()
            except OSError:
                pass
        if isinstance(self.address, str) and not self.address.startswith("@") and os.path.exists(self.address):
            os.unlink(self.address)


# --- handlers ---


def echo(sock, _server):
    total = 0
    while True:
        try:
            data = sock.recv(65536)
        except ConnectionResetError:
            return total
        if not data:
            return total
        total += len(data)
        try:
            sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return total


def collect(sock, _server):
    """Reads to the end; the result is (bytes, EOF or RESET)."""
    return read_all(sock)


def respond(data):
    """Waits for some bytes, answers and closes."""
    def handler(sock, _server):
        sock.recv(65536)
        sock.sendall(data)
    return handler


def source(data):
    """Sends at once and closes; the result is what came in by then."""
    def handler(sock, _server):
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        return read_all(sock)
    return handler


def name(text):
    """Says who it is and waits for the end."""
    def handler(sock, _server):
        sock.sendall(text.encode())
        return read_all(sock)
    return handler


# --- the TLS client ---


def client_context(pki=None, version=None, certificate=None, ciphers=None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if pki:
        context.load_verify_locations(pki.ca)
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if version:
        context.minimum_version = context.maximum_version = version
    if ciphers:
        context.set_ciphers(ciphers)
    if certificate:
        context.load_cert_chain(certificate)
    return context


def server_context(pem, version=None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    if version:
        context.minimum_version = context.maximum_version = version
    return context


def connect(address, rcvbuf=None, source=None):
    if isinstance(address, str):
        sock = socket.socket(socket.AF_UNIX)
        target = "\0" + address[1:] if address.startswith("@") else address
    else:
        target = address if isinstance(address, tuple) else ("127.0.0.1", address)
        sock = socket.socket(socket.AF_INET6 if ":" in target[0] else socket.AF_INET)
    if rcvbuf:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
    if source:
        sock.bind((source, 0))
    sock.settimeout(TIMEOUT)
    sock.connect(target)
    return sock


def listens(port):
    """Whether somebody does on loopback."""
    try:
        socket.create_connection(("127.0.0.1", port)).close()
        return True
    except ConnectionRefusedError:
        return False


class TlsClient:
    """TLS over memory buffers, so that the test decides what reaches the wire and when."""

    def __init__(self, address, context=None, server_name=None, handshake=True, session=None, rcvbuf=None, source=None):
        self.sock = address if isinstance(address, socket.socket) else connect(address, rcvbuf, source)
        self.sock.settimeout(TIMEOUT)
        if self.sock.family != socket.AF_UNIX:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = (context or client_context()).wrap_bio(self.incoming, self.outgoing, server_hostname=server_name, session=session)
        self.ended = None
        if handshake:
            self.handshake()

    def settimeout(self, seconds):
        self.sock.settimeout(seconds)

    def flight(self):
        """The records that OpenSSL wants sent."""
        return self.outgoing.read()

    def flush(self, chunk=None):
        data = self.flight()
        for i in range(0, len(data), chunk or len(data) or 1):
            self.sock.sendall(data[i:i + (chunk or len(data))])

    def _feed(self):
        """Waits for bytes from the wire; False at the end of the stream."""
        data = self.sock.recv(65536)
        if data:
            self.incoming.write(data)
        else:
            self.incoming.write_eof()
        return bool(data)

    def handshake(self, chunk=None, hold=False):
        """With `hold` the last flight, our Finished, is not sent yet: it goes with what follows."""
        while True:
            try:
                self.tls.do_handshake()
                if not hold:
                    self.flush(chunk)
                return self
            except ssl.SSLWantReadError:
                self.flush(chunk)
                self._feed()
            except ssl.SSLError:
                try:
                    self.flush()
                except OSError:
                    pass
                raise

    def send(self, data, chunk=None):
        """Sends data, `chunk` bytes to a TLS record if given."""
        for i in range(0, len(data), chunk or 16384):
            self.tls.write(data[i:i + (chunk or 16384)])
            self.flush()

    def recv(self, size=65536):
        """Some bytes, or b"" at the end: .ended says which end it was."""
        while not self.ended:
            try:
                data = self.tls.read(size)
                if data:
                    return data
                self.ended = CLOSE_NOTIFY
            except ssl.SSLWantReadError:
                self.flush()
                try:
                    self._feed()
                except ConnectionResetError:
                    self.ended = RESET
            except ssl.SSLZeroReturnError:
                self.ended = CLOSE_NOTIFY
            except ssl.SSLEOFError:
                self.ended = EOF
            except ssl.SSLError as error:
                if "EOF" not in str(error).upper():
                    raise
                self.ended = EOF
        return b""

    def recv_exactly(self, size):
        parts = []
        while size:
            data = self.recv(min(size, 65536))
            if not data:
                raise EOFError(f"{size} bytes short, ended with {self.ended}")
            parts.append(data)
            size -= len(data)
        return b"".join(parts)

    def recv_all(self):
        parts = []
        while True:
            data = self.recv()
            if not data:
                return b"".join(parts)
            parts.append(data)

    def close_notify(self):
        """Ends our direction as TLS does; the other one stays open."""
        try:
            self.tls.unwrap()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            pass
        self.flush()

    def shut(self):
        """Ends our direction as TCP does."""
        self.sock.shutdown(socket.SHUT_WR)

    def abort(self):
        abort(self.sock)

    def close(self):
        self.sock.close()

    def ping(self, data=b"ping"):
        """One round trip through an echo server."""
        self.send(data)
        assert self.recv_exactly(len(data)) == data
        return self

    def bye(self):
        """The orderly end: close_notify both ways."""
        self.close_notify()
        rest = self.recv_all()
        self.close()
        return rest

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def pump_both(client, data, chunk=65536):
    """Sends data while another thread reads as much back; returns what came."""
    lock = threading.Lock()
    got = []

    def writer():
        for i in range(0, len(data), chunk):
            with lock:
                client.tls.write(data[i:i + chunk])
                out = client.outgoing.read()
            client.sock.sendall(out)

    thread = threading.Thread(target=writer, daemon=True)
    thread.start()
    received = 0
    while received < len(data):
        with lock:
            try:
                part = client.tls.read(65536)
                if not part:
                    break
            except ssl.SSLWantReadError:
                part = None
        if part:
            got.append(part)
            received += len(part)
            continue
        raw = client.sock.recv(65536)
        if not raw:
            break
        with lock:
            client.incoming.write(raw)
    thread.join(TIMEOUT)
    return b"".join(got)
