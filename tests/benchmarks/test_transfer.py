"""The cells of `benchmarks.transfer` are what their names say, and a result is judged by what other retrained models are."""

import numpy as np
import pytest
import torch

from benchmarks import cells
from benchmarks.cells import NETWORKS, REQUESTS, Cell, cell
from benchmarks.transfer import TOLERANCE, judged


@pytest.fixture(scope="module")
def tables() -> dict[str, Cell]:
    return {request: cell("tabular", request, 0) for request in REQUESTS}


def test_every_request_forgets_a_part_of_the_training_set(tables: dict[str, Cell]) -> None:
    for request, one in tables.items():
        count = len(one.workload.train)
        assert len(set(one.forget.tolist())) + len(one.remain) == count, request
        assert 0 < len(one.forget) < count, request
    assert len(tables["one_sample"].forget) == 1
    assert len(tables["most"].forget) > len(tables["most"].remain)


def test_requests_are_what_their_names_say(tables: dict[str, Cell]) -> None:
    plain = tables["random"].workload.train
    wrong = tables["wrong_labels"]
    assert (wrong.workload.train.targets != plain.targets).nonzero().flatten().tolist() == wrong.forget.tolist()

    person = tables["one_person"]
    assert {person.workload.train.subjects[i] for i in person.forget.tolist()} == {"the-person"}
    assert "the-person" not in person.remain.subjects

    part = tables["part_of_a_class"]
    assert set(part.workload.train.targets[part.forget].tolist()) == {1}
    assert 1 in part.remain.targets

    missing = tables["missing_class"]
    assert set(missing.workload.train.targets[missing.forget].tolist()) == {1}
    assert 1 not in missing.workload.held_out.targets

    copies = tables["near_copies"]
    forgotten = copies.workload.train.take(copies.forget).inputs
    nearest = torch.cdist(forgotten, copies.remain.inputs).min(dim=1).values
    usual = torch.cdist(forgotten, plain.inputs).median()
    assert float(nearest.max()) < 0.5 * float(usual)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_worker_finds_a_cell_s_factory_by_its_name(network: str) -> None:
    found = getattr(cells, f"{network}__one_sample__0")()
    assert found.name == f"{network}__one_sample__0"
    outputs = found.build()(found.train.inputs[:2])
    assert outputs.shape == (2, found.objective.classes)


def test_a_result_is_near_if_it_is_as_far_as_other_retrained_models_are() -> None:
    rng = np.random.default_rng(0)
    mean = rng.uniform(0.2, 0.8, 200)

    def model() -> np.ndarray:
        return (mean + rng.normal(0, 0.1, 200)).clip(0, 1)

    unseeing = np.stack([model() for _ in range(6)])
    again = judged(unseeing, {"original": np.ones(200), "published": model()})
    assert again["retrained"] < again["bound"] < again["retrained"] + 2 * TOLERANCE
    assert again["distance"] < again["bound"] < again["original"]
    assert judged(unseeing, {"original": np.ones(200)})["distance"] is None
