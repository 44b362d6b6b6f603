"""The three query sets, against a brute-force search."""

import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from tests.unlearning.kinds import OBJECTIVES, make_task
from tests.unlearning.small import CLASSES, OBJECTIVE, convolutional, normalised, plain, task
from unlearning.data.batches import Batch
from unlearning.methods.ltu.queries import Neighbourhood, neighbourhood, query_sets
from unlearning.task import Task

SIZE = 10


@pytest.mark.parametrize("name", ["causal language model", "causal language model, padded"])
def test_texts_are_near_by_the_mean_of_their_hidden_states_and_the_nearest_are_drawn(name: str) -> None:
    given = make_task(OBJECTIVES[name], epochs=1)
    model, head = given.model.eval(), given.model.head
    means = []
    for part in (given.forget, given.remain):
        rows = []
        for place in range(len(part)):
            batch = part.select(torch.tensor([place]))
            entered: list[torch.Tensor] = []
            hook = head.register_forward_pre_hook(lambda _, arguments, entered=entered: entered.append(arguments[0]))
            with torch.no_grad():
                model(**batch.inputs) if isinstance(batch.inputs, dict) else model(batch.inputs)
            hook.remove()
            length = int((batch.targets != -100).sum())
            rows.append(entered[0][0, :length].mean(0))
        means.append(torch.stack(rows))
    cosine = torch.nn.functional.cosine_similarity(means[0][:, None], means[1][None], dim=-1)
    near = neighbourhood(model, given.objective, forget=given.forget, remain=given.remain)

    assert near.similarity is not None
    torch.testing.assert_close(near.similarity(torch.arange(len(given.forget))), cosine, rtol=1e-4, atol=1e-5)
    assert near.likeness is not None
    index = torch.tensor([0, 4])
    by_feature = query_sets(
        near, index, given.forget.targets[index], size=SIZE, generator=torch.Generator().manual_seed(0)
    )[0]
    nearness, rows = cosine[index].amax(0), given.remain.targets.tolist()
    # Texts may be equally near, and rounding then decides between them: so their nearness is compared.
    found = nearness[[rows.index(row) for row in by_feature.targets.tolist()]]
    torch.testing.assert_close(found.sort(descending=True).values, nearness.topk(SIZE).values, rtol=1e-4, atol=1e-5)


def test_a_language_model_whose_logits_no_linear_layer_gives_as_they_are_has_uniform_queries() -> None:
    given = make_task(OBJECTIVES["causal language model"], epochs=1)
    given.model.way = lambda own, x: 2 * own.head(own.cell(own.table(x))[0])
    near = neighbourhood(given.model, given.objective, forget=given.forget, remain=given.remain)
    assert near.similarity is None


@pytest.fixture(scope="module")
def given() -> Task:
    return task(normalised)


@pytest.fixture(scope="module")
def near(given: Task) -> Neighbourhood:
    return neighbourhood(given.model, OBJECTIVE, forget=given.forget, remain=given.remain)


def drawn(
    given: Task, near: Neighbourhood, index: torch.Tensor, *, size: int = SIZE, seed: int = 0
) -> tuple[Batch, ...]:
    generator = torch.Generator().manual_seed(seed)
    return query_sets(near, index, given.forget.targets[index], size=size, generator=generator)


def places(given: Task, batch: Batch) -> set[int]:
    """Where the batch's samples stand in the remaining set; fails where one does not."""
    found = {int((given.remain.inputs == inputs).all(-1).nonzero().item()) for inputs in batch.inputs}
    assert len(found) == len(batch.targets)
    return found


def test_by_feature_gives_the_nearest_by_cosine_in_the_penultimate_layer(given: Task, near: Neighbourhood) -> None:
    with torch.no_grad():
        forget, remain = (given.model[:-1](s.inputs).numpy() for s in (given.forget, given.remain))

    for i in range(len(given.forget)):
        search = NearestNeighbors(n_neighbors=SIZE, metric="cosine", algorithm="brute").fit(remain)
        expected = set(search.kneighbors(forget[i : i + 1], return_distance=False)[0].tolist())

        assert places(given, drawn(given, near, torch.tensor([i]))[0]) == expected


def test_for_several_samples_the_nearest_to_any_of_them_are_taken(given: Task, near: Neighbourhood) -> None:
    index = torch.tensor([0, 3, 5])
    with torch.no_grad():
        forget, remain = (given.model[:-1](s.inputs) for s in (given.forget, given.remain))
    cosine = torch.nn.functional.cosine_similarity(forget[index][:, None], remain[None], dim=-1).amax(0)

    assert places(given, drawn(given, near, index)[0]) == set(cosine.argsort(descending=True)[:SIZE].tolist())


@pytest.mark.parametrize("label", range(CLASSES))
def test_by_label_prefers_the_same_class(given: Task, near: Neighbourhood, label: int) -> None:
    index = (given.forget.targets == label).nonzero().flatten()
    there = int((given.remain.targets == label).sum())

    few, many = (drawn(given, near, index, size=size)[1] for size in (there // 2, there + 5))

    assert (few.targets == label).all()
    assert int((many.targets == label).sum()) == there


def test_beyond_its_own_class_the_class_with_the_nearest_row_follows(given: Task, near: Neighbourhood) -> None:
    rows = given.model[-1].weight.detach()
    cosine = torch.nn.functional.cosine_similarity(rows[:1], rows, dim=-1)
    second = int(cosine.argsort(descending=True)[1])
    index = (given.forget.targets == 0).nonzero().flatten()
    own = int((given.remain.targets == 0).sum())

    found = drawn(given, near, index, size=own + 5)[1]

    assert set(found.targets.tolist()) == {0, second}


def test_within_a_class_the_choice_is_random(given: Task, near: Neighbourhood) -> None:
    index = (given.forget.targets == 0).nonzero().flatten()
    seen = set().union(*(places(given, drawn(given, near, index, size=3, seed=seed)[1]) for seed in range(60)))

    assert seen == set((given.remain.targets == 0).nonzero().flatten().tolist())


def test_uniform_reaches_everything_about_equally_often(given: Task, near: Neighbourhood) -> None:
    rounds, count = 300, len(given.remain)
    hits = torch.zeros(count)
    for seed in range(rounds):
        for place in places(given, drawn(given, near, torch.tensor([0]), seed=seed)[2]):
            hits[place] += 1
    share = SIZE / count
    expected, spread = rounds * share, (rounds * share * (1 - share)) ** 0.5

    # Of 96 binomial counts, none is five standard deviations away but once in 20,000 times.
    assert ((hits - expected).abs() < 5 * spread).all()


def test_the_targets_are_the_true_ones(given: Task, near: Neighbourhood) -> None:
    for batch in drawn(given, near, torch.tensor([0, 1])):
        for inputs, target in zip(*batch, strict=True):
            place = (given.remain.inputs == inputs).all(-1).nonzero().item()
            assert given.remain.targets[place] == target


def test_a_small_remaining_set_is_given_whole(given: Task) -> None:
    few = given.remain.take(torch.arange(4))
    near = neighbourhood(given.model, OBJECTIVE, forget=given.forget, remain=few)

    assert [len(batch.targets) for batch in drawn(given, near, torch.tensor([0]))] == [4, 4, 4]


def test_without_a_last_linear_layer_all_three_are_uniform() -> None:
    given = task(convolutional)
    near = neighbourhood(given.model, OBJECTIVE, forget=given.forget, remain=given.remain)
    batches = drawn(given, near, torch.tensor([0]))

    assert near.similarity is None
    assert [len(batch.targets) for batch in batches] == [SIZE] * 3
    assert len({frozenset(places(given, batch)) for batch in batches}) == 3


@pytest.mark.parametrize("name", ["classes", "regression, two outputs and Huber", "causal language model, padded"])
def test_of_many_pairs_those_of_a_batch_are_computed_at_its_step(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = task(normalised) if name == "classes" else make_task(OBJECTIVES[name], epochs=1)
    few = neighbourhood(given.model.eval(), given.objective, forget=given.forget, remain=given.remain)
    monkeypatch.setattr("unlearning.methods.ltu.queries._AT_ONCE", 0)
    monkeypatch.setattr("unlearning.methods.ltu.queries._OTHERS", 5)
    many = neighbourhood(given.model, given.objective, forget=given.forget, remain=given.remain)
    places = torch.tensor([3, 0, 5])

    for one, other in ((few.similarity, many.similarity), (few.likeness, many.likeness)):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                assert other(places).shape == (3, len(given.remain))
                torch.testing.assert_close(other(places), one(places), rtol=1e-2, atol=1e-3)


def test_the_search_leaves_no_hook_behind() -> None:
    given = task(plain)
    neighbourhood(given.model, OBJECTIVE, forget=given.forget, remain=given.remain)

    assert not any(module._forward_pre_hooks for module in given.model.modules())


def test_a_linear_layer_that_is_not_the_classifier_is_not_taken_for_it() -> None:
    """The last linear layer by order of definition need not be the last one, nor have a row a class."""

    class Odd(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Linear(6, CLASSES)
            self.body = torch.nn.Linear(12, 6)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.head(self.body(inputs).relu())

    given = task(Odd)
    near = neighbourhood(given.model, OBJECTIVE, forget=given.forget, remain=given.remain)

    assert near.label_similarity is None or near.label_similarity.shape == (CLASSES, CLASSES)
