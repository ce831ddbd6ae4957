"""One buffer for all clients that get the same, handed to the kernel past their transports."""

from __future__ import annotations

from collections.abc import Callable

from services.gateway.fanout.encoding import PLAIN
from services.gateway.fanout.live_streams import Subscriber
from services.gateway.fanout.push_batch import PushBatch


class SharedWriter:
    """Writes a batch to those clients for which nothing waits.

    Args:
        most: bytes that may be written to one client past its outbox.
        write: hands a buffer to the kernel and tells how much of it was taken; or OSError.
        failed: called with a client that could not be written to, while the error is handled.
    """

    __slots__ = ("_failed", "_most", "_write")

    def __init__(
        self,
        most: int,
        write: Callable[[int, bytes], int],
        failed: Callable[[Subscriber], None],
    ) -> None:
        self._most = most
        self._write = write
        self._failed = failed

    def write(self, batch: PushBatch) -> list[Subscriber]:
        """Write to those who are quick; the others, which have to get it through their outbox."""
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
