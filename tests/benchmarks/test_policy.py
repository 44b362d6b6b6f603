"""Orders of methods are replayed as a worker would have run them, on what was measured of each method once."""

import dataclasses
from types import SimpleNamespace

import pytest

from benchmarks.policy import Trial, goes_no_further, orders_of, replayed, rows_of_orders
from unlearning.audit.verdict import Verdict
from worker.run import should_escalate


def trial(seconds: float, *, ends: bool, verdict: str | None = None, gap: float = 1.0) -> Trial:
    verdict = verdict or ("verified" if ends else "failed")
    return Trial(seconds=seconds, audit_seconds=1.0, verdict=verdict, ends=ends, figures={"gap": gap})


RETRAIN = trial(20.0, ends=True, gap=0.0)
VERIFIED_BY_IEU = {
    "ltu": trial(9.0, ends=False),
    "ieu": trial(4.0, ends=True, gap=2.0),
    "ct": dataclasses.replace(trial(1.0, ends=False), verdict=None, audit_seconds=0.0, figures={}),
    "retrain": RETRAIN,
}
VERIFIED_BY_LTU = {"ltu": trial(9.0, ends=True), "ieu": trial(4.0, ends=False), "retrain": RETRAIN}


def test_a_job_costs_its_methods_and_their_audits_up_to_the_one_that_ends_it() -> None:
    found = replayed(("ltu", "ct", "ieu", "retrain"), VERIFIED_BY_IEU)
    assert found.share == pytest.approx((9 + 1 + 1 + 4 + 1) / 20)
    assert (found.verdict, found.retrained, found.gap) == ("verified", False, 2.0)

    last = replayed(("ltu", "retrain"), VERIFIED_BY_IEU)
    assert last.share == pytest.approx((9 + 1 + 20 + 1) / 20)
    assert (last.retrained, last.gap) == (True, 0.0)


def test_every_order_ends_in_retraining_and_has_one_ltu_at_most() -> None:
    orders = orders_of(["ltu", "ltu_first_order", "ieu"])
    assert len(orders) == len(set(orders)) == 1 + 3 + 4
    assert all(order[-1] == "retrain" and order.count("retrain") == 1 for order in orders)
    assert not any({"ltu", "ltu_first_order"} <= set(order) for order in orders)


def test_outcomes_of_one_set_stay_together() -> None:
    """Each method is verified on every second model, never both on one: a second method always ends what the first did not."""
    found = {("a", 0): {"a tenth": VERIFIED_BY_IEU}, ("a", 1): {"a tenth": VERIFIED_BY_LTU}}
    rows = {(row.case, row.method, row.metric): row for row in rows_of_orders(found, ["ltu", "ieu"])}

    def mean(order: str, metric: str) -> float:
        return rows["a tenth", order, metric].mean

    assert mean("ieu, ltu, retrain", "retrained") == 0.0
    assert mean("ieu, ltu, retrain", "retrain_ratio") == pytest.approx(((5 + 15) / 20) / 2)
    assert mean("ltu, ieu, retrain", "retrain_ratio") == pytest.approx(((15 + 10) / 20) / 2)
    first = next(row for row in rows_of_orders(found, ["ltu", "ieu"]) if row.metric == "retrain_ratio")
    assert first.method == "ieu, ltu, retrain"


@pytest.mark.parametrize(
    ("value", "reason"),
    [("verified", None), ("failed", None), *(("inconclusive", why) for why in ("open", "too_few_samples", "no_power"))],
)
def test_a_job_goes_on_where_the_worker_does(value: str, reason: str | None) -> None:
    verdict = Verdict(value=value, sentence="", findings=(), warnings=(), reason=reason)
    claim = SimpleNamespace(escalate="when_it_can_help", origin="policy")
    escalates = value != "verified" and should_escalate(claim, verdict)
    assert goes_no_further(verdict) == (not escalates)
