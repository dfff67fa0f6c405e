"""`fcs` with a device that fails on command: `python -m tests.faulty serve ...`.

The file named by the variable FAULT says how, and may change while the service runs:

    (absent)   nothing fails
    oom N      calls of more than N samples are out of memory
    die        the device thread dies, once
    stick      device calls do not return until the file says otherwise

Whatever it says, a batch with a picture that is all (255, 0, 0) fails.
"""

import os
import time
from pathlib import Path

from service.cli.app import main
from service.models.sampler import HostSampler
from service.scheduler import Scheduler

POISON = (255, 0, 0)
_file = Path(os.environ.get("FAULT", "absent"))


def said():
    try:
        return _file.read_text().split() or [""]
    except FileNotFoundError:
        return [""]


def faulty_call(self, draws, call=HostSampler.__call__):
    for draw in draws:
        if tuple(draw.image[:, 0, 0]) == POISON and draw.image[0].min() == 255:
            raise RuntimeError("poisoned")
    match said():
        case ["oom", rows] if self._model.batch_size > int(rows):
            raise MemoryError
        case ["stick"]:
            while said() == ["stick"]:
                time.sleep(0.02)
    return call(self, draws)


def faulty_batch(self, now, next_batch=Scheduler.next_batch):
    if said() == ["die"]:
        _file.unlink()
        raise SystemError("the device is gone")
    return next_batch(self, now)


if __name__ == "__main__":
    HostSampler.__call__ = faulty_call
    Scheduler.next_batch = faulty_batch
    main()
