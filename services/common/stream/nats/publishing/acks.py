"""The server's acknowledgements of what was published, read many at a time. Pure.

Acks are short, all alike, and as many as there are records: split one by one as any message they
cost more than all else that is done with them.
"""

from __future__ import annotations

import re
from collections.abc import Callable


class Acks:
    """A run handler (see `Frames.runs`) for the acks on `<inbox>.<ticket>`.

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
