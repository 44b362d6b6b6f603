"""What language models are measured by: perplexities by hand, and TOFU's forget quality by scipy."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp  # type: ignore[import-untyped]  # scipy ships no type information
from torch import Tensor, nn

from benchmarks import language
from benchmarks.cases import Case, Trained
from examples import authors
from tests.benchmarks.test_cases import Bigrams
from tests.fixtures.authors import changed_authors
from unlearning.data.samples import SampleSet, joined


def bigrams(seed: int) -> nn.Module:
    model = Bigrams()
    nn.init.normal_(model.table, generator=torch.Generator().manual_seed(seed))
    return model.eval()


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Case]:
    """A case whose models are tables, of which what they say of a text can be added up."""
    monkeypatch.setattr(language, "relearner_of", lambda one: None)
    with changed_authors(AUTHORS=20):
        one = language.authors_case(1)
        one.__dict__["retrained"] = Trained(model=bigrams(1), seconds=1.0)  # in place of training it
        yield one


def losses_by_hand(model: nn.Module, samples: SampleSet) -> list[float]:
    """The mean negative log-likelihood of each text's tokens after the first, nats."""
    log_p = model.get_parameter("table").detach().double().log_softmax(1)

    def loss(tokens: Tensor) -> float:
        text = [number for number in tokens.tolist() if number]
        return -float(np.mean([float(log_p[one, next_]) for one, next_ in itertools.pairwise(text)]))

    return [loss(tokens) for tokens in samples.batch.inputs]


def test_a_perplexity_is_the_exponential_of_the_mean_over_texts_of_each_ones_mean_over_tokens(prepared: Case) -> None:
    """A long text counts as much as a short one. By the mean over all tokens of a set the figures are others."""
    model, retrained = bigrams(2), prepared.retrained.model
    found = language.LanguageScale(prepared).measured(model)

    for name, samples in (("remain", prepared.remain), ("test", prepared.workload.test)):
        own, wanted = (losses_by_hand(one, samples) for one in (model, retrained))
        assert found[f"perplexity_ratio_{name}"] == pytest.approx(
            np.exp(np.mean(own)) / np.exp(np.mean(wanted)), rel=1e-5
        )
        lengths = (samples.batch.inputs != 0).sum(1).numpy() - 1
        by_token = np.exp(np.average(own, weights=lengths) - np.average(wanted, weights=lengths))
        assert abs(found[f"perplexity_ratio_{name}"] / by_token - 1) > 1e-4
    own, wanted = (losses_by_hand(one, prepared.forget) for one in (model, retrained))
    assert found["forget_loss"] == pytest.approx(np.mean(own), rel=1e-5)
    assert found["forget_loss_gap"] == pytest.approx(abs(np.mean(own) - np.mean(wanted)), rel=1e-3)
    assert found["forget_ks"] == pytest.approx(ks_2samp(own, wanted).statistic)


def test_the_forget_quality_is_the_p_value_of_scipys_test_on_the_truth_ratios_of_facts_alone(prepared: Case) -> None:
    model, retrained = bigrams(2), prepared.retrained.model
    facts = [one.text for one in authors.corpus() if one.id in set(prepared.forget.ids)]
    assert len(facts) == len(prepared.forget)
    own, wanted = (language.truth_ratios(one, facts, seed=prepared.seed) for one in (model, retrained))
    p_value = float(ks_2samp(own, wanted).pvalue)

    assert 0 < p_value < 1
    assert language.forget_quality(prepared, model) == pytest.approx(p_value)
    assert language.forget_quality(prepared, retrained) == 1
    said = SampleSet(
        ids=tuple(name.replace("author-", "passage-") for name in prepared.remain.ids),
        inputs=prepared.remain.batch.inputs,
        targets=prepared.remain.targets,
    )
    prepared.__dict__["forget"] = joined(prepared.forget, said)
    assert language.forget_quality(prepared, model) == pytest.approx(p_value)
