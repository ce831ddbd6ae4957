"""`mdf doctor`: what is configured, what answers, and what to do about the rest."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict

import click
from rich.console import Console
from rich.table import Table

from services.common.observability.telemetry import configure_logging
from tools.doctor import Finding
from tools.doctor.checks import examine

_STYLE = {"ok": "green", "warning": "yellow", "error": "bold red"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the findings as one JSON array.")
def doctor(as_json: bool) -> None:
    """Check settings and reach of every dependency.

    Reads the environment exactly as the services do. The exit status is 1 when a check failed;
    warnings do not count.
    """
    # What the adapters log while they try is told by the findings.
    configure_logging("doctor", "ERROR", "auto")
    findings = asyncio.run(examine())
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings]))
    else:
        _table(findings)
    raise SystemExit(any(finding.level == "error" for finding in findings))


def _table(findings: list[Finding]) -> None:
    table = Table(header_style="bold", show_lines=False)
    for column in ("check", "", "found", "what to do"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        style = _STYLE[finding.level]
        table.add_row(
            finding.name, f"[{style}]{finding.level}[/{style}]", finding.detail, finding.advice
        )
    Console().print(table)
