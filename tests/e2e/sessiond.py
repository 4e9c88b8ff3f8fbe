# A session cache server over UDP, for tests: remembers what it is told, and answers as the test wants.
# Packet: version 1, type 1, seconds 2, id 32, then the session. Types: 0 new, 1 get, 2 remove; answers: 0x81 found, 0x80 not.
# SPDX-License-Identifier: Apache-2.0
import socket
import struct
import threading
import time

from proxy import until

NEW, GET, REMOVE = 0, 1, 2
FOUND, MISSING = 0x81, 0x80


class Sessiond:
    def __init__(self, port, host="127.0.0.1"):
        self.sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind((host, port))
        self.address = f"{host}:{port}"
        self.kept, self.requests = {}, []  # (type, seconds, id, session)
        self.answer = self.honest          # what the test may replace: (id, session or None) -> list of packets
        self.delay = 0
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                packet, sender = self.sock.recvfrom(65536)
            except OSError:
                return
            if len(packet) < 36 or packet[0] != 1:
                self.requests.append(("bad", packet))
                continue
            kind, seconds, ident, session = packet[1], struct.unpack(">H", packet[2:4])[0], packet[4:36], packet[36:]
            if kind == NEW:
                self.kept[ident] = session
            elif kind == REMOVE:
                self.kept.pop(ident, None)
            elif kind == GET:
                threading.Thread(target=self.reply, args=(sender, ident), daemon=True).start()
            self.requests.append((kind, seconds, ident, session))

    def reply(self, sender, ident):
        time.sleep(self.delay)
        for packet in self.answer(ident, self.kept.get(ident)):
            try:
                self.sock.sendto(packet, sender)
            except OSError:
                pass

    def honest(self, ident, session):
        return [bytes([1, MISSING if session is None else FOUND, 0, 0]) + ident + (session or b"")]

    def of(self, kind):
        return [request for request in self.requests if request[0] == kind]

    def wait(self, kind, count=1):
        until(lambda: len(self.of(kind)) >= count, what=f"{count} requests of type {kind}")
        return self.of(kind)

    def close(self):
        self.sock.close()
