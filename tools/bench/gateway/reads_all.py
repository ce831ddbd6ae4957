"""`python -m tools.bench.gateway.reads_all PORT`: clients that subscribe and read everything.

Standard input is one JSON array: for each client its command, and the extension header it sends or
an empty text. Prints a line when all are connected; whoever started it ends it.
"""

from __future__ import annotations

import selectors
import socket
import sys

import msgspec

from services.gateway.testing.wire import TEXT
from tools.bench.websocket import frame, handshake


def main(port: int) -> None:
    wanted = msgspec.json.decode(sys.stdin.readline(), type=list[tuple[str, str]])
    chosen = selectors.DefaultSelector()
    for command, extensions in wanted:
        chosen.register(_connected(port, command, extensions), selectors.EVENT_READ)
    print("connected", flush=True)
    buffer = bytearray(1 << 18)
    while True:
        for key, _events in chosen.select():
            if isinstance(key.fileobj, socket.socket) and not key.fileobj.recv_into(buffer):
                chosen.unregister(key.fileobj)


def _connected(port: int, command: str, extensions: str) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port))
    sock.sendall(handshake(*([f"Sec-WebSocket-Extensions: {extensions}"] if extensions else [])))
    assert sock.recv(12) == b"HTTP/1.1 101"
    sock.sendall(frame(TEXT, command.encode()))
    return sock


if __name__ == "__main__":
    main(int(sys.argv[1]))
