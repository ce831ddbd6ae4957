"""One member of a memory group."""

from __future__ import annotations

from collections.abc import Sequence

from services.common.stream.broker_base import GroupBase, GroupOptions
from services.common.stream.memory.client import MemoryClient
from services.common.stream.memory.log import GroupState
from services.common.stream.memory.records import StoredRecord
from services.common.stream.records import Message


class MemoryGroup(GroupBase):
    """See `GroupSubscription`."""

    def __init__(self, client: MemoryClient, options: GroupOptions) -> None:
        super().__init__(options.what, client.server.bell)
        self._client = client
        self._log_name, self._group, self._max_pending, self._ack_wait_s = options
        self._state().take_over()
        self.has_joined()

    async def next_batch(self, max_records: int = 512) -> Sequence[Message]:
        server = self._client.server
        while True:
            self.check_open()
            timeout = None
            if server.running:
                state = self._state()
                now = server.clock()
                if taken := state.deliver(max_records, now):
                    return taken
                deadline = state.next_deadline()
                timeout = None if deadline is None else max(0.001, deadline - now)
            await self.changed.wait(timeout)

    async def ack(self, messages: Sequence[Message]) -> None:
        self.check_open()
        log = self._client.log(self._log_name)
        epoch = f"{log.epoch}@"
        state = self._state()
        state.ack(
            [
                message.seq
                for message in messages
                # A record of a log that was lost must not ack its namesake in the new one.
                if isinstance(message, StoredRecord) and message.cursor.startswith(epoch)
            ]
        )
        log.acked[self._group] = state.acked
        self.changed.ring()

    async def lag(self) -> int:
        self.check_open()
        return self._state().lag()

    async def unread(self) -> int:
        self.check_open()
        return self._state().unread()

    def _state(self) -> GroupState:
        log = self._client.log(self._log_name)
        group = log.groups.get(self._group)
        if group is None:
            after = log.acked.get(self._group, 0)
            group = GroupState(log, self._max_pending, self._ack_wait_s, after)
            log.groups[self._group] = group
        group.max_pending = self._max_pending
        group.ack_wait_s = self._ack_wait_s
        return group
