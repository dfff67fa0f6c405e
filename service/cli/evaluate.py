"""`fcs evaluate stability|answers|votes|robustness`."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Measure what a model is worth.", no_args_is_help=True)


@app.command("stability")
def stability(
    pictures: Annotated[
        list[Path], typer.Argument(help="Pictures never trained on: files or folders.", exists=True)
    ],
    model: Annotated[str | None, typer.Option(help="Package name, hub id or folder.")] = None,
    labels: Annotated[
        bool, typer.Option(help="The sub-folders of the one folder given are labels.")
    ] = False,
    sigma: Annotated[
        list[float] | None, typer.Option(help="Noise level; repeat. Default: the model's.")
    ] = None,
    samples: Annotated[int, typer.Option(min=2, help="Noisy features a picture.")] = 64,
    certified: Annotated[int, typer.Option(min=0, help="Pictures to certify as well.")] = 60,
    certified_samples: Annotated[
        int, typer.Option(min=2, help="Estimation samples of each.")
    ] = 400,
    epsilon: Annotated[
        list[float] | None, typer.Option(help="l2 radius of the bounds; repeat.")
    ] = None,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.99999)] = 0.999,
    limit: Annotated[
        int | None, typer.Option(min=2, help="Only so many pictures, evenly chosen.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the noise.")] = 0,
    plot: Annotated[Path | None, typer.Option(help="Draw into this file.")] = None,
) -> None:
    """Stability, usefulness and cost of FS, with and without the model's purifier and mapper."""
    from service.config import load_settings
    from service.errors import ConfigurationError
    from service.evaluation.stability.measure import Effort
    from service.evaluation.stability.report import plot as draw
    from service.evaluation.stability.report import show
    from service.evaluation.stability.run import evaluate
    from service.pictures.folders import evenly, picture_files

    if plot is not None:
        _can_be_drawn(plot)
    root = None
    if labels:
        if len(pictures) != 1 or not pictures[0].is_dir():
            raise ConfigurationError("--labels: name one folder whose sub-folders are labels")
        root = pictures[0]
    files = picture_files(pictures)
    files = files if limit is None else evenly(files, limit)
    effort = Effort(
        samples, certified, certified_samples, tuple(epsilon or (0.25, 0.5)), confidence, seed
    )
    report = evaluate(load_settings(model=model), files, root, tuple(sigma or ()), effort)
    show(report)
    typer.echo(json.dumps(report.as_json(), allow_nan=False))
    if plot is not None:
        draw(report, plot)


@app.command("answers")
def answers(
    pictures: Annotated[
        Path,
        typer.Argument(help="Folder of `fcs data fetch`, never trained on.", exists=True),
    ],
    model: Annotated[str | None, typer.Option(help="Package that answers.")] = None,
    sigma: Annotated[float, typer.Option(help="Noise level.")] = 0.25,
    samples: Annotated[
        list[int] | None, typer.Option(min=1, help="Draws that are shown; repeat.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=2, help="Only so many pictures.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of choice, questions and noise.")] = 0,
) -> None:
    """Right answers about pictures: clean, smoothed, and smoothed behind the model's own parts."""
    from service.config import DEFAULT_ANSWERER, load_settings
    from service.evaluation.spoken import evaluate, show

    settings = load_settings(model=model or DEFAULT_ANSWERER)
    report = evaluate(settings, pictures, sigma, tuple(samples or (1, 4, 8, 16)), limit, seed)
    show(report)
    typer.echo(json.dumps(report.as_json(), allow_nan=False))


@app.command("votes")
def votes(
    pictures: Annotated[
        Path,
        typer.Argument(help="Folder of `fcs data fetch`, never trained on.", exists=True),
    ],
    model: Annotated[str | None, typer.Option(help="Package that answers.")] = None,
    sigma: Annotated[float, typer.Option(help="Noise level.")] = 0.25,
    draws: Annotated[int, typer.Option(min=10, help="That vote on each answer.")] = 100,
    radius: Annotated[
        list[float] | None, typer.Option(min=0, help="Of certified accuracy; repeat.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=2, help="Only so many pictures.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of choice and questions.")] = 0,
) -> None:
    """Yes/no answers that are right, and right and certified, as the service gives them."""
    from service.config import DEFAULT_ANSWERER, load_settings
    from service.evaluation.voted import evaluate, show

    settings = load_settings(
        model=model or DEFAULT_ANSWERER, max_timeout_ms=10**9, default_timeout_ms=10**9
    ).model_copy(update={"extra_models": ()})
    radii = tuple(radius or (0.0625, 0.125, 0.25, 0.375))
    report = evaluate(settings, pictures, sigma, draws, radii, limit, seed)
    show(report)
    typer.echo(json.dumps(report.as_json(), allow_nan=False))


@app.command("robustness")
def robustness(
    config: Annotated[str, typer.Option(help="Shipped config by name, or a YAML file.")] = "demo",
    out: Annotated[Path, typer.Option(help="Folder of the run; an unfinished one goes on.")] = Path(
        "runs/robustness"
    ),
    workers: Annotated[
        int, typer.Option(min=1, help="Processes, of one thread and one copy of the model each.")
    ] = 2,
) -> None:
    """Every defence, every attack, every task: accuracy, attack success, certificates."""
    from service.config import load_settings
    from service.evaluation.robustness.config import load_config
    from service.evaluation.robustness.plots import plot
    from service.evaluation.robustness.report import as_json, markdown, summarise
    from service.evaluation.robustness.run import run

    asked = load_config(config)
    found = run(load_settings(model=asked.model), asked, out, workers)
    lines = summarise(found.cells, (0.0625, 0.125, 0.25))
    table = markdown(lines, found.different)
    (out / "table.md").write_text(table, encoding="utf-8")
    plot(lines, found.cells, found.samples, out)
    typer.echo(table)
    typer.echo(json.dumps(as_json(lines, found.different), allow_nan=False))


def _can_be_drawn(file: Path) -> None:
    """Before an hour of measuring, not after it."""
    from matplotlib.backend_bases import FigureCanvasBase

    from service.errors import ConfigurationError

    known = FigureCanvasBase.get_supported_filetypes()
    if file.suffix.removeprefix(".") not in known:
        raise ConfigurationError(f"--plot {file}: the ending is one of {', '.join(sorted(known))}")
    if file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK):
        raise ConfigurationError(f"--plot {file} cannot be written")
