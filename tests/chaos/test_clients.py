"""Clients that crawl, vanish, freeze, or come ten at a time for each that can be served."""

import base64
import json
import signal
import socket
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.chaos.load import png

pytestmark = pytest.mark.chaos
HEADS, BODIES, SILENT = 150, 50, 500


def address(victim):
    host, port = victim.server.rest.removeprefix("http://").split(":")
    return host, int(port)


def test_slow_loris(victims, report):
    """Two hundred clients that send a byte a second keep nobody from an answer, and are let go."""
    victim = victims(FCS_BODY_TIMEOUT_MS="5000", FCS_HEAD_TIMEOUT_MS="5000")
    head = b"POST /embed HTTP/1.1\r\nHost: x\r\n"
    crawling = [socket.create_connection(address(victim)) for _ in range(HEADS + BODIES)]
    for client in crawling[:BODIES]:
        client.sendall(head + b"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n")
    load = victim.load().start()
    began = time.monotonic()
    still = set(crawling)
    while still and time.monotonic() - began < 40:
        for client in list(still):
            try:
                client.sendall(b"x")
                client.setblocking(False)
                if not client.recv(4096):
                    still.discard(client)
            except BlockingIOError:
                continue
            except OSError:
                still.discard(client)
            finally:
                client.setblocking(True)
        time.sleep(1)
    held = time.monotonic() - began
    ended = load.stop()
    for client in crawling:
        client.close()
    assert not still, f"{len(still)} crawling clients are still served after {held:.0f} s"
    assert load.kinds()["answered"] == len(ended) > 0, ended
    victim.at_rest()
    report(load, crawling=len(crawling), let_go_after_s=round(held, 1))


def test_clients_that_vanish_and_freeze(victims, report):
    """Their work ends at the next batch; a frozen reader holds up nobody."""
    victim = victims()
    load = victim.load(clients=2).start()
    load.wait_for("answered", 2)
    body = {"inputs": base64.b64encode(png(1)).decode(), "samples": 50_000, "timeout_ms": 600_000}
    asking = (
        "import sys, httpx, json\n"
        f"body = json.loads({json.dumps(json.dumps(body))})\n"
        f"with httpx.stream('POST', '{victim.server.rest}/embed/stream', json=body,"
        " timeout=None) as answer:\n"
        "    for line in answer.iter_lines(): print(line, flush=True)\n"
    )
    clients = [
        subprocess.Popen([sys.executable, "-c", asking], stdout=subprocess.PIPE) for _ in range(4)
    ]
    try:
        for client in clients:
            assert client.stdout.readline() == b"event: progress\n"
        for client in clients[:2]:
            client.send_signal(signal.SIGSTOP)
        waiting = victim.value("fcs_pending_samples")
        for client in clients[2:]:
            client.kill()
        load.wait_for("answered", 4)
        victim.wait(lambda: victim.value("fcs_pending_samples") < waiting - 75_000)
    finally:
        for client in clients:
            client.kill()
            client.wait()
            client.stdout.close()
    ended = load.stop()
    assert load.kinds()["answered"] == len(ended), ended
    victim.at_rest()
    report(load, pending_before=int(waiting))


def test_half_open_connections(victims, report):
    """Connected and silent for ever: they cost a descriptor each, and nobody an answer."""
    victim = victims(FCS_HEAD_TIMEOUT_MS="5000")
    descriptors = Path(f"/proc/{victim.server.process.pid}/fd")

    def more_than(number):  # other connections come and go meanwhile
        return len(list(descriptors.iterdir())) > before + number

    before = len(list(descriptors.iterdir()))
    with ExitStack() as silent:
        for _ in range(SILENT):
            silent.enter_context(socket.create_connection(address(victim)))
        victim.wait(lambda: more_than(SILENT - 50), 5)
        load = victim.load().start()
        load.wait_for("answered", 8)
        victim.wait(lambda: not more_than(50), 30)
        ended = load.stop()
    assert load.kinds()["answered"] == len(ended), ended
    victim.at_rest()
    report(load, silent=SILENT)


def test_burst_at_ten_times_capacity(victims, report):
    """All are answered or told when to come again, and the memory goes back to its level."""
    victim = victims(FCS_MAX_PENDING_SAMPLES="1500")
    calm = victim.load(clients=2).start()
    calm.wait_for("answered", 20)
    calm.stop()
    victim.at_rest()
    level = victim.resident
    bursts = []
    for _ in range(3):
        burst = victim.load(clients=40, counts={"samples": 200, "selection_samples": 50}).start()
        time.sleep(12)
        bursts.append(burst)
        ended = burst.stop()
        assert {one.kind for one in ended} <= {"answered", "refused"}, burst.kinds()
        assert burst.kinds()["answered"] > 0
        victim.at_rest()
    after = statistics.median(victim.resident for _ in range(5))
    again = victim.load(clients=2).start()
    again.wait_for("answered", 4)
    again.stop()
    whole = burst
    whole.ended = [one for each in bursts for one in each.ended]
    grown = after / level - 1
    assert grown < 0.25, f"{level} -> {after} bytes"
    report(whole, memory=f"{level >> 20} -> {int(after) >> 20} MiB")
