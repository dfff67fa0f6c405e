"""Standard health over a core, and watchers that are many or take nothing."""

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2 as pb
from grpc_health.v1 import health_pb2_grpc

from service.core import Core
from service.models import catalogue
from tests.rpc.test_server import run
from tests.tiny import tiny_model

SERVING, NOT_SERVING = pb.HealthCheckResponse.SERVING, pb.HealthCheckResponse.NOT_SERVING


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(catalogue, "load_model", lambda *_: tiny_model())


def stub_of(port):
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
    return channel, health_pb2_grpc.HealthStub(channel)


def test_a_watcher_is_told_each_change_and_a_check_the_present():
    async def scenario(core, port):
        channel, stub = stub_of(port)
        async with channel:
            call = stub.Watch(pb.HealthCheckRequest(service="fcs.v1.Fcs"))
            told = [(await call.read()).status]
            await core.drain()
            told.append((await call.read()).status)
            told.append((await stub.Check(pb.HealthCheckRequest())).status)
            unknown = stub.Watch(pb.HealthCheckRequest(service="other"))
            return [*told, (await unknown.read()).status]

    unknown = pb.HealthCheckResponse.SERVICE_UNKNOWN
    assert run(scenario) == [SERVING, NOT_SERVING, NOT_SERVING, unknown]


def test_watchers_leave_connections_to_others():
    async def scenario(core, port):
        calls, channels = [], []
        for _ in range(3):  # three connections of twelve
            channel = grpc.aio.insecure_channel(
                f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)]
            )
            channels.append(channel)
            calls.append(health_pb2_grpc.HealthStub(channel).Watch(pb.HealthCheckRequest()))
            assert (await calls[-1].read()).status == SERVING
        channel, stub = stub_of(port)
        async with channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.Watch(pb.HealthCheckRequest()).read()
            checked = (await stub.Check(pb.HealthCheckRequest())).status
            await channels.pop().close()
            await asyncio.sleep(0.5)
            again = (await stub.Watch(pb.HealthCheckRequest()).read()).status
        for left in channels:
            await left.close()
        return refused.value, checked, again

    error, checked, again = run(scenario, max_requests=4, max_connections=12)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "use Check" in error.details()
    assert (checked, again) == (SERVING, SERVING)


def test_health_is_the_cores_even_where_it_changes_by_itself(monkeypatch):
    async def scenario(core, port):
        channel, stub = stub_of(port)
        async with channel:
            ready = core.health()
            with monkeypatch.context() as faulty:
                faulty.setattr(Core, "health", lambda _: type(ready)(False, True, "fault", True))
                unwell = (await stub.Check(pb.HealthCheckRequest())).status
            return unwell, (await stub.Check(pb.HealthCheckRequest())).status

    assert run(scenario) == (NOT_SERVING, SERVING)
