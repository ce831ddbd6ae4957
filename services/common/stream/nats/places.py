"""Where groups stand, kept outside of their consumers.

A consumer holds what its group has acked. When the server loses it or somebody deletes it, that is
gone, and a consumer made anew would give the whole retention again before anything new. So each
member writes its group's place into a stream of its own, `<prefix>_GROUPS`, every second in which
something was acked, and a consumer that has to be made begins behind it. That gives up to a second
of records again, and skips nothing: a place is only gone on from while the record that stood there
still does (a log that lost its end may have another record there now).
"""

from __future__ import annotations

import json
from base64 import b64decode
from typing import NamedTuple

from services.common.errors import BrokerUnavailable
from services.common.stream.nats.connection import ApiError, Connection
from services.common.stream.nats.streams import NAME_IN_USE, STREAM_NOT_FOUND, stored_record
from services.common.subjects import group_subject


class Place(NamedTuple):
    """Everything up to here is acked."""

    epoch: int  # of the log
    seq: int  # the stream's sequence
    # When the record there was stored, as the server writes it; "" if it was gone already.
    time: str


class Places:
    """The places of one prefix."""

    def __init__(self, prefix: str, replicas: int) -> None:
        self.stream = f"{prefix}_GROUPS"
        self._replicas = replicas
        self._made = False

    async def keep(self, connection: Connection, name: str, group: str, place: Place) -> None:
        """Raises BrokerUnavailable when that cannot be stored now."""
        if not self._made:
            await self._make(connection)
        # Should this fail, as after somebody deleted the stream, it is made again the next time.
        self._made = False
        answer = await connection.request(group_subject(name, group), place._asdict())
        if b'"error"' in answer.payload:
            reason = answer.payload.decode(errors="replace")[:200]
            raise BrokerUnavailable(connection.target, f"place of {group} not kept: {reason}")
        self._made = True

    async def _make(self, connection: Connection) -> None:
        config = {
            "name": self.stream,
            "subjects": [group_subject(">")],
            "max_msgs_per_subject": 1,
            "discard": "old",
            "storage": "file",
            "num_replicas": self._replicas,
        }
        try:
            await connection.api(f"STREAM.CREATE.{self.stream}", config)
        except ApiError as error:
            if error.code != NAME_IN_USE:
                raise
        self._made = True

    async def find(self, connection: Connection, name: str, group: str) -> Place | None:
        """The place that was kept last."""
        asked = {"last_by_subj": group_subject(name, group)}
        try:
            found = await stored_record(connection, self.stream, asked)
        except ApiError as error:
            if error.code != STREAM_NOT_FOUND:
                raise
            return None
        return None if found is None else _read(str(found.get("data", "")))


async def time_of(connection: Connection, stream: str, seq: int) -> str | None:
    """When the record at a stream's sequence was stored; None where there is none."""
    found = await stored_record(connection, stream, {"seq": seq})
    with connection.reading():
        return None if found is None else str(found["time"])


def _read(data: str) -> Place | None:
    try:
        held = json.loads(b64decode(data))
        return Place(int(held["epoch"]), int(held["seq"]), str(held["time"]))
    except (ValueError, LookupError, TypeError, RecursionError, OverflowError):
        return None
