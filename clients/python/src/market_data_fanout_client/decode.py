"""The wire's JSON objects as typed messages. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from market_data_fanout_client.messages import (
    Fields,
    Late,
    Level,
    Snapshot,
    Stats24h,
    Tick,
    Trade,
)

Json = dict[str, Any]


def stream_of(record: Json) -> str:
    """`venue:channel:product` of a record or of a message that names its stream."""
    return f"{record['venue']}:{record['channel']}:{record['product']}"


def read[M](kind: type[M], row: Json, **others: Any) -> M:
    """A message whose fields stand in `row` under the same names, but for `others`.

    Raises:
        TypeError: a field that has no default is in neither.
    """
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]  # all of `messages` are dataclasses
    return kind(**{name: row[name] for name in names if name in row} | others)


def trade(row: Json | None) -> Trade | None:
    if row is None:
        return None
    return Trade(row["price"], row["size"], row["side"], row["trade_id"], row.get("time"))


def level(row: Json | None) -> Level | None:
    return None if row is None else Level(row["price"], row.get("size"))


def fields(row: Json) -> Fields:
    stats = row.get("stats_24h")
    return Fields(
        trade(row.get("last_trade")),
        level(row.get("best_bid")),
        level(row.get("best_ask")),
        None
        if stats is None
        else Stats24h(stats.get("open"), stats.get("high"), stats.get("low"), stats.get("volume")),
        row.get("volume_30d"),
        tuple((side, price, size) for side, price, size in row.get("changes") or ()),
    )


def tick(row: Json, prev: int | None, merged: int = 1) -> Tick:
    return Tick(
        row["venue"],
        row["channel"],
        row["product"],
        row["epoch"],
        row["seq"],
        prev,
        row.get("ts_event"),
        row["ts_ingest"],
        fields(row["fields"]),
        row.get("venue_seq"),
        merged,
    )


def snapshot(parts: list[Json]) -> Snapshot:
    """One snapshot of all its parts, in order."""
    row = parts[-1]["snapshot"]
    states = [part["snapshot"]["state"] for part in parts]
    return read(
        Snapshot,
        row,
        reason=parts[-1].get("reason", "subscribe"),
        fields=fields(states[0]) if row["channel"] == "ticker" else Fields(),
        trades=tuple(t for t in map(trade, states[0].get("trades", ())) if t is not None),
        bids=tuple(Level(r[0], r[1]) for state in states for r in state.get("bids", ())),
        asks=tuple(Level(r[0], r[1]) for state in states for r in state.get("asks", ())),
    )


def late(row: Json) -> Late:
    return read(
        Late,
        row,
        missed=(row["missed"]["from"], row["missed"]["to"]),
        ticks=tuple(tick(found, found.get("prev")) for found in row["ticks"]),
        open=_ranges(row["open"]),
        lost=_ranges(row.get("lost", ())),
    )


def _ranges(rows: Iterable[Json]) -> tuple[tuple[int, int], ...]:
    return tuple((row["from"], row["to"]) for row in rows)
