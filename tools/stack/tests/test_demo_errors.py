"""What a demo says of an error that ends it."""

from __future__ import annotations

import httpx

from tools.stack.demo import first_line


def test_an_error_is_told_in_a_line_and_by_its_name_where_it_says_nothing() -> None:
    assert first_line(OSError("the port is taken\nby 7")) == "the port is taken"
    assert first_line(httpx.ConnectTimeout("")) == "ConnectTimeout"
