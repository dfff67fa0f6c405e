"""Every gRPC call of ours carries the id of its request."""

import grpc
import pytest

from service.rpc.generated import fcs_pb2 as pb
from tests.tiny import picture


def test_the_id_of_a_call_comes_back_whether_it_is_answered_refused_or_a_stream(server):
    channel, stub = server.stub()
    with channel:
        metadata = (("x-request-id", "call-1"),)
        answered = stub.Info.with_call(pb.InfoRequest(), metadata=metadata)[1]
        made = stub.Info.with_call(pb.InfoRequest())[1]
        with pytest.raises(grpc.RpcError) as refused:
            stub.Embed(pb.EmbedRequest(images=[b"?"]), metadata=metadata)
        request = pb.EmbedRequest(images=[picture()], samples=20, selection_samples=10)
        streamed = stub.EmbedStream(
            iter([pb.EmbedStreamRequest(id="a", request=request)]), metadata=metadata
        )
        assert [one.WhichOneof("event") for one in streamed] == ["result"]
    assert ("x-request-id", "call-1") in answered.initial_metadata()
    assert len(dict(made.initial_metadata())["x-request-id"]) == 32
    assert ("x-request-id", "call-1") in refused.value.initial_metadata()
    assert ("x-request-id", "call-1") in streamed.initial_metadata()
