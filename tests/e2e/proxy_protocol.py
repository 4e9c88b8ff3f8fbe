# A reader of the PROXY protocol, version 2, that forgives nothing. For the tests of this directory.
# SPDX-License-Identifier: Apache-2.0
import ipaddress
import struct

from peers import read_all, read_exactly

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
ALPN, AUTHORITY, CRC32C, SSL = 0x01, 0x02, 0x03, 0x20
VERSION, CN, CIPHER, SIG_ALG, KEY_ALG = 0x21, 0x22, 0x23, 0x24, 0x25
CLIENT_SSL, CERT_CONN, CERT_SESS = 1, 2, 4


def crc32c(data):
    crc = 0xffffffff
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xffffffff


def tlvs(data):
    """{type: (value, where the value is)}: each type once, and not a byte left over."""
    found, at = {}, 0
    while at < len(data):
        kind, size = struct.unpack_from(">BH", data, at)
        at += 3
        assert at + size <= len(data) and kind not in found
        found[kind] = (data[at:at + size], at)
        at += size
    return found


class Header:
    """.source and .destination are (host, port), a path (bytes), or None; .alpn and .authority bytes or None; .tls {subtype: text}."""

    def __init__(self, data):
        assert data[:12] == SIGNATURE and data[12] == (0x21 if data[13] else 0x20), data  # LOCAL: no address
        (length,) = struct.unpack_from(">H", data, 14)
        assert len(data) == 16 + length and len(data) <= 1300
        self.size = len(data)
        rest = self._addresses(data[13], data[16:])
        found = tlvs(rest)
        assert set(found) <= {ALPN, AUTHORITY, CRC32C, SSL} and {CRC32C, SSL} <= set(found)
        value, at = found[CRC32C]
        at += len(data) - len(rest)
        assert struct.unpack(">I", value) == (crc32c(data[:at] + bytes(4) + data[at + 4:]),)
        self.alpn, self.authority = (found.get(kind, (None,))[0] for kind in (ALPN, AUTHORITY))
        self._tls(found[SSL][0])

    def _addresses(self, family, rest):
        self.family = family
        self.source = self.destination = None
        if family == 0x31:
            self.source, self.destination = rest[:108].rstrip(b"\0"), rest[108:216].rstrip(b"\0")
            return rest[216:]
        if family == 0:
            return rest
        size = {0x11: 4, 0x21: 16}[family]
        hosts = [str(ipaddress.ip_address(rest[i:i + size])) for i in (0, size)]
        self.source, self.destination = zip(hosts, struct.unpack_from(">HH", rest, 2 * size))
        return rest[2 * size + 4:]

    def _tls(self, value):
        self.client, self.verify = struct.unpack_from(">BI", value)
        found = tlvs(value[5:])
        assert self.client & CLIENT_SSL and not self.client & ~7 and {VERSION, CIPHER} <= set(found) <= set(range(VERSION, KEY_ALG + 1))
        self.tls = {kind: text.decode() for kind, (text, _) in found.items()}
        assert all(text and "\0" not in text for text in self.tls.values())


def read_header(sock):
    """Takes the header, and not a byte more, off a socket."""
    head = read_exactly(sock, 16)
    return Header(head + read_exactly(sock, int.from_bytes(head[14:16], "big")))


def introduced(then):
    """A handler of peers.Server that wants a header first; results are (header, what `then` returned)."""
    def handler(sock, server):
        header = read_header(sock)
        server.headers = getattr(server, "headers", []) + [header]
        return header, then(sock, server)
    return handler


def announced(sock, _server):
    """A handler: the header, and everything that came behind it."""
    return read_header(sock), read_all(sock)[0]
