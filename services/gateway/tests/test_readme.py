from __future__ import annotations

from pathlib import Path

from services.common.settings import settings_table
from services.gateway.settings import GatewaySettings

README = Path(__file__).parents[1] / "README.md"


def test_the_readmes_settings_are_those_of_the_code() -> None:
    _, _, rest = README.read_text().partition("<!-- settings -->\n")
    shown, _, _ = rest.partition("<!-- /settings -->")
    assert shown == settings_table(GatewaySettings)
