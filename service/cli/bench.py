"""`fcs bench`: every performance figure in the docs comes from here."""

from pathlib import Path
from typing import Annotated

import typer

from service.cli import bench_serving

app = typer.Typer(help="Benchmarks: a table, then one JSON line.", no_args_is_help=True)
app.command("load")(bench_serving.load)
app.command("newcomer")(bench_serving.newcomer)
app.command("peers")(bench_serving.peers)


@app.callback()
def group() -> None:
    """Benchmarks: a table, then one JSON line."""


@app.command("shapes")
def shapes(
    model: Annotated[str | None, typer.Option(help="Package name, hub id or folder.")] = None,
    repeats: Annotated[int, typer.Option(min=3, help="Timed batches of each row.")] = 15,
) -> None:
    """Milliseconds a sample by dtype, batch shape and threads, with noise and reduction beside."""
    from service.bench.shapes import run
    from service.config import load_settings

    run(load_settings(model=model), repeats)


@app.command("engine")
def engine(
    pictures: Annotated[
        list[Path] | None, typer.Argument(help="Pictures.", exists=True, dir_okay=False)
    ] = None,
    model: Annotated[str | None, typer.Option(help="Package name, hub id or folder.")] = None,
    repeats: Annotated[int, typer.Option(min=3, help="Rounds; medians are shown.")] = 5,
    samples: Annotated[int, typer.Option(min=100, help="Of each load and round.")] = 6000,
) -> None:
    """Served samples a second against the bare loop, and where the time goes."""
    from service.bench.engine import run
    from service.config import load_settings

    run(load_settings(model=model), pictures or [], repeats, samples)


@app.command("first-token")
def first_token(
    pictures: Annotated[list[Path], typer.Argument(help="Pictures.", exists=True, dir_okay=False)],
    model: Annotated[str | None, typer.Option(help="Package, hub id or folder.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Answer samples.")] = 8,
    rounds: Annotated[int, typer.Option(min=3, help="Medians of these are shown.")] = 30,
) -> None:
    """First token of an uncertified answer, beside the unwrapped model and the samples alone."""
    from service.bench.first_token import run
    from service.config import DEFAULT_ANSWERER, load_settings

    settings = load_settings(model=model or DEFAULT_ANSWERER)
    run(settings.model_copy(update={"extra_models": ()}), pictures, samples, rounds)


@app.command("bounds")
def bounds(
    pictures: Annotated[list[Path], typer.Argument(help="Pictures.", exists=True, dir_okay=False)],
    model: Annotated[str | None, typer.Option(help="Package name, hub id or folder.")] = None,
    sigma: Annotated[float, typer.Option(min=0.001, max=16)] = 0.25,
    selection_samples: Annotated[int, typer.Option(min=1)] = 100,
    samples: Annotated[int, typer.Option(min=1)] = 1000,
) -> None:
    """How tight the certificates are on given pictures; medians."""
    from service.bench.bounds import run
    from service.config import load_settings

    run(load_settings(model=model), pictures, sigma, selection_samples, samples)


@app.command("targets")
def targets(
    pictures: Annotated[list[Path], typer.Argument(help="Pictures.", exists=True, dir_okay=False)],
    model: Annotated[str | None, typer.Option(help="Package name, hub id or folder.")] = None,
    sigma: Annotated[float, typer.Option(min=0.001, max=16)] = 0.25,
    selection_samples: Annotated[int, typer.Option(min=1)] = 100,
    samples: Annotated[int, typer.Option(min=1, help="Ceiling of the estimation sample.")] = 1000,
    bound: Annotated[float, typer.Option(min=0.01, max=0.999, help="To certify.")] = 0.9,
    shift: Annotated[list[float] | None, typer.Option(help="epsilon/sigma; repeat.")] = None,
) -> None:
    """How many samples a target takes, beside the paper's formula on the same samples; medians."""
    from service.bench.targets import run
    from service.config import load_settings

    settings = load_settings(model=model)
    run(settings, pictures, sigma, selection_samples, samples, bound, shift or [0.5, 1.0])


@app.command("figures")
def figures(
    pictures: Annotated[list[Path], typer.Argument(help="Pictures.", exists=True, dir_okay=False)],
    folder: Annotated[Path, typer.Option(help="Where to write them.")] = Path("docs/figures"),
    model: Annotated[str | None, typer.Option(help="Package name, hub id or folder.")] = None,
) -> None:
    """The figures of docs/certificate.md."""
    from service.bench.figures import run
    from service.config import load_settings

    run(load_settings(model=model), pictures, folder)


@app.command("simulate")
def simulate(
    devices: Annotated[list[int] | None, typer.Option(min=1, max=1024, help="Repeat.")] = None,
    requests: Annotated[int, typer.Option(min=1)] = 100_000,
    load: Annotated[float, typer.Option(min=0.001, max=10, help="Share of the capacity.")] = 0.8,
    launch_ms: Annotated[float, typer.Option(min=0, help="A batch, beside its samples.")] = 2.0,
    sample_ms: Annotated[float, typer.Option(min=0.0001, help="See `fcs bench shapes`.")] = 0.3,
    batch: Annotated[int, typer.Option(min=1, help="Samples of every batch.")] = 256,
    prepare_ms: Annotated[float, typer.Option(min=0, help="From taking a batch.")] = 10.0,
    look_ms: Annotated[float, typer.Option(min=0, help="One look at a checkpoint.")] = 4.0,
    depth: Annotated[int, typer.Option(min=1, help="Batches taken and not computed.")] = 2,
    late: Annotated[bool, typer.Option(help="Take each batch just in time.")] = False,
    ahead: Annotated[bool, typer.Option(help="Draw past checkpoints, not padding.")] = False,
    linger_ms: Annotated[float, typer.Option(min=0, help="Idle wait for a full batch.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Latency, fill and fairness of the scheduler in front of 1, 8 and 64 simulated devices."""
    from service.bench.simulate import run
    from service.bench.simulation import DeviceModel

    model = DeviceModel(
        launch_s=launch_ms / 1000,
        sample_s=sample_ms / 1000,
        batch=batch,
        prepare_s=prepare_ms / 1000,
        depth=depth,
        look_s=look_ms / 1000,
        late=late,
        linger_s=linger_ms / 1000,
        ahead=ahead,
    )
    run(model, devices or [1, 8, 64], requests, load, seed)
