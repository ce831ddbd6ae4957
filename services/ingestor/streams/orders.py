"""The book stream over the order-level feed: `sequence` is contiguous, so every loss is known."""

from __future__ import annotations

from services.common.wire import encode
from services.ingestor.integrity.order_book import OrderBook
from services.ingestor.integrity.sequencer import DUPLICATE, IN_ORDER, Gap
from services.ingestor.streams.stream import BasedStream, StreamParts
from services.ingestor.venues.base import OrderEvent, OrderImage

# An image may be ahead of what came over the WebSocket by so much; by more, its number is broken.
_AHEAD = 10_000
# How many messages may wait; beyond it those waiting are let go.
_MAX_WAITING = 100_000


class OrdersStream(BasedStream):
    """Folds orders into levels and passes on the messages that change one.

    While something is missing, messages wait here by number. If what is missing comes late, they
    follow it; else all resting orders are fetched, and those above the answer's number follow it.
    Its sequencer is CONTIGUOUS, and holds nothing yet.
    """

    def __init__(self, *parts: *StreamParts) -> None:
        super().__init__(*parts)
        self._book = OrderBook()
        self._waiting: dict[int, tuple[OrderEvent, bytes, int]] = {}
        # Whether what is held is right as far as it goes, so that late messages complete it.
        self._continues = False
        # Whether this connection has said anything yet: an image needs messages that follow it.
        self._joined = False

    @property
    def based(self) -> bool:
        """Whether messages are passed on."""
        return self._cause is None

    @property
    def fetchable(self) -> bool:
        """Whether all resting orders are wanted now; False while the connection is down."""
        return self._cause is not None and self._joined

    @property
    def held(self) -> int:
        return len(self._waiting)

    @property
    def sequence(self) -> int | None:
        """The venue's number that the book has reached."""
        return self._sequencer.held

    # ---- what the venue says

    def order(self, event: OrderEvent, body: bytes, ts: int) -> None:
        """A message of the feed, whatever it does to the book."""
        self.messages += 1
        self._join()
        if self._cause is not None:
            self._wait(event, body, ts)
            return
        verdict = self._sequencer.observe(event.sequence, event.time)
        if verdict is IN_ORDER:
            self._pass_on(event, body, ts)
        elif verdict is DUPLICATE:
            self.duplicates += 1
        else:
            if isinstance(verdict, Gap):
                self._missing("gap", verdict, ts)
            else:
                self._renumbered(ts)
                self.distrust("renumbered", "the venue's sequence began anew", ts)
            self._wait(event, body, ts)

    def heartbeat(self, _time: int, sequence: int, ts: int) -> None:
        """The product's sequence at this instant; two of them find a lost tail."""
        self._join()
        if self._cause is None:
            verdict = self._sequencer.heartbeat(sequence)
            if isinstance(verdict, Gap):
                self._missing("tail", verdict, ts)

    def connected(self) -> None:
        """A subscription was sent; its first message says that it is heard."""
        self._joined = False

    def lost(self, ts: int) -> None:
        super().lost(ts)
        self._joined = False
        self._continues = False
        self._waiting.clear()

    def unbase(self, cause: str, evidence: str, ts: int) -> None:
        self._continues = False
        super().unbase(cause, evidence, ts)

    def trades_missing(self, ts: int) -> None:
        """A trades gap proves nothing here: `sequence` tells of every loss itself."""

    def unreadable(self, _time: int, _evidence: str, _ts: int) -> None:
        """A message that makes no sense is missing by its number: nothing more is to be done."""

    # ---- what the healer brings

    def image(self, image: OrderImage, ts: int) -> bool:
        """Take all resting orders; False when that answer is too old to go on from: ask again."""
        if not self.fetchable:
            return True
        if self._waiting and image.sequence < min(self._waiting) - 1:
            return False
        if self._waiting and image.sequence > max(self._waiting) + _AHEAD:
            return False
        held = self._sequencer.held
        if held is not None and image.sequence < held:
            # A cache's answer, unless it is newer than all we saw: then numbers began anew.
            if not self._sequencer.outlived(image.time):
                return False
            self._renumbered(ts)
        return self._rebase(image, ts)

    def extra(self) -> dict[str, int]:
        return {
            "held": self.held,
            "based": self.based,
            "resyncs": self.resyncs,
            "orders": len(self._book),
        }

    # ---- inside

    def _join(self) -> None:
        if not self._joined:
            self._joined = True
            if self._cause is not None:
                self._ask()

    def _missing(self, cause: str, gap: Gap, ts: int) -> None:
        self._continues = True
        text = f"orders' messages {gap.first}..{gap.last} missing ({cause})"
        self.distrust(cause, text, ts)

    def _wait(self, event: OrderEvent, body: bytes, ts: int) -> None:
        if len(self._waiting) >= _MAX_WAITING:
            # The next image is then asked for until it is ahead of what follows from here.
            self._dropped("queue_full", len(self._waiting))
            self._waiting.clear()
            self._continues = False
        held = self._sequencer.held
        if event.sequence in self._waiting or (
            self._continues and held is not None and event.sequence <= held
        ):
            self.duplicates += 1
            return
        self._waiting[event.sequence] = (event, body, ts)
        if self._continues and held is not None and event.sequence == held + 1:
            self._cause = None
            self._follow(ts, "late")

    def _follow(self, ts: int, outcome: str) -> None:
        """Pass on what waited behind the held number; a hole in it begins the next resync."""
        since = self._since
        self._continues = False
        number = (self._sequencer.held or 0) + 1
        while self._cause is None and (waiting := self._waiting.pop(number, None)) is not None:
            self._pass_on(*waiting)
            number += 1
        if self._cause is not None:
            # The broker refused; everything waits for the next base.
            return
        if since:
            self._resynced(outcome, since, ts)
        self._since = 0
        if self._waiting:
            self._missing("gap", Gap(number, min(self._waiting) - 1), ts)
        else:
            self.state.clear("resyncing", f"{outcome}: at {self._sequencer.held}", ts)

    def _rebase(self, image: OrderImage, ts: int) -> bool:
        self._book.load(image.bids, image.asks)
        bids, asks = self._book.levels()
        body = encode(
            {"bids": bids, "asks": asks, "sequence": image.sequence, "time": image.text or None}
        )
        # In a quiet market the venue may stand where the last record already is.
        seq = self.writer.after(image.sequence)
        if not self.writer.resync(seq, self._cause or "venue", body, ts):
            self._refused(ts)
            return True
        self.resyncs += 1
        self._cause = None
        self.state.clear("down", "all resting orders received", ts)
        self._sequencer.restart(image.sequence, image.time)
        for number in [number for number in self._waiting if number <= image.sequence]:
            del self._waiting[number]
        self._follow(ts, "snapshot")
        return True

    def _pass_on(self, event: OrderEvent, body: bytes, ts: int) -> None:
        changes = self._book.apply(event)
        if changes and not self.writer.frame(self.writer.after(event.sequence), body, ts, changes):
            self._refused(ts)
            return
        self._sequencer.advance(event.sequence, event.time)

    def _renumbered(self, ts: int) -> None:
        self.writer.restart(ts)
        self._waiting.clear()
