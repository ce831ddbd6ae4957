"""Services of which several pods have the same work, of which one does it."""

from __future__ import annotations

import pytest

from tools.dev.charts.testing import of_kind
from tools.dev.charts.workspace import Workspace


@pytest.mark.parametrize(("chart", "unit"), [("ingestor", "default"), ("normalizer", "all")])
def test_the_lines_of_a_workload_are_spread_among_themselves(
    workspace: Workspace, chart: str, unit: str
) -> None:
    for lines in ("1", "2"):
        objects = workspace.render(chart, settings={"lines": lines})
        (deployment,) = of_kind(objects, "Deployment").values()
        spec = deployment["spec"]
        assert spec["replicas"] == int(lines)
        # A new pod stands by before an old one is told to go.
        assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
        for spread in spec["template"]["spec"]["topologySpreadConstraints"]:
            wanted = spread["labelSelector"]["matchLabels"].get("market-data-fanout/unit")
            assert wanted == (unit if lines == "2" else None)
            assert spread["matchLabelKeys"] == ["pod-template-hash"]
