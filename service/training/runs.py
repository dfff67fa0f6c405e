"""A training run from its options: encoder, data and module in, a part's file out."""

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from service.models.mapper import Mapper, MapperConfig
from service.models.psm import (
    Expected,
    Kind,
    Part,
    check,
    config_of,
    load_unet,
    read_part,
    write_part,
)
from service.models.store import load_model, resolve
from service.models.unet import UNet, UNetConfig
from service.training.checkpoint import State, held
from service.training.curve import plot
from service.training.loop import Report, Schedule, identity, train
from service.training.mapper import MapperTask, MapperWeights
from service.training.purifier import PurifierTask, PurifierWeights
from service.training.scenes import Scenes
from service.training.sources import Sources, describe
from service.training.task import Task

PURIFIER_FILE = "purifier.safetensors"
MAPPER_FILE = "mapper.safetensors"
CURVE_FILE = "curve.png"
_COPIES = "training-pictures"  # below the cache folder
_VALIDATION_SCENES = 64
_VALIDATION_SEED = 1


@dataclass(frozen=True, slots=True)
class Data:
    """Where pictures are: files, folders, or lists of files; and what was asked for, to record."""

    photos: tuple[Path, ...]
    cutouts: tuple[Path, ...] = ()
    command: str = ""


@dataclass(frozen=True, slots=True)
class _Ground:
    """What every run stands on."""

    model: LoadedModel
    encoder: str
    sigmas: tuple[float, ...]
    sources: Sources
    data: dict[str, Any]
    validation: torch.Tensor
    copies: Path
    command: str
    reference: str
    pictures: dict[str, str]

    @property
    def size(self) -> tuple[int, int]:
        return self.model.preprocessing.size

    def about(self, **more: Any) -> dict[str, Any]:
        """What makes this run this run, but for the module, its losses and the schedule."""
        preprocessing = asdict(self.model.preprocessing)
        return {
            "encoder": self.encoder,
            "preprocessing": _plain(preprocessing),
            "pictures": self.pictures,
            **more,
        }

    def part(self, kind: Kind, config: dict[str, Any], purifier: str | None = None) -> Part:
        """What the file of a module says before it is trained."""
        return Part(
            kind=kind,
            config=config,
            encoder=self.encoder,
            purifier=purifier,
            sigmas=tuple(sorted(set(self.sigmas))),
            size=self.size,
            mean=self.model.preprocessing.mean,
            std=self.model.preprocessing.std,
            training={},
        )


def train_purifier(
    settings: Settings,
    data: Data,
    sigmas: Sequence[float],
    config: UNetConfig,
    weights: PurifierWeights,
    schedule: Schedule,
    folder: Path,
    report: Report,
) -> Path:
    """Train, or go on training, a U-Net for the settings' model; its file, written anew.

    Raises:
        ConfigurationError: no such model, no pictures, or a folder that holds another run.
    """
    ground = _ground(settings, data, sigmas)
    torch.manual_seed(schedule.seed)
    module = UNet(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    task = PurifierTask(
        module,
        ground.model.pipeline,
        ground.sigmas,
        ground.validation,
        weights,
        ground.about(kind="unet", config=_plain(asdict(config))),
    )
    part = ground.part("unet", config_of(module))
    return _run(ground, task, part, schedule, folder, PURIFIER_FILE, report)


def train_mapper(  # noqa: D417 - the rest is as for the purifier
    settings: Settings,
    data: Data,
    sigmas: Sequence[float],
    config: Callable[[int], MapperConfig],
    weights: MapperWeights,
    schedule: Schedule,
    folder: Path,
    report: Report,
    purifier: Path | None,
    transferred: bool = False,
) -> Path:
    """Train, or go on training, a mapper for the settings' model; its file, written anew.

    Args:
        settings, data, sigmas, weights, schedule, folder, report: as for the purifier.
        config: of the mapper, for features of so many dimensions.
        purifier: file of the purifier that it will serve behind, or the folder of its run.
        transferred: the purifier was trained for another encoder, on purpose.

    Raises:
        ConfigurationError: as for the purifier, or a purifier of another encoder.
    """
    ground = _ground(settings, data, sigmas)
    digest = None
    if purifier is not None:
        purifier = purifier / PURIFIER_FILE if purifier.is_dir() else purifier
        unet, of = load_unet(purifier)
        pixels = ground.model.preprocessing
        check(purifier, of, Expected(ground.encoder, ground.sigmas, pixels, transferred))
        digest = sha256(purifier)
        device = ground.model.pipeline.device
        unet.eval().requires_grad_(False).to(device)
        unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        ground.model.pipeline.purifier = unet
    torch.manual_seed(schedule.seed)
    module = Mapper(config(ground.model.pipeline.dimensions))
    task = MapperTask(
        module,
        ground.model.pipeline,
        ground.sigmas,
        ground.validation,
        weights,
        ground.about(kind="mapper", config=_plain(asdict(module.config)), purifier=digest),
    )
    part = ground.part("mapper", config_of(module), digest)
    return _run(ground, task, part, schedule, folder, MAPPER_FILE, report)


def _ground(settings: Settings, data: Data, sigmas: Sequence[float]) -> _Ground:
    manifest = resolve(settings.model, settings)
    if manifest.psm is not None:
        raise ConfigurationError(
            f"{manifest.name} has a purifier or mapper already: name its encoder's own package"
        )
    device = str(training_device(settings.device))
    plain = {"dtype": "float32", "memory_format": "channels_last", "device": device}
    model = load_model(settings.model, settings.model_copy(update=plain))
    quicken(model.pipeline.encoder)
    wanted = tuple(sigmas) or manifest.sigmas
    if not all(0 < sigma <= 16 for sigma in wanted):
        raise ConfigurationError(f"sigmas {wanted}: each must be in (0, 16]")
    whole = Sources.of(data.photos, data.cutouts)
    told = describe((*data.photos, *data.cutouts))
    size = model.preprocessing.size
    copies = settings.cache_dir / _COPIES
    scenes = Scenes(whole.part(validation=True), size, _VALIDATION_SEED, copies)
    validation = scenes.batch(range(_VALIDATION_SCENES))
    return _Ground(
        model,
        manifest.encoder.sha256,
        wanted,
        whole.part(validation=False),
        {name: record.model_dump() for name, record in told.items()},
        validation.to(model.pipeline.device),
        copies,
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


def _run(
    ground: _Ground,
    task: Task,
    part: Part,
    schedule: Schedule,
    folder: Path,
    name: str,
    report: Report,
) -> Path:
    file = folder / name
    scenes = Scenes(ground.sources, ground.size, schedule.seed, ground.copies)
    on_cpu = ground.model.pipeline.device.type == "cpu"
    writes = PartialState().is_main_process
    with held(folder) if writes else nullcontext():
        state = train(task, scenes, schedule, folder, on_cpu, report, _reproducing(ground))
        if state is None:
            return file  # another process writes it
        run = {
            **identity(task, schedule, PartialState().num_processes),
            "commands": list(_told(state, schedule)),
            "steps": state.step,
            "planned_steps": schedule.steps,
        }
        training = {**run, "data": ground.data}
        if state.history:
            training["scores"] = state.history[-1]
            plot(state.history, folder / CURVE_FILE)
        if not _holds(file, part, run):
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


def _reproducing(ground: _Ground) -> str:
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


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    return {name: list(v) if isinstance(v, tuple) else v for name, v in config.items()}
