"""The replicated log of one stream, as far as its clients can tell it from raft.

What a leader takes it proposes; a follower has it a moment later; what more than half have is
applied, first by the leader, who answers then, and later by the others. A new leader is the one
of those that are up that has the most; what only the old one had is gone, and what the new one had
is applied after all, whether or not its publisher is still told.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import TYPE_CHECKING

from tests.simulation.nats_model.stream import Refused, Stream

if TYPE_CHECKING:
    from tests.simulation.nats_model.cluster import ClusterServer, ModelCluster

# For how long nobody leads after a leader stepped down, in seconds.
STEP_DOWN_S = (0.005, 0.05)
_LEADERLESS_AGAIN_S = 1.0
# How much later than its leader a follower applies, in seconds; now and then it is a long time.
_LAG_S = 0.02
_LONG_LAG_S = 1.0


@dataclass(frozen=True, eq=False)
class Entry:
    """Something published, and when the leader took it."""

    term: int
    subject: str
    reply: str
    headers: bytes
    payload: bytes
    time_ns: int


class Group:
    """One stream's servers, and what each has of its log."""

    def __init__(
        self, cluster: ModelCluster, name: str, members: Sequence[ClusterServer], chance: Random
    ) -> None:
        self.name = name
        self.members = tuple(members)
        self.term = 1
        self._cluster = cluster
        self._chance = chance
        self.head: ClusterServer | None = chance.choice(self.members)
        # It leads once it has applied so much.
        self._begins = 0
        self.logs: dict[ClusterServer, list[Entry]] = {one: [] for one in self.members}
        self.applied = dict.fromkeys(self.members, 0)
        self._matched = dict.fromkeys(self.members, 0)

    @property
    def leader(self) -> ClusterServer | None:
        """Who answers for the stream; nobody until all that the log had before is applied."""
        head = self.head
        return head if head is None or self.applied[head] >= self._begins else None

    @property
    def _quorum(self) -> int:
        return len(self.members) // 2 + 1

    # -- writing

    def propose(self, subject: str, reply: str, headers: bytes, payload: bytes, at_ns: int) -> None:
        """Called where the leader is."""
        leader = self.leader
        assert leader is not None
        log = self.logs[leader]
        log.append(Entry(self.term, subject, reply, headers, payload, at_ns))
        self._matched[leader] = len(log)
        self._replicate()

    def _replicate(self) -> None:
        """Tell the followers what there is."""
        leader = self.head
        if leader is None:
            return
        upto = len(self.logs[leader])
        for follower in self.members:
            if follower is not leader:
                take = partial(self._take, follower, self.term, upto)
                late_s = follower.log_late_s
                self._cluster.route(leader, follower, take, late_s, f"log of {self.name}")
        self._agree()

    def _take(self, follower: ClusterServer, term: int, upto: int) -> None:
        leader = self.head
        if term != self.term or leader is None:
            return
        log = self.logs[follower]
        log.extend(self.logs[leader][len(log) : upto])
        heard = partial(self._heard, follower, term, len(log))
        self._cluster.route(follower, leader, heard)

    def _heard(self, follower: ClusterServer, term: int, upto: int) -> None:
        if term == self.term and upto > self._matched[follower]:
            self._matched[follower] = upto
            self._agree()

    def _agree(self) -> None:
        leader = self.head
        assert leader is not None
        upto = sorted(self._matched.values(), reverse=True)[self._quorum - 1]
        if upto <= self.applied[leader]:
            return
        self._apply(leader, upto, answers=True)
        for follower in self.members:
            if follower is not leader:
                long = self._chance.random() < 0.02
                lag_s = self._chance.uniform(0.0, _LONG_LAG_S if long else _LAG_S)
                follow = partial(self._follow, follower, self.term, upto)
                self._cluster.route(leader, follower, follow, lag_s, f"commits of {self.name}")

    def _follow(self, follower: ClusterServer, term: int, upto: int) -> None:
        if term == self.term:
            self._apply(follower, min(upto, len(self.logs[follower])), answers=False)

    def _apply(self, server: ClusterServer, upto: int, *, answers: bool) -> None:
        stream = server.jetstream.streams.get(self.name)
        begin = self.applied[server]
        if stream is None or upto <= begin:
            return
        self.applied[server] = upto
        for entry in self.logs[server][begin:upto]:
            told = server.put(stream, entry.subject, entry.headers, entry.payload, entry.time_ns)
            # Of what an earlier leader took the publisher is told, or not.
            if answers and (entry.term == self.term or self._chance.random() < 0.5):
                server.answer(entry.reply, told)

    # -- who leads

    def lose_leader(self, within_s: tuple[float, float]) -> None:
        """Nobody leads for a while."""
        before, self.head = self.head, None
        self.term += 1
        elect = partial(self._elect, self.term, before)
        self._cluster.later(self._chance.uniform(*within_s), elect)

    def _elect(self, term: int, before: ClusterServer | None) -> None:
        if term != self.term:
            return
        up = [one for one in self.members if one.up]
        if len(up) < self._quorum:
            self._cluster.later(_LEADERLESS_AGAIN_S, partial(self._elect, term, before))
            return
        most = max(map(self._standing, up))
        best = [one for one in up if self._standing(one) == most]
        others = [one for one in best if one is not before]
        self.head = leader = self._chance.choice(others or best)
        self._begins = len(self.logs[leader])
        self._matched = dict.fromkeys(self.members, 0) | {leader: len(self.logs[leader])}
        for one in up:
            self.join(one)

    def _standing(self, server: ClusterServer) -> tuple[int, int]:
        log = self.logs[server]
        return (log[-1].term if log else 0, len(log))

    def end(self) -> None:
        """The stream is gone, and what is under way of it counts no longer."""
        self.head = None
        self.term += 1

    def join(self, server: ClusterServer) -> None:
        """Let go of what the leader does not have; the rest comes with what is replicated next."""
        leader = self.head
        if leader is None or server is leader:
            self._replicate()
            return
        own, other = self.logs[server], self.logs[leader]
        same = next(
            (at for at, (one, two) in enumerate(zip(own, other, strict=False)) if one is not two),
            min(len(own), len(other)),
        )
        self._cut(server, same)
        self._replicate()

    def lose_tail(self, server: ClusterServer, since_ns: int) -> None:
        """A server that is down has lost what it stored from then on."""
        log = self.logs[server]
        kept = next((at for at, one in enumerate(log) if one.time_ns >= since_ns), len(log))
        self._cut(server, kept)

    def _cut(self, server: ClusterServer, upto: int) -> None:
        log = self.logs[server]
        del log[upto:]
        stream = server.jetstream.streams.get(self.name)
        if self.applied[server] > upto and stream is not None:
            # Only where an unsynced end was lost, on this server or on those that go on.
            again = Stream(stream.config, stream.created_ns)
            for one in log:
                with suppress(Refused):
                    again.publish(one.subject, one.headers, one.payload, one.time_ns)
            server.jetstream.streams[self.name] = again
            self.applied[server] = upto
