"""Pipeline: rates and lags from the venue to the stores."""

from __future__ import annotations

from tools.dev.observability.grafana import (
    ALL,
    Dashboard,
    Panel,
    increase_by,
    quantile,
    rate_by,
)

PIPELINE = Dashboard(
    "mdf-pipeline",
    "Pipeline",
    "From the venue's socket to the stores: rates, lags, and what each dependency takes.",
    [("shard", "md_normalized_total")],
    [
        Panel(
            "Checks that fail",
            "What /readyz of any service complains of. 0 is good.",
            [(f"count(md_check_up{{{ALL}}} == 0) or vector(0)", "")],
            kind="stat",
            width=6,
            thresholds=(1, 1),
        ),
        Panel(
            "Feeds connected",
            "Of all feeds.",
            [(f"sum(md_ingest_connected{{{ALL}}}) / count(md_ingest_connected{{{ALL}}})", "")],
            "percentunit",
            kind="stat",
            width=6,
        ),
        Panel(
            "Worst shard lag",
            "Raw records not normalized yet.",
            [(f"max(md_shard_lag_messages{{{ALL}}})", "")],
            kind="stat",
            width=6,
            thresholds=(1000, 20000),
        ),
        Panel(
            "Row lag, p99",
            "From the ingestor's receipt to the row in DynamoDB.",
            [
                (
                    quantile(0.99, "md_snapshot_lag_seconds", "", ALL),
                    "",
                )
            ],
            "s",
            kind="stat",
            width=6,
            thresholds=(1, 5),
        ),
        Panel(
            "Messages from the venue",
            "By connection.",
            [(rate_by("md_ingest_messages_total", "feed", ALL), "{{feed}}")],
            "ops",
        ),
        Panel(
            "Records normalized",
            "By shard.",
            [
                (
                    rate_by("md_normalized_total", "shard", f'{ALL},shard=~"$shard"'),
                    "shard {{shard}}",
                )
            ],
            "ops",
        ),
        Panel(
            "Normalizer lag",
            "Of each range of shards: records not acknowledged, age of the newest worked on.",
            [
                (f"max by (shard) (md_shard_lag_messages{{{ALL}}})", "records {{shard}}"),
                (f"max by (shard) (md_shard_lag_seconds{{{ALL}}})", "seconds {{shard}}"),
            ],
        ),
        Panel(
            "Time until the broker has stored it, p99",
            "stage: the raw log (from the ingestor) and the tick logs (from the normalizer).",
            [(quantile(0.99, "md_broker_publish_seconds", "stage", ALL), "{{stage}}")],
            "s",
        ),
        Panel(
            "Queues and breakers",
            "Messages held for a resync; breakers: 0 closed, 1 half open, 2 open.",
            [
                (f"sum by (feed) (md_ingest_queue_depth{{{ALL}}})", "held {{feed}}"),
                (f"max by (target) (md_circuit_state{{{ALL}}})", "breaker {{target}}"),
            ],
        ),
        Panel(
            "Reconnects and readings of a log",
            "Lost connections by reason; catch-ups are readings of a log to prove its order.",
            [
                (
                    increase_by("md_ingest_reconnect_total", "reason", ALL) + " or vector(0)",
                    "reconnect {{reason}}",
                ),
                (f"sum(increase(md_normalizer_catch_ups_total{{{ALL}}}[$__range]))", "normalizer"),
                (
                    increase_by("md_snapshot_catch_ups_total", "outcome", ALL),
                    "snapshotter {{outcome}}",
                ),
            ],
        ),
        Panel(
            "Store writes, p99",
            "DynamoDB rows, checkpoints of books and archive batches in S3.",
            [(quantile(0.99, "md_snapshot_write_seconds", "kind", ALL), "{{kind}}")],
            "s",
        ),
        Panel(
            "Store writes that failed",
            "They are tried again; nothing is lost while the broker retains the records.",
            [(rate_by("md_snapshot_write_errors_total", "kind", ALL), "{{kind}}")],
            "ops",
        ),
        Panel(
            "Rows and archive",
            "Rows written a second; archived records a second.",
            [
                (rate_by("md_snapshot_rows_total", "outcome", ALL), "rows {{outcome}}"),
                (rate_by("md_archive_records_total", "kind", ALL), "archived {{kind}}"),
            ],
            "ops",
        ),
        Panel(
            "Archived bytes and bytes held",
            "Compressed bytes a second into S3; records taken and not stored yet.",
            [
                (rate_by("md_archive_bytes_total", "kind", ALL), "archived {{kind}}"),
                (f"sum(md_snapshot_held_bytes{{{ALL}}})", "held"),
            ],
            "bytes",
        ),
        Panel(
            "CPU",
            "Cores used by each process.",
            [
                (
                    rate_by("process_cpu_seconds_total", "instance", ALL),
                    "{{instance}}",
                )
            ],
        ),
        Panel(
            "Memory",
            "Resident bytes of each process.",
            [(f"sum by (instance) (process_resident_memory_bytes{{{ALL}}})", "{{instance}}")],
            "bytes",
        ),
        Panel(
            "Event loop lag, p99",
            "How much later than due a timer fires.",
            [(quantile(0.99, "md_event_loop_lag_seconds", "instance", ALL), "{{instance}}")],
            "s",
        ),
        Panel(
            "Checks, by service",
            "1 while it holds: what /readyz says.",
            [(f"min by (instance, check) (md_check_up{{{ALL}}})", "{{instance}} {{check}}")],
        ),
    ],
)
