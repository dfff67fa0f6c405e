"""One picture's samples, reduced as they arrive: {s_i, c_i, sum of h, block eigenvalues}.

Memory is that of one block of features, whatever the number of samples. Linear algebra is never
done by the thread that adds: `add` hands out each full `Block`, for a statistics worker to
`measure` and `absorb`, and at each checkpoint a `Mark`, from which that worker makes `Evidence`.
"""

import numpy as np
from numpy.typing import NDArray

from service.certificate.blocks import (
    Block,
    Floats,
    block_rows,
    measure,
    orthogonal_parts,
    unit_rows,
)
from service.certificate.directions import top_upper
from service.certificate.evidence import Evidence, Gram, Mark, Selection
from service.certificate.thresholds import projections_on_others, thresholds
from service.types import Fidelity, Stage

_KEPT_ROWS = 256  # of the selection sample: enough to foretell the law of s


def tally_bytes(dimensions: int, selection: int, estimation: int) -> int:
    """Most memory that a tally of this plan holds at a time."""
    block = block_rows(dimensions)
    rows = min(block, estimation) + min(_KEPT_ROWS, block, selection)
    # Sums: of the selection and of h, and those of two checkpoints on their way.
    return 4 * dimensions * rows + 8 * (6 * dimensions + 2 * estimation)


class Tally:
    """Features of one job, stage by stage, in the order of their index.

    Args:
        dimensions: d, length of a flattened feature.
        selection: n0, samples whose mean is the embedding.
        estimation: n, most samples that certify it; 0 when no certificate is asked.
        checkpoints: rising counts of estimation samples at which to mark; `estimation` is one.
    """

    def __init__(
        self, dimensions: int, selection: int, estimation: int, checkpoints: tuple[int, ...] = ()
    ) -> None:
        self._block = block_rows(dimensions)
        self._selection = selection
        self._estimation = estimation
        self._checkpoints = {*checkpoints, estimation}
        self._reference: Floats | None = None
        self._bare: Floats | None = None
        self._sum = np.zeros(dimensions)
        self._selected = 0
        self._kept: list[NDArray[np.float32]] = []
        self._kept_rows = 0
        self._embedding: NDArray[np.float32] | None = None
        self._u = np.zeros(dimensions)
        self._thresholds = np.empty(0)
        self._estimated = 0
        self._projections = np.empty(estimation)
        self._cosines = np.empty(estimation)
        self._h_sum = np.zeros(dimensions)
        self._open: NDArray[np.float32] | None = None
        self._open_rows = 0
        self._full_blocks = 0
        self._peaks: list[float] = []

    @property
    def selected(self) -> bool:
        """The selection sample is complete, and so is the embedding."""
        return self._selected == self._selection

    @property
    def embedding(self) -> NDArray[np.float32]:
        """u, the normalised mean of the selection sample, float32 [d]."""
        if self._embedding is None:
            raise RuntimeError("the selection sample is not complete")
        return self._embedding

    @property
    def fidelity(self) -> Fidelity:
        """Cosines of the embedding with f(x) and with the bare encoder's feature."""
        if self._reference is None or self._bare is None:
            raise RuntimeError("no clean feature was added")
        pipeline, encoder = (
            float(np.clip(self._u @ clean, -1.0, 1.0)) for clean in (self._reference, self._bare)
        )
        return Fidelity(pipeline, encoder)

    @property
    def direction(self) -> Floats:
        """U in float64, [d]."""
        return self._u

    @property
    def projections(self) -> Floats:
        """s_i of every estimation sample so far, [n]."""
        return self._projections[: self._estimated]

    def add(self, stage: Stage, features: NDArray[np.float32]) -> list[Block | Mark]:
        """Take the next m unit features [m, d] of a stage.

        Returns:
            the blocks they filled and the checkpoints they reached, in that order of samples.
        """
        if stage is Stage.CLEAN:
            exact = unit_rows(features)
            if self._reference is None:
                self._reference = exact[0]
            self._bare = exact[-1]  # the last of them; the same where there is one
            return []
        if stage is Stage.SELECT:
            self._select(features)
            return []
        return self._estimate(features)

    def absorb(self, peak: float) -> None:
        """Take back the measured eigenvalue of the next block (called by one statistics worker)."""
        self._peaks.append(peak)

    def selection(self) -> Selection:
        """What was kept of the selection sample."""
        kept = np.concatenate(self._kept)
        rows = unit_rows(kept)
        orthogonal = orthogonal_parts(kept, self._u)
        return Selection(projections_on_others(self._sum, rows), orthogonal, self._selection)

    def evidence(self, mark: Mark, gram: Gram | None = None) -> Evidence:
        """The reduction at a checkpoint; its partly filled block is measured here.

        Args:
            mark: of this tally.
            gram: of the partly filled block, where somebody has it already: much of the work.
        """
        if self._reference is None or len(self._peaks) < mark.full_blocks:
            raise RuntimeError("evidence needs the clean feature and every full block's eigenvalue")
        n = mark.samples
        if mark.full_blocks == 0:
            spectrum: Floats | Gram | float = gram or orthogonal_parts(mark.rows, self._u)
        else:
            rest = 0.0
            if len(mark.rows):
                rest = top_upper(gram) if gram else measure(Block(mark.rows, self._u))
            spectrum = (sum(self._peaks[: mark.full_blocks]) + rest) / n
        return Evidence(
            embedding=self.embedding,
            thresholds=self._thresholds,
            projections=self._projections[:n],
            reference_cosines=self._cosines[:n],
            mean_norm=float(np.linalg.norm(mark.orthogonal_sum)) / n,
            spectrum=spectrum,
            selection=self._selection,
        )

    def _select(self, features: NDArray[np.float32]) -> None:
        # Summed one by one: the result must not depend on how samples were packed into batches.
        for feature in unit_rows(features):
            self._sum += feature
        if (room := min(_KEPT_ROWS, self._block) - self._kept_rows) > 0:
            self._kept.append(features[:room].copy())
            self._kept_rows += len(features[:room])
        self._selected += len(features)
        if self._selected == self._selection:
            self._fix_embedding()

    def _fix_embedding(self) -> None:
        mean = self._sum
        if np.linalg.norm(mean) == 0:
            mean = np.eye(1, len(mean))[0]  # all cancelled: any fixed direction is sound
        self._embedding = (mean / np.linalg.norm(mean)).astype(np.float32)
        # Certify exactly the direction that is served, float32 rounding included.
        served = self._embedding.astype(np.float64)
        self._u = served / np.linalg.norm(served)
        if self._estimation:
            self._thresholds = thresholds(self._sum, unit_rows(np.concatenate(self._kept)))
        else:
            self._kept.clear()

    def _estimate(self, features: NDArray[np.float32]) -> list[Block | Mark]:
        if self._embedding is None or self._reference is None:
            raise RuntimeError("estimation samples arrived before the selection was complete")
        exact = unit_rows(features)
        span = slice(self._estimated, self._estimated + len(features))
        projections = np.array([self._u @ feature for feature in exact])
        self._projections[span] = np.clip(projections, -1.0, 1.0)
        cosines = [self._reference @ feature for feature in exact]
        self._cosines[span] = np.clip(cosines, -1.0, 1.0)
        found: list[Block | Mark] = []
        for row, feature, projection in zip(features, exact, projections, strict=True):
            self._h_sum += feature - projection * self._u
            if self._open is None:
                rows = min(self._block, self._estimation)
                self._open = np.empty((rows, len(row)), np.float32)
            self._open[self._open_rows] = row
            self._open_rows += 1
            self._estimated += 1
            if self._open_rows == self._block < self._estimation:
                found.append(Block(self._open, self._u))
                self._full_blocks += 1
                self._open, self._open_rows = None, 0
            if self._estimated in self._checkpoints:
                found.append(self._mark())
        return found

    def _mark(self) -> Mark:
        rows = np.empty((0, len(self._u)), np.float32)
        if self._open is not None:
            rows = self._open[: self._open_rows]
        return Mark(self._estimated, self._h_sum.copy(), self._full_blocks, rows)
