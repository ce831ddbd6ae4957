"""A client's socket as the session sees it: whole frames out, whole messages in."""

from __future__ import annotations

from abc import ABC, abstractmethod


class TransportListener(ABC):
    """Whoever is called back by a transport; nothing here may raise or take long."""

    __slots__ = ()

    @abstractmethod
    def on_text(self, text: str) -> None: ...

    @abstractmethod
    def on_binary(self, data: bytes) -> None: ...

    @abstractmethod
    def on_pause(self) -> None:
        """The transport is paused from now on."""

    @abstractmethod
    def on_resume(self) -> None:
        """It no longer is."""

    @abstractmethod
    def on_closed(self) -> None:
        """It is over, whoever ended it; nothing is written any more. Called once."""


class ClientTransport(ABC):
    """Of one client. Written to without waiting; backpressure is `paused`."""

    __slots__ = ()

    deflated: bool  # whether the client agreed to compressed frames without context takeover
    # Why it is over, if its listener did not close it: `client`, `violation`, `abuse`,
    # `ping_timeout` or `service_restart`
    ended: str

    @abstractmethod
    def write(self, frames: bytes | memoryview) -> bool:
        """Write whole text frames; False when the connection is closing and nothing was written."""

    @property
    @abstractmethod
    def paused(self) -> bool:
        """Whether something written before still waits, so that no more should be."""

    @property
    @abstractmethod
    def ready(self) -> bool:
        """Whether `fd` may be written to now; `on_pause` or `on_closed` tell when no longer."""

    @property
    @abstractmethod
    def fd(self) -> int:
        """The socket's descriptor, to write to while `ready`; negative: it has none for that.

        What the kernel does not take has to be given to `write` before anything else is.
        """

    @property
    @abstractmethod
    def buffered(self) -> int:
        """Bytes that wait in this process's transport."""

    @property
    def peer(self) -> str:
        """The address at the other end; empty when it is not known."""
        return ""

    @abstractmethod
    def pause_reading(self) -> None:
        """Take nothing more from the client for now; a few messages may still come."""

    @abstractmethod
    def resume_reading(self) -> None: ...

    @abstractmethod
    def close(self, code: int, reason: str) -> None:
        """Write a close frame behind what was written; who takes nothing is dropped in the end."""
