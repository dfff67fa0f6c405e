"""Several processes at one table: each does its share of the pictures, one thread each."""

import multiprocessing
import os
import threading
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

from service.config import Settings
from service.errors import ConfigurationError
from service.evaluation.robustness.config import Config


def end_with_parent() -> None:
    """End this worker as soon as the process that started it has ended, however that was."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


Work = Callable[[Settings, Config, Path, int, int], None]
_TICK = 2.0


def share_out(
    work: Work,
    settings: Settings,
    config: Config,
    folder: Path,
    workers: int,
    tick: Callable[[], None],
) -> None:
    """Run `work(settings, config, folder, share, of)` in so many processes, to the end of all.

    Args:
        work: importable by name.
        settings: handed on.
        config: handed on.
        folder: handed on.
        workers: processes.
        tick: called every other second.

    Raises:
        ConfigurationError: one ended before it was done; what it said is on the terminal.
    """
    # Not forked: threads of torch do not survive it.
    context = multiprocessing.get_context("spawn")
    processes: list[BaseProcess] = [
        context.Process(target=work, args=(settings, config, folder, share, workers), daemon=True)
        for share in range(workers)
    ]
    # Before their first import, or a pool of threads for every process is made.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for process in processes:
        process.start()
    try:
        while any(process.is_alive() for process in processes):
            for process in processes:
                process.join(_TICK / workers)
            tick()
            if any(process.exitcode for process in processes):
                break
        failed = [process.exitcode for process in processes if process.exitcode]
    finally:
        for process in processes:
            process.terminate()
            process.join()
    if failed:
        raise ConfigurationError(
            f"a worker ended with {failed[0]}; what it said is above, what is done is kept, and the"
            " same command goes on"
        )
