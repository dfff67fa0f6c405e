"""The FastAPI application over one core."""

from fastapi import FastAPI

from service import __version__
from service.core import Core
from service.rest import errors
from service.rest.access import Logged
from service.rest.doorway import Counted, Identified
from service.rest.guard import Guard
from service.rest.routes import router
from service.rest.traced import Traced


def create_app(core: Core) -> FastAPI:
    """All routes, with `/docs` and `/openapi.json`."""
    app = FastAPI(
        title="fcs-serve",
        version=__version__,
        description="Robust image embeddings, each with its certified bound.",
        redirect_slashes=False,  # it would repeat whatever Host the client named
    )
    errors.install(app, core.metrics)
    app.include_router(router(core))
    app.add_middleware(errors.Mended)
    app.add_middleware(Guard, gate=core.gate, metrics=core.metrics)
    app.add_middleware(Counted, metrics=core.metrics)
    app.add_middleware(Logged)
    app.add_middleware(Traced)
    app.add_middleware(Identified, gate=core.gate)  # added last, it stands before the others
    return app
