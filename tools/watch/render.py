"""The board as rich renderables that fit the terminal."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from tools.watch.board import Board, Row

_UP, _DOWN = "green", "red"
# Lines of the picture that are neither rows nor news: title, header, rule, panel, connection.
_FRAME_LINES = 8
_NEWS_LINES = 6


@dataclass(frozen=True)
class _Column:
    """On a narrow terminal the columns with the highest `rank` go first."""

    name: str
    rank: int
    cells: list[Text]
    right: bool = True

    @property
    def width(self) -> int:
        # A blank on each side and the divider, which this box draws as a blank too.
        return max(len(self.name), *(len(cell) for cell in self.cells)) + 3


def render(
    board: Board, now: float, *, title: str, width: int = 120, height: int = 40
) -> RenderableType:
    """The whole board at `now` (seconds since the Unix epoch) for a terminal of that size."""
    columns = _columns(board, now)
    while sum(column.width for column in columns) >= width and len(columns) > 2:
        columns.remove(max(columns, key=lambda column: column.rank))
    table = Table(
        title=title, title_style="bold", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=True
    )
    for column in columns:
        table.add_column(column.name, justify="right" if column.right else "left", no_wrap=True)
    for cells in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*cells)
    news = max(1, min(_NEWS_LINES, height - len(board.rows) - _FRAME_LINES))
    return Group(table, _footer(board, news))


def _columns(board: Board, now: float) -> list[_Column]:
    rows = list(board.rows.values())
    columns = [_Column("product", 0, [Text(row.product, "bold") for row in rows], right=False)]
    if len({row.channel for row in rows}) > 1:
        columns.append(_Column("channel", 1, [Text(row.channel) for row in rows], right=False))
    return [
        *columns,
        _Column("last", 2, [_last(row) for row in rows]),
        _Column("bid", 3, [Text(row.bid or "–") for row in rows]),
        _Column("ask", 4, [Text(row.ask or "–") for row in rows]),
        _Column("change", 7, [_change(row) for row in rows]),
        _Column("ticks", 10, [Text(f"{row.ticks:,}") for row in rows]),
        _Column("ticks/s", 6, [Text(f"{row.rate.per_second(now):.1f}") for row in rows]),
        _Column("ms", 8, [_latency(row) for row in rows]),
        _Column("chain", 5, [_chain(row) for row in rows], right=False),
        _Column("feed", 9, [_feed(row) for row in rows], right=False),
    ]


def _last(row: Row) -> Text:
    return Text(row.last or "–", style={1: _UP, -1: _DOWN}.get(row.direction, ""))


def _change(row: Row) -> Text:
    change = row.change_percent
    if change is None:
        return Text("–")
    return Text(f"{change:+.2f}%", style=_UP if change > 0 else _DOWN if change < 0 else "")


def _latency(row: Row) -> Text:
    return Text("–" if row.latency_ms is None else f"{row.latency_ms:.1f}")


def _chain(row: Row) -> Text:
    style = {"unbroken": _UP, "resyncing": "bold red"}.get(row.chain, "yellow")
    return Text(row.chain, style=style)


def _feed(row: Row) -> Text:
    style = {"live": _UP, "quiet": "cyan"}.get(row.feed, "yellow")
    return Text(row.feed or "–", style=style)


def _footer(board: Board, log_lines: int) -> RenderableType:
    lines = Text(no_wrap=True, overflow="ellipsis")
    connected = board.connection == "connected"
    lines.append(board.connection, style=_UP if connected else "bold yellow")
    lines.append(f"   reconnects {board.reconnects}")
    for at, text in list(board.log)[-log_lines:]:
        clock = datetime.fromtimestamp(at).astimezone().strftime("%H:%M:%S")
        lines.append(f"\n{clock}  {text}")
    return Panel(lines, title="connection and gaps", title_align="left", border_style="dim")
