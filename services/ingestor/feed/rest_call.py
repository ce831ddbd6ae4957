"""One GET of a JSON document, and whatever may go wrong with it as one kind of failure.

A client library raises from many families: of transports, of redirects, of decoding, of URLs and
cookies, of the codecs below it. None of them may end more than the call it came from.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import NamedTuple

import httpx
import msgspec

from services.common.network.proxies import proxy_for

# A level 3 book of the busiest product is some 30 MB.
MAX_ANSWER_BYTES = 128 * 1024 * 1024
# Each read has the client's own timeout; this is for an answer that drips in and never ends.
ANSWER_S = 30.0
# Of a refusal's words, characters.
_SHOWN = 200

# Too slow, too early, too many: nothing is said of what was asked.
_LATER = frozenset({408, 425, 429})

# For so long a connection is kept for the next call: below what venues keep an idle one.
_IDLE_S = 5.0
_ONE = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=_IDLE_S)

_read = msgspec.json.Decoder(msgspec.Raw).decode
_decode = msgspec.json.Decoder().decode


class CallFailed(Exception):
    """There is no answer that could be read; asking again may help."""


class Answer(NamedTuple):
    """`body` is JSON where `status` is a success."""

    status: int
    body: bytes

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    @property
    def is_refusal(self) -> bool:
        """Whether the venue says no: a 4xx with a JSON object, as its API answers.

        A redirect, or a page of whatever stands before the venue, denies nothing.
        """
        if not 400 <= self.status < 500 or self.status in _LATER:
            return False
        try:
            return isinstance(_decode(self.body), dict)
        except (ValueError, RecursionError):
            return False

    @property
    def text(self) -> str:
        """What the venue says, for people."""
        return self.body[:_SHOWN].decode(errors="replace")


async def get(client: httpx.AsyncClient, path: str, params: Mapping[str, str]) -> Answer:
    """Ask once.

    Raises:
        CallFailed: no connection, no answer in time, one that breaks off, that cannot be decoded,
            is larger than any answer of the venue, or a success that is no JSON.
    """
    try:
        async with asyncio.timeout(ANSWER_S), client.stream("GET", path, params=params) as response:
            body = bytearray()
            async for piece in response.aiter_bytes():
                body += piece
                if len(body) > MAX_ANSWER_BYTES:
                    raise CallFailed(f"an answer of more than {MAX_ANSWER_BYTES} bytes")
        answer = Answer(response.status_code, bytes(body))
        if answer.is_success:
            _check(answer.body)
    except CallFailed:
        raise
    # Whatever it is stays with this call; a fault of our own is told by its name in the reason.
    except Exception as error:
        raise CallFailed(f"{type(error).__name__}: {error}"[:_SHOWN].rstrip(": ")) from error
    return answer


def _check(body: bytes) -> None:
    """Refuse a proxy's or CDN's page in place of the venue's answer."""
    try:
        body.decode()
        _read(body)
    except (ValueError, RecursionError) as error:
        # Broken UTF-8 and bottomless nesting surface as built-in exceptions.
        raise CallFailed(f"unreadable answer: {error}"[:_SHOWN]) from error


def open_http(base_url: str, timeout: httpx.Timeout | float) -> httpx.AsyncClient:
    """A client of one address. Authorities are the bundled ones, or those of SSL_CERT_FILE.

    httpx reads the proxy variables by rules of its own, which fail on an IPv6 address or a network
    in `no_proxy`; so they are read here.

    Raises:
        BadProxy: the environment names a proxy for it that cannot be used.
    """
    return httpx.AsyncClient(
        base_url=base_url,
        timeout=timeout,
        transport=RestTransport(httpx.create_ssl_context(), proxy_for(base_url)),
        trust_env=False,
    )


class RestTransport(httpx.AsyncBaseTransport):
    """To one address, directly or through `proxy`; the environment is not read.

    Calls may be cancelled at any moment, and each connection is in one place, and closed. A pool of
    httpcore does not survive `Task.cancel`: cancelled while it closes expired connections, a
    request leaves the others open with nobody who knows of them; cancelled on a new connection or
    while it ends a response, it leaves one that is never used again and takes a place of the pool
    for ever. So a pool serves one call at a time here, with one connection, and goes when its call
    was cut.
    """

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
        except BaseException:  # also when cancelled: what that left of the pool is of no more use
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
        except BaseException:  # as above: whatever cut the end of a call, the connection goes too
            await self._pool.aclose()
            raise
        self._owner.give_back(self._pool)


async def _close_all(pools: Iterable[httpx.AsyncHTTPTransport]) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for pool in pools:
            # Each drops its socket before it waits, and the stack goes on to the next whatever
            # one of them raises: a cancellation, too.
            stack.push_async_callback(pool.aclose)
