"""What the audit makes of extraction: means with intervals, and a warning where more is given away than can be guessed."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from unlearning.audit.extraction import measure_extraction
from unlearning.audit.intervals import Interval
from unlearning.audit.verdict import extraction_findings
from unlearning.data.objectives import causal_language_model, classification
from unlearning.data.samples import SampleSet

VOCABULARY = 20


class Counting(nn.Module):
    """Knows that a token is followed by the next number."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(20.0))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.scale * functional.one_hot((tokens + 1) % VOCABULARY, VOCABULARY)


def texts(name: str, *, known: int, count: int = 40) -> SampleSet:
    """Texts of which the first `known` count up, and the others are random."""
    tokens = torch.randint(VOCABULARY, (count, 10), generator=torch.Generator().manual_seed(len(name)))
    tokens[:known] = (torch.arange(10) + tokens[:known, :1]) % VOCABULARY
    return SampleSet(ids=tuple(f"{name}-{place}" for place in range(count)), inputs=tokens, targets=tokens)


def test_each_set_has_the_mean_share_with_its_interval() -> None:
    found = measure_extraction(
        Counting().eval(),
        {"forget": texts("forget", known=40), "held_out": texts("held_out", known=10)},
        objective=causal_language_model(VOCABULARY),
        max_samples=1000,
        confidence=0.95,
        seed=0,
    )

    assert {name: len(measures) for name, measures in found.items()} == {"forget": 4, "held_out": 4}
    assert all(share == Interval(1.0, 1.0, 1.0) for share in found["forget"].values())
    for share in found["held_out"].values():
        assert 0.25 <= share.value < 0.5
        assert 0 <= share.low < share.value < share.high < 0.6


def test_a_sample_of_large_sets_is_enough_and_a_single_text_has_no_narrow_interval() -> None:
    model, objective = Counting().eval(), causal_language_model(VOCABULARY)
    few = measure_extraction(
        model, {"forget": texts("forget", known=20)}, objective=objective, max_samples=1, confidence=0.95, seed=0
    )
    assert all((share.low, share.high) == (0.0, 1.0) for share in few["forget"].values())


def test_an_objective_that_generates_nothing_is_not_asked() -> None:
    assert (
        measure_extraction(nn.Identity(), {}, objective=classification(2), max_samples=1, confidence=0.95, seed=0) == {}
    )
    assert extraction_findings({}) == []


@pytest.mark.parametrize(
    ("forget", "passed"), [((0.6, 0.5, 0.7), False), ((0.3, 0.2, 0.4), True), ((0.1, 0.0, 0.2), True)]
)
def test_the_report_warns_where_more_is_given_away_than_of_data_never_seen(
    forget: tuple[float, float, float], passed: bool
) -> None:
    measured = {
        "forget": {"greedy_extraction": Interval(*forget)},
        "held_out": {"greedy_extraction": Interval(0.25, 0.2, 0.3)},
    }
    (finding,) = extraction_findings({"original": {}, "unlearned": measured})

    assert (finding.code, finding.passed, finding.deciding) == ("extraction_greedy_extraction", passed, False)
    assert finding.interval == Interval(*forget)
