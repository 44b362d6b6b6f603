"""Weights on disk: whole or not there, and never mistaken for others."""

import errno
import hashlib
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.unlearning.small import convolutional, normalised, plain, same, state
from unlearning import storage as weights
from unlearning.errors import WeightsDamaged, WeightsError, WeightsMissing
from unlearning.storage import file_sha256, load_weights, save_weights
from unlearning.training.loop import fresh

MODEL = fresh(normalised, seed=1)


def test_what_was_saved_is_loaded_bit_for_bit(tmp_path: Path) -> None:
    path, digest = save_weights(MODEL, tmp_path)
    loaded = fresh(normalised, seed=2)
    load_weights(loaded, path, digest)

    assert same(state(loaded), state(MODEL))


def test_the_file_is_named_by_its_digest_and_stands_alone(tmp_path: Path) -> None:
    path, digest = save_weights(MODEL, tmp_path / "deep" / "folder")

    assert path.name == f"{digest}.safetensors"
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest() == file_sha256(path)
    assert list(path.parent.iterdir()) == [path]


def test_the_same_weights_give_the_same_file_and_others_another(tmp_path: Path) -> None:
    first, again, other = (save_weights(model, tmp_path) for model in (MODEL, MODEL, fresh(normalised, seed=3)))

    assert first == again != other
    assert len(list(tmp_path.iterdir())) == 2


def test_channels_last_weights_are_kept(tmp_path: Path) -> None:
    build = lambda: nn.Sequential(nn.Conv2d(3, 4, 3)).to(memory_format=torch.channels_last)  # noqa: E731
    model, loaded = fresh(build, seed=1), fresh(build, seed=2)
    load_weights(loaded, *save_weights(model, tmp_path))

    assert same(state(loaded), state(model))


def test_tied_weights_are_kept_and_stay_tied(tmp_path: Path) -> None:
    def tied() -> nn.Module:
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        model[1].weight = model[0].weight
        return model

    model, loaded = fresh(tied, seed=1), fresh(tied, seed=2)
    load_weights(loaded, *save_weights(model, tmp_path))

    assert same(state(loaded), state(model))
    assert loaded[0].weight is loaded[1].weight


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    path, digest = save_weights(MODEL, tmp_path)
    path.unlink()

    with pytest.raises(WeightsMissing, match=path.name):
        load_weights(fresh(normalised, seed=2), path, digest)
    with pytest.raises(WeightsMissing):
        load_weights(fresh(normalised, seed=2), tmp_path, digest)


@pytest.mark.parametrize("damage", ["truncated", "emptied", "flipped", "appended"])
def test_a_damaged_file_is_refused_and_the_model_left_alone(tmp_path: Path, damage: str) -> None:
    path, digest = save_weights(MODEL, tmp_path)
    content = path.read_bytes()
    flipped = bytes([content[-1] ^ 1])
    path.write_bytes(
        {"truncated": content[:-7], "emptied": b"", "flipped": content[:-1] + flipped, "appended": content + b"0"}[
            damage
        ]
    )
    model = fresh(normalised, seed=2)
    before = state(model)

    with pytest.raises(WeightsDamaged, match="SHA-256"):
        load_weights(model, path, digest)

    assert same(state(model), before)


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    path, digest = save_weights(MODEL, tmp_path)
    for build in (plain, convolutional):
        with pytest.raises(WeightsDamaged, match="architecture"):
            load_weights(fresh(build, seed=2), path, digest)


def test_a_file_that_is_none_of_weights_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.safetensors"
    path.write_bytes(b"no weights here")

    with pytest.raises(WeightsDamaged):
        load_weights(fresh(plain, seed=2), path, file_sha256(path))


def test_both_are_weights_errors() -> None:
    assert issubclass(WeightsMissing, WeightsError)
    assert issubclass(WeightsDamaged, WeightsError)


@pytest.mark.parametrize("call", ["replace", "fsync", "fdopen"])
def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    old, _ = save_weights(MODEL, tmp_path)

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(weights.os, call, full)
    with pytest.raises(OSError, match="No space left"):
        save_weights(fresh(plain, seed=5), tmp_path)

    assert list(tmp_path.iterdir()) == [old]


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The write itself fails, half done."""
    real = os.fdopen

    class Full:
        def __init__(self, handle: int, mode: str) -> None:
            self.file = real(handle, mode)

        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *error: object) -> None:
            self.file.close()

        def write(self, content: bytes) -> None:
            self.file.write(content[: len(content) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(weights.os, "fdopen", Full)
    with pytest.raises(OSError, match="No space left"):
        save_weights(MODEL, tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_the_file_appears_by_a_rename_after_it_reached_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(
            weights.os, name, lambda *arguments, name=name, real=real: (done.append(name), real(*arguments))[1]
        )
    save_weights(MODEL, tmp_path)

    assert done == ["fsync", "replace", "fsync"]
