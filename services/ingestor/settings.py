"""The ingestor's settings; names are those of the environment."""

from __future__ import annotations

import base64
import binascii
import socket
from typing import Self

from pydantic import Field, SecretStr, field_validator, model_validator

from services.common.errors import InvalidSubject
from services.common.network.proxies import proxy_for
from services.common.settings import CommaList, CommonSettings, split_commas
from services.common.subjects import check_token
from services.ingestor.venues.base import Credentials
from services.ingestor.venues.coinbase import BY_ORDER, CHANNELS, SIGNED

HEARTBEAT = "heartbeat"


class Settings(CommonSettings):
    coinbase_ws_primary: str = Field("wss://ws-feed.exchange.coinbase.com", pattern=r"^wss?://")
    """WebSocket endpoint that is tried first."""
    coinbase_ws_fallback: str | None = Field(
        "wss://ws-direct.exchange.coinbase.com", pattern=r"^wss?://"
    )
    """Endpoint tried when the first fails; `ws-direct` is used only with a key."""
    coinbase_rest_url: str = Field("https://api.exchange.coinbase.com", pattern=r"^https?://")
    """REST endpoint that gaps are healed from."""
    coinbase_products: CommaList = Field(("BTC-USD", "ETH-USD"), min_length=1)
    """Products, comma-separated."""
    coinbase_channels: CommaList = Field(
        ("ticker", "heartbeat", "matches", "level2_batch"), min_length=1
    )
    """Venue channels, comma-separated; `heartbeat` is always added."""
    coinbase_api_key: str | None = None
    """Exchange API key; signs subscriptions."""
    coinbase_api_secret: SecretStr | None = None
    """Its secret, base64."""
    coinbase_api_passphrase: SecretStr | None = None
    """Its passphrase."""
    admin_api_key: SecretStr | None = None
    """Required by calls that change something; unset refuses them."""
    resync_max_queue_ms: int = Field(2000, ge=1)
    """How long a product pauses for a refill that makes no progress, ms."""
    resync_max_trades: int = Field(100_000, ge=1)
    """Trades that a product waits for at most; older ones are asked for later."""
    late_trades_max_hours: float = Field(24.0, ge=0.0)
    """How long the trades of an announced gap are asked for, hours."""
    book_audit_period_ms: int = Field(30_000, ge=0)
    """Longest pause between two comparisons of a book with REST, ms; 0 never."""
    book_audit_turn_ms: int = Field(300_000, ge=1)
    """Within this time each product's level 2 book is compared with REST, ms."""
    book_silent_steps: int = Field(20, ge=0)
    """Steps of a product's sequence without a level 2 update that make its book suspect; 0
    never."""
    book_silent_grace_ms: int = Field(1500, ge=250, le=60_000)
    """How long ago a heartbeat must have named these steps, ms: updates come behind the
    heartbeat that counts them."""
    products_per_connection: int = Field(20, ge=1)
    """Products that share one WebSocket connection."""
    heartbeat_suspect_ms: int = Field(3000, ge=1)
    """Heartbeat age at which a product's streams are stale, ms."""
    heartbeat_dead_ms: int = Field(10_000, ge=1)
    """Heartbeat age at which the connection is made anew, ms."""
    ws_compression: bool = True
    """Whether permessage-deflate is offered to the venue; it costs CPU."""
    connect_timeout_ms: int = Field(5000, ge=1)
    """How long a connection attempt may take, ms."""
    reconnect_max_ms: int = Field(10_000, ge=1)
    """Largest pause between connection attempts, ms."""
    broker_buffer_records: int = Field(65_536, ge=1)
    """Records that wait for the broker before messages are dropped."""
    broker_buffer_bytes: int = Field(64 * 1024 * 1024, ge=1)
    """The same bound in bytes of records."""
    rest_breaker_failures: int = Field(10, ge=1)
    """REST failures in a row that open its circuit."""
    rest_breaker_recovery_ms: int = Field(1000, ge=1)
    """How long an open REST circuit waits before it probes, ms."""
    ws_breaker_failures: int = Field(20, ge=1)
    """Attempts in a row without data that open a connection's circuit."""
    ws_breaker_recovery_ms: int = Field(5000, ge=1)
    """How long such an open circuit waits before it probes, ms."""
    broker_breaker_refusals: int = Field(1, ge=1)
    """Records refused in a row by a full window that open its circuit."""
    broker_breaker_recovery_ms: int = Field(50, ge=1)
    """How often an open broker circuit probes for a half-free window, ms."""
    pulse_period_ms: int = Field(2000, ge=100)
    """How often the log is told which products are heard of, ms; gateways tell a quiet market
    from a standstill by it."""
    drain_timeout_ms: int = Field(5000, ge=0)
    """How long a stop waits for records to become durable, ms."""
    ingestor_line: str | None = Field(None, pattern=r"^[A-Za-z0-9_.-]+$")
    """Name of this ingestor in its records; the host's name if unset."""
    ingestor_pair: str | None = Field(None, pattern=r"^[A-Za-z0-9_-]{1,50}$")
    """What ingestors of the same products have in common: one of them writes, the others stand by;
    unset: this one writes, and no other may have its products."""
    ingestor_takeover_ms: int = Field(600, ge=200)
    """How long the one that writes may be silent before another takes over, ms."""

    _split = field_validator("coinbase_products", "coinbase_channels", mode="before")(split_commas)

    @field_validator("coinbase_products")
    @classmethod
    def _product_names(cls, products: tuple[str, ...]) -> tuple[str, ...]:
        for product in products:
            try:
                check_token(product)
            except InvalidSubject as error:
                raise ValueError(f"expected product ids such as BTC-USD; {error}") from error
        return tuple(dict.fromkeys(products))

    @field_validator("coinbase_channels")
    @classmethod
    def _known_channels(cls, channels: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [channel for channel in channels if channel not in CHANNELS]
        if unknown:
            raise ValueError(f"expected channels among {', '.join(CHANNELS)}; not {unknown[0]}")
        books = [channel for channel in channels if "book" in CHANNELS[channel]]
        if len(books) > 1:
            raise ValueError(f"expected one channel that carries the book; not {', '.join(books)}")
        # Without heartbeats neither a lost last trade nor a dead socket is found.
        return tuple(dict.fromkeys((HEARTBEAT, *channels)))

    @field_validator("coinbase_api_secret")
    @classmethod
    def _secret_is_base64(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None:
            try:
                base64.b64decode(secret.get_secret_value(), validate=True)
            except binascii.Error:
                raise ValueError("expected base64 text") from None
        return secret

    @model_validator(mode="after")
    def _proxies_can_be_used(self) -> Self:
        # Raises BadProxy, which is a ValueError: one line at the start instead of a service that
        # never connects.
        for url in (*self.endpoints, self.coinbase_rest_url):
            proxy_for(url)
        return self

    @model_validator(mode="after")
    def _key_is_whole(self) -> Self:
        parts = (self.coinbase_api_key, self.coinbase_api_secret, self.coinbase_api_passphrase)
        if any(parts) and not all(parts):
            raise ValueError(
                "COINBASE_API_KEY, COINBASE_API_SECRET and COINBASE_API_PASSPHRASE: "
                "expected all three or none"
            )
        signed = [channel for channel in self.coinbase_channels if channel in SIGNED]
        if signed and not any(parts):
            raise ValueError(
                f"COINBASE_CHANNELS: {signed[0]} is served to signed subscriptions only; expected "
                "COINBASE_API_KEY, COINBASE_API_SECRET and COINBASE_API_PASSPHRASE"
            )
        return self

    @property
    def line(self) -> str:
        """Name of this ingestor in its records."""
        return self.ingestor_line or socket.gethostname()

    @property
    def by_order(self) -> bool:
        """Whether books are made of single orders."""
        return not BY_ORDER.isdisjoint(self.coinbase_channels)

    @property
    def credentials(self) -> Credentials | None:
        """The key, when one is set."""
        secret, passphrase = self.coinbase_api_secret, self.coinbase_api_passphrase
        if self.coinbase_api_key is None or secret is None or passphrase is None:
            return None
        return Credentials(
            self.coinbase_api_key, secret.get_secret_value(), passphrase.get_secret_value()
        )

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Usable WebSocket endpoints, the preferred one first."""
        fallback = self.coinbase_ws_fallback
        if fallback is None or fallback == self.coinbase_ws_primary:
            return (self.coinbase_ws_primary,)
        if "ws-direct." in fallback and self.credentials is None:
            return (self.coinbase_ws_primary,)
        return (self.coinbase_ws_primary, fallback)
