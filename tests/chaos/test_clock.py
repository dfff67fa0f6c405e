"""The clock of the machine jumps, as after a correction: nothing that is timed goes by it."""

import time
from pathlib import Path

import pytest

from tests.chaos.conftest import audited

pytestmark = pytest.mark.chaos
LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
JUMPS = ["+1h", "-2d", "+30d", "+0"]


def test_clock_jumps_under_load(victims, report, tmp_path):
    assert LIBRARIES, "needs libfaketime: apt-get install libfaketime"
    said = tmp_path / "time"
    said.write_text("+0")
    victim = victims(
        LD_PRELOAD=str(LIBRARIES[0]),
        FAKETIME_TIMESTAMP_FILE=str(said),
        FAKETIME_NO_CACHE="1",
        DONT_FAKE_MONOTONIC="1",
        FAKETIME_DONT_FAKE_MONOTONIC="1",
    )
    load = victim.load().start()
    load.wait_for("answered", 4)
    for jump in JUMPS:
        said.write_text(jump)
        time.sleep(1)
        load.wait_for("answered", 8)
    ended = load.stop()
    assert load.kinds()["answered"] == len(ended), ended
    victim.at_rest()
    audited(victim, ended)
    days = {line[8:18] for line in dates(victim)}
    assert len(days) >= 3, days  # the jumps were seen
    report(load, jumps=" ".join(JUMPS))


def dates(victim):
    """When each record was made, by the clock that jumped."""
    import json

    for line in victim.audit.read_text().splitlines():
        yield "time:   " + str(json.loads(line)["time"])
