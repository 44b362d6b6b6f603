"""Weights on disk: whole or not there, and never mistaken for others."""

import errno
import hashlib
import os
import struct
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from tests.unlearning.small import convolutional, normalised, plain, same, state
from unlearning import files
from unlearning.errors import CheckpointUnusable, WeightsDamaged, WeightsError, WeightsMisfit, WeightsMissing
from unlearning.files import file_sha256
from unlearning.storage import load_training_checkpoint, load_weights, save_training_checkpoint, save_weights
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
        with pytest.raises(WeightsMisfit, match="architecture"):
            load_weights(fresh(build, seed=2), path, digest)


def test_a_misfit_of_many_tensors_is_described_in_a_few_lines(tmp_path: Path) -> None:
    large = nn.Sequential(*(nn.Linear(1, 1) for _ in range(500)))
    with pytest.raises(WeightsMisfit, match="architecture") as refused:
        load_weights(large, *save_weights(MODEL, tmp_path))
    assert len(str(refused.value)) < 1_000


def test_a_file_that_is_none_of_weights_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.safetensors"
    path.write_bytes(b"no weights here")

    with pytest.raises(WeightsDamaged):
        load_weights(fresh(plain, seed=2), path, file_sha256(path))


@pytest.mark.parametrize("error", [WeightsMissing, WeightsDamaged, WeightsMisfit])
def test_all_are_weights_errors(error: type[Exception]) -> None:
    assert issubclass(error, WeightsError)


@pytest.mark.parametrize("call", ["replace", "fsync", "fdopen"])
def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    old, _ = save_weights(MODEL, tmp_path)

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, call, full)
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

    monkeypatch.setattr(files.os, "fdopen", Full)
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
            files.os, name, lambda *arguments, name=name, real=real: (done.append(name), real(*arguments))[1]
        )
    save_weights(MODEL, tmp_path)

    assert done == ["fsync", "replace", "fsync"]


CONTENT = {
    "model": {"weight": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last), "count": torch.tensor(3)},
    "optimiser": {"state": {0: {"step": 3, "momentum_buffer": torch.ones(2, dtype=torch.bfloat16)}}, "groups": [{"lr": 0.1}]},
    "stop": {"score": float("inf"), "third": 1 / 3, "ended": "", "nothing": None, "flag": True},
    "generator": torch.Generator().manual_seed(1).get_state(),
    "empty": torch.empty(0, dtype=torch.int64),
}  # fmt: skip


def flat(value: object, path: str = "") -> dict[str, object]:
    match value:
        case dict():
            return {k: v for key, entry in value.items() for k, v in flat(entry, f"{path}/{key!r}").items()}
        case list():
            return {k: v for key, entry in enumerate(value) for k, v in flat(entry, f"{path}/{key}").items()}
    return {path: value}


def test_a_training_checkpoint_is_read_bit_for_bit_with_types_keys_and_memory_formats(tmp_path: Path) -> None:
    path, sha256 = save_training_checkpoint(CONTENT, tmp_path)
    found, wanted = flat(load_training_checkpoint(path, sha256)), flat(CONTENT)

    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        if not isinstance(value, torch.Tensor):
            assert (type(found[name]), found[name]) == (type(value), value)
            continue
        other = found[name]
        assert isinstance(other, torch.Tensor)
        assert (other.dtype, other.stride()) == (value.dtype, value.stride())
        assert torch.equal(other, value)


def test_tensors_that_share_memory_are_kept_both(tmp_path: Path) -> None:
    shared = torch.arange(6.0)
    content = load_training_checkpoint(
        *save_training_checkpoint({"one": shared, "other": shared[2:], "wide": shared.expand(2, 6)}, tmp_path)
    )

    assert torch.equal(content["one"], shared)
    assert torch.equal(content["other"], shared[2:])
    assert torch.equal(content["wide"], shared.expand(2, 6))


def test_a_checkpoint_is_a_copy(tmp_path: Path) -> None:
    weight = torch.zeros(3)
    saved = save_training_checkpoint({"weight": weight}, tmp_path)
    weight += 1

    assert torch.equal(load_training_checkpoint(*saved)["weight"], torch.zeros(3))


def test_what_is_neither_a_tensor_nor_json_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not a set"):
        save_training_checkpoint({"ids": {1, 2}}, tmp_path)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda path: path.unlink(), "gone"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x"), "damaged"),
        (lambda path: path.write_bytes(b""), "damaged"),
    ],
)
def test_a_damaged_training_checkpoint_is_refused_with_the_reason(tmp_path: Path, damage: object, why: str) -> None:
    path, sha256 = save_training_checkpoint(CONTENT, tmp_path)
    damage(path)  # type: ignore[operator]  # a function of the path

    with pytest.raises(CheckpointUnusable, match=why):
        load_training_checkpoint(path, sha256)


@pytest.mark.parametrize("content", [b"", b"weights", struct.pack("<Q", 2) + b"{}"])
def test_a_file_of_another_format_is_refused_even_under_its_own_digest(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.safetensors"
    path.write_bytes(content)

    with pytest.raises(CheckpointUnusable, match="format"):
        load_training_checkpoint(path, hashlib.sha256(content).hexdigest())


class Tied(nn.Module):
    """A language model's table of tokens and its head share their weights."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
        self.head.weight = self.table.weight


def test_tied_weights_may_stand_once_as_hugging_face_writes_them(tmp_path: Path) -> None:
    model, loaded, path = Tied(), Tied(), tmp_path / "tied.safetensors"
    safetensors.torch.save_model(model, str(path))
    load_weights(loaded, path, file_sha256(path))

    assert len(safetensors.torch.load_file(path)) == 1
    assert torch.equal(loaded.table.weight, model.table.weight)
    assert loaded.head.weight is loaded.table.weight


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_what_wrappers_put_before_names_is_taken_off(tmp_path: Path, prefix: str) -> None:
    model, loaded = (nn.Sequential(nn.Linear(3, 2)) for _ in range(2))
    path = tmp_path / "wrapped.safetensors"
    safetensors.torch.save_file({prefix + name: t for name, t in model.state_dict().items()}, path)
    load_weights(loaded, path, file_sha256(path))

    assert torch.equal(loaded[0].weight, model[0].weight)


def test_a_network_whose_own_part_is_called_module_keeps_its_names(tmp_path: Path) -> None:
    model, loaded = (nn.ModuleDict({"module": nn.Linear(3, 2)}) for _ in range(2))
    load_weights(loaded, *save_weights(model, tmp_path))

    assert torch.equal(loaded["module"].weight, model["module"].weight)


def test_a_pickle_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save(nn.Linear(3, 2).state_dict(), path)
    with pytest.raises(WeightsDamaged, match="save_weights"):
        load_weights(nn.Linear(3, 2), path, file_sha256(path))


def test_a_tensor_that_is_missing_and_tied_to_none_is_still_refused(tmp_path: Path) -> None:
    path = tmp_path / "torn.safetensors"
    safetensors.torch.save_file({"0.weight": torch.zeros(2, 3)}, path)
    with pytest.raises(WeightsMisfit, match="bias"):
        load_weights(nn.Sequential(nn.Linear(3, 2)), path, file_sha256(path))
