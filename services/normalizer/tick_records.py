"""Raw records that are no frames, as the tick log's records. Pure."""

from __future__ import annotations

import msgspec

from services.common.subjects import StreamKey
from services.common.wire import (
    RECORD_VERSION,
    Late,
    LateBody,
    Missed,
    RawRecord,
    Reset,
    Status,
    StatusBody,
    Tick,
)
from services.normalizer.chain import Link
from services.normalizer.venues import Unmappable, VenueMapper


def status_of(key: StreamKey, shard: int, raw: RawRecord, status: StatusBody) -> Status:
    return Status(
        v=RECORD_VERSION,
        venue=key.venue,
        channel=key.channel,
        product=key.product,
        shard=shard,
        epoch=raw.epoch,
        seq=raw.seq,
        sub=raw.sub,
        state=status.state,
        since=status.since,
        evidence=status.evidence,
        ts_ingest=raw.ts_recv,
    )


def late_of(
    key: StreamKey, shard: int, raw: RawRecord, late: LateBody, venue: VenueMapper
) -> tuple[Late, tuple[Unmappable, ...]]:
    """A trade that cannot be read is left out, and told by what then is missing in the record."""
    ticks: list[Tick] = []
    refused: list[Unmappable] = []
    for message in late.messages:
        try:
            ts_event, venue_seq, fields, _ = venue.fields(key, bytes(message), raw.ts_recv)
        except Unmappable as error:
            refused.append(error)
            continue
        if fields.last_trade is None:
            refused.append(Unmappable("bad_field", "late, and no trade"))
            continue
        seq = fields.last_trade.trade_id
        ticks.append(
            Tick(
                v=RECORD_VERSION,
                venue=key.venue,
                channel=key.channel,
                product=key.product,
                shard=shard,
                epoch=raw.epoch,
                seq=seq,
                prev=seq - 1,
                venue_seq=venue_seq,
                ts_event=ts_event,
                ts_ingest=raw.ts_recv,
                fields=fields,
            )
        )
    record = Late(
        v=RECORD_VERSION,
        venue=key.venue,
        channel=key.channel,
        product=key.product,
        shard=shard,
        epoch=raw.epoch,
        seq=raw.seq,
        sub=raw.sub,
        missed=late.missed,
        ticks=ticks,
        open=late.open,
        lost=late.lost,
        reason=late.reason,
        ts_ingest=raw.ts_recv,
    )
    return record, tuple(refused)


def reset_of(
    key: StreamKey,
    shard: int,
    raw: RawRecord,
    link: Link,
    cause: str,
    *,
    missed: Missed | None,
    state: msgspec.Raw,
    ts_event: int,
) -> Reset:
    """A reset at the raw record's place. There is none without the state that follows it."""
    return Reset.at(
        key,
        shard,
        (raw.epoch, raw.seq),
        link.prev,
        (ts_event, raw.ts_recv),
        cause,
        state,
        missed=missed,
        prev_sub=raw.prev_sub or 0,
    )
