"""The model answers as nats-server does: any sequence of commands, sent to both, field by field.

A few seconds in each run; `HYPOTHESIS_PROFILE=nightly` tries many more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nats.aio.client import Client

from tests.simulation.nats_model.commands import (
    STREAM,
    Answer,
    Api,
    Batch,
    Command,
    DirectGet,
    Fetch,
    Publish,
    Reset,
    Side,
)
from tests.simulation.nats_model.server import ModelServer
from tools.embedded import NatsServer

# A second or two of them; as many as there are with the profile of the night.
EXAMPLES = max(150, settings().max_examples)
SUBJECTS = ("s.a", "s.b", "s.c.d")
PATTERNS = (*SUBJECTS, "s.*", "s.>", ">", "s.none")
IDS = ("1", "2", "3")


class Pair:
    """A real server and the model, and a loop in which both are asked."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self.real = NatsServer()
        self.model = ModelServer()
        self.clients: list[Client] = []
        self.streams = 0
        self.runner.run(self._begin())

    async def _begin(self) -> None:
        await self.real.start()
        await self.model.start()
        for server in (self.real, self.model):
            client = Client()
            await client.connect(server.url)
            self.clients.append(client)
            # The real one removes the folder of its streams with the last of them, and a new one
            # may come in between.
            stays = {"name": "STAYS", "subjects": ["stays"]}
            await Api("STREAM.CREATE.STAYS", stays).on(Side(client, "STAYS"))

    def close(self) -> None:
        self.runner.run(self._end())
        self.runner.close()

    async def _end(self) -> None:
        for client in self.clients:
            await client.close()
        self.model.kill()
        await self.real.stop()
        await self.real.close()

    def compare(self, config: dict[str, Any], commands: Sequence[Command]) -> None:
        self.runner.run(self._compare(config, commands))

    async def _compare(self, config: dict[str, Any], commands: Sequence[Command]) -> None:
        # Of its own, as the real server may still be deleting the files of the one before.
        self.streams += 1
        sides = [Side(client, f"S{self.streams:06}") for client in self.clients]
        create = Api(f"STREAM.CREATE.{STREAM}", {"name": STREAM, "subjects": ["s.>"]} | config)
        try:
            for command in (create, *commands):
                await _same(command, sides)
        finally:
            for side in sides:
                await Api(f"STREAM.DELETE.{STREAM}").on(side)


async def _same(command: Command, sides: Sequence[Side]) -> None:
    real, model = [await command.on(side) for side in sides]
    assert model == real, command


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    made = Pair()
    try:
        yield made
    finally:
        made.close()


_bounds: dict[str, st.SearchStrategy[Any]] = {
    "max_msgs": st.sampled_from((-1, 0, 1, 2, 4)),
    "max_bytes": st.sampled_from((-1, 100, 150, 300)),
    "max_msgs_per_subject": st.sampled_from((-1, 1, 2)),
    "max_msg_size": st.sampled_from((-1, 40, 100)),
    "discard": st.sampled_from(("old", "new")),
    "allow_atomic": st.booleans(),
    "allow_direct": st.booleans(),
}
_configs = st.fixed_dictionaries({}, optional=_bounds)
_headers = st.fixed_dictionaries(
    {},
    optional={
        "Nats-Msg-Id": st.sampled_from(IDS),
        "Nats-Expected-Last-Msg-Id": st.sampled_from(IDS),
        "Own": st.just("yes"),
    },
).map(lambda found: tuple(found.items()))
_publishes = st.builds(Publish, st.sampled_from(SUBJECTS), st.integers(0, 60), _headers)
_batches = st.builds(
    Batch,
    st.uuids().map(str),
    st.lists(_publishes, min_size=1, max_size=4).map(tuple),
    st.none() | st.none() | st.integers(1, 4),
)
_seqs = st.integers(0, 9)
_patterns = st.sampled_from(PATTERNS)
_gets: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.fixed_dictionaries({"seq": _seqs}),
    st.fixed_dictionaries({"last_by_subj": _patterns}),
    st.fixed_dictionaries({"next_by_subj": _patterns}, optional={"seq": _seqs}),
    st.just({}),
)
_pages = st.fixed_dictionaries(
    {"batch": st.integers(1, 5), "next_by_subj": _patterns},
    optional={"seq": _seqs, "max_bytes": st.sampled_from((1, 30, 100))},
)
_purges = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"seq": _seqs}),
    st.fixed_dictionaries({"keep": st.integers(0, 3)}),
    st.fixed_dictionaries({"filter": _patterns}),
    st.fixed_dictionaries({"filter": _patterns, "seq": _seqs}),
    st.fixed_dictionaries({"filter": _patterns, "keep": st.integers(0, 3)}),
)
_consumers = st.sampled_from(("c", "d"))
_starts: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({}),
    st.sampled_from(("all", "last", "new")).map(lambda policy: {"deliver_policy": policy}),
    st.integers(1, 9).map(
        lambda seq: {"deliver_policy": "by_start_sequence", "opt_start_seq": seq}
    ),
)


def _consumer(name: str, pending: int, start: dict[str, Any], action: str) -> Api:
    config = {"name": name, "durable_name": name, "ack_policy": "explicit", **start}
    config["max_ack_pending"] = pending
    body = {"stream_name": STREAM, "config": config, "action": action}
    return Api(f"CONSUMER.CREATE.{STREAM}.{name}", body)


def _of_consumer(verb: str, name: str) -> Api:
    return Api(f"CONSUMER.{verb}.{STREAM}.{name}")


_fetches = st.builds(Fetch, _consumers, st.integers(1, 5), st.sampled_from((0, 0, 100, 200)))
_answers = st.builds(
    Answer, st.sampled_from((b"", b"+ACK", b"-NAK", b"+WPI", b"+TERM")), st.integers(0, 9)
)
_commands = st.one_of(
    _publishes,
    _publishes,
    _publishes,
    _batches,
    _gets.map(lambda body: Api(f"STREAM.MSG.GET.{STREAM}", body)),
    st.one_of(_gets, _pages).map(DirectGet),
    _purges.map(lambda body: Api(f"STREAM.PURGE.{STREAM}", body)),
    st.sampled_from((None, {"subjects_filter": ">"}, {"subjects_filter": "s.*"})).map(
        lambda body: Api(f"STREAM.INFO.{STREAM}", body)
    ),
    _configs.map(
        lambda config: Api(
            f"STREAM.UPDATE.{STREAM}", {"name": STREAM, "subjects": ["s.>"]} | config
        )
    ),
    _configs.map(
        lambda config: Api(
            f"STREAM.CREATE.{STREAM}", {"name": STREAM, "subjects": ["s.>"]} | config
        )
    ),
    st.builds(
        _consumer,
        _consumers,
        st.integers(1, 4),
        _starts,
        st.sampled_from(("create", "create", "update", "")),
    ),
    st.builds(_of_consumer, st.sampled_from(("INFO", "DELETE")), _consumers),
    st.builds(Reset, _consumers),
    _fetches,
    _fetches,
    _answers,
    _answers,
    _answers,
)
_starting = st.one_of(
    st.just([]),
    st.builds(lambda *made: list(made), st.just(_consumer("c", 3, {}, "create")), _publishes),
)


@settings(max_examples=EXAMPLES)
@given(config=_configs, first=_starting, commands=st.lists(_commands, max_size=25))
def test_the_model_answers_as_the_server_does(
    pair: Pair, config: dict[str, Any], first: list[Command], commands: list[Command]
) -> None:
    pair.compare(config, [*first, *commands])
