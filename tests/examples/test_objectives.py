"""The examples of other objectives than classification, from the training script to the published report."""

import importlib
from pathlib import Path

import pytest

from examples import house_prices
from expunge.errors import CannotRegister
from expunge.operator.registration import register_workload
from report.html import render_html
from tests.examples.conftest import Site, decided_or_explained
from unlearning.storage import save_weights


@pytest.mark.parametrize(("name", "merit"), [("house_prices", "explained variance"), ("digit_facts", "F1 score")])
def test_a_plain_script_is_registered_and_a_request_is_published_verified_or_with_the_reason(
    name: str, merit: str, tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(house_prices, "TRAINED", 400)  # a third: the way is what is tested, not how well it is known
    example = importlib.import_module(f"examples.{name}")
    workload = example.workload()
    reference = f"examples.{name}:workload"
    untrained = save_weights(workload.build(), tmp_path)[0]
    with pytest.raises(CannotRegister, match=merit):
        register_workload(site.where, name=name, reference=reference, weights=untrained, dry_run=False)
    weights = save_weights(example.train(), tmp_path)[0]
    register_workload(site.where, name=name, reference=reference, weights=weights, approve_utility_drop=100.0)

    _, document = site.erase(workload.name, workload.train.ids[::20])

    audit = document.report.audit
    assert audit.merit.name == merit
    assert decided_or_explained(document)
    assert audit.measures.unlearned.ua.value > audit.measures.original.ua.value + 10
    page = render_html(document)
    assert merit in page
    assert "ccuracy on" not in page
