"""`python -m tools.dev.costs`: the tables of docs/operations/costs.md and nats.md."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import click

from tools.dev.costs.model import SIZES, Size, bill, egress_usd
from tools.dev.costs.prices import AS_OF, EGRESS, EGRESS_BEYOND, PRICES, REGION

_FOLDER = Path(__file__).resolve().parents[3] / "docs" / "operations"
DOCUMENTS = (_FOLDER / "costs.md", _FOLDER / "nats.md")
_BLOCK = re.compile(r"(<!-- costs (\w+) -->\n).*?(<!-- end costs -->\n)", re.DOTALL)


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def prices() -> str:
    """The unit prices."""
    rows = [[name, f"${price.usd:g}", price.unit] for name, price in PRICES.items()]
    below = 0.0
    for up_to, usd in EGRESS:
        rows.append([f"egress to the internet, {below:,.0f} to {up_to:,.0f} GB", f"${usd:g}", "GB"])
        below = up_to
    rows.append([f"egress to the internet, beyond {below:,.0f} GB", f"${EGRESS_BEYOND:g}", "GB"])
    return _table([f"list price, {REGION}, {AS_OF}", "USD", "for each"], rows)


def sizes() -> str:
    """What each size stands for."""
    facts: dict[str, Callable[[Size], str]] = {
        "products": lambda size: f"{size.products:,}",
        "ticks/s, all channels": lambda size: f"{size.ticks_s:,.0f}",
        "clients": lambda size: f"{size.clients:,}",
        "ticker messages/s to each client": lambda size: f"{size.messages_s:g}",
        "`SNAPSHOT_PERIOD_MS`": lambda size: f"{1000 * size.row_period_s:.0f}",
        "`CHECKPOINT_PERIOD_S`": lambda size: f"{size.checkpoint_period_s:.0f}",
        "`JS_RETENTION_MINUTES`": lambda size: f"{60 * size.retention_h:.0f}",
        "archive kept": lambda size: f"{30 * size.archive_months:.0f} days",
    }
    rows = [[name, *(fact(size) for size in SIZES)] for name, fact in facts.items()]
    return _table(["", *(size.name for size in SIZES)], rows)


def month() -> str:
    """The bill of each size."""
    bills = [list(bill(size)) for size in SIZES]
    totals = [sum(line.usd for line in lines) for lines in bills]
    rows = [
        [lines[0].item, *(f"${line.usd:,.0f} ({line.quantity})" for line in lines)]
        for lines in zip(*bills, strict=True)
    ]
    rows.append(["**a month**", *(f"**${total:,.0f}**" for total in totals)])
    rows.append(
        [
            "of that, egress to clients",
            *(
                f"{100 * egress_usd(size.egress_gb) / total:.0f} %"
                for size, total in zip(SIZES, totals, strict=True)
            ),
        ]
    )
    rows.append(
        [
            "a client and month",
            *(f"${total / size.clients:.2f}" for size, total in zip(SIZES, totals, strict=True)),
        ]
    )
    return _table(["", *(size.name for size in SIZES)], rows)


def egress() -> str:
    """The same bills when clients take less."""
    rows = []
    for what, messages, compressed in (
        ("every tick of five products, 10/s", 10.0, False),
        ("the same, compressed", 10.0, True),
        ('`"mode": "latest", "max_rate": 1`, 5/s', 5.0, False),
        ('`"mode": "latest", "max_rate": 0.2`, 1/s', 1.0, False),
        ("the same, compressed", 1.0, True),
    ):
        cells = []
        for size in SIZES:
            other = replace(
                size, messages_s=messages, merged=messages < size.messages_s, compressed=compressed
            )
            total = sum(line.usd for line in bill(other))
            cells.append(f"${total:,.0f}, egress ${egress_usd(other.egress_gb):,.0f}")
        rows.append([what, *cells])
    return _table(["clients ask for", *(size.name for size in SIZES)], rows)


def jetstream() -> str:
    """Disk of one replica."""
    rows = [
        [
            f"{size.name}: {size.ticks_s:,.0f}/s",
            f"{size.ticks_s * size.stored_bytes / 1e6:.1f} MB/s",
            *(f"{size.log_gb * hours / size.retention_h:,.1f} GB" for hours in (1, 2, 6, 24)),
        ]
        for size in SIZES
    ]
    return _table(["messages", "written", "60 minutes", "120", "360", "1440"], rows)


_TABLES = {
    "prices": prices,
    "sizes": sizes,
    "month": month,
    "egress": egress,
    "jetstream": jetstream,
}


def filled(text: str) -> str:
    """A document with its tables as the model gives them."""
    return _BLOCK.sub(lambda found: f"{found[1]}{_TABLES[found[2]]()}{found[3]}", text)


@click.command()
@click.option("--write", is_flag=True, help="Write the tables into docs/operations/.")
def main(write: bool) -> None:
    """What the platform costs a month, by size."""
    if write:
        for document in DOCUMENTS:
            document.write_text(filled(document.read_text()))
        return
    for table in _TABLES.values():
        click.echo(table())


if __name__ == "__main__":
    main()
