"""The file of an audit log that is written, and the full ones before it.

    audit.jsonl.000001  audit.jsonl.000002  ...  audit.jsonl

A full file is given the next number and never touched again, so that a reader keeps what it opened.
One process writes; a second is refused.
"""

import errno
import fcntl
import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from service.audit.lines import Link, digest, is_record, parse
from service.errors import ConfigurationError

_MODE = 0o600
_NUMBER = "{}.{:06d}"
_BEGINNING = b'{"client":'  # the names of a line are sorted
MOST_TORN = 1000  # lines in a row that are no record: more is another file, not so many crashes
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class AuditFile:
    """Appends whole lines, or nothing; used by one thread at a time.

    Args:
        path: of the file that is written.
        most_bytes: a file that would grow over them is numbered first, unless it is empty.
        keep: numbered files; older ones are removed; 0 keeps all.
        fsync: before a line counts as written.

    Raises:
        ConfigurationError: it cannot be written, is no audit log, or another process writes to it.
    """

    def __init__(self, path: Path, most_bytes: int, keep: int, fsync: bool) -> None:
        self._path, self._most_bytes, self._keep, self._fsync = path, most_bytes, keep, fsync
        self._descriptor: int | None = None
        self._size = 0
        self._partial = False  # what was written of a line could not be taken back yet
        try:
            self._lock = _locked(path.with_name(f"{path.name}.lock"))
            self.end = _end(path)
            self._open()
        except OSError as error:
            raise ConfigurationError(
                f"the audit log {path} cannot be written: {error.strerror or error}"
            ) from error

    def append(self, lines: bytes, end: Link) -> None:
        """Write lines, all or none, and let the chain end there.

        Raises:
            OSError: nothing was written.
        """
        if self._descriptor is None:
            self._open()
        self._refuse_strange()
        self._take_back()
        if self._size and self._size + len(lines) > self._most_bytes:
            self._begin_next()
        self._write(lines)
        self.end = end

    def close(self) -> None:
        """Bring everything to the disk, and let another process write."""
        if self._descriptor is not None:
            with suppress(OSError):
                os.fsync(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None
        os.close(self._lock)

    def _open(self) -> None:
        """Open the file, and end a line that a crash cut off."""
        descriptor = os.open(self._path, _FLAGS, _MODE)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise OSError(errno.EINVAL, "it is no regular file")
            size = found.st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                size += os.write(descriptor, b"\n")
            _sync_folder(self._path.parent)
        except OSError:
            os.close(descriptor)
            raise
        self._descriptor, self._size, self._partial = descriptor, size, False

    def _refuse_strange(self) -> None:
        """What somebody else did to the file is not built upon: it is opened again next time."""
        ours = os.fstat(self._writing)
        try:
            there = self._path.stat()
            same = (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)
        except FileNotFoundError:
            same = False
        if not same or (ours.st_size != self._size and not self._partial):
            os.close(self._writing)
            self._descriptor = None
            raise OSError(errno.ESTALE, "somebody else changed, moved or removed the file")

    def _take_back(self) -> None:
        """What was written of a line and could not be taken back when that failed."""
        if self._partial:
            os.ftruncate(self._writing, self._size)
            self._partial = False

    def _write(self, lines: bytes) -> None:
        left = memoryview(lines)
        try:
            while left:
                left = left[os.write(self._writing, left) :]
            if self._fsync:
                os.fsync(self._writing)
        except OSError:
            self._partial = True
            with suppress(OSError):
                self._take_back()
            raise
        self._size += len(lines)

    def _begin_next(self) -> None:
        """Number the full file and begin another."""
        os.fsync(self._writing)
        numbers = [number for number, _ in numbered(self._path)]
        full = self._path.with_name(_NUMBER.format(self._path.name, max(numbers, default=0) + 1))
        self._path.rename(full)
        os.close(self._writing)
        self._descriptor = None  # where it cannot be opened, the next call tries again
        self._open()
        if self._keep:
            for _, old in numbered(self._path)[: -self._keep]:
                with suppress(OSError):  # tried again at the next file
                    old.unlink()

    @property
    def _writing(self) -> int:
        if self._descriptor is None:
            raise OSError(errno.EBADF, "the file is not open")
        return self._descriptor


def numbered(path: Path) -> list[tuple[int, Path]]:
    """The full files of a log, the oldest first."""
    name = re.compile(re.escape(path.name) + r"\.([0-9]{6,})")
    found = [(int(m[1]), one) for one in path.parent.iterdir() if (m := name.fullmatch(one.name))]
    return sorted(found)


def lines_of(path: Path) -> Iterator[bytes]:
    """The lines of a file as they are, each with its line feed; the last may lack it."""
    with path.open("rb") as stream:
        yield from stream


def _end(path: Path) -> Link:
    """Where the chain ends: in the file that is written, or in the one before it.

    Raises:
        ConfigurationError: the file is something else.
    """
    files = [one for _, one in numbered(path)] + ([path] if path.is_file() else [])
    torn: list[bytes] = []  # after the last record
    for file in reversed(files):
        sequence, last = 0, b""
        after: list[bytes] = []
        for line in lines_of(file):
            if is_record(line):
                sequence, last, after = parse(line).sequence, line, []
            else:
                after.append(line)
                if len(after) > MOST_TORN or not (sequence or is_begun(line)):
                    raise ConfigurationError(f"{file} is no audit log: nothing is appended to it")
        torn = after + torn
        if sequence:
            return Link(sequence, digest(b"".join([last, *torn])))
    return Link(0, digest(b"".join(torn)) if torn else None)


def is_begun(line: bytes) -> bool:
    """Whether it may be what a crash left of a record."""
    text = line.removesuffix(b"\n")
    return bool(text) and (_BEGINNING.startswith(text) or text.startswith(_BEGINNING))


def _locked(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, _MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise ConfigurationError(
            f"another process writes to the audit log {path.with_suffix('')}:"
            " each needs one of its own"
        ) from error
    return descriptor


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
