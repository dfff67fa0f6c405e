from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from service.scheduler import FIRST_SLICE, Scheduler
from service.types import Stage

CAPACITY = {"m": 16, "other": 4}


@dataclass(eq=False)
class FakeJob:
    """A job of one stage."""

    total: int
    model: str = "m"
    priority: int = 0
    abandoned: bool = False
    handed: int = 0
    ranges: list = field(default_factory=list)

    @property
    def remaining(self):
        return self.total - self.handed

    def take(self, limit):
        count = min(limit, self.remaining)
        if not count:
            return []
        part = (Stage.ESTIMATE, self.handed, count)
        self.handed += count
        return [part]


def scheduler_of(*jobs):
    scheduler = Scheduler()
    for job in jobs:
        scheduler.add(job)
    return scheduler


def run(scheduler):
    batches = []
    while batch := scheduler.next_batch(CAPACITY):
        batches.append(batch)
    return batches


def test_an_empty_queue_gives_an_empty_batch():
    assert Scheduler().next_batch(CAPACITY) == []


def test_a_lone_job_fills_every_batch_but_its_last():
    counts = [sum(s.count for s in batch) for batch in run(scheduler_of(FakeJob(100)))]
    assert counts == [16] * 6 + [4]


def test_samples_of_different_jobs_share_a_batch():
    batch = scheduler_of(FakeJob(5), FakeJob(5), FakeJob(20)).next_batch(CAPACITY)
    assert [s.count for s in batch] == [5, 5, 6]
    assert len({id(s.job) for s in batch}) == 3


def test_a_newcomer_goes_ahead_of_long_running_work():
    long = FakeJob(10_000)
    scheduler = scheduler_of(long)
    for _ in range(10):
        scheduler.next_batch(CAPACITY)
    short = FakeJob(32)
    scheduler.add(short)
    for _ in range(2):
        scheduler.next_batch(CAPACITY)
    assert short.remaining == 0


def test_running_jobs_take_turns():
    jobs = [FakeJob(1000) for _ in range(4)]
    scheduler = scheduler_of(*jobs)
    for _ in range(40):
        scheduler.next_batch(CAPACITY)
    handed = [job.handed for job in jobs]
    assert max(handed) - min(handed) <= FIRST_SLICE


def test_higher_priority_is_served_first():
    low, high = FakeJob(100), FakeJob(100, priority=1)
    scheduler = scheduler_of(low, high)
    for _ in range(6):
        scheduler.next_batch(CAPACITY)
    assert high.handed == 96
    assert low.handed == 0


def test_abandoned_jobs_vanish_at_the_next_batch():
    gone, stays = FakeJob(100), FakeJob(100)
    scheduler = scheduler_of(gone, stays)
    scheduler.next_batch(CAPACITY)
    gone.abandoned = True
    before = gone.handed
    run(scheduler)
    assert gone.handed == before
    assert stays.remaining == 0


def test_a_batch_is_of_one_model_and_within_its_capacity():
    batches = run(scheduler_of(FakeJob(20), FakeJob(20, model="other"), FakeJob(20)))
    for batch in batches:
        models = {s.job.model for s in batch}
        assert len(models) == 1
        assert sum(s.count for s in batch) <= CAPACITY[models.pop()]


@given(
    st.lists(
        st.tuples(st.integers(1, 300), st.sampled_from(["m", "other"]), st.integers(-1, 1)),
        max_size=12,
    ),
    st.lists(st.integers(0, 11), max_size=5),
)
def test_every_sample_is_handed_out_exactly_once_and_in_order(specs, arrivals):
    jobs = [FakeJob(total, model, priority) for total, model, priority in specs]
    late = {i for i in arrivals if i < len(jobs)}
    scheduler = scheduler_of(*(job for i, job in enumerate(jobs) if i not in late))
    waiting = [jobs[i] for i in sorted(late)]
    while True:
        batch = scheduler.next_batch(CAPACITY)
        for part in batch:
            part.job.ranges.append((part.first, part.count))
        if waiting:
            scheduler.add(waiting.pop())
        elif not batch:
            break
    for job in jobs:
        assert job.remaining == 0
        position = 0
        for first, count in job.ranges:
            assert first == position
            position += count
        assert position == job.total


def test_a_job_without_samples_to_hand_out_leaves_and_is_resumed_behind_the_others():
    paused, other = FakeJob(8), FakeJob(100)
    scheduler = scheduler_of(paused, other)
    scheduler.next_batch(CAPACITY)
    assert paused.remaining == 0
    paused.total = 24
    assert all(part.job is other for part in scheduler.next_batch(CAPACITY))
    scheduler.resume(paused)
    run(scheduler)
    assert (paused.handed, other.handed) == (24, 100)
