"""The operator's socket: a file that nobody else may open, for as long as the process lives.

Where it cannot be made the service runs without, unless the settings name the place.
"""

import asyncio
import logging
import os
import socket
import stat
from pathlib import Path

from service.config import default_control_socket
from service.core import Core
from service.errors import ConfigurationError
from service.rest.control import create_control
from service.rest.listener import Listener

_log = logging.getLogger(__name__)
_GRACE_S = 1.0
_BACKLOG = 16


class ControlServer:
    """Serves `service.rest.control` on a Unix socket.

    Args:
        core: what is controlled.
        port: of the REST door, which names the socket unless the settings do.
    """

    def __init__(self, core: Core, port: int) -> None:
        self._core = core
        self._path = core.settings.control_socket or default_control_socket(port)
        self._listener: Listener | None = None
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigurationError: not at the place that the settings name.
        """
        try:
            bound = _bind(self._path)
        except OSError as error:
            message = f"no control socket at {self._path}: {error}"
            if self._core.settings.control_socket is not None:
                raise ConfigurationError(message) from error
            _log.warning("%s; models cannot be activated while this runs", message)
            return
        settings = self._core.settings
        self._listener = Listener(create_control(self._core), bound, settings, _GRACE_S)
        self._serving = asyncio.create_task(self._listener.run_here())

    async def stop(self) -> None:
        """Listen no more, and leave no file."""
        if self._serving is None or self._listener is None:
            return
        self._listener.should_exit = True
        await self._serving
        self._path.unlink(missing_ok=True)


def _bind(path: Path) -> socket.socket:
    """A listening socket that only this user can open.

    Raises:
        OSError: the folder is another's or others may write to it, or somebody listens there.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = path.parent.stat()
    if folder.st_uid != os.geteuid() or folder.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"{path.parent} is not this user's alone to write")
    _clear(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _clear(path: Path) -> None:
    """Take away what a process left that was killed; never what one listens on, nor a file."""
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
        else:
            raise FileExistsError("another process listens there")
