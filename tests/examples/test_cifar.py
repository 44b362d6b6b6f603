"""CIFAR from a folder or an archive of one, in miniature."""

import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.cases import case, share_of
from examples import cifar
from unlearning.errors import InvalidWorkload
from unlearning.training.loop import fresh


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    cifar._samples.cache_clear()
    yield
    cifar._samples.cache_clear()


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four images of each class to train on, two to test with."""
    random = np.random.default_rng(0)
    for part, count in (("train", 4), ("test", 2)):
        for name in cifar.CLASSES:
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{number:04d}.png")
    monkeypatch.setenv("EXPUNGE_CIFAR", str(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("images")
def test_resnet18_takes_all_of_it_and_a_tenth_is_held_out() -> None:
    found = cifar.resnet18_workload()

    assert (len(found.train), len(found.held_out), len(found.test)) == (36, 4, 20)
    assert sorted(found.test.targets.tolist()) == sorted(list(range(10)) * 2)


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize(("name", "share", "forgotten"), [("cifar_resnet18", 0.1, 4), ("cifar_resnet18_half", 0.5, 18)])
def test_the_cases_for_a_gpu_name_a_tenth_and_a_half_of_it(name: str, share: float, forgotten: int) -> None:
    assert share_of(name) == share
    assert len(case(name, 0).forget) == forgotten


def test_resnet18_keeps_small_images_large_until_its_last_stage() -> None:
    network = fresh(cifar.resnet18, seed=0).eval()
    seen: list[torch.Size] = []
    network.layer4.register_forward_hook(lambda _, __, output: seen.append(output.shape))

    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert seen == [(2, 512, 4, 4)]
    assert sum(p.numel() for p in network.parameters()) == 11_173_962


def test_an_archive_holds_what_its_folder_does(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = cifar.resnet18_workload()
    with tarfile.open(images / "all.tar", "w") as archive:
        for part in ("train", "test"):
            archive.add(images / part, arcname=part)
    monkeypatch.setenv("EXPUNGE_CIFAR", str(images / "all.tar"))
    cifar._samples.cache_clear()

    assert cifar.resnet18_workload().train.ids == folder.train.ids
    assert torch.equal(cifar.resnet18_workload().train.inputs, folder.train.inputs)


def test_a_folder_that_does_not_exist_or_is_empty_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPUNGE_CIFAR", str(tmp_path / "nowhere"))
    with pytest.raises(InvalidWorkload, match="does not exist"):
        cifar.resnet18_workload()
    monkeypatch.setenv("EXPUNGE_CIFAR", str(tmp_path))
    with pytest.raises(InvalidWorkload, match="has no images"):
        cifar.resnet18_workload()


def test_operators_of_a_torchvision_that_imports_are_not_declared_by_others() -> None:
    """Torchvision's own library would then end the process as it declares them again, as it does where torch has CUDA."""
    code = """
import sys, types
import torch
sys.modules["torchvision"] = types.ModuleType("torchvision")
from examples.cifar import make_torchvision_importable
make_torchvision_importable()
assert not hasattr(torch.ops.torchvision, "nms")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
