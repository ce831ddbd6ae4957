"""What catching up needs of a connection, and tells it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any

from services.gateway.fanout.live_streams import Subscriber, SubscriptionListener
from services.gateway.fanout.subscription import Subscription
from services.gateway.protocol import CommandId, Problem


class CatchUpListener(SubscriptionListener):
    """Is told, beside what the hub finds out, of what cannot be brought to the head."""

    __slots__ = ()

    @abstractmethod
    def end_with(self, problem: Problem, subscription: Subscription) -> None:
        """End the subscription, and tell its client why."""


class CatchUpPort(Subscriber):
    """What catching up needs of a connection."""

    __slots__ = ()

    subscriptions: CatchUpListener

    @abstractmethod
    def tell(self, message: dict[str, Any] | bytes, *, control: bool = False) -> None:
        """Put a message into the outbox, behind the data or (`control`) before it."""

    @abstractmethod
    def tell_problem(
        self, problem: Problem, id: CommandId | None = None, *, control: bool = True
    ) -> None:
        """Send an `error` message, before the data or (`control` False) behind it."""

    @abstractmethod
    async def room(self) -> None:
        """Return when little waits for this client."""

    @abstractmethod
    async def answered(self) -> None:
        """Return when there is room for another piece of an answer."""

    @abstractmethod
    def start_catching_up(self, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run it in a task of the connection."""
