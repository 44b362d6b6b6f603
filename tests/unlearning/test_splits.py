"""All sets that a run uses, from the split of the data to those of the shadow models, are disjoint and depend on one seed.

A popular method's public code draws its splits anew from a default seed in each script, so that part of its forget set was never
trained on and validation data were in the training set.
"""

import dataclasses
import itertools

import pytest

from tests.unlearning.small import OBJECTIVE, RECIPE, plain, samples
from unlearning.audit.attacks.study import Study, make_study, members_of
from unlearning.data.samples import SampleSet, joined, partition
from unlearning.data.workload import Workload, split_held_out
from unlearning.errors import MethodRefused
from unlearning.specs import FineTune
from unlearning.task import Task
from unlearning.training.loop import fresh
from unlearning.training.readiness import revocable_split
from unlearning.tuning import validation_task

EVERYTHING = samples(400, seed=1)


def split(seed: int) -> tuple[Workload, Task, SampleSet, Study]:
    """A workload, a task on it, the audit's part of D_v, and a study of the task."""
    train, held_out, test = partition(EVERYTHING, (200, 120, 80), seed=seed)
    workload = Workload(
        name="small", build=plain, train=train, held_out=held_out, test=test, objective=OBJECTIVE, recipe=RECIPE
    )
    parts = split_held_out(held_out, seed=seed)
    forget, remain = partition(train, (20, 180), seed=seed)
    task = Task(
        model=fresh(plain, seed=seed), build=plain, objective=OBJECTIVE, recipe=RECIPE, forget=forget, remain=remain,
        guide=parts.guide, criterion=parts.criterion, seed=seed,
    )  # fmt: skip
    return workload, task, parts.audit, make_study(FineTune(), task, parts.audit, seed=seed)


def names(*parts: SampleSet) -> list[set[str]]:
    return [set(part.ids) for part in parts]


def disjoint(*parts: SampleSet) -> bool:
    return not any(one & other for one, other in itertools.combinations(names(*parts), 2))


@pytest.mark.parametrize("seed", range(5))
def test_no_set_shares_a_sample_with_another(seed: int) -> None:
    workload, task, audit, of = split(seed)
    inner = validation_task(task, size=20, seed=seed)()

    assert disjoint(task.forget, task.remain, task.guide, task.criterion, audit, workload.test)
    assert disjoint(task.forget, inner.forget, inner.remain, inner.guide, inner.criterion, audit, workload.test)
    assert disjoint(of.others, of.population, task.forget, task.remain, task.guide, task.criterion, workload.test)


@pytest.mark.parametrize("seed", range(5))
def test_all_that_is_forgotten_was_trained_on_and_all_that_is_compared_with_it_was_not(seed: int) -> None:
    workload, task, audit, of = split(seed)
    trained = set(workload.train.ids)

    assert set(task.forget.ids) <= trained
    assert set(task.forget.ids) | set(task.remain.ids) == trained
    for unseen in (task.guide, task.criterion, audit, of.others, of.population, workload.test):
        assert not set(unseen.ids) & trained


def test_what_a_shadow_model_forgets_is_what_it_was_trained_on() -> None:
    _, task, _, of = split(0)
    for number in range(4):
        inside = {sample for sample, member in zip(of.pool.ids, members_of(of, number), strict=True) if member}
        outside = set(of.pool.ids) - inside

        assert inside
        assert outside
        assert not inside & set(task.remain.ids)


def test_one_seed_gives_one_split_and_another_another() -> None:
    def all_ids(seed: int) -> list[tuple[str, ...]]:
        workload, task, audit, of = split(seed)
        inner = validation_task(task, size=20, seed=seed)()
        revocable = revocable_split(workload.train, share=0.5, seed=seed).revocable
        parts = (task.forget, task.remain, task.guide, task.criterion, audit, inner.forget, of.others, revocable)
        return [part.ids for part in parts]

    assert all_ids(3) == all_ids(3)
    assert not any(one == other for one, other in zip(all_ids(3), all_ids(4), strict=True))


def test_readiness_splits_what_is_trained_on_and_nothing_else() -> None:
    workload, _, _, _ = split(0)
    parts = revocable_split(workload.train, share=0.5, seed=0)

    assert disjoint(parts.revocable, parts.stable)
    assert set(joined(parts.revocable, parts.stable).ids) == set(workload.train.ids)


def test_data_that_stand_in_two_sets_are_refused_wherever_they_meet() -> None:
    _, task, _, _ = split(0)
    with pytest.raises(MethodRefused, match="share a sample"):
        dataclasses.replace(task, guide=task.criterion).check()
