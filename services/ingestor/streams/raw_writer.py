"""Writing one stream's raw records: who came before, and where the next one stands. Pure.

A writer owns its stream's position (epoch, seq, sub). It moves only when the record was taken by
the broker's window, so a refused record leaves no trace: whoever wrote it sees False, and the
sequencer behind the stream then finds by itself what is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from services.common.errors import RecordRefused
from services.common.stream import Position, Record
from services.common.subjects import StreamKey, raw_subject
from services.common.wire import (
    RECORD_VERSION,
    GapBody,
    LateBody,
    Missed,
    OpenGap,
    RawKind,
    RawRecord,
    ResyncBody,
    StatusBody,
    StreamState,
    decode_raw,
    encode,
    to_raw,
)

# Why a gap was written: the log cannot hold the record that would have stood there.
RECORD_REFUSED = "record_refused"

# Side, price, new size.
Changes = list[tuple[str, str, str]]

# Takes a record, or answers False when there is no room for it now; raises RecordRefused when the
# log can never hold it.
Offer = Callable[[Record], bool]
OpenGaps = tuple[OpenGap, ...]


@dataclass(slots=True, eq=False)
class RawStreamWriter:
    """See the module."""

    key: StreamKey
    line: str  # which ingestor writes
    _offer: Offer
    epoch: int  # of the stream's last record, or of the log when it holds none
    # Of the stream's last record; None when the log holds none, or only statuses.
    seq: int | None = None
    sub: int = 0  # of the stream's last record
    heard: int = 0  # when the stream's last record was received, µs; 0 when that is not known
    open_gaps: OpenGaps = ()  # whose trades are still asked for, as the log tells it
    open_at: tuple[int, int] | None = None  # (`seq`, `sub`) of the newest record that lists them
    # When the newest record that advanced `seq` was received, µs; 0 before the first.
    advanced_at: int = 0
    # When the newest record that lists the open gaps was written, µs; 0: by no one here.
    told_open_at: int = 0
    # The state before the next record as the venue would tell it, where it need not be asked.
    state_of: Callable[[], bytes] | None = None
    _subject: str = field(init=False)

    def __post_init__(self) -> None:
        self._subject = raw_subject(self.key)

    def frame(self, seq: int, body: bytes, ts: int, changes: Changes | None = None) -> bool:
        """The venue's own message at `seq`, which must be above the last one.

        `changes`: what it does to the levels of a book, where the message speaks of orders.
        """
        return self._write("frame", seq, msgspec.Raw(body), ts, changes)

    def resync(
        self, seq: int, cause: str, message: bytes, ts: int, missed: Missed | None = None
    ) -> bool:
        """The whole state as the venue tells it now."""
        body = ResyncBody(cause, "snapshot", msgspec.Raw(message), missed)
        return self._write("resync", seq, to_raw(body), ts)

    def gap(self, cause: str, missed: Missed, ts: int, open_gaps: OpenGaps | None = None) -> bool:
        """The stream goes on after `missed`, from what `state_of` answers.

        `open_gaps`: those that are asked for from now on, when that changes.
        """
        state = None if self.state_of is None else msgspec.Raw(self.state_of())
        body = GapBody(cause, missed, state)
        return self._write("gap", missed.to, to_raw(body), ts, None, open_gaps)

    def late(self, body: LateBody, open_gaps: OpenGaps, ts: int) -> bool:
        """What became known of an announced gap, and those that are open now; `seq` stays."""
        return self._write("late", None, to_raw(body), ts, None, open_gaps)

    def status(self, state: StreamState, since: int, evidence: str, ts: int) -> bool:
        """The stream's state changed; `seq` stays."""
        return self._write("status", None, to_raw(StatusBody(state, since, evidence)), ts)

    def restart(self, epoch: int) -> None:
        """The next record opens a new epoch: at least `epoch`, and above the one before.

        For when the venue's numbering began anew (`epoch` is then the time, µs), and for when the
        log was lost (then the new log's epoch).
        """
        self.epoch = max(self.epoch + 1, epoch)
        self.seq = None
        self.sub = 0
        # It was told in the former epoch; the next record that can lists what is open.
        self.open_at = None

    def after(self, wanted: int) -> int:
        """`wanted`, or the lowest seq still possible when that is behind."""
        return wanted if self.seq is None or wanted > self.seq else self.seq + 1

    def _write(
        self,
        kind: RawKind,
        advance_to: int | None,
        body: msgspec.Raw,
        ts: int,
        changes: Changes | None = None,
        open_gaps: OpenGaps | None = None,
    ) -> bool:
        key, before = self.key, self.seq
        seq, sub = (before or 0, self.sub + 1) if advance_to is None else (advance_to, 0)
        lists = kind != "frame"
        gaps = self.open_gaps if open_gaps is None else open_gaps
        # None for the very first record: nothing stands before it.
        prev_sub = self.sub if self.sub or before is not None else None
        payload = encode(
            RawRecord(
                RECORD_VERSION,
                kind,
                key.venue,
                key.channel,
                key.product,
                self.epoch,
                seq,
                sub,
                before,
                ts,
                self.line,
                body,
                prev_sub,
                changes,
                list(gaps) if gaps and lists else None,
                self.open_at if gaps and not lists else None,
            )
        )
        try:
            taken = self._offer(Record(self._subject, payload, Position(self.epoch, seq, sub)))
        except RecordRefused:
            if lists or key.channel != "trades":
                # As when there is no room: a new state is asked for, which is another record.
                return False
            # No other record can bring this trade, and all behind it would wait.
            return self.gap(RECORD_REFUSED, Missed(seq, seq, 1), ts)
        if not taken:
            return False
        self.sub = sub
        if advance_to is not None:
            self.seq = seq
            self.advanced_at = ts
        if lists:
            self.open_gaps = gaps
            self.open_at = (seq, sub) if gaps else None
            self.told_open_at = ts
        return True


def gap_instead(record: Record) -> Record | None:
    """What stands in the place of a raw record that was taken and that the log will never hold.

    That a trade is missing. None for others, whose stream is then broken there until its next state
    (the normalizer says so in the tick log), and where the record would have to list the open gaps.
    """
    raw = decode_raw(record.payload)
    if raw.kind != "frame" or raw.channel != "trades" or raw.open_at is not None:
        return None
    body = to_raw(GapBody(RECORD_REFUSED, Missed(raw.seq, raw.seq, 1)))
    gap = msgspec.structs.replace(raw, kind="gap", body=body)
    return msgspec.structs.replace(record, payload=encode(gap))
