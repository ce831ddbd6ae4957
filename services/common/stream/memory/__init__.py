"""The broker in memory, for tests and a single process."""

from services.common.stream.memory.broker import MemoryBroker, MemoryServer

__all__ = ["MemoryBroker", "MemoryServer"]
