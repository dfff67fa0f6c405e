import itertools
import math
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.scheduler import FIRST_SLICE, Scheduler
from service.types import Stage

CAPACITIES = {"m": 16, "other": 4}
QUANTUM = 2  # of "m"


@dataclass(eq=False)
class FakeJob:
    """A job of one stage, which hands out no more than `released` samples."""

    total: int
    model: str = "m"
    priority: int = 0
    deadline: float = math.inf
    abandoned: bool = False
    released: float = math.inf
    handed: int = 0
    ranges: list = field(default_factory=list)

    @property
    def remaining(self):
        return min(self.total, self.released) - self.handed

    def take(self, limit):
        count = min(limit, self.remaining)
        part = (Stage.ESTIMATE, self.handed, count)
        self.handed += count
        return [part]


def scheduler_of(*jobs, capacities=CAPACITIES):
    scheduler = Scheduler(capacities)
    for job in jobs:
        scheduler.add(job)
    return scheduler


def run(scheduler, now=0.0):
    batches = []
    while batch := scheduler.next_batch(now):
        batches.append(batch)
    return batches


def size(batch):
    return sum(part.count for part in batch)


def test_an_empty_queue_gives_an_empty_batch():
    assert Scheduler(CAPACITIES).next_batch(0) == []


def test_a_lone_job_fills_every_batch_but_its_last():
    assert [size(batch) for batch in run(scheduler_of(FakeJob(100)))] == [16] * 6 + [4]


def test_samples_of_different_jobs_share_a_batch():
    batch = scheduler_of(FakeJob(5), FakeJob(5), FakeJob(20)).next_batch(0)
    assert [part.count for part in batch] == [5, 5, 6]
    assert len({part.job for part in batch}) == 3


def test_contiguous_samples_of_a_job_are_one_slice():
    batch = scheduler_of(FakeJob(100), FakeJob(100), capacities={"m": 256}).next_batch(0)
    assert [(part.first, part.count) for part in batch] == [(0, 100), (0, 100)]


def test_stages_are_slices_of_their_own():
    class Staged(FakeJob):
        def take(self, limit):
            [(_, first, count)] = super().take(limit)
            stages = [
                Stage.SELECT if i < 5 else Stage.ESTIMATE for i in range(first, first + count)
            ]
            return [(stage, first + i, 1) for i, stage in enumerate(stages)]

    batch = scheduler_of(Staged(16)).next_batch(0)
    assert [(part.stage, part.first, part.count) for part in batch] == [
        (Stage.SELECT, 0, 5),
        (Stage.ESTIMATE, 5, 11),
    ]


def test_newcomers_get_their_first_slices_in_order_of_arrival():
    jobs = [FakeJob(FIRST_SLICE) for _ in range(3)]
    order = [part.job for batch in run(scheduler_of(*jobs)) for part in batch]
    assert order == sorted(order, key=jobs.index)


def test_a_turn_cut_short_by_a_full_batch_goes_on_in_the_next():
    first, second = FakeJob(1000), FakeJob(1000)
    scheduler = Scheduler({"m": 40})  # a quantum of 5, and 5 guaranteed
    for job in (first, second):
        scheduler.resume(job)
    scheduler.add(FakeJob(32))
    scheduler.next_batch(0)
    assert (first.handed, second.handed) == (5, 3)
    scheduler.add(FakeJob(33))
    scheduler.next_batch(0)
    assert (first.handed, second.handed) == (5 + 5, 3 + 2)


def test_a_job_that_leaves_the_queue_loses_the_rest_of_its_turn():
    held, other = FakeJob(1000, released=2), FakeJob(1000)
    scheduler = Scheduler({"m": 40})  # a quantum of 5
    scheduler.resume(held)
    scheduler.resume(other)
    scheduler.next_batch(0)
    assert (held.handed, other.handed) == (2, 38)
    held.released = 1000
    scheduler.resume(held)
    scheduler.next_batch(0)  # `other` ends its turn, then both take turns
    assert (held.handed, other.handed) == (2 + 20, 38 + 20)


def test_resume_does_nothing_to_a_queued_job():
    job, other = FakeJob(1000), FakeJob(1000)
    scheduler = scheduler_of(job, other)
    for _ in range(20):
        scheduler.next_batch(0)
        scheduler.resume(job)
    assert len(scheduler) == 2
    assert abs(job.handed - other.handed) <= FIRST_SLICE + QUANTUM


def test_a_job_without_samples_to_hand_out_leaves_and_is_resumed_behind_the_others():
    paused, other = FakeJob(24, released=8), FakeJob(100)
    scheduler = scheduler_of(paused, other)
    scheduler.next_batch(0)
    assert len(scheduler) == 1
    paused.released = 24
    assert all(part.job is other for part in scheduler.next_batch(0))
    scheduler.resume(paused)
    run(scheduler)
    assert (paused.handed, other.handed) == (24, 100)


def test_a_job_that_starts_over_is_added_anew():
    job, other = FakeJob(40), FakeJob(40)
    scheduler = scheduler_of(job, other)
    scheduler.next_batch(0)
    job.handed = 0
    scheduler.add(job)
    assert len(scheduler) == 2
    scheduler.next_batch(0)
    assert (job.handed, other.handed) == (0, 16)
    assert sum(size(batch) for batch in run(scheduler)) == 40 + 24


def test_a_removed_job_gets_no_more():
    gone, stays = FakeJob(100), FakeJob(100)
    scheduler = scheduler_of(gone, stays)
    scheduler.remove(gone)
    assert len(scheduler) == 1
    run(scheduler)
    assert (gone.handed, stays.handed) == (0, 100)
    scheduler.remove(gone)


def test_a_newcomer_goes_ahead_of_long_running_work():
    """What the first slice is for: seven eighths of every batch until it is through."""
    scheduler = scheduler_of(*(FakeJob(10_000) for _ in range(4)))
    for _ in range(40):
        scheduler.next_batch(0)
    short = FakeJob(FIRST_SLICE)
    scheduler.add(short)
    for _ in range(math.ceil(FIRST_SLICE / (16 * 7 / 8))):
        scheduler.next_batch(0)
    assert short.remaining == 0


@pytest.mark.parametrize("capacity", [1, 16, 256])
def test_newcomers_that_keep_coming_leave_running_work_an_eighth(capacity):
    long = FakeJob(10_000)
    scheduler = Scheduler({"m": capacity})
    scheduler.resume(long)
    batches = 80
    for _ in range(batches):
        for _ in range(-(-capacity // 32)):
            scheduler.add(FakeJob(32))
        assert size(scheduler.next_batch(0)) == capacity
    assert long.handed == batches * capacity // 8


@given(
    st.integers(2, 6),
    st.lists(st.integers(0, 100), max_size=30),
    st.sampled_from([1, 16, 100]),
)
def test_running_jobs_of_one_priority_never_differ_by_more_than_a_turn(
    running, newcomers, capacity
):
    jobs = [FakeJob(10_000) for _ in range(running)]
    scheduler = Scheduler({"m": capacity})
    for job in jobs:
        scheduler.resume(job)
    for newcomer in [*newcomers, *[0] * 10]:
        if newcomer:
            scheduler.add(FakeJob(min(newcomer, FIRST_SLICE)))
        scheduler.next_batch(0)
        handed = [job.handed for job in jobs]
        assert max(handed) - min(handed) <= max(1, capacity // 8)


def test_jobs_that_arrive_together_soon_have_had_the_same():
    jobs = [FakeJob(10_000) for _ in range(5)]
    scheduler = scheduler_of(*jobs)
    for _ in range(200):
        scheduler.next_batch(0)
    handed = [job.handed for job in jobs]
    assert max(handed) - min(handed) <= FIRST_SLICE + QUANTUM


def test_a_higher_priority_gets_all_but_the_guaranteed_share():
    low, high = FakeJob(1000), FakeJob(1000, priority=1)
    scheduler = scheduler_of(low, high)
    for _ in range(8):
        scheduler.next_batch(0)
    assert (high.handed, low.handed) == (7 * 16, 16)


def test_the_guaranteed_share_goes_round_the_tiers_behind():
    high, *behind = [FakeJob(1000, priority=priority) for priority in (3, 2, 1, 0)]
    scheduler = scheduler_of(high, *behind)
    for _ in range(30):
        scheduler.next_batch(0)
    assert [job.handed for job in behind] == [20, 20, 20]


def test_scraps_that_a_first_tier_leaves_do_not_count_as_the_guaranteed_share():
    scraps, last = FakeJob(10_000, priority=1), FakeJob(10_000)
    scheduler = scheduler_of(scraps, last)
    for _ in range(40):  # 2 are guaranteed, 1 is left over
        scheduler.add(FakeJob(13, priority=2))
        scheduler.next_batch(0)
    assert (scraps.handed, last.handed) == (40 + 40, 40)


def test_with_room_for_one_sample_every_eighth_is_for_those_behind():
    low, high = FakeJob(10), FakeJob(1000, priority=1)
    scheduler = scheduler_of(low, high, capacities={"m": 1})
    for _ in range(80):
        assert size(scheduler.next_batch(0)) == 1
    assert (high.handed, low.handed) == (70, 10)


def test_models_of_one_priority_take_turns():
    scheduler = scheduler_of(FakeJob(1000), FakeJob(1000, model="other"))
    served = [scheduler.next_batch(0)[0].job.model for _ in range(20)]
    assert all(a != b for a, b in itertools.pairwise(served))


def test_a_model_that_was_idle_has_not_waited():
    capacities = {"a": 1, "b": 1, "idle": 1}
    scheduler = scheduler_of(FakeJob(9, "a"), FakeJob(9, "b"), capacities=capacities)
    for _ in range(4):
        scheduler.next_batch(0)
    scheduler.add(FakeJob(9, "idle"))
    served = [scheduler.next_batch(0)[0].job.model for _ in range(4)]
    assert served == ["a", "b", "idle", "a"]


def test_newcomers_of_one_model_do_not_starve_running_work_of_another():
    long = FakeJob(1000, model="other")
    scheduler = Scheduler(CAPACITIES)
    scheduler.resume(long)
    for _ in range(20):
        scheduler.add(FakeJob(32))
        scheduler.next_batch(0)
    assert long.handed == 10 * CAPACITIES["other"]


def test_a_model_with_lower_priorities_only_gets_every_eighth_batch():
    low = FakeJob(1000, model="other")
    scheduler = scheduler_of(low, FakeJob(10_000, priority=1))
    for _ in range(80):
        scheduler.next_batch(0)
    assert low.handed == 10 * CAPACITIES["other"]


def test_abandoned_jobs_vanish_at_the_next_batch():
    gone, stays = FakeJob(100), FakeJob(100)
    scheduler = scheduler_of(gone, stays)
    scheduler.next_batch(0)
    gone.abandoned = True
    before = gone.handed
    run(scheduler)
    assert gone.handed == before
    assert stays.remaining == 0
    assert len(scheduler) == 0


def test_late_jobs_get_no_samples_and_are_returned_once():
    late, stays, gone = (
        FakeJob(100, deadline=5),
        FakeJob(20, deadline=6),
        FakeJob(100, deadline=5, abandoned=True),
    )
    scheduler = scheduler_of(late, stays, gone)
    assert scheduler.expired(4.9) == []
    assert {part.job for part in scheduler.next_batch(5)} == {stays}
    assert scheduler.expired(5) == [late]
    assert scheduler.expired(5) == []
    assert len(scheduler) == 1


def test_a_deadline_buys_no_rank():
    patient, hasty = FakeJob(16), FakeJob(16, deadline=1)
    assert {part.job for part in scheduler_of(patient, hasty).next_batch(0)} == {patient}


def test_a_resized_model_has_batches_of_the_new_size():
    scheduler = scheduler_of(FakeJob(100))
    scheduler.next_batch(0)
    scheduler.resize("m", 3)
    assert size(scheduler.next_batch(0)) == 3


def test_ready_counts_what_may_be_handed_out_up_to_a_batch():
    gone, other = FakeJob(9, abandoned=True), FakeJob(3, model="other")
    scheduler = scheduler_of(FakeJob(100, released=5), gone, other)
    assert (scheduler.ready("m"), scheduler.ready("other")) == (5, 3)
    scheduler.add(FakeJob(100))
    assert scheduler.ready("m") == 16


JOBS = st.builds(
    dict,
    total=st.integers(1, 300),
    model=st.sampled_from(["m", "other"]),
    priority=st.integers(-1, 1),
    arrives=st.integers(0, 30),
    leaves=st.one_of(st.none(), st.integers(0, 60)),
    deadline=st.one_of(st.just(math.inf), st.integers(1, 60)),
    checkpoint=st.one_of(st.none(), st.integers(1, 40)),
)


@given(
    st.lists(JOBS, max_size=12),
    st.fixed_dictionaries({"m": st.sampled_from([1, 2, 7, 16, 256]), "other": st.integers(1, 9)}),
    st.integers(0, 2**32),
)
def test_whatever_happens_batches_are_full_and_samples_handed_out_once_and_in_order(
    specs, capacities, seed
):
    """Arrivals, cancellations, deadlines, and jobs held at checkpoints, in random interleavings."""
    chance = random.Random(seed)
    scheduler = Scheduler(capacities)
    jobs, events = [], {}
    for spec in specs:
        job = FakeJob(spec["total"], spec["model"], spec["priority"], spec["deadline"])
        job.checkpoint = spec["checkpoint"]
        job.released = job.checkpoint or math.inf
        jobs.append(job)
        events.setdefault(spec["arrives"], []).append(job)
        job.leaves = spec["leaves"]
    queued, held, told = set(), set(), []
    for now in range(8000):
        for job in events.pop(now, ()):
            scheduler.add(job)
            queued.add(job)
        for job in jobs:
            job.abandoned |= job.leaves is not None and now >= job.leaves
        for job in sorted(held, key=jobs.index):
            if chance.random() < 0.5:
                held.discard(job)
                job.released += job.checkpoint
                scheduler.resume(job)
                scheduler.resume(job)
                queued.add(job)
        told += scheduler.expired(now)
        queued = {j for j in queued if not j.abandoned and now < j.deadline}
        waiting = dict.fromkeys(capacities, 0)
        for job in queued:
            waiting[job.model] += job.remaining
        batch = scheduler.next_batch(now)
        assert bool(batch) == any(waiting.values())
        if batch:
            [model] = {part.job.model for part in batch}
            assert size(batch) == min(waiting[model], capacities[model])
        for part in batch:
            assert part.job in queued
            part.job.ranges.append((part.first, part.count))
        for job in [job for job in queued if not job.remaining]:
            queued.discard(job)
            if job.handed < job.total:
                held.add(job)
        if not (events or queued or held):
            break
    else:
        raise AssertionError("work was left")
    for job in jobs:
        position = 0
        for first, count in job.ranges:
            assert first == position
            position += count
        assert position == job.handed
        assert told.count(job) <= 1
        assert job.handed == job.total or job.abandoned or job.deadline < math.inf
    assert not any(job.handed == job.total for job in told)
    assert len(scheduler) == 0


def longest_wait(jobs, tiers, capacity):
    """Batches of its model within which a queued job gets a sample, if at most `jobs` are queued.

    Ahead of it in its tier stand fewer turns than there are jobs, and its tier gets its share of a
    batch, at least one sample, once all the others had theirs.
    """
    ahead = (jobs - 1) * max(FIRST_SLICE, capacity // 8)
    share = max(1, capacity // 8)
    batches_of_a_share = math.ceil(8 / capacity)
    return (ahead // share + 1) * tiers * batches_of_a_share


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(st.integers(-1, 1), st.integers(1, 300), st.integers(0, 50)),
        min_size=1,
        max_size=3,
    ),
    st.sampled_from([3, 8, 64]),
    st.integers(0, 2**32),
)
def test_nobody_starves_whatever_keeps_coming(specs, capacity, seed):
    chance = random.Random(seed)
    scheduler = Scheduler({"m": capacity})
    victims = [FakeJob(total, priority=priority) for priority, total, _ in specs]
    arrivals = {victim: spec[2] for victim, spec in zip(victims, specs, strict=True)}
    others = []
    flood = 3
    bound = longest_wait(len(victims) + flood, 6, capacity)
    waited = dict.fromkeys(victims, 0)
    for number in range(bound + 50):
        for victim in victims:
            if arrivals[victim] == number:
                scheduler.add(victim)
        others = [job for job in others if job.remaining]
        while len(others) < flood:
            others.append(FakeJob(chance.choice([1, 32, 10_000]), priority=1))
            scheduler.add(others[-1])
        served = {part.job for part in scheduler.next_batch(0)}
        for victim in victims:
            if victim in served or number < arrivals[victim] or not victim.remaining:
                waited[victim] = 0
            else:
                waited[victim] += 1
                assert waited[victim] <= bound
    assert all(victim.handed for victim in victims)


@given(st.integers(2, 5), st.integers(0, 2**32))
def test_no_model_waits_for_more_than_eight_batches_of_each(models, seed):
    chance = random.Random(seed)
    names = [str(i) for i in range(models)]
    scheduler = Scheduler(dict.fromkeys(names, 4))
    for name in names:
        scheduler.add(FakeJob(10_000, name))
    waited = dict.fromkeys(names, 0)
    for _ in range(200):
        for _ in range(chance.randrange(3)):
            scheduler.add(FakeJob(4, chance.choice(names[1:]), chance.choice([1, 2])))
        served = scheduler.next_batch(0)[0].job.model
        waited = {name: 0 if name == served else batches + 1 for name, batches in waited.items()}
        assert max(waited.values()) < 8 * models
