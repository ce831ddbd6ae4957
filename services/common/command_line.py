"""The command line of a service, `python -m services.<name>`: it takes no arguments but these.

Settings come from the environment. Somebody who does not know their names asks for `--help`, and
whoever is about to roll out a change of them asks for `--check` in the new environment.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence

from pydantic_settings import BaseSettings

from services.common.observability.health import package_version
from services.common.settings import default_text, load_or_exit

_WIDTH = 100


def settings_of_service[S: BaseSettings](
    service: str, purpose: str, settings: type[S], arguments: Sequence[str]
) -> S:
    """The settings to serve with.

    Args:
        service: The package's name under `services`.
        purpose: What the service does, one sentence.
        settings: What it reads from the environment.
        arguments: The command line without the program's name.

    Raises:
        SystemExit: 0 after `--help`, `--version`, and `--check` of good settings; 2 for an argument
            that is not known and for bad settings, with a line for each on standard error.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m services.{service}",
        description=purpose,
        epilog=_settings_text(settings),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=package_version())
    parser.add_argument(
        "--check", action="store_true", help="look at the settings, name what is wrong, and stop"
    )
    checked_only = parser.parse_args(arguments).check
    loaded = load_or_exit(settings)
    if checked_only:
        parser.exit(message="settings: good\n")
    return loaded


def _settings_text(settings: type[BaseSettings]) -> str:
    """Each setting with its default and its meaning, for a terminal."""
    blocks = [
        f"  {name.upper()} ({default_text(field)})\n"
        + textwrap.fill(
            field.description or "",
            _WIDTH,
            initial_indent=" " * 6,
            subsequent_indent=" " * 6,
        )
        for name, field in sorted(settings.model_fields.items())
    ]
    return "\n".join(["settings, read from the environment (default):", *blocks])
