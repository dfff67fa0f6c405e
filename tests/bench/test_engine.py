import json

import pytest

from service.bench import engine
from service.config import Settings
from service.metrics import PHASES
from tests.tiny import tiny_model


def test_the_served_rate_is_set_beside_the_bare_loop_of_the_best_batch(monkeypatch, capsys):
    model = tiny_model(batch_size=8)
    monkeypatch.setattr(engine, "load_models", lambda settings: [{"tiny": model}])
    rates = {4: 10.0, 8: 30.0, 16: 20.0, 32: 15.0}
    monkeypatch.setattr(engine, "_bare", lambda model, lanes, picture, batch, calls: rates[batch])
    engine.run(Settings(), [], rounds=3, samples=1200)
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["bare_batch_size"], found["bare_samples_per_s"]) == (8, 30.0)
    assert found["ratio"] == pytest.approx(found["served_samples_per_s"] / 30, rel=1e-6)
    assert 0.9 < found["fill"] <= 1
    assert set(found["rows"]) == {"load", "lone", "target"}
    assert found["parts_ms"]["encode"] > 0
    for row in found["rows"].values():
        assert row["samples_per_s"] > 0
        assert 0 <= row["in_vain"] < 1
        assert set(row["shares"]) == {*PHASES[1:], "idle"}
    assert found["rows"]["load"]["in_vain"] == found["rows"]["lone"]["in_vain"] == 0
