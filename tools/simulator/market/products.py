"""The products the simulated exchange lists: prices, increments, shares of activity."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

# Sizes are held as integers of this many decimals, the venue's own resolution.
SIZE_DECIMALS = 8
SIZE_UNIT = 10**SIZE_DECIMALS


@dataclass(frozen=True, slots=True)
class Product:
    """One trading pair. `price` is where its market starts; `weight` its share of all activity.

    `levels`: bids and asks of a usual book. Those of BTC-USD and ETH-USD were measured, the others
    are in proportion to snapshots of small products (5 to 40 kB).
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


LISTED = (
    Product("BTC-USD", "63514.60", "0.01", "0.00000001", 20.0, (15_278, 27_112)),
    Product("ETH-USD", "1774.93", "0.01", "0.00000001", 14.0, (5_578, 17_190)),
    Product("SOL-USD", "142.31", "0.01", "0.00000001", 9.0, (2_400, 5_200)),
    Product("XRP-USD", "2.1450", "0.0001", "0.000001", 7.0, (1_800, 3_900)),
    Product("DOGE-USD", "0.17423", "0.00001", "0.1", 5.0, (1_500, 3_200)),
    Product("ADA-USD", "0.6712", "0.0001", "0.00000001", 4.0, (900, 1_800)),
    Product("AVAX-USD", "21.35", "0.01", "0.00000001", 3.5, (600, 1_100)),
    Product("LINK-USD", "14.215", "0.001", "0.01", 3.5, (600, 1_100)),
    Product("LTC-USD", "84.12", "0.01", "0.00000001", 3.0, (600, 1_200)),
    Product("BCH-USD", "402.51", "0.01", "0.00000001", 2.5, (500, 900)),
    Product("DOT-USD", "3.984", "0.001", "0.00000001", 2.5, (500, 800)),
    Product("UNI-USD", "7.021", "0.001", "0.000001", 2.5, (400, 700)),
    Product("AAVE-USD", "262.43", "0.01", "0.001", 2.0, (400, 700)),
    Product("XLM-USD", "0.251234", "0.000001", "0.00000001", 2.0, (500, 900)),
    Product("SHIB-USD", "0.00001243", "0.00000001", "1", 2.0, (500, 800)),
    Product("ATOM-USD", "4.207", "0.001", "0.01", 1.5, (300, 500)),
    Product("NEAR-USD", "2.413", "0.001", "0.001", 1.5, (300, 400)),
    Product("SUI-USD", "3.1045", "0.0001", "0.1", 1.5, (400, 600)),
    Product("BTC-EUR", "58411.27", "0.01", "0.00000001", 1.5, (800, 1_200)),
    Product("ETH-BTC", "0.02795", "0.00001", "0.00000001", 1.0, (300, 400)),
)
# Real venues keep these in their product list for ever and refuse every other call on them.
DELISTED = (
    Product("REP-USD", "5.00", "0.01", "0.000001", 0.0, status="delisted"),
    Product("BSV-USD", "50.00", "0.01", "0.00000001", 0.0, status="delisted"),
    Product("NU-EUR", "0.1000", "0.0001", "0.000001", 0.0, status="delisted"),
)
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
            "id": each.id,
            "base_currency": each.base,
            "quote_currency": each.quote,
            "quote_increment": each.quote_increment,
            "base_increment": each.base_increment,
            "display_name": f"{each.base}-{each.quote}",
            "min_market_funds": "1",
            "margin_enabled": False,
            "post_only": False,
            "limit_only": False,
            "cancel_only": False,
            "status": each.status,
            "status_message": "",
            "trading_disabled": not each.tradable,
            "fx_stablecoin": False,
            "max_slippage_percentage": "0.02000000",
            "auction_mode": each.auction,
            "high_bid_limit_percentage": "",
        }
        for each in products
    ]
