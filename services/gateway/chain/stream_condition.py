"""What a stream's subscribers are told of its state. Pure: times are given, µs.

The log's statuses are the ingestor's word. When what is served is older than it may be
(`freshness`), the gateway says `stale` over it, and takes that back by repeating the log's word.
What the log says to be `stale` or `down` already is not said again.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from services.common.stream import Position
from services.common.subjects import StreamKey
from services.common.wire import RECORD_VERSION, StreamState, encode
from services.gateway.chain.freshness import Age
from services.gateway.chain.replica import Phase, Replica
from services.gateway.chain.stream_record import StreamRecord, stream_fields

_GRAVE = ("stale", "down")
_NOWHERE = Position(0, 0)


class _State(msgspec.Struct):
    state: StreamState


_state = msgspec.json.Decoder(_State).decode


class GatewayStatus(StreamRecord):
    """The gateway's own status: sent as the log's are, with evidence in a form of its own."""

    __slots__ = ()

    def __init__(self, position: Position, payload: bytes) -> None:
        # Not read like a log's record, which it is not.
        self._held = payload
        self._at = -1
        self.size = len(payload)
        self.trace = None
        self.unreadable = None
        self.repair = None
        self.prev = None
        self.kind = "status"
        self.position = position
        self.chained = False
        self.plain = True
        # It did not come from an ingestor: nothing is to be learned from its delay.
        self.ts_ingest = 0


@dataclass(slots=True, eq=False)
class StreamCondition:
    """One stream's."""

    _key: StreamKey
    _shard: int
    _replica: Replica
    age: Age  # how old what is served is
    # Whether the last that subscribers were told is the gateway's `stale`.
    _overruled: bool = False

    def judge(self, pulse: int | None, now: int) -> GatewayStatus | None:
        """What subscribers have to be told, if anything; `pulse`: when the product's newest was."""
        replica = self._replica
        if replica.phase is Phase.LIVE:
            self.age.prove(pulse, replica.last_ingest, replica.mark, now)
        return self._word(now) if self.age.judge(now) else None

    def passed_on(self, now: int) -> GatewayStatus | None:
        """A status of the log was passed on; what has to be said over it, if anything."""
        self._overruled = False
        return self._word(now) if self.age.stale else None

    def current(self, now: int) -> bytes | None:
        """What a subscriber who comes now is told, if anything is known."""
        if self._overrules:
            return self._payload("stale", now)
        status = self._replica.status
        return None if status is None else status.payload

    def news(self, began: int, now: int) -> bytes | None:
        """What a subscriber has to be told that was not live from `began` until now, if anything.

        What the log says it has read meanwhile; what the gateway said it has not heard.
        """
        return self.current(now) if self._overrules or self.age.since >= began else None

    @property
    def state(self) -> StreamState | None:
        """The stream's state, as a subscriber is told it."""
        return "stale" if self._overrules else self._logged

    @property
    def _logged(self) -> StreamState | None:
        status = self._replica.status
        return None if status is None else _state(status.payload).state

    @property
    def _overrules(self) -> bool:
        return self.age.stale and self._logged not in _GRAVE

    def _word(self, now: int) -> GatewayStatus | None:
        overrules = self._overrules
        if overrules is self._overruled:
            return None
        self._overruled = overrules
        payload = self._payload("stale" if overrules else self._logged or "live", now)
        return GatewayStatus(self._replica.mark or _NOWHERE, payload)

    def _payload(self, state: StreamState, now: int) -> bytes:
        mark = self._replica.mark or _NOWHERE
        age = self.age
        return encode(
            {
                "type": "status",
                "v": RECORD_VERSION,
                **stream_fields(self._key),
                "shard": self._shard,
                "epoch": mark.epoch,
                "seq": mark.seq,
                "sub": mark.sub,
                "state": state,
                "since": age.since,
                "evidence": {"by": "gateway", "age_ms": max(0, now - age.heard) // 1000},
                "ts_ingest": age.heard,
            }
        )
