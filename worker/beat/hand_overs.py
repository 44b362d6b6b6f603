"""Hand-overs of served versions to the connected systems, by a thread of the beat for each."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

from sqlalchemy.orm import Session, sessionmaker

from connectors.configuration import Connector, HandOverFailed
from connectors.storage import Storage, StorageError
from ledger.events.hand_overs import (
    HandedVersion,
    plan_hand_overs,
    record_failure,
    record_success,
    take_hand_over,
    take_requested_checks,
)
from ledger.states import HandOverState
from unlearning.errors import WeightsError
from unlearning.files import file_sha256

logger = logging.getLogger(__name__)

FindWeights = Callable[[HandedVersion], Path]
"""Gives a file with a version's weights, whose digest has been checked. Raises HandOverFailed."""


def deliver_hand_overs(sessions: sessionmaker[Session], connector: Connector, *, find_weights: FindWeights) -> None:
    """Do what is due at a system: hand over, check, withdraw, each recorded before the next. It ends at the first failure."""
    with sessions.begin() as session:
        plan_hand_overs(
            session,
            connector=connector.name,
            tenant=connector.tenant,
            concerns=connector.concerns,
            withdraws=connector.system.withdraws,
        )
        take_requested_checks(session, connector.name)
    while True:
        with sessions.begin() as session:
            taken = take_hand_over(session, connector.name)
        if taken is None:
            return
        try:
            place = _act(connector, taken, find_weights=find_weights)
        except Exception as error:
            # A system's client may raise anything, and what it raises may quote anything.
            why = (
                str(error)
                if isinstance(error, HandOverFailed)
                else f"An error of the connector: {type(error).__name__}."
            )
            logger.warning("%s, version %d of %s: %s", connector.name, taken.version, taken.model, why)
            with sessions.begin() as session:
                record_failure(session, taken, why=why)
            return
        with sessions.begin() as session:
            record_success(session, taken, place=place)


def _act(connector: Connector, taken: HandedVersion, *, find_weights: FindWeights) -> str | None:
    if taken.state == HandOverState.PENDING:
        return connector.system.hand_over(taken, partial(find_weights, taken))
    if taken.state == HandOverState.WITHDRAWING:
        connector.system.withdraw(taken)
    else:
        connector.system.check(taken)
    return None


def find_weights(storage: Storage, version: HandedVersion) -> Path:
    """Find a file with a version's weights, and check its digest. Raises HandOverFailed."""
    try:
        path = storage.fetch(version.weights_path, version.weights_sha256)
        found = file_sha256(path)
    except (OSError, WeightsError) as error:
        why = str(error) if isinstance(error, StorageError | WeightsError) else f"{error.filename}: {error.strerror}."
        raise HandOverFailed(f"The beat cannot read the weights, which this connector needs. {why}") from error
    if found != version.weights_sha256:
        raise HandOverFailed(f"{path} is damaged: its SHA-256 is {found}. Restore it from the backup.")
    return path
