"""Health checks, and the metrics that Prometheus scrapes."""

import logging

import redis
from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, Field
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from service import metrics
from service.http.openapi import problems
from service.http.problems import NotReady
from service.http.sessions import Database
from service.wakeups import Broker, ping

logger = logging.getLogger(__name__)
router = APIRouter(tags=["operations"])


class Health(BaseModel):
    """The result of each check, by name."""

    checks: dict[str, str] = Field(examples=[{"database": "ok", "broker": "ok"}])


@router.get("/livez", summary="Is the process alive?")
async def livez() -> Health:
    """Answers as long as the process runs. Checks neither the database nor the broker."""
    return Health(checks={"process": "ok"})


@router.get("/readyz", summary="Can the service serve?", responses=problems(503))
def readyz(request: Request) -> Health:
    """Checks the database and the broker. Answers 503 if one does not answer, and names it."""
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
async def scrape(request: Request) -> Response:
    """This service's HTTP metrics, and what the ledger says about requests, jobs and audits: at most two seconds old."""
    return Response(await metrics.scrape(request.app), media_type=CONTENT_TYPE_LATEST)


def _database(database: Database) -> str:
    try:
        with database.sessions() as session:
            session.execute(text("SELECT 1"))
    except SQLAlchemyError as error:
        logger.warning("the database does not answer: %s", type(error).__name__)
        return "no answer"
    return "ok"


def _broker(broker: Broker) -> str:
    try:
        ping(broker)
    except redis.RedisError as error:
        logger.warning("the broker does not answer: %s", type(error).__name__)
        return "no answer"
    return "ok"
