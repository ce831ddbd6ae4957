"""`python -m tools.dev.capacity`: the tables of docs/capacity.md, also with figures of your own."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import click

from tools.dev.capacity.figures import VALUES, Figures, Limits, Load
from tools.dev.capacity.model import Fleet, Gateway
from tools.dev.capacity.results import measured

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "capacity.md"
_BLOCK = re.compile(r"(<!-- capacity (\w+) -->\n).*?(<!-- end capacity -->\n)", re.DOTALL)
_CLIENTS = (10_000, 100_000, 1_000_000, 10_000_000)


@dataclass(frozen=True)
class Reckoning:
    """What the tables are made of."""

    figures: Figures
    limits: Limits
    load: Load

    @property
    def gateway(self) -> Gateway:
        return Gateway(self.figures, self.limits, self.load)

    def with_load(self, **changes: float) -> Gateway:
        return replace(self.gateway, load=replace(self.load, **changes))  # type: ignore[arg-type] # names are checked by the tests


def reckoning(changes: Mapping[str, float]) -> Reckoning:
    """The built-in figures, some of them replaced.

    Raises:
        KeyError: there is no such figure.
    """
    parts: list[Figures | Limits | Load] = [Figures(), Limits(), Load()]
    left = dict(changes)
    for index, part in enumerate(parts):
        own = {one.name: left.pop(one.name) for one in fields(part) if one.name in left}
        if own:
            parts[index] = replace(part, **own)  # type: ignore[arg-type] # counts may be given as 3.0
    if left:
        raise KeyError(", ".join(left))
    figures, limits, load = parts
    assert isinstance(figures, Figures)
    assert isinstance(limits, Limits)
    assert isinstance(load, Load)
    return Reckoning(figures, limits, load)


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def figures(given: Reckoning) -> str:
    """What is reckoned with."""
    rows = [
        [
            f"`{one.name}`",
            f"{getattr(given.figures, one.name):g}",
            one.metadata["unit"],
            one.metadata["source"],
        ]
        for one in fields(Figures)
    ]
    return _table(["figure", "", "unit", "measured by"], rows)


def gateway(given: Reckoning) -> str:
    """What one gateway holds, by what its clients ask for."""
    cases = {
        "every tick of five busy products: 10/s": given.gateway,
        "`latest` at 1/s in all": given.with_load(messages_s=1.0, merged=True),
        "every tick of thirty: 60/s": given.with_load(messages_s=60.0, streams=30),
        "10/s, in a market of 20,000 ticks/s": given.with_load(ticks_s=20_000.0),
    }
    facts: dict[str, Callable[[Gateway], str]] = {
        "connections its CPU allows": lambda one: f"{one.by_cpu:,}",
        "connections its memory allows": lambda one: f"{one.by_memory:,}",
        "**it holds**": lambda one: f"**{one.connections:,}**",
        "of its core, for taking all ticks": lambda one: f"{100 * one.intake_share:.1f} %",
        "to its clients": lambda one: f"{one.egress_mbit:,.0f} Mbit/s",
        "from NATS": lambda one: f"{one.intake_mbit:,.0f} Mbit/s",
        "its windows reach back, a stream of 50/s": lambda one: f"{one.window_s:,.0f} s",
    }
    rows = [[name, *map(fact, cases.values())] for name, fact in facts.items()]
    return _table(["one gateway: 1 core, 1 GiB", *cases], rows)


def fleet(given: Reckoning) -> str:
    """What more and more subscribers need."""
    one = given.gateway
    limits = given.limits
    thousand = 1000 * (limits.zones - 1) // limits.zones * one.connections
    sizes = sorted({*_CLIENTS, thousand})
    fleets = [Fleet(clients, one) for clients in sizes]
    facts: dict[str, Callable[[Fleet], str]] = {
        "gateways, one zone of three to spare": lambda a: f"{a.gateways:,}",
        "nodes of 4 vCPU": lambda a: f"{a.nodes:,}",
        "to clients": lambda a: f"{a.egress_gbit:,.1f} Gbit/s",
        "NLBs": lambda a: f"{a.balancers:,}",
        "NATS to every gateway itself": lambda a: (
            f"{a.tail_gbit(a.gateways):,.1f} Gbit/s, {a.tail_cores(a.gateways):.1f} cores"
        ),
        "leaf nodes: one a node, and before them": lambda a: f"{a.leaves:,}, {a.relays:,}",
        "NATS to what reads from it then": lambda a: (
            f"{a.tail_gbit(a.readers):,.1f} Gbit/s, {a.tail_cores(a.readers):.1f} cores"
        ),
        "JetStream requests at rest": lambda a: f"{a.requests_s:,.0f}/s",
        "a zone is lost: clients that come back": lambda a: f"{a.returning:,}",
        "of each other gateway's core for that": lambda a: f"{a.return_s:.1f} s",
        "1 % were away for 10 min, no two alike: CPU of NATS for their logs": lambda a: (
            f"{a.log_core_s(0.01, 600):,.0f} core-s"
        ),
    }
    rows = [[name, *map(fact, fleets)] for name, fact in facts.items()]
    return _table(["subscribers", *(f"{size:,}" for size in sizes)], rows)


def breaks(given: Reckoning) -> str:
    """What ends first when subscribers become more."""
    one, limits = given.gateway, given.limits
    busy = given.with_load(ticks_s=20_000.0)
    most = Fleet(0, one).most_readers
    # Of gateways, a third are there to be lost.
    share = (limits.zones - 1) / limits.zones * one.connections
    whole = Fleet(10_000_000, one)
    by_count: list[tuple[float, str, str]] = [
        (one.by_cpu, "the core of one gateway", "more gateways; nothing else changes"),
        (
            limits.nlb_targets * share,
            f"the targets of one NLB ({limits.nlb_targets} gateways)",
            "several, by DNS",
        ),
        (
            most * share,
            (
                f"the network of {limits.nats_servers} NATS servers ({most:,} gateways at "
                f"{one.intake_mbit:.0f} Mbit/s)"
            ),
            "leaf nodes, one on each node of gateways",
        ),
        (
            most * limits.node_gateways * share,
            f"the cluster's network again, with {most:,} leaf nodes",
            "leaf nodes between",
        ),
        (
            whole.clients,
            "nothing new in the platform",
            (
                f"the bill, and a region's network: {whole.egress_gbit:,.0f} Gbit/s from "
                f"{whole.gateways:,} gateways on {whole.nodes:,} nodes. Several regions, each with "
                "gateways and leaf nodes of its own, on one cluster's logs"
            ),
        ),
    ]
    rows = [[_about(count), *rest] for count, *rest in sorted(by_count)]
    rows += [
        [
            "any number, at 20,000 ticks/s",
            (
                f"{100 * busy.intake_share:.0f} % of every gateway's core takes ticks, and NATS "
                f"sends each {busy.intake_mbit:.0f} Mbit/s"
            ),
            "gateways by groups of products",
        ],
        [
            (
                "any number, when many were away longer than "
                f"{one.window_s:.0f} s, or gateways start while DynamoDB is away"
            ),
            (
                "CPU of NATS for reading logs "
                f"({whole.start_core_s:,.0f} core-seconds for each gateway that starts)"
            ),
            "larger windows, mirrors; rollouts some gateways at a time",
        ],
    ]
    return _table(["with about so many subscribers", "breaks", "then"], rows)


def _about(count: float) -> str:
    """Two digits are as much as such a number is worth."""
    return f"{float(f'{count:.1e}'):,.0f}"


_TABLES = {"figures": figures, "gateway": gateway, "fleet": fleet, "breaks": breaks}


def filled(text: str, given: Reckoning) -> str:
    """The document with its tables as the model gives them."""
    return _BLOCK.sub(lambda found: f"{found[1]}{_TABLES[found[2]](given)}{found[3]}", text)


@click.command()
@click.option("--set", "changes", multiple=True, metavar="NAME=VALUE", help="Another figure.")
@click.option(
    "--results",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="Take what this file of `make bench` measured.",
)
@click.option("--write", is_flag=True, help="Keep the figures, and write docs/capacity.md.")
def main(changes: Sequence[str], results: Sequence[Path], write: bool) -> None:
    """How many subscribers a gateway and a fleet hold, and what they need."""
    taken: dict[str, float] = {}
    for path in results:
        taken |= measured(json.loads(path.read_text()))
    try:
        pairs = [change.split("=", 1) for change in changes]
        given = reckoning({**taken, **{name: float(value) for name, value in pairs}})
    except (KeyError, ValueError) as error:
        raise click.UsageError(f"--set: {error}") from error
    if write:
        if (given.limits, given.load) != (Limits(), Load()):
            raise click.UsageError("--write keeps measured figures only")
        held = {
            one.name: float(f"{getattr(given.figures, one.name):.3g}") for one in fields(Figures)
        }
        VALUES.write_text(json.dumps(held, indent=1) + "\n")
        given = replace(given, figures=Figures(**held))
        DOCUMENT.write_text(filled(DOCUMENT.read_text(), given))
        return
    for table in _TABLES.values():
        click.echo(table(given))


if __name__ == "__main__":
    main()
