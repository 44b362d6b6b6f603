"""What moves the relearn delay of a model that never saw a set: which samples the set has, or the order in which they come?

    python -m benchmarks.relearn_noise --case digits --seeds 20 21 22 23

A retrained model learns twelve control sets with plain SGD, as an audit does, and two of these in six orders each. `spread_of_sets`
and `spread_of_orders` are standard deviations of the logarithm of the delay.
"""

import numpy as np
import torch

from benchmarks.cases import Case, case
from benchmarks.command_line import cases_and_seeds
from benchmarks.writing import Row, row, write
from unlearning.audit.controls import class_sizes, draw_by_class
from unlearning.audit.relearning import calibrate_relearner, mean_loss, relearn
from unlearning.specs.audit import AuditSpec

SETS, REORDERED, ORDERS = 12, 2, 6
SPEC = AuditSpec()


def main() -> None:
    """Measure the retrained model of every seed and write the rows."""
    torch.set_num_threads(1)
    rows: list[Row] = []
    for name, seeds in cases_and_seeds(__doc__):
        found = [spreads(case(name, seed)) for seed in seeds]
        for metric in found[0]:
            values = [one[metric] for one in found]
            rows.append(row(values, case=name, method="retrained", metric=metric, unit=""))
    write("relearn_noise", rows)


def spreads(one: Case) -> dict[str, float]:
    """Compute both spreads, of log(steps + ½), for a classifier. Raises ValueError if no learning rate is found."""
    objective, held_out = one.workload.objective, one.held_out.audit
    labels = [samples.targets.cpu().numpy() for samples in (one.forget, held_out)]
    sizes, rng = class_sizes(*labels, max_samples=SPEC.relearn_samples), np.random.default_rng(one.seed)
    forgotten = one.forget.select(torch.from_numpy(draw_by_class(one.forget, sizes, rng)[0]))
    controls = [held_out.select(torch.from_numpy(places)) for places in draw_by_class(held_out, sizes, rng, sets=SETS)]
    known, unseen = (mean_loss(one.original.model, batch, objective) for batch in (forgotten, controls[0]))
    relearner = calibrate_relearner(
        one.original.model, controls[0], objective=objective, kind="sgd",
        target=known + SPEC.relearn_delta * (unseen - known), steps=SPEC.relearn_steps, limit=SPEC.relearn_limit,
        batch_size=SPEC.relearn_batch, seed=one.seed,
    )  # fmt: skip
    if relearner is None:
        raise ValueError(f"no learning rate was found for {one.name}, seed {one.seed}")

    def delay(number: int, order: int) -> int:
        curve = relearn(
            one.retrained.model, controls[number], objective=objective, relearner=relearner, seed=one.seed + order
        )
        return curve.delay

    of_sets = [delay(number, 0) for number in range(SETS)]
    of_orders = [[delay(number, order) for order in range(ORDERS)] for number in range(REORDERED)]
    print(f"{one.name} {one.seed}: sets {of_sets}, orders {of_orders}", flush=True)
    return {
        "spread_of_sets": _spread(of_sets),
        "spread_of_orders": float(np.mean([_spread(delays) for delays in of_orders])),
    }


def _spread(delays: list[int]) -> float:
    return float(np.log(np.array(delays) + 0.5).std(ddof=1))


if __name__ == "__main__":
    main()
