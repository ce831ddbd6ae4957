from __future__ import annotations

import gc
import logging
import os

import pytest
import structlog
from structlog.testing import capture_logs

from services.common.observability.telemetry import configure_logging
from services.common.testing.process_state import LeftChanged, left_as_found, logging_as_it_was

EARLY = structlog.get_logger("early")


def test_a_logger_that_was_used_before_obeys_what_was_set_up_last() -> None:
    configure_logging("first", "ERROR", "json")
    EARLY.warning("too_quiet")
    configure_logging("second", "ERROR", "json")
    with capture_logs() as logs:
        EARLY.warning("said")
    assert [line["event"] for line in logs] == ["said"]


def test_logs_are_set_up_as_before_after_a_command_set_up_its_own() -> None:
    root, noisy = logging.getLogger(), logging.getLogger("uvicorn")
    before = (root.handlers[:], root.level, noisy.level, structlog.get_config())
    with logging_as_it_was():
        configure_logging("command", "CRITICAL", "json")
        assert root.level == logging.CRITICAL
    assert (root.handlers, root.level, noisy.level, structlog.get_config()) == before
    assert "service" not in structlog.contextvars.get_contextvars()


def leave_behind() -> None:
    with left_as_found():
        os.environ["LEFT_BEHIND"] = "1"
        gc.disable()


def test_what_a_test_leaves_behind_is_named() -> None:
    with pytest.raises(LeftChanged) as refused:
        leave_behind()
    gc.enable()
    del os.environ["LEFT_BEHIND"]
    assert refused.value.what == [
        "environment variable LEFT_BEHIND",
        "garbage collector switched on",
    ]
