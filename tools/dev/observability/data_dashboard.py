"""Is the data good?"""

from __future__ import annotations

from tools.dev.observability.grafana import (
    ALL,
    CHANNEL,
    STREAM,
    Dashboard,
    Panel,
    increase_by,
    quantile,
)

DATA = Dashboard(
    "mdf-data",
    "Is the data good?",
    "Complete: is anything missing, and was it healed? Fresh: how old is what clients see?",
    [("channel", "md_stream_state"), ("product", "md_stream_state")],
    [
        Panel(
            "Streams that are stale or down",
            "The feed says nothing about them, or cannot be reached. 0 is good.",
            [(f"count(md_stream_state{{{ALL},{STREAM}}} >= 3) or vector(0)", "")],
            kind="stat",
            width=4,
            thresholds=(1, 1),
        ),
        Panel(
            "Streams being resynced",
            "Something is missing in them and is being fetched.",
            [(f"count(md_stream_state{{{ALL},{STREAM}}} == 2) or vector(0)", "")],
            kind="stat",
            width=4,
            thresholds=(1, 5),
        ),
        Panel(
            "Gaps found (range)",
            "Holes in what the venue sent.",
            [(f'sum(increase(md_seq_gap_total{{{ALL},{STREAM},stage="venue"}}[$__range]))', "")],
            kind="stat",
            width=4,
            thresholds=(1, 50),
        ),
        Panel(
            "Lost for good (range)",
            "Resyncs that ended with something missing; clients were told. 0 is good.",
            [(f'sum(increase(md_resync_total{{{ALL},{STREAM},outcome="lost"}}[$__range]))', "")],
            kind="stat",
            width=4,
            thresholds=(1, 1),
        ),
        Panel(
            "Breaks in our own logs (range)",
            "Records that were there and are not in the raw log or on a gateway's tail.",
            [
                (
                    increase_by("md_seq_gap_total", "", f'{ALL},stage!="venue"') + " or vector(0)",
                    "",
                )
            ],
            kind="stat",
            width=4,
            thresholds=(1, 10),
        ),
        Panel(
            "Receipt to client, p99",
            "From the ingestor's receipt to the gateway's socket write.",
            [
                (
                    quantile(0.99, "md_end_to_end_seconds", "", f"{ALL},{CHANNEL}"),
                    "",
                )
            ],
            "s",
            kind="stat",
            width=4,
            thresholds=(0.25, 1),
        ),
        Panel(
            "State of every stream",
            "live, quiet (the venue is alive and says nothing), resyncing, stale, down.",
            [
                (
                    f"max by (channel, product) (md_stream_state{{{ALL},{STREAM}}})",
                    "{{channel}} {{product}}",
                )
            ],
            kind="state-timeline",
            width=24,
            mappings=("live", "quiet", "resyncing", "stale", "down"),
        ),
        Panel(
            "Age of the newest record",
            "A product that trades rarely is old and well; compare with its state.",
            [
                (
                    f"max by (channel, product) (md_stream_record_age_seconds{{{ALL},{STREAM}}})",
                    "{{channel}} {{product}}",
                )
            ],
            "s",
        ),
        Panel(
            "Time since anything came from the venue",
            "Heartbeats included, so this stays near one second on a sound connection.",
            [(f"max by (feed) (md_ingest_last_message_age_seconds{{{ALL}}})", "{{feed}}")],
            "s",
        ),
        Panel(
            "Age of what clients are served",
            "By the newest pulse or record that came through; near two seconds, also in a quiet "
            "market. Above ten the gateways say stale.",
            [(f"max by (shard) (md_ws_data_age_seconds{{{ALL}}})", "shard {{shard}}")],
            "s",
        ),
        Panel(
            "Gaps found, by cause",
            "Of the time range. stage: what the venue sent, our raw log, or a gateway's tail.",
            [
                (
                    increase_by("md_seq_gap_total", "stage, channel, cause", f"{ALL},{STREAM}"),
                    "{{stage}} {{channel}} {{cause}}",
                )
            ],
        ),
        Panel(
            "Resyncs, by outcome",
            "refilled, late (it came by itself) and snapshot heal; lost does not.",
            [
                (
                    increase_by("md_resync_total", "channel, outcome", f"{ALL},{STREAM}"),
                    "{{channel}} {{outcome}}",
                )
            ],
        ),
        Panel(
            "Time to heal, p99",
            "From the first sign of loss to a proven stream.",
            [
                (
                    quantile(
                        0.99, "md_resync_seconds", "channel", f"{ALL},{CHANNEL}", over="$__range"
                    ),
                    "{{channel}}",
                )
            ],
            "s",
        ),
        Panel(
            "Dropped and invalid messages",
            "New messages not passed on, and messages parked on market.invalid.",
            [
                (
                    increase_by("md_messages_dropped_total", "channel, reason", f"{ALL},{CHANNEL}"),
                    "dropped: {{channel}} {{reason}}",
                ),
                (
                    f"sum by (stage) (increase(md_invalid_total{{{ALL}}}[$__range]))",
                    "invalid: {{stage}}",
                ),
            ],
        ),
    ],
)
