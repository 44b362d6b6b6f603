from typing import Any

import pytest

from expunge.cli.caller import how_it_ended

JOB: Any = {"id": "j", "state": "completed", "reason": None, "detail": None, "verdict": None, "method": {"kind": "ieu"}}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"verdict": "inconclusive"}, "Job j completed: inconclusive, by ieu."),
        (
            {"state": "failed", "reason": "disk_full", "detail": "The disk is full."},
            "Job j failed: disk_full. The disk is full.",
        ),
        ({"state": "cancelled", "reason": "cancelled_by_caller"}, "Job j cancelled: cancelled_by_caller."),
    ],
)
def test_how_a_job_ended_is_told_in_a_line(changes: dict[str, str], told: str) -> None:
    assert how_it_ended(JOB | changes) == told
