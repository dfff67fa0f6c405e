import json

import pytest
from typer.testing import CliRunner

from service.cli.app import app
from service.evaluation import prove
from service.evaluation.prove import attack_all, judge
from service.evaluation.trials import Case, Trial, TrialPlan
from tests import launch
from tests.evaluation.conftest import picture
from tests.photos import locate

SOUND = Trial(0.25, 1.0, 0.8, 0.97, 0.96, 0.99, 0.99, 0.9, 0.25)
BROKEN = Trial(0.25, 1.0, 0.9999, 0.97, 0.96, 0.99, 0.99, 0.9, 0.25)


def test_violations_fail_beyond_chance_alone():
    few = judge([SOUND] * 230 + [BROKEN] * 2, TrialPlan())
    assert (few.violations, few.failed) == (2, False)
    many = judge([SOUND] * 200 + [BROKEN] * 20, TrialPlan())
    assert (many.trials, many.violations, many.failed) == (220, 20, True)
    assert many.worst_margin == pytest.approx(0.96 - 0.9999)


def test_trials_do_not_depend_on_the_lanes(vit):
    import dataclasses

    from service.evaluation.pgd import AttackPlan

    plan = TrialPlan(AttackPlan(steps=2, draws=4, judges=4), 20, 20, 40)
    cases = [Case(picture(vit), 0.1, 0.5, seed) for seed in range(3)]
    one, two = (attack_all(dataclasses.replace(vit, lanes=lanes), cases, plan) for lanes in (1, 2))
    assert one == two
    assert len({trial.attacked for trial in one}) == 3


def test_the_command(lively_vit):
    ended = launch.fcs(
        "prove", locate("coffee.png"), "--model", lively_vit,
        "--sigma", "0.1", "--shift", "0.5", "--shift", "1", "--repeats", "2", "--steps", "3",
        "--rescore", "200",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    summary = json.loads(ended.stdout.splitlines()[-1])
    assert (summary["trials"], summary["violations"]) == (4, 0)
    assert summary["worst_margin"] > 0
    assert [row["shift"] for row in summary["rows"]] == [0.5, 1.0]


def test_the_command_fails_when_certificates_break(monkeypatch):
    broken = judge([BROKEN] * 30, TrialPlan())
    monkeypatch.setattr(prove, "run", lambda *_: broken)
    assert CliRunner().invoke(app, ["prove", str(locate("coffee.png"))]).exit_code == 1
