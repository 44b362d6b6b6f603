from itertools import islice

import pytest
import torch

from unlearning.methods.fixed_schedule import dealt


@pytest.mark.parametrize(("count", "size"), [(10, 3), (10, 10), (7, 5), (3, 8), (1, 1), (300, 64)])
def test_batches_are_dealt_like_cards(count: int, size: int) -> None:
    used = torch.zeros(count, dtype=torch.int64)
    for batch in islice(dealt(count, size, torch.Generator().manual_seed(0)), 200):
        assert len(batch) == min(count, size) == len(batch.unique())
        used[batch] += 1
        assert int(used.max() - used.min()) <= 1
    assert int(used.sum()) == 200 * min(count, size)


def test_every_round_is_shuffled_anew_by_the_seed() -> None:
    rounds = torch.stack(list(islice(dealt(12, 12, torch.Generator().manual_seed(1)), 3)))
    assert len({tuple(each.tolist()) for each in rounds}) == 3
    assert torch.equal(rounds, torch.stack(list(islice(dealt(12, 12, torch.Generator().manual_seed(1)), 3))))
