"""The device runs out of memory, dies, and gets stuck, one after the other, under load."""

import time

import pytest

from tests.chaos.conftest import audited

pytestmark = pytest.mark.chaos


def test_device_faults_under_load(victims, report, tmp_path):
    fault = tmp_path / "fault"
    victim = victims(module="tests.faulty", FAULT=str(fault), FCS_DEVICE_TIMEOUT_MS="1500")
    load = victim.load(clients=6).start()
    load.wait_for("answered", 6)
    fault.write_text("oom 3")
    load.wait_for("answered", 12)
    assert load.kinds()["answered"] == len(load.ended), load.ended  # it costs nobody an answer
    fault.write_text("die")
    victim.wait(lambda: not fault.exists())
    victim.wait(victim.ready)
    load.wait_for("answered", 12)
    fault.write_text("stick")
    victim.wait(lambda: not victim.ready())
    time.sleep(2)
    fault.unlink()
    victim.wait(victim.ready)
    load.wait_for("answered", 12)
    ended = load.stop()
    assert load.kinds()["broken"] == load.kinds()["unreached"] == 0, ended
    assert load.kinds()["refused"] > 0
    victim.at_rest()
    assert victim.value("fcs_batch_halvings_total") >= 1
    assert victim.value("fcs_device_restarts_total") == 1
    audited(victim, ended)
    report(load, batch_size=victim.get("/info").json()["models"][0]["batch_size"])
