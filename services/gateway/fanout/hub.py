"""Who wants what: the live push, from proven records to clients' transports.

A record is framed once. What is pushed within one turn of the event loop, or one flush window, is
joined once for all clients that get the same of it, and each of them gets it in one write. A client
for which something waits is left out of that: what it should get goes into its outbox, which is
bounded, and once that is empty it is back. Nothing here awaits; the event loop is behind `Turns`.

The hub decides about subscriptions' states (`fanout/subscription.py`), and keeps the lists of who
is live in step with them. What it decided by itself the client is told when the turn's state is
final.
Whatever goes wrong for one client ends that client only.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import structlog

from services.common.resilience import TokenBucket
from services.common.stream import Position
from services.gateway.chain.stream_record import StreamRecord
from services.gateway.fanout.delivery_times import DeliveryTimes
from services.gateway.fanout.live_streams import (
    LiveStream,
    Subscriber,
    SubscriptionListener,
    ViewGroup,
)
from services.gateway.fanout.merged_sending import MergedSending
from services.gateway.fanout.push_batch import FlushSchedule, Push, PushBatch, Turns
from services.gateway.fanout.subscription import BEGINNING, Catching, State, Subscription, Terms
from services.gateway.websocket.rfc6455.frames import text_frames

log = structlog.get_logger(__name__)

# Of pushes that wait to be written; beyond it they are written within the turn.
_TURN_BYTES = 256 * 1024


class Hub:
    """Fans out. One per process."""

    def __init__(
        self,
        turns: Turns,
        micros: Callable[[], int],  # the time of day in microseconds, to compare with `ts_ingest`
        # Messages a second of one stream to one connection; 0 is unlimited.
        product_rate: float = 0,
        # Pushes come at least so many seconds after those before; 0 is every turn.
        window: float = 0,
        most: int = 128 * 1024,  # bytes that may be written to one client past its outbox
        # Hands a buffer to the kernel and tells how much of it was taken; or OSError.
        write: Callable[[int, bytes], int] = os.write,
    ) -> None:
        self._clock = turns.clock
        self._product_rate = product_rate
        self._batch = PushBatch()
        self._dirty: list[Subscriber] = []
        self._when = FlushSchedule(turns, window, self.flush)
        self._most = most
        self._write = write
        self._merged = MergedSending(turns, self.flush, self.touch, self._failed)
        self._times = DeliveryTimes(micros)
        # What clients are told at the end of the turn, and the state in which it is true.
        self._notices: list[
            tuple[Subscription, int, Callable[[SubscriptionListener, Subscription], None]]
        ] = []

    # ------------------------------------------------------------------ who is live

    def attach(self, subscription: Subscription, held: Position | None) -> None:
        """Give it every record from now on; `held` is what its client has by then."""
        if subscription.terms.mode == "latest":
            subscription.merge(held, subscription.terms.max_rate)
            subscription.live_stream.conflated[subscription] = None
        else:
            self._enlist(subscription)

    def catch_up(self, subscription: Subscription, catching: Catching) -> None:
        """Push nothing to it; it reads on by itself from where it stands."""
        self.rest(subscription)
        subscription.catch_up(catching)

    def rest(self, subscription: Subscription) -> None:
        """Give it nothing for now; what was pushed to it by now still goes out."""
        self.bring(subscription.client)
        self._take_off(subscription)
        subscription.rest()

    def end(self, subscription: Subscription) -> None:
        """Give it nothing any more; what was pushed to it by now still goes out."""
        self.bring(subscription.client)
        self._take_off(subscription)
        subscription.end()

    def change(self, subscription: Subscription, terms: Terms, head: Position | None) -> None:
        """Go on as the client wants it now, with nothing between lost; its view stays.

        One that catches up, or is found to have fallen behind by now, comes back so by itself.
        """
        self.bring(subscription.client)
        live = subscription.live
        if live:
            self._merged.send_owed(subscription)
            self._take_off(subscription)
            subscription.rest()
        subscription.configure(terms._replace(view=subscription.terms.view))
        if live:
            self.attach(subscription, head)

    def rebase(self, live_stream: LiveStream) -> None:
        """The chain could not go on: let everyone rest who is live, and say so."""
        for subscription in live_stream.subscriptions():
            try:
                # Of one client one is here; another one's may have fallen behind by that.
                self.rest(subscription)
                self._note(subscription, lambda to, one: to.rebased(one))
            except Exception:  # noqa: BLE001 - `_failed` says it; it costs this client only
                self._failed(subscription.client)

    def _enlist(self, subscription: Subscription) -> None:
        self.bring(subscription.client)
        subscription.go_live()
        live_stream, view = subscription.live_stream, subscription.terms.view
        group = live_stream.full.get(view)
        if group is None:
            group = live_stream.full[view] = ViewGroup(live_stream)
        group.members[subscription.client] = subscription
        if self._product_rate and subscription.quota is None:
            burst = max(1.0, self._product_rate)
            subscription.quota = TokenBucket(self._product_rate, burst, self._clock())

    def _take_off(self, subscription: Subscription) -> None:
        # One that failed between two states is on no list any more.
        live_stream, view = subscription.live_stream, subscription.terms.view
        if subscription.state is State.MERGED:
            live_stream.conflated.pop(subscription, None)
            self._merged.forget(subscription)
        elif subscription.state is State.LIVE and (group := live_stream.full.get(view)):
            group.members.pop(subscription.client, None)
            if not group.members:
                del live_stream.full[view]

    def _step_down(self, subscription: Subscription, held: Position | None) -> None:
        """Merge a `full` client's messages from now on, unless it falls behind by that."""
        self.bring(subscription.client)
        if subscription.state is State.LIVE:
            self._take_off(subscription)
            subscription.merge(held, self._product_rate)
            subscription.live_stream.conflated[subscription] = None
            self._note(subscription, lambda to, one: to.over_quota(one))

    def _step_up(self, subscription: Subscription) -> None:
        """Give a client every record again, which holds all up to now."""
        self._take_off(subscription)
        self._enlist(subscription)
        self._note(subscription, lambda to, one: to.within_quota(one))

    def _fell_behind(self, subscription: Subscription, before: Position, records: int) -> None:
        self._take_off(subscription)
        subscription.fall_behind(before, self._clock())
        self._note(subscription, lambda to, one: to.fell_behind(one, records))

    def _note(
        self, subscription: Subscription, tell: Callable[[SubscriptionListener, Subscription], None]
    ) -> None:
        """Tell its client at the end of the turn, if it is as it is now by then."""
        self._notices.append((subscription, subscription.version, tell))
        self._when.want_flush()

    def _tell_noticed(self) -> None:
        while self._notices:
            notices, self._notices = self._notices, []
            for subscription, version, tell in notices:
                if subscription.version != version:
                    continue
                try:
                    tell(subscription.client.subscriptions, subscription)
                except Exception:  # noqa: BLE001 - `_failed` says it; it costs this client only
                    self._failed(subscription.client)

    def _failed(self, client: Subscriber) -> None:
        log.exception("client_failed")
        client.failed()

    # ------------------------------------------------------------------ what is pushed

    def publish(
        self, live_stream: LiveStream, records: Sequence[StreamRecord], before: Position | None
    ) -> None:
        """Push records that directly follow `before` to everyone who is live on the stream."""
        before = before or BEGINNING
        for view, group in list(live_stream.full.items()):
            messages = [message for record in records for message in record.messages(*view)]
            if not messages:
                continue
            if self._product_rate:
                self._charge(group, len(messages), before)
                if not group.members:
                    continue
            frames = text_frames(messages)
            receivers = len(group.members)
            push = Push(group, frames, len(messages), before, len(records), receivers)
            self._batch.add(push)
        if live_stream.conflated:
            self._conflate(live_stream, records, before)
        if records and (live_stream.full or live_stream.conflated):
            self._times.published(live_stream, records)
        if self._batch.size > _TURN_BYTES:
            self._push()
        self._when.want_push()

    def bring(self, client: Subscriber) -> None:
        """Put what the turn holds for this client into its outbox, as far as there is room.

        To be called before anything is put there whose place is behind what was pushed.
        """
        batch = self._batch
        count = len(batch.pushes)
        if client.brought == count:
            return
        if not client.brought:
            batch.individual.append(client)
        pushes = batch.after(client.brought)
        client.brought = count
        # What the turn holds is no longer what it should get, even if nothing of it was its own.
        client.quick = False
        behind: dict[Subscription, Push] = {}
        for push in pushes:
            subscription = push.group.members.get(client)
            if subscription is None:
                continue
            if subscription in behind or not client.outbox.offer(push.frames):
                behind.setdefault(subscription, push)
                push.receivers -= 1
        if client.outbox:
            self.touch(client)
        for subscription, push in behind.items():
            self._fell_behind(subscription, push.before, push.records)

    def touch(self, client: Subscriber) -> None:
        """Something was put into this client's outbox: write it at the end of the turn."""
        client.quick = False
        if not client.outbox.dirty:
            client.outbox.dirty = True
            self._dirty.append(client)
        self._when.want_flush()

    def deliver(self, client: Subscriber) -> None:
        """Write what this client should have by now, as far as its transport takes it."""
        self.bring(client)
        client.flush()

    # ------------------------------------------------------------------ what is written

    def flush(self) -> None:
        """Write everything that is due; called by `schedule` and `schedule_at`."""
        when = self._when
        when.flushing = True
        try:
            if self._merged:
                self._settle()
            if not when.held:
                self._push()
            self._tell_noticed()
        finally:
            when.flushing = False
        dirty, self._dirty = self._dirty, []
        for client in dirty:
            client.outbox.dirty = False
            try:
                client.flush()
            except Exception:  # noqa: BLE001 - `_failed` says it; it costs this client only
                self._failed(client)
        if self._notices or (dirty and self._merged):
            # One of them may be writable only now.
            self._when.want_flush()
        if self._batch.pushes:
            # Somebody who was told something had more to push.
            self._when.want_push()

    def _push(self) -> None:
        """Write the turn: to all who are quick the same bytes, to others through their outbox."""
        batch = self._batch
        if batch.pushes:
            for client in batch.write(self._most, self._write, self._failed):
                try:
                    self.bring(client)
                except Exception:  # noqa: BLE001 - `_failed` says it; it costs this client only
                    self._failed(client)
            self._batch = PushBatch()
            for push in batch.pushes:
                push.group.live_stream.sent.inc(push.messages * push.receivers)
            for client in batch.individual:
                client.brought = 0
                self.touch(client)
            self._when.pushed()
        self._times.written()

    # ------------------------------------------------------------------ who gets less

    def _charge(self, group: ViewGroup, messages: int, before: Position) -> None:
        now = self._clock()
        members = list(group.members.values())
        over = [one for one in members if one.quota and one.quota.acquire(now, messages) > 0]
        held = before if before != BEGINNING else None
        for subscription in over:
            try:
                self._step_down(subscription, held)
            except Exception:  # noqa: BLE001 - `_failed` says it; it costs this client only
                self._failed(subscription.client)

    def _conflate(
        self, live_stream: LiveStream, records: Sequence[StreamRecord], before: Position
    ) -> None:
        for subscription in list(live_stream.conflated):
            try:
                if not self._merged.owe(subscription, records):
                    self._fell_behind(subscription, before, len(records))
            except Exception:  # noqa: BLE001 - `_failed` says it; it costs this client only
                self._failed(subscription.client)

    def _settle(self) -> None:
        for subscription in self._merged.settle():
            try:
                # It was stepped down for its rate, which is within the quota again.
                self._step_up(subscription)
            except Exception:  # noqa: BLE001 - `_failed` says it; it costs this client only
                self._failed(subscription.client)
