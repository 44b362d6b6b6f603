"""What every method must guarantee."""

import copy
import dataclasses
import functools
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from tests.unlearning import small
from tests.unlearning.kinds import KINDS, OBJECTIVES, make_task
from tests.unlearning.small import convolutional, dropping, normalised, plain, same, start, state
from unlearning.data.samples import SampleSet
from unlearning.errors import MethodRefused
from unlearning.methods.registry import METHODS, unlearn
from unlearning.specs import LTU, PRODUCTION, SPECS, Spec
from unlearning.specs.suitability import NEEDS, OFFERS, Need, suits
from unlearning.state import State
from unlearning.steps import Outcome, Progress, run_to_completion
from unlearning.task import Task

pytestmark = pytest.mark.usefixtures("hasty_guides")

BUILDS = [plain, normalised, dropping, convolutional]
FEW = {"steps": 5, "epochs": 2, "repair_steps": 5, "batch_size": 16, "query_size": 16, "attackers": 2}
SHORT = dataclasses.replace(small.RECIPE, epochs=2)

OF_SOME_MODELS = {"drop_adapter", "certified", "ct"}
"""They need a model with adapters, one with a head alone to train, and one with square kernels; see test_drop_adapter.py,
test_certified.py and test_kernels.py."""

every_kind = pytest.mark.parametrize("kind", sorted(METHODS.keys() - OF_SOME_MODELS))
every_method = pytest.mark.parametrize("kind", sorted(PRODUCTION))
"""What a job may run."""
DRAWS_NOTHING = {"ssd"}


def spec_of(kind: str) -> Spec:
    """The method's defaults, with few and small steps."""
    cls = SPECS[kind]
    names = {field.name for field in dataclasses.fields(cls)}
    return cls(**{name: value for name, value in FEW.items() if name in names})


def task(build: Callable[[], nn.Module] = normalised, *, forgotten: int = 24, seed: int = 3) -> Task:
    """As `small.task`, with a short training for the methods that train anew."""
    return dataclasses.replace(small.task(build, forgotten=forgotten, seed=seed), recipe=SHORT, state=State())


def random_state() -> tuple[bytes, bytes, object]:
    return torch.get_rng_state().numpy().tobytes(), np.random.get_state()[1].tobytes(), random.getstate()


def contents(given: Task) -> list[torch.Tensor]:
    sets = (given.forget, given.remain, given.guide, given.criterion)
    return [tensor.clone() for part in sets for tensor in part.batch]


def only(part: SampleSet, keep: torch.Tensor) -> SampleSet:
    return part.take(keep.nonzero().flatten())


def test_every_method_has_a_spec_and_says_what_it_needs() -> None:
    assert METHODS.keys() == SPECS.keys() == NEEDS.keys()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A run that nothing disturbed. states: before it, after each step, and at its end. untouched: whether the caller's random
    state was the same after each step and at the end."""

    states: list[dict[str, torch.Tensor]]
    progress: list[Progress]
    outcome: Outcome
    model: nn.Module
    untouched: bool


@functools.cache
def run_of(kind: str, build: Callable[[], nn.Module] = normalised, seed: int = 3) -> Run:
    """Run a method on a model that is given in training mode."""
    given = task(build, seed=seed)
    given.model.train()
    states, progress, before, untouched = [state(given.model)], list[Progress](), random_state(), list[bool]()

    def note(step: Progress) -> None:
        progress.append(step)
        states.append(state(given.model))
        untouched.append(random_state() == before)

    outcome = run_to_completion(start(spec_of(kind), given), note)
    return Run(
        states=[*states, state(given.model)],
        progress=progress,
        outcome=outcome,
        model=given.model,
        untouched=all(untouched) and random_state() == before,
    )


@every_kind
def test_the_weights_stay_finite_and_keep_their_shapes(kind: str) -> None:
    before, *_, after = run_of(kind).states
    assert all(torch.isfinite(tensor).all() for tensor in after.values())
    assert {name: (t.shape, t.dtype) for name, t in after.items()} == {
        name: (t.shape, t.dtype) for name, t in before.items()
    }


@every_kind
def test_the_same_seed_gives_the_same_weights_and_only_the_model_changes(kind: str) -> None:
    given = task()
    start(spec_of(kind), given).close()  # gives matching its references
    spec = spec_of(kind)
    spec_before, recipe_before, parts = copy.deepcopy(spec), copy.deepcopy(given.recipe), contents(given)
    bystander = copy.deepcopy(given.model)
    bystander_before = state(bystander)
    held = {field.name: getattr(given, field.name) for field in dataclasses.fields(given)}

    seen = [state(given.model), *(state(given.model) for _ in start(spec, given)), state(given.model)]

    assert all(same(*pair) for pair in zip(seen, run_of(kind).states, strict=True))
    assert spec == spec_before
    assert given.recipe == recipe_before
    assert all(torch.equal(*pair) for pair in zip(parts, contents(given), strict=True))
    assert same(state(bystander), bystander_before)
    assert all(getattr(given, name) is value for name, value in held.items())


@every_kind
def test_another_seed_gives_other_weights_where_anything_is_drawn(kind: str) -> None:
    alike = all(map(same, run_of(kind).states, run_of(kind, seed=4).states))
    assert alike == (kind in DRAWS_NOTHING)


@every_kind
def test_the_callers_random_numbers_do_not_reach_the_method(kind: str) -> None:
    given = task(dropping)
    for _ in start(spec_of(kind), given):
        torch.rand(3), np.random.rand(), random.random()

    assert same(state(given.model), run_of(kind, dropping).states[-1])


@every_kind
def test_the_random_state_is_untouched_between_steps_and_after(kind: str) -> None:
    assert run_of(kind, dropping).untouched


@every_kind
def test_the_model_is_left_in_evaluation_mode_and_without_gradients(kind: str) -> None:
    model = run_of(kind).model
    assert not any(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())


@every_kind
@pytest.mark.parametrize("taken", [1, 3])
def test_a_run_closed_early_leaves_finite_weights_and_evaluation_mode(kind: str, taken: int) -> None:
    given = task()
    before = random_state()
    steps = start(spec_of(kind), given)
    for _ in range(taken):
        next(steps)
    steps.close()

    assert all(torch.isfinite(tensor).all() for tensor in state(given.model).values())
    assert not any(module.training for module in given.model.modules())
    assert random_state() == before


@every_kind
@pytest.mark.parametrize("empty", ["forget", "remain", "guide", "criterion"])
def test_an_empty_set_is_refused_before_anything_changes(kind: str, empty: str) -> None:
    given = task()
    setattr(given, empty, getattr(given, empty).take(torch.arange(0)))
    before = state(given.model)

    with pytest.raises(MethodRefused, match="empty"):
        start(spec_of(kind), given)

    assert same(state(given.model), before)


@every_kind
@pytest.mark.parametrize("other", ["remain", "guide", "criterion"])
def test_overlapping_sets_are_refused_without_naming_the_sample(kind: str, other: str) -> None:
    given = task()
    setattr(given, other, given.forget)
    before = state(given.model)

    with pytest.raises(MethodRefused, match="share a sample") as refusal:
        start(spec_of(kind), given)

    assert same(state(given.model), before)
    assert given.forget.ids[0] not in str(refusal.value)


@every_kind
def test_progress_counts_up_and_never_passes_its_total(kind: str) -> None:
    seen, outcome = run_of(kind).progress, run_of(kind).outcome
    numbers = [progress.step for progress in seen]
    assert seen
    assert numbers == sorted(set(numbers))
    assert all(1 <= progress.step <= progress.total and progress.phase == "unlearn" for progress in seen)
    assert [progress.total for progress in seen] == sorted(progress.total for progress in seen)
    assert all(isinstance(value, float) for progress in seen for value in progress.metrics.values())
    assert numbers[-1] <= outcome.steps <= seen[-1].total
    assert outcome.stopped_because in {"matched", "budget", "utility", "completed"}


@every_kind
def test_a_single_sample_can_be_forgotten(kind: str) -> None:
    given = task(forgotten=1)
    run_to_completion(start(spec_of(kind), given))

    assert all(torch.isfinite(tensor).all() for tensor in state(given.model).values())


@every_kind
@pytest.mark.parametrize("whole_class", [False, True])
def test_a_class_that_the_criterion_lacks_can_be_forgotten(kind: str, whole_class: bool) -> None:
    given = task()
    given.criterion = only(given.criterion, given.criterion.targets != 2)
    if whole_class:
        given.forget = only(given.forget, given.forget.targets == 2)
    assert (given.forget.targets == 2).any()
    run_to_completion(start(spec_of(kind), given))

    assert all(torch.isfinite(tensor).all() for tensor in state(given.model).values())


@every_kind
@pytest.mark.parametrize("build", [build for build in BUILDS if build is not normalised])
def test_models_without_batch_norm_with_dropout_and_of_convolutions_serve(
    kind: str, build: Callable[[], nn.Module]
) -> None:
    """Most others here have batch norm and linear layers."""
    assert all(torch.isfinite(tensor).all() for tensor in run_of(kind, build).states[-1].values())


@every_kind
def test_the_forget_set_does_not_move_batch_norms_statistics(kind: str) -> None:
    given = task()
    far = given.forget.inputs + 1000
    given.forget = SampleSet(ids=given.forget.ids, inputs=far, targets=given.forget.targets)
    first = given.model[0]
    furthest = given.remain.inputs.abs().amax()

    for _ in start(spec_of(kind), given):
        assert first.running_mean.abs().amax() < furthest
        assert first.running_var.amax() < furthest**2

    norms = [module for module in given.model.modules() if isinstance(module, nn.BatchNorm1d)]
    assert first.running_mean.abs().amax() < furthest
    assert all(torch.isfinite(norm.running_var).all() and (norm.running_var > 0).all() for norm in norms)


@every_kind
def test_frozen_weights_stay_frozen(kind: str) -> None:
    def build() -> nn.Module:
        model = plain()
        model[0].requires_grad_(False)
        return model

    given = task(plain)
    given.build = build
    given.model[0].requires_grad_(False)
    before = state(given.model[0])
    run_to_completion(start(spec_of(kind), given))

    assert not given.model[0].weight.requires_grad
    assert kind == "retrain" or same(state(given.model[0]), before)


@every_kind
def test_a_lower_precision_serves(kind: str) -> None:
    given = task()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        run_to_completion(start(spec_of(kind), given))

    after = state(given.model)
    assert all(torch.isfinite(tensor).all() for tensor in after.values())
    assert {tensor.dtype for name, tensor in after.items() if "num_batches" not in name} == {torch.float32}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@every_kind
@pytest.mark.parametrize("build", BUILDS)
def test_a_cuda_device_serves_and_keeps_its_random_state(kind: str, build: Callable[[], nn.Module]) -> None:
    given = task(build)
    given.model.to("cuda")
    for name in ("forget", "remain", "guide", "criterion"):
        setattr(given, name, getattr(given, name).to("cuda"))
    before = torch.cuda.get_rng_state()
    for _ in start(spec_of(kind), given):
        assert torch.equal(torch.cuda.get_rng_state(), before)

    assert all(torch.isfinite(tensor).all() and tensor.is_cuda for tensor in state(given.model).values())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["ltu", "ieu", "matching"])
@pytest.mark.parametrize("name", ["GRU", "LSTM as on cuDNN"])
def test_a_recurrent_network_is_unlearned_where_cudnn_refuses_its_gradient(kind: str, name: str) -> None:
    given = make_task(KINDS[name])
    given.model.to("cuda")
    for name in ("forget", "remain", "guide", "criterion"):
        setattr(given, name, getattr(given, name).to("cuda"))
    if kind != "matching":
        given.references = None
    run_to_completion(start(spec_of(kind), given))

    assert all(torch.isfinite(tensor).all() and tensor.is_cuda for tensor in state(given.model).values())


WITH_REFERENCES = {"ltu", "ieu", "matching"}
"""They aim at reference predictions if there are some; the last needs them. The others do not read them."""

MAY_CHANGE_NOTHING = {"ssd"}
"""It may find nothing to dampen."""


def memorised(name: str) -> Task:
    """A task of the objective whose model knows its training samples by heart."""
    return make_task(OBJECTIVES[name], epochs=60)


def is_refused(kind: str, name: str, *, references: bool) -> bool:
    objective = OBJECTIVES[name].objective
    offered = {
        Need.CLASSES: objective.classes is not None,
        Need.CLASS_PROBABILITIES: objective.logits is not None,
        Need.RANDOM_TARGETS: objective.scramble is not None or (kind == "ltu" and references),
        Need.REFERENCES: references,
        Need.RANDOM_ACCESS: True,
        Need.WHOLE_MODEL: True,
        Need.SLICES: True,  # `start` gives them
    }
    return not all(offered[need] for need in NEEDS[kind])


def quick(kind: str, name: str, *, references: bool) -> bool:
    """Jobs run the methods of PRODUCTION with any objective, LTU by references as by random targets; baselines are compared."""
    first = kind in PRODUCTION and not (kind == "ltu" and references and not is_refused(kind, name, references=False))
    return first or name == "classification" or is_refused(kind, name, references=references)


METHODS_BY_REFERENCES = [(kind, False) for kind in sorted(METHODS.keys() - OF_SOME_MODELS - {"matching"})] + [
    (kind, True) for kind in sorted(WITH_REFERENCES)
]


@pytest.mark.parametrize(
    ("kind", "name", "references"),
    [
        pytest.param(kind, name, references, marks=() if quick(kind, name, references=references) else pytest.mark.slow)
        for name in sorted(OBJECTIVES)
        for kind, references in METHODS_BY_REFERENCES
    ],
)
def test_every_objective_is_served_or_refused_with_the_reason_before_anything_changes(
    kind: str, name: str, references: bool
) -> None:
    """A method that is given samples which the model knows by heart, and leaves the model as it is, has done nothing quietly."""
    given = memorised(name)
    if not references:
        given.references = None
    refused = is_refused(kind, name, references=references)
    declared = name.split(",")[0].replace(" ", "_").replace("-", "_")
    if declared in OFFERS:
        assert refused is not suits(kind, declared)
    before = state(given.model)
    if refused:
        with pytest.raises(MethodRefused, match="this objective"):
            next(start(spec_of(kind), given))
        assert same(state(given.model), before)
        return

    run_to_completion(start(spec_of(kind), given))

    after = state(given.model)
    assert all(torch.isfinite(tensor).all() for tensor in after.values())
    assert kind in MAY_CHANGE_NOTHING or not same(after, before)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_guide_attacks_learn_from_pairs_for_every_objective(name: str) -> None:
    given = memorised(name)
    run_to_completion(unlearn(LTU(steps=2, repair_steps=0, passes=0.0, guide="pairs"), given))

    assert all(torch.isfinite(tensor).all() for tensor in state(given.model).values())
