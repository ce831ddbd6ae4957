"""The book stream: its messages carry no number, so it lives by suspicion and new bases."""

from __future__ import annotations

from collections import deque

from services.ingestor.integrity.book_replica import BookReplica
from services.ingestor.integrity.plausibility import JumpGuard
from services.ingestor.integrity.sequencer import IN_ORDER
from services.ingestor.integrity.silence import Silence, SilenceRule
from services.ingestor.streams.stream import BasedStream, StreamParts
from services.ingestor.venues.base import BookImage

# Venue times further ahead of our clock than this need a second message that says so too.
_FUTURE_US = 60_000_000
# Heartbeats come every second, on the second: a larger step means one was lost.
_HEARTBEAT_STEP_US = 1_900_000
# How many of the updates passed on are remembered, to tell a repetition from a reordering.
_RECENT = 64
# How many updates may wait for a book fetched over REST.
_MAX_HELD = 5_000


class BookStream(BasedStream):
    """Passes updates on top of a snapshot; asks for a new snapshot when it is suspect.

    Updates that arrive before a connection's snapshot are dropped: they cannot be applied to
    anything (an old and a new socket may overlap). Its sequencer is BY_TIME.
    """

    def __init__(
        self,
        *parts: *StreamParts,
        # Told of everything that is passed on, so that it can be audited.
        replica: BookReplica | None = None,
        # When a book without updates is suspect.
        silence: SilenceRule = SilenceRule(),  # noqa: B008 - a tuple, never changed
    ) -> None:
        super().__init__(*parts)
        self.replica = replica
        self._base_time = 0
        self._times = JumpGuard(_FUTURE_US, marks=0)
        self._recent: deque[tuple[int, bytes]] = deque(maxlen=_RECENT)
        self._held: list[tuple[int, bytes, int]] | None = None
        # Time of the newest update that was dropped for want of a base.
        self._let_go = 0
        self._heartbeat_time = 0
        self._silence = Silence(silence)
        self.based = False
        self.unbased = 0
        # When the newest audit began that found nothing wrong, µs; 0 before the first.
        self.audited = 0
        self._based_at = 0

    @property
    def held(self) -> int:
        return len(self._held) if self._held is not None else 0

    @property
    def verified(self) -> int:
        """When the book was last known to be right, µs: a base or an audit; 0 before the first."""
        return max(self.audited, self._based_at)

    @property
    def update_time(self) -> int:
        """Venue time of the newest update or base passed on, µs; 0 before the first."""
        return self._sequencer.held or 0

    @property
    def venue_time(self) -> int:
        """Venue time of the newest update or heartbeat, µs."""
        return max(self.update_time, self._heartbeat_time)

    # ---- what the venue says

    def snapshot(self, time: int, body: bytes, ts: int) -> None:
        """The whole book, in line with the updates around it."""
        self.messages += 1
        self._held = None
        self._rebase(self._believed(time, ts, "snapshot"), body, ts)

    def update(self, time: int, body: bytes, ts: int) -> None:
        """Changes since the update before."""
        self.messages += 1
        self._silence.update()
        if time > ts + _FUTURE_US:
            time = self._believed(time, ts, "update")
        if self._held is not None:
            if len(self._held) < _MAX_HELD:
                self._held.append((time, body, ts))
                return
            self._dropped("queue_full", len(self._held))
            self._held = None
            self.based = False
        if self.based:
            self._pass_on(time, body, ts)
        else:
            self.unbased += 1
            self._let_go = max(self._let_go, time)

    def heartbeat(self, time: int, sequence: int, ts: int) -> None:
        """Judge the venue's beat: one that is missing, and a sequence that moves on alone."""
        time = self._believed(time, ts, "heartbeat")
        before, self._heartbeat_time = self._heartbeat_time, time
        if before and time - before > _HEARTBEAT_STEP_US:
            self.distrust("heartbeat", f"heartbeats {(time - before) / 1e6:.0f} s apart", ts)
        if not sequence or self.suspect:
            return
        moved = self._silence.heartbeat(sequence, ts)
        if moved is not None:
            self.distrust("silent", f"no update while the sequence moved by {moved}", ts)

    def connected(self) -> None:
        """A subscription was sent."""
        self._heartbeat_time = 0
        self._silence.base()

    def unreadable(self, time: int, evidence: str, ts: int) -> None:
        """A message that makes no sense may have changed the book; `time` is 0 when unknown."""
        if self._cause is None:
            self.distrust("invalid_message", evidence, ts)
        else:
            # It may have been the base that is awaited: ask, rather than wait for it in vain.
            self._ask()
        # A book fetched meanwhile has to be newer than what could not be read.
        self._let_go = max(self._let_go, time or self.venue_time)

    def trades_missing(self, ts: int) -> None:
        """Whatever lost a trade may have lost updates."""
        self.distrust("gap", "trades of this product are missing", ts)

    def lost(self, ts: int) -> None:
        super().lost(ts)
        self.based = False
        self._held = None
        self._let_go = 0

    def unbase(self, cause: str, evidence: str, ts: int) -> None:
        self.based = False
        self._held = None
        super().unbase(cause, evidence, ts)

    # ---- what the healer brings

    def hold(self) -> None:
        """A book is being fetched over REST: updates wait until `image` or `release`."""
        if self._held is None:
            self._held = []

    def image(self, image: BookImage, ts: int) -> bool:
        """Take a fetched book; False when it is too old to go on from, so ask again."""
        if self._held is None or self._cause is None:
            # The connection was lost, or its own snapshot came first.
            return True
        time = self._believed(image.time, ts, "image")
        if time < max(self._sequencer.held or 0, self._let_go):
            # Updates between this book and the first one that waited are gone.
            return False
        waiting, self._held = self._held, None
        if self._rebase(image.time, image.body, ts):
            for time, body, received in waiting:
                if not time or time >= image.time:
                    self._pass_on(time, body, received)
        return True

    def release(self) -> None:
        """The fetch failed: go on with what waited, if there is a base under it."""
        waiting, self._held = self._held or [], None
        for time, body, received in waiting:
            self.update(time, body, received)

    def extra(self) -> dict[str, int]:
        return {
            "held": self.held,
            "based": self.based,
            "resyncs": self.resyncs,
            "audited": self.audited,
        }

    # ---- inside

    def _rebase(self, time: int, body: bytes, ts: int) -> bool:
        cause = self._cause or "venue"
        if not self.writer.resync(self._seq(time, ts), cause, body, ts):
            self._refused(ts)
            return False
        if self._since:
            self._resynced("snapshot", self._since, ts)
        if self.replica is not None:
            self.replica.base(body)
        self.based = True
        self.resyncs += 1
        self._based_at = ts
        self._base_time = time
        self._recent.clear()
        self._silence.base()
        self._sequencer.restart(time)
        self._times = JumpGuard(_FUTURE_US, marks=0)
        self._cause = None
        self._since = 0
        self.state.clear("resyncing", f"new snapshot ({cause})", ts)
        return True

    def _pass_on(self, time: int, body: bytes, ts: int) -> None:
        if time:
            if time < self._base_time:
                # Older than the base, so already part of it. Of the base's own time it may not be,
                # and sizes are absolute: applied again it does no harm.
                self.duplicates += 1
                return
            in_order = self._sequencer.observe(time) is IN_ORDER
            if self._repeated(time, body, in_order):
                self.duplicates += 1
                return
            if not in_order:
                # Sizes are absolute: applying an older update now would bring dead levels back.
                self._dropped("reordered")
                self.distrust("reordered", "an update older than the one before it", ts)
                return
        if not self.writer.frame(self._seq(time, ts), body, ts):
            self._refused(ts)
            return
        if self.replica is not None:
            self.replica.update(body)
        if time:
            self._sequencer.advance(time)
            self._recent.append((time, body))

    def _repeated(self, time: int, body: bytes, in_order: bool) -> bool:
        """Whether the very same message was passed on before, so that nothing is lost without it.

        Two updates of one time are two updates, also when they say the same with another one
        between them. Only what directly follows itself changes nothing, and what goes back.
        """
        if not in_order:
            return (time, body) in self._recent
        return time == self._sequencer.held and bool(self._recent) and self._recent[-1][1] == body

    def _believed(self, time: int, ts: int, kind: str) -> int:
        """The time, or 0 (none) when it is far ahead and no other message says so."""
        if time <= ts + _FUTURE_US:
            return time
        self._times.known = max(ts, self._times.known or 0)
        return time if self._times.believes(time, (kind, time)) else 0

    def _seq(self, time: int, ts: int) -> int:
        if time <= 0:
            time = ts if self.writer.seq is None else 0
        return self.writer.after(time)
