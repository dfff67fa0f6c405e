"""One attacked certificate: draw it, attack it at one epsilon, judge it on fresh noise."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from service.certificate.stopping import checkpoints
from service.evaluation.attacks.budget import l2_distance
from service.evaluation.certificates import certified
from service.evaluation.pgd import AttackPlan, Twin, attack, random_neighbour
from service.evaluation.rescore import cosine_estimate, cosine_upper
from service.models.features import served_features
from service.models.loaded import LoadedModel
from service.models.noise import SEED_BYTES
from service.types import NoiseLevel, SamplingPlan, Stage, Target


@dataclass(frozen=True, slots=True)
class TrialPlan:
    """What one trial spends.

    Attributes:
        attack: the adversary's effort.
        selection, estimation: samples of the certificate; with a target, the latter at most.
        rescore: fresh features behind the verdict on x'.
        alpha: of the certificate.
        verdict_alpha: of the verdict's own upper confidence bound.
        target: cosine at which the certificate of each case stops early; None: it does not.
    """

    attack: AttackPlan = field(default_factory=AttackPlan)
    selection: int = 100
    estimation: int = 250
    rescore: int = 1000
    alpha: float = 0.001
    verdict_alpha: float = 0.0001
    target: float | None = None

    def sampling(self, case: "Case") -> SamplingPlan:
        """The plan of the certificate of a case."""
        target = None if self.target is None else Target(case.epsilon, self.target)
        return SamplingPlan(
            noise=NoiseLevel(case.sigma),
            radii=(case.epsilon,),
            selection=self.selection,
            estimation=self.estimation,
            confidence=1 - self.alpha,
            certify=True,
            priority=0,
            target=target,
            checkpoints=(self.estimation,) if target is None else checkpoints(self.estimation),
        )


@dataclass(frozen=True, slots=True)
class Case:
    """One picture at one noise level and one shift epsilon/sigma, with seeds of its own."""

    image: NDArray[np.uint8]  # x, [3, H, W]
    sigma: float
    shift: float
    seed: int

    @property
    def epsilon(self) -> float:
        """Radius, l2 over all pixels and channels, RGB in [0, 1]."""
        return self.shift * self.sigma


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of one case; cosines with the embedding, of smoothed features unless said.

    Attributes:
        bound: the certificate's at epsilon; -1 where it promises nothing.
        upper: confidence bound above cos(embedding, F(x')) of the attacked picture.
        attacked, random, clean: estimates at x', at a random picture of the same distance, at x.
        bare: cos(f(x), f(x')) of the encoder without smoothing, under the same attack on it.
        distance: ‖x' - x‖₂ that the attack used, RGB in [0, 1].
    """

    sigma: float
    shift: float
    bound: float
    upper: float
    attacked: float
    random: float
    clean: float
    bare: float
    distance: float

    @property
    def violated(self) -> bool:
        """The verdict contradicts the certificate."""
        return self.upper < self.bound

    @property
    def margin(self) -> float:
        """Estimated cosine minus bound."""
        return self.attacked - self.bound


Certifier = Callable[[LoadedModel, Case, TrialPlan, bytes], tuple[NDArray[np.float32], float]]


def certificate(
    model: LoadedModel, case: Case, plan: TrialPlan, seed: bytes
) -> tuple[NDArray[np.float32], float]:
    """The embedding and its bound at the case's epsilon, as the engine would find them."""
    embedding, findings = certified(model, case.image, plan.sampling(case), seed)
    return embedding, findings.bounds[0].bound


def run_trial(
    model: LoadedModel, twin: Twin, case: Case, plan: TrialPlan, certifier: Certifier = certificate
) -> Trial:
    """Certify, attack, judge; the verdict's noise is drawn after x' is fixed.

    Raises:
        RuntimeError: the attack left the ball, so its success would prove nothing.
    """
    draws = np.random.default_rng(case.seed)
    noise, silent = NoiseLevel(case.sigma), NoiseLevel(0.0)

    def features(image: NDArray[np.uint8], count: int) -> NDArray[np.float32]:
        seed = draws.bytes(SEED_BYTES)
        return served_features(model, image, noise, seed, Stage.ESTIMATE, count)

    def bare(image: NDArray[np.uint8]) -> NDArray[np.float32]:
        return served_features(model, image, silent, bytes(SEED_BYTES), Stage.CLEAN, 1)

    reference = bare(case.image)  # of the encoder alone: purifier and mapper are told sigma 0
    embedding, bound = certifier(model, case, plan, draws.bytes(SEED_BYTES))

    def adversary(target: NDArray[np.float32], sigma: float) -> NDArray[np.uint8]:
        seed = int(draws.integers(2**62))
        found = attack(twin, case.image, target, case.epsilon, sigma, plan.attack, seed)
        if l2_distance(case.image, found) > case.epsilon:
            raise RuntimeError("the attacked picture is outside the ball")
        return found

    moved = adversary(embedding, case.sigma)
    judged = features(moved, plan.rescore)
    other = random_neighbour(case.image, case.epsilon, int(draws.integers(2**62)))
    beside = plan.rescore // 4
    return Trial(
        sigma=case.sigma,
        shift=case.shift,
        bound=bound,
        upper=cosine_upper(judged, embedding, plan.verdict_alpha),
        attacked=cosine_estimate(judged, embedding),
        random=cosine_estimate(features(other, beside), embedding),
        clean=cosine_estimate(features(case.image, beside), embedding),
        bare=float(reference[0] @ bare(adversary(reference[0], 0.0))[0]),
        distance=l2_distance(case.image, moved),
    )
