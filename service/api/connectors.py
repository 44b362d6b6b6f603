"""Connected systems: the call by which one says that something has changed there. It is there only for those with a secret."""

import logging
from collections.abc import Mapping, Sequence
from typing import Annotated

from fastapi import APIRouter, FastAPI, Path, Request

from connectors.configuration import Connector
from connectors.mlflow import MAX_WEBHOOK_BODY, InvalidSecret, MessageRefused, MlflowRegistry, read_secret, read_webhook
from ledger.errors import NotFound
from ledger.events.hand_overs import request_check
from service.http.authentication import ApiRoute
from service.http.bodies import Bounds, RawBody
from service.http.problems import NotReady, SignatureRefused, include
from service.http.sessions import Ledger

logger = logging.getLogger(__name__)

PREFIX = "/connectors"

BODY = Bounds(MAX_WEBHOOK_BODY, seconds=30)
"""A message names one thing that has changed."""

router = APIRouter(route_class=ApiRoute, prefix=PREFIX, include_in_schema=False)


def install(app: FastAPI, connectors: Sequence[Connector]) -> None:
    """Add the call to an application, for the connectors that have a secret. Raises InvalidSecret if one cannot be read."""
    registries = {one.name: one.system for one in connectors if isinstance(one.system, MlflowRegistry)}
    app.state.registries = {name: one for name, one in registries.items() if one.webhook_secret_file is not None}
    for registry in app.state.registries.values():
        read_secret(registry.webhook_secret_file)
    include(app, router)


@router.post("/{name}/webhook", status_code=204)
def receive_message(
    name: Annotated[str, Path(max_length=200)], body: RawBody, request: Request, ledger: Ledger
) -> None:
    """Records that the system is to be checked at once. Nothing else of the message is believed."""
    registries: Mapping[str, MlflowRegistry] = request.app.state.registries
    registry = registries.get(name)
    if registry is None or registry.webhook_secret_file is None:
        raise NotFound("EXPUNGE_CONNECTORS has no connector of this name with a webhook_secret_file")
    try:
        message = read_webhook(request.headers, body, secret=read_secret(registry.webhook_secret_file))
    except InvalidSecret as error:
        logger.error("a webhook of the connector %s cannot be checked: %s", name, error)
        raise NotReady(
            "The secret of this webhook cannot be read now; the API's log says why.", checks={"secret": "failed"}
        ) from None
    except MessageRefused as error:
        raise SignatureRefused(str(error)) from None
    try:
        model = None if message.name is None else registry.find_model(message.name)
    except LookupError:
        return  # It is about a model of somebody else.
    request_check(ledger, connector=name, delivery_id=message.delivery_id, sent_at=message.sent_at, model=model)
