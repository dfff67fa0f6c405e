"""`fcs train purifier|mapper`."""

import importlib.util
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

app = typer.Typer(help="Train a purifier or a mapper for an encoder.", no_args_is_help=True)

Pictures = Annotated[
    list[Path], typer.Argument(help="Photos: files, folders, or .txt lists.", exists=True)
]
Out = Annotated[Path, typer.Option(help="Folder of the run; it is continued if it has begun.")]
Model = Annotated[
    str | None,
    typer.Option(help="The encoder: package name, hub id or folder. Default: the embedded one."),
]
Cutouts = Annotated[
    list[Path] | None,
    typer.Option(help="Pictures with transparency, laid over photos and plain grounds; repeat."),
]
Sigma = Annotated[
    list[float] | None,
    typer.Option(help="Noise level; repeat, a level twice to train it twice as often."),
]
Steps = Annotated[int, typer.Option(min=1, help="Of the optimizer, in all.")]
Batch = Annotated[int, typer.Option(min=1, help="Scenes of a forward pass.")]
Accumulate = Annotated[int, typer.Option(min=1, help="Forward passes of a step.")]
LearningRate = Annotated[float, typer.Option(min=1e-9, max=1, help="Of AdamW, at its highest.")]
Seed = Annotated[
    int, typer.Option(min=0, max=2**63 - 1, help="Of scenes, noise and first weights.")
]
Minutes = Annotated[
    float | None, typer.Option(min=0.01, help="Stop after so long; the same command goes on.")
]
SaveEvery = Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")]
ScoreEvery = Annotated[int, typer.Option(min=1, help="Steps between validations.")]
Bfloat16 = Annotated[bool, typer.Option(help="Mixed precision.")]


@app.command("purifier")
def purifier(
    pictures: Pictures,
    out: Out,
    model: Model = None,
    cutouts: Cutouts = None,
    sigma: Sigma = None,
    steps: Steps = 10_000,
    batch: Batch = 16,
    accumulate: Accumulate = 1,
    learning_rate: LearningRate = 1e-3,
    widths: Annotated[str, typer.Option(help="Channels of each level.")] = "24,48,96,128",
    depths: Annotated[str, typer.Option(help="Blocks of each level.")] = "1,1,1,2",
    unshuffle: Annotated[
        int, typer.Option(min=1, max=16, help="Side of the squares of pixels that become channels.")
    ] = 2,
    diffusion: Annotated[float, typer.Option(min=0, help="Weight of l_diff.")] = 0.1,
    robustness: Annotated[float, typer.Option(min=0, help="Weight of l_rb.")] = 1.0,
    distance: Annotated[float, typer.Option(min=0, help="Weight of l_mse.")] = 1.0,
    seed: Seed = 0,
    minutes: Minutes = None,
    save_every: SaveEvery = 200,
    score_every: ScoreEvery = 500,
    bfloat16: Bfloat16 = False,
) -> None:
    """Train the lightweight U-Net in front of an encoder."""
    _needs_trainers()
    from service.config import encoder_settings
    from service.errors import ConfigurationError
    from service.models.unet import UNetConfig
    from service.training.ground import Data
    from service.training.loop import Schedule
    from service.training.purifier import PurifierWeights
    from service.training.runs import train_purifier

    schedule = Schedule(
        steps, batch, accumulate, learning_rate, seed, save_every, score_every, minutes, bfloat16
    )
    levels = _numbers("--widths", widths), _numbers("--depths", depths)
    try:
        shape = UNetConfig(unshuffle, *levels)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    with _Shown(steps) as shown:
        file = train_purifier(
            encoder_settings(model),
            Data(tuple(pictures), tuple(cutouts or ()), _command()),
            tuple(sigma or ()),
            shape,
            PurifierWeights(diffusion, robustness, distance),
            schedule,
            out,
            shown.report,
        )
    shown.end(file)


@app.command("mapper")
def mapper(
    pictures: Pictures,
    out: Out,
    model: Model = None,
    purifier: Annotated[
        Path | None, typer.Option(help="The purifier it will serve behind: file, or its run.")
    ] = None,
    transferred: Annotated[
        bool, typer.Option(help="The purifier was trained for another encoder, on purpose.")
    ] = False,
    cutouts: Cutouts = None,
    sigma: Sigma = None,
    steps: Steps = 4_000,
    batch: Batch = 64,
    accumulate: Accumulate = 1,
    learning_rate: LearningRate = 1e-3,
    width: Annotated[int, typer.Option(min=4, help="Of the hidden layers.")] = 256,
    depth: Annotated[int, typer.Option(min=1, help="Blocks.")] = 2,
    robustness: Annotated[float, typer.Option(min=0, help="Weight of l_rb.")] = 1.0,
    statistics: Annotated[float, typer.Option(min=0, help="Weight of l_stats.")] = 1.0,
    relations: Annotated[float, typer.Option(min=0, help="Weight of l_rel.")] = 3.0,
    seed: Seed = 0,
    minutes: Minutes = None,
    save_every: SaveEvery = 200,
    score_every: ScoreEvery = 500,
    bfloat16: Bfloat16 = False,
) -> None:
    """Train the smoothness mapper behind an encoder, and behind a purifier where there is one."""
    _needs_trainers()
    from service.config import encoder_settings
    from service.models.mapper import MapperConfig
    from service.training.ground import Data
    from service.training.loop import Schedule
    from service.training.mapper import MapperWeights
    from service.training.runs import train_mapper

    schedule = Schedule(
        steps, batch, accumulate, learning_rate, seed, save_every, score_every, minutes, bfloat16
    )
    with _Shown(steps) as shown:
        file = train_mapper(
            encoder_settings(model),
            Data(tuple(pictures), tuple(cutouts or ()), _command()),
            tuple(sigma or ()),
            lambda dimensions, grid: MapperConfig(dimensions, grid, width, depth),
            MapperWeights(robustness, statistics, relations),
            schedule,
            out,
            shown.report,
            purifier,
            transferred,
        )
    shown.end(file)


def _hardened(goal: str, help_text: str) -> None:
    """A command for one objective; both take the same."""

    @app.command(goal, help=help_text)
    def harden(
        pictures: Pictures,
        out: Out,
        model: Model = None,
        cutouts: Cutouts = None,
        epsilon: Annotated[
            float, typer.Option(min=0.1, max=64, help="l-infinity, in levels of 255.")
        ] = 4.0,
        attack_steps: Annotated[int, typer.Option(min=1, help="Of PGD, in every step.")] = 3,
        steps: Steps = 600,
        batch: Batch = 16,
        accumulate: Accumulate = 1,
        learning_rate: LearningRate = 1e-4,
        seed: Seed = 0,
        minutes: Minutes = None,
        save_every: SaveEvery = 50,
        score_every: ScoreEvery = 200,
        bfloat16: Bfloat16 = False,
    ) -> None:
        _needs_trainers()
        from service.config import encoder_settings
        from service.training.ground import Data
        from service.training.hardening import Adversary
        from service.training.loop import Schedule
        from service.training.runs import train_hardened

        schedule = Schedule(
            steps, batch, accumulate, learning_rate, seed, save_every, score_every, minutes,
            bfloat16,
        )  # fmt: skip
        with _Shown(steps) as shown:
            file = train_hardened(
                encoder_settings(model),
                "fare" if goal == "fare" else "tecoa",
                Data(tuple(pictures), tuple(cutouts or ()), _command()),
                Adversary(epsilon, attack_steps),
                schedule,
                out,
                shown.report,
            )
        shown.end(file)


_hardened("fare", "Fine-tune an encoder so that attacked pictures keep their clean features.")
_hardened("tecoa", "Fine-tune an encoder so that attacked pictures keep their class.")


@app.command("answerer")
def answerer(
    sets: Annotated[
        list[Path],
        typer.Argument(help="Folders of `fcs data fetch` to ask about.", exists=True),
    ],
    photos: Annotated[
        list[Path], typer.Option(help="Backgrounds: files, folders or lists; repeat.", exists=True)
    ],
    out: Out,
    model: Model = None,
    purifier: Annotated[
        Path | None, typer.Option(help="The purifier it will serve behind: file, or its run.")
    ] = None,
    sigma: Sigma = None,
    steps: Steps = 1_200,
    batch: Batch = 8,
    accumulate: Accumulate = 1,
    learning_rate: LearningRate = 1e-3,
    turns: Annotated[int, typer.Option(min=1, help="Questions of one picture.")] = 5,
    rank: Annotated[
        int, typer.Option(min=0, help="Of the chat model's adapters; 0: it stays as published.")
    ] = 8,
    seed: Seed = 0,
    minutes: Minutes = None,
    save_every: SaveEvery = 50,
    score_every: ScoreEvery = 200,
    bfloat16: Bfloat16 = True,
) -> None:
    """Train what stands between an encoder's token map and the embedded chat model."""
    _needs_trainers()
    from service.config import encoder_settings
    from service.training.ground import Data
    from service.training.loop import Schedule
    from service.training.runs import train_answerer

    schedule = Schedule(
        steps, batch, accumulate, learning_rate, seed, save_every, score_every, minutes, bfloat16
    )
    with _Shown(steps) as shown:
        file = train_answerer(
            encoder_settings(model),
            Data(tuple(photos), tuple(sets), _command()),
            tuple(sigma or ()),
            schedule,
            out,
            shown.report,
            purifier,
            turns,
            rank,
        )
    shown.end(file)


class _Shown:
    """A progress bar with loss and score, and a line for each validation, on standard error."""

    def __init__(self, steps: int) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._task = self._progress.add_task("training", total=steps)
        self._score = ""
        self._steps, self._done = steps, steps

    def __enter__(self) -> "_Shown":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def report(self, step: int, loss: float, scores: dict[str, float] | None) -> None:
        """Of a step that was done."""
        if scores is not None:
            self._score = f" · score {scores['score']:.4f}"
            parts = "  ".join(f"{name} {value:.4f}" for name, value in scores.items())
            self._progress.console.print(
                f"step {step}: loss {loss:.4f}  {parts}", highlight=False, soft_wrap=True
            )
        self._done = step
        self._progress.update(
            self._task, completed=step, description=f"loss {loss:.4f}{self._score}"
        )

    def end(self, file: Path) -> None:
        """Say on standard output what came of it."""
        typer.echo(f"wrote {file}")
        if self._done < self._steps:
            typer.echo(f"stopped at step {self._done} of {self._steps}: the same command goes on")


def _command() -> str:
    """What was typed, but for how long this part of the run may take."""
    words = iter(sys.argv[1:])
    kept = []
    for word in words:
        if word == "--minutes":
            next(words, None)
        elif not word.startswith("--minutes="):
            kept.append(word)
    return shlex.join(["fcs", *kept])


def _needs_trainers() -> None:
    from service.errors import ConfigurationError

    for package in ("accelerate", "peft"):
        if importlib.util.find_spec(package) is None:
            raise ConfigurationError(
                f"training needs {package}: run `make setup`, or pip install -e '.[train]'"
                " in the project's folder"
            )


def _numbers(option: str, text: str) -> tuple[int, ...]:
    from service.errors import ConfigurationError

    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise ConfigurationError(f"{option} {text!r}: write whole numbers, as in 24,48,96")
    return tuple(int(part) for part in parts)
