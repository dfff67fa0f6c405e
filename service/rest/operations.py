"""Health and metrics: what operators' machines ask, on the open door and on the probes' own."""

from fastapi import APIRouter, FastAPI, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from service.core import Core
from service.errors import unavailable
from service.rest import errors
from service.rest.documented import ERRORS
from service.rest.errors import error_response


def probe_app(core: Core) -> FastAPI:
    """These routes alone; everything else is not found."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    errors.install(app, core.metrics)
    app.include_router(router(core))
    app.add_middleware(errors.Mended)
    return app


def router(core: Core) -> APIRouter:
    """Health and metrics of one core."""
    routes = APIRouter()

    @routes.head("/health", include_in_schema=False)
    @routes.head("/health/ready", include_in_schema=False)
    @routes.get("/health", responses={503: ERRORS[503]})
    @routes.get("/health/ready", responses={503: ERRORS[503]})
    async def ready() -> Response:
        """200 when new work is accepted, else 503 with the reason."""
        health = core.health()
        return _health(health.ready, health.reason)

    @routes.head("/health/startup", include_in_schema=False)
    @routes.get("/health/startup", responses={503: ERRORS[503]})
    async def startup() -> Response:
        """200 once the first load is over, and from then on; 503 before."""
        health = core.health()
        return _health(health.started, "started" if health.started else health.reason)

    @routes.head("/health/live", include_in_schema=False)
    @routes.get("/health/live", responses={503: ERRORS[503]})
    async def live() -> Response:
        """200 while the process can recover by itself; 503 when only a restart helps."""
        health = core.health()
        return _health(health.alive, "alive" if health.alive else health.reason)

    @routes.head("/metrics", include_in_schema=False)
    @routes.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Prometheus text format."""
        return Response(core.metrics.render(), media_type="text/plain; version=0.0.4")

    return routes


def _health(well: bool, reason: str) -> Response:
    """A probe's answer; unlike a request that is refused, it is no rejection."""
    if well:
        return JSONResponse({"status": reason})
    return error_response(unavailable(reason))
