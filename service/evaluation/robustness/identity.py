"""Whether a folder is of this run: its cells must all be of one mind."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from service.errors import ConfigurationError
from service.evaluation.robustness.config import Config
from service.models.distributions import sha256
from service.models.hardened import weights_file

CONFIG = "config.json"
_GROWING = "defences", "attacks", "encoders", "mappers"
_FREE = ("sweep",)  # adds to a run and changes nothing of it


def claim(folder: Path, config: Config, revision: str) -> None:
    """Make a folder this run's, or go on with one whose run asked for the same, or for less.

    Defences and attacks may be added to a run; what is there already must be as it was.

    Args:
        folder: there already.
        config: of the run.
        revision: digest of the model and how it is computed.

    Raises:
        ConfigurationError: the folder is of another config, model or part.
    """
    told = _told(config, revision)
    file = folder / CONFIG
    if file.exists():
        before = json.loads(file.read_text(encoding="utf-8"))
        if what := _difference(before, told):
            raise ConfigurationError(
                f"{folder} is of another run: {what} is not what it was; name another folder"
            )
        for name in _GROWING:
            told[name] = {**before[name], **told[name]}
    part = file.with_suffix(".part")
    part.write_text(json.dumps(told, indent=1), encoding="utf-8")
    part.replace(file)


def _told(config: Config, revision: str) -> dict[str, Any]:
    """All that decides a cell: what all share, and by name what some do."""
    plain = config.model_dump(mode="json")
    files = {
        "encoders": {name: sha256(weights_file(path)) for name, path in config.encoders.items()},
        "mappers": {name: sha256(path) for name, path in config.mapper_files.items()},
    }
    return {
        "revision": revision,
        "shared": {name: value for name, value in plain.items() if name not in (*_GROWING, *_FREE)},
        "defences": {one.name: one.model_dump(mode="json") for one in config.defences},
        "attacks": {
            one.key: one.model_dump(mode="json", exclude={"defences"}) for one in config.attacks
        },
        **files,
    }


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """The first thing that both name and do not agree on."""
    if before.get("revision") != now["revision"]:
        return "the model, or how it is computed,"
    for name, value in now["shared"].items():
        if before["shared"].get(name) != value:
            return f"`{name}` of the config"
    for group in _GROWING:
        for name in before[group].keys() & now[group].keys():
            if before[group][name] != now[group][name]:
                return f"{name!r} of `{group}`"
    return None
