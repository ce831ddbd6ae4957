"""Every frame that was recorded of Coinbase maps, and folds to the book that it says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from services.common.domain.fold import Fold
from services.common.stream import Position
from services.common.subjects import StreamKey
from services.common.times import micros
from services.common.wire import Fields, Reset, Tick
from services.normalizer.tests.test_coinbase import MAPPER, TS_RECV, fields


def recorded(captures: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    for line in (captures / "coinbase/live-btc-eth.ndjson").read_bytes().splitlines():
        yield line, json.loads(line)


CHANNELS = {"l2update": "book", "snapshot": "book", "match": "trades"}


def test_every_recorded_frame_maps_and_folds_to_what_an_independent_fold_gives(
    captures: Path,
) -> None:
    trades = 0
    folds: dict[str, Fold] = {}
    books: dict[str, dict[str, dict[Decimal, Decimal]]] = {}
    for seq, (line, frame) in enumerate(recorded(captures), start=1):
        channel = CHANNELS.get(frame["type"])
        if channel is None:
            assert frame["type"] in ("subscriptions", "heartbeat", "last_match")
            continue
        product = frame["product_id"]
        if channel == "trades":
            trade = fields("trades", line, product).fields.last_trade
            assert (trade.price, trade.size) == (frame["price"], frame["size"])
            assert {trade.side, frame["side"]} == {"buy", "sell"}
            trades += 1
            continue
        fold = folds.setdefault(product, Fold(StreamKey("coinbase", "book", product)))
        book = books.setdefault(product, {"buy": {}, "sell": {}})
        if frame["type"] == "snapshot":
            mapped = MAPPER.state(fold.key, line, TS_RECV)
            fold.load(Position(1, seq), bytes(mapped.state))
            book["buy"] = {Decimal(price): Decimal(size) for price, size in frame["bids"]}
            book["sell"] = {Decimal(price): Decimal(size) for price, size in frame["asks"]}
        else:
            mapped_fields = fields("book", line, product)
            assert mapped_fields.ts_event == micros(frame["time"])
            fold.apply(tick(fold.key, seq, mapped_fields.fields))
            for side, price, size in frame["changes"]:
                if Decimal(size):
                    book[side][Decimal(price)] = Decimal(size)
                else:
                    book[side].pop(Decimal(price), None)
    assert trades == 435
    assert set(folds) == {"BTC-USD", "ETH-USD"}
    for product, fold in folds.items():
        bids = sorted(books[product]["buy"].items(), reverse=True)
        asks = sorted(books[product]["sell"].items())
        assert [(Decimal(p), Decimal(s)) for p, s in fold.book.bids()] == bids
        assert [(Decimal(p), Decimal(s)) for p, s in fold.book.asks()] == asks
        assert not fold.book.crossed


def tick(key: StreamKey, seq: int, said: Fields) -> Tick | Reset:
    return Tick(1, *key, 0, 1, seq, None, None, TS_RECV, TS_RECV, said)
