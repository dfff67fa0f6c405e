import json
import math
import random
import statistics
from dataclasses import replace

import pytest

from service.bench.simulate import simulate
from service.bench.simulation import DeviceModel, Fate, Simulation
from service.bench.workload import MIX, Kind, Request, mean_samples, poisson
from tests import launch

SHORT, DEFAULT, LONG, VERY_LONG = MIX
DEVICE = DeviceModel()
BATCH_S = 0.0788
LONE = dict.fromkeys((kind.name for kind in MIX), 1.0)


def request(kind, arrives=0.0, priority=0, leaves=math.inf, deadline=math.inf):
    return Request(kind, priority, arrives, leaves, deadline)


def serve(model, *requests, devices=1):
    simulation = Simulation(model, devices)
    return simulation, list(simulation.run(requests))


def seconds_alone(model, kind):
    _, [outcome] = serve(model, request(kind))
    return outcome.seconds


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(("kind", "batches"), [(SHORT, 1), (LONG, 4), (VERY_LONG, 40)])
def test_a_lone_request_takes_its_batches_and_one_preparation(kind, batches, late):
    """The other batches are prepared while one computes."""
    expected = pytest.approx(DEVICE.prepare_s + batches * BATCH_S)
    assert seconds_alone(replace(DEVICE, late=late), kind) == expected


def test_without_overlap_every_batch_is_prepared_in_turn():
    expected = pytest.approx(4 * (DEVICE.prepare_s + BATCH_S))
    assert seconds_alone(replace(DEVICE, depth=1), LONG) == expected


def test_an_idle_device_lingers_once_before_a_batch_that_is_not_full():
    lingering = replace(DEVICE, linger_s=0.05)
    assert seconds_alone(lingering, SHORT) == pytest.approx(0.05 + DEVICE.prepare_s + BATCH_S)
    full = Kind("full", 1, 256, (), 256)
    assert seconds_alone(lingering, full) == pytest.approx(DEVICE.prepare_s + BATCH_S)


def test_drawn_ahead_a_lone_default_request_takes_one_batch_and_its_looks():
    """153 samples up to the second checkpoint and 103 past it; looks from 48 to 72."""
    looks = DEFAULT.looks.index(DEFAULT.stops) + 1
    expected = DEVICE.prepare_s + BATCH_S + looks * DEVICE.look_s
    assert seconds_alone(replace(DEVICE, ahead=True), DEFAULT) == pytest.approx(expected)
    assert seconds_alone(DEVICE, DEFAULT) > 3 * expected


def test_one_sample_a_batch_waits_as_in_the_queue_of_poisson_arrivals_and_fixed_service():
    """M/D/1: a mean wait of rho / (2 (1 - rho)) services; here within 5 %, 3 standard errors."""
    device = DeviceModel(
        launch_s=0, sample_s=1, batch=1, prepare_s=0, depth=1, look_s=0, late=False
    )
    one = Kind("one", 1, 1, (), 1)
    chance, now, requests = random.Random(1), 0.0, []
    for _ in range(40_000):
        now += chance.expovariate(0.6)
        requests.append(request(one, now))
    simulation, outcomes = serve(device, *requests)
    wait = statistics.fmean(outcome.seconds - 1 for outcome in outcomes)
    assert wait == pytest.approx(0.6 / (2 * 0.4), rel=0.05)
    assert simulation.utilisation == pytest.approx(0.6, rel=0.03)
    assert simulation.fill == 1


def test_fill_is_load_over_utilisation():
    """Every sample is computed once: what is not padding is what was asked."""
    requests = [request(SHORT, at / 100) for at in range(0, 20_000, 3)]
    simulation, outcomes = serve(DEVICE, *requests)
    rate = 32 * len(requests) / (requests[-1].arrives * DEVICE.rate)
    assert simulation.fill == pytest.approx(rate / simulation.utilisation, rel=0.01)
    assert {outcome.fate for outcome in outcomes} == {Fate.ANSWERED}


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize(("devices", "load"), [(1, 0.7), (2, 10.0)])
def test_every_request_ends_exactly_once(devices, load, late, ahead):
    model = replace(DEVICE, late=late, ahead=ahead)
    rate = load * devices * model.rate / mean_samples(MIX)
    requests = list(poisson(2500, rate, LONE, seed=5))
    _, outcomes = serve(model, *requests, devices=devices)
    assert sorted(id(o.request) for o in outcomes) == sorted(map(id, requests))
    assert all(o.fate is not Fate.EXPIRED or o.request.deadline < math.inf for o in outcomes)
    assert any(o.fate is Fate.REJECTED for o in outcomes) == (load > 1)
    assert any(o.fate is Fate.CANCELLED for o in outcomes)


def test_an_expired_request_ends_at_its_deadline_and_leaves_the_device_to_others():
    _, outcomes = serve(DEVICE, request(VERY_LONG, deadline=1.0), request(SHORT, arrives=1.5))
    assert [o.fate for o in outcomes] == [Fate.EXPIRED, Fate.ANSWERED]
    assert outcomes[0].seconds == pytest.approx(1.0)
    assert outcomes[1].seconds == pytest.approx(DEVICE.prepare_s + BATCH_S)


def test_who_leaves_is_counted_when_it_does():
    _, outcomes = serve(DEVICE, request(VERY_LONG, leaves=0.5))
    assert [(o.fate, o.seconds) for o in outcomes] == [(Fate.CANCELLED, 0.5)]


def test_requests_go_to_the_device_with_the_least_work():
    _, outcomes = serve(DEVICE, request(LONG), request(LONG), devices=2)
    assert [o.seconds for o in outcomes] == pytest.approx([DEVICE.prepare_s + 4 * BATCH_S] * 2)


def test_equal_long_requests_get_the_same_rate():
    simulation, _ = serve(DEVICE, *(request(VERY_LONG) for _ in range(4)))
    assert simulation.fairness
    assert min(simulation.fairness) > 0.999
    assert simulation.fill > 0.995


def test_a_batch_taken_late_holds_who_came_while_the_one_before_computed():
    requests = [request(SHORT, at / 40) for at in range(400)]
    early, first = serve(DEVICE, *requests)
    late, second = serve(replace(DEVICE, late=True), *requests)
    assert late.fill >= early.fill
    assert statistics.fmean(o.seconds for o in second) < statistics.fmean(o.seconds for o in first)


def test_the_same_seed_gives_the_same_report():
    reports = [simulate(DEVICE, 2, 500, 0.8, seed) for seed in (3, 3, 4)]
    assert reports[0] == reports[1]
    assert reports[0] != reports[2]
    assert sum(row.requests for row in reports[0].rows) == 500


def test_prints_a_table_and_one_json_line():
    options = ["--devices", "1", "--devices", "2", "--requests", "300", "--late"]
    ended = launch.fcs("bench", "simulate", *options)
    assert ended.returncode == 0, ended.stderr
    summary = json.loads(ended.stdout.splitlines()[-1])
    assert [report["devices"] for report in summary["reports"]] == [1, 2]
    assert all(0 < r["useful"] <= r["fill"] <= 1 for r in summary["reports"])
    assert summary["device"]["late"]
