"""gRPC `Classify` on the real server."""

import grpc
import numpy as np
import pytest

from service.rpc.generated import fcs_pb2 as pb
from tests.photos import locate
from tests.rest.test_embed import SEED
from tests.rpc.test_rpc import request_of
from tests.tiny import picture

AXES = [pb.Reference(id=f"axis {i}", embedding=row) for i, row in enumerate(np.eye(2, 1280))]


@pytest.fixture(scope="module")
def stub(server):
    channel, stub = server.stub()
    yield stub
    channel.close()


def test_grpc_and_rest_give_the_same_label_and_radius(server, stub):
    photo = locate("chelsea.png").read_bytes()
    embed = request_of(photo, sigma=0.1, samples=120, selection_samples=30, seed=SEED)
    over_grpc = stub.Classify(pb.ClassifyRequest(embed=embed, label_set="imagenet")).data[0]
    with server.client() as client:
        form = {"sigma": 0.1, "samples": 120, "selection_samples": 30, "seed": SEED}
        over_rest = client.post(
            "/classify",
            files=[("inputs", ("a.png", photo))],
            data={**form, "label_set": "imagenet"},
        ).json()["data"][0]
    assert (over_grpc.label if over_grpc.HasField("label") else None) == over_rest["label"]
    for field in ("score", "certified_radius", "abstained", "statement"):
        assert getattr(over_grpc, field) == over_rest[field]
    found = [{"label": c.label, "score": c.score} for c in over_grpc.candidates]
    assert found == over_rest["candidates"]
    assert over_grpc.certificate.seed == over_rest["certificate"]["seed"]


def test_references_and_abstention(stub):
    answer = stub.Classify(pb.ClassifyRequest(embed=request_of(samples=5), references=AXES))
    item = answer.data[0]
    assert item.abstained == (not item.HasField("label"))
    assert {c.label for c in item.candidates} == {"axis 0", "axis 1"}


def test_info_lists_the_label_sets(stub):
    (model,) = stub.Info(pb.InfoRequest()).models
    assert [(s.name, s.size) for s in model.label_sets] == [("imagenet", 1000)]
    assert not model.text_labels


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (pb.ClassifyRequest(embed=request_of()), "labels"),
        (pb.ClassifyRequest(label_set="imagenet"), "inputs"),
        (pb.ClassifyRequest(embed=request_of(b"x"), label_set="imagenet"), "inputs[0]"),
        (pb.ClassifyRequest(embed=request_of(), label_set="pets"), "label_set"),
        (pb.ClassifyRequest(embed=request_of(), labels=["a", "b"]), "labels"),
        (pb.ClassifyRequest(embed=request_of(certify=False), label_set="imagenet"), "certify"),
        (pb.ClassifyRequest(embed=request_of(), references=AXES[:1]), "references"),
        (
            pb.ClassifyRequest(
                embed=request_of(),
                references=[AXES[0], pb.Reference(id="x", embedding=[float("nan")] * 1280)],
            ),
            "references[1].embedding",
        ),
        (
            pb.ClassifyRequest(
                embed=request_of(), references=[AXES[0], pb.Reference(id="x", embedding=[1])]
            ),
            "references[1].embedding",
        ),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_bad_input_is_an_invalid_argument_that_names_its_field(stub, request_, param):
    with pytest.raises(grpc.RpcError) as caught:
        stub.Classify(request_)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert dict(caught.value.trailing_metadata()).get("fcs-param") == param


def test_unknown_fields_are_refused_wherever_they_stand(server):
    channel, _ = server.stub()
    embed = pb.EmbedRequest(images=[picture()]).SerializeToString() + b"\xf8\x07\x01"
    nested = b"\x0a" + bytes([len(embed) & 127 | 128, len(embed) >> 7]) + embed
    with pytest.raises(grpc.RpcError, match=r"number 127 in fcs\.v1\.EmbedRequest"):
        channel.unary_unary("/fcs.v1.Fcs/Classify")(nested)
    reference = pb.Reference(id="a").SerializeToString() + b"\x48\x01"
    repeated = pb.ClassifyRequest.DESCRIPTOR.fields_by_name["references"].number
    with pytest.raises(grpc.RpcError, match=r"number 9 in fcs\.v1\.Reference"):
        channel.unary_unary("/fcs.v1.Fcs/Classify")(
            bytes([repeated << 3 | 2, len(reference)]) + reference
        )
    channel.close()
