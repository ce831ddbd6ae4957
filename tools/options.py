"""Command line options and their types that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from services.common.errors import InvalidSubject
from services.common.subjects import check_token


class ProductList(click.ParamType[tuple[str, ...]]):
    """`BTC-USD,ETH-USD` as a tuple of product names."""

    name = "products"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        names = tuple(part.strip() for part in str(value).split(",") if part.strip())
        for name in names:
            try:
                check_token(name)
            except InvalidSubject as error:
                self.fail(str(error), param, ctx)
        if not names:
            self.fail("expected at least one product, such as BTC-USD", param, ctx)
        return names


POSITIVE = click.FloatRange(0, min_open=True)


def option(
    name: str, *declarations: str, env: str | None = None, text: str = "", **attributes: Any
) -> Callable[[Any], Any]:
    """`click.option` that a variable gives too, `env` or of the same name; the help names it."""
    variable = env or name.removeprefix("--").replace("-", "_").upper()
    words = f"{text} [env {variable}]".lstrip()
    return click.option(name, *declarations, envvar=variable, help=words, **attributes)


url_option = option(
    "--url", default="ws://127.0.0.1:8080/ws", text="The gateway's WebSocket endpoint."
)
mode_option = option(
    "--mode", type=click.Choice(["full", "latest"]), text="Every tick, or only the newest."
)
max_rate_option = option(
    "--max-rate", type=POSITIVE, text="Messages a second for each stream, with --mode latest."
)


def products_option(default: str) -> Callable[[Any], Any]:
    return option("--products", type=ProductList(), default=default, text="Comma-separated.")
