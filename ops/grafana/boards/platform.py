"""The dashboard of the platform."""

from ops.grafana.panels import Rows, graph, number, quantile


def platform() -> Rows:
    """HTTP, workers, PostgreSQL (names of postgres_exporter), Redis (redis_exporter) and GPUs (DCGM)."""
    calls, duration = "http_requests_total", "http_request_duration_seconds"
    hit, read = (f'sum(rate(pg_stat_database_blks_{kind}{{datname="expunge"}}[5m]))' for kind in ("hit", "read"))
    used, free = (f"sum by (instance, gpu) (DCGM_FI_DEV_FB_{kind})" for kind in ("USED", "FREE"))
    return {
        "HTTP": [
            graph(
                "Calls a second",
                "By route and status.",
                (f'sum by (handler, status) (rate({calls}{{job="expunge"}}[5m]))', "{{handler}} {{status}}"),
                unit="reqps",
            ),
            graph(
                "Duration of calls, 95th percentile",
                "By route.",
                (quantile(0.95, duration, "handler", chosen='job="expunge"', window="5m", of="rate"), "{{handler}}"),
                unit="s",
            ),
            graph(
                "Share of 5xx",
                "Of all responses.",
                ("expunge:http_errors:ratio5m", "5xx"),
                unit="percentunit",
                top=1,
            ),
            graph("Cost of a scrape", "Seconds, by what is scraped.", ("scrape_duration_seconds", "{{job}}"), unit="s"),
        ],
        "Workers and queue": [
            number(
                "Worker last seen",
                "Workers renew leases and record that they are there; after some minutes without either, no worker is running.",
                "time() - expunge_worker_seen_timestamp_seconds",
                unit="s",
                bad_from=300,
                width=6,
            ),
            number(
                "Ledger unreadable",
                "1: the exporter cannot read it, because PostgreSQL does not answer.",
                "1 - min(expunge_exporter_up)",
                bad_from=0.5,
                width=6,
            ),
            number(
                "Leases expired",
                "In the window. Their workers were killed, frozen or cut off.",
                "sum(increase(expunge_lease_expired_total[$window]))",
                bad_from=0.5,
                width=6,
            ),
            number(
                "Wake-ups lost",
                "In the window. The broker did not answer; the sweep sends them again.",
                'sum(increase(expunge_wakeups_total{outcome="lost"}[$window]))',
                bad_from=0.5,
                width=6,
            ),
            graph(
                "Messages in the queue",
                "Celery's list in Redis. Sweeps wait there while all workers are busy; one of them is enough.",
                ('sum(redis_key_size{key="celery"}) or sum(redis_up) * 0', "messages"),
                unit="none",
            ),
            graph(
                "Wake-ups sent",
                "A second, by outcome.",
                ("sum by (outcome) (rate(expunge_wakeups_total[5m]))", "{{outcome}}"),
                unit="ops",
            ),
            graph(
                "Waiting to be sent",
                "Wake-ups that are due, webhook messages that no endpoint has accepted, and versions that no connected system has.",
                ("expunge_outbox_waiting", "wake-ups"),
                ("expunge_webhook_waiting", "webhooks"),
                ("sum(expunge_hand_overs_waiting) or vector(0)", "hand-overs"),
                unit="none",
            ),
            graph(
                "Webhook attempts and refused writes",
                "In the window: delivery attempts by outcome; writes refused to workers without their lease.",
                ("sum by (outcome) (increase(expunge_webhook_deliveries_total[$window]))", "{{outcome}}"),
                ("sum(increase(expunge_stale_writes_rejected_total[$window]))", "stale writes"),
                unit="none",
            ),
        ],
        "Storage and log": [
            graph(
                "Free storage",
                "Share of the workers' file system of weights and training checkpoints.",
                ("expunge_storage_free_bytes / expunge_storage_size_bytes", "free"),
                unit="percentunit",
                top=1,
            ),
            graph(
                "Age of the log's newest checkpoint",
                "It grows while nothing is recorded. The alert fires for entries that wait to be signed.",
                ("time() - expunge_log_checkpoint_timestamp_seconds", "age"),
                unit="s",
            ),
        ],
        "PostgreSQL": [
            graph(
                "Connections",
                "By state, and how many the server allows.",
                (
                    'sum by (state) (pg_stat_activity_count{datname="expunge", state=~"active|idle.*"})',
                    "{{state}}",
                ),
                ("max(pg_settings_max_connections)", "allowed"),
                unit="none",
            ),
            graph(
                "Transactions a second",
                "Committed and rolled back.",
                ('sum(rate(pg_stat_database_xact_commit{datname="expunge"}[5m]))', "committed"),
                ('sum(rate(pg_stat_database_xact_rollback{datname="expunge"}[5m]))', "rolled back"),
                unit="ops",
            ),
            graph(
                "Size of the database",
                "On disk.",
                ('pg_database_size_bytes{datname="expunge"}', "expunge"),
                unit="bytes",
            ),
            graph(
                "Read from memory",
                "Share of the blocks that were in the server's memory.",
                (
                    f"{hit} / ({hit} + {read} > 0)",
                    "hits",
                ),
                unit="percentunit",
                top=1,
            ),
        ],
        "Redis": [
            graph("Memory", "Used by the broker.", ("redis_memory_used_bytes", "used"), unit="bytes"),
            graph(
                "Clients and commands",
                "Connected clients, commands a second.",
                ("redis_connected_clients", "clients"),
                ("rate(redis_commands_processed_total[5m])", "commands a second"),
                unit="none",
            ),
        ],
        "GPU": [
            graph(
                "Use",
                "By GPU.",
                ("avg by (instance, gpu) (DCGM_FI_DEV_GPU_UTIL)", "{{instance}} {{gpu}}"),
                unit="percent",
                top=100,
            ),
            graph(
                "Memory used",
                "Of the GPU's own.",
                (
                    f"{used} / ({used} + {free})",
                    "{{instance}} {{gpu}}",
                ),
                unit="percentunit",
                top=1,
            ),
            graph(
                "Temperature",
                "By GPU.",
                ("max by (instance, gpu) (DCGM_FI_DEV_GPU_TEMP)", "{{instance}} {{gpu}}"),
                unit="celsius",
            ),
            graph(
                "Power",
                "By GPU.",
                ("sum by (instance, gpu) (DCGM_FI_DEV_POWER_USAGE)", "{{instance}} {{gpu}}"),
                unit="watt",
            ),
        ],
    }
