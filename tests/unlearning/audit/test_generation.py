"""What a model generates, against published formulas, brute force, and models whose pictures are known."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.linalg  # type: ignore[import-untyped]  # scipy ships no type information
import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from tests.unlearning.kinds import OBJECTIVES, make_task, samples
from unlearning.audit.audit import audit
from unlearning.audit.generation import (
    GenerationSets,
    frechet_distance,
    measure_generation,
    prepare_generation,
    reproduced,
    sheet,
    train_classifier,
)
from unlearning.audit.intervals import Interval, wilson
from unlearning.audit.verdict import generation_findings
from unlearning.data.objectives import Objective, denoising_diffusion
from unlearning.data.samples import SampleSet
from unlearning.data.stored import StoredSet
from unlearning.networks import copy_network
from unlearning.specs.audit import AuditSpec
from unlearning.steps import run_to_completion

CLASSES, SHAPE = 3, (1, 4, 4)
OBJECTIVE = denoising_diffusion(CLASSES, SHAPE, steps=20)
SIGNAL = (1 - torch.linspace(0.005, 0.999, 20, dtype=torch.float64)).cumprod(0)
SPEC = AuditSpec(generated_samples=60)


def pictures(count: int, *, seed: int, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Images of three classes that differ by the quarter that is bright."""
    labels = torch.arange(count) % CLASSES if labels is None else labels
    found = 0.1 * torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed)) - 0.6
    for row, label in enumerate(labels.tolist()):
        found[row, 0, 2 * (label // 2) :, 2 * (label % 2) :][:2, :2] += 1.2
    return found, labels


def a_set(images: Tensor, labels: Tensor, name: str) -> SampleSet:
    return SampleSet(
        ids=tuple(f"{name}-{i}" for i in range(len(images))),
        inputs={"images": images, "classes": labels},
        targets=labels,
    )


class Printing(nn.Module):
    """Generates one image of each class: the best model of data that have no other."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.images = nn.Parameter(images)

    def forward(self, noisy: Tensor, levels: Tensor, classes: Tensor) -> Tensor:
        left = SIGNAL.float()[levels].view(-1, 1, 1, 1)
        return (noisy - left.sqrt() * self.images[classes]) / (1 - left).sqrt()


def sets(*, whole_class: bool) -> dict[str, SampleSet]:
    """Forget the class 2 as a whole, or its first five images; one of them is there four times."""
    images, labels = pictures(90, seed=1)
    of_class = (labels == 2).nonzero().flatten()
    chosen = of_class if whole_class else of_class[:5]
    images[chosen[1:5]] = images[chosen[1]].clone()
    rest = torch.ones(90, dtype=torch.bool)
    rest[chosen] = False
    return {
        "forget": a_set(images[chosen], labels[chosen], "forget"),
        "remain": a_set(images[rest], labels[rest], "remain"),
        "held_out": a_set(*pictures(30, seed=2), "held_out"),
        "test": a_set(*pictures(60, seed=3), "test"),
    }


@functools.cache
def asked_of(*, whole_class: bool) -> GenerationSets:
    found = prepare_generation(sets(whole_class=whole_class), objective=OBJECTIVE, spec=SPEC, seed=0)
    assert found is not None
    return found


class Pictures(IterableDataset[dict[str, Any]]):
    """A stream of more images than are read, or may be held."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for place in range(5200):
            label = place % CLASSES
            yield {"id": place, "images": torch.full(SHAPE, label / CLASSES), "classes": torch.tensor(label)}


def test_the_images_of_a_long_stream_are_read_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unlearning.audit.generation._STEPS", (1, 1))
    remain = StoredSet.of_stream(
        Pictures(),
        key="id",
        targets="classes",
        inputs=lambda item: {"images": item["images"], "classes": item["classes"]},
    )
    asked = prepare_generation({**sets(whole_class=False), "remain": remain}, objective=OBJECTIVE, spec=SPEC, seed=0)

    assert asked is not None
    assert len(asked.real) == 5000


def test_the_frechet_distance_is_the_published_one() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(300, 5)) @ rng.normal(size=(5, 5)), 1 + 2 * rng.normal(size=(200, 5))
    one, other = (np.cov(part, rowvar=False) for part in (first, second))
    root = scipy.linalg.sqrtm(one @ other).real
    wanted = ((first.mean(0) - second.mean(0)) ** 2).sum() + np.trace(one + other - 2 * root)
    assert frechet_distance(first, second) == pytest.approx(wanted, rel=1e-9)
    assert frechet_distance(first, first) == pytest.approx(0.0, abs=1e-9)
    # Features that do not vary, as of a model that generates one image.
    assert frechet_distance(np.zeros((4, 5)), np.ones((4, 5))) == pytest.approx(5.0)
    assert frechet_distance(np.zeros((1, 5)), np.ones((4, 5))) == pytest.approx(5.0)


def test_an_image_is_reproduced_by_brute_force_over_distinct_images() -> None:
    given = sets(whole_class=False)
    wanted, rest = given["forget"].inputs["images"], given["remain"].inputs["images"]
    noise = torch.randn(40, *SHAPE, generator=torch.Generator().manual_seed(5))
    near = wanted[torch.arange(40) % 5] + torch.linspace(0.0, 0.06, 40).view(-1, 1, 1, 1) * noise
    generated = torch.cat([near, rest[:10] + 0.01 * noise[:10], noise])
    distinct = [*{tuple(image.flatten().tolist()): image for image in wanted}.values()]
    expected = []
    for point in generated:
        distances = sorted(
            [(float((point - image).norm()), True) for image in distinct]
            + [(float((point - image).norm()), False) for image in rest]
        )
        expected.append(distances[0][1] and distances[0][0] <= distances[1][0] / 3)
    images: Callable[[dict[str, Tensor]], Tensor] = lambda inputs: inputs["images"]  # noqa: E731
    found = reproduced(generated, {"forget": given["forget"], "remain": given["remain"]}, images=images)

    assert found["forget"].tolist() == expected
    assert 5 < sum(expected) < 40
    assert not bool((found["forget"] & found["remain"]).any())
    assert bool(found["remain"].any())
    # An image that somebody else's copy keeps in the training set is not a forgotten one.
    kept = reproduced(generated, {"forget": given["forget"], "remain": given["forget"]}, images=images)
    assert not bool(kept["forget"].any())


def test_the_classifier_is_trained_for_the_audit_alone_or_is_the_owners() -> None:
    generation, given = OBJECTIVE.generation, sets(whole_class=False)
    assert generation is not None
    before = torch.get_rng_state()
    classifier = train_classifier(generation, [given["remain"], given["forget"]], classes=CLASSES, seed=0)
    found, features = classifier.read(given["test"].inputs["images"])

    assert torch.equal(torch.get_rng_state(), before)
    assert float((found == given["test"].targets).float().mean()) > 0.95
    assert features.shape == (60, 32)

    def build() -> nn.Module:  # which draws weights, as building does before it loads others
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 3))

    owners = train_classifier(replace(generation, classifier=build), [given["remain"]], classes=CLASSES, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    assert owners.read(given["test"].inputs["images"])[1].shape == (60, 5)


def test_larger_images_of_any_form_are_classified_too() -> None:
    for shape in ((3, 16, 40), (1, 28, 28)):
        generation = denoising_diffusion(CLASSES, shape, steps=20).generation
        assert generation is not None
        images, labels = pictures(60, seed=1)
        larger = nn.functional.interpolate(images, shape[1:]).repeat(1, shape[0], 1, 1)
        given = a_set(larger + 0.1 * torch.randn(larger.shape), labels, "larger")
        classifier = train_classifier(generation, [given.take(torch.arange(40))], classes=CLASSES, seed=0)
        found, features = classifier.read(larger[40:])
        assert torch.equal(found, labels[40:])
        assert features.shape == (20, 32)


@pytest.mark.parametrize("knows", [True, False])
def test_a_model_that_prints_a_class_gives_it_away_and_one_that_prints_another_does_not(knows: bool) -> None:
    given, prepared = sets(whole_class=True), asked_of(whole_class=True)
    other = pictures(3, seed=7)[0]
    printed = other.clone()
    printed[2] = given["forget"].inputs["images"][0] if knows else other[0]
    found, images = measure_generation(Printing(printed).eval(), prepared)

    assert found["forgotten_class"].value == float(knows)
    assert found["regeneration"].value == float(knows)
    assert found["regeneration_unseen"].value == 0.0
    assert found["other_classes"].value == 1.0
    assert found["frechet_distance"].value > 0
    torch.testing.assert_close(images, printed[2:].expand_as(images).detach(), rtol=1e-2, atol=1e-2)


def test_a_sheet_shows_each_forgotten_image_once_over_the_nearest_that_was_generated_from_the_same_noise() -> None:
    given, prepared = sets(whole_class=True), asked_of(whole_class=True)
    forgotten, other = given["forget"].inputs["images"], pictures(30, seed=7)[0]
    before = torch.cat(
        [other, forgotten[:12].flip(0)]
    )  # The first is at the place 41, its four copies are at 37 to 40.
    after = torch.linspace(-1, 1, 42).view(-1, 1, 1, 1).expand(42, *SHAPE)
    page = sheet(prepared, {"original": before, "unlearned": after})

    assert list(page.rows) == ["forgotten", "generated before", "generated after"]
    shown = page.rows["forgotten"]
    assert len(np.unique(shown.reshape(10, -1), axis=0)) == 10
    assert np.array_equal(shown[:2], forgotten[:2].numpy())
    places = [41, 37, *range(36, 29, -1)]
    assert np.array_equal(page.rows["generated before"][:9], before[places].numpy())
    assert np.array_equal(page.rows["generated after"][2:9], after[places[2:]].numpy())
    few = sheet(replace(prepared, sets={"forget": given["forget"].take(torch.arange(1, 5))}), {"original": before})
    assert [len(pictures) for pictures in few.rows.values()] == [1, 1]


def test_a_model_that_generates_no_numbers_is_measured_and_generates_nothing_of_a_class() -> None:
    prepared = asked_of(whole_class=True)
    found, images = measure_generation(Printing(torch.full((3, *SHAPE), torch.nan)).eval(), prepared)
    assert all(np.isfinite(one.value) for one in found.values())
    assert found["regeneration"].value == 0.0
    assert bool((images == prepared.generation.bounds[0]).all())


def test_single_samples_have_no_forgotten_class() -> None:
    prepared = asked_of(whole_class=False)
    found, _ = measure_generation(Printing(pictures(3, seed=7)[0]).eval(), prepared)
    assert sorted(found) == ["frechet_distance", "other_classes", "regeneration", "regeneration_unseen"]


def test_an_audit_measures_what_each_model_generates_and_a_classifier_generates_nothing() -> None:
    kind = OBJECTIVES["denoising diffusion"]
    given = make_task(kind)
    original = copy_network(given.model)
    with torch.no_grad():
        given.model.classes.weight.add_(0.3)
    quick = AuditSpec(
        replicates=100, vector_seeds=1, relearn_samples=8, relearn_steps=4, relearn_controls=3, relearners=("sgd",),
        generated_samples=20,
    )  # fmt: skip

    def found(objective: Objective):  # type: ignore[no-untyped-def]
        steps = audit(
            original=original, unlearned=given.model, forget=given.forget, remain=given.remain, objective=objective, spec=quick,
            **{name: samples(kind, 30, name=name, seed=seed) for seed, name in enumerate(("held_out", "test"), 5)},
        )  # fmt: skip
        return run_to_completion(steps)

    measured = found(given.objective)
    assert measured.generation.keys() == {"original", "unlearned"}
    assert measured.sheet is not None
    codes = {finding.code: finding for finding in measured.verdict.findings}
    assert codes["generation_regeneration"].deciding is False
    assert set(measured.membership.original) >= {"loss", "proximal"}
    assert found(replace(given.objective, generation=None)).generation == {}


@pytest.mark.parametrize(
    ("again", "unseen", "passed", "says"),
    [
        (wilson(0, 200), wilson(0, 200), True, "the model reproduces forgotten samples at most 10 points more often"),
        (wilson(30, 200), wilson(0, 200), False, "the model still reproduces forgotten samples more often"),
        (wilson(1, 10), wilson(0, 10), None, "so few generated samples do not show whether"),
    ],
)
def test_that_forgotten_samples_are_not_reproduced_more_often_must_be_shown(
    again: Interval, unseen: Interval, passed: bool | None, says: str
) -> None:
    found = {"regeneration": again, "regeneration_unseen": unseen}
    (finding,) = generation_findings({"unlearned": found}, classes=10)
    assert (finding.passed, finding.deciding) == (passed, False)
    assert finding.text.startswith(says)


@pytest.mark.parametrize(
    ("share", "retrained", "passed"),
    [
        (wilson(10, 200), None, True),
        (wilson(60, 200), None, False),
        (wilson(40, 200), wilson(55, 200), True),
        (wilson(60, 200), wilson(55, 200), None),
        (wilson(1, 10), None, None),
    ],
)
def test_that_a_forgotten_class_is_generated_no_more_than_by_chance_must_be_shown(
    share: Interval, retrained: Interval | None, passed: bool | None
) -> None:
    none = {"regeneration": wilson(0, 200), "regeneration_unseen": wilson(0, 200)}
    models = {"unlearned": {**none, "forgotten_class": share}}
    if retrained is not None:
        models["reference"] = {**none, "forgotten_class": retrained}
    finding = generation_findings(models, classes=10)[1]
    assert (finding.code, finding.passed) == ("generation_class", passed)
    assert ("do not show" in finding.text) is (passed is None)
