"""The products the simulated exchange lists: prices, increments, shares of activity."""

from __future__ import annotations

import tomllib
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

# Sizes are held as integers of this many decimals, the venue's own resolution.
SIZE_DECIMALS = 8
SIZE_UNIT = 10**SIZE_DECIMALS


@dataclass(frozen=True, slots=True)
class Product:
    """One trading pair. `price` is where its market starts; `weight` its share of all activity.

    `levels`: bids and asks of a usual book.
    """

    id: str
    price: str
    quote_increment: str
    base_increment: str
    weight: float
    levels: tuple[int, int] = (200, 300)
    status: str = "online"
    auction: bool = False

    @property
    def base(self) -> str:
        return self.id.partition("-")[0]

    @property
    def quote(self) -> str:
        return self.id.partition("-")[2]

    @property
    def tradable(self) -> bool:
        return self.status == "online"

    def scale(self) -> Scale:
        increment = Decimal(self.quote_increment)
        decimals = max(0, -int(increment.normalize().as_tuple().exponent))
        return Scale(
            decimals=decimals,
            tick=int(increment * 10**decimals),
            lot=int(Decimal(self.base_increment) * SIZE_UNIT),
            start=int(Decimal(self.price) / increment),
        )


@dataclass(frozen=True, slots=True)
class Scale:
    """Conversion between the engine's integers and the venue's texts.

    A price is a number of quote increments, a size a number of 1e-8 base units.
    """

    decimals: int
    tick: int
    lot: int
    start: int

    def price(self, ticks: int) -> str:
        """All decimals of the increment, as level 2 writes it: `63514.60`."""
        return fixed(ticks * self.tick, self.decimals)

    def trimmed_price(self, ticks: int) -> str:
        """Without trailing zeros, as matches and REST write it: `63514.6`."""
        return trim(fixed(ticks * self.tick, self.decimals))

    def notional_size(self, notional: float, ticks: int) -> int:
        """How much of the base `notional` of the quote buys, in whole lots, at least one."""
        amount = notional * 10**self.decimals / (ticks * self.tick) * SIZE_UNIT
        return max(self.lot, int(amount) // self.lot * self.lot)


def fixed(value: int, decimals: int) -> str:
    """`value` / 10**`decimals` with all its decimals."""
    if not decimals:
        return str(value)
    whole, part = divmod(value, 10**decimals)
    return f"{whole}.{part:0{decimals}d}"


def trim(text: str) -> str:
    """Without trailing zeros after the point."""
    return text.rstrip("0").rstrip(".") if "." in text else text


def size_text(size: int) -> str:
    """Eight decimals, as level 2 writes it: `0.20000000`."""
    return fixed(size, SIZE_DECIMALS)


_DATA = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())
LISTED = [replace(Product(*row), levels=tuple(levels)) for *row, levels in _DATA["listed"]]
DELISTED = [replace(Product(*row), status="delisted") for row in _DATA["delisted"]]
DEFAULT_PRODUCTS = tuple(product.id for product in LISTED)
_BY_ID = {product.id: product for product in LISTED}


def product(product_id: str) -> Product:
    """The listed product, or an invented one whose price follows from its name."""
    found = _BY_ID.get(product_id)
    if found is not None:
        return found
    price = 1 + zlib.crc32(product_id.encode()) % 50_000 / 100
    return Product(product_id, f"{price:.2f}", "0.01", "0.000001", 1.0)


def products_of(count: int) -> tuple[str, ...]:
    """So many product names: those of the listed ones, then invented ones."""
    return (*DEFAULT_PRODUCTS, *(f"TEST{number}-USD" for number in range(count)))[:count]


def product_rows(products: Iterable[Product]) -> list[dict[str, object]]:
    """Rows of `GET /products`, in the venue's shape."""
    return [
        {
            **_DATA["row"],
            "id": each.id,
            "base_currency": each.base,
            "quote_currency": each.quote,
            "quote_increment": each.quote_increment,
            "base_increment": each.base_increment,
            "display_name": f"{each.base}-{each.quote}",
            "status": each.status,
            "trading_disabled": not each.tradable,
            "auction_mode": each.auction,
        }
        for each in products
    ]


def currency_rows(products: Iterable[Product]) -> list[dict[str, object]]:
    """What the `status` channel says of the currencies of these products."""
    names = sorted({name for each in products for name in (each.base, each.quote)})
    return [{**_DATA["currency"], "id": name, "name": name} for name in names]
