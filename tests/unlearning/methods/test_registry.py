"""What a registration finds that a model lacks is what methods then refuse: each on each objective, in every combination."""

import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import nn

from tests.unlearning.data.test_references import key
from tests.unlearning.kinds import OBJECTIVES, RECIPE, Kind, samples
from unlearning.data.samples import SampleSet
from unlearning.data.stored import StoredSet
from unlearning.data.workload import Workload
from unlearning.dry_run import dry_run
from unlearning.errors import InvalidWorkload, MethodRefused, UnsupportedWorkload
from unlearning.methods.registry import METHODS, find_lacks
from unlearning.specs import AIMING, PRODUCTION, SPECS
from unlearning.specs.references import ReferencePlan
from unlearning.specs.suitability import Need, why_unsuitable
from unlearning.specs.training import DPSGD, Ready2Unlearn
from unlearning.steps import run_to_completion
from unlearning.training.loop import train
from unlearning.training.references import prepare_references
from unlearning.training.run import TrainingRun


def test_methods_that_aim_at_references_are_named() -> None:
    assert {kind for kind, method in METHODS.items() if "reference_aims" in vars(inspect.getmodule(method))} == AIMING


class Case(NamedTuple):
    """A workload: its objective, and whether only its head trains, its owner's function trains it, it is sharded, and a stream."""

    objective: str
    head_alone: bool
    own: bool
    sharded: bool
    streamed: bool


OF_EACH_KIND = (
    "classification",
    "multi-label",
    "regression",
    "causal language model",
    "denoising diffusion",
    "an own objective",
    "losses alone",
)
USUAL = {
    Case("classification", True, False, False, False),
    Case("causal language model", False, True, False, False),
    Case("multi-label", True, False, True, True),
}
"""Those of the usual tests; together they have each property."""

CASES = [
    Case(objective, *which)
    for objective in OF_EACH_KIND
    for which in (
        (head, own, sharded, streamed)
        for head in (False, True)
        for own in (False, True)
        for sharded in (False, True)
        for streamed in (False, True)
    )
    if not (which[1] and which[2])  # a workload that there is none of
]


def head_alone(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """The same network, frozen but for its last linear layer, and with the same frozen weights each time."""

    def built() -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(1)
            made = build().requires_grad_(False)
        [module for module in made.modules() if isinstance(module, nn.Linear)][-1].requires_grad_(True)
        return made

    return built


def as_a_stream(given: SampleSet) -> StoredSet:
    whole = given.batch
    items = [
        {"id": sample, "x": whole.take(place).inputs, "y": whole.targets[place]}
        for place, sample in enumerate(given.ids)
    ]
    return StoredSet.of_stream(items, key="id", targets="y", inputs=lambda item: item["x"])


def trains(kind: Kind) -> Callable[[nn.Module, SampleSet, TrainingRun], None]:
    def train(model: nn.Module, data: SampleSet, run: TrainingRun) -> None:
        optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        order, total = torch.Generator().manual_seed(run.seed), data.batch_count(16)
        for step, batch in enumerate(data.epoch(16, order), start=1):
            optimiser.zero_grad()
            loss = kind.objective.losses(model, batch).mean()
            loss.backward()
            optimiser.step()
            run.report(step, total, loss=loss)

    return train


def workload_of(case: Case) -> Workload:
    kind = OBJECTIVES[case.objective]
    sets = {name: samples(kind, 60, name=name, seed=seed) for seed, name in enumerate(("train", "held_out", "test"))}
    if case.streamed:
        sets["train"] = as_a_stream(sets["train"])
    return Workload(
        name="combined",
        build=head_alone(kind.build) if case.head_alone else kind.build,
        objective=kind.objective,
        recipe=None if case.own else RECIPE,
        trainer=trains(kind) if case.own else None,
        sharded=case.sharded,
        **sets,
    )


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=() if case in USUAL else pytest.mark.slow, id="-".join(map(str, case)))
        for case in CASES
    ],
)
def test_a_method_runs_or_is_refused_by_the_dry_run_just_where_the_models_lacks_say_so(case: Case) -> None:
    """There it has references where a method needs them, but none for LTU's random targets, and no slices or adapters."""
    made = workload_of(case)
    model = made.build().eval()
    lacks = {*find_lacks(made, model), Need.SLICES}
    foreseen = {
        kind: why
        for kind in PRODUCTION
        if (why := why_unsuitable(kind, lacks | ({Need.REFERENCES} if kind == "ltu" else set()))) is not None
    }
    faults = {fault.step: fault for fault in dry_run(made, model, policy=[SPECS[kind]() for kind in PRODUCTION])}

    assert {step for step, fault in faults.items() if not fault.only_note} == {f"method {kind}" for kind in foreseen}
    assert {"rewind", "drop_adapter"} <= foreseen.keys()
    assert "retrain" not in foreseen
    assert ("certified" in foreseen) is not (
        case.head_alone and not case.sharded and made.objective.curvature is not None
    )


@pytest.mark.parametrize("objective", OF_EACH_KIND)
def test_what_no_method_of_the_registry_could_serve_is_refused_when_the_workload_is_made(objective: str) -> None:
    """An owner's function, Ready2Unlearn and DP-SGD with a sharded model."""
    case = Case(objective, False, False, True, False)
    with pytest.raises(InvalidWorkload, match="has a `trainer`"):
        workload_of(case._replace(own=True))
    made = workload_of(case)
    for recipe in (replace(RECIPE, readiness=Ready2Unlearn()), replace(RECIPE, privacy=DPSGD())):
        with pytest.raises(InvalidWorkload, match="need the whole model"):
            replace(made, recipe=recipe)


@pytest.mark.parametrize("own", [False, True])
def test_reference_predictions_of_a_stream_are_refused_before_anything_is_trained(own: bool, tmp_path: Path) -> None:
    made = workload_of(Case("classification", False, own, False, True))
    with pytest.raises(UnsupportedWorkload, match="is a stream"):
        run_to_completion(prepare_references(made, ReferencePlan(), seed=0, folder=tmp_path, key=key))
    assert not list(tmp_path.iterdir())


def test_preparations_that_draw_single_batches_are_refused_for_a_stream_before_anything_is_trained() -> None:
    """Ready2Unlearn would have failed after its warm-up, in the middle of a retraining."""
    made = workload_of(Case("classification", False, False, False, True))
    for recipe in (replace(RECIPE, readiness=Ready2Unlearn()), replace(RECIPE, privacy=DPSGD())):
        with pytest.raises(InvalidWorkload, match="is a stream"):
            replace(made, recipe=recipe)
        steps = train(made.build(), made.train, recipe, objective=made.objective, seed=0)
        with pytest.raises(MethodRefused, match="is a stream"):
            next(steps)


@pytest.mark.parametrize("kind", sorted(PRODUCTION))
def test_why_a_method_is_unsuitable_names_everything_that_it_lacks(kind: str) -> None:
    assert why_unsuitable(kind, ()) is None
    why = why_unsuitable(kind, set(Need))
    assert (why is None) is (kind in ("gradient_ascent", "retrain"))


def test_references_take_the_place_of_random_targets_for_ltu() -> None:
    assert why_unsuitable("ltu", {Need.RANDOM_TARGETS}) is None
    assert why_unsuitable("ltu", {Need.RANDOM_TARGETS, Need.REFERENCES}) is not None
