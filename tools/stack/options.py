"""What a stack is to run, and the environment that each of its processes gets."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tools.simulator.replay import BadCapture, load_capture

Upstream = Literal["sim", "coinbase", "replay"]
BrokerKind = Literal["nats", "redis"]

SERVICES = ("ingestor", "normalizer", "snapshotter", "gateway")
DEFAULT_PRODUCTS = ("BTC-USD", "ETH-USD", "SOL-USD")
# How much of a given duration a replay should take; the rest shows that nothing follows.
_REPLAY_SHARE = 0.6
# What a message of the venue becomes.
_CHANNEL_OF = {
    "ticker": "ticker",
    "match": "trades",
    "l2update": "book",
    "snapshot": "book",
}
# Only the venue itself may see these.
_SECRETS = ("COINBASE_API_KEY", "COINBASE_API_SECRET", "COINBASE_API_PASSPHRASE")


@dataclass(frozen=True)
class StackOptions:
    """How to run a stack.

    Attributes:
        upstream: where market data comes from.
        capture: the file to replay, one venue message a line.
        truth: a file whose contents the replay's REST knows; None: what the capture has told.
        hold: the exchange waits until `POST /_control/flow` says that it is running.
        speed: of the replay; None chooses it by `duration`, else 1 (as recorded).
        duration: seconds after which the stack will be stopped; only informs the replay's speed.
        products: to subscribe to; empty takes the capture's, or the default ones.
        gateway_port: None takes a free one.
        run_dir: folder for logs and the servers' data.
        seed: of the simulated exchange.
        environment: added to every service's environment, for `*`, or one service's.
    """

    upstream: Upstream = "sim"
    broker_kind: BrokerKind = "nats"
    capture: Path | None = None
    truth: Path | None = None
    hold: bool = False
    speed: float | None = None
    duration: float | None = None
    products: tuple[str, ...] = ()
    gateway_port: int | None = None
    run_dir: Path = Path(".mdf") / "run"
    seed: int = 1
    environment: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Capture:
    """What a capture holds: its products, our channels, and how long it took to record (s).

    `left_out` counts by reason the lines that are no messages.
    """

    products: tuple[str, ...]
    channels: tuple[str, ...]
    seconds: float
    left_out: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def scan(cls, path: Path, truth: Path | None = None) -> Capture:
        """Read through the file once; with a `truth`, REST knows what that one holds.

        Raises:
            OSError: it cannot be read.
            BadCapture: nothing in it that the platform carries.
        """
        capture = load_capture(path)
        frames = [frame for frame in capture.frames if frame.type in _CHANNEL_OF]
        if not frames:
            raise BadCapture(f"{path} holds no ticker, match or level 2 message")
        channels = dict.fromkeys(_CHANNEL_OF[frame.type] for frame in frames)
        known = load_capture(truth).frames if truth is not None else frames
        if not any(frame.type == "snapshot" for frame in known):
            # Without a base there is no book, and nobody to ask for one.
            channels.pop("book", None)
        return cls(
            tuple(dict.fromkeys(frame.product for frame in frames)),
            tuple(channels),
            (capture.frames[-1].at_us - capture.frames[0].at_us) / 1e6,
            capture.left_out,
        )


def replay_speed(options: StackOptions, capture: Capture) -> float:
    """How many times faster than recorded; a capture is never slowed down to fill a duration."""
    if options.speed is not None:
        return options.speed
    if options.duration is None or capture.seconds == 0:
        return 1.0
    return max(1.0, capture.seconds / (options.duration * _REPLAY_SHARE))


def service_environment(
    name: str,
    options: StackOptions,
    *,
    products: tuple[str, ...],
    broker_url: str,
    aws: Mapping[str, str],
    exchange_port: int | None,
    http_port: int,
) -> dict[str, str]:
    """The environment of one service: this process's own, and what the stack decides."""
    inherited = dict(os.environ)
    if options.upstream != "coinbase":
        for secret in _SECRETS:
            inherited.pop(secret, None)
    # What a stack starts on this machine is not behind anybody's proxy.
    direct = inherited.get("no_proxy") or inherited.get("NO_PROXY") or ""
    no_proxy = ",".join(filter(None, (direct, "127.0.0.1", "localhost")))
    decided = {
        "PYTHONUNBUFFERED": "1",
        "no_proxy": no_proxy,
        "NO_PROXY": no_proxy,
        "LOG_FORMAT": "json",
        "BROKER_KIND": options.broker_kind,
        "HTTP_HOST": os.environ.get("HTTP_HOST", "127.0.0.1"),
        "HTTP_PORT": str(http_port),
        "ADMIN_PORT": "",
        "COINBASE_PRODUCTS": ",".join(products),
        # Here the subscribers are stopped before the gateway; nobody needs long to move away.
        "DRAIN_SECONDS": os.environ.get("DRAIN_SECONDS", "1"),
        **({"NATS_URLS": broker_url} if options.broker_kind == "nats" else {}),
        **({"REDIS_URL": broker_url} if options.broker_kind == "redis" else {}),
    }
    if name in ("snapshotter", "gateway"):
        decided |= aws
    if exchange_port is not None:
        ws = f"ws://127.0.0.1:{exchange_port}"
        decided |= {
            "COINBASE_WS_PRIMARY": ws,
            "COINBASE_WS_FALLBACK": ws,
            "COINBASE_REST_URL": f"http://127.0.0.1:{exchange_port}",
        }
    asked = {**options.environment.get("*", {}), **options.environment.get(name, {})}
    return inherited | decided | asked
