"""Extensions of a WebSocket: permessage-deflate (RFC 7692), where it is allowed and asked for."""

from __future__ import annotations

from collections.abc import Iterable

from websockets.exceptions import InvalidHeader, NegotiationError
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.headers import build_extension, parse_extension

from services.gateway.websocket.rfc6455.deflate import WINDOW_BITS
from services.gateway.websocket.rfc6455.handshake import Header

# No context in either direction: frames are shared by all clients, and none costs memory.
_FACTORY = ServerPerMessageDeflateFactory(
    server_no_context_takeover=True,
    client_no_context_takeover=True,
    server_max_window_bits=WINDOW_BITS,
    client_max_window_bits=WINDOW_BITS,
)


def agree(headers: Iterable[Header]) -> tuple[Header, bool] | None:
    """The header that agrees to the first acceptable offer; None: there was none.

    And whether the client can look back as far as frames do that are made for all; who cannot is
    sent plain ones.
    """
    for name, value in headers:
        if name != b"sec-websocket-extensions":
            continue
        try:
            offers = parse_extension(value.decode("latin-1"))
        except InvalidHeader:
            # RFC 6455, 9.1: what is not understood may be left unanswered.
            continue
        for offered, parameters in offers:
            if offered != _FACTORY.name:
                continue
            try:
                agreed, extension = _FACTORY.process_request_params(parameters, [])
            except NegotiationError:
                continue
            answer = build_extension([(offered, agreed)])
            far = extension.local_max_window_bits >= WINDOW_BITS
            return (b"sec-websocket-extensions", answer.encode("ascii")), far
    return None
