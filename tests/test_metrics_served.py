"""Every metric of a service under load, against what its clients saw."""

import base64
import io
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from service.rpc.generated import fcs_pb2 as pb
from tests.conftest import start_server, stop_server

SIGMA = 0.25
RADII = [0.5 * SIGMA, SIGMA]  # the shifts of fcs_bound
EMBED, RPC = "/embed", "/fcs.v1.Fcs/Embed"


def png(seed):
    stream = io.BytesIO()
    smooth = np.random.default_rng(seed).integers(0, 255, (4, 4, 3)).astype(np.uint8)
    Image.fromarray(smooth).resize((160, 160), Image.Resampling.BICUBIC).save(stream, "PNG")
    return stream.getvalue()


def rest(server, pictures, **fields):
    body = {"inputs": [base64.b64encode(p).decode() for p in pictures], "radii": RADII, **fields}
    with server.client() as http:
        response = http.post(EMBED, json=body)
    return str(response.status_code), response


def rpc(server, pictures, **fields):
    channel, stub = server.stub()
    with channel:
        try:
            request = pb.EmbedRequest(images=pictures, radii=RADII, **fields)
            return "OK", stub.Embed(request, timeout=100)
        except grpc.RpcError as error:
            return error.code().name, error


def scrape(server):
    with server.client() as http:
        text = http.get("/metrics").text
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture(scope="module")
def seen():
    """What clients saw of a service with room for four pictures, and its metrics around that."""
    server = start_server(environment={"FCS_MAX_PENDING_PICTURES": "4"})
    requests = [
        lambda: (EMBED, rest(server, [png(1)], samples=30, selection_samples=10)),
        lambda: (RPC, rpc(server, [png(2), png(3)], samples=40, selection_samples=20)),
        lambda: (EMBED, rest(server, [png(4)], target={"radius": 0.05, "bound": 0.5})),
        lambda: (RPC, rpc(server, [png(5)], certify=False)),
        lambda: (EMBED, rest(server, [png(6)], sigma=0.3)),
        lambda: (RPC, rpc(server, [b"broken"])),
    ]
    before, during, answers = scrape(server), [], []
    done = threading.Event()

    def watch():
        while not done.wait(0.05):
            during.append(scrape(server))

    watching = threading.Thread(target=watch)
    watching.start()

    def ask(request):
        """Until there is room; every answer is kept."""
        while True:
            answers.append(request())
            if answers[-1][1][0] not in {"429", "RESOURCE_EXHAUSTED"}:
                return
            time.sleep(0.3)

    with ThreadPoolExecutor(9) as pool:
        list(pool.map(ask, requests * 3))
    done.set()
    watching.join()
    after = scrape(server)
    stop_server(server)
    return before, during, after, answers


def grown(seen, name, **labels):
    key = (name, *sorted(labels.items()))
    return seen[2][key] - seen[0].get(key, 0.0)


def items(answers):
    """(selection, estimation, stopped, bounds) of each certified picture that was answered."""
    for _, (code, answer) in answers:
        if code == "200":
            for item in answer.json()["data"]:
                found = item["certificate"]
                counts = found["samples"]
                bounds = [bound["bound"] for bound in found["bounds"]]
                yield counts["selection"], counts["estimation"], found["stopped"], bounds
        elif code == "OK":
            for item in answer.data:
                if item.HasField("certificate"):
                    found = item.certificate
                    counts = found.samples
                    bounds = [bound.bound for bound in found.bounds]
                    yield counts.selection, counts.estimation, found.stopped, bounds


def answered(answers):
    return [answer for _, (code, answer) in answers if code in {"200", "OK"}]


def timings(answers, name):
    return sum(
        answer.json()["timing"][name] if hasattr(answer, "json") else getattr(answer.timing, name)
        for answer in answered(answers)
    )


def test_the_load_had_answers_refusals_and_errors(seen):
    codes = Counter(code for _, (code, _) in seen[3])
    assert codes["200"] == codes["OK"] == 6
    assert codes["422"] == codes["INVALID_ARGUMENT"] == 3
    assert codes["429"] + codes["RESOURCE_EXHAUSTED"] > 2


def test_requests_are_counted_by_route_and_code(seen):
    for (route, code), count in Counter((r, code) for r, (code, _) in seen[3]).items():
        assert grown(seen, "fcs_requests_total", route=route, code=code) == count


def test_the_seconds_of_requests_are_no_longer_than_clients_waited(seen):
    for route in (EMBED, RPC):
        count = sum(found == route for found, _ in seen[3])
        assert grown(seen, "fcs_request_seconds_count", route=route) == count
    total = sum(grown(seen, "fcs_request_seconds_sum", route=route) for route in (EMBED, RPC))
    assert total >= timings(seen[3], "total_ms") / 1000


def test_refusals_are_counted_by_reason_and_say_when_to_come_back(seen):
    refused = [answer for _, (code, answer) in seen[3] if code == "429"]
    told = [answer for _, (code, answer) in seen[3] if code == "RESOURCE_EXHAUSTED"]
    assert refused or told
    assert grown(seen, "fcs_rejections_total", reason="overloaded") == len(refused) + len(told)
    assert grown(seen, "fcs_rejections_total", reason="invalid_request") == 6
    assert all(1 <= int(answer.headers["retry-after"]) < 100 for answer in refused)


def test_samples_are_counted_by_stage(seen):
    found = list(items(seen[3]))
    uncertified = sum(
        1
        for answer in answered(seen[3])
        if not hasattr(answer, "json")
        for item in answer.data
        if not item.HasField("certificate")
    )
    assert grown(seen, "fcs_samples_total", stage="clean") == len(found)
    selected = sum(selection for selection, *_ in found) + 100 * uncertified
    assert grown(seen, "fcs_samples_total", stage="select") == selected
    spent = sum(estimation for _, estimation, *_ in found)
    in_vain = grown(seen, "fcs_samples_total", stage="estimate") - spent
    stopped = sum(reason == "target" for _, _, reason, _ in found)
    assert 0 <= in_vain <= 40 * stopped  # a job runs at most one checkpoint ahead


def test_batches_hold_every_sample_once(seen):
    stages = ("clean", "select", "estimate")
    samples = sum(grown(seen, "fcs_samples_total", stage=stage) for stage in stages)
    assert grown(seen, "fcs_batch_samples_sum") == samples
    assert 0 < seen[2][("fcs_batch_fill_ratio",)] <= 1


def test_samples_of_a_request_are_those_its_certificates_name(seen):
    assert grown(seen, "fcs_samples_per_request_sum") == sum(n for _, n, *_ in items(seen[3]))


def test_early_stops_are_counted_by_what_the_answers_say(seen):
    for reason, count in Counter(stopped for _, _, stopped, _ in items(seen[3])).items():
        assert grown(seen, "fcs_early_stops_total", reason=reason) == count


def test_bounds_are_those_of_the_answers(seen):
    found = [bounds for *_, bounds in items(seen[3])]
    for index, shift in enumerate(("0.5", "1.0")):
        assert grown(seen, "fcs_bound_count", shift=shift) == len(found)
        for edge in (0.5, 0.9, 0.98):
            below = sum(bounds[index] <= edge for bounds in found)
            assert grown(seen, "fcs_bound_bucket", shift=shift, le=str(edge)) == below


def test_device_and_statistics_seconds_are_those_of_the_answers(seen):
    device = timings(seen[3], "device_ms") / 1000
    # Samples drawn in vain are the device's, and nobody's answer.
    assert device * 0.99 <= grown(seen, "fcs_device_seconds_total") <= device * 1.5
    statistics = timings(seen[3], "statistics_ms") / 1000
    counted = grown(seen, "fcs_phase_seconds_total", phase="statistics")
    assert counted == pytest.approx(statistics, rel=0.02, abs=0.01)


def test_phases_add_up_to_the_device(seen):
    lanes = grown(seen, "fcs_phase_seconds_total", phase="noise")
    lanes += grown(seen, "fcs_phase_seconds_total", phase="encode")
    assert lanes >= grown(seen, "fcs_device_seconds_total") > 0
    assert grown(seen, "fcs_phase_seconds_total", phase="decode") > 0


def test_every_picture_waited_once_for_its_first_sample(seen):
    pictures = sum(
        len(answer.json()["data"] if hasattr(answer, "json") else answer.data)
        for answer in answered(seen[3])
    )
    assert grown(seen, "fcs_queue_seconds_count") == pictures


def test_gauges_rise_under_load_and_return_to_zero(seen):
    for name, most in (("fcs_jobs_running", 4), ("fcs_pending_samples", 4 * 1101)):
        values = [sample[(name,)] for sample in seen[1]]
        assert 0 < max(values) <= most
        assert seen[2][(name,)] == 0
