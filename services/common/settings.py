"""Settings come from the environment, once, at the door.

A service's `__main__` loads its own (`command_line.py`); what it gets is frozen and passed down as
values. Nothing else reads the environment. A missing or malformed setting stops the service at once
with one line per problem that names the variable, the value and what is expected; secrets are
masked.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError as UnreadableSetting

from services.common.errors import SettingsError
from services.common.network.tls import TlsFiles

# Two of the largest messages (8 MiB) always fit.
_LEAST_LOG_BYTES = 16 * 1024**2

Port = Annotated[int, Field(ge=0, le=65_535)]
# A comma-separated list: `COINBASE_PRODUCTS=BTC-USD,ETH-USD`.
CommaList = Annotated[tuple[str, ...], NoDecode]


def split_commas(value: object) -> object:
    """Validator for `CommaList` fields: text becomes a tuple of its non-empty parts."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


class _Settings(BaseSettings):
    """The text under a setting is its description."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        env_ignore_empty=True,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **_kwargs: Any) -> None:
        for field in cls.model_fields.values():
            field.description = " ".join((field.description or "").split())


class CommonSettings(_Settings):
    """What every service reads."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least severe log level that is written."""
    log_format: Literal["json", "console", "auto"] = "auto"
    """`json`, or `console`; `auto` is console on a terminal, else json."""
    otel_exporter_otlp_endpoint: str | None = None
    """OTLP over HTTP endpoint for traces; unset turns tracing off."""
    otel_traces_sampler_arg: float = Field(0.01, ge=0, le=1)
    """Part of the records whose way is traced, 0 to 1."""
    environment: str = "development"
    """`production` refuses insecure defaults."""
    broker_kind: Literal["nats", "redis", "memory"] = "nats"
    """Which broker carries the logs."""
    shard_count: int = Field(8, ge=1, le=1024)
    """Number of tick logs."""
    http_port: Port = 8080
    """Port of the HTTP listener; 0 picks a free one."""
    http_host: str = "0.0.0.0"
    """Address the HTTP listeners bind."""
    admin_port: Port | None = None
    """Port for health, metrics and admin; unset shares `HTTP_PORT`'s listener."""

    nats_urls: CommaList = ("nats://127.0.0.1:4222",)
    """NATS servers, comma-separated."""
    nats_creds_file: str | None = None
    """NATS credentials file."""
    nats_user: str | None = None
    """NATS user, with `NATS_PASSWORD`."""
    nats_password: SecretStr | None = None
    """NATS password."""
    nats_tls_ca_file: str | None = None
    """PEM file of the authorities to believe NATS by; the system's if unset."""
    nats_tls_cert_file: str | None = None
    """PEM file of the client certificate to show to NATS."""
    nats_tls_key_file: str | None = None
    """PEM file of that certificate's key."""
    js_stream_name: str = Field("MARKET", pattern=r"^[A-Za-z0-9_-]+$")
    """Prefix of the JetStream streams."""
    js_retention_minutes: float = Field(60, gt=0)
    """How long the logs keep records."""
    js_raw_max_bytes: int = Field(4 * 1024**3, ge=0)
    """Most bytes of the raw log in each replica; then its oldest go; 0 is no bound."""
    js_tick_max_bytes: int = Field(4 * 1024**3, ge=0)
    """Most bytes of all tick logs together, an equal part each; 0 is no bound."""
    js_invalid_max_bytes: int = Field(64 * 1024**2, ge=0)
    """Most bytes of the log of parked input; 0 is no bound."""
    js_replicas: Literal[1, 3, 5] = 1
    """JetStream replicas of each log."""

    redis_url: str = "redis://127.0.0.1:6379/0"
    """Redis or Valkey server."""
    redis_tls_ca_file: str | None = None
    """PEM file of the authorities to believe Redis by; the system's if unset."""
    redis_tls_cert_file: str | None = None
    """PEM file of the client certificate to show to Redis."""
    redis_tls_key_file: str | None = None
    """PEM file of that certificate's key."""
    stream_name: str = Field("market", pattern=r"^[A-Za-z0-9_-]+$")
    """Prefix of the Redis keys."""
    consumer_group: str | None = Field(None, pattern=r"^[A-Za-z0-9_-]+$")
    """Consumer group; the service's name if unset."""

    _split_urls = field_validator("nats_urls", mode="before")(split_commas)

    @field_validator("js_replicas", mode="before")
    @classmethod
    def _replicas_number(cls, value: object) -> object:
        # Literal compares without conversion, and the environment only holds text.
        return int(value) if isinstance(value, str) and value.isdigit() else value

    @model_validator(mode="after")
    def _bounds_hold_a_few_records(self) -> Self:
        for name, of, logs in (
            ("JS_RAW_MAX_BYTES", self.js_raw_max_bytes, 1),
            ("JS_TICK_MAX_BYTES", self.js_tick_max_bytes, self.shard_count),
            ("JS_INVALID_MAX_BYTES", self.js_invalid_max_bytes, 1),
        ):
            if 0 < of < logs * _LEAST_LOG_BYTES:
                each = "" if logs == 1 else f" for each of the {logs} logs (SHARD_COUNT)"
                raise ValueError(f"{name}={of}: expected 0, or at least {_LEAST_LOG_BYTES}{each}")
        return self

    @model_validator(mode="after")
    def _nats_identity_is_whole_and_one(self) -> Self:
        if (self.nats_user is None) != (self.nats_password is None):
            raise ValueError("NATS_USER and NATS_PASSWORD: expected both or neither")
        if self.nats_user is not None and self.nats_creds_file is not None:
            raise ValueError("NATS_USER and NATS_CREDS_FILE: expected one of them")
        return self

    @property
    def nats_tls(self) -> TlsFiles:
        """The files to connect to NATS with."""
        return TlsFiles(self.nats_tls_ca_file, self.nats_tls_cert_file, self.nats_tls_key_file)

    @property
    def redis_tls(self) -> TlsFiles:
        """The files to connect to Redis with."""
        return TlsFiles(self.redis_tls_ca_file, self.redis_tls_cert_file, self.redis_tls_key_file)

    @model_validator(mode="after")
    def _certificates_are_whole_and_used(self) -> Self:
        for kind, files, urls, schemes in (
            ("NATS", self.nats_tls, self.nats_urls, ("tls://", "wss://")),
            ("REDIS", self.redis_tls, (self.redis_url,), ("rediss://",)),
        ):
            if not files:
                continue
            if (files.cert is None) != (files.key is None):
                raise ValueError(
                    f"{kind}_TLS_CERT_FILE and {kind}_TLS_KEY_FILE: expected both or neither"
                )
            if not all(url.startswith(schemes) for url in urls):
                # They would be passed over without a word, and the password sent in the clear.
                variable = "NATS_URLS" if kind == "NATS" else "REDIS_URL"
                raise ValueError(f"{kind}_TLS_*: expected {variable} with {schemes[0]} beside them")
            if (problem := files.problem()) is not None:
                raise ValueError(f"{kind}_TLS_*: {problem}")
        return self

    @model_validator(mode="after")
    def _memory_is_one_process(self) -> Self:
        if self.environment == "production" and self.broker_kind == "memory":
            raise ValueError(
                "BROKER_KIND='memory': expected nats or redis in production, "
                "since a broker in one process's memory cannot be shared"
            )
        return self


class AwsSettings(_Settings):
    """Where the stores are. Credentials come from the default chain, never from here."""

    s3_bucket: str = Field("market-data", min_length=3)
    """Bucket of archive batches."""
    ddb_table: str = Field("market-latest", min_length=3)
    """Table of latest rows."""
    aws_endpoint_url: str | None = None
    """Endpoint override for local stores; unset means AWS itself."""
    aws_region: str = "us-east-1"
    """AWS region."""


def load[S: BaseSettings](cls: type[S]) -> S:
    """Build settings from the environment.

    Raises:
        SettingsError: with one line per problem.
    """
    # What Python stands in for bytes that are no text is none for whoever reads a setting either.
    foreign = [
        f"{name.upper()}: expected text in UTF-8"
        for name in cls.model_fields
        if not _is_text(os.environ.get(name.upper(), ""))
    ]
    if foreign:
        raise SettingsError(foreign)
    try:
        return cls()
    except ValidationError as error:
        raise SettingsError([_problem(cls, problem) for problem in error.errors()]) from error
    except UnreadableSetting as error:
        raise SettingsError([_unreadable(cls, str(error))]) from error


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def load_or_exit[S: BaseSettings](cls: type[S]) -> S:
    """`load`, or print the problems to standard error and exit with status 2."""
    try:
        return load(cls)
    except SettingsError as error:
        for line in error.problems:
            print(f"settings: {line}", file=sys.stderr)  # noqa: T201 - logging is not set up yet
        raise SystemExit(2) from None


def _problem(cls: type[BaseSettings], problem: Any) -> str:
    location = problem["loc"]
    if not location:
        # A rule over several settings words its own message.
        return str(problem["msg"]).removeprefix("Value error, ")
    name = str(location[0])
    field = cls.model_fields.get(name)
    secret = field is not None and "SecretStr" in str(field.annotation)
    if problem["type"] == "missing":
        expected = (field.description if field else None) or "a value"
        return f"{name.upper()}: missing; expected {expected}"
    value = "***" if secret else repr(problem["input"])
    return f"{name.upper()}={value}: expected {_expected(problem)}"


def _unreadable(cls: type[BaseSettings], text: str) -> str:
    """The line for a setting that has to be JSON and is not."""
    found = re.search(r'field "(\w+)"', text)
    name = found[1] if found else "a setting"
    field = cls.model_fields.get(name)
    secret = field is None or "SecretStr" in str(field.annotation)
    value = "***" if secret else repr(os.environ.get(name.upper(), ""))
    return f"{name.upper()}={value}: expected JSON"


def _expected(problem: Any) -> str:
    text = str(problem["msg"]).removeprefix("Value error, ")
    for prefix in ("Input should be ", "expected "):
        text = text.removeprefix(prefix)
    return text


def settings_table(cls: type[BaseSettings]) -> str:
    """A Markdown table of the settings, for the services' README files."""
    lines = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in sorted(cls.model_fields.items()):
        default = default_text(field)
        text = default if default in ("required", "unset", "empty", "***") else f"`{default}`"
        lines.append(f"| `{name.upper()}` | {text} | {field.description or ''} |")
    return "\n".join(lines) + "\n"


def default_text(field: FieldInfo) -> str:
    """What is taken where the environment does not name the setting; never a secret."""
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    if isinstance(default, SecretStr):
        return "***" if default.get_secret_value() else "unset"
    if isinstance(default, tuple):
        return ",".join(map(str, default)) or "empty"
    return "unset" if default is None else str(default)


def child_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with `extra` on top, for starting a child process."""
    return {**os.environ, **extra}
