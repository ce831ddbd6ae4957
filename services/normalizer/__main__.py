"""`python -m services.normalizer`: the composition root."""

from __future__ import annotations

import sys

from services.common.command_line import settings_of_service
from services.common.runtime import run_service
from services.common.stream.factory import open_broker
from services.normalizer.app import App
from services.normalizer.metrics import Metrics
from services.normalizer.settings import NormalizerSettings


def main() -> int:
    purpose = "Turn the raw log into canonical ticks, each chained to the one before."
    settings = settings_of_service("normalizer", purpose, NormalizerSettings, sys.argv[1:])
    app = App(settings, open_broker(settings), Metrics())
    return run_service("normalizer", settings, app.serve)


if __name__ == "__main__":
    sys.exit(main())
