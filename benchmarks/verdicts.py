"""How often the audit's verdict is right about models whose truth is known.

    python -m benchmarks.verdicts --case digits digits_prepared --seeds 100 101 102 103 104
    python -m benchmarks.verdicts --few 8 --case digits --seeds 100 101 102

The original, a hardly changed copy of it and a collapsed model must be `failed`. A retrained model must never be `failed`, and
should be `verified` if there are enough data. The methods have no known truth: their verdicts are only counted.

With `--few` the audits have reference predictions and forget few samples, so many random sets of each size; they are counted in a
file of their own, `verdicts_few.json`. There a model that `still_knows` is the original after some steps on all training data, the
forgotten samples included, because the original itself fails by not having changed. One is `half_way`: its logits are the means of
the original's and the retrained model's. The reference test and nearness, which cost little, are counted on more sets. Finished
audits are kept in `.bench/`. No default was chosen on these seeds.
"""

import copy
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import unlearning.audit
from benchmarks.cases import Case, all_settings, case, digest, ids_digest, keys, references_of, stored, subset
from benchmarks.command_line import BOTH_DIGITS, case_parser, chosen
from benchmarks.judging import Judged, judged_model
from benchmarks.machine import DEVICE, identity, seconds
from benchmarks.quality import everything
from benchmarks.writing import Row, row, share_row, write
from unlearning.audit.audit import audit
from unlearning.audit.nearness import nearness
from unlearning.audit.reference_test import AuditReferences, reference_test, signals_by_reference
from unlearning.data.references import References
from unlearning.data.samples import SampleSet
from unlearning.specs.audit import AuditSpec, Thresholds
from unlearning.steps import run_to_completion
from unlearning.training.loop import fresh
from unlearning.training.references import sample_signals

VERDICTS = ("verified", "inconclusive", "failed")
DECISIONS = {True: "verified", None: "inconclusive", False: "failed"}
"""The verdict that a reference test's outcome alone would give."""
SIZES = (1, 3, 10, 30)
"""Numbers of forgotten samples with `--few`."""
TESTED = 20
"""Random sets of each size on which the tests that read answers alone are counted, which cost little."""


def main() -> None:
    """Count the verdicts of all models and write them as shares."""
    parser = case_parser(__doc__, cases=BOTH_DIGITS)
    parser.add_argument("--few", type=int, help="random sets of each size that audits with references test")
    given = parser.parse_args()
    if given.few:
        torch.set_num_threads(1)
        write("verdicts_few", [made for name, seeds in chosen(given) for made in few(name, seeds, given.few)])
        return
    rows: list[Row] = []
    for name, seeds in chosen(given):
        runs = everything(name, seeds)
        for seed in seeds:
            for label, judged in known(case(name, seed)).items():
                runs.setdefault(label, []).append(judged)
        for method, judgements in runs.items():
            rows += verdict_rows([judged.verdict for judged in judgements], case=name, method=method)
    write("verdicts", rows)


def verdict_rows(verdicts: Sequence[str], *, case: str, method: str) -> list[Row]:
    """Compute the share of each verdict."""
    return [share_row([v == value for v in verdicts], case=case, method=method, metric=value) for value in VERDICTS]


def known(prepared: Case) -> dict[str, Judged]:
    """Audit models that need no method: one that hardly changed, and a collapsed one."""
    original = prepared.original.model
    moved = copy.deepcopy(original)
    for parameter in moved.parameters():
        parameter.data.mul_(1 + 1e-7)
    return {
        "no_op": judged_model(prepared, moved),
        "collapsed": judged_model(prepared, fresh(prepared.workload.build, seed=prepared.seed).to(DEVICE).eval()),
    }


class HalfWay(nn.Sequential):
    """A network, whose weights it has, with the means of its own logits and another's."""

    def __init__(self, network: nn.Sequential, other: nn.Module) -> None:
        super().__init__(*copy.deepcopy(network))
        self._others = [copy.deepcopy(other)]  # in a list, so that its weights are not the model's

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute the mean logits, (n, classes)."""
        mean: Tensor = (super().forward(inputs) + self._others[0](inputs)) / 2
        return mean


def few(name: str, seeds: Sequence[int], sets: int) -> list[Row]:
    """Audit known models on random sets of few samples, and count verdicts, what single tests found, and processor seconds."""
    found: dict[tuple[int, str], list[Mapping[str, object]]] = {}
    tested: dict[tuple[int, str], list[tuple[bool | None, bool]]] = {}
    for seed in seeds:
        one = case(name, seed)
        made = references_of(one)
        models = {
            "original": one.original.model,
            "still_knows": trained_on(one.original.model, one.workload.train, one, steps=30),
            "half_way": HalfWay(one.again.model, one.original.model).eval(),
            "retrain": one.again.model,
            "collapsed": fresh(one.workload.build, seed=seed).to(DEVICE).eval(),
        }
        for size in SIZES:
            for label, outcomes in tests_of(one, models, made, size).items():
                tested.setdefault((size, label), []).extend(outcomes)
            for number in range(sets):
                forget = subset(one.forget, size, np.random.default_rng([seed, size, number, 3]))
                for label, model in models.items():
                    result = outcome(one, model, forget, made, label=label)
                    found.setdefault((size, label), []).append(result)
                    print(f"{name} {seed} {size} {number} {label}: {result}", flush=True)
    rows: list[Row] = []
    for (size, label), results in sorted(found.items(), key=lambda item: item[0][0]):
        what = {"case": f"{name}, {size} samples", "method": label}
        rows += verdict_rows([str(result["verdict"]) for result in results], **what)
        rows.append(share_row([bool(result["relearn_failed"]) for result in results], **what, metric="relearn_failed"))
        spent = [float(str(result["seconds"])) for result in results]
        rows.append(row(spent, **what, metric="audit_seconds", unit="seconds"))
        counted = {
            "reference_passed": [passed is True for passed, _ in tested[size, label]],
            "reference_failed": [passed is False for passed, _ in tested[size, label]],
            "nearer_to_original": [near for _, near in tested[size, label]],
            "passed_and_not_nearer": [passed is True and not near for passed, near in tested[size, label]],
        }
        rows += [share_row(hits, **what, metric=metric) for metric, hits in counted.items()]
    return rows


def tests_of(
    one: Case, models: Mapping[str, nn.Module], made: References, size: int
) -> dict[str, list[tuple[bool | None, bool]]]:
    """Run the reference test and nearness on random sets of one size: whether it passes, and whether the original is nearer."""
    samples = {"forget": one.forget, "remain": one.remain, "held_out": one.held_out.audit}
    rows = {name: made.take(keys(part)) for name, part in samples.items()}
    margins = {
        label: {
            name: sample_signals(copy.deepcopy(model).eval(), part, one.workload.objective)[0].double().cpu().numpy()
            for name, part in samples.items()
        }
        for label, model in models.items()
    }
    found: dict[str, list[tuple[bool | None, bool]]] = {}
    for label, signals in margins.items():
        judged = {name: signals_by_reference(signals[name], rows[name]) for name in samples}
        rng = np.random.default_rng([one.seed, size, 5])
        for _ in range(TESTED):
            chosen = rng.permutation(len(one.forget))[:size]
            forget, others = judged["forget"].take(chosen), {name: judged[name] for name in ("held_out", "remain")}
            test = reference_test(forget=forget, **others, thresholds=Thresholds(), seed=one.seed)
            near = nearness(
                forget=forget,
                original=margins["original"]["forget"][chosen],
                held_out=judged["held_out"],
                thresholds=Thresholds(),
                seed=one.seed,
            )
            found.setdefault(label, []).append((test.passed, near.to_original))
    return found


def outcome(one: Case, model: nn.Module, forget: SampleSet, made: References, *, label: str) -> Mapping[str, object]:
    """Audit a model with references, or read what an earlier run of the same code found."""
    spec = AuditSpec.with_references()
    code = {path.name: path.read_text() for path in sorted(Path(unlearning.audit.__path__[0]).glob("*.py"))}
    key = {
        "case": one.name,
        "seed": one.seed,
        "model": label,
        "forget": ids_digest(forget),
        "audit": all_settings(spec),
        "code": hashlib.sha256(digest(code).encode()).hexdigest(),
        **identity(),
    }

    def run() -> dict[str, object]:
        samples = {"forget": forget, "remain": one.remain, "held_out": one.held_out.audit}
        rows = {name: made.take(keys(part)) for name, part in samples.items()}
        begun = seconds()
        findings = run_to_completion(
            audit(
                original=one.original.model,
                unlearned=model,
                **samples,
                test=one.workload.test,
                objective=one.workload.objective,
                spec=spec,
                seed=one.seed,
                references=AuditReferences(**rows),
            )
        )
        passed = {each.code: each.passed for each in findings.verdict.findings}
        failed = passed.get("relearn_delay_sgd") is False
        return {"verdict": findings.verdict.value, "seconds": seconds() - begun, "relearn_failed": failed}

    return stored("few", key, run)


def trained_on(model: nn.Module, samples: SampleSet, one: Case, *, steps: int) -> nn.Module:
    """Fine-tune a copy of a model for some steps on random batches of these samples."""
    copied = copy.deepcopy(model).train()
    optimiser = torch.optim.SGD(copied.parameters(), lr=0.01)
    rng = np.random.default_rng([one.seed, 4])
    for _ in range(steps):
        batch = samples.select(torch.from_numpy(rng.permutation(len(samples))[:64]))
        optimiser.zero_grad()
        one.workload.objective.losses(copied, batch).mean().backward()
        optimiser.step()
    return copied.eval()


if __name__ == "__main__":
    main()
