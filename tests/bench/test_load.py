"""`fcs bench load` against a real server, and its books and clocks alone."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from service.bench.load.doors import Reply
from service.bench.load.drive import Driver, Record, Shot, shots
from service.bench.load.memory import Reading, summarise
from service.bench.load.mix import CLASSES, parse_mix
from service.bench.load.report import books, quantile, refusals, row
from service.bench.processes import counters, resident_bytes
from service.cli import bench_serving
from service.errors import ConfigurationError
from tests import launch

TINY = Shot(CLASSES["tiny"], "rest", 0)
ANSWER = Reply("200", selection=4, estimation=4)


def fcs_bench(*arguments):
    return launch.fcs("bench", *arguments)


def summary_of(ended):
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


def record(reply, seconds=1.0, retry=False, shot=TINY):
    return Record(shot, reply, seconds, seconds, retry)


def drive(loop, send, **options):
    """Run a loop of a driver over the same shot; its records."""
    records = []
    driver = Driver(send, records.append, patience_s=options.pop("patience_s", 0))

    def source():
        while True:
            yield TINY

    asyncio.run(getattr(driver, loop)(source(), **options))
    return records


def test_every_request_of_a_crowded_server_is_answered_rejected_or_failed():
    ended = fcs_bench(
        "load", "--requests", 24, "--clients", 6, "--mix", "tiny", "--patience", 20,
        "--server", "max_pending_pictures=2",
    )  # fmt: skip
    summary = summary_of(ended)
    whole, refused = summary["all"], summary["refusals"]
    assert whole["sent"] == 24 + refused["retried"]
    for part in (*summary["rows"], whole):
        assert part["sent"] == part["answered"] + part["rejected"] + part["failed"]
    for field in ("sent", "answered", "rejected", "failed"):
        assert sum(part[field] for part in summary["rows"]) == whole[field]
    assert {part["door"] for part in summary["rows"]} == {"rest", "grpc"}
    assert whole["failed"] == 0
    assert refused["rejected"] > 0  # six clients, room for two
    assert refused["without_wait"] == 0
    assert refused["min_wait_s"] >= 1
    assert refused["retried"] == refused["rejected"]
    counted = summary["server"]
    assert counted["differences"] == {}
    assert counted["samples_answered"] == 8 * whole["answered"]  # 4 + 4
    assert counted["samples_computed"] == counted["samples_answered"]
    assert summary["memory"]["warm"] > 10**8
    assert whole["p50_ms"] <= whole["p95_ms"] <= whole["p99_ms"] <= whole["max_ms"]


def test_an_open_loop_offers_its_rate_to_a_named_server(server):
    ended = fcs_bench(
        "load", "--requests", 8, "--rate", 20, "--mix", "tiny", "--doors", "rest",
        "--rest", server.rest, "--grpc", server.grpc, "--pid", server.process.pid,
    )  # fmt: skip
    summary = summary_of(ended)
    assert summary["loop"] == "open"
    assert summary["all"]["answered"] == 8
    assert summary["server"]["differences"] == {}
    assert summary["memory"]["first"] > 10**8


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--mix", "enormous"), "no part of a mix"),
        (("--mix", "short=-1"), "no part of a mix"),
        (("--rest", "http://127.0.0.1:9"), "give both, or neither"),
        (("--rest", "http://127.0.0.1:9", "--grpc", "127.0.0.1:9"), "no metrics at"),
        (("--server", "max_pictures"), "write NAME=VALUE"),
        (("--server", "no_such_limit=1"), "unknown environment variable"),
    ],
)
def test_a_mistake_ends_the_bench_with_one_clear_message(arguments, reason):
    ended = fcs_bench("load", "--requests", 1, *arguments)
    assert ended.returncode == 2
    assert reason in ended.stderr
    assert "Traceback" not in ended.stderr


def test_latency_of_the_open_loop_counts_from_when_the_request_was_due():
    async def stalls_the_client_once(shot):
        if not stalled:
            stalled.append(True)
            time.sleep(0.5)  # noqa: ASYNC251  # nothing can be sent meanwhile
        return ANSWER

    stalled = []
    options = {"requests": 20, "duration_s": 60, "rate": 200, "seed": 1}
    records = drive("open_loop", stalls_the_client_once, **options)
    late = [r.latency_s for r in records[1:]]
    assert len(late) == 19
    assert max(late) > 0.4  # due while the loop stood still, answered at once when it was sent


def test_the_open_loop_does_not_wait_for_answers():
    async def slow(shot):
        await asyncio.sleep(0.3)
        return ANSWER

    began = time.monotonic()
    records = drive("open_loop", slow, requests=30, duration_s=60, rate=300, seed=1)
    assert len(records) == 30
    assert time.monotonic() - began < 2  # one after the other they would take nine seconds


def test_the_closed_loop_has_no_more_requests_open_than_clients():
    open_now, most = 0, 0

    async def counting(shot):
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        await asyncio.sleep(0.005)
        open_now -= 1
        return ANSWER

    assert len(drive("closed_loop", counting, requests=50, duration_s=60, clients=3)) == 50
    assert most == 3


@pytest.mark.parametrize("loop", ["open_loop", "closed_loop"])
def test_nothing_new_is_sent_after_the_duration(loop):
    async def quick(shot):
        await asyncio.sleep(0.01)
        return ANSWER

    how = {"rate": 100, "seed": 1} if loop == "open_loop" else {"clients": 1}
    records = drive(loop, quick, requests=100_000, duration_s=0.3, **how)
    assert 0 < len(records) < 100


def test_a_rejected_request_waits_as_told_and_is_tried_once_more():
    sent = []

    async def busy_at_first(shot):
        sent.append(time.monotonic())
        return Reply("429", retry_after_s=0.2) if len(sent) == 1 else ANSWER

    options = {"requests": 1, "duration_s": 60, "clients": 1}
    first, second = drive("closed_loop", busy_at_first, patience_s=1, **options)
    assert (first.reply.outcome, first.retry) == ("rejected", False)
    assert (second.reply.outcome, second.retry) == ("answered", True)
    assert sent[1] - sent[0] >= 0.2
    assert second.latency_s < 0.15  # the wait is not part of it
    sent.clear()
    assert len(drive("closed_loop", busy_at_first, patience_s=0.1, **options)) == 1


def test_quantiles_are_latencies_that_were_measured():
    times = [float(ms) for ms in range(1, 101)]
    assert [quantile(times, level) for level in (0.5, 0.95, 0.99, 1.0)] == [50, 95, 99, 100]
    assert quantile([3.0, 1.0], 0.5) == 1.0
    assert quantile([], 0.5) is None


def test_a_row_leaves_nothing_out_and_times_first_tries_that_were_answered():
    found = row(
        "tiny",
        "rest",
        [
            record(ANSWER, 0.010),
            record(ANSWER, 0.030),
            record(Reply("429", retry_after_s=1), 0.001),
            record(ANSWER, 5.0, retry=True),
            record(Reply("504"), 9.0),
            record(Reply("ReadError"), 9.0),
        ],
        elapsed_s=2.0,
    )
    assert (found.sent, found.answered, found.rejected, found.failed) == (6, 3, 1, 2)
    assert (found.p50_ms, found.max_ms) == (10, 30)
    assert (found.requests_per_s, found.samples_per_s) == (1.5, 12.0)
    assert found.errors == {"504": 1, "ReadError": 1}


def test_refusals_tell_whether_waiting_helped():
    found = refusals(
        [
            record(Reply("429", retry_after_s=1)),
            record(Reply("RESOURCE_EXHAUSTED", retry_after_s=4)),
            record(Reply("429", retry_after_s=2)),
            record(Reply("429")),
            record(ANSWER, retry=True),
            record(Reply("429", retry_after_s=9), retry=True),
        ]
    )
    assert (found.rejected, found.without_wait) == (4, 1)
    assert (found.min_wait_s, found.median_wait_s) == (1, 2)
    assert (found.retried, found.accepted) == (2, 1)


def test_the_books_name_what_client_and_server_count_differently():
    def server(answered, late):
        return {
            ("fcs_requests_total", (("code", "200"), ("route", "/embed"))): answered,
            ("fcs_requests_total", (("code", "504"), ("route", "/embed"))): late,
            ("fcs_requests_total", (("code", "200"), ("route", "/metrics"))): 99.0,
            ("fcs_samples_total", (("stage", "select"),)): 10.0 * answered,
        }

    seen = [record(ANSWER), record(ANSWER), record(Reply("ReadTimeout"))]
    found = books(seen, {"rest": "/embed"}, server(5.0, 0.0), server(7.0, 1.0))
    assert found.differences == {"/embed 504": 1, "/embed ReadTimeout": -1}
    assert (found.samples_answered, found.samples_computed) == (16, 20)


def test_memory_growth_is_that_after_the_first_tenth():
    flat = [Reading(i, 100 if i < 10 else 200) for i in range(101)]
    assert (summarise(flat).first, summarise(flat).warm, summarise(flat).growth) == (100, 200, 0)
    leaky = [Reading(i, 100 + i) for i in range(101)]
    assert summarise(leaky).growth == pytest.approx(195 / 115 - 1)
    assert summarise([]) is None


def test_a_mix_is_shares_of_classes_and_the_sequence_follows_them():
    assert sum(parse_mix("mixed").values()) == pytest.approx(1)
    mix = parse_mix("short=3, long=1")
    assert mix == {CLASSES["short"]: 0.75, CLASSES["long"]: 0.25}
    drawn = [shot for shot, _ in zip(shots(mix, ("rest", "grpc"), 4, 7), range(4000), strict=False)]
    # False alarm below 1e-6: five and more standard deviations of a binomial.
    assert 2850 < sum(shot.kind.name == "short" for shot in drawn) < 3150
    assert 1840 < sum(shot.door == "grpc" for shot in drawn) < 2160
    assert {shot.picture for shot in drawn} == {0, 1, 2, 3}
    again = [shot for shot, _ in zip(shots(mix, ("rest", "grpc"), 4, 7), range(50), strict=False)]
    assert again == drawn[:50]


@pytest.fixture
def bench():
    command = [sys.executable, "-m", "service", "bench", "load", "--mix", "long"]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    yield running
    running.kill()
    running.wait()


def test_a_bench_that_is_terminated_takes_its_server_with_it(bench):
    children = Path(f"/proc/{bench.pid}/task/{bench.pid}/children")
    servers = []
    until = time.monotonic() + 60
    while not servers:
        assert time.monotonic() < until
        time.sleep(0.05)
        with suppress(OSError):  # a child that ended while it was looked at
            found = [Path("/proc", pid) for pid in children.read_text().split()]
            servers = [one for one in found if "serve" in (one / "cmdline").read_text()]
    (server,) = servers
    bench.terminate()
    assert bench.wait(60) == 128 + signal.SIGTERM
    assert not server.exists()


def test_without_the_http_client_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match="extra `dev`"):
        bench_serving.load()


def test_an_unknown_door_is_refused():
    ended = fcs_bench("load", "--requests", 1, "--doors", "window")
    assert ended.returncode == 2
    assert "no door 'window'" in ended.stderr


def test_memory_and_counters_of_a_real_server_are_read(server):
    assert resident_bytes(server.process.pid) > 10**8
    assert resident_bytes(2**22 + 1) is None
    assert counters(server.rest)["fcs_build_info", (("version", "0.1.0"),)] == 1
    with pytest.raises(ConfigurationError, match="no metrics at"):
        counters("http://127.0.0.1:9")
