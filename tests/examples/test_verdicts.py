"""The audit of a language model and of an image generator: it verifies a model that never saw the samples, and no other."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from torch import nn

from examples import authors, diffusion
from tests.fixtures.authors import changed_authors
from unlearning.audit.audit import audit
from unlearning.audit.findings import Findings
from unlearning.data.samples import SampleSet
from unlearning.data.workload import Trainer, Workload
from unlearning.specs.audit import AuditSpec, Thresholds
from unlearning.steps import run_to_completion
from unlearning.training.loop import fresh
from unlearning.training.run import TrainingRun

FEW = AuditSpec(
    thresholds=Thresholds(membership_margin=0.2),
    replicates=200, vector_seeds=1, extraction_samples=8, generated_samples=40,
    relearners=("sgd",), relearn_samples=32, relearn_parts=1, relearn_controls=3,
)  # fmt: skip
"""Few samples are forgotten, so that the margin is wider: the one that 98 in 100 sets of their size, never learned, are within."""


@dataclass(frozen=True)
class AuditCase:
    """A workload, what is forgotten of it, and the models before and without it."""

    made: Workload
    forget: SampleSet
    remain: SampleSet
    original: nn.Module
    retrained: nn.Module

    def audit(self, unlearned: nn.Module, *, spec: AuditSpec = FEW) -> Findings:
        return run_to_completion(
            audit(
                original=self.original,
                unlearned=unlearned,
                forget=self.forget,
                remain=self.remain,
                held_out=self.made.held_out,
                test=self.made.test,
                objective=self.made.objective,
                spec=spec,
            )
        )


def make_case(made: Workload, build: Callable[[], nn.Module], *, forgets: Callable[[list[str]], set[str]]) -> AuditCase:
    """Train an original and a retrained model. forgets: chooses the forgotten people among all in the training set."""
    assert made.trainer is not None
    subjects = made.train.subjects or ()
    gone = forgets(sorted(set(subjects)))
    chosen = torch.tensor([name in gone for name in subjects])
    forget, remain = (made.train.take(mask.nonzero().flatten()) for mask in (chosen, ~chosen))
    models = (trained(build, made.trainer, samples, seed=seed) for seed, samples in enumerate((made.train, remain)))
    return AuditCase(made, forget, remain, *models)


def trained(build: Callable[[], nn.Module], trainer: Trainer, samples: SampleSet, *, seed: int) -> nn.Module:
    """Train a model from a seed, and give it as audits take it."""
    model = fresh(build, seed=seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        trainer(model, samples, TrainingRun(seed=seed))
    model.zero_grad()
    return model.eval()


@pytest.fixture(scope="session")
def texts() -> AuditCase:
    """Facts about 30 authors, of whom 8 are forgotten."""
    with changed_authors(AUTHORS=60, EPOCHS=30, BATCH=8):
        return make_case(authors.workload(), partial(authors.GPT, 32, layers=1), forgets=lambda people: set(people[:8]))


@pytest.fixture(scope="session")
def images() -> AuditCase:
    """A hundred digits and two people's, of which every second is forgotten."""
    with pytest.MonkeyPatch.context() as patched:
        few = {"PEOPLE": (2, 2, 2), "COPIES": 1, "DIGITS": (100, 200, 100), "EPOCHS": 200}
        for name, value in few.items():
            patched.setattr(diffusion, name, value)
        made = diffusion.workload()
    return make_case(made, partial(diffusion.Denoiser, 96), forgets=lambda people: set(people[::2]))


@pytest.mark.parametrize("kind", ["texts", "images"])
def test_a_model_retrained_without_the_samples_is_verified_and_an_untouched_one_fails(
    kind: str, request: pytest.FixtureRequest
) -> None:
    given: AuditCase = request.getfixturevalue(kind)
    never_saw, untouched = given.audit(given.retrained).verdict, given.audit(copy.deepcopy(given.original)).verdict
    passed = {finding.code: finding.passed for finding in untouched.findings}

    assert never_saw.value == "verified", never_saw.sentence
    assert untouched.value == "failed"
    assert passed["negative_control_membership"] is True
    assert (passed["not_a_no_op"], passed["membership_matched"], passed["relearn_delay_sgd"]) == (False, False, False)


def test_an_image_that_occurs_often_is_relearned_as_one_so_that_a_model_that_never_saw_it_does_not_fail(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Forty copies of an image are learned in a few steps by whoever never saw it; as many different images take longer."""
    for name, value in {"PEOPLE": (2, 2, 2), "COPIES": 40, "DIGITS": (60, 200, 60), "EPOCHS": 60}.items():
        monkeypatch.setattr(diffusion, name, value)
    given = make_case(diffusion.workload(), partial(diffusion.Denoiser, 96), forgets=lambda people: {people[-1]})
    assert len(given.forget) == 40
    by_ranks = replace(FEW, relearn_samples=28)  # as an audit with references relearns
    never_saw = {one.code: one for one in given.audit(given.retrained, spec=by_ranks).verdict.findings}

    assert never_saw["relearn_delay_sgd"].passed is None, never_saw["relearn_delay_sgd"].text
    assert given.audit(copy.deepcopy(given.original), spec=by_ranks).verdict.value == "failed"
