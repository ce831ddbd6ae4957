"""The board as rich renderables that fit the terminal."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from tools.watch.board import Board, Depth, Row

_QUANTILES = (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999))
_UP, _DOWN = "green", "red"
# Lines of the picture that are neither rows nor news: title, header, rule, panel, connection.
_FRAME_LINES = 8
_NEWS_LINES = 6
# Title, header, rule and blank lines of the ladder.
_LADDER_FRAME_LINES = 5


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
    room = height - len(board.rows) - _FRAME_LINES
    depth = board.depth()
    if depth is None or room <= _LADDER_FRAME_LINES + 1:
        return Group(table, _footer(board, max(1, min(_NEWS_LINES, room))))
    levels = min(board.ladder, room - _LADDER_FRAME_LINES - 1)
    news = max(1, min(_NEWS_LINES, room - _LADDER_FRAME_LINES - levels))
    return Group(table, _ladder(depth, levels), _footer(board, news))


def _ladder(depth: Depth, levels: int) -> RenderableType:
    """A book's best levels, bids at the left; a shade shows that it cannot be believed now."""
    state = "verified" if depth.complete else "not known: a snapshot is awaited"
    table = Table(
        title=f"{depth.product} book, {state}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        style="" if depth.complete else "dim",
    )
    for name in ("size", "bid", "ask", "size"):
        table.add_column(name, justify="left" if name == "ask" else "right", no_wrap=True)
    for n in range(levels):
        bid = depth.bids[n] if n < len(depth.bids) else ("", "")
        ask = depth.asks[n] if n < len(depth.asks) else ("", "")
        table.add_row(bid[1], Text(bid[0], _UP), Text(ask[0], _DOWN), ask[1])
    return table


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
        _Column(
            "ms", 8, [Text("–" if r.latency_ms is None else f"{r.latency_ms:.1f}") for r in rows]
        ),
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
    if board.latency is not None and board.latency.count:
        quantiles = ((name, board.latency.quantile(q)) for name, q in _QUANTILES)
        shown = (f"{name} {value / 1000:.1f}" for name, value in quantiles if value is not None)
        lines.append(f"   latency ms: {'  '.join(shown)}")
    for at, text in list(board.log)[-log_lines:]:
        clock = datetime.fromtimestamp(at).astimezone().strftime("%H:%M:%S")
        lines.append(f"\n{clock}  {text}")
    return Panel(lines, title="connection and gaps", title_align="left", border_style="dim")
