"""One suite for every broker: a test for each clause of the contract in `stream/broker.py`.

A test module makes a class of `BrokerConformance` and gives it a `backend` fixture.
"""

from __future__ import annotations

import pytest

from services.common.stream import LogSpec
from services.common.testing.conformance.backend import (
    BTC,
    ETH,
    LOG,
    PATIENCE_S,
    SOL,
    Backend,
    Part,
    follow,
    let_raise,
    publish,
    read_all,
    record,
    seqs,
    take,
    trips,
    until,
)
from services.common.testing.conformance.failures import FailureClauses
from services.common.testing.conformance.groups import GroupClauses
from services.common.testing.conformance.publishing import PublishingClauses
from services.common.testing.conformance.reading import ReadingClauses

__all__ = [
    "BTC",
    "ETH",
    "LOG",
    "PATIENCE_S",
    "SOL",
    "Backend",
    "BrokerConformance",
    "Part",
    "follow",
    "let_raise",
    "publish",
    "read_all",
    "record",
    "seqs",
    "take",
    "trips",
    "until",
]


class BrokerConformance(PublishingClauses, GroupClauses, ReadingClauses, FailureClauses):
    """The clauses B1 to B10."""

    @pytest.fixture
    async def broker(self, backend: Backend):  # type: ignore[no-untyped-def]  # pytest's own shape
        async with backend.broker() as opened:
            await opened.ensure([LogSpec(LOG, 3600)])
            yield opened
