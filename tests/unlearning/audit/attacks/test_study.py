"""Who is in and who is out: balanced, disjoint, the same for a seed."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from tests.unlearning.small import plain, samples, task
from unlearning.audit.attacks.study import Study, cache_key, make_study, members_of, seed_of
from unlearning.errors import MethodRefused
from unlearning.specs import FineTune, SalUn
from unlearning.training.loop import fresh


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
