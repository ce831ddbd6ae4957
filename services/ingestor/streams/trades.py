"""The trades stream: ids are contiguous, so every loss is known by name and refilled exactly.

What cannot be refilled in time becomes an open gap: the stream goes on, and `late` has the rest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from services.common.domain.fold import TRADES_KEPT
from services.common.wire import Missed
from services.ingestor.integrity.sequencer import DUPLICATE, IN_ORDER, RESTARTED, Gap
from services.ingestor.streams.late import OpenTrades
from services.ingestor.streams.stream import Stream, StreamParts
from services.ingestor.venues.base import TradeRow


@dataclass(slots=True)
class _Episode:
    """One resync, from the first sign of loss to the last record."""

    cause: str
    first: int
    # The highest trade id known to exist: the episode ends when it is reached.
    target: int
    since: int
    # Holes counted meanwhile; each of them ends with this episode.
    gaps: int = 0
    refilled: int = 0
    late: int = 0
    lost: int = 0
    # Gone on without; asked for afterwards.
    opened: int = 0


class TradesStream(Stream):
    """While something is missing, newer trades wait here, by id, until all before them are there.

    Beyond `max_held` of them those waiting are let go and fetched later.
    """

    def __init__(self, *parts: *StreamParts, max_held: int = 20_000) -> None:
        super().__init__(*parts)
        self._max_held = max_held
        self._held: dict[int, tuple[int, bytes, int]] = {}
        self._episode: _Episode | None = None
        self.open = OpenTrades(self.writer, self._events)
        # The newest trades that were passed on: the state from which the stream goes on after a
        # gap.
        self._recent: deque[bytes] = deque(maxlen=TRADES_KEPT)
        self.writer.state_of = self._state
        # Why a seed may find a hole: the process was away, later the connection was.
        self._seed_cause = "restart"
        self.refilled = 0
        self.lost = 0
        self.opened = 0

    # ---- what the venue says

    def trade(self, number: int, time: int, body: bytes, ts: int) -> None:
        """A live trade."""
        self.messages += 1
        sequencer = self._sequencer
        if sequencer.held is None:
            sequencer.advance(number - 1)
        verdict = sequencer.observe(number, time)
        if verdict is DUPLICATE:
            late = self.open.gaps and self.open.found([TradeRow(number, time, body)], ts)
            if not late:
                self.duplicates += 1
            return
        if verdict is RESTARTED:
            self._renumbered(number - 1, time, ts)
            verdict = IN_ORDER
        episode = self._episode
        if episode is None:
            if verdict is IN_ORDER:
                if self._pass_on(number, time, body, ts):
                    return
                self._begin("broker_away", number, number, ts)
            else:
                self._begin("gap", number, number - 1, ts)
        elif verdict is IN_ORDER:
            episode.late += 1
        elif number > episode.target + 1:
            self._found("gap")
        self._hold(number, time, body, ts)
        self._drain(ts)

    def seed(self, number: int, time: int, ts: int) -> None:
        """The last trade before a subscription began; it is not a trade of the live stream."""
        sequencer = self._sequencer
        if sequencer.held is None:
            sequencer.advance(number, time)
        verdict = sequencer.witness(number, time)
        if isinstance(verdict, Gap):
            self._reach(verdict.last, self._seed_cause, ts)
        elif verdict is RESTARTED:
            self._renumbered(number, time, ts)
        self._seed_cause = "reconnect"

    def heartbeat(self, last_trade: int, ts: int) -> None:
        """The venue's own mark of the last trade; 0 is no mark."""
        if last_trade <= 0:
            return
        if self._sequencer.held is None:
            self._sequencer.advance(last_trade)
        if self._episode is None:
            verdict = self._sequencer.heartbeat(last_trade)
            if isinstance(verdict, Gap):
                self._reach(verdict.last, "tail", ts)

    def unreadable(self, number: int, ts: int) -> None:
        """A trade's message makes no sense: it is fetched like one that did not come.

        Only the next one in turn is certain to exist. Any other number (0: none could be read) may
        be as wrong as the rest of the message, and the next good trade tells what is missing.
        """
        known = self._sequencer.held if self._episode is None else self._episode.target
        if known is not None and number == known + 1:
            self._reach(number, "invalid_message", ts)

    def reopen(self, missed: Missed, ts: int) -> None:
        """Trades that were passed on did not reach readers: they are asked for as late ones."""
        held = self._sequencer.held
        if held is not None and 0 < missed.from_ <= missed.to <= held:
            self.open.reopen(missed.from_, missed.to, ts)

    # ---- what the healer asks and brings

    @property
    def held(self) -> int:
        return len(self._held)

    @property
    def healing(self) -> bool:
        """Whether something is missing, or held up by the broker."""
        return self._episode is not None

    def missing(self) -> Gap | None:
        """From the first missing trade to the last; None when only the broker holds things up."""
        if self._episode is None or self._sequencer.held is None:
            return None
        first, last = self._sequencer.held + 1, self._episode.target
        if first in self._held:
            return None
        while last in self._held:
            last -= 1
        return Gap(first, last) if last >= first else None

    def refill(self, rows: Sequence[TradeRow], ts: int) -> int:
        """Take fetched trades (ascending); how many of them were still missing."""
        if self._episode is None or self._sequencer.held is None:
            return 0
        taken = 0
        for row in rows:
            if row.trade_id > self._sequencer.held and row.trade_id not in self._held:
                self._held[row.trade_id] = (row.time, row.body, ts)
                taken += 1
        self._episode.refilled += taken
        self.refilled += taken
        self._drain(ts)
        return taken

    def settle(self, ts: int) -> bool:
        """Try again what the broker had no room for; True when nothing is missing any more."""
        self.state.retry(ts)
        self._drain(ts)
        return self._episode is None

    def give_up(self, ts: int, *, upto: int | None = None, denied: bool = False) -> None:
        """Go on with what is there, without what is missing (as far as `upto`).

        It is announced, and asked for afterwards, unless the venue has `denied` it.
        """
        while self._episode is not None and self._sequencer.held is not None:
            first = self._sequencer.held + 1
            if first in self._held or (upto is not None and first > upto):
                return
            last = min(self._held, default=self._episode.target + 1) - 1
            if upto is not None:
                last = min(last, upto)
            count = last - first + 1
            gaps = self.open.with_gap(first, last, ts)
            missed = Missed(first, last, count)
            if not self.writer.gap(self._episode.cause, missed, ts, gaps):
                return
            if denied:
                self.open.deny([(first, last)], ts)
                self._episode.lost += count
                self.lost += count
            else:
                self._episode.opened += count
                self.opened += count
            self._sequencer.advance(last)
            self._drain(ts)

    def extra(self) -> dict[str, int]:
        return {
            "held": self.held,
            "refilled": self.refilled,
            "opened": self.opened,
            "lost": self.lost,
            "open": self.open.count,
        }

    # ---- inside

    def _reach(self, target: int, cause: str, ts: int) -> None:
        if self._episode is None:
            self._begin(cause, target, target, ts)
        elif target > self._episode.target:
            self._episode.target = target
            self._ask()

    def _begin(self, cause: str, target: int, last: int, ts: int) -> None:
        """Up to `last` is missing; all up to `target` exist."""
        first = (self._sequencer.held or 0) + 1
        self._episode = _Episode(cause, first, target, ts)
        self._found(cause)
        self.state.raise_("resyncing", f"trades {first}..{last} missing ({cause})", ts)
        self._ask()

    def _found(self, cause: str) -> None:
        super()._found(cause)
        if self._episode is not None:
            self._episode.gaps += 1

    def _hold(self, number: int, time: int, body: bytes, ts: int) -> None:
        if self._episode is None:
            return
        if number in self._held:
            self.duplicates += 1
            return
        if len(self._held) >= self._max_held:
            # They exist at the venue and will be fetched, so letting go loses nothing yet.
            self._dropped("queue_full", len(self._held))
            self._held.clear()
        self._held[number] = (time, body, ts)
        self._episode.target = max(self._episode.target, number)

    def _pass_on(self, number: int, time: int, body: bytes, ts: int) -> bool:
        if not self.writer.frame(number, body, ts):
            return False
        self._recent.append(body)
        self._sequencer.advance(number, time)
        return True

    def _drain(self, ts: int) -> None:
        sequencer, episode = self._sequencer, self._episode
        if episode is None or sequencer.held is None:
            return
        number = sequencer.held + 1
        while (waiting := self._held.get(number)) is not None:
            time, body, received = waiting
            if not self._pass_on(number, time, body, received):
                return
            del self._held[number]
            number += 1
        if sequencer.held >= episode.target:
            self._finish(episode, ts)

    def _finish(self, episode: _Episode, ts: int) -> None:
        self._episode = None
        outcomes = {"lost": episode.lost, "open": episode.opened, "refilled": episode.refilled}
        outcome = next((name for name, count in outcomes.items() if count), "late")
        took = max(0, ts - episode.since)
        for _ in range(episode.gaps):
            self._resynced(outcome, episode.since, ts)
        self.state.clear(
            "resyncing",
            f"trades from {episode.first} ({episode.cause}): {episode.refilled} refilled, "
            f"{episode.late} late, {episode.lost} lost, {episode.opened} still asked for, "
            f"{took // 1000} ms",
            ts,
        )

    def _renumbered(self, held: int, time: int, ts: int) -> None:
        """The venue began a new numbering; `held` is the last id in it that will not come.

        Or it goes on with the old one, behind ids that it never had and that two broken messages
        made us believe: then what is missing of the old one is asked for still.
        """
        self._held.clear()
        self._episode = None
        self.state.clear("resyncing", "the venue's trade ids began anew", ts)
        self._found("renumbered")
        self._resynced("renumbered", ts, ts)
        self.open.renumbered(held, ts)
        self.writer.restart(ts)
        self._recent.clear()
        # Where the new numbering began is unknown: all before this id is missing.
        self.writer.gap("renumbered", Missed(0, max(0, held)), ts)
        self._sequencer.restart(held, time)

    def _state(self) -> bytes:
        return b"[" + b",".join(self._recent) + b"]"
