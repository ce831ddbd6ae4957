"""Records on their way to JetStream, and the bytes they are sent as. Pure.

A message's bytes are put together in one step, as this is done for every record.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from services.common.stream.nats.records import message_id
from services.common.stream.nats.wire import HEADER_LINE, header_block
from services.common.stream.records import InFlight, Record

_VERSION = HEADER_LINE.decode() + "\r\n"
# Of a message's size, what is not its payload, id and own headers: at most two ids, and names.
_MOST_ADDED = 400


class Published(InFlight, kw_only=True):
    """A record in the window, or (with a ticket below 0) one that is written again.

    Attributes:
        identity: its message id.
        headers: the record's own.
        sent: it was sent before, on this connection or an earlier one.
        refused: in a batch of which the server had a record; so it has not stored this one now.
        epoch: of the log that stored it.
        lane: the one it was put into last.
    """

    identity: str
    headers: str
    sent: bool = False
    refused: bool = False
    epoch: int = 0
    lane: Any = None


def in_flight(record: Record) -> Published:
    """A record without a ticket, which has passed `check_record`."""
    identity = message_id(record.subject, record.position)
    own = header_block(record.headers).decode() if record.headers else ""
    # A character of a header takes four bytes at most.
    size = len(record.payload) + 4 * len(own) + len(identity) + _MOST_ADDED
    return Published(record, size, identity=identity, headers=own)


def append_message(frames: list[bytes], item: Published, inbox: str, follows: str) -> int:
    """Append the message, to be answered on `<inbox>.<ticket>`; answers its size, roughly.

    `follows`: the id of the record that must be the log's newest, "" for any.
    """
    expected = f"Nats-Expected-Last-Msg-Id: {follows}\r\n" if follows else ""
    return _append(frames, item.record, f"{inbox}.{item.ticket} ", item, expected)


def append_batch(frames: list[bytes], items: Sequence[Published], inbox: str, batch: str) -> None:
    """Append messages of which the server stores all or none (`batch` is unique for ever).

    The whole is answered on `<inbox>.<ticket>` of the last.
    """
    last = len(items)
    for number, item in enumerate(items, 1):
        headers = f"Nats-Batch-Id: {batch}\r\nNats-Batch-Sequence: {number}\r\n"
        reply = ""
        if number == last:
            headers += "Nats-Batch-Commit: 1\r\n"
            reply = f"{inbox}.{item.ticket} "
        _append(frames, item.record, reply, item, headers)


def _append(frames: list[bytes], record: Record, reply: str, item: Published, added: str) -> int:
    payload = record.payload
    block = f"{_VERSION}{item.headers}Nats-Msg-Id: {item.identity}\r\n{added}\r\n"
    # Only the record's own headers can be more than ASCII.
    head = len(block) if not item.headers else len(block.encode())
    total = head + len(payload)
    frames += (f"HPUB {record.subject} {reply}{head} {total}\r\n{block}".encode(), payload, b"\r\n")
    return total
