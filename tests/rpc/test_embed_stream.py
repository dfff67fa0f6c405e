"""`EmbedStream` on a real server over a real channel."""

import queue
import threading
import time

import grpc
import numpy as np
import pytest

from service.rpc.generated import fcs_pb2 as pb
from tests.conftest import await_end, start_server, stop_server
from tests.photos import EXAMPLES, locate
from tests.rest.test_embed import SEED, metric
from tests.rest.test_embed_stream import stands_still, wait_until
from tests.rpc.test_rpc import request_of
from tests.tiny import picture

INVALID = grpc.StatusCode.INVALID_ARGUMENT.value[0]
BUSY = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
ENDLESS = {"samples": 50_000, "timeout_ms": 60_000}
ROUTE = 'route="/fcs.v1.Fcs/EmbedStream"'


def item(id_, *images, progress=False, **fields):
    return pb.EmbedStreamRequest(id=id_, request=request_of(*images, **fields), progress=progress)


class Asking:
    """Requests that a test sends one by one, until it half-closes."""

    def __init__(self, *requests):
        self._queue = queue.Queue()
        self.taken = 0
        for request in requests:
            self.send(request)

    def send(self, request):
        self._queue.put(request)

    def half_close(self):
        self._queue.put(None)

    def __iter__(self):
        while (request := self._queue.get()) is not None:
            self.taken += 1
            yield request


@pytest.fixture(scope="module")
def stub(server):
    channel, stub = server.stub()
    yield stub
    channel.close()


@pytest.fixture(scope="module")
def narrow():
    """Two requests of a stream at a time, three pictures in all."""
    running = start_server(
        environment={"FCS_MAX_STREAM_REQUESTS": "2", "FCS_MAX_PENDING_PICTURES": "3"}
    )
    yield running
    stop_server(running)


@pytest.fixture
def narrow_stub(narrow):
    channel, stub = narrow.stub()
    yield stub
    channel.close()


def by_id(responses):
    return {response.id: response for response in responses}


def test_each_request_is_answered_as_embed_answers_it(stub):
    photos = [locate(name).read_bytes() for name in EXAMPLES]
    fields = {"radii": [0.125, 0.25], "seed": SEED}
    found = by_id(
        stub.EmbedStream(iter([item(f"{i}", photo, **fields) for i, photo in enumerate(photos)]))
    )
    assert sorted(found) == ["0", "1", "2"]
    for i, photo in enumerate(photos):
        alone, streamed = stub.Embed(request_of(photo, **fields)), found[f"{i}"].result
        assert streamed.data == alone.data
        assert streamed.revision == alone.revision


def test_results_come_as_they_finish_and_not_as_they_were_asked(stub):
    long, short = item("long", samples=200), item("short", samples=20)
    order = [response.id for response in stub.EmbedStream(iter([long, short]))]
    assert order == ["short", "long"]


def test_bad_requests_fail_alone_and_all_others_are_answered(server, stub):
    names = [f'fcs_requests_total{{code="{code}",{ROUTE}}}' for code in ("OK", "INVALID_ARGUMENT")]
    before = [metric(server, name) for name in names]
    bad = {
        "broken": (item("broken", b"hello"), "inputs[0]"),
        "sigma": (item("sigma", sigma=0.3), "sigma"),
        "empty": (pb.EmbedStreamRequest(id="empty"), "inputs"),
        "large": (item("large", bytes(17 * 2**20)), None),
        "x" * 100: (item("x" * 5000), "id"),
    }
    good = [item(f"good {i}", picture((i, 0, 0))) for i in range(8)]
    requests = [*good[:4], *(request for request, _ in bad.values()), *good[4:]]
    found = by_id(stub.EmbedStream(iter(requests)))
    assert len(found) == len(requests)
    for id_, (_, param) in bad.items():
        error = found[id_].error
        assert error.code == INVALID
        assert error.message
        assert (error.param if error.HasField("param") else None) == param
        assert not error.HasField("retry_after_ms")
    for request in good:
        assert len(found[request.id].result.data) == 1
    assert [metric(server, name) for name in names] == [before[0] + 8, before[1] + 5]


def test_bytes_that_are_no_message_and_unknown_fields_do_not_end_the_stream(server):
    channel, _ = server.stub()
    raw = channel.stream_stream("/fcs.v1.Fcs/EmbedStream")
    good = item("good").SerializeToString()
    unknown = item("unknown").SerializeToString() + b"\xf8\x07\x01"
    responses = [
        pb.EmbedStreamResponse.FromString(data) for data in raw(iter([b"\xff" * 50, unknown, good]))
    ]
    channel.close()
    found = by_id(responses)
    assert found[""].error.code == INVALID
    assert "unknown field number 127" in found["unknown"].error.message
    assert found["good"].HasField("result")


def test_checkpoints_are_sent_where_they_are_asked_for(stub):
    target = pb.Target(radius=0.25, bound=0.8)
    told, silent = (
        pb.EmbedStreamRequest(
            id=id_,
            request=pb.EmbedRequest(
                images=[locate("coffee.png").read_bytes()], target=target, samples=1000, seed=SEED
            ),
            progress=progress,
        )
        for id_, progress in (("told", True), ("silent", False))
    )
    responses = list(stub.EmbedStream(iter([told, silent])))
    kinds = {
        id_: [r.WhichOneof("event") for r in responses if r.id == id_] for id_ in ("told", "silent")
    }
    assert kinds["silent"] == ["result"]
    assert set(kinds["told"][:-1]) == {"checkpoint"}
    assert kinds["told"][-1] == "result"
    checkpoints = [r.checkpoint for r in responses if r.WhichOneof("event") == "checkpoint"]
    assert len(checkpoints) > 3
    bounds = [[b.bound for b in checkpoint.bounds] for checkpoint in checkpoints]
    np.testing.assert_array_equal(np.maximum.accumulate(bounds), bounds)
    assert checkpoints[0].target == target
    assert not checkpoints[0].reached
    assert not checkpoints[0].HasField("stopped")
    certificate = by_id(responses)["told"].result.data[0].certificate
    assert checkpoints[-1].stopped == certificate.stopped == "target"
    assert checkpoints[-1].samples == certificate.samples
    assert checkpoints[-1].reached


def test_without_a_target_counts_of_samples_are_sent(stub):
    responses = list(stub.EmbedStream(iter([item("a", samples=150, progress=True)])))
    kinds = [response.WhichOneof("event") for response in responses]
    assert kinds == ["drawn"] * (len(kinds) - 2) + ["checkpoint", "result"]
    assert len(kinds) > 3
    drawn = responses[0].drawn
    assert (drawn.planned.selection, drawn.planned.estimation) == (10, 150)
    last = responses[-2].checkpoint
    assert not (last.HasField("target") or last.HasField("reached"))


def test_after_a_half_close_the_rest_is_answered_and_the_stream_ends(stub):
    asking = Asking(item("1", samples=200), item("2"))
    call = stub.EmbedStream(iter(asking))
    assert next(call).id == "2"
    asking.half_close()
    assert [response.id for response in call] == ["1"]
    assert call.code() is grpc.StatusCode.OK


def test_answers_come_while_the_client_still_asks(stub):
    asking = Asking()
    call = stub.EmbedStream(iter(asking))
    for n in range(5):
        asking.send(item(f"{n}"))
        assert next(call).id == f"{n}"
    asking.half_close()
    assert list(call) == []


def test_an_empty_stream_ends_well(stub):
    call = stub.EmbedStream(iter([]))
    assert list(call) == []
    assert call.code() is grpc.StatusCode.OK


def test_cancelling_stops_all_the_work_of_the_stream(server, stub):
    name = f'fcs_requests_total{{code="CANCELLED",{ROUTE}}}'
    before = metric(server, name)
    asking = Asking(*(item(f"{i}", **ENDLESS) for i in range(4)))
    call = stub.EmbedStream(iter(asking))
    wait_until(lambda: metric(server, "fcs_jobs_running") == 4)
    call.cancel()
    asking.half_close()
    wait_until(lambda: metric(server, "fcs_jobs_running") == 0)
    wait_until(lambda: metric(server, name) == before + 4)
    stands_still(lambda: metric(server, "fcs_samples_total"))


def test_a_connection_that_breaks_stops_all_the_work_of_the_stream(server):
    channel, stub = server.stub()
    asking = Asking(*(item(f"{i}", progress=True, **ENDLESS) for i in range(3)))
    call = stub.EmbedStream(iter(asking))
    next(call)
    wait_until(lambda: metric(server, "fcs_jobs_running") == 3)
    channel.close()
    asking.half_close()
    wait_until(lambda: metric(server, "fcs_jobs_running") == 0)


def test_the_deadline_of_the_call_bounds_everything(server, stub):
    asking = Asking(item("long", **ENDLESS), item("short", samples=20))
    call = stub.EmbedStream(iter(asking), timeout=2)
    found = []
    with pytest.raises(grpc.RpcError) as caught:
        found += (response for response in call if response.HasField("result"))
    asking.half_close()
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    wait_until(lambda: metric(server, "fcs_jobs_running") == 0)


def test_a_requests_own_timeout_ends_it_alone(stub):
    short = item("short", samples=100_000, timeout_ms=300)
    found = by_id(stub.EmbedStream(iter([short, item("good")])))
    assert found["short"].error.code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
    assert found["good"].HasField("result")


def test_no_more_than_the_bound_is_in_work_and_the_next_is_not_read_before(narrow, narrow_stub):
    seen, over = [], threading.Event()

    def watch():
        while not over.is_set():
            seen.append(metric(narrow, "fcs_jobs_running"))
            time.sleep(0.02)

    watching = threading.Thread(target=watch)
    watching.start()
    found = by_id(narrow_stub.EmbedStream(iter([item(f"{i}", samples=24) for i in range(6)])))
    over.set()
    watching.join()
    assert len(found) == 6
    assert all(response.HasField("result") for response in found.values())
    assert max(seen) == 2


def test_messages_that_nobody_reads_hold_the_client_back(narrow, narrow_stub):
    """Eight megabytes a message, far more than the transport itself takes in: half stay there."""
    heavy = picture() + bytes(8 * 2**20)
    asking = Asking(*(item(f"{i}", heavy, **ENDLESS) for i in range(30)))
    call = narrow_stub.EmbedStream(iter(asking))
    wait_until(lambda: metric(narrow, "fcs_jobs_running") == 2, 30)
    time.sleep(1)
    assert asking.taken <= 15
    call.cancel()
    asking.half_close()
    wait_until(lambda: metric(narrow, "fcs_jobs_running") == 0)


def test_a_stream_waits_for_room_that_its_own_work_takes(narrow, narrow_stub):
    """Two requests of two pictures each do not fit together; neither is refused."""
    pair = [picture(), picture((0, 0, 0))]
    requests = [item(f"{i}", *pair, samples=24) for i in range(4)]
    found = by_id(narrow_stub.EmbedStream(iter(requests)))
    assert all(found[f"{i}"].HasField("result") for i in range(4))


def test_waiting_for_room_ends_with_the_requests_own_timeout(narrow, narrow_stub):
    pair = [picture(), picture((0, 0, 0))]
    asking = Asking(item("first", *pair, **ENDLESS), item("second", *pair, timeout_ms=400))
    call = narrow_stub.EmbedStream(iter(asking))
    response = next(call)
    assert response.id == "second"
    assert response.error.code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
    assert "timeout_ms = 400" in response.error.message
    call.cancel()
    asking.half_close()
    wait_until(lambda: metric(narrow, "fcs_jobs_running") == 0)


def test_a_queue_that_others_fill_is_told_with_a_delay(narrow, narrow_stub):
    name = 'fcs_rejections_total{reason="overloaded"}'
    before = metric(narrow, name)
    other = narrow_stub.Embed.future(
        request_of(picture(), picture(), picture(), samples=100_000, timeout_ms=60_000)
    )
    wait_until(lambda: metric(narrow, "fcs_jobs_running") == 3)
    (refused,) = narrow_stub.EmbedStream(iter([item("a")]))
    assert refused.error.code == BUSY
    assert refused.error.retry_after_ms >= 1000
    assert metric(narrow, name) == before + 1
    other.cancel()
    wait_until(lambda: metric(narrow, "fcs_jobs_running") == 0)


def test_info_tells_the_bound(stub):
    assert stub.Info(pb.InfoRequest()).limits["stream_requests"] == 16


def test_a_drain_answers_what_was_accepted_and_refuses_the_rest_of_the_stream():
    server = start_server(environment={"FCS_DRAIN_MS": "110000"})
    channel, stub = server.stub()
    asking = Asking(item("accepted", samples=200))
    call = stub.EmbedStream(iter(asking))
    wait_until(lambda: metric(server, "fcs_jobs_running") == 1)
    server.process.terminate()
    with server.client() as client:
        wait_until(lambda: client.get("/health/ready").status_code == 503)
    asking.send(item("late"))
    asking.half_close()
    found = by_id(call)
    assert found["late"].error.code == grpc.StatusCode.UNAVAILABLE.value[0]
    assert found["accepted"].result.data[0].certificate.samples.estimation == 200
    channel.close()
    await_end(server)
    assert "Traceback" not in "".join(server.log)
