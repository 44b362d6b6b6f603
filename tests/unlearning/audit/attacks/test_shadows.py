"""Shadow models: trained with their members, made to forget them by the judged method, and kept as signals alone."""

import dataclasses
from pathlib import Path

import numpy as np
import torch

from tests.unlearning.small import OBJECTIVE
from unlearning.audit.attacks.shadows import shadow, shadows
from unlearning.audit.attacks.study import Study, members_of, seed_of
from unlearning.audit.signals import observe
from unlearning.data.samples import joined
from unlearning.methods.registry import unlearn
from unlearning.state import State
from unlearning.task import Task, run_to_completion
from unlearning.training.loop import fit


def test_a_shadow_model_is_trained_with_its_members_and_then_unlearns_them(small_study: Study) -> None:
    found = run_to_completion(shadow(small_study, 3))
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


def test_members_have_larger_margins_as_trained(small_study: Study, tmp_path: Path) -> None:
    found = run_to_completion(shadows(small_study, count=4, folder=tmp_path))
    pool = found.before[:, : found.members.shape[1]]

    assert found.members.shape == (4, 48)
    assert found.before.shape == found.after.shape == (4, 48 + 56)
    assert pool[found.members].mean() > pool[~found.members].mean() + 1


def test_an_interrupted_study_goes_on_and_ends_the_same(small_study: Study, tmp_path: Path) -> None:
    whole = run_to_completion(shadows(small_study, count=4, folder=tmp_path / "whole"))
    steps = shadows(small_study, count=4, folder=tmp_path / "parts")
    for progress in steps:
        if progress.step == 2 and progress.metrics["run"] > 0.3:
            break
    steps.close()
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "parts").rglob("*.npz")}
    resumed = run_to_completion(shadows(small_study, count=4, folder=tmp_path / "parts"))

    assert len(kept) == 2
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
    for name in ("members", "before", "after"):
        np.testing.assert_array_equal(getattr(resumed, name), getattr(whole, name))


def test_neither_weights_nor_ids_are_kept(small_study: Study, tmp_path: Path) -> None:
    run_to_completion(shadows(small_study, count=4, folder=tmp_path))
    content = b"".join(path.read_bytes() for path in tmp_path.rglob("*.npz"))

    assert not any(sample.encode() in content for sample in small_study.pool.ids)
    assert len(content) < 4 * sum(p.numel() for p in small_study.task.model.parameters()) * 8
