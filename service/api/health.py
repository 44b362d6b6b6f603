"""Is the process alive, can it serve, and what Prometheus scrapes."""

import logging

import redis
from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, Field
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from service import metrics
from service import wakeups as dispatch
from service.http.openapi import problems
from service.http.problems import NotReady
from service.http.sessions import Database

logger = logging.getLogger(__name__)
router = APIRouter(tags=["operations"])


class Health(BaseModel):
    """Each check by name, and what it found."""

    checks: dict[str, str] = Field(examples=[{"database": "ok", "broker": "ok"}])


@router.get("/livez", summary="Is the process alive?")
async def livez() -> Health:
    """Answers as long as the process can answer at all; looks at nothing behind it."""
    return Health(checks={"process": "ok"})


@router.get("/readyz", summary="Can the service serve?", responses=problems(503))
def readyz(request: Request) -> Health:
    """Asks the database and the broker; 503 where one does not answer, with which."""
    checks = {"database": _database(request.app.state.database), "broker": _broker(request.app.state.broker)}
    silent = [name for name, found in checks.items() if found != "ok"]
    if silent:
        raise NotReady(
            f"No answer from: {', '.join(silent)}. What it holds is safe; try again in a few seconds.", checks=checks
        )
    return Health(checks=checks)


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}},
)
def scrape(request: Request) -> Response:
    """This service's HTTP metrics, and what the ledger says about requests, jobs and audits."""
    return Response(metrics.exposition(request.app), media_type=CONTENT_TYPE_LATEST)


def _database(database: Database) -> str:
    try:
        with database.sessions() as session:
            session.execute(text("SELECT 1"))
    except SQLAlchemyError as error:
        logger.warning("the database does not answer: %s", type(error).__name__)
        return "no answer"
    return "ok"


def _broker(broker: dispatch.Broker) -> str:
    try:
        dispatch.ping(broker)
    except redis.RedisError as error:
        logger.warning("the broker does not answer: %s", type(error).__name__)
        return "no answer"
    return "ok"
