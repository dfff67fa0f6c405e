"""Whether a folder is of this run: its cells must all be of one mind."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from service.errors import ConfigurationError
from service.evaluation.robustness.config import Config, DefenceConfig
from service.models.distributions import sha256
from service.models.hardened import weights_digest

CONFIG = "config.json"
_FREE = "defences", "attacks", "encoders", "mappers", "sweep"  # told by name, or changing nothing
_NAMED = "defences", "attacks"


def claim(
    folder: Path, config: Config, revision: str, pictures: str, surrogates: Mapping[str, str]
) -> None:
    """Make a folder this run's, or go on with one whose run asked for the same, or for less.

    Defences and attacks may be added to a run; what is there already must be as it was.

    Args:
        folder: there already.
        config: of the run.
        revision: digest of the model and how it is computed.
        pictures: digest of the subjects.
        surrogates: by name, the digest of each one's weights.

    Raises:
        ConfigurationError: the folder is of another config, model or part, or unreadable.
    """
    told = _told(config, revision, pictures, surrogates)
    file = folder / CONFIG
    if file.exists():
        try:
            before = json.loads(file.read_text(encoding="utf-8"))
            what = _difference(before, told)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigurationError(
                f"{file} cannot be read, or is of another version; name another folder"
            ) from error
        if what:
            raise ConfigurationError(
                f"{folder} is of another run: {what} is not what it was; name another folder"
            )
        for name in _NAMED:
            told[name] = {**before[name], **told[name]}
    part = file.with_suffix(".part")
    part.write_text(json.dumps(told, indent=1), encoding="utf-8")
    part.replace(file)


def _told(
    config: Config, revision: str, pictures: str, surrogates: Mapping[str, str]
) -> dict[str, Any]:
    """All that decides a cell: what all share, and by name what some do."""
    plain = config.model_dump(mode="json")
    by_digest = "pictures", "surrogates"
    shared = {name: value for name, value in plain.items() if name not in (*_FREE, *by_digest)}
    return {
        "revision": revision,
        "shared": {**shared, "pictures": pictures, "surrogates": dict(surrogates)},
        "defences": {one.name: _parts(config, one) for one in config.defences},
        "attacks": {
            one.key: one.model_dump(mode="json", exclude={"defences"}) for one in config.attacks
        },
    }


def _parts(config: Config, defence: DefenceConfig) -> dict[str, str]:
    """What stands in a row: digests of files; the model's own, where none is named."""
    encoder = None if defence.encoder is None else config.encoders[defence.encoder]
    mapper = config.mapper_files.get(defence.smoothing)
    return {
        "smoothing": defence.smoothing,
        "encoder": "own" if encoder is None else weights_digest(encoder),
        "mapper": "own" if mapper is None else _digest(mapper),
    }


def _digest(file: Path) -> str:
    """Of a part's file.

    Raises:
        ConfigurationError: it is not there.
    """
    try:
        return sha256(file)
    except OSError as error:
        raise ConfigurationError(f"cannot read {file}: {error.strerror}") from error


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """The first thing that both name and do not agree on."""
    if before["revision"] != now["revision"]:
        return "the model, or how it is computed,"
    for name in before["shared"] | now["shared"]:
        if before["shared"].get(name) != now["shared"].get(name):
            return f"`{name}` of the config"
    for group in _NAMED:
        for name in before[group].keys() & now[group].keys():
            if before[group][name] != now[group][name]:
                return f"{name!r} of `{group}`"
    return None
