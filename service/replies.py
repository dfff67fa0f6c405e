"""What a batch brings to its jobs, and to the books: rows to tallies; samples, seconds counted."""

import time
from collections.abc import Sequence
from functools import partial

from service.device import Batch
from service.job import Work
from service.metrics import Metrics
from service.models.sampler import Sampled
from service.rate import Rate
from service.scheduler import Slice
from service.statistics import answer, fail


class Replies:
    """Of one engine; used by its device thread.

    Args:
        metrics: told of every batch.
        rate: told of every batch.
        lanes: among which the device's seconds are shared.
    """

    def __init__(self, metrics: Metrics, rate: Rate, lanes: int) -> None:
        self._metrics, self._rate, self._lanes = metrics, rate, lanes
        self._finished = 0.0  # when the last batch was counted, monotonic

    def begun(self, slices: Sequence[Slice[Work]]) -> None:
        """A batch is about to be launched: its new jobs wait no longer."""
        now = time.monotonic()
        for part in slices:
            job = part.job.job
            if job.started is None:
                job.started = now
                self._metrics.queue_seconds.observe(now - job.submitted)
                job.note("started", {"fcs.queue_s": now - job.submitted})

    def take(self, batch: Batch, sampled: Sampled) -> None:
        """Count a batch, then give each job its rows; what they complete goes to its statistics."""
        self._count(batch, sampled)  # first: who has an answer finds it in the metrics
        began = time.perf_counter()
        for index, error in sampled.spoiled:
            fail(batch.slices[index].job, error)
        seconds = (sampled.noise_s + sampled.encode_s) / self._lanes / batch.fill
        row = 0
        for part in batch.slices:
            rows = slice(row, row + part.count)
            work, row = part.job, rows.stop
            if work.abandoned:
                continue
            try:
                work.job.device_s += seconds * part.count
                self._tally(part, sampled, rows)
            except Exception as error:
                fail(work, error)
        self._metrics.phase_seconds.labels(phase="tally").inc(time.perf_counter() - began)
        for home in {part.job.homes[0] for part in batch.slices}:
            home.wait_for_room()

    def _tally(self, part: Slice[Work], sampled: Sampled, rows: slice) -> None:
        work = part.job
        tallied = work.attempt.add(
            part.stage,
            part.first,
            (sampled.features[rows], sampled.norms[rows]),
            partial(work.homes[0].found, work),
        )
        if work.job.progress is not None and tallied:
            work.job.progress(tallied)
        if not work.job.plan.certify and work.attempt.selected:
            answer(work, None, None)
        else:
            work.resume()  # it may have left the queues with too much under way

    def _count(self, batch: Batch, sampled: Sampled) -> None:
        metrics, now = self._metrics, time.monotonic()
        metrics.batch_samples.observe(batch.fill)
        metrics.batch_fill_ratio.set(batch.fill / batch.model.batch_size)
        metrics.phase_seconds.labels(phase="noise").inc(sampled.noise_s)
        metrics.phase_seconds.labels(phase="encode").inc(sampled.encode_s)
        metrics.device_seconds.inc((sampled.noise_s + sampled.encode_s) / self._lanes)
        for part in batch.slices:
            metrics.samples.labels(stage=part.stage.name.lower()).inc(part.count)
        self._rate.observe(batch.fill, now - max(batch.launched, self._finished))
        self._finished = now
