"""What stands before the venue's REST API: a cache, and its answers. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class RestAnswer:
    """`max_age` is how many seconds the edge may repeat it; None: never."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    max_age: int | None = None


class EdgeCache:
    """Repeats an answer until its `max-age` is over, as the venue's CDN does.

    The staleness is real: a client that asks right after a gap may get an answer from before it.
    """

    _KEEP = 1000

    def __init__(self) -> None:
        self._held: dict[str, tuple[float, RestAnswer]] = {}

    def find(self, url: str, now_s: float) -> RestAnswer | None:
        """The held answer with its `Age`, while it is fresh."""
        held = self._held.get(url)
        if held is None:
            return None
        since, answer = held
        age = now_s - since
        if answer.max_age is None or age >= answer.max_age:
            del self._held[url]
            return None
        return _through(answer, math.ceil(age), "HIT")

    def keep(self, url: str, answer: RestAnswer, now_s: float) -> RestAnswer:
        """Hold an answer of the origin; returns it as the client gets it."""
        if answer.max_age is None or answer.status != 200:
            return answer
        if len(self._held) >= self._KEEP:
            self._held.clear()
        self._held[url] = (now_s, answer)
        return _through(answer, 0, "MISS")


def _through(answer: RestAnswer, age: int, status: str) -> RestAnswer:
    headers = {**answer.headers, "Age": str(age), "CF-Cache-Status": status}
    return replace(answer, headers=headers)
