"""Everything a run needs to go on, in one safetensors file that is replaced at once or not at all.

tensors    module.*  average.*  exp_avg.*  exp_avg_sq.*
metadata   step, and what the run is (compared when it is resumed) and has been, as JSON
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import AdamW

from service.errors import ConfigurationError

FILE = "checkpoint.safetensors"
_LOCK = ".lock"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """The folder of a run, for this process alone.

    Raises:
        ConfigurationError: another process trains in it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / _LOCK, blocking=False).acquire()
    except Timeout as error:
        raise ConfigurationError(f"another process trains in {folder} already") from error
    except OSError as error:
        raise ConfigurationError(f"cannot write {folder}: {error.strerror or error}") from error
    with lock:
        yield


@dataclass(slots=True)
class State:
    """A run between two steps.

    Attributes:
        module: being trained.
        average: exponential moving average of its parameters, by name.
        optimizer: over `module.parameters()`, in order.
        step: steps done.
        history: a record every validation, oldest first.
        recent: losses of the steps since the last of them.
        commands: that took its steps, each with the step from which on; one more where the run
            went on by another.
    """

    module: nn.Module
    average: dict[str, Tensor]
    optimizer: AdamW
    step: int
    history: list[dict[str, Any]]
    recent: list[float]
    commands: list[tuple[int, str]]


def save(folder: Path, state: State, identity: Mapping[str, Any]) -> None:
    """Replace the checkpoint of a folder, which is there and is `held`.

    Raises:
        ConfigurationError: it cannot be written; the one before is still there.
    """
    tensors = {f"module.{name}": value for name, value in state.module.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in state.average.items()}
    for name, parameter in state.module.named_parameters():
        for moment in ("exp_avg", "exp_avg_sq"):
            if moment in (own := state.optimizer.state.get(parameter, {})):
                tensors[f"{moment}.{name}"] = own[moment]
    metadata = {
        "step": str(state.step),
        "identity": json.dumps(identity, sort_keys=True),
        "history": json.dumps(state.history),
        "recent": json.dumps(state.recent),
        "commands": json.dumps(state.commands),
    }
    partial = folder / f".{FILE}.{os.getpid()}.partial"
    whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    try:
        for left in folder.glob(f".{FILE}.*.partial"):  # by a process that was killed
            left.unlink(missing_ok=True)
        save_file(whole, partial, metadata)
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(folder / FILE)
    except (OSError, SafetensorError) as error:
        raise ConfigurationError(f"cannot write {folder / FILE}: {error}") from error


def restore(folder: Path, state: State, identity: Mapping[str, Any]) -> bool:
    """Bring a fresh state to where the folder's checkpoint is; False without one.

    Raises:
        ConfigurationError: unreadable, or of another run.
    """
    file = folder / FILE
    if not file.is_file():
        return False
    try:
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        of = json.loads(metadata["identity"])
        step = int(metadata["step"])
        history, recent = json.loads(metadata["history"]), json.loads(metadata["recent"])
        commands = [(int(first), str(told)) for first, told in json.loads(metadata["commands"])]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(f"cannot resume from {file}: {error}") from error
    wanted = json.loads(json.dumps(identity))
    if different := sorted(k for k in of | wanted if of.get(k) != wanted.get(k)):
        name = different[0]
        raise ConfigurationError(
            f"{folder} holds a run with {name} = {of.get(name)!r}, this one has"
            f" {wanted.get(name)!r}: choose another folder, or the same {name}"
        )
    state.module.load_state_dict(_under(tensors, "module"))
    state.average = {
        name: value.to(state.average[name].device)
        for name, value in _under(tensors, "average").items()
    }
    first, second = _under(tensors, "exp_avg"), _under(tensors, "exp_avg_sq")
    for name, parameter in state.module.named_parameters():
        if name in first:
            state.optimizer.state[parameter] = {
                "step": torch.tensor(float(step)),
                "exp_avg": first[name].to(parameter),
                "exp_avg_sq": second[name].to(parameter),
            }
    state.step, state.history, state.recent, state.commands = step, history, recent, commands
    return True


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    start = prefix + "."
    return {
        name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)
    }
