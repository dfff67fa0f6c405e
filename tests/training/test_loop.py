"""The loop on a task with a closed form: bring a vector to the mean of the scenes it is shown."""

import math

import numpy as np
import pytest
import torch

from service.errors import ConfigurationError
from service.training.checkpoint import FILE
from service.training.loop import Schedule, averaged, learning_rate, train


class Constant(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.value = torch.nn.Parameter(torch.zeros(3))

    def forward(self, levels):
        return (levels.float() / 255 - self.value.view(1, 3, 1, 1)).square().mean()


class Task:
    def __init__(self, identity="a"):
        self.module = Constant()
        self.identity = {"kind": identity}
        self.seen = []

    def loss(self, module, levels, noise):
        self.seen.append((levels[:, 0, 0, 0].tolist(), float(torch.rand((), generator=noise))))
        return module(levels)

    def score(self, module):
        return {"score": -float(module.value.detach().sum())}


class Scenes:
    def batch(self, indices):
        levels = [np.full((3, 2, 2), (7 * i) % 256, np.uint8) for i in indices]
        return torch.from_numpy(np.stack(levels))


def run(folder, task=None, steps=12, until=None, command="first", **changes):
    task = task or Task()
    reports = []

    def report(step, loss, scores):
        reports.append((step, loss, scores))
        if step == until:
            raise KeyboardInterrupt

    folder.mkdir(exist_ok=True)
    fields = {"batch": 2, "learning_rate": 0.05, "save_every": 5, "score_every": 4, "seed": 3}
    schedule = Schedule(steps=steps, **{**fields, **changes})
    state = None
    try:
        state = train(task, Scenes(), schedule, folder, on_cpu=True, report=report, command=command)
    except KeyboardInterrupt:
        assert until is not None
    return task, reports, state


def test_it_learns_and_keeps_a_smoother_average(tmp_path):
    _, _, state = run(tmp_path, steps=300)
    assert state.step == 300
    torch.testing.assert_close(state.module.value.detach(), torch.full((3,), 0.5), atol=0.1, rtol=0)
    with averaged(state) as module:
        inside = module.value.detach().clone()
    assert not torch.equal(inside, state.module.value.detach())
    assert torch.equal(state.average["value"], inside)


def test_a_run_that_was_killed_takes_the_same_steps_as_one_that_was_not(tmp_path):
    whole, _, straight = run(tmp_path / "a")
    first, _, _ = run(tmp_path / "b", until=8)  # the checkpoint is of step 5
    second, reports, resumed = run(tmp_path / "b")
    assert [step for step, _, _ in reports] == list(range(6, 13))
    assert first.seen[:5] + second.seen == whole.seen
    assert torch.equal(resumed.module.value, straight.module.value)
    assert torch.equal(resumed.average["value"], straight.average["value"])
    # The score of step 4 is of before the checkpoint, that of step 8 was taken again.
    assert [record["step"] for record in resumed.history] == [4, 8, 12]
    assert resumed.history == straight.history


def test_accumulated_batches_are_the_scenes_of_one_large_one(tmp_path):
    small, _, one = run(tmp_path / "a", batch=2, accumulate=3)
    large, _, other = run(tmp_path / "b", batch=6)
    shown = [scene for levels, _ in small.seen for scene in levels]
    assert shown == [scene for levels, _ in large.seen for scene in levels]
    torch.testing.assert_close(one.module.value, other.module.value)


def test_a_finished_run_may_go_on_for_longer(tmp_path):
    run(tmp_path, steps=6)
    _, reports, state = run(tmp_path, steps=9)
    assert [step for step, _, _ in reports] == [7, 8, 9]
    assert state.step == 9
    _, reports, state = run(tmp_path, steps=9)
    assert reports == []
    assert state.step == 9


def test_a_run_remembers_every_command_that_took_steps(tmp_path):
    _, _, state = run(tmp_path, steps=12, until=7, command="twelve")  # its checkpoint is at 5
    assert state is None
    run(tmp_path, steps=12, command="twelve")
    run(tmp_path, steps=12, command="none to take")
    _, _, state = run(tmp_path, steps=14, command="fourteen")
    assert state.commands == [(0, "twelve"), (12, "fourteen")]


def test_a_run_is_not_shortened(tmp_path):
    run(tmp_path, steps=6)
    with pytest.raises(ConfigurationError, match="holds a run of 6 steps already"):
        run(tmp_path, steps=5)


def test_another_run_does_not_overwrite_this_one(tmp_path):
    run(tmp_path)
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(ConfigurationError, match="holds a run with kind = 'a', this one has 'b'"):
        run(tmp_path, Task("b"))
    with pytest.raises(ConfigurationError, match="holds a run with seed = 3, this one has 4"):
        run(tmp_path, seed=4)
    assert (tmp_path / FILE).read_bytes() == before


def test_a_damaged_checkpoint_is_named(tmp_path):
    run(tmp_path)
    (tmp_path / FILE).write_bytes(b"\x00" * 100)
    with pytest.raises(ConfigurationError, match="cannot resume from"):
        run(tmp_path)


def test_it_stops_at_a_checkpoint_when_its_minutes_are_over(tmp_path):
    _, reports, state = run(tmp_path, steps=10**6, minutes=0.01)
    assert state.step == reports[-1][0] < 10**6
    _, reports, _ = run(tmp_path, steps=10**6, minutes=0.01)
    assert reports[0][0] == state.step + 1


def test_a_gradient_that_is_not_finite_ends_the_run_before_it_does_harm(tmp_path):
    run(tmp_path, steps=4, save_every=2)
    task = Task()
    plain = task.loss
    task.loss = lambda module, *rest: plain(module, *rest) * (math.inf if len(task.seen) > 3 else 1)
    with pytest.raises(FloatingPointError, match=r"step 7 has loss inf .* lower learning rate"):
        run(tmp_path, task, steps=20, save_every=2)
    assert task.module.value.isfinite().all()
    _, reports, _ = run(tmp_path, steps=8)
    assert reports[0][0] == 7  # the checkpoint is of step 6


def test_the_learning_rate_rises_stays_and_falls_to_zero():
    schedule = Schedule(steps=1000, batch=1, learning_rate=2.0)
    rates = [learning_rate(schedule, step) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[250:690] == [2.0] * 440
    assert rates[850] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(2 / 300)
