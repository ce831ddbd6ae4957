"""Gateway: clients, what they are sent, who cannot keep up."""

from __future__ import annotations

from tools.dev.observability.grafana import (
    ALL,
    CHANNEL,
    Dashboard,
    Panel,
    quantile,
    rate_by,
)

# Picks the gateways out of what every service has.
_GATEWAYS = f"md_ws_connections{{{ALL}}}"
_GATEWAY_LAG = f"max by (instance) (md_event_loop_lag_max_seconds and on(instance) {_GATEWAYS})"

GATEWAY = Dashboard(
    "mdf-gateway",
    "Gateway",
    "Who is connected, what they are sent, how late, and who cannot keep up.",
    [("channel", "md_ws_sent_total")],
    [
        Panel(
            "Connections",
            "Open WebSockets of all gateways.",
            [(f"sum(md_ws_connections{{{ALL}}})", "")],
            kind="stat",
            width=6,
        ),
        Panel(
            "Messages a second",
            "Put on their way to clients.",
            [(f"sum(rate(md_ws_sent_total{{{ALL},{CHANNEL}}}[$__rate_interval]))", "")],
            "ops",
            kind="stat",
            width=6,
        ),
        Panel(
            "Clients closed as slow (range)",
            "They took nothing for too long.",
            [(f'sum(increase(md_ws_slow_total{{{ALL},action="closed"}}[$__range]))', "")],
            kind="stat",
            width=6,
            thresholds=(1, 10),
        ),
        Panel(
            "Our own errors (range)",
            "Errors of the 6000s that clients were told: internal, broker, overloaded.",
            [(f'sum(increase(md_ws_errors_total{{{ALL},code=~"6.*"}}[$__range]))', "")],
            kind="stat",
            width=6,
            thresholds=(1, 10),
        ),
        Panel(
            "Connections and subscriptions",
            "By gateway.",
            [
                (f"sum by (instance) (md_ws_connections{{{ALL}}})", "connections {{instance}}"),
                (
                    f"sum by (channel) (md_ws_subscriptions{{{ALL},{CHANNEL}}})",
                    "subscriptions {{channel}}",
                ),
            ],
        ),
        Panel(
            "Messages sent a second",
            "conflated: ticks that a later one stood for.",
            [
                (rate_by("md_ws_sent_total", "channel", f"{ALL},{CHANNEL}"), "sent {{channel}}"),
                (
                    f"sum(rate(md_ws_conflated_total{{{ALL}}}[$__rate_interval])) or vector(0)",
                    "conflated",
                ),
            ],
            "ops",
        ),
        Panel(
            "Receipt to client",
            "From the ingestor's receipt to the socket write; exemplars lead to traces.",
            [
                (
                    quantile(0.5, "md_end_to_end_seconds", "channel", f"{ALL},{CHANNEL}"),
                    "p50 {{channel}}",
                ),
                (
                    quantile(0.99, "md_end_to_end_seconds", "channel", f"{ALL},{CHANNEL}"),
                    "p99 {{channel}}",
                ),
            ],
            "s",
        ),
        Panel(
            "Time to the first snapshot",
            "From a subscription's arrival to its snapshot being on its way.",
            [
                (
                    quantile(
                        0.99,
                        "md_ws_snapshot_seconds",
                        "channel",
                        f"{ALL},{CHANNEL}",
                        over="$__range",
                    ),
                    "p99 {{channel}}",
                )
            ],
            "s",
        ),
        Panel(
            "Slow clients",
            "catch_up: taken off the live push; recovered: back on it; lost: given a snapshot.",
            [(rate_by("md_ws_slow_total", "action", ALL), "{{action}}")],
            "ops",
        ),
        Panel(
            "Bytes waiting for clients",
            "In the gateways' own memory.",
            [(f"sum by (instance) (md_ws_queue_bytes{{{ALL}}})", "{{instance}}")],
            "bytes",
        ),
        Panel(
            "Backfills",
            "Records sent to clients that catch up, and how long a backfill takes.",
            [
                (
                    rate_by("md_ws_backfill_ticks_total", "channel", ALL) + " or vector(0)",
                    "records a second",
                )
            ],
            "ops",
        ),
        Panel(
            "Connections that ended, and limits",
            "By reason; commands and messages held by a rate limit.",
            [
                (rate_by("md_ws_closed_total", "reason", ALL), "closed: {{reason}}"),
                (rate_by("md_ws_rate_limited_total", "scope", ALL), "limited: {{scope}}"),
            ],
            "ops",
        ),
        Panel(
            "Errors told to clients",
            "By code; docs/protocol.md lists them.",
            [(rate_by("md_ws_errors_total", "code", ALL), "{{code}}")],
            "ops",
        ),
        Panel(
            "Event loop lag, worst of a minute",
            "While a loop is late, everything of that process is.",
            [
                (
                    _GATEWAY_LAG,
                    "{{instance}}",
                )
            ],
            "s",
        ),
    ],
)
