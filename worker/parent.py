"""The worker's parent process: threads for what must not wait for a child that is busy for hours, or hangs.

They watch the progress of the children, show that the worker is there, sign the log, and clean up. The parent alone has both the
signing keys and the storage; the beat, which can reach other networks, has neither.
"""

import logging
import threading
from datetime import timedelta
from functools import partial

from sqlalchemy.orm import Session, sessionmaker

from ledger.db import make_engine, make_sessions
from ledger.jobs import heartbeats
from worker.beat.relay import repeat
from worker.cleanup import delete_finished_checkpoints, delete_needless_copies, record_storage_room
from worker.settings import Settings, read_settings
from worker.signing import sign_log
from worker.watchdog import POLL_INTERVAL, make_watchdog

logger = logging.getLogger(__name__)


def start(**_: object) -> None:
    """Start the threads once the children are forked; they end with the process."""
    settings = read_settings()
    # The children never use these connections: psycopg closes a connection only in the process that opened it.
    url, limit = settings.database_url.get_secret_value(), settings.statement_seconds
    sessions = make_sessions(make_engine(url, pool_size=2, statement_seconds=limit))
    stopped = threading.Event()
    for action, interval in [
        (make_watchdog(sessions, settings).poll, POLL_INTERVAL),
        (partial(keep_house, sessions, settings), settings.sweep_seconds),
        (partial(delete_needless_copies, settings.files, sessions), settings.sweep_seconds),
    ]:
        threading.Thread(target=repeat, args=(action, stopped, interval), daemon=True).start()


def keep_house(sessions: sessionmaker[Session], settings: Settings) -> None:
    """Record that a worker is there, sign the log if it has grown, and clean up, unless another worker has just done so.

    One that fails does not keep the others from being done.
    """
    with sessions.begin() as session:
        if heartbeats.was_seen_within(session, heartbeats.WORKER, timedelta(seconds=settings.sweep_seconds / 2)):
            return
        heartbeats.record_heartbeat(session, heartbeats.WORKER)
    for action in (
        partial(sign_log, sessions, settings),
        partial(delete_finished_checkpoints, settings.files, sessions),
        partial(record_storage_room, settings.files, sessions),
    ):
        try:
            action()
        except Exception as error:
            logger.warning("%s failed and is tried again: %s", action.func.__name__, type(error).__name__)
