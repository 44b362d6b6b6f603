"""Who is in and who is out: balanced, disjoint, the same for a seed. Of shadow models only their margins are stored."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.unlearning.audit.attacks.conftest import QUICK
from tests.unlearning.small import OBJECTIVE, plain, samples, task
from unlearning.audit.attacks.study import (
    Repeats,
    Shadows,
    Study,
    cache_key,
    estimate_cost,
    make_study,
    members_of,
    own_references,
    run_repeat,
    run_repeats,
    run_shadow,
    run_shadows,
    seed_of,
)
from unlearning.audit.signals import observe
from unlearning.data.samples import joined
from unlearning.errors import MethodRefused
from unlearning.methods.registry import unlearn
from unlearning.specs import FineTune, Matching, SalUn
from unlearning.specs.references import ReferencePlan
from unlearning.state import State
from unlearning.steps import run_to_completion
from unlearning.task import Task
from unlearning.training.loop import fit, fresh


def test_the_pool_is_the_forget_set_and_as_many_held_out_samples(small_study: Study) -> None:
    n = len(small_study.task.forget)

    assert small_study.pool.ids[:n] == small_study.task.forget.ids
    assert len(small_study.others) == n
    assert len(small_study.population) == 80 - n
    ids = [set(part.ids) for part in (small_study.pool, small_study.population, small_study.task.remain)]
    assert len(set.union(*ids)) == sum(map(len, ids))


def test_a_small_held_out_set_is_shared_evenly() -> None:
    found = make_study(FineTune(), task(plain), samples(9, seed=5), seed=0)

    assert (len(found.others), len(found.population)) == (4, 5)


def test_every_sample_is_in_half_of_the_models_and_each_model_has_half_of_the_samples(small_study: Study) -> None:
    members = np.stack([members_of(small_study, number) for number in range(10)])

    assert (members.sum(axis=0) == 5).all()
    assert (members.sum(axis=1) == len(small_study.pool) // 2).all()
    assert not (members[0] == members[2]).all()


def test_seeds_differ_by_run_and_purpose(small_study: Study) -> None:
    found = {seed_of(small_study, purpose, number) for purpose in range(3) for number in range(50)}

    assert len(found) == 150


def test_results_are_shared_by_equal_studies_alone(small_study: Study) -> None:
    again = dataclasses.replace(small_study)
    moved = small_study.task.forget
    changed = dataclasses.replace(moved, inputs=moved.inputs + torch.eye(len(moved), moved.inputs.shape[1]) * 1e-6)
    others = [
        dataclasses.replace(small_study, seed=8),
        dataclasses.replace(small_study, spec=SalUn()),
        dataclasses.replace(small_study, task=dataclasses.replace(small_study.task, forget=changed)),
        dataclasses.replace(
            small_study,
            task=dataclasses.replace(small_study.task, recipe=dataclasses.replace(small_study.task.recipe, epochs=1)),
        ),
    ]

    assert cache_key(again, "shadows") == cache_key(small_study, "shadows")
    assert (
        len(
            {cache_key(one, "shadows") for one in others}
            | {cache_key(small_study, kind) for kind in ("shadows", "repeats")}
        )
        == 6
    )


def test_the_frozen_weights_of_the_original_are_part_of_the_key(small_study: Study) -> None:
    """Each new model takes them over, so results with another pretrained backbone are others."""

    def frozen() -> nn.Module:
        network = plain()
        next(network.parameters()).requires_grad_(False)
        return network

    keys = []
    for shift in (0.0, 0.0, 1.0):
        original = fresh(frozen, seed=0)
        next(original.parameters()).add_(shift)
        task_of = dataclasses.replace(small_study.task, build=frozen, model=original)
        keys.append(cache_key(dataclasses.replace(small_study, task=task_of), "shadows"))
    assert keys[0] == keys[1] != keys[2]


def test_what_cannot_be_studied_is_refused() -> None:
    with pytest.raises(MethodRefused, match="held-out"):
        make_study(FineTune(), task(plain), samples(3, seed=5), seed=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shadows")


@pytest.fixture(scope="module")
def four(small_study: Study, folder: Path) -> Shadows:
    """Four shadow models, which are stored in `folder`."""
    return run_to_completion(run_shadows(small_study, count=4, folder=folder))


def test_a_shadow_model_is_trained_with_its_members_and_then_unlearns_them(small_study: Study, tmp_path: Path) -> None:
    found = run_to_completion(run_shadow(small_study, 3, tmp_path))
    given: Task = small_study.task
    inside = small_study.pool.take(torch.from_numpy(np.flatnonzero(members_of(small_study, 3))))
    seed = seed_of(small_study, 0, 3)
    model = fit(given.build, joined(given.remain, inside), given.recipe, objective=OBJECTIVE, seed=seed)
    seen = joined(small_study.pool, small_study.population)
    np.testing.assert_allclose(found["before"], observe(model, seen, objective=OBJECTIVE).margin)
    run_to_completion(
        unlearn(small_study.spec, dataclasses.replace(given, model=model, forget=inside, seed=seed, state=State()))
    )

    np.testing.assert_allclose(found["after"], observe(model, seen, objective=OBJECTIVE).margin)
    assert not np.allclose(found["before"], found["after"])


def test_with_a_plan_each_shadow_model_unlearns_with_references_of_its_own(small_study: Study, tmp_path: Path) -> None:
    plan = ReferencePlan(rounds=1, audit_rounds=1, epochs=0.5)
    study = dataclasses.replace(small_study, spec=Matching(steps=5, batch_size=16), plan=plan)
    found = run_to_completion(run_shadow(study, 3, tmp_path))
    kept = sorted((tmp_path / "references").rglob("*.npz"))
    given, inside = study.task, study.pool.take(torch.from_numpy(np.flatnonzero(members_of(study, 3))))

    # A reference model of the shadow model's own training set says of its members what the method aimed at.
    seed = seed_of(study, 0, 3)
    references = run_to_completion(own_references(study, inside, seed=seed, folder=tmp_path / "references"))
    assert references is not None
    assert len(references) == len(inside)
    seen = joined(given.remain, inside, given.guide, given.criterion)
    first = dict(np.load(kept[0]))
    assert len(kept) == 4
    assert len(first["seen"]) == len(seen)
    model = fit(given.build, joined(given.remain, inside), given.recipe, objective=OBJECTIVE, seed=seed)
    task = dataclasses.replace(given, model=model, forget=inside, seed=seed, state=State(), references=references)
    run_to_completion(unlearn(study.spec, task))
    pool = joined(study.pool, study.population)
    np.testing.assert_allclose(found["after"], observe(model, pool, objective=OBJECTIVE).margin, atol=1e-6)

    # Another method's study of the same models uses them too.
    times = [path.stat().st_mtime_ns for path in kept]
    run_to_completion(run_shadow(dataclasses.replace(study, spec=QUICK), 3, tmp_path))
    assert [path.stat().st_mtime_ns for path in sorted((tmp_path / "references").rglob("*.npz"))] == times
    with pytest.raises(MethodRefused, match="reference predictions"):
        run_to_completion(run_shadow(dataclasses.replace(study, plan=None), 3, tmp_path))


def test_members_have_larger_margins_as_trained(four: Shadows) -> None:
    pool = four.before[:, : four.members.shape[1]]

    assert four.members.shape == (4, 48)
    assert four.before.shape == four.after.shape == (4, 48 + 56)
    assert pool[four.members].mean() > pool[~four.members].mean() + 1


def test_an_interrupted_study_continues_and_gives_the_same_results(
    small_study: Study, four: Shadows, tmp_path: Path
) -> None:
    steps = run_shadows(small_study, count=4, folder=tmp_path)
    for progress in steps:
        if progress.step == 2 and progress.metrics["run"] > 0.3:
            break
    steps.close()
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}
    resumed = run_to_completion(run_shadows(small_study, count=4, folder=tmp_path))

    assert len(written) == 2
    assert all(path.stat().st_mtime_ns == when for path, when in written.items())
    for name in ("members", "before", "after"):
        np.testing.assert_array_equal(getattr(resumed, name), getattr(four, name))


@pytest.mark.usefixtures("four")
def test_neither_weights_nor_ids_are_kept(small_study: Study, folder: Path) -> None:
    content = b"".join(path.read_bytes() for path in folder.rglob("*.npz"))

    assert content
    assert not any(sample.encode() in content for sample in small_study.pool.ids)
    assert len(content) < 4 * sum(p.numel() for p in small_study.task.model.parameters()) * 8


def test_a_repeat_retrains_from_a_seed_of_its_own(small_study: Study, tmp_path: Path) -> None:
    found = run_to_completion(run_repeat(small_study, 1, tmp_path))
    given = small_study.task
    retrained = fit(given.build, given.remain, given.recipe, objective=OBJECTIVE, seed=seed_of(small_study, 2, 1))
    seen = observe(retrained, given.remain, objective=OBJECTIVE)

    np.testing.assert_allclose(found["retrained"], observe(retrained, given.forget, objective=OBJECTIVE).margin)
    assert found["retrained_accuracies"][0] == seen.correct.mean()


def test_each_repeat_differs_and_all_are_stacked(small_study: Study, tmp_path: Path) -> None:
    found = run_to_completion(run_repeats(small_study, count=4, folder=tmp_path))

    assert found.unlearned.shape == found.retrained.shape == (4, len(small_study.task.forget))
    assert found.unlearned_accuracies.shape == (4, 2)
    assert len(np.unique(found.retrained[:, 0])) == 4


def test_the_utility_is_the_product_of_the_ratios_to_retraining() -> None:
    nothing = np.zeros((2, 1))
    found = Repeats(
        unlearned=nothing,
        retrained=nothing,
        unlearned_accuracies=np.array([[0.8, 0.6], [1.0, 0.6]]),
        retrained_accuracies=np.array([[1.0, 0.8], [1.0, 0.8]]),
    )

    assert found.utility == pytest.approx(0.9 * 0.75)


@pytest.mark.parametrize(
    ("best", "unlearned", "retrained", "wanted"),
    [
        (0.0, -0.9, -0.7, math.exp(-0.2)),  # a log-likelihood, in nats: the ratio of the likelihoods
        (1.0, -0.2, 0.5, 0.0),  # worse than a guess, where retraining is not
        (1.0, 0.3, -0.1, 1.0),  # retraining itself is worse than a guess
    ],
)
def test_a_merit_below_zero_has_no_ratio(best: float, unlearned: float, retrained: float, wanted: float) -> None:
    nothing = np.zeros((2, 1))
    found = Repeats(
        unlearned=nothing,
        retrained=nothing,
        unlearned_accuracies=np.full((2, 1), unlearned),
        retrained_accuracies=np.full((2, 1), retrained),
        best=best,
    )

    assert found.utility == pytest.approx(wanted)


@pytest.mark.usefixtures("four")
def test_runs_that_are_done_are_not_counted(small_study: Study, folder: Path, tmp_path: Path) -> None:
    before, after = (
        estimate_cost(small_study, shadow_count=6, repeat_count=4, folder=where) for where in (tmp_path, folder)
    )

    assert (before.shadows, before.repeats) == (6, 4)
    assert (after.shadows, after.repeats) == (2, 4)
    assert before.seconds > 0


@pytest.mark.usefixtures("four")
def test_nothing_left_costs_nothing(small_study: Study, folder: Path) -> None:
    assert estimate_cost(small_study, shadow_count=4, repeat_count=0, folder=folder).seconds == 0


def test_the_estimate_leaves_the_model_alone(small_study: Study, tmp_path: Path) -> None:
    before = {name: p.clone() for name, p in small_study.task.model.state_dict().items()}
    estimate_cost(small_study, shadow_count=4, repeat_count=4, folder=tmp_path)

    assert all(p.equal(before[name]) for name, p in small_study.task.model.state_dict().items())
    assert not list(tmp_path.iterdir())
