"""What the operator may change of a running service, over a Unix socket that only he can open.

No key and no network: whoever may open the file may ask. `fcs models activate` is its client.
"""

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response

from service.core import Core
from service.errors import ConfigurationError, invalid
from service.forms import Form
from service.rest import errors
from service.types import ModelInfo

_log = logging.getLogger(__name__)


class ModelReference(Form):
    """A model, by package name, name/version, hub id, or folder as the service sees it."""

    model: str


def create_control(core: Core) -> FastAPI:
    """Routes that change what is served; each answers when the change is in force."""
    app = FastAPI(title="fcs-serve control", openapi_url=None)
    errors.install(app, core.metrics)
    app.add_middleware(errors.Mended)

    @app.exception_handler(ConfigurationError)
    async def refused(_: Request, error: ConfigurationError) -> Response:
        return errors.error_response(invalid(str(error), "model"))

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> Response:
        return errors.error_response(invalid(f'send {{"model": ...}}: {error.errors()[0]["msg"]}'))

    @app.post("/models/activate")
    async def activate(body: ModelReference) -> Response:
        model = await core.activate(body.model)
        _log.warning("model %s is served as %s from now on", model.name, model.revision)
        return _told(core, model)

    @app.post("/models/deactivate")
    async def deactivate(body: ModelReference) -> Response:
        model = await core.deactivate(body.model)
        _log.warning("model %s is served no more", model.name)
        return _told(core, model)

    return app


def _told(core: Core, model: ModelInfo) -> Response:
    served = list(core.loaded)
    return JSONResponse({"model": model.name, "revision": model.revision, "served": served})
