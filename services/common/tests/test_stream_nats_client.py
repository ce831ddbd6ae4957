"""NATS' wire protocol, split without a socket; nats-py's own names."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.aio.transport import TcpTransport

from services.common.stream import Position, Record
from services.common.stream.nats.client import LeanClient
from services.common.stream.nats.publishing.messages import (
    Acks,
    append_batch,
    append_message,
    in_flight,
    sequence_of,
)
from services.common.stream.nats.wire import (
    Frames,
    description_of,
    header_block,
    header_of,
    headers_of,
    publish_frame,
    status_of,
)

MESSAGES = st.lists(
    st.tuples(
        st.sampled_from(["a.b", "_INBOX.x.1"]),
        st.sampled_from(["", "$JS.ACK.S.C.1.2.3.4.5"]),
        st.sampled_from([b"", b"NATS/1.0\r\nNats-Msg-Id: x:1\r\n\r\n", b"NATS/1.0 503\r\n\r\n"]),
        st.binary(max_size=40) | st.just(b"\r\nMSG a 1 3\r\n"),
    ),
    max_size=8,
)


def on_wire(subject: str, reply: str, headers: bytes, payload: bytes) -> bytes:
    names = f"{subject} 7 {reply} " if reply else f"{subject} 7 "
    size = len(headers) + len(payload)
    if headers:
        return f"HMSG {names}{len(headers)} {size}\r\n".encode() + headers + payload + b"\r\n"
    return f"MSG {names}{size}\r\n".encode() + payload + b"\r\n"


@given(MESSAGES, st.data())
def test_messages_come_out_whole_however_they_are_cut(
    messages: list[tuple[str, str, bytes, bytes]], data: st.DataObject
) -> None:
    stream = b"PING\r\n".join(on_wire(*message) for message in messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    frames = Frames()
    found: list[tuple[str, str, bytes, bytes]] = []
    frames.handlers["7"] = lambda *message: found.append(message)
    lines: list[bytes] = []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        lines += frames.feed(stream[begin:end])
    assert found == messages
    assert lines == [b"PING"] * max(0, len(messages) - 1)


def test_what_is_not_the_protocol_is_refused() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        Frames().feed(b"MSG a.b 1 many\r\n")


def test_headers_are_read_one_by_one_or_all() -> None:
    block = b"NATS/1.0\r\ntraceparent: 00-a-b-01\r\nNats-Msg-Id:x:1\r\n\r\n"
    assert header_of(block, b"Nats-Msg-Id:") == "x:1"
    assert header_of(block, b"Nats-Sequence:") is None
    assert headers_of(block) == {"traceparent": "00-a-b-01", "Nats-Msg-Id": "x:1"}
    assert status_of(block) == ""
    status = b"NATS/1.0 409 Message Size Exceeds MaxBytes\r\nNats-Pending-Messages: 4\r\n\r\n"
    assert (status_of(status), description_of(status)) == ("409", "Message Size Exceeds MaxBytes")
    assert header_of(status, b"Nats-Pending-Messages:") == "4"


def test_a_header_cannot_smuggle_another() -> None:
    assert header_block({"a": "1\r\nNats-Msg-Id: 2"}) == b"a: 1 Nats-Msg-Id: 2\r\n"
    for name in ("", "a b", "a:b", "a\r\nb"):
        with pytest.raises(ValueError, match="name of a header"):
            header_block({name: "1"})


def test_what_never_ends_is_not_waited_for() -> None:
    for begun in (b"MSG a.b 1 999999999999\r\n", b"HMSG a.b 1 12 999999999999\r\n"):
        with pytest.raises(ValueError, match="impossible size"):
            Frames().feed(begun)
    frames, piece = Frames(), b"x" * 65_536
    for _ in range(16):
        frames.feed(piece)
    with pytest.raises(ValueError, match="without end"):
        frames.feed(piece)


@pytest.mark.parametrize(
    "line",
    [
        b"MSG a 1 -1",
        # As long as the line with its end: the next look would begin where this one did.
        b"MSG a 1 -15",
        b"MSG a 1 -9",
        b"HMSG a 1 -1 4",
        b"HMSG a 1 4 -1",
        b"HMSG a 1 5 4",
    ],
)
def test_a_message_of_impossible_size_is_not_the_protocol(line: bytes) -> None:
    frames = Frames()
    seen: list[bytes] = []
    frames.handlers["1"] = lambda _subject, _reply, _headers, payload: seen.append(payload)
    with pytest.raises(ValueError, match="impossible size"):
        frames.feed(b"MSG a 1 2\r\nhi\r\n" + line + b"\r\nMSG a 1 2\r\nhi\r\n")
    assert seen == [b"hi"]


def test_a_publish_counts_its_bytes() -> None:
    assert publish_frame("a.b", "r", b"xyz") == b"PUB a.b r 3\r\nxyz\r\n"


def test_nats_py_has_the_names_that_the_client_stands_on() -> None:
    client = Client()
    for name in ("_ps", "_sid", "_transport"):
        assert hasattr(client, name)
    for name in ("_process_ping", "_process_pong", "_process_info", "_process_err"):
        assert callable(getattr(client, name))
    for name in ("write", "drain"):
        assert callable(getattr(TcpTransport, name))
    # Nothing that nats-py calls is replaced by accident.
    assert not {"parse", "reset", "attach", "detach", "write", "drained"} & set(dir(Client))
    assert LeanClient()._ps.parse


def _published(data: bytes) -> list[tuple[str, str, bytes, bytes]]:
    """What a server reads out of HPUB messages: subject, reply, header block, payload."""
    found = []
    while data:
        line, _, data = data.partition(b"\r\n")
        verb, subject, *reply, head, total = line.decode().split(" ")
        assert verb == "HPUB"
        block, payload = data[: int(head)], data[int(head) : int(total)]
        assert data[int(total) : int(total) + 2] == b"\r\n"
        assert block.startswith(b"NATS/1.0\r\n")
        assert block.endswith(b"\r\n\r\n")
        found.append((subject, reply[0] if reply else "", block, payload))
        data = data[int(total) + 2 :]
    return found


HEADERS = st.none() | st.dictionaries(st.sampled_from(["a", "b-c"]), st.text(max_size=5))


@given(st.lists(st.tuples(st.binary(max_size=20), HEADERS), min_size=1, max_size=4), st.booleans())
def test_a_message_is_sent_with_its_id_its_headers_and_true_lengths(
    records: list[tuple[bytes, dict[str, str] | None]], batch: bool
) -> None:
    subject = "market.raw.coinbase.trades.BTC-USD"
    items = [
        in_flight(Record(subject, payload, Position(1, n, n % 2), headers))
        for n, (payload, headers) in enumerate(records, 1)
    ]
    for n, item in enumerate(items, 1):
        item.ticket = n
    frames: list[bytes] = []
    if batch:
        append_batch(frames, items, "inbox", "batch-1")
    else:
        for item in items:
            append_message(frames, item, "inbox", "before" if item.ticket > 1 else "")
    sent = _published(b"".join(frames))
    assert [payload for *_, payload in sent] == [payload for payload, _ in records]
    for item, (to, reply, block, payload) in zip(items, sent, strict=True):
        last = item.ticket == len(items)
        assert to == subject
        assert reply == (f"inbox.{item.ticket}" if last or not batch else "")
        assert len(block) + len(payload) <= item.size
        headers = headers_of(block)
        assert headers.pop("Nats-Msg-Id") == item.identity
        assert headers.pop("Nats-Expected-Last-Msg-Id", "") == (
            "before" if item.ticket > 1 and not batch else ""
        )
        if batch:
            assert headers.pop("Nats-Batch-Id") == "batch-1"
            assert headers.pop("Nats-Batch-Sequence") == str(item.ticket)
            assert headers.pop("Nats-Batch-Commit", "") == ("1" if last else "")
        own = {name: " ".join(value.splitlines()).strip() for name, value in
               (item.record.headers or {}).items()}  # fmt: skip
        assert headers == own


ANSWERS = st.sampled_from(
    [
        b'{"stream":"MARKET_RAW","seq":7}',
        b'{"stream":"MARKET_RAW", "seq":7,"duplicate": true}',
        b'{"error":{"code":400},"stream":"MARKET_RAW","seq":0}',
        b"",
        b'{"stream"\r\nMSG I.1 1 2\r\n{}\r\n}',
    ]
)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.integers(-9, 10**12), ANSWERS).map(
                lambda answer: b"MSG I.%d 1 %d\r\n%b\r\n" % (answer[0], len(answer[1]), answer[1])
            ),
            st.sampled_from([b"PING\r\n", b"MSG I.5 2 2\r\n{}\r\n", b"+OK\r\n"]),
        ),
        max_size=12,
    ),
    st.lists(st.integers(1, 60), min_size=1),
)
def test_acks_read_many_at_a_time_are_those_read_one_by_one(
    sent: list[bytes], cuts: list[int]
) -> None:
    assert _answers(b"".join(sent), cuts, many=True) == _answers(b"".join(sent), cuts, many=False)


def _answers(stream: bytes, cuts: list[int], *, many: bool) -> tuple[list[Any], list[bytes]]:
    """What of the stream goes to the handler, ticket and payload, and which lines are left."""
    seen: list[Any] = []

    def one(subject: str, _reply: str, _headers: bytes, payload: bytes) -> None:
        seen.append((int(subject.rpartition(".")[2]), payload))

    def acks(found: list[tuple[bytes, bytes, bytes]]) -> None:
        for ticket, payload, sequence in found:
            assert int(sequence) == sequence_of(payload)
            seen.append((int(ticket), payload))

    frames = Frames()
    frames.handlers["1"] = one
    if many:
        frames.runs["1"] = Acks("I", acks)
    lines: list[bytes] = []
    at = turn = 0
    while at < len(stream):
        size = cuts[turn % len(cuts)]
        lines += frames.feed(stream[at : at + size])
        at += size
        turn += 1
    return seen, lines
