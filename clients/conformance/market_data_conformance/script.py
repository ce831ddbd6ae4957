"""Golden transcripts: what the gateway says, what the client must send and hand out. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Json = dict[str, Any]
FOLDER = Path(__file__).parent / "transcripts"
# Texts of numbers: `ascending` lists of texts that say one value, and what is none (`invalid`).
DECIMALS = Path(__file__).parent / "decimals.json"
# How old data is: `lost` lines, the server's `clock`, `verdicts` on streams.
FRESHNESS = Path(__file__).parent / "freshness.json"
EPOCH = 1_700_000_000_000_000
# Steps of a transcript; each is an object with one of these names.
STEPS = (
    # The gateway: takes the next connection; says a message (or several in one frame); says one of
    # the short forms below; closes with a code; breaks the line; goes silent.
    *("accept", "say", "batch", "text", "close", "drop", "pause_ms"),
    *("welcome", "subscribed", "snapshot", "tick", "reset", "hb", "rate_limit", "drain"),
    # The client: sends a command with at least these fields (in a list: those of one); hands out
    # an event with at least these fields; does neither for so long.
    *("command", "event", "nothing_ms"),
)


@dataclass(frozen=True)
class Transcript:
    """One case; `steps` are played in order."""

    name: str
    about: str
    channel: str
    steps: list[Json]


def transcripts(folder: Path = FOLDER) -> list[Transcript]:
    """All cases, by name. Raises ValueError when a step is none of `STEPS`."""
    found = []
    for path in sorted(folder.glob("*.json")):
        case = json.loads(path.read_text())
        for step in case["steps"]:
            if len(step) != 1 or next(iter(step)) not in STEPS:
                raise ValueError(f"{path.name}: not a step: {step}")
        found.append(
            Transcript(path.stem, case["about"], case.get("channel", "ticker"), case["steps"])
        )
    return found


def message(kind: str, value: Any, channel: str, request: Json) -> Json:
    """A short form as the message it stands for; `request` is the client's last command."""
    names = {"venue": "coinbase", "channel": channel, "product": "BTC-USD"}
    stream = f"coinbase:{channel}:BTC-USD"
    answered = {"id": request.get("id")}
    if kind == "welcome":
        about = {"session": "s", "protocol": "md.v1.json", "auth": "ok", "limits": {}}
        return {"type": "welcome", **about, "server_time": EPOCH, "heartbeat_ms": value}
    if kind == "subscribed":
        result = {**names, "stream": stream, "ok": True, "epoch": EPOCH, "seq": 100}
        asked = {"mode": "full", "max_rate": None, "depth": 0}
        return {"type": "subscribed", **answered, "results": [{**result, **asked, **value}]}
    if kind == "rate_limit":
        return {"type": "rate_limit", **answered, "scope": "commands", "retry_after_ms": value}
    if kind == "drain":
        resume = {stream: {"epoch": EPOCH, "seq": value, "cursor": f"cursor-{value}"}}
        wait = {"deadline_ms": 1000, "reconnect_after_ms": [10, 50]}
        return {"type": "drain", **wait, "resume": resume}
    if kind == "hb":
        return {"type": "hb", "server_time": EPOCH, "heads": {stream: value}}
    record = {"v": 1, **names, "shard": 0, "epoch": EPOCH}
    if kind == "tick":
        more = {key: value[key] for key in ("epoch", "seq", "prev") if key in value}
        tick = {**record, **more, "type": "tick", "ts_event": EPOCH, "ts_ingest": EPOCH}
        fields = value.get("fields", _fields(channel, value["seq"]))
        return {"type": "incr", "tick": {**tick, "fields": fields}, **value.get("outer", {})}
    if kind == "snapshot":
        given = dict(value)
        outer = {key: given.pop(key) for key in ("reason", "part", "last") if key in given}
        state = given.pop("state", _state(channel))
        snapshot = {**record, "type": "snapshot", "ts_snapshot": EPOCH, "state": state, **given}
        return {"type": "snapshot", "reason": "subscribe", **outer, "snapshot": snapshot}
    why = {"cause": "gap", "repair": "snapshot", "missed": None}
    return {**record, "type": "reset", "ts_event": EPOCH, "ts_ingest": EPOCH, **why, **value}


def difference(expected: Json, found: Json) -> str | None:
    """Why `found` lacks something of `expected`; None when it has all of it."""
    for name, value in expected.items():
        if name not in found and value is not None:
            return f"{name} is missing, expected {value!r}"
        if isinstance(value, dict) and isinstance(found.get(name), dict):
            inner = difference(value, found[name])
            if inner:
                return f"{name}.{inner}"
        elif found.get(name) != value:
            return f"{name} is {found.get(name)!r}, expected {value!r}"
    return None


def _fields(channel: str, seq: int) -> Json:
    if channel == "book":
        return {"changes": [["buy", "99.5", str(seq)]]}
    trade = {"price": "1.5", "size": "1", "side": "buy", "trade_id": seq, "time": EPOCH}
    return {"last_trade": trade}


def _state(channel: str) -> Json:
    if channel == "book":
        return {"bids": [["99", "1"], ["98", "2"]], "asks": [["101", "1"], ["102", "2"]]}
    return {"trades": []} if channel == "trades" else {"volume_30d": "1"}
