"""Named label sets, kept with a model package: labels and one unit direction for each.

    <store>/<package>/<version>/label_sets/<name>.safetensors
        tensor `directions` [C, d] float32; metadata `names` (a JSON list of C labels), `encoder`
        (digest of the weights they were made with) and `psm` (those of purifier and mapper)

or declared in the manifest as the rows of the encoder's own classifier. Packages are never changed
in place: sets made on this machine go to its own store, under the same package name and version.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from service.certificate.labels import Directions, same_direction
from service.errors import ConfigurationError
from service.models.distributions import locate
from service.models.encoder import Encoder
from service.models.packages import ClassifierLabels, Manifest

FOLDER = "label_sets"
_NAME = re.compile(r"^[a-z0-9][a-z0-9._-]*$")
_MAX_LABELS = 100_000


@dataclass(frozen=True, slots=True)
class LabelSet:
    """A set as requests name it."""

    name: str
    directions: Directions


def load_label_sets(
    manifest: Manifest, encoder: Encoder, stores: Iterable[Path]
) -> tuple[LabelSet, ...]:
    """Every set of a package version: those its manifest declares, then those in the stores.

    Args:
        manifest: of the package.
        encoder: still in float32, its weights verified.
        stores: roots that may hold `<package>/<version>/label_sets`.

    Raises:
        ConfigurationError: a set that cannot be used, or a name that two sets bear.
    """
    found = {
        name: LabelSet(name, _of_classifier(name, declared, encoder))
        for name, declared in manifest.label_sets.items()
    }
    for store in stores:
        for file in sorted(
            (store / manifest.name / manifest.version / FOLDER).glob("*.safetensors")
        ):
            if file.stem in found:
                raise ConfigurationError(f"{file}: a label set {file.stem!r} exists already")
            found[file.stem] = read_label_set(
                file, encoder.dimensions, manifest.encoder.sha256, manifest.psm_digests
            )
    return tuple(found.values())


def read_label_set(
    file: Path, dimensions: int, encoder: str, psm: Mapping[str, str] = MappingProxyType({})
) -> LabelSet:
    """One set from its file, strictly checked.

    Args:
        file: named after the set.
        dimensions: d of the model.
        encoder: digest of the model's weights.
        psm: digests of its purifier and mapper, where it has them.

    Raises:
        ConfigurationError: unreadable, another dimension, encoder, purifier or mapper, names and
            directions that do
            not fit together, values that are not finite, labels or directions that occur twice.
    """
    if not _NAME.match(file.stem):
        raise ConfigurationError(f"{file}: a label set's name must match {_NAME.pattern}")
    try:
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
            if list(opened.keys()) != ["directions"]:
                raise ConfigurationError(f"{file} must hold one tensor, 'directions'")
            tensor = opened.get_tensor("directions")
    except (OSError, SafetensorError) as error:
        raise ConfigurationError(f"cannot read {file}: {error}") from error
    try:
        names = json.loads(metadata.get("names", ""))
        made_with = json.loads(metadata.get("psm", "{}"))
    except ValueError as error:
        raise ConfigurationError(f"{file}: metadata 'names' is not a JSON list") from error
    if (metadata.get("encoder"), made_with) != (encoder, dict(psm)):
        raise ConfigurationError(
            f"{file} was made with other weights than this model's; remove it and make it again:"
            " fcs models add-labels"
        )
    if tensor.dtype != torch.float32 or tensor.ndim != 2 or tensor.shape[1] != dimensions:
        raise ConfigurationError(
            f"{file}: directions must be float32 [labels, {dimensions}],"
            f" found {str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
        )
    return LabelSet(file.stem, checked_directions(names, tensor.numpy(), str(file)))


def check_new(stores: Iterable[Path], manifest: Manifest, name: str) -> None:
    """Refuse a set's name before any work is done for it.

    Raises:
        ConfigurationError: a name that is taken or not allowed.
    """
    if not _NAME.match(name):
        raise ConfigurationError(f"label set {name!r}: the name must match {_NAME.pattern}")
    if name in manifest.label_sets or any(_file(s, manifest, name).exists() for s in stores):
        raise ConfigurationError(
            f"{manifest.name} has a label set {name!r} already; choose another name"
        )


def write_label_set(
    store: Path, manifest: Manifest, name: str, labels: list[str], directions: NDArray[np.float32]
) -> Path:
    """Keep a new set beside its package version; an existing one is never changed.

    Args:
        store: of this machine.
        manifest: of the package.
        name: how requests will call it.
        labels: C distinct names.
        directions: [C, d], of any length but zero.

    Raises:
        ConfigurationError: a name that is taken or not allowed, or labels that cannot be used.
    """
    check_new([store], manifest, name)
    target = _file(store, manifest, name)
    checked = checked_directions(labels, directions, f"label set {name!r}")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(f".{os.getpid()}.partial")
    metadata = {
        "names": json.dumps(labels),
        "encoder": manifest.encoder.sha256,
        "psm": json.dumps(manifest.psm_digests),
    }
    save_file({"directions": torch.from_numpy(checked.vectors).float()}, partial, metadata)
    partial.replace(target)
    return target


def checked_directions(names: object, rows: NDArray[np.float32], where: str) -> Directions:
    """Names and rows [C, d] as directions of unit norm.

    Raises:
        ConfigurationError: what is wrong, after `where`.
    """
    if not (isinstance(names, list) and all(isinstance(n, str) and n.strip() for n in names)):
        raise ConfigurationError(f"{where}: names must be a list of non-empty strings")
    if len(names) != len(rows):
        raise ConfigurationError(f"{where}: {len(names)} names for {len(rows)} directions")
    if not 2 <= len(names) <= _MAX_LABELS:
        raise ConfigurationError(f"{where}: {len(names)} labels; allowed are 2 to {_MAX_LABELS}")
    if len(set(names)) < len(names):
        twice = next(n for i, n in enumerate(names) if n in names[:i])
        raise ConfigurationError(f"{where}: label {twice!r} occurs twice")
    exact = rows.astype(np.float64)
    norms = np.linalg.norm(exact, axis=1)
    usable = np.isfinite(norms) & (norms > 0)
    if not usable.all():
        at = names[int((~usable).argmax())]
        raise ConfigurationError(f"{where}: the direction of {at!r} is zero or not finite")
    vectors = exact / norms[:, None]
    if (pair := same_direction(vectors)) is not None:
        one, two = (names[i] for i in pair)
        raise ConfigurationError(f"{where}: labels {one!r} and {two!r} have the same direction")
    return Directions(tuple(names), vectors)


def _file(store: Path, manifest: Manifest, name: str) -> Path:
    return store / manifest.name / manifest.version / FOLDER / f"{name}.safetensors"


def _of_classifier(name: str, declared: ClassifierLabels, encoder: Encoder) -> Directions:
    """The rows of the encoder's own classifier, as a cosine classifier (the bias is left out)."""
    where = f"label set {name!r}"
    rows = encoder.class_rows()
    if rows is None:
        raise ConfigurationError(f"{where}: this encoder has no classifier")
    try:
        names = json.loads(locate(declared.names).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigurationError(f"{where}: {declared.names.file} is not JSON") from error
    if isinstance(names, dict):  # {"0": name, ...}
        names = [names.get(str(i)) for i in range(len(names))]
    for index, renamed in declared.renamed.items():
        if not index < len(names):
            raise ConfigurationError(f"{where}: renamed class {index} of {len(names)}")
        names[index] = renamed
    return checked_directions(names, rows.float().numpy(), where)
