"""The wire's JSON objects as typed messages. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from market_data_fanout_client.messages import (
    Backfill,
    Fields,
    Late,
    Level,
    ModeChange,
    Reset,
    Snapshot,
    Stats24h,
    Status,
    Subscribed,
    Tick,
    Trade,
)

Json = dict[str, Any]


def stream_of(record: Json) -> str:
    """`venue:channel:product` of a record or of a message that names its stream."""
    return f"{record['venue']}:{record['channel']}:{record['product']}"


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


def tick(message: Json) -> Tick:
    row = message["tick"]
    prev = message["prev"] if "prev" in message else row.get("prev")
    return _tick(row, prev, message.get("merged", 1))


def late(row: Json) -> Late:
    return Late(
        row["venue"],
        row["channel"],
        row["product"],
        row["epoch"],
        (row["missed"]["from"], row["missed"]["to"]),
        tuple(_tick(tick, tick.get("prev"), 1) for tick in row["ticks"]),
        _ranges(row["open"]),
        _ranges(row.get("lost", ())),
    )


def _ranges(rows: Iterable[Json]) -> tuple[tuple[int, int], ...]:
    return tuple((row["from"], row["to"]) for row in rows)


def _tick(row: Json, prev: int | None, merged: int) -> Tick:
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
    return Snapshot(
        row["venue"],
        row["channel"],
        row["product"],
        row["epoch"],
        row["seq"],
        row["ts_snapshot"],
        parts[-1].get("reason", "subscribe"),
        fields(states[0]) if row["channel"] == "ticker" else Fields(),
        tuple(t for t in map(trade, states[0].get("trades", ())) if t is not None),
        tuple(Level(r[0], r[1]) for state in states for r in state.get("bids", ())),
        tuple(Level(r[0], r[1]) for state in states for r in state.get("asks", ())),
    )


def reset(row: Json) -> Reset:
    return Reset(
        row["venue"],
        row["channel"],
        row["product"],
        row["epoch"],
        row["seq"],
        row.get("cause", ""),
        row.get("repair", "none"),
        row.get("missed"),
    )


def status(row: Json) -> Status:
    return Status(
        row["venue"],
        row["channel"],
        row["product"],
        row["state"],
        row.get("since", 0),
        row.get("evidence", ""),
    )


def subscribed(row: Json) -> Subscribed:
    return Subscribed(
        row["venue"],
        row["channel"],
        row["product"],
        row.get("epoch"),
        row.get("seq"),
        row.get("start", "live"),
        row.get("mode"),
        row.get("warning"),
    )


def backfill(row: Json) -> Backfill:
    return Backfill(
        row["venue"],
        row["channel"],
        row["product"],
        row["state"],
        row["from"],
        row.get("to"),
        row.get("count"),
        bool(row.get("complete")),
    )


def mode(row: Json) -> ModeChange:
    return ModeChange(
        row["venue"],
        row["channel"],
        row["product"],
        row["from"],
        row["to"],
        row["reason"],
        row.get("lag") or 0,
    )
