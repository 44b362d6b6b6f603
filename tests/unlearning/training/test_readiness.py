"""Ready2Unlearn's objective, against the same written out for a network of two matrices."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.unlearning.small import CLASSES, OBJECTIVE, RECIPE, WIDTH, normalised, plain, same, samples, state
from unlearning.data.batches import Batch
from unlearning.data.objectives import Forward
from unlearning.data.samples import SampleSet
from unlearning.errors import InvalidSpec, InvalidWorkload
from unlearning.specs.training import Ready2Unlearn
from unlearning.training.loop import fit
from unlearning.training.readiness import RevocableSplit, readiness_loss, revocable_split

SIZE = 8
SPEC = Ready2Unlearn(
    efficiency=0.3,
    retention=0.5,
    resistance=0.7,
    gain="difference",
    ascent_rate=0.2,
    relearn_rate=0.1,
    ascent_steps=2,
    clip=1e9,
    longest=None,
)
Weights = tuple[Tensor, ...]


def doubled(given: SampleSet) -> SampleSet:
    return dataclasses.replace(given, inputs=given.inputs.double())


SPLIT = RevocableSplit(revocable=doubled(samples(40, seed=1)), stable=doubled(samples(40, seed=2)))


def smooth() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(WIDTH, 6, bias=False), nn.Tanh(), nn.Linear(6, CLASSES, bias=False)).double()


def drawn(seed: int = 0) -> tuple[Batch, Batch, Batch]:
    """forget, similar and stable batches, as the same seed gives them to the objective."""
    generator = torch.Generator().manual_seed(seed)
    revoked = SPLIT.revocable.draw(2 * SIZE, generator)
    stable = SPLIT.stable.draw(SIZE, generator)
    return Batch(*(t[:SIZE] for t in revoked)), Batch(*(t[SIZE:] for t in revoked)), stable


def found(model: nn.Module, spec: Ready2Unlearn) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return readiness_loss(model, spec, objective=OBJECTIVE, split=SPLIT, batch_size=SIZE, generator=generator)


def loss(weights: Weights, batch: Batch) -> Tensor:
    return functional.cross_entropy(torch.tanh(batch.inputs @ weights[0].T) @ weights[1].T, batch.targets)


def stepped(weights: Weights, batch: Batch, rate: float) -> Weights:
    gradients = torch.autograd.grad(loss(weights, batch), weights, create_graph=True)
    return tuple(w + rate * g for w, g in zip(weights, gradients, strict=True))


def written_out(weights: Weights, spec: Ready2Unlearn) -> Tensor:
    forget, similar, stable = drawn()
    ascended = weights
    for _ in range(spec.ascent_steps):
        ascended = stepped(ascended, forget, spec.ascent_rate)
    relearned = stepped(ascended, similar, -spec.relearn_rate)
    before, after = loss(weights, forget), loss(ascended, forget)
    gain = after - before if spec.gain == "difference" else torch.log(after / before)
    efficiency = -torch.clamp(gain, max=spec.clip)
    retention = loss(ascended, stable) - loss(weights, stable).detach()
    resistance = -torch.clamp(loss(relearned, forget) - loss(weights, forget).detach(), max=spec.clip)
    return spec.efficiency * efficiency + spec.retention * retention + spec.resistance * resistance


def gradient(value: Tensor, model: nn.Module) -> Tensor:
    found = torch.autograd.grad(value, list(model.parameters()), allow_unused=True, materialize_grads=True)
    return torch.cat([g.reshape(-1) for g in found])


def cosine(one: Tensor, other: Tensor) -> float:
    return float(functional.cosine_similarity(one, other, dim=0))


@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        dataclasses.replace(SPEC, gain="ratio"),
        dataclasses.replace(SPEC, gain="ratio", clip=0.01),
        dataclasses.replace(SPEC, ascent_steps=1),
        dataclasses.replace(SPEC, clip=0.01),
        dataclasses.replace(SPEC, efficiency=0.0),
        dataclasses.replace(SPEC, retention=0.0, resistance=0.0),
    ],
)
def test_value_and_gradient_are_those_of_the_formula(spec: Ready2Unlearn) -> None:
    model = smooth()
    weights = tuple(model.parameters())
    expected = written_out(weights, spec)
    value = found(model, spec)

    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient(value, model), gradient(expected, model))


def test_the_efficiency_gradient_is_that_of_finite_differences() -> None:
    model = smooth()
    spec = dataclasses.replace(SPEC, retention=0.0, resistance=0.0)
    analytic = gradient(found(model, spec), model)
    weights = nn.utils.parameters_to_vector(model.parameters()).detach()
    for i in range(0, len(weights), 7):
        values = []
        for nudge in (1e-5, -1e-5):
            moved = weights.clone()
            moved[i] += nudge
            nn.utils.vector_to_parameters(moved, model.parameters())
            values.append(found(model, spec).item())
        assert float(analytic[i]) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-5, abs=1e-9)


def test_first_order_efficiency_is_twice_the_difference_of_two_gradients() -> None:
    model = smooth()
    spec = dataclasses.replace(SPEC, retention=0.0, resistance=0.0, order="first")
    forget, _, _ = drawn()
    start = tuple(p.detach().requires_grad_() for p in model.parameters())
    ascended = stepped(stepped(start, forget, spec.ascent_rate), forget, spec.ascent_rate)
    at_end = tuple(w.detach().requires_grad_() for w in ascended)
    gradients = [torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss(w, forget), w)]) for w in (at_end, start)]

    torch.testing.assert_close(
        gradient(found(model, spec), model), -2 * spec.efficiency * (gradients[0] - gradients[1])
    )


@pytest.mark.parametrize("gain", ["difference", "ratio"])
def test_for_small_steps_both_orders_agree(gain: str) -> None:
    model = smooth()
    specs = [
        dataclasses.replace(SPEC, gain=gain, retention=0.0, resistance=0.0, ascent_rate=0.001, order=order)
        for order in ("first", "second")
    ]
    first, second = (gradient(found(model, spec), model) for spec in specs)

    assert float((first - second).norm() / second.norm()) < 0.02


def plain_ascent(model: nn.Module) -> Tensor:
    forget, _, _ = drawn()
    return gradient(-functional.cross_entropy(model(forget.inputs), forget.targets), model)


def test_efficiency_is_the_difference_and_not_plain_ascent() -> None:
    """Undifferenced, the term's gradient is nearly that of not learning the revocable data at all."""
    model = smooth()
    spec = dataclasses.replace(SPEC, retention=0.0, resistance=0.0, ascent_rate=0.02)
    forget, _, _ = drawn()
    undifferenced = -loss(stepped(tuple(model.parameters()), forget, spec.ascent_rate), forget)

    assert cosine(gradient(undifferenced, model), plain_ascent(model)) > 0.93
    assert cosine(gradient(found(model, spec), model), plain_ascent(model)) < 0.9


@pytest.mark.parametrize("order", ["first", "second"])
def test_weights_of_zero_give_no_gradient(order: str) -> None:
    model = smooth()
    value = found(model, dataclasses.replace(SPEC, efficiency=0.0, retention=0.0, resistance=0.0, order=order))

    assert float(value.detach()) == 0
    assert (gradient(value, model) == 0).all()


def test_a_network_that_knows_its_data_by_heart_still_has_a_slope_of_the_ratio() -> None:
    """As the loss goes to nothing the difference's gradient does as its square, the ratio's no faster than the loss's own."""

    def over_the_losss_own(gain: str, margin: float) -> float:
        def losses(forward: Forward, batch: Batch) -> Tensor:
            known = margin * functional.one_hot(batch.targets, CLASSES)
            return functional.cross_entropy(forward(batch.inputs) + known, batch.targets, reduction="none")

        model, forget = smooth(), drawn()[0]
        objective = dataclasses.replace(OBJECTIVE, losses=losses)
        spec = dataclasses.replace(SPEC, gain=gain, retention=0.0, resistance=0.0)
        generator = torch.Generator().manual_seed(0)
        value = readiness_loss(model, spec, objective=objective, split=SPLIT, batch_size=SIZE, generator=generator)
        return float(gradient(value, model).norm() / gradient(losses(model, forget).mean(), model).norm())

    assert over_the_losss_own("difference", 9) < over_the_losss_own("difference", 5) / 20
    assert over_the_losss_own("ratio", 9) > over_the_losss_own("ratio", 5) / 2


def test_beyond_the_clip_efficiency_asks_for_no_more() -> None:
    model = smooth()
    spec = dataclasses.replace(SPEC, retention=0.0, resistance=0.0, clip=1e-6)

    assert (gradient(found(model, spec), model) == 0).all()


def test_a_long_meta_gradient_is_scaled_down_and_keeps_its_direction() -> None:
    model = smooth()
    whole, value = gradient(found(model, SPEC), model), found(model, SPEC)
    bounded = found(model, dataclasses.replace(SPEC, longest=float(whole.norm()) / 4))

    torch.testing.assert_close(bounded, value)
    torch.testing.assert_close(gradient(bounded, model), whole / 4)


@pytest.mark.parametrize("longest", [0.0, -1.0])
def test_the_longest_meta_gradient_has_a_length(longest: float) -> None:
    with pytest.raises(InvalidSpec, match="longest"):
        Ready2Unlearn(longest=longest)


def test_batch_norms_statistics_are_not_written() -> None:
    model = normalised().double()
    model.train()
    before = state(model)
    found(model, SPEC).backward()

    assert same(state(model), before)


def test_a_parameter_that_the_loss_does_not_reach_is_no_obstacle() -> None:
    model = smooth()
    model.register_parameter("unused", nn.Parameter(torch.ones(2, dtype=torch.float64)))

    assert torch.isfinite(gradient(found(model, SPEC), model)).all()


def test_the_split_is_disjoint_whole_and_seeded() -> None:
    given = samples(41, seed=1)
    one, again, other = (revocable_split(given, share=0.25, seed=seed) for seed in (1, 1, 2))

    assert set(one.revocable.ids) | set(one.stable.ids) == set(given.ids)
    assert not set(one.revocable.ids) & set(one.stable.ids)
    assert len(one.revocable) == 10
    assert one.revocable.ids == again.revocable.ids != other.revocable.ids


@pytest.mark.parametrize("share", [0.001, 0.999])
def test_neither_part_of_the_split_is_empty(share: float) -> None:
    split = revocable_split(samples(10, seed=1), share=share, seed=0)

    assert len(split.revocable) in {1, 9}
    assert len(split.stable) in {1, 9}


def by_people(counts: list[int], *, seed: int = 1) -> SampleSet:
    """Samples of as many people as there are counts, mixed."""
    subjects = [f"person-{number}" for number, count in enumerate(counts) for _ in range(count)]
    order = torch.randperm(len(subjects), generator=torch.Generator().manual_seed(seed)).tolist()
    return dataclasses.replace(samples(len(subjects), seed=seed), subjects=tuple(subjects[i] for i in order))


def test_a_split_by_subject_divides_no_person() -> None:
    given = by_people([5, 1, 7, 2, 3, 8])
    split = revocable_split(given, share=0.5, seed=0, unit="subject")
    revocable, stable = set(split.revocable.subjects or ()), set(split.stable.subjects or ())

    assert len(revocable) == len(stable) == 3
    assert not revocable & stable
    assert sorted(split.revocable.ids + split.stable.ids) == sorted(given.ids)
    found = [{(split.revocable.subjects or ())[i] for i in own.tolist()} for own in split.people]
    assert sorted(map(len, found)) == [1, 1, 1]


@pytest.mark.parametrize(("counts", "size"), [([6] * 10, 8), ([3, 3, 3], 64), ([1] * 12, 1), ([40, 1, 1, 1], 4)])
def test_a_request_by_subject_names_all_samples_of_its_people_and_leaves_as_many_others(
    counts: list[int], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = revocable_split(by_people(counts), share=0.7, seed=0, unit="subject")
    seen: list[Batch] = []

    def losses(forward: Forward, batch: Batch) -> Tensor:
        seen.append(batch)
        return OBJECTIVE.losses(forward, batch)

    spec = Ready2Unlearn(unit="subject", order="first")
    objective = dataclasses.replace(OBJECTIVE, losses=losses)
    value = readiness_loss(
        plain(), spec, objective=objective, split=split, batch_size=size, generator=torch.Generator().manual_seed(3)
    )

    people = split.revocable.subjects or ()
    rows = {tuple(row.tolist()): person for row, person in zip(split.revocable.inputs, people, strict=True)}
    forget, similar = ([rows.get(tuple(row.tolist())) for row in batch.inputs] for batch in (seen[0], seen[-2]))
    assert torch.isfinite(value)
    assert None not in forget
    assert all(forget.count(person) == people.count(person) for person in set(forget))  # type: ignore[arg-type]
    assert not set(forget) & set(similar)
    others = len(people) - len(forget)
    assert len(forget) >= min(size, 1)
    assert len(similar) >= min(size, others, 1)


@pytest.mark.parametrize("given", [samples(20, seed=1), by_people([9, 9])], ids=["nobody is known", "two people"])
def test_too_few_people_are_refused_before_training(given: SampleSet) -> None:
    with pytest.raises(InvalidWorkload, match="at least three people"):
        revocable_split(given, share=0.5, seed=0, unit="subject")


PREPARED = dataclasses.replace(RECIPE, epochs=6, readiness=Ready2Unlearn(warm_up=0.5, every=2))


@pytest.mark.parametrize("build", [plain, normalised])
def test_a_recipe_with_readiness_trains_differently_and_reproducibly(build: Callable[[], nn.Module]) -> None:
    given = samples(64, seed=1)
    ready, again, ordinary = (
        state(fit(build, given, recipe, objective=OBJECTIVE, seed=0))
        for recipe in (PREPARED, PREPARED, dataclasses.replace(PREPARED, readiness=None))
    )

    assert all(torch.isfinite(tensor).all() for tensor in ready.values())
    assert same(ready, again)
    assert not same(ready, ordinary)


def test_a_recipe_may_prepare_for_whole_people() -> None:
    given = by_people([8] * 8)
    readiness = Ready2Unlearn(warm_up=0.5, every=2, unit="subject")
    ready = fit(plain, given, dataclasses.replace(PREPARED, readiness=readiness), objective=OBJECTIVE, seed=0)
    by_sample = fit(plain, given, PREPARED, objective=OBJECTIVE, seed=0)

    assert all(torch.isfinite(tensor).all() for tensor in state(ready).values())
    assert not same(state(ready), state(by_sample))


def test_before_the_warm_up_is_over_training_is_ordinary() -> None:
    given = samples(64, seed=1)
    late = dataclasses.replace(PREPARED, readiness=Ready2Unlearn(warm_up=1.0, every=1))
    found = [
        state(fit(plain, given, recipe, objective=OBJECTIVE, seed=0))
        for recipe in (late, dataclasses.replace(PREPARED, readiness=None))
    ]

    assert same(*found)


def test_a_training_loop_of_ones_own_works_as_documented() -> None:
    given = samples(64, seed=1)
    spec = Ready2Unlearn(every=2)
    model = smooth().float()
    split = revocable_split(given, share=spec.revocable_share, seed=0)
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    before = OBJECTIVE.losses(model, given.batch).mean().item()
    for step in range(60):
        batch = given.draw(16, generator)
        value = OBJECTIVE.losses(model, batch).mean()
        if step % spec.every == 0:
            value = value + readiness_loss(
                model, spec, objective=OBJECTIVE, split=split, batch_size=16, generator=generator
            )
        optimiser.zero_grad()
        value.backward()
        optimiser.step()

    assert OBJECTIVE.losses(model, given.batch).mean().item() < 0.8 * before
