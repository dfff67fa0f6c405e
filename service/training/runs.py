"""A training run from its options: encoder, data and module in, a part's file out."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from service.config import Settings
from service.models.answerer.converted import converted_language
from service.models.answerer.embedded import SMOLLM2, assemble, make_projector
from service.models.answerer.load import load_tokenizer
from service.models.answerer.trained import TrainedParts
from service.models.hardened import ENCODER_FILE
from service.models.mapper import Mapper, MapperConfig, shape_for
from service.models.psm import config_of
from service.models.unet import UNet, UNetConfig
from service.pictures.meanings import Meaning, meanings
from service.training.answerer import AnswererTask, adapt
from service.training.asked import AskedScenes
from service.training.ground import (
    PURIFIER_FILE,
    VALIDATION_SEED,
    Data,
    plain,
    run,
    stand_on,
)
from service.training.hardening import Adversary, Goal, HardeningTask
from service.training.loop import Report, Schedule
from service.training.mapper import MapperTask, MapperWeights
from service.training.purifier import PurifierTask, PurifierWeights
from service.training.sources import Sources, is_for_validation

MAPPER_FILE = "mapper.safetensors"
_ANY_SIGMA = (0.25,)  # of a file that knows of no noise
PROJECTOR_FILE = "projector.safetensors"
_VALIDATION_ASKED = 96
_ADAPTER_SCALE = 2


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
    ground = stand_on(settings, data, sigmas)
    torch.manual_seed(schedule.seed)
    module = UNet(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    task = PurifierTask(
        module,
        ground.model.pipeline,
        ground.sigmas,
        ground.validation,
        weights,
        ground.about(kind="unet", config=plain(asdict(config))),
    )
    part = ground.part("unet", config_of(module))
    scenes = ground.scenes(schedule.seed)
    return run(ground, task, scenes, part, schedule, folder, PURIFIER_FILE, report)


def train_mapper(  # noqa: D417 - the rest is as for the purifier
    settings: Settings,
    data: Data,
    sigmas: Sequence[float],
    config: Callable[[int, tuple[int, int] | None], MapperConfig],
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
        config: of the mapper, for features of so many dimensions, and tokens on such a grid.
        purifier: file of the purifier that it will serve behind, or the folder of its run.
        transferred: the purifier was trained for another encoder, on purpose.

    Raises:
        ConfigurationError: as for the purifier, or a purifier of another encoder.
    """
    ground = stand_on(settings, data, sigmas, token_maps=True)
    digest = None if purifier is None else ground.stand_behind(purifier, transferred)
    torch.manual_seed(schedule.seed)
    module = Mapper(config(*shape_for(ground.model.pipeline.encoder)))
    task = MapperTask(
        module,
        ground.model.pipeline,
        ground.sigmas,
        ground.validation,
        weights,
        ground.about(kind="mapper", config=plain(asdict(module.config)), purifier=digest),
    )
    part = ground.part("mapper", config_of(module), digest)
    scenes = ground.scenes(schedule.seed)
    return run(ground, task, scenes, part, schedule, folder, MAPPER_FILE, report)


def train_hardened(  # noqa: D417 - the rest is as for the purifier
    settings: Settings,
    goal: Goal,
    data: Data,
    adversary: Adversary,
    schedule: Schedule,
    folder: Path,
    report: Report,
) -> Path:
    """Fine-tune, or go on fine-tuning, the settings' encoder under attack; its file.

    Args:
        settings, data, schedule, folder, report: as for the purifier.
        goal: FARE or TeCoA.
        adversary: inside of training.

    Raises:
        ConfigurationError: as for the purifier, or no classifier for TeCoA.
    """
    ground = stand_on(settings, data, _ANY_SIGMA)
    task = HardeningTask(
        goal,
        ground.model.pipeline,
        ground.validation,
        adversary,
        ground.about(kind="encoder"),
    )
    part = ground.part("encoder", {"goal": goal, **asdict(adversary)})
    scenes = ground.scenes(schedule.seed)
    return run(ground, task, scenes, part, schedule, folder, ENCODER_FILE, report)


def train_answerer(  # noqa: D417 - the rest is as for the mapper
    settings: Settings,
    data: Data,
    sigmas: Sequence[float],
    schedule: Schedule,
    folder: Path,
    report: Report,
    purifier: Path | None,
    turns: int,
    rank: int,
) -> Path:
    """Train, or go on training, projector and adapters of the embedded chat model; their file.

    Args:
        settings, sigmas, schedule, folder, report, purifier: as for the mapper.
        data: photos for backgrounds; cut-outs are the folders of sets whose pictures' meanings are
            known, to ask about.
        turns: questions of one picture.
        rank: of the chat model's adapters; 0: it stays as published.

    Raises:
        ConfigurationError: as for the mapper, or a set of unknown meanings.
    """
    ground = stand_on(settings, data, sigmas)
    digest = None if purifier is None else ground.stand_behind(purifier, transferred=False)
    language = converted_language(SMOLLM2, settings.cache_dir / "converted")
    encoder = ground.model.pipeline.encoder
    size = (1, 3, *ground.size)
    with torch.no_grad():
        tokens, width = encoder.tokens(torch.zeros(size)).shape[1:]
    torch.manual_seed(schedule.seed)
    projector = make_projector(width, language)
    family = assemble(encoder, width, projector, language)
    chat = family.model.model.language_model
    chat.config._attn_implementation = "eager"
    adapters = adapt(chat, rank, _ADAPTER_SCALE)
    parts = TrainedParts(
        projector.requires_grad_(True), (tokens, chat.config.hidden_size), adapters
    )
    tokenizer = load_tokenizer(language)
    known = {file: one for source in data.cutouts for file, one in meanings(source).items()}

    def asked(sources: Sources, seed: int, validation: bool) -> AskedScenes:
        part: dict[Path, Meaning] = {
            file: one for file, one in known.items() if is_for_validation(file) is validation
        }
        scenes = ground.scenes(seed, sources)
        return AskedScenes(scenes, part or known, tokenizer, tokens, turns, seed)

    config = {"width": width, "tokens": tokens, "rank": rank, "scale": _ADAPTER_SCALE}
    about = ground.about(kind="projector", config=config, purifier=digest, turns=turns)
    validation = asked(ground.held_back, VALIDATION_SEED, validation=True)
    task = AnswererTask(
        family,
        parts,
        ground.model.pipeline,
        ground.sigmas,
        validation.batch(range(min(_VALIDATION_ASKED, len(known)))),
        {**about, "language": SMOLLM2.sha256},
    )
    part = ground.part("projector", config, digest)
    part = part.model_copy(update={"language": SMOLLM2.sha256})
    examples = asked(ground.sources, schedule.seed, validation=False)
    return run(ground, task, examples, part, schedule, folder, PROJECTOR_FILE, report)
