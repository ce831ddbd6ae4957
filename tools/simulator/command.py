"""`mdf simulate`: run the simulated exchange as a server of its own."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import Any

import click
import structlog
import uvloop

from services.common.observability.telemetry import configure_logging
from services.common.runtime import flatten, tune_collector
from tools.options import ProductList
from tools.simulator.exchange import ExchangeConfig, SimulatedExchange
from tools.simulator.faults.feed_faults import (
    Disconnect,
    Drop,
    FaultRequest,
    NotPossible,
    request_of,
)
from tools.simulator.market.products import DEFAULT_PRODUCTS
from tools.simulator.market.traffic import TRAFFICS
from tools.simulator.protocol.auth import Credentials
from tools.simulator.replay import BadCapture
from tools.simulator.serving.server import Limits

log = structlog.get_logger(__name__)


_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_NOT_NEGATIVE = click.FloatRange(min=0)


def _pairs(
    _context: click.Context, _option: click.Parameter, names: tuple[str, ...]
) -> tuple[str, ...]:
    for name in names:
        base, _, quote = name.partition("-")
        if not base or not quote or name != name.upper():
            raise click.BadParameter(f"{name!r} is not a product such as BTC-USD")
    return tuple(dict.fromkeys(names))


def _depths(
    _context: click.Context, _option: click.Parameter, values: tuple[str, ...]
) -> dict[str, int]:
    depths = {}
    for value in values:
        product, _, levels = value.partition("=")
        if not product or not levels.isdigit() or int(levels) < 1:
            raise click.BadParameter(f"{value!r} is not PRODUCT=LEVELS")
        depths[product] = int(levels)
    return depths


def _faults(_context: click.Context, _option: click.Parameter, text: str | None) -> FaultRequest:
    try:
        return request_of(text or "{}")
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _credentials(key: str, secret: str, passphrase: str) -> Credentials:
    try:
        return Credentials(key, secret, passphrase)
    except ValueError as error:
        raise click.BadParameter("is not base64", param_hint="--api-secret") from error


@click.command(context_settings={"show_default": True, "auto_envvar_prefix": "SIM"})
@click.option("--host", default="127.0.0.1", help="Address to listen on.")
@click.option("--port", default=8765, type=click.IntRange(0, 65_535), help="Port; 0 picks one.")
@click.option(
    "--products",
    default=",".join(DEFAULT_PRODUCTS),
    envvar=["SIM_PRODUCTS", "COINBASE_PRODUCTS"],
    type=ProductList(),
    callback=_pairs,
    help="Products to list, comma-separated. Ignored with --capture.",
)
@click.option("--seed", default=1, help="Same seed, same market.")
@click.option(
    "--rate",
    default=200.0,
    type=click.FloatRange(min=1),
    help="Messages a second, about, over all products, that a client of ticker, matches, heartbeat "
    "and level2_batch gets.",
)
@click.option(
    "--depth",
    type=click.IntRange(min=5),
    help="Book levels a side of every product; else as many as each has on the venue: 15278 bids "
    "and 27112 asks of BTC-USD, which make a snapshot of 1.1 MB, some hundred of small ones.",
)
@click.option(
    "--traffic",
    default="venue",
    type=click.Choice(list(TRAFFICS)),
    callback=lambda _context, _option, name: TRAFFICS[name],
    help="venue: bursts, batches, steps and times as measured on the venue; plain: one by one.",
)
@click.option(
    "--deep",
    "depths",
    envvar="SIM_DEEP",
    multiple=True,
    callback=_depths,
    metavar="PRODUCT=LEVELS",
    help="Another depth for one product. Repeatable.",
)
@click.option(
    "--untraded",
    default=(),
    type=ProductList(),
    help="Listed products that nobody trades: empty book, no last trade. Comma-separated.",
)
@click.option(
    "--capture",
    type=_FILE,
    help="Replay this recording instead of simulating a market: one message a line, with or "
    "without a receive time, plain, gzip or zstd.",
)
@click.option(
    "--truth",
    type=_FILE,
    help="With --capture: REST tells what this recording has, which may be more.",
)
@click.option(
    "--speed",
    default=1.0,
    type=_NOT_NEGATIVE,
    help="Replay speed; 0 is as fast as the clients read.",
)
@click.option(
    "--settle",
    "settle_s",
    envvar="SIM_SETTLE",
    default=0.25,
    type=_NOT_NEGATIVE,
    help="Seconds a replay waits after the first requests.",
)
@click.option(
    "--hold", is_flag=True, help="Begin only when POST /_control/flow says that it is running."
)
@click.option("--compression/--no-compression", default=True, help="Offer permessage-deflate.")
@click.option(
    "--open-channels",
    is_flag=True,
    help="Give level2, level3 and full to clients that do not sign.",
)
@click.option("--api-key", default=Credentials().key, help="Key that signed requests must use.")
@click.option("--api-secret", default=Credentials().secret, help="Its secret, base64.")
@click.option("--api-passphrase", default=Credentials().passphrase, help="Its passphrase.")
@click.option(
    "--subscribe-deadline",
    default=5.0,
    type=_NOT_NEGATIVE,
    help="Seconds a client has for its first subscription.",
)
@click.option(
    "--rest-rate",
    default=10.0,
    type=_NOT_NEGATIVE,
    help="REST requests a second and address; 0: no limit.",
)
@click.option("--rest-burst", default=15, type=click.IntRange(min=1), help="REST requests at once.")
@click.option(
    "--rest-cache/--no-rest-cache",
    default=True,
    help="Repeat REST answers for their max-age, as the venue's CDN does.",
)
@click.option(
    "--faults",
    metavar="JSON",
    callback=_faults,
    help='Faults from the start, as for POST /_control/faults: \'{"drop":{"probability":0.001}}\'.',
)
@click.option("--drop", default=0.0, type=click.FloatRange(0, 1), help="Share of messages to drop.")
@click.option(
    "--disconnect-every",
    default=0.0,
    type=_NOT_NEGATIVE,
    help="Cut all connections each so many seconds; 0: never.",
)
@click.option("--log-level", default="INFO", envvar=["SIM_LOG_LEVEL", "LOG_LEVEL"], help="Level.")
@click.option(
    "--log-format",
    default="auto",
    envvar=["SIM_LOG_FORMAT", "LOG_FORMAT"],
    type=click.Choice(["auto", "json", "console"]),
    help="Form of the log lines; auto is console on a terminal.",
)
def simulate(
    *,
    products: tuple[str, ...],
    untraded: tuple[str, ...],
    capture: Path | None,
    truth: Path | None,
    open_channels: bool,
    api_key: str,
    api_secret: str,
    api_passphrase: str,
    subscribe_deadline: float,
    rest_rate: float,
    rest_burst: int,
    rest_cache: bool,
    faults: FaultRequest,
    drop: float,
    disconnect_every: float,
    log_level: str,
    log_format: str,
    **others: Any,
) -> None:
    """A Coinbase Exchange look-alike on one port: WebSocket feed, REST, faults on demand.

    Logs `exchange_listening` with its addresses when it is ready. GET /_control shows what it did,
    POST /_control/faults breaks it, GET /_control/model/PRODUCT tells the truth. Every option can
    be given as SIM_<OPTION>.
    """
    if truth is not None and capture is None:
        raise click.UsageError("--truth goes with --capture")
    if unlisted := set(untraded) - set(products):
        unknown = ", ".join(map(repr, sorted(unlisted)))
        raise click.BadParameter(f"{unknown} is not in --products", param_hint="--untraded")
    configure_logging("simulator", log_level.upper(), log_format)
    if drop:
        faults = faults.model_copy(update={"drop": Drop(probability=drop)})
    if disconnect_every:
        faults = faults.model_copy(update={"disconnect": Disconnect(every_s=disconnect_every)})
    config = ExchangeConfig(
        products=products,
        untraded=untraded,
        capture=capture,
        truth=truth,
        credentials=None if open_channels else _credentials(api_key, api_secret, api_passphrase),
        limits=Limits(subscribe_deadline, rest_rate, rest_burst, rest_cache),
        faults=faults if faults.model_fields_set else None,
        **others,
    )
    # A deep market is some hundred thousand objects that stay.
    tune_collector()
    sys.exit(uvloop.run(_serve(config)))


async def _serve(config: ExchangeConfig) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    status = 0
    try:
        async with SimulatedExchange(config):
            await stop.wait()
    except* (OSError, BadCapture, NotPossible) as group:
        status = 1
        for error in flatten(group):
            log.error("exchange_failed", reason=str(error))
    log.info("exchange_stopped")
    return status
