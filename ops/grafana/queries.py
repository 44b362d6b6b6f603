"""PromQL that several panels use: means and quantiles of histograms."""

CHOSEN = 'tenant=~"$tenant", model=~"$model", method=~"$method"'
"""The series of the tenants, models and methods chosen above the dashboard."""


def mean(metric: str, by: str = "", *, chosen: str = "", window: str = "$window") -> str:
    """Compute the mean of a histogram's values over a window; empty without values."""
    over = f"sum by ({by})" if by else "sum"
    total, count = (f"{over} (increase({metric}_{part}{{{chosen}}}[{window}]))" for part in ("sum", "count"))
    return f"{total} / ({count} > 0)"


def all_time_mean(metric: str, by: str, *, chosen: str = "") -> str:
    """Compute the mean of all values of a histogram."""
    return f"sum by ({by}) ({metric}_sum{{{chosen}}}) / (sum by ({by}) ({metric}_count{{{chosen}}}) > 0)"


def quantile(
    share: float, metric: str, by: str = "", *, chosen: str = "", window: str = "$window", of: str = "increase"
) -> str:
    """Estimate a quantile from the histogram's buckets."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, sum by ({labels}) ({of}({metric}_bucket{{{chosen}}}[{window}])))"


def spread(metric: str, by: str = "", *, chosen: str = "") -> tuple[tuple[str, str], tuple[str, str]]:
    """Build two queries with their legends: median and 95th percentile over the window."""
    of_which = "".join(f"{{{{{label}}}}} · " for label in by.split(", ") if label)
    middle, high = (quantile(share, metric, by, chosen=chosen) for share in (0.5, 0.95))
    return (middle, f"{of_which}median"), (high, f"{of_which}95 %")
