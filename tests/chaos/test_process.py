"""The process is killed, or told to end, while clients ask."""

import time

import pytest

from tests.chaos.conftest import audited

pytestmark = pytest.mark.chaos


def test_kill_9_and_restart_mid_load(victims, report):
    victim = victims()
    load = victim.load(clients=6).start()
    load.wait_for("answered", 6)
    killed = time.monotonic()
    victim.kill()
    key = victim.public_key
    victim.start()
    restarted = time.monotonic()
    load.wait_for("answered", 6)
    ended = load.stop()
    assert victim.public_key == key
    victim.at_rest()
    # Broken are those alone that the killed process had in hand; nobody waited for ever.
    for one in ended:
        if one.kind == "broken":
            assert one.began < killed < one.began + one.seconds + 1, one
    assert all(one.seconds < 30 + restarted - killed for one in ended)
    audited(victim, ended)
    report(load, down_s=round(restarted - killed, 1))


def test_sigterm_mid_load(victims, report):
    victim = victims()
    load = victim.load(clients=6).start()
    load.wait_for("answered", 6)
    told = time.monotonic()
    code = victim.end()
    took = time.monotonic() - told
    time.sleep(1)
    ended = load.stop()
    assert code == 0, "".join(victim.server.log)[-3000:]
    for one in ended:
        if one.began < told - 0.5:  # surely accepted
            assert one.kind == "answered", one
        assert one.kind != "broken" or one.began > told, one
    assert load.kinds()["refused"] + load.kinds()["unreached"] > 0
    audited(victim, ended)
    report(load, ended_in_s=round(took, 1))
