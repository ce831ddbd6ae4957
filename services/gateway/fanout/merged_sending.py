"""What clients that are sent a stream merged are owed, and when they get it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from services.gateway.chain.stream_record import StreamRecord
from services.gateway.fanout.conflation import Conflation
from services.gateway.fanout.live_streams import Subscriber
from services.gateway.fanout.push_batch import Turns
from services.gateway.fanout.subscription import State, Subscription
from services.gateway.websocket.rfc6455.frames import text_frame, text_frames

# Messages in a row that merged nothing, after which a quota no longer needs conflation.
_CALM = 10


@dataclass(slots=True)
class MergedSending:
    """The subscriptions that are owed something."""

    turns: Turns
    flush: Callable[[], None]  # called when what was not due falls due
    touch: Callable[[Subscriber], None]  # called with a client in whose outbox something was put
    # Called with a client for which something went wrong, while the error is handled.
    failed: Callable[[Subscriber], None]
    _owing: dict[Subscription, None] = field(default_factory=dict)
    _timer: float | None = None

    def __bool__(self) -> bool:
        return bool(self._owing)

    def forget(self, subscription: Subscription) -> None:
        """It is not merged any more; what it was owed it gets in another way."""
        self._owing.pop(subscription, None)

    def owe(self, subscription: Subscription, records: Sequence[StreamRecord]) -> bool:
        """Owe a merged client these records; False when its outbox is full."""
        conflation = subscription.conflation
        if conflation is None:
            return True
        for record in records:
            if record.kind == "tick":
                conflation.add(record)
                self._owing[subscription] = None
                continue
            if record.chained:
                # The reset's own link has to hold: what is owed goes out before it.
                self.send_owed(subscription)
            messages = record.messages(*subscription.terms.view)
            if messages and not subscription.outbox.offer(text_frames(messages)):
                return False
            if record.chained:
                conflation.held = record.position
            self.touch(subscription.client)
        return True

    def settle(self) -> list[Subscription]:
        """Send what is owed, where it is due and the client takes it.

        Answers those that are merged for their quota only, and no longer need to be.
        """
        calm: list[Subscription] = []
        now = self.turns.clock()
        next_due: float | None = None
        for subscription in list(self._owing):
            conflation = subscription.conflation
            if conflation is None or not conflation.owing:
                self._owing.pop(subscription, None)
            elif conflation.due > now:
                next_due = conflation.due if next_due is None else min(next_due, conflation.due)
            else:
                try:
                    self._settle_one(subscription, conflation, calm)
                except Exception:  # noqa: BLE001 - `failed` logs it; it costs this client only
                    self.failed(subscription.client)
        if next_due is not None and (self._timer is None or next_due < self._timer):
            self._timer = next_due
            self.turns.schedule_at(next_due, self._on_timer)
        # One of a client that failed meanwhile is not merged any more.
        return [one for one in calm if one.state is State.MERGED]

    def _settle_one(
        self, subscription: Subscription, conflation: Conflation, calm: list[Subscription]
    ) -> None:
        if not subscription.client.writable:
            return
        del self._owing[subscription]
        self.send_owed(subscription)
        if subscription.terms.mode == "full" and conflation.singles >= _CALM:
            calm.append(subscription)

    def send_owed(self, subscription: Subscription) -> None:
        """Put what it is owed, if anything, into its client's outbox, due or not."""
        conflation = subscription.conflation
        owed = conflation.drain(self.turns.clock()) if conflation is not None else None
        if owed is None:
            return
        message, merged = owed
        subscription.outbox.put(text_frame(message))
        subscription.live_stream.sent.inc()
        subscription.live_stream.metrics.conflated.inc(merged - 1)
        self.touch(subscription.client)

    def _on_timer(self) -> None:
        self._timer = None
        self.flush()
