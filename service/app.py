"""The HTTP API as an application: `uvicorn service.app:create_app --factory`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI

from service import metrics
from service.api import datasets, health, jobs, keys, log, methods, models, reports, unlearn_requests, uploads, webhooks
from service.console import pages
from service.http import openapi, problems
from service.http.limits import BodyLimit, make_rate_limit
from service.http.middleware import AccessLog, SecurityHeaders
from service.http.sessions import make_database
from service.http.streaming import Streams
from service.settings import Settings
from service.wakeups import make_broker
from telemetry import logs, tracing

ROUTERS = (
    unlearn_requests.router,
    uploads.router,
    jobs.router,
    reports.router,
    keys.router,
    log.router,
    models.router,
    datasets.router,
    webhooks.router,
    methods.router,
    health.router,
    pages.router,
)


def create_app(settings: Settings | None = None) -> FastAPI:
    """Create the application; without `settings`, from the environment. It connects to nothing before the first call."""
    settings = settings or Settings()  # type: ignore[call-arg]  # the environment has them
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
    app.state.database = make_database(settings.database_url.get_secret_value())
    app.state.metrics = metrics.make_registry()
    app.state.broker = make_broker(settings.redis_url.get_secret_value(), registry=app.state.metrics)
    app.state.rate_limit = make_rate_limit(settings.rate_limit, url=settings.redis_url.get_secret_value())
    app.state.streams = Streams()
    app.state.lists = Streams()
    app.state.uploads = Streams()
    for router in ROUTERS:
        app.include_router(router)
    openapi.install(app)
    problems.install(app)
    metrics.instrument(app, app.state.metrics)
    by_path = dict.fromkeys(("/uploads", "/manifests"), settings.max_upload_bytes)
    app.add_middleware(BodyLimit, limit=settings.max_body_bytes, by_path=by_path)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(AccessLog)
    tracing.trace_http(app, app.state.database.engine)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    app.state.broker.producer.close()
    tracing.finish()
    app.state.database.engine.dispose()
