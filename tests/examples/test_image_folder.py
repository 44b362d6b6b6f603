"""The folder of scans: its script trains, its workload is registered, and a request is served."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
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
    network: Callable[[], nn.Module], site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_folder, "network", network)
    if network is small:
        monkeypatch.setattr(image_folder, "EPOCHS", 4)
        monkeypatch.setattr(image_folder, "PARTS", (400, 300, 197))
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


def test_the_workload_reads_what_the_script_trains_on_with_augmentation_in_training_steps_alone() -> None:
    made, numbers = image_folder.workload(), torch.arange(20)
    plain, varied = (made.train.select(numbers, training=training) for training in (False, True))

    assert (len(made.train), len(made.held_out), len(made.test)) == image_folder.PARTS
    assert made.train.ids[0].startswith("form-")
    assert torch.equal(plain.targets, varied.targets)
    assert not torch.equal(plain.inputs, varied.inputs)
    assert torch.equal(plain.inputs, made.train.select(numbers).inputs)
    assert fresh(image_folder.network, seed=0).eval()(plain.inputs).shape == (20, 10)
