"""Records on their way to JetStream: the bytes they are sent as, and what is answered. Pure.

A message's bytes are put together in one step, as this is done for every record. The server answers
that it is stored, or why not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from services.common.stream.nats.records import message_id
from services.common.stream.nats.wire import HEADER_LINE, description_of, header_block, status_of
from services.common.stream.records import InFlight, Record

_VERSION = HEADER_LINE.decode() + "\r\n"
# Of a message's size, what is not its payload, id and own headers: at most two ids, and names.
_MOST_ADDED = 400


class Published(InFlight, kw_only=True):
    """A record in the window, or (with a ticket below 0) one that is written again."""

    identity: str  # its message id
    headers: str  # the record's own
    sent: bool = False  # it was sent before, on this connection or an earlier one
    # In a batch of which the server had a record; so it has not stored this one now.
    refused: bool = False
    epoch: int = 0  # of the log that stored it
    lane: Any = None  # the one it was put into last


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


# In an acknowledgement.
_SEQUENCE = rb'"seq": ?(\d{1,19})'
# Of a batch with a record that it has; and of one that was cut short, as by a change of leader.
# Other errors of batches are for good.
_STORED_ALREADY = b'"err_code":10201,'
_OF_BATCHES = re.compile(rb"(?:atomic|batch) publish (.*)")
_CUT_SHORT = (b"incomplete", b"inflight")
# That it could not store: a bound is reached, or the disk is full.
_NOT_STORED = re.compile(rb'"err_code": ?10077,')
# What it will say of this record however often it is sent: its payload, or its headers, are larger
# than the stream or the server allows.
_FOR_GOOD = re.compile(rb'"err_code": ?(?:10054|10097),')


class Acks:
    """A run handler (see `Frames.runs`) for the acks on `<inbox>.<ticket>`.

    Acks are short, all alike, and as many as there are records: split one by one as any message
    they cost more than all else that is done with them.

    `take` gets those that stand together, each as ticket, payload and sequence, which are digits.
    What is no ack, an error for instance, ends the run and goes to the subscription's handler like
    any message.
    """

    def __init__(
        self, inbox: str, take: Callable[[list[tuple[bytes, bytes, bytes]]], None]
    ) -> None:
        head = rb"MSG %b\.(-?\d{1,18}) [\d ]+\r\n" % re.escape(inbox.encode())
        one = head + rb"(\{\"stream\":\"[^\"\r\n]*\", ?%b(?:,[^\r\n]*)?\})\r\n" % _SEQUENCE
        # Nobody reads its groups.
        self._all = re.compile(rb"(?:%b)+" % re.sub(rb"\((?!\?)", rb"(?:", one)).match
        self._each = re.compile(one).findall
        self._take = take

    def __call__(self, buffer: bytes, at: int) -> int:
        found = self._all(buffer, at)
        if found is None:
            return at
        end = found.end()
        self._take(self._each(buffer, at, end))
        return end


def sequence_of(ack: bytes) -> int:
    """The stream's sequence in an acknowledgement; 0 without one."""
    found = re.search(_SEQUENCE, ack)
    return 0 if found is None else int(found[1])


class Refusal(NamedTuple):
    """An answer that something is not stored."""

    reason: str  # in the server's words
    for_good: bool  # it will say so however often this is sent
    has_some: bool  # it is a batch of which the server has a record; so none of it was stored now
    of_batch: bool  # it is about a batch as such; its records may be stored one by one
    cut_short: bool  # it is about a batch of which not all came in time; that may pass
    unlike: bool  # the log's newest record is not the one that this one names
    # There is no room, for one of a batch's records (a bound of its subject) or for any.
    full: bool


def read_refusal(headers: bytes, data: bytes) -> Refusal:
    """What an answer's header block and payload say."""
    batch = _OF_BATCHES.search(data)
    return Refusal(
        _reason(headers, data),
        for_good=_FOR_GOOD.search(data) is not None,
        has_some=_STORED_ALREADY in data,
        of_batch=batch is not None,
        cut_short=batch is not None and any(words in batch[1] for words in _CUT_SHORT),
        unlike=b"wrong last msg ID" in data,
        full=_NOT_STORED.search(data) is not None,
    )


def _reason(headers: bytes, data: bytes) -> str:
    if not data:
        return f"{status_of(headers)} {description_of(headers) or 'nobody stores it'}".strip()
    try:
        error = json.loads(data)["error"]
        return f"{error['description']} (JetStream error {error['err_code']})"
    except (ValueError, LookupError, TypeError):
        return data.decode(errors="replace")[:300]
