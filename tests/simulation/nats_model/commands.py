"""What the differential test asks of a server, and what of an answer two servers can share.

Left out of what is compared, as only the server knows it: times (`created`, `ts`, `*_ts`,
`last_active`, `time`, `Nats-Time-Stamp`, and the one in an acknowledgement's subject), its name
(`cluster`) and its version (`metadata` of a config, the account's `api` and `limits`). How many
pulls wait (`num_waiting`) is 0 on both: those asked for here do not wait.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Protocol

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import NoRespondersError

# Stands for the stream's name.
STREAM = "$STREAM"
_TIMES = frozenset({"created", "ts", "first_ts", "last_ts", "last_active", "time"})
_OWN = _TIMES | {"cluster", "metadata", "api", "limits"}
_PATIENCE_S = 20.0


@dataclass
class Side:
    """One of the two servers, and what its consumers were given and have not answered."""

    client: Client
    stream: str
    given: list[str] = field(default_factory=list)


class Command(Protocol):
    async def on(self, side: Side) -> object:
        """Ask a server; what it answers, but for what it alone knows."""


def shared(told: Any) -> Any:
    """An answer without what only its server knows."""
    if isinstance(told, dict):
        return {key: shared(value) for key, value in told.items() if key not in _OWN}
    return [shared(one) for one in told] if isinstance(told, list) else told


def _named(asked: Any, stream: str) -> Any:
    """What is asked, with the stream's name in it."""
    if isinstance(asked, dict):
        return {key: _named(value, stream) for key, value in asked.items()}
    return asked.replace(STREAM, stream) if isinstance(asked, str) else asked


def _message(message: Msg) -> tuple[str, str, dict[str, str], bytes]:
    headers = {
        str(getattr(key, "value", key)): value for key, value in (message.headers or {}).items()
    }
    headers.pop("Nats-Time-Stamp", None)
    reply = message.reply.split(".")
    if len(reply) == 9:
        reply[7] = "time"
    return message.subject, ".".join(reply), headers, message.data


@dataclass(frozen=True)
class Api:
    """A request to JetStream's API."""

    verb: str
    body: dict[str, Any] | None = None

    async def on(self, side: Side) -> object:
        body = _named(self.body, side.stream)
        payload = b"" if body is None else json.dumps(body).encode()
        subject = f"$JS.API.{_named(self.verb, side.stream)}"
        answer = await _request(side.client, subject, payload)
        return shared(json.loads(answer))


@dataclass(frozen=True)
class Reset:
    """Have a consumer begin again; nobody answers where there is no such consumer."""

    consumer: str

    async def on(self, side: Side) -> object:
        there = await Api(f"CONSUMER.INFO.{STREAM}.{self.consumer}").on(side)
        assert isinstance(there, dict)
        if "error" in there:
            return there
        return await Api(f"CONSUMER.RESET.{STREAM}.{self.consumer}").on(side)


@dataclass(frozen=True)
class Publish:
    """One message by itself."""

    subject: str
    size: int
    headers: tuple[tuple[str, str], ...] = ()

    async def on(self, side: Side) -> object:
        headers = dict(self.headers) or None
        return json.loads(await _request(side.client, self.subject, b"x" * self.size, headers))


@dataclass(frozen=True)
class Batch:
    """Messages of which all are to be stored or none; `skips` leaves out that one's number."""

    name: str
    messages: tuple[Publish, ...]
    skips: int | None = None

    async def on(self, side: Side) -> object:
        last = len(self.messages)
        for place, message in enumerate(self.messages, 1):
            number = place + (self.skips is not None and place >= self.skips)
            headers = dict(message.headers)
            headers |= {"Nats-Batch-Id": self.name, "Nats-Batch-Sequence": str(number)}
            if place == last:
                headers["Nats-Batch-Commit"] = "1"
                committed = Publish(message.subject, message.size, tuple(headers.items()))
                return await committed.on(side)
            await side.client.publish(message.subject, b"x" * message.size, headers=headers)
        return None


@dataclass(frozen=True)
class DirectGet:
    """A record, or a page of them, from whichever replica answers."""

    body: dict[str, Any]

    async def on(self, side: Side) -> object:
        payload = json.dumps(self.body).encode()
        answers = await _collect(
            side.client, f"$JS.API.DIRECT.GET.{side.stream}", payload, self._last
        )
        return [(headers, data) for _subject, _reply, headers, data in map(_message, answers)]

    def _last(self, answers: list[Msg]) -> bool:
        return "batch" not in self.body or "Status" in (answers[-1].headers or {})


@dataclass(frozen=True)
class Fetch:
    """A pull that does not wait."""

    consumer: str
    batch: int
    max_bytes: int = 0

    async def on(self, side: Side) -> object:
        asked: dict[str, Any] = {"batch": self.batch, "no_wait": True}
        if self.max_bytes:
            asked["max_bytes"] = self.max_bytes
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{side.stream}.{self.consumer}"
        payload = json.dumps(asked).encode()
        answers = await _collect(side.client, subject, payload, self._last)
        side.given += [message.reply for message in answers if message.reply]
        return [
            (message.reply and subject, reply, headers, data)
            for message in answers
            for subject, reply, headers, data in [_message(message)]
        ]

    def _last(self, answers: list[Msg]) -> bool:
        return len(answers) == self.batch or "Status" in (answers[-1].headers or {})


@dataclass(frozen=True)
class Answer:
    """What a member says of a record that it was given: done, not done, later, never."""

    said: bytes
    which: int

    async def on(self, side: Side) -> object:
        if not side.given:
            return None
        return await _request(side.client, side.given[self.which % len(side.given)], self.said)


async def _request(
    client: Client, subject: str, payload: bytes, headers: dict[str, str] | None = None
) -> bytes:
    try:
        answer = await client.request(subject, payload, timeout=_PATIENCE_S, headers=headers)
    except NoRespondersError:
        return b'"nobody answers"'
    return answer.data


async def _collect(client: Client, subject: str, payload: bytes, last: Any) -> list[Msg]:
    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox)
    await client.publish(subject, payload, reply=inbox)
    answers: list[Msg] = []
    while not answers or not last(answers):
        answers.append(await subscription.next_msg(timeout=_PATIENCE_S))
    await subscription.unsubscribe()
    return answers
