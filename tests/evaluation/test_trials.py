import numpy as np
import pytest

from service.evaluation import trials
from service.evaluation.pgd import AttackPlan, Twin
from service.evaluation.trials import Case, TrialPlan, certificate, run_trial
from tests.evaluation.conftest import picture

PLAN = TrialPlan(AttackPlan(steps=8, judges=40), rescore=600)


def too_good(model, case, plan, seed):
    return certificate(model, case, plan, seed)[0], 0.9999


@pytest.mark.parametrize("shift", [0.25, 1.0])
def test_a_sound_certificate_survives(vit, shift):
    trial = run_trial(vit, Twin(vit.pipeline), Case(picture(vit), 0.1, shift, 1), PLAN)
    assert not trial.violated
    assert trial.bound < trial.attacked < trial.upper
    assert trial.attacked < trial.random


def test_a_wrong_certificate_is_convicted(vit):
    case = Case(picture(vit), 0.25, 3.0, 1)
    trial = run_trial(vit, Twin(vit.pipeline), case, PLAN, too_good)
    assert trial.violated
    assert trial.margin < 0


@pytest.mark.long
def test_the_embedded_default(lite0):
    """Where a sound certificate is silent, the attack convicts one that promises 0.9999."""
    case = Case(picture(lite0), 0.25, 3.0, 1)
    plan = TrialPlan(AttackPlan(steps=10, restarts=1, judges=20), 40, 60, 400)
    trial = run_trial(lite0, Twin(lite0.pipeline), case, plan, too_good)
    assert trial.violated
    assert 1 - trial.attacked > 2 * (1 - trial.random)
    assert trial.bare < 0.9


def test_an_attack_that_leaves_the_ball_is_refused(vit, monkeypatch):
    monkeypatch.setattr(trials, "attack", lambda _, image, *rest: np.uint8(255) - image)
    with pytest.raises(RuntimeError, match="outside the ball"):
        run_trial(vit, Twin(vit.pipeline), Case(picture(vit), 0.1, 1.0, 1), PLAN)
