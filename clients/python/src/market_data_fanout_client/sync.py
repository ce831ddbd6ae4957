"""The same client for programs without asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Self

from market_data_fanout_client.book import OrderBook
from market_data_fanout_client.client import Client
from market_data_fanout_client.freshness import Freshness
from market_data_fanout_client.messages import AnyEvent, Channel


class SyncClient:
    """Iterate it: `for event in client`. Everything else is as in `Client`.

    It runs only while you iterate: between two events for longer than the gateway's ping timeout
    (60 s) the connection is lost, and resumed at the next one.
    """

    def __init__(self, url: str, **options: Any) -> None:
        self._runner = asyncio.Runner()
        self._client = Client(url, **options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc_info: object) -> None:
        self.close()

    def subscribe(self, *products: str, **options: Any) -> None:
        """See `Client.subscribe`."""
        self._runner.run(self._client.subscribe(*products, **options))

    def unsubscribe(self, *products: str, **options: Any) -> None:
        """See `Client.unsubscribe`."""
        self._runner.run(self._client.unsubscribe(*products, **options))

    def book(self, product: str, venue: str = "coinbase") -> OrderBook:
        """See `Client.book`."""
        return self._client.book(product, venue)

    def freshness(
        self, product: str, channel: Channel = "ticker", venue: str = "coinbase"
    ) -> Freshness:
        """See `Client.freshness`."""
        return self._client.freshness(product, channel, venue)

    def close(self) -> None:
        """Close the connection."""
        self._runner.run(self._client.aclose())
        self._runner.close()

    def __iter__(self) -> Iterator[AnyEvent]:
        return self

    def __next__(self) -> AnyEvent:
        event = self._runner.run(self._next())
        if event is None:
            raise StopIteration
        return event

    async def _next(self) -> AnyEvent | None:
        return await anext(self._client, None)
