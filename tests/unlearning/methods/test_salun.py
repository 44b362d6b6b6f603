"""SalUn: what the mask leaves out does not move at all, whatever momentum and weight decay would do to it."""

import pytest
import torch
from torch.nn import functional

from tests.unlearning.methods.watching import Seen, places, watching, without_classes
from tests.unlearning.small import flat, plain, same, state, task
from unlearning.errors import MethodRefused
from unlearning.methods.registry import unlearn
from unlearning.methods.salun import saliency_masks
from unlearning.specs import SalUn
from unlearning.steps import run_to_completion


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_the_mask_holds_the_weights_and_not_only_their_gradient(share: float) -> None:
    given = task(plain)
    before = flat(given.model)
    run_to_completion(unlearn(SalUn(epochs=2, batch_size=16, saliency=share), given))
    moved = flat(given.model) != before

    # Some of the free weights may not move: those of a unit that is never active.
    assert 0.8 * share * len(before) < int(moved.sum()) <= round(share * len(before))


def test_no_step_on_the_way_moves_what_is_masked() -> None:
    given = task(plain)
    masks = saliency_masks(given, share=0.5, batch_size=1000)
    before = state(given.model)
    for _ in unlearn(SalUn(epochs=1, batch_size=16), given):
        assert all(torch.equal(p[~masks[name]], before[name][~masks[name]]) for name, p in state(given.model).items())


def test_the_mask_is_the_half_with_the_largest_gradient_of_the_forget_sets_loss() -> None:
    given = task(plain)
    masks = saliency_masks(given, share=0.5, batch_size=7)
    functional.cross_entropy(given.model(given.forget.inputs), given.forget.targets).backward()
    gradient = torch.cat([p.grad.abs().flatten() for p in given.model.parameters()])
    given.model.zero_grad()
    chosen = torch.cat([mask.flatten() for mask in masks.values()])

    assert int(chosen.sum()) == round(len(gradient) / 2)
    assert gradient[chosen].min() >= gradient[~chosen].max()


def test_the_forget_set_gets_wrong_labels_drawn_anew() -> None:
    given = task(plain)
    seen: Seen = []
    given.objective = watching(seen)
    run_to_completion(unlearn(SalUn(epochs=6, batch_size=24, learning_rate=1e-6), given))
    taught = []
    for batch in seen[1:]:  # the first is the mask's, with the true labels
        place = places(batch, given.forget)
        if (place >= 0).all():
            assert not (batch.targets == given.forget.targets[place]).any()
            taught.append(batch.targets[place.argsort()])

    assert len(taught) == 6
    assert not any(torch.equal(taught[0], other) for other in taught[1:])


def test_without_classes_it_is_refused() -> None:
    given = task(plain)
    given.objective = without_classes()
    before = state(given.model)

    with pytest.raises(MethodRefused, match="no classes"):
        run_to_completion(unlearn(SalUn(), given))

    assert same(state(given.model), before)
