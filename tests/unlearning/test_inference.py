import torch
from torch import Tensor, nn

from tests.unlearning.small import task
from unlearning.inference import fast, in_pieces, pieces
from unlearning.specs import Stop
from unlearning.stopping.criterion import calibrate, check

CPU = torch.device("cpu")
IMAGES = torch.randn(150, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Counting(nn.Module):
    """Notes how many samples each pass is given."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.sizes: list[int] = []

    def forward(self, inputs: Tensor) -> Tensor:
        self.sizes.append(len(inputs))
        answers: Tensor = self.model(inputs)
        return answers


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 4)
    ).eval()


def test_the_answers_are_those_of_one_pass_in_the_inputs_order() -> None:
    model = Counting(network())
    with torch.no_grad():
        found = in_pieces(model)(IMAGES)
        assert model.sizes == [64, 64, 22]
        torch.testing.assert_close(found, network()(IMAGES))


def test_gradients_flow_through_the_pieces() -> None:
    gradients = []
    for wrap in (in_pieces, lambda model: model):
        model = network()
        wrap(model)(IMAGES).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-3)


def test_no_more_than_asked_for_and_more_at_once_on_a_gpu() -> None:
    inputs = torch.arange(3000)

    def sizes(device: str, most: int = 1024) -> set[int]:
        return {len(part) for part in pieces(inputs, device=torch.device(device), most=most)[:-1]}

    assert sizes("cpu") == {64}
    assert sizes("cpu", most=10) == sizes("cuda", most=10) == {10}
    assert sizes("cuda") == sizes("cuda", most=9999) == {1024}
    assert torch.equal(torch.cat(pieces(inputs, device=CPU)), inputs)


def test_no_samples_are_one_empty_piece() -> None:
    assert in_pieces(network())(IMAGES[:0]).shape == (0, 4)


def test_images_are_laid_out_channels_last_and_other_inputs_left_alone() -> None:
    assert fast(IMAGES).is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(fast(IMAGES), IMAGES)
    rows = IMAGES[:, 0, 0]
    assert fast(rows) is rows


def test_a_look_of_the_stop_never_passes_a_whole_set_at_once() -> None:
    """A held-out set may be of any size; the memory that a look takes is not."""
    given = task()
    model = Counting(given.model).eval()
    given.model = model
    check(calibrate(given, Stop()), model)

    assert max(model.sizes) <= 64 < len(given.criterion)
