"""Questions and answers between the processes of one gateway, over a socket pair.

Either side may ask. That the other side ended, however it did, is seen by both at once: the socket
ends with it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any, Literal

import msgspec

_ASK_S = 3.0
_SIZE_BYTES = 4


class ChannelDown(Exception):
    """The other process is gone, or did not answer in time."""


class _Message(msgspec.Struct, array_like=True):
    kind: Literal["ask", "answer"]
    id: int
    body: msgspec.Raw


class WorkerChannel:
    """One end; `run` it for as long as the process lives.

    Args:
        sock: this end's; it is closed by `run`.
        answer: what the other side is told; it is given what was asked.
    """

    def __init__(self, sock: socket.socket, answer: Callable[[Any], Awaitable[Any]]) -> None:
        self._sock = sock
        self._answer = answer
        self._writer: asyncio.StreamWriter | None = None
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._ids = count(1)
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(_Message).decode

    async def run(self) -> None:
        """Answer, and bring answers, until the other side is gone."""
        reader, self._writer = await asyncio.open_unix_connection(sock=self._sock)
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    size = int.from_bytes(await reader.readexactly(_SIZE_BYTES))
                    message = self._decode(await reader.readexactly(size))
                    body = msgspec.msgpack.decode(message.body)
                    if message.kind == "ask":
                        group.create_task(self._tell(message.id, body), name="channel-answer")
                        continue
                    asked = self._asked.get(message.id)
                    if asked is not None and not asked.done():
                        asked.set_result(body)
        except* (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer, self._writer = self._writer, None
            writer.close()
            for asked in self._asked.values():
                if not asked.done():
                    asked.set_exception(ChannelDown("the process is gone"))

    async def ask(self, what: Any) -> Any:
        """The other side's answer. Raises ChannelDown when there is none within 3 s."""
        if self._writer is None:
            raise ChannelDown("the process is not there")
        id = next(self._ids)
        answer = self._asked[id] = asyncio.get_running_loop().create_future()
        try:
            self._send("ask", id, what)
            async with asyncio.timeout(_ASK_S):
                return await answer
        except TimeoutError as error:
            raise ChannelDown(f"no answer within {_ASK_S:.0f} s") from error
        finally:
            self._asked.pop(id, None)

    async def _tell(self, id: int, what: Any) -> None:
        answer = await self._answer(what)
        if self._writer is not None:
            self._send("answer", id, answer)

    def _send(self, kind: Literal["ask", "answer"], id: int, body: Any) -> None:
        assert self._writer is not None
        data = self._encode(_Message(kind, id, msgspec.Raw(self._encode(body))))
        self._writer.write(len(data).to_bytes(_SIZE_BYTES) + data)
