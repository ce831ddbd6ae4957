"""`python -m tools.bench.gateway.reads_all PORT`: clients that subscribe and read everything.

Standard input is one JSON array: for each client its command, and the extension header it sends or
an empty text. Prints a line when all are connected, and ends with the input.
"""

from __future__ import annotations

import os
import selectors
import socket
import sys
from itertools import repeat

import msgspec

from tools.bench.websocket import TEXT, frame, handshake


def main(port: int) -> int:
    wanted = msgspec.json.decode(sys.stdin.readline(), type=list[tuple[str, str]])
    chosen = selectors.DefaultSelector()
    chosen.register(sys.stdin.fileno(), selectors.EVENT_READ)
    for command, extensions in wanted:
        chosen.register(_connected(port, command, extensions), selectors.EVENT_READ)
    print("connected", flush=True)
    buffer = bytearray(1 << 18)
    for _ in repeat(None):
        for key, _events in chosen.select():
            if key.fd == sys.stdin.fileno():
                if not os.read(key.fd, 1024):
                    return 0
            elif isinstance(key.fileobj, socket.socket) and not key.fileobj.recv_into(buffer):
                chosen.unregister(key.fileobj)
    return 0


def _connected(port: int, command: str, extensions: str) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port))
    sock.sendall(handshake(*([f"Sec-WebSocket-Extensions: {extensions}"] if extensions else [])))
    assert sock.recv(12) == b"HTTP/1.1 101"
    sock.sendall(frame(TEXT, command.encode()))
    return sock


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
