"""What the server answers to what is published: that it is stored, or why not. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import NamedTuple

from services.common.stream.nats.wire import description_of, status_of

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

    `take` gets each one's ticket and payload. What is no ack, an error for instance, ends the run
    and goes to the subscription's handler like any message.
    """

    def __init__(self, inbox: str, take: Callable[[int, bytes], None]) -> None:
        one = rb"MSG %b\.(-?\d{1,18}) \d+ \d+\r\n(\{\"stream\"[^\r\n]*\})\r\n" % re.escape(
            inbox.encode()
        )
        self._all = re.compile(rb"(?:%b)+" % one).match
        self._each = re.compile(one).findall
        self._take = take

    def __call__(self, buffer: bytes, at: int) -> int:
        found = self._all(buffer, at)
        if found is None:
            return at
        end = found.end()
        take = self._take
        for ticket, payload in self._each(buffer, at, end):
            take(int(ticket), payload)
        return end


class Refusal(NamedTuple):
    """An answer that something is not stored.

    Attributes:
        reason: in the server's words.
        for_good: it will say so however often this is sent.
        has_some: it is a batch of which the server has a record; so none of it was stored now.
        of_batch: it is about a batch as such; its records may be stored one by one.
        cut_short: it is about a batch of which not all came in time; that may pass.
        unlike: the log's newest record is not the one that this one names.
        full: there is no room, for one of a batch's records (a bound of its subject) or for any.
    """

    reason: str
    for_good: bool
    has_some: bool
    of_batch: bool
    cut_short: bool
    unlike: bool
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
