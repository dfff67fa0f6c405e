"""A new package from an encoder's and its trained purifier and mapper."""

import logging
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from pydantic import ValidationError

from service.config import Settings
from service.errors import ConfigurationError
from service.models import packages
from service.models.diffusion import diffusion_digest
from service.models.distributions import sha256
from service.models.hub import download, is_hub_id
from service.models.loaded import LoadedModel
from service.models.packages import (
    Answerer,
    DiffusersFolder,
    DiffusersHub,
    Manifest,
    PartFile,
    PictureSetRecord,
    Psm,
)
from service.models.psm import Expected, Part, check, read_part
from service.models.store import load_model, resolve, stores

_log = logging.getLogger(__name__)

_PURIFIER, _MAPPER = "purifier.safetensors", "mapper.safetensors"
_PROJECTOR = "projector.safetensors"
_KINDS = {_PURIFIER: "unet", _MAPPER: "mapper", _PROJECTOR: "projector"}


@dataclass(frozen=True, slots=True)
class Ingredients:
    """What a package is made of.

    Attributes:
        name: of the package.
        purifier, mapper: files, or folders of their runs; None without.
        diffusion: hub id or folder of a diffusers model, in place of `purifier`.
        sigmas: noise levels; none given: those that all parts were trained for.
        transferred: the parts were trained for another encoder, on purpose.
        projector: file, or folder of its run: the package answers, in the embedded language.
    """

    name: str
    purifier: Path | None
    diffusion: str | None
    mapper: Path | None
    sigmas: tuple[float, ...]
    transferred: bool
    projector: Path | None = None


def assemble(settings: Settings, wanted: Ingredients, store: Path) -> Path:
    """Write the package of the settings' model and these parts, once it works; its folder.

    Raises:
        ConfigurationError: nothing to add, a name that is taken, parts that do not fit, or that
            give no finite features.
    """
    base = resolve(settings.model, settings)
    if base.psm is not None or base.answerer is not None:
        raise ConfigurationError(
            f"{base.name} has trained parts already: name its encoder's own package"
        )
    if packages.find([*stores(settings), store], wanted.name) is not None:
        raise ConfigurationError(f"a package {wanted.name!r} exists already; choose another name")
    if wanted.mapper is not None and wanted.diffusion is not None:
        raise ConfigurationError("no mapper can be trained behind a diffusion model yet")
    if wanted.purifier is not None and wanted.diffusion is not None:
        raise ConfigurationError("name one purifier: a trained one, or a diffusion model")
    files = {
        name: (given / name if given.is_dir() else given)
        for name, given in (
            (_PURIFIER, wanted.purifier),
            (_MAPPER, wanted.mapper),
            (_PROJECTOR, wanted.projector),
        )
        if given is not None
    }
    parts = {name: read_part(file) for name, file in files.items()}
    of_noise = {name: part for name, part in parts.items() if name != _PROJECTOR}
    sigmas = wanted.sigmas or _common(base, of_noise)
    expected = Expected(base.encoder.sha256, sigmas, base.preprocessing.value(), wanted.transferred)
    for name, part in parts.items():
        if part.kind != _KINDS[name]:
            raise ConfigurationError(f"{files[name]} holds a {part.kind}, not a {_KINDS[name]}")
        # A projector is shown means of whatever noise: no level binds it.
        levels = part.sigmas if name == _PROJECTOR else sigmas
        check(files[name], part, replace(expected, sigmas=levels))
        done, planned = (part.training.get(told, 0) for told in ("steps", "planned_steps"))
        if done < planned:
            _log.warning("%s was stopped at step %d of %d", files[name], done, planned)
    _check_order(files, parts)
    pinned = {name: PartFile(file=name, sha256=sha256(file)) for name, file in files.items()}
    purifier = pinned.get(_PURIFIER) or _diffusion(wanted.diffusion)
    try:
        psm = Psm(
            purifier=purifier,
            mapper=pinned.get(_MAPPER),
            transferred=wanted.transferred,
            commands=tuple(_commands(of_noise)),
            data=_data(of_noise),
            scores=_scores(of_noise),
        )
        answerer = _answerer(pinned, parts)
        changes = {
            "name": wanted.name,
            "version": "1",
            "description": f"{base.description}, with {_in_words(psm, answerer)}",
            "sigmas": sigmas,
            "psm": psm,
            "answerer": answerer,
        }
        if answerer is not None:
            changes["label_sets"] = {}  # they are of the pooled feature
        manifest = Manifest.model_validate(base.model_copy(update=changes).model_dump())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(place) for place in first["loc"])
        raise ConfigurationError(f"{wanted.name}: {where}: {first['msg']}") from error
    return _install(manifest, files, store, settings)


def _check_order(files: Mapping[str, Path], parts: Mapping[str, Part]) -> None:
    """Refuse parts that were trained behind others than those they will serve behind."""
    digests = {name: sha256(file) for name, file in files.items()}
    for name, part in parts.items():
        before = [("purifier", part.purifier, _PURIFIER)] if name != _PURIFIER else []
        if name == _MAPPER:
            before.append(("projector", part.projector, _PROJECTOR))
        for what, trained, given in before:
            if trained != digests.get(given):
                raise ConfigurationError(
                    f"{files[name]} was trained behind the {what} {trained}, not behind"
                    f" {digests.get(given)}"
                )


def _install(
    manifest: Manifest, files: Mapping[str, Path], store: Path, settings: Settings
) -> Path:
    """Beside the store first, and into it once it was seen to work."""
    target = store / manifest.name
    try:
        store.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=store, prefix=".adding-") as scratch:
            trial = Path(scratch)
            folder = trial / manifest.name / manifest.version
            folder.mkdir(parents=True)
            for name, file in files.items():
                shutil.copyfile(file, folder / name)
            packages.write_manifest(trial, manifest)
            _try(load_model(manifest.name, settings.model_copy(update={"model_store": trial})))
            folder.parent.rename(target)
    except OSError as error:
        raise ConfigurationError(f"cannot write {target}: {error.strerror or error}") from error
    return target / manifest.version


def _try(model: LoadedModel) -> None:
    """One grey picture at every level."""
    grey = torch.full((1, 3, *model.preprocessing.size), 128.0)
    for sigma in model.sigmas:
        try:
            features = model.pipeline.features(grey, torch.tensor([sigma]))
        except Exception as error:  # whatever code of others raises on shapes it does not expect
            raise ConfigurationError(f"{model.name} cannot be computed: {error}") from error
        if not torch.isfinite(features).all():
            raise ConfigurationError(
                f"{model.name} gives features that are not finite at sigma {sigma:g}"
            )


def _commands(parts: Mapping[str, Part]) -> Iterator[str]:
    for part in parts.values():
        told = part.training
        alone = [told["command"]] if "command" in told else []  # as the first shipped parts tell it
        yield from map(str, told.get("commands", alone))


def _data(parts: Mapping[str, Part]) -> dict[str, PictureSetRecord]:
    """Of all parts; a set that they name differently, or that changed between them, twice."""
    found: dict[str, PictureSetRecord] = {}
    for name, part in parts.items():
        for called, told in part.training.get("data", {}).items():
            record = PictureSetRecord.model_validate(told)
            same = found.get(called, record) == record
            found[called if same else f"{called} ({name})"] = record
    return found


def _scores(parts: Mapping[str, Part]) -> dict[str, float]:
    return {
        f"{part.kind}.{name}": value
        for part in parts.values()
        for name, value in part.training.get("scores", {}).items()
        if name.startswith("cos@")
    }


def _common(base: Manifest, parts: dict[str, Part]) -> tuple[float, ...]:
    """Levels that every part was trained for; the encoder's own where there is no part."""
    if not parts:
        return base.sigmas
    trained = [set(part.sigmas) for part in parts.values()]
    common = tuple(sorted(set.intersection(*trained)))
    if not common:
        raise ConfigurationError("purifier and mapper were trained for different noise levels")
    return common


def _diffusion(reference: str | None) -> DiffusersFolder | DiffusersHub | None:
    if reference is None:
        return None
    if Path(reference).is_dir():
        folder = Path(reference).resolve()
        digest = diffusion_digest(folder)
        return DiffusersFolder(kind="diffusers-folder", path=folder, sha256=digest)
    if not is_hub_id(reference):
        raise ConfigurationError(f"no diffusion model {reference!r}: neither a folder nor a hub id")
    folder, commit = download(reference, None)
    return DiffusersHub(
        kind="diffusers-hub", id=reference, commit=commit, sha256=diffusion_digest(folder)
    )


def _answerer(pinned: Mapping[str, PartFile], parts: Mapping[str, Part]) -> Answerer | None:
    if _PROJECTOR not in parts:
        return None
    from service.models.answerer.embedded import SMOLLM2

    only = {_PROJECTOR: parts[_PROJECTOR]}
    scores = only[_PROJECTOR].training.get("scores", {})
    return Answerer(
        language=SMOLLM2,
        projector=pinned[_PROJECTOR],
        commands=tuple(_commands(only)),
        data=_data(only),
        scores={name: value for name, value in scores.items() if name.startswith("right@")},
    )


def _in_words(psm: Psm, answerer: Answerer | None) -> str:
    found = {"purifier": psm.purifier, "smoothness mapper": psm.mapper, "a language": answerer}
    return " and ".join(name for name, part in found.items() if part is not None)
