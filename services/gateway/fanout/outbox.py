"""What waits to be written to one client. Pure.

Two lanes. *Control* (pong, heartbeats, errors, rate limits, mode changes) is written first, so it
never waits behind data. *Data* is everything whose order matters inside a stream; it is bounded:
`offer` refuses what would exceed the limit, and the client is then taken off the live push.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Outbox:
    """Frames of one client.

    Attributes:
        limit: bytes of data that may wait.
        size: bytes of data that wait now.
        control_size: bytes of control that wait now.
        dirty: whether the owner already knows that there is something to write.
    """

    limit: int
    size: int = 0
    control_size: int = 0
    dirty: bool = False
    control: list[bytes] = field(default_factory=list)
    # Not a deque: an empty one takes 0.7 KiB, and most outboxes are empty most of the time.
    data: list[bytes] = field(default_factory=list)

    def offer(self, frames: bytes) -> bool:
        """Take data if it fits; False when it does not, and nothing was taken."""
        if self.size + len(frames) > self.limit:
            return False
        self.put(frames)
        return True

    def put(self, frames: bytes) -> None:
        """Take data that has to be sent in this place, also beyond the limit."""
        self.data.append(frames)
        self.size += len(frames)

    def put_control(self, frames: bytes) -> None:
        self.control.append(frames)
        self.control_size += len(frames)

    def clear(self) -> None:
        """Forget everything."""
        self.control, self.control_size = [], 0
        self.data.clear()
        self.size = 0

    def drain(self, max_bytes: int) -> list[bytes]:
        """All control and about `max_bytes` of data (at least one piece), in writing order."""
        parts, self.control, self.control_size = self.control, [], 0
        if self.size <= max_bytes:
            parts += self.data
            self.data.clear()
            self.size = 0
            return parts
        taken = taken_size = 0
        for part in self.data:
            if taken and taken_size + len(part) > max_bytes:
                break
            taken += 1
            taken_size += len(part)
        parts += self.data[:taken]
        del self.data[:taken]
        self.size -= taken_size
        return parts

    def __bool__(self) -> bool:
        return bool(self.control or self.data)
