"""A reference (package name, folder or hub id) -> a `LoadedModel`, every digest verified.

Safetensors only. The embedded default is converted once, from its Python distribution to the cache.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from service.config import Settings
from service.errors import ConfigurationError
from service.models import packages
from service.models.arrangement import DTYPES, MEMORY_FORMATS
from service.models.device_noise import NOISE
from service.models.distributions import locate, sha256
from service.models.encoder import Encoder
from service.models.label_sets import LabelSet, load_label_sets
from service.models.lite0 import Lite0, fold_checkpoint
from service.models.mapper import Mapper
from service.models.packages import (
    DiffusersFolder,
    DiffusersHub,
    DistributionSource,
    FolderSource,
    HubSource,
    Manifest,
    PartFile,
)
from service.models.pipeline import Parts, Pipeline
from service.models.platform import describe
from service.models.psm import Expected, check, load_mapper, load_unet
from service.models.purifier import Purifier
from service.models.tuning import arrange
from service.types import (
    Arrangement,
    LabelSetInfo,
    ModelInfo,
    Preprocessing,
    Space,
    Tuning,
)

if TYPE_CHECKING:
    from service.models.text import TextTower

# Part of every revision: raised whenever the smoothed function or its noise changes.
_FUNCTION_VERSION = 1
_UNTUNED = Tuning("package")
DEFAULT_SIGMAS = (0.1, 0.25, 0.5, 1.0)
_HUB_ID = re.compile(r"^\w[\w.-]*/\w[\w.-]*$")
_HUB_FILES = ["*.json", "*.safetensors"]


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to run.

    Attributes:
        name: as requests call it.
        revision: digest of everything the smoothed function depends on.
        batch_size: the one shape of every call of the pipeline, padded.
        lanes: calls that run side by side; on a GPU one follows the other.
        revision_at: the revision in another batch size.
        threads: torch's own in each lane; a call outside of a lane must set them itself.
        tuning: where dtype, memory format, batch size, lanes and threads come from.
        label_sets: named sets of labels kept with the package.
        text: encodes labels given as text; None where the model has no text tower.
        psm: digests of purifier and mapper, where there is one.
    """

    name: str
    revision: str
    pipeline: Pipeline
    preprocessing: Preprocessing
    sigmas: tuple[float, ...]
    batch_size: int
    lanes: int
    revision_at: Callable[[int], str]
    threads: int = 1
    tuning: Tuning = _UNTUNED
    label_sets: tuple[LabelSet, ...] = ()
    text: "TextTower | None" = None
    psm: dict[str, str] = field(default_factory=dict)

    def halved(self) -> "LoadedModel":
        """The same in half the batch size, which is another function in the last bits."""
        size = max(1, self.batch_size // 2)
        return replace(self, batch_size=size, revision=self.revision_at(size))

    @property
    def clean_samples(self) -> int:
        """Samples without noise that a certificate's fidelity takes."""
        return 2 if self.pipeline.told_sigma else 1

    @property
    def space(self) -> Space:
        """Where epsilon and sigma are measured."""
        height, width = self.preprocessing.size
        return Space(height, width)

    @property
    def info(self) -> ModelInfo:
        """For `/info`."""
        return ModelInfo(
            name=self.name,
            revision=self.revision,
            dimensions=self.pipeline.dimensions,
            sigmas=self.sigmas,
            space=self.space,
            device=str(self.pipeline.device),
            platform=describe(self.pipeline.device.type),
            dtype=_name(self.pipeline.dtype),
            memory_format=_name(self.pipeline.memory_format),
            batch_size=self.batch_size,
            lanes=self.lanes,
            threads=self.threads,
            tuning=self.tuning,
            label_sets=tuple(
                LabelSetInfo(kept.name, len(kept.directions.names)) for kept in self.label_sets
            ),
            text_labels=self.text is not None,
            psm=self.psm,
        )


def stores(settings: Settings) -> list[Path]:
    """Where packages are looked for: the operator's store, then what was added on this machine."""
    return [settings.model_store, settings.cache_dir / "model_store"]


def load_model(reference: str, settings: Settings, measure: bool = False) -> LoadedModel:
    """Resolve, verify and load; the device is not warmed yet.

    Args:
        reference: package name, folder or hub id.
        settings: frozen.
        measure: choose the arrangement by measuring, where none is kept yet and a CPU is used.

    Raises:
        ConfigurationError: nothing of that name, a digest that differs, or an unsupported model.
    """
    manifest = resolve(reference, settings)
    encoder, folder = _load_encoder(manifest, settings)
    label_sets = load_label_sets(manifest, encoder, stores(settings))
    preprocessing = manifest.preprocessing.value()
    device = choose_device(settings.device)
    parts = Parts(encoder, *_load_psm(manifest, encoder.dimensions, settings))
    choice = arrange(parts, manifest, device, settings, measure)
    chosen = choice.arrangement
    dtype, layout = DTYPES[chosen.dtype], MEMORY_FORMATS[chosen.memory_format]

    def revision_at(batch_size: int) -> str:
        return revision(manifest, device.type, replace(chosen, batch_size=batch_size))

    return LoadedModel(
        name=manifest.name,
        revision=revision_at(chosen.batch_size),
        pipeline=Pipeline(parts, preprocessing, device, dtype, layout),
        preprocessing=preprocessing,
        sigmas=manifest.sigmas,
        batch_size=chosen.batch_size,
        lanes=chosen.lanes,
        revision_at=revision_at,
        threads=chosen.threads,
        tuning=choice.tuning,
        label_sets=label_sets,
        text=None if folder is None else _load_text(folder),
        psm=manifest.psm_digests,
    )


def resolve(reference: str, settings: Settings) -> Manifest:
    """The manifest behind a reference; for a folder or hub id, as `fcs models add` writes it."""
    if (folder := packages.find(stores(settings), reference)) is not None:
        return packages.read_manifest(folder)
    name, _, version = reference.partition("/")
    if version and (folder := packages.find(stores(settings), name)) is not None:
        raise ConfigurationError(
            f"package {name!r} has no version {version!r}; its newest is {folder.name}"
        )
    return describe_reference(reference, settings)


def describe_reference(
    reference: str,
    settings: Settings,
    name: str | None = None,
    sigmas: tuple[float, ...] | None = None,
) -> Manifest:
    """A new manifest for a Hugging Face folder or hub id: preprocessing derived, digest pinned.

    Raises:
        ConfigurationError: neither of the two, no safetensors, or a processor that fits no fixed x.
    """
    from service.models.processors import load_preprocessing

    source: FolderSource | HubSource
    if (Path(reference) / "config.json").is_file():
        folder = Path(reference).resolve()
        source = FolderSource(kind="folder", path=folder, sha256=folder_digest(folder))
    elif is_hub_id(reference):
        folder, commit = download(reference, None)
        source = HubSource(kind="hub", id=reference, commit=commit, sha256=folder_digest(folder))
    else:
        known = ", ".join(packages.names(stores(settings))) or "none"
        raise ConfigurationError(
            f"no model {reference!r}: it is neither a package (known: {known}), nor a folder with a"
            " config.json, nor a hub id like 'openai/clip-vit-base-patch32'"
        )
    try:
        return Manifest(
            name=name or Path(reference).name.lower(),
            version="1",
            description=f"Hugging Face encoder {reference}",
            licence="see the model's own page",
            encoder=source,
            preprocessing=packages.PreprocessingManifest(**asdict(load_preprocessing(folder))),
            sigmas=sigmas or DEFAULT_SIGMAS,
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(f"{reference}: {where}: {first['msg']}") from error


def choose_devices(name: str) -> tuple[torch.device, ...]:
    """The devices of a setting; `auto` is every CUDA device, else the CPU.

    Raises:
        ConfigurationError: one that this machine does not have, or a CUDA device twice.
    """
    if name == "auto":
        count = torch.cuda.device_count() if cuda_is_usable() else 0
        return tuple(torch.device("cuda", i) for i in range(count)) or (torch.device("cpu"),)
    devices = tuple(torch.device(part) for part in name.split(","))
    cuda = [device.index or 0 for device in devices if device.type == "cuda"]
    if cuda and not cuda_is_usable():
        raise ConfigurationError(f"device {name!r}: this machine has no usable CUDA device")
    if cuda and max(cuda) >= torch.cuda.device_count():
        raise ConfigurationError(
            f"device {name!r}: this machine has {torch.cuda.device_count()} CUDA device(s)"
        )
    if len(set(cuda)) < len(cuda):
        raise ConfigurationError(f"device {name!r}: one engine is enough for a CUDA device")
    return devices


def choose_device(name: str) -> torch.device:
    """The first of `choose_devices`."""
    return choose_devices(name)[0]


def cuda_is_usable() -> bool:
    """Whether this machine has a CUDA device that torch can use."""
    return torch.cuda.is_available()


def _name(value: torch.dtype | torch.memory_format) -> str:
    """`torch.contiguous_format` -> `contiguous`."""
    return str(value).removeprefix("torch.").removesuffix("_format")


def _load_text(folder: Path) -> "TextTower | None":
    from service.models.text import load_text_tower

    return load_text_tower(folder)


def _load_encoder(manifest: Manifest, settings: Settings) -> tuple[Encoder, Path | None]:
    """The encoder, and its Hugging Face folder if it has one."""
    source = manifest.encoder
    if isinstance(source, DistributionSource):
        return _load_converted(source, settings.cache_dir / "converted"), None
    # Imported here, as the hub client is below: the embedded default needs neither of them, and
    # starts in half the time without.
    from service.models.families import load_encoder

    if isinstance(source, HubSource):
        folder, _ = download(source.id, source.commit)
    else:
        folder = source.path
    found = folder_digest(folder)
    if found != source.sha256:
        raise ConfigurationError(
            f"package {manifest.name!r}: the weights in {folder} have digest {found}, the manifest"
            f" says {source.sha256}"
        )
    return load_encoder(folder), folder


def _load_psm(
    manifest: Manifest, dimensions: int, settings: Settings
) -> tuple[Purifier | None, Mapper | None]:
    """Purifier and mapper of a package, each verified to be meant for its encoder and levels."""
    if (psm := manifest.psm) is None:
        return None, None
    size = manifest.preprocessing.value().size
    expected = Expected(manifest.encoder.sha256, manifest.sigmas, size, psm.transferred)
    purifier: Purifier | None = None
    mapper: Mapper | None = None
    digest = None if psm.purifier is None else psm.purifier.sha256
    if isinstance(psm.purifier, PartFile):
        file = _part_file(manifest, psm.purifier, settings)
        purifier, part = load_unet(file)
        check(file, part, expected)
    elif psm.purifier is not None:
        purifier = _load_diffusers(manifest, psm.purifier)
    if psm.mapper is not None:
        file = _part_file(manifest, psm.mapper, settings)
        mapper, part = load_mapper(file)
        check(file, part, expected)
        shape = mapper.config.dimensions, mapper.config.grid
        if shape != (dimensions, None):
            raise ConfigurationError(
                f"{file} maps features of {shape[0]} dimensions, this encoder's have {dimensions}"
            )
        if part.purifier != digest:
            raise ConfigurationError(
                f"{file} was trained behind the purifier {part.purifier}, this package has {digest}"
            )
    return purifier, mapper


def _part_file(manifest: Manifest, part: PartFile, settings: Settings) -> Path:
    for store in stores(settings):
        file = store / manifest.name / manifest.version / part.file
        if file.is_file():
            if (found := sha256(file)) != part.sha256:
                raise ConfigurationError(
                    f"{file} has digest {found}, the manifest says {part.sha256}"
                )
            return file
    raise ConfigurationError(f"package {manifest.name!r} lacks its file {part.file}")


def _load_diffusers(manifest: Manifest, source: DiffusersFolder | DiffusersHub) -> Purifier:
    from service.models.diffusion import diffusion_digest, load_diffusion

    if isinstance(source, DiffusersHub):
        folder, _ = download(source.id, source.commit)
    else:
        folder = source.path
    if (found := diffusion_digest(folder)) != source.sha256:
        raise ConfigurationError(
            f"package {manifest.name!r}: the purifier in {folder} has digest {found}, the manifest"
            f" says {source.sha256}"
        )
    return load_diffusion(folder)


def is_hub_id(reference: str) -> bool:
    """Whether it could be a hub model's, as `owner/name`."""
    return _HUB_ID.match(reference) is not None and not Path(reference).exists()


def download(reference: str, commit: str | None) -> tuple[Path, str]:
    """Folder and commit of a hub model, at that commit or its newest.

    Raises:
        ConfigurationError: it cannot be fetched.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        path = Path(snapshot_download(reference, revision=commit, allow_patterns=_HUB_FILES))
    except (OSError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        first = str(error).strip().splitlines()[0]
        raise ConfigurationError(
            f"cannot fetch {reference!r} from the model hub ({first}); a local folder works too"
        ) from error
    return path, path.name  # a snapshot folder is named by its commit


def _load_converted(source: DistributionSource, cache: Path) -> Encoder:
    """EfficientNet-Lite0 from the cache, converted from its distribution the first time."""
    target = cache / f"{source.converter}-{source.sha256[:16]}.safetensors"
    stamp = target.with_suffix(".sha256")
    if not (target.is_file() and stamp.is_file() and stamp.read_text() == sha256(target)):
        try:
            _convert(source, target)
        except (OSError, SafetensorError) as error:
            raise ConfigurationError(
                f"the converted weights cannot be kept in {cache}: {error}; name a folder that can"
                " be written: FCS_CACHE_DIR"
            ) from error
    encoder = Lite0()
    encoder.load_state_dict(load_file(target))
    return encoder


def _convert(source: DistributionSource, target: Path) -> None:
    file = locate(source)
    published = torch.load(file, map_location="cpu", weights_only=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(f".{os.getpid()}.partial")
    save_file(fold_checkpoint(published), partial)
    partial.chmod(0o644)  # a container prepares as root and serves as somebody else
    digest = sha256(partial)
    partial.replace(target)
    stamp = target.with_suffix(".sha256")
    partial.write_text(digest)
    partial.replace(stamp)


def folder_digest(folder: Path) -> str:
    """Digest over the model's configuration and every safetensors file, names included."""
    files = sorted([*folder.glob("*.safetensors"), *folder.glob("config.json")])
    if not any(file.suffix == ".safetensors" for file in files):
        raise ConfigurationError(
            f"{folder} holds no .safetensors weights; other formats are refused"
        )
    whole = hashlib.sha256()
    for file in files:
        whole.update(f"{file.name}\0{sha256(file)}\n".encode())
    return whole.hexdigest()


def revision(manifest: Manifest, device: str, arrangement: Arrangement) -> str:
    """Digest of everything the smoothed function depends on.

    Args:
        manifest: of the package.
        device: "cpu" or "cuda".
        arrangement: all of it but `lanes`.
    """
    depends_on = {
        "function": _FUNCTION_VERSION,
        "weights": manifest.encoder.sha256,
        **manifest.psm_digests,
        "preprocessing": asdict(manifest.preprocessing.value()),
        "device": device,
        "dtype": f"torch.{arrangement.dtype}",
        "batch_size": arrangement.batch_size,
    }
    if device != "cpu":
        depends_on["noise"] = NOISE
    # Absent where they are what they were before they could be chosen.
    if arrangement.memory_format != "channels_last":
        depends_on["memory_format"] = arrangement.memory_format
    if arrangement.threads != 1:
        depends_on["threads"] = arrangement.threads
    text = json.dumps(depends_on, sort_keys=True)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
