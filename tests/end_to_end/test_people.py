"""A person asks to be erased, by name, and is unlearned from two models of two data sets."""

import httpx
import pytest

from expunge import client
from expunge.errors import Refused
from expunge.operator.deployment import find_deployment
from expunge.operator.registration import register_workload
from expunge.operator.subjects import import_subjects, read_csv
from expunge.operator.training import Trained
from expunge.stack.stack import Stack
from tests.end_to_end.conftest import REFERENCE, SAMPLES

pytestmark = pytest.mark.end_to_end

PERSON = "ann@example.org"
MODELS = ("faces", "voices")


def test_a_person_is_unlearned_from_two_models(running: Stack, http: httpx.Client, trained: Trained) -> None:
    where = find_deployment(running.folder.root)
    table = ["user_id,sample_id", *(f"{PERSON},{sample}" for sample in SAMPLES)]
    for name in MODELS:
        register_workload(where, name=name, reference=REFERENCE, weights=trained.path, dataset=name, policy=["retrain"])
        assert import_subjects(where, dataset=name, rows=read_csv(table)).unmatched < len(SAMPLES)

    request = client.submit(http, subjects=[PERSON, "stranger@example.org"], expedite=True)
    assert request.subjects is not None
    assert (request.subjects.given, request.subjects.matched) == (2, 1)
    assert request.datasets == MODELS
    for job_id in client.job_ids(request):
        *_, job = client.watch_job(http, job_id)
        assert job.state == "completed", job
        assert job.report_id is not None
        report = client.get_report(http, job.report_id)
        assert report.asked.subjects == 1
        assert report.asked.samples == job.samples

    done = client.get_request(http, request.id)
    assert [(target.model, target.version) for target in done.targets] == [(name, 2) for name in MODELS]
    assert not done.unserved
    for name in MODELS:
        with pytest.raises(Refused, match="still knows"):
            client.promote(http, name, 1)
