"""`fcs serve`: REST and gRPC over one model."""

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from service.cli.arrangement import in_words

if TYPE_CHECKING:  # the commands must start without loading torch
    from service.config import Settings
    from service.core import Core
    from service.server import Ports

LogLevel = Literal["debug", "info", "warning", "error"]
_log = logging.getLogger(__name__)
_EXAMPLE = Path("build/pictures/astronaut.png")


def serve(
    model: Annotated[str | None, typer.Option(help="Package name, hub id or folder.")] = None,
    extra_model: Annotated[
        list[str] | None, typer.Option(help="One more, named by requests; repeat.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address of both doors.")] = None,
    port: Annotated[int | None, typer.Option(help="REST port; 0: any.")] = None,
    grpc_port: Annotated[int | None, typer.Option(help="gRPC port; 0: any.")] = None,
    device: Annotated[
        str | None,
        typer.Option(help="auto, cpu, cuda or cuda:N; a list is an engine each: cuda:0,cuda:1."),
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32 or bfloat16.")] = None,
    memory_format: Annotated[
        str | None, typer.Option(help="auto, channels_last or contiguous.")
    ] = None,
    batch_size: Annotated[str | None, typer.Option(help="auto, or samples of one call.")] = None,
    lanes: Annotated[str | None, typer.Option(help="auto, or calls side by side on a CPU.")] = None,
    threads: Annotated[
        str | None, typer.Option(help="auto, or torch threads inside one call on a CPU.")
    ] = None,
    tune: Annotated[
        bool | None,
        typer.Option("--tune/--no-tune", help="Measure, once, what is auto of these five."),
    ] = None,
    allow_client_seed: Annotated[
        bool | None,
        typer.Option("--allow-client-seed", help="For tests: requests may choose their noise."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file of settings.")] = None,
    log_level: Annotated[LogLevel, typer.Option(help="Least severity logged.")] = "info",
) -> None:
    """Serve certified embeddings over REST and gRPC.

    These and all other settings can be given as FCS_<NAME> in the environment or in a TOML file.
    """
    from service import logs
    from service.config import load_settings

    settings = load_settings(
        config,
        model=model,
        extra_models=tuple(extra_model) if extra_model else None,
        host=host,
        port=port,
        grpc_port=grpc_port,
        device=device,
        dtype=dtype,
        memory_format=memory_format,
        batch_size=batch_size,
        lanes=lanes,
        threads=threads,
        tune=tune,
        allow_client_seed=allow_client_seed,
    )
    logs.configure(settings.log_format, log_level)
    # After the settings were read: a mistake in them is told before torch is loaded.
    from service.server import serve as run

    asyncio.run(run(settings, _announce))


def _announce(core: "Core", ports: "Ports") -> None:
    info, settings = core.info(), core.settings
    host = settings.host
    shown = "localhost" if host in {"0.0.0.0", "::"} else host  # noqa: S104
    shown = f"[{shown}]" if ":" in shown else shown
    scheme = "http" if settings.tls_certificate is None else "https"
    model = info.models[0]
    if core.settings.log_format == "json":
        _log.info(
            "serving %s on %s: REST %s://%s:%d gRPC %s:%d",
            *(model.name, model.device, scheme, shown, ports.rest, shown, ports.grpc),
        )
        return
    picture = _EXAMPLE if _EXAMPLE.is_file() else "photo.jpg"
    rest = f"{scheme}://{shown}:{ports.rest}"
    curl = f"curl -s {_credentials(settings)}{rest}"
    probes = "" if ports.probes is None else f"  probes  http://{shown}:{ports.probes}/health\n"
    typer.echo(
        f"fcs-serve {info.version}: {model.name} on {model.device}\n"
        f"  {in_words(model, model.tuning)}\n"
        f"{probes}"
        f"  REST  {rest}  (API: /docs)\n"
        f"  gRPC  {shown}:{ports.grpc}\n"
        f"try:  {curl}/embed -F inputs=@{picture} -F 'radii=[0.125, 0.25]'"
    )
    if any(one.answers for one in info.models):
        typer.echo(
            f"      {curl}/answer -F inputs=@{picture} -F 'prompt=What kind of thing is this?'"
        )


def _credentials(settings: "Settings") -> str:
    """What curl must be told: whom to trust, and what to show; never a key itself."""
    options = ""
    if settings.tls_certificate is not None:
        options += f"--cacert {settings.tls_certificate} "
    if settings.tls_client_ca is not None:
        options += "--cert client.pem --key client.key "
    if settings.api_keys is not None:
        options += '-H "Authorization: Bearer $KEY" '
    return options
