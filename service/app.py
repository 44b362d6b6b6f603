"""The HTTP API as an application: `uvicorn service.app:create_app --factory`."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from anyio import CapacityLimiter, create_task_group, sleep, to_thread
from fastapi import FastAPI
from pydantic import ValidationError
from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

from connectors.configuration import read_connectors
from connectors.declaration import faults
from connectors.managers import read_managers
from connectors.opendsr import PREFIX, read_opendsr
from connectors.storage import delete_needless_copies
from connectors.transcend import read_transcend
from service import metrics
from service.api import (
    cards,
    connectors,
    datasets,
    health,
    jobs,
    keys,
    log,
    managers,
    methods,
    models,
    opendsr,
    reports,
    served,
    transcend,
    unlearn_requests,
    uploads,
    webhooks,
)
from service.console import pages
from service.console.sign_in import MAX_FORM_BYTES
from service.http import openapi, problems
from service.http.bodies import LARGE_BODIES, BodyLimit, Bounds
from service.http.limits import make_address_limit, make_rate_limit
from service.http.middleware import MONITORING, AccessLog, SecurityHeaders
from service.http.sessions import make_database
from service.http.streaming import MAX_FILES, MAX_LISTS, Streams
from service.settings import Settings
from service.wakeups import make_broker
from telemetry import logs, tracing

logger = logging.getLogger(__name__)

COPIES_INTERVAL = 60.0
"""Seconds between two searches for copies of weights that are not needed any more."""

UNTRACED = ",".join(f"//[^/]*{path}$" for path in MONITORING)
"""The addresses of `MONITORING`, as patterns: a model may be named as one of these routes is."""

ROUTERS = (
    pages.navigation,  # first: it takes only what a browser opens
    unlearn_requests.router,
    uploads.router,
    jobs.router,
    reports.router,
    keys.router,
    log.router,
    models.router,
    cards.router,
    served.router,
    datasets.router,
    webhooks.router,
    methods.router,
    health.router,
    pages.router,
)


def create_app(settings: Settings | None = None) -> FastAPI:
    """Create the application; without `settings`, from the environment. It connects to nothing before the first call.

    Raises SystemExit, in a line that names each fault, if a setting or a file in which the operator declares is wrong.
    """
    settings = settings or _read_settings()
    logs.configure(settings.log)
    tracing.start("expunge-api")
    app = FastAPI(
        title="Expunge",
        version=version("expunge"),
        summary="Machine unlearning as a service",
        description=openapi.DESCRIPTION,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        servers=[{"url": settings.public_url}] if settings.public_url else None,
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan,
    )
    app.state.settings = settings
    app.state.database = make_database(
        settings.database_url.get_secret_value(), statement_seconds=settings.statement_seconds
    )
    app.state.metrics = metrics.make_registry()
    app.state.scrapes = metrics.Scrapes()
    app.state.broker = make_broker(settings.redis_url.get_secret_value(), registry=app.state.metrics)
    app.state.rate_limit = make_rate_limit(settings.rate_limit, url=settings.redis_url.get_secret_value())
    app.state.address_limit = make_address_limit(settings.address_rate_limit)
    app.state.parsing = CapacityLimiter(LARGE_BODIES)
    app.state.streams = Streams("streams", total=jobs.MAX_STREAMS, share=jobs.MAX_STREAMS // 2)
    app.state.lists = Streams("lists", total=MAX_LISTS, share=MAX_LISTS // 4)
    app.state.weights = Streams("files of weights", total=MAX_FILES, share=MAX_FILES // 4)
    app.state.uploads = Streams("uploads", total=uploads.MAX_UPLOADS, share=uploads.MAX_UPLOADS // 4)
    for router in ROUTERS:
        problems.include(app, router)
    openapi.install(app)
    problems.install(app)
    try:
        _install_declared(app, settings)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    metrics.instrument(app, app.state.metrics)
    app.add_middleware(BodyLimit, bounds=Bounds(settings.max_body_bytes), by_path=_bounds_by_path(settings))
    app.add_middleware(SecurityHeaders)
    app.add_middleware(AccessLog, refusal=problems.unexpected())
    if tracing.is_on():
        _trace_calls(app, app.state.database.engine)
    return app


def _bounds_by_path(settings: Settings) -> dict[str, Bounds]:
    """Give the bounds of the bodies of calls that have their own, by the pattern of their path."""
    lists = Bounds(settings.max_upload_bytes, seconds=uploads.UPLOAD_SECONDS, advice=uploads.SPLIT)
    requests = Bounds(settings.max_body_bytes, advice=unlearn_requests.UPLOAD)
    return {
        **dict.fromkeys(("/uploads", "/uploads/subjects", "/manifests"), lists),
        **dict.fromkeys(("/unlearn-requests", "/unlearn-requests:preview"), requests),
        **dict.fromkeys((f"{PREFIX}/requests", "/managers/*/requests", "/transcend/*"), managers.BODY),
        "/console/sign-in": Bounds(MAX_FORM_BYTES, advice="The form has one API key."),
        f"{connectors.PREFIX}/*": connectors.BODY,
    }


def _read_settings() -> Settings:
    try:
        return Settings()  # type: ignore[call-arg]  # the environment has them
    except ValidationError as error:
        raise SystemExit(faults(error)) from None


def _install_declared(app: FastAPI, settings: Settings) -> None:
    """Install the calls of the systems that the operator declares. Raises ValueError if a file of theirs is wrong."""
    if settings.managers is not None:
        managers.install(app, read_managers(settings.managers))
    if settings.connectors is not None:
        connectors.install(app, read_connectors(settings.connectors))
    if settings.transcend is not None:
        transcend.install(app, read_transcend(settings.transcend))
    if settings.opendsr is not None:
        opendsr.install(app, read_opendsr(settings.opendsr))


def _trace_calls(app: FastAPI, engine: Engine) -> None:
    """Trace the calls and their SQL statements, without the parameters."""
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
    from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor

    FastAPIInstrumentor.instrument_app(app, excluded_urls=UNTRACED, exclude_spans=["receive", "send"])
    SQLAlchemyInstrumentor().instrument(engine=engine)


async def _delete_copies(settings: Settings, sessions: sessionmaker[Session]) -> None:
    """Delete copies of weights that are not needed any more, from the start on and at an interval. Tries again after an error."""
    storage = settings.files
    while storage is not None:
        try:
            await to_thread.run_sync(delete_needless_copies, storage, sessions, abandon_on_cancel=True)
        except Exception as error:
            logger.warning("copies of weights are not deleted yet: %s", type(error).__name__)
        await sleep(COPIES_INTERVAL)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with create_task_group() as tasks:
        tasks.start_soon(_delete_copies, app.state.settings, app.state.database.sessions)
        yield
        tasks.cancel_scope.cancel()
    app.state.broker.producer.close()
    tracing.finish()
    app.state.database.engine.dispose()
