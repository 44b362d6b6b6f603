"""Amnesiac relabelling: wrong labels, drawn once, mixed with the remaining set."""

import pytest
import torch

from tests.unlearning.methods.watching import Seen, places, watching, without_classes
from tests.unlearning.small import plain, same, state, task
from unlearning.errors import MethodRefused
from unlearning.methods.registry import unlearn
from unlearning.specs import AmnesiacRelabel
from unlearning.steps import run_to_completion


def test_every_forgotten_sample_keeps_one_wrong_label_and_the_rest_their_own() -> None:
    given = task(plain)
    seen: Seen = []
    given.objective = watching(seen)
    run_to_completion(unlearn(AmnesiacRelabel(epochs=3, batch_size=16), given))
    found: dict[int, set[int]] = {}
    for batch in seen:
        for place, label in zip(places(batch, given.forget).tolist(), batch.targets.tolist(), strict=True):
            if place >= 0:
                found.setdefault(place, set()).add(label)
        inside = places(batch, given.remain)
        assert torch.equal(batch.targets[inside >= 0], given.remain.targets[inside[inside >= 0]])

    assert len(found) == len(given.forget)
    assert all(len(labels) == 1 for labels in found.values())
    assert all(given.forget.targets[place] not in labels for place, labels in found.items())


def test_both_sets_stand_in_one_batch() -> None:
    given = task(plain)
    seen: Seen = []
    given.objective = watching(seen)
    run_to_completion(unlearn(AmnesiacRelabel(epochs=1, batch_size=40), given))
    shares = [float((places(batch, given.forget) >= 0).float().mean()) for batch in seen]

    assert len(seen) == 3
    assert all(0 < share < 1 for share in shares)


def test_without_classes_it_is_refused() -> None:
    given = task(plain)
    given.objective = without_classes()
    before = state(given.model)

    with pytest.raises(MethodRefused, match="no classes"):
        run_to_completion(unlearn(AmnesiacRelabel(), given))

    assert same(state(given.model), before)
