"""One picture's certificate, looked at as its samples arrive: stop, or go on.

Without a target there is one look, at the end, and it has all of alpha. With one, the pursuit has a
share of alpha for all time, and what is left is divided among the looks at which the cone of
events A, B, C might be reported, so that every bound of the answer holds wherever it stopped.
"""

from dataclasses import dataclass

from service.certificate.blocks import Block, block_rows, orthogonal_parts
from service.certificate.certify import Findings, bounds_so_far, certify
from service.certificate.evidence import Mark
from service.certificate.pursuit import Pursuit
from service.certificate.tally import Tally, tally_bytes
from service.types import BoundSoFar, Look, SamplingPlan, Stopped

PURSUIT_SHARE = 0.8  # of alpha: measured, docs/log.md


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why sampling stopped, and what was found.

    Attributes:
        before: the best bound of all looks before, by radius, as far as they were asked for it.
    """

    stopped: Stopped
    findings: Findings
    before: dict[float, float]


def statistics_bytes(plan: SamplingPlan, dimensions: int) -> int:
    """Most memory that one picture's samples hold from look to look.

    A look itself takes a few times its block more while it runs; there is one at a time.
    """
    if not plan.certify:
        return tally_bytes(dimensions, plan.selection, 0)
    held = tally_bytes(dimensions, plan.selection, plan.estimation)
    if plan.target is not None:
        held += 8 * min(block_rows(dimensions), plan.estimation) ** 2  # the Gram matrix
    return held


class Sequential:
    """The looks at one tally, in order, by one statistics worker.

    Args:
        plan: sampling plan with a certificate.
        tally: of the same job.
    """

    def __init__(self, plan: SamplingPlan, tally: Tally) -> None:
        self._plan = plan
        self._tally = tally
        self._alpha = 1 - plan.confidence
        self._pursuit: Pursuit | None = None
        self._best: dict[float, float] = {}

    def pass_block(self, block: Block) -> None:
        """A block is full: the pursuit takes its samples and lets its rows go."""
        if (pursuit := self._started()) is not None:
            rows = pursuit.settled_samples + len(block.rows)
            pursuit.extend(
                orthogonal_parts(block.rows, block.direction), self._tally.projections[:rows]
            )
            pursuit.settle()

    def look(self, mark: Mark) -> Verdict | None:
        """The verdict at a checkpoint; None: go on sampling."""
        n, last = mark.samples, mark.samples == self._plan.estimation
        pursuit = self._started()
        if pursuit is None:
            return self._verdict(mark, "samples") if last else None
        direction = self._tally.direction
        projections = self._tally.projections[:n]
        pursuit.extend(orthogonal_parts(mark.rows, direction), projections)
        if pursuit.reached:
            return self._verdict(mark, "target")
        if last:
            return self._verdict(mark, "samples")
        pursuit.choose_again(projections)
        if pursuit.hopeless(self._plan.estimation - n):
            return self._verdict(mark, "infeasible")
        return None

    def so_far(self, mark: Mark) -> Look:
        """What is certified already, after a `look` at this mark went on; call it at once.

        Each look has its share of alpha whether or not sampling stops there, so the bounds of all
        of them, and the final ones, hold together: the best so far costs nothing.

        Raises:
            RuntimeError: the plan has no target, and so no share for any look but the last.
        """
        plan, target, pursuit = self._plan, self._plan.target, self._pursuit
        if target is None or pursuit is None:
            raise RuntimeError("without a target all of alpha belongs to the last look")
        evidence = self._tally.evidence(mark, pursuit.gram)
        radii = (*plan.radii, target.radius)
        found = bounds_so_far(evidence, plan.noise.sigma, radii, self._cone_alpha)
        self._best = {r: max(bound, self._best.get(r, -1.0)) for r, bound in found.items()}
        bounds = tuple(BoundSoFar(radius, self._best[radius]) for radius in plan.radii)
        return Look(mark.samples, bounds, self._best[target.radius] >= target.bound)

    @property
    def _cone_alpha(self) -> float:
        """What events A, B and C have at each look."""
        if self._plan.target is None:
            return self._alpha
        return self._alpha * ((1 - PURSUIT_SHARE) / len(self._plan.checkpoints))

    def _started(self) -> Pursuit | None:
        """The pursuit of the plan's target, made when its first samples are there."""
        target = self._plan.target
        if self._pursuit is None and target is not None:
            self._pursuit = Pursuit(
                target.radius / self._plan.noise.sigma,
                target.bound,
                PURSUIT_SHARE * self._alpha,
                self._tally.selection(),
            )
        return self._pursuit

    def _verdict(self, mark: Mark, stopped: Stopped) -> Verdict:
        plan, evidence = self._plan, self._tally.evidence(mark)
        findings = certify(
            evidence,
            plan.noise.sigma,
            plan.radii,
            self._alpha,
            cone_alpha=self._cone_alpha,
            reached=plan.target if stopped == "target" else None,
        )
        if plan.target is not None:
            shift = plan.target.radius / plan.noise.sigma
            if findings.bound_at(shift) >= plan.target.bound:
                stopped = "target"  # where the pursuit failed, the cone may have got there
        return Verdict(stopped, findings, dict(self._best))
