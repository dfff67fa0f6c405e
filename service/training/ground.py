"""What every training run stands on: an encoder, pictures, and the folder of its part."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from service.config import Settings
from service.errors import ConfigurationError
from service.models.devices import cuda_is_usable
from service.models.distributions import sha256
from service.models.gradients import quicken
from service.models.loaded import LoadedModel
from service.models.psm import Expected, Kind, Part, check, load_unet, read_part, write_part
from service.models.store import load_model, resolve
from service.training.checkpoint import State, held
from service.training.curve import plot
from service.training.loop import Report, Schedule, identity, train
from service.training.scenes import Scenes
from service.training.sources import Sources, describe
from service.training.task import Examples, Task

PURIFIER_FILE = "purifier.safetensors"
CURVE_FILE = "curve.png"
_COPIES = "training-pictures"  # below the cache folder
_VALIDATION_SCENES = 64
VALIDATION_SEED = 1


@dataclass(frozen=True, slots=True)
class Data:
    """Where pictures are: files, folders, or lists of files; and what was asked for, to record."""

    photos: tuple[Path, ...]
    cutouts: tuple[Path, ...] = ()
    command: str = ""


@dataclass(frozen=True, slots=True)
class Ground:
    """What every run stands on."""

    model: LoadedModel
    encoder: str
    projector: str | None
    sigmas: tuple[float, ...]
    sources: Sources
    held_back: Sources
    data: dict[str, Any]
    copies: Path
    command: str
    reference: str
    pictures: dict[str, str]

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of its pictures."""
        return self.model.preprocessing.size

    def about(self, **more: Any) -> dict[str, Any]:
        """What makes this run this run, but for the module, its losses and the schedule."""
        preprocessing = asdict(self.model.preprocessing)
        return {
            "encoder": self.encoder,
            **({} if self.projector is None else {"projector": self.projector}),
            "preprocessing": plain(preprocessing),
            "pictures": self.pictures,
            **more,
        }

    @property
    def validation(self) -> torch.Tensor:
        """Scenes of what is not trained on, uint8 [n, 3, H, W]."""
        levels = self.scenes(VALIDATION_SEED, self.held_back).batch(range(_VALIDATION_SCENES))
        return levels.to(self.model.pipeline.device)

    def scenes(self, seed: int, sources: Sources | None = None) -> Scenes:
        """Scenes to train on, or of other sources."""
        return Scenes(sources or self.sources, self.size, seed, self.copies)

    def stand_behind(self, purifier: Path, transferred: bool) -> str:
        """Put a trained purifier in front of the encoder; its digest.

        Args:
            purifier: its file, or the folder of its run.
            transferred: it was trained for another encoder, on purpose.

        Raises:
            ConfigurationError: no purifier for this encoder.
        """
        file = purifier / PURIFIER_FILE if purifier.is_dir() else purifier
        unet, of = load_unet(file)
        pixels = self.model.preprocessing
        check(file, of, Expected(self.encoder, self.sigmas, pixels, transferred))
        unet.eval().requires_grad_(False).to(self.model.pipeline.device)
        unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model.pipeline.purifier = unet
        return sha256(file)

    def part(self, kind: Kind, config: dict[str, Any], purifier: str | None = None) -> Part:
        """What the file of a module says before it is trained."""
        return Part(
            kind=kind,
            config=config,
            encoder=self.encoder,
            purifier=purifier,
            projector=self.projector,
            sigmas=tuple(sorted(set(self.sigmas))),
            size=self.size,
            mean=self.model.preprocessing.mean,
            std=self.model.preprocessing.std,
            training={},
        )


def stand_on(
    settings: Settings, data: Data, sigmas: Sequence[float], token_maps: bool = False
) -> Ground:
    """The settings' encoder and the pictures, as a run needs them.

    Args:
        settings: name the model.
        data: the pictures.
        sigmas: noise levels; none: the model's own.
        token_maps: take a model that answers for the encoder of its token maps, whatever purifier
            and mapper are around them now.

    Raises:
        ConfigurationError: no such model, no pictures, a noise level out of (0, 16].
    """
    manifest = resolve(settings.model, settings)
    answers = token_maps and manifest.answerer is not None
    if manifest.psm is not None and not answers:
        raise ConfigurationError(
            f"{manifest.name} has a purifier or mapper already: name its encoder's own package"
        )
    device = str(training_device(settings.device))
    fixed = {"dtype": "float32", "memory_format": "channels_last", "device": device}
    model = load_model(settings.model, settings.model_copy(update=fixed))
    model.pipeline.purifier = model.pipeline.mapper = None
    quicken(model.pipeline.encoder)
    wanted = tuple(sigmas) or manifest.sigmas
    if not all(0 < sigma <= 16 for sigma in wanted):
        raise ConfigurationError(f"sigmas {wanted}: each must be in (0, 16]")
    whole = Sources.of(data.photos, data.cutouts)
    told = describe((*data.photos, *data.cutouts))
    return Ground(
        model,
        manifest.encoder.sha256,
        manifest.answerer.projector.sha256 if answers and manifest.answerer else None,
        wanted,
        whole.part(validation=False),
        whole.part(validation=True),
        {name: record.model_dump() for name, record in told.items()},
        settings.cache_dir / _COPIES,
        data.command,
        settings.model,
        whole.identity(),
    )


def training_device(name: str) -> torch.device:
    """Accelerate's own choice for this process, which divides GPUs among processes.

    Raises:
        ConfigurationError: a device by its number, or a GPU that is not there.
    """
    if name not in {"auto", "cpu", "cuda"}:
        raise ConfigurationError(
            f"device {name!r}: training takes auto, cpu or cuda; which GPU, CUDA_VISIBLE_DEVICES"
            " says, and several are for torchrun"
        )
    usable = cuda_is_usable()
    if name == "cuda" and not usable:
        raise ConfigurationError("device 'cuda': this machine has no usable CUDA device")
    # Told so, or else it takes several processes without a GPU for as many runs.
    state = PartialState(cpu=name == "cpu" or not usable)
    return state.device if state.device.type == "cuda" else torch.device("cpu")


def run(
    ground: Ground,
    task: Task,
    examples: Examples,
    part: Part,
    schedule: Schedule,
    folder: Path,
    name: str,
    report: Report,
) -> Path:
    """Train, or go on training; the part's file, written anew where steps were taken.

    Args:
        ground: what it stands on.
        task: what is trained.
        examples: to train on.
        part: what the file says, but for the training.
        schedule: how long.
        folder: of the run.
        name: of the file in it.
        report: told of every step.

    Raises:
        ConfigurationError: the folder holds another run, is in use, or cannot be written.
    """
    file = folder / name
    on_cpu = ground.model.pipeline.device.type == "cpu"
    writes = PartialState().is_main_process
    with held(folder) if writes else nullcontext():
        state = train(task, examples, schedule, folder, on_cpu, report, _reproducing(ground))
        if state is None:
            return file  # another process writes it
        taken = {
            **identity(task, schedule, PartialState().num_processes),
            "commands": list(_told(state, schedule)),
            "steps": state.step,
            "planned_steps": schedule.steps,
        }
        training = {**taken, "data": ground.data}
        if state.history:
            training["scores"] = state.history[-1]
            plot(state.history, folder / CURVE_FILE)
        if not _holds(file, part, taken):
            write_part(file, part.model_copy(update={"training": training}), state.average)
    return file


def _holds(file: Path, part: Part, run: Mapping[str, Any]) -> bool:
    """Whether the file is of these very steps: what refers to it by its digest goes on doing so."""
    try:
        found = read_part(file)
    except ConfigurationError:
        return False
    same = found.model_copy(update={"training": {}}) == part
    return same and {name: found.training.get(name) for name in run} == run


def _reproducing(ground: Ground) -> str:
    """What was typed, with what it took from elsewhere."""
    command = ground.command
    if "--model" not in command:
        command += f" --model {shlex.quote(ground.reference)}"
    if (count := PartialState().num_processes) > 1:
        started = f"torchrun --standalone --nproc-per-node {count} -m service"
        command = command.replace("fcs", started, 1)
    return command


def _told(state: State, schedule: Schedule) -> Iterator[str]:
    """Commands of a run; those that went on where another had stopped, or stopped early, say so."""
    last = len(state.commands) - 1
    for i, (first, command) in enumerate(state.commands):
        said = [f"from step {first}"] if first else []
        if i == last and state.step < schedule.steps:
            said.append(f"stopped at step {state.step} of {schedule.steps}")
        yield f"{command}  # {', '.join(said)}" if said else command


def plain(config: dict[str, Any]) -> dict[str, Any]:
    """As JSON brings it back."""
    return {name: list(v) if isinstance(v, tuple) else v for name, v in config.items()}
