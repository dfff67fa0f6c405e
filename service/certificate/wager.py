"""A wager against "somewhere within the radius the feature leaves the cone".

The claim to refute, at angle θ and shift r: for some x' within r·sigma and some unit w orthogonal
to u, E_{x'} G >= 0 with G = y·cosθ - s·sinθ, s = <u, f>, y = <w, f>. A payoff e(s, y) >= 0 at

    price = E_z max over s² + y² <= 1 of [βΛG + e(s, y)],   any β > 0,

has mean at most its price at x under the claim, because β·E_{x'} G >= 0 (docs/certificate.md,
"The wager"). So capital that grows beyond 1/alpha refutes the claim at level alpha, at any time.
Payoffs here are e = a_k - κy² - νy on cells t_k <= s < t_{k+1} and a constant below t_0.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Terms:
    """Lower bound a - d·y - c·y² of the log-payoff of each sample, over its possible y.

    Attributes:
        constant, linear, quadratic: [n] each; the price is taken off `constant`.
    """

    constant: Floats
    linear: Floats
    quadratic: Floats


@dataclass(frozen=True, slots=True)
class Wager:
    """A payoff and its price.

    Attributes:
        starts: t_0 < ... < t_{K-1}, all in [0, 1].
        payoffs: a_k, rising, a_0 = 1.
        quadratic: κ.
        linear: ν.
        floor: payoff below t_0.
        log_price: rounded up.
        forecast: log-growth a sample that the choice expected.
    """

    starts: Floats
    payoffs: Floats
    quadratic: float
    linear: float
    floor: float
    log_price: float
    forecast: float

    def terms(self, projections: Floats) -> Terms:
        """The log-payoffs of samples with s = `projections`, [n] in [-1, 1].

        ln(1 - v) for v = κ'y² + ν'y is at least -ν'y - cy² on |y| <= ρ = sqrt(1 - s²), with c fixed
        by y = ρ: the remainder over y² is a power series that is largest there.
        """
        cell = np.searchsorted(self.starts, projections, side="right") - 1
        seen = cell >= 0
        payoff = np.where(seen, self.payoffs[cell], self.floor)
        rho = np.sqrt(np.maximum(1 - projections**2, 1e-12))
        kappa, nu = self.quadratic / payoff * seen, self.linear / payoff * seen
        quadratic = (-np.log1p(-(kappa * rho + nu) * rho) - nu * rho) / rho**2
        return Terms(np.log(payoff) - self.log_price, nu, quadratic * (1 + 1e-12))
