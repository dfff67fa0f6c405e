"""A training run from its options: encoder, data and module in, a part's file out."""

import shlex
from collections.abc import Callable, Sequence
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
from service.models.psm import Expected, Part, check, config_of, load_unet, write_part
from service.models.store import load_model, resolve
from service.models.unet import UNet, UNetConfig
from service.pictures.folders import picture_files
from service.training.curve import plot
from service.training.loop import Report, Schedule, train
from service.training.mapper import MapperTask, MapperWeights
from service.training.purifier import PurifierTask, PurifierWeights
from service.training.scenes import Scenes, batch
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

    @property
    def size(self) -> tuple[int, int]:
        return self.model.preprocessing.size

    def about(self, **more: Any) -> dict[str, Any]:
        return {"encoder": self.encoder, "data": self.data, "size": list(self.size), **more}


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
    part = Part(
        kind="unet",
        config=config_of(module),
        encoder=ground.encoder,
        sigmas=tuple(sorted(set(ground.sigmas))),
        size=ground.size,
        training={},
    )
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
) -> Path:
    """Train, or go on training, a mapper for the settings' model; its file, written anew.

    Args:
        settings, data, sigmas, weights, schedule, folder, report: as for the purifier.
        config: of the mapper, for features of so many dimensions.
        purifier: file of the purifier that it will serve behind, or the folder of its run.

    Raises:
        ConfigurationError: as for the purifier, or a purifier of another encoder.
    """
    ground = _ground(settings, data, sigmas)
    digest = None
    if purifier is not None:
        purifier = purifier / PURIFIER_FILE if purifier.is_dir() else purifier
        unet, of = load_unet(purifier)
        check(purifier, of, Expected(ground.encoder, ground.sigmas, ground.size))
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
    part = Part(
        kind="mapper",
        config=config_of(module),
        encoder=ground.encoder,
        purifier=digest,
        sigmas=tuple(sorted(set(ground.sigmas))),
        size=ground.size,
        training={},
    )
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
    whole = Sources(tuple(picture_files(data.photos)), tuple(picture_files(data.cutouts)))
    told = describe((*data.photos, *data.cutouts))
    size = model.preprocessing.size
    copies = settings.cache_dir / _COPIES
    scenes = Scenes(whole.part(validation=True), size, _VALIDATION_SEED, copies)
    validation = torch.from_numpy(batch(scenes, range(_VALIDATION_SCENES)))
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
    scenes = Scenes(ground.sources, ground.size, schedule.seed, ground.copies)
    on_cpu = ground.model.pipeline.device.type == "cpu"
    state = train(task, scenes, schedule, folder, on_cpu, report, _reproducing(ground))
    file = folder / name
    if state is None:
        return file  # another process writes it
    training = {
        **task.identity,
        "commands": [_from(*taken) for taken in state.commands],
        "processes": PartialState().num_processes,
        "steps": state.step,
        "schedule": asdict(schedule),
    }
    if state.history:
        training["scores"] = state.history[-1]
    write_part(file, part.model_copy(update={"training": training}), state.average)
    if state.history:
        plot(state.history, folder / CURVE_FILE)
    return file


def _reproducing(ground: _Ground) -> str:
    """What was typed, with what it took from elsewhere."""
    command = ground.command
    if "--model" not in command:
        command += f" --model {shlex.quote(ground.reference)}"
    if (count := PartialState().num_processes) > 1:
        started = f"torchrun --standalone --nproc-per-node {count} -m service"
        command = command.replace("fcs", started, 1)
    return command


def _from(step: int, command: str) -> str:
    """A command of a run; one that went on where another had stopped says so."""
    return f"{command}  # from step {step}" if step else command


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    return {name: list(v) if isinstance(v, tuple) else v for name, v in config.items()}
