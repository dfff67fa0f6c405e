"""Slow proofs of soundness on closed-form encoders: `make prove`.

Each test prints trials, the worst margin and violations, and fails beyond its stated false-alarm
rate of 1e-6.
"""

import numpy as np
import pytest
from scipy.stats import binom

from service.certificate.certify import cone_of
from service.certificate.pursuit import Pursuit
from tests.certificate.closed_form import (
    evidence_of,
    rotation,
    rotation_truth,
    step,
    step_truth,
)
from tests.certificate.test_pursuit import selected

pytestmark = pytest.mark.prove

TRIALS = 150
FALSE_ALARM = 1e-6
SHIFTS = (0.25, 0.5, 1.0, 2.0)


def report(name, margins, alpha):
    violations = sum(margin < -1e-6 for margin in margins)
    most = int(binom.isf(FALSE_ALARM, len(margins), alpha))
    print(  # noqa: T201
        f"\n{name}: {len(margins)} trials, worst margin {min(margins):+.4f},"
        f" {violations} violations (at most {most})"
    )
    assert violations <= most


@pytest.mark.parametrize("alpha", [0.001, 0.05, 0.3])
@pytest.mark.parametrize("c", [0.05, 0.3, 1.0])
def test_rotation(c, alpha):
    rng = np.random.default_rng([1, int(100 * c), int(1000 * alpha)])
    margins = []
    for _ in range(TRIALS):
        evidence = evidence_of(
            rotation(rng, 1, 0, 1), rotation(rng, 40, c, 1), rotation(rng, 100, c, 1)
        )
        cone = cone_of(evidence, alpha)
        truths = (rotation_truth(evidence.embedding, c, 1, r) for r in SHIFTS)
        margins.append(min(t - cone.bound(r)[0] for t, r in zip(truths, SHIFTS, strict=True)))
    report(f"rotation c={c} alpha={alpha}", margins, alpha)


@pytest.mark.parametrize("alpha", [0.001, 0.05, 0.3])
@pytest.mark.parametrize(("edge", "half"), [(3.0, 0.2), (2.0, 0.7), (1.0, 1.4)])
def test_step(edge, half, alpha):
    rng = np.random.default_rng([2, int(10 * edge), int(1000 * alpha)])
    margins = []
    for _ in range(TRIALS):
        evidence = evidence_of(
            step(rng, 1, 9, half), step(rng, 40, edge, half), step(rng, 100, edge, half)
        )
        cone = cone_of(evidence, alpha)
        truths = (step_truth(evidence.embedding, edge, half, r) for r in SHIFTS)
        margins.append(min(t - cone.bound(r)[0] for t, r in zip(truths, SHIFTS, strict=True)))
    report(f"step edge={edge} half={half} alpha={alpha}", margins, alpha)


LOOKS = (48, 64, 80, 96, 128, 160, 192, 256, 320, 400)


def certified(u, selection, rows, shift, bound, alpha):
    pursuit = Pursuit(shift, bound, alpha, selection)
    s = rows.astype(np.float64) @ u
    h = rows - s[:, None] * u
    for n in LOOKS:
        pursuit.extend(h[:n], s[:n])
        if pursuit.reached:
            return True
        pursuit.choose_again(s[:n])
    return False


@pytest.mark.parametrize("alpha", [0.05, 0.3])
@pytest.mark.parametrize(
    "law",
    [
        (rotation, rotation_truth, (0.05, 1), 0.5),
        (rotation, rotation_truth, (0.3, 1), 1.0),
        (step, step_truth, (2.0, 0.7), 1.0),
        (step, step_truth, (1.0, 1.0), 0.5),
        (step, step_truth, (2.5, 1.3), 1.0),
    ],
    ids=lambda law: f"{law[0].__name__}-{law[2][0]}-{law[2][1]}-{law[3]}",
)
def test_pursuit_of_a_target_just_above_the_truth(law, alpha):
    """Every such target is false; it is looked at ten times, the wager chosen again thrice."""
    draw, truth_of, parameters, shift = law
    rng = np.random.default_rng([3, int(100 * parameters[0]), int(100 * shift), int(100 * alpha)])
    margins = []
    for _ in range(TRIALS):
        u, selection = selected(draw(rng, 40, *parameters))
        truth = truth_of(u, *parameters, shift)
        rows = draw(rng, LOOKS[-1], *parameters)
        false = 0 < truth < 1 - 1e-9
        wrong = false and certified(u, selection, rows, shift, truth + 1e-9, alpha)
        margins.append(-1.0 if wrong else 1.0)
    report(f"pursuit {draw.__name__}{parameters} r={shift} alpha={alpha}", margins, alpha)
