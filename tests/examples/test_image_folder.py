"""The folder of scans: its script trains, its workload is registered, and a request is served."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.utils import Bunch
from torch import nn

from examples import image_folder
from expunge.operator.registration import register_workload
from tests.examples.conftest import Site
from tests.fixtures.registration import RETRAINED
from unlearning.training.loop import fresh


@pytest.fixture(autouse=True)
def _scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of the scans, which the script writes."""
    monkeypatch.setenv("EXPUNGE_SCANS", str(tmp_path / "scans"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    """The script finds the first digits only."""
    parts = (200, 150, 150)
    digits = load_digits()
    few = Bunch(images=digits.images[: sum(parts)], target=digits.target[: sum(parts)])
    for name, value in {"load_digits": lambda: few, "EPOCHS": 4, "PARTS": parts}.items():
        monkeypatch.setattr(image_folder, name, value)


def small() -> nn.Module:
    """What the usual tests train in place of ResNet-18, whose whole job takes a minute on a processor."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(5), nn.Flatten(), nn.Linear(400, 10)
    )


@pytest.mark.parametrize(
    "network",
    [
        pytest.param(small, id="a small network"),
        pytest.param(image_folder.network, id="ResNet-18", marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
    ],
)
def test_the_script_leads_to_an_erasure(
    network: Callable[[], nn.Module], site: Site, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr(image_folder, "network", network)
    if network is small:
        request.getfixturevalue("_few")
    reference = "examples.image_folder:workload"
    register_workload(
        site.where,
        name="scans",
        reference=reference,
        weights=image_folder.train(),
        **RETRAINED,
    )

    _, document = site.erase("scans", image_folder.workload().train.ids[:60])

    assert document.report.exactness is not None


@pytest.mark.usefixtures("_few")
def test_the_workload_reads_what_the_script_trains_on_with_augmentation_in_training_steps_alone() -> None:
    made, numbers = image_folder.workload(), torch.arange(20)
    plain, varied = (made.train.select(numbers, training=training) for training in (False, True))

    assert (len(made.train), len(made.held_out), len(made.test)) == image_folder.PARTS
    assert made.train.ids[0].startswith("form-")
    assert torch.equal(plain.targets, varied.targets)
    assert not torch.equal(plain.inputs, varied.inputs)
    assert torch.equal(plain.inputs, made.train.select(numbers).inputs)
    assert fresh(image_folder.network, seed=0).eval()(plain.inputs).shape == (20, 10)
