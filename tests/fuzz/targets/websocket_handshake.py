"""The headers of a handshake: accepted as the library accepts them, or refused with a status.

One header a line, as `name: value`. What is answered to an offered extension is itself readable,
and nothing that a client wrote is answered but by its meaning.
"""

from __future__ import annotations

from websockets.headers import parse_extension
from websockets.utils import accept_key as library_accepts

from services.gateway.websocket.rfc6455.deflate import agree
from services.gateway.websocket.rfc6455.handshake import (
    Header,
    Refused,
    accept_key,
    refusal,
    subprotocols,
    upgrade,
)

KEY = b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\nsec-websocket-version: 13\n"


def _headers(data: bytes) -> list[Header]:
    lines = [line.partition(b":") for line in data.split(b"\n")]
    return [(name.strip().lower(), value.strip()) for name, _, value in lines]


def check(data: bytes) -> None:
    headers = _headers(data)
    agreed = agree(headers)
    extensions = []
    if agreed is not None:
        ((name, value), _) = agreed
        ((extension, parameters),) = parse_extension(value.decode())
        assert (name, extension) == (b"sec-websocket-extensions", "permessage-deflate")
        assert ("server_no_context_takeover", None) in parameters
        extensions = [(name, value)]
    offered = subprotocols(headers)
    assert len(offered) <= data.count(b",") + data.count(b"\n") + 1
    try:
        accept = accept_key("GET", "1.1", headers)
    except Refused as refused:
        answer = refusal(refused.status, refused.headers, refused.reason.encode())
    else:
        _accepted(accept, headers, extensions)
        return
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 426 "))


def _accepted(accept: bytes, headers: list[Header], extensions: list[Header]) -> None:
    (key,) = (value for name, value in headers if name == b"sec-websocket-key")
    assert accept == library_accepts(key.decode()).encode()
    answer = upgrade(accept, extensions)
    assert answer.startswith(b"HTTP/1.1 101 ")
    # No line of it is a client's.
    assert answer.count(b"\r\n") == 5 + len(extensions)


SEEDS = (
    KEY,
    KEY + b"sec-websocket-extensions: permessage-deflate; client_max_window_bits\n",
    KEY + b"sec-websocket-extensions: x-other, permessage-deflate; server_max_window_bits=10\n",
    KEY + b'sec-websocket-extensions: permessage-deflate; server_max_window_bits="9"\n',
    KEY + b"sec-websocket-protocol: md.v1.json, other\n",
    b"sec-websocket-key: short\nsec-websocket-version: 13, 8\n",
)
