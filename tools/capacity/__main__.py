"""`python -m tools.capacity`: the tables of docs/capacity.md, also with figures of your own."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import click

from tools.capacity.figures import Figures, Limits, Load
from tools.capacity.model import Fleet, Gateway

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "capacity.md"
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
        "1 % were away for 10 min: CPU of NATS for their logs": lambda a: (
            f"{a.log_core_s(0.01, 600):,.0f} core-s"
        ),
    }
    rows = [[name, *map(fact, fleets)] for name, fact in facts.items()]
    return _table(["subscribers", *(f"{size:,}" for size in sizes)], rows)


_TABLES = {"figures": figures, "gateway": gateway, "fleet": fleet}


def filled(text: str) -> str:
    """The document with its tables as the model gives them."""
    given = reckoning({})
    return _BLOCK.sub(lambda found: f"{found[1]}{_TABLES[found[2]](given)}{found[3]}", text)


@click.command()
@click.option("--set", "changes", multiple=True, metavar="NAME=VALUE", help="Another figure.")
@click.option("--write", is_flag=True, help="Write the tables into docs/capacity.md.")
def main(changes: Sequence[str], write: bool) -> None:
    """How many subscribers a gateway and a fleet hold, and what they need."""
    if write:
        DOCUMENT.write_text(filled(DOCUMENT.read_text()))
        return
    try:
        pairs = [change.split("=", 1) for change in changes]
        given = reckoning({name: float(value) for name, value in pairs})
    except (KeyError, ValueError) as error:
        raise click.UsageError(f"--set: {error}") from error
    for table in _TABLES.values():
        click.echo(table(given))


if __name__ == "__main__":
    main()
