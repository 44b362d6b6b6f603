"""Which classes are forgotten as a whole."""

import torch

from unlearning.data.samples import SampleSet
from unlearning.stopping.criterion import gone_classes, of_classes


def labelled(*targets: int) -> SampleSet:
    return SampleSet(
        ids=tuple(map(str, range(len(targets)))), inputs=torch.zeros(len(targets), 1), targets=torch.tensor(targets)
    )


def test_a_class_goes_where_less_than_a_tenth_of_it_remains() -> None:
    forget = labelled(*[0] * 19, *[1] * 18, *[2] * 5)
    found = gone_classes(forget, labelled(0, 1, 1, *[2] * 5), classes=4)

    assert found is not None
    assert found.tolist() == [True, False, False, False]
    assert of_classes(found, torch.tensor([0, 1, 0, 3])).tolist() == [True, False, True, False]


def test_without_classes_none_goes() -> None:
    found = gone_classes(labelled(0), labelled(1), classes=None)

    assert found is None
    assert of_classes(found, torch.tensor([0, 1])).tolist() == [False, False]
