"""Rewind gives the weights of Retrain, and does less."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.unlearning.methods.watching import Seen, places, watching
from tests.unlearning.small import OBJECTIVE, RECIPE, dropping, plain, same, sliced, state, task
from unlearning.data.samples import joined
from unlearning.errors import MethodRefused, WeightsMissing
from unlearning.methods.registry import unlearn
from unlearning.specs import Retrain, Rewind
from unlearning.steps import Progress, run_to_completion
from unlearning.task import Task
from unlearning.training.loop import fresh, train
from unlearning.training.slices import SliceCheckpoint

SHORT = replace(RECIPE, epochs=2)
SEED = 3


def trained_in_slices() -> tuple[Task, dict[int, nn.Module]]:
    """A model trained in slices 0, 2 and 5, whose forget set is in 5, and the weights that were kept after the others."""
    given = task(dropping)
    given.recipe, given.seed = SHORT, SEED
    given.remain = sliced(given.remain, [(0, 2, 5)[place % 3] for place in range(len(given.remain))])
    given.forget = sliced(given.forget, [5] * len(given.forget))
    kept: dict[int, nn.Module] = {}

    def keep(number: int, model: nn.Module) -> dict[str, int]:
        kept[number] = copy.deepcopy(model)
        return {"slice": number}

    given.model = fresh(given.build, seed=SEED)
    steps = train(given.model, joined(given.remain, given.forget), SHORT, objective=OBJECTIVE, seed=SEED, keep=keep)
    assert run_to_completion(steps).kept == ({"slice": 0}, {"slice": 2})
    return given, kept


def checkpoint(kept: dict[int, nn.Module], number: int) -> SliceCheckpoint:
    return SliceCheckpoint(number=number, load=lambda model: model.load_state_dict(kept[number].state_dict()))


@pytest.mark.parametrize("number", [0, 2])
def test_it_gives_the_weights_of_retraining_in_fewer_steps(number: int) -> None:
    given, kept = trained_in_slices()
    other, _ = trained_in_slices()
    given.checkpoint = checkpoint(kept, number)
    rewound = run_to_completion(unlearn(Rewind(), given))
    retrained = run_to_completion(unlearn(Retrain(), other))

    assert same(state(given.model), state(other.model))
    assert rewound.steps < retrained.steps


def test_it_never_sees_the_forget_set_and_keeps_the_weights_after_each_slice_that_it_trains() -> None:
    given, kept = trained_in_slices()
    seen: Seen = []
    again: dict[int, nn.Module] = {}
    given.objective, given.checkpoint = watching(seen), checkpoint(kept, 0)
    given.keep_slice = lambda number, model: again.setdefault(number, copy.deepcopy(model)) and {"slice": number}
    outcome = run_to_completion(unlearn(Rewind(), given))

    assert seen
    assert all((places(batch, given.forget) < 0).all() for batch in seen)
    assert outcome.kept == ({"slice": 2},)
    assert same(state(again[2]), state(kept[2]))


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("no slices", "not trained in slices"),
        ("nothing kept", "No weights were kept"),
        ("dear", "50%"),
        ("lost", "restore"),
    ],
)
def test_it_is_refused_with_the_reason_before_anything_changes(reason: str, message: str) -> None:
    given, kept = trained_in_slices()
    given.checkpoint = checkpoint(kept, 2)

    def lose(model: nn.Module) -> None:
        raise WeightsMissing("There is no file; restore it.")

    if reason == "no slices":
        given.remain = replace(given.remain, slices=None)
    elif reason == "nothing kept":
        given.checkpoint = None
    elif reason == "lost":
        given.checkpoint = SliceCheckpoint(number=2, load=lose)
    before = state(given.model)
    with pytest.raises(MethodRefused, match=message):
        next(unlearn(Rewind(max_share=0.4 if reason == "dear" else 1.0), given))

    assert same(state(given.model), before)


def test_a_sliced_training_learns_each_slice_with_those_before_it() -> None:
    given = task(plain)
    seen: list[int] = []
    samples = sliced(given.remain, [place % 2 for place in range(len(given.remain))])
    shown: list[Progress] = []
    recipe = replace(SHORT, epochs=1, batch_size=len(samples))
    watched: Seen = []
    run_to_completion(train(fresh(plain, seed=0), samples, recipe, objective=watching(watched), seed=0), shown.append)
    for batch in watched:
        found = places(batch, samples)
        seen.append(len(found))
        assert len(seen) > 1 or bool((torch.tensor(samples.slices)[found] == 0).all())

    assert seen == [48, 96]
    assert [(progress.step, progress.total) for progress in shown] == [(1, 3), (2, 3)]
