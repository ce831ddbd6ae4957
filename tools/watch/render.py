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
    if depth.complete:
        state = "verified" if _is_now(depth.row) else _data(depth.row).plain
    else:
        state = "not known: a snapshot is awaited"
    believed = depth.complete and _is_now(depth.row)
    table = Table(
        box=box.SIMPLE_HEAD,
        style="" if believed else "dim",
    )
    for name in ("size", "bid", "ask", "size"):
        table.add_column(name, justify="left" if name == "ask" else "right", no_wrap=True)
    for n in range(levels):
        bid = depth.bids[n] if n < len(depth.bids) else ("", "")
        ask = depth.asks[n] if n < len(depth.asks) else ("", "")
        up, down = (_UP, _DOWN) if believed else ("", "")
        table.add_row(bid[1], Text(bid[0], up), Text(ask[0], down), ask[1])
    # Above it and not its title, which would be as narrow as the table.
    title = Text(f"\n{depth.row.product} book, {state}", "italic", no_wrap=True)
    return Group(title, table)


def _columns(board: Board, now: float) -> list[_Column]:
    rows = list(board.rows.values())
    columns = [_Column("product", 0, [Text(row.product, "bold") for row in rows], right=False)]
    if len({row.channel for row in rows}) > 1:
        columns.append(_Column("channel", 2, [Text(row.channel) for row in rows], right=False))
    return [
        *columns,
        _Column("last", 3, [_last(row) for row in rows]),
        _Column("bid", 5, [_plain(row, row.bid or "–") for row in rows]),
        _Column("ask", 6, [_plain(row, row.ask or "–") for row in rows]),
        _Column("change", 8, [_change(row) for row in rows]),
        _Column("ticks", 11, [Text(f"{row.ticks:,}") for row in rows]),
        _Column("ticks/s", 7, [Text(f"{row.rate.per_second(now):.1f}") for row in rows]),
        _Column(
            "ms", 9, [Text("–" if r.latency_ms is None else f"{r.latency_ms:.1f}") for r in rows]
        ),
        _Column("age", 4, [_age(row) for row in rows]),
        _Column("chain", 10, [_chain(row) for row in rows], right=False),
        # Whether the others may be believed: it never goes.
        _Column("data", 1, [_data(row) for row in rows], right=False),
    ]


def _is_now(row: Row) -> bool:
    return row.freshness is not None and row.freshness.fresh


def _plain(row: Row, text: str) -> Text:
    return Text(text, "" if _is_now(row) else "dim")


def _last(row: Row) -> Text:
    if not _is_now(row):
        return _plain(row, row.last or "–")
    return Text(row.last or "–", style={1: _UP, -1: _DOWN}.get(row.direction, ""))


def _change(row: Row) -> Text:
    change = row.change_percent
    if change is None:
        return Text("–")
    if not _is_now(row):
        return _plain(row, f"{change:+.2f}%")
    return Text(f"{change:+.2f}%", style=_UP if change > 0 else _DOWN if change < 0 else "")


def _chain(row: Row) -> Text:
    if row.chain == "unbroken" and not _is_now(row):
        return _plain(row, row.chain)
    style = {"unbroken": _UP, "resyncing": "bold red"}.get(row.chain, "yellow")
    return Text(row.chain, style=style)


def _age(row: Row) -> Text:
    age = None if row.freshness is None else row.freshness.age_ms
    return _plain(row, "–" if age is None else f"{age / 1000:.1f} s")


def _data(row: Row) -> Text:
    """The verdict; of what is not of now, when it was."""
    verdict = row.freshness
    if verdict is None:
        return Text("–")
    words = verdict.state.replace("_", " ")
    if verdict.mode == "latest":
        words += ", latest"
    if verdict.lag:
        words += f", {verdict.lag:,} behind"
    if not verdict.fresh and verdict.as_of is not None:
        at = datetime.fromtimestamp(verdict.as_of / 1e6).astimezone()
        words += f", as of {at:%H:%M:%S}"
    return Text(words, style={"live": _UP, "quiet": "cyan"}.get(verdict.state, "bold yellow"))


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
