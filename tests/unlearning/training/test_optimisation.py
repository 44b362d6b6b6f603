from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.unlearning.small import WIDTH, flat, plain, samples
from unlearning.data.objectives import Objective, denoising_diffusion
from unlearning.errors import UnsupportedWorkload
from unlearning.training.loop import fresh
from unlearning.training.optimisation import (
    Muon,
    anneal,
    apply_gradient,
    batch_statistics,
    optimiser_for,
    optimiser_towards_aims,
    orthogonalised,
    sgd,
    share_left,
    update_running_statistics,
)

BATCH = samples(32, seed=1).batch
SUM = Objective(losses=lambda forward, batch: forward(batch.inputs).sum(1), scramble=lambda batch, generator: batch)


def test_applying_a_gradient_takes_one_step_and_leaves_no_gradient() -> None:
    model = fresh(plain, seed=1)
    before, direction = flat(model), torch.ones(len(flat(model)))
    apply_gradient(sgd(model, rate=0.1), direction)

    torch.testing.assert_close(flat(model), before - 0.1 * (direction + 5e-4 * before))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_objective_names_adam_which_steps_by_a_fiftieth_of_sgds_rate() -> None:
    model = fresh(plain, seed=1)
    before = flat(model)
    assert isinstance(optimiser_for(model, SUM, rate=0.1), torch.optim.SGD)
    optimiser = optimiser_for(model, replace(SUM, optimiser="adam"), rate=0.1)
    assert isinstance(optimiser, torch.optim.Adam)
    assert isinstance(
        optimiser_for(fresh(plain, seed=1).half(), replace(SUM, optimiser="adam"), rate=0.1), torch.optim.SGD
    )
    with pytest.raises(UnsupportedWorkload, match="'adamw'"):
        replace(SUM, optimiser="adamw")  # type: ignore[arg-type]
    apply_gradient(optimiser, torch.full((len(before),), 7.0))
    torch.testing.assert_close(flat(model), before - 0.002)
    anneal(optimiser, share_left=0.25, factor=0.5)
    apply_gradient(optimiser, torch.full((len(before),), 7.0))
    torch.testing.assert_close(flat(model), before - 0.0025)


@pytest.mark.parametrize("shape", [(5, 5), (4, 30), (30, 4)])
def test_an_orthogonalised_matrix_keeps_its_singular_vectors_and_loses_the_differences_of_its_values(
    shape: tuple[int, int],
) -> None:
    rank = min(shape)
    generator = torch.Generator().manual_seed(3)
    u, _, v = torch.linalg.svd(torch.randn(shape, generator=generator), full_matrices=False)
    found = orthogonalised(u @ torch.diag(torch.logspace(0, -1, rank)) @ v)

    turned = u.T @ found @ v.T
    assert float((turned - turned.diagonal().diag()).abs().max()) < 1e-4
    assert float(turned.diagonal().min()) > 0.6
    assert float(turned.diagonal().max()) < 1.3
    assert not orthogonalised(torch.zeros(shape)).any()


@pytest.mark.parametrize("scale", [1e-3, 1e3])
@pytest.mark.parametrize("shape", [(8, 3, 3, 3), (6, 40)])
def test_muon_moves_a_matrix_by_a_share_of_its_length_whatever_its_gradient(
    shape: tuple[int, ...], scale: float
) -> None:
    weight = nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(1)))
    before = weight.detach().clone()
    weight.grad = scale * torch.randn(shape, generator=torch.Generator().manual_seed(2))
    gradient = weight.grad.clone()
    Muon([weight], rate=0.1).step()

    move = before - weight.detach()
    assert float(move.norm()) == pytest.approx(0.02 * float(before.norm()), rel=1e-4)
    assert float((move * gradient).sum()) > 0


def test_muon_moves_a_matrix_of_zeros_too_and_all_else_by_momentum() -> None:
    weight, bias = nn.Parameter(torch.zeros(12, 5)), nn.Parameter(torch.zeros(3))
    optimiser = Muon([weight, bias], rate=0.1)
    for _ in range(2):
        weight.grad, bias.grad = torch.ones(12, 5), torch.ones(3)
        optimiser.step()
    at_first = 0.1 * (12 / 3) ** 0.5  # a tenth of the length that torch would give it
    assert float(weight.detach().norm()) == pytest.approx(2 * 0.02 * at_first, rel=0.02)
    torch.testing.assert_close(bias.detach(), torch.full((3,), -0.1 * (1.9 + (1 + 0.9 * 1.9))))


def test_muon_measures_a_table_by_the_rows_that_move() -> None:
    """A text has few of the tokens: by the whole table's length their rows would move many times their own."""
    table = nn.Parameter(torch.ones(1000, 4))
    table.grad = torch.zeros(1000, 4)
    table.grad[:9] = torch.randn(9, 4, generator=torch.Generator().manual_seed(2))
    Muon([table], rate=0.1).step()
    move = 1 - table.detach()
    assert float(move.norm()) == pytest.approx(0.02 * 6, rel=1e-4)
    assert not move[9:].any()


@pytest.mark.parametrize(
    ("shape", "gradient"), [((1, 6), 1.0), ((6, 1), 1.0), ((6, 1, 1), 1.0), ((4, 5), 1j), ((3,), 1.0), ((), 1.0)]
)
def test_muon_takes_plain_steps_on_all_that_is_no_real_matrix_of_several_rows_and_columns(
    shape: tuple[int, ...], gradient: complex
) -> None:
    weight = nn.Parameter(torch.zeros(shape, dtype=torch.tensor(gradient).dtype))
    weight.grad = torch.full(shape, gradient)
    Muon([weight], rate=0.1).step()
    torch.testing.assert_close(weight.detach(), torch.full(shape, -0.19 * gradient))


def test_muon_computes_in_float32_inside_autocast() -> None:
    found = []
    for enabled in (False, True):
        weight = nn.Parameter(torch.randn(8, 30, generator=torch.Generator().manual_seed(1)))
        weight.grad = torch.randn(8, 30, generator=torch.Generator().manual_seed(2))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            Muon([weight], rate=0.1).step()
        found.append(weight.detach())
    assert torch.equal(*found)


def test_aims_are_approached_by_muon_and_those_of_an_image_generator_by_its_own_optimiser() -> None:
    generator = denoising_diffusion(2, (1, 4, 4))
    assert isinstance(optimiser_towards_aims(fresh(plain, seed=1), SUM, rate=0.1), Muon)
    assert isinstance(optimiser_towards_aims(fresh(plain, seed=1), generator, rate=0.1), torch.optim.Adam)


@pytest.mark.parametrize(("count", "training"), [(15, False), (16, True)])
def test_batch_norm_alone_trains_and_only_on_batches_of_some_size(count: int, training: bool) -> None:
    model = nn.Sequential(nn.BatchNorm1d(WIDTH), nn.Dropout(0.5)).eval()
    with batch_statistics(model, samples=count):
        assert model[0].training is training
        assert not model[1].training

    assert not model[0].training


def test_batch_norm_is_put_back_after_an_error() -> None:
    model = nn.Sequential(nn.BatchNorm1d(WIDTH)).eval()
    with pytest.raises(RuntimeError, match="on purpose"), batch_statistics(model, samples=99):
        raise RuntimeError("on purpose")

    assert not model[0].training


def test_running_statistics_follow_the_inputs_given() -> None:
    model = nn.Sequential(nn.BatchNorm1d(WIDTH)).eval()
    update_running_statistics(model, SUM, BATCH)

    torch.testing.assert_close(model[0].running_mean, 0.1 * BATCH.inputs.mean(0))


def rates(steps: int, repair_steps: int) -> list[float]:
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    found = []
    for number in range(1, steps + repair_steps + 1):
        anneal(optimiser, share_left=share_left(number, steps=steps, repair_steps=repair_steps))
        found.append(optimiser.param_groups[0]["lr"])
    return found


def test_the_rate_is_full_for_half_of_a_run_and_then_falls_to_nothing() -> None:
    assert rates(8, 0) == pytest.approx([0.1] * 5 + [0.075, 0.05, 0.025])


def test_a_repair_begins_at_half_of_the_rate_and_falls_to_nothing_too() -> None:
    assert rates(2, 4)[2:] == pytest.approx([0.05, 0.0375, 0.025, 0.0125])
