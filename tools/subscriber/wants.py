"""What a subscriber asks for, and the commands that ask for it. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tools.subscriber.chain import ChainChecker

Message = dict[str, Any]


@dataclass(frozen=True)
class Want:
    """One channel of some products. `from_seq` is a position held, the same for all of them."""

    channel: str
    products: tuple[str, ...]
    venue: str = "coinbase"
    from_seq: int | None = None
    mode: str | None = None
    max_rate: float | None = None
    depth: int | None = None

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of its streams, `venue:channel:product`."""
        return tuple(f"{self.venue}:{self.channel}:{product}" for product in self.products)

    def command(self, epoch: int | None, held: dict[str, int | None]) -> Message:
        """`subscribe` to some of the products; what is held of them goes along as `from_seq`."""
        command: Message = {
            "type": "subscribe",
            "venue": self.venue,
            "channel": self.channel,
            "products": list(held),
        }
        positions = {product: seq for product, seq in held.items() if seq is not None}
        if positions:
            command["from_seq"] = positions
            if epoch is not None:
                command["epoch"] = epoch
        for name in ("mode", "max_rate", "depth"):
            value = getattr(self, name)
            if value is not None:
                command[name] = value
        return command


def subscriptions(
    wants: Sequence[Want], chains: Mapping[str, ChainChecker], streams: Collection[str]
) -> Iterator[Message]:
    """One command for each want and epoch of the streams, from the positions their chains hold."""
    for want in wants:
        by_epoch: dict[int | None, dict[str, int | None]] = {}
        for product, stream in zip(want.products, want.streams, strict=True):
            if stream in streams:
                chain = chains[stream]
                held = chain.seq if chain.seq is not None else want.from_seq
                by_epoch.setdefault(chain.epoch, {})[product] = held
        for epoch, held_by_product in by_epoch.items():
            yield want.command(epoch, held_by_product)


def stream_of(message: Message) -> str:
    """`venue:channel:product` of a record, or of a message that names its stream."""
    stream = message.get("stream")
    if isinstance(stream, str):
        return stream
    return f"{message.get('venue')}:{message.get('channel')}:{message.get('product')}"
