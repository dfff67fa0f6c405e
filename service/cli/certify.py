"""`fcs certify IMAGE...`: certificates offline, without a server."""

import asyncio
import json
import math
import os
import sys
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from service.certificate.statement import statement
from service.cli.progress import progress_bar
from service.config import Settings, load_settings
from service.errors import ConfigurationError, ServiceError, invalid, shown
from service.types import Certificate, Embedding, EmbedRequest, Target

_CURVE_POINTS = 48
_PLOTS = (".png", ".svg", ".pdf")


def certify(
    images: Annotated[list[Path], typer.Argument(help="Pictures.", exists=True, dir_okay=False)],
    radius: Annotated[list[float] | None, typer.Option(help="l2 radius epsilon; repeat.")] = None,
    sigma: Annotated[float | None, typer.Option(help="Noise level of the model.")] = None,
    samples: Annotated[
        int | None, typer.Option(help="Estimation samples; with a target, at most.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(help="RADIUS:BOUND, where to stop early, or none: spend all samples."),
    ] = None,
    selection_samples: Annotated[int | None, typer.Option(help="Selection samples.")] = None,
    confidence: Annotated[float | None, typer.Option(help="1 - alpha, for each picture.")] = None,
    profile: Annotated[
        str | None,
        typer.Option(help="fast, balanced or strong: defaults of samples, selection and target."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Package name, hub id or folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line a picture.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Write bound against epsilon here.")] = None,
    receipt: Annotated[
        Path | None, typer.Option(help="Folder for a signed receipt of each picture.")
    ] = None,
) -> None:
    """Certify pictures offline and print their bounds."""
    settings = load_settings(model=model, max_timeout_ms=10**9, default_timeout_ms=10**9)
    radii = tuple(radius) if radius else settings.default_radii
    if plot and len(radii) + _CURVE_POINTS > settings.max_radii:
        raise invalid(f"with --plot at most {settings.max_radii - _CURVE_POINTS} radii", "radius")
    if plot is not None:
        _check_plot(plot)
    if receipt is not None:
        _check_receipts(receipt, images)
    curve = _curve(max(radii)) if plot else ()
    request = EmbedRequest(
        images=(),
        profile=profile,
        sigma=sigma,
        radii=(*radii, *curve),
        samples=samples,
        selection_samples=selection_samples,
        confidence=confidence,
        target=_target(target),
        receipt=receipt is not None,
    )
    found, failed = asyncio.run(_certify_all(settings, request, images))
    images, certificates = list(found), [_certificate(item) for item in found.values()]
    if receipt is not None:
        _write_receipts(receipt, found)
    asked = [_only_asked(certificate, len(radii)) for certificate in certificates]
    if as_json:
        for path, certificate in zip(images, asked, strict=True):
            sys.stdout.write(json.dumps({"image": str(path), **asdict(certificate)}) + "\n")
    else:
        _print(images, asked)
    if plot is not None and certificates:
        _plot(plot, images, certificates)
    if failed:
        raise ServiceError(failed[0].kind, "\nfcs: ".join(error.message for error in failed))


async def _certify_all(
    settings: Settings, request: EmbedRequest, images: list[Path]
) -> tuple[dict[Path, Embedding], list[ServiceError]]:
    """Answers by picture, and the errors of the pictures that have none."""
    from service.core import Core
    from service.receipts.signing import load_signer

    core = Core(settings, signer=load_signer(settings) if request.receipt else None)
    try:
        with progress_bar() as progress:
            loading = progress.add_task("loading the model", total=None)
            await core.start()
            progress.remove_task(loading)
            found: dict[Path, Embedding] = {}
            failed = []
            for path in images:
                one = replace(request, images=(path.read_bytes(),))
                task = progress.add_task(escape(path.name), total=core.samples_of(one))
                try:
                    result = await core.embed(one, partial(progress.advance, task))
                    found[path] = result.data[0]
                    progress.update(task, completed=progress.tasks[-1].total)
                except ServiceError as error:
                    failed.append(ServiceError(error.kind, f"{path}: {error.message}"))
            return found, failed
    finally:
        await core.drain()


def _target(text: str | None) -> Target | Literal["default"] | None:
    """An absent option leaves it to the service's defaults."""
    if text is None:
        return "default"
    if text == "none":
        return None
    radius, _, bound = text.partition(":")
    try:
        return Target(float(radius), float(bound))
    except ValueError as error:
        raise invalid(
            f"--target {shown(text)}: expected RADIUS:BOUND, e.g. 0.125:0.9, or none"
        ) from error


def _check_plot(target: Path) -> None:
    """Before the sampling, not after it."""
    if target.is_dir() or not target.parent.is_dir() or target.suffix not in _PLOTS:
        allowed = ", ".join(_PLOTS)
        raise ConfigurationError(f"--plot {target}: name a file ({allowed}) in an existing folder")


def _certificate(item: Embedding) -> Certificate:
    if item.certificate is None:
        raise RuntimeError("a certificate was asked for")
    return item.certificate


def _receipt_file(folder: Path, image: Path) -> Path:
    return folder / f"{image.name}.receipt.json"


def _check_receipts(folder: Path, images: list[Path]) -> None:
    """Before the sampling, not after it."""
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ConfigurationError(f"--receipt {folder}: name an existing folder to write in")
    files = [_receipt_file(folder, image) for image in images]
    for i, file in enumerate(files):
        if file.exists():
            raise ConfigurationError(f"--receipt: {file} exists already; it is not overwritten")
        if file in files[:i]:
            raise ConfigurationError(f"--receipt: two pictures would both write {file}")


def _write_receipts(folder: Path, found: dict[Path, Embedding]) -> None:
    for image, item in found.items():
        file = _receipt_file(folder, image)
        text = json.dumps(json.loads(item.receipt or ""), indent=2)
        try:
            with file.open("x", encoding="utf-8") as stream:
                stream.write(text + "\n")
        except OSError as error:
            raise ConfigurationError(f"cannot write {file}: {error.strerror or error}") from error


def _curve(largest: float) -> tuple[float, ...]:
    return tuple(2 * largest * i / (_CURVE_POINTS - 1) for i in range(_CURVE_POINTS))


def _only_asked(certificate: Certificate, radii: int) -> Certificate:
    """Without the radii of the plotted curve, which come after those that were asked for."""
    target = certificate.target
    bounds = tuple(
        bound
        for i, bound in enumerate(certificate.bounds)
        if i < radii or (target is not None and bound.radius == target.radius)
    )
    sentence = statement(bounds, certificate.confidence, certificate.space, False)
    return replace(certificate, bounds=bounds, statement=sentence)


def _print(images: list[Path], certificates: list[Certificate]) -> None:
    table = Table(
        "picture", "epsilon", "bound", "served", "paper", "method", "radius at 0.5", "samples"
    )
    for path, certificate in zip(images, certificates, strict=True):
        for i, b in enumerate(certificate.bounds):
            table.add_row(
                escape(path.name) if i == 0 else "",
                f"{b.radius:g}",
                _figure(b.bound),
                _figure(b.served_bound),
                _figure(b.paper),
                b.method,
                f"{certificate.certified_radius.radius:.3f}" if i == 0 else "",
                f"{certificate.estimation_samples} ({certificate.stopped})" if i == 0 else "",
            )
    console = Console()
    console.print(table)
    for path, certificate in zip(images, certificates, strict=True):
        console.print(f"{escape(path.name)}: {escape(certificate.statement)}", highlight=False)


def _figure(bound: float) -> str:
    """Rounded down: a printed bound must not promise more than the certificate."""
    return "-" if bound <= -1 else f"{math.floor(bound * 1e4) / 1e4:.4f}"


def _plot(target: Path, images: list[Path], certificates: list[Certificate]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for path, certificate in zip(images, certificates, strict=True):
        bounds = sorted(certificate.bounds, key=lambda b: b.radius)
        epsilon = [b.radius for b in bounds]
        (line,) = axes.plot(
            epsilon, [max(b.bound, 0) for b in bounds], label=path.name.replace("$", r"\$")
        )
        colour = line.get_color()
        axes.plot(epsilon, [max(b.served_bound, 0) for b in bounds], "--", color=colour)
        axes.plot(epsilon, [max(b.paper, 0) for b in bounds], ":", color=colour)
    sigma, confidence = certificates[0].sigma, certificates[0].confidence
    axes.set(
        xlabel=f"epsilon (l2, RGB in [0, 1]); sigma = {sigma:g}",
        ylabel="certified cosine",
        ylim=(0, 1.02),
        title=f"bound (solid), served bound (dashed), paper (dotted); confidence {confidence:g}",
    )
    axes.title.set_fontsize(10)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(target, dpi=120)
    plt.close(figure)
