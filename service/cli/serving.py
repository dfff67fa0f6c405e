"""`fcs models activate|deactivate`: change what a running service serves."""

from pathlib import Path
from typing import Annotated, Any

import typer

from service.errors import ConfigurationError, Kind, ServiceError

_SECONDS = 3600.0  # a large model takes its time to load
_FOLDER = ("config.json", "open_clip_config.json")
_Port = Annotated[int | None, typer.Option(help="The service's REST port; default: as set.")]
_Socket = Annotated[Path | None, typer.Option(help="Its control socket, where settings name one.")]


def activate(
    reference: Annotated[str, typer.Argument(help="Package, package/version, folder or hub id.")],
    port: _Port = None,
    socket: _Socket = None,
) -> None:
    """Let a running service load a model and serve it, in place of the one of that name if any.

    No request is dropped: those that came before are answered by what they came to.
    """
    _told(_ask("activate", reference, port, socket), "is served as")


def deactivate(
    name: Annotated[str, typer.Argument(help="As requests call it.")],
    port: _Port = None,
    socket: _Socket = None,
) -> None:
    """Let a running service answer what it accepted with a model, and then forget it."""
    _told(_ask("deactivate", name, port, socket), "is served no more; it was")


def _ask(what: str, model: str, port: int | None, socket: Path | None) -> dict[str, Any]:
    import httpx

    from service.config import default_control_socket, load_settings

    settings = load_settings(port=port)
    path = socket or settings.control_socket or default_control_socket(settings.port)
    folder = Path(model)
    if any((folder / name).is_file() for name in _FOLDER):
        model = str(folder.resolve())  # the service has another present folder
    transport, limit = httpx.HTTPTransport(uds=str(path)), httpx.Timeout(_SECONDS, connect=5.0)
    try:
        with httpx.Client(transport=transport, timeout=limit) as client:
            answer = client.post(f"http://control/models/{what}", json={"model": model})
    except httpx.TransportError as error:
        raise ConfigurationError(
            f"no service answers at {path}: {error}; name its --port or --socket"
        ) from error
    told: dict[str, Any] = answer.json()
    if answer.is_success:
        return told
    message = told["error"]["message"]
    if told["error"]["type"] == Kind.INVALID.value:
        raise ConfigurationError(message)
    raise ServiceError(Kind(told["error"]["type"]), message)


def _told(answer: dict[str, Any], how: str) -> None:
    typer.echo(f"{answer['model']} {how} {answer['revision']}")
    typer.echo(f"served: {', '.join(answer['served'])}")
