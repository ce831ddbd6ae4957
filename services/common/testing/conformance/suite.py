"""The whole suite: a test module makes a class of it and gives that a `backend` fixture."""

from __future__ import annotations

import pytest

from services.common.stream import LogSpec
from services.common.testing.conformance import LOG, Backend
from services.common.testing.conformance.failures import FailureClauses
from services.common.testing.conformance.groups import GroupClauses
from services.common.testing.conformance.publishing import PublishingClauses
from services.common.testing.conformance.reading import ReadingClauses


class BrokerConformance(PublishingClauses, GroupClauses, ReadingClauses, FailureClauses):
    """The clauses B1 to B10."""

    @pytest.fixture
    async def broker(self, backend: Backend):  # type: ignore[no-untyped-def]  # pytest's own shape
        async with backend.broker() as opened:
            await opened.ensure([LogSpec(LOG, 3600)])
            yield opened
