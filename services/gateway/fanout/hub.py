"""Who wants what: the live push, from proven records to clients' transports.

A record is framed once. What is pushed within one turn of the event loop, or one flush window, is
joined once for all clients that get the same of it, and each of them gets it in one write. A client
for which something waits is left out of that: what it should get goes into its outbox, which is
bounded, and once that is empty it is back. Nothing here awaits; the event loop is behind `schedule`
and `schedule_at`.

The hub decides about subscriptions' states (`fanout/subscription.py`), and keeps the lists of who
is live in step with them. What it decided by itself the client is told when the turn's state is
final.
Whatever goes wrong for one client ends that client only.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import structlog
from opentelemetry.trace import SpanKind

from services.common.observability import tracing
from services.common.observability.tracing import exemplar_of
from services.common.stream import Position
from services.gateway.chain.stream_record import StreamRecord
from services.gateway.fanout.conflation import Conflation
from services.gateway.fanout.encoding import PLAIN
from services.gateway.fanout.live_streams import LiveStream, Subscriber, ViewGroup
from services.gateway.fanout.push_batch import Push, PushBatch
from services.gateway.fanout.subscription import BEGINNING, Catching, State, Subscription, Terms
from services.gateway.ratelimit import TokenBucket
from services.gateway.websocket.frames import text_frame, text_frames

log = structlog.get_logger(__name__)

# Messages in a row that merged nothing, after which a quota no longer needs conflation.
_CALM = 10
# Of pushes that wait to be written; beyond it they are written within the turn.
_TURN_BYTES = 256 * 1024


class Hub:
    """Fans out. One per process.

    Args:
        schedule: calls back at the end of the event loop's turn.
        schedule_at: calls back at a time of `clock`.
        clock: seconds, does not go back.
        micros: the time of day in microseconds, to compare with `ts_ingest`.
        product_rate: messages a second of one stream to one connection; 0 is unlimited.
        window: pushes come at least so many seconds after those before; 0 is every turn.
        most: bytes that may be written to one client past its outbox.
        write: hands a buffer to the kernel and tells how much of it was taken; or OSError.
    """

    def __init__(
        self,
        schedule: Callable[[Callable[[], None]], object],
        schedule_at: Callable[[float, Callable[[], None]], object],
        clock: Callable[[], float],
        micros: Callable[[], int],
        product_rate: float = 0,
        window: float = 0,
        most: int = 128 * 1024,
        write: Callable[[int, bytes], int] = os.write,
    ) -> None:
        self._schedule = schedule
        self._schedule_at = schedule_at
        self._clock = clock
        self._micros = micros
        self._product_rate = product_rate
        self._window = window
        self._most = most
        self._write = write
        self._batch = PushBatch()
        self._dirty: list[Subscriber] = []
        self._flushing = False
        # The turn is held back until the window ends, when a timer calls.
        self._held = False
        self._pushed_at = -window
        self._owing: dict[Subscription, None] = {}
        self._timer: float | None = None
        # What clients are told at the end of the turn, and the state in which it is true.
        self._notices: list[
            tuple[Subscription, int, Callable[[Subscriber, Subscription], None]]
        ] = []
        # Newest records of streams since the last push: how long ago were they received?
        self._ingested: list[tuple[LiveStream, StreamRecord]] = []
        self._traced: list[tuple[LiveStream, StreamRecord]] = []

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
            self._send_owed(subscription)
            self._take_off(subscription)
            subscription.rest()
        subscription.configure(terms._replace(view=subscription.terms.view))
        if live:
            self.attach(subscription, head)

    def rebase(self, live_stream: LiveStream) -> None:
        """The chain could not go on: let everyone rest who is live, and say so."""
        for subscription in live_stream.subscriptions():
            # Of one client one is here; another one's may have fallen behind by that.
            self.rest(subscription)
            self._note(subscription, lambda client, one: client.rebased(one))

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
        live_stream, view = subscription.live_stream, subscription.terms.view
        if subscription.state is State.MERGED:
            del live_stream.conflated[subscription]
            self._owing.pop(subscription, None)
        elif subscription.state is State.LIVE:
            group = live_stream.full[view]
            del group.members[subscription.client]
            if not group.members:
                del live_stream.full[view]

    def _step_down(self, subscription: Subscription, held: Position | None) -> None:
        """Merge a `full` client's messages from now on, unless it falls behind by that."""
        self.bring(subscription.client)
        if subscription.state is State.LIVE:
            self._take_off(subscription)
            subscription.merge(held, self._product_rate)
            subscription.live_stream.conflated[subscription] = None
            self._note(subscription, lambda client, one: client.over_quota(one))

    def _step_up(self, subscription: Subscription) -> None:
        """Give a client every record again, which holds all up to now."""
        self._take_off(subscription)
        self._enlist(subscription)
        self._note(subscription, lambda client, one: client.within_quota(one))

    def _fell_behind(self, subscription: Subscription, before: Position, records: int) -> None:
        self._take_off(subscription)
        subscription.fall_behind(before, self._clock())
        self._note(subscription, lambda client, one: client.fell_behind(one, records))

    def _note(
        self, subscription: Subscription, tell: Callable[[Subscriber, Subscription], None]
    ) -> None:
        """Tell its client at the end of the turn, if it is as it is now by then."""
        self._notices.append((subscription, subscription.version, tell))
        self._want_flush()

    def _tell_noticed(self) -> None:
        while self._notices:
            notices, self._notices = self._notices, []
            for subscription, version, tell in notices:
                if subscription.version != version:
                    continue
                try:
                    tell(subscription.client, subscription)
                except Exception:  # noqa: BLE001 - `_failed` says it; it costs this client only
                    self._failed(subscription.client)

    def _failed(self, client: Subscriber) -> None:
        log.exception("client_failed")
        client.failed()

    # ------------------------------------------------------------------ what is pushed

    def publish(
        self, live_stream: LiveStream, entries: Sequence[StreamRecord], before: Position | None
    ) -> None:
        """Push records that directly follow `before` to everyone who is live on the stream."""
        before = before or BEGINNING
        for view, group in list(live_stream.full.items()):
            messages = [message for entry in entries for message in entry.messages(*view)]
            if not messages:
                continue
            if self._product_rate:
                self._charge(group, len(messages), before)
                if not group.members:
                    continue
            frames = text_frames(messages)
            self._batch.add(Push(group, frames, len(messages), before, len(entries)))
        if live_stream.conflated:
            self._conflate(live_stream, entries, before)
        if entries and (live_stream.full or live_stream.conflated):
            self._ingested.append((live_stream, entries[-1]))
            if tracing.ACTIVE is not None:
                self._traced += [
                    (live_stream, entry) for entry in entries if entry.trace is not None
                ]
        if self._batch.size > _TURN_BYTES:
            self._push()
        self._want_push()

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
        self._want_flush()

    def deliver(self, client: Subscriber) -> None:
        """Write what this client should have by now, as far as its transport takes it."""
        self.bring(client)
        client.flush()

    def drained(self, client: Subscriber) -> None:
        """Its transport takes data again: send what conflation held back."""
        self.touch(client)

    # ------------------------------------------------------------------ what is written

    def flush(self) -> None:
        """Write everything that is due; called by `schedule` and `schedule_at`."""
        self._flushing = True
        try:
            if self._owing:
                self._settle()
            if not self._held:
                self._push()
            self._tell_noticed()
        finally:
            self._flushing = False
        dirty, self._dirty = self._dirty, []
        for client in dirty:
            client.outbox.dirty = False
            try:
                client.flush()
            except Exception:  # noqa: BLE001 - `_failed` says it; it costs this client only
                self._failed(client)
        if self._notices or (dirty and self._owing):
            # One of them may be writable only now.
            self._want_flush()
        if self._batch.pushes:
            # Somebody who was told something had more to push.
            self._want_push()

    def _push(self) -> None:
        """Write the turn: to all who are quick the same bytes, to others through their outbox."""
        batch = self._batch
        if batch.pushes:
            for client in self._write_shared(batch):
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
            if self._window:
                self._pushed_at = self._clock()
        if self._ingested:
            self._observe()

    def _write_shared(self, batch: PushBatch) -> list[Subscriber]:
        """Write to those who are quick; the others."""
        others: list[Subscriber] = []
        write = self._write
        mine, encoding, buffer, fits = 0, PLAIN, b"", False
        for client, bits in batch.receivers():
            if not client.quick:
                others.append(client)
                continue
            try:
                if bits != mine or client.encoding is not encoding:
                    buffer, size = batch.buffer(bits, client.encoding)
                    mine, encoding, fits = bits, client.encoding, size <= self._most
                if not fits:
                    others.append(client)
                    continue
                try:
                    sent = write(client.fd, buffer) if client.fd >= 0 else 0
                except OSError:
                    # It is full, or ending; its transport finds out which.
                    sent = 0
                if sent != len(buffer):
                    client.unsent(buffer, sent)
            except Exception:  # noqa: BLE001 - `_failed` says it; it costs this client only
                self._failed(client)
        return others

    def _observe(self) -> None:
        now = self._micros()
        traces = self._end_traces() if self._traced else {}
        for live_stream, entry in self._ingested:
            if entry.ts_ingest:
                live_stream.end_to_end.observe(
                    max(0, now - entry.ts_ingest) / 1e6, traces.get(live_stream) if traces else None
                )
        self._ingested.clear()

    def _end_traces(self) -> dict[LiveStream, dict[str, str]]:
        """Tell of traced records that were written; an exemplar for each of their streams."""
        exemplars: dict[LiveStream, dict[str, str]] = {}
        for live_stream, entry in self._traced:
            if tracing.ACTIVE is None or entry.trace is None:
                continue
            came, headers = entry.trace
            span = tracing.ACTIVE.begin(
                "fan out",
                live_stream.key,
                entry.position.seq,
                parent=headers,
                kind=SpanKind.CONSUMER,
                start_us=came,
            )
            span.set_attribute("clients", len(live_stream.subscriptions()))
            span.end()
            exemplars[live_stream] = exemplar_of(span)
        self._traced.clear()
        return exemplars

    def _want_flush(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._schedule(self.flush)

    def _want_push(self) -> None:
        if not self._window:
            self._want_flush()
        elif not self._held:
            end = self._pushed_at + self._window
            if self._clock() < end:
                self._held = True
                self._schedule_at(end, self._on_window)
            else:
                self._want_flush()

    def _on_window(self) -> None:
        self._held = False
        self.flush()

    # ------------------------------------------------------------------ who gets less

    def _charge(self, group: ViewGroup, messages: int, before: Position) -> None:
        now = self._clock()
        members = list(group.members.values())
        over = [one for one in members if one.quota and one.quota.acquire(now, messages) > 0]
        held = before if before != BEGINNING else None
        for subscription in over:
            self._step_down(subscription, held)

    def _conflate(
        self, live_stream: LiveStream, entries: Sequence[StreamRecord], before: Position
    ) -> None:
        for subscription in list(live_stream.conflated):
            try:
                fits = self._owe(subscription, entries)
            except Exception:  # noqa: BLE001 - `_failed` says it; it costs this client only
                self._failed(subscription.client)
                continue
            if not fits:
                self._fell_behind(subscription, before, len(entries))

    def _owe(self, subscription: Subscription, entries: Sequence[StreamRecord]) -> bool:
        """Owe a merged client these records; False when its outbox is full."""
        conflation = subscription.conflation
        if conflation is None:
            return True
        for entry in entries:
            if entry.kind == "tick":
                conflation.add(entry)
                self._owing[subscription] = None
                continue
            if entry.chained:
                # The reset's own link has to hold: what is owed goes out before it.
                self._send_owed(subscription)
            messages = entry.messages(*subscription.terms.view)
            if messages and not subscription.outbox.offer(text_frames(messages)):
                return False
            if entry.chained:
                conflation.held = entry.position
            self.touch(subscription.client)
        return True

    def _settle(self) -> None:
        """Send what conflated clients are owed, where it is due and the client takes it."""
        now = self._clock()
        next_due: float | None = None
        for subscription in list(self._owing):
            conflation = subscription.conflation
            if conflation is None or not conflation.owing:
                self._owing.pop(subscription, None)
            elif conflation.due > now:
                next_due = conflation.due if next_due is None else min(next_due, conflation.due)
            else:
                try:
                    self._settle_one(subscription, conflation)
                except Exception:  # noqa: BLE001 - `_failed` says it; it costs this client only
                    self._failed(subscription.client)
        if next_due is not None and (self._timer is None or next_due < self._timer):
            self._timer = next_due
            self._schedule_at(next_due, self._on_timer)

    def _settle_one(self, subscription: Subscription, conflation: Conflation) -> None:
        if not subscription.client.writable:
            return
        del self._owing[subscription]
        self._send_owed(subscription)
        if subscription.terms.mode == "full" and conflation.singles >= _CALM:
            # It was stepped down for its rate, which is within the quota again.
            self._step_up(subscription)

    def _on_timer(self) -> None:
        self._timer = None
        self.flush()

    def _send_owed(self, subscription: Subscription) -> None:
        conflation = subscription.conflation
        owed = conflation.drain(self._clock()) if conflation is not None else None
        if owed is None:
            return
        message, merged = owed
        subscription.outbox.put(text_frame(message))
        subscription.live_stream.sent.inc()
        subscription.live_stream.metrics.conflated.inc(merged - 1)
        self.touch(subscription.client)
