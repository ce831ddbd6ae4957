"""Which errors the platform may log while it is done to it what a plan says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from services.common.stream.nats.publisher import ACK_TIMEOUT_S
from tests.simulation.nats_part import LateAcks
from tests.simulation.plan import Fault


def unexpected(errors: Iterable[Mapping[str, Any]], faults: Iterable[Fault] = ()) -> list[str]:
    """The errors that nobody should have had to log while these faults happened."""
    expected = _expected(faults)
    found = Counter(
        str({name: value for name, value in sorted(error.items()) if name != "timestamp"})
        for error in errors
        if error.get("event") not in expected
    )
    return [f"logged {count} times: {told[:600]}" for told, count in found.items()]


def _expected(faults: Iterable[Fault]) -> set[str]:
    """The events that these faults explain."""
    late = any(isinstance(fault, LateAcks) and fault.by_s > ACK_TIMEOUT_S for fault in faults)
    # A publisher cannot tell a log that answers that late from one that stores nothing.
    return {"log_is_stuck"} if late else set()
