import struct
from pathlib import Path

import pytest
import torch

from unlearning.errors import CheckpointUnusable
from unlearning.storage import load_checkpoint, save_checkpoint

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


def test_a_checkpoint_comes_back_bit_by_bit_in_types_keys_and_memory_formats(tmp_path: Path) -> None:
    path, sha256 = save_checkpoint(CONTENT, tmp_path)
    found, wanted = flat(load_checkpoint(path, sha256)), flat(CONTENT)

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
    content = load_checkpoint(
        *save_checkpoint({"one": shared, "other": shared[2:], "wide": shared.expand(2, 6)}, tmp_path)
    )

    assert torch.equal(content["one"], shared)
    assert torch.equal(content["other"], shared[2:])
    assert torch.equal(content["wide"], shared.expand(2, 6))


def test_a_checkpoint_is_a_copy(tmp_path: Path) -> None:
    weight = torch.zeros(3)
    saved = save_checkpoint({"weight": weight}, tmp_path)
    weight += 1

    assert torch.equal(load_checkpoint(*saved)["weight"], torch.zeros(3))


def test_what_is_neither_a_tensor_nor_json_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not a set"):
        save_checkpoint({"ids": {1, 2}}, tmp_path)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda path: path.unlink(), "gone"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x"), "damaged"),
        (lambda path: path.write_bytes(b""), "damaged"),
    ],
)
def test_a_damaged_checkpoint_is_told(tmp_path: Path, damage: object, why: str) -> None:
    path, sha256 = save_checkpoint(CONTENT, tmp_path)
    damage(path)  # type: ignore[operator]  # a function of the path

    with pytest.raises(CheckpointUnusable, match=why):
        load_checkpoint(path, sha256)


@pytest.mark.parametrize("content", [b"", b"weights", struct.pack("<Q", 2) + b"{}"])
def test_a_file_that_is_no_checkpoint_is_told_even_under_its_own_digest(tmp_path: Path, content: bytes) -> None:
    import hashlib

    path = tmp_path / "other.safetensors"
    path.write_bytes(content)

    with pytest.raises(CheckpointUnusable, match="format"):
        load_checkpoint(path, hashlib.sha256(content).hexdigest())
