"""What the tests of jobs, engines and fleets share."""

import time

import numpy as np

from service.job import Job
from tests.tiny import plan

WAIT = 20


def image(value=128):
    return np.full((3, 8, 8), value, np.uint8)


def job_of(model="tiny", value=128, seed=b"0123456789abcdef", **fields):
    return Job(
        model=model,
        image=fields.pop("image", image(value)),
        plan=fields.pop("plan", plan()),
        seed=seed,
        submitted=time.monotonic(),
        **fields,
    )


def result_of(fleet, job):
    fleet.submit([job])
    return job.future.result(WAIT)


def value_of(metrics, name, **labels):
    return metrics.registry.get_sample_value(name, labels)
