"""Storing many records of a log by one call of a script: its arguments, and what it answers."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence

from services.common.errors import BrokerUnavailable
from services.common.stream.broker_base import retention_s
from services.common.stream.records import InFlight
from services.common.stream.redis.client import Command, RedisClient, refusal
from services.common.stream.redis.logs import Logs
from services.common.stream.redis.packing import Packed, pack, pack_record
from services.common.stream.redis.records import Source, entry_id, trimmed_id

# How many (time, id) marks a stream has inside its retention; trimming is exact to one of them.
_MARKS = 20

# KEYS: epoch, registry, hash of trimmed ids, streams. ARGV: expected epoch, time, number of
# announcements and of marks; then (subject, epoch), (marks key, id), and (number of the stream's
# key, id, payload, headers).
# Answers how many records were refused as "equal or smaller", or -1 when the log is another one, or
# its registry was lost (evicted, deleted);
# where some of those are not in their stream, a list: that number, and for each of them its number
# among the records and the newest id that was trimmed from its stream. A list of -2, a record's
# number and an error: everything before that record is there, and it is refused.
_STORE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
-- Nobody would find what is written while nothing is announced.
if ARGV[3] == '0' and redis.call('XLEN', KEYS[2]) == 0 then return -1 end
local at = 5
for _ = 1, tonumber(ARGV[3]) do
  redis.call('XADD', KEYS[2], '*', 's', ARGV[at], 'e', ARGV[at + 1])
  at = at + 2
end
for _ = 1, tonumber(ARGV[4]) do
  -- Without its mark a stream is trimmed later; that must not stop the others.
  redis.pcall('ZADD', ARGV[at], ARGV[2], ARGV[at + 1])
  at = at + 2
end
local known, absent, number = 0, {}, 0
while at <= #ARGV do
  local key, id, headers, done = KEYS[tonumber(ARGV[at])], ARGV[at + 1], ARGV[at + 3], nil
  if headers == '' then
    done = redis.pcall('XADD', key, id, 'p', ARGV[at + 2])
  else
    done = redis.pcall('XADD', key, id, 'p', ARGV[at + 2], 'h', headers)
  end
  if type(done) == 'table' and done.err then
    if not string.find(done.err, 'equal or smaller', 1, true) then
      return {-2, number, done.err}
    end
    known = known + 1
    if #redis.call('XRANGE', key, id, id) == 0 then
      absent[#absent + 1] = number
      absent[#absent + 1] = redis.call('HGET', KEYS[3], key) or ''
    end
  end
  at = at + 4
  number = number + 1
end
if #absent == 0 then return known end
table.insert(absent, 1, known)
return absent
"""


# Refusals that are the server's condition, and pass: of memory, disk, replication, start, rights
# (these also in the words of a script, which has only ERR for them).
# Any other is about the record's own key and id (WRONGTYPE, no id left, ...), and does not.
_PASSES = re.compile(
    r"OOM|MISCONF|READONLY|NOREPLICAS|MASTERDOWN|LOADING|BUSY|UNKILLABLE|CLUSTERDOWN|TRYAGAIN|MOVED"
    r"|ASK|CROSSSLOT|NOAUTH|NOPERM|NOSCRIPT|WRONGPASS"
    r"|.*(?:ACL failure|no permission|user executing the script)"
)


class Sent(InFlight, kw_only=True):
    """Goes to the stream `source`, and was sent there `sends` times."""

    source: Source
    sends: int = 0


class Refusal(Exception):
    """The server will never store this one; everything before it is stored."""

    def __init__(self, item: Sent, text: str) -> None:
        self.item = item
        self.text = text
        super().__init__(text)


class StoreScript:
    """Makes the calls, and knows what need not be said again."""

    def __init__(self, logs: Logs) -> None:
        self.epochs: dict[str, int] = {}  # of the logs that were prepared
        self.announced: set[Source] = set()  # the streams that their registries name
        self._logs = logs
        # When each stream was given its last mark.
        self._marked: dict[Source, float] = {}

    async def prepare(self, client: RedisClient, name: str) -> None:
        """Make sure that the log exists. Raises BrokerUnavailable when it does not answer."""
        self.epochs[name], held = await self._logs.prepare(client, name)
        self.announced |= held

    def forget(self) -> None:
        """The server may hold other logs than before."""
        self.epochs.clear()
        self.announced.clear()

    def command(self, name: str, items: Sequence[Sent], fresh: list[Source]) -> Command:
        """The call that stores `items` of one log; `fresh` gets the streams that it announces."""
        now = time.time()
        names = self._logs.names
        sources = list(dict.fromkeys([item.source for item in items]))
        number = {source: pack((index,)) for index, source in enumerate(sources, 4)}
        announce = [source for source in sources if source not in self.announced]
        fresh += announce
        due = now - retention_s(self._logs.specs, name) / _MARKS
        unmarked = {source for source in sources if self._marked.get(source, 0.0) <= due}
        marks: list[str] = []
        records: list[bytes] = []
        for item in items:
            record, source = item.record, item.source
            identity = entry_id(record.position)
            if source in unmarked:
                unmarked.discard(source)
                self._marked[source] = now
                marks += (names.marks(source), identity)
            headers = json.dumps(dict(record.headers)).encode() if record.headers else b""
            records.append(pack_record(number[source], identity.encode(), record.payload, headers))
        arguments: list[str | float] = [
            *("EVAL", _STORE, 3 + len(sources)),
            *(names.epoch(name), names.registry(name), names.trimmed(name)),
            *(names.stream(source) for source in sources),
            *(self.epochs[name], now, len(announce), len(marks) // 2),
            *(part for source in announce for part in source),
            *marks,
        ]
        count = len(arguments) + 4 * len(items)
        return ("EVAL", Packed(count, pack(arguments), *records))


def read_answer(
    target: str, name: str, items: Sequence[Sent], answer: object
) -> tuple[int, list[Sent]]:
    """How many of these were stored before, and which are lost.

    Raises:
        BrokerUnavailable: not all of them were written.
    """
    text = refusal(answer)
    if text is not None:
        raise BrokerUnavailable(target, f"not stored: {text}")
    if isinstance(answer, int) and answer >= 0:
        return answer, []
    if not isinstance(answer, list):
        raise BrokerUnavailable(target, f"log {name} was replaced")
    if answer[0] == -2:
        reason = answer[2].decode(errors="replace")
        if _PASSES.match(reason):
            raise BrokerUnavailable(target, f"not stored: {reason}")
        raise Refusal(items[answer[1]], reason)
    known, *absent = answer
    gone = []
    for number, trimmed in zip(absent[::2], absent[1::2], strict=True):
        item = items[number]
        if item.record.position[1:] > trimmed_id(trimmed):
            gone.append(item)
    return known - len(gone), gone
