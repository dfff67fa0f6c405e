"""`fcs prove IMAGE...`: attack certificates adaptively, and fail if one does not hold."""

from pathlib import Path
from typing import Annotated

import typer

_SIGMAS = (0.25, 0.5)
_SHIFTS = (0.25, 0.5, 1.0, 1.5, 2.0)


def prove(
    pictures: Annotated[list[Path], typer.Argument(help="Pictures.", exists=True, dir_okay=False)],
    model: Annotated[str | None, typer.Option(help="Package name, hub id or folder.")] = None,
    sigma: Annotated[
        list[float] | None, typer.Option(min=0.001, max=16, help="Noise level; repeat.")
    ] = None,
    shift: Annotated[
        list[float] | None, typer.Option(min=0.01, max=20, help="epsilon/sigma; repeat.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Seeds of each picture.")] = 2,
    selection_samples: Annotated[int, typer.Option(min=1)] = 100,
    samples: Annotated[
        int, typer.Option(min=1, help="Samples of a certificate; with a target, at most.")
    ] = 250,
    target: Annotated[
        float | None,
        typer.Option(min=0.01, max=0.999, help="Cosine at which sampling stops early."),
    ] = None,
    rescore: Annotated[int, typer.Option(min=8, help="Samples of a verdict.")] = 1000,
    steps: Annotated[int, typer.Option(min=1, help="Gradient steps.")] = 20,
    draws: Annotated[int, typer.Option(min=1, help="Noisy features of one gradient.")] = 20,
    restarts: Annotated[int, typer.Option(min=1)] = 2,
) -> None:
    """Attack certificates adaptively; exit 1 if more of them break than chance allows."""
    from service.config import load_settings
    from service.evaluation.pgd import AttackPlan
    from service.evaluation.prove import run
    from service.evaluation.trials import TrialPlan

    plan = TrialPlan(
        attack=AttackPlan(steps=steps, draws=draws, restarts=restarts),
        selection=selection_samples,
        estimation=samples,
        target=target,
        rescore=rescore,
    )
    settings = load_settings(model=model)
    if run(settings, pictures, sigma or _SIGMAS, shift or _SHIFTS, repeats, plan).failed:
        raise typer.Exit(1)
