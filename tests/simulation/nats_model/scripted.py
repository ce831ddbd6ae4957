"""The model with a script of what becomes of each publish.

For what a real cluster does one time in ten: it refuses a batch and takes the next, answers
nothing, or forgets what it had acknowledged.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable
from enum import Enum
from typing import Self

from tests.simulation.nats_model.server import Client, ModelServer
from tests.simulation.nats_model.stream import Stored
from tests.simulation.nats_model.wire import header_of


class Verdict(Enum):
    """What becomes of one publish, or of one batch as a whole."""

    STORE = "stored and acknowledged"
    REFUSE = "not stored, answered with 503, as without a leader"
    DROP = "not stored and not answered; the connection is closed"
    STORE_UNSAID = "stored and not answered; the connection is closed"
    STORE_REFUSED = "stored, but answered with 503"
    FORGET = "stored and acknowledged; then it is gone, as from a leader that was behind"


class ScriptedNats(ModelServer):
    """Use as a context.

    Args:
        batches: its streams take atomic batches, whatever they are asked to.
        verdicts: of the publishes to come; STORE when there are no more.
    """

    def __init__(self, *, batches: bool = False, verdicts: Iterable[Verdict] = ()) -> None:
        super().__init__()
        self.forgotten: list[Stored] = []
        self._batches = batches
        self._verdicts = deque(verdicts)
        self._publisher: Client | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.kill()

    def identities(self, subject: str) -> list[str]:
        """Of the subject's records, in their order."""
        stream = self.jetstream.stream_for(subject)
        return [] if stream is None else [identity_of(one) for one in stream.after(subject, 1)]

    def answer_of(self, verb: str, payload: bytes, now_ns: int) -> bytes | None:
        if verb.startswith(("STREAM.CREATE", "STREAM.UPDATE")):
            payload = json.dumps(json.loads(payload) | {"allow_atomic": self._batches}).encode()
        return super().answer_of(verb, payload, now_ns)

    def published(
        self, client: Client, subject: str, reply: str, headers: bytes, payload: bytes
    ) -> None:
        self._publisher = client
        super().published(client, subject, reply, headers, payload)

    def store(self, subject: str, reply: str, headers: bytes, payload: bytes) -> bool:
        """As the script says; False has the publisher told that nobody is there."""
        stream = self.jetstream.stream_for(subject)
        of_batch = header_of(headers, "Nats-Batch-Id") is not None
        ends = not of_batch or header_of(headers, "Nats-Batch-Commit") is not None
        if stream is None or not ends:
            return super().store(subject, reply, headers, payload)
        verdict = self._verdicts.popleft() if self._verdicts else Verdict.STORE
        begin = stream.last + 1
        if verdict not in (Verdict.REFUSE, Verdict.DROP):
            said = verdict in (Verdict.STORE, Verdict.FORGET)
            super().store(subject, reply if said else "", headers, payload)
        if verdict is Verdict.FORGET:
            self.forgotten += [held for seq, held in stream.records.items() if seq >= begin]
            stream.lose_from(begin)
        if verdict in (Verdict.DROP, Verdict.STORE_UNSAID) and self._publisher is not None:
            self._publisher.transport.close()
        return verdict not in (Verdict.REFUSE, Verdict.STORE_REFUSED)


def identity_of(stored: Stored) -> str:
    """Of a record, as its publisher gave it."""
    return header_of(stored.headers, "Nats-Msg-Id") or ""
