"""Connections for HTTP calls that may be cancelled at any moment: each is in one place, and closed.

httpcore's pool does not survive `Task.cancel`: cancelled while it closes expired connections, a
request leaves the others open with nobody who knows of them; cancelled on a new connection or while
it ends a response, it leaves one that is never used again and takes a place of the pool for ever.
So a pool serves one call at a time here, with one connection, and goes when its call was cut.
"""

from __future__ import annotations

import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Iterable

import httpx

# For so long a connection is kept for the next call: below what venues keep an idle one.
_IDLE_S = 5.0
_ONE = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=_IDLE_S)


class RestTransport(httpx.AsyncBaseTransport):
    """To one address, directly or through `proxy`; the environment is not read."""

    def __init__(self, verify: ssl.SSLContext, proxy: str | None) -> None:
        self._verify = verify
        self._proxy = proxy
        # Those that no call has, and since when (monotonic seconds), ascending.
        self._free: list[tuple[float, httpx.AsyncHTTPTransport]] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Ask over a connection that no other call has."""
        pool = await self._taken()
        try:
            response = await pool.handle_async_request(request)
        except BaseException:
            await pool.aclose()
            raise
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _Body(response.stream, pool, self)
        return response

    async def aclose(self) -> None:
        """Close what no call has; a call closes its own."""
        free, self._free = self._free, []
        await _close_all(pool for _, pool in free)

    def give_back(self, pool: httpx.AsyncHTTPTransport) -> None:
        """Keep a pool whose call has ended as it should."""
        self._free.append((time.monotonic(), pool))

    async def _taken(self) -> httpx.AsyncHTTPTransport:
        expired = time.monotonic() - _IDLE_S
        old = [pool for since, pool in self._free if since < expired]
        del self._free[: len(old)]
        await _close_all(old)
        if self._free:
            # The newest, so that those which are too many expire.
            return self._free.pop()[1]
        return httpx.AsyncHTTPTransport(
            verify=self._verify, proxy=self._proxy, trust_env=False, limits=_ONE
        )


class _Body(httpx.AsyncByteStream):
    """A response's body; closing it ends the call."""

    def __init__(
        self, body: httpx.AsyncByteStream, pool: httpx.AsyncHTTPTransport, owner: RestTransport
    ) -> None:
        self._body = body
        self._pool = pool
        self._owner = owner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._body:
            yield piece

    async def aclose(self) -> None:
        try:
            await self._body.aclose()
        except BaseException:
            await self._pool.aclose()
            raise
        self._owner.give_back(self._pool)


async def _close_all(pools: Iterable[httpx.AsyncHTTPTransport]) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for pool in pools:
            # Each drops its socket before it waits, and the stack goes on to the next whatever
            # one of them raises: a cancellation, too.
            stack.push_async_callback(pool.aclose)
