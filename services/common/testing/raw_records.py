"""Raw records as the ingestor would write them, for tests of whoever reads them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from services.common.stream import Broker, Position, Record
from services.common.subjects import StreamKey, is_pulse, raw_subject
from services.common.testing.conformance import read_all
from services.common.wire import UNCHAINED, RawKind, RawRecord, encode

EPOCH = 1_791_000_000_000_000
FIRST_TS = 1_791_000_100_000_000
_MESSAGES: dict[str, dict[str, Any]] = msgspec.json.decode(
    Path(__file__).with_name("venue_messages.json").read_bytes()
)


class RawStream:
    """Writes one stream's raw records, keeping `prev` and `sub` as the ingestor does.

    Every method answers the record and moves the stream on; `ts_recv` advances 1 ms per record.
    """

    def __init__(self, key: StreamKey, *, epoch: int = EPOCH, line: str = "line-1") -> None:
        self.key = key
        self.epoch = epoch
        self.seq = 0
        self.sub = 0
        self.records: list[RawRecord] = []
        self._line = line

    def add(self, kind: RawKind, seq: int, body: Any, *, prev: int | str | None = "") -> RawRecord:
        """A record at `seq`; `prev` follows by itself unless it is given."""
        held, held_sub = self.seq or None, self.sub
        self.sub = self.sub + 1 if kind in UNCHAINED else 0
        record = RawRecord(
            v=1,
            kind=kind,
            venue=self.key.venue,
            channel=self.key.channel,
            product=self.key.product,
            epoch=self.epoch,
            seq=seq,
            sub=self.sub,
            prev=held if isinstance(prev, str) else prev,
            ts_recv=FIRST_TS + 1000 * len(self.records),
            line=self._line,
            body=msgspec.Raw(body if isinstance(body, bytes) else encode(body)),
            prev_sub=held_sub,
        )
        self.seq = seq
        self.records.append(record)
        return record

    def match(self, trade_id: int, **changes: Any) -> RawRecord:
        """A `match` whose maker sold."""
        body = self._body("match", trade_id=trade_id, sequence=1000 + 7 * trade_id)
        return self.add("frame", trade_id, body | changes)

    def ticker(self, sequence: int, **changes: Any) -> RawRecord:
        body = self._body("ticker", sequence=sequence, trade_id=sequence // 10)
        return self.add("frame", sequence, body | changes)

    def changes(self, seq: int, rows: list[tuple[str, str, str]]) -> RawRecord:
        return self.add("frame", seq, self._body("l2update", changes=rows))

    def order(
        self, sequence: int, kind: str, rows: list[tuple[str, str, str]], **fields: Any
    ) -> RawRecord:
        """A message of `full`, with what it changed in the levels."""
        body = self._body("order", type=kind, sequence=sequence)
        record = self.add("frame", sequence, body | fields)
        self.records[-1] = msgspec.structs.replace(record, changes=rows)
        return self.records[-1]

    def snapshot(
        self, seq: int, bids: list[list[str]], asks: list[list[str]], *, cause: str = "start"
    ) -> RawRecord:
        message = self._body("snapshot", asks=asks, bids=bids)
        body = {"cause": cause, "repair": "snapshot", "message": message}
        return self.add("resync", seq, body)

    def gap(self, seq: int) -> RawRecord:
        """What was missing up to and with `seq` is lost."""
        missed = {"from": self.seq + 1, "to": seq, "count": seq - self.seq}
        return self.add("gap", seq, {"cause": "gap", "missed": missed})

    def late(self, first: int, last: int, trade_ids: Sequence[int], **body: Any) -> RawRecord:
        """Trades of the gap `first` to `last`, as REST tells them."""
        rows = [_MESSAGES["trade"] | {"trade_id": trade_id} for trade_id in trade_ids]
        missed = {"from": first, "to": last, "count": last - first + 1}
        whole = {"missed": missed, "messages": rows, "open": [], "lost": [], "reason": "found"}
        return self.add("late", self.seq, whole | body)

    def status(self, state: str = "live") -> RawRecord:
        body = {"state": state, "since": FIRST_TS, "evidence": "heartbeat"}
        return self.add("status", self.seq, body)

    def _body(self, kind: str, **fields: Any) -> dict[str, Any]:
        """A message of the venue, as `venue_messages.json` has it but for these fields."""
        return _MESSAGES[kind] | {"product_id": self.key.product} | fields


def raw_message(record: RawRecord) -> Record:
    """The record as the ingestor publishes it."""
    key = StreamKey(record.venue, record.channel, record.product)
    position = Position(record.epoch, record.seq, record.sub)
    return Record(raw_subject(key), encode(record), position)


async def publish_all(broker: Broker, records: Iterable[RawRecord]) -> None:
    """Store them, in order."""
    await broker.publish(*map(raw_message, records))


async def log_bytes(broker: Broker, log: str) -> dict[str, list[bytes]]:
    """Everything a log holds of streams: each subject's payloads, in order."""
    return {
        subject: [message.payload for message in await read_all(broker, subject)]
        for subject in await broker.subjects(log)
        if not is_pulse(subject)
    }
