import torch
from torch import nn

from tests.unlearning.small import samples
from unlearning.state import Epochs, Loop, State

GIVEN = samples(10, seed=1)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def test_a_part_takes_its_saved_value_when_it_is_registered() -> None:
    first = State()
    one, drawn = nn.Linear(2, 2), generator()
    first.register(model=one, generator=drawn)
    torch.rand(3, generator=drawn)
    content = first.snapshot()

    other, again = nn.Linear(2, 2), generator()
    State(content).register(model=other, generator=again)

    assert torch.equal(one.weight, other.weight)
    assert torch.equal(torch.rand(3, generator=drawn), torch.rand(3, generator=again))


def test_a_part_that_the_checkpoint_lacks_stays_what_it_is() -> None:
    loop = Loop(3)
    State({"other": {}}).register(loop=loop)

    assert list(loop) == [1, 2, 3]


def test_a_loop_continues_from_its_position_and_keeps_its_end() -> None:
    loop, numbers = Loop(5), []
    for number in loop:
        numbers.append(number)
        if number == 2:
            break
    other = Loop(5)
    other.load_state_dict(loop.state_dict())

    assert numbers == [1, 2]
    assert list(other) == [3, 4, 5]
    loop.end()
    other.load_state_dict(loop.state_dict())
    assert list(other) == []


def test_epochs_give_every_sample_once_an_epoch_as_the_sample_set_does() -> None:
    batches = Epochs(GIVEN, 3, 2, generator())
    found = [batch.inputs for batch in batches]
    drawn = generator()
    wanted = [batch.inputs for _ in range(2) for batch in GIVEN.epoch(3, drawn)]

    assert len(found) == batches.total == batches.taken == 6
    assert all(torch.equal(*pair) for pair in zip(found, wanted, strict=True))


def test_epochs_go_on_with_the_next_batch() -> None:
    drawn = generator()
    whole = [batch.inputs for batch in Epochs(GIVEN, 3, 3, generator())]
    first = Epochs(GIVEN, 3, 3, drawn)
    state = State()
    state.register(batches=first, generator=drawn)
    for _ in zip(range(4), first, strict=False):
        pass
    content = state.snapshot()

    again = generator()
    second = Epochs(GIVEN, 3, 3, again)
    State(content).register(batches=second, generator=again)

    assert all(torch.equal(*pair) for pair in zip([b.inputs for b in second], whole[first.taken :], strict=True))
