"""Types of command line options that several commands share."""

from __future__ import annotations

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
