"""The ticker stream: the latest wins; loss is judged by trade ids, never by steps of `sequence`."""

from __future__ import annotations

from services.common.wire import Missed
from services.ingestor.integrity.sequencer import DUPLICATE, RESTARTED
from services.ingestor.streams.stream import Stream
from services.ingestor.venues.base import Quote

# An answer may know of so many trades more than the newest heartbeat did; of more, it is broken.
_AHEAD = 1_000
# Heartbeats in a row that must know of a newer trade than the last ticker did.
_PATIENCE = 2


class TickerStream(Stream):
    """Passes on what is newer than the last; asks for a refresh when heartbeats run ahead.

    Its sequencer is INCREASING.
    """

    coalesced = 0
    _trade = 0
    _behind = 0
    _asked = 0
    # The product's sequence at the newest heartbeat: tickers of the trades it knows of are at or
    # below it, so a refreshed ticker stands there.
    _mark = 0
    _last_trade = 0
    # The newest ticker that the broker had no room for, and those before it.
    _waiting: tuple[int, bytes] | None = None
    _unwritten: Missed | None = None

    @property
    def behind(self) -> bool:
        """Whether a refresh is awaited."""
        return self._asked != 0

    @property
    def waiting(self) -> bool:
        """Whether a ticker still has to be recorded that the broker had no room for."""
        return self._waiting is not None

    def ticker(self, number: int, time: int, trade_id: int, body: bytes, ts: int) -> None:
        """A live ticker; `number` is the product's sequence, `trade_id` 0 when it has none."""
        self.messages += 1
        verdict = self._sequencer.observe(number, time)
        if verdict is DUPLICATE:
            self.duplicates += 1
            return
        if verdict is RESTARTED:
            self._found("renumbered")
            self.writer.restart(ts)
            self._sequencer.restart(number - 1, time)
            self._trade = 0
            self._waiting = self._unwritten = None
        if not self.settle(ts) or not self.writer.frame(number, body, ts):
            self._refused(number, time, body)
            return
        self._sequencer.advance(number, time)
        self._traded(trade_id, ts)

    def distrust(self, cause: str, evidence: str, ts: int) -> None:
        """What was passed on did not reach readers: have the newest ticker fetched."""
        if self._asked:
            return
        # Also one of the trade that was told last.
        self._trade = 0
        self._want(cause, evidence, ts)

    def heartbeat(self, sequence: int, last_trade: int, ts: int) -> None:
        """The venue's marks: product sequence and last trade (0 = no mark)."""
        self.settle(ts)
        self._mark = max(self._mark, sequence)
        self._last_trade = last_trade or self._last_trade
        if not self._trade or last_trade <= self._trade:
            self._behind = 0
            return
        self._behind += 1
        if self._behind == _PATIENCE:
            text = f"trade {last_trade} is known, last ticker was of {self._trade}"
            self._want("heartbeat", text, ts)

    def refreshed(self, quote: Quote, ts: int) -> bool:
        """Take a fetched ticker; False when it is not newer than what is held."""
        if not self._asked:
            return True
        if not self._trade < quote.trade_id <= self._last_trade + _AHEAD:
            return False
        seq = self.writer.after(max(self._mark, (self._sequencer.held or 0) + 1))
        asked = self._asked
        if self.settle(ts) and self.writer.resync(seq, "gap", quote.body, ts):
            self._sequencer.advance(seq, quote.time)
            self._asked = 0
            self._traded(quote.trade_id, ts)
            self._resynced("snapshot", asked, ts)
        return True

    def settle(self, ts: int) -> bool:
        """Write what waits for the broker; False when it is still away.

        A ticker tells everything, so the newest is the state to go on from, and names what is
        missing before it.
        """
        self.state.retry(ts)
        if self._waiting is None:
            return True
        number, body = self._waiting
        if not self.writer.resync(number, "broker_away", body, ts, self._unwritten):
            return False
        outcome = "snapshot" if self._unwritten is None else "lost"
        self._waiting = self._unwritten = None
        self._resynced(outcome, ts, ts)
        return True

    def lost(self) -> None:
        """The connection is gone; the next one begins with a ticker of its own."""
        self._behind = 0
        self._asked = 0

    def extra(self) -> dict[str, int]:
        return {"coalesced": self.coalesced}

    def _want(self, cause: str, evidence: str, ts: int) -> None:
        self._asked = ts
        self._found(cause)
        self.state.raise_("resyncing", evidence, ts)
        self._ask()

    def _traded(self, trade_id: int, ts: int) -> None:
        if self._trade and trade_id > self._trade + 1:
            # Cascading matches are told in one ticker: not a loss.
            self.coalesced += 1
        self._trade = max(self._trade, trade_id)
        self._behind = 0
        if self._asked:
            # A live ticker was faster than the one that was asked for.
            self._resynced("late", self._asked, ts)
            self._asked = 0
        self.state.clear("resyncing", f"ticker of trade {self._trade}", ts)

    def _refused(self, number: int, time: int, body: bytes) -> None:
        if self._waiting is None:
            self._found("broker_away")
        else:
            before = self._waiting[0]
            first = before if self._unwritten is None else self._unwritten.from_
            self._unwritten = Missed(first, before)
            self._dropped("broker_away")
        self._waiting = (number, body)
        self._sequencer.advance(number, time)
