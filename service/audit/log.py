"""What is answered is on record first: the audit log as the core and the probes see it.

A certificate that cannot be recorded is not issued. Meanwhile readiness is off, and the log tries
by itself, every second, to write a line that says so; when that works, so does the service.
"""

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime

from service import caller, usage
from service.audit import lines
from service.audit.files import AuditFile
from service.audit.lines import Entry, Origin
from service.config import Settings
from service.errors import unavailable
from service.metrics import Metrics
from service.receipts.signing import Signer

_log = logging.getLogger(__name__)
_WRITE_S = 10.0  # longest wait for a record
_RETRY_S = 1.0
_CLOSE_S = 5.0
_NOBODY = Origin(None, None, None)


class AuditLog:
    """One process's; used on one event loop, written by a thread of its own.

    Args:
        file: that is written.
        signer: of its lines, as of the receipts in them.
        metrics: told of every record.
    """

    def __init__(self, file: AuditFile, signer: Signer, metrics: Metrics) -> None:
        self._file, self._signer, self._metrics = file, signer, metrics
        self._thread = ThreadPoolExecutor(1, "fcs-audit")
        self._fault: str | None = None
        self._missed = 0  # records since it failed
        self._retrying: asyncio.Task[None] | None = None

    @property
    def fault(self) -> str | None:
        """Why no certificate can be issued; None while they can."""
        return self._fault

    async def record(self, entries: Sequence[Entry]) -> None:
        """Put on record what the present request is answered, all or none.

        Raises:
            ServiceError: unavailable: it is not on record, and must not be answered.
        """
        if not entries:
            return
        asking, used = caller.present(), usage.present()
        origin = Origin(
            None if asking is None else asking.request_id,
            None if asking is None else asking.client,
            None if used is None else used.route(),
        )
        loop = asyncio.get_running_loop()
        writing = loop.run_in_executor(self._thread, self._write, origin, entries)
        try:
            await asyncio.wait_for(asyncio.shield(writing), _WRITE_S)
        except TimeoutError as error:
            writing.add_done_callback(_seen)
            self._failed("a write has not returned", len(entries))
            raise _refusal("a write has not returned") from error
        except OSError as error:
            reason = error.strerror or type(error).__name__
            self._failed(reason, len(entries))
            raise _refusal(reason) from error
        except asyncio.CancelledError:
            writing.add_done_callback(_seen)
            raise
        # Where it had failed, the line that says what is missing comes first, within a second.

    async def close(self) -> bool:
        """Bring everything to the disk; bounded. Whether that came to its end."""
        if self._retrying is not None:
            self._retrying.cancel()
        closing = asyncio.get_running_loop().run_in_executor(self._thread, self._file.close)
        with suppress(TimeoutError, OSError):
            await asyncio.wait_for(asyncio.shield(closing), _CLOSE_S)
        self._thread.shutdown(wait=False, cancel_futures=True)
        return closing.done()

    def _write(self, origin: Origin, entries: Sequence[Entry]) -> None:
        """On the log's own thread."""
        when, end, written = datetime.now(UTC), self._file.end, b""
        for entry in entries:
            line, end = lines.write(entry, origin, when, end, self._signer)
            written += line
        self._file.append(written, end)
        self._metrics.audit_records.inc(len(entries))

    def _failed(self, reason: str, count: int) -> None:
        self._metrics.audit_failures.inc(count)
        self._missed += count
        if self._fault is None:
            _log.error("the audit log cannot be written (%s): no certificate is issued", reason)
        self._fault = f"the audit log cannot be written: {reason}"
        if self._retrying is None or self._retrying.done():
            self._retrying = asyncio.create_task(self._until_well())

    async def _until_well(self) -> None:
        """Nobody asks for certificates while readiness is off: find out without them."""
        loop = asyncio.get_running_loop()
        while self._fault is not None:
            await asyncio.sleep(_RETRY_S)
            missed = self._missed
            resumed = Entry("resumed", 0, None, {"missed": missed})
            with suppress(OSError):
                await loop.run_in_executor(self._thread, self._write, _NOBODY, [resumed])
                self._resumed(missed)

    def _resumed(self, told: int) -> None:
        """So many missing records were told of; those that failed meanwhile want another line."""
        _log.warning("the audit log is written again; %d records are missing", told)
        self._missed -= told
        if not self._missed:
            self._fault = None


def open_log(settings: Settings, signer: Signer, metrics: Metrics) -> AuditLog | None:
    """The log that is asked for, if one is.

    Raises:
        ConfigurationError: it cannot be written, or another process writes to it.
    """
    s = settings
    if s.audit_log is None:
        return None
    file = AuditFile(s.audit_log, s.audit_max_bytes, s.audit_files, s.audit_fsync)
    return AuditLog(file, signer, metrics)


def _refusal(reason: str) -> Exception:
    return unavailable(
        f"the certificate could not be recorded in the audit log ({reason}), so it is not issued"
    )


def _seen(writing: "asyncio.Future[None]") -> None:
    """Nobody waits for it any more; its failure will be the next one's too."""
    if not writing.cancelled():
        writing.exception()
