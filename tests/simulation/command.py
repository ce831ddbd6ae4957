"""Run seeds of the simulated platform: `python -m tests.simulation --seeds 1000`.

Each seed is a run in a process of its own. One that fails is made smaller and printed as the
command that repeats it.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import time
from collections import Counter
from collections.abc import Iterable, Iterator

import click

from tests.simulation.plan import FAULTS, Plan, plan_of, shrunk
from tests.simulation.run import Report, simulate

# True seconds after which a run hangs: it takes a hundredth of that.
_HANGS_S = 600.0


class _Child:
    """A run in a forked process, which ends without looking back at what it leaves."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.began = time.monotonic()
        self.reads, writes = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.reads)
            with os.fdopen(writes, "wb") as out:
                out.write(pickle.dumps(_run(plan)))
            os._exit(0)
        os.close(writes)

    def report(self) -> Report:
        """What it came to."""
        with os.fdopen(self.reads, "rb") as told:
            body = told.read()
        _pid, status = os.waitpid(self.pid, 0)
        if not body:
            return Report([f"the process ended with status {status}"])
        report: Report = pickle.loads(body)
        return report

    def stop_hanging(self) -> None:
        if time.monotonic() - self.began > _HANGS_S:
            os.kill(self.pid, signal.SIGKILL)


def _run(plan: Plan) -> Report:
    try:
        return simulate(plan)
    except Exception as error:  # noqa: BLE001 - it is a finding of this seed, whatever it is
        return Report([f"the run broke: {error!r}"])


def reports(plans: Iterable[Plan], jobs: int) -> Iterator[tuple[Plan, Report]]:
    """Run plans, `jobs` at a time, and give each as it is done."""
    waiting = iter(plans)
    running: dict[int, _Child] = {}
    while True:
        while len(running) < jobs and (plan := next(waiting, None)) is not None:
            child = _Child(plan)
            running[child.reads] = child
        if not running:
            return
        readable, _, _ = select.select(list(running), [], [], 1.0)
        for descriptor in readable:
            child = running.pop(descriptor)
            yield child.plan, child.report()
        for child in running.values():
            child.stop_hanging()


def _fails(plan: Plan) -> bool:
    return any(report.wrong for _plan, report in reports([plan], 1))


def _command(plan: Plan, faults: int) -> str:
    only = ",".join(map(str, plan.numbers))
    return (
        f"python -m tests.simulation --seed {plan.seed} --faults {faults} --only '{only}' "
        f"--products {len(plan.products)}"
    )


@click.command(help=__doc__)
@click.option("--seeds", default=100, show_default=True, help="How many seeds to run.")
@click.option("--first", default=0, show_default=True, help="The first of them.")
@click.option("--faults", default=FAULTS, show_default=True, help="How many faults a run has.")
@click.option("--jobs", default=os.cpu_count() or 1, show_default=True, help="Runs at a time.")
@click.option("--seed", type=int, help="Run this one seed and tell what happened.")
@click.option("--only", help="Of that seed: only these faults (numbers with commas).")
@click.option("--products", type=int, help="Of that seed: only its first products.")
def main(
    seeds: int,
    first: int,
    faults: int,
    jobs: int,
    seed: int | None,
    only: str | None,
    products: int | None,
) -> None:
    if seed is not None:
        _tell(plan_of(seed, faults=faults), only, products)
        return
    began, virtual_s, failed = time.monotonic(), 0.0, 0
    happened: Counter[str] = Counter()
    plans = (plan_of(number, faults=faults) for number in range(first, first + seeds))
    for plan, report in reports(plans, jobs):
        virtual_s += report.virtual_s
        happened.update(report.happened)
        if report.wrong:
            failed += 1
            small = shrunk(plan, _fails)
            click.echo(f"seed {plan.seed}: {report.wrong[0]}\n  {_command(small, faults)}")
    seconds = time.monotonic() - began
    kinds = ", ".join(f"{count} {name}" for name, count in happened.most_common())
    click.echo(
        f"{seeds} seeds, {virtual_s / 3600:.2f} virtual hours in {seconds:.0f} s "
        f"({seeds / seconds * 3600:.0f} seeds an hour): {failed} failed\nfaults: {kinds}"
    )
    if failed:
        raise SystemExit(1)


def _tell(plan: Plan, only: str | None, products: int | None) -> None:
    numbers = plan.numbers if only is None else [int(one) for one in only.split(",") if one]
    plan = plan.only(numbers, products or len(plan.products))
    for number, fault in zip(plan.numbers, plan.faults, strict=True):
        click.echo(f"{number}: {fault}")
    for _plan, report in reports([plan], 1):
        click.echo(report)
        if report.wrong:
            raise SystemExit(1)
