"""LoRA adapters of real PEFT: what is saved and loaded, what moves, and the two exact methods for them.

Slow, because PEFT imports transformers, which takes many seconds.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from tests.unlearning.small import OBJECTIVE, RECIPE, normalised, plain, same, samples, sliced, state, task_of
from unlearning.data.samples import joined
from unlearning.errors import WeightsMisfit
from unlearning.files import file_sha256
from unlearning.methods.registry import unlearn
from unlearning.specs import IEU, LTU, DropAdapter, Retrain, Rewind
from unlearning.steps import run_to_completion
from unlearning.storage import load_weights, save_weights
from unlearning.task import Task
from unlearning.training.loop import fresh, train
from unlearning.training.slices import SliceCheckpoint

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed"),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),
]


def base(build: Callable[[], nn.Module] = plain) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return build()


def adapted() -> nn.Module:
    """The first layer has a LoRA, and the last is trained as a whole beside it."""
    from peft import LoraConfig, get_peft_model

    return get_peft_model(base(), LoraConfig(r=4, target_modules=["0"], modules_to_save=["2"]))


def of_two() -> nn.Module:
    """A LoRA for each of two people, on both layers; all else is frozen."""
    from peft import LoraConfig, get_peft_model

    each = LoraConfig(r=4, target_modules=["0", "2"])
    model = get_peft_model(base(), each, adapter_name="anna")
    model.add_adapter("bert", each)
    model.base_model.set_adapter(["anna", "bert"])
    return model


def task(build: Callable[[], nn.Module] = adapted) -> Task:
    forget, remain = samples(20, seed=1), samples(60, seed=2)
    model = fresh(build, seed=0)
    run_to_completion(train(model, joined(forget, remain), RECIPE, objective=OBJECTIVE, seed=0))
    return task_of(model, build, forget=forget, remain=remain)


def outputs(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(samples(20, seed=5).inputs)
    return found


@pytest.mark.parametrize(
    "spec", [LTU(steps=4, repair_steps=0), IEU(steps=4, repair_steps=4), Retrain()], ids=lambda s: s.kind
)
def test_a_method_moves_the_adapter_alone_and_its_file_is_one_of_peft(spec: Any, tmp_path: Path) -> None:
    from peft import PeftModel

    given = task()
    given.model.save_pretrained(tmp_path)
    theirs = tmp_path / "adapter_model.safetensors"
    before, names = state(given.model), set(safetensors.torch.load_file(theirs))
    run_to_completion(unlearn(spec, given))
    after = state(given.model)
    path, _ = save_weights(given.model, tmp_path)

    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all("lora_" in name or "modules_to_save" in name for name in moved)
    assert set(safetensors.torch.load_file(path)) == names
    path.rename(theirs)
    loaded = PeftModel.from_pretrained(base(), tmp_path)
    assert torch.equal(outputs(loaded), outputs(given.model))


def test_pefts_file_is_loaded_and_so_is_one_of_the_whole_model(tmp_path: Path) -> None:
    given = task()
    given.model.save_pretrained(tmp_path)
    theirs, whole = tmp_path / "adapter_model.safetensors", tmp_path / "whole.safetensors"
    safetensors.torch.save_file({name: tensor.clone() for name, tensor in given.model.state_dict().items()}, whole)
    for path in (theirs, whole):
        loaded = fresh(adapted, seed=1)
        load_weights(loaded, path, file_sha256(path))
        assert same(state(loaded), state(given.model))
        assert torch.equal(outputs(loaded), outputs(given.model))


def test_another_adapters_file_is_refused(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    get_peft_model(base(), LoraConfig(r=2, target_modules=["0"], modules_to_save=["2"])).save_pretrained(
        tmp_path / "rank"
    )
    get_peft_model(base(), LoraConfig(r=4, target_modules=["0"])).save_pretrained(tmp_path / "fewer")
    for name in ("rank", "fewer"):
        path = tmp_path / name / "adapter_model.safetensors"
        with pytest.raises(WeightsMisfit, match="does not fit"):
            load_weights(adapted(), path, file_sha256(path))


def test_where_more_than_the_adapter_is_trained_the_file_has_the_whole_model(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    opened = adapted()
    next(opened.parameters()).requires_grad_(True)
    moving = get_peft_model(base(normalised), LoraConfig(r=4, target_modules=["1"]))  # beside batch norm
    for model in (opened, moving):
        path, _ = save_weights(model, tmp_path)
        assert safetensors.torch.load_file(path).keys() == model.state_dict().keys()


def test_dropping_one_persons_adapter_makes_it_untrained_and_leaves_the_others_alone(tmp_path: Path) -> None:
    given = task(of_two)
    given.adapters = dict.fromkeys(given.forget.ids, "anna") | dict.fromkeys(given.remain.ids, "bert")
    before, untrained = state(given.model), state(fresh(of_two, seed=given.seed))
    run_to_completion(unlearn(DropAdapter(), given))
    after = state(given.model)

    of_anna = {name for name in before if "anna" in name}
    assert len(of_anna) == 4
    assert all(torch.equal(after[name], untrained[name]) for name in of_anna)
    assert all(torch.equal(after[name], before[name]) for name in before.keys() - of_anna)
    path, sha256 = save_weights(given.model, tmp_path)
    assert set(safetensors.torch.load_file(path)) == {name for name in before if ".anna." in name or ".bert." in name}
    loaded = fresh(of_two, seed=9)
    load_weights(loaded, path, sha256)
    assert same(state(loaded), after)


def test_an_adapter_trained_in_slices_goes_back_to_the_one_before_the_forgotten_samples(tmp_path: Path) -> None:
    given, other = task(), task()
    for made in (given, other):
        made.remain = sliced(made.remain, [place % 2 for place in range(len(made.remain))])
        made.forget = sliced(made.forget, [1] * len(made.forget))
    kept: list[tuple[Path, str]] = []
    other.keep_slice = lambda number, model: {"kept": kept.append(save_weights(model, tmp_path))}
    run_to_completion(unlearn(Retrain(), other))
    given.checkpoint = SliceCheckpoint(number=0, load=lambda model: load_weights(model, *kept[0]))
    run_to_completion(unlearn(Rewind(), given))

    assert same(state(given.model), state(other.model))
    assert not any("base_layer" in name for name in safetensors.torch.load_file(kept[0][0]))
