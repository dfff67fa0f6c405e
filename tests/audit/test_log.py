"""The audit log as the core sees it: what could not be written is told of when it can be again."""

import asyncio
import errno

import pytest

from service.audit import log
from service.audit.lines import Entry
from service.audit.log import AuditLog
from service.audit.reading import check
from service.errors import ServiceError
from service.metrics import Metrics
from tests.audit.sample import opened
from tests.receipts.sample import SIGNER


def test_records_that_are_missing_are_told_although_one_in_work_succeeds_first(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(log, "_RETRY_S", 0.05)
    path, entries = tmp_path / "audit.jsonl", [Entry("answer", 0, None, {"answer": "x"})]

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    async def scenario():
        file = opened(path)
        audit = AuditLog(file, SIGNER, Metrics("test"))
        with monkeypatch.context() as disk:
            disk.setattr(file, "append", full)
            for _ in range(3):
                with pytest.raises(ServiceError, match="No space left"):
                    await audit.record(entries)
        await audit.record(entries)
        while audit.fault is not None:
            await asyncio.sleep(0.01)
        await audit.close()

    asyncio.run(asyncio.wait_for(scenario(), 5))
    assert check(path).missed == 3
