"""`fcs bench peers`: the plain peer end to end, the pilot's choice, the split of the gain."""

import base64
import json
import math
import subprocess
import sys

import numpy as np
import pytest

from service.bench.load.pictures import load_pictures
from service.bench.peers.contenders import FCS, Answer, parse_answer
from service.bench.peers.contest import Contest
from service.bench.peers.pilot import SHARE, best_rows, fixed_samples
from service.bench.peers.run import run
from service.bench.peers.sampler import Arrangement, Sampler, fixed_bound, published_bound
from service.bench.peers.split import Key, gains, row
from service.bench.peers.traffic import Cell, Served
from service.bench.sampling import Features, evidence_of
from service.certificate.certify import certify
from service.certificate.stopping import checkpoints
from service.config import load_settings
from service.errors import ConfigurationError
from tests.models import tiny_folders
from tests.photos import locate

SIGMA, RADIUS, ALPHA = 0.25, 0.125, 0.001


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("peers") / "tiny-vit"
    tiny_folders.write("vit", folder)
    return folder


def drawn(spread, seed, count=400, d=64):
    """Unit features around one direction; the wider the spread, the more samples a target takes."""
    generator = np.random.default_rng(seed)
    centre = np.zeros(d)
    centre[0] = 1

    def unit(n, width):
        rows = centre + width * generator.standard_normal((n, d)) / math.sqrt(d)
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    return Features(unit(1, 0), unit(100, spread), unit(count, spread))


def ask(picture, way="fixed", samples=30, selection=10):
    return {
        "inputs": base64.b64encode(picture).decode(),
        "way": way,
        "samples": samples,
        "selection": selection,
        "sigma": SIGMA,
        "radius": RADIUS,
        "confidence": 1 - ALPHA,
    }


@pytest.mark.long
def test_the_plain_peer_and_the_service_answer_the_same_requests(tiny):
    ended = subprocess.run(
        [sys.executable, "-m", "service", "bench", "peers", locate("coffee.png"),
         locate("chelsea.png"), "--peer", "plain", "--model", tiny, "--clients", "2",
         "--requests", "4", "--rounds", "1", "--samples", "60", "--selection-samples", "10"],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    summary = json.loads(ended.stdout.splitlines()[-1])
    rows = {(r["name"], r["way"], r["clients"]): r for r in summary["rows"]}
    assert set(rows) == {
        (FCS, "fixed", 1), (FCS, "fixed", 2), (FCS, "target", 2),
        ("plain", "fixed", 1), ("plain", "fixed", 2), ("plain", "paper", 2),
    }  # fmt: skip
    fixed, paper = (summary["pilot"][way]["samples"] for way in ("fixed", "paper"))
    for (_, way, _), one in rows.items():
        assert one["requests"] == 4
        assert one["requests_per_s"] > 0
        assert one["p50_ms"] <= one["p95_ms"]
        wanted = {"fixed": 10 + fixed, "paper": paper, "target": one["samples_per_request"]}
        assert one["samples_per_request"] == wanted[way]
    assert rows[FCS, "target", 2]["samples_per_request"] <= 70
    (gain,) = summary["gains"]
    rate = {key: one["requests_per_s"] for key, one in rows.items()}
    assert gain["total"] == pytest.approx(rate[FCS, "target", 2] / rate["plain", "paper", 2])
    product = math.prod(gain[part] for part in ("early_stopping", "batching", "bounds", "runtime"))
    assert product == pytest.approx(gain["total"])


def test_a_batch_of_requests_is_answered_request_by_request(tiny, monkeypatch):
    monkeypatch.setenv("FCS_MODEL", str(tiny))
    first, second = load_pictures([])[:2]
    asks = [ask(first), ask(second, "paper", samples=41), ask(first, samples=5, selection=3)]
    answers = Sampler(Arrangement(1, 1, rows=8, together=3)).answer(asks)
    assert [answer["samples"] for answer in answers] == [40, 41, 8]
    embeddings = np.array([answer["embedding"] for answer in answers])
    assert np.linalg.norm(embeddings, axis=1) == pytest.approx(1)
    assert embeddings[0] @ embeddings[2] > embeddings[0] @ embeddings[1]  # the same picture
    assert all(-1 <= answer["bound"] <= 1 for answer in answers)


def test_the_fixed_number_is_the_smallest_that_certifies_the_share_of_the_pictures():
    """Bounds that grow as 1 - needed / n, the need of a picture being its first value."""
    needs = [*range(1, 19), 25, 70]
    pictures = [
        Features(np.full((1, 1), need, np.float32), np.ones((5, 1)), np.ones((1000, 1)))
        for need in needs
    ]

    def bound(features):
        return 1 - float(features.clean[0, 0]) / len(features.estimation)

    found = fixed_samples(pictures, bound, 0.9, 1000)
    # Nineteen of twenty need 250 samples at most; the first checkpoint not below it is 256.
    assert (found.samples, found.share) == (256, SHARE)
    assert 224 in checkpoints(1000)


def test_the_fixed_number_of_samples_is_enough_for_the_bound_that_peers_report():
    pictures = [drawn(spread, seed=7) for spread in (0.3, 0.6)]

    def bound(features):
        return fixed_bound(features, SIGMA, RADIUS, ALPHA)

    found = fixed_samples(pictures, bound, 0.8, 200)
    assert 48 < found.samples < 200
    before = max(count for count in checkpoints(200) if count < found.samples)
    reached = {}
    for count in (before, found.samples):
        cut = [Features(p.clean, p.selection, p.estimation[:count]) for p in pictures]
        whole = [certify(evidence_of(f), SIGMA, (RADIUS,), ALPHA).bounds[0].bound for f in cut]
        assert whole == pytest.approx([bound(features) for features in cut])
        reached[count] = min(whole) >= 0.8
    assert reached == {before: False, found.samples: True}


def test_a_target_out_of_reach_is_served_at_the_ceiling_and_said_to_be_missed():
    pictures = [drawn(0.9, seed) for seed in range(3)]
    found = fixed_samples(pictures, lambda _: -1.0, 0.9, 200)
    assert (found.samples, found.share) == (200, 0.0)


def test_the_published_bound_is_about_the_noise_free_feature():
    near = drawn(0.2, 1)
    assert 0 < published_bound(near, SIGMA, RADIUS, ALPHA) < 0.9
    turned = Features(-near.clean, near.selection, near.estimation)
    assert published_bound(turned, SIGMA, RADIUS, ALPHA) == -1
    assert fixed_bound(turned, SIGMA, RADIUS, ALPHA) == pytest.approx(
        fixed_bound(near, SIGMA, RADIUS, ALPHA)
    )


def test_rows_of_a_call_are_one_of_those_measured(tiny):
    rows, milliseconds = best_rows(load_settings(model=str(tiny)), threads=1)
    assert rows in {4, 8, 16, 32}
    assert milliseconds > 0


def test_the_factors_multiply_to_the_total_whatever_was_measured():
    generator = np.random.default_rng(3)
    keys = [Key(FCS, "fixed", 1), Key("ray", "fixed", 1)]
    for clients in (4, 8):
        keys += [Key(FCS, "target", clients), Key(FCS, "fixed", clients)]
        keys += [Key("ray", "paper", clients), Key("ray", "fixed", clients)]
    rates = {key: float(generator.uniform(0.1, 50)) for key in keys}
    for gain, clients in zip(gains(rates, "ray", (4, 8)), (4, 8), strict=True):
        assert (gain.peer, gain.clients) == ("ray", clients)
        assert (
            gain.total == rates[Key(FCS, "target", clients)] / rates[Key("ray", "paper", clients)]
        )
        product = gain.early_stopping * gain.batching * gain.bounds * gain.runtime
        assert product == pytest.approx(gain.total)


def test_a_server_that_only_batches_better_gains_by_batching_alone():
    same = {Key(name, "fixed", 1): 2.0 for name in (FCS, "plain")}
    rates = same | {
        Key(FCS, "target", 4): 8.0, Key(FCS, "fixed", 4): 8.0,
        Key("plain", "fixed", 4): 2.0, Key("plain", "paper", 4): 2.0,
    }  # fmt: skip
    (gain,) = gains(rates, "plain", (4,))
    assert (gain.batching, gain.early_stopping, gain.bounds, gain.runtime) == (4, 1, 1, 1)


def test_a_row_is_of_all_rounds_together():
    first = Cell((Served(Answer(0.95, 300), 1.0), Served(Answer(-1, 300), 2.0)), elapsed_s=2.0)
    second = Cell((Served(Answer(0.9, 150), 4.0),), elapsed_s=4.0)
    found = row(Key("plain", "fixed", 2), [first, second], wanted=0.9)
    assert (found.requests, found.requests_per_s, found.samples_per_request) == (3, 0.5, 250)
    assert (found.p50_ms, found.p95_ms) == (2000, 4000)
    assert found.certified == pytest.approx(2 / 3)
    assert found.median_bound == 0.9


def test_answers_of_service_and_peers_are_read_alike():
    ours = {"bounds": [{"bound": 0.9}], "samples": {"selection": 100, "estimation": 72}}
    content = json.dumps({"data": [{"certificate": ours}]}).encode()
    assert parse_answer(FCS, content) == Answer(0.9, 172)
    assert parse_answer("ray", b'{"bound": 0.5, "samples": 9}') == Answer(0.5, 9)


def test_an_unknown_peer_is_refused():
    contest = Contest((locate("coffee.png"),), ("tpu",), (2,), 1, 1, 10, 60, 0.9, 0.5)
    with pytest.raises(ConfigurationError, match="no peer 'tpu'; there are plain, litserve"):
        run(contest, load_settings())
