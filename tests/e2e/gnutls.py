# GnuTLS as a peer that moves bulk: gnutls-cli prints with a write(2) for every byte, and gnutls-serv ends a connection that is half a
# minute old. For the tests of this directory; as a program, an echo server: gnutls.py PORT CERT KEY PRIORITY
# SPDX-License-Identifier: Apache-2.0
import ctypes
import socket
import struct
import sys
import threading

from peers import TIMEOUT, connect

SERVER, CLIENT, CERTIFICATE, PEM = 1, 2, 1, 1
AGAIN, INTERRUPTED = -28, -52


class GnuTls:
    """A client of an address; with `server`, what has accepted the socket `address`: (certificate, key), names of PEM files."""

    def __init__(self, address, priority, timeout=TIMEOUT, server=None):
        self.lib = ctypes.CDLL("libgnutls.so.30")
        self.lib.gnutls_record_send.restype = self.lib.gnutls_record_recv.restype = ctypes.c_ssize_t
        self.sock = address if server else connect(address)
        self.sock.settimeout(None)
        for name in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self.sock.setsockopt(socket.SOL_SOCKET, name, struct.pack("ll", int(timeout), 0))
        self.session, self.credentials = ctypes.c_void_p(), ctypes.c_void_p()
        self._check(self.lib.gnutls_init(ctypes.byref(self.session), SERVER if server else CLIENT))
        self._check(self.lib.gnutls_certificate_allocate_credentials(ctypes.byref(self.credentials)))
        if server:
            self._check(self.lib.gnutls_certificate_set_x509_key_file(self.credentials, *map(str.encode, server), PEM))
        self._check(self.lib.gnutls_credentials_set(self.session, CERTIFICATE, self.credentials))
        self._check(self.lib.gnutls_priority_set_direct(self.session, priority.encode(), None))
        self.lib.gnutls_transport_set_int2(self.session, self.sock.fileno(), self.sock.fileno())
        self._again(self.lib.gnutls_handshake, self.session)
        self.room = ctypes.create_string_buffer(1 << 16)

    def _check(self, rc):
        if rc < 0:
            self.lib.gnutls_strerror.restype = ctypes.c_char_p
            raise OSError("GnuTLS: " + self.lib.gnutls_strerror(rc).decode())
        return rc

    def _again(self, function, *arguments):
        """Once more when something came that is no data, such as a ticket."""
        rc = AGAIN
        while rc in (AGAIN, INTERRUPTED):
            rc = function(*arguments)
        return self._check(rc)

    def sendall(self, data):
        at = 0
        while at < len(data):
            part = data[at:at + (1 << 14)]
            at += self._again(self.lib.gnutls_record_send, self.session, part, len(part))

    def recv(self, size):
        """Some bytes, or b"" after close_notify."""
        n = self._again(self.lib.gnutls_record_recv, self.session, self.room, min(size, len(self.room)))
        return ctypes.string_at(self.room, n)

    def close(self):
        self.lib.gnutls_bye(self.session, 1)
        self.lib.gnutls_deinit(self.session)
        self.lib.gnutls_certificate_free_credentials(self.credentials)
        self.sock.close()


def echo_once(sock, priority, files):
    peer = GnuTls(sock, priority, 3600, files)
    while data := peer.recv(1 << 16):
        peer.sendall(data)
    peer.close()


def main():
    port, certificate, key, priority = sys.argv[1:]
    with socket.create_server(("127.0.0.1", int(port))) as listener:
        while True:
            sock, _ = listener.accept()
            threading.Thread(target=echo_once, args=(sock, priority, (certificate, key)), daemon=True).start()


if __name__ == "__main__":
    main()
