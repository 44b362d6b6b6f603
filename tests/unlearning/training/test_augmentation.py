"""Images varied in training: crops and mirror images of the given ones, drawn anew for each batch."""

import copy
import dataclasses

import pytest
import torch
from torch import Tensor, nn

from tests.unlearning.small import same, state
from unlearning.data.objectives import classification
from unlearning.data.samples import SampleSet
from unlearning.errors import InvalidSpec, UnsupportedWorkload
from unlearning.specs.training import DPSGD, Augmentation, Recipe
from unlearning.state import State
from unlearning.steps import run_to_completion
from unlearning.training.loop import augmented, fit, fresh, train_steps

IMAGES = torch.randn(64, 3, 6, 5, generator=torch.Generator().manual_seed(0))
SAMPLES = SampleSet(ids=tuple(map(str, range(64))), inputs=IMAGES, targets=torch.arange(64) % 3)
OBJECTIVE = classification(3)
RECIPE = Recipe(epochs=2, batch_size=24, learning_rate=0.05, precision="float32", augmentation=Augmentation(padding=1))


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3))


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def possible(image: Tensor, *, padding: int) -> list[Tensor]:
    """Every crop of one image, and every crop mirrored."""
    height, width = image.shape[-2:]
    padded = nn.functional.pad(image, (padding,) * 4)
    places = range(2 * padding + 1)
    crops = [padded[:, top : top + height, left : left + width] for top in places for left in places]
    return crops + [crop.flip(-1) for crop in crops]


def test_each_image_is_one_of_its_crops_mirrored_or_not_and_all_of_them_occur() -> None:
    seen = set()
    for seed in range(12):
        for image, found in zip(IMAGES, augmented(IMAGES, Augmentation(padding=1), seeded(seed)), strict=True):
            kinds = [number for number, crop in enumerate(possible(image, padding=1)) if torch.equal(crop, found)]
            assert len(kinds) == 1
            seen.add(kinds[0])

    assert len(seen) == 18


def test_without_padding_and_mirror_the_images_stay() -> None:
    assert torch.equal(augmented(IMAGES, Augmentation(padding=0, mirror=False), seeded()), IMAGES)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_memory_format_stays_and_so_do_the_given_images(layout: torch.memory_format) -> None:
    given = IMAGES.contiguous(memory_format=layout)
    before = given.clone()
    found = augmented(given, Augmentation(), seeded())

    assert found.is_contiguous(memory_format=layout)
    assert torch.equal(given, before)
    assert torch.equal(found, augmented(IMAGES, Augmentation(), seeded()))


def test_training_sees_varied_images_and_the_same_seed_gives_the_same_weights() -> None:
    first, again, plain = (
        state(fit(network, SAMPLES, recipe, objective=OBJECTIVE, seed=0))
        for recipe in (RECIPE, RECIPE, dataclasses.replace(RECIPE, augmentation=None))
    )

    assert same(first, again)
    assert not same(first, plain)


def test_a_resumed_training_goes_on_with_the_same_variations() -> None:
    whole = fresh(network, seed=0)
    run_to_completion(train_steps(whole, SAMPLES, RECIPE, objective=OBJECTIVE, seed=5, state=State()))

    cut, saved = fresh(network, seed=0), State()
    steps = train_steps(cut, SAMPLES, RECIPE, objective=OBJECTIVE, seed=5, state=saved)
    next(steps), next(steps)
    snapshot = copy.deepcopy(saved.snapshot())
    resumed = fresh(network, seed=0)
    run_to_completion(train_steps(resumed, SAMPLES, RECIPE, objective=OBJECTIVE, seed=5, state=State(resumed=snapshot)))

    assert same(state(resumed), state(whole))


def test_what_is_no_image_and_an_impossible_augmentation_are_refused() -> None:
    flat = dataclasses.replace(SAMPLES, inputs=IMAGES.flatten(1))
    with pytest.raises(UnsupportedWorkload):
        fit(lambda: nn.Linear(90, 3), flat, RECIPE, objective=OBJECTIVE, seed=0)
    with pytest.raises(InvalidSpec):
        Augmentation(padding=-1)
    with pytest.raises(InvalidSpec):
        dataclasses.replace(RECIPE, privacy=DPSGD())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_device_varies_images_and_trains_on_them() -> None:
    found = augmented(IMAGES.cuda(), Augmentation(padding=1), torch.Generator("cuda").manual_seed(1)).cpu()
    for image, varied in zip(IMAGES, found, strict=True):
        assert any(torch.equal(crop, varied) for crop in possible(image, padding=1))

    model = fit(network, SAMPLES.to("cuda"), RECIPE, objective=OBJECTIVE, seed=0)
    assert all(tensor.is_cuda and torch.isfinite(tensor).all() for tensor in state(model).values())
