"""The board as rich renderables."""

from __future__ import annotations

from datetime import datetime

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from tools.watch.board import Board, Row

_UP, _DOWN = "green", "red"


def render(board: Board, now: float, *, title: str, log_lines: int = 6) -> RenderableType:
    """The whole board at `now` (seconds since the Unix epoch)."""
    channels = {row.channel for row in board.rows.values()}
    table = Table(title=title, title_style="bold", expand=True, header_style="bold")
    table.add_column("product")
    if len(channels) > 1:
        table.add_column("channel")
    for name in ("last", "bid", "ask", "change", "ticks", "ticks/s", "latency"):
        table.add_column(name, justify="right")
    table.add_column("chain")
    table.add_column("feed")
    for row in board.rows.values():
        cells: list[Text | str] = [Text(row.product, style="bold")]
        if len(channels) > 1:
            cells.append(row.channel)
        table.add_row(*cells, *_numbers(row, now), _chain(row), _feed(row))
    return Group(table, _footer(board, log_lines))


def _numbers(row: Row, now: float) -> list[Text]:
    change = row.change_percent
    colour = {1: _UP, -1: _DOWN}.get(row.direction, "")
    return [
        Text(row.last or "–", style=colour),
        Text(row.bid or "–"),
        Text(row.ask or "–"),
        Text("–" if change is None else f"{change:+.2f} %", style=_signed(change)),
        Text(f"{row.ticks:,}"),
        Text(f"{row.rate.per_second(now):.1f}"),
        Text("–" if row.latency_ms is None else f"{row.latency_ms:.1f} ms"),
    ]


def _signed(value: float | None) -> str:
    if not value:
        return ""
    return _UP if value > 0 else _DOWN


def _chain(row: Row) -> Text:
    style = {"unbroken": _UP, "resyncing": "bold red"}.get(row.chain, "yellow")
    return Text(row.chain, style=style)


def _feed(row: Row) -> Text:
    style = {"live": _UP, "quiet": "cyan"}.get(row.feed, "yellow")
    return Text(row.feed or "–", style=style)


def _footer(board: Board, log_lines: int) -> RenderableType:
    lines = Text()
    connected = board.connection == "connected"
    lines.append(board.connection, style=_UP if connected else "bold yellow")
    lines.append(f"   reconnects {board.reconnects}")
    for at, text in list(board.log)[-log_lines:]:
        clock = datetime.fromtimestamp(at).astimezone().strftime("%H:%M:%S")
        lines.append(f"\n{clock}  {text}")
    return Panel(lines, title="connection and gaps", title_align="left", border_style="dim")
