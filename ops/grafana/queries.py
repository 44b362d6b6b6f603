"""PromQL that several panels ask: means and quantiles of histograms."""

CHOSEN = 'model=~"$model", method=~"$method"'
"""The series of the models and methods chosen above the dashboard."""


def mean(metric: str, by: str = "", *, chosen: str = "", window: str = "$window") -> str:
    """The mean of a histogram's values over a window, only where there are any."""
    over = f"sum by ({by})" if by else "sum"
    total, count = (f"{over} (increase({metric}_{part}{{{chosen}}}[{window}]))" for part in ("sum", "count"))
    return f"{total} / ({count} > 0)"


def all_time_mean(metric: str, by: str, *, chosen: str = "") -> str:
    """The mean of all values that a histogram has ever taken."""
    return f"sum by ({by}) ({metric}_sum{{{chosen}}}) / (sum by ({by}) ({metric}_count{{{chosen}}}) > 0)"


def quantile(
    share: float, metric: str, by: str = "", *, chosen: str = "", window: str = "$window", of: str = "increase"
) -> str:
    """A quantile, as the histogram's buckets tell it."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, sum by ({labels}) ({of}({metric}_bucket{{{chosen}}}[{window}])))"


def spread(metric: str, by: str = "", *, chosen: str = "") -> tuple[tuple[str, str], tuple[str, str]]:
    """Two queries with their legends: the median over the window, and the 95th percentile."""
    of_which = "".join(f"{{{{{label}}}}} · " for label in by.split(", ") if label)
    middle, high = (quantile(share, metric, by, chosen=chosen) for share in (0.5, 0.95))
    return (middle, f"{of_which}median"), (high, f"{of_which}95 %")
