"""One GET of a JSON document, and whatever may go wrong with it as one kind of failure.

A client library raises from many families: of transports, of redirects, of decoding, of URLs and
cookies, of the codecs below it. None of them may end more than the call it came from.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import NamedTuple

import httpx
import msgspec

from services.common.network.proxies import proxy_for
from services.ingestor.feed.rest_transport import RestTransport

# A level 3 book of the busiest product is some 30 MB.
MAX_ANSWER_BYTES = 128 * 1024 * 1024
# Each read has the client's own timeout; this is for an answer that drips in and never ends.
ANSWER_S = 30.0
# Of a refusal's words, characters.
_SHOWN = 200

# Too slow, too early, too many: nothing is said of what was asked.
_LATER = frozenset({408, 425, 429})

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
