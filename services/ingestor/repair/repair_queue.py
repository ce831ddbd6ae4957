"""What readers go without, as the normalizer tells it on `market.invalid`: made good from here.

Data goes one way, and the normalizer holds no state to send: where a record is lost between the two
or cannot be read there, only the ingestor can ask the venue again. It follows the log of what could
not be used, and a record there that names what is missed makes its stream ask at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgspec
import structlog

from services.common.clock import now_us
from services.common.errors import BrokerFailed, BrokerUnavailable, InvalidSubject
from services.common.resilience import Backoff
from services.common.stream import Broker, Message
from services.common.subjects import INVALID_LOG, StreamKey, key_of
from services.common.wire import UNREADABLE, Parked
from services.ingestor.streams import ProductStreams

log = structlog.get_logger(__name__)

_decode = msgspec.json.Decoder(Parked).decode
# Causes are labels of a metric, so they are few.
_CAUSES = frozenset({"raw_log_break", "record_too_large", "record_refused"})
# Of what the normalizer says, in a status.
_SHOWN = 200


@dataclass
class Repairs:
    """Follows the log for ever."""

    _broker: Broker
    _products: Callable[[], Iterable[ProductStreams]]  # those that are served now
    _venue: str

    async def run(self) -> None:
        """Serve until cancelled. Raises BrokerClosed when the broker was closed."""
        pauses = Backoff(0.1, 5.0, least=0.0, immediate=True)
        while True:
            try:
                live = await self._broker.live(INVALID_LOG)
                try:
                    while True:
                        batch = await live.next_batch()
                        pauses.reset()
                        for message in batch.messages:
                            self.serve(message)
                finally:
                    await live.aclose()
            except (BrokerUnavailable, BrokerFailed) as error:
                log.warning("repairs_not_followed", reason=str(error))
                await asyncio.sleep(pauses.next_delay())

    def serve(self, message: Message) -> None:
        """Look at a parked record; what names nothing that is missed is only kept for people."""
        try:
            parked = _decode(message.payload)
            if parked.missed is None:
                return
            key = key_of(parked.subject)
        except (*UNREADABLE, InvalidSubject) as error:
            log.warning("parked_record_unreadable", reason=str(error))
            return
        for streams in self._products():
            if StreamKey(self._venue, key.channel, streams.product) == key:
                log.warning("readers_go_without", stream=str(key), reason=parked.reason[:_SHOWN])
                cause, _, _ = parked.reason.partition(":")
                known = cause if cause in _CAUSES else "invalid_message"
                streams.missed(key.channel, parked.missed, known, now_us())
