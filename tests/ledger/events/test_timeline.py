"""The sentences of a timeline."""

import pytest

from ledger.events.timeline import list_job_events


@pytest.mark.parametrize(("numbers", "counted"), [((1,), "1 sample"), ((1, 2), "2 samples")])
def test_what_is_counted_reads_as_a_sentence_has_it(world, numbers, counted):
    claim = world.submit_and_claim(*numbers)
    with world.sessions() as session:
        texts = [event.text for event in list_job_events(session, tenant_id=world.tenant_id, job_id=claim.job_id)]
    assert f"A request for {counted} joined." in texts
    assert f"Closed with {counted}." in texts
