"""What ends the library's loop must not end the door; who says nothing must not keep a place."""

import asyncio
import struct

import grpc
import pytest

from service.config import Settings
from service.core import Core
from service.models import catalogue
from service.rpc.generated import fcs_pb2 as pb
from service.rpc.generated import fcs_pb2_grpc
from service.rpc.server import RpcServer
from tests.tiny import picture, tiny_model


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(catalogue, "load_model", lambda *_: tiny_model())


def run(scenario, **settings):
    async def main():
        core = Core(Settings(model="tiny", **settings))
        await core.start()
        rpc = RpcServer(core, "127.0.0.1:0")
        await rpc.start()
        try:
            return await asyncio.wait_for(scenario(core, rpc.port), 60)
        finally:
            await rpc.stop(0)
            await core.drain()

    return asyncio.run(main())


def request_of():
    return pb.EmbedRequest(images=[picture()], samples=20, selection_samples=10)


def malformed_path():
    """A call whose path is not UTF-8: one HTTP/2 connection preface and two frames."""

    def header(name, value):
        return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value

    def frame(kind, flags, stream, payload):
        length = struct.pack(">I", len(payload))[1:]
        return length + bytes([kind, flags]) + struct.pack(">I", stream) + payload

    fields = [
        (b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/\xff"), (b":authority", b"x"),
        (b"te", b"trailers"), (b"content-type", b"application/grpc"),
    ]  # fmt: skip
    headers = b"".join(header(*field) for field in fields)
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"") + frame(1, 5, 1, headers)


def test_a_door_that_a_malformed_path_closed_is_opened_again():
    async def scenario(core, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(malformed_path())
        await writer.drain()
        while not core.metrics.registry.get_sample_value("fcs_grpc_restarts_total"):
            await asyncio.sleep(0.05)
        writer.close()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = fcs_pb2_grpc.FcsStub(channel)
            return await stub.Embed(request_of(), wait_for_ready=True, timeout=30)

    assert len(run(scenario).data) == 1


def test_a_stream_that_asks_nothing_gives_back_its_place_and_one_at_work_does_not():
    async def scenario(core, port):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = fcs_pb2_grpc.FcsStub(channel)
            silent, slow = stub.EmbedStream(), stub.EmbedStream()
            await slow.write(pb.EmbedStreamRequest(id="a", request=request_of()))
            assert (await slow.read()).result.data
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                await silent.read()
            await slow.done_writing()
            return ended.value

    error = run(scenario, body_timeout_ms=700)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "nothing was asked" in error.details()


def test_a_silent_reflection_stream_gives_back_its_place():
    async def scenario(core, port):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            method = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
            silent = [channel.stream_stream(method)() for _ in range(2)]
            for call in silent:
                with pytest.raises(grpc.aio.AioRpcError) as ended:
                    await call.read()
                assert ended.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            return await fcs_pb2_grpc.FcsStub(channel).Embed(request_of())

    assert len(run(scenario, body_timeout_ms=500, max_requests=2, max_connections=4).data) == 1
