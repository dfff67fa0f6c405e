"""The disk of the audit log is full: no certificate leaves that is not on record."""

import subprocess
from contextlib import suppress

import pytest

from service.audit.reading import check
from tests.chaos.conftest import audited

pytestmark = pytest.mark.chaos


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, of 2 MiB (needs the right to mount one)."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_full_disk_under_load(victims, report, small_disk):
    log = small_disk / "audit.jsonl"
    victim = victims(FCS_AUDIT_LOG=str(log))
    victim.audit = log
    load = victim.load().start()
    load.wait_for("answered", 4)
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as stream, suppress(OSError):
        while True:
            stream.write(bytes(4096))
    load.wait_for("refused", 8)
    victim.wait(lambda: not victim.ready())
    on_record = check(log, {victim.public_key})  # no half a line is left either
    filler.unlink()
    victim.wait(victim.ready)  # by itself
    load.wait_for("answered", 4)
    ended = load.stop()
    assert load.kinds()["broken"] == 0, ended
    victim.at_rest()
    audited(victim, ended)
    assert victim.value("fcs_audit_failures_total") >= 1
    report(load, on_record_when_full=on_record.records)
