"""Find the forget set and the remaining set in the workload's training set, by digest."""

from collections.abc import Collection
from dataclasses import dataclass

import torch

from ledger.samples import sample_digest
from unlearning.samples import SampleSet
from worker.errors import SamplesMissing


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """forget: D_f. remain: D_r, without what earlier jobs made the model forget. erased: how many of those there are."""

    forget: SampleSet
    remain: SampleSet
    erased: int


def split_train(
    train: SampleSet, *, dataset: str, key: bytes, forget: Collection[bytes], erased: Collection[bytes]
) -> Split:
    """Split the training set. A sample once forgotten is in neither set, for ever.

    Raises SamplesMissing where the training set lacks samples to forget: a report on fewer would say too much.
    """
    forget_index: list[int] = []
    remain_index: list[int] = []
    for place, sample in enumerate(train.ids):
        digest = sample_digest(key, dataset, sample)
        if digest in forget:
            forget_index.append(place)
        elif digest not in erased:
            remain_index.append(place)
    if len(forget_index) != len(forget):
        raise SamplesMissing(
            f"The workload's training set has {len(forget_index)} of the {len(forget)} samples to forget. Either the "
            "workload's data has changed since the model was registered, or EXPUNGE_SAMPLE_KEY has."
        )
    return Split(
        forget=train.take(torch.tensor(forget_index, dtype=torch.int64)),
        remain=train.take(torch.tensor(remain_index, dtype=torch.int64)),
        erased=len(train) - len(forget_index) - len(remain_index),
    )
