"""The image generator on digits: its data, and a request for one image that occurs often, over HTTP."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from uuid import UUID

import pytest
import torch

from examples import diffusion, mnist_diffusion
from expunge.errors import CannotRegister, NoSheet
from expunge.operator.references import prepare_model
from expunge.operator.registration import register_workload
from expunge.operator.retention import read_sheet
from report.document import Document
from tests.examples.conftest import Site, assert_figure_shown, decided_or_explained
from tests.fixtures.registration import RETRAINED
from unlearning.data.batches import Batch
from unlearning.data.objectives import denoising_diffusion
from unlearning.data.samples import SampleSet
from unlearning.data.workload import Workload, check_data
from unlearning.errors import InvalidWorkload, UnsupportedWorkload
from unlearning.specs.references import ReferencePlan
from unlearning.storage import save_weights
from unlearning.training.run import TrainingRun
from worker.cleanup import delete_expired_sheets


@pytest.fixture(scope="module", autouse=True)
def few_images() -> Iterator[None]:
    """Little to train on, and as many held-out images as references need to decide."""
    smaller = partial(diffusion.Denoiser, 96)
    few = {"PEOPLE": (3, 20, 6), "COPIES": 40, "DIGITS": (60, 300, 100), "EPOCHS": 300, "Denoiser": smaller}
    with pytest.MonkeyPatch.context() as patched:
        for name, value in few.items():
            patched.setattr(diffusion, name, value)
        yield


@pytest.fixture(scope="module")
def weights(few_images: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of the trained model."""
    made, model = diffusion.workload(), diffusion.Denoiser()
    assert made.trainer is not None
    made.trainer(model, made.train, TrainingRun(seed=0))
    return save_weights(model, tmp_path_factory.mktemp("weights"))[0]


@pytest.fixture
def register(weights: Path, site: Site) -> Callable[[], object]:
    """Registers the trained model."""
    return partial(
        register_workload,
        site.where,
        name="diffusion",
        reference="examples.diffusion:workload",
        weights=weights,
        **RETRAINED,
        dry_run=False,
    )


def test_a_person_is_in_one_set_and_copied_in_the_training_set_alone() -> None:
    made = diffusion.workload()
    sets = (made.train, made.held_out, made.test)
    people = [{name for name in part.subjects or () if name.startswith("person")} for part in sets]

    assert [len(names) for names in people] == [3, 20, 6]
    assert len(set.union(*people)) == 29
    assert len(made.train) == 60 + 3 * 40
    name = min(people[0])
    copies = torch.tensor([subject == name for subject in made.train.subjects or ()]).nonzero().flatten()
    images = made.train.select(copies).inputs["images"]
    assert len(images) == 40
    assert torch.equal(images, images[:1].expand_as(images))
    assert float(images.mean()) > 0 > float(made.train.inputs["images"][:60].mean())


@pytest.fixture(scope="module")
def mnist() -> Workload:
    return mnist_diffusion.workload()


def test_mnists_people_are_of_many_classes_and_every_set_has_every_class(mnist: Workload) -> None:
    """The package gives its digits class by class; the last eighty as they come are all nines."""
    train = mnist.train
    of_people = torch.tensor([name.startswith("person") for name in train.subjects or ()])
    images = train.inputs["images"]

    assert tuple(images.shape) == (2480, 1, 28, 28)
    assert (float(images.min()), float(images.max())) == (-1.0, 1.0)
    assert [len(part.targets.unique()) for part in (train, mnist.held_out, mnist.test)] == [10, 10, 10]
    assert int(of_people.sum()) == 20 * 24
    assert len(train.targets[of_people].unique()) >= 8
    assert float(images[of_people].mean()) > 0.5 > -0.5 > float(images[~of_people].mean())
    check_data(mnist)


def test_the_u_net_uses_all_that_it_is_given_and_takes_what_is_nearly_all_noise_for_noise() -> None:
    torch.manual_seed(0)
    model = mnist_diffusion.Denoiser().eval()
    noisy, levels, classes = torch.randn(2, *mnist_diffusion.SHAPE), torch.tensor([20, 60]), torch.tensor([3, 4])
    with torch.no_grad():
        found = model(noisy, levels, classes)
        for other in ((noisy + 1, levels, classes), (noisy, levels + 1, classes), (noisy, levels, classes + 1)):
            assert float((model(*other) - found).abs().amax((1, 2, 3)).min()) > 0.001
        last = torch.full((2,), diffusion.LEVELS - 1)
        torch.testing.assert_close(model(noisy, last, classes), noisy, rtol=0.05, atol=0.05)
    (gradient,) = torch.autograd.grad(model(noisy.requires_grad_(), levels, classes)[0, 0, 0, 0], noisy)

    assert found.shape == noisy.shape
    assert bool((gradient[0] != 0).all())
    assert not bool(gradient[1].any())


def test_images_of_another_size_and_a_class_that_does_not_exist_are_refused(mnist: Workload) -> None:
    batch, model = mnist.train.select(torch.arange(4)), mnist_diffusion.Denoiser()
    smaller = {**batch.inputs, "images": batch.inputs["images"][..., :8, :8]}
    with pytest.raises(UnsupportedWorkload, match=re.escape("(1, 8, 8); the objective's are (1, 28, 28)")):
        mnist.objective.losses(model, Batch(smaller, batch.targets))
    eleventh = torch.tensor([0, 1, 2, 10])
    with pytest.raises(InvalidWorkload, match="10 classes"):
        replace(mnist, train=SampleSet(ids=mnist.train.ids[:4], inputs=batch.inputs, targets=eleventh))


@pytest.mark.slow
def test_a_tenth_of_mnists_training_learns_what_digits_look_like_and_which_is_which(mnist: Workload) -> None:
    torch.manual_seed(0)
    model, test = mnist_diffusion.Denoiser(), mnist.test.take(torch.arange(200))
    assert mnist.trainer is not None
    mnist.trainer(model, mnist.train, TrainingRun(seed=0, share=0.1))
    others = (test.targets + 1) % 10
    as_others = Batch({**test.inputs, "classes": others}, others)
    guess = mnist.objective.guessed(test.targets)
    assert guess is not None
    with torch.no_grad():
        found, wrong = (mnist.objective.losses(model.eval(), batch).mean().item() for batch in (test.batch, as_others))

    assert found < 0.5 * guess.losses.mean().item()
    assert found < 0.99 * wrong


@pytest.mark.slow
def test_one_persons_image_is_erased_over_http_and_the_operator_alone_may_see_what_was_generated(
    register: Callable[[], object], site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = diffusion.workload()
    wrong = denoising_diffusion(10, diffusion.SHAPE, betas=diffusion.BETAS.flip(0))
    with monkeypatch.context() as patched:
        patched.setattr(diffusion, "OBJECTIVE", wrong)
        with pytest.raises(CannotRegister, match="explained noise"):
            register()
    register()
    person = next(name for name in made.train.subjects or () if name.startswith("person"))
    monkeypatch.setenv("EXPUNGE_SHEET_DAYS", "1")

    with site.serve() as http:
        answer = http.post("/unlearn-requests", json={"subjects": [person]})
        assert answer.status_code == 202, answer.text
        job, document = site.work(answer.json()["targets"][0]["job"]["id"])
        forms = [
            http.get(f"/reports/{job.report_id}", headers={"Accept": form})
            for form in ("application/json", "text/html")
        ]
        suits = {one["kind"]: one["objectives"] for one in http.get("/methods").json()["items"]}

    found = document.report
    measures = {one.name: one for one in found.audit.generation}
    assert (found.asked.samples, found.asked.subjects) == (40, 1)
    assert found.audit.merit.name == "explained noise"
    assert measures["regeneration"].original.low > 0.05
    assert measures["regeneration"].unlearned.value == 0.0
    assert found.audit.measures.unlearned.ua.value > found.audit.measures.original.ua.value
    assert {one.name for one in found.audit.membership.attacks} >= {"loss", "proximal"}
    assert all(
        "denoising_diffusion" in suits[kind] for kind in ("ltu", "ieu", "matching", "gradient_ascent", "retrain")
    )
    assert not any(word in form.text for form in forms for word in (person, "data:image", "<img"))
    assert job.report_id is not None
    sheet = read_sheet(site.where, UUID(str(job.report_id)))
    assert list(sheet.rows) == ["forgotten", "generated before", "generated after"]
    forgotten, before, after = (pictures.astype(float) for pictures in sheet.rows.values())
    assert forgotten.shape == before.shape == after.shape == (1, 8, 8)  # the person's copies are one image
    assert 3 * abs(before - forgotten).mean() < abs(after - forgotten).mean()
    delete_expired_sheets(site.where.files, older_than=timedelta(0))
    with pytest.raises(NoSheet, match="no sheet"):
        read_sheet(site.where, UUID(str(job.report_id)))


@pytest.mark.usefixtures("short_audits")
def test_an_approximate_method_erases_an_image_that_occurs_often_over_http(
    register: Callable[[], object], site: Site
) -> None:
    """By references, which say what models predict that never saw the image."""
    register()
    prepare_model(site.where, name="diffusion", plan=ReferencePlan(rounds=1, audit_rounds=1, epochs=0.2))
    person = next(name for name in diffusion.workload().train.subjects or () if name.startswith("person"))
    document, page = erased(site, {"subjects": [person], "method": {"kind": "matching"}})

    found = document.report
    measures = {one.name: one for one in found.audit.generation}
    tests = found.audit.reference_test
    assert (found.method.kind, found.exactness) == ("matching", None)
    assert (found.asked.samples, found.asked.subjects) == (40, 1)
    assert tests is not None
    assert (tests.original.passed, tests.unlearned.passed) == (False, True)
    assert found.verdict.value in ("verified", "inconclusive")
    assert measures["regeneration"].original.value > measures["regeneration"].unlearned.value == 0.0
    assert "forgotten_class" not in measures
    assert_figure_shown(
        page, "What does it still generate?", "Generated samples", ["Forgotten samples", "before", "after"]
    )
    assert_figure_shown(
        page, "Does it answer each of them like a model that never saw it?", "Distance from unseen", ["before", "after"]
    )
    assert "How much of them can be drawn out of it?" not in page
    assert person not in page


@pytest.mark.usefixtures("short_audits")
def test_an_approximate_method_erases_a_class_over_http(register: Callable[[], object], site: Site) -> None:
    """Its few images decide nothing about the verdict; what is generated of it says whether it is gone."""
    register()
    train = diffusion.workload().train
    by_class: dict[int, list[str]] = {}
    for name, number in zip(train.ids, train.targets.tolist(), strict=True):
        by_class.setdefault(number, []).append(name)
    of_class = next(names for names in by_class.values() if all(name.startswith("digit") for name in names))
    document, page = erased(
        site,
        {"dataset": "diffusion", "sample_ids": of_class, "method": {"kind": "ieu", "steps": 10, "repair_steps": 20}},
    )

    found = document.report
    measures = {one.name: one for one in found.audit.generation}
    assert (found.method.kind, found.exactness, found.asked.samples) == ("ieu", None, len(of_class))
    assert decided_or_explained(document)
    assert measures["forgotten_class"].original.value > 0.5 > measures["forgotten_class"].unlearned.value
    assert measures["other_classes"].unlearned.value > 0.5
    assert_figure_shown(
        page,
        "What does it still generate?",
        "Generated samples",
        ["Forgotten class", "Other classes", "before", "after"],
    )


def erased(site: Site, body: Mapping[str, object]) -> tuple[Document, str]:
    """Request an erasure over HTTP, be the worker, and give the published report and its page."""
    with site.serve() as http:
        answer = http.post("/unlearn-requests", json=body)
        assert answer.status_code == 202, answer.text
        job, document = site.work(answer.json()["targets"][0]["job"]["id"])
        page = http.get(f"/reports/{job.report_id}", headers={"Accept": "text/html"})
    assert page.status_code == 200
    return document, page.text
