"""Jobs -> the next batch of sample slices: pure, outcome-blind, no torch, no clock, no threads.

jobs.py       what is known of a job; a slice of its samples
queue.py      the jobs of one model: who gets the room of a batch
scheduler.py  which model's turn it is; deadlines

The caller holds the lock and says what time it is. Nothing that the samples show influences an
order, so neither can the order influence what is certified.
"""

from service.scheduler.jobs import Schedulable, Slice
from service.scheduler.queue import FIRST_SLICE
from service.scheduler.scheduler import Scheduler

__all__ = ["FIRST_SLICE", "Schedulable", "Scheduler", "Slice"]
