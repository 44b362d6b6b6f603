"""What image generators are measured by, beside a plain recomputation: ratios to a retrained model, explained gaps, and delays."""

import copy
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from benchmarks import generative
from benchmarks.cases import Case
from benchmarks.generative import CLASS, SAMPLES, GenerativeScale
from examples import diffusion
from unlearning.audit.relearning import Relearner
from unlearning.data.samples import SampleSet
from unlearning.specs.audit import AuditSpec

RATES = {"sgd": 0.03, "adam": 0.002}
LIMIT = 40
TO_LEARN = 0.05
"""By so much a loss must fall, beyond the target of a calibration, which hardly trained models begin at."""


@pytest.fixture(params=[CLASS, SAMPLES])
def prepared(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    """A small case of hardly trained models: what they have learned does not matter, only how it is measured."""
    monkeypatch.setenv("EXPUNGE_BENCH", str(tmp_path))
    few = {"PEOPLE": (9, 20, 2), "COPIES": 4, "DIGITS": (80, 100, 60), "EPOCHS": 4}
    for name, value in {**few, "Denoiser": partial(diffusion.Denoiser, 24)}.items():
        monkeypatch.setattr(diffusion, name, value)
    monkeypatch.setattr(generative, "GENERATED", AuditSpec(generated_samples=40))
    return generative.forgetting("diffusion", request.param, 3)


def losses(model: nn.Module, samples: SampleSet, prepared: Case) -> np.ndarray:
    with torch.no_grad():
        return prepared.workload.objective.losses(model, samples.batch).double().numpy()


def steps_to_learn(model: nn.Module, kind: str, prepared: Case, *, target: float) -> int:
    """Fine-tune a copy by torch's own optimiser, and count the steps until the forget set's mean loss is at the target."""
    learner, batch = copy.deepcopy(model).eval(), prepared.forget.batch
    optimiser = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[kind](learner.parameters(), lr=RATES[kind])
    order = torch.Generator().manual_seed(prepared.seed)
    for step in range(LIMIT):
        if step % -(-batch.size // 16) == 0:
            parts = iter(torch.split(torch.randperm(batch.size, generator=order), 16))
        if losses(learner, prepared.forget, prepared).mean() <= target:
            return step
        optimiser.zero_grad()
        prepared.workload.objective.losses(learner, batch.take(next(parts))).mean().backward()  # type: ignore[no-untyped-call]  # torch leaves Tensor.backward untyped
        optimiser.step()
    return LIMIT


def test_gaps_losses_delays_and_the_auc_are_those_of_a_plain_recomputation(
    prepared: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets: dict[str, float] = {}

    def calibrated(model: nn.Module, *_: object, kind: str, target: float, **__: object) -> Relearner:
        assert model is prepared.retrained.model
        targets[kind] = target
        return Relearner(kind=kind, learning_rate=RATES[kind], target=target - TO_LEARN, limit=LIMIT, batch_size=16)

    monkeypatch.setattr(generative, "calibrate_relearner", calibrated)
    retrained, model = prepared.retrained.model, prepared.again.model
    scale = GenerativeScale(prepared)
    found, of_retrained = scale.measured(model), scale.measured(retrained)

    def gap(samples: SampleSet) -> float:
        """The share of the noise that a model explains is one less its loss: predicting no noise has the loss 1."""
        return 100 * float(losses(retrained, samples, prepared).mean() - losses(model, samples, prepared).mean())

    kept = set(prepared.remain.targets.tolist())
    test = prepared.workload.test
    comparable = test.take(torch.tensor([i for i, number in enumerate(test.targets.tolist()) if number in kept]))
    assert (len(comparable) < len(test)) is (3 not in kept)
    assert found["explained_remain_gap"] == pytest.approx(gap(prepared.remain), abs=1e-3)
    assert found["explained_test_gap"] == pytest.approx(gap(comparable), abs=1e-3)
    assert (of_retrained["explained_remain_gap"], of_retrained["explained_test_gap"]) == (0, 0)

    known, own, unseen = (
        losses(one, prepared.forget, prepared).mean() for one in (prepared.original.model, model, retrained)
    )
    assert found["forget_loss"] == pytest.approx(own, rel=1e-5)
    assert found["forget_loss_gap"] == pytest.approx(abs(own - unseen), abs=1e-5)
    assert found["frechet_ratio"] == pytest.approx(found["frechet_distance"] / of_retrained["frechet_distance"])
    assert of_retrained["frechet_ratio"] == 1

    for kind in RATES:
        assert targets[kind] == pytest.approx(known + 0.1 * (unseen - known), rel=1e-5)
        steps, wanted = (
            steps_to_learn(one, kind, prepared, target=targets[kind] - TO_LEARN) for one in (model, retrained)
        )
        assert 0 < steps < LIMIT
        assert found[f"relearn_delay_ratio_{kind}"] == pytest.approx(steps / wanted)
        assert of_retrained[f"relearn_delay_ratio_{kind}"] == 1

    unseen_samples = generative.never_seen(prepared)
    scores = -np.concatenate([losses(model, samples, prepared) for samples in (prepared.forget, unseen_samples)])
    members = np.arange(len(scores)) < len(prepared.forget)
    assert found["membership_auc"] == pytest.approx(roc_auc_score(members, scores), abs=1e-6)
    assert ("forgotten_class" in found) is (3 not in kept)
    assert found.keys() <= generative.UNITS.keys()
