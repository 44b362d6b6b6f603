"""The rows of results, and the tables that show them by the number of samples."""

from pathlib import Path

import pytest

from benchmarks import tables, writing
from benchmarks.tables import filled
from benchmarks.writing import clustered_share_row, row, share_row, write

WHAT = {"case": "digits, 3 samples", "method": "retrain", "metric": "failed"}


def test_hits_that_are_alike_within_clusters_say_less() -> None:
    alike = clustered_share_row([[True] * 10, [False] * 10, [False] * 10, [False] * 10], **WHAT)
    spread = clustered_share_row([[True] * 3 + [False] * 7] * 2 + [[True] * 2 + [False] * 8] * 2, **WHAT)

    assert (alike.mean, alike.n) == (0.25, 40) == (spread.mean, spread.n)
    # One in four clusters: at least as wide as the exact interval of one hit in four.
    assert alike.low <= 0.0064
    assert alike.high >= 0.8
    assert alike.low < spread.low < 0.25 < spread.high < alike.high


def test_without_a_hit_the_interval_is_wider_than_that_of_as_many_independent_ones() -> None:
    few = clustered_share_row([[False] * 20] * 5, **WHAT)
    independent = share_row([False] * 100, **WHAT)

    assert few.mean == few.low == 0
    assert independent.high < few.high < 2 * independent.high + 0.01


def test_hits_of_one_cluster_count_as_independent() -> None:
    hits = [True] * 3 + [False] * 17

    one, exact = clustered_share_row([hits], **WHAT), share_row(hits, **WHAT)

    assert (one.mean, one.low, one.high) == pytest.approx((exact.mean, exact.low, exact.high))


def test_a_table_across_numbers_of_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (tables, writing):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    of_ten = {"case": "digits, 10 samples", "method": "retrain"}
    write(
        "found",
        [
            share_row([False] * 4, **of_ten, metric="failed"),
            share_row([True, False], **WHAT),
            row([1.0, 2.0], case="digits, 3 samples", method="retrain", metric="audit_seconds", unit="seconds"),
        ],
    )

    text = filled("<!-- table: found across: failed audit_seconds verified -->\nold\n<!-- end -->\n")

    assert text.splitlines()[1:5] == [
        "| model |  | 3 | 10 |",
        "| --- | --- | --: | --: |",
        "| retrain | failed, % | 50 (1 to 99) | 0 (0 to 60) |",
        "|  | audit seconds, s | 1.50 ± 6.35 | – |",
    ]
    assert text.endswith("<!-- end -->\n")
