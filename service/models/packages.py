"""Model packages: `<store>/<name>/<version>/manifest.json`, strictly checked.

A package names an encoder and where its weights come from, pins their digest, and fixes what a
certificate depends on: preprocessing and noise levels.
"""

import json
import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from service.errors import ConfigurationError
from service.types import Preprocessing, Resample

MANIFEST = "manifest.json"
_NAME = re.compile(r"^[a-z0-9][a-z0-9._-]*$")
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Triple = tuple[float, float, float]


def _positive(values: Triple) -> Triple:
    if min(values) <= 0:
        raise ValueError("every std must be > 0")
    return values


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DistributionSource(_Strict):
    """Weights inside an installed Python distribution, converted once into the cache."""

    kind: Literal["distribution"]
    distribution: str
    version: str
    module: str = Field(description="import name of the package that holds the file")
    file: str = Field(description="path inside it")
    sha256: Digest
    converter: Literal["efficientnet-lite0", "mobilenet-v2"]


class FolderSource(_Strict):
    """A Hugging Face model folder on this machine."""

    kind: Literal["folder"]
    path: Path
    sha256: Digest


class HubSource(_Strict):
    """A Hugging Face hub model at one commit."""

    kind: Literal["hub"]
    id: str
    commit: str
    sha256: Digest


class PreprocessingManifest(_Strict):
    """`service.types.Preprocessing`, as written in a manifest."""

    resize: int | tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    resample: Resample
    mean: Triple
    std: Annotated[Triple, AfterValidator(_positive)]

    @model_validator(mode="after")
    def _ends_in_a_fixed_size(self) -> Self:
        self.value().size  # noqa: B018  # raises
        return self

    def value(self) -> Preprocessing:
        """The frozen value."""
        return Preprocessing(self.resize, self.crop, self.resample, self.mean, self.std)


class NamesFile(_Strict):
    """Class names inside an installed Python distribution: a JSON list, or object by index."""

    distribution: str
    version: str
    module: str = Field(description="import name of the package that holds the file")
    file: str = Field(description="path inside it")
    sha256: Digest


class ClassifierLabels(_Strict):
    """A label set made of the rows of the encoder's own classifier."""

    kind: Literal["classifier"]
    names: NamesFile
    renamed: dict[Annotated[int, Field(ge=0)], str] = Field(
        default_factory=dict, description="by class index, where the file uses one name twice"
    )


class PartFile(_Strict):
    """A trained purifier or mapper beside the manifest (`service.models.psm`)."""

    kind: Literal["file"] = "file"
    file: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*\.safetensors$")
    sha256: Digest


class DiffusersFolder(_Strict):
    """A diffusers UNet2DModel in a folder on this machine, as a guided-diffusion purifier."""

    kind: Literal["diffusers-folder"]
    path: Path
    sha256: Digest


class DiffusersHub(_Strict):
    """The same at one commit of a hub model."""

    kind: Literal["diffusers-hub"]
    id: str
    commit: str
    sha256: Digest


class LanguageSource(_Strict):
    """A chat model inside an installed Python distribution, converted once into the cache."""

    distribution: str
    version: str
    module: str = Field(description="import name of the package that holds the file")
    file: str = Field(description="path inside it")
    sha256: Digest
    converter: Literal["smollm2-gguf"]


class PictureSetRecord(_Strict):
    """Pictures that a part was trained on."""

    pictures: int = Field(ge=1)
    sha256: Digest
    package: str = Field("", description="and version, of a set that was fetched by name")
    licence: str = ""


class Psm(_Strict):
    """Purifier and smoothness mapper around the encoder; either may be absent."""

    purifier: (
        Annotated[PartFile | DiffusersFolder | DiffusersHub, Field(discriminator="kind")] | None
    ) = None
    mapper: PartFile | None = None
    transferred: bool = Field(
        default=False, description="trained for another encoder of the same shape, on purpose"
    )
    commands: tuple[str, ...] = Field((), description="that trained them, in order")
    data: dict[str, PictureSetRecord] = Field(
        default_factory=dict, description="picture sets they were trained on, by name"
    )
    scores: dict[str, float] = Field(
        default_factory=dict, description="on validation scenes, as training ended"
    )

    @model_validator(mode="after")
    def _is_something(self) -> Self:
        if self.purifier is None and self.mapper is None:
            raise ValueError("name a purifier, a mapper, or both; or leave out psm")
        return self


class Answerer(_Strict):
    """A chat model that is shown the encoder's token map, through a projector trained here."""

    language: LanguageSource
    projector: PartFile
    commands: tuple[str, ...] = Field((), description="that trained it, in order")
    data: dict[str, PictureSetRecord] = Field(
        default_factory=dict, description="picture sets it was trained on, by name"
    )
    scores: dict[str, float] = Field(
        default_factory=dict, description="on validation scenes, as training ended"
    )


class Manifest(_Strict):
    """Everything a package says of itself."""

    format: Literal[1] = 1
    name: str = Field(pattern=_NAME.pattern)
    version: str = Field(pattern=r"^[0-9]+$")
    description: str
    licence: str
    encoder: Annotated[DistributionSource | FolderSource | HubSource, Field(discriminator="kind")]
    preprocessing: PreprocessingManifest
    sigmas: tuple[Annotated[float, Field(ge=0.001, le=16)], ...] = Field(min_length=1)
    batch_size: int = Field(8, ge=1, le=1024)
    psm: Psm | None = None
    answerer: Answerer | None = None
    label_sets: dict[Annotated[str, Field(pattern=_NAME.pattern)], ClassifierLabels] = Field(
        default_factory=dict
    )

    @property
    def psm_digests(self) -> dict[str, str]:
        """Of purifier and mapper, where there is one; part of what a certificate depends on."""
        parts = (
            {} if self.psm is None else {"purifier": self.psm.purifier, "mapper": self.psm.mapper}
        )
        return {name: part.sha256 for name, part in parts.items() if part is not None}

    @property
    def digests(self) -> dict[str, str]:
        """Of every part beside the encoder that a response depends on."""
        if self.answerer is None:
            return self.psm_digests
        return {
            **self.psm_digests,
            "projector": self.answerer.projector.sha256,
            "language": self.answerer.language.sha256,
        }


def read_manifest(folder: Path) -> Manifest:
    """The manifest of one package version.

    Raises:
        ConfigurationError: missing, not JSON, or not of the format.
    """
    path = folder / MANIFEST
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ConfigurationError(f"{path}: {where}: {first['msg']}") from error
    if (manifest.name, manifest.version) != (folder.parent.name, folder.name):
        raise ConfigurationError(f"{path} calls itself {manifest.name}/{manifest.version}")
    return manifest


def write_manifest(store: Path, manifest: Manifest) -> Path:
    """Write a new package version; an existing one is never changed.

    Raises:
        ConfigurationError: that version exists already.
    """
    folder = store / manifest.name / manifest.version
    if (folder / MANIFEST).exists():
        raise ConfigurationError(f"{folder} exists already; packages are never changed in place")
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / (MANIFEST + ".partial")
    partial.write_text(
        json.dumps(manifest.model_dump(mode="json"), indent=2) + "\n", encoding="utf-8"
    )
    partial.replace(folder / MANIFEST)
    return folder


def versions(store: Path, name: str) -> list[Path]:
    """Version folders of a package in a store, oldest first."""
    if not _NAME.match(name):
        return []
    found = [manifest.parent for manifest in (store / name).glob(f"*/{MANIFEST}")]
    return sorted((f for f in found if f.name.isdigit()), key=lambda folder: int(folder.name))


def names(stores: list[Path]) -> list[str]:
    """All package names in the stores, sorted."""
    return sorted(
        {path.parent.parent.name for store in stores for path in store.glob(f"*/*/{MANIFEST}")}
    )


def find(stores: list[Path], reference: str) -> Path | None:
    """Folder of package `name` (its newest version) or `name/version`; None if there is none."""
    name, _, version = reference.partition("/")
    for store in stores:
        found = versions(store, name)
        if version:
            found = [folder for folder in found if folder.name == version]
        if found:
            return found[-1]
    return None
