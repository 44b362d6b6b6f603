"""The dashboard of unlearning time."""

from ops.grafana.panels import (
    CHOSEN,
    Rows,
    all_time_mean,
    bars,
    failed_jobs,
    graph,
    jobs_running,
    listing,
    mean,
    next_deadline,
    number,
    spread,
)


def increase(metric: str) -> str:
    """Compute by how much a counter grew over the window, by model and method."""
    return f"sum by (tenant, model, method) (increase({metric}{{{CHOSEN}}}[$window]))"


def unlearning_time() -> Rows:
    """How long unlearning takes, compared with retraining."""
    runs, times = "expunge_unlearning_seconds_count", "expunge_unlearning_seconds"
    waits = "expunge_data_wait_seconds_total"
    retraining = all_time_mean(times, "tenant, model", chosen='tenant=~"$tenant", model=~"$model", method="retrain"')
    method = all_time_mean(times, "tenant, model, method", chosen=CHOSEN)
    return {
        "Now": [
            number(
                "Runs in the window",
                "Runs of a method that reached the audit.",
                f"sum(increase({runs}{{{CHOSEN}}}[$window]))",
            ),
            number(
                "Mean time of the method",
                "Over the window.",
                mean(times, chosen=CHOSEN),
                unit="s",
            ),
            jobs_running(),
            number(
                "Jobs waiting",
                "Until they close, or for their model or a worker; not for approval.",
                "expunge:jobs_waiting:sum",
            ),
            failed_jobs(),
            next_deadline(),
            graph(
                "Progress of running jobs",
                "0 to 1 of the whole job; at most one job of a model runs.",
                ('expunge_job_progress_ratio{tenant=~"$tenant", model=~"$model"}', "{{model}} · {{stage}}"),
                unit="percentunit",
                top=1,
                width=24,
            ),
        ],
        "By model and method": [
            graph(
                "Mean time of the method, by model and method",
                "Seconds that the method itself ran, mean over the window.",
                (mean(times, "tenant, model, method", chosen=CHOSEN), "{{model}} · {{method}}"),
                unit="s",
            ),
            graph(
                "Median and 95th percentile, by model and method",
                "Over the window, estimated from the histogram's buckets.",
                *spread(times, "tenant, model, method", chosen=CHOSEN),
                unit="s",
            ),
            graph(
                "Share of the method's time spent waiting for data",
                "Over the window. 0 where samples lie in memory. If it is high, give the workload's sets more `num_workers`.",
                (f"{increase(waits)} / ({increase(f'{times}_sum')} > 0)", "{{model}} · {{method}}"),
                unit="percentunit",
            ),
            bars(
                "Mean time of each stage, by method",
                "Over the range shown.",
                mean("expunge_stage_duration_seconds", "method, stage", chosen='method=~"$method"', window="$__range"),
                rows="method",
                columns="stage",
                unit="s",
            ),
            listing(
                "All runs so far",
                "Since the installation.",
                (f"sum by (tenant, model, method) ({runs}{{{CHOSEN}}}) > 0", "runs"),
                (method, "mean seconds"),
                seconds=("mean seconds",),
            ),
        ],
        "Against retraining": [
            graph(
                "Share of the training time",
                "The method's mean over the training time, if that was registered. Below 1 unlearning is faster.",
                (f"{method} / on (tenant, model) group_left () expunge_training_seconds", "{{model}} · {{method}}"),
                unit="percentunit",
            ),
            listing(
                "Unlearning, retraining, training",
                "Seconds: the method's mean, the mean of jobs that retrained, and the registered training time.",
                (method, "unlearning"),
                (f"{method} * 0 + on (tenant, model) group_left () ({retraining})", "retraining"),
                (f"{method} * 0 + on (tenant, model) group_left () expunge_training_seconds", "training"),
                seconds=("unlearning", "retraining", "training"),
            ),
        ],
    }
