from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

PROGRAM = """
import logging
import structlog
from opentelemetry import trace
from services.common.observability.telemetry import configure_logging, configure_tracing
early = structlog.get_logger("early")
configure_logging("tester", {level!r}, {log_format!r})
assert configure_tracing("tester", None) is None
early.info("feed_reconnected", attempt=3, delay_s=4.2, text="two\\nlines")
structlog.get_logger().debug("too_quiet")
logging.getLogger("library").warning("from %s", "elsewhere")
logging.getLogger("httpx").info("every request")
try:
    1 / 0
except ZeroDivisionError:
    structlog.get_logger().exception("failed")
    logging.getLogger("library").exception("failed too")
provider = configure_tracing("tester", "http://127.0.0.1:1")
with trace.get_tracer("t").start_as_current_span("work") as span:
    structlog.get_logger().info("traced")
    print(f"{{span.get_span_context().trace_id:032x}}")
"""


def logged(level: str = "INFO", log_format: str = "json") -> tuple[list[str], str]:
    # The exporter's own complaint about the missing collector would come after the last line.
    ending = "\nimport os, sys; sys.stdout.flush(); sys.stderr.flush(); os._exit(0)"
    code = PROGRAM.format(level=level, log_format=log_format) + ending
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stderr.splitlines(), done.stdout.strip()


def test_every_line_is_one_json_object_whoever_logs() -> None:
    lines, trace_id = logged()
    records: list[dict[str, Any]] = [json.loads(line) for line in lines]
    assert [record["event"] for record in records] == [
        "feed_reconnected",
        "from elsewhere",
        "failed",
        "failed too",
        "traced",
    ]
    for record in records:
        assert record["service"] == "tester"
        assert record["level"] in ("info", "warning", "error")
        assert record["timestamp"].endswith("Z")
    assert (records[0]["attempt"], records[0]["text"]) == (3, "two\nlines")
    assert records[1]["logger"] == "library"
    assert all("ZeroDivisionError" in record["exception"] for record in records[2:4])
    assert records[4]["trace_id"] == trace_id
    assert "trace_id" not in records[0]


def test_the_level_is_the_least_severe_that_is_written() -> None:
    assert [json.loads(line)["event"] for line in logged("ERROR")[0]] == ["failed", "failed too"]
    assert "too_quiet" in [json.loads(line)["event"] for line in logged("DEBUG")[0]]


def test_without_a_terminal_auto_is_json_and_console_is_readable() -> None:
    assert json.loads(logged(log_format="auto")[0][0])["event"] == "feed_reconnected"
    first = logged(log_format="console")[0][0]
    assert "feed_reconnected" in first
    assert not first.startswith("{")
