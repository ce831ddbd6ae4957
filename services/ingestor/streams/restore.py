"""Where a stream's raw records end: which announced gaps are open there."""

from __future__ import annotations

import structlog

from services.common.errors import PositionLost
from services.common.stream.broker import Broker
from services.common.stream.records import Position
from services.common.subjects import StreamKey, raw_subject
from services.common.wire import UNREADABLE, RawRecord, decode_raw
from services.ingestor.streams.raw_writer import OpenGaps

log = structlog.get_logger(__name__)

_PAGE = 64


async def open_gaps(broker: Broker, last: RawRecord) -> tuple[OpenGaps, tuple[int, int] | None]:
    """The gaps that are open after a stream's newest record, and the place that lists them.

    Raises:
        BrokerUnavailable: the log does not answer.
    """
    if last.open_gaps is not None:
        return tuple(last.open_gaps), (last.seq, last.sub)
    if last.open_at is None:
        return (), None
    told = Position(last.epoch, *last.open_at)
    subject = raw_subject(StreamKey(last.venue, last.channel, last.product))
    cursor = await broker.seek(subject, Position(told.epoch, told.seq - 1))
    try:
        while True:
            page = await broker.read(subject, cursor, limit=_PAGE)
            for message in page.messages:
                if message.position == told:
                    found = decode_raw(message.payload)
                    return tuple(found.open_gaps or ()), last.open_at
                if message.position > told:
                    raise PositionLost(subject, cursor, None)
            if page.at_head:
                raise PositionLost(subject, cursor, None)
            cursor = page.cursor
    except (PositionLost, *UNREADABLE) as error:
        # It is written again long before it expires, so the log was cut short.
        log.error("open_gaps_forgotten", subject=subject, at=last.open_at, reason=str(error))
        return (), None
