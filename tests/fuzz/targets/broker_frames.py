"""What a NATS server sends: messages and lines, or an error that ends the connection.

However it is cut it says the same, and a message's headers can be asked for whatever they are. The
first byte says where it is cut.
"""

from __future__ import annotations

from services.common.errors import InvalidSubject
from services.common.stream.nats.records import NatsMessage, message_id, position_of
from services.common.stream.nats.wire import (
    Frames,
    description_of,
    header_of,
    headers_of,
    status_of,
)
from services.common.stream.records import Position

Seen = tuple[list[bytes], list[tuple[str, str, bytes, bytes]], bool]


def _fed(chunks: list[bytes]) -> Seen:
    frames = Frames()
    messages: list[tuple[str, str, bytes, bytes]] = []
    frames.handlers["1"] = lambda *message: messages.append(message)
    lines: list[bytes] = []
    try:
        for chunk in chunks:
            lines += frames.feed(chunk)
    except (ValueError, IndexError):
        # Whatever it is, `LeanClient.parse` makes a ProtocolError of it.
        return lines, messages, True
    return lines, messages, False


def check(data: bytes) -> None:
    step, sent = (data[0] if data else 0) + 1, data[1:]
    lines, messages, broken = _fed([sent])
    pieces = _fed([sent[at : at + step] for at in range(0, len(sent), step)])
    assert pieces[1:] == (messages, broken)
    if not broken:
        assert pieces[0] == lines
    for subject, _, headers, payload in messages:
        status_of(headers), description_of(headers), headers_of(headers)
        header_of(headers, b"Nats-Msg-Id:")
        message = NatsMessage(subject, payload, headers, 3)
        position = message.position
        assert all(number >= 0 for number in position)
        assert isinstance(message.headers, dict | type(message.headers))
        try:
            again = message_id(subject, position)
        except InvalidSubject:
            continue
        assert position == position_of(subject, again) or position == Position(0, 0)


_ID = b"NATS/1.0\r\nNats-Msg-Id: coinbase:trades:BTC-USD:3:9\r\nNats-Sequence: 4\r\n\r\n"
SEEDS = (
    b'\x05INFO {"server_id":"x"}\r\nPING\r\nMSG market.raw.coinbase.trades.A 1 2\r\nhi\r\n',
    b"\xffHMSG market.tick.0.coinbase.trades.BTC-USD 1 %d %d\r\n%bhi\r\n"
    % (len(_ID), len(_ID) + 2, _ID),
    b"\x00HMSG a 1 reply 28 28\r\nNATS/1.0 503 No Message \r\n\r\n\r\n+OK\r\n",
    b"\x02MSG a 2 reply 0\r\n\r\nMSG a 1 5\r\nhello\r\n-ERR 'x'\r\n",
)
