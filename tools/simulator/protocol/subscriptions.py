"""What one client has subscribed, and the answers to its requests. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from services.common.wire import UNREADABLE
from tools.simulator.protocol.auth import AuthFailed, Credentials
from tools.simulator.protocol.messages import AckChannel, Channel, Error, Subscriptions

_ALIASES = {"level2_50": Channel.LEVEL2_BATCH, "ticker_1000": Channel.TICKER_BATCH}
# The venue acknowledges these under their older names.
_ACK_NAMES: dict[str, str] = {
    Channel.LEVEL2_BATCH: "level2_50",
    Channel.TICKER_BATCH: "ticker_1000",
}
_SIGNED = frozenset({Channel.LEVEL2, Channel.LEVEL3, Channel.FULL})
_NEEDS_AUTH = (
    "level2, level3, and full channels now require authentication. "
    "https://docs.cdp.coinbase.com/exchange/docs/websocket-auth"
)
Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Answer:
    """`reply` goes to the client first; then what `added` pairs (channel, product) begin with."""

    reply: Subscriptions | Error
    added: list[Pair] = field(default_factory=list)
    removed: list[Pair] = field(default_factory=list)


class Refused(Exception):
    def __init__(self, reason: str, message: str = "Failed to subscribe") -> None:
        self.error = Error(message, reason)
        super().__init__(reason)


class ClientSubscriptions:
    """The subscriptions of one connection.

    A request is carried out whole or, when anything in it is wrong, not at all.
    """

    def __init__(self, tradable: Callable[[str], bool], credentials: Credentials | None) -> None:
        """`tradable` is asked each time, as products come and go.

        `credentials` None lets everybody have the channels that need a signature.
        """
        self._tradable = tradable
        self._credentials = credentials
        # Channel to its products, both in the order they were asked for.
        self._held: dict[str, dict[str, None]] = {}

    def __bool__(self) -> bool:
        return bool(self._held)

    def pairs(self) -> list[Pair]:
        return [(channel, product) for channel, held in self._held.items() for product in held]

    def handle(self, text: str | bytes, now_s: float) -> Answer:
        """Carry out one message of the client."""
        try:
            message = msgspec.json.decode(text)
        except UNREADABLE:
            return Answer(Error("Malformed JSON"))
        try:
            if not isinstance(message, dict):
                raise Refused("Message has to be an object")
            match message.get("type"):
                case "subscribe":
                    return self._subscribe(message, now_s)
                case "unsubscribe":
                    return self._unsubscribe(message)
                case _:
                    raise Refused("Type has to be either subscribe or unsubscribe")
        except Refused as refused:
            return Answer(refused.error)

    def _subscribe(self, message: Mapping[str, Any], now_s: float) -> Answer:
        wanted = self._wanted(message)
        if not wanted:
            raise Refused("No channels provided")
        try:
            signed = self._credentials is None or self._credentials.verify(message, now_s)
        except AuthFailed as failed:
            raise Refused(failed.reason, "Authentication Failed") from failed
        if not signed and _SIGNED & wanted.keys():
            raise Refused(_NEEDS_AUTH)
        for channel, products in wanted.items():
            if not products and channel != Channel.STATUS:
                raise Refused(f"You need to specify at least one product ID for channel {channel}")
            for product in products:
                if not self._tradable(product):
                    raise Refused(f"{product} is not a valid product")
        added = []
        for channel, products in wanted.items():
            held = self._held.setdefault(channel, {})
            for product in [""] if channel == Channel.STATUS else products:
                if product not in held:
                    held[product] = None
                    added.append((channel, product))
        return Answer(self.acknowledge(), added=added)

    def _unsubscribe(self, message: Mapping[str, Any]) -> Answer:
        wanted = self._wanted(message)
        if not wanted and message.get("product_ids"):
            # Products without channels: leave them on every channel.
            wanted = {channel: list(message["product_ids"]) for channel in self._held}
        if not wanted:
            raise Refused("No channels provided", "Failed to unsubscribe")
        removed = [
            (channel, product)
            for channel, product in self.pairs()
            if channel in wanted and (not wanted[channel] or product in wanted[channel])
        ]
        self.forget(removed)
        return Answer(self.acknowledge(), removed=removed)

    def _wanted(self, message: Mapping[str, Any]) -> dict[str, list[str]]:
        """Channel to product ids; ids at the top level count for every channel."""
        common = _ids(message.get("product_ids"))
        channels = message.get("channels")
        if channels is not None and not isinstance(channels, list):
            raise Refused("channels has to be an array")
        wanted: dict[str, list[str]] = {}
        for each in channels or []:
            name, own = each, None
            if isinstance(each, dict):
                name, own = each.get("name"), each.get("product_ids")
            channel = _ALIASES.get(str(name), str(name))
            if channel not in tuple(Channel):
                raise Refused(f"{name} is not a valid channel")
            products = wanted.setdefault(channel, [])
            products.extend(i for i in [*_ids(own), *common] if i not in products)
        return wanted

    def forget(self, pairs: Iterable[Pair]) -> None:
        """Take away pairs, such as those that were not granted after all."""
        for channel, product in pairs:
            held = self._held.get(channel, {})
            held.pop(product, None)
            if not held:
                self._held.pop(channel, None)

    def acknowledge(self) -> Subscriptions:
        """The whole of what is subscribed now."""
        return Subscriptions(
            [
                AckChannel(_ACK_NAMES.get(channel, channel), [each for each in held if each])
                for channel, held in self._held.items()
            ]
        )


def _ids(value: object) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise Refused("product_ids has to be an array of strings")
    return value
