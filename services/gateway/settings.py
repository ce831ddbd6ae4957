"""What the gateway reads from the environment."""

from __future__ import annotations

from typing import Self

from pydantic import Field, SecretStr, field_validator, model_validator

from services.common.settings import AwsSettings, CommaList, CommonSettings, split_commas
from services.gateway.admission.addresses import Proxies
from services.gateway.admission.auth import KeyRing


class GatewaySettings(CommonSettings, AwsSettings):
    """Everything the gateway can be told."""

    ws_max_msgs_per_sec: float = Field(50, gt=0)
    """Commands a second of one connection, on average."""
    ws_burst: int = Field(200, ge=1)
    """Commands a connection may send at once."""
    product_max_msgs_per_sec: float = Field(0, ge=0)
    """Messages a second of one stream to one connection; 0 is unlimited."""
    auth_api_keys: SecretStr = SecretStr("")
    """Accepted API keys, comma-separated, plain or (better) `sha256:<hex>`, each with optional
    limits (see the README); empty lets everyone in and is refused in production."""
    allowed_origins: CommaList = ()
    """Values of `Origin` that browsers may come from; empty allows all."""
    trusted_proxies: CommaList = ()
    """Addresses and networks (CIDR) of load balancers whose `X-Forwarded-For` tells where a
    client comes from; without it all clients behind one count as one address."""
    key_failures_per_minute: float = Field(30, ge=0)
    """Wrong API keys that one address may give, at once or in a minute; beyond it keys from
    there are not looked at for a while. 0 is unlimited."""
    ws_max_keyless: int = Field(1000, ge=1)
    """WebSockets at a time that have given no valid key yet, where one is required; never more
    than half of `WS_MAX_CONNECTIONS`."""
    ws_max_keyless_per_address: int = Field(100, ge=1)
    """Of them, from one address."""
    ws_max_connections_per_address: int = Field(0, ge=0)
    """WebSockets at a time from one address; 0 is unlimited."""
    unknown_products_per_sec: float = Field(20, gt=0)
    """Products that no log holds, a second, that are looked for in DynamoDB."""
    http_max_connections_per_address: int = Field(500, ge=0)
    """Of `HTTP_MAX_CONNECTIONS`, from one address that is no trusted proxy; 0 is unlimited."""
    backfill_max_minutes: float = Field(15, gt=0)
    """How old the oldest record of a backfill may be."""
    ws_max_connections: int = Field(10_000, ge=1)
    """WebSockets this process takes."""
    web_concurrency: int = Field(1, ge=1, le=256)
    """Processes that share the port, each with its own clients."""
    ws_max_subscriptions: int = Field(1000, ge=1)
    """Streams one connection may have."""
    ws_queue_bytes: int = Field(1024 * 1024, ge=1024)
    """Bytes that may wait for one client before it is slow."""
    flush_window_ms: float = Field(0, ge=0, le=5)
    """Ticks of busy streams wait up to so long to share a write; 0 waits for none."""
    gateway_compression: bool = False
    """Compress messages for clients that offer permessage-deflate."""
    ws_heartbeat_ms: int = Field(5000, ge=50)
    """Time between two heartbeats."""
    ws_ping_interval_s: float = Field(20, gt=0)
    """Time between two WebSocket pings."""
    ws_ping_timeout_s: float = Field(60, gt=0)
    """How long a ping may stay unanswered; slow readers answer late."""
    ws_max_control_per_sec: float = Field(20, gt=0)
    """Pings and unasked pongs a second of one connection, on average; ten times as many at
    once, and one more ends it."""
    ws_message_timeout_s: float = Field(10, gt=0)
    """Time for a message to arrive completely, whatever its fragments."""
    ws_max_fragments: int = Field(1024, ge=1, le=65_536)
    """Frames that one message may come in; one more ends the connection with 1008."""
    ws_slow_close_s: float = Field(120, gt=0)
    """A client that takes nothing for so long gets error 5002 and close 1008."""
    ws_handshake_timeout_s: float = Field(10, gt=0)
    """Time for a handshake or a request to arrive completely."""
    http_max_connections: int = Field(1000, ge=1)
    """Connections at a time that speak HTTP and are no WebSockets."""
    http_write_timeout_s: float = Field(20, gt=0)
    """How long an HTTP answer may wait for its reader, and a second more for each 64 KiB of it;
    then the connection is dropped."""
    http_queue_bytes: int = Field(64 * 1024 * 1024, ge=1024 * 1024)
    """Bytes of HTTP answers that may wait for all readers; beyond it those are dropped whose
    address holds the most."""
    http_log_readers: int = Field(4, ge=1, le=256)
    """HTTP requests that read logs at a time (`/v1/ticks`, `/v1/gaps`); more wait."""
    http_page_bytes: int = Field(2 * 1024 * 1024, ge=1024, le=64 * 1024 * 1024)
    """Bytes of records beyond which an answer of `/v1/ticks` ends, whatever its `limit`."""
    ws_auth_timeout_s: float = Field(10, gt=0)
    """Time to send a valid key where one is required."""
    window_bytes: int = Field(4 * 1024 * 1024, ge=0)
    """Recent records kept in memory for each stream."""
    window_total_bytes: int = Field(256 * 1024 * 1024, ge=0)
    """Recent records kept in memory for all streams."""
    snapshots_kept: int = Field(8, ge=1, le=1024)
    """Framed snapshots of each stream that are kept while it stands still, one for each depth
    and reason asked for; one more lets go of the oldest."""
    stream_linger_s: float = Field(60, ge=0)
    """How long a stream nobody wants is still followed."""
    stale_after_ms: int = Field(10_000, ge=100)
    """Age at which what is served is called stale, ms; several pulses of the ingestors
    (`PULSE_PERIOD_MS`) have to fit in."""
    drain_seconds: float = Field(10, ge=0)
    """Time over which clients are closed at shutdown."""

    _split_origins = field_validator("allowed_origins", "trusted_proxies", mode="before")(
        split_commas
    )

    @field_validator("trusted_proxies")
    @classmethod
    def _proxies_are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        Proxies(value)
        return value

    @field_validator("auth_api_keys")
    @classmethod
    def _keys_well_formed(cls, value: SecretStr) -> SecretStr:
        KeyRing(_keys(value))
        return value

    @model_validator(mode="after")
    def _processes_share_a_broker(self) -> Self:
        if self.web_concurrency > 1 and self.broker_kind == "memory":
            raise ValueError(
                f"WEB_CONCURRENCY={self.web_concurrency}: expected 1 with BROKER_KIND=memory, "
                "which is one process's own"
            )
        return self

    @model_validator(mode="after")
    def _production_has_keys(self) -> Self:
        if self.environment == "production" and not self.api_keys:
            raise ValueError(
                "AUTH_API_KEYS=: expected at least one key when ENVIRONMENT=production"
            )
        return self

    @property
    def api_keys(self) -> list[str]:
        return _keys(self.auth_api_keys)


def _keys(value: SecretStr) -> list[str]:
    return [key.strip() for key in value.get_secret_value().split(",") if key.strip()]
