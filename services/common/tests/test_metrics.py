from __future__ import annotations

import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from services.common.observability.health import Health
from services.common.observability.metrics import Bounded, HealthCollector, Together, new_registry


@given(st.lists(st.text()), st.integers(1, 10))
def test_whatever_a_peer_sends_a_bounded_label_has_few_values(
    values: list[str], limit: int
) -> None:
    bounded = Bounded(limit)
    given_out = [bounded(value) for value in values]
    assert len(set(given_out) - {"other"}) <= limit
    # A value that got through once keeps its series.
    assert [bounded(v) for v, out in zip(values, given_out, strict=True) if v == out] == [
        v for v, out in zip(values, given_out, strict=True) if v == out
    ]


def test_readiness_is_a_metric_too() -> None:
    health = Health("tester", "broker", "feed")
    health.passed("feed")
    found = {
        sample.labels["check"]: sample.value
        for family in Together(new_registry(), HealthCollector(health)).collect()
        for sample in family.samples
        if sample.name == "md_check_up"
    }
    assert found == {"broker": 0.0, "feed": 1.0}


def test_all_services_can_live_in_one_process() -> None:
    # In a process of its own: here some of them have been imported already.
    names = ("ingestor", "normalizer", "snapshotter", "gateway")
    code = ";".join(f"import services.{name}.app" for name in names)
    code += (
        ";from services.ingestor.metrics import Metrics as A"
        ";from services.normalizer.metrics import Metrics as B;A();A();B();B()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
