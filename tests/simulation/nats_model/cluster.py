"""Three models as one cluster: who leads what, and what goes over the routes between them."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

from tests.simulation.nats_model.api import NO_ROOM, UNAVAILABLE, refusal
from tests.simulation.nats_model.consumer import Consumer, Standing
from tests.simulation.nats_model.replication import STEP_DOWN_S, Group
from tests.simulation.nats_model.server import ModelServer

# For how long nobody leads what a server led that died, in seconds.
_ELECTION_S = (1.5, 5.0)
_ROUTE_S = (0.0001, 0.0005)
# How often what a consumer has given out and had back is told to its replicas, in seconds.
_TELL_S = 0.05
_CHANGES = {("STREAM", "CREATE"), ("STREAM", "UPDATE"), ("STREAM", "DELETE"), ("STREAM", "PURGE")}
_CONSUMER_CHANGES = {("CONSUMER", "CREATE"), ("CONSUMER", "DELETE")}


class ClusterServer(ModelServer):
    """One of them; what it has of the streams and of the consumers that it leads is its own."""

    def __init__(self, name: str, cluster: ModelCluster) -> None:
        super().__init__(name)
        self.up = False
        # How much later than others it has what a leader proposes, as with a slow disk.
        self.log_late_s = 0.0
        self.context: Context = copy_context()
        self._cluster = cluster

    def info(self) -> dict[str, Any]:
        urls = [f"127.0.0.1:{one.port}" for one in self._cluster.servers if one.up]
        return super().info() | {"cluster": "model", "connect_urls": urls}

    async def start(self, host: str = "127.0.0.1") -> None:
        self.context = copy_context()
        await super().start(host)
        self.up = True
        self._cluster.joined(self)

    def kill(self) -> None:
        self.up = False
        super().kill()
        self._cluster.left(self)

    def lose_tail(self, since_ns: int) -> None:
        for group in self._cluster.groups.values():
            if self in group.members:
                group.lose_tail(self, since_ns)

    def lame_duck(self) -> None:
        super().lame_duck()
        self._cluster.step_down_all(self)

    # -- what others take part in

    def wanted(self, subject: str) -> bool:
        return any(one.wanted_here(subject) for one in self._cluster.servers)

    def wanted_here(self, subject: str) -> bool:
        return self.up and super().wanted(subject)

    def deliver(
        self, subject: str, reply: str, headers: bytes, payload: bytes, to: str = ""
    ) -> bool:
        found = [one for one in self._cluster.servers if one.wanted_here(to or subject)]
        for one in found:
            deliver = partial(ModelServer.deliver, one, subject, reply, headers, payload, to)
            self._cluster.route(self, one, deliver)
        return bool(found)

    def store(self, subject: str, reply: str, headers: bytes, payload: bytes) -> bool:
        group = self._cluster.group_for(subject)
        if group is None or (leader := group.leader) is None:
            return False
        take = partial(leader.take, group, group.term, subject, reply, headers, payload)
        self._cluster.route(self, leader, take)
        return True

    def take(
        self, group: Group, term: int, subject: str, reply: str, headers: bytes, payload: bytes
    ) -> None:
        """What was published for a stream that this server led when it was sent here."""
        if group.leader is not self or term != group.term:
            # It got here and nobody says anything.
            return
        if self.full:
            self.answer(reply, refusal(group.name, NO_ROOM))
        else:
            group.propose(subject, reply, headers, payload, time.time_ns())

    def say(self, subject: str, reply: str, said: bytes) -> bool:
        _js, _ack, stream, name, *_rest = subject.split(".")
        leader = self._cluster.leads(stream, name)
        if leader is None:
            return False
        self._cluster.route(self, leader, partial(leader.said, subject, reply, said))
        return True

    def said(self, subject: str, reply: str, said: bytes) -> None:
        """What a member said of a record, where its consumer is led."""
        super().say(subject, reply, said)

    def ask(self, verb: str, reply: str, payload: bytes) -> bool:
        return self._cluster.ask(self, verb, reply, payload)

    def asked(self, verb: str, reply: str, payload: bytes) -> None:
        """What was asked of this server."""
        super().ask(verb, reply, payload)


@dataclass
class _Way:
    """From one server to another: what is under way, and when the last of it arrives."""

    last: float = 0.0
    under_way: deque[tuple[ClusterServer, Context, Callable[[], object]]] = field(
        default_factory=deque
    )


class ModelCluster:
    """Servers that know each other. What happens between them follows from `chance`."""

    def __init__(
        self, chance: Random, name: str = "nats", election_s: tuple[float, float] = _ELECTION_S
    ) -> None:
        self.chance = chance
        self._election_s = election_s
        self.servers = [ClusterServer(f"{name}-{number}", self) for number in (1, 2, 3)]
        self.groups: dict[str, Group] = {}
        # Where each consumer is led, and what the others were told of it.
        self.consumers: dict[tuple[str, str], ClusterServer | None] = {}
        self._told: dict[tuple[str, str], tuple[Consumer, Standing]] = {}
        self._context = copy_context()
        self._ways: dict[tuple[str, str, str], _Way] = {}
        self._telling = False

    # -- time and ways

    def later(self, delay_s: float, do: Callable[[], object]) -> None:
        """Do it then, whoever is alive."""
        asyncio.get_running_loop().call_later(delay_s, do, context=self._context)

    def route(
        self,
        source: ClusterServer,
        target: ClusterServer,
        do: Callable[[], object],
        later_s: float = 0.0,
        kind: str = "",
    ) -> None:
        """Have the target do it when it arrives there; what is of one kind arrives in order."""
        if source is target:
            do()
            return
        loop = asyncio.get_running_loop()
        key = (source.jetstream.server_name, target.jetstream.server_name, kind)
        way = self._ways.setdefault(key, _Way())
        way.last = max(way.last, loop.time() + self.chance.uniform(*_ROUTE_S) + later_s)
        way.under_way.append((target, target.context, do))
        # Each timer brings the oldest, as timers of some loops are no more exact than 1 ms.
        loop.call_at(way.last, self._arrive, way, context=self._context)

    @staticmethod
    def _arrive(way: _Way) -> None:
        target, context, do = way.under_way.popleft()
        if target.up and target.context is context:
            context.run(do)

    # -- who does what

    def group_for(self, subject: str) -> Group | None:
        """The stream that stores what is published there."""
        for group in self.groups.values():
            if group.members[0].jetstream.streams[group.name].takes(subject):
                return group
        return None

    def leads(self, stream: str, consumer: str) -> ClusterServer | None:
        """Who leads a consumer."""
        return self.consumers.get((stream, consumer))

    def ask(self, at: ClusterServer, verb: str, reply: str, payload: bytes) -> bool:
        """Have JetStream's API answered by whoever has to; whether anybody listens."""
        tokens = verb.split(".")
        head = (tokens[0], tokens[1] if len(tokens) > 1 else "")
        able = [one for one in self.servers if one.up]
        if head == ("DIRECT", "GET"):
            return self._direct_get(at, verb, tokens[2], reply, payload)
        if head[1] == "LEADER":
            return self._step_down(at, tokens, reply)
        if head in _CHANGES | _CONSUMER_CHANGES or verb == "INFO":
            # Done by the cluster, which needs more than half of it; else nobody answers.
            if len(able) > len(self.servers) // 2:
                self._change(at, head, verb, reply, payload)
            return True
        if head[0] == "CONSUMER":
            stream, name = tokens[-2:]
            leader = self.leads(stream, name)
            if leader is None and tokens[1] == "MSG":
                return False
            if leader is None and (stream, name) not in self.consumers:
                leader = able[0]
        else:
            group = self.groups.get(tokens[-1])
            leader = able[0] if group is None else group.leader
        if leader is not None:
            self.route(at, leader, partial(leader.asked, verb, reply, payload))
        elif len(able) <= len(self.servers) // 2:
            at.deliver(reply, "", b"", at.jetstream.refusal(verb, UNAVAILABLE))
        return True

    def _direct_get(
        self, at: ClusterServer, verb: str, stream: str, reply: str, payload: bytes
    ) -> bool:
        group = self.groups.get(stream)
        able = [] if group is None else [one for one in group.members if one.up]
        if not able or not able[0].jetstream.answers_directly(stream):
            return False
        chosen = at if at in able else self.chance.choice(able)
        self.route(at, chosen, partial(chosen.asked, verb, reply, payload))
        return True

    def _change(
        self, at: ClusterServer, head: tuple[str, str], verb: str, reply: str, payload: bytes
    ) -> None:
        stream = verb.split(".")[2] if verb != "INFO" else ""
        group = self.groups.get(stream)
        speaks = at if group is None else group.leader
        if speaks is None:
            return
        if head in _CONSUMER_CHANGES:
            self._change_consumer(at, verb, reply, payload)
            return
        now_ns = time.time_ns()
        answers = {one: one.answer_of(verb, payload, now_ns) for one in self.servers}
        if head == ("STREAM", "CREATE") and group is None:
            self._place(stream, json.loads(payload))
        if head == ("STREAM", "DELETE"):
            self._end(stream)
            for key in [key for key in self.consumers if key[0] == stream]:
                self._forget(key)
        told = answers[speaks]
        if told:
            speaks.deliver(reply, "", b"", told)

    def _place(self, stream: str, config: dict[str, Any]) -> None:
        if stream in self.servers[0].jetstream.streams:
            many = int(config.get("num_replicas", 1)) > 1
            up = [one for one in self.servers if one.up]
            members = self.servers if many else [self.chance.choice(up)]
            self.groups[stream] = Group(self, stream, members, self.chance)
            if not self.groups[stream].leader.up:  # type: ignore[union-attr]  # it has one
                self.groups[stream].lose_leader(STEP_DOWN_S)

    def _change_consumer(self, at: ClusterServer, verb: str, reply: str, payload: bytes) -> None:
        _consumer, action, stream, name = verb.split(".")
        key = (stream, name)
        group = self.groups.get(stream)
        if key in self.consumers:
            leader = self.consumers[key]
        else:
            members = self.servers if group is None else group.members
            leader = self.chance.choice([one for one in members if one.up])
        if leader is None:
            return
        told = leader.jetstream.answer(verb, payload, time.time_ns())
        if action == "DELETE":
            self._forget(key)
        elif key in leader.jetstream.consumers:
            self.consumers[key] = leader
            self._tell()
            if not self._telling:
                self._telling = True
                self.later(_TELL_S, self._tell_again)
        if told:
            leader.deliver(reply, "", b"", told)

    def _end(self, stream: str) -> None:
        if (group := self.groups.pop(stream, None)) is not None:
            group.end()

    def _forget(self, key: tuple[str, str]) -> None:
        self.consumers.pop(key, None)
        self._told.pop(key, None)

    # -- consumers: their replicas are told now and then

    def _tell_again(self) -> None:
        self._tell()
        self.later(_TELL_S, self._tell_again)

    def _tell(self) -> None:
        for key, leader in self.consumers.items():
            if leader is not None:
                consumer = leader.jetstream.consumers[key]
                self._told[key] = (consumer, consumer.standing())

    def _lose_consumer(self, key: tuple[str, str], within_s: tuple[float, float]) -> None:
        leader, self.consumers[key] = self.consumers[key], None
        if leader is not None:
            gone = leader.jetstream.consumers.pop(key)
            leader.let_go(gone, "Leadership Change")
        self.later(self.chance.uniform(*within_s), partial(self._lead_consumer, key, leader))

    def _lead_consumer(self, key: tuple[str, str], before: ClusterServer | None) -> None:
        group = self.groups.get(key[0])
        if group is None or self.consumers.get(key, before) is not None:
            return
        up = [one for one in group.members if one.up]
        if len(up) <= len(group.members) // 2:
            self.later(1.0, partial(self._lead_consumer, key, before))
            return
        leader = self.chance.choice([one for one in up if one is not before] or up)
        consumer, standing = self._told[key]
        stream = leader.jetstream.streams[key[0]]
        leader.jetstream.consumers[key] = consumer.moved(stream, standing)
        self.consumers[key] = leader

    # -- leaders that go

    def _step_down(self, at: ClusterServer, tokens: list[str], reply: str) -> bool:
        stream = tokens[3]
        group = self.groups.get(stream)
        if group is None or group.leader is None:
            return True
        kind = tokens[0].lower()
        told = {"type": f"io.nats.jetstream.api.v1.{kind}_leader_stepdown_response"}
        at.deliver(reply, "", b"", json.dumps(told | {"success": True}).encode())
        if tokens[0] == "CONSUMER":
            self._lose_consumer((stream, tokens[4]), STEP_DOWN_S)
        else:
            group.lose_leader(STEP_DOWN_S)
        return True

    def step_down_all(self, server: ClusterServer | None = None) -> None:
        """Have whatever a server leads (or everything) led by another."""
        self._lose(server, STEP_DOWN_S)

    def _lose(self, server: ClusterServer | None, within_s: tuple[float, float]) -> None:
        for group in self.groups.values():
            if group.head is not None and server in (None, group.head):
                group.lose_leader(within_s)
        for key, leader in self.consumers.items():
            if leader is not None and server in (None, leader):
                self._lose_consumer(key, within_s)

    def left(self, server: ClusterServer) -> None:
        """A server was killed."""
        self._lose(server, self._election_s)

    def joined(self, server: ClusterServer) -> None:
        """A server is there, with what it had."""
        for group in self.groups.values():
            if server in group.members:
                group.join(server)

    def wipe(self) -> None:
        """Forget everything, on all disks."""
        for stream in list(self.groups):
            self._end(stream)
        self.consumers.clear()
        self._told.clear()
        for server in self.servers:
            server.jetstream.streams.clear()
            server.jetstream.consumers.clear()
