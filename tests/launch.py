"""Processes that begin with torch and the service's modules imported, which is most of a start.

Each is forked from a server of forks that has imported them and done nothing else, and then runs
as `python -m MODULE` does: arguments, environment, output and status are its own.
"""

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

_IMPORTED = (
    "torch",
    "accelerate",
    "service.cli.app",
    "service.core",
    "service.models.answerer.answerer",
    "service.models.families",
    "service.models.mobilenet",
    "service.models.text",
    "service.training.runs",
)
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload([*_IMPORTED, __name__])


class Launched:
    """As `subprocess.Popen([python, "-m", module, *arguments], text=True)`.

    Args:
        out: file or pipe for what it writes.
        err: the same for errors; may be `out`.
    """

    def __init__(self, module, arguments, environment, out, err):
        self._process = _forks.Process(
            target=_become, args=(module, arguments, environment, str(out), str(err))
        )
        self._process.start()
        self.pid, self.args, self.stdout = self._process.pid, arguments, None

    @property
    def returncode(self):
        return self.poll()

    def poll(self):
        return self._process.exitcode

    def wait(self, timeout=None):
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self._process.exitcode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self):
        self._process.terminate()

    def kill(self):
        self._process.kill()


def start(module, arguments, environment):
    """A process that goes on; what it writes, errors too, is read from its `stdout`."""
    with tempfile.TemporaryDirectory() as folder:
        pipe = Path(folder, "out")
        os.mkfifo(pipe)
        launched = Launched(module, arguments, environment, pipe, pipe)
        launched.stdout = pipe.open()
    return launched


def run(module, arguments, environment, timeout):
    """As `subprocess.run([python, "-m", module, *arguments], capture_output=True, text=True)`."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        launched = Launched(module, arguments, environment, out, err)
        try:
            code = launched.wait(timeout)
        finally:
            launched.kill()
        return subprocess.CompletedProcess(arguments, code, out.read_text(), err.read_text())


def fcs(*arguments, timeout=600, **environment):
    """A command of `fcs`, to its end."""
    return run("service", [*map(str, arguments)], {**os.environ, **environment}, timeout)


def _become(module, arguments, environment, out, err):
    os.environ.clear()
    os.environ.update(environment)
    with Path(out).open("wb") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        if err == out:
            os.dup2(file.fileno(), sys.stderr.fileno())
    if err != out:
        with Path(err).open("wb") as file:
            os.dup2(file.fileno(), sys.stderr.fileno())
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # which a fork leaves out
