"""The language model on facts about authors: its texts, and a request for one author over HTTP."""

import logging
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from uuid import UUID

import pytest
import torch

from examples import authors
from expunge.operator.registration import register_workload
from expunge.operator.retention import read_sheet
from tests.examples.conftest import Outlets, Site, assert_figure_shown, decided_or_explained
from tests.fixtures.authors import changed_authors
from tests.fixtures.registration import RETRAINED
from unlearning.data.workload import Workload
from unlearning.errors import InvalidWorkload
from unlearning.storage import save_weights
from unlearning.training.loop import fresh
from unlearning.training.run import TrainingRun

PLAY = "\n\n".join(
    f"{name}:\n" + "\n".join(f"Line {number} of {name.lower()}, said in scene {scene}." for number in range(3))
    for scene in range(4)
    for name in ("First Guard", "MESSENGER", "Queen")
)


@pytest.fixture(autouse=True)
def few_authors() -> Iterator[None]:
    with changed_authors(AUTHORS=16, EPOCHS=24, BATCH=8, GPT=partial(authors.GPT, 32, layers=1)):
        yield


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "play.txt").write_text(PLAY)
    monkeypatch.setenv("EXPUNGE_PLAY", str(tmp_path / "play.txt"))


def test_a_text_becomes_tokens_and_back_and_padding_changes_no_prediction() -> None:
    texts = [passage.text for passage in authors.corpus()[:5]]
    tokens, model = authors.encode(texts), authors.GPT().eval()

    assert [authors.decode(row) for row in tokens] == texts
    length = len(texts[0])
    padded = tokens[:1].clone()
    padded[:, length:] = 7
    torch.testing.assert_close(model(tokens[:1])[:, :length], model(padded)[:, :length])


@pytest.mark.usefixtures("play")
def test_nobody_is_in_two_sets_and_speakers_are_people_too() -> None:
    made = authors.workload()
    people = [set(part.subjects or ()) for part in (made.train, made.held_out, made.test)]

    assert {"First Guard", "MESSENGER", "Queen", "author-000", "author-015"} <= set.union(*people)
    assert sum(map(len, people)) == len(set.union(*people))
    assert all(len(passage.text) <= authors.CONTEXT for passage in authors.corpus())
    assert max((made.train.subjects or ()).count(name) for name in people[0]) <= authors.PER_SPEAKER[1]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["fine", ""], "position 1 has 0 characters"),
        (["x" * 65], "position 0 has 65 characters"),
        (["fine", "na\u00efve"], "position 1 has characters for which there is no token"),
    ],
)
def test_a_text_that_is_empty_too_long_or_of_other_letters_is_refused_without_being_quoted(
    texts: list[str], message: str
) -> None:
    with pytest.raises(InvalidWorkload, match=message) as refusal:
        authors.encode(texts)
    assert "na\u00efve" not in str(refusal.value)


def test_a_play_that_does_not_exist_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPUNGE_PLAY", str(tmp_path / "nowhere.txt"))
    with pytest.raises(InvalidWorkload, match="does not exist"):
        authors.workload()


def test_another_number_of_authors_may_be_made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPUNGE_AUTHORS", "30")
    made = authors.workload()
    assert sum(len(part) for part in (made.train, made.held_out, made.test)) == 5 * 30
    authors.corpus.cache_clear()
    monkeypatch.setenv("EXPUNGE_AUTHORS", "-3")
    with pytest.raises(InvalidWorkload, match="EXPUNGE_AUTHORS is '-3'; it must be a number from 10 to"):
        authors.workload()


def test_readiness_is_of_first_order_and_for_whole_people_or_single_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authors, "EPOCHS", 1)
    assert authors.READINESS.order == "first"
    weights = []
    for unit in ("", "subject", "sample"):
        monkeypatch.setenv("EXPUNGE_READINESS", unit)
        made, model = authors.workload(), fresh(authors.GPT, seed=0)
        assert made.trainer is not None
        with torch.random.fork_rng():
            made.trainer(model, made.train, TrainingRun(seed=0))
        weights.append(model.state_dict()["head.weight"])
    assert all(not torch.equal(weights[one], weights[other]) for one, other in ((0, 1), (0, 2), (1, 2)))
    monkeypatch.setenv("EXPUNGE_READINESS", "everybody")
    with pytest.raises(InvalidWorkload, match="subject or sample"):
        authors.workload()


def registered(site: Site, folder: Path) -> Workload:
    """Train a model as the company did, and register it."""
    made, model = authors.workload(), authors.GPT()
    authors.train(model, made.train, TrainingRun(seed=0))
    register_workload(
        site.where,
        name="authors",
        reference="examples.authors:workload",
        weights=save_weights(model, folder)[0],
        **RETRAINED,
        dry_run=False,
    )
    return made


@pytest.mark.parametrize("kind", ["author", pytest.param("speaker", marks=pytest.mark.slow)])
def test_one_persons_texts_are_erased_over_http_and_the_operator_alone_may_read_what_was_completed(
    kind: str, tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if kind == "speaker":
        request.getfixturevalue("play")
    monkeypatch.setenv("EXPUNGE_SHEET_DAYS", "1")
    made = registered(site, tmp_path)
    person = next(name for name in made.train.subjects or () if name.startswith("author-") is (kind == "author"))
    texts = [passage.text for passage in authors.corpus() if passage.subject == person]
    assert len(texts) == (5 if kind == "author" else 12)

    with site.serve() as http:
        answer = http.post("/unlearn-requests", json={"subjects": [person]})
        assert answer.status_code == 202, answer.text
        job, document = site.work(answer.json()["targets"][0]["job"]["id"])
        report = http.get(f"/reports/{job.report_id}")
        page = http.get(f"/reports/{job.report_id}", headers={"Accept": "text/html"})

    found = document.report
    assert (found.asked.samples, found.asked.subjects) == (len(texts), 1)
    assert found.audit.merit.name == "log-likelihood"
    assert found.audit.measures.unlearned.ua.value > found.audit.measures.original.ua.value + 10
    assert found.exactness is not None
    assert {one.name for one in found.audit.extraction} == {
        "exact_memorisation",
        "extraction_strength",
        "greedy_extraction",
        "sampled_extraction",
        *(["knowledge"] if kind == "author" else []),
    }
    assert {one.name for one in found.audit.extraction if one.unlearned.remain is not None} == (
        {"knowledge"} if kind == "author" else set()
    )
    assert {"zlib", "min_k", "min_k_plus"} < {one.name for one in found.audit.membership.attacks}
    assert not any(word in form.text for form in (report, page) for word in (person, " ".join(texts[0].split()[:2])))
    shown = read_sheet(site.where, UUID(str(job.report_id))).texts
    assert list(shown) == ["beginning", "forgotten", "completed before", "completed after"]
    pairs = zip(shown["beginning"], shown["forgotten"], strict=True)
    assert {beginning + end for beginning, end in pairs} <= set(texts)
    assert len(shown["beginning"]) == min(10, len(texts))
    assert shown["completed before"] != shown["completed after"]
    assert not any(end in form.text for form in (report, page) for end in shown["completed after"] if len(end) > 8)


@pytest.mark.usefixtures("short_audits")
def test_an_approximate_method_erases_an_author_over_http_and_no_completion_leaves_the_house(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("EXPUNGE_SHEET_DAYS", "1")
    outlets = Outlets(site, monkeypatch)
    made = registered(site, tmp_path)
    person = next(name for name in made.train.subjects or () if name.startswith("author-"))

    with site.serve() as http:
        method = {"kind": "ieu", "steps": 12, "repair_steps": 24, "batch_size": 16, "passes": 0.0}
        answer = http.post("/unlearn-requests", json={"subjects": [person], "method": method})
        assert answer.status_code == 202, answer.text
        job, document = site.work(answer.json()["targets"][0]["job"]["id"])
        left = outlets.collect(http, job, answer.json()["id"])

    found = document.report
    assert (found.method.kind, found.exactness, found.asked.samples) == ("ieu", None, 5)
    assert [attempt.method for attempt in found.method.attempts] == ["ieu"]
    assert decided_or_explained(document)
    assert found.audit.measures.unlearned.ua.value > found.audit.measures.original.ua.value
    assert {"greedy_extraction", "knowledge"} <= {one.name for one in found.audit.extraction}
    assert_figure_shown(
        left["page"],
        "How much of them can be drawn out of it?",
        "Extraction",
        ["Completed greedily", "before", "after"],
    )
    assert "What does it still generate?" not in left["page"]

    texts = read_sheet(site.where, UUID(str(job.report_id))).texts
    assert {"forgotten", "completed before", "completed after"} <= texts.keys()
    secret = {
        title: [run for text in column for run in re.findall(r"[A-Za-z0-9 ]{9,}", text.strip())]
        for title, column in texts.items()
    }  # what no format escapes
    assert [title for title, runs in secret.items() if not runs] == []
    left["log"] = "\n".join(str(vars(record) | {"message": record.getMessage()}) for record in caplog.records)
    assert [name for name, content in left.items() if not content] == []
    shown = [
        (name, title, run)
        for name, content in left.items()
        for title, runs in secret.items()
        for run in runs
        if run in content
    ]
    assert shown == []
    assert [name for name, content in left.items() if person in content] == []
