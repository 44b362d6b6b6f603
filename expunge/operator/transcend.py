"""Pull mode of Transcend: pass its pending erasures on to Expunge, and send back the results that there are."""

from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

import httpx

from connectors.configuration import HandOverFailed
from connectors.transcend import PendingRequest, ResultRefused, Transcend, make_refusal
from expunge.client import fetch_json
from expunge.errors import CannotPull, Refused

REFUSED = 422
"""The status with which the API says that a request cannot be carried out, and never will be as it is."""


@dataclass(frozen=True, slots=True)
class Pulled:
    """What became of a pending job: done, failed, refused (Sombra does not take its result), or waiting for its result."""

    request_id: UUID
    outcome: str


def pull(transcend: Transcend, http: httpx.Client) -> Iterator[Pulled]:
    """Go through the pending erasures once. Raises CannotPull, and Refused or ServiceUnreachable of the API.

    One that cannot be read, or whose result Sombra refuses, holds up no other: it is an error at the end.

    Each job is recorded before its result is asked for, and stays pending at Transcend until its result has arrived there. So a
    pull that breaks off at any point is made good by the next one.
    """
    if transcend.declaration.data_silo is None:
        raise CannotPull(
            "The declaration of Transcend has no data_silo, the ID of the integration whose requests are pulled."
        )
    unreadable, refused = 0, list[str]()
    try:
        for pending in transcend.list_pending():
            if pending is None:
                unreadable += 1
                continue
            result = _ask(http, pending)
            outcome = "waits" if result is None else "failed" if result else "done"
            if result is not None:
                try:
                    transcend.send_result(pending.nonce, result)
                except ResultRefused as error:
                    refused.append(str(error))
                    outcome = "refused"
            yield Pulled(pending.request_id, outcome)
    except HandOverFailed as error:
        raise CannotPull(str(error)) from error
    wrong = []
    if unreadable:
        wrong.append(
            f"{unreadable} pending requests of Transcend have another form than its documentation says. They stay pending."
        )
    if refused:
        wrong.append(f"Sombra refused the results of {len(refused)} jobs; the last: {refused[-1]}")
    if wrong:
        raise CannotPull(" ".join(wrong))


def _ask(http: httpx.Client, pending: PendingRequest) -> dict[str, object] | None:
    """Record a job, and return its result; None while there is none. What the API can never carry out has failed."""
    body = {"request_id": str(pending.request_id), "type": pending.type, "identifier": pending.identifier}
    if pending.created_at is not None:
        body["created_at"] = pending.created_at.isoformat()
    try:
        answer = fetch_json(http, "POST", "/transcend/requests", fields=["result"], json=body)
    except Refused as error:
        if error.status != REFUSED:
            raise
        return make_refusal(str(error))
    result: dict[str, object] | None = answer["result"]
    return result
