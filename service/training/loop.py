"""The training loop: step, average, score, checkpoint; killed at any moment, it goes on from there.

Scenes and noise of a step depend on the seed and the step alone, so an interrupted run that is
started again takes the same steps as one that was not. Several processes (`torchrun`)
take a batch each in every step; averages and checkpoints are the first one's.
"""

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import AdamW

from service.errors import ConfigurationError
from service.training.checkpoint import State, restore, save
from service.training.task import Batch, Examples, Task

_AVERAGE = 0.999  # of the moving average, once the run is older than its memory
_WARM_UP = 200  # steps of rising learning rate
_DECAY = 0.3  # of the steps, the last, with falling learning rate
_GRADIENT_NORM = 1.0
_AHEAD = 4  # batches of scenes made while others are trained on


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and in what steps.

    Attributes:
        steps: of the optimizer, in all; the learning rate falls to zero over the last of them.
        batch: scenes of one forward pass, on each process.
        accumulate: forward passes of one step.
        learning_rate: of AdamW, at its highest.
        seed: of scenes and noise.
        save_every, score_every: steps.
        minutes: stop at the next checkpoint after so long, to be continued; None: never.
        bfloat16: compute in mixed precision.
        threads: that make scenes.
    """

    steps: int
    batch: int
    accumulate: int = 1
    learning_rate: float = 1e-3
    seed: int = 0
    save_every: int = 200
    score_every: int = 500
    minutes: float | None = None
    bfloat16: bool = False
    threads: int = 2


Report = Callable[[int, float, dict[str, float] | None], None]  # step, loss, scores


def train(
    task: Task,
    examples: Examples,
    schedule: Schedule,
    folder: Path,
    on_cpu: bool,
    report: Report,
    command: str = "",
) -> State | None:
    """Train until the schedule ends or its minutes are over; the last state, which is saved.

    None in every process but the first, where several divide the work.

    Args:
        task: what is trained, and for what; its module and pipeline on `training_device`.
        examples: to train on.
        schedule: how long.
        folder: of the run, which is there; it is continued if it has begun.
        on_cpu: though there be a GPU.
        report: told of every step, with scores where they were taken.
        command: by which it trains from here on, to record.

    Raises:
        ConfigurationError: the folder holds another run, or more steps of this one.
        FloatingPointError: a gradient is not finite; the last checkpoint is of before.
    """
    accelerator = Accelerator(cpu=on_cpu, mixed_precision="bf16" if schedule.bfloat16 else "no")
    module = task.module.to(accelerator.device)
    optimizer = AdamW(module.parameters(), schedule.learning_rate, weight_decay=0.01)
    state = State(module, _copy(module), optimizer, 0, [], [], [])
    of = identity(task, schedule, accelerator.num_processes)
    restore(folder, state, of)
    if state.step > schedule.steps:
        raise ConfigurationError(
            f"{folder} holds a run of {state.step} steps already: it goes on with more of them, not"
            f" with {schedule.steps}"
        )
    if state.step < schedule.steps and command not in [told for _, told in state.commands[-1:]]:
        state.commands.append((state.step, command))
    wrapped, _ = accelerator.prepare(module, optimizer)
    saving = accelerator.is_main_process
    began = time.monotonic()
    for step, batches in _batches(examples, schedule, accelerator, state.step):
        loss = _step(task, wrapped, optimizer, accelerator, schedule, step, batches)
        state.step = step + 1
        _average(state)
        state.recent.append(loss)
        scores = None
        last = state.step == schedule.steps or _over(schedule, began, accelerator)
        if saving and (last or state.step % schedule.score_every == 0):
            with accelerator.autocast(), averaged(state):
                scores = task.score(module)
            mean = float(np.mean(state.recent))
            state.history.append({"step": state.step, "loss": mean, **scores})
            state.recent.clear()
        if saving:
            report(state.step, loss, scores)
            if last or state.step % schedule.save_every == 0:
                save(folder, state, of)
        if last:
            break
    accelerator.wait_for_everyone()
    return state if saving else None


class averaged:  # noqa: N801 - reads as a statement
    """The module of a state with its averaged parameters, while inside."""

    def __init__(self, state: State) -> None:
        self._state = state

    def __enter__(self) -> nn.Module:
        self._own = _copy(self._state.module)
        self._state.module.load_state_dict(self._state.average, strict=False)
        self._state.module.eval()
        return self._state.module

    def __exit__(self, *_: object) -> None:
        self._state.module.load_state_dict(self._own, strict=False)
        self._state.module.train()


def learning_rate(schedule: Schedule, step: int) -> float:
    """Rising, level, then falling linearly to zero."""
    rising = min(1.0, (step + 1) / _WARM_UP)
    falling = min(1.0, (schedule.steps - step) / max(1, _DECAY * schedule.steps))
    return schedule.learning_rate * min(rising, falling)


def _over(schedule: Schedule, began: float, accelerator: Accelerator) -> bool:
    """Whether the minutes have passed, by the clock of any process: all must agree."""
    if schedule.minutes is None:
        return False
    over = torch.tensor(float(time.monotonic() - began > 60 * schedule.minutes))
    agreed: Tensor = accelerator.reduce(over.to(accelerator.device), "sum")
    return bool(agreed > 0)


def identity(task: Task, schedule: Schedule, processes: int) -> dict[str, Any]:
    """What may not change when a run goes on; that it goes on for longer may."""
    return {
        **task.identity,
        "processes": processes,
        "batch": schedule.batch,
        "accumulate": schedule.accumulate,
        "learning_rate": schedule.learning_rate,
        "seed": schedule.seed,
        "bfloat16": schedule.bfloat16,
    }


def _step(
    task: Task,
    module: nn.Module,
    optimizer: AdamW,
    accelerator: Accelerator,
    schedule: Schedule,
    step: int,
    batches: list[Batch],
) -> float:
    """One step of the optimizer; its mean loss."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(schedule, step)
    optimizer.zero_grad(set_to_none=True)
    device = accelerator.device
    seed = np.random.SeedSequence([schedule.seed, step, accelerator.process_index])
    noise = torch.Generator(device).manual_seed(int(seed.generate_state(1, np.uint64)[0] >> 1))
    whole = 0.0
    for batch in batches:
        with accelerator.autocast():
            loss = task.loss(module, batch.to(device), noise) / schedule.accumulate
        accelerator.backward(loss)
        whole += float(loss.detach())
    # Gradients are those of all processes together: all of them find the same, and end together.
    norm = float(torch.nn.utils.clip_grad_norm_(module.parameters(), _GRADIENT_NORM))
    if not math.isfinite(norm):
        raise FloatingPointError(
            f"step {step} has loss {whole} and a gradient of norm {norm}; start another run, in"
            " another folder, with a lower learning rate"
        )
    optimizer.step()
    return whole


def _batches(
    examples: Examples, schedule: Schedule, accelerator: Accelerator, first: int
) -> Iterator[tuple[int, list[Batch]]]:
    """(step, its batches) from `first` on, made ahead in threads."""
    processes, rank = accelerator.num_processes, accelerator.process_index
    size, parts = schedule.batch, schedule.accumulate

    def make(step: int) -> list[Batch]:
        begin = (step * processes + rank) * parts * size
        spans = (range(begin + k * size, begin + (k + 1) * size) for k in range(parts))
        return [examples.batch(span) for span in spans]

    with ThreadPoolExecutor(schedule.threads, "fcs-scenes") as threads:
        steps = range(first, schedule.steps)
        coming = [threads.submit(make, step) for step in steps[:_AHEAD]]
        try:
            for step in steps:
                ready = coming.pop(0).result()
                if step + _AHEAD < schedule.steps:
                    coming.append(threads.submit(make, step + _AHEAD))
                yield step, ready
        finally:
            for future in coming:
                future.cancel()


def _copy(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.named_parameters()}


@torch.no_grad()
def _average(state: State) -> None:
    """Longer memory as the run grows older, up to `_AVERAGE`."""
    kept = min(_AVERAGE, state.step / (state.step + 10))
    for name, value in state.module.named_parameters():
        state.average[name].lerp_(value, 1 - kept)
