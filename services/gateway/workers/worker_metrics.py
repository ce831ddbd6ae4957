"""What several processes say of themselves, as one answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client.core import Exemplar, Metric, Sample
from prometheus_client.registry import Collector

# A family: its name, documentation, type, unit, and its samples: name, labels, value, exemplar.
Family = tuple[str, str, str, str, list[tuple[str, dict[str, str], float, Any]]]


def exported_families(collector: Collector) -> list[Family]:
    """A process's metrics, as they are told to another process."""
    return [
        (
            family.name,
            family.documentation,
            family.type,
            family.unit,
            [
                (one.name, dict(one.labels), one.value, _told(one.exemplar))
                for one in family.samples
            ],
        )
        for family in collector.collect()
    ]


@dataclass
class MergedMetrics(Collector):
    """The metrics of several processes; each sample says by `worker` whose it is.

    Args:
        told: what `families` gave, by worker.
        own: of the process that asks; they are shown as they are.
    """

    told: Mapping[str, Iterable[Family]]
    own: Collector

    def collect(self) -> Iterator[Metric]:
        found = {family.name: family for family in self.own.collect()}
        for worker, told in self.told.items():
            for name, about, kind, unit, samples in told:
                family = found.get(name)
                if family is None:
                    family = found[name] = Metric(name, about, kind, unit)
                for sample, labels, value, exemplar in samples:
                    labels = {**labels, "worker": worker}
                    family.samples.append(Sample(sample, labels, value, None, _read(exemplar)))
        yield from found.values()


def _told(exemplar: Exemplar | None) -> Any:
    if exemplar is None:
        return None
    stamp = exemplar.timestamp
    return dict(exemplar.labels), exemplar.value, None if stamp is None else float(stamp)


def _read(exemplar: Any) -> Exemplar | None:
    return None if exemplar is None else Exemplar(*exemplar)


def merged_degradations(reports: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What any of them does without: since the first of them does."""
    found: dict[str, Any] = {}
    for report in reports:
        for name, state in report.get("degraded", {}).items():
            if name not in found or state["since"] < found[name]["since"]:
                found[name] = state
    return found


def failing_checks(report: Mapping[str, Any]) -> str | None:
    """Why the process with this `/readyz` is not ready; None: it is."""
    found = [
        f"{name}: {check['reason']}" for name, check in report["checks"].items() if not check["ok"]
    ]
    return "; ".join(found) or None
