"""RandL: the forget set with labels drawn anew each epoch, then the remaining set as it is."""

import itertools

import torch

from tests.unlearning.methods.watching import Seen, places, watching
from tests.unlearning.small import CLASSES, plain, task
from unlearning.methods.registry import unlearn
from unlearning.specs import RandomLabels
from unlearning.steps import run_to_completion

EPOCHS = 40


def taught() -> tuple[list[torch.Tensor], list[bool]]:
    """Each epoch's labels for the forget set in its order, (n,), and for each batch whether it was of the forget set."""
    given = task(plain)
    seen: Seen = []
    given.objective = watching(seen)
    run_to_completion(unlearn(RandomLabels(epochs=EPOCHS, batch_size=12, learning_rate=1e-6), given))
    labels, forgotten = torch.full((EPOCHS, len(given.forget)), -1), []
    for number, batch in enumerate(seen):
        place = places(batch, given.forget)
        forgotten.append(bool((place >= 0).all()))
        if forgotten[-1]:
            labels[number // (len(seen) // EPOCHS), place] = batch.targets
        else:
            assert torch.equal(batch.targets, given.remain.targets[places(batch, given.remain)])
    return [*labels, given.forget.targets], forgotten


def test_each_epoch_teaches_the_forget_set_first_and_then_the_rest() -> None:
    _, forgotten = taught()

    assert forgotten == ([True] * 2 + [False] * 8) * EPOCHS


def test_the_labels_are_drawn_anew_over_all_classes() -> None:
    *labels, true = taught()[0]
    drawn = torch.stack(labels)

    assert (drawn >= 0).all()
    assert not any(torch.equal(one, other) for one, other in itertools.pairwise(labels))
    share = (drawn == true).float().mean()
    # A share of k in n draws at chance is within four standard errors.
    assert abs(share - 1 / CLASSES) < 4 * (0.25 * 0.75 / drawn.numel()) ** 0.5
