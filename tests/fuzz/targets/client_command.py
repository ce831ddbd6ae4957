"""A client's message: one `Problem` with a code of the protocol, or a command that is what it says.

A command that is written anew is read the same; it names no more streams than were counted before
it was looked at; each of its positions is one of ours or a `Problem`.
"""

from __future__ import annotations

import msgspec

from services.gateway.protocol import (
    ERROR_CODES,
    Command,
    Problem,
    Subscribe,
    _Streams,
    id_in,
    parse_command,
    parse_json,
    streams_named,
)


def check(data: bytes) -> None:
    text = data.decode(errors="surrogateescape")
    id_in(text)
    try:
        value = parse_json(text)
        named = streams_named(value)
        command = parse_command(value)
    except Problem as problem:
        _told(problem)
        return
    _unchanged(command)
    if isinstance(command, _Streams):
        assert len(command.streams) <= named
    if isinstance(command, Subscribe):
        for product in command.all_products:
            try:
                seq, epoch = command.position_of(product)
            except Problem:
                continue
            assert seq is None or 0 <= seq < 2**63
            assert epoch is None or 0 <= epoch < 2**63


def _told(problem: Problem) -> None:
    assert problem.code in ERROR_CODES
    answer = msgspec.json.encode(problem.body())
    # Whatever was sent, its sender is not sent it back by the megabyte.
    assert len(answer) < 4096, answer[:200]


def _unchanged(command: Command) -> None:
    written = msgspec.json.encode(command.model_dump(exclude_unset=True))
    fields = parse_json(written.decode()) | {"type": getattr(command, "type")}  # noqa: B009 - of each command, not of all
    assert parse_command(fields) == command


SEEDS = (
    b'{"type":"subscribe","product":"BTC-USD","channel":"book","depth":10,"id":1}',
    (
        b'{"type":"subscribe","products":["BTC-USD","ETH-USD"],"channels":["ticker","trades"],'
        b'"from_seq":{"BTC-USD":5},"epoch":7,"mode":"latest","max_rate":1.5}'
    ),
    b'{"type":"subscribe","product":"BTC-USD","cursor":"1700000000000000.12","late":true}',
    b'{"type":"subscribe","products":["A"],"cursor":{"A":"1.2"},"snapshot":false,"batch":true}',
    b'{"type":"unsubscribe","products":["BTC-USD"],"id":"x"}',
    b'{"type":"resync","product":"BTC-USD","venue":"coinbase"}',
    b'{"type":"ping","ts":1.5,"id":2}',
    b'{"type":"auth","api_key":"secret"}',
)
