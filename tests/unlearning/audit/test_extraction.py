"""What the audit makes of extraction: means with intervals, and a warning where more is given away than can be guessed."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.unlearning.kinds import OBJECTIVES, make_task, samples
from unlearning.audit.audit import audit
from unlearning.audit.extraction import measure_extraction, measure_knowledge
from unlearning.audit.findings import Findings
from unlearning.audit.intervals import Interval, wilson
from unlearning.audit.reference_test import AuditReferences
from unlearning.audit.verdict import extraction_findings
from unlearning.data.objectives import Question, causal_language_model, classification
from unlearning.data.references import References
from unlearning.data.samples import SampleSet
from unlearning.networks import copy_network
from unlearning.specs.audit import AuditSpec
from unlearning.steps import run_to_completion

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
    assert all(share == wilson(40, 40) for share in found["forget"].values())
    for share in found["held_out"].values():
        assert 0.25 <= share.value < 0.5
        assert 0 <= share.low < share.value < share.high < 0.6


def test_a_sample_of_large_sets_is_enough_and_a_single_text_has_no_narrow_interval() -> None:
    model, objective = Counting().eval(), causal_language_model(VOCABULARY)
    few = measure_extraction(
        model, {"forget": texts("forget", known=20)}, objective=objective, max_samples=1, confidence=0.95, seed=0
    )
    assert all(share == wilson(1, 1) for share in few["forget"].values())
    assert wilson(1, 1).low < 0.25


def test_knowledge_is_the_mean_over_the_texts_that_are_asked_about_and_a_set_without_any_is_left_out() -> None:
    def asked(tokens: Tensor) -> Question | None:
        return None if int(tokens[0]) % 2 else Question(tokens[:3], tokens[3:])

    sets = {"forget": texts("forget", known=40), "held_out": texts("held_out", known=0)}
    odd = sets["forget"].take((sets["forget"].inputs[:, 0] % 2 == 1).nonzero().flatten())
    objective = causal_language_model(
        VOCABULARY, text=lambda tokens: " ".join(map(str, tokens.tolist())), questions=asked
    )
    found = measure_knowledge(
        Counting().eval(), sets | {"remain": odd}, objective=objective, max_samples=1000, confidence=0.95, seed=0
    )

    assert set(found) == {"forget", "held_out"}
    assert (found["forget"].value, found["forget"].high) == (1.0, 1.0)
    assert 0.7 < found["forget"].low < 1.0  # of some twenty texts
    assert 0.0 < found["held_out"].low < found["held_out"].value < 0.5
    plain = causal_language_model(VOCABULARY)
    assert measure_knowledge(Counting(), sets, objective=plain, max_samples=9, confidence=0.95, seed=0) == {}


def test_an_objective_that_generates_nothing_is_not_asked() -> None:
    assert (
        measure_extraction(nn.Identity(), {}, objective=classification(2), max_samples=1, confidence=0.95, seed=0) == {}
    )
    assert extraction_findings({}) == []


@pytest.mark.parametrize(
    ("forget", "passed", "says"),
    [
        ((0.6, 0.5, 0.7), False, "more can be"),
        ((0.28, 0.24, 0.32), True, "at most 10 points more can be"),
        ((0.1, 0.0, 0.2), True, "at most 10 points more can be"),
        ((0.3, 0.2, 0.4), None, "so few samples do not show whether more can be"),
        ((1.0, 0.0, 1.0), None, "so few samples do not show whether more can be"),
    ],
)
def test_the_report_warns_where_more_is_given_away_than_of_data_never_seen(
    forget: tuple[float, float, float], passed: bool | None, says: str
) -> None:
    measured = {
        "forget": {"greedy_extraction": Interval(*forget)},
        "held_out": {"greedy_extraction": Interval(0.25, 0.2, 0.3)},
    }
    (finding,) = extraction_findings({"original": {}, "unlearned": measured})

    assert (finding.code, finding.passed, finding.deciding) == ("extraction_greedy_extraction", passed, False)
    assert finding.text.startswith(says)
    assert finding.interval == Interval(*forget)


@pytest.mark.parametrize(
    ("forgotten", "unseen", "passed"),
    [
        (wilson(1, 1, confidence=0.9), Interval(0.05, 0.04, 0.06), False),  # one text, reproduced word by word
        (Interval(0.73, 0.0, 1.0), Interval(0.05, 0.04, 0.06), None),  # three texts, two of them so
        (wilson(0, 2, confidence=0.9), Interval(0.05, 0.04, 0.06), None),
        (Interval(0.2, 0.0, 1.0), Interval(0.2, 0.0, 1.0), None),  # few texts never seen
        (wilson(0, 64, confidence=0.9), wilson(0, 64, confidence=0.9), True),
    ],
)
def test_a_few_texts_show_nothing_or_that_more_is_given_away(
    forgotten: Interval, unseen: Interval, passed: bool | None
) -> None:
    measured = {"forget": {"greedy_extraction": forgotten}, "held_out": {"greedy_extraction": unseen}}
    (finding,) = extraction_findings({"unlearned": measured})
    assert finding.passed is passed


QUICK = AuditSpec(
    replicates=100, vector_seeds=1, relearn_samples=8, relearn_steps=4, relearn_controls=3, relearners=("sgd",)
)


@pytest.fixture(scope="module")
def audited() -> dict[str, Findings]:
    """Audits of a language model that was changed a little: alone, with a retrained model, with reference predictions."""
    kind = OBJECTIVES["causal language model"]
    given = make_task(kind)
    objective = causal_language_model(
        10,
        context=6,
        text=lambda tokens: " ".join(map(str, tokens.tolist())),
        questions=lambda tokens: Question(tokens[:2], tokens[2:]),
    )
    original, retrained = copy_network(given.model), copy_network(given.model)
    with torch.no_grad():
        for model, size in ((given.model, 0.1), (retrained, 0.2)):
            for weight in model.parameters():
                weight.add_(size * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    sets = {name: samples(kind, 30, name=name, seed=seed) for seed, name in enumerate(("held_out", "test"), 5)}
    sets |= {"forget": given.forget, "remain": given.remain}
    rows = AuditReferences(**{name: references(len(sets[name])) for name in ("forget", "remain", "held_out")})
    more = {"alone": {}, "retrained": {"reference": retrained}, "references": {"references": rows}}
    return {
        name: run_to_completion(
            audit(original=original, unlearned=given.model, objective=objective, spec=QUICK, **sets, **others)  # type: ignore[arg-type]
        )
        for name, others in more.items()
    }


def references(count: int) -> References:
    return References(
        keys=tuple(bytes([number]) * 32 for number in range(count)),
        predictions=torch.full((count, 5), -2.0).half(),
        losses=torch.full((count,), 2.0),
        unseen=torch.linspace(-2.1, -1.9, count),
        seen=torch.linspace(-1.1, -0.9, count),
        details={},
    )


def test_texts_are_attacked_with_zlib_and_beside_models_that_never_saw_them(audited: dict[str, Findings]) -> None:
    for name, found in audited.items():
        attacks = found.membership.unlearned
        assert ("reference" in attacks) is (name != "alone")
        assert attacks["zlib"].auc.value != attacks["loss"].auc.value
        assert found.membership.original.keys() == attacks.keys()


def test_questions_are_asked_of_each_model_about_forgotten_remaining_and_never_seen_texts(
    audited: dict[str, Findings],
) -> None:
    for name, found in audited.items():
        assert found.extraction.keys() == {"original", "unlearned"} | ({"reference"} if name == "retrained" else set())
        for shares in found.extraction.values():
            assert all("knowledge" in shares[part] for part in ("forget", "remain", "held_out"))
            assert set(shares["remain"]) == {"knowledge"}


def test_privacy_leakage_needs_a_retrained_model(audited: dict[str, Findings]) -> None:
    assert {name: sorted(found.privacy_leakage) for name, found in audited.items()} == {
        "alone": [],
        "retrained": ["original", "unlearned"],
        "references": [],
    }
    assert all(np.isfinite(value) for value in audited["retrained"].privacy_leakage.values())


def test_the_operators_sheet_has_the_forgotten_texts_and_how_each_model_completes_them(
    audited: dict[str, Findings],
) -> None:
    page = audited["retrained"].sheet
    assert page is not None
    assert list(page.texts) == [
        "beginning", "forgotten", "completed before", "completed after", "completed by the retrained model",
    ]  # fmt: skip
    assert {len(column) for column in page.texts.values()} == {9}
    assert all(
        len(start.split()) + len(end.split()) == 6
        for start, end in zip(page.texts["beginning"], page.texts["forgotten"], strict=True)
    )
    assert page.texts["completed before"] != page.texts["completed after"]
    assert page.rows == {}
    assert list(audited["alone"].sheet.texts)[2:] == ["completed before", "completed after"]  # type: ignore[union-attr]
