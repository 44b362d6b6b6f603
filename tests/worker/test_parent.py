from collections.abc import Callable

import pytest

from ledger.jobs.heartbeats import worker_last_seen
from tests.worker.conftest import Bench
from worker import parent


def test_a_worker_is_seen_and_cleans_up_even_if_it_cannot_sign_the_log(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its parent process, whatever its child does: a busy or hanging one holds up nothing of it."""
    done: list[str] = []

    def fails(*_: object) -> None:
        raise PermissionError

    def note(name: str) -> Callable[..., None]:
        def called(*_: object) -> None:
            done.append(name)

        return called

    monkeypatch.setattr(parent, "sign_log", fails)
    for name in ("delete_finished_checkpoints", "record_storage_room"):
        monkeypatch.setattr(parent, name, note(name))
    parent.keep_house(bench.sessions, bench.settings)
    assert done == ["delete_finished_checkpoints", "record_storage_room"]
    with bench.sessions() as session:
        assert worker_last_seen(session) is not None
    parent.keep_house(bench.sessions, bench.settings)
    assert len(done) == 2  # another worker has just done it
