"""Following a memory log."""

from __future__ import annotations

from services.common.stream.broker_base import LiveBase
from services.common.stream.memory.client import MemoryClient
from services.common.stream.records import LiveBatch

_LIVE_BATCH = 1024


class MemoryLive(LiveBase):
    """See `LiveSubscription`. Holds a place in the log, not records, so that it cannot grow."""

    def __init__(self, client: MemoryClient, log_name: str) -> None:
        super().__init__(f"live on {log_name}", client.server.bell)
        self._client = client
        self._log_name = log_name
        self._log = client.log(log_name)
        self._seq = self._log.last_seq
        self.has_joined()

    async def next_batch(self) -> LiveBatch:
        while True:
            self.check_open()
            if self._client.server.running:
                log = self._client.log(self._log_name)
                interrupted = log is not self._log or self._seq + 1 < log.first_seq
                if log is not self._log:
                    self._log, self._seq = log, 0
                found = log.after(self._seq, _LIVE_BATCH)
                if found or interrupted:
                    self._seq = found[-1].seq if found else log.first_seq - 1
                    return LiveBatch(found, interrupted)
            await self.changed.wait()
