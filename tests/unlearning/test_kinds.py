"""Every kind of model goes through everything: each method, the audit, preparation, references, files."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.unlearning.data.test_references import key
from tests.unlearning.kinds import CLASSES, KINDS, OBJECTIVES, RECIPE, FrozenNorm, Kind, make_task, samples
from tests.unlearning.methods.test_conformance import OF_SOME_MODELS, spec_of
from tests.unlearning.small import same, start, state
from unlearning.audit.attacks.study import make_study, run_shadows
from unlearning.audit.audit import audit
from unlearning.audit.comparison import compare_with_chance
from unlearning.data.objectives.objective import fitted
from unlearning.data.samples import joined
from unlearning.data.workload import Workload
from unlearning.errors import MethodRefused
from unlearning.methods.ltu.queries import neighbourhood
from unlearning.methods.registry import METHODS, unlearn
from unlearning.networks import copy_network
from unlearning.specs import LTU, PRODUCTION
from unlearning.specs.audit import AuditSpec
from unlearning.specs.references import ReferencePlan
from unlearning.specs.training import Ready2Unlearn
from unlearning.steps import run_to_completion
from unlearning.storage import load_weights, save_weights
from unlearning.training.loop import fit
from unlearning.training.references import prepare_references

pytestmark = pytest.mark.usefixtures("hasty_guides")

FEW = {"steps": 2, "epochs": 1, "repair_steps": 2, "passes": 0.0, "attackers": 2, "batch_size": 16}
QUICK = AuditSpec(
    replicates=100, vector_seeds=1, relearn_samples=8, relearn_steps=4, relearn_controls=3, relearners=("sgd",)
)

every_objective_too = pytest.mark.parametrize(
    "kind", [*KINDS.values(), *OBJECTIVES.values()], ids=[*KINDS, *OBJECTIVES]
)


OF_ANOTHER_FORM = {
    "a dict with a mask, by name",
    "a dict with a mask",
    "a named tuple of inputs",
    "two arguments",
    "a data set of dicts with a mask",
    "a named tuple",
    "a dict",
    "a tuple",
}
"""What is special of these is in which form inputs and outputs come. Every method leaves that to the objective."""

METHODS_AND_KINDS = [
    # Jobs run the methods of PRODUCTION; the others are compared with them, and some take the same steps on other losses.
    pytest.param(
        method,
        KINDS[name],
        id=f"{method}-{name}",
        marks=pytest.mark.slow if method not in PRODUCTION or (method == "ltu" and name in OF_ANOTHER_FORM) else (),
    )
    for method in sorted(METHODS.keys() - {"npo", "sim_npo", *OF_SOME_MODELS})
    for name in KINDS
]


@pytest.mark.parametrize(("method", "kind"), METHODS_AND_KINDS)
def test_every_method_unlearns_every_kind(method: str, kind: Kind) -> None:
    given = make_task(kind)
    spec = spec_of(method)
    names = {field.name for field in dataclasses.fields(spec)}
    spec = dataclasses.replace(spec, **{name: value for name, value in FEW.items() if name in names})
    if method in ("ltu", "ieu"):
        given.references = None
    before = state(given.model)
    run_to_completion(start(spec, given))

    after = state(given.model)
    assert all(torch.isfinite(tensor).all() for tensor in after.values())
    assert {name: (t.shape, t.dtype) for name, t in after.items()} == {n: (t.shape, t.dtype) for n, t in before.items()}


@every_objective_too
def test_every_kind_is_audited(kind: Kind) -> None:
    given = make_task(kind)
    original = copy_network(given.model)
    with torch.no_grad():
        for parameter in given.model.parameters():
            parameter.mul_(0.9)
    before = state(original), state(given.model)
    sets = {name: samples(kind, 30, name=name, seed=seed) for seed, name in enumerate(("held_out", "test"), 5)}
    found = run_to_completion(
        audit(
            original=original,
            unlearned=given.model,
            forget=given.forget,
            remain=given.remain,
            objective=given.objective,
            spec=QUICK,
            **sets,
        )
    )

    assert found.samples["forget"] == 9
    assert found.merit is given.objective.utility
    assert any("leaves" in limit for limit in found.limits) is (kind.build is FrozenNorm)
    assert found.change.finite
    assert same(state(original), before[0])
    assert same(state(given.model), before[1])


@every_objective_too
def test_every_kind_is_prepared_saved_loaded_and_compared_with_chance(kind: Kind, tmp_path: Path) -> None:
    train = samples(kind, 45, name="train", seed=1)
    recipe = dataclasses.replace(RECIPE, epochs=1, readiness=Ready2Unlearn(every=1, warm_up=0.0))
    objective = fitted(kind.objective, train.targets)
    model = fit(kind.build, train, recipe, objective=objective, seed=0)
    loaded = kind.build()
    load_weights(loaded, *save_weights(model, tmp_path))

    assert same(state(loaded), state(model))
    assert compare_with_chance(loaded.eval(), train, objective=objective).samples == 45


@every_objective_too
def test_every_kind_has_reference_predictions(kind: Kind, tmp_path: Path) -> None:
    sets = {name: samples(kind, 18, name=name, seed=seed) for seed, name in enumerate(("train", "held_out", "test"))}
    recipe = dataclasses.replace(RECIPE, epochs=1)
    workload = Workload(name="kind", build=kind.build, objective=kind.objective, recipe=recipe, **sets)
    plan = ReferencePlan(rounds=1, audit_rounds=1)
    found = run_to_completion(prepare_references(workload, plan, seed=0, folder=tmp_path, key=key))

    read, predicts = workload.objective.read, workload.objective.predicts
    width = 0
    if read is not None and predicts is not None:
        kept = workload.objective.recorded or (lambda model, inputs: predicts.predictions(read(model, inputs)))
        width = kept(kind.build(), sets["train"].inputs).shape[1]
    assert found.predictions.shape == (36, width)


@pytest.mark.parametrize("method", sorted(METHODS.keys() - OF_SOME_MODELS))
def test_no_method_moves_what_training_leaves_as_it_is(method: str) -> None:
    """Batch norm that the owner keeps in evaluation mode, and parameters that require no gradient."""
    kind = Kind(build=FrozenNorm)
    given = make_task(kind)
    frozen = ("backbone.", "kept.")
    before = {name: t for name, t in state(given.model).items() if name.startswith(frozen)}
    run_to_completion(start(spec_of(method), given))

    assert same({name: t for name, t in state(given.model).items() if name.startswith(frozen)}, before)
    assert given.model.moved.running_mean.norm() > 0


def test_the_head_is_the_layer_that_gives_the_logits() -> None:
    found = {}
    for name in ("two layers of the head's shape", "a head a token", "one output", "attention"):
        given = make_task(KINDS[name])
        found[name] = neighbourhood(given.model, given.objective, forget=given.forget, remain=given.remain)
    given = make_task(KINDS["two layers of the head's shape"])
    with torch.no_grad():
        features = given.model.body(given.forget.inputs).relu()
    cosine = torch.nn.functional.cosine_similarity(features[:, None], features[None], dim=-1)
    near = neighbourhood(given.model, given.objective, forget=given.forget, remain=given.forget)

    assert near.similarity is not None
    torch.testing.assert_close(near.similarity(torch.arange(9)), cosine)
    assert found["a head a token"].similarity is None
    for name in ("one output", "attention"):
        similarity, rows = found[name].similarity, found[name].label_similarity
        assert similarity is not None
        assert rows is not None
        assert similarity(torch.arange(9)).shape == (9, 36)
        assert len(rows) == (2 if name == "one output" else CLASSES)


@pytest.mark.parametrize(
    "name", ["bfloat16", "frozen batch norm", "an object that an own objective unwraps", "LSTM as on cuDNN"]
)
def test_attacks_with_reference_models_serve_every_kind(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    given = make_task(kind)
    given.references = None
    held_out = samples(kind, 24, name="held_out", seed=5)
    found = run_to_completion(
        run_shadows(make_study(spec_of("fine_tune"), given, held_out, seed=0), count=2, folder=tmp_path)
    )

    assert np.isfinite(found.before).all()
    assert np.isfinite(found.after).all()


def test_a_model_that_is_frozen_as_a_whole_is_refused_at_once() -> None:
    kind = KINDS["a tuple"]
    given = make_task(kind)
    sets = {name: getattr(given, name) for name in ("forget", "remain")}
    sets |= {name: samples(kind, 9, name=name, seed=5) for name in ("held_out", "test")}
    given.model.requires_grad_(False)
    with pytest.raises(MethodRefused, match="requires a gradient"):
        next(audit(original=given.model, unlearned=given.model, objective=kind.objective, spec=QUICK, **sets))
    with pytest.raises(MethodRefused, match="requires a gradient"):
        unlearn(spec_of("ieu"), given)


def test_ltu_with_references_serves_attention_too() -> None:
    given = make_task(KINDS["attention"])
    run_to_completion(unlearn(LTU(steps=2, repair_steps=0, passes=0.0), given))

    assert all(torch.isfinite(tensor).all() for tensor in state(given.model).values())


def test_an_audit_cannot_decide_on_a_class_of_which_it_has_no_held_out_sample() -> None:
    """Not on the unchanged model, and not on one that never saw the class, which knows less of it than of the others."""
    kind = KINDS["a tuple"]
    given = make_task(kind)
    whole = joined(given.forget, given.remain)
    inside = whole.targets == 2
    forget, remain = (whole.take(mask.nonzero().flatten()) for mask in (inside, ~inside))
    held_out = samples(kind, 60, name="held_out", seed=5)
    for model in (copy_network(given.model), fit(kind.build, remain, RECIPE, objective=kind.objective, seed=1)):
        found = run_to_completion(
            audit(
                original=given.model,
                unlearned=model,
                forget=forget,
                remain=remain,
                held_out=held_out.take((held_out.targets != 2).nonzero().flatten()),
                test=samples(kind, 30, name="test", seed=6),
                objective=kind.objective,
                spec=QUICK,
            )
        )
        membership = {f.code: f.passed for f in found.verdict.findings if "membership" in f.code}
        assert membership == {"negative_control_membership": None, "membership_matched": None}
        assert [relearning.ratio for relearning in found.relearnings] == [None]
